/* Matrix products over several processors: C is split by rows or columns (whichever it has more of), each part one call
 * of a single-threaded OpenBLAS, so nothing is reduced across parts. The owner holds OpenBLAS to one thread. */
#ifndef CORE_GEMM_H
#define CORE_GEMM_H

#include <stdbool.h>
#include <stddef.h>

#include "core/parallel.h"

/* What was multiplied, for a bench that times the bare products: C[m, n] (+)= op(A)[m, k] op(B)[k, n]. */
struct gemm_shape { size_t m, n, k; bool transpose_a, transpose_b; };
enum { GEMM_SHAPES_MAX = 256 };
struct gemm_recorder { struct gemm_shape shape[GEMM_SHAPES_MAX]; size_t count; };     /* beyond the bound: not noted */

/* What every layer computes with. */
struct compute {
    struct parallel *parallel;
    struct gemm_recorder *recorder;     /* NULL: nobody is asking */
    struct packed_job *beside;          /* NULL, or what packed layers of few rows do meanwhile (core/layer_packed.h) */
};

/* C = op(A) op(B) + beta C, row-major, ld in floats; op transposes where asked: A is then stored [k, m], B [n, k]. */
void gemm(const struct compute *compute, bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k,
          const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);

/* Runs task over `compute->parallel`, or on the caller alone where `work` (about so many operations) is not worth a
 * hand-over. */
void compute_run(const struct compute *compute, size_t work, parallel_task *task, void *argument);

#endif
