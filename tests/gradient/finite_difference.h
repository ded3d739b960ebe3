/* Central differences against a gradient: each element of a tensor is moved both ways and the loss is asked for again.
 */
#ifndef TESTS_GRADIENT_FINITE_DIFFERENCE_H
#define TESTS_GRADIENT_FINITE_DIFFERENCE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef double loss_of(void *argument);

static inline double slope_at(float *value, float h, loss_of *loss, void *argument)
{
    float old = *value;
    *value = old + h;
    double up = loss(argument), above = (double)*value;
    *value = old - h;
    double slope = (up - loss(argument)) / (above - (double)*value);
    *value = old;
    return slope;
}

/* value [n] is moved, gradient [n] is what backward said. Losses are float sums of a few hundred terms, so a difference
 * is good to about 1e-3 of the tensor's largest gradient; a wrong term shows as far more. A step that crosses a
 * LeakyReLU's kink is off by itself: a shorter one, that does not, may speak for the element. */
static inline void check_gradient(const char *name, float *value, const float *gradient, size_t n, loss_of *loss,
                                  void *argument)
{
    static const float step[] = { 4e-3f, 1e-3f, 3e-4f };
    float *claimed = malloc((n + 1) * sizeof *claimed);
    memcpy(claimed, gradient, n * sizeof *claimed);     /* asking for the loss again overwrites it */
    double largest = 0.0;
    size_t wrong = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)claimed[i]));
    for (size_t i = 0; i < n; i++) {
        double best = INFINITY, slope = 0.0;
        for (size_t s = 0; s < sizeof step / sizeof *step && best > 0.02 * largest + 2e-4; s++) {
            double found = slope_at(&value[i], step[s], loss, argument), away = fabs(found - (double)claimed[i]);
            if (away < best) best = away, slope = found;
        }
        if (best <= 0.02 * largest + 2e-4) continue;
        wrong++;
        print_error("%s[%zu]: backward says %g, the difference %g (largest %g)\n", name, i, (double)claimed[i], slope,
                    largest);
    }
    loss(argument);
    assert_int_equal(wrong, 0);
    assert_true(n == 0 || largest > 1e-5);              /* a gradient that is zero everywhere proves nothing */
    free(claimed);
}

/* Deterministic values in [-1, 1]. */
static inline void fill(float *value, size_t n, uint64_t seed)
{
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (size_t i = 0; i < n; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        value[i] = (float)(int32_t)(state >> 32) * 0x1p-31f;
    }
}

#endif
