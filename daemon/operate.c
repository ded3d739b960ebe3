/* The operator's view and verbs. Everything here reads copies that the threads leave, so nothing waits for the learner.
 */
#include "daemon/operate.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/kafka_config.h"
#include "daemon/log.h"
#include "daemon/metrics_json.h"
#include "daemon/notify.h"
#include "daemon/text.h"
#include "daemon/version.h"

enum {
    SAMPLES = 16,           /* of what was done, a second apart: rates are over the last quarter of a minute */
    SECOND = 1000,
    SAY = 5 * SECOND,       /* between two status lines for systemd */
};

struct sample { int64_t time; uint64_t examples, events; };    /* monotonic ms */

/* Who decided the level of what is logged. */
enum level_by { BY_FILE, BY_COMMAND_LINE, BY_VERB };
static const char *const level_by_name[] = { "file", "command line", "log-level" };

struct operator {
    const char *file;
    const struct cs_config *config;         /* as started: what needs a restart holds from here */
    struct cs_config *reloaded;             /* the last one taken; NULL: none */
    struct pipeline *pipeline;
    struct publisher *publisher;
    struct kafka_clients *clients;
    struct telemetry *telemetry;
    int64_t started;                        /* wall clock, ms */
    pthread_mutex_t reload;                 /* SIGHUP and the verb at once */
    int given_level;                        /* of the command line; -1: none */

    pthread_mutex_t lock;                   /* over what follows */
    enum level_by level_by;
    bool reload_refused;                    /* the last one: the file is not what runs */
    struct sample sample[SAMPLES];          /* a ring; the next goes to samples % SAMPLES */
    uint64_t samples;
    int64_t said;                           /* monotonic ms */
};

struct operator* operator_create(const char *config_file, const struct cs_config *config, struct pipeline *pipeline,
                                 struct publisher *publisher, struct kafka_clients *clients,
                                 struct telemetry *telemetry, int given_level)
{
    struct operator *operator = need(calloc(1, sizeof *operator));
    *operator=(struct operator){ .file = config_file,
                                 .config = config,
                                 .pipeline = pipeline,
                                 .publisher = publisher,
                                 .clients = clients,
                                 .telemetry = telemetry,
                                 .started = clock_wall(),
                                 .given_level = given_level,
                                 .level_by = given_level < 0 ? BY_FILE : BY_COMMAND_LINE };
    telemetry_add(telemetry, METRIC_RELOADS, TELEMETRY_LABELS("ok"), 0);
    telemetry_add(telemetry, METRIC_RELOADS, TELEMETRY_LABELS("failed"), 0);
    pthread_mutex_init(&operator->reload, NULL);
    pthread_mutex_init(&operator->lock, NULL);
    return operator;
}

void operator_destroy(struct operator *operator)
{
    if (!operator) return;
    if (operator->reloaded) config_destroy(operator->reloaded);
    pthread_mutex_destroy(&operator->reload);
    pthread_mutex_destroy(&operator->lock);
    free(operator);
}

/* ---- status */

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
    return json_pack("{s:s, s:I, s:I, s:o, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "directory",
                     config->snapshot.directory, "cut", (json_int_t)stats->cut, "committed",
                     (json_int_t)view->snapshots, "last", time_or_null(view->snapshot_time), "seconds",
                     view->snapshot_seconds, "stall_seconds", view->stall_seconds, "bytes",
                     (json_int_t)stats->written_bytes, "changed_bytes", (json_int_t)stats->changed_bytes, "live_bytes",
                     (json_int_t)stats->live_bytes, "disk_bytes", (json_int_t)stats->disk_bytes, "peak_bytes",
                     (json_int_t)stats->peak_bytes, "segments", (json_int_t)stats->segments, "failures",
                     (json_int_t)view->failures, "failures_in_row", (json_int_t)view->failures_in_row, "error",
                     text_json(view->snapshot_error));
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
    json_t *gate = json_pack("{s:b, s:I, s:o, s:o, s:o}", "open", publisher_may_send(publisher), "refused",
                             (json_int_t)view->refused, "version", version_or_null(view->refused_version), "time",
                             time_or_null(view->refused_time), "reason", text_json(view->refusal));
    return json_pack("{s:s, s:o, s:I, s:o, s:o, s:f, s:f, s:I, s:o, s:b, s:o, s:o, s:o}", "directory",
                     config->checkpoint.directory, "version", version_or_null(view->version), "published",
                     (json_int_t)view->published, "last", time_or_null(view->publish_time), "watermark",
                     time_or_null(view->publish_watermark), "seconds", view->publish_seconds, "freshness_seconds",
                     view->freshness_seconds, "failures", (json_int_t)view->publish_failures, "error",
                     text_json(view->publish_error), "held", view->held, "hold", text_json(view->hold), "pinned",
                     pinned, "gate", gate);
}

static json_t *logging_json(struct operator *operator)
{
    pthread_mutex_lock(&operator->lock);
    enum level_by by = operator->level_by;
    pthread_mutex_unlock(&operator->lock);
    return json_pack("{s:s, s:s, s:s}", "level", log_level_name[log_current_level()], "by", level_by_name[by], "format",
                     log_current_format() == LOG_JSON ? "json" : "text");
}

static json_t *deltas_json(struct deltas *deltas, const struct cs_config *config)
{
    if (!deltas) return json_null();
    struct deltas_view view = deltas_view(deltas);
    json_t *json = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:o}", "topic", config->checkpoint.delta_topic, "epoch",
                             (json_int_t)view.newest.epoch, "sequence", (json_int_t)view.newest.sequence, "version",
                             (json_int_t)view.newest.version, "steps", (json_int_t)view.steps, "sent",
                             (json_int_t)view.sent, "last", time_or_null(view.time));
    json_t *more = json_pack("{s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:o}", "rows", (json_int_t)view.rows, "gone",
                             (json_int_t)view.gone, "bytes", (json_int_t)view.bytes, "seconds", view.seconds,
                             "freshness_seconds", view.freshness, "failures", (json_int_t)view.failures,
                             "failures_in_row", (json_int_t)view.failures_in_row, "error", text_json(view.error));
    json_object_update(json, more);
    json_decref(more);
    return json;
}

/* ---- rates, problems, and the line that systemd shows */

static uint64_t sum(const uint64_t *count, int n)
{
    uint64_t all = 0;
    for (int i = 0; i < n; i++) all += count[i];
    return all;
}

struct rate { double examples, events; };       /* a second */

static struct rate rate_of(struct operator *operator)
{
    struct rate rate = { 0 };
    pthread_mutex_lock(&operator->lock);
    if (operator->samples >= 2) {
        const struct sample *last = &operator->sample[(operator->samples - 1) % SAMPLES];
        const struct sample *first = &operator->sample[operator->samples < SAMPLES ? 0 : operator->samples % SAMPLES];
        double seconds = (double)(last->time - first->time) / SECOND;
        rate.examples = (double)(last->examples - first->examples) / seconds;
        rate.events = (double)(last->events - first->events) / seconds;
    }
    pthread_mutex_unlock(&operator->lock);
    return rate;
}

/* Why the daemon is not ready: it does not learn, or what it learns is not kept. */
static json_t *unready(const struct pipeline_view *view, const struct publisher_view *publisher)
{
    json_t *array = json_array();
    if (*view->waiting) json_array_append_new(array, text_json_of("waiting for %s", view->waiting));
    else if (!view->connected) json_array_append_new(array, json_string("brokers can't be reached: the log says why"));
    if (view->state == STATE_STOPPING) json_array_append_new(array, json_string("stopping"));
    if (view->state == STATE_PAUSED) json_array_append_new(array, json_string("paused by an operator"));
    if (view->state == STATE_HELD) json_array_append_new(array, text_json(view->held));
    if (publisher->failures_in_row)
        json_array_append_new(array, text_json_of("%d snapshots in a row failed: %s", (int)publisher->failures_in_row,
                                                  publisher->snapshot_error));
    return array;
}

/* That, and all else that wants somebody's eye. */
static json_t *problems(struct operator *operator, const struct pipeline_view *view,
                        const struct publisher_view *publisher)
{
    json_t *array = unready(view, publisher);
    if (publisher->held) json_array_append_new(array, text_json_of("publishing is held: %s", publisher->hold));
    else if (!publisher_may_send(operator->publisher))
        json_array_append_new(array, text_json_of("the gate refused the last version: %s", publisher->refusal));
    if (*publisher->publish_error)
        json_array_append_new(array, text_json_of("the last publication failed: %s", publisher->publish_error));
    struct deltas *deltas = pipeline_deltas(operator->pipeline);
    if (deltas) {
        struct deltas_view sent = deltas_view(deltas);
        if (sent.failures_in_row)
            json_array_append_new(array, text_json_of("%d deltas in a row were not sent: %s", (int)sent.failures_in_row,
                                                      sent.error));
    }
    if (view->letters.kept && view->state != STATE_HELD)
        json_array_append_new(array, text_json_of("%llu dead letters are kept, as the brokers refuse them: %s",
                                                  (unsigned long long)view->letters.kept, view->letters.why));
    for (size_t i = 0; i < view->source_count; i++)
        if (view->source[i].held > 0)
            json_array_append_new(array, text_json_of("%s [%d]: %lld offsets lie behind a transaction that was neither "
                                                      "committed nor aborted, and can't be read: the log says where",
                                                      view->source[i].topic, (int)view->source[i].partition,
                                                      (long long)view->source[i].held));
    if (!join_counts_add_up(&view->join, &view->undecided))
        json_array_append_new(array, json_string("the join's counts do not add up: a defect, please report it"));
    pthread_mutex_lock(&operator->lock);
    if (operator->reload_refused)
        json_array_append_new(array, json_string("the last reload was refused: what runs is not what the file says, "
                                                 "and a restart may fail"));
    pthread_mutex_unlock(&operator->lock);
    return array;
}

/* "running: 41200 examples/s, 0.8 s behind, lag 5230, version 17"; what is wrong comes first. */
static void write_line(struct operator *operator, char *text, size_t size)
{
    struct pipeline_view view = pipeline_view(operator->pipeline);
    struct publisher_view publisher = publisher_view(operator->publisher);
    json_t *wrong = problems(operator, &view, &publisher);
    const char *first = json_string_value(json_array_get(wrong, 0));
    size_t count = json_array_size(wrong);
    int64_t lag = pipeline_view_lag(&view);
    char lags[32] = "unknown", behind[48] = "";
    if (lag >= 0) snprintf(lags, sizeof lags, "%lld", (long long)lag);
    if (view.clock != INT64_MIN && !view.all_idle)
        snprintf(behind, sizeof behind, ", %.1f s behind", (double)(clock_wall() - view.clock) / SECOND);
    int used = snprintf(text, size, "%.160s: %.0f examples/s%s, lag %s, version %llu%s",
                        first ? first : pipeline_state_name[view.state].text, rate_of(operator).examples, behind, lags,
                        (unsigned long long)publisher.version, publisher.version ? "" : " (none yet)");
    if (count > 1 && (size_t)used < size)
        snprintf(text + used, size - (size_t)used, "; also: %.160s",
                 json_string_value(json_array_get(wrong, count - 1)));
    json_decref(wrong);
    pipeline_view_release(&view);
}

void operator_tick(struct operator *operator)
{
    int64_t now = clock_monotonic();
    pthread_mutex_lock(&operator->lock);
    int64_t last = operator->samples ? operator->sample[(operator->samples - 1) % SAMPLES].time : now - SECOND;
    bool due = now - last >= SECOND, say = !operator->said || now - operator->said >= SAY;
    pthread_mutex_unlock(&operator->lock);
    if (!due) return;
    struct pipeline_view view = pipeline_view(operator->pipeline);
    pthread_mutex_lock(&operator->lock);
    operator->sample[operator->samples++ % SAMPLES] =
        (struct sample){ now, view.report[USERS_ALL][SPAN_START].examples, sum(view.events, DECODE_RESULTS) };
    if (say) operator->said = now;
    pthread_mutex_unlock(&operator->lock);
    pipeline_view_release(&view);
    if (!say) return;
    char text[400];
    write_line(operator, text, sizeof text);
    notify_status("%s", text);
}

/* ---- the whole of it */

static json_t *status_of(struct operator *operator)
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

    json_t *status = json_pack(
        "{s:s, s:b, s:o, s:o, s:s, s:s, s:I, s:f}", "state", pipeline_state_name[view.state].text, "connected",
        view.connected, "waiting", text_json(view.waiting), "held", text_json(view.held), "version", version_number,
        "commit", version_commit, "started", (json_int_t) operator->started, "uptime",
        (double)(clock_wall() - operator->started) / 1000);
    json_object_set_new(status, "problems", problems(operator, &view, &publisher));
    struct rate rate = rate_of(operator);
    json_object_set_new(status, "rate",
                        json_pack("{s:f, s:f}", "examples_per_second", rate.examples, "events_per_second",
                                  rate.events));
    int64_t lag = pipeline_view_lag(&view);
    json_object_set_new(status, "lag", lag < 0 ? json_null() : json_integer(lag));
    json_object_set_new(status, "logging", logging_json(operator));
    json_object_set_new(status, "sources", sources_json(&view));
    json_object_set_new(status, "events", events);
    json_object_set_new(status, "dead_letters",
                        json_pack("{s:I, s:I, s:I, s:o}", "waiting", (json_int_t)view.letters.count, "kept",
                                  (json_int_t)view.letters.kept, "bytes", (json_int_t)view.letters.bytes, "why",
                                  text_json(view.letters.why)));
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
                        json_pack("{s:o, s:o, s:o, s:o}", "ranking", number_json(view.losses.ranking),
                                  "reconstruct_user", number_json(view.losses.reconstruct_user), "reconstruct_behavior",
                                  number_json(view.losses.reconstruct_behavior), "mmd", number_json(view.losses.mmd)));
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
    json_t *array = unready(&view, &publisher);
    bool ready = json_array_size(array) == 0;
    *reasons = ready ? NULL : json_dumps(array, JSON_COMPACT);
    json_decref(array);
    pipeline_view_release(&view);
    return ready;
}

static char *page_status(void *self)
{
    json_t *status = status_of(self);
    char *text = json_dumps(status, JSON_COMPACT);
    json_decref(status);
    return text;
}

struct http_pages operator_pages(struct operator *operator)
{
    return (struct http_pages){ .self = operator, .live = page_live, .ready = page_ready, .status = page_status };
}

/* ---- reload: parse all, check all, then change */

struct changes { json_t *live, *refused; };

static void note_change(void *self, const char *key, const char *from, const char *to, bool live)
{
    struct changes *changes = self;
    if (live) json_array_append_new(changes->live, json_pack("{s:s, s:s, s:s}", "key", key, "from", from, "to", to));
    else json_array_append_new(changes->refused, text_json_of("%s: %s -> %s needs a restart", key, from, to));
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
}

/* What was changed by log-level goes back to what the file says, and the command line stays above both: after a reload
 * the daemon does what it would do after a restart. */
static void take_level(struct operator *operator, const struct cs_config *config, json_t *live)
{
    enum log_level was = log_current_level();
    enum log_level now = operator->given_level < 0 ? config->logging.level : (enum log_level)operator->given_level;
    pthread_mutex_lock(&operator->lock);
    bool by_verb = operator->level_by == BY_VERB;
    operator->level_by = operator->given_level < 0 ? BY_FILE : BY_COMMAND_LINE;
    pthread_mutex_unlock(&operator->lock);
    log_set(now, config->logging.format);
    if (!by_verb || was == now) return;
    size_t i;
    const json_t *one;
    json_array_foreach(live, i, one)
        if (strcmp(json_string_value(json_object_get(one, "key")), "logging.level") == 0) return;
    json_array_append_new(live, json_pack("{s:s, s:s, s:s}", "key", "logging.level", "from", log_level_name[was], "to",
                                          log_level_name[now]));
}

static json_t *lines_of(const struct config_problems *problems)
{
    json_t *array = json_array();
    char *text = config_problems_text(problems), *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));)
        if (*line) json_array_append_new(array, text_json(line));
    free(text);
    return array;
}

static json_t *reload(struct operator *operator, json_t **reasons, struct cs_error *err)
{
    struct config_problems wrong = { 0 };
    struct cs_config *config = config_load_checked(operator->file, CONFIG_FOR_DAEMON, &kafka_checks_each, &wrong);
    if (!config) {
        *reasons = lines_of(&wrong);
        cs_fail(err, CS_CONFIG, "the running configuration stays: %zu problem%s in the file; the first: %.300s",
                wrong.count, wrong.count == 1 ? "" : "s",
                json_array_size(*reasons) ? json_string_value(json_array_get(*reasons, 0)) : "it can't be read");
    }
    config_problems_release(&wrong);
    if (!config) return NULL;
    struct changes changes = { json_array(), json_array() };
    config_compare(operator->reloaded ? operator->reloaded : operator->config, config, note_change, &changes);
    if (json_array_size(changes.refused)) {
        config_destroy(config);
        json_decref(changes.live);
        *reasons = changes.refused;
        cs_fail(err, CS_CONFIG, "the running configuration stays, nothing was changed: %.300s%s",
                json_string_value(json_array_get(*reasons, 0)),
                json_array_size(*reasons) > 1 ? ", and more do" : "");
        return NULL;
    }
    json_decref(changes.refused);
    bool login;
    if (!kafka_clients_login(operator->clients, config, &login, err)) {
        config_destroy(config);
        json_decref(changes.live);
        *reasons = json_pack("[o]", text_json(err->message));
        return NULL;
    }
    take_config(operator, config);
    take_level(operator, config, changes.live);
    if (operator->reloaded) config_destroy(operator->reloaded);
    operator->reloaded = config;
    json_t *result = json_pack("{s:i, s:o}", "changed", (int)json_array_size(changes.live), "settings", changes.live);
    if (login) json_object_set_new(result, "note", json_string("Kafka's user and password are used at each client's "
                                                               "next connection; what is connected stays so"));
    return result;
}

/* In the log too: SIGHUP has no other answer. */
static void log_reload(const struct operator *operator, const json_t *result, const json_t *reasons,
                       const struct cs_error *err)
{
    size_t i;
    const json_t *one;
    json_array_foreach(json_object_get(result, "settings"), i, one)
        log_notice("setting changed", LOG_S("key", json_string_value(json_object_get(one, "key"))),
                   LOG_S("from", json_string_value(json_object_get(one, "from"))),
                   LOG_S("to", json_string_value(json_object_get(one, "to"))));
    if (result) {
        log_notice("configuration reloaded", LOG_S("file", operator->file),
                   LOG_U("changed", json_array_size(json_object_get(result, "settings"))));
        return;
    }
    json_array_foreach(reasons, i, one) log_error("reload refused", LOG_S("reason", json_string_value(one)));
    log_error("configuration not reloaded", LOG_S("error", err->message));
}

json_t *operator_reload(struct operator *operator, json_t **reasons, struct cs_error *err)
{
    json_t *why = NULL;
    pthread_mutex_lock(&operator->reload);
    notify_reloading();
    json_t *result = reload(operator, &why, err);
    pthread_mutex_lock(&operator->lock);
    operator->reload_refused = !result;
    pthread_mutex_unlock(&operator->lock);
    telemetry_add(operator->telemetry, METRIC_RELOADS, TELEMETRY_LABELS(result ? "ok" : "failed"), 1);
    log_reload(operator, result, why, err);
    char line[400];
    write_line(operator, line, sizeof line);
    notify_ready(line);
    pthread_mutex_unlock(&operator->reload);
    if (reasons) *reasons = why;
    else json_decref(why);
    return result;
}

/* ---- verbs */

static json_t *verb_status(void *self, struct control_call *call, struct cs_error *err)
{
    (void)call, (void)err;
    return status_of(self);
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
    errno = 0;
    *version = strtoull(text, NULL, 10);
    if (!*text && optional) return true;
    if (digits && !text[digits] && !errno && *version) return true;
    const char *narrower = errno == ERANGE ? " of 64 bits" : "";
    return cs_fail(err, CS_USAGE,
                   "\"%.40s\" is not a version: a decimal number%s as in `ls` of the checkpoint directory", text,
                   narrower);
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
    return operator_reload(self, &call->reasons, err);
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
    if (!versions_release(publisher_versions(operator->publisher), err)) return NULL;    /* all of it or nothing */
    pipeline_pause(operator->pipeline, false);
    log_notice("resumed by an operator");
    return json_pack("{s:s}", "state", "running");
}

/* Until a reload or the end. */
static json_t *verb_log_level(void *self, struct control_call *call, struct cs_error *err)
{
    struct operator *operator = self;
    for (size_t i = 0; call->argument && log_level_name[i]; i++) {
        if (strcmp(log_level_name[i], call->argument) != 0) continue;
        const char *was = log_level_name[log_current_level()];
        pthread_mutex_lock(&operator->lock);
        operator->level_by = BY_VERB;
        pthread_mutex_unlock(&operator->lock);
        log_set((enum log_level)i, log_current_format());
        log_notice("log level changed by an operator", LOG_S("from", was), LOG_S("to", log_level_name[i]));
        return json_pack("{s:s, s:s, s:s}", "level", log_level_name[i], "was", was, "until", "a reload or a restart");
    }
    cs_fail(err, CS_USAGE, "log-level wants error, warning, notice, info or debug, not \"%.40s\"",
            call->argument ? call->argument : "");
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
