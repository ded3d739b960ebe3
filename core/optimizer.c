/* The four update rules. One plain loop each, without branches, that the compiler turns into vector code. */
#include "core/optimizer.h"

#include <assert.h>
#include <math.h>

size_t optimizer_state_count(enum optimizer_kind kind)
{
    switch (kind) {
    case OPTIMIZER_ADAM: case OPTIMIZER_FTRL: return 2;
    case OPTIMIZER_ADAGRAD: return 1;
    case OPTIMIZER_SGD: return 0;
    }
    return 0;
}

float optimizer_initial_v(const struct optimizer_options *options)
{
    bool accumulates = options->kind == OPTIMIZER_ADAGRAD || options->kind == OPTIMIZER_FTRL;
    return accumulates ? (float)options->initial_accumulator : 0.0f;
}

struct optimizer_correction optimizer_correction(const struct optimizer_options *options, uint64_t step)
{
    if (options->kind != OPTIMIZER_ADAM) return (struct optimizer_correction){ 1.0f, 1.0f };
    assert(step > 0);
    return (struct optimizer_correction){ (float)(1.0 / (1.0 - pow(options->beta1, (double)step))),
                                          (float)(1.0 / (1.0 - pow(options->beta2, (double)step))) };
}

static void adam(const struct optimizer_options *options, struct optimizer_correction correction,
                 float *restrict parameter,
                 const float *restrict gradient, float *restrict m, float *restrict v, size_t n)
{
    float rate = (float)options->learning_rate, epsilon = (float)options->epsilon;
    float keep_m = (float)options->beta1, take_m = (float)(1.0 - options->beta1);
    float keep_v = (float)options->beta2, take_v = (float)(1.0 - options->beta2);
    for (size_t i = 0; i < n; i++) {
        float g = gradient[i];
        float first = keep_m * m[i] + take_m * g;
        float second = keep_v * v[i] + take_v * (g * g);
        m[i] = first;
        v[i] = second;
        parameter[i] -= rate * (first * correction.m) / (sqrtf(second * correction.v) + epsilon);
    }
}

static void adagrad(const struct optimizer_options *options, float *restrict parameter, const float *restrict gradient,
                    float *restrict v, size_t n)
{
    float rate = (float)options->learning_rate, epsilon = (float)options->epsilon;
    for (size_t i = 0; i < n; i++) {
        float g = gradient[i], sum = v[i] + g * g;
        v[i] = sum;
        parameter[i] -= rate * g / (sqrtf(sum) + epsilon);
    }
}

/* McMahan et al. 2013, algorithm 1: z in m, n in v. */
static void ftrl(const struct optimizer_options *options, float *restrict parameter, const float *restrict gradient,
                 float *restrict z, float *restrict squares, size_t n)
{
    float inverse_rate = (float)(1.0 / options->learning_rate), beta = (float)options->beta;
    float l1 = (float)options->l1, l2 = (float)options->l2;
    for (size_t i = 0; i < n; i++) {
        float g = gradient[i], sum = squares[i] + g * g;
        float root = sqrtf(sum), both = root + sqrtf(squares[i]);
        float sigma = both > 0.0f ? g * g / both * inverse_rate : 0.0f; /* root less the root before it, uncancelled */
        float linear = z[i] + (g - sigma * parameter[i]);
        float beyond = fabsf(linear) - l1;
        z[i] = linear;
        squares[i] = sum;
        parameter[i] = -copysignf(beyond > 0.0f ? beyond : 0.0f, linear) / ((beta + root) * inverse_rate + l2);
    }
}

static void sgd(const struct optimizer_options *options, float *restrict parameter, const float *restrict gradient,
                size_t n)
{
    float rate = (float)options->learning_rate;
    for (size_t i = 0; i < n; i++) parameter[i] -= rate * gradient[i];
}

void optimizer_apply(const struct optimizer_options *options, struct optimizer_correction correction, float *parameter,
                     const float *gradient, float *m, float *v, size_t n)
{
    switch (options->kind) {
    case OPTIMIZER_ADAM: adam(options, correction, parameter, gradient, m, v, n); break;
    case OPTIMIZER_ADAGRAD: adagrad(options, parameter, gradient, v, n); break;
    case OPTIMIZER_FTRL: ftrl(options, parameter, gradient, m, v, n); break;
    case OPTIMIZER_SGD: sgd(options, parameter, gradient, n); break;
    }
}

void optimizer_update(const struct optimizer_options *options, uint64_t step, float *parameter, const float *gradient,
                      float *m, float *v, size_t n)
{
    optimizer_apply(options, optimizer_correction(options, step), parameter, gradient, m, v, n);
}
