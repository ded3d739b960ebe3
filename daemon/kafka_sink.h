/* What the daemon writes to Kafka: records that it could not use, and announcements of checkpoints. Idempotent
 * producer. */
#ifndef DAEMON_KAFKA_SINK_H
#define DAEMON_KAFKA_SINK_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "core/error.h"

struct kafka_sink;
struct kafka_sink *kafka_sink_create(const struct cs_config *config, struct cs_error *err);
void kafka_sink_destroy(struct kafka_sink *sink);
/* The record (kafka_record.message, stays the caller's) unchanged to "<topic>.dlq", with headers that say whence and
 * why. Waits while the producer's queue is full; false: it was told to stop (kafka_sink_stop), or the producer is
 * broken. */
bool kafka_sink_dead_letter(struct kafka_sink *sink, void *message, const char *reason, const char *text);
bool kafka_sink_announce(struct kafka_sink *sink, const char *topic, const char *key, const char *text,
                         struct cs_error *err);
/* All that was sent is acknowledged, or counted as lost for good (unknown topic, not authorized, too large). */
bool kafka_sink_flush(struct kafka_sink *sink, int milliseconds, struct cs_error *err);
uint64_t kafka_sink_lost(const struct kafka_sink *sink);       /* refused by the broker for good; each was logged */
void kafka_sink_stop(struct kafka_sink *sink);                 /* lets a waiting dead letter give up */

#endif
