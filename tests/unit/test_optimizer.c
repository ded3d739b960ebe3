/* The update rules against their formulas in double, and against any split of the parameters. */
#include "core/optimizer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/random.h"

enum { N = 203, STEPS = 300 };

static const struct optimizer_options all[] = {
    { .kind = OPTIMIZER_ADAM, .learning_rate = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8 },
    { .kind = OPTIMIZER_ADAGRAD, .learning_rate = 0.05, .epsilon = 1e-8, .initial_accumulator = 0.1 },
    { .kind = OPTIMIZER_FTRL, .learning_rate = 0.1, .beta = 1.0, .l1 = 0.3, .l2 = 0.2, .initial_accumulator = 0.1 },
    { .kind = OPTIMIZER_SGD, .learning_rate = 0.01 },
};
enum { KINDS = sizeof all / sizeof *all };

static float gradient_at(size_t step, size_t i)
{
    return random_normal(random_stream(1, "gradient", step), i) * (float)(0.01 + (double)(i % 7));
}

/* The formulas, word for word, in double. */
static void reference(const struct optimizer_options *o, double step, double *w, double g, double *m, double *v)
{
    double before;
    switch (o->kind) {
    case OPTIMIZER_ADAM:
        *m = o->beta1 * *m + (1 - o->beta1) * g;
        *v = o->beta2 * *v + (1 - o->beta2) * g * g;
        *w -= o->learning_rate * (*m / (1 - pow(o->beta1, step))) / (sqrt(*v / (1 - pow(o->beta2, step))) + o->epsilon);
        break;
    case OPTIMIZER_ADAGRAD:
        *v += g * g;
        *w -= o->learning_rate * g / (sqrt(*v) + o->epsilon);
        break;
    case OPTIMIZER_FTRL:
        before = *v;
        *v += g * g;
        *m += g - (sqrt(*v) - sqrt(before)) / o->learning_rate * *w;
        *w = fabs(*m) <= o->l1 ? 0 : -(*m - (*m > 0 ? o->l1 : -o->l1)) / ((o->beta + sqrt(*v)) / o->learning_rate
                + o->l2);
        break;
    case OPTIMIZER_SGD:
        *w -= o->learning_rate * g;
        break;
    }
}

static void start(const struct optimizer_options *o, float *w, float *m, float *v)
{
    for (size_t i = 0; i < N; i++) {
        w[i] = random_normal(random_stream(2, "w", 0), i);
        m[i] = 0;
        v[i] = optimizer_initial_v(o);
    }
}

static void follows_the_formulas(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        float w[N], m[N], v[N], g[N];
        double rw[N], rm[N], rv[N];
        start(&all[k], w, m, v);
        for (size_t i = 0; i < N; i++) rw[i] = (double)w[i], rm[i] = (double)m[i], rv[i] = (double)v[i];
        for (size_t step = 1; step <= STEPS; step++) {
            for (size_t i = 0; i < N; i++) g[i] = gradient_at(step, i);
            optimizer_update(&all[k], step, w, g, m, v, N);
            for (size_t i = 0; i < N; i++) reference(&all[k], (double)step, &rw[i], (double)g[i], &rm[i], &rv[i]);
        }
        for (size_t i = 0; i < N; i++) {
            if (fabs((double)w[i] - rw[i]) > 2e-5 * (1 + fabs(rw[i])))
                fail_msg("kind %zu, parameter %zu: %.9g, in double %.9g", k, i, (double)w[i], rw[i]);
            if (optimizer_state_count(all[k].kind) == 2)
                assert_true(fabs((double)m[i] - rm[i]) < 1e-4 * (1 + fabs(rm[i])));
            if (optimizer_state_count(all[k].kind) >= 1)
                assert_true(fabs((double)v[i] - rv[i]) < 1e-4 * (1 + fabs(rv[i])));
        }
    }
}

/* Late in a long run too: the corrections are 1 by then, and nothing overflows. */
static void first_and_late_adam_steps_have_the_learning_rate(void **state)
{
    (void)state;
    uint64_t step[] = { 1, 1000000, UINT64_C(1) << 40 };
    for (size_t s = 0; s < 3; s++) {
        double left1 = 1 - pow(0.9, (double)step[s]), left2 = 1 - pow(0.999, (double)step[s]);
        float w = 0, g = 0.25f, m = (float)(0.25 * (left1 - 0.1) / 0.9), v = (float)(0.0625 * (left2 - 0.001) / 0.999);
        optimizer_update(&all[0], step[s], &w, &g, &m, &v, 1);
        assert_true(fabs((double)w + 1e-3) < 1e-8);    /* a constant gradient moves a weight by exactly the rate */
    }
}

static void a_split_gives_the_same_bytes(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        for (size_t cut = 0; cut <= N; cut++) {
            float w[N], m[N], v[N], g[N], w2[N], m2[N], v2[N];
            start(&all[k], w, m, v);
            start(&all[k], w2, m2, v2);
            for (size_t step = 1; step <= 3; step++) {
                for (size_t i = 0; i < N; i++) g[i] = gradient_at(step, i);
                optimizer_update(&all[k], step, w, g, m, v, N);
                optimizer_update(&all[k], step, w2, g, m2, v2, cut);
                optimizer_update(&all[k], step, w2 + cut, g + cut, m2 + cut, v2 + cut, N - cut);
            }
            assert_memory_equal(w, w2, sizeof w);
            assert_memory_equal(m, m2, sizeof m);
            assert_memory_equal(v, v2, sizeof v);
        }
    }
}

static void ftrl_zeroes_what_l1_outweighs(void **state)
{
    (void)state;
    struct optimizer_options o = all[2];
    o.l1 = 5;
    float w[2] = { 0, 0 }, g[2] = { 4.9f, 5.5f }, m[2] = { 0, 0 }, v[2] = { 0.1f, 0.1f };
    optimizer_update(&o, 1, w, g, m, v, 2);
    assert_true(w[0] == 0.0f);
    assert_true(w[1] < 0.0f);
}

static void kinds_without_state_take_null(void **state)
{
    (void)state;
    float w = 1, g = 2, v = 0.5f;
    optimizer_update(&all[3], 1, &w, &g, NULL, NULL, 1);
    assert_true(fabs((double)w - 0.98) < 1e-6);
    optimizer_update(&all[1], 1, &w, &g, NULL, &v, 1);
    assert_true(v == 4.5f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_the_formulas),
        cmocka_unit_test(first_and_late_adam_steps_have_the_learning_rate),
        cmocka_unit_test(a_split_gives_the_same_bytes),
        cmocka_unit_test(ftrl_zeroes_what_l1_outweighs),
        cmocka_unit_test(kinds_without_state_take_null),
    };
    return cmocka_run_group_tests_name("optimizer", tests, NULL, NULL);
}
