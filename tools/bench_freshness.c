/* From a click to the first score that knows of it: a real Apache Kafka, the daemon learning from it as it comes, and
 * coldstream-serve's reader, on one machine. Examples are released by their click. Needs what tests/kafka/broker.sh
 * does. */
#include <librdkafka/rdkafka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "daemon/clock.h"
#include "daemon/kafka_deltas.h"
#include "daemon/coldstream.h"
#include "tools/bench.h"

enum { PATH_ROOM = 512, SECONDS = 30, WARM = 8, RATE = 500, CLICK_AFTER = 100, SAMPLES = 1 << 18 };

struct freshness {
    pthread_mutex_t mutex;
    double *age;                    /* [SAMPLES] seconds, of what was learned, as its version begins to serve */
    size_t ages, deltas;
    int64_t since;                  /* ms: what came before warms up */
    struct coldstream *cs;
};

static void on_delta(void *argument, const struct coldstream_delta_report *report)
{
    struct freshness *freshness = argument;
    int64_t now = clock_wall();
    if (report->result != COLDSTREAM_DELTA_APPLIED) return;
    pthread_mutex_lock(&freshness->mutex);
    freshness->deltas++;
    for (size_t i = 0; i < report->learned_count && freshness->ages < SAMPLES; i++)
        if (freshness->since && report->learned[i] >= freshness->since)
            freshness->age[freshness->ages++] = (double)(now - report->learned[i]) / 1000;
    pthread_mutex_unlock(&freshness->mutex);
}

static void take(void *self, const void *bytes, size_t size)
{
    struct freshness *freshness = self;
    coldstream_delta(freshness->cs, bytes, size, NULL, 0);
}

static bool write_config(const char *directory, const char *brokers, struct cs_error *err)
{
    char path[PATH_ROOM];
    snprintf(path, sizeof path, "%s/daemon.yaml", directory);
    FILE *file = fopen(path, "w");
    if (!file) return cs_fail_errno(err, errno, "cannot write %s", path);
    fprintf(file,
            "source: {kafka: {topics: {conversions: ~}, idle_after: 100ms, start: earliest,\n"
            "                 properties: {bootstrap.servers: \"%s\"}}}\n"
            "join: {window: 10m, release: click}\n"
            "features: {user: [{name: age}, {name: city}], context: [{name: hour}],\n"
            "           item: [{name: item_id, table: item}, {name: category}], "
            "behavior: {table: item, max_length: 50}}\n"
            "batch: {size: 1024, max_delay: 100ms}\n"
            "snapshot: {directory: %s/snapshot, interval: 5s}\n"
            "checkpoint: {directory: %s/served, interval: 10s, delta_topic: deltas, delta_interval: 100ms}\n"
            "control: {socket: %s/control.sock}\nhttp: {listen: \"127.0.0.1:0\"}\nlogging: {level: warning}\n",
            brokers, directory, directory, directory);
    return fclose(file) == 0 || cs_fail_errno(err, errno, "cannot write %s", path);
}

static void send_event(rd_kafka_t *producer, const char *topic, const char *text, int length)
{
    rd_kafka_producev(producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(0),
                      RD_KAFKA_V_VALUE((void *)(uintptr_t)text, (size_t)length),
                      RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
    rd_kafka_poll(producer, 0);
}

/* Impressions at RATE a second in wall time, a fifth of them clicked. */
static void produce(rd_kafka_t *producer, size_t i)
{
    char text[512];
    unsigned dice = (unsigned)i * 2654435761u >> 8;
    int64_t now = clock_wall();
    int length = snprintf(text, sizeof text,
                          "{\"event\":\"impression\",\"impression_id\":\"r%zu\",\"ts\":%lld,\"user_id\":\"u%u\","
                          "\"user\":{\"age\":\"%u\",\"city\":\"c%u\"},\"behaviors\":[\"i1\",\"i%u\"],"
                          "\"context\":{\"hour\":3},"
                          "\"item_id\":\"i%u\",\"item\":{\"category\":\"k%u\"}}",
                          i, (long long)now, dice % 5000, 18 + dice % 50, dice % 70, dice % 313, dice % 20011,
                          dice % 50);
    send_event(producer, "impressions", text, length);
    size_t lag = RATE * CLICK_AFTER / 1000;
    if (i < lag || (i - lag) % 5) return;
    length = snprintf(text, sizeof text, "{\"event\":\"click\",\"impression_id\":\"r%zu\",\"ts\":%lld}", i - lag,
                      (long long)now);
    send_event(producer, "clicks", text, length);
}

static void run(struct freshness *freshness, rd_kafka_t *producer, const char *served, const char *brokers,
                struct cs_error *err)
{
    struct kafka_deltas_property property = { "bootstrap.servers", brokers };
    struct coldstream_options options = { .size = sizeof options, .poll_milliseconds = 1000, .follow = 1, .verify = 1,
                                          .on_delta = on_delta, .argument = freshness };
    struct kafka_deltas *reader = NULL;
    double begin = bench_seconds();
    for (size_t i = 0; i < (size_t)SECONDS * RATE && !err->code; i++) {
        double wait = begin + (double)i / RATE - bench_seconds();
        if (wait > 0) nanosleep(&(struct timespec){ .tv_nsec = (long)(wait * 1e9) }, NULL);
        produce(producer, i);
        if (i % RATE) continue;
        if (!freshness->cs && (freshness->cs = coldstream_open(served, &options, NULL, 0)))
            reader = kafka_deltas_start("deltas", &property, 1, take, freshness, err);
        if (i / RATE != WARM) continue;
        pthread_mutex_lock(&freshness->mutex);
        freshness->since = clock_wall();
        pthread_mutex_unlock(&freshness->mutex);
    }
    kafka_deltas_stop(reader);
    coldstream_close(freshness->cs);
}

bool bench_freshness(struct bench *bench, struct cs_error *err)
{
    char served[PATH_ROOM], error[256], command[PATH_ROOM], brokers[128] = "";
    struct freshness freshness = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    struct bench_daemon daemon = { 0 };
    bool ok = false;
    bench_progress("from a click to a score");
    snprintf(command, sizeof command, "tests/kafka/broker.sh start %s/broker", bench->directory);
    if (!bench_command(command, brokers, sizeof brokers, err))
        return cs_error_prefix(err, "Apache Kafka does not start");
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "linger.ms", "1", error, sizeof error);
    rd_kafka_conf_set(conf, "bootstrap.servers", brokers, error, sizeof error);
    rd_kafka_t *producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof error);
    snprintf(command, sizeof command, "%s/tests/kafka/admin %s create impressions:1 clicks:1 deltas:1 >&2",
             bench->programs, brokers);
    if (!producer) cs_fail(err, CS_FAILED, "no producer: %s", error);
    if (!producer || !bench_command(command, NULL, 0, err)) goto out;
    snprintf(served, sizeof served, "%s/served", bench->directory);
    if (!(freshness.age = malloc(SAMPLES * sizeof *freshness.age))) abort();
    if (!write_config(bench->directory, brokers, err) || !bench_daemon_start(bench, bench->directory, &daemon, err))
        goto out;
    run(&freshness, producer, served, brokers, err);
    ok = !err->code && (freshness.ages > 100 || cs_fail(err, CS_FAILED, "%zu deltas and %zu samples came, too few",
                                                             freshness.deltas, freshness.ages));
    if (ok) {
        bench_add(bench, "click to score, median", bench_quantile(freshness.age, freshness.ages, 0.5) * 1e3, "ms", 1000,
                  "what is asked for");
        bench_add(bench, "click to score, p99", bench_quantile(freshness.age, freshness.ages, 0.99) * 1e3, "ms", 1000,
                  "what is asked for");
    }
out:
    bench_daemon_stop(&daemon);
    free(freshness.age);
    if (producer) rd_kafka_destroy(producer);
    snprintf(command, sizeof command, "tests/kafka/broker.sh kill %s/broker >&2", bench->directory);
    bench_command(command, NULL, 0, NULL);
    return ok;
}
