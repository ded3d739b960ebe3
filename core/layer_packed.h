/* Dense layers for scoring alone: parameters that stay are laid out once, in the order in which a product reads them,
 * with whatever can be folded in (normalisation) folded in.
 *
 *   panel p   columns (outputs) 64 p .. 64 p + 63:   | k 0: 64 floats | k 1: 64 floats | ...
 *             the last one has what is left, padded with zeros to a multiple of 16
 *
 *   y[i, j] = activation(start[i, j] + sum over k of x[i, k] weight[j, k])
 *
 * Written with vectors of 16 floats: one register where the processor has AVX-512 (looked up at run time), two of AVX2
 * and four of SSE or NEON elsewhere. Sums run over k in ascending order on each of them. */
#ifndef CORE_LAYER_PACKED_H
#define CORE_LAYER_PACKED_H

#include <stdbool.h>
#include <stddef.h>

struct packed;

enum { PACKED_PANEL = 64 };

/* weight [out, in] with rows ld apart; scale [out], NULL: 1. NULL when out of memory. */
struct packed *packed_create(size_t out, size_t in, const float *weight, size_t ld, const float *scale);
/* From now on by the product that every processor has: for tests and comparisons. */
void packed_narrow(struct packed *packed);
void packed_destroy(struct packed *packed);

/* A product. Callers set all but `done`, which starts at 0. y [n, out] with rows ldy apart. start: rows ld_start apart,
 * 0: one for all; may be y itself; NULL: zeros. leaky: LeakyReLU, else none. */
struct packed_job {
    const struct packed *packed;
    size_t n;
    const float *x, *start;
    float *y;
    size_t ldx, ld_start, ldy;
    bool leaky;
    size_t done;                    /* of its tiles */
};

/* beside (NULL: none): another product, of which some is done here. A product of a few rows waits for its weights to
 * come from memory, one of many waits for the processor: in turns, the second fetches what the first reads next. The
 * sums are the same to the bit. What of it is not done by then, packed_finish does. No other processor, no lock. */
void packed_forward(const struct packed *packed, size_t n, const float *x, size_t ldx, const float *start,
                    size_t ld_start, bool leaky, float *y, size_t ldy, struct packed_job *beside);
void packed_finish(struct packed_job *job);

#endif
