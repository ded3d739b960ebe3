/* The fixed parts of a segment as they lie in the file (drawn in storage/segment.h), for its reader and its writer. */
#ifndef STORAGE_SEGMENT_FORMAT_H
#define STORAGE_SEGMENT_FORMAT_H

#include "storage/segment.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files hold the bytes of a little-endian machine");

#define SEGMENT_MAGIC 0x3230304745535343ull     /* CSSEG002 */
enum { SEGMENT_BLOCK_MAGIC = 0x32425343 };      /* CSB2 */

struct segment_header { uint64_t magic, store, number, reserved, checksum; };
struct segment_block_header { uint32_t magic, section, records, reserved; uint64_t size, checksum; };
struct segment_trailer { uint64_t offset, size, digest, magic, checksum; };
_Static_assert(sizeof(struct segment_header) + sizeof(struct segment_trailer) == SEGMENT_OVERHEAD, "no padding");
_Static_assert(sizeof(struct segment_block_header) == SEGMENT_BLOCK_HEADER, "no padding");

uint64_t segment_place(uint64_t store, uint32_t number, uint64_t offset);
uint64_t segment_header_checksum(const struct segment_header *header);
uint64_t segment_block_checksum(const struct segment_block_header *header, const void *payload, uint64_t place);
uint64_t segment_trailer_checksum(const struct segment_trailer *trailer, uint64_t store, uint32_t number);
/* Takes a footer apart that was just written: segment->footer is set. */
bool segment_adopt(struct segment *segment, uint64_t end_of_blocks);

#endif
