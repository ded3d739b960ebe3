/* The daemon itself, learning from a real Apache Kafka: a backlog of impressions and clicks in several partitions,
 * read, decoded, merged, joined and learned. Needs what tests/kafka/broker.sh needs; without it the bench fails and
 * says so. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/control.h"
#include "tools/bench.h"
#include "tools/generate.h"
#include "tools/generate_kafka.h"

enum { EVENTS = 400000, PATIENCE = 120, POLL_MS = 10, RUNS_MAX = 3, PATH_ROOM = 512 };

/* How much of the backlog each is given, so that each is watched for some seconds; the first part warms up. */
static const struct { size_t system; double warm, watched; size_t runs; } plan[] = {
    { 0, 60000, 220000, 3 }, { 1, 8000, 24000, 2 }, { 2, 6000, 14000, 2 },
};

/* The first word that a command prints; its messages go to our stderr. */
bool bench_command(const char *command, char *word, size_t size, struct cs_error *err)
{
    char line[512] = "";
    FILE *pipe = popen(command, "r");
    if (!pipe) return cs_fail_errno(err, errno, "cannot run %s", command);
    char *read = fgets(line, sizeof line, pipe);
    int status = pclose(pipe);
    if (status) return cs_fail(err, CS_FAILED, "%s ended with status %d", command, WEXITSTATUS(status));
    if (!word) return true;
    if (read) line[strcspn(line, " \n")] = '\0';
    snprintf(word, size, "%s", line);
    return *word || cs_fail(err, CS_FAILED, "%s printed nothing", command);
}

bool bench_fill_topics(const char *brokers, uint64_t events, struct cs_error *err)
{
    struct generate_settings world;
    struct generated event;
    if (!generate_profile(&world, "bench", err)) return false;
    world.events = events;
    struct generator *generator = generator_create(&world, err);
    struct generate_kafka *kafka = generator ? generate_kafka_create(brokers, NULL, NULL, err) : NULL;
    bool ok = kafka != NULL;
    while (ok && generator_next(generator, &event)) ok = generate_kafka_send(kafka, &event, err);
    ok = ok && generate_kafka_flush(kafka, err);
    generate_kafka_destroy(kafka);
    generator_destroy(generator);
    return ok;
}

bool bench_daemon_config(const char *directory, const char *brokers, size_t system, int port, struct cs_error *err)
{
    char path[PATH_ROOM];
    snprintf(path, sizeof path, "%s/daemon.yaml", directory);
    FILE *file = fopen(path, "w");
    if (!file) return cs_fail_errno(err, errno, "cannot write %s", path);
    fprintf(file,
            "source: {kafka: {topics: {conversions: ~}, properties: {bootstrap.servers: \"%s\"}}}\n"
            "batch: {size: 1024, max_delay: 1d}\n"
            "snapshot: {directory: %s/snapshot, interval: 1h}\n"
            "checkpoint: {directory: %s/served, interval: 1h}\n"
            "control: {socket: %s/control.sock}\nhttp: {listen: \"127.0.0.1:%d\"}\nlogging: {level: warning}\n%s%s",
            brokers, directory, directory, directory, port, bench_model_settings, bench_system[system].zero_shot);
    return fclose(file) == 0 || cs_fail_errno(err, errno, "cannot write %s", path);
}

bool bench_daemon_start(const struct bench *bench, const char *directory, struct bench_daemon *daemon,
                        struct cs_error *err)
{
    char program[PATH_ROOM], config[PATH_ROOM];
    pid_t parent = getpid();
    snprintf(program, sizeof program, "%s/coldstreamd", bench->programs);
    snprintf(config, sizeof config, "%s/daemon.yaml", directory);
    snprintf(daemon->socket, sizeof daemon->socket, "%s/control.sock", directory);
    snprintf(daemon->log, sizeof daemon->log, "%s/daemon.log", directory);
    fflush(NULL);
    daemon->pid = fork();
    if (daemon->pid < 0) return cs_fail_errno(err, errno, "cannot start %s", program);
    if (daemon->pid > 0) return true;
    prctl(PR_SET_PDEATHSIG, SIGKILL);       /* nothing outlives the bench */
    if (getppid() != parent || !freopen(daemon->log, "w", stderr)) _exit(127);
    execl(program, program, "--config", config, (char *)NULL);
    fprintf(stderr, "cannot run %s: %s\n", program, strerror(errno));
    _exit(127);
}

void bench_daemon_stop(struct bench_daemon *daemon)
{
    if (daemon->pid <= 0) return;
    kill(daemon->pid, SIGKILL);             /* its state is thrown away */
    waitpid(daemon->pid, NULL, 0);
    daemon->pid = 0;
}

/* Examples learned so far; negative: it does not answer (yet). */
static double learned(const struct bench_daemon *daemon)
{
    struct cs_error ignored;
    json_t *status = control_request(daemon->socket, "status", NULL, &ignored);
    double examples = -1;
    if (status) examples = json_number_value(json_object_get(json_object_get(status, "examples"), "all"));
    json_decref(status);
    return examples;
}

/* Examples a second between the first accounts past `warm` and past warm + watched. The daemon gives an account of
 * itself once a second, so only the moments at which it changes are taken. */
static bool watch(struct bench_daemon *daemon, double warm, double watched, double *rate, struct cs_error *err)
{
    double begin = bench_seconds(), last = 0, first_examples = 0, first_time = 0;
    for (;;) {
        double now = bench_seconds(), examples = learned(daemon);
        if (waitpid(daemon->pid, NULL, WNOHANG) == daemon->pid) {
            daemon->pid = 0;
            return cs_fail(err, CS_FAILED, "coldstreamd ended by itself; see its log %s", daemon->log);
        }
        if (examples > last && last > 0) {
            if (first_time == 0 && examples >= warm) {
                first_examples = examples;
                first_time = now;
            } else if (first_time > 0 && examples >= warm + watched) {
                *rate = (examples - first_examples) / (now - first_time);
                return true;
            }
        }
        if (examples > last) last = examples;
        if (now - begin > PATIENCE)
            return cs_fail(err, CS_FAILED, "only %.0f of %.0f examples were learned in %d s", last, warm + watched,
                           PATIENCE);
        nanosleep(&(struct timespec){ .tv_nsec = POLL_MS * 1000000L }, NULL);
    }
}

static bool run_once(const struct bench *bench, const char *brokers, size_t step, size_t run, double *rate,
                     struct cs_error *err)
{
    char directory[PATH_ROOM / 2], command[PATH_ROOM];
    struct bench_daemon daemon = { 0 };
    snprintf(directory, sizeof directory, "%s/kafka-%zu-%zu", bench->directory, step, run);
    snprintf(command, sizeof command, "mkdir -p %s", directory);
    bool ok = bench_command(command, NULL, 0, err) &&
              bench_daemon_config(directory, brokers, plan[step].system, 0, err) &&
              bench_daemon_start(bench, directory, &daemon, err) &&
              watch(&daemon, plan[step].warm, plan[step].watched, rate, err);
    bench_daemon_stop(&daemon);
    return ok;
}

bool bench_kafka(struct bench *bench, struct cs_error *err)
{
    char command[PATH_ROOM], brokers[128] = "", what[96];
    bool ok = false;
    bench_progress("a real Kafka: starting, and filling its topics");
    snprintf(command, sizeof command, "tests/kafka/broker.sh start %s/broker", bench->directory);
    if (!bench_command(command, brokers, sizeof brokers, err))
        return cs_error_prefix(err, "Apache Kafka does not start");
    snprintf(command, sizeof command, "%s/tests/kafka/admin %s create impressions:4 clicks:2 >&2", bench->programs,
             brokers);
    if (!bench_command(command, NULL, 0, err) || !bench_fill_topics(brokers, EVENTS, err)) goto out;
    for (size_t step = 0; step < sizeof plan / sizeof *plan; step++) {
        const struct bench_system *system = &bench_system[plan[step].system];
        double rate[RUNS_MAX];
        snprintf(what, sizeof what, "from Kafka: %s", system->name);
        bench_progress(what);
        for (size_t run = 0; run < plan[step].runs; run++)
            if (!run_once(bench, brokers, step, run, &rate[run], err)) goto out;
        snprintf(what, sizeof what, "coldstreamd from Kafka, %s", system->name);
        bench_add(bench, what, bench_median(rate, plan[step].runs), "examples/s",
                  bench->bare_rate[plan[step].system], "the bare matrix products of the step");
    }
    ok = true;
out:
    snprintf(command, sizeof command, "tests/kafka/broker.sh kill %s/broker >&2", bench->directory);
    bench_command(command, NULL, 0, NULL);
    return ok;
}
