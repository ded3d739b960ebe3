/* A snapshot's positions moved by an operator: the way on from offsets that mean nothing any more at the broker. */
#ifndef DAEMON_KAFKA_OFFSETS_H
#define DAEMON_KAFKA_OFFSETS_H

#include "config/config.h"
#include "daemon/kafka_source.h"

struct kafka_offsets_move {
    enum { MOVE_EARLIEST, MOVE_LATEST, MOVE_TIME, MOVE_NOWHERE } to;    /* NOWHERE: only the fingerprint is forgotten */
    int64_t time;               /* ms since the epoch */
    const char *topic;          /* NULL: all */
    int32_t partition;          /* -1: all */
};
/* Asks the brokers, waiting for them up to half a minute. Where a topic has fewer partitions now, the positions of
 * those that are gone are dropped. *moved: how many positions were meant. told: of each, what was and is (-1: gone). */
typedef void kafka_offsets_told(void *self, const struct kafka_position *before, int64_t now);
bool kafka_offsets_move(const struct cs_config *config, const struct kafka_offsets_move *move,
                        struct kafka_positions *positions, kafka_offsets_told *told, void *self, struct cs_error *err);

#endif
