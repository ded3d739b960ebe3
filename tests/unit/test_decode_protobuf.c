/* Protobuf records: the same events as from JSON, byte for byte, and the same reasons. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>

#include "core/coldstream_event.pb-c.h"
#include "core/decode.h"

static struct features *features;
static struct decoder *json, *protobuf;
static double age_bound[] = { 18, 25, 35 };

static enum decode_result decode_message(const Coldstream__Event *message, int expected, struct event *event,
                                         struct cs_error *err)
{
    size_t size = coldstream__event__get_packed_size(message);
    uint8_t *bytes = malloc(size + 1);
    coldstream__event__pack(message, bytes);
    enum decode_result result = decode(protobuf, bytes, size, expected, event, err);
    free(bytes);
    return result;
}

static Coldstream__Value text_value(char *text)
{
    Coldstream__Value value = COLDSTREAM__VALUE__INIT;
    value.value_case = COLDSTREAM__VALUE__VALUE_TEXT;
    value.text = text;
    return value;
}

static Coldstream__Value number_value(double number)
{
    Coldstream__Value value = COLDSTREAM__VALUE__INIT;
    value.value_case = COLDSTREAM__VALUE__VALUE_NUMBER;
    value.number = number;
    return value;
}

static Coldstream__Value integer_value(int64_t integer)
{
    Coldstream__Value value = COLDSTREAM__VALUE__INIT;
    value.value_case = COLDSTREAM__VALUE__VALUE_INTEGER;
    value.integer = integer;
    return value;
}

static Coldstream__Event minimal(void)
{
    Coldstream__Event event = COLDSTREAM__EVENT__INIT;
    event.has_event = event.has_ts = 1;
    event.event = COLDSTREAM__EVENT__KIND__IMPRESSION;
    event.impression_id = (char *)"r7-3";
    event.ts = 1700000000123;
    event.user_id = (char *)"u1";
    event.item_id = (char *)"i9";
    return event;
}

static Coldstream__Event__UserEntry user_entry(const char *key, Coldstream__Value *value)
{
    Coldstream__Event__UserEntry entry = COLDSTREAM__EVENT__USER_ENTRY__INIT;
    entry.key = (char *)key;
    entry.value = value;
    return entry;
}

static void test_same_as_json(void **state)
{
    (void)state;
    Coldstream__Event message = minimal();
    Coldstream__Value age = integer_value(25), income = number_value(12.5), hour = number_value(13),
                      unknown = text_value((char *)"x");
    Coldstream__Scalar first = COLDSTREAM__SCALAR__INIT, second = COLDSTREAM__SCALAR__INIT;
    first.value_case = COLDSTREAM__SCALAR__VALUE_TEXT;
    first.text = (char *)"S\xc3\xa3o Paulo";
    second.value_case = COLDSTREAM__SCALAR__VALUE_NUMBER;
    second.number = 0.1;
    Coldstream__Scalar *both[] = { &first, &second };
    Coldstream__ScalarList list = COLDSTREAM__SCALAR_LIST__INIT;
    list.n_value = 2;
    list.value = both;
    Coldstream__Value cities = COLDSTREAM__VALUE__INIT;
    cities.value_case = COLDSTREAM__VALUE__VALUE_LIST;
    cities.list = &list;
    Coldstream__Event__UserEntry user[] = { user_entry("age", &age), user_entry("city", &cities),
                                            user_entry("income", &income), user_entry("other", &unknown) };
    Coldstream__Event__UserEntry *users[] = { &user[0], &user[1], &user[2], &user[3] };
    message.n_user = 4;
    message.user = users;
    Coldstream__Event__ContextEntry context = COLDSTREAM__EVENT__CONTEXT_ENTRY__INIT, *contexts[] = { &context };
    context.key = (char *)"hour";
    context.value = &hour;
    message.n_context = 1;
    message.context = contexts;
    char *items[] = { (char *)"i31", (char *)"", (char *)"i7" };
    Coldstream__ItemList behaviors = COLDSTREAM__ITEM_LIST__INIT;
    behaviors.n_item_id = 3;
    behaviors.item_id = items;
    message.behaviors = &behaviors;

    struct event a, b;
    struct cs_error err = { 0 };
    assert_int_equal(decode_message(&message, DECODE_KIND_UNSAID, &a, &err), DECODE_OK);
    const char *text =
        "{\"event\":\"impression\",\"impression_id\":\"r7-3\",\"ts\":1700000000123,\"user_id\":\"u1\",\"item_id\":"
        "\"i9\","
        "\"user\":{\"age\":25,\"city\":[\"S\xc3\xa3o Paulo\",0.1],\"income\":12.5},\"context\":{\"hour\":13},"
        "\"behaviors\":[\"i31\",\"\",\"i7\"]}";
    assert_int_equal(decode(json, text, strlen(text), DECODE_KIND_UNSAID, &b, &err), DECODE_OK);
    assert_int_equal(a.kind, b.kind);
    assert_true(a.time == b.time);
    assert_int_equal(a.example->size, b.example->size);
    assert_memory_equal(a.example, b.example, a.example->size);
    event_release(&a);
    event_release(&b);
}

static void test_clicks_and_examples(void **state)
{
    (void)state;
    Coldstream__Event message = COLDSTREAM__EVENT__INIT;
    message.impression_id = (char *)"r";
    message.has_ts = 1;
    message.ts = 5;
    struct event event;
    struct cs_error err = { 0 };
    assert_int_equal(decode_message(&message, EVENT_CLICK, &event, &err), DECODE_OK);
    assert_int_equal(event.kind, EVENT_CLICK);
    assert_string_equal(event.id, "r");
    event_release(&event);
    assert_int_equal(decode_message(&message, DECODE_KIND_UNSAID, &event, &err), DECODE_MISSING);

    message = minimal();
    message.event = COLDSTREAM__EVENT__KIND__EXAMPLE;
    assert_int_equal(decode_message(&message, DECODE_KIND_UNSAID, &event, &err), DECODE_MISSING);
    message.has_clicked = message.clicked = 1;
    Coldstream__ItemList nothing = COLDSTREAM__ITEM_LIST__INIT;
    message.behaviors = &nothing;
    assert_int_equal(decode_message(&message, DECODE_KIND_UNSAID, &event, &err), DECODE_OK);
    assert_int_equal(event.example->clicked, 1);
    assert_int_equal(event.example->has_behaviors, 1);
    event_release(&event);
}

static void test_reasons(void **state)
{
    (void)state;
    struct event event;
    struct cs_error err = { 0 };
    assert_int_equal(decode(protobuf, "\xff\xff\xff", 3, EVENT_CLICK, &event, &err), DECODE_NOT_JSON);
    assert_int_equal(decode(protobuf, "", 0, EVENT_CLICK, &event, &err), DECODE_EMPTY);
    Coldstream__Event message = minimal();
    message.has_ts = 0;
    assert_int_equal(decode_message(&message, DECODE_KIND_UNSAID, &event, &err), DECODE_MISSING);
    message = minimal();
    message.ts = -1;
    assert_int_equal(decode_message(&message, DECODE_KIND_UNSAID, &event, &err), DECODE_TIME_OUT_OF_BOUNDS);
    message = minimal();
    message.event = (Coldstream__Event__Kind)17;
    assert_int_equal(decode_message(&message, DECODE_KIND_UNSAID, &event, &err), DECODE_UNKNOWN_EVENT);
    message = minimal();
    message.impression_id = (char *)"\xff";
    assert_int_equal(decode_message(&message, DECODE_KIND_UNSAID, &event, &err), DECODE_NOT_JSON);
    Coldstream__Value bad[] = { number_value(NAN), text_value((char *)"young") };
    const enum decode_result reason[] = { DECODE_NOT_FINITE, DECODE_MISTYPED };
    for (size_t i = 0; i < 2; i++) {
        Coldstream__Event__UserEntry entry = user_entry("age", &bad[i]), *entries[] = { &entry, &entry };
        message = minimal();
        message.n_user = 1;
        message.user = entries;
        assert_int_equal(decode_message(&message, DECODE_KIND_UNSAID, &event, &err), reason[i]);
        message.n_user = 2;
        assert_int_equal(decode_message(&message, DECODE_KIND_UNSAID, &event, &err), DECODE_MISTYPED);
    }
    struct decode_options mapped = { .format = DECODE_PROTOBUF, .field = { [FIELD_TIME] = "meta.ts" } };
    assert_null(decoder_create(features, &mapped, &err));
    assert_int_equal(err.code, CS_CONFIG);
}

int main(void)
{
    struct feature_options feature[] = {
        { .name = "age", .bucket = age_bound, .bucket_count = 3 },
        { .name = "city" },
        { .name = "income", .kind = FEATURE_DENSE },
        { .name = "hour", .group = GROUP_CONTEXT },
        { .name = "item_id", .group = GROUP_ITEM, .table = "item" },
    };
    struct features_options options = {
        .feature = feature, .feature_count = 5, .behavior_table = "item", .behavior_max_length = 3
    };
    features = features_create(&options, NULL);
    json = decoder_create(features, &(struct decode_options){ 0 }, NULL);
    protobuf = decoder_create(features, &(struct decode_options){ .format = DECODE_PROTOBUF }, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_as_json),
        cmocka_unit_test(test_clicks_and_examples),
        cmocka_unit_test(test_reasons),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    decoder_destroy(json);
    decoder_destroy(protobuf);
    features_destroy(features);
    return failed;
}
