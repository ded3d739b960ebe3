/* A state writer and reader over memory, for tests of X_save and X_load: keeps blocks as a snapshot would, from save to
 * save. */
#ifndef TESTS_MEMORY_STATE_H
#define TESTS_MEMORY_STATE_H

#include <stdlib.h>
#include <string.h>

#include "core/state.h"

struct memory_block {
    char section[STATE_SECTION_MAX];
    uint64_t id;
    void *bytes;
    size_t size;
};

struct memory_state {
    struct state_writer writer; /* first: the callbacks' self */
    struct state_reader reader;
    struct memory_block *block;
    size_t count, puts; /* puts: since the caller last set it to 0 */
};

static struct memory_block *memory_find(struct memory_state *state, const char *section, uint64_t id)
{
    for (size_t i = 0; i < state->count; i++)
        if (state->block[i].id == id && strcmp(state->block[i].section, section) == 0) return &state->block[i];
    return NULL;
}

static bool memory_put(struct state_writer *self, const char *section, uint64_t id, const void *bytes, size_t size,
                       struct cs_error *err)
{
    (void)err;
    struct memory_state *state = (struct memory_state *)self;
    struct memory_block *block = memory_find(state, section, id);
    if (!block) {
        state->block = realloc(state->block, (state->count + 1) * sizeof *state->block);
        block = &state->block[state->count++];
        *block = (struct memory_block){ .id = id };
        strncpy(block->section, section, sizeof block->section - 1);
    }
    free(block->bytes);
    block->bytes = malloc(size + 1);
    if (size) memcpy(block->bytes, bytes, size);
    block->size = size;
    state->puts++;
    return true;
}

static bool memory_remove(struct state_writer *self, const char *section, uint64_t id, struct cs_error *err)
{
    (void)err;
    struct memory_state *state = (struct memory_state *)self;
    struct memory_block *block = memory_find(state, section, id);
    if (!block) return true;
    free(block->bytes);
    *block = state->block[--state->count];
    return true;
}

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

static int memory_by_id(const void *a, const void *b)
{
    uint64_t x = (*(const struct memory_block *const *)a)->id, y = (*(const struct memory_block *const *)b)->id;
    return (x > y) - (x < y);
}

static bool memory_each(struct state_reader *self, const char *section, state_block *visit, void *argument,
                        struct cs_error *err)
{
    struct memory_state *state = (struct memory_state *)((char *)self - offsetof(struct memory_state, reader));
    const struct memory_block **found = malloc((state->count + 1) * sizeof *found);
    size_t count = 0;
    bool ok = true;
    for (size_t i = 0; i < state->count; i++)
        if (strcmp(state->block[i].section, section) == 0) found[count++] = &state->block[i];
    qsort(found, count, sizeof *found, memory_by_id);
    for (size_t i = 0; i < count && ok; i++) ok = visit(argument, found[i]->id, found[i]->bytes, found[i]->size, err);
    free(found);
    return ok;
}

static inline void memory_state_init(struct memory_state *state)
{
    *state = (struct memory_state){ .writer = { .full = true, .put = memory_put, .remove = memory_remove },
                                    .reader = { .get = memory_get, .each = memory_each } };
}

static inline void memory_state_release(struct memory_state *state)
{
    for (size_t i = 0; i < state->count; i++) free(state->block[i].bytes);
    free(state->block);
}

#endif
