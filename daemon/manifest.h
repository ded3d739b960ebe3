/* A checkpoint from the last committed snapshot, and the manifest that describes it. Publishing reads the snapshot
 * alone, never the running learner. */
#ifndef DAEMON_MANIFEST_H
#define DAEMON_MANIFEST_H

#include "daemon/gate.h"
#include "daemon/publish.h"

/* What a checkpoint says of itself, as JSON text (malloc'd): of the cut its positions, watermark, steps and reports. */
char *manifest_text(const struct cs_config *config, const char *fingerprint, const struct cut *cut);
/* A sealed version of the last committed snapshot, to be judged; NULL where it could not be made. Fills the cut's
 * reports from the snapshot's metrics: the thread that learns need not wait for sorting them. */
struct checkpoint_writer *manifest_candidate(const struct cs_config *config, struct snapshot_store *store,
                                             const char *fingerprint, struct cut *cut, struct cs_error *err);
/* The last committed snapshot's progressive validation over what came after the first `examples`, as far as the window
 * holds it; known is false where nothing came. */
bool manifest_since(const struct cs_config *config, struct snapshot_store *store, uint64_t examples,
                    struct gate_quality *since, struct cs_error *err);

#endif
