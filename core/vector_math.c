/* A loop that the compiler vectorises. */
#include "core/vector_math.h"

bool vector_finite(const float *x, size_t n)
{
    uint32_t bad = 0;       /* the exponent's bits all set: adding one to them carries into the sign */
    for (size_t i = 0; i < n; i++) {
        union { float f; uint32_t u; } value = { .f = x[i] };
        bad |= (value.u & 0x7f800000u) + 0x00800000u;
    }
    return !(bad & 0x80000000u);
}
