/* MAIL-None (numerics.md, section 3): z_v = M a, one linear map of the flattened attributes, trained by the ranking
 * loss on new users' examples, through to the attributes' rows. */
#include "core/zero_shot_tower.h"

#include <stdlib.h>

#include "core/layer_dense.h"

struct zero_shot_tower { struct parameter *weight; };

static struct zero_shot_tower *create(const struct zero_shot_options *options, const struct zero_shot_shape *shape,
                                      struct parameter_set *set, struct cs_error *err)
{
    (void)options;
    if (!shape->attributes) {
        cs_fail(err, CS_CONFIG, "model.zero_shot.kind linear maps categorical user features, and there are none");
        return NULL;
    }
    struct zero_shot_tower *tower = malloc(sizeof *tower);
    if (!tower) {
        cs_fail(err, CS_FAILED, "out of memory: zero-shot tower");
        return NULL;
    }
    tower->weight = parameter_add(set, PARAMETER_RANKING, TENSOR_SCORING, START_GLOROT, shape->dimension,
                                  shape->attributes * shape->dimension, "zero_shot.linear.weight");
    return tower;
}

static void destroy(struct zero_shot_tower *tower) { free(tower); }

static void generate(struct zero_shot_tower *tower, const struct compute *compute, const struct zero_shot_users *users,
                     float *z_v, struct arena *scratch)
{
    (void)scratch;
    dense_forward(compute, tower->weight, NULL, ACTIVATION_NONE, users->count, users->attribute,
                  tower->weight->shape[1], z_v, tower->weight->shape[0]);
}

static void generated_backward(struct zero_shot_tower *tower, const struct compute *compute,
                               const struct zero_shot_users *users, const float *dz_v, float *dattribute,
                               struct arena *scratch)
{
    (void)scratch;
    size_t out = tower->weight->shape[0], in = tower->weight->shape[1], n = users->count;
    gemm(compute, true, false, out, in, n, dz_v, out, users->attribute, in, 0.0f, tower->weight->gradient, in);
    gemm(compute, false, false, n, in, out, dz_v, out, tower->weight->value, in, 0.0f, dattribute, in);
}

const struct zero_shot_ops zero_shot_linear = {
    .kind = ZERO_SHOT_LINEAR, .name = "linear", .create = create, .destroy = destroy, .generate = generate,
    .generated_backward = generated_backward,
};
