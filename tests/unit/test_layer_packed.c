/* Packed products against sums in double, for every number of rows and columns that takes a path of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/layer_packed.h"
#include "core/random.h"

enum { ROWS_MAX = 30, OUT_MAX = 100, IN_MAX = 40, LD = 120 };

static float x[ROWS_MAX * LD], weight[OUT_MAX * LD], scale[OUT_MAX], start[ROWS_MAX * LD], y[ROWS_MAX * LD];

static void fill(float *to, size_t n, uint64_t stream)
{
    for (size_t i = 0; i < n; i++) to[i] = random_normal(stream, i);
}

static void compare(size_t n, size_t out, size_t in, const float *from, size_t ld_start, bool leaky)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < out; j++) {
            double sum = from ? (double)start[i * ld_start + j] : 0.0;
            for (size_t k = 0; k < in; k++)
                sum += (double)x[i * LD + k] * (double)weight[j * LD + k] * (double)scale[j];
            if (leaky && sum < 0) sum *= 0.2;
            if (fabs((double)y[i * LD + j] - sum) > 1e-5 * (1 + fabs(sum)))
                fail_msg("%zu rows, %zu columns of %zu: [%zu,%zu] is %g, not %g", n, out, in, i, j,
                         (double)y[i * LD + j], sum);
        }
        assert_true(out == LD || y[i * LD + out] == 7.0f);     /* nothing is written beside it */
    }
}

static void run(bool narrow)
{
    static const size_t outs[] = { 1, 7, 16, 31, 32, 33, 64, 100 }, ins[] = { 0, 1, 5, 40 };
    for (size_t o = 0; o < sizeof outs / sizeof *outs; o++)
        for (size_t k = 0; k < sizeof ins / sizeof *ins; k++) {
            struct packed *packed = packed_create(outs[o], ins[k], weight, LD, scale);
            if (narrow) packed_narrow(packed);
            for (size_t n = 1; n <= ROWS_MAX; n++)
                for (int way = 0; way < 4; way++) {
                    const float *from = way ? start : NULL;
                    size_t ld_start = way == 2 ? LD : 0;
                    for (size_t i = 0; i < ROWS_MAX * LD; i++) y[i] = 7.0f;
                    packed_forward(packed, n, x, LD, from, ld_start, way == 3, y, LD, NULL);
                    compare(n, outs[o], ins[k], from, ld_start, way == 3);
                }
            packed_destroy(packed);
        }
}

static void products_are_exact_to_rounding(void **state)
{
    (void)state;
    run(false);
}

static void and_where_vectors_are_narrow(void **state)
{
    (void)state;
    run(true);
}

static void the_start_may_be_the_result(void **state)
{
    (void)state;
    struct packed *packed = packed_create(70, 9, weight, LD, NULL);
    float apart[ROWS_MAX * LD];
    packed_forward(packed, 25, x, LD, start, LD, true, apart, LD, NULL);
    memcpy(y, start, sizeof y);
    packed_forward(packed, 25, x, LD, y, LD, true, y, LD, NULL);
    for (size_t i = 0; i < 25; i++) assert_memory_equal(y + i * LD, apart + i * LD, 70 * sizeof *y);
    packed_destroy(packed);
}

enum { BESIDE_ROWS = 25, WEIGHTS = 300 * 70 };

/* A product of few rows with another beside it, and that one: the same as each by itself, however little of it was done
 * meanwhile. */
static void in_turns(bool narrow, size_t out, size_t in, size_t rows)
{
    float few[6 * LD], few_alone[6 * LD], *long_x = calloc(6 * 300, sizeof *long_x),
          *large = calloc(WEIGHTS, sizeof *large);
    assert_true(long_x && large && in <= 300 && out <= 70);
    fill(long_x, 6 * 300, 5);
    fill(large, WEIGHTS, 6);
    struct packed *packed = packed_create(out, in, large, 300, NULL), *other = packed_create(70, 9, weight, LD, NULL);
    if (narrow) packed_narrow(packed);
    if (narrow) packed_narrow(other);
    for (size_t n = 0; n <= 6; n++) {
        static float many[ROWS_MAX * LD], many_alone[ROWS_MAX * LD];
        struct packed_job job = { .packed = other, .n = rows, .x = x, .ldx = LD, .y = many, .ldy = LD, .leaky = true };
        for (size_t i = 0; i < 6 * LD; i++) few[i] = few_alone[i] = 7.0f;
        for (size_t i = 0; i < ROWS_MAX * LD; i++) many[i] = many_alone[i] = 7.0f;
        packed_forward(packed, n, long_x, 300, start, LD, true, few_alone, LD, NULL);
        packed_forward(other, rows, x, LD, NULL, 0, true, many_alone, LD, NULL);
        packed_forward(packed, n, long_x, 300, start, LD, true, few, LD, &job);
        if (n && rows && in == 300) assert_true(job.done > 0);
        packed_finish(&job);
        assert_memory_equal(few, few_alone, sizeof few);
        assert_memory_equal(many, many_alone, sizeof many);
    }
    packed_destroy(packed);
    packed_destroy(other);
    free(long_x);
    free(large);
}

static void products_in_turns_are_the_same(void **state)
{
    (void)state;
    static const size_t outs[] = { 1, 16, 33, 64, 70 }, ins[] = { 0, 5, 300 };
    for (size_t o = 0; o < sizeof outs / sizeof *outs; o++)
        for (size_t k = 0; k < sizeof ins / sizeof *ins; k++)
            for (size_t rows = 0; rows <= BESIDE_ROWS; rows += 5) {
                in_turns(false, outs[o], ins[k], rows);
                in_turns(true, outs[o], ins[k], rows);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_exact_to_rounding),
        cmocka_unit_test(and_where_vectors_are_narrow),
        cmocka_unit_test(the_start_may_be_the_result),
        cmocka_unit_test(products_in_turns_are_the_same),
    };
    fill(x, ROWS_MAX * LD, 1);
    fill(weight, OUT_MAX * LD, 2);
    fill(scale, OUT_MAX, 3);
    fill(start, ROWS_MAX * LD, 4);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
