/* The loops that the compiler vectorises. */
#include "core/vector_math.h"

void vector_exp(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = vector_exp1(x[i]);
}

void vector_tanh(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = vector_tanh1(x[i]);
}

bool vector_finite(const float *x, size_t n)
{
    uint32_t bad = 0;       /* the exponent's bits all set: adding one to them carries into the sign */
    for (size_t i = 0; i < n; i++) {
        union { float f; uint32_t u; } value = { .f = x[i] };
        bad |= (value.u & 0x7f800000u) + 0x00800000u;
    }
    return !(bad & 0x80000000u);
}
