/* Snapshots: what a cut puts is there after a restart, all of it or nothing; what failed is owed to the next; another
 * process is fenced. */
#include "tests/unit/snapshot_fixture.h"

#include <dirent.h>
#include <lmdb.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "storage/snapshot_root.h"

static void a_cut_survives_a_restart(void **state)
{
    const char *directory = *state;
    struct snapshot_store *store = open_store(directory);
    float data[4] = { 1, 2, 3, 4 }, back[4] = { 0 };
    struct tensor tensor = weight(data), wanted = weight(back);
    struct toy *toy = toy_create(300, 1, 900);

    assert_false(snapshot_exists(store));
    struct snapshot_cut *cut = snapshot_begin(store);
    assert_true(snapshot_writer(cut)->full);
    put(cut, "joiner", 300, "three hundred");
    put(cut, "joiner", 2, "old");
    put(cut, "joiner", 2, "two");                   /* the later counts */
    put(cut, "joiner.more", 1, "another section");
    for (uint32_t slot = 0; slot < 300; slot += 3) toy_set(toy, slot, slot + 1);
    toy_give(toy, cut, "rows.item");
    assert_true(snapshot_writer(cut)->tensor(snapshot_writer(cut), &tensor, NULL));
    assert_true(snapshot_meta(cut, "config", "nothing", NULL));
    assert_true(snapshot_meta(cut, "config", "features: {}", NULL));
    commit(cut);
    assert_int_equal(toy->written, 1);
    assert_true(snapshot_exists(store));
    assert_int_equal(snapshot_stats(store).cut, 1);
    snapshot_close(store);

    store = open_store(directory);
    assert_true(snapshot_exists(store));
    struct snapshot_view *view = open_view(store);
    assert_record(view, "joiner", 300, "three hundred");
    assert_record(view, "joiner", 2, "two");
    assert_record(view, "joiner.more", 1, "another section");
    assert_record(view, "joiner", 3, NULL);
    assert_record(view, "joine", 2, NULL);
    assert_record(view, "joiner", 1ull << 40, NULL);
    assert_string_equal(snapshot_view_meta(view, "config"), "features: {}");
    assert_string_equal(snapshot_view_meta(view, "format"), "2");
    assert_null(snapshot_view_meta(view, "nothing"));
    assert_true(snapshot_reader(view)->tensor(snapshot_reader(view), &wanted, NULL));
    assert_memory_equal(back, data, sizeof data);
    snapshot_view_close(view);
    assert_toy(toy, store, "rows.item");
    cut = snapshot_begin(store);
    assert_false(snapshot_writer(cut)->full);
    commit(cut);                                    /* nothing but another meta: all else stays */
    assert_toy(toy, store, "rows.item");
    view = open_view(store);
    assert_null(snapshot_view_meta(view, "config"));
    assert_true(snapshot_reader(view)->tensor(snapshot_reader(view), &wanted, NULL));
    snapshot_view_close(view);
    snapshot_close(store);
    toy_destroy(toy);
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
    struct snapshot_view *view = open_view(store);
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

/* Longer than a piece, then of another shape, then without numbers. */
static void tensors_of_many_pieces_may_change_their_shape(void **state)
{
    static const size_t rows[] = { 300000, 70000, 65536, 0, 131073 };
    struct snapshot_store *store = open_store(*state);
    float *data = malloc(300000 * sizeof *data), *back = malloc(300000 * sizeof *data);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tensor tensor = { .name = "long", .rank = 1, .shape = { rows[i] }, .data = data };
        for (size_t n = 0; n < rows[i]; n++) data[n] = (float)(n * 7 + i);
        struct snapshot_cut *cut = snapshot_begin(store);
        assert_true(snapshot_writer(cut)->tensor(snapshot_writer(cut), &tensor, NULL));
        commit(cut);
        for (int again = 0; again < 2; again++) {
            struct snapshot_view *view = open_view(store);
            struct cs_error err = { 0 };
            tensor.data = back;
            if (!snapshot_reader(view)->tensor(snapshot_reader(view), &tensor, &err)) fail_msg("%s", err.message);
            assert_memory_equal(back, data, rows[i] * sizeof *data);
            assert_true(snapshot_view_verify(view, NULL, NULL, &err));
            snapshot_view_close(view);
            snapshot_close(store);
            store = open_store(*state);
        }
    }
    snapshot_close(store);
    free(data);
    free(back);
}

static bool collect(void *argument, uint64_t slot, const void *bytes, size_t size, struct cs_error *err)
{
    (void)err;
    assert_int_equal((uintptr_t)bytes % 8, 0);
    char *text = argument;
    sprintf(text + strlen(text), "%llu=%.*s;", (unsigned long long)slot, (int)size, (const char *)bytes);
    return true;
}

static void a_cut_changes_what_it_names_alone(void **state)
{
    struct snapshot_store *store = open_store(*state);
    char text[256] = "";
    struct snapshot_cut *cut = snapshot_begin(store);
    for (uint64_t slot = 0; slot < 5; slot++) put(cut, "s", slot << 8, "first");
    put(cut, "t", 1, "stays");
    commit(cut);
    struct snapshot_view *old = open_view(store);
    cut = snapshot_begin(store);
    put(cut, "s", 256, "second");
    take_out(cut, "s", 512);
    take_out(cut, "s", 99);                         /* was never there */
    take_out(cut, "u", 1);
    commit(cut);
    struct snapshot_view *view = open_view(store);
    assert_true(snapshot_reader(view)->each(snapshot_reader(view), "s", collect, text, NULL));
    static const char *const each[] = { "0=first;", "768=first;", "1024=first;", "256=second;" };   /* in any order */
    for (size_t i = 0; i < 4; i++) assert_non_null(strstr(text, each[i]));
    assert_int_equal(strlen(text), strlen("0=first;768=first;1024=first;256=second;"));
    assert_record(view, "t", 1, "stays");
    assert_record(view, "s", 512, NULL);
    assert_record(old, "s", 512, "first");          /* a view is of its cut */
    snapshot_view_close(view);
    cut = snapshot_begin(store);
    put(cut, "s", 512, "again");
    commit(cut);
    commit(snapshot_begin(store));
    view = open_view(store);
    assert_record(view, "s", 512, "again");
    assert_record(old, "s", 512, "first");          /* even once its files are unlinked */
    snapshot_view_close(view);
    snapshot_view_close(old);
    snapshot_close(store);
}

static void what_failed_is_owed_to_the_next_cut(void **state)
{
    struct snapshot_store *store = open_store(*state);
    struct toy *toy = toy_create(100, 10, 20);
    struct snapshot_cut *cut = snapshot_begin(store);
    put(cut, "s", 1, "one");
    put(cut, "s", 2, "two");
    put(cut, "s", 3, "three");
    toy_set(toy, 5, 1);
    toy_set(toy, 6, 1);
    toy_give(toy, cut, "t");
    commit(cut);

    cut = snapshot_begin(store);
    put(cut, "s", 1, "uno");
    put(cut, "s", 2, "due");
    take_out(cut, "s", 3);
    toy_set(toy, 5, 2);
    toy_give(toy, cut, "t");
    snapshot_abandon(cut);
    assert_int_equal(toy->failed, 1);
    cut = snapshot_begin(store);
    assert_false(snapshot_writer(cut)->full);       /* never the whole state for a failure */
    put(cut, "s", 2, "zwei");                       /* later than what is owed */
    snapshot_abandon(cut);
    cut = snapshot_begin(store);
    toy_set(toy, 6, 0);
    toy_give(toy, cut, "t");
    commit(cut);

    struct snapshot_view *view = open_view(store);
    assert_record(view, "s", 1, "uno");
    assert_record(view, "s", 2, "zwei");
    assert_record(view, "s", 3, NULL);
    snapshot_view_close(view);
    assert_toy(toy, store, "t");
    uint64_t changed = snapshot_stats(store).changed_bytes;
    assert_true(changed > 0 && changed < 200);
    snapshot_close(store);
    toy_destroy(toy);
}

/* What is no more stays so although older files still hold copies, and may come back. */
static void the_dead_stay_dead(void **state)
{
    struct snapshot_store *store = open_store(*state);
    struct toy *toy = toy_create(2000, 100, 0);
    uint32_t random = 1;
    for (uint32_t slot = 0; slot < 2000; slot++) toy_set(toy, slot, 1);
    for (uint32_t round = 2; round < 60; round++) {
        struct snapshot_cut *cut = snapshot_begin(store);
        toy_give(toy, cut, "t");
        commit(cut);
        if (round % 7 == 0) {
            snapshot_close(store);
            store = open_store(*state);
        }
        assert_toy(toy, store, "t");
        for (int i = 0; i < 150; i++) {
            random = random * 1664525 + 1013904223;
            toy_set(toy, (random >> 8) % 2000, i % 3 ? 0 : round);
        }
    }
    snapshot_close(store);
    toy_destroy(toy);
}

static unsigned segment_files(const char *directory)
{
    char path[300];
    unsigned files = 0;
    snprintf(path, sizeof path, "%s/segments", directory);
    DIR *folder = opendir(path);
    for (struct dirent *entry; (entry = readdir(folder));) files += *entry->d_name != '.';
    closedir(folder);
    return files;
}

/* A file that holds nothing but graves goes, and the graves move on while older copies exist. */
static void graves_move_out_of_files_that_go(void **state)
{
    struct snapshot_store *store = open_store(*state);
    struct toy *toy = toy_create(1000, 100, 0);
    for (uint32_t slot = 0; slot < 1000; slot++) toy_set(toy, slot, 1);
    for (uint32_t number = 1; number <= 4; number++) {
        for (uint32_t slot = 0; number > 1 && slot < 100; slot++) toy_set(toy, slot, number);
        for (uint32_t slot = 500; number == 2 && slot < 510; slot++) toy_set(toy, slot, 0);
        struct snapshot_cut *cut = snapshot_begin(store);
        toy_give(toy, cut, "t");
        commit(cut);
        snapshot_close(store);
        store = open_store(*state);
        assert_toy(toy, store, "t");
        assert_int_equal(snapshot_stats(store).segments, number > 1 ? 2 : 1);
    }
    snapshot_close(store);
    toy_destroy(toy);
}

static void a_manifest_that_counts_otherwise_is_refused(void **state)
{
    struct cs_error err = { 0 };
    struct manifest manifest;
    uint64_t written;
    struct snapshot_store *store = open_store(*state);
    struct snapshot_cut *cut = snapshot_begin(store);
    put(cut, "s", 1, "one");
    commit(cut);
    snapshot_close(store);
    struct environment *environment = environment_open(*state, true, 0, &err);
    assert_true(root_read(environment, 1, &manifest, &err));
    manifest.section[0].living++;
    assert_true(root_write(environment, &manifest, 0, &written, &err));
    environment_close(environment);
    manifest_free(&manifest);
    assert_null(snapshot_open(*state, NULL, NULL, &err));
    assert_int_equal(err.code, CS_REFUSED);
    assert_non_null(strstr(err.message, "section 's' holds 1 records of 16 bytes, the manifest of cut 1 says 2"));
}

static void a_write_that_fails_leaves_the_old_cut_and_the_next_succeeds(void **state)
{
    struct snapshot_store *store = open_store(*state);
    struct toy *toy = toy_create(3000, 1000, 0);
    struct cs_error err = { 0 };
    struct rlimit before, small = { .rlim_cur = 1 << 20 };
    char *text = calloc(1, 2 << 20);
    for (uint32_t slot = 0; slot < 10; slot++) toy_set(toy, slot, 1);
    struct snapshot_cut *cut = snapshot_begin(store);
    toy_give(toy, cut, "t");
    put(cut, "s", 1, "old");
    commit(cut);
    uint64_t disk = snapshot_stats(store).disk_bytes;

    for (uint32_t slot = 0; slot < 3000; slot++) toy_set(toy, slot, 2);
    cut = snapshot_begin(store);
    toy_give(toy, cut, "t");
    put(cut, "s", 1, "new");
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    small.rlim_max = before.rlim_max;
    setrlimit(RLIMIT_FSIZE, &small);
    assert_false(snapshot_commit(cut, &err));
    assert_int_equal(err.code, CS_FAILED);
    assert_non_null(strstr(err.message, "writing the snapshot"));
    assert_int_equal(segment_files(*state), 1);     /* its disk is wanted back at once */
    cut = snapshot_begin(store);                    /* and where the segment is small and the root does not fit */
    memset(text, 'x', (2 << 20) - 1);
    assert_true(snapshot_meta(cut, "config", text, NULL));
    assert_false(snapshot_commit(cut, &err));
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(snapshot_stats(store).cut, 1);
    assert_int_equal(snapshot_stats(store).disk_bytes, disk);
    struct snapshot_view *view = open_view(store);
    assert_record(view, "s", 1, "old");
    snapshot_view_close(view);

    cut = snapshot_begin(store);
    toy_give(toy, cut, "t");
    commit(cut);
    assert_toy(toy, store, "t");
    snapshot_close(store);
    store = open_store(*state);
    assert_toy(toy, store, "t");
    view = open_view(store);
    assert_record(view, "s", 1, "new");
    snapshot_view_close(view);
    snapshot_close(store);
    toy_destroy(toy);
    free(text);
}

static void a_second_opener_is_fenced(void **state)
{
    struct snapshot_store *store = open_store(*state);
    struct cs_error err = { 0 };
    char pid[32];
    commit(snapshot_begin(store));
    snprintf(pid, sizeof pid, "process %ld", (long)getpid());
    assert_null(snapshot_open(*state, NULL, NULL, &err));
    assert_int_equal(err.code, CS_FENCED);
    assert_non_null(strstr(err.message, pid));
    snapshot_close(store);
    store = open_store(*state);
    snapshot_close(store);
}

static void the_map_grows_by_itself(void **state)
{
    struct cs_error err = { 0 };
    struct snapshot_store *store =
        snapshot_open(*state, &(struct snapshot_options){ .map_bytes = 1 << 20 }, NULL, &err);
    assert_non_null(store);
    size_t size = 3 << 20;
    char *text = malloc(size);
    memset(text, 'x', size);
    text[size - 1] = 0;
    for (int round = 0; round < 3; round++) {
        struct snapshot_cut *cut = snapshot_begin(store);
        assert_true(snapshot_meta(cut, "config", text, NULL));
        commit(cut);
    }
    struct snapshot_view *view = open_view(store);
    assert_string_equal(snapshot_view_meta(view, "config"), text);
    snapshot_view_close(view);
    snapshot_close(store);
    free(text);
}

static void records_larger_than_any_buffer_are_whole(void **state)
{
    struct snapshot_store *store = open_store(*state);
    struct toy *toy = toy_create(8, 3 << 20, 1 << 20);
    char *text = malloc(5000000);
    memset(text, 'z', 5000000);
    text[4999999] = 0;
    for (int round = 0; round < 3; round++) {
        struct snapshot_cut *cut = snapshot_begin(store);
        for (uint32_t slot = 0; slot < 8; slot += 2) toy_set(toy, slot, 1u + (uint32_t)round);
        put(cut, "s", 1, text);
        toy_give(toy, cut, "t");
        commit(cut);
        assert_toy(toy, store, "t");
    }
    struct snapshot_view *view = open_view(store);
    assert_record(view, "s", 1, text);
    snapshot_view_close(view);
    snapshot_close(store);
    toy_destroy(toy);
    free(text);
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
    assert_record(view, "s", 1, "one");
    snapshot_view_close(view);
    cut = snapshot_begin(store);                    /* closing the view left the store's locks alone */
    put(cut, "s", 1, "two");
    commit(cut);
    snapshot_close(store);
    view = snapshot_view_open_directory(*state, &err);
    assert_non_null(view);
    assert_record(view, "s", 1, "two");
    snapshot_view_close(view);
    assert_null(snapshot_view_open_directory("/nowhere/at/all", &err));
}

static void modes_are_for_the_group_alone(void **state)
{
    struct stat status;
    char path[300];
    struct snapshot_store *store = open_store(*state);
    struct snapshot_cut *cut = snapshot_begin(store);
    put(cut, "s", 1, "one");
    commit(cut);
    snapshot_close(store);
    assert_int_equal(stat(*state, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0750);
    static const char *const file[] = { "data.mdb", "LOCK", "segments/00000000000000000001" };
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", (char *)*state, file[i]);
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_mode & 07777, 0640);
    }
}

static void format_1_is_refused_with_both_named(void **state)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta;
    struct cs_error err = { 0 };
    assert_int_equal(mkdir(*state, 0750), 0);
    mdb_env_create(&env);
    mdb_env_set_maxdbs(env, 3);
    assert_int_equal(mdb_env_open(env, *state, 0, 0640), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, "meta", MDB_CREATE, &meta), 0);
    MDB_val key = { 6, (char[]){ "format" } }, value = { 1, (char[]){ "1" } };
    assert_int_equal(mdb_put(txn, meta, &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    for (int i = 0; i < 2; i++) {
        if (i) assert_null(snapshot_view_open_directory(*state, &err));
        else assert_null(snapshot_open(*state, NULL, NULL, &err));
        assert_int_equal(err.code, CS_REFUSED);
        assert_non_null(strstr(err.message, "format 1"));
        assert_non_null(strstr(err.message, "reads 2"));
    }
}

/* A writer that is killed at any moment leaves one of its cuts, whole. */
static void a_killed_writer_leaves_a_whole_cut(void **state)
{
    const char *directory = *state;
    for (int round = 0; round < 8; round++) {
        int pipes[2];
        assert_int_equal(pipe(pipes), 0);
        pid_t child = fork();
        if (child == 0) {
            struct snapshot_store *store = snapshot_open(directory, NULL, NULL, NULL);
            if (!store) _exit(1);
            for (int n = 0;; n = (n + 1) % 26) {
                struct snapshot_cut *cut = snapshot_begin(store);
                for (uint64_t slot = 0; slot < 64; slot++) {
                    char text[900];
                    memset(text, 'a' + n, sizeof text);
                    snapshot_writer(cut)->put(snapshot_writer(cut), "s", slot, text, sizeof text, NULL);
                }
                if (!snapshot_commit(cut, NULL) || write(pipes[1], "", 1) != 1) _exit(1);
            }
        }
        char byte;
        close(pipes[1]);
        for (int i = 0; i <= round * 3; i++) assert_int_equal(read(pipes[0], &byte, 1), 1);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        close(pipes[0]);
        struct snapshot_store *store = open_store(directory);
        struct snapshot_view *view = open_view(store);
        const char *first;
        size_t size;
        assert_true(snapshot_reader(view)->get(snapshot_reader(view), "s", 0, (const void **)&first, &size, NULL));
        for (uint64_t slot = 1; slot < 64; slot++) {
            const void *bytes;
            assert_true(snapshot_reader(view)->get(snapshot_reader(view), "s", slot, &bytes, &size, NULL));
            assert_memory_equal(bytes, first, 900);
        }
        snapshot_view_close(view);
        snapshot_close(store);
    }
}

static bool list_section(void *self, const char *section, uint64_t records, uint64_t bytes, struct cs_error *err)
{
    (void)err;
    sprintf((char *)self + strlen(self), "%s:%d:%d;", section, (int)records, (int)bytes);
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

static void fill_for_tools(struct snapshot_store *store)
{
    float data[4] = { 1, 2, 3, 4.5f };
    struct tensor tensor = weight(data);
    struct snapshot_cut *cut = snapshot_begin(store);
    put(cut, "b", 1, "xyz");
    put(cut, "a", 2, "x");
    put(cut, "a", 1, "xy");
    put(cut, "a", 7, "gone");
    snapshot_writer(cut)->tensor(snapshot_writer(cut), &tensor, NULL);
    assert_true(snapshot_meta(cut, "fingerprint", "f", NULL));
    commit(cut);
    cut = snapshot_begin(store);
    take_out(cut, "a", 7);
    snapshot_writer(cut)->tensor(snapshot_writer(cut), &tensor, NULL);
    assert_true(snapshot_meta(cut, "fingerprint", "f", NULL));
    assert_true(snapshot_meta(cut, "a", "1", NULL));
    commit(cut);
}

static void assert_for_tools(struct snapshot_view *view)
{
    char text[400] = "";
    uint64_t records, bytes;
    struct cs_error err = { 0 };
    assert_true(snapshot_view_sections(view, list_section, text, NULL));
    assert_true(snapshot_view_each_meta(view, list_meta, text, NULL));
    assert_true(snapshot_view_tensors(view, list_tensor, text, NULL));
    assert_string_equal(text, "a:2:3;b:1:3;a=1;fingerprint=f;format=2;ranking.output.weight:4.5;");
    if (!snapshot_view_verify(view, &records, &bytes, &err)) fail_msg("%s", err.message);
    assert_int_equal(records, 4);
    assert_int_equal(bytes, 22);
}

static void tools_see_sections_meta_and_tensors(void **state)
{
    struct snapshot_store *store = open_store(*state);
    fill_for_tools(store);
    struct snapshot_view *view = open_view(store);
    assert_for_tools(view);
    snapshot_view_close(view);
    snapshot_close(store);
}

static void a_backup_is_a_snapshot_of_its_own(void **state)
{
    char to[300];
    struct cs_error err = { 0 };
    struct stat status;
    struct snapshot_store *store = open_store(*state);
    struct toy *toy = toy_create(500, 50, 100);
    fill_for_tools(store);
    snprintf(to, sizeof to, "%s.backup", (char *)*state);
    if (!snapshot_backup(*state, to, NULL, &err)) fail_msg("%s", err.message);        /* its owner has it open */
    struct snapshot_view *view = snapshot_view_open_directory(to, &err);
    assert_for_tools(view);
    snapshot_view_close(view);
    assert_false(snapshot_backup(*state, to, NULL, &err));
    assert_non_null(strstr(err.message, "exists"));
    struct snapshot_store *copy = open_store(to);
    assert_int_equal(snapshot_stats(copy).cut, 2);
    assert_int_equal(snapshot_stats(copy).segments, 1);
    struct snapshot_cut *cut = snapshot_begin(copy);
    assert_false(snapshot_writer(cut)->full);
    toy_set(toy, 400, 3);
    toy_give(toy, cut, "rows.item");
    commit(cut);
    assert_toy(toy, copy, "rows.item");
    snapshot_close(copy);
    snapshot_close(store);
    toy_destroy(toy);
    snprintf(to, sizeof to, "%s.nothing", (char *)*state);
    assert_false(snapshot_backup("/nowhere", to, NULL, &err));
    assert_int_equal(stat(to, &status), -1);
}

static void add_told(void *self, uint64_t bytes)
{
    *(uint64_t *)self += bytes;
}

static void who_waits_is_told_of_every_byte(void **state)
{
    char to[300];
    uint64_t told = 0;
    struct cs_error err = { 0 };
    const struct storage_watch watch = { add_told, &told };
    struct snapshot_store *store = open_store(*state);
    struct toy *toy = toy_create(500, 50, 100);
    for (uint32_t slot = 0; slot < 500; slot++) toy_set(toy, slot, 1);
    snapshot_watch(store, &watch);
    struct snapshot_cut *cut = snapshot_begin(store);
    toy_give(toy, cut, "rows.item");
    commit(cut);
    assert_in_range(told, 500 * 50, snapshot_stats(store).written_bytes);
    struct snapshot_view *view = open_view(store);
    uint64_t whole = snapshot_view_bytes(view);
    assert_in_range(whole, 500 * 50, told);
    told = 0;
    assert_true(snapshot_view_verify(view, NULL, NULL, &err));      /* nobody waits */
    assert_int_equal(told, 0);
    snapshot_view_watch(view, &watch);
    assert_true(snapshot_view_verify(view, NULL, NULL, &err));
    assert_int_equal(told, whole);
    snapshot_view_close(view);
    snapshot_close(store);
    toy_destroy(toy);
    told = 0;
    snprintf(to, sizeof to, "%s.backup", (char *)*state);
    assert_true(snapshot_backup(*state, to, &watch, &err));
    assert_int_equal(told, 3 * whole);          /* all of it lives: the copy is as large */
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fresh_directory, release)
    const struct CMUnitTest tests[] = {
        TEST(a_cut_survives_a_restart),
        TEST(only_matching_tensors_are_read),
        TEST(tensors_of_many_pieces_may_change_their_shape),
        TEST(a_cut_changes_what_it_names_alone),
        TEST(what_failed_is_owed_to_the_next_cut),
        TEST(the_dead_stay_dead),
        TEST(graves_move_out_of_files_that_go),
        TEST(a_manifest_that_counts_otherwise_is_refused),
        TEST(a_write_that_fails_leaves_the_old_cut_and_the_next_succeeds),
        TEST(a_second_opener_is_fenced),
        TEST(the_map_grows_by_itself),
        TEST(records_larger_than_any_buffer_are_whole),
        TEST(views_by_directory_share_the_open_environment),
        TEST(modes_are_for_the_group_alone),
        TEST(format_1_is_refused_with_both_named),
        TEST(a_killed_writer_leaves_a_whole_cut),
        TEST(tools_see_sections_meta_and_tensors),
        TEST(a_backup_is_a_snapshot_of_its_own),
        TEST(who_waits_is_told_of_every_byte),
    };
    if (!make_root(false)) return 1;
    return run_and_clean(cmocka_run_group_tests(tests, NULL, NULL));
}
