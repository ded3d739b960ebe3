/* A state in memory: what storage does, in a list. For tests of what saves and loads itself; after cmocka.h. */
#ifndef TESTS_STATE_MEMORY_H
#define TESTS_STATE_MEMORY_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/state.h"

struct stored { char section[STATE_SECTION_MAX]; uint64_t id; void *bytes; size_t size; };
struct memory {
    struct state_writer writer;
    struct state_reader reader;
    struct stored block[4096];
    size_t count, puts;
};

static struct stored *stored_find(struct memory *memory, const char *section, uint64_t id)
{
    for (size_t i = 0; i < memory->count; i++)
        if (memory->block[i].id == id && !strcmp(memory->block[i].section, section)) return &memory->block[i];
    return NULL;
}

static bool memory_put(struct state_writer *self, const char *section, uint64_t id, const void *bytes, size_t size,
                       struct cs_error *err)
{
    (void)err;
    struct memory *memory = (struct memory *)self;
    struct stored *block = stored_find(memory, section, id);
    if (!block) {
        assert_true(memory->count < 4096);
        block = &memory->block[memory->count++];
        snprintf(block->section, sizeof block->section, "%s", section);
        block->id = id;
        block->bytes = NULL;
    }
    free(block->bytes);
    block->bytes = malloc(size);
    memcpy(block->bytes, bytes, size);
    block->size = size;
    memory->puts++;
    return true;
}

static bool memory_remove(struct state_writer *self, const char *section, uint64_t id, struct cs_error *err)
{
    (void)err;
    struct memory *memory = (struct memory *)self;
    struct stored *block = stored_find(memory, section, id);
    assert_non_null(block);     /* only what is there is removed */
    free(block->bytes);
    *block = memory->block[--memory->count];
    return true;
}

static bool memory_get(struct state_reader *self, const char *section, uint64_t id, const void **bytes, size_t *size,
                       struct cs_error *err)
{
    (void)err;
    struct memory *memory = (struct memory *)((char *)self - offsetof(struct memory, reader));
    struct stored *block = stored_find(memory, section, id);
    *bytes = block ? block->bytes : NULL;
    *size = block ? block->size : 0;
    return true;
}

static int by_id(const void *a, const void *b)
{
    const struct stored *x = *(struct stored *const *)a, *y = *(struct stored *const *)b;
    return (x->id > y->id) - (x->id < y->id);
}

static bool memory_each(struct state_reader *self, const char *section, state_block *visit, void *argument,
                        struct cs_error *err)
{
    struct memory *memory = (struct memory *)((char *)self - offsetof(struct memory, reader));
    static struct stored *list[4096];
    size_t count = 0;
    for (size_t i = 0; i < memory->count; i++)
        if (!strcmp(memory->block[i].section, section)) list[count++] = &memory->block[i];
    qsort(list, count, sizeof *list, by_id);
    for (size_t i = 0; i < count; i++)
        if (!visit(argument, list[i]->id, list[i]->bytes, list[i]->size, err)) return false;
    return true;
}

static struct memory *memory_create(void)
{
    struct memory *memory = calloc(1, sizeof *memory);
    memory->writer = (struct state_writer){ .full = true, .put = memory_put, .remove = memory_remove };
    memory->reader = (struct state_reader){ .get = memory_get, .each = memory_each };
    return memory;
}

static void memory_destroy(struct memory *memory)
{
    for (size_t i = 0; i < memory->count; i++) free(memory->block[i].bytes);
    free(memory);
}

static void assert_same_state(struct memory *a, struct memory *b)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        struct stored *x = &a->block[i], *y = stored_find(b, x->section, x->id);
        assert_non_null(y);
        assert_int_equal(x->size, y->size);
        assert_memory_equal(x->bytes, y->bytes, x->size);
    }
}

#endif
