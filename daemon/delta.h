/* Deltas (storage/delta_format.h): what changed between two full checkpoints, sent as it is learned.
 *
 *   learn thread    deltas_cut, between two steps: the changed bits are taken, scoring's tensors copied
 *   delta thread    reads the rows as they were at the cut (core/freeze.h), sends the records, waits for their
 *                   acknowledgement
 *
 * One delta is under way at a time; meanwhile changes go on collecting, so that memory is bounded by what changed, and
 * nothing is ever dropped: what could not be sent is owed to the next delta, which is made after a
 * pause. Learning never waits for any of it. */
#ifndef DAEMON_DELTA_H
#define DAEMON_DELTA_H

#include "core/learner.h"
#include "daemon/telemetry.h"
#include "storage/delta_format.h"

/* Where records go. Called from the delta thread, but for stop. */
struct delta_sink {
    void *self;
    /* In order. May wait for room. False: it can't be sent, or stop was called. */
    bool (*send)(void *self, const void *key, size_t key_size, const void *bytes, size_t size, struct cs_error *err);
    bool (*flush)(void *self, struct cs_error *err);    /* waits until all that was sent is acknowledged */
    void (*reset)(void *self);      /* after a failure: what is under way is forgotten, the next delta may be sent */
    void (*stop)(void *self, int64_t milliseconds);     /* any thread: nothing waits for longer than this from now on */
};

struct deltas_options {
    const char *topic;              /* for messages */
    const char *fingerprint;        /* of the features and the model */
    int64_t interval;               /* ms between two cuts, at least */
    int64_t retry;                  /* ms after a failure; doubles up to 30 s */
    int64_t epoch;                  /* ms since the epoch: when this run began */
    uint64_t version;               /* larger than this are made */
};

struct deltas_view {
    struct delta_place newest;      /* acknowledged; version 0: none yet */
    uint64_t sent, failures, failures_in_row;
    uint64_t steps;                 /* taken by the learner at its cut */
    uint64_t rows, gone, bytes;     /* of the newest */
    double seconds;                 /* from its cut to its acknowledgement */
    double freshness;               /* the oldest example's in it, seconds */
    int64_t time;                   /* wall clock of it, ms; 0: none yet */
    char error[256];                /* of the last failure in a row; "" */
};

struct deltas;
/* All borrowed. learner_watch has been called. */
struct deltas *deltas_create(const struct deltas_options *options, const struct delta_sink *sink,
                             struct telemetry *telemetry, struct cs_error *err);
/* The delta under way gets so many milliseconds, then it is given up. Afterwards the learner may be destroyed. */
void deltas_stop(struct deltas *deltas, int64_t milliseconds);
void deltas_destroy(struct deltas *deltas);     /* stopped; NULL is fine */

/* ---- the learn thread's. deltas NULL: none are sent. */

void deltas_learned(struct deltas *deltas, const struct batch *batch);
/* Milliseconds until deltas_cut may be called, at most `most`; 0: now. `most` where there is nothing to send, or one is
 * under way. */
int64_t deltas_wait(struct deltas *deltas, int64_t most);
void deltas_cut(struct deltas *deltas, struct learner *learner);
/* Where a state that is saved now stands in the chain; epoch 0: there is none. */
struct delta_place deltas_position(const struct deltas *deltas);
/* For a full version of a state that is saved now: above the numbers of all versions before it, deltas' too, and below
 * all that come after; 0 where no deltas are sent. */
uint64_t deltas_number(struct deltas *deltas);
/* A chain began that no full checkpoint leads to yet; said once. */
bool deltas_wants_checkpoint(struct deltas *deltas);

/* ---- any thread */

void deltas_set_interval(struct deltas *deltas, int64_t interval);
struct deltas_view deltas_view(struct deltas *deltas);

#endif
