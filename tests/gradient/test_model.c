/* Finite differences end to end: the ranking loss and the zero-shot loss by every parameter and every row that they
 * depend on, through pooling, attention, encoders, decoders, norms, with dropout's masks held. */
#include "tests/gradient/finite_difference.h"

#include "tests/gradient/small_model.h"

enum { TABLES_MAX = 8 };

struct bench {
    struct features *features;
    struct model *model;
    struct batch *batch;
    struct arena *batch_arena, *scratch;
    struct model_rows rows[TABLES_MAX];
    float *row[TABLES_MAX], *gradient[TABLES_MAX];
    uint8_t *present[TABLES_MAX];
    uint32_t old[SMALL_SIZE];
    size_t old_count;
};

static struct bench *bench_create(const struct model_options *options)
{
    struct cs_error err = { 0 };
    struct bench *b = calloc(1, sizeof *b);
    b->features = small_features();
    b->model = model_create(b->features, SMALL_D, options, &parallel_serial, &err);
    assert_non_null(b->model);
    model_start(b->model, 11);
    struct parameter_set *set = model_parameters(b->model);
    assert_true(parameter_set_gradients(set, &err));
    for (size_t i = 0; i < set->count; i++) /* biases and betas that do nothing would hide what goes through them */
        if (set->parameter[i].start == START_ZERO && set->parameter[i].group != PARAMETER_STATISTIC) {
            fill(set->parameter[i].value, set->parameter[i].size, 50 + i);
            for (size_t j = 0; j < set->parameter[i].size; j++) set->parameter[i].value[j] *= 0.3f;
        }
    b->batch_arena = arena_create(1 << 14);
    b->scratch = arena_create(1 << 16);
    b->batch = small_batch(b->features, 5, b->batch_arena);
    for (size_t t = 0; t < b->features->table_count; t++) {
        size_t count = b->batch->table[t].count;
        b->row[t] = malloc(count * SMALL_D * sizeof(float));
        b->gradient[t] = malloc(count * SMALL_D * sizeof(float));
        b->present[t] = malloc(count);
        fill(b->row[t], count * SMALL_D, 90 + t);
        memset(b->present[t], 1, count);
        if (count > 2) {        /* one key has no row */
            b->present[t][2] = 0;
            memset(b->row[t] + 2 * SMALL_D, 0, SMALL_D * sizeof(float));
        }
        b->rows[t] = (struct model_rows){ b->row[t], b->present[t] };
    }
    for (size_t i = 0; i < SMALL_SIZE; i++)
        if (!b->batch->is_new[i]) b->old[b->old_count++] = (uint32_t)i;
    return b;
}

static void bench_destroy(struct bench *b)
{
    for (size_t t = 0; t < b->features->table_count; t++) {
        free(b->row[t]);
        free(b->gradient[t]);
        free(b->present[t]);
    }
    model_destroy(b->model);
    features_destroy(b->features);
    arena_destroy(b->batch_arena);
    arena_destroy(b->scratch);
    free(b);
}

static double ranking_loss(void *argument)
{
    struct bench *b = argument;
    float probability[SMALL_SIZE];
    arena_reset(b->scratch);
    model_changed(b->model);
    struct model_pass *pass = model_forward_score(b->model, b->batch, b->rows, b->scratch, probability);
    double loss = model_train_ranking(b->model, pass, 3, 4, b->scratch);
    for (size_t t = 0; t < b->features->table_count; t++)
        model_row_gradient(b->model, pass, t, b->gradient[t], b->scratch);
    return loss;
}

static double zero_shot_loss(void *argument)
{
    struct bench *b = argument;
    float probability[SMALL_SIZE];
    arena_reset(b->scratch);
    struct model_pass *pass = model_forward_score(b->model, b->batch, b->rows, b->scratch, probability);
    struct zero_shot_loss loss = model_train_zero_shot(b->model, pass, b->old, b->old_count, 3, 4, b->scratch);
    return loss.user + loss.behavior + loss.mmd;
}

static void check_group(struct bench *b, enum parameter_group group, loss_of *loss)
{
    struct parameter_set *set = model_parameters(b->model);
    loss(b);
    for (size_t i = 0; i < set->count; i++)
        if (set->parameter[i].group == group)
            check_gradient(set->parameter[i].name, set->parameter[i].value, set->parameter[i].gradient,
                           set->parameter[i].size, loss, b);
}

static void check_rows(struct bench *b)
{
    ranking_loss(b);
    for (size_t t = 0; t < b->features->table_count; t++)
        for (size_t i = 0; i < b->batch->table[t].count; i++) {
            float *gradient = b->gradient[t] + i * SMALL_D;
            if (b->present[t][i])
                check_gradient(b->features->table[t], b->row[t] + i * SMALL_D, gradient, SMALL_D, ranking_loss, b);
            else for (size_t k = 0; k < SMALL_D; k++) assert_true(gradient[k] == 0.0f);
        }
}

static void check_ranking(enum ranking_kind tower, enum zero_shot_kind kind, double dropout)
{
    struct model_options options = small_options(tower, kind);
    options.ranking.dropout = dropout;
    struct bench *b = bench_create(&options);
    check_group(b, PARAMETER_RANKING, ranking_loss);
    check_rows(b);
    bench_destroy(b);
}

static void test_emb_lr(void **state) { (void)state; check_ranking(RANKING_EMB_LR, ZERO_SHOT_NONE, 0.0); }
static void test_base_dnn(void **state) { (void)state; check_ranking(RANKING_BASE_DNN, ZERO_SHOT_NONE, 0.0); }
static void test_base_dnn_dropout(void **state) { (void)state; check_ranking(RANKING_BASE_DNN, ZERO_SHOT_NONE, 0.3); }
/* The ranking loss goes through the map into the new users' attributes. */
static void test_linear(void **state) { (void)state; check_ranking(RANKING_BASE_DNN, ZERO_SHOT_LINEAR, 0.0); }

static void check_mail(enum zero_shot_losses losses, enum zero_shot_target target, double dropout)
{
    struct model_options options = small_options(RANKING_EMB_LR, ZERO_SHOT_MAIL);
    options.zero_shot.losses = losses;
    options.zero_shot.target = target;
    options.zero_shot.dropout = dropout;
    struct bench *b = bench_create(&options);
    check_group(b, PARAMETER_ZERO_SHOT, zero_shot_loss);
    bench_destroy(b);
}

static void test_mail_single(void **state) { (void)state; check_mail(LOSSES_SINGLE, TARGET_POOLED, 0.0); }
static void test_mail_dual(void **state) { (void)state; check_mail(LOSSES_DUAL, TARGET_SEQUENCE, 0.0); }
static void test_mail_full(void **state) { (void)state; check_mail(LOSSES_FULL, TARGET_POOLED, 0.0); }
static void test_mail_sequence_dropout(void **state) { (void)state; check_mail(LOSSES_FULL, TARGET_SEQUENCE, 0.3); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_emb_lr), cmocka_unit_test(test_base_dnn), cmocka_unit_test(test_base_dnn_dropout),
        cmocka_unit_test(test_linear), cmocka_unit_test(test_mail_single), cmocka_unit_test(test_mail_dual),
        cmocka_unit_test(test_mail_full), cmocka_unit_test(test_mail_sequence_dropout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
