/* Scores by number: blocks of neighbouring numbers, which come, and mostly go, together. */
#include "core/shown.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

enum { BLOCK = 1024, SLOTS_MAX = 1 << 24, STATE_VERSION = 1 };

const char shown_metrics_section[] = "delayed";
static const char section[] = "shown", section_scores[] = "shown.scores";

/* Also the bytes of a block in the state. */
struct scores {
    uint64_t first;             /* number of score[0], a multiple of BLOCK */
    float score[BLOCK];         /* NaN: none */
};

struct block {
    struct scores scores;
    uint32_t count, slot;
    bool is_dirty;
};

/* Where blocks lie in the state. A slot is used again, so that slots stay small. */
struct slot {
    struct block *block;
    bool is_stored;
};

struct shown {
    struct metrics *metrics;
    struct block **block;       /* ascending by first */
    size_t blocks, capacity;
    struct slot *slot;
    size_t slots;
    size_t count;
    float *judged;              /* [judged_capacity] of a batch */
    size_t judged_capacity;
};

struct shown *shown_create(size_t window)
{
    struct shown *shown = calloc(1, sizeof *shown);
    if (!shown) return NULL;
    shown->metrics = metrics_create_named(window, shown_metrics_section);
    if (shown->metrics) return shown;
    free(shown);
    return NULL;
}

void shown_destroy(struct shown *shown)
{
    if (!shown) return;
    for (size_t i = 0; i < shown->blocks; i++) free(shown->block[i]);
    metrics_destroy(shown->metrics);
    free(shown->block);
    free(shown->slot);
    free(shown->judged);
    free(shown);
}

const struct metrics *shown_metrics(const struct shown *shown) { return shown->metrics; }
size_t shown_waiting(const struct shown *shown) { return shown->count; }

/* ---- blocks */

/* Index of the first block whose numbers do not all lie before `number`. */
static size_t place_of(const struct shown *shown, uint64_t number)
{
    size_t low = 0, high = shown->blocks;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (shown->block[middle]->scores.first + (BLOCK - 1) < number) low = middle + 1;
        else high = middle;
    }
    return low;
}

static bool holds(const struct shown *shown, size_t place, uint64_t number)
{
    return place < shown->blocks && shown->block[place]->scores.first <= number;
}

static struct slot *slot_at(struct shown *shown, size_t number)
{
    if (number >= shown->slots) {
        shown->slot = need(realloc(shown->slot, (number + 1) * sizeof *shown->slot));
        memset(shown->slot + shown->slots, 0, (number + 1 - shown->slots) * sizeof *shown->slot);
        shown->slots = number + 1;
    }
    return &shown->slot[number];
}

static struct block *add_block(struct shown *shown, size_t place, uint64_t first, size_t slot)
{
    if (shown->blocks == shown->capacity) {
        shown->capacity = shown->capacity ? 2 * shown->capacity : 16;
        shown->block = need(realloc(shown->block, shown->capacity * sizeof *shown->block));
    }
    struct block *block = need(malloc(sizeof *block));
    *block = (struct block){ .scores.first = first, .slot = (uint32_t)slot, .is_dirty = true };
    for (size_t i = 0; i < BLOCK; i++) block->scores.score[i] = NAN;
    memmove(&shown->block[place + 1], &shown->block[place], (shown->blocks - place) * sizeof *shown->block);
    shown->block[place] = block;
    shown->blocks++;
    slot_at(shown, slot)->block = block;
    return block;
}

static size_t free_slot(const struct shown *shown)
{
    size_t slot = 0;
    while (slot < shown->slots && shown->slot[slot].block) slot++;
    return slot;
}

static void remove_block(struct shown *shown, size_t place)
{
    struct block *block = shown->block[place];
    shown->slot[block->slot].block = NULL;
    shown->blocks--;
    memmove(&shown->block[place], &shown->block[place + 1], (shown->blocks - place) * sizeof *shown->block);
    free(block);
}

/* ---- scores */

static void keep(struct shown *shown, uint64_t number, float score)
{
    size_t place = place_of(shown, number);
    struct block *block = holds(shown, place, number)
                              ? shown->block[place]
                              : add_block(shown, place, number - number % BLOCK, free_slot(shown));
    assert(isnan(block->scores.score[number % BLOCK]));
    block->scores.score[number % BLOCK] = score;
    block->count++;
    block->is_dirty = true;
    shown->count++;
}

/* NaN: there is none. */
static float take(struct shown *shown, uint64_t number)
{
    size_t place = place_of(shown, number);
    if (!holds(shown, place, number)) return NAN;
    struct block *block = shown->block[place];
    float score = block->scores.score[number % BLOCK];
    if (isnan(score)) return NAN;
    block->scores.score[number % BLOCK] = NAN;
    block->is_dirty = true;
    shown->count--;
    if (!--block->count) remove_block(shown, place);
    return score;
}

void shown_keep(struct shown *shown, const struct batch *batch, const float *click_probability)
{
    for (size_t i = 0; i < batch->size; i++)
        if (isfinite(click_probability[i])) keep(shown, batch->shown[i], click_probability[i]);
}

void shown_judge(struct shown *shown, const struct batch *batch, const float *click_probability)
{
    if (batch->size > shown->judged_capacity) {
        shown->judged_capacity = batch->size;
        shown->judged = need(realloc(shown->judged, batch->size * sizeof *shown->judged));
    }
    for (size_t i = 0; i < batch->size; i++) {
        uint64_t number = batch->shown[i];
        shown->judged[i] = number == SHOWN_NOW ? click_probability[i] : number == SHOWN_NOT ? NAN : take(shown, number);
    }
    metrics_observe(shown->metrics, batch, shown->judged);
}

/* ---- state
 *
 *   shown, 0             struct header
 *   shown.scores, slot   struct scores */

struct header { uint64_t version, blocks, scores; };

bool shown_save(struct shown *shown, struct state_writer *writer, struct cs_error *err)
{
    struct header header = { STATE_VERSION, shown->blocks, shown->count };
    if (!writer->put(writer, section, 0, &header, sizeof header, err)) return false;
    for (size_t i = 0; i < shown->slots; i++) {
        struct slot *slot = &shown->slot[i];
        struct block *block = slot->block;
        bool is_stored = slot->is_stored && !writer->full;
        if (block && (block->is_dirty || !is_stored)) {
            if (!writer->put(writer, section_scores, i, &block->scores, sizeof block->scores, err)) return false;
            block->is_dirty = false;
        } else if (!block && is_stored) {
            if (!writer->remove(writer, section_scores, i, err)) return false;
        }
        slot->is_stored = block != NULL;
    }
    return metrics_save(shown->metrics, writer, err);
}

static bool load_block(void *argument, uint64_t slot, const void *bytes, size_t size, struct cs_error *err)
{
    struct shown *shown = argument;
    const struct scores *scores = bytes;
    uint32_t count = 0;
    if (size != sizeof *scores || scores->first % BLOCK || slot >= SLOTS_MAX) goto damaged;
    for (size_t i = 0; i < BLOCK; i++) {
        float score = scores->score[i];
        if (isnan(score)) continue;
        if (!(score >= 0 && score <= 1)) goto damaged;
        count++;
    }
    size_t place = place_of(shown, scores->first);
    if (!count || holds(shown, place, scores->first)) goto damaged;
    struct block *block = add_block(shown, place, scores->first, (size_t)slot);
    block->scores = *scores;
    block->count = count;
    block->is_dirty = false;
    shown->slot[slot].is_stored = true;
    shown->count += count;
    return true;
damaged:
    return cs_fail(err, CS_REFUSED, "section %s: block %zu is damaged", section_scores, (size_t)slot);
}

bool shown_load(struct shown *shown, struct state_reader *reader, struct cs_error *err)
{
    assert(!shown->blocks);
    const void *bytes;
    size_t size;
    struct header header;
    if (!reader->get(reader, section, 0, &bytes, &size, err)) return false;
    if (!bytes || size != sizeof header)
        return cs_fail(err, CS_REFUSED, "section %s: %zu bytes, %zu are needed", section, bytes ? size : 0,
                       sizeof header);
    memcpy(&header, bytes, sizeof header);
    if (header.version != STATE_VERSION)
        return cs_fail(err, CS_REFUSED, "section %s: version %d, %d is expected", section, (int)header.version,
                       STATE_VERSION);
    if (!reader->each(reader, section_scores, load_block, shown, err)) return false;
    if (shown->blocks != header.blocks || shown->count != header.scores)
        return cs_fail(err, CS_REFUSED, "section %s: %zu scores in %zu blocks are stored, %zu in %zu are expected",
                       section_scores, shown->count, shown->blocks, (size_t)header.scores, (size_t)header.blocks);
    return metrics_load(shown->metrics, reader, err);
}
