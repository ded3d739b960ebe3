/* A checkpoint straight from a learner, as `train --checkpoint` publishes it. */
#ifndef TOOLS_CTL_CHECKPOINT_H
#define TOOLS_CTL_CHECKPOINT_H

#include "config/config.h"
#include "core/learner.h"
#include "core/shown.h"

/* watermark: event time, ms. *version is the new one, already `current` in directory. */
bool checkpoint_from_learner(struct learner *learner, const struct features *features, const struct cs_config *config,
                             const struct metrics *metrics, const struct shown *shown, int64_t watermark,
                             const char *directory, uint64_t *version, struct cs_error *err);

#endif
