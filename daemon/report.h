/* What the learn thread tells /metrics, of each step and, now and then, of both validations; and what it warns of. */
#ifndef DAEMON_REPORT_H
#define DAEMON_REPORT_H

#include <stdbool.h>

#include "core/joiner.h"
#include "core/learner.h"
#include "core/metrics.h"
#include "daemon/pipeline.h"
#include "daemon/telemetry.h"

void report_step(struct telemetry *telemetry, const struct batch *batch, const struct learner_losses *losses,
                 double seconds);

/* What reading is, by its name in the label; and whether the brokers answer. */
void report_state(struct telemetry *telemetry, enum pipeline_state state, bool connected);
/* Of a partition that is read: what came of its records since the last call, its lag from `next`, and what an open
 * transaction holds back. */
void report_partition(struct telemetry *telemetry, const struct kafka_partition *partition, int64_t next,
                      const uint64_t counted[DECODE_RESULTS]);
/* clock: of events, INT64_MIN: none yet. */
void report_join(struct telemetry *telemetry, const struct join_counts *join, struct join_held undecided,
                 size_t pending, int64_t clock);
/* Why nothing is read while the dead letters are full. */
void report_full(struct letters *letters, char *text, size_t size);
/* Counters of a topic begin at 0: an alert on an increase would not see the first of something. */
void report_topic(struct telemetry *telemetry, const char *topic);

/* Warns of a stream too thin for batch.max_delay, once a minute: an operator would only see scores drift to 0 and 1. */
struct small_batches { size_t in_a_row; int64_t warned; };     /* monotonic ms, 0: never */
void report_small_batch(struct small_batches *batches, size_t size);

/* Every event has one outcome or is still held; otherwise one was lost or counted twice. Operators may rely on it. */
void report_accounts(struct join_counts counts, struct join_held held);

/* Copies of the tables' sizes, malloc'd. */
struct table_view *report_tables(struct telemetry *telemetry, struct learner *learner, size_t count);

enum validation { VALIDATION_PROGRESSIVE, VALIDATION_DELAYED };
/* Fills report. Costs sorting the window for each group of users; not for every step. */
void report_validation(struct telemetry *telemetry, enum validation validation, const struct metrics *metrics,
                       struct metrics_report report[USERS_GROUPS][SPANS]);

#endif
