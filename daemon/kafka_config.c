/* librdkafka's settings, its log lines, and how its clients end. */
#include <librdkafka/rdkafka.h>

#include "daemon/kafka_config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

bool kafka_conf_preset(rd_kafka_conf_t *conf, const struct cs_config *config, const struct kafka_preset *preset,
                       struct cs_error *err)
{
    for (; preset->name; preset++) {
        bool given = false;
        for (size_t i = 0; i < config->source.property_count; i++)
            given |= strcmp(config->source.property[i].name, preset->name) == 0;
        if (!given && !kafka_conf_set(conf, preset->name, preset->value, err)) return false;
    }
    return true;
}

rd_kafka_conf_t *kafka_consumer_conf(const struct cs_config *config, const struct kafka_preset *preset,
                                     struct cs_error *err)
{
    static const struct kafka_preset owned[] = {
        { "enable.auto.commit", "false" },       { "enable.auto.offset.store", "false" },
        { "auto.offset.reset", "error" },        { "isolation.level", "read_committed" },
        { "check.crcs", "true" },                { "enable.partition.eof", "true" },
        { "allow.auto.create.topics", "false" },
    };
    rd_kafka_conf_t *conf = kafka_conf_create(config, err);
    if (!conf) return NULL;
    if (!kafka_conf_preset(conf, config, preset, err)) goto fail;
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        if (!kafka_conf_set(conf, owned[i].name, owned[i].value, err)) goto fail;
    if (!kafka_conf_set(conf, "group.id", config->source.group, err)) goto fail;
    return conf;
fail:
    rd_kafka_conf_destroy(conf);
    return NULL;
}

struct closing { rd_kafka_t *rk; pthread_mutex_t lock; pthread_cond_t done; bool closed; };

static void *close_consumer(void *argument)
{
    struct closing *closing = argument;
    rd_kafka_consumer_close(closing->rk);
    rd_kafka_destroy(closing->rk);
    pthread_mutex_lock(&closing->lock);
    closing->closed = true;
    pthread_cond_signal(&closing->done);
    pthread_mutex_unlock(&closing->lock);
    return NULL;
}

void kafka_close_bounded(rd_kafka_t *rk)
{
    struct closing *closing = calloc(1, sizeof *closing);
    if (!closing) abort();
    closing->rk = rk;
    pthread_mutex_init(&closing->lock, NULL);
    pthread_cond_init(&closing->done, NULL);
    pthread_t thread;
    if (pthread_create(&thread, NULL, close_consumer, closing)) return;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 5;
    pthread_mutex_lock(&closing->lock);
    while (!closing->closed && pthread_cond_timedwait(&closing->done, &closing->lock, &until) == 0) {}
    bool closed = closing->closed;
    pthread_mutex_unlock(&closing->lock);
    if (!closed) {
        log_warning("closing the Kafka consumer takes too long, left behind");
        pthread_detach(thread);
        return;
    }
    pthread_join(thread, NULL);
    pthread_cond_destroy(&closing->done);
    pthread_mutex_destroy(&closing->lock);
    free(closing);
}
