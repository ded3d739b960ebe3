/* The two towers wired together: what scoring needs, without tables, optimizers or memory of steps. The learner trains
 * one; libcoldstream fills one from a checkpoint. */
#ifndef CORE_MODEL_H
#define CORE_MODEL_H

#include "core/batch.h"
#include "core/options.h"
#include "core/parallel.h"
#include "core/parameter.h"
#include "core/tensor.h"
#include "core/zero_shot_tower.h"

/* What the ranking tower reads of an example, by groups: pooled vectors of d floats, each followed by its group's dense
 * features, standardised by the running mean and variance as they were before the batch and clipped to 5 either way:
 *
 *   z = | z_a | dense_a | z_v | z_c | dense_c | z_t | dense_t |
 *
 * All four pooled vectors are always there. A dense feature that is absent counts 0 (after standardising); fewer than
 * two values seen: mean 0, variance 1. A value without a row counts as absent: zeros, masked in attention, and not
 * counted in a multi-valued feature's mean. */

struct model_layout { size_t width, group_offset[GROUPS], behavior_offset; };
struct model_layout model_layout(const struct features *features, size_t dimension);

/* The batch's rows as the model reads them: for each table row[count, d], and whether the key has a row at all (an
 * absent one is zeros, and masked in attention). */
struct model_rows { const float *row; const uint8_t *present; };

struct model;
/* Parameters are 0, to be started or read. parallel is borrowed for life. */
struct model *model_create(const struct features *features, size_t dimension, const struct model_options *options,
                           struct parallel *parallel, struct cs_error *err);
/* Where learning starts: weights Glorot-uniform by (seed, canonical name), variances and scales 1, biases 0. */
void model_start(struct model *model, uint64_t seed);
void model_destroy(struct model *model);
/* Every parameter and statistic once, no optimizer state (dense features' running mean and variance included). */
bool model_tensors(struct model *model, tensor_visitor *visit, void *self, struct cs_error *err);
/* To be called after parameters were written from outside: derived values (folded or summed weights) are made anew. */
void model_changed(struct model *model);

/* ---- Scoring with parameters that stay: one user with many candidates, or many impressions. Rows are given by
 * address, so that they can lie in a mapped file. ---- */

/* What an example has besides its item. Values in the order of the columns, user's then context's; row, behavior: NULL
 * where a key has no row. */
struct model_shared {
    const uint8_t *count;           /* values of each column */
    const float *const *row;        /* of all values, end to end */
    const float *dense;             /* of both groups, NaN where absent */
    const float *const *behavior;
    size_t behavior_count;          /* 0: a new user */
};
struct model_own { const uint8_t *count; const float *const *row; const float *dense; };       /* the item's */

/* Once the parameters are there, and after each change of them: lays them out. */
bool model_fix(struct model *model, struct cs_error *err);
/* As model_forward_score, to rounding. shared_count: 1, or count. Any number of threads at once, each with a scratch of
 * its own (not reset); no lock. */
void model_score_fixed(struct model *model, const struct model_shared *shared, size_t shared_count,
                       const struct model_own *own, size_t count, struct arena *scratch, float *click_probability);

/* ---- The learner's part: a step in pieces. A pass is one batch on its way through the towers, in the scratch arena.
 * ---- */

struct model_pass;

struct parameter_set *model_parameters(struct model *model);
/* Matrix products are noted in it until NULL is set. */
void model_record(struct model *model, struct gemm_recorder *recorder);
size_t model_bytes(const struct model *model);

/* As serving does: no dropout, running statistics, generated behaviors for new users. click_probability
 * [batch->size]. Returns the pass that learning goes on from, or that ends with scratch, which is not reset. rows is
 * borrowed until the pass is done. */
struct model_pass *model_forward_score(struct model *model, const struct batch *batch, const struct model_rows *rows,
                                       struct arena *scratch, float *click_probability);
/* Rows came to be since: changed[i] says that example i reads one of them. */
void model_refresh(struct model *model, struct model_pass *pass, const uint8_t *changed, struct arena *scratch);
/* Ranking forward and backward: sets the gradients of the group PARAMETER_RANKING. Returns the mean loss. */
double model_train_ranking(struct model *model, struct model_pass *pass, uint64_t seed, uint64_t step,
                           struct arena *scratch);
/* The gradient of table's rows [batch->table[table].count, d], after model_train_ranking. */
void model_row_gradient(struct model *model, struct model_pass *pass, size_t table, float *gradient,
                        struct arena *scratch);
/* False where the ranking loss's gradient by z has an infinite or NaN. */
bool model_gradient_finite(const struct model *model, const struct model_pass *pass);
/* Does this model's zero-shot tower learn from old users? */
bool model_trains_zero_shot(const struct model *model);
/* Zero-shot forward and backward on these (old users') examples, >= 2: sets the gradients of the group
 * PARAMETER_ZERO_SHOT. */
struct zero_shot_loss model_train_zero_shot(struct model *model, struct model_pass *pass, const uint32_t *example,
                                            size_t count, uint64_t seed, uint64_t step, struct arena *scratch);
/* The step counts: running statistics take in the batch's. */
void model_commit(struct model *model, struct model_pass *pass);

#endif
