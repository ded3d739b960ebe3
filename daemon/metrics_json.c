/* Reports to JSON and back. */
#include "daemon/metrics_json.h"

#include <math.h>

json_t *number_json(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *report_json(const struct metrics_report *report)
{
    return json_pack("{s:I, s:I, s:o, s:o, s:o, s:o}", "examples", (json_int_t)report->examples, "clicks",
                     (json_int_t)report->clicks, "log_loss", number_json(report->log_loss), "auc",
                     number_json(report->auc), "gauc", number_json(report->gauc), "calibration",
                     number_json(report->calibration));
}

json_t *metrics_json(const struct metrics_report report[USERS_GROUPS][SPANS])
{
    json_t *metrics = json_object();
    for (int users = 0; users < USERS_GROUPS; users++) {
        json_t *spans = json_object();
        for (int span = 0; span < SPANS; span++)
            json_object_set_new(spans, metrics_span_name[span], report_json(&report[users][span]));
        json_object_set_new(metrics, metrics_users_name[users], spans);
    }
    return metrics;
}

static double number_of(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

bool metrics_json_read(const json_t *metrics, int users, int span, struct metrics_report *report)
{
    const json_t *there = json_object_get(json_object_get(metrics, metrics_users_name[users]), metrics_span_name[span]);
    const json_t *examples = json_object_get(there, "examples"), *clicks = json_object_get(there, "clicks");
    if (!json_is_integer(examples) || !json_is_integer(clicks)) return false;
    *report = (struct metrics_report){
        .examples = (uint64_t)json_integer_value(examples),
        .clicks = (uint64_t)json_integer_value(clicks),
        .log_loss = number_of(there, "log_loss"),
        .auc = number_of(there, "auc"),
        .gauc = number_of(there, "gauc"),
        .calibration = number_of(there, "calibration"),
    };
    return true;
}
