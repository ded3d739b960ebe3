/* What stands in for the behavior sequence of a user who has none: the interface that each kind fills in. The model
 * calls generate for new users, train on old ones where the kind learns from them by itself, and generated_backward
 * where it is the ranking loss that trains it. A tower that reads whole generated sequences (DMR) adds its operation
 * here. */
#ifndef CORE_ZERO_SHOT_TOWER_H
#define CORE_ZERO_SHOT_TOWER_H

#include <stdbool.h>

#include "core/arena.h"
#include "core/gemm.h"
#include "core/options.h"
#include "core/parameter.h"

struct zero_shot_shape {
    size_t attributes;      /* n_a: categorical user features */
    size_t dense;           /* dense user features */
    size_t dimension;       /* d */
    size_t behaviors;       /* n_v */
};

/* Some users of a batch. Behaviors are old users' alone. */
struct zero_shot_users {
    size_t count;
    const float *attribute;             /* [count, n_a * d], zeros where absent */
    const uint8_t *present;             /* [count, n_a] */
    const float *dense;                 /* [count, dense], standardised */
    const float *pooled;                /* [count, d]: z_v */
    const float *behavior;              /* the behaviors that have rows, end to end: [offset[count], d] */
    const uint32_t *behavior_offset;    /* [count + 1] */
    const uint32_t *behavior_slot;      /* each one's place in its user's sequence */
};

struct zero_shot_loss { double user, behavior, mmd; };      /* L_a, L_v, L_d */

struct zero_shot_tower;

struct zero_shot_ops {
    enum zero_shot_kind kind;
    const char *name;                   /* as in the configuration */
    /* generate reads weights for so long that scoring one user does something else meanwhile (core/layer_packed.h). */
    bool generates_long;
    struct zero_shot_tower *(*create)(const struct zero_shot_options *options, const struct zero_shot_shape *shape,
                                      struct parameter_set *set, struct cs_error *err);
    void (*destroy)(struct zero_shot_tower *tower);
    /* Parameters were changed: whatever was derived from them is stale. NULL: nothing is. */
    void (*changed)(struct zero_shot_tower *tower);
    /* For scoring alone, while the parameters stay: generate will only read from here on, for any number of threads.
     * NULL: it does anyway. */
    bool (*fix)(struct zero_shot_tower *tower, const struct compute *compute, struct cs_error *err);
    /* z_v [count, d] of new users. */
    void (*generate)(struct zero_shot_tower *tower, const struct compute *compute, const struct zero_shot_users *users,
                     float *z_v, struct arena *scratch);
    /* Forward and backward on old users (>= 2): sets the gradients of the group PARAMETER_ZERO_SHOT. NULL: never. */
    struct zero_shot_loss (*train)(struct zero_shot_tower *tower, const struct compute *compute,
                                   const struct zero_shot_users *users, uint64_t seed, uint64_t step,
                                   struct arena *scratch);
    /* The ranking loss's gradient by what was generated: sets parameters' gradients (group PARAMETER_RANKING) and
     * dattribute [count, n_a * d]. NULL: generated behaviors are constant to the ranking loss. */
    void (*generated_backward)(struct zero_shot_tower *tower, const struct compute *compute,
                               const struct zero_shot_users *users, const float *dz_v, float *dattribute,
                               struct arena *scratch);
};

extern const struct zero_shot_ops zero_shot_mail, zero_shot_none, zero_shot_linear;

/* CS_CONFIG where this build has no such kind, naming those that it has. */
const struct zero_shot_ops *zero_shot_find(enum zero_shot_kind kind, struct cs_error *err);

#endif
