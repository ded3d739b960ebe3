/* A delta's records: what is written is read back; a changed bit, a missing byte or a byte too many is refused. */
#include "storage/delta_format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <xxhash.h>

#include <cmocka.h>

enum { N = 5, D = 3 };

static const uint64_t key[N] = { 1, UINT64_MAX, 77, 0, 5 };
static const int64_t sample[2] = { 1700000000001, -1 };
static const struct delta_place place = { .epoch = 1700000000000, .sequence = 8, .version = 1700000000123 };

struct made { unsigned char *bytes; size_t size; };

static struct made take(const struct delta_encoder *encoder)
{
    struct made made = { malloc(encoder->record.size), encoder->record.size };     /* ASan sees reads past the end */
    memcpy(made.bytes, encoder->record.data, made.size);
    return made;
}

/* One of each type; the tensor takes three records. */
static size_t make(struct made *made, float *weight, size_t floats)
{
    struct delta_encoder encoder = { 0 };
    float row[N * D];
    for (int i = 0; i < N * D; i++) row[i] = (float)i / 7;
    struct delta_begin begin = {
        .base = 6, .previous = 1700000000001, .watermark = 12, .created = 34, .steps = 56, .rows = N, .gone = 2,
        .tensors = 1, .samples = 2, .sample = (const unsigned char *)sample, .fingerprint = "0123456789abcdef",
    };
    size_t n = 0, offset = 0;
    assert_true(delta_encode_begin(&encoder, &place, &begin));
    made[n++] = take(&encoder);
    assert_true(delta_encode_rows(&encoder, "item", D, N, key, row));
    made[n++] = take(&encoder);
    assert_true(delta_encode_gone(&encoder, "city", 2, key));
    made[n++] = take(&encoder);
    struct tensor tensor = { .name = "ranking.dense1.weight", .type = TENSOR_F32, .rank = 1, .shape = { floats } };
    for (size_t i = 0; i < floats; i++) weight[i] = (float)i;
    tensor.data = weight;
    do {
        assert_true(delta_encode_dense(&encoder, &tensor, &offset));
        made[n++] = take(&encoder);
    } while (offset < floats * sizeof(float));
    assert_true(delta_encode_commit(&encoder));
    made[n++] = take(&encoder);
    delta_encoder_release(&encoder);
    return n;
}

static void release(struct made *made, size_t n)
{
    for (size_t i = 0; i < n; i++) free(made[i].bytes);
}

static void records_come_back_as_they_were(void **state)
{
    (void)state;
    enum { FLOATS = 300000 };
    float *weight = malloc(FLOATS * sizeof *weight);
    struct made made[8];
    struct delta_record r;
    struct cs_error err;
    float last;
    size_t n = make(made, weight, FLOATS), at = 0;
    uint64_t chain = 0;
    assert_int_equal(n, 7);
    for (size_t i = 0; i < n; i++) {
        if (!delta_parse(made[i].bytes, made[i].size, &r, &err)) fail_msg("%s", err.message);
        assert_true(made[i].size <= DELTA_RECORD_MAX);
        assert_memory_equal(&r.place, &place, sizeof place);
        assert_int_equal(r.index, i);
        if (i + 1 < n) chain = delta_chain(chain, r.checksum);
        switch (r.type) {
        case DELTA_BEGIN:
            assert_int_equal(r.begin.base, 6);
            assert_int_equal(r.begin.previous, 1700000000001);
            assert_int_equal(r.begin.watermark, 12);
            assert_int_equal(r.begin.created, 34);
            assert_int_equal(r.begin.steps, 56);
            assert_int_equal(r.begin.rows, N);
            assert_int_equal(r.begin.gone, 2);
            assert_int_equal(r.begin.tensors, 1);
            assert_int_equal(r.begin.samples, 2);
            assert_memory_equal(r.begin.sample, sample, sizeof sample);
            assert_string_equal(r.begin.fingerprint, "0123456789abcdef");
            break;
        case DELTA_ROWS:
            assert_string_equal(r.table, "item");
            assert_int_equal(r.n, N);
            assert_int_equal(r.dimension, D);
            assert_memory_equal(r.key, key, sizeof key);
            memcpy(&last, r.row + (N * D - 1) * sizeof last, sizeof last);
            assert_true(last == (float)(N * D - 1) / 7);
            assert_int_equal((r.key - made[i].bytes) % 8, 0);
            break;
        case DELTA_GONE:
            assert_string_equal(r.table, "city");
            assert_int_equal(r.n, 2);
            assert_memory_equal(r.key, key, 16);
            assert_null(r.row);
            break;
        case DELTA_DENSE:
            assert_string_equal(r.tensor.name, "ranking.dense1.weight");
            assert_int_equal(r.tensor.rank, 1);
            assert_int_equal(r.tensor.shape[0], FLOATS);
            assert_int_equal(r.offset, at);
            assert_memory_equal(r.data, (unsigned char *)weight + at, r.bytes);
            at += r.bytes;
            break;
        case DELTA_COMMIT:
            assert_int_equal(r.records, n);
            assert_int_equal(r.chain, chain);
            break;
        }
    }
    assert_int_equal(at, FLOATS * sizeof *weight);
    free(weight);
    release(made, n);
}

static void a_changed_bit_is_refused(void **state)
{
    (void)state;
    float weight[20];
    struct made made[8];
    struct delta_record r;
    struct cs_error err;
    size_t n = make(made, weight, 20), tried = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t bit = 0; bit < made[i].size * 8; bit++, tried++) {
            made[i].bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
            if (delta_parse(made[i].bytes, made[i].size, &r, &err)) fail_msg("record %zu, bit %zu passed", i, bit);
            assert_int_equal(err.code, CS_REFUSED);
            made[i].bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
            if (!bit) assert_true(delta_parse(made[i].bytes, made[i].size, &r, &err));
        }
    assert_true(tried > 3000);
    release(made, n);
}

static void another_length_is_refused(void **state)
{
    (void)state;
    float weight[20];
    struct made made[8];
    struct delta_record r;
    size_t n = make(made, weight, 20);
    for (size_t i = 0; i < n; i++)
        for (size_t size = 0; size < made[i].size + 8; size++) {
            unsigned char *other = calloc(1, size + !size);
            memcpy(other, made[i].bytes, size < made[i].size ? size : made[i].size);
            assert_int_equal(delta_parse(other, size, &r, NULL), size == made[i].size);
            free(other);
        }
    release(made, n);
}

/* Lengths inside that lie, under a checksum that is right: whoever can write to the topic can make one. */
static void lengths_that_lie_are_refused(void **state)
{
    (void)state;
    struct delta_encoder encoder = { 0 };
    struct delta_record r;
    float value[4] = { 0 };
    struct tensor tensor = { .name = "t", .rank = 2, .shape = { 2, 2 }, .data = value };
    const struct delta_begin begin = { .base = 6, .fingerprint = "f" };
    static const struct { size_t at; uint32_t is; } lie[] = {
        { 48, 7 }, { 48, 5 }, { 52, 4 }, { 60, 1 }, { 56, 1 }, { 64, 0 }, { 72, 9 }, { 80, 16 },
        { 88, 17 }, { 88, 0 }, { 92, 1 }, { 96, 2 }, { 96, 0 }, { 96, UINT32_MAX },
    };
    for (size_t i = 0; i < sizeof lie / sizeof lie[0]; i++) {
        size_t offset = 0;
        assert_true(delta_encode_begin(&encoder, &place, &begin));
        assert_true(delta_encode_dense(&encoder, &tensor, &offset));
        assert_true(delta_parse(encoder.record.data, encoder.record.size, &r, NULL));
        /* Sealed anew by the plain rule of the header's drawing. */
        unsigned char *bytes = encoder.record.data;
        memcpy(bytes + lie[i].at, &lie[i].is, 4);
        uint64_t checksum = XXH3_64bits_withSeed(bytes + 48, encoder.record.size - 48, XXH3_64bits(bytes, 40));
        memcpy(bytes + 40, &checksum, 8);
        bool passed = delta_parse(bytes, encoder.record.size, &r, NULL);
        if (passed) fail_msg("%u at %zu passed", lie[i].is, lie[i].at);
    }
    delta_encoder_release(&encoder);
}

static void a_full_record_is_as_large_as_allowed(void **state)
{
    (void)state;
    struct delta_encoder encoder = { 0 };
    struct delta_begin begin = { .base = 6, .fingerprint = "f" };
    assert_true(delta_encode_begin(&encoder, &place, &begin));
    size_t n = delta_rows_max("item", 64);
    uint64_t *keys = calloc(n, sizeof *keys);
    float *rows = calloc(n * 64, sizeof *rows);
    assert_true(delta_encode_rows(&encoder, "item", 64, (uint32_t)n, keys, rows));
    assert_true(encoder.record.size <= DELTA_RECORD_MAX);
    assert_true(encoder.record.size + 8 + 64 * 4 > DELTA_RECORD_MAX);
    struct delta_record r;
    assert_true(delta_parse(encoder.record.data, encoder.record.size, &r, NULL));
    assert_true(delta_rows_max("item", DELTA_DIMENSION_MAX) > 0);
    free(keys);
    free(rows);
    delta_encoder_release(&encoder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_come_back_as_they_were),    cmocka_unit_test(a_changed_bit_is_refused),
        cmocka_unit_test(another_length_is_refused),         cmocka_unit_test(lengths_that_lie_are_refused),
        cmocka_unit_test(a_full_record_is_as_large_as_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
