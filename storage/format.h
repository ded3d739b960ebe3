/* Bytes of keys and values, as docs/formats.md draws them. Little-endian throughout, but for the ids in keys, which are
 * big-endian so that LMDB's byte order is their numerical order.
 *
 *   block key     section text | 00 | id u64 big-endian
 *   block value   magic u32 | version u16 | 0 u16 | size u64 | checksum u64 | bytes[size]                  (header: 24)
 *   tensor key    canonical name
 *   tensor value  magic u32 | version u16 | role u16 | type u32 | rank u32 | shape u64[3] | checksum u64 | data
 * (header: 48) dense value   rank u32 | type u32 | shape u64[3] | data             in a checkpoint (header: 32), which
 * has a SHA-256
 *
 * A checksum is XXH3-64 of the payload, seeded with the XXH3-64 of the key and of the header's bytes before the
 * checksum: a value under another key, or with another shape, does not pass. */
#ifndef STORAGE_FORMAT_H
#define STORAGE_FORMAT_H

#include "core/state.h"

enum {
    FORMAT_SNAPSHOT_VERSION = 2, FORMAT_CHECKPOINT_VERSION = 1,     /* meta "format" */
    FORMAT_BLOCK_HEADER = 24, FORMAT_TENSOR_HEADER = 48, FORMAT_DENSE_HEADER = 32,
    FORMAT_KEY_MAX = STATE_SECTION_MAX + 9,
};

uint64_t format_big_endian(uint64_t value);     /* to big-endian and back */

/* key: >= FORMAT_KEY_MAX bytes. Returns its length. section: 1..STATE_SECTION_MAX bytes. */
size_t format_block_key(unsigned char *key, const char *section, uint64_t id);
/* False where the bytes are no block key. section: >= STATE_SECTION_MAX + 1 bytes. */
bool format_block_key_parse(const void *key, size_t key_size, char *section, uint64_t *id);

/* Writes the header of the payload that stands right behind it. */
void format_block_seal(unsigned char *value, size_t payload, const void *key, size_t key_size);
/* *payload points into value. CS_REFUSED: damaged, or of another version. */
bool format_block_open(const void *value, size_t size, const void *key, size_t key_size, const void **payload,
                       size_t *payload_size, struct cs_error *err);

void format_tensor_seal(unsigned char *value, const struct tensor *tensor);
/* Fills *tensor, data pointing into value (perhaps unaligned). name: the key. */
bool format_tensor_open(const void *value, size_t size, const void *name, size_t name_size, struct tensor *tensor,
                        struct cs_error *err);

void format_dense_header(unsigned char *header, const struct tensor *tensor);
bool format_dense_open(const void *value, size_t size, const void *name, size_t name_size, struct tensor *tensor,
                       struct cs_error *err);

/* "F32 [3, 4]". text: >= 96 bytes. */
void format_shape_text(const struct tensor *tensor, char *text, size_t size);
const char *format_type_name(enum tensor_type type);
/* Copies stored data into wanted->data, or CS_REFUSED where type or shape differ, naming both. */
bool format_tensor_copy(const struct tensor *wanted, const struct tensor *stored, struct cs_error *err);

#endif
