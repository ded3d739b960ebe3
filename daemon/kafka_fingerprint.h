/* Which record an offset named: offsets alone can't tell a topic from one of the same name made anew (librdkafka 2.0.2
 * knows neither topic ids nor leader epochs). */
#ifndef DAEMON_KAFKA_FINGERPRINT_H
#define DAEMON_KAFKA_FINGERPRINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kafka_fingerprint {
    bool known;             /* false: no record was applied yet, or an older program's snapshot */
    int64_t offset;
    int64_t timestamp;      /* the record's own, ms; -1: none */
    uint64_t hash;          /* XXH3 of the value, seeded by that of the key; NULL is told from empty */
};

struct kafka_fingerprint kafka_fingerprint_of(int64_t offset, int64_t timestamp, const void *key, size_t key_size,
                                              const void *value, size_t size);
/* Timestamp and hash, where both are of the same offset. */
bool kafka_fingerprint_same(const struct kafka_fingerprint *a, const struct kafka_fingerprint *b);

#endif
