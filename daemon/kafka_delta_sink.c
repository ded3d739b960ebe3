/* Producer of deltas. While brokers are away, records wait; what a broker refuses for good fails the delta. */
#include <librdkafka/rdkafka.h>

#include "daemon/kafka_delta_sink.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/kafka_config.h"
#include "daemon/kafka_probe.h"
#include "daemon/log.h"

enum { LOOK = 50, ASK = 1000, DRAIN = 2000 };   /* ms */

struct kafka_delta_sink {
    const struct cs_config *config;
    struct kafka_clients *clients;
    rd_kafka_t *rk;                     /* NULL: none could be made after a fatal error; tried again */
    rd_kafka_resp_err_t refused;        /* the first, since reset. The delta thread's: callbacks run in its polls */
    bool fits;                          /* the topic was seen to have one partition, since the last flush */
    atomic_int_fast64_t until;          /* monotonic ms: nothing waits for longer; INT64_MAX: for ever */
};

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk;
    struct kafka_delta_sink *sink = opaque;
    if (message->err && !sink->refused) sink->refused = message->err;
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    (void)rk, (void)opaque;
    if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) return;   /* the source says so */
    log_warning("Kafka producer of deltas", LOG_S("error", rd_kafka_err2name(code)), LOG_S("text", reason));
}

static rd_kafka_t *open_producer(struct kafka_delta_sink *sink, struct cs_error *err)
{
    /* Bounded: the delta thread waits for room, its rows where they lie. No linger: records come in bursts, and the
     * last of them is waited for. */
    static const struct kafka_preset preset[] = {
        { "queue.buffering.max.kbytes", "16384" }, { "linger.ms", "0" }, { NULL, NULL },
    };
    rd_kafka_conf_t *conf = kafka_producer_conf(sink->config, preset, err);
    if (!conf) return NULL;
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_opaque(conf, sink);
    return kafka_client_create(sink->clients, RD_KAFKA_PRODUCER, conf, "Kafka producer of deltas", err);
}

static void close_producer(struct kafka_delta_sink *sink)
{
    if (!sink->rk) return;
    rd_kafka_purge(sink->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    rd_kafka_flush(sink->rk, 1000);
    kafka_client_forget(sink->clients, sink->rk);
    rd_kafka_destroy(sink->rk);
    sink->rk = NULL;
}

static bool over(const struct kafka_delta_sink *sink)
{
    return clock_monotonic() >= atomic_load(&sink->until);
}

static bool told(const struct kafka_delta_sink *sink, struct cs_error *err)
{
    const char *topic = sink->config->checkpoint.delta_topic;
    if (sink->refused)
        return cs_fail(err, CS_FAILED, "topic %s: %s", topic, rd_kafka_err2str(sink->refused));
    return cs_fail(err, CS_FAILED, "topic %s: %d records of a delta are not acknowledged by the brokers yet, and the "
                   "daemon stops", topic, rd_kafka_outq_len(sink->rk));
}

/* Readers take one partition's order for that of the deltas: a topic of more is none of theirs, and not written to. One
 * that is not there yet is left to the brokers, which may make it; what they made is seen at the next record. Asked
 * before each delta and before its COMMIT, a millisecond each, as a topic may be made anew. */
static bool topic_fits(struct kafka_delta_sink *sink, struct cs_error *err)
{
    const char *topic = sink->config->checkpoint.delta_topic;
    int32_t count = 0;
    rd_kafka_resp_err_t error;
    while (kafka_partitions(sink->rk, topic, ASK, &count, &error) == KAFKA_SILENT) {
        rd_kafka_poll(sink->rk, LOOK);
        if (over(sink))
            return cs_fail(err, CS_FAILED, "topic %s: no broker answers (%s), and the daemon stops", topic,
                           rd_kafka_err2str(error));
    }
    if (count > 1)
        return cs_fail(err, CS_FAILED, "topic %s: it has %d partitions, allowed is 1: nothing is sent until it is made "
                       "anew with one", topic, (int)count);
    sink->fits = count == 1;
    return true;
}

static bool send_record(void *self, const void *key, size_t key_size, const void *bytes, size_t size,
                        struct cs_error *err)
{
    struct kafka_delta_sink *sink = self;
    const char *topic = sink->config->checkpoint.delta_topic;
    if (!sink->rk && !(sink->rk = open_producer(sink, err))) return false;
    if (!sink->fits && !topic_fits(sink, err)) return false;
    for (;;) {
        if (sink->refused || over(sink)) return told(sink, err);
        rd_kafka_resp_err_t error = rd_kafka_producev(
            sink->rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(0),
            RD_KAFKA_V_KEY((void *)(uintptr_t)key, key_size), RD_KAFKA_V_VALUE((void *)(uintptr_t)bytes, size),
            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
        rd_kafka_poll(sink->rk, error == RD_KAFKA_RESP_ERR__QUEUE_FULL ? LOOK : 0);
        if (!error) return true;
        if (error != RD_KAFKA_RESP_ERR__QUEUE_FULL)
            return cs_fail(err, CS_FAILED, "topic %s: %s", topic, rd_kafka_err2str(error));
    }
}

static bool flush(void *self, struct cs_error *err)
{
    struct kafka_delta_sink *sink = self;
    sink->fits = false;
    while (rd_kafka_flush(sink->rk, LOOK) != RD_KAFKA_RESP_ERR_NO_ERROR)
        if (sink->refused || over(sink)) return told(sink, err);
    return !sink->refused || told(sink, err);
}

/* What is in flight ends by itself where the broker answers; a producer that will not recover is replaced. */
static void reset(void *self)
{
    struct kafka_delta_sink *sink = self;
    char text[256];
    if (!sink->rk) return;
    rd_kafka_purge(sink->rk, RD_KAFKA_PURGE_F_QUEUE);
    bool drained = rd_kafka_flush(sink->rk, DRAIN) == RD_KAFKA_RESP_ERR_NO_ERROR;
    if (!drained || rd_kafka_fatal_error(sink->rk, text, sizeof text)) close_producer(sink);
    sink->refused = RD_KAFKA_RESP_ERR_NO_ERROR;
    sink->fits = false;
}

static void stop(void *self, int64_t milliseconds)
{
    struct kafka_delta_sink *sink = self;
    atomic_store(&sink->until, clock_monotonic() + milliseconds);
}

struct delta_sink kafka_delta_sink_of(struct kafka_delta_sink *sink)
{
    return (struct delta_sink){ .self = sink, .send = send_record, .flush = flush, .reset = reset, .stop = stop };
}

struct kafka_delta_sink *kafka_delta_sink_create(const struct cs_config *config, struct kafka_clients *clients,
                                                 struct cs_error *err)
{
    struct kafka_delta_sink *sink = need(calloc(1, sizeof *sink));
    sink->config = config;
    sink->clients = clients;
    atomic_init(&sink->until, INT64_MAX);
    if ((sink->rk = open_producer(sink, err))) return sink;
    free(sink);
    return NULL;
}

void kafka_delta_sink_destroy(struct kafka_delta_sink *sink)
{
    if (!sink) return;
    close_producer(sink);
    free(sink);
}
