/* librdkafka's settings and its log lines. */
#include <librdkafka/rdkafka.h>

#include "daemon/kafka_config.h"

#include <stdio.h>
#include <string.h>

#include "daemon/log.h"

bool kafka_property_check(const char *name, const char *value, char *text, size_t size)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    bool fine = rd_kafka_conf_set(conf, name, value, text, size) == RD_KAFKA_CONF_OK;
    rd_kafka_conf_destroy(conf);
    return fine;
}

/* librdkafka says "error" of a lost connection, which it goes on to mend: an operator's warning. */
static enum log_level level_of(int syslog, const char *facility)
{
    /* A consumer's properties on the producer, and a feature of old brokers alone, said at each look for new
     * partitions. */
    if (strcmp(facility, "CONFWARN") == 0 || strcmp(facility, "AUTOCREATE") == 0) return LEVEL_DEBUG;
    if (syslog <= 2) return LEVEL_ERROR;
    if (syslog <= 4) return LEVEL_WARNING;
    return syslog == 5 ? LEVEL_NOTICE : syslog == 6 ? LEVEL_INFO : LEVEL_DEBUG;
}

static void write_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    (void)rk;
    log_event(level_of(level, facility), "librdkafka", LOG_S("facility", facility), LOG_S("text", text));
}

bool kafka_conf_set(rd_kafka_conf_t *conf, const char *name, const char *value, struct cs_error *err)
{
    char text[256];
    if (rd_kafka_conf_set(conf, name, value, text, sizeof text) == RD_KAFKA_CONF_OK) return true;
    return cs_fail(err, CS_CONFIG, "source.kafka.properties.%s: %s", name, text);
}

rd_kafka_conf_t *kafka_conf_create(const struct cs_config *config, struct cs_error *err)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_log_cb(conf, write_log);
    if (!kafka_conf_set(conf, "client.id", "coldstream", err)) goto fail;
    if (!kafka_conf_set(conf, "socket.keepalive.enable", "true", err)) goto fail;
    if (!kafka_conf_set(conf, "socket.nagle.disable", "true", err)) goto fail;
    for (size_t i = 0; i < config->source.property_count; i++)
        if (!kafka_conf_set(conf, config->source.property[i].name, config->source.property[i].value, err)) goto fail;
    return conf;
fail:
    rd_kafka_conf_destroy(conf);
    return NULL;
}
