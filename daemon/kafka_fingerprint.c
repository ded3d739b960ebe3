/* Fingerprints of records. */
#include "daemon/kafka_fingerprint.h"

#include <xxhash.h>

enum { SEED_OF_NULL = 1 };

static uint64_t hash_of(const void *bytes, size_t size, uint64_t seed)
{
    return bytes ? XXH3_64bits_withSeed(bytes, size, seed) : XXH3_64bits_withSeed("", 0, seed + SEED_OF_NULL);
}

struct kafka_fingerprint kafka_fingerprint_of(int64_t offset, int64_t timestamp, const void *key, size_t key_size,
                                              const void *value, size_t size)
{
    uint64_t hash = hash_of(value, size, hash_of(key, key_size, 0));
    return (struct kafka_fingerprint){ .known = true, .offset = offset, .timestamp = timestamp, .hash = hash };
}

bool kafka_fingerprint_same(const struct kafka_fingerprint *a, const struct kafka_fingerprint *b)
{
    return a->offset == b->offset && a->timestamp == b->timestamp && a->hash == b->hash;
}
