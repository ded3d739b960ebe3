/* Batch normalisation, column strip by column strip. */
#include "core/layer_batch_norm.h"

#include <math.h>

#include "core/layer_dense.h"

#define EPSILON 1e-3f
#define MOMENTUM 0.995f

enum { STRIP = 256, GRAIN = 16 };   /* columns that a part works on at once; its sums stay in the first-level cache */

struct pass {
    const struct batch_norm *norm;
    size_t n;
    const float *x, *y_read, *mean_read, *variance_read;
    float *y, *mean, *variance;
};

void batch_norm_add(struct batch_norm *norm, struct parameter_set *set, size_t width, const char *prefix, size_t index)
{
    norm->width = width;
    norm->gamma =
        parameter_add(set, PARAMETER_RANKING, TENSOR_SCORING, START_ONE, width, 0, "%s.norm.%zu.gamma", prefix, index);
    norm->beta =
        parameter_add(set, PARAMETER_RANKING, TENSOR_SCORING, START_ZERO, width, 0, "%s.norm.%zu.beta", prefix, index);
    norm->mean = parameter_add(set, PARAMETER_STATISTIC, TENSOR_SCORING, START_ZERO, width, 0, "%s.norm.%zu.mean",
                               prefix, index);
    norm->variance = parameter_add(set, PARAMETER_STATISTIC, TENSOR_SCORING, START_ONE, width, 0,
                                   "%s.norm.%zu.variance", prefix, index);
}

/* y = leaky(gamma (x - mean) / sqrt(variance + epsilon) + beta) for one strip of columns. */
static void normalise(const struct pass *p, size_t strip, size_t width, const float *mean, const float *variance)
{
    float scale[STRIP], shift[STRIP];
    for (size_t j = 0; j < width; j++) {
        scale[j] = p->norm->gamma->value[strip + j] / sqrtf(variance[j] + EPSILON);
        shift[j] = p->norm->beta->value[strip + j];
    }
    for (size_t i = 0; i < p->n; i++) {
        const float *restrict x = p->x + i * p->norm->width + strip;
        float *restrict y = p->y + i * p->norm->width + strip;
        for (size_t j = 0; j < width; j++) y[j] = leaky_relu((x[j] - mean[j]) * scale[j] + shift[j]);
    }
}

void batch_norm_fold(const struct batch_norm *norm, float *scale, float *shift)
{
    for (size_t j = 0; j < norm->width; j++) {
        scale[j] = norm->gamma->value[j] / sqrtf(norm->variance->value[j] + EPSILON);
        shift[j] = norm->beta->value[j] - norm->mean->value[j] * scale[j];
    }
}

static void score_part(void *argument, size_t part, size_t parts)
{
    const struct pass *p = argument;
    size_t begin, end;
    parallel_share(p->norm->width, GRAIN, part, parts, &begin, &end);
    for (size_t strip = begin; strip < end; strip += STRIP) {
        size_t width = end - strip < STRIP ? end - strip : STRIP;
        normalise(p, strip, width, p->norm->mean->value + strip, p->norm->variance->value + strip);
    }
}

void batch_norm_score(const struct compute *compute, const struct batch_norm *norm, size_t n, const float *x, float *y)
{
    struct pass pass = { .norm = norm, .n = n, .x = x, .y = y };
    compute_run(compute, n * norm->width, score_part, &pass);
}

static void forward_part(void *argument, size_t part, size_t parts)
{
    const struct pass *p = argument;
    size_t begin, end, columns = p->norm->width;
    parallel_share(columns, GRAIN, part, parts, &begin, &end);
    for (size_t strip = begin; strip < end; strip += STRIP) {
        size_t width = end - strip < STRIP ? end - strip : STRIP;
        double sum[STRIP] = { 0 }, squares[STRIP] = { 0 };
        for (size_t i = 0; i < p->n; i++)
            for (size_t j = 0; j < width; j++) sum[j] += (double)p->x[i * columns + strip + j];
        for (size_t j = 0; j < width; j++) sum[j] /= (double)p->n;
        for (size_t i = 0; i < p->n; i++)
            for (size_t j = 0; j < width; j++) {
                double away = (double)p->x[i * columns + strip + j] - sum[j];
                squares[j] += away * away;
            }
        for (size_t j = 0; j < width; j++) {
            p->mean[strip + j] = (float)sum[j];
            p->variance[strip + j] = (float)(squares[j] / (double)p->n);
        }
        normalise(p, strip, width, p->mean + strip, p->variance + strip);
    }
}

void batch_norm_forward(const struct compute *compute, const struct batch_norm *norm, size_t n, const float *x,
                        float *y, float *mean, float *variance)
{
    struct pass pass = { .norm = norm, .n = n, .x = x, .y = y, .mean = mean, .variance = variance };
    compute_run(compute, 3 * n * norm->width, forward_part, &pass);
}

static void backward_part(void *argument, size_t part, size_t parts)
{
    const struct pass *p = argument;
    size_t begin, end, columns = p->norm->width;
    parallel_share(columns, GRAIN, part, parts, &begin, &end);
    for (size_t strip = begin; strip < end; strip += STRIP) {
        size_t width = end - strip < STRIP ? end - strip : STRIP;
        double dbeta[STRIP] = { 0 }, dgamma[STRIP] = { 0 };
        float inverse[STRIP], scale[STRIP], offset[STRIP], slope[STRIP];
        const float *mean = p->mean_read + strip;
        for (size_t j = 0; j < width; j++) inverse[j] = 1.0f / sqrtf(p->variance_read[strip + j] + EPSILON);
        for (size_t i = 0; i < p->n; i++) {
            float *restrict dy = p->y + i * columns + strip;
            const float *restrict y = p->y_read + i * columns + strip, *restrict x = p->x + i * columns + strip;
            for (size_t j = 0; j < width; j++) {
                dy[j] *= y[j] > 0.0f ? 1.0f : LEAKY_SLOPE;
                dbeta[j] += (double)dy[j];
                dgamma[j] += (double)(dy[j] * ((x[j] - mean[j]) * inverse[j]));
            }
        }
        /* dx = gamma inverse (dy - mean(dy) - x^ mean(dy x^)) */
        for (size_t j = 0; j < width; j++) {
            p->norm->beta->gradient[strip + j] = (float)dbeta[j];
            p->norm->gamma->gradient[strip + j] = (float)dgamma[j];
            scale[j] = p->norm->gamma->value[strip + j] * inverse[j];
            offset[j] = (float)(dbeta[j] / (double)p->n);
            slope[j] = inverse[j] * (float)(dgamma[j] / (double)p->n);
        }
        for (size_t i = 0; i < p->n; i++) {
            float *restrict dy = p->y + i * columns + strip;
            const float *restrict x = p->x + i * columns + strip;
            for (size_t j = 0; j < width; j++) dy[j] = scale[j] * (dy[j] - offset[j] - (x[j] - mean[j]) * slope[j]);
        }
    }
}

void batch_norm_backward(const struct compute *compute, const struct batch_norm *norm, size_t n, const float *x,
                         const float *y, const float *mean, const float *variance, float *dy)
{
    struct pass pass = {
        .norm = norm, .n = n, .x = x, .y_read = y, .mean_read = mean, .variance_read = variance, .y = dy
    };
    compute_run(compute, 3 * n * norm->width, backward_part, &pass);
}

void batch_norm_update_running(struct batch_norm *norm, const float *mean, const float *variance)
{
    for (size_t j = 0; j < norm->width; j++) {
        norm->mean->value[j] = MOMENTUM * norm->mean->value[j] + (1.0f - MOMENTUM) * mean[j];
        norm->variance->value[j] = MOMENTUM * norm->variance->value[j] + (1.0f - MOMENTUM) * variance[j];
    }
}
