/* The kinds of ranking tower. */
#include "core/ranking_tower.h"

#include <assert.h>
#include <stdio.h>

static const struct ranking_tower_ops *const kinds[] = { &ranking_emb_lr, &ranking_base_dnn };

const struct ranking_tower_ops *ranking_find(enum ranking_kind kind, struct cs_error *err)
{
    char names[128] = "";
    size_t length = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (kinds[i]->kind == kind) return kinds[i];
        length += (size_t)snprintf(names + length, sizeof names - length, "%s%s", i ? ", " : "", kinds[i]->name);
        assert(length < sizeof names);
    }
    cs_fail(err, CS_CONFIG, "model.ranking.tower: this tower is not built in yet; there are %s", names);
    return NULL;
}
