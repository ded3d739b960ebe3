/* A named array as storage, export and import see it: canonical name (numerics.md, section 8), type, shape, bytes. */
#ifndef CORE_TENSOR_H
#define CORE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>

#include "core/error.h"

enum tensor_type { TENSOR_F32, TENSOR_F64, TENSOR_U32, TENSOR_U64, TENSOR_I64 };

enum { TENSOR_NAME_MAX = 160, TENSOR_RANK_MAX = 3 };

enum tensor_role {
    TENSOR_SCORING,     /* a parameter or statistic that scoring reads: goes into checkpoints */
    TENSOR_TRAINING,    /* a parameter that only training reads (E2, D1, the behavior attention) */
    TENSOR_OPTIMIZER,   /* moments and step counts */
};

struct tensor {
    char name[TENSOR_NAME_MAX];
    enum tensor_type type;
    enum tensor_role role;
    size_t rank, shape[TENSOR_RANK_MAX];    /* row-major */
    void *data;                             /* borrowed from the owner: written in place by an import */
};

size_t tensor_type_bytes(enum tensor_type type);
size_t tensor_elements(const struct tensor *tensor);
size_t tensor_bytes(const struct tensor *tensor);

/* Called once a tensor, in a fixed order. False stops the visit, and the visiting function returns false with err as it
 * is. */
typedef bool tensor_visitor(void *self, const struct tensor *tensor, struct cs_error *err);

#endif
