/* Bytes of a delta: what changed between two versions, as records of a Kafka topic with one partition, in order.
 *
 *   BEGIN  (ROWS | GONE | DENSE)*  COMMIT        each at most DELTA_RECORD_MAX bytes; key: the version, 20 digits
 *
 *   header    0          4        6      8        16         24        32      36      40
 *   48 bytes  | magic    | layout | type | epoch  | sequence | version | index | size  | checksum | payload[size]
 *               u32 CSD1   u16 1    u16    u64      u64        u64       u32     u32     u64
 *   checksum  XXH3-64 of the payload, seeded with the XXH3-64 of the header's first 40 bytes
 *   index     of the record in its delta; BEGIN has 0
 *
 *   BEGIN     | base u64 | previous u64 | watermark i64 | created i64 | steps u64 | rows u64 | gone u64 | tensors u32 |
 *             | samples u32 | sample i64[samples] | fingerprint (text) |
 *   ROWS      | dimension u32 | n u32 | table (text) | key u64[n] | row f32[n * dimension] |
 *   GONE      | 0 u32         | n u32 | table (text) | key u64[n] |
 *   DENSE     | type u32 | rank u32 | shape u64[3] | offset u64 | bytes u64 | name (text) | data[bytes] |
 *   COMMIT    | records u32 (BEGIN and COMMIT too) | 0 u32 | chain u64 |
 *   text      | size u32 | bytes[size] | 00 ... |     with 1 to 8 zeros: what follows is aligned to 8
 *   chain     c = 0; for each record but COMMIT, in order: c = XXH3-64 of its checksum's 8 bytes, seeded with c
 *
 * An epoch is one run of a daemon; deltas count from 1 in it, and 0 is the state it began with. A delta holds all that
 * changed since delta `base` of its epoch, nearly always the one before it. What could not be sent whole is sent again
 * under the next number with the same base. So a reader at sequence s of the epoch applies a delta with base <= s <
 * sequence, and no other; one that ends without COMMIT, by another BEGIN, counts as never sent. In a delta each key
 * stands once, in ROWS or in GONE; each tensor is whole, its pieces in order. Little-endian. */
#ifndef STORAGE_DELTA_FORMAT_H
#define STORAGE_DELTA_FORMAT_H

#include <stdint.h>

#include "core/error.h"
#include "core/tensor.h"
#include "storage/bytes.h"

enum {
    DELTA_LAYOUT = 1, DELTA_HEADER = 48,
    DELTA_RECORD_MAX = 512 * 1024,
    DELTA_SAMPLES_MAX = 256,
    DELTA_NAME_MAX = TENSOR_NAME_MAX - 1,
    DELTA_DIMENSION_MAX = 1 << 16,
};

enum delta_type { DELTA_BEGIN = 1, DELTA_ROWS, DELTA_GONE, DELTA_DENSE, DELTA_COMMIT };
extern const char *const delta_type_name[DELTA_COMMIT + 1];

struct delta_place { uint64_t epoch, sequence, version; };

struct delta_begin {
    uint64_t base;                  /* sequence that it builds on */
    uint64_t previous;              /* the version before; 0: none was sent in this epoch */
    int64_t watermark, created;     /* event clock, wall clock: ms since the epoch */
    uint64_t steps;
    uint64_t rows, gone;            /* in all tables, by their records */
    uint32_t tensors, samples;
    const unsigned char *sample;    /* i64[samples], perhaps unaligned: event times of what was learned since base */
    const char *fingerprint;        /* of the features and the model */
};

/* Borrows from the record's bytes; arrays are aligned to 8 where the record is. */
struct delta_record {
    enum delta_type type;
    struct delta_place place;
    uint32_t index;
    uint64_t checksum;
    struct delta_begin begin;                       /* BEGIN */
    const char *table;                              /* ROWS, GONE */
    uint32_t dimension, n;                          /* n > 0 */
    const unsigned char *key;                       /* u64[n] */
    const unsigned char *row;                       /* f32[n * dimension]; NULL in GONE */
    struct tensor tensor;                           /* DENSE: without data */
    uint64_t offset;                                /* of the piece in the tensor's bytes */
    uint64_t bytes;                                 /* > 0, unless the tensor has none */
    const unsigned char *data;
    uint32_t records;                               /* COMMIT */
    uint64_t chain;
};

/* CS_REFUSED: damaged, cut short, of another layout, or lengths that don't agree. What spans records (index, chain,
 * counts, each key once) is the reader's to check. */
bool delta_parse(const void *bytes, size_t size, struct delta_record *record, struct cs_error *err);
uint64_t delta_chain(uint64_t chain, uint64_t checksum);

/* Makes the records of one delta after the other. Each call leaves one whole record in encoder->record. False: out of
 * memory. */
struct delta_encoder { struct delta_place place; uint32_t next; uint64_t chain; struct bytes record; };
bool delta_encode_begin(struct delta_encoder *encoder, const struct delta_place *place,
                        const struct delta_begin *begin);
/* How many rows (dimension 0: keys) of this table fit into one record. */
size_t delta_rows_max(const char *table, size_t dimension);
bool delta_encode_rows(struct delta_encoder *encoder, const char *table, uint32_t dimension, uint32_t n,
                       const uint64_t *key, const float *row);
bool delta_encode_gone(struct delta_encoder *encoder, const char *table, uint32_t n, const uint64_t *key);
/* The piece of the tensor that begins at offset, as large as fits; *offset moves past it. */
bool delta_encode_dense(struct delta_encoder *encoder, const struct tensor *tensor, size_t *offset);
bool delta_encode_commit(struct delta_encoder *encoder);
void delta_encoder_release(struct delta_encoder *encoder);

#endif
