/* safetensors: what is written reads back; whatever does not add up is refused by name. npz: the zip's own numbers
 * agree. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage/exchange.h"

static char directory[] = "/tmp/test_exchange.XXXXXX";

static const char *path(const char *name)
{
    static char text[256];
    snprintf(text, sizeof text, "%s/%s", directory, name);
    return text;
}

static struct tensor tensor(const char *name, enum tensor_type type, size_t rank, size_t a, size_t b, void *data)
{
    struct tensor t = { .type = type, .rank = rank, .shape = { a, b }, .data = data };
    snprintf(t.name, sizeof t.name, "%s", name);
    return t;
}

static void write_file(const char *file, const void *bytes, size_t size)
{
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
}

static char *read_all(const char *file, size_t *size)
{
    FILE *f = fopen(file, "r");
    assert_non_null(f);
    char *bytes = malloc(1 << 20);
    *size = fread(bytes, 1, 1 << 20, f);
    fclose(f);
    return bytes;
}

static float weights[6] = { 1, 2, 3, 4, 5, -0.5f };
static uint64_t keys[3] = { 1, 1ull << 63, UINT64_MAX };
static uint32_t steps[3] = { 7, 8, UINT32_MAX };

static void write_three(const char *file, enum exchange_format format)
{
    struct tensor all[] = { tensor("ranking.output.weight", TENSOR_F32, 2, 2, 3, weights),
                            tensor("embedding.item.keys", TENSOR_U64, 1, 3, 0, keys),
                            tensor("embedding.none.rows", TENSOR_F32, 2, 0, 3, NULL),
                            tensor("embedding.item.step", TENSOR_U32, 1, 3, 0, steps) };
    struct cs_error err = { 0 };
    struct exchange_writer *writer = exchange_create(file, format, &err);
    assert_non_null(writer);
    for (size_t i = 0; i < 4; i++) assert_true(exchange_announce(writer, &all[i], &err));
    char joined[sizeof weights + sizeof keys + sizeof steps];
    memcpy(joined, weights, sizeof weights);
    memcpy(joined + sizeof weights, keys, sizeof keys);
    memcpy(joined + sizeof weights + sizeof keys, steps, sizeof steps);
    for (size_t at = 0; at < sizeof joined; at += 5)        /* in pieces that cross the tensors' bounds */
        assert_true(exchange_data(writer, joined + at, at + 5 > sizeof joined ? sizeof joined - at : 5, &err));
    assert_true(exchange_finish(writer, &err));
}

static void written_tensors_read_back(void **state)
{
    (void)state;
    struct cs_error err = { 0 };
    write_three(path("three.safetensors"), EXCHANGE_SAFETENSORS);
    struct exchange_file *file = exchange_open(path("three.safetensors"), &err);
    assert_non_null(file);
    assert_int_equal(exchange_count(file), 4);
    const struct tensor *found = exchange_find(file, "embedding.item.keys");
    assert_non_null(found);
    assert_int_equal(found->type, TENSOR_U64);
    assert_int_equal(found->rank, 1);
    assert_int_equal(found->shape[0], 3);
    assert_memory_equal(found->data, keys, sizeof keys);
    assert_memory_equal(exchange_find(file, "ranking.output.weight")->data, weights, sizeof weights);
    assert_memory_equal(exchange_find(file, "embedding.item.step")->data, steps, sizeof steps);
    assert_int_equal(tensor_elements(exchange_find(file, "embedding.none.rows")), 0);
    assert_null(exchange_find(file, "ranking"));
    exchange_close(file);
}

static void too_much_or_too_little_data_fails(void **state)
{
    (void)state;
    struct cs_error err = { 0 };
    struct tensor one = tensor("a", TENSOR_F32, 1, 2, 0, NULL);
    struct exchange_writer *writer = exchange_create(path("short"), EXCHANGE_SAFETENSORS, &err);
    assert_true(exchange_announce(writer, &one, &err));
    assert_true(exchange_data(writer, weights, 4, &err));
    assert_false(exchange_finish(writer, &err));
    assert_non_null(strstr(err.message, "lacks 4 bytes"));
    assert_int_not_equal(access(path("short"), F_OK), 0);
    writer = exchange_create(path("long"), EXCHANGE_SAFETENSORS, &err);
    assert_true(exchange_announce(writer, &one, &err));
    assert_false(exchange_announce(writer, &one, &err));
    assert_false(exchange_data(writer, weights, 12, &err));
    exchange_abandon(writer);
}

static const struct { const char *header, *says; size_t data;
} broken[] = {
    { "[]", "does not begin with {", 0 },
    { "{\"a\":1}", "not described by an object", 0 },
    { "{\"a\":", "not JSON", 0 },
    { "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", "no dtype", 4 },
    { "{\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}", "dtype BF16", 4 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1],\"data_offsets\":[0,4]}}", "up to 3", 4 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", "not a size", 4 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", "not a size", 4 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", "not a size", 0 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", "4 bytes of data, its shape comes to 8", 4 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", "two numbers", 4 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", "outside of the file's 4 bytes", 4 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", "outside", 4 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", "outside", 4 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_"
      "offsets\":[0,4]}}",
      "overlaps", 4 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", "belong to none", 8 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "belong to no tensor", 8 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_"
      "offsets\":[4,8]}}",
      "duplicate", 8 },
};

static void broken_headers_are_refused_with_the_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        char bytes[1024] = { 0 };
        struct cs_error err = { 0 };
        uint64_t length = strlen(broken[i].header);
        memcpy(bytes, &length, 8);
        memcpy(bytes + 8, broken[i].header, length);
        write_file(path("broken"), bytes, 8 + length + broken[i].data);
        assert_null(exchange_open(path("broken"), &err));
        if (err.code != CS_REFUSED || !strstr(err.message, broken[i].says))
            fail_msg("%s: %s", broken[i].header, err.message);
    }
}

static void any_truncation_is_refused(void **state)
{
    (void)state;
    size_t size;
    struct cs_error err = { 0 };
    write_three(path("whole"), EXCHANGE_SAFETENSORS);
    char *bytes = read_all(path("whole"), &size);
    for (size_t cut = 0; cut < size; cut++) {
        write_file(path("cut"), bytes, cut);
        assert_null(exchange_open(path("cut"), &err));
        assert_int_equal(err.code, CS_REFUSED);
    }
    memset(bytes, 0xff, 8);
    write_file(path("cut"), bytes, size);
    assert_null(exchange_open(path("cut"), &err));
    free(bytes);
}

static uint32_t u32_at(const char *at)
{
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}

static void npz_is_a_zip_of_npy_arrays(void **state)
{
    (void)state;
    size_t size;
    write_three(path("three.npz"), EXCHANGE_NPZ);
    char *bytes = read_all(path("three.npz"), &size);
    const char *end = bytes + size - 22;
    assert_int_equal(u32_at(end), 0x06054b50);
    assert_int_equal(u32_at(end + 8), 4 | 4 << 16);
    const char *central = bytes + u32_at(end + 16);
    assert_ptr_equal(central + u32_at(end + 12), end);
    assert_int_equal(u32_at(central), 0x02014b50);
    assert_memory_equal(central + 46, "ranking.output.weight.npy", 25);
    const char *local = bytes + u32_at(central + 42);
    assert_int_equal(u32_at(local), 0x04034b50);
    assert_int_equal(u32_at(local + 14), u32_at(central + 16));
    assert_int_not_equal(u32_at(local + 14), 0);
    const char *array = local + 30 + 25;
    assert_memory_equal(array, "\x93NUMPY\x01\x00", 8);
    assert_non_null(strstr(array + 10, "'<f4', 'fortran_order': False, 'shape': (2,3,)"));
    assert_memory_equal(array + u32_at(central + 24) - sizeof weights, weights, sizeof weights);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_tensors_read_back), cmocka_unit_test(too_much_or_too_little_data_fails),
        cmocka_unit_test(broken_headers_are_refused_with_the_reason), cmocka_unit_test(any_truncation_is_refused),
        cmocka_unit_test(npz_is_a_zip_of_npy_arrays),
    };
    if (!mkdtemp(directory)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command) || failed;
}
