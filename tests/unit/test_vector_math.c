/* exp and tanh against libm's doubles, in units of the last place; finite against what is not. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/vector_math.h"

static double ulps(float got, double want)
{
    float near = (float)want;
    return fabs((double)got - want) / (double)(nextafterf(fabsf(near), INFINITY) - fabsf(near));
}

static void test_exp(void **state)
{
    (void)state;
    double worst = 0.0;
    for (int i = 0; i < 472702; i++) {
        float x = -86.9f + 0.00037f * (float)i;
        worst = fmax(worst, ulps(vector_exp1(x), exp((double)x)));
    }
    if (worst > 2.0) print_error("worst %g\n", worst);
    assert_true(worst <= 2.0);
    assert_true(vector_exp1(-1000.0f) >= 0.0f && vector_exp1(-1000.0f) < 1e-37f);
    assert_true(vector_exp1(0.0f) == 1.0f);
}

static void test_tanh(void **state)
{
    (void)state;
    double worst = 0.0;
    for (int i = 0; i < 470588; i++) {
        float x = -12.0f + 0.000051f * (float)i;
        worst = fmax(worst, ulps(vector_tanh1(x), tanh((double)x)));
    }
    if (worst > 2.0) print_error("worst %g\n", worst);
    assert_true(worst <= 2.0);
    assert_true(vector_tanh1(-1000.0f) == -1.0f && vector_tanh1(0.0f) == 0.0f && vector_tanh1(1000.0f) == 1.0f);
}

/* A weight may be one before the batch is refused for it: NaN comes out, and no behavior that is undefined. */
static void test_not_a_number(void **state)
{
    (void)state;
    static const float numbers[] = { NAN, -NAN, INFINITY, -INFINITY };
    for (size_t i = 0; i < 4; i++) {
        assert_true(isnan(vector_exp1(numbers[i])) == (i < 2));
        assert_true(isnan(vector_tanh1(numbers[i])) == (i < 2));
    }
}

static void test_finite(void **state)
{
    (void)state;
    float value[37] = { 0 };
    value[3] = 3.4e38f, value[5] = -3.4e38f, value[7] = 1e-45f;
    assert_true(vector_finite(value, 37));
    static const float bad[] = { INFINITY, -INFINITY, NAN, -NAN };
    for (size_t i = 0; i < 4; i++)
        for (size_t at = 0; at < 37; at++) {
            float old = value[at];
            value[at] = bad[i];
            assert_false(vector_finite(value, 37));
            value[at] = old;
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_exp), cmocka_unit_test(test_tanh),
                                        cmocka_unit_test(test_not_a_number), cmocka_unit_test(test_finite) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
