/* Segments: the files that cuts write, each once. Records of sections, in blocks, and at the end where everything is.
 *
 *   | header 40 | block | block | ... | footer | trailer 40 |
 *
 *   header    magic "CSSEG002" | store u64 | number u64 | 0 u64 | checksum u64
 *   block     magic u32 | section u32 | records u32 | 0 u32 | size u64 | checksum u64 | payload[size]     header: 32
 *   payload   records, one after the other: slot u32 | size u32 | bytes, zeros up to a multiple of 8
 *             size 0: the slot holds nothing any more
 *   footer    sections u32 | each: kind, role, type, rank u8 | shape u64[3] | name (u32 length, text, NUL)
 *             blocks u32   | each: section u32 | records u32 | offset u64 | size u64 | checksum u64 | index u64
 *             and the blocks' indexes: for each record the change of slot and, where it changes, the size (varints)
 *   trailer   footer's offset u64 | footer's size u64 | footer's checksum u64 | magic u64 | checksum u64
 *
 * A tensor is a section of kind 1: its record s is the s-th piece of SEGMENT_PIECE bytes. Checksums are XXH3-64, seeded
 * with store, number and offset (and a block's header): nothing passes in another place, file or directory. */
#ifndef STORAGE_SEGMENT_H
#define STORAGE_SEGMENT_H

#include "core/state.h"
#include "storage/bytes.h"

enum { SEGMENT_PIECE = 256 << 10, SEGMENT_BUFFER = 1 << 20, SEGMENT_OVERHEAD = 80, SEGMENT_BLOCK_HEADER = 32 };

/* What a section is called and, for a tensor, how it looks (name and data unused). */
struct segment_section { bool is_tensor; char name[STATE_SECTION_MAX + 1]; struct tensor tensor; };

struct segment_block {
    uint32_t section, records;
    uint64_t offset, size, checksum;    /* of the block's header in the file; of the payload */
    const unsigned char *index;         /* in the footer */
    size_t index_size;
};

/* A segment's footer, checked; fd -1 where only that is wanted. */
struct segment {
    uint32_t number;
    uint64_t store, size, digest;       /* of the file; the footer's checksum */
    int fd;
    struct bytes footer;
    struct segment_section *section;
    size_t sections;
    struct segment_block *block;
    size_t blocks;
    char *path;
};

/* What a record takes in a block. */
static inline uint64_t segment_record_bytes(uint32_t size)
{
    return sizeof(struct state_record) + (((uint64_t)size + 7) & ~7ull);
}
size_t segment_tensor_pieces(const struct tensor *tensor);
/* Of a piece: where it begins, and how long it is in the file (a tensor without numbers is one piece of 8 bytes). */
size_t segment_piece_size(const struct tensor *tensor, size_t piece);

/* <directory>/<number>, checked against what the manifest says of it; its footer too. CS_REFUSED: damaged. *missing is
 * set where there is no such file (and CS_REFUSED). */
bool segment_open(struct segment *segment, const char *directory, uint64_t store, uint32_t number, uint64_t size,
                  uint64_t digest, bool *missing, struct cs_error *err);
void segment_close(struct segment *segment);

/* Every record of a block, from the footer alone. */
struct segment_cursor { struct bytes_reader index; uint32_t slot, size, left; };
struct segment_cursor segment_cursor(const struct segment_block *block);
/* False at the end. The footer was checked at segment_open: no other end is possible. */
static inline bool segment_next(struct segment_cursor *cursor)
{
    if (!cursor->left) return false;
    cursor->left--;
    uint64_t step = bytes_take_varint(&cursor->index);
    if (step & 1) cursor->size = (uint32_t)bytes_take_varint(&cursor->index);
    cursor->slot += (uint32_t)((step >> 2) ^ (uint64_t)-(int64_t)((step >> 1) & 1));
    return true;
}

/* Reads a block's payload into buffer (grown as needed, 8-byte aligned) and compares its checksum. */
bool segment_read(const struct segment *segment, size_t block, struct bytes *buffer, struct cs_error *err);
/* The payload's records, one after the other; NULL at the end. *at begins with 0. */
static inline const struct state_record *segment_record(const struct bytes *payload, size_t size, size_t *at)
{
    if (*at >= size) return NULL;
    const struct state_record *record = (const struct state_record *)(const void *)(payload->data + *at);
    *at += segment_record_bytes(record->size);
    return record;
}

/* -- writing: what one cut gives, in as many files as keep each of them small beside all (so that one can be emptied
 * without much copying) -- */

struct segment_part { uint32_t number; uint64_t size; int fd; struct segment segment; };

struct segment_writer;
struct segment_writer_options {
    const char *directory;
    uint64_t store;
    uint32_t number;                    /* of the first file; the others follow */
    uint64_t part_bytes;                /* a file ends past this, or an eighth of the cut, whichever is more */
    void (*pause)(void *self);          /* after every SEGMENT_BUFFER or so; may sleep */
    void *self;
};
struct segment_writer *segment_writer_create(const struct segment_writer_options *options);
/* What is added next belongs to this section. */
void segment_writer_section(struct segment_writer *writer, const struct segment_section *section);
/* Room for records of `need` bytes at least, in *room; NULL: err. What is put there counts from segment_writer_added
 * on. */
void *segment_writer_room(struct segment_writer *writer, size_t need, size_t *room, struct cs_error *err);
/* size bytes of whole records stand where segment_writer_room said. seen: called for each; false ends it. */
bool segment_writer_added(struct segment_writer *writer, size_t size,
                          bool (*seen)(void *self, const struct state_record *record, struct cs_error *err), void *self,
                          struct cs_error *err);
/* One record, its bytes copied. size 0: nothing any more. */
bool segment_writer_record(struct segment_writer *writer, uint32_t slot, const void *bytes, size_t size,
                           struct cs_error *err);
/* Writes the footers and flushes all to the disk. */
bool segment_writer_finish(struct segment_writer *writer, struct cs_error *err);
size_t segment_writer_parts(const struct segment_writer *writer);
struct segment_part *segment_writer_part(struct segment_writer *writer, size_t part);
uint64_t segment_writer_bytes(const struct segment_writer *writer);     /* written so far */
/* Unlinks what was written. */
void segment_writer_undo(struct segment_writer *writer);
void segment_writer_destroy(struct segment_writer *writer);

void segment_path(char *path, size_t size, const char *directory, uint32_t number);
uint32_t segment_number(const char *name);      /* of a file called so; 0: it is no segment */

#endif
