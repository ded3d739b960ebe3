/* Probe examples: a ring that every batch renews by a few. */
#include "daemon/probe.h"

#include <math.h>
#include <stdlib.h>

#include "core/need.h"

enum { FROM_A_BATCH = 8 };

struct probe {
    const struct features *features;
    struct arena *arena;
    struct example *example[PROBE_EXAMPLES];
    size_t next;
};

struct probe *probe_create(const struct features *features)
{
    struct probe *probe = need(calloc(1, sizeof *probe));
    probe->features = features;
    probe->arena = need(arena_create(1 << 16));
    return probe;
}

void probe_destroy(struct probe *probe)
{
    if (!probe) return;
    for (size_t i = 0; i < PROBE_EXAMPLES; i++) free(probe->example[i]);
    arena_destroy(probe->arena);
    free(probe);
}

void probe_observe(struct probe *probe, const struct batch *batch)
{
    size_t count = batch->size < FROM_A_BATCH ? batch->size : FROM_A_BATCH;
    for (size_t i = 0; i < count; i++) {
        struct example **place = &probe->example[probe->next++ % PROBE_EXAMPLES];
        free(*place);
        *place = batch_example(probe->features, batch, i * batch->size / count);
    }
}

struct probe_scores *probe_scores(const struct probe *probe, struct learner *learner)
{
    struct probe_scores *scores = need(calloc(1, sizeof *scores));
    for (size_t i = 0; i < PROBE_EXAMPLES; i++)
        if (probe->example[i]) scores->example[scores->count++] = example_copy(probe->example[i]);
    if (!scores->count) return scores;
    struct batch *batch = batch_build(probe->features, scores->example, scores->count, probe->arena);
    const float *score = learner_score(learner, batch);
    size_t kept = 0;
    for (size_t i = 0; i < scores->count; i++) {
        if (!isfinite(score[i])) {          /* an example with numbers too large to compute with */
            free(scores->example[i]);
            continue;
        }
        scores->score[kept] = score[i];
        scores->example[kept++] = scores->example[i];
    }
    scores->count = kept;
    return scores;
}

void probe_scores_destroy(struct probe_scores *scores)
{
    if (!scores) return;
    for (size_t i = 0; i < scores->count; i++) free(scores->example[i]);
    free(scores);
}
