/* The producer behind `generate --kafka` and the demo. */
#include "tools/generate_kafka.h"

#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

enum { FLUSH_MS = 60000 };

struct generate_kafka {
    rd_kafka_t *producer;
    rd_kafka_topic_t *topic[GENERATED_TOPICS];     /* opened at their first record */
    char name[GENERATED_TOPICS][250];
    rd_kafka_resp_err_t failed;                     /* the first failure; written and read in the thread that polls */
};

static void on_delivery(rd_kafka_t *producer, const rd_kafka_message_t *message, void *opaque)
{
    struct generate_kafka *kafka = opaque;

    (void)producer;
    if (message->err && !kafka->failed) kafka->failed = message->err;
}

static bool set_properties(rd_kafka_conf_t *conf, const char *properties, struct cs_error *err)
{
    char *copy = strdup(properties), *rest = copy, *one, message[256];
    bool ok = copy != NULL;

    while (ok && (one = strsep(&rest, ","))) {
        char *value = strchr(one, '=');
        if (!value) {
            ok = cs_fail(err, CS_USAGE, "--property: found \"%s\", allowed is name=value", one);
            break;
        }
        *value++ = '\0';
        char *resolved = config_property_value(one, value, message, sizeof message);
        if (!resolved || rd_kafka_conf_set(conf, one, resolved, message, sizeof message) != RD_KAFKA_CONF_OK)
            ok = cs_fail(err, CS_USAGE, "--property %s: %s", one, message);
        config_wipe(resolved);
    }
    free(copy);
    return ok;
}

struct generate_kafka *generate_kafka_create(const char *brokers, const char *properties, const char *topics,
                                             struct cs_error *err)
{
    struct generate_kafka *kafka = calloc(1, sizeof *kafka);
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char message[256];
    static const char *const preset[][2] = {
        { "client.id", "coldstreamctl-generate" },
        { "acks", "all" },
        { "enable.idempotence", "true" },
        { "linger.ms", "20" },
        { "batch.size", "262144" },
        { "queue.buffering.max.messages", "200000" },
        { "compression.codec", "lz4" },
    };

    if (!kafka) goto fail;
    for (size_t i = 0; i < GENERATED_TOPICS; i++)
        snprintf(kafka->name[i], sizeof kafka->name[i], "%s", generated_topic_name[i]);
    for (size_t i = 0; topics && *topics; i++) {
        size_t length = strcspn(topics, ",");
        if (i == GENERATED_TOPICS || length >= sizeof kafka->name[0]) {
            cs_fail(err, CS_USAGE, "--topics: found \"%s\", allowed are up to %d names", topics, (int)GENERATED_TOPICS);
            goto fail;
        }
        if (length) snprintf(kafka->name[i], sizeof kafka->name[i], "%.*s", (int)length, topics);
        topics += length + (topics[length] == ',');
    }
    rd_kafka_conf_set_opaque(conf, kafka);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    for (size_t i = 0; i < sizeof preset / sizeof *preset; i++)
        if (rd_kafka_conf_set(conf, preset[i][0], preset[i][1], message, sizeof message) != RD_KAFKA_CONF_OK) {
            cs_fail(err, CS_FAILED, "librdkafka: %s", message);
            goto fail;
        }
    if (rd_kafka_conf_set(conf, "bootstrap.servers", brokers, message, sizeof message) != RD_KAFKA_CONF_OK) {
        cs_fail(err, CS_USAGE, "--kafka: %s", message);
        goto fail;
    }
    if (properties && !set_properties(conf, properties, err)) goto fail;
    kafka->producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, message, sizeof message);
    if (!kafka->producer) {
        cs_fail(err, CS_USAGE, "Kafka producer: %s", message);
        goto fail;
    }
    return kafka;
fail:
    rd_kafka_conf_destroy(conf);
    free(kafka);
    return NULL;
}

void generate_kafka_destroy(struct generate_kafka *kafka)
{
    if (!kafka) return;
    for (size_t i = 0; i < GENERATED_TOPICS; i++)
        if (kafka->topic[i]) rd_kafka_topic_destroy(kafka->topic[i]);
    rd_kafka_purge(kafka->producer, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    rd_kafka_poll(kafka->producer, 0);
    rd_kafka_destroy(kafka->producer);
    free(kafka);
}

static bool none_failed(const struct generate_kafka *kafka, struct cs_error *err)
{
    return !kafka->failed ||
           cs_fail(err, CS_FAILED, "Kafka did not take a record: %s", rd_kafka_err2str(kafka->failed));
}

bool generate_kafka_send(struct generate_kafka *kafka, const struct generated *event, struct cs_error *err)
{
    rd_kafka_topic_t **topic = &kafka->topic[event->topic];

    if (!*topic) *topic = rd_kafka_topic_new(kafka->producer, kafka->name[event->topic], NULL);
    if (!*topic)
        return cs_fail(err, CS_FAILED, "Kafka topic %s: %s", kafka->name[event->topic],
                       rd_kafka_err2str(rd_kafka_last_error()));
    while (rd_kafka_produce(*topic, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY, (void *)event->value,
                            event->value_length, event->key, event->key_length, NULL) != 0) {
        if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL)
            return cs_fail(err, CS_FAILED, "Kafka topic %s: %s", kafka->name[event->topic],
                           rd_kafka_err2str(rd_kafka_last_error()));
        rd_kafka_poll(kafka->producer, 50);
        if (!none_failed(kafka, err)) return false;
    }
    rd_kafka_poll(kafka->producer, 0);
    return none_failed(kafka, err);
}

bool generate_kafka_flush(struct generate_kafka *kafka, struct cs_error *err)
{
    if (rd_kafka_flush(kafka->producer, FLUSH_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return cs_fail(err, CS_FAILED, "Kafka: %d records were not taken within %d s",
                       rd_kafka_outq_len(kafka->producer), FLUSH_MS / 1000);
    return none_failed(kafka, err);
}
