/* The snapshot thread, and what it takes to come back from what it wrote. */
#include "daemon/publish.h"

#include <assert.h>
#include <cblas.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/log.h"
#include "daemon/manifest.h"
#include "daemon/notify.h"
#include "daemon/positions.h"
#include "daemon/queue.h"
#include "daemon/trial.h"
#include "daemon/version.h"
#include "storage/checkpoint.h"

enum {
    LETTERS_WAIT = 500, LAST_LETTERS_WAIT = 10000, COMMIT_WAIT = 5000,     /* ms */
    STUCK_AFTER = 3,            /* failures in a row */
    STUCK_RETRY = 10000,        /* ms, where the interval is longer: nothing is read until one succeeds */
};

enum outcome { PUBLISH_OK, PUBLISH_REFUSED, PUBLISH_FAILED };
static const char *const outcome_name[] = { "ok", "refused", "failed" };

struct publisher {
    const struct cs_config *config;
    struct snapshot_store *store;
    struct kafka_sink *sink;
    struct telemetry *telemetry;
    struct versions *versions;
    uint64_t hopeless;              /* the snapshot thread's: fell, and there was nothing to roll back to */
    size_t threads;
    char *model_text;
    char fingerprint[33];
    struct queue *queue;            /* of cuts: at most one, and the end */
    pthread_t thread;
    pthread_mutex_t lock;           /* over what follows */
    pthread_cond_t done;
    int64_t snapshot_interval, checkpoint_interval;
    struct config_gate gate;
    double pace;
    bool hurry;                     /* the last cut is waited for */
    int64_t last_cut, last_publish; /* monotonic */
    uint64_t asked, finished;       /* tickets: a cut with ticket t serves all requests up to t */
    bool publish_asked, under_way, closed;
    uint64_t judged_steps;          /* of the version published or refused last by this process; UINT64_MAX: none */
    struct cs_error snapshot_result, publish_result;    /* of the last cut; code CS_OK where it went well */
    enum outcome outcome;           /* of the last version judged: PUBLISH_OK or PUBLISH_REFUSED */
    uint64_t published_version;
    struct publisher_view view;
};

static struct cut end_of_cuts;

/* ---- a cut's way to the disk */

static bool commit_snapshot(struct publisher *publisher, struct cut *cut, struct cs_error *err)
{
    if (cut->failed) {
        *err = cut->error;
        goto abandon;
    }
    snapshot_take_tensors(cut->snapshot);       /* while the learner is at its next batch */
    /* What the brokers have not acknowledged goes with the positions that have passed it: none can be lost. */
    if (publisher->sink) {
        kafka_sink_flush(publisher->sink, cut->final ? LAST_LETTERS_WAIT : LETTERS_WAIT);
        if (!letters_save(kafka_sink_letters(publisher->sink), snapshot_writer(cut->snapshot), err)) goto abandon;
    }
    struct snapshot_cut *snapshot = cut->snapshot;
    cut->snapshot = NULL;
    return snapshot_commit(snapshot, err);
abandon:
    snapshot_abandon(cut->snapshot);
    cut->snapshot = NULL;
    return false;
}

static struct config_gate gate_of(struct publisher *publisher)
{
    pthread_mutex_lock(&publisher->lock);
    struct config_gate gate = publisher->gate;
    pthread_mutex_unlock(&publisher->lock);
    return gate;
}

/* All reasons against it, not the first alone. False: it could not be tried. */
static bool judge(struct publisher *publisher, const struct config_gate *gate, const char *candidate,
                  const struct cut *cut, struct gate_reasons *reasons, struct cs_error *err)
{
    const char *directory = publisher->config->checkpoint.directory;
    if (!trial_run(candidate, cut->probe, reasons, err)) return cs_error_prefix(err, "trying the version");
    struct gate_quality was = gate_quality_of(directory, checkpoint_current(directory)), is = { .known = true };
    for (int users = 0; users < USERS_GROUPS; users++) is.users[users] = cut->report[users][SPAN_WINDOW];
    gate_judge(gate, &is, &was, reasons);
    return true;
}

static enum outcome publish(struct publisher *publisher, struct cut *cut, uint64_t *version,
                            struct gate_reasons *reasons, struct cs_error *err)
{
    uint64_t keep = publisher->config->checkpoint.keep;
    struct config_gate gate = gate_of(publisher);
    struct checkpoint_writer *candidate =
        manifest_candidate(publisher->config, publisher->store, publisher->fingerprint, cut, err);
    if (!candidate) return PUBLISH_FAILED;
    if (!judge(publisher, &gate, checkpoint_candidate(candidate), cut, reasons, err)) {
        checkpoint_abandon(candidate);
        return PUBLISH_FAILED;
    }
    if (!reasons->count)
        return versions_accept(publisher->versions, candidate, keep, cut->watermark, version, err) ? PUBLISH_OK
                                                                                                   : PUBLISH_FAILED;
    if (!checkpoint_refuse(candidate, reasons->text, gate.keep_refused, version, err)) {
        cs_error_prefix(err, "the version is refused (%.200s), and could not be kept aside", reasons->text);
        return PUBLISH_FAILED;
    }
    cs_fail(err, CS_REFUSED, "version %llu is refused by the gate: %.400s", (unsigned long long)*version,
            reasons->text);
    return PUBLISH_REFUSED;
}

/* Has quality fallen since the current version was cut? Judged are the scores given since then, against what they were
 * then, by the gate's bounds. */
static void watch(struct publisher *publisher)
{
    uint64_t version = versions_watched(publisher->versions);
    struct config_gate gate = gate_of(publisher);
    if (gate.rollback != ROLLBACK_AUTOMATIC || !version || version == publisher->hopeless) return;
    struct gate_quality was = gate_quality_of(publisher->config->checkpoint.directory, version), since;
    struct gate_reasons reasons = { 0 };
    struct cs_error err;
    if (!was.known) return;
    if (!manifest_since(publisher->config, publisher->store, was.examples, &since, &err)) {
        log_error("quality since the last version can't be judged", LOG_S("error", err.message));
        return;
    }
    if (gate_judge(&gate, &since, &was, &reasons)) return;
    uint64_t now;
    log_error("quality has fallen since the version was published", LOG_U("version", version),
              LOG_U("examples", since.examples - was.examples), LOG_S("reasons", reasons.text));
    if (versions_rollback(publisher->versions, 0, ROLLBACK_BY_GATE, reasons.text, &now, &err)) return;
    publisher->hopeless = version;
    log_error("no automatic rollback: name a version by `coldstreamctl rollback VERSION`",
              LOG_S("error", err.message));
}

/* Under the lock. Writing takes little of the machine while there is something to learn, all it can get otherwise. */
static void set_pace(struct publisher *publisher)
{
    bool waiting = publisher->hurry || publisher->view.failures_in_row >= STUCK_AFTER;
    snapshot_set_pace(publisher->store, waiting ? 1 : publisher->pace);
}

static void tell_free(struct telemetry *telemetry, const char *label, const char *directory)
{
    struct statvfs disk;
    if (statvfs(directory, &disk) == 0)
        telemetry_set(telemetry, METRIC_DISK_FREE, &label, (double)disk.f_bavail * (double)disk.f_frsize);
}

static void tell_sizes(struct publisher *publisher, const struct snapshot_stats *stats)
{
    struct telemetry *telemetry = publisher->telemetry;
    tell_free(telemetry, "snapshot", publisher->config->snapshot.directory);
    tell_free(telemetry, "checkpoint", publisher->config->checkpoint.directory);
    telemetry_set(telemetry, METRIC_SNAPSHOT_BYTES, NULL, (double)stats->written_bytes);
    telemetry_set(telemetry, METRIC_SNAPSHOT_CHANGED, NULL, (double)stats->changed_bytes);
    telemetry_set(telemetry, METRIC_SNAPSHOT_LIVE, NULL, (double)stats->live_bytes);
    telemetry_set(telemetry, METRIC_SNAPSHOT_DISK, NULL, (double)stats->disk_bytes);
    telemetry_set(telemetry, METRIC_SNAPSHOT_SEGMENTS, NULL, (double)stats->segments);
}

static void note_snapshot(struct publisher *publisher, const struct cut *cut, bool fine, double seconds,
                          const struct cs_error *err)
{
    struct snapshot_stats stats = snapshot_stats(publisher->store);
    struct publisher_view *view = &publisher->view;
    bool was_stuck = false;
    pthread_mutex_lock(&publisher->lock);
    publisher->snapshot_result = *err;
    view->stats = stats;
    if (fine) {
        was_stuck = view->failures_in_row >= STUCK_AFTER;
        view->snapshots++;
        view->failures_in_row = 0;
        view->snapshot_time = clock_wall();
        view->snapshot_seconds = seconds;
        view->snapshot_error[0] = 0;
    } else {
        view->failures++;
        view->failures_in_row++;
        snprintf(view->snapshot_error, sizeof view->snapshot_error, "%.255s", err->message);
    }
    uint64_t in_row = view->failures_in_row;
    double stall = view->stall_seconds;
    set_pace(publisher);
    pthread_mutex_unlock(&publisher->lock);
    tell_sizes(publisher, &stats);
    if (fine) {
        telemetry_observe(publisher->telemetry, METRIC_SNAPSHOT_SECONDS, seconds);
        telemetry_set(publisher->telemetry, METRIC_SNAPSHOT_SUCCESS, NULL, (double)clock_wall() / 1000);
        if (was_stuck) log_notice("a snapshot succeeded: reading goes on");
        log_info("snapshot committed", LOG_U("cut", stats.cut), LOG_U("steps", cut->steps),
                 LOG_U("changed", stats.changed_bytes), LOG_U("written", stats.written_bytes),
                 LOG_U("live", stats.live_bytes), LOG_U("disk", stats.disk_bytes), LOG_F("seconds", seconds),
                 LOG_F("stall", stall), LOG_F("join", cut->join_seconds));
    } else {
        telemetry_add(publisher->telemetry, METRIC_SNAPSHOT_FAILURES, NULL, 1);
        log_error("snapshot failed, the previous one stands", LOG_S("error", err->message), LOG_U("in_row", in_row));
        if (in_row == STUCK_AFTER) log_error("reading is paused until a snapshot succeeds");
    }
}

static void note_refusal(struct publisher *publisher, uint64_t version, const struct gate_reasons *reasons)
{
    struct publisher_view *view = &publisher->view;         /* under the lock */
    view->refused++;
    view->refused_version = version;
    view->refused_time = clock_wall();
    snprintf(view->refusal, sizeof view->refusal, "%.1023s", reasons->text);
}

static void note_publication(struct publisher *publisher, const struct cut *cut, enum outcome outcome, uint64_t version,
                             const struct gate_reasons *reasons, double seconds, const struct cs_error *err)
{
    struct publisher_view *view = &publisher->view;
    double freshness = cut->watermark > 0 ? (double)(clock_wall() - cut->watermark) / 1000 : 0;
    pthread_mutex_lock(&publisher->lock);
    publisher->publish_result = *err;
    if (outcome == PUBLISH_OK) {
        publisher->published_version = version;
        view->published++;
        view->publish_time = clock_wall();
        view->publish_watermark = cut->watermark;
        view->publish_seconds = seconds;
        view->freshness_seconds = freshness;
    }
    view->publish_failures += outcome == PUBLISH_FAILED;
    /* A refusal is told by the gate alone; that it came to one says that writing goes well. */
    snprintf(view->publish_error, sizeof view->publish_error, "%.255s",
             outcome == PUBLISH_FAILED ? err->message : "");
    if (outcome == PUBLISH_REFUSED) note_refusal(publisher, version, reasons);
    if (outcome != PUBLISH_FAILED) publisher->outcome = outcome;
    if (outcome != PUBLISH_FAILED) publisher->judged_steps = cut->steps;
    publisher->last_publish = clock_monotonic();
    pthread_mutex_unlock(&publisher->lock);
    telemetry_add(publisher->telemetry, METRIC_PUBLISH, TELEMETRY_LABELS(outcome_name[outcome]), 1);
    if (outcome == PUBLISH_REFUSED)
        log_error("version refused, the current one stands", LOG_U("version", version), LOG_U("steps", cut->steps),
                  LOG_S("reasons", reasons->text), LOG_S("kept", CHECKPOINT_REFUSED));
    else if (outcome == PUBLISH_FAILED) log_error("version not published", LOG_S("error", err->message));
    if (outcome != PUBLISH_OK) return;
    telemetry_set(publisher->telemetry, METRIC_PUBLISH_SUCCESS, NULL, (double)clock_wall() / 1000);
    bool by_deltas = publisher->config->checkpoint.delta_topic != NULL;      /* readers are further: daemon/delta.c */
    if (cut->watermark > 0 && !by_deltas) telemetry_observe(publisher->telemetry, METRIC_FRESHNESS, freshness);
    log_notice("version published", LOG_U("version", version), LOG_U("steps", cut->steps), LOG_F("seconds", seconds));
}

static bool publication_due(struct publisher *publisher, const struct cut *cut)
{
    pthread_mutex_lock(&publisher->lock);
    bool due = clock_monotonic() - publisher->last_publish >= publisher->checkpoint_interval && cut->steps > 0 &&
               cut->steps != publisher->judged_steps && !versions_view(publisher->versions).held;
    pthread_mutex_unlock(&publisher->lock);
    return (due || cut->publish) && !cut->final;
}

static void cut_destroy(struct cut *cut)
{
    free(cut->positions);
    free(cut->commit);
    probe_scores_destroy(cut->probe);
    free(cut);
}

static void end_cut(struct publisher *publisher, struct cut *cut)
{
    struct cs_error err = { 0 };
    double begin = clock_seconds();
    bool fine = commit_snapshot(publisher, cut, &err);
    note_snapshot(publisher, cut, fine, clock_seconds() - begin, &err);
    if (fine) {
        if (cut->source) kafka_source_commit(cut->source, cut->commit, cut->commit_count, cut->final ? COMMIT_WAIT : 0);
        watch(publisher);
        if (publication_due(publisher, cut)) {
            uint64_t version = 0;
            struct gate_reasons reasons = { 0 };
            begin = clock_seconds();
            enum outcome outcome = publish(publisher, cut, &version, &reasons, &err);
            note_publication(publisher, cut, outcome, version, &reasons, clock_seconds() - begin, &err);
        }
    }
    pthread_mutex_lock(&publisher->lock);
    if (fine && cut->final && cut->publish)
        cs_fail(&publisher->publish_result, CS_FAILED, "no version is made: the daemon is stopping");
    publisher->finished = cut->ticket;
    publisher->under_way = false;
    pthread_cond_broadcast(&publisher->done);
    pthread_mutex_unlock(&publisher->lock);
    cut_destroy(cut);
}

static void *serve(void *argument)
{
    struct publisher *publisher = argument;
    struct cut *cut;
    setpriority(PRIO_PROCESS, (id_t)gettid(), PUBLISH_NICE);    /* of this thread alone */
    while ((cut = queue_pop(publisher->queue, -1)) != &end_of_cuts) end_cut(publisher, cut);
    return NULL;
}

/* ---- the threads' side */

static struct cut *begin(struct publisher *publisher)      /* under the lock */
{
    struct cut *cut = need(calloc(1, sizeof *cut));
    cut->ticket = publisher->asked;
    cut->publish = publisher->publish_asked;
    publisher->publish_asked = false;
    publisher->under_way = true;
    publisher->last_cut = clock_monotonic();
    return cut;
}

static struct cut *open_cut(struct publisher *publisher, struct cut *cut)
{
    char text[64];
    struct cs_error *err = &cut->error;
    cut->snapshot = snapshot_begin(publisher->store);
    snprintf(text, sizeof text, "%zu", publisher->threads);
    cut->failed = !snapshot_meta(cut->snapshot, "config", publisher->model_text, err) ||
                  !snapshot_meta(cut->snapshot, "fingerprint", publisher->fingerprint, err) ||
                  !snapshot_meta(cut->snapshot, "program", version_number, err) ||
                  !snapshot_meta(cut->snapshot, "openblas_core", openblas_get_corename(), err) ||
                  !snapshot_meta(cut->snapshot, "threads", text, err);
    snprintf(text, sizeof text, "%llu", (unsigned long long)publisher->config->compute.seed);
    cut->failed = cut->failed || !snapshot_meta(cut->snapshot, "seed", text, err);
    return cut;
}

struct cut *publisher_begin_if_due(struct publisher *publisher, bool changed)
{
    struct cut *cut = NULL;
    pthread_mutex_lock(&publisher->lock);
    /* What a failed commit held is owed again, also where nothing has changed since: reading may be held up by it. */
    bool owed = changed || publisher->view.failures_in_row > 0;
    int64_t pause = publisher->snapshot_interval;
    if (publisher->view.failures_in_row >= STUCK_AFTER && pause > STUCK_RETRY) pause = STUCK_RETRY;
    bool over = owed && clock_monotonic() - publisher->last_cut >= pause;
    if (!publisher->under_way && (publisher->asked > publisher->finished || over)) cut = begin(publisher);
    pthread_mutex_unlock(&publisher->lock);
    return cut ? open_cut(publisher, cut) : NULL;
}

struct cut *publisher_begin_final(struct publisher *publisher)
{
    pthread_mutex_lock(&publisher->lock);
    publisher->hurry = true;
    set_pace(publisher);
    while (publisher->under_way) pthread_cond_wait(&publisher->done, &publisher->lock);
    struct cut *cut = begin(publisher);
    cut->final = true;
    pthread_mutex_unlock(&publisher->lock);
    return open_cut(publisher, cut);
}

void publisher_submit(struct publisher *publisher, struct cut *cut)
{
    pthread_mutex_lock(&publisher->lock);
    publisher->view.stall_seconds = cut->stall;
    pthread_mutex_unlock(&publisher->lock);
    telemetry_observe(publisher->telemetry, METRIC_SNAPSHOT_STALL, cut->stall);
    queue_push(publisher->queue, cut);
}

void publisher_waited(struct publisher *publisher, double seconds)
{
    pthread_mutex_lock(&publisher->lock);
    publisher->view.stall_seconds += seconds;
    pthread_mutex_unlock(&publisher->lock);
    telemetry_observe(publisher->telemetry, METRIC_SNAPSHOT_STALL, seconds);
}

void publisher_finish(struct publisher *publisher)
{
    queue_push(publisher->queue, &end_of_cuts);
    pthread_join(publisher->thread, NULL);
    pthread_mutex_lock(&publisher->lock);
    publisher->closed = true;
    pthread_cond_broadcast(&publisher->done);
    pthread_mutex_unlock(&publisher->lock);
}

/* ---- the operator's side */

static bool wait_for(struct publisher *publisher, bool publication, struct publisher_view *view, struct cs_error *err)
{
    pthread_mutex_lock(&publisher->lock);
    uint64_t ticket = ++publisher->asked;
    publisher->publish_asked |= publication;
    while (publisher->finished < ticket && !publisher->closed) pthread_cond_wait(&publisher->done, &publisher->lock);
    bool reached = publisher->finished >= ticket;
    struct cs_error result = publisher->snapshot_result;
    if (result.code == CS_OK && publication) result = publisher->publish_result;
    *view = publisher->view;
    pthread_mutex_unlock(&publisher->lock);
    if (!reached) return cs_fail(err, CS_FAILED, "the daemon is stopping");
    if (result.code == CS_OK) return true;
    *err = result;
    return false;
}

bool publisher_snapshot(struct publisher *publisher, struct cs_error *err)
{
    struct publisher_view view;
    return wait_for(publisher, false, &view, err);
}

bool publisher_publish(struct publisher *publisher, uint64_t *version, struct cs_error *err)
{
    struct publisher_view view;
    struct versions_view now = versions_view(publisher->versions);
    if (now.held)
        return cs_fail(err, CS_FAILED, "nothing is published until `coldstreamctl resume`: %.380s", now.hold);
    if (!wait_for(publisher, true, &view, err)) return false;
    pthread_mutex_lock(&publisher->lock);
    *version = publisher->published_version;
    pthread_mutex_unlock(&publisher->lock);
    return true;
}

void publisher_request(struct publisher *publisher, bool publication)
{
    pthread_mutex_lock(&publisher->lock);
    publisher->asked++;
    publisher->publish_asked |= publication;
    pthread_mutex_unlock(&publisher->lock);
}

struct versions *publisher_versions(struct publisher *publisher)
{
    return publisher->versions;
}

bool publisher_may_send(struct publisher *publisher)
{
    pthread_mutex_lock(&publisher->lock);
    bool refused = publisher->outcome == PUBLISH_REFUSED;
    pthread_mutex_unlock(&publisher->lock);
    return !refused && !versions_view(publisher->versions).held;
}

struct publisher_view publisher_view(struct publisher *publisher)
{
    pthread_mutex_lock(&publisher->lock);
    struct publisher_view view = publisher->view;
    pthread_mutex_unlock(&publisher->lock);
    struct versions_view versions = versions_view(publisher->versions);
    view.version = versions.current;
    view.held = versions.held;
    snprintf(view.hold, sizeof view.hold, "%s", versions.hold);
    return view;
}

bool publisher_stuck(struct publisher *publisher)
{
    pthread_mutex_lock(&publisher->lock);
    bool stuck = publisher->view.failures_in_row >= STUCK_AFTER;
    pthread_mutex_unlock(&publisher->lock);
    return stuck;
}

void publisher_set_live(struct publisher *publisher, const struct cs_config *config)
{
    pthread_mutex_lock(&publisher->lock);
    publisher->snapshot_interval = config->snapshot.interval;
    publisher->checkpoint_interval = config->checkpoint.interval;
    if (publisher->outcome == PUBLISH_REFUSED) publisher->judged_steps = UINT64_MAX;    /* it may pass now */
    publisher->gate = config->checkpoint.gate;
    publisher->pace = config->snapshot.pace;
    set_pace(publisher);
    pthread_mutex_unlock(&publisher->lock);
    telemetry_set(publisher->telemetry, METRIC_SNAPSHOT_INTERVAL, NULL, (double)config->snapshot.interval / 1000);
    telemetry_set(publisher->telemetry, METRIC_PUBLISH_INTERVAL, NULL, (double)config->checkpoint.interval / 1000);
}

struct publisher *publisher_create(const struct cs_config *config, struct snapshot_store *store,
                                   struct kafka_sink *sink, struct telemetry *telemetry, size_t threads,
                                   struct cs_error *err)
{
    struct publisher *publisher = need(calloc(1, sizeof *publisher));
    publisher->config = config;
    publisher->store = store;
    publisher->sink = sink;
    publisher->telemetry = telemetry;
    publisher->threads = threads;
    publisher->model_text = config_model_text(config);
    config_fingerprint(config, publisher->fingerprint);
    publisher->queue = queue_create(2);
    pthread_mutex_init(&publisher->lock, NULL);
    pthread_cond_init(&publisher->done, NULL);
    publisher_set_live(publisher, config);
    publisher->last_cut = publisher->last_publish = clock_monotonic();
    publisher->judged_steps = UINT64_MAX;
    publisher->view.stats = snapshot_stats(store);
    tell_sizes(publisher, &publisher->view.stats);
    telemetry_add(telemetry, METRIC_SNAPSHOT_FAILURES, NULL, 0);
    telemetry_expect(telemetry, METRIC_SNAPSHOT_SECONDS);
    telemetry_expect(telemetry, METRIC_SNAPSHOT_STALL);
    telemetry_expect(telemetry, METRIC_FRESHNESS);
    for (int outcome = PUBLISH_OK; outcome <= PUBLISH_FAILED; outcome++)
        telemetry_add(telemetry, METRIC_PUBLISH, TELEMETRY_LABELS(outcome_name[outcome]), 0);
    if (!(publisher->versions = versions_open(config, sink, telemetry, err))) {
        publisher_destroy(publisher);
        return NULL;
    }
    int error = pthread_create(&publisher->thread, NULL, serve, publisher);
    if (error) {
        cs_fail_errno(err, error, "starting the snapshot thread");
        publisher_destroy(publisher);
        return NULL;
    }
    return publisher;
}

void publisher_destroy(struct publisher *publisher)
{
    if (!publisher) return;
    queue_destroy(publisher->queue);
    versions_close(publisher->versions);
    free(publisher->model_text);
    pthread_cond_destroy(&publisher->done);
    pthread_mutex_destroy(&publisher->lock);
    free(publisher);
}

/* ---- resume */

static bool same_model(const struct cs_config *config, struct snapshot_view *view, const char *directory,
                       struct cs_error *err)
{
    char here[33], difference[256] = "";
    config_fingerprint(config, here);
    const char *there = snapshot_view_meta(view, "fingerprint"), *there_text = snapshot_view_meta(view, "config");
    if (there && strcmp(there, here) == 0) return true;
    char *here_text = config_model_text(config);
    bool migratable = there_text && config_model_difference(there_text, here_text, difference, sizeof difference);
    free(here_text);
    return cs_fail(
        err, CS_REFUSED,
        "the snapshot in %s is of another model: %s. Restore that setting, %smove the directory away to start anew",
        directory, *difference ? difference : "it carries no configuration",
        migratable ? "or carry the state over by `coldstreamctl migrate`, or " : "or ");
}

/* Same bytes are promised on the same kernels alone. */
static void compare_arithmetic(const struct cs_config *config, struct snapshot_view *view, size_t threads)
{
    const char *core = snapshot_view_meta(view, "openblas_core"), *count = snapshot_view_meta(view, "threads"),
               *seed = snapshot_view_meta(view, "seed");
    char here[32];
    if (core && strcmp(core, openblas_get_corename()) != 0)
        log_warning("OpenBLAS has another kernel than when the snapshot was written: last digits may differ",
                    LOG_S("there", core), LOG_S("here", openblas_get_corename()));
    snprintf(here, sizeof here, "%zu", threads);
    if (count && strcmp(count, here) != 0)
        log_notice("another number of threads than when the snapshot was written", LOG_S("there", count),
                   LOG_S("here", here));
    snprintf(here, sizeof here, "%llu", (unsigned long long)config->compute.seed);
    if (seed && strcmp(seed, here) != 0)
        log_warning("compute.seed differs from the snapshot's: rows made from now on start differently",
                    LOG_S("there", seed), LOG_S("here", here));
}

bool publish_resume(const struct cs_config *config, struct snapshot_store *store, size_t threads,
                    struct learner *learner, struct ingest *ingest, struct metrics *metrics,
                    struct shown *shown, struct letters *letters, struct kafka_positions *positions,
                    struct cs_error *err)
{
    *positions = (struct kafka_positions){ 0 };
    if (!snapshot_exists(store)) {
        log_notice("no snapshot yet: starting anew", LOG_S("directory", snapshot_directory(store)));
        return true;
    }
    double begin_time = clock_seconds();
    struct snapshot_view *view = snapshot_view_open(store, err);
    if (!view) return false;
    bool ok = false;
    if (!same_model(config, view, snapshot_directory(store), err)) goto out;
    compare_arithmetic(config, view, threads);
    struct state_reader *reader = snapshot_reader(view);
    if (!learner_load(learner, reader, err)) goto out;
    notify_extend(60000);
    if (!ingest_load(ingest, reader, err)) goto out;
    if (!metrics_load(metrics, reader, err) || !shown_load(shown, reader, err)) goto out;
    if (!letters_load(letters, reader, err)) goto out;
    const char *text = snapshot_view_meta(view, "positions");
    if (text && !positions_parse(text, positions, err)) goto out;
    log_notice("resumed from snapshot", LOG_S("directory", snapshot_directory(store)),
               LOG_U("steps", learner_steps(learner)), LOG_U("pending", ingest_pending(ingest)),
               LOG_U("partitions", positions->count),
               LOG_U("dead_letters", letters_view(letters).count), LOG_F("seconds", clock_seconds() - begin_time));
    ok = true;
out:
    snapshot_view_close(view);
    if (!ok) positions_release(positions);
    return ok;
}
