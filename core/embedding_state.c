/* A table's state: given, read back, and parsed without a table.
 *
 *   rows.<table>, waiting.<table>     by slot: a record as in memory (embedding_rows.h), with batch 0
 *     | key u64 | seen i64 | step u32 | 0 u32 | float row[d] | m[d] | v[d] | padded to 8 bytes |
 *     m and v as the table's moments say; of a waiting key: no floats, step = sightings
 *   table.<table>                     0: struct summary
 *
 * All little-endian. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/embedding_internal.h"

enum { SUMMARY_MAGIC = 0x6c626174, VERSION = 2, DIMENSION_MAX = 1 << 16, PENDING = 64 };

struct summary {
    uint32_t magic, version, dimension, moments;
    uint64_t rows, waiting, admitted, refused;
    struct age { uint64_t per_chunk, chunks, evicted, evict_hand, expire_hand; } age[2];    /* of rows, of waiting */
};

static bool summary_parse(const void *bytes, size_t size, struct summary *summary, struct cs_error *err)
{
    if (size != sizeof *summary)
        return cs_fail(err, CS_REFUSED, "a table of %zu bytes, %zu are needed", size, sizeof *summary);
    memcpy(summary, bytes, sizeof *summary);
    if (summary->magic != SUMMARY_MAGIC || summary->version != VERSION)
        return cs_fail(err, CS_REFUSED, "not a table of version %d (magic %08x, version %u)", VERSION, summary->magic,
                       summary->version);
    if (!summary->dimension || summary->dimension > DIMENSION_MAX || summary->moments > (MOMENT_M | MOMENT_V))
        return cs_fail(err, CS_REFUSED, "a table says dimension %u, moments %u", summary->dimension, summary->moments);
    return true;
}

bool embedding_shape_parse(const void *bytes, size_t size, struct embedding_shape *shape, struct cs_error *err)
{
    struct summary summary;
    if (!summary_parse(bytes, size, &summary, err)) return false;
    *shape = (struct embedding_shape){ summary.dimension, summary.moments, summary.rows, summary.waiting };
    return true;
}

bool embedding_record_parse(const struct embedding_shape *shape, const void *bytes, size_t size,
                            struct embedding_row *row, struct cs_error *err)
{
    size_t stride = rows_stride(shape->dimension, shape->moments);
    if (!bytes || size != stride)
        return cs_fail(err, CS_REFUSED, "a row has %zu bytes, dimension %u and moments %u need %zu", size,
                       shape->dimension, shape->moments, stride);
    *row = embedding_row_of(bytes, shape->dimension, shape->moments);
    return true;
}

void embedding_section(char section[STATE_SECTION_MAX], const char *kind, const struct embedding_table *table)
{
    snprintf(section, STATE_SECTION_MAX, "%s.%s", kind, table->options.name);
}

static struct age age_of(const struct rows *rows)
{
    return (struct age){ rows->per_chunk, rows->chunks, rows->evicted, rows->evict_hand, rows->expire_hand };
}

static bool rows_save(struct rows *rows, const char *kind, const struct embedding_table *table,
                      struct state_writer *writer, struct cs_error *err)
{
    char section[STATE_SECTION_MAX];
    embedding_section(section, kind, table);
    struct state_records records = freeze_records(rows->freeze);
    return writer->records(writer, section, &records, err);
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
    if (!rows_save(table->rows, "rows", table, writer, err)) return false;
    if (table->waiting && !rows_save(table->waiting, "waiting", table, writer, err)) return false;
    embedding_section(section, "table", table);
    return writer->put(writer, section, 0, &summary, sizeof summary, err);
}

/* ---- Load: records come one by one, and go into the index by groups, since its cost is memory latency. ---- */

struct load {
    struct rows *rows;
    uint64_t key[PENDING];
    uint32_t slot[PENDING];
    size_t pending;
};

static bool load_pending(struct load *load, struct cs_error *err)
{
    size_t n = load->pending, taken = embedding_index_insert_many(load->rows->index, load->key, load->slot, n);
    load->pending = 0;
    if (taken == n) return true;
    return cs_fail(err, CS_REFUSED, "slot %u has key %016jx, as slot %u has", load->slot[taken],
                   (uintmax_t)load->key[taken], embedding_index_find(load->rows->index, load->key[taken]));
}

static bool load_record(void *argument, uint64_t slot, const void *bytes, size_t size, struct cs_error *err)
{
    struct load *load = argument;
    struct rows *rows = load->rows;
    uint64_t slots = (uint64_t)rows->chunks << rows->shift;
    if (slot >= slots)
        return cs_fail(err, CS_REFUSED, "slot %ju, the table says %ju slots", (uintmax_t)slot, (uintmax_t)slots);
    if (size != rows->stride)
        return cs_fail(err, CS_REFUSED, "slot %ju has %zu bytes, dimension %u and moments %u need %zu",
                       (uintmax_t)slot, size, rows->dimension, rows->moments, rows->stride);
    if (rows_living(rows, (uint32_t)slot)) return cs_fail(err, CS_REFUSED, "slot %ju comes twice", (uintmax_t)slot);
    struct record *record = rows_occupy(rows, (uint32_t)slot);
    if (!record) return cs_fail(err, CS_FAILED, "out of memory");
    memcpy(record, bytes, size);
    record->batch = 0;
    load->key[load->pending] = record->key;
    load->slot[load->pending++] = (uint32_t)slot;
    return load->pending < PENDING || load_pending(load, err);
}

static bool rows_load(struct rows *rows, const char *kind, const struct embedding_table *table, const struct age *age,
                      uint64_t count, struct state_reader *reader, struct cs_error *err)
{
    char section[STATE_SECTION_MAX];
    embedding_section(section, kind, table);
    uint64_t limit = STATE_SLOTS_MAX >> rows->shift, slots = age->chunks << rows->shift;
    if (age->chunks && age->per_chunk != rows->per_chunk)
        return cs_fail(err, CS_REFUSED, "section %s: %ju slots a chunk there, %u here", section,
                       (uintmax_t)age->per_chunk, rows->per_chunk);
    if (age->chunks > limit || age->evict_hand > slots || age->expire_hand > slots)
        return cs_fail(err, CS_REFUSED, "section %s: the table says %ju chunks (at most %ju are allowed), hands at "
                       "slots %ju and %ju", section, (uintmax_t)age->chunks, (uintmax_t)limit,
                       (uintmax_t)age->evict_hand, (uintmax_t)age->expire_hand);
    if (age->chunks && !rows_reach(rows, age->chunks - 1)) return cs_fail(err, CS_FAILED, "out of memory");
    struct load load = { .rows = rows };
    if (!reader->each(reader, section, load_record, &load, err) || !load_pending(&load, err))
        return cs_error_prefix(err, "section %s", section);
    if (rows->count != count)
        return cs_fail(err, CS_REFUSED, "section %s: %ju records, the table says %ju", section,
                       (uintmax_t)rows->count, (uintmax_t)count);
    rows->evicted = age->evicted;
    rows->evict_hand = age->evict_hand;
    rows->expire_hand = age->expire_hand;
    return true;
}

bool embedding_load(struct embedding_table *table, struct state_reader *reader, struct cs_error *err)
{
    char section[STATE_SECTION_MAX];
    const void *bytes;
    size_t size;
    struct rows *rows = table->rows;
    embedding_section(section, "table", table);
    if (!reader->get(reader, section, 0, &bytes, &size, err)) return false;
    if (!bytes) return cs_fail(err, CS_REFUSED, "section %s: missing", section);
    struct summary summary;
    if (!summary_parse(bytes, size, &summary, err)) return cs_error_prefix(err, "section %s", section);
    if (summary.dimension != rows->dimension || summary.moments != rows->moments)
        return cs_fail(err, CS_REFUSED, "section %s: dimension %u and moments %u there, %u and %u here", section,
                       summary.dimension, summary.moments, rows->dimension, rows->moments);
    table->admitted = summary.admitted;
    table->refused = summary.refused;
    if (!rows_load(rows, "rows", table, &summary.age[0], summary.rows, reader, err)) return false;
    /* Where admit_after was lowered to 1, whoever waits is admitted at its next sighting, as is everybody. */
    if (!table->waiting && summary.age[1].chunks && !embedding_create_waiting(table, err)) return false;
    return !table->waiting ||
           rows_load(table->waiting, "waiting", table, &summary.age[1], summary.waiting, reader, err);
}
