/* Dropout by counter-based masks. */
#include "core/layer_dropout.h"

#include "core/random.h"

struct pass { uint64_t stream; float rate, scale; size_t n, width, ld; float *x; };

static void apply_part(void *argument, size_t part, size_t parts)
{
    const struct pass *p = argument;
    size_t begin, end;
    parallel_share(p->n, 1, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++)
        for (size_t j = 0; j < p->width; j++)
            p->x[i * p->ld + j] *= random_uniform(p->stream, i * p->width + j) < p->rate ? 0.0f : p->scale;
}

void dropout_apply(const struct compute *compute, uint64_t stream, double rate, size_t n, size_t width, float *x,
                   size_t ld)
{
    if (rate <= 0.0) return;
    struct pass pass = { stream, (float)rate, (float)(1.0 / (1.0 - rate)), n, width, ld, x };
    compute_run(compute, n * width, apply_part, &pass);
}
