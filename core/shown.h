/* Delayed progressive validation: examples judged by the score that their impression was given when it was shown, as
 * far as they have one (core/ingest.h). Beside the scores given just before learning (core/metrics.h) it says what the
 * wait for clicks costs: a served score never knows the last window's clicks.
 *
 *   shown_keep      of a batch that is shown_only: keeps each score under its number, 4 bytes
 *   shown_judge     before a batch is learned: looks the scores up, judges, forgets
 *
 * A number whose score was not finite, or that is not known (from before delayed validation was turned on), is not
 * judged. Nor is a correction: its example was. The scores kept are bounded by the examples that the joiner and the
 * open batch hold: every impression with a number leaves as one example. */
#ifndef CORE_SHOWN_H
#define CORE_SHOWN_H

#include "core/metrics.h"

extern const char shown_metrics_section[];      /* of the metrics in the state: "delayed" */

struct shown;
struct shown *shown_create(size_t window);      /* of the metrics, as metrics_create */
void shown_destroy(struct shown *shown);
void shown_keep(struct shown *shown, const struct batch *batch, const float *click_probability);
/* click_probability: as the batch is scored now; it is the judged score where shown and learned are one (SHOWN_NOW). */
void shown_judge(struct shown *shown, const struct batch *batch, const float *click_probability);
const struct metrics *shown_metrics(const struct shown *shown);
size_t shown_waiting(const struct shown *shown);       /* scores kept */
/* Sections "shown", "shown.scores", "delayed" and "delayed.window". Restores exactly. */
bool shown_save(struct shown *shown, struct state_writer *writer, struct cs_error *err);
bool shown_load(struct shown *shown, struct state_reader *reader, struct cs_error *err);

#endif
