/* The kinds of ranking tower. */
#include "core/ranking_tower.h"

#include <string.h>

static const struct ranking_tower_ops *const kinds[] = { &ranking_emb_lr, &ranking_base_dnn };

const struct ranking_tower_ops *ranking_find(enum ranking_kind kind, struct cs_error *err)
{
    char names[128] = "";
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (kinds[i]->kind == kind) return kinds[i];
        if (i) strcat(names, ", ");
        strcat(names, kinds[i]->name);
    }
    cs_fail(err, CS_CONFIG, "model.ranking.tower: this tower is not built in yet; there are %s", names);
    return NULL;
}
