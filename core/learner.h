/* Score, learn, save, load: all that daemon and tools need of the model. No files, sockets, clocks, threads or globals.
 * One step (numerics.md, section 6) is learner_score on a batch, then learner_learn on the same batch. */
#ifndef CORE_LEARNER_H
#define CORE_LEARNER_H

#include "core/batch.h"
#include "core/embedding.h"
#include "core/model.h"

struct learner_options {
    size_t dimension;
    double init_std;
    const struct table_options *table;      /* named tables; the others get the defaults */
    size_t table_count;
    struct model_options model;
    uint64_t seed;
};

struct learner_losses {
    uint64_t step;                  /* from 0 where the learner was made: an import or load does not count */
    size_t examples, old_examples;  /* of which old users' */
    double ranking;                 /* mean over the batch */
    double reconstruct_user, reconstruct_behavior, mmd;     /* L_a, L_v, L_d; 0 where not trained */
    bool zero_shot_trained;
    bool skipped;                   /* a non-finite loss or gradient: this batch left no trace, no row, no sighting */
    const char *nonfinite, *table;  /* where skipped: what was not finite, and of which table (NULL: of none) */
};

struct learner;
struct learner *learner_create(const struct features *features, const struct learner_options *options,
                               struct parallel *parallel, struct cs_error *err);
void learner_destroy(struct learner *learner);

/* Click probabilities [batch->size] as a checkpoint cut now would serve them: keys without a row contribute nothing,
 * and none is made. Valid until the next learner_score. */
const float *learner_score(struct learner *learner, const struct batch *batch);
/* Must follow learner_score on the same batch. */
struct learner_losses learner_learn(struct learner *learner, const struct batch *batch);

uint64_t learner_steps(const struct learner *learner);
uint64_t learner_zero_shot_steps(const struct learner *learner);
uint64_t learner_nonfinite_skipped(const struct learner *learner);
size_t learner_bytes(const struct learner *learner);
struct model *learner_model(struct learner *learner);
struct embedding_table *learner_table(struct learner *learner, size_t table);      /* index as in features.table */
void learner_set_learning_rates(struct learner *learner, double ranking, double zero_shot, double embedding);

/* All dense tensors under their canonical names, optimizer state included; written in place by an import, after which
 * learner_changed must be called. The tables are visited by embedding_each and filled by embedding_put. */
bool learner_tensors(struct learner *learner, tensor_visitor *visit, void *self, struct cs_error *err);
void learner_changed(struct learner *learner);

/* Deltas (core/embedding.h): from learner_watch on, learner_save_delta gives what scoring reads and what changed of it
 * since the delta before: rows, and all such tensors. One delta at a time: its records have ended before the next. */
bool learner_watch(struct learner *learner, struct cs_error *err);
bool learner_delta_lost(const struct learner *learner);    /* too much went since the last: watch anew */
bool learner_save_delta(struct learner *learner, struct state_writer *writer, struct cs_error *err);

bool learner_save(struct learner *learner, struct state_writer *writer, struct cs_error *err);
bool learner_load(struct learner *learner, struct state_reader *reader, struct cs_error *err);

#endif
