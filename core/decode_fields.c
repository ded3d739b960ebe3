/* Values into fields, fields into an event. */
#include "core/decode_fields.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

static const int64_t YEAR_10000 = INT64_C(253402300800000); /* ms since the epoch */

static const char *const kind_name[] = { "impression", "click", "conversion", "example" };
static const char *const value_name[] = { "null", "a boolean", "a number", "a text" };

bool fields_create(struct fields *fields, const struct features *features, const struct decode_options *options,
                   struct cs_error *err)
{
    memset(fields, 0, sizeof *fields);
    fields->features = features;
    fields->min_time = options->min_time;
    fields->max_time = options->min_time || options->max_time ? options->max_time : YEAR_10000 - 1;
    for (size_t i = 0; i < FIELDS; i++) fields->name[i] = options->field[i] ? options->field[i] : decode_field_name[i];
    fields->item_id_feature = SIZE_MAX;
    for (size_t i = 0; i < features->count; i++)
        if (features->feature[i].group == GROUP_ITEM && strcmp(features->feature[i].name, "item_id") == 0)
            fields->item_id_feature = i;
    fields->behavior = calloc(features->behavior_max_length + 1, sizeof *fields->behavior);
    fields->key_count = calloc(features->categorical_count + 1, sizeof *fields->key_count);
    fields->key = malloc((features->categorical_count + 1) * VALUES_MAX * sizeof *fields->key);
    fields->dense = calloc(features->dense_count + 1, sizeof *fields->dense);
    if (!fields->behavior || !fields->key_count || !fields->key || !fields->dense)
        return cs_fail(err, CS_FAILED, "out of memory: the decoder");
    return true;
}

void fields_release(struct fields *fields)
{
    free(fields->behavior);
    free(fields->key_count);
    free(fields->key);
    free(fields->dense);
}

void fields_reset(struct fields *fields, int expected)
{
    fields->at = 0;
    fields->kind = expected;
    fields->has_time = fields->has_user = fields->has_item = fields->has_behaviors = false;
    fields->clicked = fields->converted = -1;
    fields->id_length = fields->behavior_count = 0;
    memset(fields->key_count, 0, fields->features->categorical_count);
    for (size_t i = 0; i < fields->features->dense_count; i++) fields->dense[i] = NAN;
    fields->failed.result = fields->shown.result = fields->labels.result = DECODE_OK;
}

/* The first problem stands: later ones are often its consequence. */
static void note(struct fields *fields, struct problem *problem, enum decode_result result, const char *format,
                 va_list arguments)
{
    if (problem->result != DECODE_OK) return;
    problem->result = result;
    char text[sizeof problem->err.message];
    vsnprintf(text, sizeof text, format, arguments);
    cs_fail(&problem->err, CS_REFUSED, "%s", text);
    problem->err.at.minor = (int64_t)fields->at;
}

bool fields_fail(struct fields *fields, enum decode_result result, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    note(fields, &fields->failed, result, format, arguments);
    va_end(arguments);
    return false;
}

__attribute__((format(printf, 4, 5))) static void note_in(struct fields *fields, struct problem *problem,
                                                          enum decode_result result, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    note(fields, problem, result, format, arguments);
    va_end(arguments);
}

/* Which kinds of event a field's problem spoils. */
static struct problem *problem_of(struct fields *fields, enum decode_field field)
{
    switch (field) {
    case FIELD_EVENT:
    case FIELD_IMPRESSION_ID:
    case FIELD_TIME:
        return &fields->failed;
    case FIELD_CLICKED:
    case FIELD_CONVERTED:
        return &fields->labels;
    default:
        return &fields->shown;
    }
}

bool fields_mistyped(struct fields *fields, enum decode_field field, const char *found, const char *needed)
{
    note_in(fields, problem_of(fields, field), DECODE_MISTYPED, "%s is %s, %s is allowed", fields->name[field], found,
            needed);
    return fields->failed.result == DECODE_OK;
}

void fields_feature_mistyped(struct fields *fields, size_t index, const char *found, const char *needed)
{
    const struct feature *feature = &fields->features->feature[index];
    note_in(fields, &fields->shown, DECODE_MISTYPED, "%s.%s is %s, %s is allowed",
            feature_group_name[feature->group], feature->name, found, needed);
}

size_t utf8_valid_until(const void *bytes, size_t size)
{
    const unsigned char *s = bytes;
    size_t i = 0;
    while (i < size) {
        uint64_t eight;
        if (size - i >= 8 && (memcpy(&eight, s + i, 8), !(eight & UINT64_C(0x8080808080808080)))) {
            i += 8;
            continue;
        }
        unsigned char c = s[i];
        if (c < 0x80) {
            i++;
            continue;
        }
        size_t more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
        if (c < 0xc2 || c > 0xf4 || size - i <= more) return i;
        unsigned char low = c == 0xe0   ? 0xa0
                            : c == 0xf0 ? 0x90
                                        : 0x80,
                      high = c == 0xed   ? 0x9f
                             : c == 0xf4 ? 0x8f
                                         : 0xbf;
        if (s[i + 1] < low || s[i + 1] > high) return i;
        for (size_t j = 2; j <= more; j++)
            if ((s[i + j] & 0xc0) != 0x80) return i;
        i += more + 1;
    }
    return size;
}

/* The parts of a number as JSON writes it: its digits without the point, and the power of ten that they are multiplied
 * by. */
struct decimal {
    bool negative, integral;
    uint64_t digits;
    size_t significant;
    int64_t exponent;
};

static bool read_decimal(const char *text, size_t length, struct decimal *decimal)
{
    *decimal = (struct decimal){ .integral = true };
    size_t i = 0;
    if (i < length && text[i] == '-') decimal->negative = true, i++;
    size_t begin = i;
    for (; i < length && text[i] >= '0' && text[i] <= '9'; i++) {
        if (decimal->significant < 19) decimal->digits = decimal->digits * 10 + (uint64_t)(text[i] - '0');
        if (decimal->significant || text[i] != '0') decimal->significant++;
    }
    if (i == begin || (text[begin] == '0' && i > begin + 1)) return false;
    if (i < length && text[i] == '.') {
        decimal->integral = false;
        begin = ++i;
        for (; i < length && text[i] >= '0' && text[i] <= '9'; i++, decimal->exponent--) {
            if (decimal->significant < 19) decimal->digits = decimal->digits * 10 + (uint64_t)(text[i] - '0');
            if (decimal->significant || text[i] != '0') decimal->significant++;
        }
        if (i == begin) return false;
    }
    if (i < length && (text[i] == 'e' || text[i] == 'E')) {
        decimal->integral = false;
        bool negative = ++i < length && text[i] == '-';
        if (i < length && (text[i] == '-' || text[i] == '+')) i++;
        int64_t exponent = 0;
        for (begin = i; i < length && text[i] >= '0' && text[i] <= '9'; i++)
            if (exponent < 100000000) exponent = exponent * 10 + (text[i] - '0');
        if (i == begin) return false;
        decimal->exponent += negative ? -exponent : exponent;
    }
    return i == length;
}

/* strtod on digits and exponent without a decimal point, which would be the locale's. */
static double slow_number(const char *text, size_t length, const struct decimal *decimal)
{
    char small[256], *digits = length + 32 <= sizeof small ? small : need(malloc(length + 32));
    size_t n = 0;
    for (size_t i = 0; i < length && text[i] != 'e' && text[i] != 'E'; i++)
        if (text[i] != '.') digits[n++] = text[i];
    snprintf(digits + n, 32, "e%" PRId64, decimal->exponent);
    double number = strtod(digits, NULL);
    if (digits != small) free(digits);
    return number;
}

/* True where the text is a number as JSON writes it; *number may be infinite. */
static bool number_of_text(const char *text, size_t length, double *number)
{
    static const double power[] = { 1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };
    struct decimal decimal;
    if (!read_decimal(text, length, &decimal)) return false;
    if (decimal.significant <= 15 && decimal.exponent >= -22 && decimal.exponent <= 22) {
        /* Both operands are exact, so the one rounding is the right one. */
        double digits = (double)decimal.digits;
        *number = decimal.exponent < 0 ? digits / power[-decimal.exponent] : digits * power[decimal.exponent];
        if (decimal.negative) *number = -*number;
    } else {
        *number = slow_number(text, length, &decimal);
    }
    return true;
}

/* True where the decimal is an integer that int64 or uint64 holds: its digits are then its key, exactly. */
static bool is_exact_integer(const char *text, size_t length, const struct decimal *decimal)
{
    if (!decimal->integral) return false;
    if (decimal->significant < 19) return true;
    const char *limit = decimal->negative ? "9223372036854775808" : "18446744073709551615";
    size_t limit_length = decimal->negative ? 19 : 20;
    if (decimal->significant != limit_length) return decimal->significant < limit_length;
    return memcmp(text + length - limit_length, limit, limit_length) <= 0;
}

/* The text that a JSON number is keyed by. */
static size_t number_key_text(const char *text, size_t length, char out[32], bool *finite)
{
    struct decimal decimal;
    *finite = true;
    bool number = read_decimal(text, length, &decimal);
    if (number && is_exact_integer(text, length, &decimal)) {
        if (decimal.significant == 0) { /* -0 too */
            out[0] = '0';
            return 1;
        }
        memcpy(out, text, length);
        return length;
    }
    double value = NAN;
    if (number) number_of_text(text, length, &value);
    *finite = isfinite(value);
    return *finite ? number_text(value, out) : 0;
}

/* The bytes that a value is keyed by; length 0: it contributes nothing. False: not finite. */
static bool key_text(const struct value *value, char scratch[32], const char **text, size_t *length)
{
    bool finite = true;
    switch (value->kind) {
    case VALUE_NULL:
        *length = 0;
        break;
    case VALUE_BOOLEAN:
        *text = value->boolean ? "true" : "false";
        *length = value->boolean ? 4 : 5;
        break;
    case VALUE_NUMBER:
        *length = number_key_text(value->text, value->length, scratch, &finite);
        *text = scratch;
        break;
    case VALUE_TEXT:
        *text = value->text;
        *length = value->length;
        break;
    }
    return finite;
}

static bool says_not_finite(const char *text, size_t length)
{
    static const char *const names[] = { "NaN", "nan", "Infinity", "-Infinity", "inf", "-inf" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == length && memcmp(names[i], text, length) == 0) return true;
    return false;
}

static void not_finite(struct fields *fields, const struct feature *feature)
{
    note_in(fields, &fields->shown, DECODE_NOT_FINITE, "%s.%s is not a finite number",
            feature_group_name[feature->group], feature->name);
}

static void add_key(struct fields *fields, const struct feature *feature, uint64_t key)
{
    uint8_t *count = &fields->key_count[feature->column];
    if (*count == VALUES_MAX) {
        note_in(fields, &fields->shown, DECODE_TOO_LARGE, "%s.%s has more than %d values, at most %d are allowed",
                feature_group_name[feature->group], feature->name, VALUES_MAX, VALUES_MAX);
        return;
    }
    fields->key[feature->column * VALUES_MAX + (*count)++] = key;
}

void fields_feature(struct fields *fields, size_t index, const struct value *value)
{
    const struct feature *feature = &fields->features->feature[index];
    if (feature->kind == FEATURE_CATEGORICAL && !feature->bucket_count) {
        char scratch[32];
        const char *text = NULL;
        size_t length = 0;
        if (!key_text(value, scratch, &text, &length))
            not_finite(fields, feature);
        else if (length)
            add_key(fields, feature, key_of_text(text, length));
        return;
    }
    double number;
    if (value->kind == VALUE_NULL || (value->kind == VALUE_TEXT && value->length == 0)) return;
    if (value->kind == VALUE_TEXT && says_not_finite(value->text, value->length)) {
        not_finite(fields, feature);
        return;
    }
    if (value->kind == VALUE_BOOLEAN || !number_of_text(value->text, value->length, &number)) {
        fields_feature_mistyped(fields, index, value_name[value->kind], "a number, or a text that is a number,");
        return;
    }
    fields_feature_number(fields, index, number);
}

void fields_feature_number(struct fields *fields, size_t index, double number)
{
    const struct feature *feature = &fields->features->feature[index];
    if (!isfinite(number) || (feature->kind == FEATURE_DENSE && !isfinite((float)number)))
        not_finite(fields, feature);
    else if (feature->kind == FEATURE_DENSE)
        fields->dense[feature->column] = (float)number;
    else
        add_key(fields, feature,
                feature->bucket_count ? key_of_bucket(number, feature->bucket, feature->bucket_count) :
                                        key_of_number(number));
}

void fields_behavior(struct fields *fields, const struct value *value)
{
    char scratch[32];
    const char *text = NULL;
    size_t length = 0;
    if (value->kind == VALUE_BOOLEAN) {
        fields_mistyped(fields, FIELD_BEHAVIORS, "a list with a boolean in it", "a list of texts and numbers");
    } else if (!key_text(value, scratch, &text, &length)) {
        note_in(fields, &fields->shown, DECODE_NOT_FINITE, "%s has a number that is not finite",
                fields->name[FIELD_BEHAVIORS]);
    } else if (length && fields->features->behavior_max_length) {
        fields->behavior[fields->behavior_count++ % fields->features->behavior_max_length] = key_of_text(text, length);
    }
}

/* An id's bytes: a text, or a number as its key is. False: it has a problem, which is noted. */
static bool read_id(struct fields *fields, enum decode_field field, const struct value *value, char scratch[32],
                    const char **text, size_t *length)
{
    struct problem *problem = problem_of(fields, field);
    if (value->kind == VALUE_BOOLEAN) {
        fields_mistyped(fields, field, "a boolean", "a text or a number");
        return false;
    }
    if (!key_text(value, scratch, text, length)) {
        note_in(fields, problem, DECODE_NOT_FINITE, "%s is not a finite number", fields->name[field]);
        return false;
    }
    if (*length > ID_BYTES_MAX) {
        note_in(fields, problem, DECODE_TOO_LARGE, "%s has %zu bytes, at most %d are allowed", fields->name[field],
                *length, ID_BYTES_MAX);
        return false;
    }
    return true;
}

static bool read_kind(struct fields *fields, const struct value *value)
{
    if (value->kind == VALUE_NULL) return true;
    if (value->kind != VALUE_TEXT) return fields_mistyped(fields, FIELD_EVENT, value_name[value->kind], "a text");
    for (int i = 0; i < (int)(sizeof kind_name / sizeof *kind_name); i++)
        if (strlen(kind_name[i]) == value->length && memcmp(kind_name[i], value->text, value->length) == 0) {
            fields->kind = i;
            return true;
        }
    return fields_fail(fields, DECODE_UNKNOWN_EVENT,
                       "%s is \"%.*s\", allowed are impression, click, conversion and example",
                       fields->name[FIELD_EVENT], value->length < 40 ? (int)value->length : 40, value->text);
}

static bool read_time(struct fields *fields, const struct value *value)
{
    const char *name = fields->name[FIELD_TIME];
    double number;
    if (value->kind == VALUE_NULL) return true;
    if (value->kind != VALUE_NUMBER || !number_of_text(value->text, value->length, &number))
        return fields_mistyped(fields, FIELD_TIME, value_name[value->kind], "a whole number of milliseconds");
    if (!isfinite(number)) return fields_fail(fields, DECODE_NOT_FINITE, "%s is not a finite number", name);
    /* The bounds are far below 2^53, where a double holds every millisecond. */
    if (number < (double)fields->min_time || number > (double)fields->max_time)
        return fields_fail(fields, DECODE_TIME_OUT_OF_BOUNDS,
                           "%s is %.17g, allowed are %" PRId64 " to %" PRId64 " milliseconds", name, number,
                           fields->min_time, fields->max_time);
    if (number != floor(number))
        return fields_mistyped(fields, FIELD_TIME, "a fraction", "a whole number of milliseconds");
    fields->time = (int64_t)number;
    fields->has_time = true;
    return true;
}

static void read_label(struct fields *fields, enum decode_field field, const struct value *value, int *label)
{
    double number;
    if (value->kind == VALUE_NULL) return;
    if (value->kind == VALUE_BOOLEAN)
        *label = value->boolean;
    else if (value->kind == VALUE_NUMBER && number_of_text(value->text, value->length, &number) &&
             (number == 0 || number == 1))
        *label = number == 1;
    else
        fields_mistyped(fields, field, value->kind == VALUE_NUMBER ? "another number" : "a text",
                        "true, false, 1 or 0");
}

bool fields_value(struct fields *fields, enum decode_field field, const struct value *value)
{
    char scratch[32];
    const char *text = NULL;
    size_t length = 0;
    switch (field) {
    case FIELD_EVENT:
        return read_kind(fields, value);
    case FIELD_TIME:
        return read_time(fields, value);
    case FIELD_IMPRESSION_ID:
        if (!read_id(fields, field, value, scratch, &text, &length)) return false;
        if (length) memcpy(fields->id, text, length);
        fields->id_length = length;
        return true;
    case FIELD_USER_ID:
        if (!read_id(fields, field, value, scratch, &text, &length)) return true;
        fields->has_user = length > 0;
        if (length) fields->user = key_of_text(text, length);
        return true;
    case FIELD_ITEM_ID:
        if (!read_id(fields, field, value, scratch, &text, &length)) return true;
        fields->has_item = length > 0;
        if (!length) return true;
        fields->item = key_of_text(text, length);
        if (fields->item_id_feature != SIZE_MAX) fields_feature(fields, fields->item_id_feature, value);
        return true;
    case FIELD_CLICKED:
        read_label(fields, field, value, &fields->clicked);
        return true;
    case FIELD_CONVERTED:
        read_label(fields, field, value, &fields->converted);
        return true;
    case FIELD_BEHAVIORS:
        if (value->kind != VALUE_NULL) fields_mistyped(fields, field, value_name[value->kind], "a list");
        return true;
    case FIELD_USER:
    case FIELD_CONTEXT:
    case FIELD_ITEM:
        if (value->kind != VALUE_NULL) fields_mistyped(fields, field, value_name[value->kind], "an object");
        return true;
    case FIELDS:
        break;
    }
    return true;
}

static struct example *make_example(const struct fields *fields)
{
    const struct features *features = fields->features;
    size_t keys = 0, max = features->behavior_max_length;
    size_t behaviors = fields->behavior_count < max ? fields->behavior_count : max;
    for (size_t i = 0; i < features->categorical_count; i++) keys += fields->key_count[i];
    struct example *example = example_create(features, fields->id_length, behaviors, keys);
    example->time = example->released = fields->time;
    example->user = fields->user;
    example->item = fields->item;
    example->has_behaviors = fields->has_behaviors;
    if (fields->kind == EVENT_EXAMPLE) {
        example->clicked = (uint8_t)fields->clicked;
        example->converted = fields->converted > 0;
    }
    size_t oldest = max ? fields->behavior_count % max : 0; /* in a ring not yet full all of it comes after: nothing */
    uint64_t *behavior = example_behaviors(example);
    if (behaviors) {
        memcpy(behavior, fields->behavior + oldest, (behaviors - oldest) * sizeof *behavior);
        memcpy(behavior + behaviors - oldest, fields->behavior, oldest * sizeof *behavior);
    }
    uint64_t *key = example_keys(example);
    for (size_t i = 0; i < features->categorical_count; i++) {
        memcpy(key, fields->key + i * VALUES_MAX, fields->key_count[i] * sizeof *key);
        key += fields->key_count[i];
    }
    memcpy(example_dense(example), fields->dense, features->dense_count * sizeof *fields->dense);
    memcpy(example_keys_of(example), fields->key_count, features->categorical_count);
    memcpy(example_id(example), fields->id, fields->id_length);
    return example;
}

static enum decode_result refuse(struct cs_error *err, const struct problem *problem)
{
    if (err) *err = problem->err;
    return problem->result;
}

static enum decode_result missing(struct fields *fields, struct cs_error *err, enum decode_field field)
{
    fields_fail(fields, DECODE_MISSING, "%s is missing or empty%s%s", fields->name[field],
                fields->kind < 0 ? "" : ": needed by event ",
                fields->kind < 0 ? ", and the topic does not say it" : kind_name[fields->kind]);
    return refuse(err, &fields->failed);
}

enum decode_result fields_finish(struct fields *fields, struct event *event, struct cs_error *err)
{
    if (fields->failed.result != DECODE_OK) return refuse(err, &fields->failed);
    if (fields->kind == DECODE_KIND_UNSAID) return missing(fields, err, FIELD_EVENT);
    bool shown = fields->kind == EVENT_IMPRESSION || fields->kind == EVENT_EXAMPLE;
    if (shown && fields->shown.result != DECODE_OK) return refuse(err, &fields->shown);
    if (fields->kind == EVENT_EXAMPLE && fields->labels.result != DECODE_OK) return refuse(err, &fields->labels);
    if (!fields->id_length) return missing(fields, err, FIELD_IMPRESSION_ID);
    if (!fields->has_time) return missing(fields, err, FIELD_TIME);
    if (shown && !fields->has_user) return missing(fields, err, FIELD_USER_ID);
    if (shown && !fields->has_item) return missing(fields, err, FIELD_ITEM_ID);
    if (fields->kind == EVENT_EXAMPLE && fields->clicked < 0) return missing(fields, err, FIELD_CLICKED);

    event->kind = (enum event_kind)fields->kind;
    event->time = fields->time;
    if (shown) {
        event->example = make_example(fields);
    } else {
        event->id = need(malloc(fields->id_length + 1));
        memcpy(event->id, fields->id, fields->id_length);
        event->id[fields->id_length] = '\0';
        event->id_length = fields->id_length;
    }
    return DECODE_OK;
}
