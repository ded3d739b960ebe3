/* Key -> slot: extendible hashing over small open-addressed segments. */
#include "core/embedding_index.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

enum {
    SEGMENT_START = 16, SEGMENT_FULL = 1024,    /* entries of a new table's segment, and of one that splits */
    DEPTH_MAX = 24,
    GROUP = 16,                                 /* keys in flight */
};

struct entry { uint64_t key; uint32_t slot, spare; };

struct segment {
    uint32_t mask, count;       /* entries - 1, occupied */
    unsigned depth;             /* top bits of the hash that all its keys share */
    struct entry entry[] __attribute__((aligned(64)));
};

struct embedding_index {
    struct segment **directory; /* [1 << depth] */
    unsigned depth;
    size_t segments, bytes;
    uint64_t salt;
};

static uint64_t hash_of(const struct embedding_index *index, uint64_t key)
{
    uint64_t x = key ^ index->salt;
    x = (x ^ (x >> 32)) * UINT64_C(0xd6e8feb86659fd93);
    x = (x ^ (x >> 32)) * UINT64_C(0xd6e8feb86659fd93);
    return x ^ (x >> 32);
}

static struct segment *segment_of(const struct embedding_index *index, uint64_t hash)
{
    return index->directory[(hash >> 1) >> (63 - index->depth)];
}

static size_t segment_bytes(uint32_t entries)
{
    return sizeof(struct segment) + entries * sizeof(struct entry);
}

static struct segment *segment_create(struct embedding_index *index, uint32_t entries, unsigned depth)
{
    struct segment *segment = need(aligned_alloc(64, segment_bytes(entries)));
    segment->mask = entries - 1;
    segment->count = 0;
    segment->depth = depth;
    for (uint32_t i = 0; i < entries; i++) segment->entry[i] = (struct entry){ .slot = INDEX_NONE };
    index->bytes += segment_bytes(entries);
    index->segments++;
    return segment;
}

static void segment_destroy(struct embedding_index *index, struct segment *segment)
{
    index->bytes -= segment_bytes(segment->mask + 1);
    index->segments--;
    free(segment);
}

static void segment_add(struct segment *segment, uint64_t hash, uint64_t key, uint32_t slot)
{
    uint32_t at = (uint32_t)hash & segment->mask;
    while (segment->entry[at].slot != INDEX_NONE) at = (at + 1) & segment->mask;
    segment->entry[at] = (struct entry){ .key = key, .slot = slot };
    segment->count++;
}

static uint32_t segment_find(const struct segment *segment, uint64_t hash, uint64_t key)
{
    for (uint32_t at = (uint32_t)hash & segment->mask;; at = (at + 1) & segment->mask) {
        const struct entry *entry = &segment->entry[at];
        if (entry->slot == INDEX_NONE || entry->key == key) return entry->slot;
    }
}

struct embedding_index *embedding_index_create(uint64_t salt)
{
    struct embedding_index *index = calloc(1, sizeof *index);
    if (!index) return NULL;
    index->salt = salt;
    index->directory = malloc(sizeof *index->directory);
    if (!index->directory) {
        free(index);
        return NULL;
    }
    index->bytes = sizeof *index + sizeof *index->directory;
    index->directory[0] = segment_create(index, SEGMENT_START, 0);
    return index;
}

void embedding_index_destroy(struct embedding_index *index)
{
    if (!index) return;
    for (size_t i = 0; i < (size_t)1 << index->depth;) {
        struct segment *segment = index->directory[i];
        i += (size_t)1 << (index->depth - segment->depth);
        free(segment);
    }
    free(index->directory);
    free(index);
}

uint32_t embedding_index_find(const struct embedding_index *index, uint64_t key)
{
    uint64_t hash = hash_of(index, key);
    return segment_find(segment_of(index, hash), hash, key);
}

void embedding_index_find_many(const struct embedding_index *index, const uint64_t *key, size_t n, uint32_t *slot)
{
    for (size_t begin = 0; begin < n; begin += GROUP) {
        size_t count = n - begin < GROUP ? n - begin : GROUP;
        uint64_t hash[GROUP];
        const struct segment *segment[GROUP];
        for (size_t i = 0; i < count; i++) {
            hash[i] = hash_of(index, key[begin + i]);
            segment[i] = segment_of(index, hash[i]);
            __builtin_prefetch(segment[i]);
        }
        for (size_t i = 0; i < count; i++) __builtin_prefetch(&segment[i]->entry[(uint32_t)hash[i] & segment[i]->mask]);
        for (size_t i = 0; i < count; i++) slot[begin + i] = segment_find(segment[i], hash[i], key[begin + i]);
    }
}

static void directory_double(struct embedding_index *index)
{
    size_t size = (size_t)1 << index->depth;
    struct segment **directory = need(malloc(2 * size * sizeof *directory));
    for (size_t i = 0; i < size; i++) directory[2 * i] = directory[2 * i + 1] = index->directory[i];
    free(index->directory);
    index->directory = directory;
    index->depth++;
    index->bytes += size * sizeof *directory;
}

/* Makes room in the segment of `hash`: it doubles, or splits by the next bit. Keys that share more top bits than chance
 * allows (or than DEPTH_MAX) would blow up the directory; their segment doubles past SEGMENT_FULL instead. */
static void segment_grow(struct embedding_index *index, uint64_t hash)
{
    struct segment *old = segment_of(index, hash);
    uint32_t entries = old->mask + 1;
    bool deepen = old->depth == index->depth;
    bool split = entries == SEGMENT_FULL &&
                 (!deepen || (index->depth < DEPTH_MAX && (size_t)1 << index->depth <= 64 * index->segments));
    struct segment *half[2];
    if (split) {
        if (deepen) directory_double(index);
        half[0] = segment_create(index, entries, old->depth + 1);
        half[1] = segment_create(index, entries, old->depth + 1);
    } else {
        half[0] = half[1] = segment_create(index, 2 * entries, old->depth);
    }
    for (uint32_t i = 0; i < entries; i++) {
        const struct entry *entry = &old->entry[i];
        if (entry->slot == INDEX_NONE) continue;
        uint64_t h = hash_of(index, entry->key);
        segment_add(half[(h >> (63 - old->depth)) & 1], h, entry->key, entry->slot);
    }
    size_t span = (size_t)1 << (index->depth - old->depth);        /* directory entries that name the old one */
    size_t first = (size_t)((hash >> 1) >> (63 - index->depth)) & ~(span - 1);
    for (size_t i = 0; i < span; i++) index->directory[first + i] = half[span > 1 && i >= span / 2];
    segment_destroy(index, old);
}

void embedding_index_insert(struct embedding_index *index, uint64_t key, uint32_t slot)
{
    uint64_t hash = hash_of(index, key);
    struct segment *segment;
    assert(slot != INDEX_NONE);
    while (segment = segment_of(index, hash), segment->count >= (segment->mask + 1) / 4 * 3) segment_grow(index, hash);
    segment_add(segment, hash, key, slot);
}

size_t embedding_index_insert_many(struct embedding_index *index, const uint64_t *key, const uint32_t *slot, size_t n)
{
    for (size_t begin = 0; begin < n; begin += GROUP) {
        size_t count = n - begin < GROUP ? n - begin : GROUP;
        uint32_t found[GROUP];
        embedding_index_find_many(index, key + begin, count, found);       /* and brings what follows into the cache */
        for (size_t i = begin; i < begin + count; i++) {
            if (found[i - begin] != INDEX_NONE || embedding_index_find(index, key[i]) != INDEX_NONE) return i;
            embedding_index_insert(index, key[i], slot[i]);
        }
    }
    return n;
}

/* Closes the gap, so that no search has to step over graves. */
void embedding_index_remove(struct embedding_index *index, uint64_t key)
{
    uint64_t hash = hash_of(index, key);
    struct segment *segment = segment_of(index, hash);
    uint32_t mask = segment->mask, gap = (uint32_t)hash & mask;
    while (segment->entry[gap].key != key || segment->entry[gap].slot == INDEX_NONE) {
        assert(segment->entry[gap].slot != INDEX_NONE);
        gap = (gap + 1) & mask;
    }
    for (uint32_t at = (gap + 1) & mask; segment->entry[at].slot != INDEX_NONE; at = (at + 1) & mask) {
        uint32_t home = (uint32_t)hash_of(index, segment->entry[at].key) & mask;
        if (((at - home) & mask) < ((at - gap) & mask)) continue;      /* its home lies after the gap: it may stay */
        segment->entry[gap] = segment->entry[at];
        gap = at;
    }
    segment->entry[gap] = (struct entry){ .slot = INDEX_NONE };
    segment->count--;
}

size_t embedding_index_bytes(const struct embedding_index *index)
{
    return index->bytes;
}
