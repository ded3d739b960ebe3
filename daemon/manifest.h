/* A checkpoint from the last committed snapshot, and the manifest that describes it. Publishing reads the snapshot
 * alone, never the running learner. */
#ifndef DAEMON_MANIFEST_H
#define DAEMON_MANIFEST_H

#include "daemon/publish.h"

/* What a checkpoint says of itself, as JSON text (malloc'd): of the cut its positions, watermark, steps and reports. */
char *manifest_text(const struct cs_config *config, const char *fingerprint, const struct cut *cut);
/* Fills the cut's reports from the snapshot's metrics: the thread that learns need not wait for sorting them. */
bool manifest_publish(const struct cs_config *config, struct snapshot_store *store, const char *fingerprint,
                      struct cut *cut, uint64_t keep, uint64_t *version, struct cs_error *err);

#endif
