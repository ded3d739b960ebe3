/* A table's state as blocks: written, read back, and parsed without a table.
 *
 *   rows.<table>, waiting.<table>     id = chunk number
 *     | magic u32 | version u32 | dimension u32 | moments u32 | per_chunk u32 | count u32 | count records |
 *     a record as in memory, its place in the chunk (ascending) where memory has the batch
 *   table.<table>                     id 0: struct summary
 *
 * All little-endian. */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "core/embedding_internal.h"

enum { BLOCK_MAGIC = 0x73776f72, SUMMARY_MAGIC = 0x6c626174, VERSION = 1, DIMENSION_MAX = 1 << 16,
       PER_CHUNK_MAX = 1 << 24 };

struct block { uint32_t magic, version, dimension, moments, per_chunk, count; };

struct summary {
    uint32_t magic, version, dimension, moments;
    uint64_t rows, waiting, admitted, refused;
    struct age { uint64_t chunks, evicted, evict_hand, expire_hand; } age[2];       /* of rows, of waiting */
};

static size_t record_stride(uint32_t dimension, uint32_t moments)
{
    size_t width = dimension * (1 + (size_t)__builtin_popcount(moments));
    return (sizeof(struct record) + width * sizeof(float) + 7) / 8 * 8;
}

static const struct record *block_record(const struct block *block, size_t stride, uint32_t i)
{
    return (const struct record *)((const uint8_t *)(block + 1) + i * stride);
}

/* The block with all its records within `size`, places ascending and within the chunk; NULL otherwise. */
static const struct block *block_open(const void *bytes, size_t size, struct cs_error *err)
{
    const struct block *block = bytes;
    if (size < sizeof *block || (uintptr_t)bytes % 8) {
        cs_fail(err, CS_REFUSED, "a block of rows has %zu bytes, at least %zu are needed, aligned", size,
                sizeof *block);
        return NULL;
    }
    if (block->magic != BLOCK_MAGIC || block->version != VERSION) {
        cs_fail(err, CS_REFUSED, "not a block of rows of version %d (magic %08x, version %u)", VERSION, block->magic,
                block->version);
        return NULL;
    }
    if (block->dimension > DIMENSION_MAX || block->moments > (MOMENT_M | MOMENT_V) || !block->per_chunk ||
        block->per_chunk > PER_CHUNK_MAX || block->count > block->per_chunk) {
        cs_fail(err, CS_REFUSED, "a block of rows says dimension %u, moments %u, %u of %u rows", block->dimension,
                block->moments,
                block->count, block->per_chunk);
        return NULL;
    }
    size_t stride = record_stride(block->dimension, block->moments), wanted = sizeof *block + block->count * stride;
    if (size != wanted) {
        cs_fail(err, CS_REFUSED, "a block of rows has %zu bytes, its %u rows need %zu", size, block->count, wanted);
        return NULL;
    }
    uint32_t least = 0;
    for (uint32_t i = 0; i < block->count; i++) {
        uint32_t place = block_record(block, stride, i)->batch;
        if (place < least || place >= block->per_chunk) {
            cs_fail(err, CS_REFUSED, "row %u of a block stands at place %u, from %u to %u is allowed", i, place,
                    least, block->per_chunk - 1);
            return NULL;
        }
        least = place + 1;
    }
    return block;
}

bool embedding_block_each(const void *block_bytes, size_t size, embedding_visitor *visit, void *self,
                          struct cs_error *err)
{
    const struct block *block = block_open(block_bytes, size, err);
    if (!block) return false;
    size_t d = block->dimension, stride = record_stride(block->dimension, block->moments);
    for (uint32_t i = 0; i < block->count; i++) {
        const struct record *record = block_record(block, stride, i);
        const float *m = block->moments & MOMENT_M ? record->value + d : NULL;
        const float *v = block->moments & MOMENT_V ? record->value + (m ? 2 * d : d) : NULL;
        struct embedding_row row = { .key = record->key, .row = record->value, .m = m, .v = v, .step = record->step,
                                     .seen = record->seen };
        if (!visit(self, &row, err)) return false;
    }
    return true;
}

static bool rows_save(struct rows *rows, const char *section, struct state_writer *writer, struct cs_error *err)
{
    struct block *block = malloc(sizeof *block + rows->stride * rows->per_chunk);
    if (!block) return cs_fail(err, CS_FAILED, "out of memory");
    bool ok = true;
    for (size_t number = 0; ok && number < rows->chunks; number++) {
        struct chunk *chunk = &rows->chunk[number];
        if (!(writer->full ? chunk->count > 0 : chunk->dirty)) {
            if (writer->full) chunk->stored = chunk->dirty = false;
            continue;
        }
        *block = (struct block){ BLOCK_MAGIC, VERSION, rows->dimension, rows->moments, rows->per_chunk, 0 };
        uint8_t *end = (uint8_t *)(block + 1);
        for (size_t w = 0; w < rows->per_chunk / 64; w++) {
            for (uint64_t word = chunk->living[w]; word; word &= word - 1) {
                uint32_t place = (uint32_t)(w * 64) + (uint32_t)__builtin_ctzll(word);
                memcpy(end, chunk->record + place * rows->stride, rows->stride);
                ((struct record *)end)->batch = place;
                end += rows->stride;
                block->count++;
            }
        }
        if (block->count) ok = writer->put(writer, section, number, block, (size_t)(end - (uint8_t *)block), err);
        else if (chunk->stored) ok = writer->remove(writer, section, number, err);
        if (!ok) break;
        chunk->stored = block->count > 0;
        chunk->dirty = false;
        memset(chunk->changed, 0, rows->per_chunk / 8);
    }
    free(block);
    return ok;
}

static bool load_block(void *argument, uint64_t id, const void *bytes, size_t size, struct cs_error *err)
{
    struct rows *rows = argument;
    const struct block *block = block_open(bytes, size, err);
    if (!block) return cs_error_prefix(err, "block %ju", (uintmax_t)id);
    if (block->dimension != rows->dimension || block->moments != rows->moments || block->per_chunk != rows->per_chunk)
        return cs_fail(err, CS_REFUSED, "block %ju: dimension %u, moments %u, %u slots a chunk; here %u, %u, %u",
                       (uintmax_t)id,
                       block->dimension, block->moments, block->per_chunk, rows->dimension, rows->moments,
                           rows->per_chunk);
    if (!block->count || id >= rows->chunks)
        return cs_fail(err, CS_REFUSED, "block %ju has %u rows, there are %zu chunks", (uintmax_t)id, block->count,
                       rows->chunks);
    for (uint32_t i = 0; i < block->count; i++) {
        const struct record *from = block_record(block, rows->stride, i);
        if (embedding_index_find(rows->index, from->key) != INDEX_NONE)
            return cs_fail(err, CS_REFUSED, "block %ju: key %016jx has a row already", (uintmax_t)id,
                           (uintmax_t)from->key);
        struct record *record = rows_occupy(rows, (uint32_t)(id << rows->shift) + from->batch, from->key);
        if (!record) return cs_fail(err, CS_FAILED, "out of memory");
        memcpy(record, from, rows->stride);
        record->batch = 0;
    }
    rows->chunk[id].stored = true;
    return true;
}

static struct age age_of(const struct rows *rows)
{
    return (struct age){ rows->chunks, rows->evicted, rows->evict_hand, rows->expire_hand };
}

static bool rows_load(struct rows *rows, const char *section, const struct age *age, uint64_t count,
                      struct state_reader *reader,
                      struct cs_error *err)
{
    uint64_t limit = INDEX_NONE >> rows->shift, slots = age->chunks << rows->shift;
    if (age->chunks > limit || age->evict_hand > slots || age->expire_hand > slots)
        return cs_fail(err, CS_REFUSED, "section %s: the table says %ju chunks, at most %ju are allowed", section,
                       (uintmax_t)age->chunks,
                       (uintmax_t)limit);
    if (age->chunks && !rows_reach(rows, age->chunks - 1)) return cs_fail(err, CS_FAILED, "out of memory");
    if (!reader->each(reader, section, load_block, rows, err)) return cs_error_prefix(err, "section %s", section);
    if (rows->count != count)
        return cs_fail(err, CS_REFUSED, "section %s: %ju rows, the table says %ju", section, (uintmax_t)rows->count,
                       (uintmax_t)count);
    rows->evicted = age->evicted;
    rows->evict_hand = age->evict_hand;
    rows->expire_hand = age->expire_hand;
    return true;
}

static void name_section(char section[STATE_SECTION_MAX], const char *kind, const struct embedding_table *table)
{
    snprintf(section, STATE_SECTION_MAX, "%s.%s", kind, table->options.name);
}

bool embedding_save(struct embedding_table *table, struct state_writer *writer, struct cs_error *err)
{
    char section[STATE_SECTION_MAX];
    const struct rows *rows = table->rows, *waiting = table->waiting;
    struct summary summary = {
        .magic = SUMMARY_MAGIC, .version = VERSION, .dimension = rows->dimension, .moments = rows->moments,
        .rows = rows->count, .waiting = embedding_waiting(table), .admitted = table->admitted,
        .refused = table->refused,
        .age[0] = age_of(rows),
    };
    if (waiting) summary.age[1] = age_of(waiting);
    name_section(section, "rows", table);
    if (!rows_save(table->rows, section, writer, err)) return false;
    name_section(section, "waiting", table);
    if (table->waiting && !rows_save(table->waiting, section, writer, err)) return false;
    name_section(section, "table", table);
    return writer->put(writer, section, 0, &summary, sizeof summary, err);
}

bool embedding_load(struct embedding_table *table, struct state_reader *reader, struct cs_error *err)
{
    char section[STATE_SECTION_MAX];
    const void *bytes;
    size_t size;
    struct rows *rows = table->rows, *waiting = table->waiting;
    name_section(section, "table", table);
    if (!reader->get(reader, section, 0, &bytes, &size, err)) return false;
    if (!bytes) return cs_fail(err, CS_REFUSED, "section %s: missing", section);
    struct summary summary;
    if (size != sizeof summary) return cs_fail(err, CS_REFUSED, "section %s: %zu bytes, %zu are needed", section,
                                               size, sizeof summary);
    memcpy(&summary, bytes, sizeof summary);
    if (summary.magic != SUMMARY_MAGIC || summary.version != VERSION)
        return cs_fail(err, CS_REFUSED, "section %s: not a table of version %d", section, VERSION);
    if (summary.dimension != rows->dimension || summary.moments != rows->moments)
        return cs_fail(err, CS_REFUSED, "section %s: dimension %u and moments %u there, %u and %u here", section,
                       summary.dimension,
                       summary.moments, rows->dimension, rows->moments);
    table->admitted = summary.admitted;
    table->refused = summary.refused;
    name_section(section, "rows", table);
    if (!rows_load(rows, section, &summary.age[0], summary.rows, reader, err)) return false;
    if (!waiting) return true;      /* admit_after was lowered to 1: whoever waits is admitted at its next sighting */
    name_section(section, "waiting", table);
    return rows_load(waiting, section, &summary.age[1], summary.waiting, reader, err);
}
