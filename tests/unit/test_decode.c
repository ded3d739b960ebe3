/* JSON records -> events, or the reason why not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>

#include "core/decode.h"

enum { AGE, GENDER, CITY, HOUR, ITEM, CATEGORY, COLUMNS }; /* categorical columns; dense: income, price */

struct fixture {
    struct features *features;
    struct decoder *decoder;
};

static double age_bound[] = { 18, 25, 35 };

static struct decoder *create_decoder(const struct features *features, struct decode_options options)
{
    struct cs_error err;
    struct decoder *decoder = decoder_create(features, &options, &err);
    if (!decoder) print_error("%s\n", err.message);
    return decoder;
}

static int set_up(void **state)
{
    struct feature_options feature[] = {
        { .name = "age", .bucket = age_bound, .bucket_count = 3 },
        { .name = "gender" },
        { .name = "city" },
        { .name = "income", .kind = FEATURE_DENSE },
        { .name = "hour", .group = GROUP_CONTEXT },
        { .name = "item_id", .group = GROUP_ITEM, .table = "item" },
        { .name = "category", .group = GROUP_ITEM },
        { .name = "price", .group = GROUP_ITEM, .kind = FEATURE_DENSE },
    };
    struct features_options options = {
        .feature = feature, .feature_count = 8, .behavior_table = "item", .behavior_max_length = 3
    };
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct cs_error err;
    fixture->features = features_create(&options, &err);
    fixture->decoder = create_decoder(fixture->features, (struct decode_options){ .max_bytes = 100000 });
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    decoder_destroy(fixture->decoder);
    features_destroy(fixture->features);
    free(fixture);
    return 0;
}

static struct event decode_ok(struct decoder *decoder, const char *text, int expected)
{
    struct event event;
    struct cs_error err = { 0 };
    enum decode_result result = decode(decoder, text, strlen(text), expected, &event, &err);
    if (result != DECODE_OK) print_error("%s: %s\n", text, err.message);
    assert_int_equal(result, DECODE_OK);
    return event;
}

static struct cs_error decode_fails(struct decoder *decoder, const char *text, enum decode_result expected)
{
    struct event event;
    struct cs_error err = { 0 };
    enum decode_result result = decode(decoder, text, strlen(text), DECODE_KIND_UNSAID, &event, &err);
    if (result != expected) print_error("%s: %s: %s\n", text, decode_result_name[result], err.message);
    assert_int_equal(result, expected);
    assert_null(event.example);
    assert_null(event.id);
    assert_true(err.message[0] != '\0');
    return err;
}

/* An impression whose fields are right but for `change`, which is put before the closing brace. */
static const char *impression_with(char *text, size_t size, const char *change)
{
    snprintf(text, size,
             "{\"event\":\"impression\",\"impression_id\":\"r\",\"ts\":5,\"user_id\":\"u\",\"item_id\":\"i\"%s%s}",
             *change ? "," : "", change);
    return text;
}

static struct event impression_ok(struct decoder *decoder, const char *change)
{
    char text[70000];
    return decode_ok(decoder, impression_with(text, sizeof text, change), DECODE_KIND_UNSAID);
}

static struct cs_error impression_fails(struct decoder *decoder, const char *change, enum decode_result expected)
{
    char text[70000];
    return decode_fails(decoder, impression_with(text, sizeof text, change), expected);
}

/* out = part, count times. */
static void repeat(char *out, const char *part, size_t count)
{
    size_t length = strlen(part);
    for (size_t i = 0; i < count; i++) memcpy(out + i * length, part, length);
    out[count * length] = '\0';
}

static uint64_t key(const char *text) { return key_of_text(text, strlen(text)); }

static const uint64_t *column(const struct example *example, size_t wanted, size_t *count)
{
    const uint64_t *at = example_keys(example);
    for (size_t i = 0; i < wanted; i++) at += example_keys_of(example)[i];
    *count = example_keys_of(example)[wanted];
    return at;
}

static void assert_column(const struct example *example, size_t wanted, const char *expected)
{
    size_t count;
    const uint64_t *found = column(example, wanted, &count);
    assert_int_equal(count, expected ? 1 : 0);
    if (expected) assert_true(*found == key(expected));
}

static void test_impression(void **state)
{
    struct fixture *fixture = *state;
    struct event event = decode_ok(
        fixture->decoder,
        "{\"event\":\"impression\",\"impression_id\":\"r7-3\",\"ts\":1700000000123,\"user_id\":\"u1\","
        "\"user\":{\"age\":25,\"gender\":\"F\",\"city\":\"S\\u00e3o "
        "Paulo\",\"income\":12.5},\"behaviors\":[\"i31\",\"i7\"],"
        "\"context\":{\"hour\":13,\"position\":2},\"item_id\":\"i9\",\"item\":{\"category\":\"c4\",\"price\":\"3e1\"}}",
        DECODE_KIND_UNSAID);
    const struct example *example = event.example;
    assert_int_equal(event.kind, EVENT_IMPRESSION);
    assert_true(event.time == INT64_C(1700000000123) && example->time == event.time);
    assert_string_equal(example_id(example), "r7-3");
    assert_true(example->user == key("u1") && example->item == key("i9"));
    assert_column(example, AGE, "2");
    assert_column(example, GENDER, "F");
    assert_column(example, CITY, "S\xc3\xa3o Paulo");
    assert_column(example, HOUR, "13");
    assert_column(example, ITEM, "i9");
    assert_column(example, CATEGORY, "c4");
    assert_true(example_dense(example)[0] == 12.5f && example_dense(example)[1] == 30.0f);
    assert_int_equal(example->has_behaviors, 1);
    assert_int_equal(example->behavior_count, 2);
    assert_true(example_behaviors(example)[0] == key("i31") && example_behaviors(example)[1] == key("i7"));
    assert_true(example_check(fixture->features, example, example->size));
    assert_false(example_check(fixture->features, example, example->size - 8));
    event_release(&event);
}

static void test_absent_null_and_empty_contribute_nothing(void **state)
{
    struct fixture *fixture = *state;
    const char *const same[] = { "", "\"user\":null,\"context\":null,\"item\":null,\"behaviors\":null",
                                 "\"user\":{\"age\":null,\"gender\":\"\",\"city\":[],\"income\":null}",
                                 "\"user\":{\"age\":\"\",\"gender\":[null,\"\"],\"income\":\"\"},\"item\":{}" };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct event event = impression_ok(fixture->decoder, same[i]);
        for (size_t j = 0; j < COLUMNS; j++) assert_column(event.example, j, j == ITEM ? "i" : NULL);
        assert_true(isnan(example_dense(event.example)[0]) && isnan(example_dense(event.example)[1]));
        assert_int_equal(event.example->has_behaviors, 0);
        event_release(&event);
    }
}

static void test_behaviors(void **state)
{
    struct fixture *fixture = *state;
    struct event event = impression_ok(fixture->decoder, "\"behaviors\":[]");
    assert_int_equal(event.example->has_behaviors, 1);
    assert_int_equal(event.example->behavior_count, 0);
    event_release(&event);
    event = impression_ok(fixture->decoder, "\"behaviors\":[\"a\",null,\"\",7,\"c\",7.0,\"e\"]");
    assert_int_equal(event.example->behavior_count, 3);
    assert_true(example_behaviors(event.example)[0] == key("c"));
    assert_true(example_behaviors(event.example)[1] == key("7"));
    assert_true(example_behaviors(event.example)[2] == key("e"));
    event_release(&event);
}

static void test_numbers_are_keyed_by_their_shortest_text(void **state)
{
    struct fixture *fixture = *state;
    static const char *const pairs[][2] = {
        { "25", "25" },
        { "25.0", "25" },
        { "2.5e1", "25" },
        { "\"25\"", "25" },
        { "-0", "0" },
        { "-0.0", "0" },
        { "0e5", "0" },
        { "0.10", "0.1" },
        { "9007199254740993", "9007199254740993" },
        { "9007199254740993.0", "9007199254740992" },
        { "9223372036854775807", "9223372036854775807" },
        { "-9223372036854775808", "-9223372036854775808" },
        { "-9223372036854775809", "-9223372036854776000" },
        { "18446744073709551615", "18446744073709551615" },
        { "18446744073709551616", "18446744073709552000" },
        { "1e21", "1e+21" },
        { "0.0000001", "1e-7" },
        { "123456789012345678901234567890", "1.2345678901234568e+29" },
        { "1.7976931348623157e308", "1.7976931348623157e+308" },
        { "1e-400", "0" },
        { "true", "true" },
        { "false", "false" },
        { "0.30000000000000004", "0.30000000000000004" },
        { "3.0000000000000000000000000000000000000001e-1", "0.3" },
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char text[200];
        snprintf(text, sizeof text, "\"user\":{\"gender\":%s}", pairs[i][0]);
        struct event event = impression_ok(fixture->decoder, text);
        size_t count;
        if (*column(event.example, GENDER, &count) != key(pairs[i][1]))
            print_error("%s is not keyed by %s\n", pairs[i][0], pairs[i][1]);
        assert_column(event.example, GENDER, pairs[i][1]);
        event_release(&event);
    }
}

static void test_lists(void **state)
{
    struct fixture *fixture = *state;
    struct event event =
        impression_ok(fixture->decoder, "\"user\":{\"city\":[\"a\",null,2,\"\",true],\"age\":[17,\"40\"]}");
    size_t count;
    const uint64_t *keys = column(event.example, CITY, &count);
    assert_int_equal(count, 3);
    assert_true(keys[0] == key("a") && keys[1] == key("2") && keys[2] == key("true"));
    keys = column(event.example, AGE, &count);
    assert_int_equal(count, 2);
    assert_true(keys[0] == key("0") && keys[1] == key("3"));
    event_release(&event);

    char ones[600], many[700];
    repeat(ones, ",1", 254);
    snprintf(many, sizeof many, "\"user\":{\"city\":[0%s]}", ones);
    event = impression_ok(fixture->decoder, many);
    column(event.example, CITY, &count);
    assert_int_equal(count, 255);
    event_release(&event);
    snprintf(many, sizeof many, "\"user\":{\"city\":[0,1%s]}", ones);
    impression_fails(fixture->decoder, many, DECODE_TOO_LARGE);
}

static void test_other_kinds(void **state)
{
    struct fixture *fixture = *state;
    struct event event = decode_ok(
        fixture->decoder, "{\"event\":\"click\",\"impression_id\":\"r\",\"ts\":1700000004000}", DECODE_KIND_UNSAID);
    assert_int_equal(event.kind, EVENT_CLICK);
    assert_string_equal(event.id, "r");
    assert_null(event.example);
    event_release(&event);
    /* The topic says the kind; what a click has besides is not its business. */
    event = decode_ok(fixture->decoder,
                      "{\"impression_id\":17,\"ts\":4e3,\"user\":3,\"item_id\":[],\"clicked\":\"?\",\"behaviors\":{}}",
                      EVENT_CONVERSION);
    assert_int_equal(event.kind, EVENT_CONVERSION);
    assert_string_equal(event.id, "17");
    assert_true(event.time == 4000);
    event_release(&event);
    /* What the record says of itself counts more than its topic. */
    event = decode_ok(fixture->decoder, "{\"event\":\"click\",\"impression_id\":\"r\",\"ts\":1}", EVENT_CONVERSION);
    assert_int_equal(event.kind, EVENT_CLICK);
    event_release(&event);
    event =
        decode_ok(fixture->decoder,
                  "{\"impression_id\":\"r\",\"ts\":1,\"user_id\":1,\"item_id\":2,\"clicked\":1,\"converted\":false}",
                  EVENT_EXAMPLE);
    assert_int_equal(event.example->clicked, 1);
    assert_int_equal(event.example->converted, 0);
    assert_column(event.example, ITEM, "2");
    event_release(&event);
    event =
        decode_ok(fixture->decoder,
                  "{\"impression_id\":\"r\",\"ts\":1,\"user_id\":1,\"item_id\":2,\"clicked\":false,\"converted\":true}",
                  EVENT_EXAMPLE);
    assert_int_equal(event.example->clicked, 0);
    assert_int_equal(event.example->converted, 1);
    event_release(&event);
}

static void test_reasons(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        const char *change;
        enum decode_result reason;
    } cases[] = {
        { "\"user\":3", DECODE_MISTYPED },
        { "\"user\":[]", DECODE_MISTYPED },
        { "\"context\":\"x\"", DECODE_MISTYPED },
        { "\"behaviors\":\"i1\"", DECODE_MISTYPED },
        { "\"behaviors\":{}", DECODE_MISTYPED },
        { "\"behaviors\":[true]", DECODE_MISTYPED },
        { "\"behaviors\":[[1]]", DECODE_MISTYPED },
        { "\"behaviors\":[{}]", DECODE_MISTYPED },
        { "\"behaviors\":[1e999]", DECODE_NOT_FINITE },
        { "\"user\":{\"gender\":{}}", DECODE_MISTYPED },
        { "\"user\":{\"gender\":[[1]]}", DECODE_MISTYPED },
        { "\"user\":{\"gender\":1e999}", DECODE_NOT_FINITE },
        { "\"user\":{\"age\":\"young\"}", DECODE_MISTYPED },
        { "\"user\":{\"age\":true}", DECODE_MISTYPED },
        { "\"user\":{\"age\":-1e999}", DECODE_NOT_FINITE },
        { "\"user\":{\"income\":\"much\"}", DECODE_MISTYPED },
        { "\"user\":{\"income\":[1]}", DECODE_MISTYPED },
        { "\"user\":{\"income\":1e300}", DECODE_NOT_FINITE },
        { "\"user\":{\"income\":\"nan\"}", DECODE_NOT_FINITE },
        { "\"user\":{\"income\":\" 1\"}", DECODE_MISTYPED },
        { "\"user\":{\"income\":\"0x10\"}", DECODE_MISTYPED },
        { "\"user\":{\"gender\":1,\"gender\":2}", DECODE_MISTYPED },
        { "\"ts\":6", DECODE_MISTYPED },
        { "\"x\":NaN", DECODE_NOT_FINITE },
        { "\"x\":-Infinity", DECODE_NOT_FINITE },
        { "\"x\":Infinity", DECODE_NOT_FINITE },
        { "\"x\":01", DECODE_NOT_JSON },
        { "\"x\":.5", DECODE_NOT_JSON },
        { "\"x\":'a'", DECODE_NOT_JSON },
        { "\"x\":1,", DECODE_NOT_JSON },
        { "\"x\":\"\xff\"", DECODE_NOT_JSON },
        { "\"x\":\"\xed\xa0\x80\"", DECODE_NOT_JSON },
        { "\"x\":\"\xc0\x80\"", DECODE_NOT_JSON },
        { "\"x\":\"\xf4\x90\x80\x80\"", DECODE_NOT_JSON },
        { "\"x\":\"\xe2\x82\"", DECODE_NOT_JSON },
        { "\"x\":\"\\x\"", DECODE_NOT_JSON },
        { "\"x\":tru", DECODE_NOT_JSON },
        { "\"x\":\"a\nb\"", DECODE_NOT_JSON },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        impression_fails(fixture->decoder, cases[i].change, cases[i].reason);

    static const struct {
        const char *record;
        enum decode_result reason;
    } records[] = {
        { "{}", DECODE_MISSING },
        { "[]", DECODE_MISTYPED },
        { "3", DECODE_MISTYPED },
        { "null", DECODE_MISTYPED },
        { "\"x\"", DECODE_MISTYPED },
        { " ", DECODE_NOT_JSON },
        { "{", DECODE_NOT_JSON },
        { "hello", DECODE_NOT_JSON },
        { "{} {}", DECODE_NOT_JSON },
        { "{}x", DECODE_NOT_JSON },
        { "{\"event\":\"swipe\"}", DECODE_UNKNOWN_EVENT },
        { "{\"event\":7}", DECODE_MISTYPED },
        { "{\"event\":null}", DECODE_MISSING },
        { "{\"event\":\"click\",\"ts\":1}", DECODE_MISSING },
        { "{\"event\":\"click\",\"impression_id\":\"\",\"ts\":1}", DECODE_MISSING },
        { "{\"event\":\"click\",\"impression_id\":\"r\"}", DECODE_MISSING },
        { "{\"event\":\"click\",\"impression_id\":\"r\",\"ts\":null}", DECODE_MISSING },
        { "{\"event\":\"click\",\"impression_id\":true,\"ts\":1}", DECODE_MISTYPED },
        { "{\"event\":\"click\",\"impression_id\":{},\"ts\":1}", DECODE_MISTYPED },
        { "{\"event\":\"click\",\"impression_id\":\"r\",\"ts\":\"1\"}", DECODE_MISTYPED },
        { "{\"event\":\"click\",\"impression_id\":\"r\",\"ts\":1.5}", DECODE_MISTYPED },
        { "{\"event\":\"click\",\"impression_id\":\"r\",\"ts\":[1]}", DECODE_MISTYPED },
        { "{\"event\":\"click\",\"impression_id\":\"r\",\"ts\":-1}", DECODE_TIME_OUT_OF_BOUNDS },
        { "{\"event\":\"click\",\"impression_id\":\"r\",\"ts\":1e300}", DECODE_TIME_OUT_OF_BOUNDS },
        { "{\"event\":\"click\",\"impression_id\":\"r\",\"ts\":253402300800000}", DECODE_TIME_OUT_OF_BOUNDS },
        { "{\"event\":\"click\",\"impression_id\":\"r\",\"ts\":1e999}", DECODE_NOT_FINITE },
        { "{\"event\":\"impression\",\"impression_id\":\"r\",\"ts\":1,\"item_id\":\"i\"}", DECODE_MISSING },
        { "{\"event\":\"impression\",\"impression_id\":\"r\",\"ts\":1,\"user_id\":\"\",\"item_id\":\"i\"}",
          DECODE_MISSING },
        { "{\"event\":\"impression\",\"impression_id\":\"r\",\"ts\":1,\"user_id\":\"u\"}", DECODE_MISSING },
        { "{\"event\":\"impression\",\"impression_id\":\"r\",\"ts\":1,\"user_id\":false,\"item_id\":\"i\"}",
          DECODE_MISTYPED },
        { "{\"event\":\"example\",\"impression_id\":\"r\",\"ts\":1,\"user_id\":\"u\",\"item_id\":\"i\"}",
          DECODE_MISSING },
        { "{\"event\":\"example\",\"impression_id\":\"r\",\"ts\":1,\"user_id\":\"u\",\"item_id\":\"i\",\"clicked\":2}",
          DECODE_MISTYPED },
        { "{\"event\":\"example\",\"impression_id\":\"r\",\"ts\":1,\"user_id\":\"u\",\"item_id\":\"i\",\"clicked\":"
          "\"true\"}",
          DECODE_MISTYPED },
    };
    for (size_t i = 0; i < sizeof records / sizeof *records; i++)
        decode_fails(fixture->decoder, records[i].record, records[i].reason);

    struct event event;
    assert_int_equal(decode(fixture->decoder, NULL, 0, EVENT_CLICK, &event, NULL), DECODE_EMPTY);
    assert_int_equal(decode(fixture->decoder, "", 0, EVENT_CLICK, &event, NULL), DECODE_EMPTY);
    assert_int_equal(decode(fixture->decoder, "{", 1, EVENT_CLICK, &event, NULL), DECODE_NOT_JSON);
    /* A bad record leaves nothing behind for the next. */
    event = impression_ok(fixture->decoder, "");
    assert_column(event.example, GENDER, NULL);
    event_release(&event);
}

static void test_messages(void **state)
{
    struct fixture *fixture = *state;
    struct cs_error err = impression_fails(fixture->decoder, "\"user\":{\"age\":\"secret\"}", DECODE_MISTYPED);
    assert_non_null(strstr(err.message, "user.age is a text"));
    assert_null(strstr(err.message, "secret"));
    char text[300];
    impression_with(text, sizeof text, "\"user\":{\"age\":\"secret\"}");
    long after = strstr(text, "secret") + strlen("secret\"") - text;
    assert_int_equal(err.at.minor, after);
    err = decode_fails(fixture->decoder, "{\"event\":\"click\",\"ts\":1}", DECODE_MISSING);
    assert_non_null(strstr(err.message, "impression_id"));
    err = decode_fails(fixture->decoder, "{\"event\": \"click\" oops}", DECODE_NOT_JSON);
    assert_true(err.at.minor >= 18 && err.at.minor <= 20);
}

static void test_limits(void **state)
{
    struct fixture *fixture = *state;
    char id[1026], text[1400];
    memset(id, 'a', sizeof id);
    id[1024] = '\0';
    snprintf(text, sizeof text, "{\"event\":\"click\",\"impression_id\":\"%s\",\"ts\":1}", id);
    struct event event = decode_ok(fixture->decoder, text, DECODE_KIND_UNSAID);
    assert_int_equal(event.id_length, 1024);
    event_release(&event);
    id[1024] = 'a';
    id[1025] = '\0';
    snprintf(text, sizeof text, "{\"event\":\"click\",\"impression_id\":\"%s\",\"ts\":1}", id);
    decode_fails(fixture->decoder, text, DECODE_TOO_LARGE);

    char open[65], close[65], deep[200];
    repeat(open, "[", 63);
    repeat(close, "]", 63);
    snprintf(deep, sizeof deep, "\"x\":%s%s", open, close);
    event = impression_ok(fixture->decoder, deep);
    event_release(&event);
    snprintf(deep, sizeof deep, "\"x\":[%s%s]", open, close);
    impression_fails(fixture->decoder, deep, DECODE_NOT_JSON);

    char *large = malloc(100002);
    memset(large, ' ', 100001);
    large[0] = '{';
    large[99999] = '}';
    assert_int_equal(decode(fixture->decoder, large, 100000, EVENT_CLICK, &event, NULL), DECODE_MISSING);
    assert_int_equal(decode(fixture->decoder, large, 100001, EVENT_CLICK, &event, NULL), DECODE_TOO_LARGE);
    /* Long escaped texts outgrow the parser's scratch memory. */
    size_t used = (size_t)snprintf(large, 100000, "{\"event\":\"click\",\"impression_id\":\"r\",\"ts\":1,\"x\":\"");
    repeat(large + used, "\\u00e9\\n", 12000);
    memcpy(large + strlen(large), "\"}", 3);
    event = decode_ok(fixture->decoder, large, DECODE_KIND_UNSAID);
    event_release(&event);
    free(large);
}

static void test_mapped_fields(void **state)
{
    struct fixture *fixture = *state;
    struct decode_options options = { .field = { [FIELD_EVENT] = "type",
                                                 [FIELD_IMPRESSION_ID] = "meta.id",
                                                 [FIELD_TIME] = "meta.when.ms",
                                                 [FIELD_USER_ID] = "user.id",
                                                 [FIELD_CONTEXT] = "meta",
                                                 [FIELD_ITEM] = "things.item" } };
    struct decoder *decoder = create_decoder(fixture->features, options);
    struct event event = decode_ok(decoder,
                                   "{\"type\":\"impression\",\"event\":{\"not\":\"this\"},\"meta\":{\"id\":\"r1\","
                                   "\"hour\":3,\"when\":{\"ms\":77}},"
                                   "\"user\":{\"id\":\"u9\",\"gender\":\"M\"},\"item_id\":\"i5\",\"things\":{\"item\":{"
                                   "\"category\":\"c\"}},\"item\":3}",
                                   DECODE_KIND_UNSAID);
    assert_string_equal(example_id(event.example), "r1");
    assert_true(event.time == 77 && event.example->user == key("u9"));
    assert_column(event.example, HOUR, "3");
    assert_column(event.example, GENDER, "M");
    assert_column(event.example, CATEGORY, "c");
    event_release(&event);
    struct cs_error err = decode_fails(decoder, "{\"type\":\"click\",\"meta\":{\"when\":{\"ms\":77}}}", DECODE_MISSING);
    assert_non_null(strstr(err.message, "meta.id"));
    decoder_destroy(decoder);

    options = (struct decode_options){ .field = { [FIELD_TIME] = "meta..ms" } };
    assert_null(decoder_create(fixture->features, &options, &err));
    assert_int_equal(err.code, CS_CONFIG);
    options = (struct decode_options){ .field = { [FIELD_TIME] = "user_id.ms" } };
    assert_null(decoder_create(fixture->features, &options, &err));
    assert_int_equal(err.code, CS_CONFIG);
}

static void test_time_bounds(void **state)
{
    struct fixture *fixture = *state;
    struct decoder *decoder =
        create_decoder(fixture->features, (struct decode_options){ .min_time = 1000, .max_time = 2000 });
    decode_fails(decoder, "{\"event\":\"click\",\"impression_id\":1,\"ts\":999}", DECODE_TIME_OUT_OF_BOUNDS);
    decode_fails(decoder, "{\"event\":\"click\",\"impression_id\":1,\"ts\":2001}", DECODE_TIME_OUT_OF_BOUNDS);
    struct event event =
        decode_ok(decoder, "{\"event\":\"click\",\"impression_id\":1,\"ts\":2000}", DECODE_KIND_UNSAID);
    event_release(&event);
    decoder_set_max_time(decoder, 1999);
    decode_fails(decoder, "{\"event\":\"click\",\"impression_id\":1,\"ts\":2000}", DECODE_TIME_OUT_OF_BOUNDS);
    decoder_destroy(decoder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_impression),  cmocka_unit_test(test_absent_null_and_empty_contribute_nothing),
        cmocka_unit_test(test_behaviors),   cmocka_unit_test(test_numbers_are_keyed_by_their_shortest_text),
        cmocka_unit_test(test_lists),       cmocka_unit_test(test_other_kinds),
        cmocka_unit_test(test_reasons),     cmocka_unit_test(test_messages),
        cmocka_unit_test(test_limits),      cmocka_unit_test(test_mapped_fields),
        cmocka_unit_test(test_time_bounds),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
