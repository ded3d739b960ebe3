/* What the verbs on snapshots share: which directory is meant, and who owns it. */
#ifndef TOOLS_CTL_SNAPSHOT_H
#define TOOLS_CTL_SNAPSHOT_H

#include <limits.h>

#include "config/config.h"
#include "core/ingest.h"
#include "core/learner.h"
#include "core/metrics.h"
#include "storage/snapshot.h"
#include "tools/ctl.h"

#define CTL_SNAPSHOT_CONFIG \
    { "config", 'c', "FILE", "a configuration: its snapshot.directory is meant", false }

/* NULL: all that is wrong with the file stands on stderr already. CONFIG_FOR_DAEMON: librdkafka's properties are looked
 * at too. */
struct cs_config *ctl_config_load(const char *file, enum config_use use);
/* The directory that was named: by a word, or by --config alone. */
bool ctl_snapshot_directory(const struct ctl_arguments *arguments, const char *word, char directory[PATH_MAX],
                            struct cs_error *err);
/* Takes the lock of a snapshot that no daemon should be using: *fd is to be closed, -1 where there is no directory.
 * CS_FENCED names the owner. */
bool ctl_snapshot_lock(const char *directory, int *fd, struct cs_error *err);
/* Into a cut that a verb makes: whose state it is, and the learned state itself. */
bool ctl_snapshot_fill(struct snapshot_cut *cut, const struct cs_config *config, struct learner *learner,
                       struct ingest *ingest, struct metrics *metrics, struct cs_error *err);

#endif
