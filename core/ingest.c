/* Histories, joiner and open batch in one, so that daemon and `train` cut the same batches from the same stream. */
#include "core/ingest.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const char section[] = "ingest", section_open[] = "ingest.open";

/* Another hash than that of the keys, so that who is held out has nothing to do with where rows lie. */
static const uint64_t HOLD_OUT_SEED = UINT64_C(0x686f6c646f7574);

struct cut {
    struct example **example;
    size_t count;
};

struct ingest {
    const struct features *features;
    struct ingest_options options;
    struct joiner *joiner;
    struct history *history;
    int64_t clock;
    struct example **open; /* [batch.size] */
    size_t open_count;
    struct cut *closed; /* ring-less queue: [closed_begin, closed_end) */
    size_t closed_begin, closed_end, closed_capacity;
    size_t bytes; /* of the examples in open and closed */
};

static void *grow(void *memory, size_t bytes)
{
    void *grown = realloc(memory, bytes);
    if (!grown) abort();
    return grown;
}

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
    ingest->open = calloc(options->batch.size, sizeof *ingest->open);
    if (ingest->history && ingest->joiner && ingest->open) return ingest;
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
    cut_release(&(struct cut){ ingest->open, ingest->open_count });
    joiner_destroy(ingest->joiner);
    history_destroy(ingest->history);
    free(ingest);
}

void ingest_set_join_window(struct ingest *ingest, int64_t window) { joiner_set_window(ingest->joiner, window); }

static void close_batch(struct ingest *ingest)
{
    if (!ingest->open_count) return;
    if (ingest->closed_begin == ingest->closed_end) ingest->closed_begin = ingest->closed_end = 0;
    if (ingest->closed_end == ingest->closed_capacity) {
        ingest->closed_capacity = ingest->closed_capacity ? ingest->closed_capacity * 2 : 8;
        ingest->closed = grow(ingest->closed, ingest->closed_capacity * sizeof *ingest->closed);
    }
    struct cut *cut = &ingest->closed[ingest->closed_end++];
    *cut = (struct cut){ grow(NULL, ingest->open_count * sizeof *cut->example), ingest->open_count };
    memcpy(cut->example, ingest->open, ingest->open_count * sizeof *cut->example);
    ingest->open_count = 0;
}

static bool is_held_out(const struct ingest *ingest, uint64_t user)
{
    double share = ingest->options.hold_out_new;
    return share > 0 && (double)XXH3_64bits_withSeed(&user, sizeof user, HOLD_OUT_SEED) * 0x1p-64 < share;
}

/* Event time from which on an example belongs to the next batch. */
static int64_t open_until(const struct ingest *ingest)
{
    return ingest->open[0]->released + ingest->options.batch.max_delay;
}

static void add_to_batch(struct ingest *ingest, struct example *example)
{
    if (example->behavior_count && is_held_out(ingest, example->user))
        example = example_with_behaviors(example, NULL, 0);
    if (ingest->open_count && ingest->options.batch.max_delay && example->released >= open_until(ingest))
        close_batch(ingest);
    ingest->open[ingest->open_count++] = example;
    ingest->bytes += example->size;
    if (ingest->open_count == ingest->options.batch.size) close_batch(ingest);
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
    if (ingest->open_count && ingest->options.batch.max_delay && clock > open_until(ingest)) close_batch(ingest);
}

static struct example *with_history(struct ingest *ingest, struct example *example)
{
    size_t count, most = ingest->features->behavior_max_length;
    const uint64_t *item = history_of(ingest->history, example->user, &count);
    if (!count || !most) return example;
    size_t kept = count < most ? count : most;
    return example_with_behaviors(example, item + count - kept, kept);
}

void ingest_push(struct ingest *ingest, struct event *event)
{
    ingest_advance(ingest, event->time);
    if (event->example && !event->example->has_behaviors) event->example = with_history(ingest, event->example);
    if (event->kind == EVENT_EXAMPLE) {
        struct example *example = event->example;
        event->example = NULL;
        example->released = example->time;
        if (example->clicked) remember_click(ingest, example);
        add_to_batch(ingest, example);
        event_release(event);
        return;
    }
    joiner_push(ingest->joiner, event);
    take_joined(ingest);
}

void ingest_finish(struct ingest *ingest)
{
    joiner_release_all(ingest->joiner);
    take_joined(ingest);
    close_batch(ingest);
}

void ingest_replace_examples(struct ingest *ingest, example_replace *replace, void *self)
{
    assert(ingest->closed_begin == ingest->closed_end);
    joiner_replace_examples(ingest->joiner, replace, self);
    for (size_t i = 0; i < ingest->open_count; i++) {
        ingest->bytes -= ingest->open[i]->size;
        ingest->open[i] = replace(self, ingest->open[i]);
        ingest->bytes += ingest->open[i]->size;
    }
}

int64_t ingest_clock(const struct ingest *ingest) { return ingest->clock; }

struct batch *ingest_pop(struct ingest *ingest, struct arena *arena)
{
    if (ingest->closed_begin == ingest->closed_end) return NULL;
    struct cut *cut = &ingest->closed[ingest->closed_begin++];
    struct batch *batch = batch_build(ingest->features, cut->example, cut->count, arena);
    for (size_t i = 0; i < cut->count; i++) ingest->bytes -= cut->example[i]->size;
    cut_release(cut);
    return batch;
}

struct join_counts ingest_counts(const struct ingest *ingest) { return joiner_counts(ingest->joiner); }
struct join_held ingest_held(const struct ingest *ingest) { return joiner_held(ingest->joiner); }
size_t ingest_pending(const struct ingest *ingest) { return joiner_pending(ingest->joiner); }
size_t ingest_open(const struct ingest *ingest) { return ingest->open_count; }

size_t ingest_bytes(const struct ingest *ingest)
{
    return sizeof *ingest + joiner_bytes(ingest->joiner) + history_bytes(ingest->history) + ingest->bytes +
           ingest->options.batch.size * sizeof *ingest->open + ingest->closed_capacity * sizeof *ingest->closed;
}

/* Saved: ingest, 0 is the header; ingest.open, 0 the open batch's examples, one after the other, where it has any. */
struct header {
    uint64_t version;
    int64_t clock;
    uint64_t open_count;
};

enum { VERSION = 1 };

bool ingest_save(struct ingest *ingest, struct state_writer *writer, struct cs_error *err)
{
    assert(ingest->closed_begin == ingest->closed_end);
    struct header header = { VERSION, ingest->clock, ingest->open_count };
    size_t size = 0;
    for (size_t i = 0; i < ingest->open_count; i++) size += ingest->open[i]->size;
    uint8_t *bytes = malloc(size + 1), *out = bytes;
    if (!bytes) return cs_fail(err, CS_FAILED, "out of memory: saving the open batch");
    for (size_t i = 0; i < ingest->open_count; i++, out += ingest->open[i - 1]->size)
        memcpy(out, ingest->open[i], ingest->open[i]->size);
    bool ok = writer->put(writer, section, 0, &header, sizeof header, err) &&
              (size ? writer->put(writer, section_open, 0, bytes, size, err)
                    : writer->full || writer->remove(writer, section_open, 0, err));
    free(bytes);
    return ok && joiner_save(ingest->joiner, writer, err) && history_save(ingest->history, writer, err);
}

static bool load_open(struct ingest *ingest, uint64_t count, const uint8_t *in, size_t size, struct cs_error *err)
{
    for (uint64_t i = 0; i < count; i++) {
        const struct example *example = (const struct example *)in;
        if (size < sizeof *example || example->size > size || !example_check(ingest->features, in, example->size))
            return cs_fail(err, CS_REFUSED, "the open batch: example %zu of %zu is damaged, or of other features",
                           (size_t)i, (size_t)count);
        add_to_batch(ingest, example_copy(example)); /* a smaller batch.size than when it was saved closes it here */
        in += example->size;
        size -= example->size;
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
    if (!reader->get(reader, section_open, 0, &bytes, &size, err)) return false;
    if (!load_open(ingest, header.open_count, bytes, bytes ? size : 0, err)) return false;
    ingest->clock = header.clock;
    return joiner_load(ingest->joiner, reader, err) && history_load(ingest->history, reader, err);
}
