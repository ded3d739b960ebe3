/* Memory that lives for one batch: handed out by bumping a pointer, given back all at once.
 *
 *   chunk 0 [used........|free]  ->  chunk 1 [used..|free........]      after a reset that needed several chunks, one
 *                                                                       chunk of their total size takes their place */
#ifndef CORE_ARENA_H
#define CORE_ARENA_H

#include <stddef.h>

struct arena;

struct arena *arena_create(size_t bytes);            /* first chunk's size; NULL when out of memory */
void arena_destroy(struct arena *arena);             /* NULL is fine */
/* 64-byte aligned, not cleared; never NULL: out of memory ends the process (core/need.h). */
void *arena_take(struct arena *arena, size_t bytes);
void *arena_take_zeroed(struct arena *arena, size_t bytes);
void arena_reset(struct arena *arena);               /* all that was taken is no more */
size_t arena_bytes(const struct arena *arena);       /* reserved from the system */

#endif
