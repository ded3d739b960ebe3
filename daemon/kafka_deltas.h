/* The delta topic's records, from the beginning of what it retains, in order: for coldstream-serve. One partition;
 * offsets are kept nowhere, as a reader begins with a checkpoint and passes over what that has. */
#ifndef DAEMON_KAFKA_DELTAS_H
#define DAEMON_KAFKA_DELTAS_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

struct kafka_deltas_property { const char *name, *value; };     /* librdkafka's */
struct kafka_deltas;
/* take: each record's value, by a thread of its own; may wait. CS_CONFIG where a property is refused. Brokers and the
 * topic may come later. */
struct kafka_deltas *kafka_deltas_start(const char *topic, const struct kafka_deltas_property *property, size_t count,
                                        void (*take)(void *self, const void *bytes, size_t size), void *self,
                                        struct cs_error *err);
void kafka_deltas_stop(struct kafka_deltas *deltas);            /* NULL is fine; take is called no more */
/* Records not taken yet, as last heard; -1: not heard. */
int64_t kafka_deltas_lag(const struct kafka_deltas *deltas);

#endif
