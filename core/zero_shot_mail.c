/* MAIL's zero-shot tower (numerics.md, section 3): two auto-encoders over one hidden space, tied by reconstruction and
 * MMD.
 *
 *   attributes --attention--> h_a --E1--> p \  D1 --> attributes
 *   behaviors  --attention--> h_v --E2--> q /  D2 --> behaviors
 *
 * Rows 0 .. n-1 of one matrix are p, n .. 2n-1 are q, so that each decoder runs once.
 * A new user's behaviors are D2(E1(h_a)). Where D2 makes a sequence but only its sum is asked for, D2's last layer is
 * summed over the slots first: [n_v * d, in] becomes [d, in], once after each change of parameters. */
#include <stdlib.h>
#include <string.h>

#include "core/layer_attention.h"
#include "core/layer_block.h"
#include "core/layer_packed.h"
#include "core/loss_mmd.h"
#include "core/loss_reconstruction.h"
#include "core/zero_shot_tower.h"

struct zero_shot_tower {
    struct zero_shot_options options;
    struct zero_shot_shape shape;
    struct attention attention_user, attention_behavior;
    struct block encoder_user, encoder_behavior, decoder_user, decoder_behavior;
    float *folded;              /* sequence: weight [d, in], then bias [d] */
    bool folded_is_stale;
    struct packed *packed;      /* of folded; NULL until fixed */
};

static void destroy(struct zero_shot_tower *tower)
{
    if (!tower) return;
    free(tower->folded);
    packed_destroy(tower->packed);
    free(tower);
}

static struct zero_shot_tower *create(const struct zero_shot_options *o, const struct zero_shot_shape *shape,
                                      struct parameter_set *set, struct cs_error *err)
{
    if (o->encoder_count != BLOCK_LAYERS || o->decoder_count != BLOCK_LAYERS - 1) {
        cs_fail(err, CS_CONFIG, "model.zero_shot: encoder has %zu widths, decoder %zu; mail takes 3 and 2",
                o->encoder_count, o->decoder_count);
        return NULL;
    }
    if (!shape->attributes) {
        cs_fail(err, CS_CONFIG, "model.zero_shot.kind mail reads categorical user features, and there are none");
        return NULL;
    }
    struct zero_shot_tower *t = calloc(1, sizeof *t);
    if (!t) {
        cs_fail(err, CS_FAILED, "out of memory: zero-shot tower");
        return NULL;
    }
    t->options = *o;
    t->shape = *shape;
    size_t d = shape->dimension, code = o->encoder[2];
    size_t user_widths[] = { o->decoder[0], o->decoder[1], shape->attributes * d };
    size_t behavior_widths[] = { o->decoder[0], o->decoder[1],
                                 o->target == TARGET_SEQUENCE ? shape->behaviors * d : d };
    enum parameter_group second = o->losses == LOSSES_SINGLE ? PARAMETER_FROZEN : PARAMETER_ZERO_SHOT;
    attention_add(&t->attention_user, set, PARAMETER_ZERO_SHOT, TENSOR_SCORING, o->attention, d,
                  "zero_shot.attention_user");
    attention_add(&t->attention_behavior, set, second, TENSOR_TRAINING, o->attention, d,
                  "zero_shot.attention_behavior");
    block_add_parameters(&t->encoder_user, set, PARAMETER_ZERO_SHOT, TENSOR_SCORING, d + shape->dense, o->encoder,
                         ACTIVATION_LEAKY_RELU, "zero_shot.encoder_user");
    block_add_parameters(&t->encoder_behavior, set, second, TENSOR_TRAINING, d, o->encoder, ACTIVATION_LEAKY_RELU,
                         "zero_shot.encoder_behavior");
    block_add_parameters(&t->decoder_user, set, PARAMETER_ZERO_SHOT, TENSOR_TRAINING, code, user_widths,
                         ACTIVATION_NONE, "zero_shot.decoder_user");
    block_add_parameters(&t->decoder_behavior, set, PARAMETER_ZERO_SHOT, TENSOR_SCORING, code, behavior_widths,
                         ACTIVATION_NONE, "zero_shot.decoder_behavior");
    if (o->target == TARGET_SEQUENCE) {
        t->folded_is_stale = true;
        t->folded = calloc(d * (t->decoder_behavior.weight[2]->shape[1] + 1), sizeof *t->folded);
        if (!t->folded) {
            cs_fail(err, CS_FAILED, "out of memory: zero-shot tower");
            destroy(t);
            return NULL;
        }
    }
    return t;
}

static void changed(struct zero_shot_tower *tower) { tower->folded_is_stale = true; }

static void fold_part(void *argument, size_t part, size_t parts)
{
    struct zero_shot_tower *t = argument;
    const struct parameter *weight = t->decoder_behavior.weight[2], *bias = t->decoder_behavior.bias[2];
    size_t d = t->shape.dimension, in = weight->shape[1], begin, end;
    parallel_share(d, 1, part, parts, &begin, &end);
    for (size_t k = begin; k < end; k++) {
        float *restrict row = t->folded + k * in, sum = 0.0f;
        memset(row, 0, in * sizeof *row);
        for (size_t slot = 0; slot < t->shape.behaviors; slot++) {
            const float *restrict from = weight->value + (slot * d + k) * in;
            for (size_t j = 0; j < in; j++) row[j] += from[j];
            sum += bias->value[slot * d + k];
        }
        t->folded[d * in + k] = sum;
    }
}

/* h_a with the dense attributes after it: [count, d + dense]. */
static float *pool_users(struct zero_shot_tower *t, const struct compute *compute, const struct zero_shot_users *users,
                         struct attention_pass *pass, struct arena *scratch)
{
    size_t n = users->count, attributes = t->shape.attributes, d = t->shape.dimension, dense = t->shape.dense,
           width = d + dense;
    float *h = arena_take(scratch, n * width * sizeof(float)),
          *x = arena_take(scratch, n * attributes * d * sizeof(float));
    uint32_t *offset = arena_take(scratch, (n + 1) * sizeof *offset), positions = 0;
    for (size_t i = 0; i < n; i++) {
        offset[i] = positions;
        for (size_t a = 0; a < attributes; a++)
            if (users->present[i * attributes + a])
                memcpy(x + positions++ * d, users->attribute + (i * attributes + a) * d, d * sizeof *x);
        for (size_t j = 0; j < dense; j++) h[i * width + d + j] = users->dense[i * dense + j];
    }
    offset[n] = positions;
    attention_forward(compute, &t->attention_user, n, x, offset, h, width, scratch, pass);
    return h;
}

static void fold(struct zero_shot_tower *t, const struct compute *compute)
{
    if (!t->folded_is_stale) return;
    compute_run(compute, t->shape.behaviors * t->shape.dimension * t->decoder_behavior.weight[2]->shape[1], fold_part,
                t);
    t->folded_is_stale = false;
}

static bool fix(struct zero_shot_tower *t, const struct compute *compute, struct cs_error *err)
{
    if (t->options.target == TARGET_POOLED) return true;
    size_t in = t->decoder_behavior.weight[2]->shape[1];
    fold(t, compute);
    packed_destroy(t->packed);
    t->packed = packed_create(t->shape.dimension, in, t->folded, in, NULL);
    return t->packed || cs_fail(err, CS_FAILED, "out of memory: zero-shot tower");
}

static void generate(struct zero_shot_tower *t, const struct compute *compute, const struct zero_shot_users *users,
                     float *z_v, struct arena *scratch)
{
    size_t n = users->count, d = t->shape.dimension, code = t->options.encoder[2];
    struct attention_pass attention;
    struct block_pass encoder, decoder;
    float *h = pool_users(t, compute, users, &attention, scratch), *p = arena_take(scratch, n * code * sizeof *p);
    block_forward(compute, &t->encoder_user, n, h, t->encoder_user.in, 0.0, 0, 0, p, scratch, &encoder);
    if (t->options.target == TARGET_POOLED) {
        block_forward(compute, &t->decoder_behavior, n, p, code, 0.0, 0, 0, z_v, scratch, &decoder);
        return;
    }
    size_t in = t->decoder_behavior.weight[2]->shape[1];
    fold(t, compute);
    struct parameter weight = { .shape = { d, in }, .value = t->folded, .packed = t->packed },
                     bias = { .shape = { d }, .value = t->folded + d * in };
    block_forward_hidden(compute, &t->decoder_behavior, n, p, code, 0.0, 0, 0, scratch, &decoder);
    dense_forward(compute, &weight, &bias, ACTIVATION_NONE, n, decoder.out[1], in, z_v, d);
}

/* Both decoders on one half of the codes, p's or q's: y1 and y2 become gradients. */
static double reconstruct(struct zero_shot_tower *t, const struct compute *compute, const struct zero_shot_users *users,
                          float *y1, float *y2, struct arena *scratch)
{
    size_t n = users->count, d = t->shape.dimension, width = t->shape.attributes * d;
    double loss = reconstruction_dense(compute, y1, n, width, users->attribute, width, scratch);
    if (t->options.target == TARGET_POOLED)
        return loss + reconstruction_dense(compute, y2, n, d, users->pooled, d, scratch);
    struct sequence_target target = { users->behavior, users->behavior_offset, users->behavior_slot, d };
    return loss + reconstruction_sequence(compute, y2, n, t->shape.behaviors * d, &target, scratch);
}

static struct zero_shot_loss train(struct zero_shot_tower *t, const struct compute *compute,
                                   const struct zero_shot_users *users, uint64_t seed, uint64_t step,
                                   struct arena *scratch)
{
    const struct zero_shot_options *o = &t->options;
    bool both = o->losses != LOSSES_SINGLE;
    size_t n = users->count, rows = both ? 2 * n : n, d = t->shape.dimension, code = o->encoder[2];
    size_t width1 = t->decoder_user.width[2], width2 = t->decoder_behavior.width[2];
    struct attention_pass attention1, attention2 = { 0 };
    struct block_pass encoder1, encoder2 = { 0 }, decoder1, decoder2;
    struct zero_shot_loss loss = { 0 };

    float *pq = arena_take(scratch, rows * code * sizeof *pq), *dpq = arena_take(scratch, rows * code * sizeof *dpq);
    float *h1 = pool_users(t, compute, users, &attention1, scratch), *h2 = NULL;
    block_forward(compute, &t->encoder_user, n, h1, t->encoder_user.in, o->dropout, seed, step, pq, scratch, &encoder1);
    if (both) {
        h2 = arena_take(scratch, n * d * sizeof *h2);
        attention_forward(compute, &t->attention_behavior, n, users->behavior, users->behavior_offset, h2, d, scratch,
                          &attention2);
        block_forward(compute, &t->encoder_behavior, n, h2, d, o->dropout, seed, step, pq + n * code, scratch,
                      &encoder2);
    }
    float *y1 = arena_take(scratch, rows * width1 * sizeof *y1), *y2 = arena_take(scratch, rows * width2 * sizeof *y2);
    block_forward(compute, &t->decoder_user, rows, pq, code, o->dropout, seed, step, y1, scratch, &decoder1);
    block_forward(compute, &t->decoder_behavior, rows, pq, code, o->dropout, seed, step, y2, scratch, &decoder2);
    loss.user = reconstruct(t, compute, users, y1, y2, scratch);
    if (both) loss.behavior = reconstruct(t, compute, users, y1 + n * width1, y2 + n * width2, scratch);

    block_backward(compute, &t->decoder_user, &decoder1, y1, dpq, code, false, scratch);
    block_backward(compute, &t->decoder_behavior, &decoder2, y2, dpq, code, true, scratch);
    if (o->losses == LOSSES_FULL) loss.mmd = mmd(compute, pq, n, code, o->bandwidth, dpq, scratch);
    float *dh1 = arena_take(scratch, n * t->encoder_user.in * sizeof *dh1);
    block_backward(compute, &t->encoder_user, &encoder1, dpq, dh1, t->encoder_user.in, false, scratch);
    attention_backward(compute, &t->attention_user, &attention1, dh1, t->encoder_user.in);
    if (both) {
        float *dh2 = arena_take(scratch, n * d * sizeof *dh2);
        block_backward(compute, &t->encoder_behavior, &encoder2, dpq + n * code, dh2, d, false, scratch);
        attention_backward(compute, &t->attention_behavior, &attention2, dh2, d);
    }
    return loss;
}

const struct zero_shot_ops zero_shot_mail = {
    .kind = ZERO_SHOT_MAIL,
    .name = "mail",
    .generates_long = true,
    .create = create,
    .destroy = destroy,
    .changed = changed,
    .fix = fix,
    .generate = generate,
    .train = train,
};
