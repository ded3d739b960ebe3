/* Any bytes as what a snapshot keeps of the learner, the joiner, histories, metrics and scores of shown impressions:
 * refused, or it goes on learning from there, and what it saves then can be loaded. The state is a small one, changed.
 * The first byte says whether it is learned on. Then come changes: which record (u16), a place (u16), what and how many
 * (u8), the bytes: these stand at the place, or the record ends there, or is in that slot, too, or goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/decode.h"
#include "core/features.h"
#include "core/metrics.h"
#include "core/shown.h"
#include "daemon/assemble.h"
#include "tests/unit/memory_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static const char text[] =
    "features:\n"
    "  user: [{name: age, bucketize: [18, 25]}, {name: income, kind: dense}]\n"
    "  context: [{name: hour}]\n"
    "  item: [{name: item_id, table: item}]\n"
    "  behavior: {table: item, max_length: 3}\n"
    "embedding: {dimension: 2, tables: {item: {admit_after: 2, max_rows: 6, expire_after: 1h}}}\n"
    "batch: {size: 4, max_delay: 10s}\n"
    "join: {window: 3s, late_click: correct}\n"
    "evaluation: {delayed: 0.6}\n"
    "model:\n"
    "  ranking: {tower: base_dnn, hidden: [3]}\n"
    "  zero_shot: {kind: mail, target: sequence, attention: 2, encoder: [3, 2, 3], decoder: [2, 3]}\n";

enum { EVENTS = 60, MORE = 24, CUT = 0x40, SLOT = 0x80, GONE = 0xc0, WHAT = 0xc0 };

static struct cs_config *config;
static struct features *features;
static struct decoder *decoder;
static struct memory_state *base;

struct parts {
    struct learner *learner;
    struct ingest *ingest;
    struct metrics *metrics;
    struct shown *shown;
    struct arena *arena;
};

static struct parts parts_create(void)
{
    struct cs_error err = { 0 };
    struct parts parts = {
        .learner = assemble_learner(config, features, &parallel_serial, &err),
        .ingest = assemble_ingest(config, features, config->batch.max_delay, &err),
        .metrics = metrics_create(8),
        .shown = shown_create(8),
        .arena = arena_create(1024),
    };
    if (!parts.learner || !parts.ingest || !parts.metrics || !parts.shown || !parts.arena) abort();
    return parts;
}

static void parts_destroy(struct parts *parts)
{
    learner_destroy(parts->learner);
    ingest_destroy(parts->ingest);
    metrics_destroy(parts->metrics);
    shown_destroy(parts->shown);
    arena_destroy(parts->arena);
}

static bool parts_save(struct parts *parts, struct memory_state *state)
{
    struct cs_error err = { 0 };
    return learner_save(parts->learner, &state->writer, &err) && ingest_save(parts->ingest, &state->writer, &err) &&
           metrics_save(parts->metrics, &state->writer, &err) && shown_save(parts->shown, &state->writer, &err);
}

static bool parts_load(struct parts *parts, struct memory_state *state, struct cs_error *err)
{
    return learner_load(parts->learner, &state->reader, err) && ingest_load(parts->ingest, &state->reader, err) &&
           metrics_load(parts->metrics, &state->reader, err) && shown_load(parts->shown, &state->reader, err);
}

static void take_batches(struct parts *parts)
{
    struct batch *batch;
    while ((batch = ingest_pop(parts->ingest, parts->arena))) {
        const float *score = learner_score(parts->learner, batch);
        if (batch->shown_only) {
            shown_keep(parts->shown, batch, score);
            continue;
        }
        metrics_observe(parts->metrics, batch, score);
        shown_judge(parts->shown, batch, score);
        learner_learn(parts->learner, batch);
    }
}

/* Users with and without behaviors of their own, clicks in time, late and of nothing. */
static void push_events(struct parts *parts, int begin, int end)
{
    for (int i = begin; i < end; i++) {
        char record[256];
        struct event event;
        struct cs_error err = { 0 };
        if (i % 3 < 2)
            snprintf(record, sizeof record,
                     "{\"event\":\"impression\",\"impression_id\":\"r%d\",\"ts\":%d,\"user_id\":\"u%d\",%s"
                     "\"user\":{\"age\":%d,\"income\":%d.5},\"context\":{\"hour\":%d},\"item_id\":\"i%d\"}",
                     i, 1000 * i, i % 5, i % 4 ? "" : "\"behaviors\":[\"i1\",\"i2\"],", 15 + i % 20, i % 7, i % 24,
                     i % 8);
        else
            snprintf(record, sizeof record, "{\"event\":\"click\",\"impression_id\":\"r%d\",\"ts\":%d}",
                     i - (i % 4 ? 1 : 8), 1000 * i);
        if (decode(decoder, record, strlen(record), DECODE_KIND_UNSAID, &event, &err) != DECODE_OK) abort();
        ingest_push(parts->ingest, &event);
        take_batches(parts);
    }
}

static void start(void)
{
    struct cs_error err = { 0 };
    struct config_problems problems;
    config = config_parse("fuzz", text, strlen(text), CONFIG_FOR_TRAIN, &problems);
    if (!config) fputs(config_problems_text(&problems), stderr);
    if (!config || !(features = features_create(&config->features, &err)) ||
        !(decoder = assemble_decoder(config, features, &err)))
        abort();
    config_problems_release(&problems);
    struct parts parts = parts_create();
    push_events(&parts, 0, EVENTS);
    base = memory_state_create();
    if (!parts_save(&parts, base)) abort();
    parts_destroy(&parts);
}

static void change(struct memory_state *state, const uint8_t *bytes, size_t size)
{
    for (size_t at = 0; at + 5 <= size && state->count;) {
        size_t which = (bytes[at] | (size_t)bytes[at + 1] << 8) % state->count;
        struct memory_block *block = &state->block[which], is = *block;
        size_t place = bytes[at + 2] | (size_t)bytes[at + 3] << 8, count = bytes[at + 4] % 8 + 1u;
        unsigned what = bytes[at + 4] & WHAT;
        at += 5;
        if (what == CUT) {
            block->size = place < block->size ? place : block->size;
            block->bytes = need(realloc(block->bytes, block->size + 1));
        } else if (what == GONE) {
            memory_forget(state, is.section, is.id);
        } else if (what == SLOT) {
            if (place != is.id) memory_store(state, is.section, place, is.bytes, is.size);
        } else {
            if (count > size - at) count = size - at;
            if (place + count <= block->size) memcpy((uint8_t *)block->bytes + place, bytes + at, count);
            at += count;
        }
    }
}

/* Word k of the same record before it was changed; 0: there is none. */
static uint64_t word_of_base(const struct memory_block *changed, size_t k)
{
    const struct memory_block *block = memory_find(base, changed->section, changed->id);
    return block && block->size / sizeof(uint64_t) > k ? ((const uint64_t *)block->bytes)[k] : 0;
}

/* Blocks and chunks are made as many as the state says, up to STATE_SLOTS_MAX slots: memory that a fuzzer has not. */
static bool asks_for_much_memory(const struct memory_state *state)
{
    enum { MUCH = 4096 };
    for (size_t i = 0; i < state->count; i++) {
        const struct memory_block *block = &state->block[i];
        const uint64_t *word = block->bytes;
        if (block->id || (strcmp(block->section, "joiner") && strcmp(block->section, "history") &&
                          strncmp(block->section, "table.", 6)))
            continue;
        for (size_t k = 0; k < block->size / sizeof *word; k++)
            if (word[k] > MUCH && word[k] <= STATE_SLOTS_MAX && word[k] != word_of_base(block, k)) return true;
    }
    return false;
}

static void save_and_load_again(struct parts *parts)
{
    struct cs_error err = { 0 };
    struct memory_state *state = memory_state_create();
    struct parts again = parts_create();
    if (!parts_save(parts, state) || !parts_load(&again, state, &err)) abort();
    parts_destroy(&again);
    memory_state_destroy(state);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (!base) start();
    if (!size) return 0;
    struct cs_error err = { 0 };
    struct memory_state *state = memory_state_create();
    for (size_t i = 0; i < base->count; i++)
        memory_store(state, base->block[i].section, base->block[i].id, base->block[i].bytes, base->block[i].size);
    change(state, bytes + 1, size - 1);
    if (asks_for_much_memory(state)) {
        memory_state_destroy(state);
        return 0;
    }
    struct parts parts = parts_create();
    if (parts_load(&parts, state, &err)) {
        take_batches(&parts);
        if (bytes[0] % 2) push_events(&parts, EVENTS, EVENTS + MORE);
        save_and_load_again(&parts);
    } else if (err.code != CS_REFUSED) {
        abort();
    }
    parts_destroy(&parts);
    memory_state_destroy(state);
    return 0;
}
