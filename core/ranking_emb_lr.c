/* EmbLR (numerics.md, section 10): one dense layer from z to the logit. */
#include <stdlib.h>
#include <string.h>

#include "core/layer_dense.h"
#include "core/ranking_tower.h"

struct ranking_tower { struct parameter *weight, *bias; };
struct ranking_pass { float *logit; };

static struct ranking_tower *create(const struct ranking_options *options, size_t width, struct parameter_set *set,
                                    struct cs_error *err)
{
    (void)options;
    struct ranking_tower *tower = malloc(sizeof *tower);
    if (!tower) {
        cs_fail(err, CS_FAILED, "out of memory: ranking tower");
        return NULL;
    }
    tower->weight =
        parameter_add(set, PARAMETER_RANKING, TENSOR_SCORING, START_GLOROT, 1, width, "ranking.output.weight");
    tower->bias = parameter_add(set, PARAMETER_RANKING, TENSOR_SCORING, START_ZERO, 1, 0, "ranking.output.bias");
    return tower;
}

static void destroy(struct ranking_tower *tower) { free(tower); }

static struct ranking_pass *score(struct ranking_tower *tower, const struct compute *compute,
                                  const struct ranking_input *in, float *logit, struct arena *scratch)
{
    struct ranking_pass *pass = arena_take(scratch, sizeof *pass);
    dense_forward(compute, tower->weight, tower->bias, ACTIVATION_NONE, in->size, in->z, in->width, logit, 1);
    return pass;
}

static void refresh(struct ranking_tower *tower, const struct compute *compute, const struct ranking_input *in,
                    struct ranking_pass *pass, const uint32_t *example, size_t count, struct arena *scratch)
{
    (void)tower, (void)compute, (void)in, (void)pass, (void)example, (void)count, (void)scratch;
    /* forward reads z again */
}

static void forward(struct ranking_tower *tower, const struct compute *compute, const struct ranking_input *in,
                    struct ranking_pass *pass, uint64_t seed, uint64_t step, float *logit, struct arena *scratch)
{
    (void)pass, (void)seed, (void)step, (void)scratch;
    dense_forward(compute, tower->weight, tower->bias, ACTIVATION_NONE, in->size, in->z, in->width, logit, 1);
}

static void backward(struct ranking_tower *tower, const struct compute *compute, const struct ranking_input *in,
                     struct ranking_pass *pass, const float *dlogit, float *dz, double *rounding,
                     struct arena *scratch)
{
    (void)pass, (void)rounding;
    float *dy = arena_take(scratch, in->size * sizeof *dy);
    memcpy(dy, dlogit, in->size * sizeof *dy);
    dense_backward(compute, tower->weight, tower->bias, ACTIVATION_NONE, in->size, in->z, in->width, NULL, 0, dy, 1,
                   0.0f, dz, in->width);
}

static struct fixed_tower *fix(const struct ranking_tower *tower, size_t shared, struct cs_error *err)
{
    return fixed_tower_create(NULL, 0, tower->weight->value, *tower->bias->value, tower->weight->shape[1], shared, err);
}

const struct ranking_tower_ops ranking_emb_lr = {
    .kind = RANKING_EMB_LR,
    .name = "emb_lr",
    .outputs = 1,
    .create = create,
    .destroy = destroy,
    .score = score,
    .refresh = refresh,
    .forward = forward,
    .backward = backward,
    .fix = fix,
};
