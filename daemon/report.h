/* What the learn thread tells /metrics: of each step, and, now and then, of both validations. */
#ifndef DAEMON_REPORT_H
#define DAEMON_REPORT_H

#include "core/learner.h"
#include "core/metrics.h"
#include "daemon/telemetry.h"

void report_step(struct telemetry *telemetry, const struct batch *batch, const struct learner_losses *losses,
                 double seconds);

enum validation { VALIDATION_PROGRESSIVE, VALIDATION_DELAYED };
/* Fills report. Costs sorting the window for each group of users; not for every step. */
void report_validation(struct telemetry *telemetry, enum validation validation, const struct metrics *metrics,
                       struct metrics_report report[USERS_GROUPS][SPANS]);

#endif
