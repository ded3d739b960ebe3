/* For the tests of snapshots: directories, puts, and an owner of records whose bytes follow from slot and version. */
#ifndef TESTS_UNIT_SNAPSHOT_FIXTURE_H
#define TESTS_UNIT_SNAPSHOT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/snapshot.h"

static char root[64];
static int serial;

static inline int fresh_directory(void **state)
{
    char *directory = malloc(256);
    snprintf(directory, 256, "%s/%d", root, serial++);
    *state = directory;
    return 0;
}

static inline int release(void **state)
{
    free(*state);
    return 0;
}

static inline struct snapshot_store *open_store(const char *directory)
{
    struct cs_error err = { 0 };
    struct snapshot_store *store = snapshot_open(directory, NULL, NULL, &err);
    if (!store) fail_msg("%s", err.message);
    return store;
}

static inline struct snapshot_view *open_view(struct snapshot_store *store)
{
    struct cs_error err = { 0 };
    struct snapshot_view *view = snapshot_view_open(store, &err);
    if (!view) fail_msg("%s", err.message);
    return view;
}

static inline void put(struct snapshot_cut *cut, const char *section, uint64_t slot, const char *text)
{
    struct state_writer *writer = snapshot_writer(cut);
    assert_true(writer->put(writer, section, slot, text, strlen(text), NULL));
}

static inline void take_out(struct snapshot_cut *cut, const char *section, uint64_t slot)
{
    struct state_writer *writer = snapshot_writer(cut);
    assert_true(writer->remove(writer, section, slot, NULL));
}

static inline void commit(struct snapshot_cut *cut)
{
    struct cs_error err = { 0 };
    if (!snapshot_commit(cut, &err)) fail_msg("%s", err.message);
}

static inline void assert_record(struct snapshot_view *view, const char *section, uint64_t slot, const char *text)
{
    const void *bytes;
    size_t size;
    struct state_reader *reader = snapshot_reader(view);
    struct cs_error err = { 0 };
    if (!reader->get(reader, section, slot, &bytes, &size, &err)) fail_msg("%s", err.message);
    if (!text) {
        assert_null(bytes);
        return;
    }
    assert_non_null(bytes);
    assert_int_equal((uintptr_t)bytes % 8, 0);
    assert_int_equal(size, strlen(text));
    assert_memory_equal(bytes, text, size);
}

static inline struct tensor weight(float *data)
{
    return (struct tensor){
        .name = "ranking.output.weight", .role = TENSOR_OPTIMIZER, .rank = 2, .shape = { 2, 2 }, .data = data
    };
}

/* -- an owner: version 0 is no record -- */

struct toy {
    uint32_t slots, *version, *todo, *todo_version;
    size_t todos, at, min_size, spread;
    unsigned char *changed;
    unsigned written, failed;
};

static inline struct toy *toy_create(uint32_t slots, size_t min_size, size_t spread)
{
    struct toy *toy = calloc(1, sizeof *toy);
    *toy = (struct toy){ .slots = slots, .min_size = min_size, .spread = spread };
    toy->version = calloc(slots, 4);
    toy->todo = calloc(slots, 4);
    toy->todo_version = calloc(slots, 4);
    toy->changed = calloc(slots, 1);
    return toy;
}

static inline void toy_destroy(struct toy *toy)
{
    free(toy->version);
    free(toy->todo);
    free(toy->todo_version);
    free(toy->changed);
    free(toy);
}

static inline void toy_set(struct toy *toy, uint32_t slot, uint32_t version)
{
    toy->version[slot] = version;
    toy->changed[slot] = 1;
}

static inline uint32_t toy_mix(uint32_t slot, uint32_t version)
{
    uint64_t x = ((uint64_t)slot << 32 | version) * 0x9E3779B97F4A7C15ull;
    return (uint32_t)(x >> 32) ^ (uint32_t)x;
}

static inline size_t toy_size(const struct toy *toy, uint32_t slot, uint32_t version)
{
    return toy->min_size + (toy->spread ? toy_mix(slot, version) % toy->spread : 0);
}

static inline void toy_fill(const struct toy *toy, uint32_t slot, uint32_t version, unsigned char *into)
{
    uint32_t x = toy_mix(slot, version) | 1;
    for (size_t i = 0, size = toy_size(toy, slot, version); i < size; i++, x = x * 1664525 + 1013904223)
        into[i] = (unsigned char)(x >> 24);
}

static inline void toy_begin(void *self, bool full, const uint64_t *again, size_t words)
{
    struct toy *toy = self;
    toy->todos = toy->at = 0;
    for (uint32_t slot = 0; slot < toy->slots; slot++) {
        bool asked = slot / 64 < words && again[slot / 64] >> slot % 64 & 1;
        if (!(full || asked ? toy->version[slot] > 0 || toy->changed[slot] : toy->changed[slot])) continue;
        toy->todo[toy->todos] = slot;
        toy->todo_version[toy->todos++] = toy->version[slot];
        toy->changed[slot] = 0;
    }
}

static inline enum state_read toy_read(void *self, void *into, size_t room, size_t *size)
{
    struct toy *toy = self;
    *size = 0;
    for (; toy->at < toy->todos; toy->at++) {
        uint32_t slot = toy->todo[toy->at], version = toy->todo_version[toy->at];
        size_t bytes = version ? toy_size(toy, slot, version) : 0, whole = 8 + (bytes + 7) / 8 * 8;
        if (whole > room - *size) {
            if (*size) return STATE_READ_MORE;
            *size = whole;
            return STATE_READ_ROOM;
        }
        struct state_record record = { slot, (uint32_t)bytes };
        memset((char *)into + *size, 0, whole);
        memcpy((char *)into + *size, &record, sizeof record);
        if (bytes) toy_fill(toy, slot, version, (unsigned char *)into + *size + sizeof record);
        *size += whole;
    }
    return STATE_READ_END;
}

static inline void toy_end(void *self, bool written)
{
    struct toy *toy = self;
    if (written) toy->written++;
    else toy->failed++;
    for (size_t i = 0; !written && i < toy->todos; i++) toy->changed[toy->todo[i]] = 1;
}

static inline void toy_give(struct toy *toy, struct snapshot_cut *cut, const char *section)
{
    struct state_records records = { toy, toy_begin, toy_read, toy_end };
    struct state_writer *writer = snapshot_writer(cut);
    assert_true(writer->records(writer, section, &records, NULL));
}

/* What a view has is what the toy has, every byte. */
struct toy_check { const struct toy *toy; unsigned char *seen; bool wrong; };

static inline bool toy_check_record(void *self, uint64_t slot, const void *bytes, size_t size, struct cs_error *err)
{
    struct toy_check *check = self;
    const struct toy *toy = check->toy;
    unsigned char *wanted = malloc(size + 1);
    (void)err;
    bool right = slot < toy->slots && toy->version[slot] && !check->seen[slot] &&
                 size == toy_size(toy, (uint32_t)slot, toy->version[slot]);
    if (right) {
        toy_fill(toy, (uint32_t)slot, toy->version[slot], wanted);
        right = !memcmp(wanted, bytes, size);
        check->seen[slot] = 1;
    }
    free(wanted);
    check->wrong = check->wrong || !right;
    return right;
}

/* False where the view holds something else; refused: err says so and nothing else was given. */
static inline bool toy_equals(const struct toy *toy, struct snapshot_view *view, const char *section, bool *refused,
                              struct cs_error *err)
{
    struct toy_check check = { toy, calloc(toy->slots, 1), false };
    struct state_reader *reader = snapshot_reader(view);
    bool equal = true, read = reader->each(reader, section, toy_check_record, &check, err);
    *refused = !read && !check.wrong;
    for (uint32_t slot = 0; read && slot < toy->slots; slot++)
        if ((toy->version[slot] > 0) != check.seen[slot]) equal = false;
    equal = equal && !check.wrong;
    free(check.seen);
    return read && equal;
}

static inline void assert_toy(const struct toy *toy, struct snapshot_store *store, const char *section)
{
    struct snapshot_view *view = open_view(store);
    struct cs_error err = { 0 };
    bool refused;
    if (!toy_equals(toy, view, section, &refused, &err)) fail_msg("section %s differs: %s", section, err.message);
    if (!snapshot_view_verify(view, NULL, NULL, &err)) fail_msg("%s", err.message);
    snapshot_view_close(view);
}

/* in_memory: for thousands of trials, where no disk is to be waited for. */
static inline bool make_root(bool in_memory)
{
    bool memory = in_memory && !access("/dev/shm", W_OK);
    snprintf(root, sizeof root, "%s/test_snapshot.XXXXXX", memory ? "/dev/shm" : "/tmp");
    return mkdtemp(root) != NULL;
}

static inline int run_and_clean(int failed)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command) || failed;
}

#endif
