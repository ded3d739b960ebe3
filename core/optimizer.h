/* One rule a parameter group: Adam, Adagrad, FTRL-Proximal, SGD; the same kernels serve dense parameters and rows. */
#ifndef CORE_OPTIMIZER_H
#define CORE_OPTIMIZER_H

#include <stddef.h>
#include <stdint.h>

#include "core/options.h"

/* Floats of state for each parameter: adam 2 (m, v), adagrad 1 (v: accumulated squares), ftrl 2 (m: z, v: n), sgd 0. */
size_t optimizer_state_count(enum optimizer_kind kind);
/* What a fresh v holds (adagrad and ftrl: initial_accumulator; else 0). */
float optimizer_initial_v(const struct optimizer_options *options);

/* One update of n parameters. step counts from 1 (this update's number). m, v may be NULL where the kind has none.
 * Element by element, so any split over threads gives the same bytes. */
void optimizer_update(const struct optimizer_options *options, uint64_t step, float *parameter, const float *gradient,
                      float *m, float *v, size_t n);

/* What depends on the step alone (adam: 1 / (1 - beta^step), in double, then rounded; others: nothing), for those who
 * update many short rows and keep it. optimizer_update is optimizer_apply with optimizer_correction. */
struct optimizer_correction { float m, v; };
struct optimizer_correction optimizer_correction(const struct optimizer_options *options, uint64_t step);
void optimizer_apply(const struct optimizer_options *options, struct optimizer_correction correction, float *parameter,
                     const float *gradient, float *m, float *v, size_t n);

#endif
