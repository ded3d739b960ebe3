/* All dense parameters and statistics of a model, by canonical name (numerics.md, section 8). Those of a group lie in
 * one block, so that an optimizer updates a group as one array:
 *
 *   block(group)   | parameter 0 ... pad | parameter 1 ... pad | ...      each begins on 64 bytes, pads hold zeros
 *
 * Gradients have the same layout and exist for learning only. */
#ifndef CORE_PARAMETER_H
#define CORE_PARAMETER_H

#include <stdint.h>

#include "core/tensor.h"

enum parameter_group {
    PARAMETER_RANKING,          /* moved by the ranking optimizer */
    PARAMETER_ZERO_SHOT,        /* by the zero-shot tower's */
    PARAMETER_FROZEN,           /* there, with moments, but never moved (losses: single) */
    PARAMETER_STATISTIC,        /* running means and variances: no moments */
    PARAMETER_GROUPS
};

enum parameter_start { START_ZERO, START_ONE, START_GLOROT };

struct parameter {
    char name[TENSOR_NAME_MAX];
    enum parameter_group group;
    enum tensor_role role;
    enum parameter_start start;
    size_t rank, shape[2], size, offset;    /* offset in its group's block */
    float *value, *gradient;                /* gradient: NULL until parameter_set_gradients */
    struct packed *packed;                  /* NULL, or the weight as parameter_set_pack found it */
};

enum { PARAMETERS_MAX = 128 };

struct parameter_set {
    struct parameter parameter[PARAMETERS_MAX];
    size_t count;
    size_t block_size[PARAMETER_GROUPS];
    float *value[PARAMETER_GROUPS], *gradient[PARAMETER_GROUPS];
};

/* columns 0: a vector of `rows`. The address stays good for the set's life; value is set by parameter_set_allocate. */
struct parameter *parameter_add(struct parameter_set *set, enum parameter_group group, enum tensor_role role,
                                enum parameter_start start, size_t rows, size_t columns, const char *format, ...)
    __attribute__((format(printf, 7, 8)));
/* Once all are added: memory, zeroed. */
bool parameter_set_allocate(struct parameter_set *set, struct cs_error *err);
/* Where learning starts: weights by (seed, name, element). */
void parameter_set_start(struct parameter_set *set, uint64_t seed);
bool parameter_set_gradients(struct parameter_set *set, struct cs_error *err);
/* For scoring alone: the weights that it reads are laid out for products (core/layer_packed.h), and must stay. */
bool parameter_set_pack(struct parameter_set *set, struct cs_error *err);
void parameter_set_free(struct parameter_set *set);
/* A zeroed block of the group's size, e.g. for moments; NULL when out of memory. */
float *parameter_block_create(const struct parameter_set *set, enum parameter_group group);
struct tensor parameter_tensor(const struct parameter *parameter);

#endif
