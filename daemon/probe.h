/* A few of the newest examples, and the learner's own scores of them at the moment of a cut: a version that is made of
 * that cut must score them the same. */
#ifndef DAEMON_PROBE_H
#define DAEMON_PROBE_H

#include "core/learner.h"

enum { PROBE_EXAMPLES = 32 };

/* The learn thread's own. */
struct probe;
struct probe *probe_create(const struct features *features);
void probe_destroy(struct probe *probe);
/* Keeps some of a learned batch's examples: copies, a few microseconds. */
void probe_observe(struct probe *probe, const struct batch *batch);

struct probe_scores { size_t count; struct example *example[PROBE_EXAMPLES]; float score[PROBE_EXAMPLES]; };
/* What the learner says of them now, where that is finite; malloc'd. One small forward pass; not between learner_score
 * and learner_learn. */
struct probe_scores *probe_scores(const struct probe *probe, struct learner *learner);
void probe_scores_destroy(struct probe_scores *scores);

#endif
