/* Positions and fingerprints: what is written is read, older snapshots stay readable, records are told apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/positions.h"

static void test_written_is_read(void **state)
{
    (void)state;
    const struct kafka_position written[] = {
        { .topic = "clicks", .partition = 0, .next = 0 },
        { .topic = "impressions", .partition = 7, .next = INT64_C(9007199254740993),
          .last = { .known = true, .offset = INT64_C(9007199254740992), .timestamp = -1, .hash = UINT64_MAX - 2 } },
    };
    json_t *array = json_array();
    for (int i = 0; i < 2; i++) json_array_append_new(array, position_json(&written[i]));
    char *text = json_dumps(array, JSON_COMPACT);
    json_decref(array);
    struct kafka_positions read;
    struct cs_error err;
    assert_true(positions_parse(text, &read, &err));
    assert_int_equal(read.count, 2);
    assert_string_equal(read.position[1].topic, "impressions");
    assert_int_equal(read.position[1].partition, 7);
    assert_int_equal(read.position[1].next, written[1].next);
    assert_false(read.position[0].last.known);
    assert_true(read.position[1].last.known);
    assert_true(kafka_fingerprint_same(&read.position[1].last, &written[1].last));
    positions_release(&read);
    free(text);
}

static void test_older_positions_are_read(void **state)
{
    (void)state;
    struct kafka_positions read;
    struct cs_error err;
    assert_true(positions_parse("[{\"topic\":\"clicks\",\"partition\":3,\"next\":12}]", &read, &err));
    assert_int_equal(read.position[0].next, 12);
    assert_false(read.position[0].last.known);
    positions_release(&read);
}

static void test_damaged_positions_are_refused(void **state)
{
    (void)state;
    static const char *const damaged[] = {
        "", "{}", "[1]", "[{\"topic\":\"a\",\"partition\":0}]",
        "[{\"topic\":\"a\",\"partition\":0,\"next\":1,\"last\":{\"offset\":0,\"timestamp\":1}}]",
        "[{\"topic\":\"a\",\"partition\":0,\"next\":1,\"last\":{\"offset\":0,\"timestamp\":1,\"hash\":\"00\"}}]",
        "[{\"topic\":\"a\",\"partition\":0,\"next\":1,\"last\":{\"offset\":0,\"timestamp\":1,\"hash\":"
        "\"000000000000000x\"}}]",
        "[{\"topic\":\"a\",\"partition\":0,\"next\":1,\"last\":{\"offset\":0,\"timestamp\":1,\"hash\":"
        "\" -00000000000012\"}}]",
        "[{\"topic\":\"a\",\"partition\":-1,\"next\":1}]",
        "[{\"topic\":\"a\",\"partition\":4294967296,\"next\":1}]",     /* cut to 32 bits it would be another one */
        "[{\"topic\":\"a\",\"partition\":0,\"next\":-2}]",             /* the broker's word for its beginning */
    };
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        struct kafka_positions read;
        struct cs_error err;
        assert_false(positions_parse(damaged[i], &read, &err));
        assert_int_equal(err.code, CS_REFUSED);
        positions_release(&read);
    }
}

static void test_records_are_told_apart(void **state)
{
    (void)state;
    static const struct { const char *key, *value; int64_t offset, timestamp; } record[] = {
        { "k", "value", 5, 100 }, { "k", "valuf", 5, 100 }, { "l", "value", 5, 100 }, { "kv", "alue", 5, 100 },
        { NULL, "value", 5, 100 }, { "", "value", 5, 100 }, { "k", NULL, 5, 100 }, { "k", "", 5, 100 },
        { "k", "value", 6, 100 }, { "k", "value", 5, 101 },
    };
    struct kafka_fingerprint is[sizeof record / sizeof record[0]];
    for (size_t i = 0; i < sizeof record / sizeof record[0]; i++)
        is[i] = kafka_fingerprint_of(record[i].offset, record[i].timestamp, record[i].key,
                                     record[i].key ? strlen(record[i].key) : 0, record[i].value,
                                     record[i].value ? strlen(record[i].value) : 0);
    for (size_t i = 0; i < sizeof record / sizeof record[0]; i++)
        for (size_t j = 0; j < sizeof record / sizeof record[0]; j++)
            assert_int_equal(kafka_fingerprint_same(&is[i], &is[j]), i == j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_is_read),
        cmocka_unit_test(test_older_positions_are_read),
        cmocka_unit_test(test_damaged_positions_are_refused),
        cmocka_unit_test(test_records_are_told_apart),
    };
    return cmocka_run_group_tests_name("positions", tests, NULL, NULL);
}
