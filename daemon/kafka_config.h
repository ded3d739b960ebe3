/* librdkafka's own settings: the operator's, checked as librdkafka checks them, and those that the daemon owns. */
#ifndef DAEMON_KAFKA_CONFIG_H
#define DAEMON_KAFKA_CONFIG_H

#include <stdbool.h>

#include "config/config.h"

/* True where librdkafka takes the property. Otherwise its own words, into text. For the configuration's check. */
bool kafka_property_check(const char *name, const char *value, char *text, size_t size);

#ifdef RD_KAFKA_VERSION
/* What consumer and producer share: the operator's properties, names, and log lines that go through ours. CS_CONFIG
 * where a property is refused. rd_kafka_conf_set on one of our own settings. */
rd_kafka_conf_t *kafka_conf_create(const struct cs_config *config, struct cs_error *err);
bool kafka_conf_set(rd_kafka_conf_t *conf, const char *name, const char *value, struct cs_error *err);
#endif

#endif
