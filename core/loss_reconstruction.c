/* The zero-shot tower's reconstruction losses: difference, square and gradient in one pass over the output. */
#include "core/loss_reconstruction.h"

struct task {
    float *y;
    size_t n, width, ld_target;
    const float *target;
    const struct sequence_target *sequence;
    double *loss;       /* [n] */
};

enum { LANES = 16 };

/* y becomes scale (y - target); target NULL: zeros. Returns the sum of squares: floats within a stretch, doubles
 * across. */
static double difference(float *restrict y, const float *restrict target, size_t width, float scale)
{
    double total = 0.0;
    for (size_t begin = 0; begin < width; begin += 256) {
        size_t end = width - begin < 256 ? width : begin + 256, j = begin;
        float lane[LANES] = { 0 }, sum = 0.0f;
        for (; j + LANES <= end; j += LANES)
            for (size_t k = 0; k < LANES; k++) {
                float away = target ? y[j + k] - target[j + k] : y[j + k];
                lane[k] += away * away;
                y[j + k] = scale * away;
            }
        for (; j < end; j++) {
            float away = target ? y[j] - target[j] : y[j];
            sum += away * away;
            y[j] = scale * away;
        }
        for (size_t k = 0; k < LANES; k++) sum += lane[k];
        total += (double)sum;
    }
    return total;
}

static void dense_part(void *argument, size_t part, size_t parts)
{
    const struct task *t = argument;
    size_t begin, end;
    parallel_share(t->n, 1, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++)
        t->loss[i] = difference(t->y + i * t->width, t->target + i * t->ld_target, t->width, 2.0f / (float)t->n);
}

static void sequence_part(void *argument, size_t part, size_t parts)
{
    const struct task *t = argument;
    const struct sequence_target *s = t->sequence;
    size_t begin, end, d = s->dimension;
    parallel_share(t->n, 1, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        float *y = t->y + i * t->width, scale = 2.0f / (float)t->n;
        size_t done = 0;        /* floats of y that are dealt with */
        double sum = 0.0;
        for (size_t j = s->offset[i]; j < s->offset[i + 1]; j++) {
            size_t at = s->slot[j] * d;
            sum += difference(y + done, NULL, at - done, scale);
            sum += difference(y + at, s->value + j * d, d, scale);
            done = at + d;
        }
        t->loss[i] = sum + difference(y + done, NULL, t->width - done, scale);
    }
}

static double mean_of(const double *loss, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += loss[i];
    return sum / (double)n;
}

double reconstruction_dense(const struct compute *compute, float *y, size_t n, size_t width, const float *target,
                            size_t ld_target, struct arena *scratch)
{
    struct task task = { .y = y, .n = n, .width = width, .target = target, .ld_target = ld_target,
                         .loss = arena_take(scratch, n * sizeof(double)) };
    compute_run(compute, n * width, dense_part, &task);
    return mean_of(task.loss, n);
}

double reconstruction_sequence(const struct compute *compute, float *y, size_t n, size_t width,
                               const struct sequence_target *target, struct arena *scratch)
{
    struct task task = {
        .y = y, .n = n, .width = width, .sequence = target, .loss = arena_take(scratch, n * sizeof(double))
    };
    compute_run(compute, n * width, sequence_part, &task);
    return mean_of(task.loss, n);
}
