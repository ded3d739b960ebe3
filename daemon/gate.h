/* May this state be published? A pure decision: numbers in, reasons out. What is judged are the scores given before
 * their examples were learned (core/metrics.h), each for all, new and old users, against those of the version that is
 * current. */
#ifndef DAEMON_GATE_H
#define DAEMON_GATE_H

#include "config/config.h"
#include "core/metrics.h"

struct gate_quality {
    bool known;                 /* false: the version does not say, or there is none */
    uint64_t examples;          /* judged since the start, when it was cut */
    struct metrics_report users[USERS_GROUPS];
};

/* Sentences, for people; cut off where they are too many, which `count` is not. */
struct gate_reasons { size_t count; char text[1536]; };
void gate_reason(struct gate_reasons *reasons, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Adds a reason for each bound that is broken; true where none is.
 *   - Users with fewer than gate->min_examples on either side are not judged against each other.
 *   - log loss - reference's > max_log_loss_rise; reference's AUC - AUC > max_auc_drop; AUC needs both labels.
 *   - |calibration - 1| > max_calibration_error, and worse than the reference's where that is known. Without a click
 *     there is no calibration. */
bool gate_judge(const struct config_gate *gate, const struct gate_quality *candidate,
                const struct gate_quality *reference, struct gate_reasons *reasons);

/* What a published version's manifest says: its windowed metrics. known is false where it can't be read. */
struct gate_quality gate_quality_of(const char *directory, uint64_t version);

#endif
