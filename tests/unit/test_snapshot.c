/* Snapshots: what a cut puts is there after a restart, all of it or nothing; damage is refused, another process is
 * fenced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <lmdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "storage/snapshot.h"

static char root[] = "/tmp/test_snapshot.XXXXXX";
static int serial;

static int fresh_directory(void **state)
{
    char *directory = malloc(256);
    snprintf(directory, 256, "%s/%d", root, serial++);
    *state = directory;
    return 0;
}

static int release(void **state)
{
    free(*state);
    return 0;
}

static struct snapshot_store *open_store(const char *directory)
{
    struct cs_error err = { 0 };
    struct snapshot_store *store = snapshot_open(directory, &err);
    if (!store) fail_msg("%s", err.message);
    return store;
}

static void put(struct snapshot_cut *cut, const char *section, uint64_t id, const char *text)
{
    struct state_writer *writer = snapshot_writer(cut);
    assert_true(writer->put(writer, section, id, text, strlen(text), NULL));
}

static void commit(struct snapshot_cut *cut)
{
    struct cs_error err = { 0 };
    if (!snapshot_commit(cut, &err)) fail_msg("%s", err.message);
}

static void assert_block(struct snapshot_view *view, const char *section, uint64_t id, const char *text)
{
    const void *bytes;
    size_t size;
    struct state_reader *reader = snapshot_reader(view);
    assert_true(reader->get(reader, section, id, &bytes, &size, NULL));
    if (!text) {
        assert_null(bytes);
        return;
    }
    assert_non_null(bytes);
    assert_int_equal((uintptr_t)bytes % 8, 0);
    assert_int_equal(size, strlen(text));
    assert_memory_equal(bytes, text, size);
}

static struct tensor weight(float *data)
{
    return (struct tensor){
        .name = "ranking.output.weight", .role = TENSOR_OPTIMIZER, .rank = 2, .shape = { 2, 2 }, .data = data
    };
}

static void a_cut_survives_a_restart(void **state)
{
    const char *directory = *state;
    struct snapshot_store *store = open_store(directory);
    float data[4] = { 1, 2, 3, 4 }, back[4] = { 0 };
    struct tensor tensor = weight(data), wanted = weight(back);

    assert_false(snapshot_exists(store));
    struct snapshot_cut *cut = snapshot_begin(store);
    assert_true(snapshot_writer(cut)->full);
    put(cut, "rows.item", 300, "three hundred");
    put(cut, "rows.item", 2, "old");
    put(cut, "rows.item", 2, "two");                /* the later counts */
    put(cut, "rows.item.more", 1, "another section");
    put(cut, "empty", 0, "");
    assert_true(snapshot_writer(cut)->tensor(snapshot_writer(cut), &tensor, NULL));
    assert_true(snapshot_meta(cut, "config", "features: {}", NULL));
    assert_true(snapshot_cut_bytes(cut) > 40);
    commit(cut);
    assert_true(snapshot_exists(store));
    snapshot_close(store);

    store = open_store(directory);
    assert_true(snapshot_exists(store));
    struct snapshot_view *view = snapshot_view_open(store, NULL);
    assert_block(view, "rows.item", 300, "three hundred");
    assert_block(view, "rows.item", 2, "two");
    assert_block(view, "rows.item.more", 1, "another section");
    assert_block(view, "empty", 0, "");
    assert_block(view, "rows.item", 3, NULL);
    assert_block(view, "rows", 2, NULL);
    assert_string_equal(snapshot_view_meta(view, "config"), "features: {}");
    assert_null(snapshot_view_meta(view, "nothing"));
    assert_true(snapshot_reader(view)->tensor(snapshot_reader(view), &wanted, NULL));
    assert_memory_equal(back, data, sizeof data);
    snapshot_view_close(view);
    snapshot_close(store);
}

static void only_matching_tensors_are_read(void **state)
{
    struct snapshot_store *store = open_store(*state);
    struct cs_error err = { 0 };
    float data[4] = { 0 };
    struct tensor tensor = weight(data);
    struct snapshot_cut *cut = snapshot_begin(store);
    assert_true(snapshot_writer(cut)->tensor(snapshot_writer(cut), &tensor, NULL));
    commit(cut);
    struct snapshot_view *view = snapshot_view_open(store, NULL);
    tensor.shape[1] = 3;
    assert_false(snapshot_reader(view)->tensor(snapshot_reader(view), &tensor, &err));
    assert_int_equal(err.code, CS_REFUSED);
    assert_string_equal(err.message, "tensor ranking.output.weight is F32 [2, 2] there, F32 [2, 3] here");
    strcpy(tensor.name, "ranking.output.bias");
    assert_false(snapshot_reader(view)->tensor(snapshot_reader(view), &tensor, &err));
    assert_non_null(strstr(err.message, "ranking.output.bias is missing"));
    snapshot_view_close(view);
    snapshot_close(store);
}

static bool collect(void *argument, uint64_t id, const void *bytes, size_t size, struct cs_error *err)
{
    (void)err;
    assert_int_equal((uintptr_t)bytes % 8, 0);
    char *text = argument;
    sprintf(text + strlen(text), "%llu=%.*s;", (unsigned long long)id, (int)size, (const char *)bytes);
    return true;
}

static void incremental_cuts_change_what_they_name_and_full_ones_everything(void **state)
{
    struct snapshot_store *store = open_store(*state);
    char text[256] = "";
    struct snapshot_cut *cut = snapshot_begin(store);
    for (uint64_t id = 0; id < 5; id++) put(cut, "s", id << 8, "first");
    put(cut, "t", 1, "stays");
    commit(cut);
    cut = snapshot_begin(store);
    assert_false(snapshot_writer(cut)->full);
    put(cut, "s", 256, "second");
    assert_true(snapshot_writer(cut)->remove(snapshot_writer(cut), "s", 512, NULL));
    assert_true(snapshot_writer(cut)->remove(snapshot_writer(cut), "s", 99, NULL));
    commit(cut);
    struct snapshot_view *view = snapshot_view_open(store, NULL);
    assert_true(snapshot_reader(view)->each(snapshot_reader(view), "s", collect, text, NULL));
    assert_string_equal(text, "0=first;256=second;768=first;1024=first;");
    assert_block(view, "t", 1, "stays");

    snapshot_abandon(snapshot_begin(store)); /* what its owners marked clean was never written: the next is full */
    cut = snapshot_begin(store);
    assert_true(snapshot_writer(cut)->full);
    put(cut, "s", 1, "all");
    commit(cut);
    assert_block(view, "t", 1, "stays");            /* the view is of the cut before */
    snapshot_view_close(view);
    view = snapshot_view_open(store, NULL);
    assert_block(view, "t", 1, NULL);
    assert_block(view, "s", 0, NULL);
    assert_block(view, "s", 1, "all");
    snapshot_view_close(view);
    cut = snapshot_begin(store);
    assert_false(snapshot_writer(cut)->full);
    commit(cut);
    snapshot_close(store);
}

static void an_incremental_cut_behind_a_failed_one_is_refused(void **state)
{
    struct snapshot_store *store = open_store(*state);
    struct cs_error err = { 0 };
    commit(snapshot_begin(store));
    struct snapshot_cut *first = snapshot_begin(store), *second = snapshot_begin(store);
    snapshot_abandon(first);
    struct snapshot_cut *third = snapshot_begin(store);
    commit(third);                                  /* full: heals the store, not the orphan */
    assert_false(snapshot_commit(second, &err));
    snapshot_close(store);
}

static void a_second_opener_is_fenced(void **state)
{
    struct snapshot_store *store = open_store(*state);
    struct cs_error err = { 0 };
    char pid[32];
    snprintf(pid, sizeof pid, "process %ld", (long)getpid());
    assert_null(snapshot_open(*state, &err));
    assert_int_equal(err.code, CS_FENCED);
    assert_non_null(strstr(err.message, pid));
    snapshot_close(store);
    store = open_store(*state);
    snapshot_close(store);
}

static void the_map_grows_by_itself(void **state)
{
    struct cs_error err = { 0 };
    struct snapshot_store *store = snapshot_open_sized(*state, 1 << 20, &err);
    assert_non_null(store);
    size_t size = 3 << 20;
    char *bytes = malloc(size);
    memset(bytes, 'x', size);
    for (int round = 0; round < 3; round++) {
        struct snapshot_cut *cut = snapshot_begin(store);
        assert_true(snapshot_writer(cut)->put(snapshot_writer(cut), "large", (uint64_t)round, bytes, size, NULL));
        commit(cut);
    }
    struct snapshot_view *view = snapshot_view_open(store, &err);
    uint64_t blocks, total;
    assert_true(snapshot_view_verify(view, &blocks, &total, &err));
    assert_int_equal(blocks, 3);
    assert_int_equal(total, 3 * size);
    snapshot_view_close(view);
    snapshot_close(store);
    free(bytes);
}

static void views_by_directory_share_the_open_environment(void **state)
{
    struct snapshot_store *store = open_store(*state);
    struct cs_error err = { 0 };
    assert_null(snapshot_view_open_directory(*state, &err));
    assert_int_equal(err.code, CS_REFUSED);
    struct snapshot_cut *cut = snapshot_begin(store);
    put(cut, "s", 1, "one");
    commit(cut);
    struct snapshot_view *view = snapshot_view_open_directory(*state, &err);
    assert_non_null(view);
    assert_block(view, "s", 1, "one");
    snapshot_view_close(view);
    cut = snapshot_begin(store);                    /* closing the view left the store's locks alone */
    put(cut, "s", 1, "two");
    commit(cut);
    snapshot_close(store);
    view = snapshot_view_open_directory(*state, &err);
    assert_non_null(view);
    assert_block(view, "s", 1, "two");
    snapshot_view_close(view);
    assert_null(snapshot_view_open_directory("/nowhere/at/all", &err));
}

static void modes_are_for_the_group_alone(void **state)
{
    struct stat status;
    char path[300];
    snapshot_close(open_store(*state));
    assert_int_equal(stat(*state, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0750);
    snprintf(path, sizeof path, "%s/data.mdb", (char *)*state);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0640);
}

/* Enough blocks that the tree has several pages; some in pages of their own. */
static void fill(const char *directory)
{
    struct snapshot_store *store = open_store(directory);
    struct snapshot_cut *cut = snapshot_begin(store);
    char *bytes = malloc(20000);
    memset(bytes, 'y', 20000);
    for (uint64_t id = 0; id < 40; id++)
        assert_true(snapshot_writer(cut)->put(snapshot_writer(cut), "s", id, bytes, id % 4 ? 300 : 20000, NULL));
    commit(cut);
    snapshot_close(store);
    free(bytes);
}

static void truncated_files_are_refused_not_read(void **state)
{
    char path[300];
    struct stat status;
    fill(*state);
    snprintf(path, sizeof path, "%s/data.mdb", (char *)*state);
    assert_int_equal(stat(path, &status), 0);
    const off_t cuts[] = { status.st_size / 4096 * 4096 - 4096, status.st_size * 3 / 4, 8192, 4096, 100, 0 };
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        struct cs_error err = { 0 };
        assert_int_equal(truncate(path, cuts[i]), 0);
        struct snapshot_view *view = snapshot_view_open_directory(*state, &err);
        assert_null(view);
        if (err.code != CS_REFUSED) fail_msg("%ld: %s", (long)cuts[i], err.message);
        assert_null(snapshot_open(*state, &err));
        assert_int_equal(err.code, CS_REFUSED);
    }
}

static void what_is_no_file_is_refused(void **state)
{
    char path[300];
    struct cs_error err = { 0 };
    assert_int_equal(mkdir(*state, 0750), 0);
    snprintf(path, sizeof path, "%s/data.mdb", (char *)*state);
    assert_int_equal(mkdir(path, 0750), 0);
    assert_null(snapshot_view_open_directory(*state, &err));
    assert_int_equal(err.code, CS_REFUSED);
    assert_null(snapshot_open(*state, &err));
    assert_int_equal(err.code, CS_REFUSED);
}

static void a_flipped_bit_in_a_block_is_found(void **state)
{
    char path[300];
    struct cs_error err = { 0 };
    fill(*state);
    snprintf(path, sizeof path, "%s/data.mdb", (char *)*state);
    FILE *file = fopen(path, "r+");
    char page[4096];
    off_t at = 0;
    while (fread(page, sizeof page, 1, file) == 1 && !memmem(page, sizeof page, "yyyyyyyyyyyyyyyy", 16))
        at += (off_t)sizeof page;
    char *y = memmem(page, sizeof page, "yyyyyyyyyyyyyyyy", 16);
    assert_non_null(y);
    fseek(file, at + (y - page) + 3, SEEK_SET);
    fputc('y' ^ 4, file);
    fclose(file);
    struct snapshot_view *view = snapshot_view_open_directory(*state, &err);
    assert_non_null(view);
    assert_false(snapshot_view_verify(view, NULL, NULL, &err));
    assert_int_equal(err.code, CS_REFUSED);
    assert_non_null(strstr(err.message, "section 's', block"));
    assert_non_null(strstr(err.message, "checksum"));
    snapshot_view_close(view);
}

static void another_format_is_refused_with_both_named(void **state)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta;
    struct cs_error err = { 0 };
    fill(*state);
    mdb_env_create(&env);
    mdb_env_set_maxdbs(env, 3);
    assert_int_equal(mdb_env_open(env, *state, 0, 0640), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, "meta", 0, &meta), 0);
    MDB_val key = { 6, (char[]){ "format" } }, value = { 1, (char[]){ "7" } };
    assert_int_equal(mdb_put(txn, meta, &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    assert_null(snapshot_open(*state, &err));
    assert_int_equal(err.code, CS_REFUSED);
    assert_non_null(strstr(err.message, "format 7"));
    assert_non_null(strstr(err.message, "reads 1"));
}

/* A writer that is killed at any moment leaves one of its cuts, whole. */
static void a_killed_writer_leaves_a_whole_cut(void **state)
{
    const char *directory = *state;
    struct snapshot_store *store = open_store(directory);
    commit(snapshot_begin(store));
    snapshot_close(store);
    for (int round = 0; round < 8; round++) {
        int pipes[2];
        assert_int_equal(pipe(pipes), 0);
        pid_t child = fork();
        if (child == 0) {
            store = snapshot_open(directory, NULL);
            if (!store) _exit(1);
            for (int n = 0;; n = (n + 1) % 26) {
                struct snapshot_cut *cut = snapshot_begin(store);
                for (uint64_t id = 0; id < 64; id++) {
                    char text[900];
                    memset(text, 'a' + n, sizeof text);
                    text[sizeof text - 1] = 0;
                    snapshot_writer(cut)->put(snapshot_writer(cut), "s", id, text, sizeof text, NULL);
                }
                if (!snapshot_commit(cut, NULL) || write(pipes[1], "", 1) != 1) _exit(1);
            }
        }
        char byte;
        for (int i = 0; i <= round * 3; i++) assert_int_equal(read(pipes[0], &byte, 1), 1);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        close(pipes[0]);
        close(pipes[1]);
        store = open_store(directory);
        struct snapshot_view *view = snapshot_view_open(store, NULL);
        const char *first;
        size_t size;
        assert_true(snapshot_reader(view)->get(snapshot_reader(view), "s", 0, (const void **)&first, &size, NULL));
        for (uint64_t id = 1; id < 64; id++) {
            const void *bytes;
            assert_true(snapshot_reader(view)->get(snapshot_reader(view), "s", id, &bytes, &size, NULL));
            assert_memory_equal(bytes, first, 900);
        }
        snapshot_view_close(view);
        snapshot_close(store);
    }
}

static bool list_section(void *self, const char *section, uint64_t blocks, uint64_t bytes, struct cs_error *err)
{
    (void)err;
    sprintf((char *)self + strlen(self), "%s:%d:%d;", section, (int)blocks, (int)bytes);
    return true;
}

static bool list_meta(void *self, const char *name, const char *text, struct cs_error *err)
{
    (void)err;
    sprintf((char *)self + strlen(self), "%s=%s;", name, text);
    return true;
}

static bool list_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    (void)err;
    assert_int_equal(tensor->role, TENSOR_OPTIMIZER);
    sprintf((char *)self + strlen(self), "%s:%g;", tensor->name, (double)((const float *)tensor->data)[3]);
    return true;
}

static void tools_see_sections_meta_and_tensors(void **state)
{
    struct snapshot_store *store = open_store(*state);
    char text[400] = "";
    float data[4] = { 1, 2, 3, 4.5f };
    struct tensor tensor = weight(data);
    struct snapshot_cut *cut = snapshot_begin(store);
    put(cut, "b", 1, "xyz");
    put(cut, "a", 2, "x");
    put(cut, "a", 1, "xy");
    snapshot_writer(cut)->tensor(snapshot_writer(cut), &tensor, NULL);
    assert_true(snapshot_meta(cut, "fingerprint", "f", NULL));
    commit(cut);
    struct snapshot_view *view = snapshot_view_open(store, NULL);
    assert_true(snapshot_view_sections(view, list_section, text, NULL));
    assert_true(snapshot_view_each_meta(view, list_meta, text, NULL));
    assert_true(snapshot_view_tensors(view, list_tensor, text, NULL));
    assert_string_equal(text, "a:2:3;b:1:3;fingerprint=f;format=1;ranking.output.weight:4.5;");
    snapshot_view_close(view);
    snapshot_close(store);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fresh_directory, release)
    const struct CMUnitTest tests[] = {
        TEST(a_cut_survives_a_restart),
        TEST(only_matching_tensors_are_read),
        TEST(incremental_cuts_change_what_they_name_and_full_ones_everything),
        TEST(an_incremental_cut_behind_a_failed_one_is_refused),
        TEST(a_second_opener_is_fenced),
        TEST(the_map_grows_by_itself),
        TEST(views_by_directory_share_the_open_environment),
        TEST(modes_are_for_the_group_alone),
        TEST(truncated_files_are_refused_not_read),
        TEST(what_is_no_file_is_refused),
        TEST(a_flipped_bit_in_a_block_is_found),
        TEST(another_format_is_refused_with_both_named),
        TEST(a_killed_writer_leaves_a_whole_cut),
        TEST(tools_see_sections_meta_and_tensors),
    };
    if (!mkdtemp(root)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command) || failed;
}
