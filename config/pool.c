/* A list of blocks; see pool.h. */
#include "config/pool.h"

#include <stdarg.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

enum { BLOCK_SIZE = 8192 };

struct block {
    struct block *next;
    size_t size, used;
    alignas(max_align_t) char bytes[];
};

struct pool { struct block *block; };

struct pool *pool_create(void)
{
    return need(calloc(1, sizeof(struct pool)));
}

void pool_destroy(struct pool *pool)
{
    if (!pool) return;
    for (struct block *block = pool->block, *next; block; block = next) {
        next = block->next;
        explicit_bzero(block->bytes, block->size);
        free(block);
    }
    free(pool);
}

void *pool_take(struct pool *pool, size_t size)
{
    size = (size + alignof(max_align_t) - 1) / alignof(max_align_t) * alignof(max_align_t);
    if (!pool->block || pool->block->size - pool->block->used < size) {
        size_t room = size > BLOCK_SIZE ? size : BLOCK_SIZE;
        struct block *block = need(calloc(1, sizeof *block + room));
        block->size = room;
        block->next = pool->block;
        pool->block = block;
    }
    void *memory = pool->block->bytes + pool->block->used;
    pool->block->used += size;
    return memory;
}

char *pool_copy(struct pool *pool, const char *text, size_t length)
{
    char *copy = pool_take(pool, length + 1);
    memcpy(copy, text, length);
    return copy;
}

char *pool_format(struct pool *pool, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = pool_take(pool, (size_t)length + 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}
