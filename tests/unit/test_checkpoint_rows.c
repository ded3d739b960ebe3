/* Rows found in mapped pages: all of them, nothing else, and no way out of the map through damaged ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include "storage/checkpoint.h"
#include "storage/checkpoint_rows.h"

enum { ROWS = 40000, DIMENSION = 8, DAMAGES = 10000, ASKED = 40 };

static uint64_t key[ROWS];
static struct mapped_file whole;
static unsigned char record[48];

static int ascending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static float value(uint64_t k, size_t i)
{
    return (float)(k >> 40) + (float)i;
}

static void read_record(const char *path)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi root;
    MDB_cursor *cursor;
    MDB_val name = { strlen("rows.item"), (void *)(uintptr_t)"rows.item" }, found;
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_open(env, path, MDB_RDONLY | MDB_NOLOCK | MDB_NOSUBDIR, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, NULL, 0, &root), 0);
    assert_int_equal(mdb_cursor_open(txn, root, &cursor), 0);
    assert_int_equal(mdb_cursor_get(cursor, &name, &found, MDB_SET), 0);
    assert_int_equal(found.mv_size, sizeof record);
    memcpy(record, found.mv_data, sizeof record);
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    mdb_env_close(env);
}

static int publish(void **state)
{
    char directory[] = "/tmp/test_checkpoint_rows.XXXXXX", path[300], command[300];
    struct cs_error err = { 0 };
    uint64_t version;
    (void)state;
    assert_non_null(mkdtemp(directory));
    struct checkpoint_writer *writer = checkpoint_begin(directory, &err);
    assert_non_null(writer);
    for (size_t i = 0; i < ROWS; i++) key[i] = random_bits(1, i) & ~1ull;
    qsort(key, ROWS, sizeof *key, ascending);
    for (size_t i = 0; i < ROWS; i++) {
        float row[DIMENSION];
        for (size_t k = 0; k < DIMENSION; k++) row[k] = value(key[i], k);
        if (!checkpoint_row(writer, "item", key[i], row, DIMENSION, &err)) fail_msg("%s", err.message);
    }
    if (!checkpoint_finish(writer, "{}", 1, &version, &err)) fail_msg("%s", err.message);
    snprintf(path, sizeof path, "%s/current/data.mdb", directory);
    read_record(path);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    whole.page_size = 4096;
    whole.pages = (size_t)ftell(file) / whole.page_size;
    rewind(file);
    unsigned char *bytes = malloc(whole.pages * whole.page_size);
    assert_int_equal(fread(bytes, whole.page_size, whole.pages, file), whole.pages);
    whole.bytes = bytes;
    fclose(file);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

static int release(void **state)
{
    (void)state;
    free((void *)(uintptr_t)whole.bytes);
    return 0;
}

static const float *find(const struct row_leaves *rows, uint64_t k)
{
    return row_leaves_find(rows, row_leaves_leaf(rows, k), k);
}

static void every_row_is_found_and_no_other(void **state)
{
    (void)state;
    struct row_leaves rows;
    struct cs_error err = { 0 };
    if (!row_leaves_open(&rows, &whole, record, sizeof record, true, &err)) fail_msg("%s", err.message);
    assert_int_equal(rows.rows, ROWS);
    assert_int_equal(rows.dimension, DIMENSION);
    assert_true(rows.leaves > 100);             /* or no branch was walked */
    for (size_t i = 0; i < ROWS; i++) {
        const float *row = find(&rows, key[i]);
        assert_non_null(row);
        assert_true(row[5] == value(key[i], 5));
        assert_null(find(&rows, key[i] + 1));
    }
    assert_null(find(&rows, 0));
    assert_null(find(&rows, UINT64_MAX));
    row_leaves_close(&rows);
}

static bool in_file(const struct mapped_file *file, const float *row)
{
    const unsigned char *at = (const unsigned char *)row;
    return at >= file->bytes && at + DIMENSION * sizeof(float) <= file->bytes + file->pages * file->page_size;
}

/* The pages lie in memory of just their size, so that a sanitizer sees each byte read beyond. */
static void damaged_pages_are_refused_or_harmless(void **state)
{
    (void)state;
    size_t size = whole.pages * whole.page_size, refused = 0;
    unsigned char *bytes = malloc(size);
    memcpy(bytes, whole.bytes, size);
    struct mapped_file file = { bytes, whole.page_size, whole.pages };
    for (uint64_t i = 0; i < DAMAGES; i++) {
        unsigned char broken[sizeof record];
        uint64_t chance = random_bits(5, i);
        /* Half of the time where pages keep what leads on: their heads, and the nodes' offsets. */
        size_t at = (size_t)(random_bits(6, i) % size), part = i % 8;
        if (part < 4) at = at / 4096 * 4096 + chance % 64;
        unsigned char before = bytes[at];
        memcpy(broken, record, sizeof record);
        if (part == 7) broken[chance % sizeof broken] ^= (unsigned char)(1u << (chance >> 32) % 8);
        else bytes[at] = (unsigned char)(chance >> 16);
        struct row_leaves rows;
        struct cs_error err = { 0 };
        if (row_leaves_open(&rows, &file, broken, sizeof broken, i % 2, &err)) {
            for (size_t k = 0; k < ASKED; k++) {
                const float *row = find(&rows, key[random_bits(i, k) % ROWS]);
                if (row) assert_true(in_file(&file, row));
            }
        } else {
            assert_int_equal(err.code, CS_REFUSED);
            refused++;
        }
        row_leaves_close(&rows);
        bytes[at] = before;
    }
    assert_true(refused > DAMAGES / 20 && refused < DAMAGES);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_found_and_no_other),
        cmocka_unit_test(damaged_pages_are_refused_or_harmless),
    };
    return cmocka_run_group_tests(tests, publish, release);
}
