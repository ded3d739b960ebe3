/* Attention pooling over positions end to end: two GEMMs, one pass by examples, one by columns. */
#include "core/layer_attention.h"

#include <math.h>
#include <string.h>

#include "core/layer_dense.h"
#include "core/vector_math.h"

struct task {
    const struct attention *attention;
    struct attention_pass *pass;
    float *h;
    const float *dh;
    size_t ldh, size, dimension;
};

void attention_add(struct attention *attention, struct parameter_set *set, enum parameter_group group,
                   enum tensor_role role, size_t size, size_t dimension, const char *name)
{
    attention->weight = parameter_add(set, group, role, START_GLOROT, size, dimension, "%s.weight", name);
    attention->bias = parameter_add(set, group, role, START_ZERO, size, 0, "%s.bias", name);
    attention->query = parameter_add(set, group, role, START_GLOROT, size, 0, "%s.query", name);
}

static void forward_part(void *argument, size_t part, size_t parts)
{
    const struct task *t = argument;
    const struct attention_pass *pass = t->pass;
    const float *restrict bias = t->attention->bias->value;
    size_t begin, end;
    parallel_share(pass->n, 1, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        float *restrict h = t->h + i * t->ldh, *alpha = pass->alpha, largest = -INFINITY, sum = 0.0f;
        memset(h, 0, t->dimension * sizeof *h);
        for (size_t j = pass->offset[i]; j < pass->offset[i + 1]; j++) {
            float *restrict hidden = pass->hidden + j * t->size;
            for (size_t k = 0; k < t->size; k++) hidden[k] = vector_tanh1(hidden[k] + bias[k]);
            alpha[j] = vector_dot(hidden, t->attention->query->value, t->size);
            if (alpha[j] > largest) largest = alpha[j];
        }
        for (size_t j = pass->offset[i]; j < pass->offset[i + 1]; j++) sum += alpha[j] = expf(alpha[j] - largest);
        for (size_t j = pass->offset[i]; j < pass->offset[i + 1]; j++) {
            const float *restrict x = pass->x + j * t->dimension;
            float share = alpha[j] /= sum;
            for (size_t k = 0; k < t->dimension; k++) h[k] += share * x[k];
        }
    }
}

void attention_forward(const struct compute *compute, const struct attention *attention, size_t n, const float *x,
                       const uint32_t *offset, float *h, size_t ldh, struct arena *scratch, struct attention_pass *pass)
{
    size_t size = attention->weight->shape[0], dimension = attention->weight->shape[1], positions = offset[n];
    *pass = (struct attention_pass){ .n = n, .positions = positions, .x = x, .offset = offset,
                                     .hidden = arena_take(scratch, positions * size * sizeof(float)),
                                     .alpha = arena_take(scratch, positions * sizeof(float)) };
    dense_forward(compute, attention->weight, NULL, ACTIVATION_NONE, positions, x, dimension, pass->hidden, size);
    struct task task = {
        .attention = attention, .pass = pass, .h = h, .ldh = ldh, .size = size, .dimension = dimension
    };
    compute_run(compute, positions * size * 4 + n * dimension, forward_part, &task);
}

/* alpha becomes de_j = alpha_j (dh . x_j - sum of alpha dh . x) */
static void energies_part(void *argument, size_t part, size_t parts)
{
    const struct task *t = argument;
    const struct attention_pass *pass = t->pass;
    size_t begin, end;
    parallel_share(pass->n, 1, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const float *dh = t->dh + i * t->ldh;
        float *alpha = pass->alpha, mean = 0.0f;
        for (size_t j = pass->offset[i]; j < pass->offset[i + 1]; j++)
            mean += alpha[j] * vector_dot(dh, pass->x + j * t->dimension, t->dimension);
        for (size_t j = pass->offset[i]; j < pass->offset[i + 1]; j++)
            alpha[j] *= vector_dot(dh, pass->x + j * t->dimension, t->dimension) - mean;
    }
}

enum { STRIP = 128, GRAIN = 16 };

/* By columns: hidden becomes dL/d(weight x + bias); query's and bias's gradients. */
static void hidden_part(void *argument, size_t part, size_t parts)
{
    const struct task *t = argument;
    const struct attention_pass *pass = t->pass;
    size_t begin, end;
    parallel_share(t->size, GRAIN, part, parts, &begin, &end);
    for (size_t strip = begin; strip < end; strip += STRIP) {
        size_t width = end - strip < STRIP ? end - strip : STRIP;
        const float *query = t->attention->query->value + strip;
        double dquery[STRIP] = { 0 }, dbias[STRIP] = { 0 };
        for (size_t block = 0; block < pass->positions; block += 256) {      /* floats within a block, doubles across */
            size_t last = pass->positions - block < 256 ? pass->positions : block + 256;
            float query_sum[STRIP] = { 0 }, bias_sum[STRIP] = { 0 };
            for (size_t j = block; j < last; j++) {
                float *restrict hidden = pass->hidden + j * t->size + strip, energy = pass->alpha[j];
                for (size_t k = 0; k < width; k++) {
                    float value = hidden[k], d = energy * query[k] * (1.0f - value * value);
                    query_sum[k] += energy * value;
                    bias_sum[k] += d;
                    hidden[k] = d;
                }
            }
            for (size_t k = 0; k < width; k++) {
                dquery[k] += (double)query_sum[k];
                dbias[k] += (double)bias_sum[k];
            }
        }
        for (size_t k = 0; k < width; k++) {
            t->attention->query->gradient[strip + k] = (float)dquery[k];
            t->attention->bias->gradient[strip + k] = (float)dbias[k];
        }
    }
}

void attention_backward(const struct compute *compute, const struct attention *attention, struct attention_pass *pass,
                        const float *dh, size_t lddh)
{
    size_t size = attention->weight->shape[0], dimension = attention->weight->shape[1];
    struct task task = {
        .attention = attention, .pass = pass, .dh = dh, .ldh = lddh, .size = size, .dimension = dimension
    };
    compute_run(compute, pass->positions * dimension * 2, energies_part, &task);
    compute_run(compute, pass->positions * size * 2, hidden_part, &task);
    gemm(compute, true, false, size, dimension, pass->positions, pass->hidden, size, pass->x, dimension, 0.0f,
         attention->weight->gradient, dimension);
}
