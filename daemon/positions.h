/* Positions as the snapshot keeps them, in JSON:
 *     [{"topic", "partition", "next", "last": {"offset", "timestamp", "hash"}}, ...]
 * "last" only where a record was applied. */
#ifndef DAEMON_POSITIONS_H
#define DAEMON_POSITIONS_H

#include <jansson.h>

#include "daemon/kafka_source.h"

/* The array's, topics too, are malloc'd. */
bool positions_parse(const char *text, struct kafka_positions *positions, struct cs_error *err);
struct kafka_positions positions_copy(const struct kafka_positions *from);
void positions_release(struct kafka_positions *positions);
json_t *position_json(const struct kafka_position *position);

#endif
