/* Which deltas may go onto which version: the reading end of the chain. One thread feeds records, another one (the
 * library's own) takes what is whole and puts it onto the version that is served:
 *
 *     records -> reader -> queue  |  waiting -> (overlay, tensors) of the next version
 *               feeding thread    |  library's thread
 *
 * A delta goes onto a version where it builds on what that has: same epoch, base <= sequence there < its own. All
 * others wait, in order, until a checkpoint comes that the first of them goes on from. What is older goes. Bounded:
 * those that wait are given up where they grow past their bytes, and no row is put onto an overlay that is full, until
 * a checkpoint comes. */
#ifndef DAEMON_DELTA_FOLLOW_H
#define DAEMON_DELTA_FOLLOW_H

#include "daemon/scoring.h"

struct delta_position { uint64_t epoch, sequence; };            /* epoch 0: in no chain */
/* What a version has beyond its checkpoint. */
struct delta_state { struct delta_position at; struct overlay overlay; struct delta *newest; };
/* The position of a checkpoint: its manifest's "delta" member. */
struct delta_position delta_position_of(const char *manifest);
void delta_state_copy(struct delta_state *to, const struct delta_state *from);
void delta_state_release(struct delta_state *state);

struct delta_follow;
/* report: called by the library's thread, or by the one that feeds. */
struct delta_follow *delta_follow_create(size_t bytes_max,
                                         void (*report)(void *argument, const struct coldstream_delta_report *report),
                                         void *argument);
void delta_follow_destroy(struct delta_follow *follow);
/* One record. False with err where it was refused; *whole: there is something to take. Waits while the library's thread
 * has more to take than bytes_max. */
bool delta_follow_feed(struct delta_follow *follow, const void *record, size_t size, bool *whole, struct cs_error *err);

/* The library's thread alone, from here on: */
/* What is whole, judged against what is served. */
void delta_follow_take(struct delta_follow *follow, const struct delta_position *served);
/* Puts all that goes on from there onto it. *put: how many. False: the next one can't be read by this model; it and
 * what waits behind it are given up, state has what went before. */
bool delta_follow_put(struct delta_follow *follow, const struct scorer *scorer, struct delta_state *state, size_t *put,
                      struct cs_error *err);
bool delta_follow_waits(const struct delta_follow *follow);
/* Says that deltas are not put, as the version served was chosen over newer ones. */
void delta_follow_hold(struct delta_follow *follow);
/* The deltas put last are served (err NULL), or were refused after all. */
void delta_follow_tell(struct delta_follow *follow, const struct cs_error *err);

void delta_follow_count(struct delta_follow *follow, struct coldstream_delta_info *info);

#endif
