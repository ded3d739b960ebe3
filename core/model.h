/* The two towers wired together: what scoring needs, without tables, optimizers or memory of steps. The learner trains
 * one; libcoldstream fills one from a checkpoint. */
#ifndef CORE_MODEL_H
#define CORE_MODEL_H

#include "core/batch.h"
#include "core/options.h"
#include "core/parallel.h"
#include "core/tensor.h"

/* The batch's rows as the model reads them: for each table row[count, d], and whether the key has a row at all (an absent
 * one is zeros, and masked in attention). */
struct model_rows { const float *row; const uint8_t *present; };

struct model;
/* Parameters start Glorot-uniform by (seed, canonical name); biases 0. parallel is borrowed for life. */
struct model *model_create(const struct features *features, size_t dimension, const struct model_options *options, uint64_t seed,
                           struct parallel *parallel, struct cs_error *err);
void model_destroy(struct model *model);
/* As serving does: no dropout, running statistics, generated behaviors for new users (once a leader where batch->leader is set).
 * click_probability [batch->size]. scratch is not reset. */
void model_score(struct model *model, const struct batch *batch, const struct model_rows *rows, struct arena *scratch,
                 float *click_probability);
/* Every parameter and statistic once, no optimizer state (dense features' running mean and variance included). */
bool model_tensors(struct model *model, tensor_visitor *visit, void *self, struct cs_error *err);
/* To be called after parameters were written from outside: derived values (folded or summed weights) are made anew. */
void model_changed(struct model *model);

#endif
