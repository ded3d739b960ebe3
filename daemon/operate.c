/* The operator's view and verbs. Everything here reads copies that the threads leave, so nothing waits for the learner.
 */
#include "daemon/operate.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/clock.h"
#include "daemon/kafka_config.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/version.h"

struct operator {
    const char *file;
    const struct cs_config *config;         /* as started: what needs a restart holds from here */
    struct cs_config *reloaded;             /* the last one taken; NULL: none */
    struct pipeline *pipeline;
    struct publisher *publisher;
    struct telemetry *telemetry;
    int64_t started;                        /* wall clock, ms */
    pthread_mutex_t reload;                 /* SIGHUP and the verb at once */
};

struct operator* operator_create(const char *config_file, const struct cs_config *config, struct pipeline *pipeline,
                                 struct publisher *publisher, struct telemetry *telemetry)
{
    struct operator *operator = calloc(1, sizeof *operator);
    if (!operator) abort();
    *operator=(struct operator){ .file = config_file,
                                 .config = config,
                                 .pipeline = pipeline,
                                 .publisher = publisher,
                                 .telemetry = telemetry,
                                 .started = clock_wall() };
    telemetry_add(telemetry, METRIC_RELOADS, TELEMETRY_LABELS("ok"), 0);
    telemetry_add(telemetry, METRIC_RELOADS, TELEMETRY_LABELS("failed"), 0);
    pthread_mutex_init(&operator->reload, NULL);
    return operator;
}

void operator_destroy(struct operator *operator)
{
    if (!operator) return;
    if (operator->reloaded) config_destroy(operator->reloaded);
    pthread_mutex_destroy(&operator->reload);
    free(operator);
}

/* ---- status */

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *time_or_null(int64_t milliseconds)
{
    return milliseconds > 0 ? json_integer(milliseconds) : json_null();
}

static json_t *sources_json(const struct pipeline_view *view)
{
    json_t *array = json_array();
    for (size_t i = 0; i < view->source_count; i++) {
        const struct source_view *source = &view->source[i];
        json_t *end = source->end < 0 ? json_null() : json_integer(source->end);
        json_t *lag = source->end < 0 ? json_null() : json_integer(source->end - source->next);
        json_array_append_new(array, json_pack("{s:s, s:i, s:I, s:o, s:o, s:b, s:b}", "topic", source->topic,
                                               "partition", (int)source->partition, "next", (json_int_t)source->next,
                                               "end", end, "lag", lag, "idle", source->idle, "paused",
                                               view->state == STATE_PAUSED || view->state == STATE_HELD));
    }
    return array;
}

static json_t *metrics_json(const struct metrics_report of[USERS_GROUPS][SPANS])
{
    json_t *metrics = json_object();
    for (int users = 0; users < USERS_GROUPS; users++) {
        json_t *spans = json_object();
        for (int span = 0; span < SPANS; span++) {
            const struct metrics_report *report = &of[users][span];
            json_object_set_new(spans, metrics_span_name[span],
                                json_pack("{s:I, s:I, s:o, s:o, s:o, s:o}", "examples", (json_int_t)report->examples,
                                          "clicks", (json_int_t)report->clicks, "log_loss", number(report->log_loss),
                                          "auc", number(report->auc), "gauc", number(report->gauc), "calibration",
                                          number(report->calibration)));
        }
        json_object_set_new(metrics, metrics_users_name[users], spans);
    }
    return metrics;
}

/* A zero-shot tower that has never been trained scores new users by noise: said in words, because no number shows it.
 */
static json_t *zero_shot_json(const struct cs_config *config, const struct pipeline_view *view)
{
    static const char *const kind[] = { "mail", "none", "linear", "llae", "meta_emb" };
    enum zero_shot_kind configured = config->model.zero_shot.kind;
    uint64_t old = view->report[USERS_OLD][SPAN_START].examples;
    char note[160];
    if (configured == ZERO_SHOT_NONE) snprintf(note, sizeof note, "off: new users are scored without behaviors");
    else if (view->zero_shot_steps)
        snprintf(note, sizeof note, "trained on %llu batches with old users",
                 (unsigned long long)view->zero_shot_steps);
    else if (!old) snprintf(note, sizeof note, "never trained: no example of an old user yet");
    else
        snprintf(note, sizeof note,
                 "never trained, although examples of old users came: is zero_shot.sample too small?");
    return json_pack("{s:s, s:I, s:s}", "kind", kind[configured], "steps", (json_int_t)view->zero_shot_steps, "note",
                     note);
}

static json_t *tables_json(const struct pipeline_view *view)
{
    json_t *tables = json_object();
    for (size_t i = 0; i < view->table_count; i++)
        json_object_set_new(tables, view->table[i].name,
                            json_pack("{s:I, s:I, s:I, s:I}", "rows", (json_int_t)view->table[i].rows, "admitted",
                                      (json_int_t)view->table[i].admitted, "evicted",
                                      (json_int_t)view->table[i].evicted, "bytes", (json_int_t)view->table[i].bytes));
    return tables;
}

static json_t *snapshot_json(const struct publisher_view *view, const struct cs_config *config)
{
    const struct snapshot_stats *stats = &view->stats;
    return json_pack("{s:s, s:I, s:I, s:o, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "directory",
                     config->snapshot.directory, "cut", (json_int_t)stats->cut, "committed",
                     (json_int_t)view->snapshots, "last", time_or_null(view->snapshot_time), "seconds",
                     view->snapshot_seconds, "stall_seconds", view->stall_seconds, "bytes",
                     (json_int_t)stats->written_bytes, "changed_bytes", (json_int_t)stats->changed_bytes, "live_bytes",
                     (json_int_t)stats->live_bytes, "disk_bytes", (json_int_t)stats->disk_bytes, "peak_bytes",
                     (json_int_t)stats->peak_bytes, "segments", (json_int_t)stats->segments, "failures",
                     (json_int_t)view->failures, "failures_in_row", (json_int_t)view->failures_in_row, "error",
                     view->snapshot_error);
}

static json_t *version_or_null(uint64_t version)
{
    return version ? json_integer((json_int_t)version) : json_null();
}

static json_t *checkpoint_json(struct publisher *publisher, const struct publisher_view *view,
                               const struct cs_config *config)
{
    uint64_t *version = NULL;
    size_t count = versions_pinned(publisher_versions(publisher), &version);
    json_t *pinned = json_array();
    for (size_t i = 0; i < count; i++) json_array_append_new(pinned, version_or_null(version[i]));
    free(version);
    json_t *gate = json_pack("{s:b, s:I, s:o, s:o, s:s}", "open", publisher_may_send(publisher), "refused",
                             (json_int_t)view->refused, "version", version_or_null(view->refused_version), "time",
                             time_or_null(view->refused_time), "reason", view->refusal);
    return json_pack("{s:s, s:o, s:I, s:o, s:o, s:f, s:f, s:I, s:s, s:b, s:s, s:o, s:o}", "directory",
                     config->checkpoint.directory, "version", version_or_null(view->version), "published",
                     (json_int_t)view->published, "last", time_or_null(view->publish_time), "watermark",
                     time_or_null(view->publish_watermark), "seconds", view->publish_seconds, "freshness_seconds",
                     view->freshness_seconds, "failures", (json_int_t)view->publish_failures, "error",
                     view->publish_error, "held", view->held, "hold", view->hold, "pinned", pinned, "gate", gate);
}

static json_t *deltas_json(struct deltas *deltas, const struct cs_config *config)
{
    if (!deltas) return json_null();
    struct deltas_view view = deltas_view(deltas);
    json_t *json = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:o}", "topic", config->checkpoint.delta_topic, "epoch",
                             (json_int_t)view.newest.epoch, "sequence", (json_int_t)view.newest.sequence, "version",
                             (json_int_t)view.newest.version, "steps", (json_int_t)view.steps, "sent",
                             (json_int_t)view.sent, "last", time_or_null(view.time));
    json_t *more = json_pack("{s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:s}", "rows", (json_int_t)view.rows, "gone",
                             (json_int_t)view.gone, "bytes", (json_int_t)view.bytes, "seconds", view.seconds,
                             "freshness_seconds", view.freshness, "failures", (json_int_t)view.failures,
                             "failures_in_row", (json_int_t)view.failures_in_row, "error", view.error);
    json_object_update(json, more);
    json_decref(more);
    return json;
}

json_t *operator_status(struct operator *operator)
{
    struct pipeline_view view = pipeline_view(operator->pipeline);
    struct publisher_view publisher = publisher_view(operator->publisher);
    json_t *events = json_object(), *join = json_object();
    for (int i = 0; i < DECODE_RESULTS; i++)
        json_object_set_new(events, decode_result_name[i], json_integer((json_int_t)view.events[i]));
    for (int i = 0; i < JOIN_RESULTS; i++)
        json_object_set_new(join, join_result_name[i], json_integer((json_int_t)view.join.result[i]));
    json_object_set_new(join, "impressions", json_integer((json_int_t)view.join.impressions));
    json_object_set_new(join, "clicks", json_integer((json_int_t)view.join.clicks));
    json_object_set_new(join, "conversions", json_integer((json_int_t)view.join.conversions));
    json_object_set_new(join, "duplicate_impressions", json_integer((json_int_t)view.join.duplicate_impressions));
    json_object_set_new(join, "undecided_impressions", json_integer((json_int_t)view.undecided.impressions));
    json_object_set_new(join, "undecided_clicks", json_integer((json_int_t)view.undecided.clicks));
    json_object_set_new(join, "adds_up", json_boolean(join_counts_add_up(&view.join, &view.undecided)));
    json_object_set_new(join, "corrected", json_integer((json_int_t)view.join.corrected));
    json_object_set_new(join, "forced", json_integer((json_int_t)view.join.forced));
    json_object_set_new(join, "pending", json_integer((json_int_t)view.pending));
    json_object_set_new(join, "open_batch", json_integer((json_int_t)view.open));

    json_t *status = json_pack("{s:s, s:b, s:s, s:s, s:s, s:s, s:I, s:f}", "state", pipeline_state_name[view.state],
                               "connected", view.connected, "waiting", view.waiting, "held", view.held, "version",
                               version_number, "commit", version_commit, "started", (json_int_t) operator->started,
                               "uptime", (double)(clock_wall() - operator->started) / 1000);
    json_object_set_new(status, "sources", sources_json(&view));
    json_object_set_new(status, "events", events);
    json_object_set_new(status, "dead_letters_lost", json_integer((json_int_t)publisher.lost_letters));
    json_object_set_new(status, "join", join);
    json_object_set_new(status, "event_clock", view.clock == INT64_MIN ? json_null() : json_integer(view.clock));
    json_object_set_new(status, "event_lag_seconds",
                        view.clock == INT64_MIN ? json_null() : json_real((double)(clock_wall() - view.clock) / 1000));
    json_object_set_new(status, "idle", json_boolean(view.all_idle));
    json_object_set_new(status, "examples",
                        json_pack("{s:I, s:I, s:I}", "all", (json_int_t)view.report[USERS_ALL][SPAN_START].examples,
                                  "new", (json_int_t)view.report[USERS_NEW][SPAN_START].examples, "old",
                                  (json_int_t)view.report[USERS_OLD][SPAN_START].examples));
    json_object_set_new(status, "steps", json_integer((json_int_t)view.steps));
    json_object_set_new(status, "zero_shot", zero_shot_json(operator->config, &view));
    json_object_set_new(status, "nonfinite_skipped", json_integer((json_int_t)view.nonfinite));
    json_object_set_new(status, "losses",
                        json_pack("{s:o, s:o, s:o, s:o}", "ranking", number(view.losses.ranking), "reconstruct_user",
                                  number(view.losses.reconstruct_user), "reconstruct_behavior",
                                  number(view.losses.reconstruct_behavior), "mmd", number(view.losses.mmd)));
    json_object_set_new(status, "metrics", metrics_json(view.report));
    json_object_set_new(status, "delayed_metrics", metrics_json(view.delayed));
    json_object_set_new(status, "shown_waiting", json_integer((json_int_t)view.shown_waiting));
    json_object_set_new(status, "tables", tables_json(&view));
    json_object_set_new(
        status, "memory",
        json_pack("{s:I, s:I}", "learner", (json_int_t)view.learner_bytes, "joiner", (json_int_t)view.ingest_bytes));
    json_object_set_new(status, "snapshot", snapshot_json(&publisher, operator->config));
    json_object_set_new(status, "checkpoint", checkpoint_json(operator->publisher, &publisher, operator->config));
    json_object_set_new(status, "deltas", deltas_json(pipeline_deltas(operator->pipeline), operator->config));
    pipeline_view_release(&view);
    return status;
}

/* ---- pages */

static bool page_live(void *self)
{
    struct operator *operator = self;
    return pipeline_alive(operator->pipeline);
}

static bool page_ready(void *self, char **reasons)
{
    struct operator *operator = self;
    struct pipeline_view view = pipeline_view(operator->pipeline);
    struct publisher_view publisher = publisher_view(operator->publisher);
    json_t *array = json_array();
    if (*view.waiting) json_array_append_new(array, json_sprintf("waiting for %s", view.waiting));
    else if (!view.connected) json_array_append_new(array, json_string("brokers can't be reached"));
    if (view.state == STATE_STOPPING) json_array_append_new(array, json_string("stopping"));
    if (view.state == STATE_PAUSED) json_array_append_new(array, json_string("paused by an operator"));
    if (view.state == STATE_HELD) json_array_append_new(array, json_string(view.held));
    if (publisher.failures_in_row)
        json_array_append_new(array, json_sprintf("%d snapshots in a row failed: %s", (int)publisher.failures_in_row,
                                                  publisher.snapshot_error));
    bool ready = json_array_size(array) == 0;
    *reasons = ready ? NULL : json_dumps(array, JSON_COMPACT);
    json_decref(array);
    pipeline_view_release(&view);
    return ready;
}

static char *page_status(void *self)
{
    json_t *status = operator_status(self);
    char *text = json_dumps(status, JSON_COMPACT);
    json_decref(status);
    return text;
}

struct http_pages operator_pages(struct operator *operator)
{
    return (struct http_pages){ .self = operator, .live = page_live, .ready = page_ready, .status = page_status };
}

/* ---- reload: parse all, check all, then change */

struct refusal { char text[400]; size_t count, live; };

static void note_change(void *self, const char *key, const char *from, const char *to, bool live)
{
    struct refusal *refusal = self;
    if (live) {
        refusal->live++;
        log_notice("setting changes", LOG_S("key", key), LOG_S("from", from), LOG_S("to", to));
        return;
    }
    size_t used = strlen(refusal->text);
    snprintf(refusal->text + used, sizeof refusal->text - used, "%s%s", refusal->count++ ? ", " : "", key);
}

static void take_config(struct operator *operator, const struct cs_config *config)
{
    struct pipeline_live live = {
        .join_window = config->join.window,
        .ranking_rate = config->model.ranking_optimizer.learning_rate,
        .zero_shot_rate = config->model.zero_shot_optimizer.learning_rate,
        .embedding_rate = config->model.embedding_optimizer.learning_rate,
    };
    pipeline_set_live(operator->pipeline, &live);
    publisher_set_live(operator->publisher, config);
    struct deltas *deltas = pipeline_deltas(operator->pipeline);
    if (deltas) deltas_set_interval(deltas, config->checkpoint.delta_interval);
    log_set(config->logging.level, config->logging.format);
}

static json_t *reload(struct operator *operator, struct cs_error *err)
{
    struct config_problems problems = { 0 };
    struct cs_config *config = config_load_checked(operator->file, CONFIG_FOR_DAEMON, kafka_property_check, &problems);
    if (!config) {
        char *text = config_problems_text(&problems);
        cs_fail(err, CS_CONFIG, "the running configuration stays: %.440s", text);
        free(text);
    }
    config_problems_release(&problems);
    if (!config) return NULL;
    struct refusal refusal = { 0 };
    config_compare(operator->reloaded ? operator->reloaded : operator->config, config, note_change, &refusal);
    if (refusal.count) {
        config_destroy(config);
        cs_fail(err, CS_CONFIG, "the running configuration stays; this needs a restart: %s", refusal.text);
        return NULL;
    }
    take_config(operator, config);
    if (operator->reloaded) config_destroy(operator->reloaded);
    operator->reloaded = config;
    return json_pack("{s:I}", "changed", (json_int_t)refusal.live);
}

json_t *operator_reload(struct operator *operator, struct cs_error *err)
{
    pthread_mutex_lock(&operator->reload);
    notify_reloading();
    json_t *result = reload(operator, err);
    telemetry_add(operator->telemetry, METRIC_RELOADS, TELEMETRY_LABELS(result ? "ok" : "failed"), 1);
    if (result) log_notice("configuration reloaded", LOG_S("file", operator->file));
    else log_error("configuration not reloaded", LOG_S("error", err->message));
    notify_ready(result ? "running" : "running; the last reload was refused");
    pthread_mutex_unlock(&operator->reload);
    return result;
}

/* ---- verbs */

static json_t *verb_status(void *self, struct control_call *call, struct cs_error *err)
{
    (void)call, (void)err;
    return operator_status(self);
}

static json_t *verb_snapshot(void *self, struct control_call *call, struct cs_error *err)
{
    (void)call;
    struct operator *operator = self;
    if (!publisher_snapshot(operator->publisher, err)) return NULL;
    struct publisher_view view = publisher_view(operator->publisher);
    return json_pack("{s:I, s:f, s:f, s:I, s:I}", "cut", (json_int_t)view.stats.cut, "seconds", view.snapshot_seconds,
                     "stall_seconds", view.stall_seconds, "bytes", (json_int_t)view.stats.written_bytes,
                     "changed_bytes", (json_int_t)view.stats.changed_bytes);
}

static json_t *verb_publish(void *self, struct control_call *call, struct cs_error *err)
{
    (void)call;
    struct operator *operator = self;
    uint64_t version;
    if (!publisher_publish(operator->publisher, &version, err)) return NULL;
    struct publisher_view view = publisher_view(operator->publisher);
    return json_pack("{s:I, s:f, s:s}", "version", (json_int_t)version, "seconds", view.publish_seconds,
                     "directory", operator->config->checkpoint.directory);
}

/* 0: none was given, which only `optional` allows. */
static bool parse_version(const char *argument, bool optional, uint64_t *version, struct cs_error *err)
{
    const char *text = argument ? argument : "";
    size_t digits = strspn(text, "0123456789");
    *version = strtoull(text, NULL, 10);
    if (!*text && optional) return true;
    if (digits && !text[digits] && digits <= 20 && *version) return true;
    return cs_fail(err, CS_USAGE, "\"%.40s\" is not a version: a decimal number as in `ls` of the checkpoint directory",
                   text);
}

static json_t *verb_rollback(void *self, struct control_call *call, struct cs_error *err)
{
    struct operator *operator = self;
    uint64_t version;
    if (!parse_version(call->argument, true, &version, err) ||
        !versions_rollback(publisher_versions(operator->publisher), version, ROLLBACK_BY_OPERATOR, "", &version, err))
        return NULL;
    return json_pack("{s:I, s:s}", "version", (json_int_t)version, "note", "nothing is published until resume");
}

static json_t *pin(struct operator *operator, const char *argument, bool pinned, struct cs_error *err)
{
    uint64_t version;
    if (!parse_version(argument, false, &version, err) ||
        !versions_pin(publisher_versions(operator->publisher), version, pinned, err))
        return NULL;
    return json_pack("{s:I, s:b}", "version", (json_int_t)version, "pinned", pinned);
}

static json_t *verb_pin(void *self, struct control_call *call, struct cs_error *err)
{
    return pin(self, call->argument, true, err);
}

static json_t *verb_unpin(void *self, struct control_call *call, struct cs_error *err)
{
    return pin(self, call->argument, false, err);
}

static json_t *verb_reload(void *self, struct control_call *call, struct cs_error *err)
{
    (void)call;
    return operator_reload(self, err);
}

static json_t *verb_pause(void *self, struct control_call *call, struct cs_error *err)
{
    (void)call, (void)err;
    struct operator *operator = self;
    pipeline_pause(operator->pipeline, true);
    log_notice("paused by an operator");
    return json_pack("{s:s}", "state", "paused");
}

static json_t *verb_resume(void *self, struct control_call *call, struct cs_error *err)
{
    (void)call;
    struct operator *operator = self;
    pipeline_pause(operator->pipeline, false);
    if (!versions_release(publisher_versions(operator->publisher), err)) return NULL;
    log_notice("resumed by an operator");
    return json_pack("{s:s}", "state", "running");
}

static json_t *verb_log_level(void *self, struct control_call *call, struct cs_error *err)
{
    static const char *const name[] = { "error", "warning", "notice", "info", "debug" };
    struct operator *operator = self;
    const char *argument = call->argument;
    for (size_t i = 0; argument && i < sizeof name / sizeof name[0]; i++) {
        if (strcmp(name[i], argument) != 0) continue;
        log_set((enum log_level)i, operator->config->logging.format);
        return json_pack("{s:s}", "level", argument);
    }
    cs_fail(err, CS_USAGE, "log-level wants error, warning, notice, info or debug, not \"%s\"",
            argument ? argument : "");
    return NULL;
}

const struct control_verb operator_verbs[] = {
    { "status", false, verb_status },
    { "snapshot", true, verb_snapshot },
    { "publish", true, verb_publish },
    { "rollback", true, verb_rollback },
    { "pin", true, verb_pin },
    { "unpin", true, verb_unpin },
    { "reload", true, verb_reload },
    { "pause", true, verb_pause },
    { "resume", true, verb_resume },
    { "log-level", true, verb_log_level },
    { NULL, false, NULL },
};
