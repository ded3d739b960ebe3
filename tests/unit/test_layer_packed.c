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
                    packed_forward(packed, n, x, LD, from, ld_start, way == 3, y, LD);
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
    packed_forward(packed, 25, x, LD, start, LD, true, apart, LD);
    memcpy(y, start, sizeof y);
    packed_forward(packed, 25, x, LD, y, LD, true, y, LD);
    for (size_t i = 0; i < 25; i++) assert_memory_equal(y + i * LD, apart + i * LD, 70 * sizeof *y);
    packed_destroy(packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_exact_to_rounding),
        cmocka_unit_test(and_where_vectors_are_narrow),
        cmocka_unit_test(the_start_may_be_the_result),
    };
    fill(x, ROWS_MAX * LD, 1);
    fill(weight, OUT_MAX * LD, 2);
    fill(scale, OUT_MAX, 3);
    fill(start, ROWS_MAX * LD, 4);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
