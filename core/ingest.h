/* Events in, in stream order; batches of examples out. The daemon feeds it from Kafka, `coldstreamctl train` from a
 * file: the same code, so the same batches.
 *
 *   event -> [impression without behaviors: attach history] -> joiner -> example -> [hold_out_new] -> open batch
 *         -> batch
 *
 * The open batch closes when it has batch.size examples, or when an example comes that was released at or after the
 * first one's `released` + max_delay (that example opens the next), or when the clock is past that moment and the
 * joiner has nothing more to release before it. Its composition thus depends on the stream alone.
 *
 * Delayed validation: the impressions of a share of users (`delayed`, by hash of the user id, so that GAUC sees whole
 * users) are handed out as they are shown, too: numbered (example.shown, from 1; what comes twice gets no number), in
 * batches marked shown_only, each before the next batch that is learned, or once batch.size of them wait. Scored in
 * this order they meet the parameters after exactly the batches that closed before they came: the score that a reader
 * would have been given who follows every step. An event `example` is shown and learned at once: SHOWN_NOW.
 *
 * The clock is the largest event time pushed; ingest_advance moves it where the stream is idle. */
#ifndef CORE_INGEST_H
#define CORE_INGEST_H

#include "core/batch.h"
#include "core/history.h"
#include "core/joiner.h"
#include "core/options.h"

struct ingest_options {
    struct join_options join;
    struct history_options history;
    struct batch_options batch;
    double hold_out_new, delayed;
};

struct ingest;
struct ingest *ingest_create(const struct features *features, const struct ingest_options *options,
                             struct cs_error *err);
void ingest_destroy(struct ingest *ingest);
void ingest_set_join_window(struct ingest *ingest, int64_t window);
void ingest_push(struct ingest *ingest, struct event *event);      /* takes what the event owns */
void ingest_advance(struct ingest *ingest, int64_t clock);
void ingest_finish(struct ingest *ingest);     /* end of a file: all pending leaves, the open batch closes */
int64_t ingest_clock(const struct ingest *ingest);                 /* INT64_MIN before the first event */
/* A closed batch or one that is shown_only, built into `arena`; NULL: there is none. Call until NULL after each push or
 * advance. */
struct batch *ingest_pop(struct ingest *ingest, struct arena *arena);
/* Closed batches wait: pop before pushing more. Never because of pending joins: those only resolve by further events,
 * so a joiner at max_pending lets its oldest go early instead (join_counts.forced). */
struct join_counts ingest_counts(const struct ingest *ingest);
struct join_held ingest_held(const struct ingest *ingest);
size_t ingest_pending(const struct ingest *ingest);
size_t ingest_open(const struct ingest *ingest);                   /* examples in the open batch */
size_t ingest_bytes(const struct ingest *ingest);
/* Migration: of all that wait, in the joiner, in the open batch and to be scored. Call when ingest_pop has returned
 * NULL. */
void ingest_replace_examples(struct ingest *ingest, example_replace *replace, void *self);
/* Joiner, histories, open batch, impressions to be scored, clock. Call when ingest_pop has returned NULL. */
bool ingest_save(struct ingest *ingest, struct state_writer *writer, struct cs_error *err);
bool ingest_load(struct ingest *ingest, struct state_reader *reader, struct cs_error *err);

#endif
