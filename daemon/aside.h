/* Batches that were skipped because a loss or a gradient was not finite, kept for people to look into:
 *
 *   <snapshot.directory>/aside/<20 digits>-<16 hexadecimal digits>.jsonl     steps taken before it - hash of its ids
 *
 * so that a batch skipped again after a resume has the same name. An object an example:
 *
 *   {"impression_id": "r7", "time": 1700000000123, "user": "<key>", "item": "<key>", "new": false, "clicked": true,
 *    "converted": false, "correction": false, "score": 0.25, "features": {"city": ["<key>"], "income": 1.5},
 *    "behaviors": ["<key>", ...]}
 *
 * Keys are XXH3 as 16 hexadecimal digits; what is absent is left out; what JSON has no number for is "nan", "inf",
 * "-inf". The event itself is in Kafka, under its impression_id and time.
 *
 * Bounded: `keep` files and ASIDE_BYTES in all, the oldest go. Of a row of batches that are all skipped the first
 * `keep` stay: what broke the model is in those, the rest only met it. Files are written by a thread of their own; the
 * learn thread never waits for it. */
#ifndef DAEMON_ASIDE_H
#define DAEMON_ASIDE_H

#include "core/learner.h"

enum { ASIDE_BYTES = 64 << 20 };

struct aside;
/* directory: the snapshot's. keep 0: skipped batches are only logged. */
struct aside *aside_create(const char *directory, uint64_t keep, struct cs_error *err);
void aside_destroy(struct aside *aside);        /* what waits is written first; NULL is fine */
/* The learn thread's. Logs what was found and where the batch is kept. score: learner_score's; steps: taken so far. */
void aside_keep(struct aside *aside, const struct features *features, const struct batch *batch, const float *score,
                const struct learner_losses *losses, uint64_t steps);
void aside_learned(struct aside *aside);        /* a batch was learned: no row of skipped ones */

#endif
