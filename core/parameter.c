/* The list of parameters and their memory. */
#include "core/parameter.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/layer_packed.h"
#include "core/random.h"

enum { ALIGN_FLOATS = 16 };

struct parameter *parameter_add(struct parameter_set *set, enum parameter_group group, enum tensor_role role,
                                enum parameter_start start, size_t rows, size_t columns, const char *format, ...)
{
    assert(set->count < PARAMETERS_MAX && !set->value[group]);
    struct parameter *p = &set->parameter[set->count++];
    *p = (struct parameter){
        .group = group, .role = role, .start = start, .rank = columns ? 2 : 1, .shape = { rows, columns }
    };
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p->name, sizeof p->name, format, arguments);
    va_end(arguments);
    p->size = rows * (columns ? columns : 1);
    p->offset = set->block_size[group];
    set->block_size[group] += (p->size + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
    return p;
}

float *parameter_block_create(const struct parameter_set *set, enum parameter_group group)
{
    size_t bytes = (set->block_size[group] ? set->block_size[group] : ALIGN_FLOATS) * sizeof(float);
    float *block = aligned_alloc(ALIGN_FLOATS * sizeof(float), bytes);
    return block ? memset(block, 0, bytes) : NULL;
}

static void start_glorot(struct parameter *p, uint64_t seed)
{
    uint64_t stream = random_stream(seed, p->name, 0);
    size_t columns = p->rank == 2 ? p->shape[1] : 1;
    float limit = (float)sqrt(6.0 / (double)(p->shape[0] + columns));
    for (size_t i = 0; i < p->size; i++) p->value[i] = (2.0f * random_uniform(stream, i) - 1.0f) * limit;
}

bool parameter_set_allocate(struct parameter_set *set, struct cs_error *err)
{
    for (size_t g = 0; g < PARAMETER_GROUPS; g++)
        if (!(set->value[g] = parameter_block_create(set, g)))
            return cs_fail(err, CS_FAILED, "out of memory: %zu dense parameters", set->block_size[g]);
    for (size_t i = 0; i < set->count; i++) {
        struct parameter *p = &set->parameter[i];
        p->value = set->value[p->group] + p->offset;
    }
    return true;
}

void parameter_set_start(struct parameter_set *set, uint64_t seed)
{
    for (size_t i = 0; i < set->count; i++) {
        struct parameter *p = &set->parameter[i];
        if (p->start == START_GLOROT) start_glorot(p, seed);
        else if (p->start == START_ONE) for (size_t j = 0; j < p->size; j++) p->value[j] = 1.0f;
    }
}

bool parameter_set_gradients(struct parameter_set *set, struct cs_error *err)
{
    for (size_t g = 0; g <= PARAMETER_ZERO_SHOT; g++)
        if (!(set->gradient[g] = parameter_block_create(set, g)))
            return cs_fail(err, CS_FAILED, "out of memory: %zu dense gradients", set->block_size[g]);
    for (size_t i = 0; i < set->count; i++) {
        struct parameter *p = &set->parameter[i];
        if (set->gradient[p->group]) p->gradient = set->gradient[p->group] + p->offset;
    }
    return true;
}

bool parameter_set_pack(struct parameter_set *set, struct cs_error *err)
{
    for (size_t i = 0; i < set->count; i++) {
        struct parameter *p = &set->parameter[i];
        if (p->rank != 2 || p->role != TENSOR_SCORING) continue;
        packed_destroy(p->packed);
        if (!(p->packed = packed_create(p->shape[0], p->shape[1], p->value, p->shape[1], NULL)))
            return cs_fail(err, CS_FAILED, "out of memory: %s laid out", p->name);
    }
    return true;
}

void parameter_set_free(struct parameter_set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        packed_destroy(set->parameter[i].packed);
        set->parameter[i].packed = NULL;
    }
    for (size_t g = 0; g < PARAMETER_GROUPS; g++) {
        free(set->value[g]);
        free(set->gradient[g]);
        set->value[g] = set->gradient[g] = NULL;
    }
}

struct tensor parameter_tensor(const struct parameter *p)
{
    struct tensor tensor = { .type = TENSOR_F32,
                             .role = p->role,
                             .rank = p->rank,
                             .shape = { p->shape[0], p->rank == 2 ? p->shape[1] : 0 },
                             .data = p->value };
    memcpy(tensor.name, p->name, sizeof tensor.name);
    return tensor;
}
