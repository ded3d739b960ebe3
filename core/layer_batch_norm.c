/* Batch normalisation, column strip by column strip. */
#include "core/layer_batch_norm.h"

#include <math.h>

#include "core/layer_dense.h"

#define EPSILON 1e-3
#define MOMENTUM 0.995

enum { STRIP = 256, GRAIN = 16 };   /* columns that a part works on at once; its sums stay in the first-level cache */

struct pass {
    const struct batch_norm *norm;
    size_t n, columns;
    const float *x, *y_read;
    const double *mean_read, *variance_read;
    float *y;
    double *mean, *variance;
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
        scale[j] = p->norm->gamma->value[strip + j] / sqrtf(variance[j] + (float)EPSILON);
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
        scale[j] = norm->gamma->value[j] / sqrtf(norm->variance->value[j] + (float)EPSILON);
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
        float mean[STRIP] = { 0 }, variance[STRIP] = { 0 };
        for (size_t i = 0; i < p->n; i++)
            for (size_t j = 0; j < width; j++) sum[j] += (double)p->x[i * columns + strip + j];
        for (size_t j = 0; j < width; j++) sum[j] /= (double)p->n;
        for (size_t i = 0; i < p->n; i++)
            for (size_t j = 0; j < width; j++) {
                double away = (double)p->x[i * columns + strip + j] - sum[j];
                squares[j] += away * away;
            }
        for (size_t j = 0; j < width; j++) {
            p->mean[strip + j] = sum[j];
            p->variance[strip + j] = squares[j] / (double)p->n;
            mean[j] = (float)p->mean[strip + j];
            variance[j] = (float)p->variance[strip + j];
        }
        normalise(p, strip, width, mean, variance);
    }
}

void batch_norm_forward(const struct compute *compute, const struct batch_norm *norm, size_t n, const float *x,
                        float *y, double *mean, double *variance)
{
    struct pass pass = { .norm = norm, .n = n, .x = x, .y = y, .mean = mean, .variance = variance };
    compute_run(compute, 3 * n * norm->width, forward_part, &pass);
}

/* In doubles: dy - mean(dy) - x^ mean(dy x^) is what is left where nearly all cancels. Of two rows that are far apart
 * the share epsilon / variance is left: floats would have three digits of it, or none. */
static void backward_part(void *argument, size_t part, size_t parts)
{
    const struct pass *p = argument;
    size_t begin, end, columns = p->norm->width;
    parallel_share(columns, GRAIN, part, parts, &begin, &end);
    for (size_t strip = begin; strip < end; strip += STRIP) {
        size_t width = end - strip < STRIP ? end - strip : STRIP;
        double dbeta[STRIP] = { 0 }, dgamma[STRIP] = { 0 }, scale[STRIP], offset[STRIP], slope[STRIP];
        const double *mean = p->mean_read + strip;
        for (size_t i = 0; i < p->n; i++) {
            float *restrict dy = p->y + i * columns + strip;
            const float *restrict y = p->y_read + i * columns + strip, *restrict x = p->x + i * columns + strip;
            for (size_t j = 0; j < width; j++) {
                dy[j] *= y[j] > 0.0f ? 1.0f : LEAKY_SLOPE;
                dbeta[j] += (double)dy[j];
                dgamma[j] += (double)dy[j] * ((double)x[j] - mean[j]);
            }
        }
        /* dx = gamma inverse (dy - mean(dy) - x^ mean(dy x^)), x^ = inverse (x - mean) */
        for (size_t j = 0; j < width; j++) {
            double inverse = 1.0 / sqrt(p->variance_read[strip + j] + EPSILON);
            p->norm->beta->gradient[strip + j] = (float)dbeta[j];
            p->norm->gamma->gradient[strip + j] = (float)(inverse * dgamma[j]);
            scale[j] = (double)p->norm->gamma->value[strip + j] * inverse;
            offset[j] = dbeta[j] / (double)p->n;
            slope[j] = inverse * inverse * dgamma[j] / (double)p->n;
        }
        for (size_t i = 0; i < p->n; i++) {
            float *restrict dy = p->y + i * columns + strip;
            const float *restrict x = p->x + i * columns + strip;
            for (size_t j = 0; j < width; j++)
                dy[j] = (float)(scale[j] * ((double)dy[j] - offset[j] - ((double)x[j] - mean[j]) * slope[j]));
        }
    }
}

void batch_norm_backward(const struct compute *compute, const struct batch_norm *norm, size_t n, const float *x,
                         const float *y, const double *mean, const double *variance, float *dy)
{
    struct pass pass = {
        .norm = norm, .n = n, .x = x, .y_read = y, .mean_read = mean, .variance_read = variance, .y = dy
    };
    compute_run(compute, 3 * n * norm->width, backward_part, &pass);
}

/* The columns' means: written down, or taken off. */
static void means_part(void *argument, size_t part, size_t parts)
{
    const struct pass *p = argument;
    size_t begin, end, columns = p->columns;
    parallel_share(columns, GRAIN, part, parts, &begin, &end);
    for (size_t strip = begin; strip < end; strip += STRIP) {
        size_t width = end - strip < STRIP ? end - strip : STRIP;
        double sum[STRIP] = { 0 };
        for (size_t i = 0; i < p->n; i++)
            for (size_t j = 0; j < width; j++) sum[j] += (double)p->x[i * columns + strip + j];
        for (size_t j = 0; j < width; j++) sum[j] /= (double)p->n;
        for (size_t j = 0; p->mean && j < width; j++) p->mean[strip + j] = sum[j];
        for (size_t i = 0; p->y && i < p->n; i++) {
            const float *restrict x = p->x + i * columns + strip;
            float *restrict y = p->y + i * columns + strip;
            for (size_t j = 0; j < width; j++) y[j] = (float)((double)x[j] - sum[j]);
        }
    }
}

void batch_norm_means(const struct compute *compute, size_t n, size_t width, const float *x, double *mean)
{
    struct pass pass = { .n = n, .columns = width, .x = x, .mean = mean };
    compute_run(compute, n * width, means_part, &pass);
}

void batch_norm_centre(const struct compute *compute, size_t n, size_t width, const float *x, float *y)
{
    struct pass pass = { .n = n, .columns = width, .x = x, .y = y };
    compute_run(compute, 2 * n * width, means_part, &pass);
}

void batch_norm_update_running(struct batch_norm *norm, const double *mean, const double *variance)
{
    for (size_t j = 0; j < norm->width; j++) {
        norm->mean->value[j] = (float)(MOMENTUM * (double)norm->mean->value[j] + (1.0 - MOMENTUM) * mean[j]);
        norm->variance->value[j] =
            (float)(MOMENTUM * (double)norm->variance->value[j] + (1.0 - MOMENTUM) * variance[j]);
    }
}
