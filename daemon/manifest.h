/* A checkpoint from the last committed snapshot, and the manifest that describes it. Reads the snapshot alone, never
 * the running learner. */
#ifndef DAEMON_MANIFEST_H
#define DAEMON_MANIFEST_H

#include "daemon/publish.h"

bool manifest_publish(const struct cs_config *config, struct snapshot_store *store, const char *fingerprint,
                      const struct cut *cut, uint64_t keep, uint64_t *version, struct cs_error *err);

#endif
