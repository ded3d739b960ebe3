/* The demo: a day of traffic through Kafka into the daemon, learned twice (with the zero-shot tower and without), then
 * a checkpoint served over HTTP, and a table of what it was good for.
 *
 *   stream -> topics impressions, clicks -> coldstreamd -> checkpoint -> coldstream-serve -> a new user's scores
 *
 * Without options the stream is generated and the broker is librdkafka's mock cluster in this process. It keeps only
 * the last 5 MiB of a partition, so the producer stays behind what the daemon says it has read. With --broker the
 * stream comes from files and goes to a real Kafka, once; the second daemon reads it again from the beginning. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/control.h"
#include "tools/demo.h"

static const size_t in_flight_max = 3 << 20;       /* bytes a partition, of the mock's 5 MiB */

/* What one run gave: what the checkpoint's manifest says. */
struct result { const char *name; double seconds; uint64_t examples, events; json_t *metrics; };

static const char *const topic_name[STREAMS] = { "impressions", "clicks" };

double demo_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void demo_sleep(long ms) { nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL); }

void demo_say(const char *format, ...)
{
    va_list list;
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    putchar('\n');
    fflush(stdout);
}

/* A line that is written anew on a terminal; every ten seconds a line of its own elsewhere. */
static void progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void progress(const char *format, ...)
{
    static double last;
    bool terminal = isatty(STDERR_FILENO);
    va_list list;

    if (demo_now() - last < (terminal ? 0.2 : 10)) return;
    last = demo_now();
    if (terminal) fprintf(stderr, "\r\033[K");
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    if (!terminal) fputc('\n', stderr);
    fflush(stderr);
}

/* ------------------------------------------------------------------------------------------------------- programs */

pid_t demo_start(const struct demo *demo, const char *program, const char *log, const char *const *arguments)
{
    char path[4096], log_path[4096];
    pid_t parent = getpid(), pid;

    snprintf(path, sizeof path, "%s/%s", demo->programs, program);
    snprintf(log_path, sizeof log_path, "%s/%s", demo->directory, log);
    fflush(NULL);
    pid = fork();
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGTERM);                       /* nothing outlives the demo */
    if (getppid() != parent || !freopen(log_path, "w", stderr) || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) _exit(127);
    execv(path, (char *const *)(uintptr_t)arguments);
    fprintf(stderr, "cannot run %s: %s\n", path, strerror(errno));
    _exit(127);
}

bool demo_runs(pid_t *pid)
{
    int status;
    if (*pid <= 0) return false;
    if (waitpid(*pid, &status, WNOHANG) != *pid) return true;
    *pid = 0;
    return false;
}

/* SIGTERM, and its exit status; SIGKILL after half a minute. */
bool demo_stop(pid_t *pid, const char *name, struct cs_error *err)
{
    double began = demo_now();
    int status = 0;

    if (*pid <= 0) return true;
    kill(*pid, SIGTERM);
    while (waitpid(*pid, &status, WNOHANG) == 0) {
        if (demo_now() - began > 30) {
            kill(*pid, SIGKILL);
            waitpid(*pid, &status, 0);
            *pid = 0;
            return cs_fail(err, CS_FAILED, "%s did not stop within 30 s", name);
        }
        demo_sleep(20);
    }
    *pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
    return cs_fail(err, CS_FAILED, "%s ended with %s %d", name, WIFSIGNALED(status) ? "signal" : "status",
                   WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

void demo_show_log(const struct demo *demo, const char *log)
{
    char path[4096], line[1024];
    FILE *file;
    long lines = 0, skip;

    snprintf(path, sizeof path, "%s/%s", demo->directory, log);
    file = fopen(path, "r");
    if (!file) return;
    while (fgets(line, sizeof line, file)) lines++;
    rewind(file);
    fprintf(stderr, "--- the end of %s\n", log);
    for (skip = lines - 25; fgets(line, sizeof line, file); skip--)
        if (skip <= 0) fputs(line, stderr);
    fclose(file);
}

/* -------------------------------------------------------------------------------------------------------- stream */

/* The events of a run in the order in which they are sent. */
struct stream {
    struct generator *generator;
    FILE *file[STREAMS];
    struct line { char *text, *key; size_t room; ssize_t length; int64_t time; size_t key_length; } line[STREAMS];
    int64_t last_time;
};

static bool next_line(struct stream *stream, int i)
{
    struct line *line = &stream->line[i];
    json_t *event;

    line->length = getline(&line->text, &line->room, stream->file[i]);
    if (line->length <= 0) return false;
    while (line->length > 0 && isspace((unsigned char)line->text[line->length - 1])) line->length--;
    event = json_loadb(line->text, (size_t)line->length, 0, NULL);
    free(line->key);
    const char *key = json_string_value(json_object_get(event, "impression_id"));
    if (!(line->key = strdup(key ? key : ""))) abort();
    line->key_length = strlen(line->key);
    line->time = json_integer_value(json_object_get(event, "ts"));
    json_decref(event);
    return true;
}

static bool stream_open(struct stream *stream, const struct demo *demo, struct cs_error *err)
{
    *stream = (struct stream){ 0 };
    if (!demo->impressions) {
        stream->generator = generator_create(&demo->settings, err);
        return stream->generator != NULL;
    }
    for (int i = 0; i < STREAMS; i++) {
        const char *name = i ? demo->clicks : demo->impressions;
        stream->file[i] = fopen(name, "r");
        if (!stream->file[i]) return cs_fail_errno(err, errno, "cannot read %s", name);
        next_line(stream, i);
    }
    return true;
}

static bool stream_next(struct stream *stream, struct generated *out)
{
    if (stream->generator) {
        if (!generator_next(stream->generator, out)) return false;
    } else {
        int i = stream->line[0].length <= 0   ? 1
                : stream->line[1].length <= 0 ? 0
                                              : stream->line[1].time < stream->line[0].time;
        struct line *line = &stream->line[i];
        static char sent_text[1 << 20], sent_key[256]; /* the line that is handed out, while the next one is read */
        if (line->length <= 0) return false;
        if ((size_t)line->length > sizeof sent_text || line->key_length >= sizeof sent_key) line->length = 0;
        memcpy(sent_text, line->text, (size_t)line->length);
        memcpy(sent_key, line->key, line->key_length);
        *out = (struct generated){ .topic = i ? GENERATED_CLICK : GENERATED_IMPRESSION,
                                   .time = line->time,
                                   .key = sent_key,
                                   .key_length = line->key_length,
                                   .value = sent_text,
                                   .value_length = (size_t)line->length };
        next_line(stream, i);
    }
    if (out->time > stream->last_time) stream->last_time = out->time;
    return true;
}

static void stream_close(struct stream *stream)
{
    generator_destroy(stream->generator);
    for (int i = 0; i < STREAMS; i++) {
        if (stream->file[i]) fclose(stream->file[i]);
        free(stream->line[i].text);
        free(stream->line[i].key);
    }
}

/* --------------------------------------------------------------------------------------------------------- broker */

static void on_delivery(rd_kafka_t *producer, const rd_kafka_message_t *message, void *opaque)
{
    (void)producer;
    if (message->err) ((struct demo *)opaque)->failed++;
}

static void broker_stop(struct demo *demo)
{
    for (int i = 0; i < STREAMS; i++) {
        if (demo->topic[i]) rd_kafka_topic_destroy(demo->topic[i]);
        demo->topic[i] = NULL;
    }
    if (demo->mock) rd_kafka_mock_cluster_destroy(demo->mock);
    if (demo->producer) rd_kafka_destroy(demo->producer);
    demo->mock = NULL;
    demo->producer = NULL;
}

static bool count_partitions(struct demo *demo, int i, struct cs_error *err)
{
    const struct rd_kafka_metadata *metadata;
    rd_kafka_resp_err_t code = rd_kafka_metadata(demo->producer, 0, demo->topic[i], &metadata, 10000);

    if (code) return cs_fail(err, CS_FAILED, "Kafka at %s: %s", demo->brokers, rd_kafka_err2str(code));
    demo->partitions[i] = metadata->topic_cnt ? metadata->topics[0].partition_cnt : 0;
    rd_kafka_metadata_destroy(metadata);
    if (demo->partitions[i] < 1 || demo->partitions[i] > PARTITIONS_MAX)
        return cs_fail(err, CS_FAILED, "topic %s has %d partitions, allowed are 1 to %d", topic_name[i],
                       (int)demo->partitions[i], PARTITIONS_MAX);
    return true;
}

static bool broker_start(struct demo *demo, struct cs_error *err)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char message[256];

    memset(demo->produced, 0, sizeof demo->produced);
    memset(demo->bytes, 0, sizeof demo->bytes);
    rd_kafka_conf_set_opaque(conf, demo);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_conf_set(conf, "linger.ms", "5", NULL, 0);
    rd_kafka_conf_set(conf, "log_level", "4", NULL, 0);
    rd_kafka_conf_set(conf, "enable.idempotence", demo->broker ? "true" : "false", NULL, 0);
    if (!demo->broker) rd_kafka_conf_set(conf, "test.mock.num.brokers", "1", NULL, 0);
    else rd_kafka_conf_set(conf, "bootstrap.servers", demo->broker, NULL, 0);
    demo->producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, message, sizeof message);
    if (!demo->producer) {
        rd_kafka_conf_destroy(conf);
        return cs_fail(err, CS_FAILED, "Kafka producer: %s", message);
    }
    if (demo->broker) {
        snprintf(demo->brokers, sizeof demo->brokers, "%s", demo->broker);
    } else {
        rd_kafka_mock_cluster_t *mock = rd_kafka_handle_mock_cluster(demo->producer);
        snprintf(demo->brokers, sizeof demo->brokers, "%s", rd_kafka_mock_cluster_bootstraps(mock));
        for (int i = 0; i < STREAMS; i++) rd_kafka_mock_topic_create(mock, topic_name[i], PARTITIONS, 1);
    }
    for (int i = 0; i < STREAMS; i++) {
        demo->topic[i] = rd_kafka_topic_new(demo->producer, topic_name[i], NULL);
        if (!demo->topic[i])
            return cs_fail(err, CS_FAILED, "topic %s: %s", topic_name[i], rd_kafka_err2str(rd_kafka_last_error()));
        if (!count_partitions(demo, i, err)) return false;
    }
    return true;
}

static int32_t partition_of(const char *key, size_t length, int32_t partitions)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)key[i]) * 16777619u;
    return (int32_t)(hash % (uint32_t)partitions);
}

static bool produce(struct demo *demo, int stream, int32_t partition, const char *key, size_t key_length,
                    const char *value, size_t value_length, struct cs_error *err)
{
    while (rd_kafka_produce(demo->topic[stream], partition, RD_KAFKA_MSG_F_COPY, (void *)(uintptr_t)value, value_length,
                            key, key_length, NULL) != 0) {
        if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL)
            return cs_fail(err, CS_FAILED, "topic %s: %s", topic_name[stream], rd_kafka_err2str(rd_kafka_last_error()));
        rd_kafka_poll(demo->producer, 20);
    }
    rd_kafka_poll(demo->producer, 0);
    demo->produced[stream][partition]++;
    demo->bytes[stream][partition] += value_length + key_length + 40;
    return true;
}

/* --------------------------------------------------------------------------------------------------- what it says */

/* How far the daemon has read: every object of its status that has topic, partition and next. */
static void read_positions(const json_t *status, int64_t next[STREAMS][PARTITIONS_MAX])
{
    const char *key, *topic;
    const json_t *member;
    size_t index;

    if (json_is_array(status)) json_array_foreach(status, index, member) read_positions(member, next);
    if (!json_is_object(status)) return;
    topic = json_string_value(json_object_get(status, "topic"));
    if (topic && json_is_integer(json_object_get(status, "next"))) {
        int64_t partition = json_integer_value(json_object_get(status, "partition"));
        for (int i = 0; i < STREAMS; i++)
            if (strcmp(topic, topic_name[i]) == 0 && partition >= 0 && partition < PARTITIONS_MAX)
                next[i][partition] = json_integer_value(json_object_get(status, "next"));
        return;
    }
    json_object_foreach((json_t *)(uintptr_t)status, key, member) read_positions(member, next);
}

static bool ask_positions(struct demo *demo, int64_t next[STREAMS][PARTITIONS_MAX], struct cs_error *err)
{
    json_t *status;

    memset(next, 0, sizeof(int64_t) * STREAMS * PARTITIONS_MAX);
    if (!demo_runs(&demo->daemon)) return cs_fail(err, CS_FAILED, "coldstreamd has ended by itself");
    status = control_request(demo->socket, "status", NULL, err);
    if (!status) return false;
    read_positions(status, next);
    json_decref(status);
    return true;
}

static bool wait_for_daemon(struct demo *demo, struct cs_error *err)
{
    double began = demo_now();
    json_t *status;

    while (!(status = control_request(demo->socket, "status", NULL, err))) {
        if (!demo_runs(&demo->daemon)) return cs_fail(err, CS_FAILED, "coldstreamd did not start");
        if (demo_now() - began > 30) return cs_error_prefix(err, "coldstreamd does not answer");
        demo_sleep(50);
    }
    json_decref(status);
    return true;
}

/* -------------------------------------------------------------------------------------------------------- one run */

static const char generated_config[] =
    "features:\n"
    "  user:\n"
    "    - {name: age, bucketize: [26, 36, 46, 56, 66]}\n"
    "    - {name: gender}\n    - {name: city}\n    - {name: device}\n    - {name: language}\n    - {name: plan}\n    - "
    "{name: occupation}\n    - {name: channel}\n"
    "  context: [{name: hour}, {name: position}]\n"
    "  item: [{name: item_id, table: item}, {name: category}]\n"
    "  behavior: {table: item, max_length: 50}\n"
    "embedding: {dimension: 16}\n"
    "model:\n"
    "  ranking: {tower: base_dnn, hidden: [128, 64]}\n"
    "  zero_shot: {kind: mail, losses: full, target: pooled, attention: 32, encoder: [128, 64, 64], decoder: [64, "
    "128]}\n"
    "optimizer:\n"
    "  ranking: {kind: adam, learning_rate: 0.003}\n"
    "  zero_shot: {kind: adam, learning_rate: 0.001}\n"
    "  embedding: {kind: adam, learning_rate: 0.003}\n"
    "batch: {size: 256, max_delay: 10m}\n"
    "join: {window: 10m}\n";

static char *read_file(const char *name, struct cs_error *err)
{
    FILE *file = fopen(name, "r");
    char *text = NULL;
    size_t size = 0;

    if (!file || getdelim(&text, &size, '\0', file) < 0) {
        cs_fail_errno(err, errno, "cannot read %s", name);
        free(text);
        text = NULL;
    }
    if (file) fclose(file);
    return text;
}

/* The model's part of the configuration, as given or with `kind: none`, and around it what a run of its own needs. */
static bool write_config(struct demo *demo, int run, char *path, size_t size, struct cs_error *err)
{
    char *model = demo->config ? read_file(demo->config, err) : strdup(generated_config), *kind;
    FILE *file;

    if (!model) return false;
    kind = strstr(model, "kind: mail");
    if (!kind) {
        free(model);
        return cs_fail(err, CS_CONFIG, "%s: \"kind: mail\" is not in it: nothing to compare with", demo->config);
    }
    if (run == 1) memcpy(kind, "kind: none", strlen("kind: none"));
    snprintf(path, size, "%s/run%d.yaml", demo->directory, run);
    snprintf(demo->socket, sizeof demo->socket, "%s/run%d.sock", demo->directory, run);
    snprintf(demo->checkpoints, sizeof demo->checkpoints, "%s/checkpoints%d", demo->directory, run);
    file = fopen(path, "w");
    if (file)
        fprintf(file,
                "source:\n  kafka:\n    topics: {impressions: impressions, clicks: clicks, conversions: ~}\n    group: "
                "coldstream-demo-%d\n    idle_after: 2s\n"
                "    properties: {bootstrap.servers: \"%s\", fetch.wait.max.ms: 20}\n"
                "snapshot: {directory: %s/snapshot%d, interval: 10s}\n"
                "checkpoint: {directory: %s, interval: 10m}\n"
                "control: {socket: %s}\nhttp: {listen: \"\"}\n%s",
                run, demo->brokers, demo->directory, run, demo->checkpoints, demo->socket, model);
    free(model);
    if (!file || fclose(file) != 0) return cs_fail_errno(err, errno, "cannot write %s", path);
    return true;
}

/* Waits until no partition has more than in_flight_max bytes that the daemon has not read. */
static bool hold_back(struct demo *demo, struct cs_error *err)
{
    int64_t next[STREAMS][PARTITIONS_MAX];
    double began = demo_now();

    for (;;) {
        bool full = false;
        if (!ask_positions(demo, next, err)) return false;
        for (int i = 0; i < STREAMS; i++)
            for (int p = 0; p < demo->partitions[i]; p++) {
                double mean = demo->produced[i][p] ? (double)demo->bytes[i][p] / (double)demo->produced[i][p] : 0;
                full = full || (double)(demo->produced[i][p] - next[i][p]) * mean > (double)in_flight_max;
            }
        if (!full) return true;
        if (demo_now() - began > WAIT_SECONDS) return cs_fail(err, CS_FAILED, "the daemon does not read on");
        rd_kafka_poll(demo->producer, 20);
    }
}

/* One impression a partition, long after the last event: moves the event clock past everything that still waits. */
static bool send_end(struct demo *demo, int64_t time, struct cs_error *err)
{
    char value[300], key[32];

    for (int32_t p = 0; p < demo->partitions[0]; p++) {
        int k = snprintf(key, sizeof key, "end-%d", (int)p);
        int n = snprintf(value, sizeof value,
                         "{\"event\":\"impression\",\"impression_id\":\"%s\",\"ts\":%" PRId64
                         ",\"user_id\":\"end\",\"user\":{},"
                         "\"behaviors\":[],\"context\":{},\"item_id\":\"end\",\"item\":{}}",
                         key, time + 7200000);
        if (!produce(demo, 0, p, key, (size_t)k, value, (size_t)n, err)) return false;
    }
    return true;
}

static bool send_stream(struct demo *demo, uint64_t *sent, struct cs_error *err)
{
    struct stream stream;
    struct generated event;
    size_t since = 0;
    double began = demo_now();
    bool ok = stream_open(&stream, demo, err);

    *sent = 0;
    while (ok && stream_next(&stream, &event)) {
        int i = event.topic == GENERATED_CLICK;
        if (event.value_length == 0) continue;
        ok = produce(demo, i, partition_of(event.key, event.key_length, demo->partitions[i]), event.key,
                     event.key_length, event.value, event.value_length, err);
        ++*sent;
        since += event.value_length;
        if (ok && !demo->broker &&
            since > in_flight_max / 4) { /* less than the mock's limit can come between two looks */
            since = 0;
            ok = hold_back(demo, err);
        }
        if ((*sent & 255) == 0)
            progress("  %" PRIu64 " events sent, %.0f a second", *sent, (double)*sent / (demo_now() - began));
    }
    ok = ok && send_end(demo, stream.last_time, err);
    stream_close(&stream);
    if (ok && rd_kafka_flush(demo->producer, 60000) != 0)
        ok = cs_fail(err, CS_FAILED, "Kafka did not take all records within a minute");
    if (ok && demo->failed) ok = cs_fail(err, CS_FAILED, "Kafka did not take %lld records", (long long)demo->failed);
    return ok;
}

/* All that was produced is read (the records that only move the clock included). */
static bool wait_until_read(struct demo *demo, struct cs_error *err)
{
    int64_t next[STREAMS][PARTITIONS_MAX], missing, before = -1;
    double moved = demo_now();

    for (;;) {
        if (!ask_positions(demo, next, err)) return false;
        missing = 0;
        for (int i = 0; i < STREAMS; i++)
            for (int p = 0; p < demo->partitions[i]; p++)
                missing += demo->produced[i][p] > next[i][p] ? demo->produced[i][p] - next[i][p] : 0;
        if (missing == 0) return true;
        if (missing != before) moved = demo_now();
        before = missing;
        if (demo_now() - moved > WAIT_SECONDS)
            return cs_fail(err, CS_FAILED, "the daemon does not read on: %" PRId64 " records left", missing);
        progress("  %" PRId64 " records left to read", missing);
        demo_sleep(100);
    }
}

static bool read_manifest(struct demo *demo, struct result *result, struct cs_error *err)
{
    char path[4096];
    json_error_t why;
    json_t *manifest;

    snprintf(path, sizeof path, "%s/current/manifest.json", demo->checkpoints);
    manifest = json_load_file(path, 0, &why);
    if (!manifest) return cs_fail(err, CS_FAILED, "%s: %s", path, why.text);
    result->examples = (uint64_t)json_integer_value(json_object_get(manifest, "examples"));
    result->metrics = json_incref(json_object_get(manifest, "metrics"));
    json_decref(manifest);
    return result->metrics || cs_fail(err, CS_FAILED, "%s has no metrics", path);
}

static bool run_daemon(struct demo *demo, int run, struct result *result, struct cs_error *err)
{
    char config[4096], log[32];
    json_t *published;
    double began;

    snprintf(log, sizeof log, "coldstreamd-%d.log", run);
    if ((run == 0 || !demo->broker) && !broker_start(demo, err)) return false;
    if (!write_config(demo, run, config, sizeof config, err)) return false;
    for (int i = 0; i < 2; i++) {
        char directory[160];
        snprintf(directory, sizeof directory, "%s/%s%d", demo->directory, i ? "snapshot" : "checkpoints", run);
        if (mkdir(directory, 0750) != 0 && errno != EEXIST)
            return cs_fail_errno(err, errno, "cannot make %s", directory);
    }
    demo->daemon = demo_start(demo, "coldstreamd", log, (const char *[]){ "coldstreamd", "--config", config, NULL });
    if (demo->daemon < 0) return cs_fail_errno(err, errno, "cannot start coldstreamd");
    if (!wait_for_daemon(demo, err)) goto fail;
    began = demo_now();
    if (run == 0 || !demo->broker) {
        if (!send_stream(demo, &result->events, err)) goto fail;
    }
    if (!wait_until_read(demo, err)) goto fail;
    progress("  publishing");
    published =
        control_request(demo->socket, "publish", NULL, err); /* behind all that was read: it is learned by then */
    if (!published) goto fail;
    json_decref(published);
    result->seconds = demo_now() - began;
    if (!read_manifest(demo, result, err) || !demo_stop(&demo->daemon, "coldstreamd", err)) goto fail;
    if (!demo->broker) broker_stop(demo);
    demo_say("%-22s %" PRIu64 " examples learned in %.1f s, %.0f a second; checkpoint published", result->name,
        result->examples, result->seconds, (double)result->examples / result->seconds);
    return true;
fail:
    fprintf(stderr, "\n");
    demo_show_log(demo, log);
    return false;
}

/* ---------------------------------------------------------------------------------------------------------- table */

static double metric(const struct result *result, const char *users, const char *name)
{
    const json_t *value = json_object_get(json_object_get(json_object_get(result->metrics, users), "start"), name);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static void print_table(const struct result result[RUNS])
{
    static const char *const users[] = { "all", "new", "old" };

    demo_say("\n%-8s %-6s %10s %10s %10s %10s %12s", "users", "tower", "examples", "log loss", "AUC", "GAUC",
             "calibration");
    for (size_t u = 0; u < 3; u++) {
        for (int r = 0; r < RUNS; r++)
            demo_say("%-8s %-6s %10.0f %10.4f %10.4f %10.4f %12.3f", users[u], r ? "none" : "MAIL",
                metric(&result[r], users[u], "examples"), metric(&result[r], users[u], "log_loss"),
                metric(&result[r], users[u], "auc"), metric(&result[r], users[u], "gauc"),
                metric(&result[r], users[u], "calibration"));
        demo_say("%-8s %-6s %10s %+10.4f %+10.4f %+10.4f", "", "gain", "",
            metric(&result[1], users[u], "log_loss") - metric(&result[0], users[u], "log_loss"),
            metric(&result[0], users[u], "auc") - metric(&result[1], users[u], "auc"),
            metric(&result[0], users[u], "gauc") - metric(&result[1], users[u], "gauc"));
    }
    demo_say("\n%-15s %10.0f examples/s with MAIL, %.0f without", "learned at",
        (double)result[0].examples / result[0].seconds, (double)result[1].examples / result[1].seconds);
    demo_say("Each prediction was made before its example was learned (progressive validation, since the start).");
}

/* ----------------------------------------------------------------------------------------------------------- main */

static int usage(FILE *out, int code)
{
    fprintf(
        out,
        "usage: demo [--events N] [--seed N] [--keep] [--programs DIR]\n"
        "       demo --broker HOST:PORT --impressions FILE --clicks FILE --config FILE\n\n"
        "Learns a generated day of traffic through an embedded broker, with the zero-shot tower and without, "
        "publishes,\n"
        "serves, and prints a table. With --broker: the same of events in files, through a real Kafka whose topics\n"
        "`impressions` and `clicks` exist and are empty; FILE of --config is the model's part, with `kind: mail` in "
        "it.\n"
        "  --keep        leave configurations, logs and checkpoints for reading\n"
        "  --programs    where coldstreamd and coldstream-serve are [beside this program]\n");
    return code;
}

static bool read_arguments(struct demo *demo, int argc, char **argv)
{
    const struct { const char *name; const char **value;
    } texts[] = {
        { "--impressions", &demo->impressions }, { "--clicks", &demo->clicks },     { "--config", &demo->config },
        { "--broker", &demo->broker },           { "--programs", &demo->programs },
    };

    for (int i = 1; i < argc; i++) {
        bool known = false;
        if (strcmp(argv[i], "--keep") == 0) { demo->keep = true; continue; }
        if (i + 1 == argc) return false;
        for (size_t t = 0; t < sizeof texts / sizeof *texts; t++)
            if (strcmp(argv[i], texts[t].name) == 0) {
                *texts[t].value = argv[++i];
                known = true;
                break;
            }
        if (known) continue;
        if (strcmp(argv[i], "--events") != 0 && strcmp(argv[i], "--seed") != 0) return false;
        struct cs_error err = { 0 };
        if (!generate_set(&demo->settings, argv[i] + 2, argv[i + 1], &err)) {
            fprintf(stderr, "demo: --%s\n", err.message);
            return false;
        }
        i++;
    }
    return (demo->broker != NULL) == (demo->impressions != NULL) &&
           (demo->impressions != NULL) == (demo->clicks != NULL) && (demo->config != NULL || !demo->broker);
}

static void remove_tree(const char *directory)
{
    pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-rf", "--", directory, (char *)NULL);
        _exit(127);
    }
    if (pid > 0) waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
    struct demo demo = { 0 };
    struct cs_error err = { 0 };
    struct result result[RUNS] = { { .name = "with MAIL" }, { .name = "without zero-shot" } };
    char checkpoints[128], programs[4096];
    double began = demo_now();
    bool ok = false;

    signal(SIGPIPE, SIG_IGN);
    generate_profile(&demo.settings, "day", &err);
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0) return usage(stdout, 0);
    if (!read_arguments(&demo, argc, argv)) return usage(stderr, 2);
    if (!demo.programs) {
        ssize_t n = readlink("/proc/self/exe", programs, sizeof programs - 1);
        programs[n > 0 ? n : 0] = '\0';
        if (strrchr(programs, '/')) *strrchr(programs, '/') = '\0';
        demo.programs = programs;
    }
    snprintf(demo.directory, sizeof demo.directory, "/tmp/coldstream-demo-XXXXXX");
    if (!mkdtemp(demo.directory)) {
        fprintf(stderr, "demo: cannot make %s: %s\n", demo.directory, strerror(errno));
        return 1;
    }
    if (!demo.broker)
        demo_say("A generated day: %" PRIu64 " events, %" PRIu64 " users, %" PRIu64
            " items, %.0f %% of the sessions new users'; %d + %d partitions in an embedded broker.\n"
            "Towers are smaller than the defaults (encoder 128, 64, 64 instead of 1024, 512, 512; rows of 16), so that "
            "two runs take minutes.",
            demo.settings.events, demo.settings.users, demo.settings.items, 100 * demo.settings.new_share, PARTITIONS,
            PARTITIONS);
    for (int run = 0; run < RUNS; run++) {
        if (!run_daemon(&demo, run, &result[run], &err)) goto out;
        if (run == 0) snprintf(checkpoints, sizeof checkpoints, "%s", demo.checkpoints);
    }
    if (!demo_serve(&demo, checkpoints, &err)) goto out;
    print_table(result);
    demo_say("%.0f s in all.", demo_now() - began);
    ok = true;
out:
    if (!ok) fprintf(stderr, "\ndemo: %s\n", err.message);
    demo_stop(&demo.serve, "coldstream-serve", NULL);
    demo_stop(&demo.daemon, "coldstreamd", NULL);
    broker_stop(&demo);
    for (int run = 0; run < RUNS; run++) json_decref(result[run].metrics);
    if (demo.keep) demo_say("kept in %s", demo.directory);
    else remove_tree(demo.directory);
    return ok ? 0 : 1;
}
