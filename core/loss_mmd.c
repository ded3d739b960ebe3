/* MMD through Gram matrices. With s_ij = +1/n^2 inside a side and -1/n^2 across, and K the kernel matrix of all 2n
 * codes: L = sum s_ij K_ij        dL/dx_i = -(2 / sigma^2) (x_i sum_j s_ij K_ij - sum_j s_ij K_ij x_j) */
#include "core/loss_mmd.h"

#include "core/vector_math.h"

struct task {
    size_t n, width;
    const float *code;
    float *square;                      /* [2n] squared lengths */
    float *block[3];                    /* user-user, user-behavior, behavior-behavior: products, then signed kernels */
    double *row_sum[4];                 /* uu, ub by rows; bu, bb by rows */
    float scale;                        /* -1 / (2 sigma^2) */
    float factor;                       /* 2 / (sigma^2 n^2) */
    float *dcode;
};

static void squares_part(void *argument, size_t part, size_t parts)
{
    const struct task *t = argument;
    size_t begin, end;
    parallel_share(2 * t->n, 1, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        double sum = 0.0;
        for (size_t j = 0; j < t->width; j++)
            sum += (double)t->code[i * t->width + j] * (double)t->code[i * t->width + j];
        t->square[i] = (float)sum;
    }
}

/* Kernel values in place of the products, and each row's sum. */
static void kernel_part(void *argument, size_t part, size_t parts)
{
    const struct task *t = argument;
    size_t begin, end;
    parallel_share(t->n, 1, part, parts, &begin, &end);
    for (size_t b = 0; b < 3; b++)
        for (size_t i = begin; i < end; i++) {
            float *restrict k = t->block[b] + i * t->n;
            const float *restrict square = t->square + (b ? t->n : 0);
            float own = t->square[b == 2 ? t->n + i : i];
            for (size_t j = 0; j < t->n; j++) {
                float distance = own + square[j] - 2.0f * k[j];
                k[j] = vector_exp1(t->scale * (distance > 0.0f ? distance : 0.0f));
            }
            if (b != 1) k[i] = 1.0f;
            double sum = 0.0;
            for (size_t j = 0; j < t->n; j++) sum += (double)k[j];
            t->row_sum[b == 2 ? 3 : b][i] = sum;
        }
}

enum { STRIP = 32 };

static void column_sums_part(void *argument, size_t part, size_t parts)
{
    const struct task *t = argument;
    size_t begin, end;
    parallel_share(t->n, STRIP, part, parts, &begin, &end);
    for (size_t j = begin; j < end; j++) t->row_sum[2][j] = 0.0;
    for (size_t i = 0; i < t->n; i++)
        for (size_t j = begin; j < end; j++) t->row_sum[2][j] += (double)t->block[1][i * t->n + j];
}

/* within - across: n^2 sum_j s_ij K_ij x_j. Here it is joined with x_i's own share. */
struct join { const struct task *task; const float *within, *across; };

static void join_part(void *argument, size_t part, size_t parts)
{
    const struct join *join = argument;
    const struct task *t = join->task;
    size_t begin, end;
    parallel_share(2 * t->n, 1, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        double sum = i < t->n ? t->row_sum[0][i] - t->row_sum[1][i] : t->row_sum[3][i - t->n] - t->row_sum[2][i - t->n];
        const float *restrict x = t->code + i * t->width, *restrict within = join->within + i * t->width,
                    *restrict across = join->across + i * t->width;
        float *restrict d = t->dcode + i * t->width, own = (float)sum;
        for (size_t j = 0; j < t->width; j++) d[j] -= t->factor * (own * x[j] - (within[j] - across[j]));
    }
}

double mmd(const struct compute *compute, const float *code, size_t n, size_t width, double sigma, float *dcode,
           struct arena *scratch)
{
    const float *behavior = code + n * width;
    struct task t = { .n = n,
                      .width = width,
                      .code = code,
                      .dcode = dcode,
                      .square = arena_take(scratch, 2 * n * sizeof(float)),
                      .scale = (float)(-0.5 / (sigma * sigma)),
                      .factor = (float)(2.0 / (sigma * sigma * (double)n * (double)n)) };
    for (size_t b = 0; b < 3; b++) t.block[b] = arena_take(scratch, n * n * sizeof(float));
    for (size_t b = 0; b < 4; b++) t.row_sum[b] = arena_take(scratch, n * sizeof(double));
    compute_run(compute, 2 * n * width, squares_part, &t);
    gemm(compute, false, true, n, n, width, code, width, code, width, 0.0f, t.block[0], n);
    gemm(compute, false, true, n, n, width, code, width, behavior, width, 0.0f, t.block[1], n);
    gemm(compute, false, true, n, n, width, behavior, width, behavior, width, 0.0f, t.block[2], n);
    compute_run(compute, 10 * n * n, kernel_part, &t);
    compute_run(compute, n * n, column_sums_part, &t);
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += t.row_sum[0][i] - 2.0 * t.row_sum[1][i] + t.row_sum[3][i];

    float *within = arena_take(scratch, 2 * n * width * sizeof(float)),
          *across = arena_take(scratch, 2 * n * width * sizeof(float));
    gemm(compute, false, false, n, width, n, t.block[0], n, code, width, 0.0f, within, width);
    gemm(compute, false, false, n, width, n, t.block[2], n, behavior, width, 0.0f, within + n * width, width);
    gemm(compute, false, false, n, width, n, t.block[1], n, behavior, width, 0.0f, across, width);
    gemm(compute, true, false, n, width, n, t.block[1], n, code, width, 0.0f, across + n * width, width);
    struct join join = { &t, within, across };
    compute_run(compute, 4 * n * width, join_part, &join);
    return sum / ((double)n * (double)n);
}
