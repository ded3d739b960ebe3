/* Between a learner and a safetensors or npz file: all tensors under their canonical names (numerics.md, section 8). */
#ifndef TOOLS_CTL_EXCHANGE_H
#define TOOLS_CTL_EXCHANGE_H

#include "core/learner.h"
#include "storage/exchange.h"
#include "tools/ctl_progress.h"

/* Writes every table (keys ascending), then the dense tensors. All moments are there; those that an optimizer does not
 * keep are 0. */
bool exchange_from_learner(struct learner *learner, const struct features *features, const char *file,
                           enum exchange_format format, struct cs_error *err);
/* Reads such a file into a fresh learner; CS_REFUSED names what is missing, unknown or of another shape. A file without
 * optimizer state leaves zero moments and step 0. seen: event time that the rows are given as their last sighting. */
bool exchange_into_learner(struct learner *learner, const struct features *features,
                           enum optimizer_kind embedding_optimizer, const char *file, int64_t seen,
                           struct ctl_progress *progress, struct cs_error *err);

/* Announces the tensors of a table of n rows, in the order keys, rows, m, v, step; moments and step where they are
 * kept. */
bool exchange_announce_table(struct exchange_writer *writer, const char *table, size_t n, size_t dimension, bool m,
                             bool v, bool step, struct cs_error *err);
bool has_ending(const char *name, const char *ending);
void tensor_shape_text(const struct tensor *tensor, char *text, size_t size);       /* "[3, 4] f32" */

#endif
