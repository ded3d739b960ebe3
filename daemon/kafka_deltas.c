/* Consumer of deltas: one partition by explicit offsets. Whatever goes wrong is told once and tried again: what is
 * missing then is noticed by the deltas' own numbers. */
#include <librdkafka/rdkafka.h>

#include "daemon/kafka_deltas.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"
#include "daemon/kafka_clients.h"
#include "daemon/kafka_config.h"
#include "daemon/kafka_probe.h"
#include "daemon/log.h"

enum { POLL = 100, AGAIN = 1000 };      /* ms */

struct kafka_deltas {
    rd_kafka_t *rk;
    char *topic;
    void (*take)(void *self, const void *bytes, size_t size);
    void *self;
    int64_t next;                       /* the thread's: offset after the record taken last; logical before */
    rd_kafka_resp_err_t said;           /* error that was told last */
    _Atomic int64_t lag;
    atomic_bool stop;
    pthread_t thread;
};

static bool assign(struct kafka_deltas *deltas)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, deltas->topic, 0)->offset = deltas->next;
    rd_kafka_resp_err_t error = rd_kafka_assign(deltas->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    return !error;
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    (void)rk, (void)opaque;
    log_warning("Kafka consumer of deltas", LOG_S("error", rd_kafka_err2name(code)), LOG_S("text", reason));
}

/* A second, or less where it ends; the client's errors are heard of meanwhile. */
static void rest(struct kafka_deltas *deltas)
{
    for (int waited = 0; waited < AGAIN && !atomic_load(&deltas->stop); waited += POLL) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(deltas->rk, POLL);
        if (message) rd_kafka_message_destroy(message);
    }
}

/* However often it is met in a row, an error is told once. */
static bool is_new(struct kafka_deltas *deltas, rd_kafka_resp_err_t error)
{
    bool is = error != deltas->said;
    deltas->said = error;
    return is;
}

static void tell(struct kafka_deltas *deltas, rd_kafka_resp_err_t error)
{
    if (is_new(deltas, error))
        log_warning("deltas can't be read, tried again each second", LOG_S("topic", deltas->topic),
                    LOG_S("error", rd_kafka_err2str(error)));
}

/* Deltas lie in partition 0, their order is its; a topic of more is some other one, or was made by mistake. */
static bool has_one_partition(struct kafka_deltas *deltas)
{
    int32_t count;
    rd_kafka_resp_err_t error;
    if (kafka_partitions(deltas->rk, deltas->topic, AGAIN, &count, &error) != KAFKA_ANSWERED)
        tell(deltas, error ? error : RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE);
    else if (count > 1 && is_new(deltas, RD_KAFKA_RESP_ERR_INVALID_PARTITIONS))
        log_error("the delta topic has more than one partition, and is not read: full versions are followed alone",
                  LOG_S("topic", deltas->topic), LOG_I("partitions", count), LOG_I("allowed", 1));
    return count == 1;
}

static void begin(struct kafka_deltas *deltas)
{
    while (!atomic_load(&deltas->stop) && !has_one_partition(deltas)) rest(deltas);
    assign(deltas);
}

/* The partition can't be read on: from where it was, or from its beginning where that is gone. */
static void begin_again(struct kafka_deltas *deltas, rd_kafka_resp_err_t error)
{
    tell(deltas, error);
    if (error == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE || error == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET)
        deltas->next = RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_assign(deltas->rk, NULL);
    rest(deltas);
    begin(deltas);
}

static void note_lag(struct kafka_deltas *deltas)
{
    int64_t low, high;
    if (rd_kafka_get_watermark_offsets(deltas->rk, deltas->topic, 0, &low, &high) || high < 0) return;
    atomic_store(&deltas->lag, deltas->next < 0 ? high - low : high > deltas->next ? high - deltas->next : 0);
}

static void *run(void *argument)
{
    struct kafka_deltas *deltas = argument;
    begin(deltas);
    while (!atomic_load(&deltas->stop)) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(deltas->rk, POLL);
        if (!message) continue;
        rd_kafka_resp_err_t error = message->err;
        if (!error) {
            if (is_new(deltas, RD_KAFKA_RESP_ERR_NO_ERROR))
                log_notice("deltas are read again", LOG_S("topic", deltas->topic), LOG_I("offset", message->offset));
            deltas->next = message->offset + 1;
            deltas->take(deltas->self, message->payload, message->len);
        }
        rd_kafka_message_destroy(message);
        if (error && error != RD_KAFKA_RESP_ERR__PARTITION_EOF) begin_again(deltas, error);
        note_lag(deltas);
    }
    return NULL;
}

struct kafka_deltas *kafka_deltas_start(const char *topic, const struct kafka_deltas_property *property, size_t count,
                                        void (*take)(void *self, const void *bytes, size_t size), void *self,
                                        struct cs_error *err)
{
    static const struct kafka_preset preset[] = {
        { "queued.max.messages.kbytes", "65536" }, { "fetch.wait.max.ms", "100" }, { NULL, NULL },
    };
    struct config_pair *given = need(calloc(count + 1, sizeof *given));
    char group[] = "coldstream-serve";
    for (size_t i = 0; i < count; i++)
        given[i] = (struct config_pair){ .name = (char *)(uintptr_t)property[i].name,
                                         .value = (char *)(uintptr_t)property[i].value };
    struct cs_config config = { .source = { .group = group, .property = given, .property_count = count } };
    rd_kafka_conf_t *conf = kafka_consumer_conf(&config, preset, err);
    free(given);
    if (!conf) return NULL;
    struct kafka_deltas *deltas = need(calloc(1, sizeof *deltas));
    deltas->topic = need(strdup(topic));
    deltas->take = take;
    deltas->self = self;
    deltas->next = RD_KAFKA_OFFSET_BEGINNING;
    atomic_init(&deltas->lag, -1);
    rd_kafka_conf_set_opaque(conf, deltas);
    rd_kafka_conf_set_error_cb(conf, on_error);
    deltas->rk = kafka_client_create(NULL, RD_KAFKA_CONSUMER, conf, "Kafka consumer of deltas", err);
    if (!deltas->rk) goto fail;
    rd_kafka_poll_set_consumer(deltas->rk);
    if (pthread_create(&deltas->thread, NULL, run, deltas) == 0) return deltas;
    cs_fail(err, CS_FAILED, "no thread to read deltas with");
    kafka_close_bounded(deltas->rk);
fail:
    free(deltas->topic);
    free(deltas);
    return NULL;
}

void kafka_deltas_stop(struct kafka_deltas *deltas)
{
    if (!deltas) return;
    atomic_store(&deltas->stop, true);
    pthread_join(deltas->thread, NULL);
    kafka_close_bounded(deltas->rk);
    free(deltas->topic);
    free(deltas);
}

int64_t kafka_deltas_lag(const struct kafka_deltas *deltas)
{
    return atomic_load(&deltas->lag);
}
