/* States of the small model, as full checkpoints and as the deltas between them: rows and tensors differ by seeds. */
#ifndef TESTS_UNIT_DELTA_FIXTURE_H
#define TESTS_UNIT_DELTA_FIXTURE_H

#include "tests/unit/serving_fixture.h"

#include <inttypes.h>

#include "daemon/scoring.h"
#include "storage/delta_format.h"

enum { STATE_TABLES = 8, RECORDS_MAX = 64 };

/* row: seed of each row, 0 where there is none. */
struct state { unsigned tensors, row[STATE_TABLES][FIXTURE_KEYS]; };

struct record { unsigned char *bytes; size_t size; };
struct records { struct record record[RECORDS_MAX]; size_t count; };

static inline void state_all(const struct fixture *fixture, struct state *state, unsigned seed)
{
    assert_true(fixture->features->table_count <= STATE_TABLES);
    *state = (struct state){ .tensors = seed };
    for (size_t t = 0; t < fixture->features->table_count; t++)
        for (size_t i = 0; i < FIXTURE_KEYS; i++) state->row[t][i] = seed;
}

/* A third of the rows become another one's, a tenth go. */
static inline void state_step(const struct fixture *fixture, struct state *state, unsigned seed)
{
    uint64_t stream = random_stream(seed, "step", 0), draw = 0;
    state->tensors = seed;
    for (size_t t = 0; t < fixture->features->table_count; t++)
        for (size_t i = 0; i < FIXTURE_KEYS; i++) {
            uint64_t chance = random_bits(stream, draw++) % 30;
            if (chance < 10) state->row[t][i] = seed;
            else if (chance < 13) state->row[t][i] = 0;
        }
}

static inline uint64_t state_publish(const struct fixture *fixture, const char *directory, const struct state *state,
                                     uint64_t epoch, uint64_t sequence)
{
    struct cs_error err = { 0 };
    char manifest[160] = "{}";
    uint64_t version;
    struct checkpoint_writer *writer = checkpoint_begin(directory, &err);
    struct model *model = fixture_model(fixture, state->tensors);
    char *text = config_model_text(fixture->config);
    if (!writer || !checkpoint_meta(writer, "config", text, &err) ||
        !checkpoint_meta(writer, "fingerprint", "model", &err) ||
        !model_tensors(model, fixture_tensor, writer, &err))
        fail_msg("%s", err.message);
    for (size_t t = 0; t < fixture->features->table_count; t++) {
        struct { uint64_t key; unsigned seed; } sorted[FIXTURE_KEYS];
        for (size_t i = 0; i < FIXTURE_KEYS; i++) {
            sorted[i].key = fixture_key(i);
            sorted[i].seed = state->row[t][i];
        }
        qsort(sorted, FIXTURE_KEYS, sizeof *sorted, fixture_ascending);
        for (size_t i = 0; i < FIXTURE_KEYS; i++) {
            float row[8];
            if (!sorted[i].seed) continue;
            fixture_row(sorted[i].seed, fixture->features->table[t], sorted[i].key, 8, row);
            if (!checkpoint_row(writer, fixture->features->table[t], sorted[i].key, row, 8, &err))
                fail_msg("%s", err.message);
        }
    }
    if (epoch)
        snprintf(manifest, sizeof manifest,
                 "{\"delta\":{\"topic\":\"deltas\",\"epoch\":%" PRIu64 ",\"sequence\":%" PRIu64 "}}", epoch, sequence);
    if (!checkpoint_finish(writer, manifest, 100, &version, &err)) fail_msg("%s", err.message);
    model_destroy(model);
    free(text);
    return version;
}

/* Of the directory's current version. */
static inline struct scorer *fixture_scorer(const char *directory)
{
    struct cs_error err = { 0 };
    struct checkpoint *checkpoint = checkpoint_open(directory, true, &err);
    struct scorer *scorer = checkpoint ? scorer_create(checkpoint, &err) : NULL;
    if (!scorer) fail_msg("%s", err.message);
    return scorer;
}

static inline void records_add(struct records *records, const struct delta_encoder *encoder)
{
    assert_true(records->count < RECORDS_MAX);
    struct record *record = &records->record[records->count++];
    record->size = encoder->record.size;
    record->bytes = malloc(record->size);           /* its own: ASan sees what is read past its end */
    assert_non_null(record->bytes);
    memcpy(record->bytes, encoder->record.data, record->size);
}

static inline void records_release(struct records *records)
{
    for (size_t i = 0; i < records->count; i++) free(records->record[i].bytes);
    records->count = 0;
}

struct delta_making { struct delta_encoder encoder; struct records *records; uint32_t tensors; bool counts; };

static inline bool delta_making_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    struct delta_making *making = self;
    size_t offset = 0, bytes = tensor_bytes(tensor);
    (void)err;
    if (tensor->role != TENSOR_SCORING) return true;
    making->tensors++;
    while (!making->counts && (offset < bytes || (!bytes && !offset))) {
        assert_true(delta_encode_dense(&making->encoder, tensor, &offset));
        records_add(making->records, &making->encoder);
        if (!bytes) break;
    }
    return true;
}

/* All that differs between the states: as deltas of a daemon have it. */
static inline void delta_make(const struct fixture *fixture, const struct state *old, const struct state *state,
                              struct delta_place place, uint64_t base, struct records *records)
{
    struct delta_making making = { .records = records, .counts = true };
    static const int64_t learned[2] = { 1700000000123, 1700000000456 };
    struct delta_begin begin = { .base = base, .watermark = 1700000000500 + (int64_t)place.sequence,
                                 .steps = 40 + place.sequence, .created = 1700000001000 + (int64_t)place.sequence,
                                 .samples = 2,
                                 .sample = (const unsigned char *)learned, .fingerprint = "model" };
    struct model *model = fixture_model(fixture, state->tensors);
    records->count = 0;
    for (int pass = 0; pass < 2; pass++) {          /* counted, then written */
        for (size_t t = 0; t < fixture->features->table_count; t++) {
            uint64_t key[FIXTURE_KEYS], gone[FIXTURE_KEYS];
            float row[FIXTURE_KEYS][8];
            uint32_t keys = 0, went = 0;
            for (size_t i = 0; i < FIXTURE_KEYS; i++) {
                unsigned seed = state->row[t][i];
                if (seed == old->row[t][i]) continue;
                if (seed) fixture_row(seed, fixture->features->table[t], fixture_key(i), 8, row[keys]);
                if (seed) key[keys++] = fixture_key(i);
                else gone[went++] = fixture_key(i);
            }
            begin.rows += pass ? 0 : keys;
            begin.gone += pass ? 0 : went;
            const char *table = fixture->features->table[t];
            if (pass && keys) {
                assert_true(delta_encode_rows(&making.encoder, table, 8, keys, key, row[0]));
                records_add(records, &making.encoder);
            }
            if (pass && went) {
                assert_true(delta_encode_gone(&making.encoder, table, went, gone));
                records_add(records, &making.encoder);
            }
        }
        model_tensors(model, delta_making_tensor, &making, NULL);
        if (pass) break;
        begin.tensors = making.tensors;
        making.counts = false;
        assert_true(delta_encode_begin(&making.encoder, &place, &begin));
        records_add(records, &making.encoder);
    }
    assert_true(delta_encode_commit(&making.encoder));
    records_add(records, &making.encoder);
    delta_encoder_release(&making.encoder);
    model_destroy(model);
}

/* States 0 to deltas, and the deltas 1 to deltas between them: arrays of one more. Versions count from `version`. */
static inline void chain_make(const struct fixture *fixture, unsigned deltas, uint64_t epoch, uint64_t version,
                              struct state *state, struct records *sent)
{
    state_all(fixture, &state[0], 1);
    for (unsigned i = 1; i <= deltas; i++) {
        state[i] = state[i - 1];
        state_step(fixture, &state[i], i + 1);
        delta_make(fixture, &state[i - 1], &state[i], (struct delta_place){ epoch, i, version + i }, i - 1, &sent[i]);
    }
}

#endif
