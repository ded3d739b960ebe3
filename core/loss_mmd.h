/* How far apart the two auto-encoders' hidden codes are: squared maximum mean discrepancy, Gaussian kernel, biased
 * estimate.
 *   code [2n, width]: n user codes, then n behavior codes, row-major, n >= 1      sigma > 0, in units of the codes
 * Returns L_d >= 0 (but for rounding), no unit, summed in double, and adds its gradient to dcode [2n, width]. Takes
 * 3 n x n + 4 n x width floats of scratch, costs 7 products of n x n x width.
 * Source: MAIL, arXiv:2108.13592, eq 5-6. */
#ifndef CORE_LOSS_MMD_H
#define CORE_LOSS_MMD_H

#include "core/arena.h"
#include "core/gemm.h"

double mmd(const struct compute *compute, const float *code, size_t n, size_t width, double sigma, float *dcode,
           struct arena *scratch);

#endif
