/* A plain reader of deltas for tests, written from docs/formats.md's rules alone: what it has, and what it makes of a
 * record. After cmocka.h. Everything that a delta must not be fails the test. */
#ifndef TESTS_UNIT_DELTA_READER_H
#define TESTS_UNIT_DELTA_READER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "storage/delta_format.h"

struct plain_row { char table[64]; uint64_t key; float *value; size_t dimension; };     /* value NULL: gone */
struct plain_rows { struct plain_row *row; size_t count; };
struct plain_tensor { char name[TENSOR_NAME_MAX]; unsigned char *bytes; size_t size, have; };

struct delta_reader {
    struct plain_rows rows;             /* sorted by table, key */
    struct plain_tensor tensor[PARAMETERS_MAX];
    size_t tensors;
    uint64_t epoch, sequence, version;
    uint64_t applied, ignored, cut_short;   /* deltas */
    uint64_t rows_applied, gone_applied;
    /* of the delta being read */
    bool open;
    struct delta_place place;
    struct delta_begin begin;
    uint32_t next;
    uint64_t chain;
    struct plain_rows pending;
    struct plain_tensor piece[PARAMETERS_MAX];
    size_t pieces;
};

static inline int plain_compare(const void *a, const void *b)
{
    const struct plain_row *x = a, *y = b;
    int order = strcmp(x->table, y->table);
    return order ? order : (x->key > y->key) - (x->key < y->key);
}

static inline void plain_add(struct plain_rows *rows, const char *table, uint64_t key, const void *value, size_t d)
{
    if ((rows->count & (rows->count + 1)) == 0)
        rows->row = realloc(rows->row, (2 * rows->count + 2) * sizeof *rows->row);
    struct plain_row *row = &rows->row[rows->count++];
    *row = (struct plain_row){ .key = key, .dimension = d };
    snprintf(row->table, sizeof row->table, "%s", table);
    if (!value) return;
    row->value = malloc(d * sizeof(float));
    memcpy(row->value, value, d * sizeof(float));
}

static inline void plain_clear(struct plain_rows *rows)
{
    for (size_t i = 0; i < rows->count; i++) free(rows->row[i].value);
    free(rows->row);
    *rows = (struct plain_rows){ 0 };
}

static inline void plain_sort(struct plain_rows *rows)
{
    if (rows->count) qsort(rows->row, rows->count, sizeof *rows->row, plain_compare);
}

/* Both sorted: changed replaces, or takes away. */
static inline void plain_merge(struct plain_rows *rows, struct plain_rows *changed)
{
    struct plain_rows merged = { 0 };
    size_t i = 0, j = 0;
    merged.row = malloc((rows->count + changed->count + 1) * sizeof *merged.row);
    while (i < rows->count || j < changed->count) {
        int order = i == rows->count ? 1 : j == changed->count ? -1 : plain_compare(&rows->row[i], &changed->row[j]);
        if (order >= 0) {
            if (changed->row[j].value) merged.row[merged.count++] = changed->row[j];
            if (order == 0) free(rows->row[i++].value);
            j++;
        } else {
            merged.row[merged.count++] = rows->row[i++];
        }
    }
    free(rows->row);
    free(changed->row);
    *rows = merged;
    *changed = (struct plain_rows){ 0 };
}

static inline void drop_pending(struct delta_reader *reader)
{
    plain_clear(&reader->pending);
    for (size_t i = 0; i < reader->pieces; i++) free(reader->piece[i].bytes);
    reader->pieces = 0;
    reader->open = false;
}

static inline void delta_reader_release(struct delta_reader *reader)
{
    drop_pending(reader);
    plain_clear(&reader->rows);
    for (size_t i = 0; i < reader->tensors; i++) free(reader->tensor[i].bytes);
}

static inline void take_keys(struct delta_reader *reader, const struct delta_record *record)
{
    for (uint32_t i = 0; i < record->n; i++) {
        uint64_t key;
        memcpy(&key, record->key + i * sizeof key, sizeof key);
        const unsigned char *value = record->row ? record->row + (size_t)i * record->dimension * sizeof(float) : NULL;
        plain_add(&reader->pending, record->table, key, value, record->dimension);
    }
}

static inline void take_piece(struct delta_reader *reader, const struct delta_record *record)
{
    struct plain_tensor *tensor = &reader->piece[reader->pieces - (record->offset > 0)];
    size_t size = tensor_bytes(&record->tensor);
    if (record->offset == 0) {
        assert_true(reader->pieces < PARAMETERS_MAX);
        *tensor = (struct plain_tensor){ .bytes = malloc(size + 1), .size = size };
        snprintf(tensor->name, sizeof tensor->name, "%s", record->tensor.name);
        reader->pieces++;
    }
    assert_string_equal(tensor->name, record->tensor.name);
    assert_int_equal(tensor->have, record->offset);
    memcpy(tensor->bytes + tensor->have, record->data, record->bytes);
    tensor->have += record->bytes;
}

static inline void apply(struct delta_reader *reader)
{
    uint64_t rows = 0, gone = 0;
    plain_sort(&reader->pending);
    for (size_t i = 0; i < reader->pending.count; i++) {
        assert_true(!i || plain_compare(&reader->pending.row[i - 1], &reader->pending.row[i]) < 0);  /* each key once */
        if (reader->pending.row[i].value) rows++;
        else gone++;
    }
    assert_int_equal(rows, reader->begin.rows);
    assert_int_equal(gone, reader->begin.gone);
    assert_int_equal(reader->pieces, reader->begin.tensors);
    plain_merge(&reader->rows, &reader->pending);
    for (size_t i = 0; i < reader->tensors; i++) free(reader->tensor[i].bytes);
    for (size_t i = 0; i < reader->pieces; i++) {
        assert_int_equal(reader->piece[i].have, reader->piece[i].size);
        reader->tensor[i] = reader->piece[i];
    }
    reader->tensors = reader->pieces;
    reader->pieces = 0;
    reader->sequence = reader->place.sequence;
    assert_true(reader->place.version > reader->version);
    reader->version = reader->place.version;
    reader->applied++;
    reader->rows_applied += rows;
    reader->gone_applied += gone;
}

/* True where the record was a COMMIT whose delta was applied. */
static inline bool delta_reader_take(struct delta_reader *reader, const void *bytes, size_t size)
{
    struct delta_record record;
    struct cs_error err;
    if (!delta_parse(bytes, size, &record, &err)) fail_msg("%s", err.message);
    if (record.type == DELTA_BEGIN) {
        reader->cut_short += reader->open;
        drop_pending(reader);
        reader->open = true;
        reader->place = record.place;
        reader->begin = record.begin;
        reader->next = 0;
        reader->chain = 0;
    }
    if (!reader->open) return false;        /* began to read within one */
    assert_memory_equal(&record.place, &reader->place, sizeof record.place);
    assert_int_equal(record.index, reader->next++);
    if (record.type == DELTA_ROWS || record.type == DELTA_GONE) take_keys(reader, &record);
    if (record.type == DELTA_DENSE) take_piece(reader, &record);
    if (record.type != DELTA_COMMIT) {
        reader->chain = delta_chain(reader->chain, record.checksum);
        return false;
    }
    assert_int_equal(record.chain, reader->chain);
    bool ours = reader->place.epoch == reader->epoch && reader->begin.base <= reader->sequence &&
                reader->sequence < reader->place.sequence;
    if (ours) apply(reader);
    else reader->ignored++;
    drop_pending(reader);
    return ours;
}

#endif
