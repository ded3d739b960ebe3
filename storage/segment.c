/* Segments, read: the trailer leads to the footer, the footer to the blocks; nothing is used before its checksum is. */
#include "storage/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/need.h"
#include "storage/file.h"
#include "storage/segment_format.h"

uint64_t segment_place(uint64_t store, uint32_t number, uint64_t offset)
{
    uint64_t place[3] = { store, number, offset };
    return XXH3_64bits(place, sizeof place);
}

uint64_t segment_header_checksum(const struct segment_header *header)
{
    return XXH3_64bits_withSeed(header, offsetof(struct segment_header, checksum),
                                segment_place(header->store, (uint32_t)header->number, 0));
}

uint64_t segment_block_checksum(const struct segment_block_header *header, const void *payload, uint64_t place)
{
    uint64_t seed = XXH3_64bits_withSeed(header, offsetof(struct segment_block_header, checksum), place);
    return XXH3_64bits_withSeed(payload, header->size, seed);
}

uint64_t segment_trailer_checksum(const struct segment_trailer *trailer, uint64_t store, uint32_t number)
{
    return XXH3_64bits_withSeed(trailer, offsetof(struct segment_trailer, checksum),
                                segment_place(store, number, UINT64_MAX));
}

void segment_path(char *path, size_t size, const char *directory, uint32_t number)
{
    snprintf(path, size, "%s/%020" PRIu32, directory, number);
}

uint32_t segment_number(const char *name)
{
    if (strspn(name, "0123456789") != 20 || name[20]) return 0;
    unsigned long long number = strtoull(name, NULL, 10);
    return number > INT32_MAX ? 0 : (uint32_t)number;
}

/* Never more than that, even where a size of its own is announced. */
static size_t tensor_size(const struct tensor *tensor)
{
    size_t bytes = tensor_bytes(tensor);
    return bytes ? bytes : 8;
}

size_t segment_tensor_pieces(const struct tensor *tensor)
{
    return (tensor_size(tensor) + SEGMENT_PIECE - 1) / SEGMENT_PIECE;
}

size_t segment_piece_size(const struct tensor *tensor, size_t piece)
{
    size_t left = tensor_size(tensor) - piece * SEGMENT_PIECE;
    return left < SEGMENT_PIECE ? left : SEGMENT_PIECE;
}

static bool read_at(const struct segment *segment, void *into, size_t size, uint64_t offset, struct cs_error *err)
{
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(segment->fd, (char *)into + done, size - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return cs_fail_errno(err, errno, "reading %s at byte %" PRIu64, segment->path, offset);
        if (got == 0)
            return cs_fail(err, CS_REFUSED, "%s is truncated: %zu bytes wanted at byte %" PRIu64 ", %zu there",
                           segment->path, size, offset, done);
        done += (size_t)got;
    }
    return true;
}

static bool damaged(const struct segment *segment, struct cs_error *err, const char *what)
{
    return cs_fail(err, CS_REFUSED, "%s is damaged: %s", segment->path, what);
}

static bool parse_section(struct bytes_reader *reader, struct segment_section *section)
{
    uint32_t kind = bytes_take_u32(reader);
    struct tensor *tensor = &section->tensor;
    uint64_t bytes;
    *section = (struct segment_section){ .is_tensor = kind & 1,
                                         .tensor = { .role = (enum tensor_role)(kind >> 8 & 255),
                                                     .type = (enum tensor_type)(kind >> 16 & 255),
                                                     .rank = kind >> 24 } };
    bool fits = tensor->role <= TENSOR_OPTIMIZER && tensor->type <= TENSOR_I64 && tensor->rank <= TENSOR_RANK_MAX;
    bytes = fits ? tensor_type_bytes(tensor->type) : 0;
    for (size_t i = 0; i < TENSOR_RANK_MAX; i++) {
        tensor->shape[i] = bytes_take_u64(reader);
        if (fits && i < tensor->rank) fits = !__builtin_mul_overflow(bytes, (uint64_t)tensor->shape[i], &bytes);
    }
    const char *name = bytes_take_text(reader, section->is_tensor ? TENSOR_NAME_MAX - 1 : STATE_SECTION_MAX);
    if (!name || !*name || !fits || bytes > (uint64_t)1 << 44) return false;
    memcpy(section->name, name, strlen(name) + 1);
    if (section->is_tensor) memcpy(tensor->name, name, strlen(name) + 1);
    return true;
}

struct segment_cursor segment_cursor(const struct segment_block *block)
{
    return (struct segment_cursor){ .index = { .at = block->index, .end = block->index + block->index_size },
                                    .left = block->records };
}

/* The index comes to the block's records and bytes, exactly. */
static bool check_index(const struct segment *segment, const struct segment_block *block)
{
    struct segment_cursor cursor = segment_cursor(block);
    uint64_t bytes = 0, slot = 0;
    const struct segment_section *section = &segment->section[block->section];
    for (uint32_t i = 0; i < block->records; i++) {
        uint64_t step = bytes_take_varint(&cursor.index);
        if (step & 1) {
            uint64_t size = bytes_take_varint(&cursor.index);
            if (size > UINT32_MAX) return false;
            cursor.size = (uint32_t)size;
        }
        slot += (step >> 2) ^ (uint64_t)-(int64_t)((step >> 1) & 1);
        bytes += segment_record_bytes(cursor.size);
        if (cursor.index.bad || slot >= STATE_SLOTS_MAX) return false;
        if (section->is_tensor && cursor.size &&
            (slot >= segment_tensor_pieces(&section->tensor) ||
             cursor.size != segment_piece_size(&section->tensor, slot)))
            return false;
    }
    return cursor.index.at == cursor.index.end && bytes == block->size;
}

static bool parse_footer(struct segment *segment, uint64_t end_of_blocks)
{
    struct bytes_reader reader = { .at = segment->footer.data, .end = segment->footer.data + segment->footer.size };
    uint32_t sections = bytes_take_u32(&reader);
    if (sections > segment->footer.size / 32) return false;
    segment->section = need(calloc(sections + 1u, sizeof *segment->section));
    segment->sections = sections;
    for (uint32_t i = 0; i < sections; i++)
        if (!parse_section(&reader, &segment->section[i])) return false;
    uint32_t blocks = bytes_take_u32(&reader);
    if (blocks > segment->footer.size / 40) return false;
    segment->block = need(calloc(blocks + 1u, sizeof *segment->block));
    segment->blocks = blocks;
    uint64_t offset = sizeof(struct segment_header);
    for (uint32_t i = 0; i < blocks; i++) {
        struct segment_block *block = &segment->block[i];
        block->section = bytes_take_u32(&reader);
        block->records = bytes_take_u32(&reader);
        block->offset = bytes_take_u64(&reader);
        block->size = bytes_take_u64(&reader);
        block->checksum = bytes_take_u64(&reader);
        block->index_size = bytes_take_u64(&reader);
        if (reader.bad || block->section >= sections || block->offset != offset ||
            block->size > end_of_blocks - offset || block->size % 8)
            return false;
        offset += sizeof(struct segment_block_header) + block->size;
        if (offset > end_of_blocks) return false;
    }
    for (uint32_t i = 0; i < blocks; i++) {
        if (!(segment->block[i].index = bytes_take(&reader, segment->block[i].index_size))) return false;
        if (!check_index(segment, &segment->block[i])) return false;
    }
    return !reader.bad && reader.at == reader.end && offset == end_of_blocks;
}

static bool read_footer(struct segment *segment, struct cs_error *err)
{
    struct segment_header header;
    struct segment_trailer trailer;
    struct stat status;

    if (fstat(segment->fd, &status)) return cs_fail_errno(err, errno, "looking at %s", segment->path);
    if (!S_ISREG(status.st_mode)) return damaged(segment, err, "it is no file");
    if ((uint64_t)status.st_size != segment->size || segment->size < SEGMENT_OVERHEAD)
        return cs_fail(err, CS_REFUSED, "%s is damaged: %" PRIu64 " bytes, the snapshot names %" PRIu64, segment->path,
                       (uint64_t)status.st_size, segment->size);
    if (!read_at(segment, &header, sizeof header, 0, err)) return false;
    if (header.magic != SEGMENT_MAGIC || header.checksum != segment_header_checksum(&header))
        return damaged(segment, err, "it does not begin as a segment does");
    if (header.store != segment->store || header.number != segment->number)
        return damaged(segment, err, "it belongs to another snapshot, or had another name");
    uint64_t at = segment->size - sizeof trailer;
    if (!read_at(segment, &trailer, sizeof trailer, at, err)) return false;
    if (trailer.checksum != segment_trailer_checksum(&trailer, segment->store, segment->number))
        return damaged(segment, err, "its trailer's checksum differs");
    if (trailer.magic != SEGMENT_MAGIC || trailer.offset > at || trailer.size != at - trailer.offset ||
        trailer.offset < sizeof header)
        return damaged(segment, err, "its trailer names a footer that is not there");
    if (trailer.digest != segment->digest) return damaged(segment, err, "it is not what the snapshot names");
    if (!bytes_room(&segment->footer, trailer.size ? trailer.size : 1))
        return cs_fail(err, CS_FAILED, "out of memory for the footer of %s", segment->path);
    segment->footer.size = trailer.size;
    if (!read_at(segment, segment->footer.data, trailer.size, trailer.offset, err)) return false;
    if (XXH3_64bits_withSeed(segment->footer.data, trailer.size,
                             segment_place(segment->store, segment->number, trailer.offset)) != trailer.digest)
        return damaged(segment, err, "its footer's checksum differs");
    return parse_footer(segment, trailer.offset) ? true : damaged(segment, err, "its footer does not add up");
}

bool segment_open(struct segment *segment, const char *directory, uint64_t store, uint32_t number, uint64_t size,
                  uint64_t digest, bool *missing, struct cs_error *err)
{
    char path[PATH_MAX];
    *missing = false;
    *segment = (struct segment){ .number = number, .store = store, .size = size, .digest = digest, .fd = -1 };
    segment_path(path, sizeof path, directory, number);
    segment->path = need(strdup(path));
    segment->fd = file_open(path, O_RDONLY | O_NOFOLLOW, err);
    if (segment->fd < 0) {
        *missing = errno == ENOENT;
        if (*missing) cs_fail(err, CS_REFUSED, "%s is missing, and the snapshot names it", path);
        segment_close(segment);
        return false;
    }
    if (read_footer(segment, err)) return true;
    segment_close(segment);
    return false;
}

bool segment_adopt(struct segment *segment, uint64_t end_of_blocks)
{
    return parse_footer(segment, end_of_blocks);
}

void segment_close(struct segment *segment)
{
    if (segment->path && segment->fd >= 0) close(segment->fd);
    bytes_free(&segment->footer);
    free(segment->section);
    free(segment->block);
    free(segment->path);
    *segment = (struct segment){ .fd = -1 };
}

bool segment_read(const struct segment *segment, size_t number, struct bytes *buffer, struct cs_error *err)
{
    const struct segment_block *block = &segment->block[number];
    const char *name = segment->section[block->section].name;
    struct segment_block_header header;

    buffer->size = 0;
    if (!bytes_room(buffer, block->size + 8))
        return cs_fail(err, CS_FAILED, "out of memory for a block of %" PRIu64 " bytes", block->size);
    if (!read_at(segment, &header, sizeof header, block->offset, err) ||
        !read_at(segment, buffer->data, block->size, block->offset + sizeof header, err))
        return false;
    bool same = header.magic == SEGMENT_BLOCK_MAGIC && header.section == block->section && !header.reserved &&
                header.records == block->records && header.size == block->size && header.checksum == block->checksum;
    uint64_t place = segment_place(segment->store, segment->number, block->offset);
    if (!same || header.checksum != segment_block_checksum(&header, buffer->data, place))
        return cs_fail(err, CS_REFUSED, "%s is damaged: section '%s', block at byte %" PRIu64 ": its %s differs",
                       segment->path, name, block->offset, same ? "checksum" : "header");
    buffer->size = block->size;
    struct segment_cursor cursor = segment_cursor(block);
    for (size_t at = 0; segment_next(&cursor);) {
        const struct state_record *record = (const struct state_record *)(const void *)(buffer->data + at);
        if (record->slot != cursor.slot || record->size != cursor.size)
            return cs_fail(err, CS_REFUSED, "%s is damaged: section '%s', block at byte %" PRIu64
                           ": its records are not those of the footer", segment->path, name, block->offset);
        at += segment_record_bytes(record->size);
    }
    return true;
}
