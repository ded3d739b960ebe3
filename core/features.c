/* The feature table, made from options, and the keys of values. */
#include "core/features.h"

#include <assert.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { BEHAVIOR_LENGTH_MAX = UINT16_MAX, COLUMNS_MAX = UINT16_MAX };

const char *const feature_group_name[GROUPS] = { "user", "context", "item" };

static int by_name(const void *a, const void *b) { return strcmp(a, b); }

/* Every table that a feature or the behavior sequence reads, each once, ascending. */
static void collect_tables(struct features *features, const struct features_options *options)
{
    size_t count = 0;
    snprintf(features->table[count++], NAME_SIZE, "%s", options->behavior_table);
    for (size_t i = 0; i < options->feature_count; i++) {
        const struct feature_options *feature = &options->feature[i];
        if (feature->kind == FEATURE_CATEGORICAL)
            snprintf(features->table[count++], NAME_SIZE, "%s", feature->table[0] ? feature->table : feature->name);
    }
    qsort(features->table, count, NAME_SIZE, by_name);
    for (size_t i = 0; i < count; i++)
        if (features->table_count == 0 || strcmp(features->table[features->table_count - 1], features->table[i]) != 0)
            memmove(features->table[features->table_count++], features->table[i], NAME_SIZE);
}

static size_t find_table(const struct features *features, const char *name)
{
    char wanted[NAME_SIZE];
    snprintf(wanted, sizeof wanted, "%s", name);
    const char(*found)[NAME_SIZE] = bsearch(wanted, features->table, features->table_count, NAME_SIZE, by_name);
    assert(found);
    return (size_t)(found - (const char(*)[NAME_SIZE])features->table);
}

static bool check_options(const struct features_options *options, struct cs_error *err)
{
    if (options->behavior_max_length > BEHAVIOR_LENGTH_MAX)
        return cs_fail(err, CS_CONFIG, "features.behavior.max_length is %zu, at most %d is allowed",
                       options->behavior_max_length, BEHAVIOR_LENGTH_MAX);
    if (options->feature_count > COLUMNS_MAX)
        return cs_fail(err, CS_CONFIG, "%zu features, at most %d are allowed", options->feature_count, COLUMNS_MAX);
    for (size_t i = 0; i < options->feature_count; i++) {
        const struct feature_options *feature = &options->feature[i];
        const char *group = feature_group_name[feature->group];
        if (!feature->name[0]) return cs_fail(err, CS_CONFIG, "features.%s: a feature without a name", group);
        for (size_t j = 0; j < i; j++)
            if (options->feature[j].group == feature->group && strcmp(options->feature[j].name, feature->name) == 0)
                return cs_fail(err, CS_CONFIG, "features.%s: %s is there twice", group, feature->name);
        for (size_t j = 0; j < feature->bucket_count; j++)
            if (!isfinite(feature->bucket[j]) || (j > 0 && feature->bucket[j] <= feature->bucket[j - 1]))
                return cs_fail(err, CS_CONFIG,
                               "features.%s.%s.bucketize: bound %zu is %g, bounds must be finite and ascending", group,
                               feature->name, j, feature->bucket[j]);
    }
    return true;
}

struct features *features_create(const struct features_options *options, struct cs_error *err)
{
    if (!check_options(options, err)) return NULL;
    struct features *features = calloc(1, sizeof *features);
    if (!features) goto fail;
    features->feature = calloc(options->feature_count + 1, sizeof *features->feature);
    features->table = calloc(options->feature_count + 1, NAME_SIZE);
    if (!features->feature || !features->table) goto fail;
    collect_tables(features, options);
    features->behavior_table = find_table(features, options->behavior_table);
    features->behavior_max_length = options->behavior_max_length;

    for (size_t group = 0; group < GROUPS; group++) {
        features->group_categorical_begin[group] = features->categorical_count;
        features->group_dense_begin[group] = features->dense_count;
        for (size_t i = 0; i < options->feature_count; i++) {
            const struct feature_options *from = &options->feature[i];
            if (from->group != group) continue;
            struct feature *feature = &features->feature[features->count++];
            memcpy(feature->name, from->name, NAME_SIZE);
            feature->group = from->group;
            feature->kind = from->kind;
            if (from->kind == FEATURE_CATEGORICAL) {
                feature->column = features->categorical_count++;
                feature->table = find_table(features, from->table[0] ? from->table : from->name);
            } else {
                feature->column = features->dense_count++;
            }
            if (!from->bucket_count) continue;
            double *bucket = malloc(from->bucket_count * sizeof *bucket);
            if (!bucket) goto fail;
            memcpy(bucket, from->bucket, from->bucket_count * sizeof *bucket);
            feature->bucket = bucket;
            feature->bucket_count = from->bucket_count;
        }
        features->group_categorical[group] = features->categorical_count - features->group_categorical_begin[group];
        features->group_dense[group] = features->dense_count - features->group_dense_begin[group];
    }
    return features;
fail:
    features_destroy(features);
    cs_fail(err, CS_FAILED, "out of memory: the feature table");
    return NULL;
}

void features_destroy(struct features *features)
{
    if (!features) return;
    for (size_t i = 0; features->feature && i < features->count; i++) free((void *)features->feature[i].bucket);
    free(features->feature);
    free(features->table);
    free(features);
}

uint64_t key_of_text(const char *text, size_t length) { return XXH3_64bits(text, length); }

static uint64_t key_of_integer(int64_t value)
{
    char text[24];
    int length = snprintf(text, sizeof text, "%" PRId64, value);
    return key_of_text(text, (size_t)length);
}

uint64_t key_of_number(double value)
{
    char text[32];
    return key_of_text(text, number_text(value, text));
}

uint64_t key_of_bucket(double value, const double *bucket, size_t count)
{
    size_t low = 0, high = count; /* count of bounds <= value */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (bucket[middle] <= value)
            low = middle + 1;
        else
            high = middle;
    }
    return key_of_integer((int64_t)low);
}

/* value = digits * 10^(exponent - count + 1), where digits has no trailing zeros: `count` decimal digits of value > 0,
 * rounded to nearest. The decimal point that printf writes is the locale's: it is skipped, whatever it is. */
static void round_to_digits(double value, int count, char digits[20], int *used, int *exponent)
{
    char text[48];
    snprintf(text, sizeof text, "%.*e", count - 1, value);
    int n = 0;
    const char *at = text;
    for (; *at != 'e'; at++)
        if (*at >= '0' && *at <= '9') digits[n++] = *at;
    *exponent = (int)strtol(at + 1, NULL, 10);
    while (n > 1 && digits[n - 1] == '0') n--;
    digits[n] = '\0';
    *used = n;
}

/* Without a decimal point, so that no locale can change what it means. */
static bool reads_back(double value, const char *digits, int used, int exponent)
{
    char text[48];
    snprintf(text, sizeof text, "%se%d", digits, exponent - used + 1);
    return strtod(text, NULL) == value;
}

/* At the lower edge of a binade the doubles below lie closer than those above: the nearest 16 digits may fall short
 * where the next higher 16 digits still read back. */
static bool next_higher(char digits[20], int *used)
{
    while (*used < 16) digits[(*used)++] = '0';
    int i = 15;
    while (i >= 0 && digits[i] == '9') digits[i--] = '0';
    if (i < 0) return false;
    digits[i]++;
    digits[16] = '\0';
    return true;
}

static void shortest_digits(double value, char digits[20], int *used, int *exponent)
{
    /* 15 digits always survive a normal double, so nothing shorter than what they give (less trailing zeros) exists. */
    for (int count = value < DBL_MIN ? 1 : 15; count < 17; count++) {
        round_to_digits(value, count, digits, used, exponent);
        if (reads_back(value, digits, *used, *exponent)) return;
        if (count == 16 && next_higher(digits, used) && reads_back(value, digits, *used, *exponent)) return;
    }
    round_to_digits(value, 17, digits, used, exponent);
}

size_t number_text(double value, char text[32])
{
    assert(isfinite(value));
    if (fabs(value) < 9007199254740992.0 && value == (double)(int64_t)value)
        return (size_t)snprintf(text, 32, "%" PRId64, (int64_t)value); /* -0 is 0 */

    char digits[20], *out = text;
    int k, exponent;
    shortest_digits(fabs(value), digits, &k, &exponent);
    int n = exponent + 1; /* as in ECMAScript's Number::toString: value = 0.digits * 10^n */
    if (value < 0) *out++ = '-';
    if (k <= n && n <= 21) {
        memcpy(out, digits, (size_t)k);
        memset(out + k, '0', (size_t)(n - k));
        out += n;
    } else if (0 < n && n < k) {
        memcpy(out, digits, (size_t)n);
        out[n] = '.';
        memcpy(out + n + 1, digits + n, (size_t)(k - n));
        out += k + 1;
    } else if (-6 < n && n <= 0) {
        memcpy(out, "0.", 2);
        memset(out + 2, '0', (size_t)-n);
        memcpy(out + 2 - n, digits, (size_t)k);
        out += 2 - n + k;
    } else {
        *out++ = digits[0];
        if (k > 1) {
            *out++ = '.';
            memcpy(out, digits + 1, (size_t)(k - 1));
            out += k - 1;
        }
        out += snprintf(out, 8, "e%c%d", n - 1 < 0 ? '-' : '+', abs(n - 1));
    }
    *out = '\0';
    return (size_t)(out - text);
}
