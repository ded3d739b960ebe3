/* Copy on write by record: what is read is what was there at the cut, whatever its owner does meanwhile. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/freeze.h"

enum { SHIFT = 6, UNIT = 1 << SHIFT, UNITS = 40, SLOTS = UNITS * UNIT, LONGEST = 700 };

/* An owner of records of any length; a record's bytes all say its value. */
struct owner {
    struct unit { uint8_t *record[UNIT]; uint16_t size[UNIT]; uint64_t living[1]; } unit[UNITS];
    struct freeze *freeze;
    uint64_t random;
};

static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

static size_t owner_units(const void *self)
{
    (void)self;
    return UNITS;
}

static void owner_unit(const void *self, size_t number, const void **base, const uint64_t **living)
{
    const struct owner *owner = self;
    *base = &owner->unit[number];
    *living = owner->unit[number].living;
}

static size_t owner_size(const void *self, const void *base, uint32_t place)
{
    (void)self;
    return ((const struct unit *)base)->size[place];
}

static void owner_write(const void *self, const void *base, uint32_t place, void *into)
{
    (void)self;
    memcpy(into, ((const struct unit *)base)->record[place], ((const struct unit *)base)->size[place]);
}

static const struct freeze_ops ops = { owner_units, owner_unit, owner_size, owner_write };

/* Bytes of all slots, for comparison. */
struct image { uint8_t *record[SLOTS]; uint16_t size[SLOTS]; };

static void image_put(struct image *image, uint32_t slot, const void *bytes, size_t size)
{
    free(image->record[slot]);
    image->record[slot] = size ? memcpy(malloc(size), bytes, size) : NULL;
    image->size[slot] = (uint16_t)size;
}

static void image_release(struct image *image)
{
    for (size_t i = 0; i < SLOTS; i++) free(image->record[i]);
    free(image);
}

static void drop(struct owner *owner, uint32_t slot)
{
    struct unit *unit = &owner->unit[slot / UNIT];
    free(unit->record[slot % UNIT]);
    unit->record[slot % UNIT] = NULL;
    unit->size[slot % UNIT] = 0;
    unit->living[0] &= ~(UINT64_C(1) << slot % UNIT);
}

/* One change of one record: made, changed in place, made longer, or gone. */
static void change(struct owner *owner)
{
    uint32_t slot = next_random(&owner->random) % SLOTS, what = next_random(&owner->random) % 4;
    struct unit *unit = &owner->unit[slot / UNIT];
    freeze_touch(owner->freeze, slot);
    if (what == 0) {
        drop(owner, slot);
    } else if (what == 1 && unit->size[slot % UNIT]) {
        memset(unit->record[slot % UNIT], (int)next_random(&owner->random), unit->size[slot % UNIT]);
    } else {
        drop(owner, slot);
        uint16_t size = (uint16_t)(1 + next_random(&owner->random) % LONGEST);
        unit->record[slot % UNIT] = memset(malloc(size), (int)next_random(&owner->random), size);
        unit->size[slot % UNIT] = size;
        unit->living[0] |= UINT64_C(1) << slot % UNIT;
    }
}

static struct image *image_of(const struct owner *owner)
{
    struct image *image = calloc(1, sizeof *image);
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        image_put(image, slot, owner->unit[slot / UNIT].record[slot % UNIT],
                  owner->unit[slot / UNIT].size[slot % UNIT]);
    return image;
}

/* Reads a cut to its end, or at most `most` bytes of it, into the image. Returns records read. */
static size_t read_cut(const struct state_records *records, struct image *image, size_t room, size_t most)
{
    size_t count = 0, total = 0, size;
    uint8_t *seen = calloc(1, SLOTS), *buffer = malloc(room);
    for (enum state_read result = STATE_READ_MORE; result != STATE_READ_END && total < most;) {
        result = records->read(records->self, buffer, room, &size);
        if (result == STATE_READ_ROOM) {
            assert_true(size > room);
            free(buffer);
            buffer = malloc(room = size);
            continue;
        }
        for (size_t at = 0; at < size; count++) {
            struct state_record record;
            memcpy(&record, buffer + at, sizeof record);
            assert_true(record.slot < SLOTS);
            assert_false(seen[record.slot]++);      /* once a cut */
            image_put(image, record.slot, buffer + at + sizeof record, record.size);
            at += sizeof record + (record.size + 7) / 8 * 8;
            total += record.size + 1;
        }
    }
    free(seen);
    free(buffer);
    return count;
}

static void assert_same(const struct image *a, const struct image *b)
{
    for (size_t i = 0; i < SLOTS; i++) {
        assert_int_equal(a->size[i], b->size[i]);
        if (a->size[i]) assert_memory_equal(a->record[i], b->record[i], a->size[i]);
    }
}

static struct owner *owner_create(uint64_t seed)
{
    struct owner *owner = calloc(1, sizeof *owner);
    owner->random = seed;
    assert_non_null(owner->freeze = freeze_create(SHIFT, &ops, owner));
    return owner;
}

static void owner_destroy(struct owner *owner)
{
    freeze_destroy(owner->freeze);
    for (uint32_t slot = 0; slot < SLOTS; slot++) drop(owner, slot);
    free(owner);
}

static void test_changed_only(void **state)
{
    (void)state;
    struct owner *owner = owner_create(1);
    struct state_records records = freeze_records(owner->freeze);
    struct image *stored = calloc(1, sizeof *stored);
    for (int i = 0; i < 3000; i++) change(owner);
    records.begin(records.self, true, NULL, 0);
    read_cut(&records, stored, 4096, SIZE_MAX);
    records.end(records.self, true);
    struct image *now = image_of(owner);
    assert_same(stored, now);
    image_release(now);

    change(owner);
    change(owner);
    records.begin(records.self, false, NULL, 0);
    size_t count = read_cut(&records, stored, 4096, SIZE_MAX);
    assert_true(count == 2 || count == 1);      /* the same slot perhaps */
    records.end(records.self, true);
    records.begin(records.self, false, NULL, 0);
    assert_int_equal(read_cut(&records, stored, 4096, SIZE_MAX), 0);
    records.end(records.self, true);
    image_release(stored);
    owner_destroy(owner);
}

/* A full cut of what was loaded and never touched; and records asked for again, of which only the living are given. */
static void test_untouched_and_again(void **state)
{
    (void)state;
    struct owner *owner = owner_create(2);
    struct state_records records = freeze_records(owner->freeze);
    for (int i = 0; i < 2000; i++) change(owner);
    freeze_clear(owner->freeze);
    struct image *now = image_of(owner), *stored = calloc(1, sizeof *stored);
    records.begin(records.self, true, NULL, 0);
    read_cut(&records, stored, 1000, SIZE_MAX);
    records.end(records.self, true);
    assert_same(stored, now);

    uint64_t again[UNITS] = { [3] = UINT64_MAX, [UNITS - 1] = UINT64_C(5) };
    size_t living = (size_t)__builtin_popcountll(owner->unit[3].living[0]) +
                    (size_t)__builtin_popcountll(owner->unit[UNITS - 1].living[0] & 5);
    records.begin(records.self, false, again, UNITS);
    assert_int_equal(read_cut(&records, stored, 1000, SIZE_MAX), living);
    records.end(records.self, true);
    assert_same(stored, now);
    image_release(now);
    image_release(stored);
    owner_destroy(owner);
}

/* Whatever is changed after the cut, and however little has been read by then. */
static void test_changes_meanwhile(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 60; seed++) {
        struct owner *owner = owner_create(seed);
        struct state_records records = freeze_records(owner->freeze);
        struct image *stored = calloc(1, sizeof *stored);
        for (int cut = 0; cut < 8; cut++) {
            for (int i = 0; i < 500; i++) change(owner);
            records.begin(records.self, false, NULL, 0);
            struct image *then = image_of(owner);
            bool fails = next_random(&owner->random) % 3 == 0;
            struct image *into = fails ? calloc(1, sizeof *into) : stored;
            /* In turns: some changes, a little reading. A failing one stops anywhere. */
            size_t turns = fails ? next_random(&owner->random) % 20 : 20;
            for (size_t i = 0; i < turns; i++) {
                for (int j = 0; j < 40; j++) change(owner);
                uint8_t buffer[3000];
                size_t size;
                if (records.read(records.self, buffer, sizeof buffer, &size) == STATE_READ_ROOM) fail();
                for (size_t at = 0; at < size;) {
                    struct state_record *record = (struct state_record *)(buffer + at);
                    image_put(into, record->slot, record + 1, record->size);
                    at += sizeof *record + (record->size + 7) / 8 * 8;
                }
            }
            if (!fails) read_cut(&records, into, 3000, SIZE_MAX);
            records.end(records.self, !fails);
            if (!fails) assert_same(stored, then);
            image_release(then);
            if (fails) image_release(into);
        }
        assert_true(freeze_set_aside(owner->freeze) > 0);
        image_release(stored);
        owner_destroy(owner);
    }
}

static void test_no_room(void **state)
{
    (void)state;
    struct owner *owner = owner_create(3);
    struct state_records records = freeze_records(owner->freeze);
    for (int i = 0; i < 1000; i++) change(owner);
    records.begin(records.self, false, NULL, 0);
    struct image *then = image_of(owner), *stored = calloc(1, sizeof *stored);
    for (int i = 0; i < 500; i++) change(owner);
    read_cut(&records, stored, 16, SIZE_MAX);       /* asks for more room again and again */
    records.end(records.self, true);
    assert_same(stored, then);
    image_release(then);
    image_release(stored);
    owner_destroy(owner);
}

/* Two threads at once: the owner begins cuts and goes on changing; the reader reads them, and some fail. */
struct shared {
    struct owner *owner;
    struct state_records records;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    struct image *then;     /* of the cut to be read; NULL: none */
    bool over;
    size_t failed;
};

static void *reader(void *argument)
{
    struct shared *shared = argument;
    struct image *stored = calloc(1, sizeof *stored);
    uint64_t random = 99;
    for (;;) {
        pthread_mutex_lock(&shared->lock);
        while (!shared->then && !shared->over) pthread_cond_wait(&shared->moved, &shared->lock);
        struct image *then = shared->then;
        pthread_mutex_unlock(&shared->lock);
        if (!then) break;
        bool fails = next_random(&random) % 4 == 0;
        struct image *into = fails ? calloc(1, sizeof *into) : stored;
        read_cut(&shared->records, into, 5000, fails ? next_random(&random) % 100000 : SIZE_MAX);
        shared->records.end(shared->records.self, !fails);
        if (fails) {
            image_release(into);
            shared->failed++;
        } else {
            assert_same(stored, then);
        }
        pthread_mutex_lock(&shared->lock);
        shared->then = NULL;
        pthread_cond_signal(&shared->moved);
        pthread_mutex_unlock(&shared->lock);
        image_release(then);
    }
    image_release(stored);
    return NULL;
}

static void test_two_threads(void **state)
{
    (void)state;
    struct shared shared = { .owner = owner_create(4), .lock = PTHREAD_MUTEX_INITIALIZER,
                             .moved = PTHREAD_COND_INITIALIZER };
    shared.records = freeze_records(shared.owner->freeze);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, reader, &shared), 0);
    for (int cut = 0; cut < 200; cut++) {
        for (int i = 0; i < 300; i++) change(shared.owner);
        shared.records.begin(shared.records.self, false, NULL, 0);
        struct image *then = image_of(shared.owner);
        pthread_mutex_lock(&shared.lock);
        shared.then = then;
        pthread_cond_signal(&shared.moved);
        pthread_mutex_unlock(&shared.lock);
        for (bool done = false; !done;) {       /* changes for as long as it is read */
            for (int i = 0; i < 50; i++) change(shared.owner);
            pthread_mutex_lock(&shared.lock);
            done = !shared.then;
            pthread_mutex_unlock(&shared.lock);
        }
    }
    pthread_mutex_lock(&shared.lock);
    shared.over = true;
    pthread_cond_signal(&shared.moved);
    pthread_mutex_unlock(&shared.lock);
    pthread_join(thread, NULL);
    assert_true(shared.failed > 10);
    assert_true(freeze_set_aside(shared.owner->freeze) > 0);
    owner_destroy(shared.owner);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changed_only),       cmocka_unit_test(test_untouched_and_again),
        cmocka_unit_test(test_changes_meanwhile),  cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_two_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
