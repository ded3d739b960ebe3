/* Questions to the brokers. A consumer of its own: what it fetches never mixes with the stream's. */
#include <librdkafka/rdkafka.h>

#include "daemon/kafka_probe.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/kafka_config.h"

enum { FIRST = 250, POLL = 100 };       /* ms: of a question, before it is looked whether it is still wanted */

struct kafka_probe {
    rd_kafka_t *rk;
    struct kafka_clients *clients;
    kafka_trouble *trouble;
    void *self;
    atomic_bool cancelled;
};

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    (void)rk;
    struct kafka_probe *probe = opaque;
    probe->trouble(probe->self, code, reason);
}

struct kafka_probe *kafka_probe_create(const struct cs_config *config, struct kafka_clients *clients,
                                       kafka_trouble *trouble, void *self, struct cs_error *err)
{
    static const struct kafka_preset none[] = { { NULL, NULL } };
    /* One record is wanted of each partition, soon: a full queue would put the next fetch off by a second. Asked for
     * less than a batch, brokers give all but one partition nothing that could be used. */
    static const struct kafka_preset small[] = {
        { "queued.max.messages.kbytes", "16384" },
        { "fetch.wait.max.ms", "100" },
    };
    rd_kafka_conf_t *conf = kafka_consumer_conf(config, none, err);
    if (!conf) return NULL;
    for (size_t i = 0; i < sizeof small / sizeof small[0]; i++)
        if (!kafka_conf_set(conf, small[i].name, small[i].value, err)) {
            rd_kafka_conf_destroy(conf);
            return NULL;
        }
    struct kafka_probe *probe = need(calloc(1, sizeof *probe));
    *probe = (struct kafka_probe){ .clients = clients, .trouble = trouble, .self = self };
    rd_kafka_conf_set_opaque(conf, probe);
    rd_kafka_conf_set_error_cb(conf, on_error);
    probe->rk = kafka_client_create(clients, RD_KAFKA_CONSUMER, conf, "Kafka consumer", err);
    if (!probe->rk) {
        free(probe);
        return NULL;
    }
    rd_kafka_poll_set_consumer(probe->rk);
    return probe;
}

void kafka_probe_destroy(struct kafka_probe *probe)
{
    if (!probe) return;
    kafka_client_forget(probe->clients, probe->rk);
    kafka_close_bounded(probe->rk);
    free(probe);
}

void kafka_probe_cancel(struct kafka_probe *probe)
{
    atomic_store(&probe->cancelled, true);
}

void kafka_probe_poll(struct kafka_probe *probe, int milliseconds)
{
    rd_kafka_message_t *message = rd_kafka_consumer_poll(probe->rk, milliseconds);
    if (message) rd_kafka_message_destroy(message);
}

enum kafka_answer kafka_partitions(rd_kafka_t *rk, const char *topic, int timeout, int32_t *count,
                                   rd_kafka_resp_err_t *error)
{
    const struct rd_kafka_metadata *metadata = NULL;
    *count = 0;
    rd_kafka_topic_t *handle = rd_kafka_topic_new(rk, topic, NULL);
    *error = handle ? rd_kafka_metadata(rk, 0, handle, &metadata, timeout) : rd_kafka_last_error();
    if (handle) rd_kafka_topic_destroy(handle);
    if (*error || !metadata) return KAFKA_SILENT;
    *error = metadata->topic_cnt == 1 ? metadata->topics[0].err : RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
    if (!*error) *count = metadata->topics[0].partition_cnt;
    rd_kafka_metadata_destroy(metadata);
    if (*error == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || *error == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC)
        return KAFKA_ABSENT;
    return *count > 0 ? KAFKA_ANSWERED : KAFKA_NOT_YET;
}

enum kafka_answer kafka_probe_partitions(struct kafka_probe *probe, const char *topic, int32_t *count, char *text,
                                         size_t size)
{
    rd_kafka_resp_err_t error;
    enum kafka_answer answer;
    int part = FIRST, left = KAFKA_PROBE_TIMEOUT;
    /* Asked again and again, for longer each time: a slow broker gets its time, and who stops waits for none. */
    do {
        if (part > left) part = left;
        answer = kafka_partitions(probe->rk, topic, part, count, &error);
        left -= part;
        part *= 2;
    } while (answer == KAFKA_SILENT && left > 0 && !atomic_load(&probe->cancelled));
    snprintf(text, size, "%s", rd_kafka_err2str(error));
    return answer;
}

bool kafka_probe_ends(struct kafka_probe *probe, const char *topic, int32_t partition, int64_t *low, int64_t *end)
{
    return !rd_kafka_query_watermark_offsets(probe->rk, topic, partition, low, end, KAFKA_PROBE_TIMEOUT);
}

bool kafka_probe_at_time(struct kafka_probe *probe, const char *topic, int32_t partition, int64_t time, int64_t end,
                         int64_t *offset)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, partition)->offset = time;
    bool fine = !rd_kafka_offsets_for_times(probe->rk, list, KAFKA_PROBE_TIMEOUT) && !list->elems[0].err;
    if (fine) *offset = list->elems[0].offset >= 0 ? list->elems[0].offset : end;
    rd_kafka_topic_partition_list_destroy(list);
    return fine;
}

static struct kafka_look *find_look(struct kafka_look *look, size_t count, const rd_kafka_message_t *message)
{
    for (size_t i = 0; i < count; i++)
        if (message->rkt && look[i].partition == message->partition &&
            strcmp(look[i].topic, rd_kafka_topic_name(message->rkt)) == 0)
            return &look[i];
    return NULL;
}

/* The partition's first word after the assignment: a record, its end, or that the offset is out of range. */
static bool take_answer(struct kafka_look *look, const rd_kafka_message_t *message)
{
    switch (message->err) {
    case RD_KAFKA_RESP_ERR_NO_ERROR:
        if (message->offset == look->offset)
            look->found = kafka_fingerprint_of(message->offset, rd_kafka_message_timestamp(message, NULL),
                                               message->key, message->key_len, message->payload, message->len);
        break;
    case RD_KAFKA_RESP_ERR__PARTITION_EOF:
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
    case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE: break;
    default: return false;      /* of the connection: librdkafka tries again */
    }
    look->answered = true;
    return true;
}

bool kafka_probe_look(struct kafka_probe *probe, struct kafka_look *look, size_t count)
{
    if (!count) return true;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)count);
    for (size_t i = 0; i < count; i++) {
        rd_kafka_topic_partition_list_add(list, look[i].topic, look[i].partition)->offset = look[i].offset;
        look[i].answered = false;
        look[i].found = (struct kafka_fingerprint){ 0 };
    }
    rd_kafka_assign(probe->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    size_t missing = count;
    int64_t end = clock_monotonic() + KAFKA_PROBE_TIMEOUT;
    while (missing && clock_monotonic() < end && !atomic_load(&probe->cancelled)) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(probe->rk, POLL);
        if (!message) continue;
        struct kafka_look *one = find_look(look, count, message);
        if (one && !one->answered) missing -= take_answer(one, message);
        rd_kafka_message_destroy(message);
    }
    rd_kafka_assign(probe->rk, NULL);
    return missing == 0;
}
