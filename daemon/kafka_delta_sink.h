/* Producer of deltas: in order, idempotent, to partition 0 of one topic. Of its own, since dead letters wait for all
 * that their producer was given. */
#ifndef DAEMON_KAFKA_DELTA_SINK_H
#define DAEMON_KAFKA_DELTA_SINK_H

#include "config/config.h"
#include "daemon/delta.h"
#include "daemon/kafka_clients.h"

struct kafka_delta_sink;
struct kafka_delta_sink *kafka_delta_sink_create(const struct cs_config *config, struct kafka_clients *clients,
                                                 struct cs_error *err);
void kafka_delta_sink_destroy(struct kafka_delta_sink *sink);   /* NULL is fine */
struct delta_sink kafka_delta_sink_of(struct kafka_delta_sink *sink);

#endif
