/* Counter-based random numbers: a value depends on (stream, counter) alone, never on how many were drawn before, so a
 * row's start does not depend on the order of arrival and a dropout mask can be drawn by any thread. */
#ifndef CORE_RANDOM_H
#define CORE_RANDOM_H

#include <stdint.h>

/* The stream of (seed, name, key): a table's row, a tensor's start, a step's dropout mask. */
uint64_t random_stream(uint64_t seed, const char *name, uint64_t key);
uint64_t random_bits(uint64_t stream, uint64_t counter);
float random_uniform(uint64_t stream, uint64_t counter);    /* [0, 1), 24 bits */
float random_normal(uint64_t stream, uint64_t counter);     /* mean 0, variance 1 (Box-Muller) */

#endif
