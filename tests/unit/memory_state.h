/* A state writer and reader over memory, for tests of X_save and X_load: keeps records and tensors as a snapshot would,
 * from save to save. Two ways to use it:
 *
 *   at once    (as initialised) what `records` offers is read before the call returns, each save is one cut
 *   later      state.later = true: a save is only begun; memory_state_read (any one thread, perhaps while the owner
 *              goes on) reads it, memory_state_end tells the owners and, where written, makes it the state
 *
 * Puts and removes count at once either way. A tensor's bytes must not change before its hold is settled: the settling
 * compares. `each` gives the records in an order of its own. */
#ifndef TESTS_MEMORY_STATE_H
#define TESTS_MEMORY_STATE_H

#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"
#include "core/state.h"

enum { MEMORY_BUCKETS = 1 << 14 };

struct memory_block {
    char section[STATE_SECTION_MAX];
    uint64_t id;
    void *bytes;
    size_t size;
    uint32_t next;      /* in its bucket, place + 1 */
};

struct memory_source {          /* what one call of `records` gave */
    char section[STATE_SECTION_MAX];
    struct state_records records;
    uint8_t *bytes;             /* struct state_record and bytes, as read */
    size_t size, capacity;
};

struct memory_hold {
    struct state_hold hold;     /* first */
    pthread_mutex_t mutex;
    struct { struct tensor tensor; void *copy; } *entry;
    size_t count;
    bool settled, ended;        /* both: it goes */
};

struct memory_state {
    struct state_writer writer; /* first: the callbacks' self */
    struct state_reader reader;
    struct memory_block *block;
    size_t count, puts, given;  /* puts, given records: since the caller last set them to 0 */
    const uint64_t *again;      /* as state_records.begin takes it */
    size_t again_words;
    bool later;
    struct memory_source *source;
    size_t sources;
    struct memory_hold *pending;
    uint32_t *bucket;
};

static uint32_t *memory_bucket(struct memory_state *state, const char *section, uint64_t id)
{
    uint64_t hash = id * UINT64_C(0x9e3779b97f4a7c15);
    for (const char *at = section; *at; at++) hash = (hash ^ (uint8_t)*at) * UINT64_C(0x100000001b3);
    return &state->bucket[(hash ^ hash >> 32) % MEMORY_BUCKETS];
}

static struct memory_block *memory_find(struct memory_state *state, const char *section, uint64_t id)
{
    for (uint32_t at = *memory_bucket(state, section, id); at; at = state->block[at - 1].next) {
        struct memory_block *block = &state->block[at - 1];
        if (block->id == id && strcmp(block->section, section) == 0) return block;
    }
    return NULL;
}

static void memory_store(struct memory_state *state, const char *section, uint64_t id, const void *bytes, size_t size)
{
    struct memory_block *block = memory_find(state, section, id);
    if (!block) {
        if (!(state->count & (state->count - 1)))
            state->block = need(realloc(state->block, (2 * state->count + 1) * sizeof *state->block));
        uint32_t *bucket = memory_bucket(state, section, id);
        block = &state->block[state->count++];
        *block = (struct memory_block){ .id = id, .next = *bucket };
        *bucket = (uint32_t)state->count;
        snprintf(block->section, sizeof block->section, "%s", section);
    }
    free(block->bytes);
    block->bytes = need(malloc(size + 1));
    if (size) memcpy(block->bytes, bytes, size);
    block->size = size;
}

static void memory_unlink(struct memory_state *state, const struct memory_block *block, uint32_t replacement)
{
    uint32_t *link = memory_bucket(state, block->section, block->id);
    while (&state->block[*link - 1] != block) link = &state->block[*link - 1].next;
    *link = replacement;
}

static void memory_forget(struct memory_state *state, const char *section, uint64_t id)
{
    struct memory_block *block = memory_find(state, section, id), *last = &state->block[state->count - 1];
    if (!block) return;
    free(block->bytes);
    memory_unlink(state, block, block->next);
    if (block != last) {        /* the last one moves into the gap */
        memory_unlink(state, last, (uint32_t)(block - state->block) + 1);
        *block = *last;
    }
    state->count--;
}

static bool memory_put(struct state_writer *self, const char *section, uint64_t id, const void *bytes, size_t size,
                       struct cs_error *err)
{
    (void)err;
    struct memory_state *state = (struct memory_state *)self;
    memory_store(state, section, id, bytes, size);
    state->puts++;
    return true;
}

static bool memory_remove(struct state_writer *self, const char *section, uint64_t id, struct cs_error *err)
{
    (void)err;
    memory_forget((struct memory_state *)self, section, id);
    return true;
}

/* ---- Records ---- */

static void memory_read_source(struct memory_source *source)
{
    for (size_t room = 256;;) {
        if (source->capacity - source->size < room) {
            source->capacity = 2 * source->capacity + room;
            source->bytes = need(realloc(source->bytes, source->capacity));
        }
        size_t size = 0;
        enum state_read read = source->records.read(source->records.self, source->bytes + source->size,
                                                    source->capacity - source->size, &size);
        if (read == STATE_READ_ROOM) room = size;
        else source->size += size;
        if (read == STATE_READ_END) return;
    }
}

/* Reads all that a later cut was given; state: a struct memory_state. May be a thread's function: returns NULL. */
static inline void *memory_state_read(void *later)
{
    struct memory_state *state = later;
    struct memory_hold *hold = state->pending;
    if (hold) pthread_mutex_lock(&hold->mutex);
    for (size_t i = 0; hold && i < hold->count; i++) {
        if (hold->entry[i].copy) continue;
        size_t size = tensor_bytes(&hold->entry[i].tensor);
        hold->entry[i].copy = memcpy(need(malloc(size + 1)), hold->entry[i].tensor.data, size);
    }
    if (hold) pthread_mutex_unlock(&hold->mutex);
    for (size_t i = 0; i < state->sources; i++) memory_read_source(&state->source[i]);
    return NULL;
}

static void memory_hold_leave(struct memory_hold *hold, bool settled)
{
    if (settled) hold->settled = true;
    else hold->ended = true;
    bool last = hold->settled && hold->ended;
    pthread_mutex_unlock(&hold->mutex);
    if (!last) return;
    for (size_t i = 0; i < hold->count; i++) free(hold->entry[i].copy);
    free(hold->entry);
    pthread_mutex_destroy(&hold->mutex);
    free(hold);
}

struct memory_tensor { uint64_t type, rank, shape[TENSOR_RANK_MAX]; };      /* before a stored tensor's bytes */

static void memory_tensor_section(char section[STATE_SECTION_MAX], const struct tensor *tensor)
{
    snprintf(section, STATE_SECTION_MAX, "tensor %s", tensor->name);
}

static struct memory_tensor memory_tensor_shape(const struct tensor *tensor)
{
    struct memory_tensor shape = { .type = tensor->type, .rank = tensor->rank };
    for (size_t i = 0; i < tensor->rank; i++) shape.shape[i] = tensor->shape[i];
    return shape;
}

static void memory_apply_tensor(struct memory_state *state, const struct tensor *tensor, const void *bytes)
{
    char section[STATE_SECTION_MAX];
    memory_tensor_section(section, tensor);
    struct memory_tensor shape = memory_tensor_shape(tensor);
    size_t size = tensor_bytes(tensor);
    uint8_t *whole = need(malloc(sizeof shape + size));
    memcpy(whole, &shape, sizeof shape);
    memcpy(whole + sizeof shape, bytes, size);
    memory_store(state, section, 0, whole, sizeof shape + size);
    free(whole);
}

static void memory_apply_source(struct memory_state *state, const struct memory_source *source)
{
    for (size_t at = 0; at < source->size;) {
        struct state_record head;
        memcpy(&head, source->bytes + at, sizeof head);
        at += sizeof head;
        if (head.size) memory_store(state, source->section, head.slot, source->bytes + at, head.size);
        else memory_forget(state, source->section, head.slot);
        at += ((size_t)head.size + 7) / 8 * 8;
        state->given++;
    }
}

/* Ends a cut that was begun later and read; the owners may be destroyed from here on. */
static inline void memory_state_end(struct memory_state *state, bool written)
{
    struct memory_hold *hold = state->pending;
    state->pending = NULL;
    if (hold) {
        pthread_mutex_lock(&hold->mutex);
        for (size_t i = 0; written && i < hold->count; i++)
            memory_apply_tensor(state, &hold->entry[i].tensor, hold->entry[i].copy);
        memory_hold_leave(hold, false);
    }
    for (size_t i = 0; i < state->sources; i++) {
        struct memory_source *source = &state->source[i];
        if (written) memory_apply_source(state, source);
        source->records.end(source->records.self, written);
        free(source->bytes);
    }
    state->sources = 0;
}

static bool memory_records(struct state_writer *self, const char *section, const struct state_records *records,
                           struct cs_error *err)
{
    (void)err;
    struct memory_state *state = (struct memory_state *)self;
    struct memory_source source = { .records = *records };
    snprintf(source.section, sizeof source.section, "%s", section);
    records->begin(records->self, self->full, state->again, state->again_words);
    if (state->later) {
        state->source = need(realloc(state->source, (state->sources + 1) * sizeof *state->source));
        state->source[state->sources++] = source;
        return true;
    }
    memory_read_source(&source);
    memory_apply_source(state, &source);
    records->end(records->self, true);
    free(source.bytes);
    return true;
}

/* ---- Tensors ---- */

static void memory_settle(struct state_hold *self)
{
    struct memory_hold *hold = (struct memory_hold *)self;
    pthread_mutex_lock(&hold->mutex);
    for (size_t i = 0; i < hold->count; i++) {
        const struct tensor *tensor = &hold->entry[i].tensor;
        size_t size = tensor_bytes(tensor);
        if (!hold->entry[i].copy)
            hold->entry[i].copy = memcpy(need(malloc(size + 1)), tensor->data, size);
        if (memcmp(hold->entry[i].copy, tensor->data, size) == 0) continue;
        fprintf(stderr, "tensor %s changed before its hold was settled\n", tensor->name);
        abort();
    }
    memory_hold_leave(hold, true);
}

static bool memory_write_tensor(struct state_writer *self, const struct tensor *tensor, struct cs_error *err)
{
    (void)err;
    struct memory_state *state = (struct memory_state *)self;
    struct memory_hold *hold = state->pending;
    if (!hold) {
        hold = state->pending = need(calloc(1, sizeof *hold));
        hold->hold.settle = memory_settle;
        pthread_mutex_init(&hold->mutex, NULL);
    }
    hold->entry = need(realloc(hold->entry, (hold->count + 1) * sizeof *hold->entry));
    hold->entry[hold->count].tensor = *tensor;
    hold->entry[hold->count].copy = NULL;
    if (!state->later) {
        size_t size = tensor_bytes(tensor);
        hold->entry[hold->count].copy = memcpy(need(malloc(size + 1)), tensor->data, size);
        memory_apply_tensor(state, tensor, tensor->data);
    }
    hold->count++;
    return true;
}

static struct state_hold *memory_get_hold(struct state_writer *self)
{
    struct memory_state *state = (struct memory_state *)self;
    struct memory_hold *hold = state->pending;
    if (!hold) abort();         /* nothing to hold */
    if (!state->later) {
        state->pending = NULL;
        pthread_mutex_lock(&hold->mutex);
        memory_hold_leave(hold, false);
    }
    return &hold->hold;
}

/* ---- Reading ---- */

static bool memory_get(struct state_reader *self, const char *section, uint64_t id, const void **bytes, size_t *size,
                       struct cs_error *err)
{
    (void)err;
    struct memory_state *state = (struct memory_state *)((char *)self - offsetof(struct memory_state, reader));
    const struct memory_block *block = memory_find(state, section, id);
    *bytes = block ? block->bytes : NULL;
    *size = block ? block->size : 0;
    return true;
}

static bool memory_each(struct state_reader *self, const char *section, state_block *visit, void *argument,
                        struct cs_error *err)
{
    struct memory_state *state = (struct memory_state *)((char *)self - offsetof(struct memory_state, reader));
    for (size_t bucket = 0; bucket < MEMORY_BUCKETS; bucket++)
        for (uint32_t at = state->bucket[bucket]; at; at = state->block[at - 1].next) {
            const struct memory_block *block = &state->block[at - 1];
            if (strcmp(block->section, section)) continue;
            if (!visit(argument, block->id, block->bytes, block->size, err)) return false;
        }
    return true;
}

static bool memory_read_tensor(struct state_reader *self, const struct tensor *tensor, struct cs_error *err)
{
    struct memory_state *state = (struct memory_state *)((char *)self - offsetof(struct memory_state, reader));
    char section[STATE_SECTION_MAX];
    memory_tensor_section(section, tensor);
    const struct memory_block *block = memory_find(state, section, 0);
    struct memory_tensor shape = memory_tensor_shape(tensor);
    size_t size = tensor_bytes(tensor);
    if (!block || block->size != sizeof shape + size || memcmp(block->bytes, &shape, sizeof shape))
        return cs_fail(err, CS_REFUSED, "tensor %s: missing or of another shape", tensor->name);
    memcpy(tensor->data, (const uint8_t *)block->bytes + sizeof shape, size);
    return true;
}

static inline void memory_state_init(struct memory_state *state)
{
    *state = (struct memory_state){
        .writer = { .full = true, .put = memory_put, .remove = memory_remove, .records = memory_records,
                    .tensor = memory_write_tensor, .hold = memory_get_hold },
        .reader = { .get = memory_get, .each = memory_each, .tensor = memory_read_tensor },
        .bucket = need(calloc(MEMORY_BUCKETS, sizeof *state->bucket)),
    };
}

static inline void memory_state_release(struct memory_state *state)
{
    if (state->sources || state->pending) abort();      /* a cut is under way */
    for (size_t i = 0; i < state->count; i++) free(state->block[i].bytes);
    free(state->block);
    free(state->bucket);
    free(state->source);
}

static inline struct memory_state *memory_state_create(void)
{
    struct memory_state *state = need(malloc(sizeof *state));
    memory_state_init(state);
    return state;
}

static inline void memory_state_destroy(struct memory_state *state)
{
    memory_state_release(state);
    free(state);
}

/* The same records and tensors, byte by byte; says the first that differs. */
static inline bool memory_state_same(struct memory_state *a, struct memory_state *b)
{
    for (size_t i = 0; i < a->count; i++) {
        const struct memory_block *x = &a->block[i], *y = memory_find(b, x->section, x->id);
        if (y && x->size == y->size && memcmp(x->bytes, y->bytes, x->size) == 0) continue;
        fprintf(stderr, "section %s %ju: %s\n", x->section, (uintmax_t)x->id, y ? "differs" : "only in the first");
        return false;
    }
    if (a->count == b->count) return true;
    fprintf(stderr, "%zu and %zu records\n", a->count, b->count);
    return false;
}

#endif
