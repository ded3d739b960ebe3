/* A ranking tower whose parameters stay, for scoring alone: normalisation folded into weights and shifts, weights laid
 * out for the product (core/layer_packed.h), and the first layer cut in two, so that what many examples share is
 * multiplied once:
 *
 *   z = | shared: z_a, dense_a, z_v, z_c, dense_c | own: z_t, dense_t |
 *
 * Layers are y = LeakyReLU(scale (weight x) + shift), then one dense output. Read-only once made: for any number of
 * threads. */
#ifndef CORE_RANKING_FIXED_H
#define CORE_RANKING_FIXED_H

#include "core/arena.h"
#include "core/error.h"
#include "core/layer_packed.h"
#include "core/options.h"

struct fixed_layer { size_t out, in; const float *weight, *scale, *shift; };       /* weight [out, in]; all borrowed */

struct fixed_tower;
/* layers <= LAYERS_MAX. output [in of the output layer], the last layer's out or, without layers, width. NULL when out
 * of memory. */
struct fixed_tower *fixed_tower_create(const struct fixed_layer *layer, size_t layers, const float *output, float bias,
                                       size_t width, size_t shared, struct cs_error *err);
void fixed_tower_destroy(struct fixed_tower *tower);
/* logit [n]. shared_z rows are ld_shared apart, 0: one for all; own_z rows ld_own apart. */
void fixed_tower_score(const struct fixed_tower *tower, size_t n, const float *shared_z, size_t ld_shared,
                       const float *own_z, size_t ld_own, float *logit, struct arena *scratch);

/* The same in two steps, for n examples of one user whose shared part is still being made: the product of their own
 * columns is a job to be done meanwhile, by packed_forward. False where there is none: by fixed_tower_score then. */
bool fixed_tower_begin(const struct fixed_tower *tower, size_t n, const float *own_z, size_t ld_own,
                       struct packed_job *job, struct arena *scratch);
void fixed_tower_end(const struct fixed_tower *tower, struct packed_job *job, const float *shared_z, float *logit,
                     struct arena *scratch);

#endif
