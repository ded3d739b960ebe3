/* librdkafka's settings, its log lines, and how its clients end. */
#include <librdkafka/rdkafka.h>

#include "daemon/kafka_config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/log.h"

enum { CLOSING = 5000 };        /* ms that a consumer's end may take */

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

const char *kafka_remedy(int code, const char *reason)
{
    static const struct { rd_kafka_resp_err_t code; const char *part, *remedy; } known[] = {
        { RD_KAFKA_RESP_ERR__AUTHENTICATION, "",
          "the brokers refuse who we say we are: see source.kafka.properties sasl.mechanism, sasl.username and the "
          "secret that sasl.password refers to, and whether the brokers know that user; where these have another "
          "password by now, put it into the secret's file, then coldstreamctl reload. SCRAM of librdkafka before "
          "2.6.1 is refused by brokers of Kafka 4 and later, whatever the password: use a newer librdkafka, PLAIN over "
          "TLS, or a client certificate" },
        { RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED, "",
          "the brokers refuse who we say we are: see source.kafka.properties sasl.username and sasl.password; where "
          "these were changed at the brokers, change the secret's file, then coldstreamctl reload" },
        { RD_KAFKA_RESP_ERR__SSL, "certificate verify failed",
          "the broker's certificate is not trusted: see source.kafka.properties ssl.ca.location (who signed it?), its "
          "dates, and that bootstrap.servers and the advertised listeners have the names that stand in it" },
        { RD_KAFKA_RESP_ERR__SSL, "hostname mismatch",
          "the broker's certificate is another host's: bootstrap.servers and the advertised listeners must have the "
          "names that stand in it" },
        { RD_KAFKA_RESP_ERR__SSL, "",
          "see source.kafka.properties security.protocol and ssl.*: the listener may speak no TLS, "
          "or ask for a client certificate (ssl.certificate.location, ssl.key.location)" },
        { RD_KAFKA_RESP_ERR__TRANSPORT, " alert ",
          "the broker ends the TLS connection: it asks for a client certificate (source.kafka.properties "
          "ssl.certificate.location and ssl.key.location), or refuses the one that it is shown" },
        { RD_KAFKA_RESP_ERR__TRANSPORT, "onnection closed",
          "the listener may ask for another security.protocol (TLS, SASL)" },
        { RD_KAFKA_RESP_ERR__TRANSPORT, "Disconnected", "where it repeats, the listener may ask for another "
          "security.protocol (TLS, SASL), or refuse the client certificate" },
        { RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "",
          "an ACL is missing: docs/security.md has those that are needed" },
        { RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, "",
          "an ACL is missing: READ for the group of source.kafka.group (docs/security.md)" },
        { RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, "",
          "an ACL is missing: docs/security.md has those that are needed" },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].code == code && (!reason || strstr(reason, known[i].part))) return known[i].remedy;
    return NULL;
}

/* All addresses of "host:port,host:port" are this machine's own. */
static bool is_local(const char *servers)
{
    static const char *const local[] = { "127.", "localhost:", "[::1]", "::1" };
    for (const char *at = servers;; at++) {
        const char *scheme = strstr(at, "://");
        bool found = false;
        size_t length = strcspn(at, ",");
        if (scheme && scheme < at + length) length -= (size_t)(scheme + 3 - at), at = scheme + 3;
        while (*at == ' ') at++, length--;
        for (size_t i = 0; i < sizeof local / sizeof *local; i++) found |= strncmp(at, local[i], strlen(local[i])) == 0;
        if (!found) return false;
        at += length;
        if (!*at) return true;
    }
}

void kafka_warn_exposed(const struct cs_config *config)
{
    const char *protocol = config_property(config, "security.protocol", "plaintext");
    const char *servers =
        config_property(config, "bootstrap.servers", config_property(config, "metadata.broker.list", ""));
    bool tls = strcasecmp(protocol, "ssl") == 0 || strcasecmp(protocol, "sasl_ssl") == 0;
    if (!tls && !is_local(servers))
        log_warning("Kafka is reached without TLS: whoever is on the way can read the stream, and write it",
                    LOG_S("protocol", protocol),
                    LOG_S("remedy", "set security.protocol to sasl_ssl or ssl under source.kafka.properties; "
                                    "docs/security.md"));
    if (strncasecmp(config_sasl_mechanism(config), "SCRAM-", 6) == 0 && rd_kafka_version() < 0x020601ff)
        log_warning("this librdkafka's SCRAM is refused by brokers of Kafka 4 and later",
                    LOG_S("librdkafka", rd_kafka_version_str()),
                    LOG_S("remedy", "nothing with older brokers; else librdkafka 2.6.1 or newer, PLAIN over TLS, or a "
                                    "client certificate; docs/security.md"));
    if (tls && (strcmp(config_property(config, "enable.ssl.certificate.verification", "true"), "false") == 0 ||
                strcmp(config_property(config, "ssl.endpoint.identification.algorithm", "https"), "none") == 0))
        log_warning("brokers are believed to be who they say they are",
                    LOG_S("remedy", "take enable.ssl.certificate.verification: false and "
                                    "ssl.endpoint.identification.algorithm: none out of source.kafka.properties"));
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

rd_kafka_conf_t *kafka_producer_conf(const struct cs_config *config, const struct kafka_preset *preset,
                                     struct cs_error *err)
{
    /* A topic that was refused, or was not there, stays so in librdkafka until it next looks at the topics: every five
     * minutes, if left alone. */
    static const struct kafka_preset shared[] = { { "topic.metadata.refresh.interval.ms", "5000" }, { NULL, NULL } };
    rd_kafka_conf_t *conf = kafka_conf_create(config, err);
    if (conf && kafka_conf_preset(conf, config, shared, err) && kafka_conf_preset(conf, config, preset, err) &&
        kafka_conf_set(conf, "enable.idempotence", "true", err) && kafka_conf_set(conf, "message.timeout.ms", "0", err))
        return conf;
    if (conf) rd_kafka_conf_destroy(conf);
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
    struct closing *closing = need(calloc(1, sizeof *closing));
    closing->rk = rk;
    pthread_mutex_init(&closing->lock, NULL);
    pthread_cond_init(&closing->done, NULL);
    pthread_t thread;
    if (pthread_create(&thread, NULL, close_consumer, closing)) return;
    const struct timespec until = clock_in(CLOSING);
    pthread_mutex_lock(&closing->lock);
    while (!closing->closed &&
           pthread_cond_clockwait(&closing->done, &closing->lock, CLOCK_MONOTONIC, &until) == 0) {}
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
