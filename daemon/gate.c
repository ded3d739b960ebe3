/* The gate's decision. What is done about it: daemon/publish.c, daemon/versions.c. */
#include "daemon/gate.h"

#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/metrics_json.h"
#include "storage/checkpoint.h"

void gate_reason(struct gate_reasons *reasons, const char *format, ...)
{
    size_t used = strlen(reasons->text);
    int head = snprintf(reasons->text + used, sizeof reasons->text - used, "%s", reasons->count++ ? "; " : "");
    used += (size_t)head;
    if (used >= sizeof reasons->text) return;
    va_list list;
    va_start(list, format);
    vsnprintf(reasons->text + used, sizeof reasons->text - used, format, list);
    va_end(list);
}

static void judge_log_loss(double bound, const char *users, double is, double was, struct gate_reasons *reasons)
{
    if (bound <= 0 || !(is - was > bound)) return;
    gate_reason(reasons, "log loss of %s users rose from %.4f to %.4f, allowed: by %g", users, was, is, bound);
}

static void judge_auc(double bound, const char *users, double is, double was, struct gate_reasons *reasons)
{
    if (bound <= 0 || !(was - is > bound)) return;
    gate_reason(reasons, "AUC of %s users fell from %.4f to %.4f, allowed: by %g", users, was, is, bound);
}

/* was: NaN where it is not known. */
static void judge_calibration(double bound, const char *users, double is, double was, struct gate_reasons *reasons)
{
    double error = fabs(is - 1);
    if (bound <= 0 || !(error > bound) || error <= fabs(was - 1)) return;
    gate_reason(reasons, "calibration of %s users is %.4f, allowed: from %g to %g", users, is, fmax(0, 1 - bound),
                1 + bound);
}

bool gate_judge(const struct config_gate *gate, const struct gate_quality *candidate,
                const struct gate_quality *reference, struct gate_reasons *reasons)
{
    size_t before = reasons->count;
    for (int users = 0; candidate->known && users < USERS_GROUPS; users++) {
        const struct metrics_report *is = &candidate->users[users], *was = &reference->users[users];
        const char *name = metrics_users_name[users];
        if (is->examples < gate->min_examples) continue;
        if (!isfinite(is->log_loss)) gate_reason(reasons, "log loss of %s users is %g", name, is->log_loss);
        bool comparable = reference->known && was->examples >= gate->min_examples;
        judge_calibration(gate->max_calibration_error, name, is->calibration, comparable ? was->calibration : NAN,
                          reasons);
        if (!comparable) continue;
        judge_log_loss(gate->max_log_loss_rise, name, is->log_loss, was->log_loss, reasons);
        judge_auc(gate->max_auc_drop, name, is->auc, was->auc, reasons);
    }
    return reasons->count == before;
}

struct gate_quality gate_quality_of(const char *directory, uint64_t version)
{
    struct gate_quality quality = { 0 };
    char path[PATH_MAX];
    if (!version || !checkpoint_path(path, directory, version, "manifest.json", NULL)) return quality;
    json_t *manifest = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    const json_t *metrics = json_object_get(manifest, "metrics"), *examples = json_object_get(manifest, "examples");
    quality.known = json_is_integer(examples);
    quality.examples = (uint64_t)json_integer_value(examples);
    for (int users = 0; quality.known && users < USERS_GROUPS; users++)
        quality.known = metrics_json_read(metrics, users, SPAN_WINDOW, &quality.users[users]);
    json_decref(manifest);
    return quality;
}
