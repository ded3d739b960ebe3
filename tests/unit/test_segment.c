/* Segments: what is written is read back, block by block and from the footer alone; a file passes under its own number,
 * in its own directory and whole, or not at all. */
#include "tests/unit/snapshot_fixture.h"

#include "storage/segment.h"

enum { STORE = 77 };

static struct segment_writer *begin(const char *directory, uint64_t part_bytes)
{
    mkdir(directory, 0750);
    return segment_writer_create(&(struct segment_writer_options){
        .directory = directory, .store = STORE, .number = 5, .part_bytes = part_bytes });
}

static void add(struct segment_writer *writer, uint32_t slot, const void *bytes, size_t size)
{
    struct cs_error err = { 0 };
    if (!segment_writer_record(writer, slot, bytes, size, &err)) fail_msg("%s", err.message);
}

static void section(struct segment_writer *writer, const char *name)
{
    struct segment_section about = { 0 };
    snprintf(about.name, sizeof about.name, "%s", name);
    segment_writer_section(writer, &about);
}

static bool open_part(struct segment *segment, const char *directory, const struct segment_part *part,
                      struct cs_error *err)
{
    bool missing;
    return segment_open(segment, directory, STORE, part->number, part->size, part->segment.digest, &missing, err);
}

/* Slots up, down and far apart, sizes from 0 to larger than the buffer, sections in turns. */
static void records_come_back_as_they_were(void **state)
{
    static const uint32_t slot[] = { 7, 3, 1000000, STATE_SLOTS_MAX - 1, 0, 8, 9, 10 };
    static const size_t size[] = { 5, 0, 8, 300000, 3 << 20, 1, 1, 17 };
    struct segment_writer *writer = begin(*state, 0);
    struct cs_error err = { 0 };
    unsigned char *bytes = malloc(3 << 20);
    for (size_t i = 0; i < 3 << 20; i++) bytes[i] = (unsigned char)(i * 31);
    for (int turn = 0; turn < 2; turn++) {
        section(writer, turn ? "b" : "a");
        for (size_t i = 0; i < 8; i++) add(writer, slot[i], bytes + turn, size[i] - (size[i] > 0 && turn));
    }
    if (!segment_writer_finish(writer, &err)) fail_msg("%s", err.message);
    size_t found = 0;
    for (size_t p = 0; p < segment_writer_parts(writer); p++) {
        struct segment segment;
        struct bytes payload = { 0 };
        if (!open_part(&segment, *state, segment_writer_part(writer, p), &err)) fail_msg("%s", err.message);
        for (size_t b = 0; b < segment.blocks; b++) {
            struct segment_cursor cursor = segment_cursor(&segment.block[b]);
            const struct state_record *record;
            if (!segment_read(&segment, b, &payload, &err)) fail_msg("%s", err.message);
            for (size_t at = 0; (record = segment_record(&payload, payload.size, &at)); found++) {
                size_t turn = found / 8, i = found % 8, wanted = size[i] - (size[i] > 0 && turn);
                assert_true(segment_next(&cursor));
                assert_int_equal(cursor.slot, slot[i]);
                assert_int_equal(cursor.size, wanted);
                assert_int_equal(record->slot, slot[i]);
                assert_int_equal(record->size, wanted);
                assert_memory_equal(record + 1, bytes + turn, wanted);
                assert_string_equal(segment.section[segment.block[b].section].name, turn ? "b" : "a");
            }
            assert_false(segment_next(&cursor));
        }
        bytes_free(&payload);
        segment_close(&segment);
    }
    assert_int_equal(found, 16);
    segment_writer_destroy(writer);
    free(bytes);
}

static void a_large_cut_is_several_files_and_undo_leaves_none(void **state)
{
    struct segment_writer *writer = begin(*state, 0);
    struct cs_error err = { 0 };
    char *bytes = calloc(1, 100000), path[400];
    struct stat status;
    section(writer, "rows.item");
    for (uint32_t slot = 0; slot < 200; slot++) add(writer, slot, bytes, 100000);
    if (!segment_writer_finish(writer, &err)) fail_msg("%s", err.message);
    size_t parts = segment_writer_parts(writer);
    uint64_t sum = 0;
    assert_true(parts > 4 && parts < 12);
    for (size_t p = 0; p < parts; p++) {
        const struct segment_part *part = segment_writer_part(writer, p);
        assert_int_equal(part->number, 5 + p);
        segment_path(path, sizeof path, *state, part->number);
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_size, part->size);
        sum += part->size;
    }
    assert_int_equal(segment_writer_bytes(writer), sum);
    segment_writer_undo(writer);
    for (size_t p = 0; p < parts; p++) {
        segment_path(path, sizeof path, *state, 5 + (uint32_t)p);
        assert_int_equal(stat(path, &status), -1);
    }
    segment_writer_destroy(writer);
    free(bytes);
}

static void a_file_passes_in_its_own_place_alone(void **state)
{
    struct segment_writer *writer = begin(*state, 0);
    struct cs_error err = { 0 };
    struct segment segment;
    bool missing;
    char path[400], other[400];
    section(writer, "s");
    add(writer, 1, "one", 3);
    assert_true(segment_writer_finish(writer, &err));
    struct segment_part *part = segment_writer_part(writer, 0);
    uint64_t digest = part->segment.digest;
    assert_true(open_part(&segment, *state, part, &err));
    segment_close(&segment);
    assert_false(segment_open(&segment, *state, STORE + 1, 5, part->size, digest, &missing, &err));
    assert_non_null(strstr(err.message, "another snapshot"));
    assert_false(segment_open(&segment, *state, STORE, 5, part->size + 1, digest, &missing, &err));
    assert_non_null(strstr(err.message, "bytes, the snapshot names"));
    assert_false(segment_open(&segment, *state, STORE, 5, part->size, digest + 1, &missing, &err));
    assert_non_null(strstr(err.message, "not what the snapshot names"));
    assert_false(missing);
    assert_false(segment_open(&segment, *state, STORE, 6, part->size, digest, &missing, &err));
    assert_true(missing);
    assert_int_equal(err.code, CS_REFUSED);
    segment_path(path, sizeof path, *state, 5);
    segment_path(other, sizeof other, *state, 6);
    assert_int_equal(rename(path, other), 0);
    assert_false(segment_open(&segment, *state, STORE, 6, part->size, digest, &missing, &err));
    assert_non_null(strstr(err.message, "another name"));
    segment_writer_destroy(writer);
}

static void what_an_owner_gives_is_looked_at(void **state)
{
    struct segment_writer *writer = begin(*state, 0);
    struct cs_error err = { 0 };
    size_t room;
    section(writer, "s");
    struct state_record *record = segment_writer_room(writer, 64, &room, &err);
    *record = (struct state_record){ STATE_SLOTS_MAX, 8 };
    assert_false(segment_writer_added(writer, 16, NULL, NULL, &err));
    *record = (struct state_record){ 1, 9 };
    assert_false(segment_writer_added(writer, 16, NULL, NULL, &err));       /* it takes 24 */
    assert_non_null(strstr(err.message, "section 's' gave a record that is none"));
    assert_false(segment_writer_added(writer, room + 8, NULL, NULL, &err));
    segment_writer_undo(writer);
    segment_writer_destroy(writer);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fresh_directory, release)
    const struct CMUnitTest tests[] = {
        TEST(records_come_back_as_they_were),
        TEST(a_large_cut_is_several_files_and_undo_leaves_none),
        TEST(a_file_passes_in_its_own_place_alone),
        TEST(what_an_owner_gives_is_looked_at),
    };
    if (!make_root(true)) return 1;
    return run_and_clean(cmocka_run_group_tests(tests, NULL, NULL));
}
