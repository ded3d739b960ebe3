/* BaseDNN (numerics.md, section 4): hidden layers of dropout, dense without bias, batch normalisation, LeakyReLU; then
 * one dense layer to the logit. Without dropout, scoring and training multiply z by the first weights once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/layer_batch_norm.h"
#include "core/layer_dense.h"
#include "core/layer_dropout.h"
#include "core/random.h"
#include "core/ranking_tower.h"

struct ranking_tower {
    size_t layers;
    double dropout;
    struct parameter *weight[LAYERS_MAX], *output_weight, *output_bias;
    struct batch_norm norm[LAYERS_MAX];
};

struct ranking_pass {
    float *first;                       /* z times the first weights [size, hidden 0] */
    const float *input[LAYERS_MAX];     /* what layer l read in training */
    float *product[LAYERS_MAX], *output[LAYERS_MAX];
    double *mean[LAYERS_MAX], *variance[LAYERS_MAX];    /* [width] of the batch */
    uint64_t stream[LAYERS_MAX];
};

static struct ranking_tower *create(const struct ranking_options *options, size_t width, struct parameter_set *set,
                                    struct cs_error *err)
{
    if (!options->hidden_count || options->hidden_count > LAYERS_MAX) {
        cs_fail(err, CS_CONFIG, "model.ranking.hidden has %zu layers; base_dnn takes 1 to %d", options->hidden_count,
                LAYERS_MAX);
        return NULL;
    }
    struct ranking_tower *tower = calloc(1, sizeof *tower);
    if (!tower) {
        cs_fail(err, CS_FAILED, "out of memory: ranking tower");
        return NULL;
    }
    tower->layers = options->hidden_count;
    tower->dropout = options->dropout;
    for (size_t l = 0; l < tower->layers; l++) {
        size_t in = l ? options->hidden[l - 1] : width;
        tower->weight[l] = parameter_add(set, PARAMETER_RANKING, TENSOR_SCORING, START_GLOROT, options->hidden[l], in,
                                         "ranking.hidden.%zu.weight", l);
        batch_norm_add(&tower->norm[l], set, options->hidden[l], "ranking", l);
    }
    tower->output_weight = parameter_add(set, PARAMETER_RANKING, TENSOR_SCORING, START_GLOROT, 1,
                                         options->hidden[tower->layers - 1], "ranking.output.weight");
    tower->output_bias = parameter_add(set, PARAMETER_RANKING, TENSOR_SCORING, START_ZERO, 1, 0, "ranking.output.bias");
    return tower;
}

static void destroy(struct ranking_tower *tower) { free(tower); }

static struct ranking_pass *score(struct ranking_tower *tower, const struct compute *compute,
                                  const struct ranking_input *in, float *logit, struct arena *scratch)
{
    struct ranking_pass *pass = arena_take_zeroed(scratch, sizeof *pass);
    const float *x = in->z;
    size_t ldx = in->width;
    for (size_t l = 0; l < tower->layers; l++) {
        size_t width = tower->norm[l].width;
        float *product = arena_take(scratch, in->size * width * sizeof *product),
              *y = arena_take(scratch, in->size * width * sizeof *y);
        dense_forward(compute, tower->weight[l], NULL, ACTIVATION_NONE, in->size, x, ldx, product, width);
        if (!l) pass->first = product;
        batch_norm_score(compute, &tower->norm[l], in->size, product, y);
        x = y;
        ldx = width;
    }
    dense_forward(compute, tower->output_weight, tower->output_bias, ACTIVATION_NONE, in->size, x, ldx, logit, 1);
    return pass;
}

static void refresh(struct ranking_tower *tower, const struct compute *compute, const struct ranking_input *in,
                    struct ranking_pass *pass, const uint32_t *example, size_t count, struct arena *scratch)
{
    if (tower->dropout > 0.0) return;       /* forward reads z again */
    size_t width = tower->norm[0].width;
    float *z = arena_take(scratch, count * in->width * sizeof *z),
          *product = arena_take(scratch, count * width * sizeof *product);
    for (size_t i = 0; i < count; i++) memcpy(z + i * in->width, in->z + example[i] * in->width, in->width * sizeof *z);
    dense_forward(compute, tower->weight[0], NULL, ACTIVATION_NONE, count, z, in->width, product, width);
    for (size_t i = 0; i < count; i++)
        memcpy(pass->first + example[i] * width, product + i * width, width * sizeof *product);
}

/* The tensor that layer l reads, dropped out; layer 0's is a copy, the others' is the output below, in place: a dropped
 * element's gradient is 0, so that its sign is not missed. */
static const float *drop_input(const struct ranking_tower *tower, const struct compute *compute,
                               const struct ranking_input *in, struct ranking_pass *pass, size_t l, uint64_t seed,
                               uint64_t step, struct arena *scratch)
{
    size_t width = tower->weight[l]->shape[1];
    float *x = l ? pass->output[l - 1] : NULL;
    if (tower->dropout <= 0.0) return l ? x : in->z;
    if (!l) x = memcpy(arena_take(scratch, in->size * width * sizeof *x), in->z, in->size * width * sizeof *x);
    char name[32];
    snprintf(name, sizeof name, "ranking.hidden.%zu", l);
    pass->stream[l] = random_stream(seed, name, step);
    dropout_apply(compute, pass->stream[l], tower->dropout, in->size, width, x, width);
    return x;
}

static void forward(struct ranking_tower *tower, const struct compute *compute, const struct ranking_input *in,
                    struct ranking_pass *pass, uint64_t seed, uint64_t step, float *logit, struct arena *scratch)
{
    for (size_t l = 0; l < tower->layers; l++) {
        size_t width = tower->norm[l].width;
        pass->input[l] = drop_input(tower, compute, in, pass, l, seed, step, scratch);
        if (!l && tower->dropout <= 0.0) {
            pass->product[l] = pass->first;
        } else {
            pass->product[l] = arena_take(scratch, in->size * width * sizeof(float));
            dense_forward(compute, tower->weight[l], NULL, ACTIVATION_NONE, in->size, pass->input[l],
                          tower->weight[l]->shape[1], pass->product[l], width);
        }
        pass->output[l] = arena_take(scratch, in->size * width * sizeof(float));
        pass->mean[l] = arena_take(scratch, width * sizeof(double));
        pass->variance[l] = arena_take(scratch, width * sizeof(double));
        batch_norm_forward(compute, &tower->norm[l], in->size, pass->product[l], pass->output[l], pass->mean[l],
                           pass->variance[l]);
    }
    size_t last = tower->layers - 1, width = tower->norm[last].width;
    dense_forward(compute, tower->output_weight, tower->output_bias, ACTIVATION_NONE, in->size, pass->output[last],
                  width, logit, 1);
}

static void backward(struct ranking_tower *tower, const struct compute *compute, const struct ranking_input *in,
                     struct ranking_pass *pass, const float *dlogit, float *dz, double *rounding,
                     struct arena *scratch)
{
    size_t last = tower->layers - 1, width = tower->norm[last].width;
    float *dy = arena_take(scratch, in->size * sizeof *dy), *dx = arena_take(scratch, in->size * width * sizeof *dx);
    memcpy(dy, dlogit, in->size * sizeof *dy);
    dense_backward(compute, tower->output_weight, tower->output_bias, ACTIVATION_NONE, in->size, pass->output[last],
                   width, NULL, 0, dy, 1, 0.0f, dx, width);
    for (size_t l = tower->layers; l-- > 0;) {
        size_t reads = tower->weight[l]->shape[1];
        batch_norm_backward(compute, &tower->norm[l], in->size, pass->product[l], pass->output[l], pass->mean[l],
                            pass->variance[l], dx);
        float *below = l ? arena_take(scratch, in->size * reads * sizeof *below) : dz,
              *centred = arena_take(scratch, in->size * reads * sizeof *centred);
        batch_norm_centre(compute, in->size, reads, pass->input[l], centred);
        dense_backward(compute, tower->weight[l], NULL, ACTIVATION_NONE, in->size, centred, reads, NULL, 0, dx,
                       tower->norm[l].width, 0.0f, below, reads);
        dropout_apply(compute, pass->stream[l], tower->dropout, in->size, reads, below, reads);
        dx = below;
    }
    if (tower->dropout <= 0.0) batch_norm_means(compute, in->size, in->width, dz, rounding);
}

static struct fixed_tower *fix(const struct ranking_tower *tower, size_t shared, struct cs_error *err)
{
    struct fixed_layer layer[LAYERS_MAX];
    float *folded[LAYERS_MAX] = { NULL };
    struct fixed_tower *fixed = NULL;
    for (size_t l = 0; l < tower->layers; l++) {
        size_t width = tower->norm[l].width;
        if (!(folded[l] = malloc(2 * width * sizeof *folded[l]))) {
            cs_fail(err, CS_FAILED, "out of memory: ranking tower");
            goto out;
        }
        batch_norm_fold(&tower->norm[l], folded[l], folded[l] + width);
        layer[l] = (struct fixed_layer){ .out = width, .in = tower->weight[l]->shape[1],
                                         .weight = tower->weight[l]->value,
                                         .scale = folded[l], .shift = folded[l] + width };
    }
    fixed = fixed_tower_create(layer, tower->layers, tower->output_weight->value, *tower->output_bias->value,
                               tower->weight[0]->shape[1], shared, err);
out:
    for (size_t l = 0; l < tower->layers; l++) free(folded[l]);
    return fixed;
}

static void commit(struct ranking_tower *tower, const struct ranking_pass *pass)
{
    for (size_t l = 0; l < tower->layers; l++)
        batch_norm_update_running(&tower->norm[l], pass->mean[l], pass->variance[l]);
}

const struct ranking_tower_ops ranking_base_dnn = {
    .kind = RANKING_BASE_DNN,
    .name = "base_dnn",
    .outputs = 1,
    .create = create,
    .destroy = destroy,
    .score = score,
    .refresh = refresh,
    .forward = forward,
    .backward = backward,
    .fix = fix,
    .commit = commit,
};
