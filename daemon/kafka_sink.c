/* Producer of dead letters and announcements. */
#include <librdkafka/rdkafka.h>

#include "daemon/kafka_sink.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/kafka_config.h"
#include "daemon/log.h"

enum {
    LIMIT = 64 << 20,       /* bytes of letters that are kept; then nothing is read until brokers take some */
    REOPEN = 5000,          /* ms between two tries to replace a broken producer */
};

struct kafka_sink {
    const struct cs_config *config;
    struct kafka_clients *clients;
    struct letters *letters;
    pthread_rwlock_t lock;          /* written to where the producer is replaced */
    rd_kafka_t *rk;                 /* NULL: none could be made after a fatal error; tried again */
    atomic_int_fast64_t opened;     /* monotonic ms */
};

/* ---- what comes back */

static void header_text(const struct letter *letter, const char *name, char *text, size_t size)
{
    *text = '\0';
    for (size_t i = 0; i < letter->headers; i++)
        if (strcmp(letter->header[i].name, name) == 0 && letter->header[i].value)
            snprintf(text, size, "%.*s", (int)letter->header[i].size, (const char *)letter->header[i].value);
}

static enum letters_refusal refusal_of(rd_kafka_resp_err_t error)
{
    switch (error) {
    case RD_KAFKA_RESP_ERR__QUEUE_FULL:
    case RD_KAFKA_RESP_ERR__PURGE_QUEUE:
    case RD_KAFKA_RESP_ERR__PURGE_INFLIGHT: return LETTERS_UNSENT;
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_INVALID_MSG:
    case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
    case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
    case RD_KAFKA_RESP_ERR_INVALID_RECORD: return LETTERS_UNFIT;
    default: return LETTERS_SHUT;
    }
}

static void refused(struct kafka_sink *sink, rd_kafka_t *rk, const struct letter *letter, rd_kafka_resp_err_t error)
{
    char fatal[300], topic[256], partition[32], offset[32];
    const char *why = rd_kafka_err2str(error);
    if (error == RD_KAFKA_RESP_ERR__FATAL && rd_kafka_fatal_error(rk, fatal, sizeof fatal)) why = fatal;
    enum letters_refusal refusal = refusal_of(error);
    snprintf(topic, sizeof topic, "%s", letter->topic);
    header_text(letter, "__connect.errors.partition", partition, sizeof partition);
    header_text(letter, "__connect.errors.offset", offset, sizeof offset);
    if (!letters_refused(sink->letters, letter, refusal, why, clock_monotonic())) return;
    if (refusal == LETTERS_UNFIT)
        log_error("a dead letter is refused: it is kept, and tried again", LOG_S("topic", topic), LOG_S("error", why),
                  LOG_S("of_partition", partition), LOG_S("of_offset", offset));
    else
        log_error("dead letters are refused: they are kept, and tried again", LOG_S("topic", topic),
                  LOG_S("error", why), LOG_U("kept", letters_view(sink->letters).kept));
}

static void taken(struct kafka_sink *sink, const struct letter *letter)
{
    char topic[256];
    snprintf(topic, sizeof topic, "%s", letter->topic);
    if (letters_taken(sink->letters, letter)) log_notice("dead letters are taken again", LOG_S("topic", topic));
}

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    struct kafka_sink *sink = opaque;
    const struct letter *letter = message->_private;
    bool purged = message->err == RD_KAFKA_RESP_ERR__PURGE_QUEUE || message->err == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT;
    if (letter && message->err) refused(sink, rk, letter, message->err);
    else if (letter) taken(sink, letter);
    else if (message->err && !purged)
        log_warning("a version is not announced; readers that follow `current` see it all the same",
                    LOG_S("topic", rd_kafka_topic_name(message->rkt)), LOG_S("error", rd_kafka_err2str(message->err)));
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    (void)rk, (void)opaque;
    if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) return;   /* the source says so */
    log_warning("Kafka producer", LOG_S("error", rd_kafka_err2name(code)), LOG_S("text", reason));
}

/* ---- the producer */

static rd_kafka_t *open_producer(struct kafka_sink *sink, struct cs_error *err)
{
    /* Letters are as large as what producers were allowed to send. */
    static const struct kafka_preset preset[] = {
        { "message.max.bytes", "33554432" }, { "queue.buffering.max.kbytes", "131072" }, { "linger.ms", "5" },
        { NULL, NULL },
    };
    rd_kafka_conf_t *conf = kafka_producer_conf(sink->config, preset, err);
    if (!conf) return NULL;
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_opaque(conf, sink);
    return kafka_client_create(sink->clients, RD_KAFKA_PRODUCER, conf, "Kafka producer", err);
}

/* All letters are back in `letters` afterwards. */
static void close_producer(struct kafka_sink *sink)
{
    if (!sink->rk) return;
    rd_kafka_purge(sink->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    rd_kafka_flush(sink->rk, 1000);
    kafka_client_forget(sink->clients, sink->rk);
    rd_kafka_destroy(sink->rk);
    sink->rk = NULL;
}

static bool is_broken(const struct kafka_sink *sink)
{
    char text[8];
    return !sink->rk || rd_kafka_fatal_error(sink->rk, text, sizeof text);
}

/* With letters that wait, or an announcement that could not be made, the next is made by a fresh one. */
static void mend(struct kafka_sink *sink)
{
    struct cs_error err;
    int64_t now = clock_monotonic();
    if (now - atomic_load(&sink->opened) < REOPEN || pthread_rwlock_trywrlock(&sink->lock)) return;
    if (is_broken(sink)) {
        atomic_store(&sink->opened, now);
        close_producer(sink);
        if (!(sink->rk = open_producer(sink, &err))) log_warning("Kafka producer", LOG_S("text", err.message));
    }
    pthread_rwlock_unlock(&sink->lock);
}

struct kafka_sink *kafka_sink_create(const struct cs_config *config, struct kafka_clients *clients,
                                     struct cs_error *err)
{
    struct kafka_sink *sink = need(calloc(1, sizeof *sink));
    sink->config = config;
    sink->clients = clients;
    sink->letters = letters_create(LIMIT);
    pthread_rwlock_init(&sink->lock, NULL);
    atomic_store(&sink->opened, clock_monotonic());
    if ((sink->rk = open_producer(sink, err))) return sink;
    kafka_sink_destroy(sink);
    return NULL;
}

void kafka_sink_destroy(struct kafka_sink *sink)
{
    if (!sink) return;
    close_producer(sink);       /* what no broker has acknowledged is in the last snapshot */
    letters_destroy(sink->letters);
    pthread_rwlock_destroy(&sink->lock);
    free(sink);
}

struct letters *kafka_sink_letters(struct kafka_sink *sink)
{
    return sink->letters;
}

/* ---- dead letters */

void kafka_sink_dead_letter(struct kafka_sink *sink, void *record, const char *reason, const char *text)
{
    rd_kafka_message_t *message = record;
    char topic[256], partition[32], offset[32];
    snprintf(topic, sizeof topic, "%s.dlq", rd_kafka_topic_name(message->rkt));
    snprintf(partition, sizeof partition, "%d", (int)message->partition);
    snprintf(offset, sizeof offset, "%lld", (long long)message->offset);
    rd_kafka_headers_t *own = NULL;
    rd_kafka_message_headers(message, &own);
    const char *const ours[][2] = {
        { "__connect.errors.topic", rd_kafka_topic_name(message->rkt) },
        { "__connect.errors.partition", partition },
        { "__connect.errors.offset", offset },
        { "__connect.errors.stage", "VALUE_CONVERTER" },
        { "__connect.errors.exception.message", text },
        { "coldstream.reason", reason },
    };
    enum { OURS = sizeof ours / sizeof *ours };
    struct letter_header *header = need(calloc((own ? rd_kafka_header_cnt(own) : 0) + OURS, sizeof *header));
    size_t headers = 0;
    while (own && !rd_kafka_header_get_all(own, headers, &header[headers].name, &header[headers].value,
                                           &header[headers].size))
        headers++;
    for (size_t i = 0; i < OURS; i++)
        header[headers++] = (struct letter_header){ ours[i][0], ours[i][1], strlen(ours[i][1]) };
    rd_kafka_timestamp_type_t kind;
    int64_t time = rd_kafka_message_timestamp(message, &kind);
    letters_add(sink->letters, &(struct letter){ .topic = topic,
                                                 .key = message->key,
                                                 .key_size = message->key_len,
                                                 .value = message->payload,
                                                 .value_size = message->len,
                                                 .timestamp = time > 0 ? time : 0,
                                                 .header = header,
                                                 .headers = headers });
    free(header);
    kafka_sink_turn(sink);
}

/* The value is the letter's own memory: it lives until the answer. */
static rd_kafka_resp_err_t produce(struct kafka_sink *sink, const struct letter *letter)
{
    if (!sink->rk) return RD_KAFKA_RESP_ERR__QUEUE_FULL;
    rd_kafka_headers_t *headers = rd_kafka_headers_new(letter->headers);
    for (size_t i = 0; i < letter->headers; i++)
        rd_kafka_header_add(headers, letter->header[i].name, -1, letter->header[i].value,
                            (ssize_t)letter->header[i].size);
    rd_kafka_resp_err_t error = rd_kafka_producev(
        sink->rk, RD_KAFKA_V_TOPIC(letter->topic), RD_KAFKA_V_KEY((void *)(uintptr_t)letter->key, letter->key_size),
        RD_KAFKA_V_VALUE((void *)(uintptr_t)letter->value, letter->value_size), RD_KAFKA_V_MSGFLAGS(0),
        RD_KAFKA_V_TIMESTAMP(letter->timestamp), RD_KAFKA_V_HEADERS(headers),
        RD_KAFKA_V_OPAQUE((void *)(uintptr_t)letter), RD_KAFKA_V_END);
    if (error) rd_kafka_headers_destroy(headers);       /* else they are the producer's */
    return error;
}

void kafka_sink_turn(struct kafka_sink *sink)
{
    pthread_rwlock_rdlock(&sink->lock);
    if (sink->rk) rd_kafka_poll(sink->rk, 0);
    const struct letter *letter;
    rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
    while (error != RD_KAFKA_RESP_ERR__QUEUE_FULL && (letter = letters_next(sink->letters, clock_monotonic())))
        if ((error = produce(sink, letter))) refused(sink, sink->rk, letter, error);
    bool broken = is_broken(sink);
    pthread_rwlock_unlock(&sink->lock);
    if (broken) mend(sink);
}

bool kafka_sink_announce(struct kafka_sink *sink, const char *topic, const char *key, const char *text,
                         struct cs_error *err)
{
    pthread_rwlock_rdlock(&sink->lock);
    rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR__FATAL;
    if (sink->rk) {
        error = rd_kafka_producev(sink->rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_KEY(key, strlen(key)),
                                  RD_KAFKA_V_VALUE((void *)(uintptr_t)text, strlen(text)),
                                  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
        rd_kafka_poll(sink->rk, 0);
    }
    pthread_rwlock_unlock(&sink->lock);
    return !error || cs_fail(err, CS_FAILED, "announcing on %s: %s", topic, rd_kafka_err2str(error));
}

void kafka_sink_flush(struct kafka_sink *sink, int milliseconds)
{
    kafka_sink_turn(sink);
    pthread_rwlock_rdlock(&sink->lock);
    if (sink->rk) rd_kafka_flush(sink->rk, milliseconds);
    pthread_rwlock_unlock(&sink->lock);
}
