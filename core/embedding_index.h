/* Key -> slot, for embedding tables. A directory of segments (extendible hashing): a segment doubles up to 1024 entries
 * and then splits in two, alone, so an insertion never moves more than those; the directory itself, 8 bytes a segment,
 * is copied when it doubles (64 KiB at 5 million keys). Any 64-bit key is legal; what is empty is told by the slot.
 *
 *   hash   | directory: top bits ............ home within the segment: low bits |
 *   entry  | key u64 | slot u32 | 4 spare |
 *
 * Where an entry stands changes nothing that a caller can see, so the index is not part of the state: it is
 * made anew. */
#ifndef CORE_EMBEDDING_INDEX_H
#define CORE_EMBEDDING_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { INDEX_NONE = UINT32_MAX };

struct embedding_index;

/* salt keeps others from choosing keys that collide. NULL when out of memory; so do later growths abort. */
struct embedding_index *embedding_index_create(uint64_t salt);
void embedding_index_destroy(struct embedding_index *index);
uint32_t embedding_index_find(const struct embedding_index *index, uint64_t key);
/* Several keys in flight at once: what it costs is memory latency. */
void embedding_index_find_many(const struct embedding_index *index, const uint64_t *key, size_t n, uint32_t *slot);
void embedding_index_insert(struct embedding_index *index, uint64_t key, uint32_t slot);     /* the key is not in it */
/* In this order, until a key that is in it already: how many went in. Several in flight, as find_many. */
size_t embedding_index_insert_many(struct embedding_index *index, const uint64_t *key, const uint32_t *slot, size_t n);
void embedding_index_remove(struct embedding_index *index, uint64_t key);                    /* the key is in it */
size_t embedding_index_bytes(const struct embedding_index *index);

#endif
