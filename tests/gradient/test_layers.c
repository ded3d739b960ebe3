/* Finite differences for every layer and loss on its own. The loss of a layer is sum of output times fixed weights. */
#include "tests/gradient/finite_difference.h"

#include "core/layer_attention.h"
#include "core/layer_batch_norm.h"
#include "core/layer_block.h"
#include "core/layer_dense.h"
#include "core/loss_cross_entropy.h"
#include "core/loss_mmd.h"
#include "core/loss_reconstruction.h"

enum { N = 7, IN = 5, OUT = 6 };

static const struct compute compute = { .parallel = &parallel_serial };

struct bench {
    struct parameter_set set;
    struct arena *arena;
    struct parameter *weight, *bias;
    struct batch_norm norm;
    struct attention attention;
    struct block block;
    const uint32_t *offset;
    double dropout;
    float x[2 * N * 8], y[4 * N * 40], dx[2 * N * 8], c[4 * N * 40], target[N * 24];
    double mean[8], variance[8];
};

static void prepare(struct bench *b)
{
    struct cs_error err = { 0 };
    assert_true(parameter_set_allocate(&b->set, &err) && parameter_set_gradients(&b->set, &err));
    for (size_t i = 0; i < b->set.count; i++) fill(b->set.parameter[i].value, b->set.parameter[i].size, 10 + i);
    fill(b->x, sizeof b->x / sizeof(float), 1);
    fill(b->c, sizeof b->c / sizeof(float), 2);
    fill(b->target, sizeof b->target / sizeof(float), 4);
    b->arena = arena_create(1 << 16);
}

static void done(struct bench *b)
{
    parameter_set_free(&b->set);
    arena_destroy(b->arena);
    free(b);
}

static double weighted(const float *y, const float *c, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += (double)y[i] * (double)c[i];
    return sum;
}

static double dense_loss(void *argument)
{
    struct bench *b = argument;
    float dy[N * OUT];
    dense_forward(&compute, b->weight, b->bias, ACTIVATION_LEAKY_RELU, N, b->x, IN, b->y, OUT);
    memcpy(dy, b->c, sizeof dy);
    dense_backward(&compute, b->weight, b->bias, ACTIVATION_LEAKY_RELU, N, b->x, IN, b->y, OUT, dy, OUT, 0.0f, b->dx,
                   IN);
    return weighted(b->y, b->c, N * OUT);
}

static void check_parameters(struct bench *b, loss_of *loss)
{
    loss(b);
    for (size_t i = 0; i < b->set.count; i++) {
        struct parameter *p = &b->set.parameter[i];
        if (p->gradient) check_gradient(p->name, p->value, p->gradient, p->size, loss, b);
    }
}

static void test_dense(void **state)
{
    (void)state;
    struct bench *b = calloc(1, sizeof *b);
    b->weight = parameter_add(&b->set, PARAMETER_RANKING, TENSOR_SCORING, START_GLOROT, OUT, IN, "weight");
    b->bias = parameter_add(&b->set, PARAMETER_RANKING, TENSOR_SCORING, START_ZERO, OUT, 0, "bias");
    prepare(b);
    check_parameters(b, dense_loss);
    check_gradient("dense x", b->x, b->dx, N * IN, dense_loss, b);
    done(b);
}

static double norm_loss(void *argument)
{
    struct bench *b = argument;
    batch_norm_forward(&compute, &b->norm, N, b->x, b->y, b->mean, b->variance);
    memcpy(b->dx, b->c, N * IN * sizeof(float));
    batch_norm_backward(&compute, &b->norm, N, b->x, b->y, b->mean, b->variance, b->dx);
    return weighted(b->y, b->c, N * IN);
}

static void test_batch_norm(void **state)
{
    (void)state;
    struct bench *b = calloc(1, sizeof *b);
    batch_norm_add(&b->norm, &b->set, IN, "ranking", 0);
    prepare(b);
    check_parameters(b, norm_loss);
    check_gradient("norm x", b->x, b->dx, N * IN, norm_loss, b);
    done(b);
}

static double attention_loss(void *argument)
{
    struct bench *b = argument;
    struct attention_pass pass;
    arena_reset(b->arena);
    attention_forward(&compute, &b->attention, 4, b->x, b->offset, b->y, IN, b->arena, &pass);
    attention_backward(&compute, &b->attention, &pass, b->c, IN);
    return weighted(b->y, b->c, 4 * IN);
}

static void test_attention(void **state)
{
    (void)state;
    static const uint32_t offset[] = { 0, 3, 3, 4, 10 };    /* three positions, none, one, six */
    struct bench *b = calloc(1, sizeof *b);
    attention_add(&b->attention, &b->set, PARAMETER_ZERO_SHOT, TENSOR_SCORING, 4, IN, "attention");
    b->offset = offset;
    prepare(b);
    check_parameters(b, attention_loss);
    for (size_t k = 0; k < IN; k++) {
        assert_true(b->y[IN + k] == 0.0f);                          /* nothing unmasked: h = 0 */
        assert_float_equal(b->y[2 * IN + k], b->x[3 * IN + k], 1e-6);   /* one position: itself */
    }
    done(b);
}

static double block_loss(void *argument)
{
    struct bench *b = argument;
    struct block_pass pass;
    float dy[N * 3];
    arena_reset(b->arena);
    block_forward(&compute, &b->block, N, b->x, IN, b->dropout, 5, 9, b->y, b->arena, &pass);
    memcpy(dy, b->c, sizeof dy);
    for (size_t i = 0; i < N * IN; i++) b->dx[i] = 1.0f;            /* backward is asked to add: what was there stays */
    block_backward(&compute, &b->block, &pass, dy, b->dx, IN, true, b->arena);
    for (size_t i = 0; i < N * IN; i++) b->dx[i] -= 1.0f;
    return weighted(b->y, b->c, N * 3);
}

static void check_block(enum activation last, double dropout)
{
    static const size_t width[] = { 6, 4, 3 };
    struct bench *b = calloc(1, sizeof *b);
    block_add_parameters(&b->block, &b->set, PARAMETER_ZERO_SHOT, TENSOR_SCORING, IN, width, last, "encoder");
    b->dropout = dropout;
    prepare(b);
    check_parameters(b, block_loss);
    check_gradient("block x", b->x, b->dx, N * IN, block_loss, b);
    done(b);
}

static void test_block(void **state)
{
    (void)state;
    check_block(ACTIVATION_LEAKY_RELU, 0.0);
    check_block(ACTIVATION_NONE, 0.0);
    check_block(ACTIVATION_NONE, 0.4);
}

static double mmd_loss(void *argument)
{
    struct bench *b = argument;
    arena_reset(b->arena);
    memset(b->dx, 0, sizeof b->dx);
    return mmd(&compute, b->x, N, IN, 0.9, b->dx, b->arena);
}

static void test_mmd(void **state)
{
    (void)state;
    struct bench *b = calloc(1, sizeof *b);
    prepare(b);
    mmd_loss(b);
    check_gradient("mmd codes", b->x, b->dx, 2 * N * IN, mmd_loss, b);
    double plain = 0.0;                                             /* the definition, as it is written */
    for (size_t i = 0; i < 2 * N; i++)
        for (size_t j = 0; j < 2 * N; j++) {
            double square = 0.0;
            for (size_t k = 0; k < IN; k++) square += pow((double)b->x[i * IN + k] - (double)b->x[j * IN + k], 2);
            plain += exp(-square / (2 * 0.9 * 0.9)) * ((i < N) == (j < N) ? 1 : -1) / (N * N);
        }
    assert_float_equal(mmd_loss(b), plain, 1e-5);
    for (size_t i = 0; i < N * IN; i++) b->x[N * IN + i] = b->x[i];
    assert_float_equal(mmd_loss(b), 0.0, 1e-6);                     /* the same codes on both sides */
    done(b);
}

static double reconstruction_loss(void *argument)
{
    struct bench *b = argument;
    arena_reset(b->arena);
    memcpy(b->dx, b->x, sizeof b->dx);
    return reconstruction_dense(&compute, b->dx, N, IN, b->target, IN, b->arena);
}

static double sequence_loss(void *argument)
{
    static const uint32_t offset[] = { 0, 2, 2, 3 }, slot[] = { 0, 2, 1 };
    struct bench *b = argument;
    struct sequence_target target = { b->target, offset, slot, 2 };
    arena_reset(b->arena);
    memcpy(b->dx, b->x, sizeof b->dx);
    return reconstruction_sequence(&compute, b->dx, 3, 8, &target, b->arena);
}

static void test_reconstruction(void **state)
{
    (void)state;
    struct bench *b = calloc(1, sizeof *b);
    prepare(b);
    reconstruction_loss(b);
    check_gradient("reconstruction", b->x, b->dx, N * IN, reconstruction_loss, b);
    sequence_loss(b);
    check_gradient("sequence", b->x, b->dx, 3 * 8, sequence_loss, b);
    float padded[3 * 8] = { 0 };                                    /* slots that are not there count as zeros */
    memcpy(padded, b->target, 2 * sizeof(float));
    memcpy(padded + 4, b->target + 2, 2 * sizeof(float));
    memcpy(padded + 16 + 2, b->target + 4, 2 * sizeof(float));
    double plain = 0.0;
    for (size_t i = 0; i < 24; i++) plain += pow((double)b->x[i] - (double)padded[i], 2) / 3;
    assert_float_equal(sequence_loss(b), plain, 1e-5);
    done(b);
}

static const uint8_t label[N] = { 1, 0, 0, 1, 0, 1, 0 }, correction[N] = { 0, 0, 0, 1, 0, 0, 0 };

static double entropy_loss(void *argument)
{
    struct bench *b = argument;
    return cross_entropy(N, b->x, label, correction, b->dx);
}

/* Two rows that are far apart, or far from 0: of dy hardly anything is left, but of that all digits. With x = m -+ h,
 * dx = +- gamma / sqrt(h^2 + e) e / (h^2 + e) (dy_0 - dy_1) / 2. */
static void test_batch_norm_of_two_rows(void **state)
{
    (void)state;
    struct bench *b = calloc(1, sizeof *b);
    batch_norm_add(&b->norm, &b->set, IN, "ranking", 0);
    prepare(b);
    for (size_t j = 0; j < IN; j++) {
        b->norm.beta->value[j] = 100.0f;        /* all above 0: no slope in between */
        b->x[j] = 10.0f * (float)j - (float)(1u << j) / 4.0f;
        b->x[IN + j] = 10.0f * (float)j + (float)(1u << j) / 4.0f;
    }
    batch_norm_forward(&compute, &b->norm, 2, b->x, b->y, b->mean, b->variance);
    memcpy(b->dx, b->c, 2 * IN * sizeof *b->dx);
    batch_norm_backward(&compute, &b->norm, 2, b->x, b->y, b->mean, b->variance, b->dx);
    for (size_t j = 0; j < IN; j++) {
        double h = (double)(1u << j) / 4.0, spread = h * h + 1e-3,
               left = 1e-3 / spread * ((double)b->c[j] - (double)b->c[IN + j]) / 2.0,
               wanted = (double)b->norm.gamma->value[j] / sqrt(spread) * left;
        if (fabs((double)b->dx[j] - wanted) > 1e-6 * fabs(wanted))
            fail_msg("column %zu: %.9g, not %.9g", j, (double)b->dx[j], wanted);
        assert_true(b->dx[IN + j] == -b->dx[j]);
    }
    done(b);
}

/* Means and differences from them: where all rows have one value, exactly that and exactly 0. */
static void test_centring(void **state)
{
    (void)state;
    struct bench *b = calloc(1, sizeof *b);
    prepare(b);
    for (size_t i = 0; i < N; i++) b->x[i * IN + 2] = 0.1f;
    batch_norm_centre(&compute, N, IN, b->x, b->y);
    batch_norm_means(&compute, N, IN, b->x, b->mean);
    assert_true(b->mean[2] == (double)0.1f);
    for (size_t j = 0; j < IN; j++) {
        double sum = 0.0, left = 0.0;
        for (size_t i = 0; i < N; i++) sum += (double)b->x[i * IN + j], left += (double)b->y[i * IN + j];
        assert_true(fabs(sum / N - b->mean[j]) < 1e-12 && fabs(left) < 1e-6);
        for (size_t i = 0; i < N; i++) assert_true(j != 2 || b->y[i * IN + j] == 0.0f);
    }
    done(b);
}

static void test_cross_entropy(void **state)
{
    (void)state;
    struct bench *b = calloc(1, sizeof *b);
    prepare(b);
    entropy_loss(b);
    check_gradient("logit", b->x, b->dx, N, entropy_loss, b);
    assert_float_equal(b->dx[3], -1.0 / N, 1e-7);                   /* BCE(1) - BCE(0) = -z */
    float far[2] = { 200.0f, -200.0f }, d[2];
    static const uint8_t right[2] = { 1, 0 }, wrong[2] = { 0, 1 };
    assert_float_equal(cross_entropy(2, far, right, NULL, d), 0.0, 1e-9);
    assert_float_equal(cross_entropy(2, far, wrong, NULL, d), 200.0, 1e-4);
    done(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),         cmocka_unit_test(test_batch_norm), cmocka_unit_test(test_attention),
        cmocka_unit_test(test_block),         cmocka_unit_test(test_mmd),        cmocka_unit_test(test_reconstruction),
        cmocka_unit_test(test_cross_entropy), cmocka_unit_test(test_batch_norm_of_two_rows),
        cmocka_unit_test(test_centring),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
