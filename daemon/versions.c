/* Rollback, hold, pins and announcements. */
#include "daemon/versions.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/log.h"
#include "daemon/text.h"
#include "storage/environment.h"
#include "storage/file.h"

struct versions {
    const char *directory, *topic;      /* topic NULL: nothing is announced */
    struct kafka_sink *sink;
    struct telemetry *telemetry;
    int held;                           /* the directory, held by flock; -1: it is not there yet */
    pthread_mutex_t change;     /* over the directory: held while it changes, which may take a disk's time */
    pthread_mutex_t lock;       /* over the view alone */
    struct versions_view view;
};

static const char *const cause_name[] = { "operator", "automatic" };

/* Two daemons that publish into one directory would have readers jump between two models. */
static bool hold_directory(struct versions *versions, struct cs_error *err)
{
    if (versions->held >= 0) return true;
    int handle = open(versions->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (handle < 0) return cs_fail_errno(err, errno, "opening %s", versions->directory);
    if (flock(handle, LOCK_EX | LOCK_NB) == 0) {
        versions->held = handle;
        return true;
    }
    int number = errno;
    close(handle);
    if (number != EWOULDBLOCK) return cs_fail_errno(err, number, "locking %s", versions->directory);
    return cs_fail(err, CS_FENCED, "checkpoint.directory: another daemon publishes into %s", versions->directory);
}

/* ---- what others are told */

static void announce(struct versions *versions, const char *event, uint64_t version, json_t *more)
{
    char key[24];
    snprintf(key, sizeof key, "%020" PRIu64, version);
    json_t *message = json_pack("{s:s, s:s, s:s, s:I}", "event", event, "version", key, "directory",
                                versions->directory, "published", (json_int_t)clock_wall());
    json_object_update(message, more);
    json_decref(more);
    char *text = versions->topic ? json_dumps(message, JSON_COMPACT) : NULL;
    json_decref(message);
    struct cs_error err;
    if (text && !kafka_sink_announce(versions->sink, versions->topic, key, text, &err))
        log_warning("a version is not announced; readers that follow `current` see it all the same",
                    LOG_S("event", event), LOG_U("version", version), LOG_S("error", err.message));
    free(text);
}

static void show(struct versions *versions, uint64_t current, const char *hold)
{
    pthread_mutex_lock(&versions->lock);
    versions->view.current = current;
    versions->view.held = *hold != 0;
    snprintf(versions->view.hold, sizeof versions->view.hold, "%s", hold);
    pthread_mutex_unlock(&versions->lock);
    if (current) telemetry_set(versions->telemetry, METRIC_PUBLISHED_VERSION, NULL, (double)current);
    telemetry_set(versions->telemetry, METRIC_PUBLISH_HELD, NULL, *hold != 0);
}

struct versions_view versions_view(struct versions *versions)
{
    pthread_mutex_lock(&versions->lock);
    struct versions_view view = versions->view;
    pthread_mutex_unlock(&versions->lock);
    return view;
}

/* ---- the hold */

struct hold { uint64_t from, to; int64_t time; char cause[16], reason[300]; };

static bool hold_path(const struct versions *versions, const char *name, char path[PATH_MAX], struct cs_error *err)
{
    if (snprintf(path, PATH_MAX, "%s/%s", versions->directory, name) < PATH_MAX) return true;
    return cs_fail(err, CS_FAILED, "the path of %s is too long", versions->directory);
}

static void hold_text(const struct hold *hold, char *text, size_t size)
{
    char when[32] = "";
    time_t seconds = (time_t)(hold->time / 1000);
    struct tm utc;
    if (gmtime_r(&seconds, &utc)) strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    snprintf(text, size, "rolled back from %" PRIu64 " to %" PRIu64 " at %s (%s%s%s)", hold->from, hold->to, when,
             hold->cause, *hold->reason ? ": " : "", hold->reason);
}

static bool write_hold(const struct versions *versions, const struct hold *hold, struct cs_error *err)
{
    json_t *json = json_pack("{s:I, s:I, s:I, s:s, s:o}", "from", (json_int_t)hold->from, "to", (json_int_t)hold->to,
                             "time", (json_int_t)hold->time, "cause", hold->cause, "reason", text_json(hold->reason));
    char *text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;
    json_decref(json);
    if (!text) return cs_fail(err, CS_FAILED, "no memory to note that publishing is held");
    bool ok = file_put(versions->directory, "held.json", text, strlen(text), true, err) ||
              cs_error_prefix(err, "noting that publishing is held");
    free(text);
    return ok && environment_sync_directory(versions->directory, err);
}

/* False with CS_OK in err: there is none. */
static bool read_hold(const struct versions *versions, struct hold *hold, struct cs_error *err)
{
    char path[PATH_MAX];
    json_error_t where;
    json_int_t from, to, time;
    const char *cause, *reason;
    *err = (struct cs_error){ 0 };
    if (!hold_path(versions, "held.json", path, err)) return false;
    int file = file_open(path, O_RDONLY | O_NOFOLLOW, err);
    if (file < 0) {
        if (errno == ENOENT) *err = (struct cs_error){ 0 };
        return false;
    }
    json_t *json = json_loadfd(file, JSON_REJECT_DUPLICATES, &where);
    close(file);
    bool ok = json && !json_unpack_ex(json, &where, 0, "{s:I, s:I, s:I, s:s, s:s}", "from", &from, "to", &to, "time",
                                      &time, "cause", &cause, "reason", &reason);
    if (ok) {
        *hold = (struct hold){ .from = (uint64_t)from, .to = (uint64_t)to, .time = time };
        snprintf(hold->cause, sizeof hold->cause, "%s", cause);
        snprintf(hold->reason, sizeof hold->reason, "%s", reason);
    } else {
        cs_fail(err, CS_REFUSED,
                "%s can't be read (%s): publishing was held; remove the file if it may go on, and start again", path,
                where.text);
    }
    json_decref(json);
    return ok;
}

bool versions_release(struct versions *versions, struct cs_error *err)
{
    char path[PATH_MAX];
    pthread_mutex_lock(&versions->change);
    bool ok = hold_path(versions, "held.json", path, err);
    if (ok && unlink(path) && errno != ENOENT) ok = cs_fail_errno(err, errno, "removing %s", path);
    if (ok && versions_view(versions).held) {
        ok = environment_sync_directory(versions->directory, err);
        show(versions, checkpoint_current(versions->directory), "");
        log_notice("publishing goes on", LOG_U("current", versions_view(versions).current));
    }
    pthread_mutex_unlock(&versions->change);
    return ok;
}

/* ---- which versions there are */

/* "there are 3, 4, 5": the newest ones. */
static void list_text(const uint64_t *version, size_t count, char *text, size_t size)
{
    enum { MOST = 12 };
    size_t used = 0, begin = count > MOST ? count - MOST : 0;
    text[0] = 0;
    if (!count) snprintf(text, size, "there is none");
    for (size_t i = begin; i < count && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%" PRIu64,
                                 i > begin ? ", " : begin ? "the newest are " : "there are ", version[i]);
}

static bool find_version(const struct versions *versions, uint64_t wanted, struct cs_error *err)
{
    uint64_t *version;
    size_t count;
    char refused[PATH_MAX], text[256];
    bool found = false;
    if (!checkpoint_list(versions->directory, &version, &count, err)) return false;
    for (size_t i = 0; i < count; i++) found |= version[i] == wanted;
    list_text(version, count, text, sizeof text);
    free(version);
    if (found) return true;
    snprintf(refused, sizeof refused, "%s/" CHECKPOINT_REFUSED "/%020" PRIu64, versions->directory, wanted);
    if (access(refused, F_OK) == 0)
        return cs_fail(err, CS_REFUSED, "version %" PRIu64 " was refused and never published, " CHECKPOINT_REFUSED
                       "/%020" PRIu64 "/reason.txt says why; %s", wanted, wanted, text);
    return cs_fail(err, CS_FAILED, "%.120s has no version %" PRIu64 "; %s", versions->directory, wanted, text);
}

static uint64_t version_before(const struct versions *versions, uint64_t current, struct cs_error *err)
{
    uint64_t *version, before = 0;
    size_t count;
    char text[256];
    if (!checkpoint_list(versions->directory, &version, &count, err)) return 0;
    for (size_t i = 0; i < count; i++)
        if (version[i] < current && !checkpoint_is_marked(versions->directory, version[i], CHECKPOINT_WITHDRAWN))
            before = version[i];
    list_text(version, count, text, sizeof text);
    free(version);
    if (!before)
        cs_fail(err, CS_FAILED, "there is no version before %" PRIu64 " in %.120s that was not rolled back from; %s",
                current, versions->directory, text);
    return before;
}

uint64_t versions_watched(struct versions *versions)
{
    struct versions_view view = versions_view(versions);
    uint64_t *version, newest = 0;
    size_t count;
    if (view.held || !view.current || !checkpoint_list(versions->directory, &version, &count, NULL)) return 0;
    if (count) newest = version[count - 1];
    free(version);
    return newest == view.current ? newest : 0;
}

size_t versions_pinned(struct versions *versions, uint64_t **version)
{
    size_t count, pinned = 0;
    if (!checkpoint_list(versions->directory, version, &count, NULL)) return 0;
    for (size_t i = 0; i < count; i++)
        if (checkpoint_is_marked(versions->directory, (*version)[i], CHECKPOINT_PINNED))
            (*version)[pinned++] = (*version)[i];
    return pinned;
}

bool versions_pin(struct versions *versions, uint64_t version, bool pinned, struct cs_error *err)
{
    pthread_mutex_lock(&versions->change);      /* or it is pruned between the look and the mark */
    bool ok = find_version(versions, version, err) &&
              (pinned ? checkpoint_mark(versions->directory, version, CHECKPOINT_PINNED, "by coldstreamctl pin\n", err)
                      : checkpoint_unmark(versions->directory, version, CHECKPOINT_PINNED, err));
    pthread_mutex_unlock(&versions->change);
    if (ok) log_notice(pinned ? "version pinned" : "version no longer pinned", LOG_U("version", version));
    return ok;
}

/* ---- what changes which one is current */

bool versions_accept(struct versions *versions, struct checkpoint_writer *candidate, uint64_t keep, int64_t watermark,
                     uint64_t *version, struct cs_error *err)
{
    pthread_mutex_lock(&versions->change);
    struct versions_view view = versions_view(versions);
    bool ok = !view.held ||
              cs_fail(err, CS_FAILED, "nothing is published until `coldstreamctl resume`: %.380s", view.hold);
    ok = ok && hold_directory(versions, err);
    if (ok) ok = checkpoint_accept(candidate, keep, version, err);
    else checkpoint_abandon(candidate);
    if (ok) {
        show(versions, *version, "");
        announce(versions, "published", *version, json_pack("{s:I}", "watermark", (json_int_t)watermark));
    }
    pthread_mutex_unlock(&versions->change);
    return ok;
}

static bool check_target(const struct versions *versions, uint64_t version, struct cs_error *err)
{
    char path[PATH_MAX];
    struct checkpoint *checkpoint =
        checkpoint_path(path, versions->directory, version, "", err) ? checkpoint_open(path, true, err) : NULL;
    if (!checkpoint) return cs_error_prefix(err, "no rollback to version %" PRIu64, version);
    checkpoint_close(checkpoint);
    return true;
}

/* From the written hold on: marks, and `current`. Done again where a crash came between. */
static bool follow_hold(struct versions *versions, const struct hold *hold, struct cs_error *err)
{
    char text[400], line[402];
    hold_text(hold, text, sizeof text);
    snprintf(line, sizeof line, "%s\n", text);
    if (hold->to != hold->from) {
        if (!checkpoint_mark(versions->directory, hold->to, CHECKPOINT_FROZEN, line, err) ||
            !checkpoint_unmark(versions->directory, hold->to, CHECKPOINT_WITHDRAWN, err))
            return false;
        if (hold->to < hold->from &&
            !checkpoint_mark(versions->directory, hold->from, CHECKPOINT_WITHDRAWN, line, err))
            return false;
        if (!checkpoint_repoint(versions->directory, hold->to, err)) return false;
    }
    show(versions, hold->to, text);
    return true;
}

static void tell_rollback(struct versions *versions, const struct hold *hold)
{
    telemetry_add(versions->telemetry, METRIC_ROLLBACKS, TELEMETRY_LABELS(hold->cause), 1);
    log_notice("rolled back; nothing is published until resume", LOG_U("from", hold->from), LOG_U("to", hold->to),
               LOG_S("cause", hold->cause), LOG_S("reason", hold->reason));
    char from[24];
    snprintf(from, sizeof from, "%020" PRIu64, hold->from);
    announce(versions, "rolled_back", hold->to,
             json_pack("{s:s, s:s, s:o}", "from", from, "cause", hold->cause, "reason", text_json(hold->reason)));
}

bool versions_rollback(struct versions *versions, uint64_t version, enum rollback_cause cause, const char *reason,
                       uint64_t *now, struct cs_error *err)
{
    bool ok = false;
    pthread_mutex_lock(&versions->change);
    struct hold hold = { .from = checkpoint_current(versions->directory), .time = clock_wall() };
    snprintf(hold.cause, sizeof hold.cause, "%s", cause_name[cause]);
    snprintf(hold.reason, sizeof hold.reason, "%s", reason);
    if (cause == ROLLBACK_BY_GATE && versions_watched(versions) != hold.from) {     /* an operator was faster */
        cs_fail(err, CS_FAILED, "version %" PRIu64 " is not the newest one, or publishing is held", hold.from);
        goto out;
    }
    if (!(hold.to = version ? version : version_before(versions, hold.from, err))) goto out;
    if (!find_version(versions, hold.to, err)) goto out;
    while (!check_target(versions, hold.to, err)) {
        if (cause == ROLLBACK_BY_OPERATOR) goto out;        /* who is there can choose */
        log_error("a version can't be gone back to", LOG_S("error", err->message));
        if (!(hold.to = version_before(versions, hold.to, err))) goto out;
    }
    if (!write_hold(versions, &hold, err) || !follow_hold(versions, &hold, err)) goto out;
    tell_rollback(versions, &hold);
    *now = hold.to;
    ok = true;
out:
    pthread_mutex_unlock(&versions->change);
    return ok;
}

/* ---- start, stop */

static bool resume_hold(struct versions *versions, struct cs_error *err)
{
    struct hold hold;
    struct cs_error here;
    uint64_t current = checkpoint_current(versions->directory);
    if (!read_hold(versions, &hold, &here)) {
        show(versions, current, "");
        *err = here;
        return here.code == CS_OK;
    }
    if (current == hold.from && hold.from != hold.to) {
        if (!follow_hold(versions, &hold, err)) return cs_error_prefix(err, "completing an interrupted rollback");
        tell_rollback(versions, &hold);
        return true;
    }
    char text[400];
    hold_text(&hold, text, sizeof text);
    show(versions, current, text);
    log_warning("nothing is published until `coldstreamctl resume`", LOG_S("hold", text));
    return true;
}

struct versions *versions_open(const struct cs_config *config, struct kafka_sink *sink, struct telemetry *telemetry,
                               struct cs_error *err)
{
    struct versions *versions = need(calloc(1, sizeof *versions));
    versions->directory = config->checkpoint.directory;
    versions->topic = sink ? config->checkpoint.announce_topic : NULL;
    versions->sink = sink;
    versions->telemetry = telemetry;
    versions->held = -1;
    for (size_t i = 0; i < sizeof cause_name / sizeof *cause_name; i++)
        telemetry_add(telemetry, METRIC_ROLLBACKS, &cause_name[i], 0);
    pthread_mutex_init(&versions->change, NULL);
    pthread_mutex_init(&versions->lock, NULL);
    struct cs_error fenced = { 0 };
    if (!hold_directory(versions, &fenced) && fenced.code == CS_FENCED) {   /* others: before anything is published */
        *err = fenced;
        versions_close(versions);
        return NULL;
    }
    if (!resume_hold(versions, err)) {
        versions_close(versions);
        return NULL;
    }
    /* What was to be announced when the process died has not been. */
    uint64_t current = versions_view(versions).current;
    if (current) announce(versions, "current", current, json_object());
    return versions;
}

void versions_close(struct versions *versions)
{
    if (!versions) return;
    if (versions->held >= 0) close(versions->held);
    pthread_mutex_destroy(&versions->change);
    pthread_mutex_destroy(&versions->lock);
    free(versions);
}
