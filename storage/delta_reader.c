/* Records in, whole deltas out. */
#include "storage/delta_reader.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

struct delta_reader {
    size_t bytes_max;
    struct delta *open;             /* NULL: none, or given up */
    struct delta_begin begin;       /* of the open one: its counts alone */
    struct delta_place place;       /* of the delta whose records are told apart by `checksum`: open, or the last one */
    uint64_t rows, gone, chain;
    uint64_t *checksum;             /* [records] of what was taken of it */
    size_t records, room, filled;   /* filled: bytes of the open delta's last tensor */
    size_t parts_room, tensors_room;
};

static void *copied(const void *from, size_t size)
{
    void *copy = need(malloc(size ? size : 1));
    return size ? memcpy(copy, from, size) : copy;
}

struct delta *delta_hold(struct delta *delta)
{
    atomic_fetch_add_explicit(&delta->holders, 1, memory_order_relaxed);
    return delta;
}

void delta_drop(struct delta *delta)
{
    if (!delta || atomic_fetch_sub(&delta->holders, 1) > 1) return;
    for (size_t i = 0; i < delta->parts; i++) {
        free(delta->part[i].table);
        free(delta->part[i].key);
        free(delta->part[i].row);
    }
    for (size_t i = 0; i < delta->tensors; i++) free(delta->tensor[i].data);
    free(delta->part);
    free(delta->tensor);
    free(delta->fingerprint);
    free(delta->sample);
    free(delta);
}

struct delta_reader *delta_reader_create(size_t bytes_max)
{
    struct delta_reader *reader = need(calloc(1, sizeof *reader));
    reader->bytes_max = bytes_max;
    return reader;
}

void delta_reader_destroy(struct delta_reader *reader)
{
    if (!reader) return;
    delta_drop(reader->open);
    free(reader->checksum);
    free(reader);
}

static void give_up(struct delta_reader *reader)
{
    delta_drop(reader->open);
    reader->open = NULL;
}

static bool broken(const struct delta_record *record, struct cs_error *err, const char *what)
{
    return cs_fail(err, CS_REFUSED, "record %u (%s) of delta %" PRIu64 " of epoch %" PRIu64 ": %s", record->index,
                   delta_type_name[record->type], record->place.sequence, record->place.epoch, what);
}

static bool same_place(const struct delta_place *a, const struct delta_place *b)
{
    return a->epoch == b->epoch && a->sequence == b->sequence && a->version == b->version;
}

/* -- what each record adds ---------------------------------------------------------------------------------------- */

static void take_begin(struct delta_reader *reader, const struct delta_record *record)
{
    const struct delta_begin *begin = &record->begin;
    struct delta *delta = need(calloc(1, sizeof *delta));
    delta->place = record->place;
    delta->base = begin->base;
    delta->steps = begin->steps;
    delta->watermark = begin->watermark;
    delta->created = begin->created;
    delta->fingerprint = copied(begin->fingerprint, strlen(begin->fingerprint) + 1);
    delta->samples = begin->samples;
    delta->sample = copied(begin->sample, begin->samples * sizeof *delta->sample);
    atomic_init(&delta->holders, 1);
    reader->open = delta;
    reader->begin = *begin;
    reader->place = record->place;
    reader->rows = reader->gone = reader->chain = 0;
    reader->records = reader->filled = reader->parts_room = reader->tensors_room = 0;
}

static bool add_bytes(struct delta_reader *reader, const struct delta_record *record, size_t bytes,
                      struct cs_error *err)
{
    struct delta *delta = reader->open;
    if (bytes > reader->bytes_max - delta->bytes)
        return broken(record, err, "the delta is larger than is allowed here");
    delta->bytes += bytes;
    return true;
}

/* The last tensor has all its bytes, or there is none. */
static bool tensor_is_whole(const struct delta_reader *reader)
{
    const struct delta *delta = reader->open;
    return !delta->tensors || reader->filled == tensor_bytes(&delta->tensor[delta->tensors - 1]);
}

static bool take_keys(struct delta_reader *reader, const struct delta_record *record, struct cs_error *err)
{
    struct delta *delta = reader->open;
    size_t keys = record->n * sizeof(uint64_t), rows = (size_t)record->n * record->dimension * sizeof(float);
    if (!tensor_is_whole(reader)) return broken(record, err, "a tensor before it lacks a piece");
    if (!add_bytes(reader, record, keys + rows + sizeof *delta->part, err)) return false;
    if (delta->parts == reader->parts_room) {
        reader->parts_room = 2 * delta->parts + 16;
        delta->part = need(realloc(delta->part, reader->parts_room * sizeof *delta->part));
    }
    delta->part[delta->parts++] = (struct delta_part){ .table = copied(record->table, strlen(record->table) + 1),
                                                       .dimension = record->dimension,
                                                       .keys = record->n,
                                                       .key = copied(record->key, keys),
                                                       .row = record->row ? copied(record->row, rows) : NULL };
    *(record->row ? &reader->rows : &reader->gone) += record->n;
    return true;
}

static bool new_tensor(struct delta_reader *reader, const struct delta_record *record, struct cs_error *err)
{
    struct delta *delta = reader->open;
    if (!tensor_is_whole(reader)) return broken(record, err, "the tensor before it lacks a piece");
    for (size_t i = 0; i < delta->tensors; i++)
        if (!strcmp(delta->tensor[i].name, record->tensor.name)) return broken(record, err, "a tensor that was there");
    if (!add_bytes(reader, record, tensor_bytes(&record->tensor) + sizeof *delta->tensor, err)) return false;
    if (delta->tensors == reader->tensors_room) {
        reader->tensors_room = 2 * delta->tensors + 16;
        delta->tensor = need(realloc(delta->tensor, reader->tensors_room * sizeof *delta->tensor));
    }
    struct tensor *tensor = &delta->tensor[delta->tensors++];
    *tensor = record->tensor;
    size_t bytes = tensor_bytes(tensor);
    tensor->data = need(malloc(bytes ? bytes : 1));
    reader->filled = 0;
    return true;
}

static bool take_piece(struct delta_reader *reader, const struct delta_record *record, struct cs_error *err)
{
    struct delta *delta = reader->open;
    if (record->offset == 0 && !new_tensor(reader, record, err)) return false;
    struct tensor *tensor = delta->tensors ? &delta->tensor[delta->tensors - 1] : NULL;
    if (!tensor || record->offset != reader->filled || strcmp(tensor->name, record->tensor.name) ||
        tensor->type != record->tensor.type || tensor->rank != record->tensor.rank ||
        memcmp(tensor->shape, record->tensor.shape, sizeof tensor->shape))
        return broken(record, err, "not the piece that comes next");
    if (record->bytes) memcpy((unsigned char *)tensor->data + reader->filled, record->data, record->bytes);
    reader->filled += record->bytes;
    return true;
}

static bool check_commit(const struct delta_reader *reader, const struct delta_record *record, struct cs_error *err)
{
    const struct delta_begin *begin = &reader->begin;
    if (record->chain != reader->chain) return broken(record, err, "it stands for other records than those that came");
    if (!tensor_is_whole(reader)) return broken(record, err, "the last tensor lacks a piece");
    if (begin->rows != reader->rows || begin->gone != reader->gone || begin->tensors != reader->open->tensors)
        return broken(record, err, "its BEGIN promised another number of rows or tensors");
    return true;
}

static bool take(struct delta_reader *reader, const struct delta_record *record, struct cs_error *err)
{
    switch (record->type) {
    case DELTA_BEGIN: break;        /* it opened the delta */
    case DELTA_ROWS:
    case DELTA_GONE: return take_keys(reader, record, err);
    case DELTA_DENSE: return take_piece(reader, record, err);
    case DELTA_COMMIT: return check_commit(reader, record, err);
    }
    return broken(record, err, "of an unknown type");
}

enum delta_fed delta_reader_feed(struct delta_reader *reader, const void *bytes, size_t size, struct delta **whole,
                                 struct cs_error *err)
{
    struct delta_record record;
    enum delta_fed fed = DELTA_FED_TAKEN;
    *whole = NULL;
    /* Perhaps nobody's that we follow: where it belonged to the open delta, the next record's index says so. */
    if (!delta_parse(bytes, size, &record, err)) return DELTA_FED_BROKEN;
    bool here = same_place(&record.place, &reader->place);
    if (here && record.index < reader->records && record.checksum == reader->checksum[record.index])
        return DELTA_FED_DUPLICATE;
    if (record.type == DELTA_BEGIN) {
        if (reader->open) fed = DELTA_FED_UNFINISHED;
        give_up(reader);
        take_begin(reader, &record);
    } else if (!reader->open || !here) {
        return DELTA_FED_PASSED;
    } else if (record.index != reader->records) {
        bool ahead = record.index > reader->records;
        broken(&record, err, ahead ? "records before it are missing" : "it came before, with other bytes");
        give_up(reader);
        return DELTA_FED_BROKEN;
    } else if (!take(reader, &record, err)) {
        give_up(reader);
        return DELTA_FED_BROKEN;
    }
    if (reader->records == reader->room) {
        reader->room = 2 * reader->records + 64;
        reader->checksum = need(realloc(reader->checksum, reader->room * sizeof *reader->checksum));
    }
    reader->checksum[reader->records++] = record.checksum;
    if (record.type != DELTA_COMMIT) {
        reader->chain = delta_chain(reader->chain, record.checksum);
        return fed;
    }
    *whole = reader->open;
    reader->open = NULL;
    return DELTA_FED_WHOLE;
}
