/* Segments, written: records go into one buffer, which is hashed and written whole; an index of them grows beside it
 * and becomes the footer. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/need.h"
#include "storage/environment.h"
#include "storage/segment_format.h"

/* A file ends once it holds an eighth of the cut so far, but is not smaller than this: some 55 files for 2 GB. */
static const uint64_t smallest_part = 2 << 20;
static const uint64_t flush_ahead = 8 << 20;

struct block { uint32_t section, records; uint64_t offset, size, checksum, index_size; };

struct segment_writer {
    struct segment_writer_options options;
    struct segment_part *part;
    size_t parts;
    bool open;                          /* the last part is being written */
    uint64_t total;                     /* bytes of all parts before it */

    /* The last part: its section table, its blocks, their indexes. */
    struct bytes sections, index;
    uint32_t section_count;
    bool listed;                        /* the current section is in the table, at section_count - 1 */
    struct block *block;
    size_t blocks, capacity;
    uint64_t flushed_ahead;

    struct segment_section section;     /* the current one */

    /* buffer[0, used) comes at `offset` of the file; a block is being filled from block_at on where `filling`. */
    unsigned char *buffer;
    size_t size, used, block_at;
    uint64_t offset;
    bool filling;
    uint32_t records;
    size_t index_at;
    uint32_t last_slot, last_size;
};

struct segment_writer *segment_writer_create(const struct segment_writer_options *options)
{
    struct segment_writer *writer = need(calloc(1, sizeof *writer));
    writer->options = *options;
    writer->size = SEGMENT_BUFFER;
    writer->buffer = need(aligned_alloc(4096, writer->size));
    return writer;
}

static bool no_memory(struct cs_error *err)
{
    return cs_fail(err, CS_FAILED, "out of memory for writing a segment");
}

static struct segment_part *current(struct segment_writer *writer)
{
    return &writer->part[writer->parts - 1];
}

static bool flush(struct segment_writer *writer, struct cs_error *err)
{
    struct segment_part *part = current(writer);
    for (size_t done = 0; done < writer->used;) {
        ssize_t wrote = pwrite(part->fd, writer->buffer + done, writer->used - done, (off_t)(writer->offset + done));
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0)
            return environment_fail(err, wrote < 0 ? errno : ENOSPC, writer->options.directory, writer->used,
                                    "writing the snapshot");
        done += (size_t)wrote;
    }
    writer->offset += writer->used;
    writer->used = 0;
    /* What was written a while ago goes to the disk now, so that little is left for fsync. Only a hint: no error. */
    if (writer->offset - writer->flushed_ahead >= flush_ahead) {
        sync_file_range(part->fd, (off_t)writer->flushed_ahead, (off_t)(writer->offset - writer->flushed_ahead),
                        SYNC_FILE_RANGE_WRITE);
        writer->flushed_ahead = writer->offset;
    }
    if (writer->options.pause) writer->options.pause(writer->options.self);
    return true;
}

static bool begin_part(struct segment_writer *writer, struct cs_error *err)
{
    char path[PATH_MAX];
    struct segment_part *grown = realloc(writer->part, (writer->parts + 1) * sizeof *grown);
    if (!grown) return no_memory(err);
    writer->part = grown;
    uint32_t number = writer->options.number + (uint32_t)writer->parts;
    segment_path(path, sizeof path, writer->options.directory, number);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (fd < 0) return environment_fail(err, errno, writer->options.directory, 0, "making a segment");
    writer->part[writer->parts++] = (struct segment_part){ .number = number, .fd = fd };
    writer->open = true;
    writer->offset = writer->flushed_ahead = 0;
    writer->sections.size = writer->index.size = writer->blocks = 0;
    writer->section_count = 0;
    writer->listed = false;
    struct segment_header header = { .magic = SEGMENT_MAGIC, .store = writer->options.store, .number = number };
    header.checksum = segment_header_checksum(&header);
    memcpy(writer->buffer, &header, sizeof header);
    writer->used = sizeof header;
    return true;
}

static void seal_block(struct segment_writer *writer)
{
    if (!writer->filling) return;
    writer->filling = false;
    if (!writer->records) {
        writer->used = writer->block_at;
        return;
    }
    uint64_t offset = writer->offset + writer->block_at;
    struct segment_block_header header = { .magic = SEGMENT_BLOCK_MAGIC,
                                           .section = writer->section_count - 1,
                                           .records = writer->records,
                                           .size = writer->used - writer->block_at - sizeof header };
    header.checksum = segment_block_checksum(&header, writer->buffer + writer->block_at + sizeof header,
                                             segment_place(writer->options.store, current(writer)->number, offset));
    memcpy(writer->buffer + writer->block_at, &header, sizeof header);
    writer->block[writer->blocks++] = (struct block){ header.section, header.records, offset, header.size,
                                                      header.checksum, writer->index.size - writer->index_at };
}

/* Footer and trailer. */
static bool end_part(struct segment_writer *writer, struct cs_error *err)
{
    struct segment_part *part = current(writer);
    struct bytes footer = { 0 };

    seal_block(writer);
    if (!flush(writer, err)) return false;
    bytes_u32(&footer, writer->section_count);
    bytes_add(&footer, writer->sections.data, writer->sections.size);
    bytes_u32(&footer, (uint32_t)writer->blocks);
    for (size_t i = 0; i < writer->blocks; i++) {
        const struct block *block = &writer->block[i];
        bytes_u32(&footer, block->section);
        bytes_u32(&footer, block->records);
        bytes_u64(&footer, block->offset);
        bytes_u64(&footer, block->size);
        bytes_u64(&footer, block->checksum);
        bytes_u64(&footer, block->index_size);
    }
    bytes_add(&footer, writer->index.data, writer->index.size);
    if (footer.failed || writer->index.failed || writer->sections.failed) {
        bytes_free(&footer);
        return no_memory(err);
    }
    uint64_t end_of_blocks = writer->offset;
    struct segment_trailer trailer = { .offset = end_of_blocks, .size = footer.size, .magic = SEGMENT_MAGIC };
    trailer.digest = XXH3_64bits_withSeed(footer.data, footer.size,
                                          segment_place(writer->options.store, part->number, end_of_blocks));
    trailer.checksum = segment_trailer_checksum(&trailer, writer->options.store, part->number);
    part->size = end_of_blocks + footer.size + sizeof trailer;
    for (size_t done = 0; done < footer.size;) {
        size_t piece = footer.size - done < writer->size ? footer.size - done : writer->size;
        memcpy(writer->buffer, footer.data + done, piece);
        writer->used = piece;
        if (!flush(writer, err)) {
            bytes_free(&footer);
            return false;
        }
        done += piece;
    }
    part->segment = (struct segment){ .number = part->number, .store = writer->options.store, .size = part->size,
                                      .digest = trailer.digest, .fd = -1, .footer = footer };
    memcpy(writer->buffer, &trailer, sizeof trailer);
    writer->used = sizeof trailer;
    if (!flush(writer, err)) return false;
    sync_file_range(part->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    writer->total += part->size;
    writer->open = false;
    if (!segment_adopt(&part->segment, end_of_blocks))
        return cs_fail(err, CS_FAILED, "segment %" PRIu32 " does not come out as it was meant", part->number);
    return true;
}

void segment_writer_section(struct segment_writer *writer, const struct segment_section *section)
{
    if (writer->open) seal_block(writer);
    writer->section = *section;
    writer->listed = false;
}

static void list_section(struct segment_writer *writer)
{
    const struct tensor *tensor = &writer->section.tensor;
    bytes_u32(&writer->sections, (uint32_t)writer->section.is_tensor | (uint32_t)tensor->role << 8 |
                                     (uint32_t)tensor->type << 16 | (uint32_t)tensor->rank << 24);
    for (size_t i = 0; i < TENSOR_RANK_MAX; i++) bytes_u64(&writer->sections, i < tensor->rank ? tensor->shape[i] : 0);
    bytes_text(&writer->sections, writer->section.name);
    writer->section_count++;
    writer->listed = true;
}

static bool begin_block(struct segment_writer *writer, size_t need, struct cs_error *err)
{
    uint64_t limit = writer->options.part_bytes > smallest_part ? writer->options.part_bytes : smallest_part;
    if (limit < writer->total / 8) limit = writer->total / 8;
    if (writer->open && writer->offset + writer->used >= limit && !end_part(writer, err)) return false;
    if (!writer->open && !begin_part(writer, err)) return false;
    if (writer->size - writer->used < need && !flush(writer, err)) return false;
    if (writer->size < need) {
        unsigned char *grown;
        if (posix_memalign((void **)&grown, 4096, need)) return no_memory(err);
        free(writer->buffer);
        writer->buffer = grown;
        writer->size = need;
    }
    if (!writer->listed) list_section(writer);
    if (writer->blocks == writer->capacity) {
        size_t capacity = writer->capacity ? writer->capacity * 2 : 64;
        struct block *grown = realloc(writer->block, capacity * sizeof *grown);
        if (!grown) return no_memory(err);
        writer->block = grown;
        writer->capacity = capacity;
    }
    writer->filling = true;
    writer->block_at = writer->used;
    writer->used += sizeof(struct segment_block_header);
    writer->records = 0;
    writer->index_at = writer->index.size;
    writer->last_slot = writer->last_size = 0;
    return true;
}

void *segment_writer_room(struct segment_writer *writer, size_t need, size_t *room, struct cs_error *err)
{
    if (writer->filling && writer->size - writer->used < need) seal_block(writer);
    if (!writer->filling && !begin_block(writer, need + sizeof(struct segment_block_header), err)) return NULL;
    *room = writer->size - writer->used;
    return writer->buffer + writer->used;
}

bool segment_writer_added(struct segment_writer *writer, size_t size,
                          bool (*seen)(void *self, const struct state_record *record, struct cs_error *err), void *self,
                          struct cs_error *err)
{
    if (size > writer->size - writer->used)
        return cs_fail(err, CS_FAILED, "section '%s' gave more than there was room for", writer->section.name);
    size_t end = writer->used + size;
    while (writer->used < end) {
        const struct state_record *record = (const struct state_record *)(const void *)(writer->buffer + writer->used);
        size_t bytes = segment_record_bytes(record->size);
        if (record->slot >= STATE_SLOTS_MAX || bytes > end - writer->used)
            return cs_fail(err, CS_FAILED, "section '%s' gave a record that is none", writer->section.name);
        if (seen && !seen(self, record, err)) return false;
        int64_t step = (int64_t)record->slot - writer->last_slot;
        uint64_t zigzag = (uint64_t)step << 1 ^ (step < 0 ? UINT64_MAX : 0);
        bytes_varint(&writer->index, zigzag << 1 | (record->size != writer->last_size));
        if (record->size != writer->last_size) bytes_varint(&writer->index, record->size);
        writer->last_slot = record->slot;
        writer->last_size = record->size;
        writer->records++;
        writer->used += bytes;
    }
    return writer->index.failed ? no_memory(err) : true;
}

bool segment_writer_record(struct segment_writer *writer, uint32_t slot, const void *bytes, size_t size,
                           struct cs_error *err)
{
    size_t room, whole = segment_record_bytes((uint32_t)size);
    struct state_record record = { slot, (uint32_t)size };
    assert(size <= UINT32_MAX);
    unsigned char *to = segment_writer_room(writer, whole, &room, err);
    if (!to) return false;
    memset(to + whole - 8, 0, 8);
    memcpy(to, &record, sizeof record);
    if (size) memcpy(to + sizeof record, bytes, size);
    return segment_writer_added(writer, whole, NULL, NULL, err);
}

bool segment_writer_finish(struct segment_writer *writer, struct cs_error *err)
{
    if (writer->open && !end_part(writer, err)) return false;
    for (size_t i = 0; i < writer->parts; i++)
        if (fsync(writer->part[i].fd))
            return environment_fail(err, errno, writer->options.directory, 0, "flushing a segment");
    return !writer->parts || environment_sync_directory(writer->options.directory, err);
}

size_t segment_writer_parts(const struct segment_writer *writer) { return writer->parts; }

struct segment_part *segment_writer_part(struct segment_writer *writer, size_t part) { return &writer->part[part]; }

uint64_t segment_writer_bytes(const struct segment_writer *writer)
{
    return writer->total + (writer->open ? writer->offset + writer->used : 0);
}

void segment_writer_undo(struct segment_writer *writer)
{
    char path[PATH_MAX];
    for (size_t i = 0; i < writer->parts; i++) {
        segment_path(path, sizeof path, writer->options.directory, writer->part[i].number);
        unlink(path);       /* where that fails too, the next commit sweeps it */
    }
}

void segment_writer_destroy(struct segment_writer *writer)
{
    if (!writer) return;
    for (size_t i = 0; i < writer->parts; i++) {
        close(writer->part[i].fd);
        segment_close(&writer->part[i].segment);
    }
    bytes_free(&writer->sections);
    bytes_free(&writer->index);
    free(writer->part);
    free(writer->block);
    free(writer->buffer);
    free(writer);
}
