/* One step (numerics.md, section 6): score; ranking forward and backward; zero-shot forward and backward on the same
 * rows; then admission and the optimizers. Nothing is changed before every loss and gradient is known to be finite. */
#include "core/learner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/optimizer.h"
#include "core/random.h"
#include "core/vector_math.h"

enum { EXPIRE_LEAST = 256, EXPIRE_STEPS = 256 };     /* slots looked at in a step: so many, and a share of all */

struct moments { float *m, *v; };       /* blocks as in parameter.h; NULL where the optimizer has none */

struct table_step {                     /* what a batch reads of one table; in scratch */
    uint32_t *slot;
    float *row, *gradient;
    uint8_t *present;
};

struct learner {
    const struct features *features;
    struct learner_options options;
    struct parallel *parallel;
    struct compute compute;
    struct model *model;
    struct embedding_table **table;             /* [features->table_count] */
    struct moments moments[PARAMETER_STATISTIC];
    uint64_t ranking_steps, zero_shot_steps, skipped;
    uint64_t learned;                           /* batches since this learner was made, skipped ones included */
    struct state_hold *hold, *delta_hold;       /* dense tensors that a cut, a delta refers to; NULL: none */
    struct arena *scratch;
    /* The batch between learner_score and learner_learn. */
    struct table_step *step;
    struct model_rows *rows;
    struct model_pass *pass;
    const struct batch *batch;
};

static const struct optimizer_options *optimizer_of(const struct learner *l, enum parameter_group group)
{
    return group == PARAMETER_RANKING ? &l->options.model.ranking_optimizer : &l->options.model.zero_shot_optimizer;
}

static bool create_moments(struct learner *l, struct cs_error *err)
{
    struct parameter_set *set = model_parameters(l->model);
    for (size_t group = 0; group < PARAMETER_STATISTIC; group++) {
        const struct optimizer_options *options = optimizer_of(l, group);
        size_t count = optimizer_state_count(options->kind);
        if (count >= 1 && !(l->moments[group].v = parameter_block_create(set, group))) goto fail;
        if (count >= 2 && !(l->moments[group].m = parameter_block_create(set, group))) goto fail;
        float initial = optimizer_initial_v(options);
        for (size_t i = 0; initial != 0.0f && count && i < set->block_size[group]; i++)
            l->moments[group].v[i] = initial;
    }
    return parameter_set_gradients(set, err);
fail:
    return cs_fail(err, CS_FAILED, "out of memory: moments of the dense parameters");
}

static struct table_options table_options_of(const struct learner_options *options, const char *name)
{
    for (size_t i = 0; i < options->table_count; i++)
        if (!strcmp(options->table[i].name, name)) return options->table[i];
    struct table_options defaults = { .admit_after = 1 };
    snprintf(defaults.name, sizeof defaults.name, "%s", name);
    return defaults;
}

struct learner *learner_create(const struct features *features, const struct learner_options *options,
                               struct parallel *parallel, struct cs_error *err)
{
    struct learner *l = calloc(1, sizeof *l);
    if (!l) {
        cs_fail(err, CS_FAILED, "out of memory: learner");
        return NULL;
    }
    l->features = features;
    l->options = *options;
    l->parallel = parallel;
    l->compute.parallel = parallel;
    l->table = calloc(features->table_count, sizeof *l->table);
    l->step = calloc(features->table_count, sizeof *l->step);
    l->rows = calloc(features->table_count, sizeof *l->rows);
    l->scratch = arena_create((size_t)1 << 20);
    if (!l->table || !l->step || !l->rows || !l->scratch) {
        cs_fail(err, CS_FAILED, "out of memory: learner");
        goto fail;
    }
    l->model = model_create(features, options->dimension, &options->model, parallel, err);
    if (!l->model || !create_moments(l, err)) goto fail;
    model_start(l->model, options->seed);
    for (size_t t = 0; t < features->table_count; t++) {
        struct table_options table = table_options_of(options, features->table[t]);
        l->table[t] = embedding_create(&table, options->dimension, options->init_std, options->seed,
                                       &options->model.embedding_optimizer, err);
        if (!l->table[t]) goto fail;
    }
    return l;
fail:
    learner_destroy(l);
    return NULL;
}

/* Before any dense tensor changes: the last cut takes what it has not yet written. */
static void settle(struct learner *l)
{
    if (l->hold) l->hold->settle(l->hold);
    l->hold = NULL;
    if (l->delta_hold) l->delta_hold->settle(l->delta_hold);
    l->delta_hold = NULL;
}

void learner_destroy(struct learner *l)
{
    if (!l) return;
    settle(l);
    for (size_t t = 0; l->table && t < l->features->table_count; t++) embedding_destroy(l->table[t]);
    for (size_t group = 0; group < PARAMETER_STATISTIC; group++) {
        free(l->moments[group].m);
        free(l->moments[group].v);
    }
    model_destroy(l->model);
    arena_destroy(l->scratch);
    free(l->table);
    free(l->step);
    free(l->rows);
    free(l);
}

const float *learner_score(struct learner *l, const struct batch *batch)
{
    size_t d = l->options.dimension;
    arena_reset(l->scratch);
    for (size_t t = 0; t < l->features->table_count; t++) {
        size_t count = batch->table[t].count;
        struct table_step *step = &l->step[t];
        *step = (struct table_step){ .slot = arena_take(l->scratch, count * sizeof *step->slot),
                                     .row = arena_take(l->scratch, count * d * sizeof *step->row),
                                     .present = arena_take(l->scratch, count) };
        embedding_find(l->table[t], batch->table[t].key, count, step->slot);
        embedding_gather(l->table[t], step->slot, count, step->row, l->parallel);
        for (size_t i = 0; i < count; i++) step->present[i] = step->slot[i] != EMBEDDING_NONE;
        l->rows[t] = (struct model_rows){ step->row, step->present };
    }
    float *probability = arena_take(l->scratch, batch->size * sizeof *probability);
    l->pass = model_forward_score(l->model, batch, l->rows, l->scratch, probability);
    l->batch = batch;
    return probability;
}

/* ---- Rows that this batch brings ---- */

/* fresh[i]: the key gets a row by this batch, and had none when it was scored. Its start is read. False: none does. */
static bool foresee(struct learner *l, size_t t, uint8_t *fresh)
{
    const struct batch_table *keys = &l->batch->table[t];
    struct table_step *step = &l->step[t];
    if (!embedding_foresee(l->table[t], keys->key, keys->sightings, keys->count, step->slot, step->row, fresh))
        return false;
    for (size_t i = 0; i < keys->count; i++) step->present[i] |= fresh[i];
    return true;
}

static void mark_changed(const struct batch_column *column, const uint8_t *fresh, size_t size, uint8_t *changed)
{
    for (size_t i = 0; i < size; i++)
        for (uint32_t j = column->offset[i]; j < column->offset[i + 1]; j++) changed[i] |= fresh[column->row[j]];
}

static void foresee_rows(struct learner *l)
{
    const struct features *features = l->features;
    uint8_t *changed = arena_take_zeroed(l->scratch, l->batch->size);
    bool any = false;
    for (size_t t = 0; t < features->table_count; t++) {
        uint8_t *fresh = arena_take(l->scratch, l->batch->table[t].count);
        if (!foresee(l, t, fresh)) continue;
        any = true;
        for (size_t f = 0; f < features->count; f++) {
            const struct feature *feature = &features->feature[f];
            if (feature->kind == FEATURE_CATEGORICAL && feature->table == t)
                mark_changed(&l->batch->column[feature->column], fresh, l->batch->size, changed);
        }
        if (features->behavior_table == t) mark_changed(&l->batch->behavior, fresh, l->batch->size, changed);
    }
    if (any) model_refresh(l->model, l->pass, changed, l->scratch);
}

/* ---- The step's end ---- */

struct finite_task { const float *value; size_t n; bool *finite; };

static void finite_part(void *argument, size_t part, size_t parts)
{
    const struct finite_task *t = argument;
    size_t begin, end;
    parallel_share(t->n, 16, part, parts, &begin, &end);
    t->finite[part] = vector_finite(t->value + begin, end - begin);
}

static bool all_finite(struct learner *l, const float *value, size_t n)
{
    struct finite_task task = { value, n, arena_take(l->scratch, l->parallel->width) };
    memset(task.finite, 1, l->parallel->width);
    compute_run(&l->compute, n, finite_part, &task);
    bool finite = true;
    for (size_t part = 0; part < l->parallel->width; part++) finite = finite && task.finite[part];
    return finite;
}

struct update_task {
    const struct optimizer_options *options;
    uint64_t step;
    float *value;
    const float *gradient;
    struct moments moments;
    size_t n;
};

static void update_part(void *argument, size_t part, size_t parts)
{
    const struct update_task *t = argument;
    size_t begin, end;
    parallel_share(t->n, 16, part, parts, &begin, &end);
    optimizer_update(t->options, t->step, t->value + begin, t->gradient + begin,
                     t->moments.m ? t->moments.m + begin : NULL, t->moments.v ? t->moments.v + begin : NULL,
                     end - begin);
}

static void update(struct learner *l, enum parameter_group group, uint64_t step)
{
    struct parameter_set *set = model_parameters(l->model);
    struct update_task task = { optimizer_of(l, group), step,
                                set->value[group],      set->gradient[group],
                                l->moments[group],      set->block_size[group] };
    compute_run(&l->compute, 8 * task.n, update_part, &task);
}

/* The old users' examples that train the zero-shot tower in this step. */
static size_t draw_old_users(const struct learner *l, uint32_t *example, size_t *old)
{
    double share = l->options.model.zero_shot.sample;
    uint64_t stream = random_stream(l->options.seed, "zero_shot.sample", l->ranking_steps);
    size_t count = 0;
    *old = 0;
    for (size_t i = 0; i < l->batch->size; i++) {
        if (l->batch->is_new[i]) continue;
        ++*old;
        if (share >= 1.0 || (double)random_uniform(stream, i) < share) example[count++] = (uint32_t)i;
    }
    return count;
}

/* Nothing has been changed yet. */
static struct learner_losses skip(struct learner *l, struct learner_losses losses, const char *what, const char *table)
{
    l->pass = NULL;
    l->skipped++;
    losses.skipped = true;
    losses.zero_shot_trained = false;
    losses.nonfinite = what;
    losses.table = table;
    return losses;
}

struct learner_losses learner_learn(struct learner *l, const struct batch *batch)
{
    struct parameter_set *set = model_parameters(l->model);
    struct learner_losses losses = { .step = l->learned++, .examples = batch->size };
    uint32_t *example = arena_take(l->scratch, batch->size * sizeof *example);
    l->batch = batch;
    size_t drawn = draw_old_users(l, example, &losses.old_examples);
    foresee_rows(l);
    losses.ranking = model_train_ranking(l->model, l->pass, l->options.seed, l->ranking_steps, l->scratch);
    if (!isfinite(losses.ranking)) return skip(l, losses, "ranking loss", NULL);
    if (!model_gradient_finite(l->model, l->pass) ||
        !all_finite(l, set->gradient[PARAMETER_RANKING], set->block_size[PARAMETER_RANKING]))
        return skip(l, losses, "gradient of the ranking tower", NULL);
    for (size_t t = 0; t < l->features->table_count; t++) {
        size_t floats = batch->table[t].count * l->options.dimension;
        l->step[t].gradient = arena_take(l->scratch, floats * sizeof(float));
        model_row_gradient(l->model, l->pass, t, l->step[t].gradient, l->scratch);
        if (!all_finite(l, l->step[t].gradient, floats))
            return skip(l, losses, "gradient of rows", l->features->table[t]);
    }
    if (drawn >= 2 && model_trains_zero_shot(l->model)) {
        struct zero_shot_loss loss =
            model_train_zero_shot(l->model, l->pass, example, drawn, l->options.seed, l->ranking_steps, l->scratch);
        losses.reconstruct_user = loss.user;
        losses.reconstruct_behavior = loss.behavior;
        losses.mmd = loss.mmd;
        losses.zero_shot_trained = true;
        if (!isfinite(loss.user + loss.behavior + loss.mmd)) return skip(l, losses, "zero-shot loss", NULL);
        if (!all_finite(l, set->gradient[PARAMETER_ZERO_SHOT], set->block_size[PARAMETER_ZERO_SHOT]))
            return skip(l, losses, "gradient of the zero-shot tower", NULL);
    }
    settle(l);
    update(l, PARAMETER_RANKING, ++l->ranking_steps);
    for (size_t t = 0; t < l->features->table_count; t++) {
        const struct batch_table *keys = &batch->table[t];
        embedding_admit(l->table[t], keys->key, keys->sightings, keys->count, batch->last_time, l->step[t].slot);
        embedding_update(l->table[t], l->step[t].slot, keys->count, l->step[t].gradient, l->parallel);
    }
    if (losses.zero_shot_trained) update(l, PARAMETER_ZERO_SHOT, ++l->zero_shot_steps);
    model_commit(l->model, l->pass);
    /* Old rows go a few at a time, in steps of the stream: every slot is looked at once in some hundred steps. */
    for (size_t t = 0; t < l->features->table_count; t++)
        embedding_expire(l->table[t], batch->last_time, EXPIRE_LEAST + embedding_rows(l->table[t]) / EXPIRE_STEPS);
    return losses;
}

/* ---- What is known of it, and its state ---- */

uint64_t learner_steps(const struct learner *l) { return l->ranking_steps; }
uint64_t learner_zero_shot_steps(const struct learner *l) { return l->zero_shot_steps; }
uint64_t learner_nonfinite_skipped(const struct learner *l) { return l->skipped; }
struct model *learner_model(struct learner *l) { return l->model; }
struct embedding_table *learner_table(struct learner *l, size_t table) { return l->table[table]; }
void learner_changed(struct learner *l) { model_changed(l->model); }

size_t learner_bytes(const struct learner *l)
{
    size_t bytes = sizeof *l + arena_bytes(l->scratch) + model_bytes(l->model);
    for (size_t group = 0; group < PARAMETER_STATISTIC; group++) {
        size_t block = model_parameters(l->model)->block_size[group] * sizeof(float);
        bytes += (l->moments[group].m ? block : 0) + (l->moments[group].v ? block : 0);
    }
    for (size_t t = 0; t < l->features->table_count; t++) bytes += embedding_bytes(l->table[t]);
    return bytes;
}

void learner_set_learning_rates(struct learner *l, double ranking, double zero_shot, double embedding)
{
    l->options.model.ranking_optimizer.learning_rate = ranking;
    l->options.model.zero_shot_optimizer.learning_rate = zero_shot;
    for (size_t t = 0; t < l->features->table_count; t++) embedding_set_learning_rate(l->table[t], embedding);
}

static bool visit_moment(const struct parameter *parameter, float *block, const char *name, tensor_visitor *visit,
                         void *self, struct cs_error *err)
{
    if (!block) return true;
    struct tensor tensor = parameter_tensor(parameter);
    tensor.role = TENSOR_OPTIMIZER;
    tensor.data = block + parameter->offset;
    if ((size_t)snprintf(tensor.name, sizeof tensor.name, "optimizer.%s.%s", parameter->name, name) >=
        sizeof tensor.name)
        return cs_fail(err, CS_FAILED, "the name of tensor %s is too long", parameter->name);
    return visit(self, &tensor, err);
}

static bool each_tensor(struct learner *l, tensor_visitor *visit, void *self, struct cs_error *err)
{
    const struct parameter_set *set = model_parameters(l->model);
    if (!model_tensors(l->model, visit, self, err)) return false;
    for (size_t i = 0; i < set->count; i++) {
        const struct parameter *parameter = &set->parameter[i];
        if (parameter->group == PARAMETER_STATISTIC) continue;
        const struct moments *moments = &l->moments[parameter->group];
        if (!visit_moment(parameter, moments->m, "m", visit, self, err) ||
            !visit_moment(parameter, moments->v, "v", visit, self, err))
            return false;
    }
    struct tensor step = { .type = TENSOR_U64, .role = TENSOR_OPTIMIZER, .rank = 1, .shape = { 1 } };
    snprintf(step.name, sizeof step.name, "optimizer.ranking.step");
    step.data = &l->ranking_steps;
    if (!visit(self, &step, err)) return false;
    snprintf(step.name, sizeof step.name, "optimizer.zero_shot.step");
    step.data = &l->zero_shot_steps;
    return visit(self, &step, err);
}

bool learner_tensors(struct learner *l, tensor_visitor *visit, void *self, struct cs_error *err)
{
    settle(l);          /* the visitor may write */
    return each_tensor(l, visit, self, err);
}

static bool write_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    struct state_writer *writer = self;
    return writer->tensor(writer, tensor, err);
}

static bool read_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    struct state_reader *reader = self;
    return reader->tensor(reader, tensor, err);
}

bool learner_save(struct learner *l, struct state_writer *writer, struct cs_error *err)
{
    settle(l);
    bool ok = each_tensor(l, write_tensor, writer, err);
    l->hold = writer->hold(writer);
    if (!ok) return false;
    for (size_t t = 0; t < l->features->table_count; t++)
        if (!embedding_save(l->table[t], writer, err)) return false;
    return true;
}

bool learner_watch(struct learner *l, struct cs_error *err)
{
    for (size_t t = 0; t < l->features->table_count; t++)
        if (!embedding_watch(l->table[t], err)) return false;
    return true;
}

bool learner_delta_lost(const struct learner *l)
{
    bool lost = false;
    for (size_t t = 0; t < l->features->table_count; t++) lost |= embedding_delta_lost(l->table[t]);
    return lost;
}

static bool write_scoring(void *self, const struct tensor *tensor, struct cs_error *err)
{
    return tensor->role != TENSOR_SCORING || write_tensor(self, tensor, err);
}

bool learner_save_delta(struct learner *l, struct state_writer *writer, struct cs_error *err)
{
    settle(l);
    bool ok = model_tensors(l->model, write_scoring, writer, err);
    l->delta_hold = writer->hold(writer);
    for (size_t t = 0; ok && t < l->features->table_count; t++) ok = embedding_save_delta(l->table[t], writer, err);
    return ok;
}

bool learner_load(struct learner *l, struct state_reader *reader, struct cs_error *err)
{
    if (!learner_tensors(l, read_tensor, reader, err)) return false;
    for (size_t t = 0; t < l->features->table_count; t++)
        if (!embedding_load(l->table[t], reader, err)) return false;
    learner_changed(l);
    return true;
}
