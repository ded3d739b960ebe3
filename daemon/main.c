/* coldstreamd: consumes, learns, snapshots, publishes. The boot order is read in run(), top to bottom; the way down is
 * the same in reverse. */
#include <cblas.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/assemble.h"
#include "daemon/clock.h"
#include "daemon/kafka_config.h"
#include "daemon/kafka_delta_sink.h"
#include "daemon/log.h"
#include "daemon/log_remedy.h"
#include "daemon/notify.h"
#include "daemon/operate.h"
#include "daemon/own_places.h"
#include "daemon/pipeline.h"
#include "daemon/positions.h"
#include "daemon/program.h"
#include "daemon/standby.h"
#include "daemon/start_alone.h"
#include "daemon/trend_feed.h"
#include "daemon/version.h"
#include "daemon/worker_pool.h"
#include "storage/checkpoint.h"

enum { DELTA_WAIT = 5000 };     /* ms that the last delta gets at the end */

struct arguments { const char *config; bool check, verbose, quiet; };

/* -1: go on; otherwise the exit code. */
static int parse_arguments(int argc, char **argv, struct arguments *arguments)
{
    *arguments = (struct arguments){ .config = "/etc/coldstream/coldstream.yaml" };
    struct program_reader reader;
    int found, code;
    program_begin(&reader, &program_coldstreamd, argc - 1, argv + 1);
    while ((found = program_next(&reader)) != PROGRAM_END) {
        if (program_answers(&reader, found, &code)) return code;
        if (found == PROGRAM_WORD)
            found = program_wrong(&reader, "it takes no word besides its options, found \"%.100s\"", reader.value);
        if (found == PROGRAM_WRONG) return program_refuse(&reader);
        if (found == PROGRAM_QUIET) arguments->quiet = true;
        else if (found == PROGRAM_VERBOSE) arguments->verbose = true;
        else if (program_is(&reader, found, "config")) arguments->config = reader.value;
        else if (program_is(&reader, found, "check-config")) arguments->check = true;
    }
    return -1;
}

/* -1: none was, the configuration decides. */
static int given_level(const struct arguments *arguments)
{
    return arguments->verbose ? LEVEL_DEBUG : arguments->quiet ? LEVEL_WARNING : -1;
}

/* For a person and for editors as file:line:column. In the journal as errors, which is what is looked for there. */
static void tell_problems(const struct config_problems *problems, bool check)
{
    log_open(LEVEL_INFO, LOG_TEXT);
    if (check || !log_in_journal()) {
        char *text = config_problems_text(problems);
        fputs(text, stderr);
        free(text);
        return;
    }
    for (size_t i = problems->count; i-- > 0;) {        /* the first is the last line, and what systemctl shows */
        const struct config_problem *one = &problems->problem[i];
        char place[PATH_MAX];
        if (one->line > 0) snprintf(place, sizeof place, "%s:%d:%d", problems->file, one->line, one->column);
        else snprintf(place, sizeof place, "%s", problems->file);
        log_error("configuration refused", LOG_S("where", place), LOG_S("problem", one->text));
        notify_status("configuration refused: %s: %s", place, one->text);
    }
    log_tell_repeats(true);
}

static struct cs_config *load_config(const struct arguments *arguments)
{
    struct config_problems problems = { 0 };
    const struct config_source_checks *checks = arguments->check ? &kafka_checks : &kafka_checks_each;
    struct cs_config *config = config_load_checked(arguments->config, CONFIG_FOR_DAEMON, checks, &problems);
    if (!config) tell_problems(&problems, arguments->check);
    config_problems_release(&problems);
    return config;
}

static sigset_t our_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    return set;
}

/* Until told to stop, or the pipeline has failed. */
static void serve_signals(struct operator *operator, struct pipeline *pipeline, struct publisher *publisher,
                          struct trend_feed *feed)
{
    const sigset_t set = our_signals();
    while (!pipeline_ended(pipeline)) {
        int number = sigtimedwait(&set, NULL, &(struct timespec){ .tv_nsec = 200000000 });
        struct cs_error err;
        operator_tick(operator);
        trend_feed_look(feed);
        log_tell_repeats(false);
        if (number == SIGTERM || number == SIGINT) {
            log_notice("stopping: a last snapshot, then the end; signal again to stop at once",
                       LOG_S("signal", strsignal(number)));
            return;
        }
        if (number == SIGUSR1) publisher_request(publisher, false);
        if (number == SIGHUP) json_decref(operator_reload(operator, NULL, &err));
    }
}

/* The last snapshot is being written: systemd is asked for time, and a second signal ends all. */
static void await_end(struct pipeline *pipeline)
{
    const sigset_t set = our_signals();
    while (!pipeline_ended(pipeline)) {
        notify_extend(10000);
        int number = sigtimedwait(&set, NULL, &(struct timespec){ .tv_nsec = 100000000 });
        if (number == SIGTERM || number == SIGINT) {
            log_warning("stopped at once: state is the last snapshot's");
            _exit(0);
        }
    }
}

/* The end is behind the learner, but the snapshot thread may still write: a second signal must work there too. */
static void *await_second_signal(void *argument)
{
    (void)argument;
    const sigset_t set = our_signals();
    for (;;) {
        int number = sigwaitinfo(&set, NULL);
        if (number != SIGTERM && number != SIGINT) continue;
        log_warning("stopped at once: state is the last snapshot's");
        _exit(0);
    }
    return NULL;
}

static bool add_size(void *self, const struct tensor *tensor, struct cs_error *err)
{
    (void)err;
    *(size_t *)self += tensor_bytes(tensor) + 64;
    return true;
}

/* So that the first snapshots don't wait for memory. */
static void reserve(struct snapshot_store *store, struct learner *learner)
{
    struct cs_error err;
    size_t bytes = 0;
    if (!learner_tensors(learner, add_size, &bytes, &err) || !snapshot_reserve(store, bytes))
        log_warning("no memory is left to keep ready for snapshots: they may hold up learning", LOG_U("bytes", bytes));
}

static void warn_of_leftover(void *self, const char *path)
{
    (void)self;
    log_warning("beside the snapshot lies a copy that was never finished", LOG_S("directory", path));
}

/* From the state that was resumed on, what changes is sent as it is learned. */
static struct deltas *start_deltas(const struct cs_config *config, struct learner *learner, struct kafka_delta_sink *to,
                                   struct telemetry *telemetry, const char *fingerprint, struct cs_error *err)
{
    struct delta_sink sink = kafka_delta_sink_of(to);
    struct deltas_options options = {
        .topic = config->checkpoint.delta_topic,
        .fingerprint = fingerprint,
        .interval = config->checkpoint.delta_interval,
        .retry = 1000,
        .epoch = clock_wall(),
        .version = checkpoint_newest(config->checkpoint.directory),
    };
    return learner_watch(learner, err) ? deltas_create(&options, &sink, telemetry, err) : NULL;
}

static int run(const struct arguments *arguments, const struct cs_config *config)
{
    struct cs_error err = { 0 };
    bool ok = false;
    struct telemetry *telemetry = NULL;
    struct worker_pool *pool = NULL;
    struct features *features = NULL;
    struct decoder *decoder = NULL;
    struct ingest *ingest = NULL;
    struct learner *learner = NULL;
    struct metrics *metrics = NULL;
    struct shown *shown = NULL;
    struct aside *aside = NULL;
    struct snapshot_store *store = NULL;
    struct kafka_clients *clients = NULL;
    struct kafka_sink *sink = NULL;
    struct kafka_delta_sink *delta_sink = NULL;
    struct deltas *deltas = NULL;
    char fingerprint[33];
    struct publisher *publisher = NULL;
    struct pipeline *pipeline = NULL;
    struct operator *operator = NULL;
    struct trend *trend = NULL;
    struct trend_feed *feed = NULL;
    struct control_server *control = NULL;
    struct http_server *http = NULL;
    struct kafka_positions positions = { 0 };

    /* 1. What computes. */
    if (!own_places_check(config, &err)) goto out;
    own_places_warn(config);
    telemetry = telemetry_create();
    if (!(pool = worker_pool_create(config->compute.threads, &err))) goto out;
    struct parallel *parallel = worker_pool_parallel(pool);
    if (!(features = features_create(&config->features, &err))) goto out;
    if (!(decoder = assemble_decoder(config, features, &err))) goto out;
    if (!(ingest = assemble_ingest(config, features, config->batch.max_delay, &err))) goto out;
    if (!(learner = assemble_learner(config, features, parallel, &err))) goto out;
    metrics = metrics_create(config->evaluation.window);
    shown = shown_create(config->evaluation.window);
    if (!metrics || !shown) {
        cs_fail(&err, CS_FAILED, "out of memory: evaluation.window");
        goto out;
    }

    /* 2. Where we were. Holds the lock on the state from here on. */
    notify_extend(60000);
    enum standby_end waited = standby_open(config, telemetry, &store, &err);
    ok = waited == STANDBY_STOPPED;
    if (waited != STANDBY_OWNER) goto out;
    snapshot_leftovers(config->snapshot.directory, false, warn_of_leftover, NULL);
    clients = kafka_clients_create(config);
    if (!(sink = kafka_sink_create(config, clients, &err))) goto out;
    if (!publish_resume(config, store, parallel->width, learner, ingest, metrics, shown, kafka_sink_letters(sink),
                        &positions, &err))
        goto out;
    reserve(store, learner);

    /* 3. Snapshots before events, so that the first cut finds its thread. */
    if (!(publisher = publisher_create(config, store, sink, telemetry, parallel->width, &err))) goto out;
    if (!(aside = aside_create(config->snapshot.directory, config->snapshot.keep_aside, &err))) goto out;
    config_fingerprint(config, fingerprint);
    if (config->checkpoint.delta_topic &&
        (!(delta_sink = kafka_delta_sink_create(config, clients, &err)) ||
         !(deltas = start_deltas(config, learner, delta_sink, telemetry, fingerprint, &err))))
        goto out;
    struct pipeline_parts parts = { config, features, decoder, ingest,    learner,  metrics,
                                    shown,  aside,    sink,    publisher, telemetry, deltas, clients };
    if (!(pipeline = pipeline_start(&parts, &positions, &err))) goto out;

    /* 4. Operators. */
    operator = operator_create(arguments->config, config, pipeline, publisher, clients, telemetry,
                               given_level(arguments));
    struct http_pages pages = operator_pages(operator);
    if (!(pages.trend = trend = trend_create()) || !(feed = trend_feed_create(&(struct trend_feed_options){
                                                         trend, pipeline, publisher, pages.ready, pages.self }))) {
        cs_fail(&err, CS_FAILED, "out of memory: the status page's history");
        goto stop;
    }
    if (*config->http.listen && !(http = http_start(config->http.listen, telemetry, &pages, &err))) goto stop;
    if (!(control = control_start(config->control.socket, &control_limits, operator_verbs, operator, &err))) goto stop;
    notify_ready("started");
    log_notice("started", LOG_S("version", version_number), LOG_U("threads", parallel->width),
               LOG_S("core", openblas_get_corename()), LOG_S("control", config->control.socket),
               LOG_I("http", http ? http_port(http) : 0));
    serve_signals(operator, pipeline, publisher, feed);
    ok = true;

stop:
    notify_stopping("stopping: what was read is learned, then a last snapshot is written");
    pipeline_stop(pipeline);
    await_end(pipeline);
    pthread_t watcher;
    bool watched = pthread_create(&watcher, NULL, await_second_signal, NULL) == 0;
    if (watched) pthread_detach(watcher);
    struct cs_error failure;
    if (!pipeline_join(pipeline, &failure)) {
        if (ok) err = failure;
        ok = false;
    }
out:
    deltas_stop(deltas, DELTA_WAIT);                /* before the learner that it reads from ends */
    if (publisher) publisher_finish(publisher);     /* commits the last cut; releases verbs that wait */
    control_stop(control);
    http_stop(http);
    if (publisher && publisher_view(publisher).failures_in_row && ok) {
        cs_fail(&err, CS_FAILED, "the last snapshot failed: %.400s", publisher_view(publisher).snapshot_error);
        ok = false;
    }
    trend_feed_destroy(feed);
    trend_destroy(trend);
    operator_destroy(operator);
    pipeline_destroy(pipeline);
    publisher_destroy(publisher);
    kafka_sink_destroy(sink);
    deltas_destroy(deltas);
    kafka_delta_sink_destroy(delta_sink);
    kafka_clients_destroy(clients);
    positions_release(&positions);
    aside_destroy(aside);
    snapshot_close(store);
    shown_destroy(shown);
    metrics_destroy(metrics);
    learner_destroy(learner);
    ingest_destroy(ingest);
    decoder_destroy(decoder);
    features_destroy(features);
    worker_pool_destroy(pool);
    telemetry_destroy(telemetry);
    if (ok) {
        log_notice("stopped");
        return 0;
    }
    log_error("stopped by an error", LOG_S("error", err.message), LOG_S("where", err.at.source),
              LOG_S("remedy", log_remedy_of_daemon(err.code)));
    if (err.code == CS_REFUSED && !publisher)
        log_notice("nothing was changed. Where the snapshot is damaged: `coldstreamctl verify` says what is, "
                   "`snapshot.on_damage: previous` goes on from the snapshot before it, `coldstreamctl restore` brings "
                   "a backup back",
                   LOG_S("directory", config->snapshot.directory));
    notify_status("%s", err.message);
    return cs_exit_code(err.code);
}

int main(int argc, char **argv)
{
    struct arguments arguments;
    int code = parse_arguments(argc, argv, &arguments);
    if (code >= 0) return code;
    const sigset_t set = our_signals();
    start_alone(&set, argv);                    /* before any thread: only the main one takes signals */
    struct cs_config *config = load_config(&arguments);
    if (!config) return cs_exit_code(CS_CONFIG);
    if (arguments.check) {
        printf("%s: fine\n", arguments.config);
        config_destroy(config);
        return program_flush("coldstreamd", 0);
    }
    umask(027);
    setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });   /* a core would hold the secrets, and the whole model */
    signal(SIGPIPE, SIG_IGN);
    int level = given_level(&arguments);
    log_open(level < 0 ? config->logging.level : (enum log_level)level, config->logging.format);
    if (geteuid() == 0) log_warning("running as root: a user of its own is safer, as in coldstream.service");
    kafka_warn_exposed(config);
    openblas_set_num_threads(1);                /* daemon/worker_pool.h says why */
    code = run(&arguments, config);
    log_tell_repeats(true);
    config_destroy(config);
    return code;
}
