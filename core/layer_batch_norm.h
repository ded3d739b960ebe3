/* Batch normalisation with the LeakyReLU after it (numerics.md, section 4).
 *   x, y [n, width], both dense; statistics over the n rows, biased variance, epsilon 1e-3
 * A batch of one row has variance 0. Columns are independent and split over processors. */
#ifndef CORE_LAYER_BATCH_NORM_H
#define CORE_LAYER_BATCH_NORM_H

#include "core/gemm.h"
#include "core/parameter.h"

struct batch_norm { struct parameter *gamma, *beta, *mean, *variance; size_t width; };

void batch_norm_add(struct batch_norm *norm, struct parameter_set *set, size_t width, const char *prefix, size_t index);
/* By the running statistics. */
void batch_norm_score(const struct compute *compute, const struct batch_norm *norm, size_t n, const float *x, float *y);
/* By the running statistics again, as scale and shift [width]: y = leaky(scale x + shift). */
void batch_norm_fold(const struct batch_norm *norm, float *scale, float *shift);
/* By the batch's own: mean, variance [width] are filled. */
void batch_norm_forward(const struct compute *compute, const struct batch_norm *norm, size_t n, const float *x,
                        float *y, double *mean, double *variance);
/* dy = dL/dy becomes dL/dx in place; gamma's and beta's gradients are set. */
void batch_norm_backward(const struct compute *compute, const struct batch_norm *norm, size_t n, const float *x,
                         const float *y, const double *mean, const double *variance, float *dy);
/* y [n, width] = x less its columns' means: what the dense layer before the norm takes its weights' gradient from.
 * dL/dx of the norm sums to zero over the rows, so the means contribute nothing but the rounding of that zero; where
 * all rows have one value it would be all there is, and Adam would move the weight by it. */
void batch_norm_centre(const struct compute *compute, size_t n, size_t width, const float *x, float *y);
/* The columns' means [width] alone. */
void batch_norm_means(const struct compute *compute, size_t n, size_t width, const float *x, double *mean);
/* running = 0.995 running + 0.005 batch. */
void batch_norm_update_running(struct batch_norm *norm, const double *mean, const double *variance);

#endif
