/* Bytes of values that more than one file format has, as docs/formats.md draws them. Little-endian throughout, but for
 * numbers in LMDB's keys, which are big-endian so that LMDB's byte order is their numerical order.
 *
 *   dense value   rank u32 | type u32 | shape u64[3] | data        of a checkpoint (header: 32), which has a SHA-256 */
#ifndef STORAGE_FORMAT_H
#define STORAGE_FORMAT_H

#include "core/state.h"

enum {
    FORMAT_SNAPSHOT_VERSION = 2, FORMAT_CHECKPOINT_VERSION = 1,
    FORMAT_DENSE_HEADER = 32,
};

uint64_t format_big_endian(uint64_t value);     /* to big-endian and back */

void format_dense_header(unsigned char *header, const struct tensor *tensor);
bool format_dense_open(const void *value, size_t size, const void *name, size_t name_size, struct tensor *tensor,
                       struct cs_error *err);

const char *format_type_name(enum tensor_type type);
/* Copies stored data into wanted->data, or CS_REFUSED where type or shape differ, naming both. */
bool format_tensor_copy(const struct tensor *wanted, const struct tensor *stored, struct cs_error *err);

#endif
