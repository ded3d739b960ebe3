/* A second client beside the one that reads the stream: asks brokers for partitions and ends, and reads single records
 * again. Sees what is committed alone, as the reader does. One thread. */
#ifndef DAEMON_KAFKA_PROBE_H
#define DAEMON_KAFKA_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "daemon/kafka_clients.h"
#include "daemon/kafka_fingerprint.h"

enum { KAFKA_PROBE_TIMEOUT = 5000 };    /* ms, of each question */

struct kafka_probe;
/* trouble: errors of the client as a whole, with librdkafka's code; from kafka_probe_poll. */
typedef void kafka_trouble(void *self, int code, const char *text);
struct kafka_probe *kafka_probe_create(const struct cs_config *config, struct kafka_clients *clients,
                                       kafka_trouble *trouble, void *self, struct cs_error *err);
void kafka_probe_destroy(struct kafka_probe *probe);
void kafka_probe_poll(struct kafka_probe *probe, int milliseconds);
/* Any thread, before the end: what is asked, now or later, ends soon and unanswered. */
void kafka_probe_cancel(struct kafka_probe *probe);

enum kafka_answer {
    KAFKA_ANSWERED,
    KAFKA_ABSENT,       /* the topic does not exist */
    KAFKA_NOT_YET,      /* it has no leader, or is not for us: text says which */
    KAFKA_SILENT,       /* no broker answered */
};
enum kafka_answer kafka_probe_partitions(struct kafka_probe *probe, const char *topic, int32_t *count, char *text,
                                         size_t size);
#ifdef RD_KAFKA_VERSION
/* The same, asked by any client; it waits for so many milliseconds. */
enum kafka_answer kafka_partitions(rd_kafka_t *rk, const char *topic, int timeout, int32_t *count,
                                   rd_kafka_resp_err_t *error);
#endif
/* The first offset, and one past the last that can be read (the last stable offset). */
bool kafka_probe_ends(struct kafka_probe *probe, const char *topic, int32_t partition, int64_t *low, int64_t *end);
/* The first offset with a timestamp at or after time; end where there is none. */
bool kafka_probe_at_time(struct kafka_probe *probe, const char *topic, int32_t partition, int64_t time, int64_t end,
                         int64_t *offset);

/* What lies at an offset now; found is not known where no record does (retention, compaction). */
struct kafka_look {
    const char *topic;
    int32_t partition;
    int64_t offset;
    bool answered;
    struct kafka_fingerprint found;
};
/* False where not all were answered in time; those that were hold. */
bool kafka_probe_look(struct kafka_probe *probe, struct kafka_look *look, size_t count);

#endif
