/* The batch's memory. */
#include "core/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

enum { ALIGNMENT = 64 };

struct chunk { struct chunk *older; size_t size, used; uint8_t *bytes; };
struct arena { struct chunk *newest; };

static size_t align_up(size_t bytes) { return (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1); }

static struct chunk *chunk_create(size_t size, struct chunk *older)
{
    struct chunk *chunk = malloc(sizeof *chunk);
    if (!chunk) return NULL;
    size = align_up(size ? size : 1);
    *chunk = (struct chunk){ .older = older, .size = size, .bytes = aligned_alloc(ALIGNMENT, size) };
    if (!chunk->bytes) {
        free(chunk);
        return NULL;
    }
    return chunk;
}

static void chunks_destroy(struct chunk *chunk)
{
    while (chunk) {
        struct chunk *older = chunk->older;
        free(chunk->bytes);
        free(chunk);
        chunk = older;
    }
}

struct arena *arena_create(size_t bytes)
{
    struct arena *arena = malloc(sizeof *arena);
    if (!arena) return NULL;
    arena->newest = chunk_create(bytes, NULL);
    if (!arena->newest) {
        free(arena);
        return NULL;
    }
    return arena;
}

void arena_destroy(struct arena *arena)
{
    if (!arena) return;
    chunks_destroy(arena->newest);
    free(arena);
}

void *arena_take(struct arena *arena, size_t bytes)
{
    bytes = align_up(bytes ? bytes : 1);
    struct chunk *chunk = arena->newest;
    if (chunk->size - chunk->used < bytes) {
        size_t size = chunk->size * 2 > bytes ? chunk->size * 2 : bytes;
        chunk = arena->newest = need(chunk_create(size, chunk));
    }
    void *memory = chunk->bytes + chunk->used;
    chunk->used += bytes;
    return memory;
}

void *arena_take_zeroed(struct arena *arena, size_t bytes)
{
    return memset(arena_take(arena, bytes), 0, bytes);
}

void arena_reset(struct arena *arena)
{
    if (arena->newest->older) {
        size_t total = arena_bytes(arena);
        chunks_destroy(arena->newest);
        arena->newest = need(chunk_create(total, NULL));
    }
    arena->newest->used = 0;
}

size_t arena_bytes(const struct arena *arena)
{
    size_t total = 0;
    for (const struct chunk *chunk = arena->newest; chunk; chunk = chunk->older) total += chunk->size;
    return total;
}
