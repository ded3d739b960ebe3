/* Producer of dead letters and announcements. */
#include <librdkafka/rdkafka.h>

#include "daemon/kafka_sink.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/kafka_config.h"
#include "daemon/log.h"

struct kafka_sink { rd_kafka_t *rk; atomic_uint_fast64_t lost; atomic_bool stopping; };

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk;
    struct kafka_sink *sink = opaque;
    if (!message->err || message->err == RD_KAFKA_RESP_ERR__PURGE_QUEUE ||
        message->err == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT)
        return;
    atomic_fetch_add(&sink->lost, 1);
    log_error("record refused by the broker for good", LOG_S("topic", rd_kafka_topic_name(message->rkt)),
              LOG_S("error", rd_kafka_err2str(message->err)));
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    (void)rk, (void)opaque;
    if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) return;   /* the source says so */
    log_warning("Kafka producer", LOG_S("error", rd_kafka_err2name(code)), LOG_S("text", reason));
}

struct kafka_sink *kafka_sink_create(const struct cs_config *config, struct cs_error *err)
{
    struct kafka_sink *sink = calloc(1, sizeof *sink);
    if (!sink) abort();
    rd_kafka_conf_t *conf = kafka_conf_create(config, err);
    if (!conf) goto fail;
    /* Letters are as large as what producers were allowed to send, and must not fill the memory when many come. */
    static const struct kafka_preset preset[] = {
        { "message.max.bytes", "33554432" }, { "queue.buffering.max.kbytes", "65536" }, { NULL, NULL },
    };
    /* No time limit: while brokers are away letters wait, and the snapshot that covers them waits with them. */
    if (!kafka_conf_preset(conf, config, preset, err) || !kafka_conf_set(conf, "enable.idempotence", "true", err) ||
        !kafka_conf_set(conf, "message.timeout.ms", "0", err) || !kafka_conf_set(conf, "linger.ms", "5", err)) {
        rd_kafka_conf_destroy(conf);
        goto fail;
    }
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_opaque(conf, sink);
    char text[256];
    sink->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    if (sink->rk) return sink;
    rd_kafka_conf_destroy(conf);
    cs_fail(err, CS_CONFIG, "Kafka producer: %s", text);
fail:
    free(sink);
    return NULL;
}

void kafka_sink_destroy(struct kafka_sink *sink)
{
    if (!sink) return;
    rd_kafka_purge(sink->rk,
                   RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT); /* what no snapshot covers is read again */
    rd_kafka_flush(sink->rk, 1000);
    rd_kafka_destroy(sink->rk);
    free(sink);
}

void kafka_sink_stop(struct kafka_sink *sink)
{
    atomic_store(&sink->stopping, true);
}

static void add_header(rd_kafka_headers_t *headers, const char *name, const char *value)
{
    rd_kafka_header_add(headers, name, -1, value, -1);
}

static rd_kafka_headers_t *letter_headers(const rd_kafka_message_t *message, const char *reason, const char *text)
{
    rd_kafka_headers_t *own, *headers;
    char number[32];
    if (rd_kafka_message_headers(message, &own) == RD_KAFKA_RESP_ERR_NO_ERROR) headers = rd_kafka_headers_copy(own);
    else headers = rd_kafka_headers_new(8);
    add_header(headers, "__connect.errors.topic", rd_kafka_topic_name(message->rkt));
    snprintf(number, sizeof number, "%d", (int)message->partition);
    add_header(headers, "__connect.errors.partition", number);
    snprintf(number, sizeof number, "%lld", (long long)message->offset);
    add_header(headers, "__connect.errors.offset", number);
    add_header(headers, "__connect.errors.stage", "VALUE_CONVERTER");
    add_header(headers, "__connect.errors.exception.message", text);
    add_header(headers, "coldstream.reason", reason);
    return headers;
}

bool kafka_sink_dead_letter(struct kafka_sink *sink, void *record, const char *reason, const char *text)
{
    rd_kafka_message_t *message = record;
    char topic[256];
    snprintf(topic, sizeof topic, "%s.dlq", rd_kafka_topic_name(message->rkt));
    rd_kafka_timestamp_type_t kind;
    int64_t time = rd_kafka_message_timestamp(message, &kind);
    rd_kafka_headers_t *headers = letter_headers(message, reason, text);
    rd_kafka_resp_err_t error;
    do {
        error = rd_kafka_producev(sink->rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_KEY(message->key, message->key_len),
                                  RD_KAFKA_V_VALUE(message->payload, message->len),
                                  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_TIMESTAMP(time > 0 ? time : 0),
                                  RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_END);
        rd_kafka_poll(sink->rk, error ? 100 : 0);
    } while (error == RD_KAFKA_RESP_ERR__QUEUE_FULL && !atomic_load(&sink->stopping));
    if (!error) return true;    /* headers are the producer's now */
    rd_kafka_headers_destroy(headers);
    if (error == RD_KAFKA_RESP_ERR__QUEUE_FULL) return false;
    atomic_fetch_add(&sink->lost, 1);
    log_error("dead letter not sent", LOG_S("topic", topic), LOG_S("error", rd_kafka_err2str(error)));
    return error != RD_KAFKA_RESP_ERR__FATAL;
}

bool kafka_sink_announce(struct kafka_sink *sink, const char *topic, const char *key, const char *text,
                         struct cs_error *err)
{
    rd_kafka_resp_err_t error = rd_kafka_producev(sink->rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_KEY(key, strlen(key)),
                                                  RD_KAFKA_V_VALUE((void *)(uintptr_t)text, strlen(text)),
                                                  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
    rd_kafka_poll(sink->rk, 0);
    return !error || cs_fail(err, CS_FAILED, "announcing on %s: %s", topic, rd_kafka_err2str(error));
}

bool kafka_sink_flush(struct kafka_sink *sink, int milliseconds, struct cs_error *err)
{
    if (rd_kafka_flush(sink->rk, milliseconds) == RD_KAFKA_RESP_ERR_NO_ERROR) return true;
    return cs_fail(err, CS_FAILED, "%d dead letters or announcements are not acknowledged by the brokers yet",
                   rd_kafka_outq_len(sink->rk));
}

uint64_t kafka_sink_lost(const struct kafka_sink *sink)
{
    return atomic_load(&sink->lost);
}
