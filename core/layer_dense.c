/* Dense layers: a GEMM each way, and one pass over the rest. */
#include "core/layer_dense.h"

#include <string.h>

#include "core/layer_packed.h"

struct pass {
    enum activation activation;
    size_t n, width, ldx, ldy;
    const float *bias, *x;
    float *dbias, *y;
    bool add;
};

static void add_bias_part(void *argument, size_t part, size_t parts)
{
    const struct pass *p = argument;
    size_t begin, end;
    parallel_share(p->n, 1, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        float *restrict y = p->y + i * p->ldy;
        const float *restrict bias = p->bias;
        if (!bias) for (size_t j = 0; j < p->width; j++) y[j] = leaky_relu(y[j]);
        else if (p->activation == ACTIVATION_NONE) for (size_t j = 0; j < p->width; j++) y[j] += bias[j];
        else for (size_t j = 0; j < p->width; j++) y[j] = leaky_relu(y[j] + bias[j]);
    }
}

void dense_forward(const struct compute *compute, const struct parameter *weight, const struct parameter *bias,
                   enum activation activation, size_t n, const float *x, size_t ldx, float *y, size_t ldy)
{
    size_t out = weight->shape[0], in = weight->shape[1];
    if (weight->packed) {
        packed_forward(weight->packed, n, x, ldx, bias ? bias->value : NULL, 0, activation == ACTIVATION_LEAKY_RELU, y,
                       ldy, compute->beside);
        return;
    }
    gemm(compute, false, true, n, out, in, x, ldx, weight->value, in, 0.0f, y, ldy);
    if (!bias && activation == ACTIVATION_NONE) return;
    struct pass pass = {
        .activation = activation, .n = n, .width = out, .ldy = ldy, .y = y, .bias = bias ? bias->value : NULL
    };
    compute_run(compute, n * out, add_bias_part, &pass);
}

enum { STRIP = 512, GRAIN = 16 };      /* columns that a part sums at once */

/* By columns: the derivative of the activation and the bias's sum in one pass. */
static void backward_part(void *argument, size_t part, size_t parts)
{
    const struct pass *p = argument;
    size_t begin, end;
    parallel_share(p->width, GRAIN, part, parts, &begin, &end);
    for (size_t strip = begin; strip < end; strip += STRIP) {
        size_t width = end - strip < STRIP ? end - strip : STRIP;
        float sum[STRIP] = { 0 };
        for (size_t i = 0; i < p->n; i++) {
            float *restrict dy = p->y + i * p->ldy + strip;
            if (p->activation == ACTIVATION_LEAKY_RELU) {
                const float *restrict y = p->x + i * p->ldx + strip;
                for (size_t j = 0; j < width; j++) dy[j] *= y[j] > 0.0f ? 1.0f : LEAKY_SLOPE;
            }
            for (size_t j = 0; j < width; j++) sum[j] += dy[j];
        }
        if (p->dbias) memcpy(p->dbias + strip, sum, width * sizeof *sum);
    }
}

void dense_backward(const struct compute *compute, const struct parameter *weight, const struct parameter *bias,
                    enum activation activation, size_t n, const float *x, size_t ldx, const float *y, size_t ldy,
                    float *dy, size_t lddy, float dx_beta, float *dx, size_t lddx)
{
    size_t out = weight->shape[0], in = weight->shape[1];
    if (bias || activation != ACTIVATION_NONE) {
        struct pass pass = { .activation = activation, .n = n, .width = out, .ldx = ldy, .x = y, .ldy = lddy, .y = dy,
                             .dbias = bias ? bias->gradient : NULL };
        compute_run(compute, n * out, backward_part, &pass);
    }
    gemm(compute, true, false, out, in, n, dy, lddy, x, ldx, 0.0f, weight->gradient, in);
    if (dx) gemm(compute, false, false, n, in, out, dy, lddy, weight->value, in, dx_beta, dx, lddx);
}

static void block_part(void *argument, size_t part, size_t parts)
{
    const struct pass *p = argument;
    size_t begin, end;
    parallel_share(p->n, 1, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const float *restrict from = p->x + i * p->ldx;
        float *restrict to = p->y + i * p->ldy;
        if (p->add) for (size_t j = 0; j < p->width; j++) to[j] += from[j];
        else memcpy(to, from, p->width * sizeof *to);
    }
}

void block_copy(const struct compute *compute, size_t n, size_t width, const float *from, size_t ld_from, float *to,
                size_t ld_to)
{
    struct pass pass = { .n = n, .width = width, .x = from, .ldx = ld_from, .y = to, .ldy = ld_to };
    compute_run(compute, n * width, block_part, &pass);
}

void block_add(const struct compute *compute, size_t n, size_t width, const float *from, size_t ld_from, float *to,
               size_t ld_to)
{
    struct pass pass = { .n = n, .width = width, .x = from, .ldx = ld_from, .y = to, .ldy = ld_to, .add = true };
    compute_run(compute, n * width, block_part, &pass);
}
