/* From the configuration's plain values to the core's objects: the same way for daemon, tools and libcoldstream. */
#ifndef DAEMON_ASSEMBLE_H
#define DAEMON_ASSEMBLE_H

#include "config/config.h"
#include "core/decode.h"
#include "core/ingest.h"
#include "core/learner.h"

struct decoder *assemble_decoder(const struct cs_config *config, const struct features *features, struct cs_error *err);
struct learner *assemble_learner(const struct cs_config *config, const struct features *features,
                                 struct parallel *parallel, struct cs_error *err);
/* max_delay: config->batch.max_delay, or what the caller has reason to use instead. */
struct ingest *assemble_ingest(const struct cs_config *config, const struct features *features, int64_t max_delay,
                               struct cs_error *err);

#endif
