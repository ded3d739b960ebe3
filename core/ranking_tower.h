/* The tower that turns an example's pooled groups into logits: the interface that each kind fills in.
 *
 *   z [size, width] = | z_a | dense_a | z_v | z_c | dense_c | z_t | dense_t |      see core/model.h
 *
 * A step calls score, then (where rows came to be in between) refresh, then forward, backward and, if the step counts,
 * commit. The pass is the tower's own memory of one batch, in the scratch arena. A tower that needs more than z (rows
 * of a group, a generated sequence) gets it as further fields of ranking_input. */
#ifndef CORE_RANKING_TOWER_H
#define CORE_RANKING_TOWER_H

#include "core/arena.h"
#include "core/gemm.h"
#include "core/options.h"
#include "core/parameter.h"
#include "core/ranking_fixed.h"

struct ranking_input { size_t size, width; const float *z; };

struct ranking_tower;
struct ranking_pass;

struct ranking_tower_ops {
    enum ranking_kind kind;
    const char *name;               /* as in the configuration */
    size_t outputs;                 /* logits an example: 1; logit[output * size + i] */
    struct ranking_tower *(*create)(const struct ranking_options *options, size_t width, struct parameter_set *set,
                                    struct cs_error *err);
    void (*destroy)(struct ranking_tower *tower);
    /* As serving does. The pass may keep what forward can use again. */
    struct ranking_pass *(*score)(struct ranking_tower *tower, const struct compute *compute,
                                  const struct ranking_input *in, float *logit, struct arena *scratch);
    /* z of these examples is another than score saw. */
    void (*refresh)(struct ranking_tower *tower, const struct compute *compute, const struct ranking_input *in,
                    struct ranking_pass *pass, const uint32_t *example, size_t count, struct arena *scratch);
    /* As training does: dropout, the batch's own statistics. */
    void (*forward)(struct ranking_tower *tower, const struct compute *compute, const struct ranking_input *in,
                    struct ranking_pass *pass, uint64_t seed, uint64_t step, float *logit, struct arena *scratch);
    /* Sets the gradients of its parameters, and dz [size, width]. rounding [width] comes as zeros: where the columns of
     * dz sum to zero over the batch, as below a batch normalisation, it is set to their means, which are all that is
     * left of that zero. */
    void (*backward)(struct ranking_tower *tower, const struct compute *compute, const struct ranking_input *in,
                     struct ranking_pass *pass, const float *dlogit, float *dz, double *rounding,
                     struct arena *scratch);
    /* For scoring alone, while the parameters stay; shared: how many columns of z lead. NULL when out of memory. */
    struct fixed_tower *(*fix)(const struct ranking_tower *tower, size_t shared, struct cs_error *err);
    /* Running statistics take in the batch's. NULL: there are none. */
    void (*commit)(struct ranking_tower *tower, const struct ranking_pass *pass);
};

extern const struct ranking_tower_ops ranking_emb_lr, ranking_base_dnn;

/* CS_CONFIG where this build has no such tower, naming those that it has. */
const struct ranking_tower_ops *ranking_find(enum ranking_kind kind, struct cs_error *err);

#endif
