/* librdkafka's own settings: the operator's, checked as librdkafka checks them, and those that the daemon owns. How
 * clients begin and end. */
#ifndef DAEMON_KAFKA_CONFIG_H
#define DAEMON_KAFKA_CONFIG_H

#include <stdbool.h>

#include "config/config.h"

/* True where librdkafka takes the property. Otherwise its own words, into text. For the configuration's check. */
bool kafka_property_check(const char *name, const char *value, char *text, size_t size);
/* For config_load_checked: each property by itself, and all of them together, by making a consumer and a producer that
 * know no broker (milliseconds); and each by itself alone, for the daemon as it starts and reloads. Where no thread can
 * start, librdkafka ends the process that makes a client: a running one makes none to try things out. */
extern const struct config_source_checks kafka_checks, kafka_checks_each;

/* What to do about an error of librdkafka's that an operator mends (who we are, TLS, ACLs); NULL: nothing is known.
 * reason: its own words; NULL is fine. */
const char *kafka_remedy(int code, const char *reason);
/* Warns of a source that is reached over a network without TLS, or whose brokers' certificates are not looked at. */
void kafka_warn_exposed(const struct cs_config *config);

#ifdef RD_KAFKA_VERSION
/* What consumer and producer share: the operator's properties, names, and log lines that go through ours. CS_CONFIG
 * where a property is refused. rd_kafka_conf_set on one of our own settings. */
rd_kafka_conf_t *kafka_conf_create(const struct cs_config *config, struct cs_error *err);
bool kafka_conf_set(rd_kafka_conf_t *conf, const char *name, const char *value, struct cs_error *err);
/* Ended by a NULL name. They stand below the operator's own. */
struct kafka_preset { const char *name, *value; };
bool kafka_conf_preset(rd_kafka_conf_t *conf, const struct cs_config *config, const struct kafka_preset *preset,
                       struct cs_error *err);
/* Of a consumer that takes no offset from the broker by itself and sees what is committed alone. */
rd_kafka_conf_t *kafka_consumer_conf(const struct cs_config *config, const struct kafka_preset *preset,
                                     struct cs_error *err);
/* Of a producer that brings each record once, in order, and gives none up: while brokers are away records wait. */
rd_kafka_conf_t *kafka_producer_conf(const struct cs_config *config, const struct kafka_preset *preset,
                                     struct cs_error *err);
/* 2.0.2's close can hang where a topic was deleted: it gets five seconds, then is left to the process's end. */
void kafka_close_bounded(rd_kafka_t *rk);
#endif

#endif
