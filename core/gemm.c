/* Splitting of matrix products. */
#include "core/gemm.h"

#include <cblas.h>

enum { GRAIN = 16, WORTH_A_HAND_OVER = 20000 };

struct product {
    bool transpose_a, transpose_b;
    size_t m, n, k, lda, ldb, ldc;
    const float *a, *b;
    float beta, *c;
};

static void multiply(const struct product *p, size_t row, size_t rows, size_t column, size_t columns)
{
    if (!rows || !columns) return;
    const float *a = p->a + (p->transpose_a ? row : row * p->lda);
    const float *b = p->b + (p->transpose_b ? column * p->ldb : column);
    cblas_sgemm(CblasRowMajor, p->transpose_a ? CblasTrans : CblasNoTrans, p->transpose_b ? CblasTrans : CblasNoTrans,
                (int)rows, (int)columns, (int)p->k, 1.0f, a, (int)p->lda, b, (int)p->ldb, p->beta,
                p->c + row * p->ldc + column, (int)p->ldc);
}

static void multiply_part(void *argument, size_t part, size_t parts)
{
    const struct product *p = argument;
    size_t begin, end;
    if (p->m >= p->n) {
        parallel_share(p->m, GRAIN, part, parts, &begin, &end);
        multiply(p, begin, end - begin, 0, p->n);
    } else {
        parallel_share(p->n, GRAIN, part, parts, &begin, &end);
        multiply(p, 0, p->m, begin, end - begin);
    }
}

void compute_run(const struct compute *compute, size_t work, parallel_task *task, void *argument)
{
    if (work < WORTH_A_HAND_OVER || compute->parallel->width == 1) task(argument, 0, 1);
    else compute->parallel->run(compute->parallel, task, argument);
}

void gemm(const struct compute *compute, bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k,
          const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
    struct gemm_recorder *recorder = compute->recorder;
    if (recorder && recorder->count < GEMM_SHAPES_MAX)
        recorder->shape[recorder->count++] = (struct gemm_shape){ m, n, k, transpose_a, transpose_b };
    struct product product = { transpose_a, transpose_b, m, n, k, lda, ldb, ldc, a, b, beta, c };
    compute_run(compute, m * n * k / 8, multiply_part, &product);
}
