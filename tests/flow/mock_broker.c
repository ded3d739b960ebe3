/* The mock broker and the daemon as a child process. Waiting is always for something that the daemon says, with a
 * deadline. */
#include "tests/flow/mock_broker.h"

#include <assert.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "daemon/clock.h"
#include "daemon/control.h"
#include "storage/snapshot.h"

enum { DEADLINE = 60000 };      /* ms */

struct mock_broker { rd_kafka_t *owner, *producer; rd_kafka_mock_cluster_t *cluster; };

static void die(const char *what)
{
    fprintf(stderr, "mock broker: %s\n", what);
    abort();
}

static rd_kafka_t *client(rd_kafka_type_t type, const char *address)
{
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (address && rd_kafka_conf_set(conf, "bootstrap.servers", address, text, sizeof text)) die(text);
    if (type == RD_KAFKA_CONSUMER && (rd_kafka_conf_set(conf, "group.id", "reader", text, sizeof text) ||
                                      rd_kafka_conf_set(conf, "enable.partition.eof", "true", text, sizeof text) ||
                                      rd_kafka_conf_set(conf, "auto.offset.reset", "earliest", text, sizeof text)))
        die(text);
    rd_kafka_conf_set_log_cb(conf, NULL);
    rd_kafka_t *rk = rd_kafka_new(type, conf, text, sizeof text);
    if (!rk) die(text);
    return rk;
}

struct mock_broker *mock_broker_create_many(int brokers)
{
    struct mock_broker *broker = calloc(1, sizeof *broker);
    if (!broker) abort();
    broker->owner = client(RD_KAFKA_PRODUCER, NULL);
    if (!(broker->cluster = rd_kafka_mock_cluster_new(broker->owner, brokers))) die("no cluster");
    broker->producer = client(RD_KAFKA_PRODUCER, mock_broker_address(broker));
    return broker;
}

struct mock_broker *mock_broker_create(void) { return mock_broker_create_many(1); }

void mock_broker_destroy(struct mock_broker *broker)
{
    if (!broker) return;
    rd_kafka_destroy(broker->producer);
    rd_kafka_mock_cluster_destroy(broker->cluster);
    rd_kafka_destroy(broker->owner);
    free(broker);
}

const char *mock_broker_address(const struct mock_broker *broker)
{
    return rd_kafka_mock_cluster_bootstraps(broker->cluster);
}

void mock_broker_topic(struct mock_broker *broker, const char *topic, int partitions)
{
    if (rd_kafka_mock_topic_create(broker->cluster, topic, partitions, 1)) die("topic not made");
}

void mock_broker_hide(struct mock_broker *broker, const char *topic, bool hidden)
{
    rd_kafka_mock_topic_set_error(broker->cluster, topic,
                                  hidden ? RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART : RD_KAFKA_RESP_ERR_NO_ERROR);
}

void mock_broker_down(struct mock_broker *broker, bool down)
{
    if (down) rd_kafka_mock_broker_set_down(broker->cluster, -1);
    else rd_kafka_mock_broker_set_up(broker->cluster, -1);
}

void mock_broker_lead(struct mock_broker *broker, const char *topic, int partition, int leader)
{
    if (rd_kafka_mock_partition_set_leader(broker->cluster, topic, partition, leader)) die("no such leader");
}

void mock_broker_produce(struct mock_broker *broker, const char *topic, int partition, const char *value, int size)
{
    rd_kafka_resp_err_t error;
    do {
        error = rd_kafka_producev(
            broker->producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition), RD_KAFKA_V_KEY("key", 3),
            RD_KAFKA_V_VALUE((void *)(uintptr_t)(size < 0 ? NULL : value), size < 0 ? 0 : (size_t)size),
            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
        rd_kafka_poll(broker->producer, error ? 10 : 0);
    } while (error == RD_KAFKA_RESP_ERR__QUEUE_FULL);
    if (error) die(rd_kafka_err2str(error));
}

void mock_broker_flush(struct mock_broker *broker)
{
    if (rd_kafka_flush(broker->producer, DEADLINE)) die("records not delivered");
}

void mock_broker_produce_examples(struct mock_broker *broker, int from, int count)
{
    char text[512];
    for (int i = from; i < from + count; i++) {
        unsigned dice = (unsigned)i * 2654435761u >> 8;
        int item = (int)(dice / 97 % 20);
        int length = snprintf(
            text, sizeof text,
            "{\"event\":\"example\",\"impression_id\":\"r%d\",\"ts\":%lld,\"user_id\":\"u%u\",\"user\":{\"age\":%u,"
            "\"city\":\"c%u\"},\"behaviors\":[%s],\"context\":{\"hour\":3},\"item_id\":\"i%d\",\"item\":{"
            "\"category\":\"k%d\"},\"clicked\":%s}",
            i, 1700000000000LL + i * 20LL, dice % 97, 18 + dice % 50, dice % 7, dice % 4 ? "\"i1\",\"i7\"" : "", item,
            item % 5, item % 3 == 0 ? "true" : "false");
        mock_broker_produce(broker, "examples", 0, text, length);
    }
    mock_broker_flush(broker);
}

char *mock_broker_read(struct mock_broker *broker, const char *topic, int n, const char *header, char text[256])
{
    rd_kafka_t *rk = client(RD_KAFKA_CONSUMER, mock_broker_address(broker));
    rd_kafka_poll_set_consumer(rk);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, 0)->offset = n;
    rd_kafka_assign(rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    char *value = NULL;
    text[0] = 0;
    for (int64_t end = clock_monotonic() + DEADLINE / 4; !value && clock_monotonic() < end;) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(rk, 200);
        if (message && !message->err) {
            rd_kafka_headers_t *headers;
            const void *bytes;
            size_t size;
            value = strndup(message->payload ? message->payload : "", message->len);
            if (header && !rd_kafka_message_headers(message, &headers) &&
                !rd_kafka_header_get_last(headers, header, &bytes, &size))
                snprintf(text, 256, "%.*s", (int)size, (const char *)bytes);
        }
        if (message) rd_kafka_message_destroy(message);
    }
    rd_kafka_consumer_close(rk);
    rd_kafka_destroy(rk);
    return value;
}

int64_t mock_broker_each(struct mock_broker *broker, const char *topic, int64_t from, mock_broker_record *take,
                         void *self)
{
    rd_kafka_t *rk = client(RD_KAFKA_CONSUMER, mock_broker_address(broker));
    rd_kafka_poll_set_consumer(rk);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, 0)->offset = from;
    rd_kafka_assign(rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    bool ended = false;
    for (int64_t end = clock_monotonic() + DEADLINE; !ended && clock_monotonic() < end;) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(rk, 200);
        if (!message) continue;
        ended = message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF;
        if (!message->err) {
            take(self, message->payload, message->len);
            from = message->offset + 1;
        }
        rd_kafka_message_destroy(message);
    }
    if (!ended) die("the topic's end was not reached");
    rd_kafka_consumer_close(rk);
    rd_kafka_destroy(rk);
    return from;
}

enum { PRODUCE = 0, FETCH = 1 };        /* kinds of requests */

static void answer_produce(struct mock_broker *broker, int requests, rd_kafka_resp_err_t error)
{
    for (int i = 0; i < requests; i++) rd_kafka_mock_push_request_errors_array(broker->cluster, PRODUCE, 1, &error);
}

void mock_broker_refuse(struct mock_broker *broker, int requests)
{
    answer_produce(broker, requests, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
}

void mock_broker_cut_off(struct mock_broker *broker, int requests)
{
    answer_produce(broker, requests, RD_KAFKA_RESP_ERR__TRANSPORT);
}

void mock_broker_withhold(struct mock_broker *broker)
{
    enum { AN_HOUR = 3600000 };
    if (rd_kafka_mock_broker_push_request_error_rtts(broker->cluster, 1, PRODUCE, 1, RD_KAFKA_RESP_ERR_NO_ERROR,
                                                     AN_HOUR))
        die("no such broker");
}

void mock_broker_truncated(struct mock_broker *broker)
{
    rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE;
    rd_kafka_mock_push_request_errors_array(broker->cluster, FETCH, 1, &error);
}

/* ---- the daemon */

void daemon_prepare(struct daemon_run *run)
{
    *run = (struct daemon_run){ .directory = "/tmp/coldstream-flow-XXXXXX" };
    if (!mkdtemp(run->directory)) die("no directory");
    snprintf(run->config, sizeof run->config, "%s/coldstream.yaml", run->directory);
    snprintf(run->socket, sizeof run->socket, "%s/control.sock", run->directory);
    snprintf(run->snapshot, sizeof run->snapshot, "%s/snapshot", run->directory);
    snprintf(run->checkpoints, sizeof run->checkpoints, "%s/checkpoints", run->directory);
    snprintf(run->log, sizeof run->log, "%s/log", run->directory);
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status, (void)kind, (void)walk;
    return remove(path);
}

void daemon_remove(struct daemon_run *run)
{
    if (run->pid > 0) daemon_stop(run, SIGKILL);
    if (nftw(run->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS)) die("directory not removed");
}

void daemon_configure(struct daemon_run *run, const struct mock_broker *broker, const struct daemon_settings *settings)
{
    FILE *file = fopen(run->config, "w");
    if (!file) die("configuration not written");
    fprintf(file,
            "source:\n  kafka:\n    topics: {%s}\n    "
            "idle_after: %s\n    discover: 1s\n"
            "    properties: {bootstrap.servers: \"%s\"%s%s}\n"
            "join: {window: %s}\n"
            "features:\n  user: [{name: age, bucketize: [25, 45]}, {name: city}%s]\n  context: [{name: hour}]\n"
            "  item: [{name: item_id, table: item}, {name: category}]\n  behavior: {table: item, max_length: 8}\n"
            "embedding: {dimension: 8%s}\n"
            "model:\n  ranking: {tower: base_dnn, hidden: [16, 8]}\n"
            "  zero_shot: {kind: mail, attention: 8, encoder: [16, 8, 8], decoder: [8, 16]%s}\n"
            "batch: {size: 64, max_delay: 1s}\n"
            "snapshot: {directory: %s, interval: 1h%s}\ncheckpoint: {directory: %s, interval: %s, keep: 3%s}\n"
            "control: {socket: %s}\nhttp: {listen: 127.0.0.1:0}\nlogging: {level: debug}\ncompute: {threads: 1}\n%s",
            settings->topics ? settings->topics : "impressions: impressions, clicks: clicks, conversions: ~",
            settings->idle_after ? settings->idle_after : "300ms", mock_broker_address(broker),
            settings->properties ? ", " : "", settings->properties ? settings->properties : "",
            settings->window ? settings->window : "2s", settings->extra_user ? settings->extra_user : "",
            settings->extra_embedding ? settings->extra_embedding : "",
            settings->extra_model ? settings->extra_model : "", run->snapshot,
            settings->extra_snapshot ? settings->extra_snapshot : "", run->checkpoints,
            settings->checkpoint_interval ? settings->checkpoint_interval : "1h",
            settings->extra_checkpoint ? settings->extra_checkpoint : "", run->socket,
            settings->extra ? settings->extra : "");
    fclose(file);
}

void daemon_start_as(struct daemon_run *run, const char *program, const char *const argument[])
{
    assert(run);
    enum { ARGUMENTS = 32 };
    const char *build = getenv("BUILD"), *all[ARGUMENTS + 2];
    char path[256];
    size_t count = 0;
    snprintf(path, sizeof path, "%s/%s", build ? build : "build", program);
    for (all[count++] = path; *argument && count <= ARGUMENTS; argument++) all[count++] = *argument;
    all[count] = NULL;
    run->pid = fork();
    if (run->pid < 0) die("fork");
    if (run->pid > 0) return;
    if (!freopen(run->log, "a", stderr) || !freopen("/dev/null", "w", stdout)) _exit(126);
    /* The mock broker's connections, which lie in this process: held by a child, they would outlive its going down. */
    close_range(3, ~0U, 0);
    execv(path, (char *const *)(uintptr_t)all);
    perror(path);
    _exit(127);
}

void daemon_start(struct daemon_run *run)
{
    daemon_start_as(run, "coldstreamd", (const char *const[]){ "-c", run->config, NULL });
}

static int status_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status); }

size_t daemon_logged(const struct daemon_run *run, const char *text)
{
    FILE *file = fopen(run->log, "r");
    char *line = NULL;
    size_t room = 0, found = 0;
    while (file && getline(&line, &room, file) > 0) found += strstr(line, text) != NULL;
    if (file) fclose(file);
    free(line);
    return found;
}

void daemon_show_log(const struct daemon_run *run)
{
    static char text[16384];
    FILE *file = fopen(run->log, "r");
    if (!file) return;
    if (fseek(file, -(long)sizeof text, SEEK_END)) rewind(file);
    fwrite(text, 1, fread(text, 1, sizeof text, file), stderr);
    fclose(file);
}

int daemon_wait(struct daemon_run *run)
{
    int status;
    for (int64_t end = clock_monotonic() + DEADLINE;;) {
        pid_t pid = waitpid(run->pid, &status, WNOHANG);
        if (pid == run->pid) break;
        if (clock_monotonic() > end) {
            daemon_show_log(run);
            kill(run->pid, SIGKILL);
            waitpid(run->pid, &status, 0);
            break;
        }
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    }
    run->pid = 0;
    if (status_of(status) == 99) daemon_show_log(run);     /* a sanitizer's finding */
    return status_of(status);
}

int daemon_stop(struct daemon_run *run, int number)
{
    kill(run->pid, number);
    return daemon_wait(run);
}

json_t *daemon_ask(const struct daemon_run *run, const char *verb, const char *argument)
{
    struct cs_error err;
    return control_request(run->socket, verb, argument, &err);
}

int64_t status_number(const json_t *status, const char *path)
{
    char name[64];
    while (status) {
        size_t length = strcspn(path, ".");
        snprintf(name, sizeof name, "%.*s", (int)length, path);
        status = json_object_get(status, name);
        if (!path[length]) return json_is_integer(status) ? json_integer_value(status) : -1;
        path += length + 1;
    }
    return -1;
}

bool published(const json_t *status, int64_t versions)
{
    return status_number(status, "checkpoint.published") >= versions;
}

bool all_sent(const json_t *status, int64_t examples)
{
    return status_number(status, "examples.all") >= examples &&
           status_number(status, "deltas.steps") == status_number(status, "steps") &&
           status_number(status, "deltas.failures_in_row") == 0;
}

bool daemon_until(const struct daemon_run *run, bool (*test)(const json_t *status, int64_t argument), int64_t argument)
{
    bool reached = false;
    for (int64_t end = clock_monotonic() + DEADLINE; !reached && clock_monotonic() < end;) {
        json_t *status = daemon_ask(run, "status", NULL);
        reached = status && test(status, argument);
        if (!reached && status && clock_monotonic() + 500 > end) json_dumpf(status, stderr, JSON_INDENT(1));
        json_decref(status);
        if (!reached && kill(run->pid, 0)) break;
        if (!reached) nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    }
    if (!reached) daemon_show_log(run);
    return reached;
}

/* ---- what was learned */

static bool add_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    (void)err;
    XXH3_64bits_update(self, tensor->name, strlen(tensor->name));
    XXH3_64bits_update(self, tensor->data, tensor_bytes(tensor));
    return true;
}

struct digest { XXH3_state_t *state; struct state_reader *reader; uint64_t records; };

/* Records come in any order: their hashes are added up. */
static bool add_record(void *self, uint64_t slot, const void *bytes, size_t size, struct cs_error *err)
{
    (void)err;
    struct digest *digest = self;
    digest->records += XXH3_64bits_withSeed(bytes, size, slot);
    return true;
}

static bool add_section(void *self, const char *section, uint64_t records, uint64_t bytes, struct cs_error *err)
{
    (void)bytes;
    struct digest *digest = self;
    if (strncmp(section, "rows.", 5) != 0 && strncmp(section, "metrics", 7) != 0 && strncmp(section, "delayed", 7) != 0)
        return true;
    digest->records = records;
    if (!digest->reader->each(digest->reader, section, add_record, digest, err)) return false;
    XXH3_64bits_update(digest->state, section, strlen(section));
    XXH3_64bits_update(digest->state, &digest->records, sizeof digest->records);
    return true;
}

uint64_t daemon_digest(const struct daemon_run *run)
{
    struct cs_error err;
    struct snapshot_view *view = snapshot_view_open_directory(run->snapshot, &err);
    if (!view) die(err.message);
    struct digest digest = { .state = XXH3_createState(), .reader = snapshot_reader(view) };
    XXH3_64bits_reset(digest.state);
    if (!snapshot_view_tensors(view, add_tensor, digest.state, &err) ||
        !snapshot_view_sections(view, add_section, &digest, &err))
        die(err.message);
    uint64_t hash = XXH3_64bits_digest(digest.state);
    XXH3_freeState(digest.state);
    snapshot_view_close(view);
    return hash;
}

int flow_teardown(void **state)
{
    struct flow_world *world = *state;
    daemon_remove(&world->run);
    mock_broker_destroy(world->broker);
    free(world);
    return 0;
}
