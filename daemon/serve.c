/* coldstream-serve: the reference scorer of the serving fleet: HTTP/JSON over libcoldstream. */
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/coldstream_internal.h"
#include "daemon/log.h"
#include "daemon/log_remedy.h"
#include "daemon/notify.h"
#include "daemon/serve_deltas.h"
#include "daemon/serve_http.h"
#include "daemon/serve_shadow.h"
#include "daemon/serve_versions.h"
#include "daemon/start_alone.h"
#include "daemon/version.h"
#include "storage/checkpoint.h"

static const char usage[] =
    "usage: coldstream-serve --checkpoint DIR [--listen ADDRESS:PORT] [--poll 1s]\n"
    "Scores with the current checkpoint of DIR, and moves to the next one without a pause. Where there is none yet, "
    "it\n"
    "waits for the first, alive but not ready.\n\n"
    "  -C, --checkpoint DIR     directory of versions, or of one version\n"
    "  -l, --listen ADDRESS     where to answer (default 127.0.0.1:9465; port 0 takes a free one and logs it)\n"
    "  -p, --poll DURATION      how often `current` is looked at, 10ms to 1h (default 1s)\n"
    "  -j, --threads N          that answer (default: one a processor)\n"
    "  -m, --max-body BYTES     of a request (default 8388608)\n"
    "      --max-requests N     of a call (default 1000)\n"
    "      --max-candidates N   that a call may have in all (default 20000)\n"
    "      --connections N      at once (default 1024); beyond, the one that is slow for longest makes room\n"
    "      --timeout DURATION   that a request may take to come, and an answer to be read (default 30s)\n"
    "      --keep N             versions that requests may still name after they were current, 0 to 100 (default 1)\n"
    "      --with VERSION       another version that requests may name; may be given more than once\n"
    "      --shadow DIR|VERSION scores along and is compared with what is answered (metrics), never answered\n"
    "      --shadow-share P     of the requests that the shadow scores, above 0 to 1 (default 0.1)\n"
    "      --drain DURATION     between saying that it stops being ready and taking no connections (default none)\n"
    "      --delta-topic TOPIC  versions between the full ones, seconds apart, from this Kafka topic\n"
    "      --kafka-property NAME=VALUE  librdkafka's, above all bootstrap.servers; may be given more than once\n"
    "  -v, --verbose            log debug messages\n"
    "  -q, --quiet              log warnings and errors only\n"
    "  -V, --version            versions of this program and of what it is linked to\n"
    "  -h, --help               this text\n\n"
    "POST /v1/score {\"requests\":[...],\"version\":N}; GET /livez, /readyz, /metrics.\n"
    "TERM and INT finish running requests, then end. A socket that systemd hands over is listened on instead.\n"
    "Exit: 0 done, 1 failed, 2 wrong usage, 65 checkpoint refused.\n";

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

enum { DELTA_TOPIC = 1000, KAFKA_PROPERTY };

static int wrong(const char *format, const char *argument)
{
    fputs("coldstream-serve: ", stderr);
    fprintf(stderr, format, argument);
    fputs("; try coldstream-serve --help\n", stderr);
    return cs_exit_code(CS_USAGE);
}

static bool read_number(const char *text, uint64_t least, uint64_t most, const char **rest, uint64_t *number)
{
    char *end;
    if (*text < '0' || *text > '9') return false;
    *number = strtoull(text, &end, 10);
    *rest = end;
    return *number >= least && *number <= most;
}

static bool read_duration(const char *text, uint64_t *milliseconds)
{
    static const struct {
        const char *unit;
        uint64_t milliseconds;
    } unit[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 } };
    const char *rest;
    uint64_t number;
    if (!read_number(text, 1, 3600000, &rest, &number)) return false;
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++)
        if (!strcmp(rest, unit[i].unit)) {
            *milliseconds = number * unit[i].milliseconds;
            return *milliseconds >= 10 && *milliseconds <= 3600000;
        }
    return false;
}

enum { MAX_REQUESTS = 256, MAX_CANDIDATES, LISTENERS, REQUEST_TIME, KEEP, WITH, SHADOW, SHARE, DRAIN };

/* An option that has no letter; as parse_arguments. */
static int parse_long(struct arguments *arguments, int option)
{
    const char *rest = "";
    char *end;
    switch (option) {
    case MAX_REQUESTS:
        if (read_number(optarg, 1, 1000000, &rest, &arguments->max_requests) && !*rest) return -1;
        return wrong("--max-requests: \"%s\" is not in 1 to 1000000", optarg);
    case MAX_CANDIDATES:
        if (read_number(optarg, 1, 10000000, &rest, &arguments->max_candidates) && !*rest) return -1;
        return wrong("--max-candidates: \"%s\" is not in 1 to 10000000", optarg);
    case LISTENERS:
        if (read_number(optarg, 1, 100000, &rest, &arguments->connections) && !*rest) return -1;
        return wrong("--connections: \"%s\" is not in 1 to 100000", optarg);
    case REQUEST_TIME:
        if (read_duration(optarg, &arguments->timeout)) return -1;
        return wrong("--timeout: \"%s\" is no duration from 10ms to 1h", optarg);
    case KEEP:
        if (read_number(optarg, 0, 100, &rest, &arguments->keep) && !*rest) return -1;
        return wrong("--keep: \"%s\" is not in 0 to 100", optarg);
    case WITH:
        if (arguments->with_count == WITH_MAX) return wrong("--with: %s is one more than 16 versions", optarg);
        if (read_number(optarg, 1, UINT64_MAX, &rest, &arguments->with[arguments->with_count++]) && !*rest) return -1;
        return wrong("--with: \"%s\" is no version", optarg);
    case SHADOW: arguments->shadow = optarg; return -1;
    case SHARE:
        arguments->share = strtod(optarg, &end);
        if (end != optarg && !*end && arguments->share > 0 && arguments->share <= 1) return -1;
        return wrong("--shadow-share: \"%s\" is not above 0 to 1", optarg);
    case DRAIN:
        if (read_duration(optarg, &arguments->drain)) return -1;
        return wrong("--drain: \"%s\" is no duration from 10ms to 1h", optarg);
    default: return wrong("%s", "what is it to do?");
    }
}

/* -1: go on; otherwise the exit code. */
static int parse_arguments(int argc, char **argv, struct arguments *arguments, struct serve_deltas *deltas)
{
    struct cs_error err = { 0 };
    static const struct option option[] = {
        { "checkpoint", required_argument, NULL, 'C' },
        { "listen", required_argument, NULL, 'l' },
        { "poll", required_argument, NULL, 'p' },
        { "threads", required_argument, NULL, 'j' },
        { "max-body", required_argument, NULL, 'm' },
        { "max-requests", required_argument, NULL, MAX_REQUESTS },
        { "max-candidates", required_argument, NULL, MAX_CANDIDATES },
        { "connections", required_argument, NULL, LISTENERS },
        { "timeout", required_argument, NULL, REQUEST_TIME },
        { "keep", required_argument, NULL, KEEP },
        { "with", required_argument, NULL, WITH },
        { "shadow", required_argument, NULL, SHADOW },
        { "shadow-share", required_argument, NULL, SHARE },
        { "drain", required_argument, NULL, DRAIN },
        { "delta-topic", required_argument, NULL, DELTA_TOPIC },
        { "kafka-property", required_argument, NULL, KAFKA_PROPERTY },
        { "verbose", no_argument, NULL, 'v' },
        { "quiet", no_argument, NULL, 'q' },
        { "version", no_argument, NULL, 'V' },
        { "help", no_argument, NULL, 'h' },
        { 0 },
    };
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
    int letter, code;
    const char *rest = "";
    while ((letter = getopt_long(argc, argv, "C:l:p:j:m:vqVh", option, NULL)) != -1) {
        switch (letter) {
        case 'C': arguments->checkpoint = optarg; break;
        case 'l': arguments->listen = optarg; break;
        case 'p':
            if (!read_duration(optarg, &arguments->poll))
                return wrong("--poll: \"%s\" is no duration from 10ms to 1h", optarg);
            break;
        case 'j':
            if (!read_number(optarg, 1, 1024, &rest, &arguments->threads) || *rest)
                return wrong("--threads: \"%s\" is not in 1 to 1024", optarg);
            break;
        case 'm':
            if (!read_number(optarg, 1, UINT32_MAX, &rest, &arguments->max_body) || *rest)
                return wrong("--max-body: \"%s\" is not a number of bytes", optarg);
            break;
        case DELTA_TOPIC: serve_deltas_topic(deltas, optarg); break;
        case KAFKA_PROPERTY:
            if (!serve_deltas_property(deltas, optarg, &err)) return wrong("%s", err.message);
            break;
        case 'v': arguments->level = LEVEL_DEBUG; break;
        case 'q': arguments->level = LEVEL_WARNING; break;
        case 'V': version_print("coldstream-serve", stdout); return 0;
        case 'h': fputs(usage, stdout); return 0;
        default:
            if ((code = parse_long(arguments, letter)) >= 0) return code;
        }
    }
    if (optind < argc) return wrong("unexpected argument \"%s\"", argv[optind]);
    if (!arguments->checkpoint) return wrong("%s is missing", "--checkpoint DIR");
    return -1;
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

/* The directory is there and holds no version yet: the first one is waited for. */
static bool is_empty(const char *directory)
{
    struct stat status;
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
    telemetry_set(serving.telemetry, METRIC_BUILD_INFO, TELEMETRY_LABELS(version_number, version_commit), 1);
    telemetry_set(serving.telemetry, METRIC_START_TIME, NULL, (double)clock_wall() / 1000);
    bool wait = is_empty(arguments->checkpoint);
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
    if (err.code)
        log_error("coldstream-serve can't serve", LOG_S("error", err.message),
                  LOG_S("remedy", log_remedy_of_code(err.code)));
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
