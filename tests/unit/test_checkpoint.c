/* Checkpoints: a version is whole or not there, `current` rises, old ones go, damage is refused, rows are found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/random.h"
#include "storage/checkpoint.h"

enum { ROWS = 5000, DIMENSION = 8 };

static char root[] = "/tmp/test_checkpoint.XXXXXX";
static int serial;
static uint64_t key[ROWS];

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

static float value(uint64_t row_key, size_t column)
{
    return (float)(row_key % 1000) + (float)column / 16;
}

static void put_row(struct checkpoint_writer *writer, const char *table, uint64_t row_key)
{
    float row[DIMENSION];
    struct cs_error err = { 0 };
    for (size_t i = 0; i < DIMENSION; i++) row[i] = value(row_key, i);
    if (!checkpoint_row(writer, table, row_key, row, DIMENSION, &err)) fail_msg("%s", err.message);
}

static struct checkpoint_writer *write_all(const char *directory)
{
    struct cs_error err = { 0 };
    struct checkpoint_writer *writer = checkpoint_begin(directory, &err);
    if (!writer) fail_msg("%s", err.message);
    float weight[6] = { 1, 2, 3, 4, 5, 6 }, bias[1] = { -1 };
    struct tensor tensors[] = { { .name = "ranking.output.weight", .rank = 2, .shape = { 2, 3 }, .data = weight },
                                { .name = "ranking.output.bias", .rank = 1, .shape = { 1 }, .data = bias } };
    assert_true(checkpoint_meta(writer, "config", "features: {}", &err));
    for (size_t i = 0; i < 2; i++) assert_true(checkpoint_tensor(writer, &tensors[i], &err));
    for (size_t i = 0; i < ROWS; i++) put_row(writer, "item", key[i]);
    put_row(writer, "city", 7);
    return writer;
}

static uint64_t publish(const char *directory, uint64_t keep)
{
    struct cs_error err = { 0 };
    uint64_t version;
    struct checkpoint_writer *writer = write_all(directory);
    if (!checkpoint_finish(writer, "{\"examples\": 12, \"rows\": 0}", keep, &version, &err))
        fail_msg("%s", err.message);
    return version;
}

static void add_told(void *self, uint64_t bytes)
{
    *(uint64_t *)self += bytes;
}

static void who_waits_is_told_of_every_byte_hashed(void **state)
{
    uint64_t told = 0;
    const struct storage_watch watch = { add_told, &told };
    publish(*state, 5);
    struct checkpoint *checkpoint = checkpoint_open_watched(*state, &watch, NULL);
    assert_non_null(checkpoint);
    json_t *manifest = json_loads(checkpoint_manifest(checkpoint), 0, NULL);
    assert_int_equal(told, json_integer_value(json_object_get(manifest, "size")));
    json_decref(manifest);
    checkpoint_close(checkpoint);
}

static void a_version_reads_as_it_was_written(void **state)
{
    struct cs_error err = { 0 };
    uint64_t version = publish(*state, 5);
    assert_int_equal(version, 1);
    assert_int_equal(checkpoint_current(*state), 1);
    struct checkpoint *checkpoint = checkpoint_open(*state, true, &err);
    if (!checkpoint) fail_msg("%s", err.message);
    assert_int_equal(checkpoint_version(checkpoint), 1);
    assert_string_equal(checkpoint_meta_text(checkpoint, "config"), "features: {}");
    assert_null(checkpoint_meta_text(checkpoint, "other"));
    int item = checkpoint_table(checkpoint, "item"), city = checkpoint_table(checkpoint, "city");
    assert_true(item >= 0 && city >= 0 && item != city);
    assert_int_equal(checkpoint_table(checkpoint, "user"), -1);
    assert_int_equal(checkpoint_dimension(checkpoint, item), DIMENSION);
    for (size_t i = 0; i < ROWS; i++) {
        const float *row = checkpoint_find(checkpoint, item, key[i]);
        assert_non_null(row);
        for (size_t k = 0; k < DIMENSION; k++) assert_true(row[k] == value(key[i], k));
        assert_null(checkpoint_find(checkpoint, item, key[i] ^ 1));
    }
    assert_non_null(checkpoint_find(checkpoint, city, 7));
    assert_null(checkpoint_find(checkpoint, city, 0));
    assert_null(checkpoint_find(checkpoint, city, UINT64_MAX));
    assert_null(checkpoint_find(checkpoint, -1, 7));
    float back[6];
    struct tensor wanted = { .name = "ranking.output.weight", .rank = 2, .shape = { 2, 3 }, .data = back };
    assert_true(checkpoint_read_tensor(checkpoint, &wanted, &err));
    assert_true(back[5] == 6);
    wanted.shape[0] = 3;
    assert_false(checkpoint_read_tensor(checkpoint, &wanted, &err));
    assert_int_equal(err.code, CS_REFUSED);
    checkpoint_close(checkpoint);
}

static void the_manifest_says_what_is_there(void **state)
{
    publish(*state, 5);
    struct checkpoint *checkpoint = checkpoint_open(*state, true, NULL);
    json_t *manifest = json_loads(checkpoint_manifest(checkpoint), 0, NULL);
    assert_non_null(manifest);
    assert_int_equal(json_integer_value(json_object_get(manifest, "version")), 1);
    assert_int_equal(json_integer_value(json_object_get(manifest, "examples")), 12);
    assert_int_equal(json_integer_value(json_object_get(manifest, "format")), 1);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(manifest, "rows"), "item")), ROWS);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(manifest, "rows"), "city")), 1);
    assert_int_equal(strlen(json_string_value(json_object_get(manifest, "sha256"))), 64);
    assert_true(json_integer_value(json_object_get(manifest, "created")) > 1600000000000);
    json_decref(manifest);
    checkpoint_close(checkpoint);
}

static void versions_rise_and_old_ones_go(void **state)
{
    uint64_t *version;
    size_t count;
    for (uint64_t i = 1; i <= 5; i++) assert_int_equal(publish(*state, 3), i);
    assert_true(checkpoint_list(*state, &version, &count, NULL));
    assert_int_equal(count, 3);
    for (size_t i = 0; i < 3; i++) assert_int_equal(version[i], 3 + i);
    free(version);
    struct checkpoint *old = checkpoint_open(*state, true, NULL);
    assert_true(checkpoint_repoint(*state, 3, NULL));
    assert_int_equal(checkpoint_current(*state), 3);
    assert_false(checkpoint_repoint(*state, 1, NULL));
    assert_int_equal(publish(*state, 1), 6);        /* never current, never its predecessor */
    assert_true(checkpoint_list(*state, &version, &count, NULL));
    assert_int_equal(count, 2);
    assert_int_equal(version[0], 3);
    assert_int_equal(version[1], 6);
    free(version);
    assert_non_null(checkpoint_find(old, checkpoint_table(old, "city"), 7));     /* a reader keeps what it opened */
    checkpoint_close(old);
}

static void nothing_unfinished_stays_or_shows(void **state)
{
    char path[300];
    struct cs_error err = { 0 };
    uint64_t *version;
    size_t count;
    publish(*state, 5);
    struct checkpoint_writer *writer = checkpoint_begin(*state, &err), *other;
    put_row(writer, "item", 5);
    assert_false(checkpoint_row(writer, "item", 5, &(float){ 0 }, 1, &err));        /* must ascend */
    snprintf(path, sizeof path, "%s/.new-crashed", (char *)*state);
    assert_int_equal(mkdir(path, 0750), 0);
    other = checkpoint_begin(*state, &err);         /* clears what nobody holds, not what the other one writes */
    assert_int_not_equal(access(path, F_OK), 0);
    put_row(writer, "item", 6);
    checkpoint_abandon(other);
    assert_int_equal(checkpoint_current(*state), 1);
    checkpoint_abandon(writer);
    assert_true(checkpoint_list(*state, &version, &count, &err));
    assert_int_equal(count, 1);
    free(version);
    DIR *stream = opendir(*state);
    for (struct dirent *entry; (entry = readdir(stream));) assert_int_not_equal(strncmp(entry->d_name, ".new-", 5), 0);
    closedir(stream);
    writer = checkpoint_begin(*state, &err);
    assert_false(checkpoint_finish(writer, "[]", 5, &(uint64_t){ 0 }, &err));
    assert_int_equal(checkpoint_current(*state), 1);
}

static void damage_is_refused(void **state)
{
    char path[300], manifest[300];
    struct cs_error err = { 0 };
    struct stat status;
    publish(*state, 5);
    snprintf(path, sizeof path, "%s/%020d/data.mdb", (char *)*state, 1);
    snprintf(manifest, sizeof manifest, "%s/%020d/manifest.json", (char *)*state, 1);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0640);
    int fd = open(path, O_RDWR);
    unsigned char byte;
    off_t at = status.st_size - 700;
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    assert_int_equal(pwrite(fd, &(unsigned char){ byte ^ 1 }, 1, at), 1);
    assert_null(checkpoint_open(*state, true, &err));
    assert_int_equal(err.code, CS_REFUSED);
    assert_non_null(strstr(err.message, "SHA-256"));
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    struct checkpoint *checkpoint = checkpoint_open(*state, true, &err);
    assert_non_null(checkpoint);
    checkpoint_close(checkpoint);
    assert_int_equal(ftruncate(fd, status.st_size / 2), 0);
    close(fd);
    assert_null(checkpoint_open(*state, false, &err));
    assert_int_equal(err.code, CS_REFUSED);
    assert_int_equal(truncate(manifest, 20), 0);
    assert_null(checkpoint_open(*state, false, &err));
    assert_int_equal(err.code, CS_REFUSED);
    assert_null(checkpoint_open("/nowhere", false, &err));
}

static void a_link_that_leads_elsewhere_is_not_followed(void **state)
{
    char path[300];
    publish(*state, 5);
    snprintf(path, sizeof path, "%s/current", (char *)*state);
    unlink(path);
    assert_int_equal(symlink("../0/00000000000000000001", path), 0);
    assert_int_equal(checkpoint_current(*state), 0);
    assert_null(checkpoint_open(*state, false, NULL));
}

static bool count_row(void *self, uint64_t row_key, const float *row, size_t dimension, struct cs_error *err)
{
    (void)err;
    size_t *count = self;
    assert_int_equal(row_key, key[*count]);
    assert_int_equal(dimension, DIMENSION);
    assert_true(row[1] == value(row_key, 1));
    (*count)++;
    return true;
}

static bool list_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    (void)err;
    assert_int_equal((uintptr_t)tensor->data % 4, 0);
    sprintf((char *)self + strlen(self), "%s;", tensor->name);
    return true;
}

static bool list_table(void *self, const char *table, uint64_t rows, struct cs_error *err)
{
    (void)err;
    sprintf((char *)self + strlen(self), "%s:%" PRIu64 ";", table, rows);
    return true;
}

static void tools_see_everything_in_order(void **state)
{
    char text[300] = "";
    size_t count = 0;
    publish(*state, 5);
    struct checkpoint *checkpoint = checkpoint_open(*state, false, NULL);
    assert_true(checkpoint_each_row(checkpoint, "item", count_row, &count, NULL));
    assert_int_equal(count, ROWS);
    assert_false(checkpoint_each_row(checkpoint, "none", count_row, &count, NULL));
    assert_true(checkpoint_tensors(checkpoint, list_tensor, text, NULL));
    assert_true(checkpoint_tables(checkpoint, list_table, text, NULL));
    assert_string_equal(text, "ranking.output.bias;ranking.output.weight;city:1;item:5000;");
    checkpoint_close(checkpoint);
}

/* Keys that share their high bits all fall into one bucket of the index. */
static void crowded_keys_are_found(void **state)
{
    struct cs_error err = { 0 };
    uint64_t version;
    struct checkpoint_writer *writer = checkpoint_begin(*state, &err);
    for (uint64_t i = 0; i < 1000; i++) put_row(writer, "t", 3 * i);
    assert_true(checkpoint_finish(writer, "{}", 1, &version, &err));
    struct checkpoint *checkpoint = checkpoint_open(*state, true, &err);
    for (uint64_t i = 0; i < 3000; i++) {
        const float *row = checkpoint_find(checkpoint, 0, i);
        assert_int_equal(row != NULL, i % 3 == 0);
        if (row) assert_true(row[0] == value(i, 0));
    }
    checkpoint_close(checkpoint);
}

/* More than one transaction's worth: rows, and a tensor larger than the map's first room. */
static void large_checkpoints_fit(void **state)
{
    struct cs_error err = { 0 };
    uint64_t version;
    size_t elements = (size_t)20 << 20;
    float *data = calloc(elements, sizeof *data), *row = calloc(2048, sizeof *row);
    data[elements - 1] = 5;
    struct tensor tensor = { .name = "large", .rank = 1, .shape = { elements }, .data = data };
    struct checkpoint_writer *writer = checkpoint_begin(*state, &err);
    if (!checkpoint_tensor(writer, &tensor, &err)) fail_msg("%s", err.message);
    for (uint64_t i = 0; i < 12000; i++)
        if (!checkpoint_row(writer, "wide", i, row, 2048, &err)) fail_msg("%s", err.message);
    if (!checkpoint_finish(writer, "{}", 1, &version, &err)) fail_msg("%s", err.message);
    struct checkpoint *checkpoint = checkpoint_open(*state, false, &err);
    if (!checkpoint) fail_msg("%s", err.message);
    data[elements - 1] = 0;
    assert_true(checkpoint_read_tensor(checkpoint, &tensor, &err));
    assert_true(data[elements - 1] == 5);
    assert_non_null(checkpoint_find(checkpoint, checkpoint_table(checkpoint, "wide"), 11999));
    checkpoint_close(checkpoint);
    free(data);
    free(row);
}

/* Whole and readable for who judges it; for all others it is not there until it is accepted. */
static void a_sealed_version_is_seen_by_its_judge_alone(void **state)
{
    struct cs_error err = { 0 };
    uint64_t version, *all;
    size_t count;
    assert_int_equal(publish(*state, 5), 1);
    struct checkpoint_writer *writer = write_all(*state);
    assert_true(checkpoint_seal(writer, "{}", &err));
    struct checkpoint *candidate = checkpoint_open(checkpoint_candidate(writer), true, &err);
    if (!candidate) fail_msg("%s", err.message);
    assert_int_equal(checkpoint_version(candidate), 2);
    assert_non_null(checkpoint_find(candidate, checkpoint_table(candidate, "item"), key[0]));
    assert_int_equal(checkpoint_current(*state), 1);
    assert_true(checkpoint_list(*state, &all, &count, &err));
    assert_int_equal(count, 1);
    free(all);
    assert_true(checkpoint_accept(writer, 5, &version, &err));
    assert_non_null(checkpoint_find(candidate, checkpoint_table(candidate, "item"), key[0]));
    checkpoint_close(candidate);
    assert_int_equal(version, 2);
    assert_int_equal(checkpoint_current(*state), 2);
}

static void refused_versions_are_kept_aside_and_bounded(void **state)
{
    struct cs_error err = { 0 };
    uint64_t version, *all;
    size_t count;
    char path[300], text[64] = "";
    assert_int_equal(publish(*state, 5), 1);
    for (uint64_t i = 2; i <= 5; i++) {
        struct checkpoint_writer *writer = write_all(*state);
        assert_true(checkpoint_seal(writer, "{}", &err));
        assert_true(checkpoint_refuse(writer, "AUC fell", 2, &version, &err));
        assert_int_equal(version, i);
    }
    assert_int_equal(checkpoint_current(*state), 1);
    assert_true(checkpoint_list(*state, &all, &count, &err));
    assert_int_equal(count, 1);
    free(all);
    assert_false(checkpoint_repoint(*state, 5, &err));
    snprintf(path, sizeof path, "%s/refused", (char *)*state);
    assert_true(checkpoint_list(path, &all, &count, &err));
    assert_int_equal(count, 2);
    assert_int_equal(all[0], 4);
    free(all);
    snprintf(path, sizeof path, "%s/refused/%020d/reason.txt", (char *)*state, 5);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(text, sizeof text, file));
    fclose(file);
    assert_string_equal(text, "AUC fell\n");
    snprintf(path, sizeof path, "%s/refused/%020d", (char *)*state, 5);
    struct checkpoint *refused = checkpoint_open(path, true, &err);     /* to be looked into */
    if (!refused) fail_msg("%s", err.message);
    checkpoint_close(refused);
    assert_int_equal(publish(*state, 5), 6);        /* a number means one thing */
}

static void a_pinned_version_stays(void **state)
{
    struct cs_error err = { 0 };
    uint64_t *all;
    size_t count;
    assert_int_equal(publish(*state, 1), 1);
    assert_false(checkpoint_mark(*state, 2, CHECKPOINT_PINNED, "", &err));
    assert_true(checkpoint_mark(*state, 1, CHECKPOINT_PINNED, "for the audit\n", &err));
    for (uint64_t i = 2; i <= 4; i++) assert_int_equal(publish(*state, 1), i);
    assert_true(checkpoint_is_marked(*state, 1, CHECKPOINT_PINNED));
    assert_true(checkpoint_repoint(*state, 1, &err));
    struct checkpoint *pinned = checkpoint_open(*state, true, &err);        /* by `current`: the version's own mark */
    assert_true(checkpoint_has_mark(pinned, CHECKPOINT_PINNED));
    assert_false(checkpoint_has_mark(pinned, CHECKPOINT_FROZEN));
    checkpoint_close(pinned);
    assert_true(checkpoint_repoint(*state, 4, &err));
    assert_true(checkpoint_list(*state, &all, &count, &err));
    assert_int_equal(count, 3);         /* pinned, the predecessor, current */
    assert_int_equal(all[0], 1);
    free(all);
    assert_true(checkpoint_unmark(*state, 1, CHECKPOINT_PINNED, &err));
    assert_true(checkpoint_unmark(*state, 1, CHECKPOINT_PINNED, &err));
    assert_int_equal(publish(*state, 1), 5);
    assert_true(checkpoint_list(*state, &all, &count, &err));
    assert_int_equal(count, 2);
    assert_int_equal(all[0], 4);
    free(all);
}

static int ascending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

/* As tmpfiles.d makes the directory: its group reads, and what is made in it is the group's. */
static void a_version_belongs_to_its_directory_s_group(void **state)
{
    const char *directory = *state;
    const mode_t masks[] = { 0027, 0022, 0077 };
    char path[512];
    struct stat status;
    gid_t group = getgid() + (geteuid() == 0);      /* root may give away; others show it with their own group */
    assert_int_equal(mkdir(directory, 0750), 0);
    assert_int_equal(chown(directory, (uid_t)-1, group), 0);
    assert_int_equal(chmod(directory, 02750), 0);
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        mode_t before = umask(masks[i]);
        uint64_t version = publish(directory, 5);
        umask(before);
        snprintf(path, sizeof path, "%s/%020" PRIu64, directory, version);
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_gid, group);
        assert_int_equal(status.st_mode & 0777, 0750);
        for (int file = 0; file < 2; file++) {
            const char *name = file ? "data.mdb" : "manifest.json";
            snprintf(path, sizeof path, "%s/%020" PRIu64 "/%s", directory, version, name);
            assert_int_equal(stat(path, &status), 0);
            assert_int_equal(status.st_gid, group);
        }
    }
}

/* Who numbers other things, too, says from where on; numbers rise all the same. */
static void a_number_may_be_given_from_outside(void **state)
{
    static const struct { uint64_t from, number; bool refused; } given[] = {
        { 0, 1, false },    { 700, 700, false }, { 0, 701, false },   { 5, 702, true },   { 703, 703, false },
        { 702, 704, true }, { 704, 705, false }, { 900, 900, true }, { 0, 901, false },
    };
    struct cs_error err = { 0 };
    assert_int_equal(checkpoint_newest(*state), 0);
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        uint64_t version = 0;
        struct checkpoint_writer *writer = write_all(*state);
        checkpoint_number_from(writer, given[i].from);
        assert_true(checkpoint_seal(writer, "{}", &err));
        if (given[i].refused) assert_true(checkpoint_refuse(writer, "no", 9, &version, &err));
        else assert_true(checkpoint_accept(writer, 9, &version, &err));
        assert_int_equal(version, given[i].number);
        assert_int_equal(checkpoint_newest(*state), version);
        if (!given[i].refused) assert_int_equal(checkpoint_current(*state), version);
    }
    char path[300];
    snprintf(path, sizeof path, "%s/current", (char *)*state);
    unlink(path);
    assert_int_equal(symlink("00000000000000001200", path), 0);        /* what is named counts, though it is gone */
    assert_int_equal(checkpoint_newest(*state), 1200);
    assert_int_equal(publish(*state, 9), 1201);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fresh_directory, release)
    const struct CMUnitTest tests[] = {
        TEST(a_version_reads_as_it_was_written),
        TEST(who_waits_is_told_of_every_byte_hashed),
        TEST(the_manifest_says_what_is_there),
        TEST(versions_rise_and_old_ones_go),
        TEST(a_number_may_be_given_from_outside),
        TEST(nothing_unfinished_stays_or_shows),
        TEST(damage_is_refused),
        TEST(a_link_that_leads_elsewhere_is_not_followed),
        TEST(tools_see_everything_in_order),
        TEST(crowded_keys_are_found),
        TEST(large_checkpoints_fit),
        TEST(a_sealed_version_is_seen_by_its_judge_alone),
        TEST(refused_versions_are_kept_aside_and_bounded),
        TEST(a_pinned_version_stays),
        TEST(a_version_belongs_to_its_directory_s_group),
    };
    if (!mkdtemp(root)) return 1;
    for (size_t i = 0; i < ROWS; i++) key[i] = random_bits(1, i) & ~1ull;
    qsort(key, ROWS, sizeof *key, ascending);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command) || failed;
}
