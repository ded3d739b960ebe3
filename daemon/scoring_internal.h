/* What scoring.c and scoring_json.c share: the parts of examples as they are read, from any source of values, and their
 * scores together. */
#ifndef DAEMON_SCORING_INTERNAL_H
#define DAEMON_SCORING_INTERNAL_H

#include "core/decode_fields.h"
#include "daemon/scoring.h"

enum { SCORING_BATCH = 1024 };      /* examples scored at once: bounds a call's memory */

/* Empties the fields for a new user. */
void scoring_begin(struct scoring *scoring);
/* Empties the item's fields. */
void scoring_next_item(struct scoring *scoring);
const struct features *scoring_features(const struct scoring *scoring);
uint64_t scoring_version(const struct scoring *scoring);
struct fields *scoring_fields(struct scoring *scoring);
/* What was read of user and context, or of an item, becomes part of the batch; false with CS_USAGE where it can't. The
 * parts of an example, or of one user and the first candidate, are read before the user's is taken. */
bool scoring_take_shared(struct scoring *scoring, struct cs_error *err);
bool scoring_take_item(struct scoring *scoring, struct cs_error *err);
/* Scores what was taken, one user with all items or as many users as items, and begins a new batch. score [items]. */
void scoring_score(struct scoring *scoring, float *score);
/* Forgets what was taken. */
void scoring_drop(struct scoring *scoring);

#endif
