/* Metrics against their definitions, pair by pair, and across restarts. */
#include "core/metrics.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/random.h"
#include "tests/unit/memory_state.h"

enum { N = 1000 };

struct stream {
    float prediction[N];
    uint8_t clicked[N], is_new[N], correction[N];
    uint64_t user[N];
};

/* Coarse predictions, so that ties are many; clicks that follow them. */
static void draw(struct stream *s, uint64_t seed)
{
    for (size_t i = 0; i < N; i++) {
        s->prediction[i] = (float)(1 + random_bits(seed, i * 5) % 40) / 41.0f;
        s->clicked[i] = random_uniform(seed, i * 5 + 1) < 0.3f * s->prediction[i] + 0.1f;
        s->user[i] = random_bits(seed, i * 5 + 2) % 60;
        s->is_new[i] = s->user[i] % 3 == 0;
        s->correction[i] = random_bits(seed, i * 5 + 3) % 50 == 0;
    }
}

static void observe(struct metrics *metrics, struct stream *s, size_t begin, size_t end)
{
    for (size_t at = begin; at < end;) {
        size_t n = end - at < 37 ? end - at : 37;
        struct batch batch = { .size = n, .clicked = s->clicked + at, .is_new = s->is_new + at, .user = s->user + at,
                               .correction = s->correction + at };
        metrics_observe(metrics, &batch, s->prediction + at);
        at += n;
    }
}

static bool counts(const struct stream *s, size_t i, enum metrics_users users)
{
    return !s->correction[i] && (users == USERS_ALL || s->is_new[i] == (users == USERS_NEW));
}

/* All pairs. user < 0: of everybody. */
static double pairs(const struct stream *s, size_t begin, size_t end, enum metrics_users users, int64_t user,
                    double *examples)
{
    double won = 0, all = 0;
    *examples = 0;
    for (size_t i = begin; i < end; i++) {
        if (!counts(s, i, users) || (user >= 0 && s->user[i] != (uint64_t)user)) continue;
        ++*examples;
        for (size_t j = begin; s->clicked[i] && j < end; j++) {
            if (!counts(s, j, users) || s->clicked[j] || (user >= 0 && s->user[j] != (uint64_t)user)) continue;
            all++;
            won += s->prediction[i] > s->prediction[j] ? 1 : s->prediction[i] == s->prediction[j] ? 0.5 : 0;
        }
    }
    return all > 0 ? won / all : NAN;
}

static void grouped(const struct stream *s, size_t begin, size_t end, enum metrics_users users, double *sum,
                    double *weight)
{
    for (int64_t user = 0; user < 60; user++) {
        double n, auc = pairs(s, begin, end, users, user, &n);
        if (isnan(auc)) continue;
        *sum += auc * n;
        *weight += n;
    }
}

static void assert_close(double got, double wanted, double margin)
{
    if (!(fabs(got - wanted) <= margin)) fail_msg("%.15g, by definition %.15g", got, wanted);
}

/* The first example of the last `window` that count. */
static size_t window_begin(const struct stream *s, size_t end, size_t window)
{
    size_t begin = end;
    for (size_t left = window; begin > 0 && left > 0;) left -= counts(s, --begin, USERS_ALL);
    return begin;
}

static void assert_follows(const struct metrics *metrics, const struct stream *s, size_t window)
{
    for (enum metrics_users users = 0; users < USERS_GROUPS; users++) {
        for (enum metrics_span span = 0; span < SPANS; span++) {
            struct metrics_report report = metrics_report(metrics, users, span);
            size_t begin = span == SPAN_WINDOW ? window_begin(s, N, window) : 0;
            double n, auc = pairs(s, begin, N, users, -1, &n), clicks = 0, losses = 0, predictions = 0, sum = 0,
                weight = 0;
            for (size_t i = begin; i < N; i++) {
                if (!counts(s, i, users)) continue;
                clicks += s->clicked[i];
                predictions += (double)s->prediction[i];
                losses -= log(s->clicked[i] ? (double)s->prediction[i] : 1 - (double)s->prediction[i]);
            }
            assert_int_equal(report.examples, n);
            assert_int_equal(report.clicks, clicks);
            assert_close(report.log_loss, losses / n, 1e-9);
            assert_close(report.calibration, predictions / clicks, 1e-9);
            /* 40 distinct predictions: each has its own bin since the start, too */
            assert_close(report.auc, auc, 1e-12);
            if (span == SPAN_WINDOW) {
                grouped(s, begin, N, users, &sum, &weight);
            } else {
                /* disjoint windows, the last one under way */
                for (size_t from = 0, to = 0; from < N; from = to) {
                    for (size_t in = 0; to < N && in < window; to++) in += counts(s, to, USERS_ALL);
                    grouped(s, from, to, users, &sum, &weight);
                }
            }
            assert_close(report.gauc, sum / weight, 1e-9);
        }
    }
}

static void follows_the_definitions(void **state)
{
    (void)state;
    static struct stream s;
    size_t window[] = { 150, 400, 5000 };
    for (uint64_t w = 0; w < 3; w++) {
        draw(&s, 3 + w);
        struct metrics *metrics = metrics_create(window[w]);
        observe(metrics, &s, 0, N);
        assert_follows(metrics, &s, window[w]);
        metrics_destroy(metrics);
    }
}

/* window, and how many examples come between two restarts: a ring of one block, and one of several that change in
 * turn. */
static void restart(size_t window, size_t between)
{
    static struct stream s;
    draw(&s, 8);
    struct metrics *metrics = metrics_create(window), *whole = metrics_create(window);
    struct memory_state *memory = memory_state_create(), *first = memory_state_create(),
                        *second = memory_state_create();
    for (size_t restarts = 0; restarts < 16; restarts++) {
        size_t at = restarts * between % N;
        observe(metrics, &s, at, at + between);
        observe(whole, &s, at, at + between);
        assert_true(metrics_save(metrics, &memory->writer, NULL));
        memory->writer.full = false;
        metrics_destroy(metrics);
        metrics = metrics_create(window);
        assert_true(metrics_load(metrics, &memory->reader, NULL));
    }
    assert_true(metrics_save(metrics, &first->writer, NULL));
    assert_true(metrics_save(whole, &second->writer, NULL));
    assert_true(memory_state_same(first, second));
    assert_true(memory_state_same(first, memory));
    metrics_destroy(metrics);
    metrics_destroy(whole);
    memory_state_destroy(memory);
    memory_state_destroy(first);
    memory_state_destroy(second);
}

static void restored_metrics_go_on_as_the_saved_ones(void **state)
{
    (void)state;
    restart(300, 125);
    restart(9000, N);
}

static void another_window_keeps_the_newest(void **state)
{
    (void)state;
    static struct stream s;
    draw(&s, 9);
    struct metrics *metrics = metrics_create(10000);
    for (size_t round = 0; round < 9; round++) observe(metrics, &s, 0, N);     /* more than one block of the ring */
    struct memory_state *memory = memory_state_create();
    assert_true(metrics_save(metrics, &memory->writer, NULL));
    size_t blocks = memory->count;
    metrics_destroy(metrics);
    metrics = metrics_create(200);
    assert_true(metrics_load(metrics, &memory->reader, NULL));
    struct metrics *fresh = metrics_create(200);
    observe(fresh, &s, 0, N);
    struct metrics_report a = metrics_report(metrics, USERS_ALL, SPAN_WINDOW),
        b = metrics_report(fresh, USERS_ALL, SPAN_WINDOW);
    assert_int_equal(a.examples, 200);
    assert_close(a.auc, b.auc, 0);
    assert_close(a.gauc, b.gauc, 0);
    memory->writer.full = false;
    assert_true(metrics_save(metrics, &memory->writer, NULL));
    assert_true(memory->count < blocks);
    metrics_destroy(metrics);
    metrics = metrics_create(200);
    assert_true(metrics_load(metrics, &memory->reader, NULL));
    assert_close(metrics_report(metrics, USERS_ALL, SPAN_WINDOW).auc, b.auc, 0);
    metrics_destroy(metrics);
    metrics_destroy(fresh);
    memory_state_destroy(memory);
}

static void says_nan_where_there_is_nothing_to_say(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_create(10);
    for (enum metrics_span span = 0; span < SPANS; span++) {
        struct metrics_report report = metrics_report(metrics, USERS_NEW, span);
        assert_int_equal(report.examples, 0);
        assert_true(isnan(report.log_loss) && isnan(report.auc) && isnan(report.gauc) && isnan(report.calibration));
    }
    metrics_destroy(metrics);
    assert_true(isnan(metric_auc((float[]){ 0.1f, 0.2f }, (uint8_t[]){ 1, 1 }, 2)));
    assert_true(isnan(metric_gauc((float[]){ 0.1f, 0.2f }, (uint8_t[]){ 1, 0 }, (uint64_t[]){ 1, 2 }, 2)));
}

static void plain_functions_take_any_range(void **state)
{
    (void)state;
    float logit[] = { -3, -0.0f, 0.0f, 2, -1 };
    uint8_t clicked[] = { 0, 1, 0, 1, 0 };
    uint64_t user[] = { 1, 1, 1, 2, 2 };
    assert_close(metric_auc(logit, clicked, 5), 5.5 / 6, 1e-15);           /* -0 and 0 tie */
    assert_close(metric_gauc(logit, clicked, user, 5), (0.75 * 3 + 1.0 * 2) / 5, 1e-15);
}

static void certainty_and_nonsense_stay_finite(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_create(10);
    float prediction[] = { 0, 1, NAN, INFINITY, 0.5f };
    uint8_t clicked[] = { 1, 0, 1, 1, 1 }, zero[5] = { 0 };
    uint64_t user[5] = { 0 };
    struct batch batch = { .size = 5, .clicked = clicked, .is_new = zero, .correction = zero, .user = user };
    metrics_observe(metrics, &batch, prediction);
    struct metrics_report report = metrics_report(metrics, USERS_ALL, SPAN_START);
    assert_int_equal(report.examples, 3);
    assert_close(report.log_loss, (2 * -log(1e-7) + log(2)) / 3, 1e-6);
    assert_true(isfinite(report.calibration));
    metrics_destroy(metrics);
}

/* Since the start: within what the header promises, for predictions of any fineness. */
static void histogram_is_within_its_bound(void **state)
{
    (void)state;
    static struct stream s;
    draw(&s, 4);
    for (size_t i = 0; i < N; i++) {
        s.correction[i] = 0;
        s.prediction[i] = 1 / (1 + expf(-random_normal(77, i)));
    }
    struct metrics *metrics = metrics_create(10);
    observe(metrics, &s, 0, N);
    double n, exact = pairs(&s, 0, N, USERS_ALL, -1, &n);
    assert_close(metrics_report(metrics, USERS_ALL, SPAN_START).auc, exact, 0.001);
    assert_close(metric_auc(s.prediction, s.clicked, N), exact, 1e-12);
    metrics_destroy(metrics);
}

static void damaged_state_is_refused(void **state)
{
    (void)state;
    static struct stream s;
    draw(&s, 5);
    struct metrics *metrics = metrics_create(100), *other = metrics_create(100);
    struct memory_state *memory = memory_state_create();
    struct cs_error err;
    assert_false(metrics_load(other, &memory->reader, &err));
    assert_int_equal(err.code, CS_REFUSED);
    observe(metrics, &s, 0, N);
    assert_true(metrics_save(metrics, &memory->writer, NULL));
    struct memory_block *block = memory_find(memory, "metrics.window", 0);
    block->size -= 16;
    assert_false(metrics_load(other, &memory->reader, &err));
    block->size += 16;
    uint64_t *word = memory_find(memory, "metrics", 0)->bytes;
    for (size_t w = 0; w < 5; w++) {        /* version, window, count, next, pending */
        uint64_t was = word[w];
        word[w] = UINT64_MAX;
        assert_false(metrics_load(other, &memory->reader, &err));
        assert_int_equal(err.code, CS_REFUSED);
        word[w] = was;
    }
    assert_true(metrics_load(other, &memory->reader, &err));
    metrics_destroy(metrics);
    metrics_destroy(other);
    memory_state_destroy(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_the_definitions),
        cmocka_unit_test(restored_metrics_go_on_as_the_saved_ones),
        cmocka_unit_test(another_window_keeps_the_newest),
        cmocka_unit_test(says_nan_where_there_is_nothing_to_say),
        cmocka_unit_test(plain_functions_take_any_range),
        cmocka_unit_test(certainty_and_nonsense_stay_finite),
        cmocka_unit_test(histogram_is_within_its_bound),
        cmocka_unit_test(damaged_state_is_refused),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
