/* Histories, joiner and open batch in one, so that daemon and `train` cut the same batches from the same stream. */
#include "core/ingest.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/need.h"

static const char section[] = "ingest", section_open[] = "ingest.open", section_shown[] = "ingest.shown";

/* Other hashes than that of the keys, so that who is held out, or judged delayed, has nothing to do with where rows
 * lie, nor with each other. */
static const uint64_t HOLD_OUT_SEED = UINT64_C(0x686f6c646f7574), SHOWN_SEED = UINT64_C(0x73686f776e);

struct cut {
    struct example **example;
    size_t count;
    bool shown_only;
};

/* Examples on their way into a cut. */
struct open {
    struct example **example; /* [batch.size] */
    size_t count;
};

struct ingest {
    const struct features *features;
    struct ingest_options options;
    struct joiner *joiner;
    struct history *history;
    int64_t clock;
    struct open open, shown;  /* to be learned; impressions to be scored as they were shown */
    uint64_t numbers;         /* given to impressions that are judged by the score of their showing */
    struct cut *closed; /* ring-less queue: [closed_begin, closed_end) */
    size_t closed_begin, closed_end, closed_capacity;
    size_t bytes; /* of the examples in open, shown and closed */
};

static void remember_click(void *argument, const struct example *impression)
{
    struct ingest *ingest = argument;
    if (!impression->has_behaviors) history_append(ingest->history, impression->user, impression->item);
}

struct ingest *ingest_create(const struct features *features, const struct ingest_options *options,
                             struct cs_error *err)
{
    struct ingest *ingest = NULL;
    if (!options->batch.size) {
        cs_fail(err, CS_CONFIG, "batch.size is 0, at least 1 is allowed");
        return NULL;
    }
    ingest = calloc(1, sizeof *ingest);
    if (!ingest) goto fail;
    ingest->features = features;
    ingest->options = *options;
    ingest->clock = INT64_MIN;
    ingest->history = history_create(&options->history);
    ingest->joiner = joiner_create(features, &options->join, remember_click, ingest);
    ingest->open.example = calloc(options->batch.size, sizeof *ingest->open.example);
    ingest->shown.example = calloc(options->batch.size, sizeof *ingest->shown.example);
    if (ingest->history && ingest->joiner && ingest->open.example && ingest->shown.example) return ingest;
fail:
    ingest_destroy(ingest);
    cs_fail(err, CS_FAILED, "out of memory: joiner and histories");
    return NULL;
}

static void cut_release(struct cut *cut)
{
    for (size_t i = 0; i < cut->count; i++) free(cut->example[i]);
    free(cut->example);
}

void ingest_destroy(struct ingest *ingest)
{
    if (!ingest) return;
    for (size_t i = ingest->closed_begin; i < ingest->closed_end; i++) cut_release(&ingest->closed[i]);
    free(ingest->closed);
    cut_release(&(struct cut){ .example = ingest->open.example, .count = ingest->open.count });
    cut_release(&(struct cut){ .example = ingest->shown.example, .count = ingest->shown.count });
    joiner_destroy(ingest->joiner);
    history_destroy(ingest->history);
    free(ingest);
}

void ingest_set_join_window(struct ingest *ingest, int64_t window) { joiner_set_window(ingest->joiner, window); }

static void hand_out(struct ingest *ingest, struct open *open)
{
    if (!open->count) return;
    if (ingest->closed_begin == ingest->closed_end) ingest->closed_begin = ingest->closed_end = 0;
    if (ingest->closed_end == ingest->closed_capacity) {
        ingest->closed_capacity = ingest->closed_capacity ? ingest->closed_capacity * 2 : 8;
        ingest->closed = need(realloc(ingest->closed, ingest->closed_capacity * sizeof *ingest->closed));
    }
    struct cut *cut = &ingest->closed[ingest->closed_end++];
    *cut = (struct cut){ .example = need(malloc(open->count * sizeof *cut->example)),
                         .count = open->count,
                         .shown_only = open == &ingest->shown };
    memcpy(cut->example, open->example, open->count * sizeof *cut->example);
    open->count = 0;
}

/* What was shown before is scored before: by what had been learned when it was shown. */
static void close_batch(struct ingest *ingest)
{
    if (ingest->open.count) hand_out(ingest, &ingest->shown);
    hand_out(ingest, &ingest->open);
}

static bool is_in(uint64_t user, uint64_t seed, double share)
{
    return share >= 1 || (share > 0 && (double)XXH3_64bits_withSeed(&user, sizeof user, seed) * 0x1p-64 < share);
}

static struct example *with_hold_out(const struct ingest *ingest, struct example *example)
{
    if (!example->behavior_count || !is_in(example->user, HOLD_OUT_SEED, ingest->options.hold_out_new)) return example;
    return example_with_behaviors(example, NULL, 0);
}

/* Event time from which on an example belongs to the next batch. */
static int64_t open_until(const struct ingest *ingest)
{
    return ingest->open.example[0]->released + ingest->options.batch.max_delay;
}

static void add_to_batch(struct ingest *ingest, struct example *example)
{
    example = with_hold_out(ingest, example);
    if (ingest->open.count && ingest->options.batch.max_delay && example->released >= open_until(ingest))
        close_batch(ingest);
    ingest->open.example[ingest->open.count++] = example;
    ingest->bytes += example->size;
    if (ingest->open.count == ingest->options.batch.size) close_batch(ingest);
}

static void add_shown(struct ingest *ingest, struct example *example)
{
    ingest->shown.example[ingest->shown.count++] = example;
    ingest->bytes += example->size;
    if (ingest->shown.count == ingest->options.batch.size) hand_out(ingest, &ingest->shown);
}

static void take_joined(struct ingest *ingest)
{
    struct example *example;
    while ((example = joiner_pop(ingest->joiner))) add_to_batch(ingest, example);
}

void ingest_advance(struct ingest *ingest, int64_t clock)
{
    if (clock <= ingest->clock) return;
    ingest->clock = clock;
    joiner_advance(ingest->joiner, clock);
    take_joined(ingest);
    if (ingest->open.count && ingest->options.batch.max_delay && clock > open_until(ingest)) close_batch(ingest);
}

static struct example *with_history(struct ingest *ingest, struct example *example)
{
    size_t count, most = ingest->features->behavior_max_length;
    const uint64_t *item = history_of(ingest->history, example->user, &count);
    if (!count || !most) return example;
    size_t kept = count < most ? count : most;
    return example_with_behaviors(example, item + count - kept, kept);
}

static void push_joined(struct ingest *ingest, struct example *example)
{
    assert(example);
    example->released = example->time;
    if (is_in(example->user, SHOWN_SEED, ingest->options.delayed)) example->shown = SHOWN_NOW;
    if (example->clicked) remember_click(ingest, example);
    add_to_batch(ingest, example);
}

static void push_impression(struct ingest *ingest, struct event *event)
{
    struct example *showing = NULL;
    assert(event->example);
    uint64_t duplicates = joiner_counts(ingest->joiner).duplicate_impressions;
    if (is_in(event->example->user, SHOWN_SEED, ingest->options.delayed)) {
        event->example->shown = ingest->numbers + 1;
        showing = with_hold_out(ingest, example_copy(event->example));
    }
    joiner_push(ingest->joiner, event);
    if (!showing) return;
    if (joiner_counts(ingest->joiner).duplicate_impressions != duplicates) {
        free(showing);
        return;
    }
    ingest->numbers++;
    add_shown(ingest, showing);
}

void ingest_push(struct ingest *ingest, struct event *event)
{
    ingest_advance(ingest, event->time);
    if (event->example && !event->example->has_behaviors) event->example = with_history(ingest, event->example);
    if (event->kind == EVENT_EXAMPLE) {
        struct example *example = event->example;
        event->example = NULL;
        push_joined(ingest, example);
        event_release(event);
        return;
    }
    if (event->kind == EVENT_IMPRESSION) push_impression(ingest, event);
    else joiner_push(ingest->joiner, event);
    take_joined(ingest);
}

void ingest_finish(struct ingest *ingest)
{
    joiner_release_all(ingest->joiner);
    take_joined(ingest);
    close_batch(ingest);
}

static void replace_open(struct ingest *ingest, struct open *open, example_replace *replace, void *self)
{
    for (size_t i = 0; i < open->count; i++) {
        ingest->bytes -= open->example[i]->size;
        open->example[i] = replace(self, open->example[i]);
        ingest->bytes += open->example[i]->size;
    }
}

void ingest_replace_examples(struct ingest *ingest, example_replace *replace, void *self)
{
    assert(ingest->closed_begin == ingest->closed_end);
    joiner_replace_examples(ingest->joiner, replace, self);
    replace_open(ingest, &ingest->open, replace, self);
    replace_open(ingest, &ingest->shown, replace, self);
}

int64_t ingest_clock(const struct ingest *ingest) { return ingest->clock; }

struct batch *ingest_pop(struct ingest *ingest, struct arena *arena)
{
    if (ingest->closed_begin == ingest->closed_end) return NULL;
    struct cut *cut = &ingest->closed[ingest->closed_begin++];
    struct batch *batch = batch_build(ingest->features, cut->example, cut->count, arena);
    batch->shown_only = cut->shown_only;
    for (size_t i = 0; i < cut->count; i++) ingest->bytes -= cut->example[i]->size;
    cut_release(cut);
    return batch;
}

struct join_counts ingest_counts(const struct ingest *ingest) { return joiner_counts(ingest->joiner); }
struct join_held ingest_held(const struct ingest *ingest) { return joiner_held(ingest->joiner); }
size_t ingest_pending(const struct ingest *ingest) { return joiner_pending(ingest->joiner); }
size_t ingest_open(const struct ingest *ingest) { return ingest->open.count; }

size_t ingest_bytes(const struct ingest *ingest)
{
    return sizeof *ingest + joiner_bytes(ingest->joiner) + history_bytes(ingest->history) + ingest->bytes +
           2 * ingest->options.batch.size * sizeof *ingest->open.example +
           ingest->closed_capacity * sizeof *ingest->closed;
}

/* Saved: ingest, 0 is the header; ingest.open, 0 and ingest.shown, 0 their examples, one after the other, where there
 * are any. */
struct header {
    uint64_t version;
    int64_t clock;
    uint64_t open_count, shown_count, numbers;
};

enum { VERSION = 2 };

static bool save_examples(const struct open *open, const char *name, struct state_writer *writer, struct cs_error *err)
{
    size_t size = 0;
    for (size_t i = 0; i < open->count; i++) size += open->example[i]->size;
    if (!size) return writer->full || writer->remove(writer, name, 0, err);
    uint8_t *bytes = malloc(size), *out = bytes;
    if (!bytes) return cs_fail(err, CS_FAILED, "out of memory: saving the open batch");
    for (size_t i = 0; i < open->count; i++) {
        memcpy(out, open->example[i], open->example[i]->size);
        out += open->example[i]->size;
    }
    bool ok = writer->put(writer, name, 0, bytes, size, err);
    free(bytes);
    return ok;
}

bool ingest_save(struct ingest *ingest, struct state_writer *writer, struct cs_error *err)
{
    assert(ingest->closed_begin == ingest->closed_end);
    struct header header = { VERSION, ingest->clock, ingest->open.count, ingest->shown.count, ingest->numbers };
    return writer->put(writer, section, 0, &header, sizeof header, err) &&
           save_examples(&ingest->open, section_open, writer, err) &&
           save_examples(&ingest->shown, section_shown, writer, err) && joiner_save(ingest->joiner, writer, err) &&
           history_save(ingest->history, writer, err);
}

/* A smaller batch.size than when it was saved hands them out here. */
static bool load_examples(struct ingest *ingest, const char *name, uint64_t count,
                          void (*add)(struct ingest *, struct example *), struct state_reader *reader,
                          struct cs_error *err)
{
    const void *bytes;
    size_t size;
    if (!reader->get(reader, name, 0, &bytes, &size, err)) return false;
    const uint8_t *in = bytes;
    if (!bytes) size = 0;
    for (uint64_t i = 0; i < count; i++) {
        const struct example *example = (const struct example *)in;
        if (size < sizeof *example || example->size > size || !example_check(ingest->features, in, example->size))
            return cs_fail(err, CS_REFUSED, "section %s: example %zu of %zu is damaged, or of other features", name,
                           (size_t)i, (size_t)count);
        in += example->size;
        size -= example->size;
        add(ingest, example_copy(example));
    }
    return true;
}

bool ingest_load(struct ingest *ingest, struct state_reader *reader, struct cs_error *err)
{
    const void *bytes;
    size_t size;
    struct header header;
    if (!reader->get(reader, section, 0, &bytes, &size, err)) return false;
    if (!bytes || size != sizeof header)
        return cs_fail(err, CS_REFUSED, "the state of the stream: %s", bytes ? "of another size" : "missing");
    memcpy(&header, bytes, sizeof header);
    if (header.version != VERSION)
        return cs_fail(err, CS_REFUSED, "the state of the stream: version %d, %d is expected", (int)header.version,
                       VERSION);
    if (!load_examples(ingest, section_shown, header.shown_count, add_shown, reader, err) ||
        !load_examples(ingest, section_open, header.open_count, add_to_batch, reader, err))
        return false;
    ingest->clock = header.clock;
    ingest->numbers = header.numbers;
    return joiner_load(ingest->joiner, reader, err) && history_load(ingest->history, reader, err);
}
