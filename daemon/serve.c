/* coldstream-serve: the reference scorer of the serving fleet: HTTP/JSON over libcoldstream. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/value.h"
#include "daemon/clock.h"
#include "daemon/coldstream_internal.h"
#include "daemon/log.h"
#include "daemon/log_remedy.h"
#include "daemon/notify.h"
#include "daemon/program.h"
#include "daemon/serve_deltas.h"
#include "daemon/serve_http.h"
#include "daemon/serve_shadow.h"
#include "daemon/serve_versions.h"
#include "daemon/start_alone.h"
#include "storage/checkpoint.h"

enum { DRAIN_MILLISECONDS = 10000, WITH_MAX = 16 };

struct arguments {
    const char *checkpoint, *listen, *shadow;
    uint64_t poll, threads, max_body, max_requests, max_candidates, connections, timeout, keep, drain;
    uint64_t with[WITH_MAX];
    size_t with_count;
    double share;
    enum log_level level;
    struct serve_deltas *deltas;
};

static bool read_count(const char *text, uint64_t least, uint64_t most, uint64_t *count)
{
    return !value_count(text, count) && *count >= least && *count <= most;
}

static bool read_duration(const char *text, uint64_t *milliseconds)
{
    int64_t duration;
    if (value_duration(text, &duration) || duration < 10 || duration > 3600000) return false;
    *milliseconds = (uint64_t)duration;
    return true;
}

#define NUMBER(name, member, least, most) { name, offsetof(struct arguments, member), least, most }
static const struct {
    const char *name;
    size_t offset;
    uint64_t least, most;
} numbers[] = {
    NUMBER("threads", threads, 1, 1024),
    NUMBER("max-body", max_body, 1, UINT32_MAX),
    NUMBER("max-requests", max_requests, 1, 1000000),
    NUMBER("max-candidates", max_candidates, 1, 10000000),
    NUMBER("connections", connections, 1, 100000),
    NUMBER("keep", keep, 0, 100),
};
static const struct {
    const char *name;
    size_t offset;
} durations[] = {
    { "poll", offsetof(struct arguments, poll) },
    { "timeout", offsetof(struct arguments, timeout) },
    { "drain", offsetof(struct arguments, drain) },
};

/* One option of the table; PROGRAM_WRONG where its value is. */
static int set_option(struct program_reader *reader, int found, struct arguments *arguments)
{
    const char *name = reader->program->option[found].name, *value = reader->value;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (strcmp(numbers[i].name, name) != 0) continue;
        uint64_t *number = (uint64_t *)(void *)((char *)arguments + numbers[i].offset);
        if (read_count(value, numbers[i].least, numbers[i].most, number)) return found;
        return program_wrong(reader, "--%s: found \"%.60s\", allowed is a whole number from %" PRIu64 " to %" PRIu64,
                             name, value, numbers[i].least, numbers[i].most);
    }
    for (size_t i = 0; i < sizeof durations / sizeof *durations; i++) {
        if (strcmp(durations[i].name, name) != 0) continue;
        if (read_duration(value, (uint64_t *)(void *)((char *)arguments + durations[i].offset))) return found;
        return program_wrong(reader, "--%s: found \"%.60s\", allowed is a duration from 10ms to 1h", name, value);
    }
    if (strcmp(name, "checkpoint") == 0) arguments->checkpoint = value;
    else if (strcmp(name, "listen") == 0) arguments->listen = value;
    else if (strcmp(name, "shadow") == 0) arguments->shadow = value;
    else if (strcmp(name, "delta-topic") == 0) serve_deltas_topic(arguments->deltas, value);
    else if (strcmp(name, "kafka-property") == 0) {
        struct cs_error err = { 0 };
        if (!serve_deltas_property(arguments->deltas, value, &err)) return program_wrong(reader, "%.250s", err.message);
    } else if (strcmp(name, "with") == 0) {
        if (arguments->with_count == WITH_MAX)
            return program_wrong(reader, "--with: %.60s is one more than 16 versions", value);
        if (!read_count(value, 1, UINT64_MAX, &arguments->with[arguments->with_count++]))
            return program_wrong(reader, "--with: found \"%.60s\", allowed is a version: a whole number", value);
    } else if (strcmp(name, "shadow-share") == 0) {
        if (value_number(value, &arguments->share) || !(arguments->share > 0 && arguments->share <= 1))
            return program_wrong(reader, "--shadow-share: found \"%.60s\", allowed is a number above 0 to 1", value);
    }
    return found;
}

/* -1: go on; otherwise the exit code. */
static int parse_arguments(int argc, char **argv, struct arguments *arguments, struct serve_deltas *deltas)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    *arguments = (struct arguments){ .listen = "127.0.0.1:9465",
                                     .poll = 1000,
                                     .threads = processors > 0 ? (uint64_t)processors : 1,
                                     .max_body = 8 << 20,
                                     .max_requests = 1000,
                                     .max_candidates = 20000,
                                     .connections = 1024,
                                     .timeout = 30000,
                                     .keep = 1,
                                     .share = 0.1,
                                     .level = LEVEL_INFO,
                                     .deltas = deltas };
    struct program_reader reader;
    int found, code;
    program_begin(&reader, &program_coldstream_serve, argc - 1, argv + 1);
    while ((found = program_next(&reader)) != PROGRAM_END) {
        if (program_answers(&reader, found, &code)) return code;
        if (found == PROGRAM_WORD)
            found = program_wrong(&reader, "it takes no word besides its options, found \"%.100s\"", reader.value);
        if (found == PROGRAM_QUIET) arguments->level = LEVEL_WARNING;
        else if (found == PROGRAM_VERBOSE) arguments->level = LEVEL_DEBUG;
        else if (found >= 0) found = set_option(&reader, found, arguments);
        if (found == PROGRAM_WRONG) return program_refuse(&reader);
    }
    if (arguments->checkpoint) return -1;
    program_wrong(&reader, "--checkpoint DIR is needed");
    return program_refuse(&reader);
}

struct serving {
    _Atomic(struct coldstream *) cs;        /* set once, read by the thread that swaps */
    struct telemetry *telemetry;
    struct serve_versions *versions;
    struct serve_shadow *shadow;
    struct serve_deltas *deltas;
};

/* How old the newest learned event is when its version begins to serve. */
static void observe_freshness(const struct serving *serving)
{
    struct coldstream *cs = atomic_load(&serving->cs);
    char *info = cs ? coldstream_info(cs) : NULL;
    json_t *manifest = info ? json_loads(info, 0, NULL) : NULL;
    json_int_t watermark = json_integer_value(json_object_get(manifest, "event_time_watermark"));
    if (watermark > 0)
        telemetry_observe(serving->telemetry, METRIC_FRESHNESS, (double)(clock_wall() - watermark) / 1000);
    json_decref(manifest);
    free(info);
}

static void on_swap(void *argument, uint64_t version, const char *error)
{
    struct serving *serving = argument;
    struct coldstream *cs = atomic_load(&serving->cs);
    if (error) {
        telemetry_add(serving->telemetry, METRIC_SWAPS, TELEMETRY_LABELS("refused"), 1);
        log_error("version refused, the one before serves on", LOG_U("version", version), LOG_S("error", error));
        return;
    }
    if (cs) serve_versions_note(serving->versions, cs);
    telemetry_add(serving->telemetry, METRIC_SWAPS, TELEMETRY_LABELS("ok"), 1);
    log_notice("version swapped", LOG_U("version", version));
    notify_status("serving version %" PRIu64, version);
    telemetry_set(serving->telemetry, METRIC_SERVING_VERSION, NULL, (double)version);
}

static void on_delta(void *argument, const struct coldstream_delta_report *report)
{
    const struct serving *serving = argument;
    serve_deltas_told(serving->deltas, report);
}

/* The directory is a version itself. */
static bool holds_data(const char *directory)
{
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/data.mdb", directory);
    return length > 0 && (size_t)length < sizeof path && access(path, F_OK) == 0;
}

static bool is_missing(const char *directory)
{
    struct stat status;
    return stat(directory, &status) != 0 && errno == ENOENT;
}

/* The directory holds no version yet, or is still to be made: the first one is waited for. */
static bool is_empty(const char *directory)
{
    struct stat status;
    if (is_missing(directory)) return true;
    return stat(directory, &status) == 0 && S_ISDIR(status.st_mode) && checkpoint_current(directory) == 0 &&
           !holds_data(directory);
}

static bool is_version(const char *text)
{
    return *text && strspn(text, "0123456789") == strlen(text) && strlen(text) <= 20;
}

/* By number: a version of the same directory, and that one for good. By path: a directory of its own, followed. */
static bool open_shadow(struct serving *serving, const struct arguments *arguments, struct cs_error *err)
{
    struct coldstream_options options = { .size = sizeof options,
                                          .poll_milliseconds = (uint32_t)arguments->poll,
                                          .follow = 1,
                                          .verify = 1 };
    struct coldstream *cs =
        is_version(arguments->shadow)
            ? coldstream_pin_explained(atomic_load(&serving->cs), strtoull(arguments->shadow, NULL, 10), err)
            : coldstream_open_explained(arguments->shadow, &options, err);
    if (!cs) return cs_error_prefix(err, "--shadow %s", arguments->shadow);
    serving->shadow = serve_shadow_create(cs, arguments->share, serving->telemetry, err);
    if (!serving->shadow) coldstream_close(cs);
    return serving->shadow != NULL;
}

/* The current version, and all that is asked for beside it. */
static bool open_first(struct serving *serving, const struct arguments *arguments, struct cs_error *err)
{
    struct coldstream_options options = { .size = sizeof options,
                                          .poll_milliseconds = (uint32_t)arguments->poll,
                                          .follow = 1,
                                          .verify = 1,
                                          .on_swap = on_swap,
                                          .on_delta = on_delta,
                                          .argument = serving };
    if (serve_deltas_wanted(serving->deltas) && holds_data(arguments->checkpoint))
        return cs_fail(err, CS_USAGE, "--delta-topic: %s is one version, deltas need a directory of versions",
                       arguments->checkpoint);
    struct coldstream *cs = coldstream_open_explained(arguments->checkpoint, &options, err);
    if (!cs) return false;
    atomic_store(&serving->cs, cs);
    serve_versions_note(serving->versions, cs);
    for (size_t i = 0; i < arguments->with_count; i++)
        if (!serve_versions_ask(serving->versions, cs, arguments->with[i], err)) return cs_error_prefix(err, "--with");
    if (arguments->shadow && !open_shadow(serving, arguments, err)) return false;
    return serve_deltas_start(serving->deltas, cs, serving->telemetry, err);
}

/* False: the first version, come at last, can't be served with. */
static bool await_signal(struct serving *serving, const struct arguments *arguments, struct serve_http *server,
                         const sigset_t *set, struct cs_error *err)
{
    uint64_t seen = 0;
    for (;;) {
        if (!serving->cs && !is_empty(arguments->checkpoint)) {
            if (!open_first(serving, arguments, err)) return false;
            serve_http_shadow(server, serving->shadow);
            serve_http_use(server, serving->cs);
            log_notice("first version", LOG_U("version", coldstream_version(serving->cs)));
        }
        uint64_t version = serving->cs ? coldstream_version(serving->cs) : 0;
        serve_deltas_measure(serving->deltas);
        /* By deltas it is measured as they are applied, and not by the checkpoint below. */
        if (version != seen && !serve_deltas_wanted(serving->deltas)) observe_freshness(serving);
        seen = version;
        notify_alive(clock_monotonic());
        log_tell_repeats(false);
        int number = sigtimedwait(set, NULL, &(struct timespec){ .tv_nsec = 500000000 });
        if (number > 0) {
            log_notice("stopping: running requests are finished first", LOG_S("signal", strsignal(number)));
            return true;
        }
    }
}

/* Whoever balances the load finds by /readyz that it is to send no more; a second signal ends the wait. */
static void drain(struct serve_http *server, const struct arguments *arguments, const sigset_t *set)
{
    serve_http_drain(server);
    struct timespec left = { (time_t)(arguments->drain / 1000), (long)(arguments->drain % 1000) * 1000000 };
    notify_extend((int64_t)arguments->drain + 2 * DRAIN_MILLISECONDS);
    if (arguments->drain) sigtimedwait(set, NULL, &left);
}

static int serve(const struct arguments *arguments, const sigset_t *set)
{
    struct cs_error err = { 0 };
    struct serving serving = { .telemetry = telemetry_create(), .versions = serve_versions_create(arguments->keep),
                               .deltas = arguments->deltas };
    struct serve_http *server = NULL;

    signal(SIGPIPE, SIG_IGN);
    telemetry_add(serving.telemetry, METRIC_SWAPS, TELEMETRY_LABELS("ok"), 0);
    telemetry_add(serving.telemetry, METRIC_SWAPS, TELEMETRY_LABELS("refused"), 0);
    bool wait = is_empty(arguments->checkpoint);
    if (is_missing(arguments->checkpoint))
        log_warning("there is no directory of checkpoints: it is waited for",
                    LOG_S("checkpoint", arguments->checkpoint),
                    LOG_S("remedy", "none where the daemon or coldstream-fetch makes it yet; else check --checkpoint"));
    if (!wait && !open_first(&serving, arguments, &err)) goto out;
    struct serve_options pages = { .listen = arguments->listen,
                                   .threads = (unsigned)arguments->threads,
                                   .max_body = arguments->max_body,
                                   .max_requests = arguments->max_requests,
                                   .max_scores = arguments->max_candidates,
                                   .connections = (unsigned)arguments->connections,
                                   .timeout = (int64_t)arguments->timeout,
                                   .socket = notify_socket(&err),
                                   .versions = serving.versions };
    if (pages.socket < 0) goto out;
    server = serve_http_start(serving.cs, &pages, serving.telemetry, &err);
    if (!server) goto out;
    serve_http_shadow(server, serving.shadow);
    log_notice(wait ? "waiting for a first version" : "serving",
               LOG_U("version", wait ? 0 : coldstream_version(serving.cs)), LOG_S("checkpoint", arguments->checkpoint),
               LOG_S("listen", pages.socket ? "systemd's socket" : arguments->listen),
               LOG_I("port", serve_http_port(server)));
    notify_ready(wait ? "waiting for a first version" : "serving");
    if (await_signal(&serving, arguments, server, set, &err)) {
        notify_stopping("finishing running requests");
        drain(server, arguments, set);
    }
out:
    if (err.code) {
        log_error("coldstream-serve can't serve", LOG_S("error", err.message),
                  LOG_S("remedy", log_remedy_of_scorer(err.code)));
        notify_status("%s", err.message);
    }
    serve_http_stop(server, DRAIN_MILLISECONDS);
    serve_deltas_destroy(serving.deltas);
    serve_shadow_destroy(serving.shadow);
    coldstream_close(serving.cs);
    serve_versions_destroy(serving.versions);
    telemetry_destroy(serving.telemetry);
    return cs_exit_code(err.code);
}

int main(int argc, char **argv)
{
    struct arguments arguments;
    struct serve_deltas *deltas = serve_deltas_create();
    umask(027);
    int code = parse_arguments(argc, argv, &arguments, deltas);
    if (code >= 0) {
        serve_deltas_destroy(deltas);
        return code;
    }
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    start_alone(&set, argv);                        /* before any thread: signals are await_signal's alone */
    log_open(arguments.level, LOG_TEXT);
    code = serve(&arguments, &set);
    log_tell_repeats(true);
    return code;
}
