/* Counter-based random numbers: the stream's key and the counter go through SplitMix64's finaliser twice. */
#include "core/random.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t random_stream(uint64_t seed, const char *name, uint64_t key)
{
    return mix(XXH3_64bits_withSeed(name, strlen(name), seed) ^ mix(key + UINT64_C(0x9e3779b97f4a7c15)));
}

uint64_t random_bits(uint64_t stream, uint64_t counter)
{
    return mix(stream + mix((counter + 1) * UINT64_C(0x9e3779b97f4a7c15)));
}

float random_uniform(uint64_t stream, uint64_t counter)
{
    return (float)(random_bits(stream, counter) >> 40) * 0x1p-24f;
}

float random_normal(uint64_t stream, uint64_t counter)
{
    uint64_t bits = random_bits(stream, counter);
    double radius = ((double)(bits >> 32) + 0.5) * 0x1p-32, angle = (double)(uint32_t)bits * 0x1p-32;
    return (float)(sqrt(-2.0 * log(radius)) * cos(6.283185307179586 * angle));
}
