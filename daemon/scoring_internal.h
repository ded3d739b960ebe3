/* What scoring.c and scoring_json.c share: one example at a time, from any source of values. */
#ifndef DAEMON_SCORING_INTERNAL_H
#define DAEMON_SCORING_INTERNAL_H

#include "core/arena.h"
#include "core/batch.h"
#include "core/decode_fields.h"
#include "daemon/scoring.h"

enum { SCORING_BATCH = 1024 };      /* examples scored at once: bounds a call's memory */

struct scoring {
    struct scorer *scorer;
    const struct features *features;
    struct fields fields;           /* the example being read */
    struct arena *batch, *scratch;
};

/* Empties the fields for a new example, or a new user with candidates. */
void scoring_begin(struct scoring *scoring);
/* Empties the item's part; unless it leads a batch, the user's too. */
void scoring_next_candidate(struct scoring *scoring, bool leads);
/* The example of what was read (free() it), or NULL with CS_USAGE. */
struct example *scoring_finish(struct scoring *scoring, struct cs_error *err);
/* At most SCORING_BATCH of one user. */
void scoring_candidates(struct scoring *scoring, struct example *const *example, size_t count, float *score);

#endif
