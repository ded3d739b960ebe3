/* What the daemon writes to Kafka: records that it could not use, and announcements of checkpoints. Idempotent
 * producer. Safe for several threads. */
#ifndef DAEMON_KAFKA_SINK_H
#define DAEMON_KAFKA_SINK_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "core/error.h"
#include "daemon/kafka_clients.h"
#include "daemon/letters.h"

struct kafka_sink;
struct kafka_sink *kafka_sink_create(const struct cs_config *config, struct kafka_clients *clients,
                                     struct cs_error *err);
void kafka_sink_destroy(struct kafka_sink *sink);
/* The record (kafka_record.message, stays the caller's) unchanged to "<topic>.dlq", with headers that say whence and
 * why. Copied, and kept until a broker has acknowledged it (daemon/letters.h): never waits. */
void kafka_sink_dead_letter(struct kafka_sink *sink, void *message, const char *reason, const char *text);
/* False: not sent. What a broker refuses later is logged. */
bool kafka_sink_announce(struct kafka_sink *sink, const char *topic, const char *key, const char *text,
                         struct cs_error *err);
/* Now and then: sends what is due, hears what came of what was sent, replaces a producer that is broken. */
void kafka_sink_turn(struct kafka_sink *sink);
/* Waits for the brokers' word on what is under way, at most so long; what they refuse or leave open is kept. */
void kafka_sink_flush(struct kafka_sink *sink, int milliseconds);
struct letters *kafka_sink_letters(struct kafka_sink *sink);        /* to save, to load, and to look at */

#endif
