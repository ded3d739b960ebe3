/* The published versions as a whole: which one is current, which may go, and whether new ones may come. Every change of
 * the directory goes through here, one at a time, from whatever thread; what was decided outlives the process.
 *
 *     <checkpoints>/held.json   publishing is held since a rollback: written before `current` moves, so that a
 *                               rollback which a crash interrupts is completed at the next start; gone after resume
 *
 * A rollback marks the version that it leaves `withdrawn`, the one that it goes to `frozen` (storage/checkpoint.h). */
#ifndef DAEMON_VERSIONS_H
#define DAEMON_VERSIONS_H

#include "config/config.h"
#include "daemon/kafka_sink.h"
#include "daemon/telemetry.h"
#include "storage/checkpoint.h"

struct versions;
/* Borrows all; sink NULL: nothing is announced. Completes an interrupted rollback; announces what is current.
 * CS_FENCED: another daemon publishes into the directory, which is held (by flock) from here on, or where it is not
 * there yet from the first version on. */
struct versions *versions_open(const struct cs_config *config, struct kafka_sink *sink, struct telemetry *telemetry,
                               struct cs_error *err);
void versions_close(struct versions *versions);

struct versions_view {
    uint64_t current;           /* 0: none */
    bool held;
    char hold[400];             /* since when and why; "" */
};
struct versions_view versions_view(struct versions *versions);
/* The version whose quality is still to be watched: current, and the newest; 0 where it was rolled back to, or none. */
uint64_t versions_watched(struct versions *versions);

/* Ends the writer either way. False while publishing is held. */
bool versions_accept(struct versions *versions, struct checkpoint_writer *candidate, uint64_t keep, int64_t watermark,
                     uint64_t *version, struct cs_error *err);

enum rollback_cause { ROLLBACK_BY_OPERATOR, ROLLBACK_BY_GATE };
/* version 0: the newest one before the current that was not rolled back from. The target is read and checked first;
 * the gate passes over damaged ones, an operator is told. Where it is current already, publishing is held and nothing
 * else changes. The gate's is refused where the current version is not to be watched. */
bool versions_rollback(struct versions *versions, uint64_t version, enum rollback_cause cause, const char *reason,
                       uint64_t *now, struct cs_error *err);
/* Ends the hold; fine where there is none. */
bool versions_release(struct versions *versions, struct cs_error *err);
bool versions_pin(struct versions *versions, uint64_t version, bool pinned, struct cs_error *err);
/* All versions that are pinned, ascending; malloc'd. */
size_t versions_pinned(struct versions *versions, uint64_t **version);

#endif
