/* Records of all partitions of the configured topics, and where in them we are.
 *
 *   librdkafka's threads -> a queue a partition (bounded by queued.*: a full one is not fetched for) ->
 * kafka_partition_take
 *
 * Partitions are read from their own queues, in whatever order the merge needs them, and a queue that is not read fills
 * up and stops fetching by itself. So nothing is ever paused at the broker, and with that none of librdkafka 2.0.2's
 * rewinds on pause and resume can happen. Records below the next expected offset are dropped and counted all the same.
 * A thread of the source's own polls errors, looks for new partitions, and reads the last record of each again: at
 * start before anything is assigned, then each source.kafka.discover. Offsets given to assign are always explicit.
 */
#ifndef DAEMON_KAFKA_SOURCE_H
#define DAEMON_KAFKA_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "core/error.h"
#include "daemon/kafka_clients.h"
#include "daemon/kafka_fingerprint.h"

struct kafka_position {
    const char *topic;
    int32_t partition;
    int64_t next;
    struct kafka_fingerprint last;  /* of the last record applied: is the topic still the one that was learned from? */
};
/* Where the snapshot says that we are; where it says nothing at all (count 0), source.kafka.start holds. */
struct kafka_positions { struct kafka_position *position; size_t count; };

struct kafka_source;
struct kafka_partition;

typedef void kafka_wake(void *self);    /* called from librdkafka's threads: there may be something to take */

/* Starts at once; brokers and topics may come later. positions are copied. */
struct kafka_source *kafka_source_create(const struct cs_config *config, struct kafka_clients *clients,
                                         const struct kafka_positions *positions, kafka_wake *wake, void *wake_self,
                                         struct cs_error *err);
void kafka_source_destroy(
    struct kafka_source *source); /* bounded: state is safe by then, a hanging close is left behind */
/* False where reading can't go on: offsets out of range or topics made anew (CS_REFUSED, with the remedy), fatal
 * errors, fenced. */
bool kafka_source_check(struct kafka_source *source, struct cs_error *err);
bool kafka_source_connected(struct kafka_source *source);
/* What is being waited for before reading starts, e.g. "topic clicks does not exist"; "" once reading. */
void kafka_source_waiting(struct kafka_source *source, char *text, size_t size);
/* Each partition once, in order of (topic, partition) as far as found together; NULL: no more for now. The first ones
 * appear only when all configured topics but that of conversions are there. Belongs to the source. */
struct kafka_partition *kafka_source_next_partition(struct kafka_source *source);

const char *kafka_partition_topic(const struct kafka_partition *partition);
int32_t kafka_partition_number(const struct kafka_partition *partition);
uint64_t kafka_partition_rank(const struct kafka_partition *partition);     /* order by (topic, partition) */
int kafka_partition_kind(const struct kafka_partition *partition);          /* enum event_kind or DECODE_KIND_UNSAID */
int64_t kafka_partition_start(const struct kafka_partition *partition);     /* first offset asked for */
/* Of the record taken last, in this process or before its start. */
struct kafka_fingerprint kafka_partition_last(const struct kafka_partition *partition);

struct kafka_record { const void *value; size_t size; struct kafka_fingerprint is; void *message; };
/* The next record, if there is one already. Release it. */
bool kafka_partition_take(struct kafka_partition *partition, struct kafka_record *record);
void kafka_record_release(void *message);
/* Its end was reached, nothing came for idle_after, and the brokers can be reached. now: monotonic ms. */
bool kafka_partition_idle(const struct kafka_partition *partition, int64_t now);
/* One past the partition's last record as far as known, which is as of the last source.kafka.discover where nothing is
 * taken; -1: not known. Any thread. */
int64_t kafka_partition_end(const struct kafka_partition *partition);
/* Offsets behind an open transaction: can't be read, while the last stable offset stands still. Looked at each
 * source.kafka.discover. Any thread. */
int64_t kafka_partition_held(const struct kafka_partition *partition);
/* What to tell the broker when everything below `next` is applied: past trailing control records where the end was
 * reached. */
int64_t kafka_partition_commit_offset(const struct kafka_partition *partition, int64_t next);

/* For lag tools alone. wait: milliseconds, 0 only sends. Failing is logged, never more. */
void kafka_source_commit(struct kafka_source *source, const struct kafka_position *position, size_t count, int wait);

#endif
