/* The kinds of zero-shot tower, and the one that generates nothing. */
#include "core/zero_shot_tower.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct zero_shot_ops *const kinds[] = { &zero_shot_mail, &zero_shot_none, &zero_shot_linear };

const struct zero_shot_ops *zero_shot_find(enum zero_shot_kind kind, struct cs_error *err)
{
    char names[128] = "";
    size_t length = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (kinds[i]->kind == kind) return kinds[i];
        length += (size_t)snprintf(names + length, sizeof names - length, "%s%s", i ? ", " : "", kinds[i]->name);
        assert(length < sizeof names);
    }
    cs_fail(err, CS_CONFIG, "model.zero_shot.kind: this kind is not built in yet; there are %s", names);
    return NULL;
}

struct zero_shot_tower { size_t dimension; };

static struct zero_shot_tower *none_create(const struct zero_shot_options *options, const struct zero_shot_shape *shape,
                                           struct parameter_set *set, struct cs_error *err)
{
    (void)options, (void)set;
    struct zero_shot_tower *tower = malloc(sizeof *tower);
    if (!tower) cs_fail(err, CS_FAILED, "out of memory: zero-shot tower");
    else tower->dimension = shape->dimension;
    return tower;
}

static void none_destroy(struct zero_shot_tower *tower) { free(tower); }

static void none_generate(struct zero_shot_tower *tower, const struct compute *compute,
                          const struct zero_shot_users *users, float *z_v, struct arena *scratch)
{
    (void)compute, (void)scratch;
    memset(z_v, 0, users->count * tower->dimension * sizeof *z_v);
}

const struct zero_shot_ops zero_shot_none = {
    .kind = ZERO_SHOT_NONE, .name = "none", .create = none_create, .destroy = none_destroy, .generate = none_generate,
};
