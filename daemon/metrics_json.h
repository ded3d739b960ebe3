/* A validation as JSON: the status and a version's manifest tell it alike, and the gate reads it back.
 *
 *   {"all": {"start": {"examples", "clicks", "log_loss", "auc", "gauc", "calibration"}, "window": {...}}, "new", "old"}
 */
#ifndef DAEMON_METRICS_JSON_H
#define DAEMON_METRICS_JSON_H

#include <jansson.h>

#include "core/metrics.h"

json_t *number_json(double value);      /* null where it is not finite: JSON knows no NaN */
json_t *report_json(const struct metrics_report *report);
json_t *metrics_json(const struct metrics_report report[USERS_GROUPS][SPANS]);
/* False where that report is not there; null is NaN. */
bool metrics_json_read(const json_t *metrics, int users, int span, struct metrics_report *report);

#endif
