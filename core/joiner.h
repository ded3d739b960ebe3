/* Impressions wait for their clicks in event time and leave as examples.
 *
 *   clock            the largest event time seen; joiner_advance moves it, never backwards
 *   impression at t  held until clock > t + window; a click at tc <= t + window makes it positive
 *   release window   every example leaves when clock > t + window; released = t + window
 *   release click    a positive leaves at its click (released = max(t, tc)), a negative as above
 *   click first      waits for its impression until clock > tc + window, then it is an orphan
 *   remembered       ids stay known for another window after their example left, so that what comes twice or too late
 *                    is told apart; with late_click correct the negative itself stays that long
 *   too old          an impression whose window had passed when it came leaves at once: released = clock
 *   conversion       marks its impression if that still waits, or is still to come; otherwise it is only counted
 *   max_pending      the clock moves only as events are taken, so a full joiner must go on taking them: each further
 *                    one makes the held one with the nearest end leave early, released = clock, counted in `forced`
 *                    besides its outcome. As many ids, at most, are remembered: the one with the nearest end goes.
 *
 * Examples leave in order of (released, order of arrival). Every event has exactly one outcome, counted when known; a
 * match is one impression's and one click's. So at any moment
 *
 *   impressions = matched + expired + duplicate impressions             + held.impressions   (no click yet)
 *   clicks      = matched + late + duplicate clicks + orphan            + held.clicks        (no impression yet)
 *
 * and in sum: impressions + clicks = 2 matched + expired + late + duplicate + orphan + held.impressions + held.clicks.
 * The outcome `duplicate` counts both kinds, duplicate_impressions is its part. A click is `late` where its impression
 * had left, or its window had passed by the click's own time. */
#ifndef CORE_JOINER_H
#define CORE_JOINER_H

#include "core/event.h"
#include "core/options.h"
#include "core/state.h"

enum join_result { JOIN_MATCHED, JOIN_EXPIRED, JOIN_LATE, JOIN_DUPLICATE, JOIN_ORPHAN, JOIN_RESULTS };
extern const char *const join_result_name[JOIN_RESULTS];

struct join_counts {
    uint64_t impressions, clicks, conversions, result[JOIN_RESULTS], duplicate_impressions, corrected, forced;
};

/* Held without an outcome: impressions without a click, clicks without an impression. */
struct join_held { uint64_t impressions, clicks; };

/* Both equations above. False is a bug of ours, or state that is not what was saved. */
bool join_counts_add_up(const struct join_counts *counts, const struct join_held *held);

/* Told of each click that found its impression, at once, in stream order: feeds the histories. */
typedef void joiner_click(void *argument, const struct example *impression);

struct joiner;
struct joiner *joiner_create(const struct features *features, const struct join_options *options,
                             joiner_click *on_click, void *argument);
void joiner_destroy(struct joiner *joiner);
void joiner_set_window(struct joiner *joiner, int64_t window);     /* for impressions that come from now on */
/* Takes what the event owns: an impression's example (behaviors already attached), or a click's or conversion's id. */
void joiner_push(struct joiner *joiner, struct event *event);
void joiner_advance(struct joiner *joiner, int64_t clock);
void joiner_release_all(struct joiner *joiner);                    /* the stream has ended: everything leaves now */
struct example *joiner_pop(struct joiner *joiner);     /* the next that left, now the caller's; NULL: none */
size_t joiner_pending(const struct joiner *joiner);                /* impressions, early clicks and conversions held */
struct join_held joiner_held(const struct joiner *joiner);         /* those of them that have no outcome */
size_t joiner_bytes(const struct joiner *joiner);
/* Migration: of all that are held or remembered. None may wait to be popped. */
void joiner_replace_examples(struct joiner *joiner, example_replace *replace, void *self);
struct join_counts joiner_counts(const struct joiner *joiner);
/* Complete: what is loaded goes on exactly as what was saved. Call when joiner_pop has returned NULL. */
bool joiner_save(struct joiner *joiner, struct state_writer *writer, struct cs_error *err);
bool joiner_load(struct joiner *joiner, struct state_reader *reader, struct cs_error *err);

#endif
