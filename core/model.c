/* The towers wired together: rows to pooled groups, generated behaviors for new users, logits, and the way back. */
#include "core/model.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/loss_cross_entropy.h"
#include "core/ranking_tower.h"
#include "core/row_gradient.h"
#include "core/vector_math.h"

#define DENSE_LIMIT 5.0

struct running { double count, mean, m2; };     /* Welford's, of one dense feature */

struct model {
    const struct features *features;
    size_t dimension, width;                /* d; of z */
    size_t group_offset[GROUPS], behavior_offset;       /* places in z */
    struct compute compute;
    struct parameter_set set;
    struct running *running;                /* [features->dense_count] */
    const struct ranking_tower_ops *ranking_ops;
    struct ranking_tower *ranking;
    const struct zero_shot_ops *zero_shot_ops;
    struct zero_shot_tower *zero_shot;
    struct fixed_tower *fixed;              /* NULL until model_fix */
};

struct model_pass {
    const struct batch *batch;
    const struct model_rows *rows;
    float *z, *dz;                          /* [size, width] */
    double *rounding;                       /* [width] of dz, as ranking_tower's backward says */
    float *attribute;                       /* [size, n_a * d] */
    uint8_t *present;                       /* [size, n_a] */
    uint32_t *new_user;                     /* examples whose z_v is generated */
    size_t new_users;
    uint32_t *new_user_of; /* [size] place in new_user, or NO_USER; only where the ranking loss goes through */
    float *dattribute;
    struct ranking_pass *ranking;
};

struct model_layout model_layout(const struct features *features, size_t dimension)
{
    struct model_layout layout = { 0 };
    for (size_t group = 0; group < GROUPS; group++) {
        layout.group_offset[group] = layout.width;
        layout.width += dimension + features->group_dense[group];
        if (group != GROUP_USER) continue;
        layout.behavior_offset = layout.width;
        layout.width += dimension;
    }
    return layout;
}

struct model *model_create(const struct features *features, size_t dimension, const struct model_options *options,
                           struct parallel *parallel, struct cs_error *err)
{
    const struct ranking_tower_ops *ranking_ops = ranking_find(options->ranking.tower, err);
    const struct zero_shot_ops *zero_shot_ops = ranking_ops ? zero_shot_find(options->zero_shot.kind, err) : NULL;
    if (!zero_shot_ops) return NULL;
    struct model *m = calloc(1, sizeof *m);
    if (!m || !(m->running = calloc(features->dense_count + 1, sizeof *m->running))) {
        free(m);
        cs_fail(err, CS_FAILED, "out of memory: model");
        return NULL;
    }
    m->features = features;
    m->dimension = dimension;
    m->compute.parallel = parallel;
    m->ranking_ops = ranking_ops;
    m->zero_shot_ops = zero_shot_ops;
    struct model_layout layout = model_layout(features, dimension);
    memcpy(m->group_offset, layout.group_offset, sizeof m->group_offset);
    m->behavior_offset = layout.behavior_offset;
    m->width = layout.width;
    struct zero_shot_shape shape = { features->group_categorical[GROUP_USER], features->group_dense[GROUP_USER],
                                     dimension, features->behavior_max_length };
    m->ranking = ranking_ops->create(&options->ranking, m->width, &m->set, err);
    m->zero_shot = m->ranking ? zero_shot_ops->create(&options->zero_shot, &shape, &m->set, err) : NULL;
    if (m->zero_shot && parameter_set_allocate(&m->set, err)) return m;
    model_destroy(m);
    return NULL;
}

void model_destroy(struct model *m)
{
    if (!m) return;
    m->ranking_ops->destroy(m->ranking);
    m->zero_shot_ops->destroy(m->zero_shot);
    fixed_tower_destroy(m->fixed);
    parameter_set_free(&m->set);
    free(m->running);
    free(m);
}

void model_changed(struct model *m)
{
    if (m->zero_shot_ops->changed) m->zero_shot_ops->changed(m->zero_shot);
}

void model_start(struct model *m, uint64_t seed)
{
    parameter_set_start(&m->set, seed);
    model_changed(m);
}

struct parameter_set *model_parameters(struct model *m) { return &m->set; }
void model_record(struct model *m, struct gemm_recorder *recorder) { m->compute.recorder = recorder; }
bool model_trains_zero_shot(const struct model *m) { return m->zero_shot_ops->train != NULL; }

size_t model_bytes(const struct model *m)
{
    size_t floats = 0;
    for (size_t g = 0; g < PARAMETER_GROUPS; g++) floats += m->set.block_size[g] * (m->set.gradient[g] ? 2 : 1);
    return sizeof *m + floats * sizeof(float);
}

static bool running_tensors(struct model *m, tensor_visitor *visit, void *self, struct cs_error *err)
{
    static const char *const part_name[] = { "count", "mean", "m2" };
    for (size_t f = 0; f < m->features->count; f++) {
        const struct feature *feature = &m->features->feature[f];
        if (feature->kind != FEATURE_DENSE) continue;
        struct running *running = &m->running[feature->column];
        double *part[] = { &running->count, &running->mean, &running->m2 };
        for (size_t i = 0; i < 3; i++) {
            struct tensor tensor = {
                .type = TENSOR_F64, .role = TENSOR_SCORING, .rank = 1, .shape = { 1 }, .data = part[i]
            };
            snprintf(tensor.name, sizeof tensor.name, "features.%s.%s.%s", feature_group_name[feature->group],
                     feature->name, part_name[i]);
            if (!visit(self, &tensor, err)) return false;
        }
    }
    return true;
}

bool model_tensors(struct model *m, tensor_visitor *visit, void *self, struct cs_error *err)
{
    for (size_t i = 0; i < m->set.count; i++) {
        struct tensor tensor = parameter_tensor(&m->set.parameter[i]);
        if (!visit(self, &tensor, err)) return false;
    }
    return running_tensors(m, visit, self, err);
}

/* ---- From rows to z ---- */

static void add_row(float *restrict sum, const float *restrict row, float share, size_t d)
{
    for (size_t k = 0; k < d; k++) sum[k] += share * row[k];
}

/* The mean of the values' rows, as far as they have rows. */
static bool mean_of_values(const struct model *m, const struct model_pass *pass, const struct feature *feature,
                           size_t example, float *mean)
{
    const struct batch_column *column = &pass->batch->column[feature->column];
    const struct model_rows *rows = &pass->rows[feature->table];
    size_t d = m->dimension, values = 0;
    memset(mean, 0, d * sizeof *mean);
    for (uint32_t j = column->offset[example]; j < column->offset[example + 1]; j++)
        values += rows->present[column->row[j]];
    for (uint32_t j = column->offset[example]; values && j < column->offset[example + 1]; j++)
        if (rows->present[column->row[j]]) add_row(mean, rows->row + column->row[j] * d, 1.0f / (float)values, d);
    return values > 0;
}

static float standardised(const struct model *m, size_t dense, double value)
{
    const struct running *running = &m->running[dense];
    if (!isfinite(value)) return 0.0f;      /* absent */
    if (running->count >= 2.0) {
        double variance = running->m2 / running->count;
        value = (value - running->mean) / (variance > 0.0 ? sqrt(variance) : 1.0);
    }
    return (float)(value > DENSE_LIMIT ? DENSE_LIMIT : value < -DENSE_LIMIT ? -DENSE_LIMIT : value);
}

static void pool_example(const struct model *m, struct model_pass *pass, size_t i, float *value)
{
    const struct features *features = m->features;
    const struct batch *batch = pass->batch;
    float *z = pass->z + i * m->width;
    size_t d = m->dimension, attributes = features->group_categorical[GROUP_USER];
    memset(z, 0, m->width * sizeof *z);
    for (size_t f = 0; f < features->count; f++) {
        const struct feature *feature = &features->feature[f];
        size_t begin = m->group_offset[feature->group];
        if (feature->kind == FEATURE_DENSE) {
            z[begin + d + feature->column - features->group_dense_begin[feature->group]] =
                standardised(m, feature->column, (double)batch->dense[feature->column * batch->size + i]);
            continue;
        }
        float *mean = value;
        size_t attribute = i * attributes + feature->column - features->group_categorical_begin[GROUP_USER];
        if (feature->group == GROUP_USER) mean = pass->attribute + attribute * d;
        bool present = mean_of_values(m, pass, feature, i, mean);
        if (feature->group == GROUP_USER) pass->present[attribute] = present;
        if (present) add_row(z + begin, mean, 1.0f, d);
    }
    if (batch->is_new[i]) return;
    const struct model_rows *rows = &pass->rows[features->behavior_table];
    for (uint32_t j = batch->behavior.offset[i]; j < batch->behavior.offset[i + 1]; j++)
        if (rows->present[batch->behavior.row[j]])
            add_row(z + m->behavior_offset, rows->row + batch->behavior.row[j] * d, 1.0f, d);
}

struct pool_task { const struct model *model; struct model_pass *pass; const uint8_t *changed; float *value; };

static void pool_part(void *argument, size_t part, size_t parts)
{
    const struct pool_task *t = argument;
    size_t begin, end;
    parallel_share(t->pass->batch->size, 1, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++)
        if (!t->changed || t->changed[i])
            pool_example(t->model, t->pass, i, t->value + part * (t->model->dimension + 16));
}

static void pool(struct model *m, struct model_pass *pass, const uint8_t *changed, struct arena *scratch)
{
    size_t parts = m->compute.parallel->width;
    struct pool_task task = { m, pass, changed, arena_take(scratch, parts * (m->dimension + 16) * sizeof(float)) };
    compute_run(&m->compute, (pass->batch->behavior.offset[pass->batch->size] + pass->batch->size * 8) * m->dimension,
                pool_part, &task);
}

/* ---- Users of the zero-shot tower ---- */

struct gather_task {
    const struct model *model;
    const struct model_pass *pass;
    const uint32_t *example;
    size_t count;
    float *attribute, *dense, *pooled, *behavior;
    uint8_t *present;
    const uint32_t *behavior_offset;
    uint32_t *behavior_slot;
};

static void gather_part(void *argument, size_t part, size_t parts)
{
    const struct gather_task *t = argument;
    const struct model *m = t->model;
    const struct batch *batch = t->pass->batch;
    const struct model_rows *rows = &t->pass->rows[m->features->behavior_table];
    size_t begin, end, d = m->dimension, attributes = m->features->group_categorical[GROUP_USER],
                       dense = m->features->group_dense[GROUP_USER];
    parallel_share(t->count, 1, part, parts, &begin, &end);
    for (size_t u = begin; u < end; u++) {
        size_t i = t->example[u];
        const float *z = t->pass->z + i * m->width;
        memcpy(t->attribute + u * attributes * d, t->pass->attribute + i * attributes * d,
               attributes * d * sizeof(float));
        memcpy(t->present + u * attributes, t->pass->present + i * attributes, attributes);
        memcpy(t->dense + u * dense, z + m->group_offset[GROUP_USER] + d, dense * sizeof(float));
        if (!t->behavior) continue;
        memcpy(t->pooled + u * d, z + m->behavior_offset, d * sizeof(float));
        size_t to = t->behavior_offset[u];
        for (uint32_t first = batch->behavior.offset[i], j = first; j < batch->behavior.offset[i + 1]; j++) {
            uint32_t row = batch->behavior.row[j];
            if (!rows->present[row]) continue;
            memcpy(t->behavior + to * d, rows->row + row * d, d * sizeof(float));
            t->behavior_slot[to++] = j - first;
        }
    }
}

static struct zero_shot_users gather_users(struct model *m, const struct model_pass *pass, const uint32_t *example,
                                           size_t count, bool behaviors, struct arena *scratch)
{
    size_t d = m->dimension, attributes = m->features->group_categorical[GROUP_USER],
           dense = m->features->group_dense[GROUP_USER];
    struct gather_task t = { .model = m,
                             .pass = pass,
                             .example = example,
                             .count = count,
                             .attribute = arena_take(scratch, count * attributes * d * sizeof(float)),
                             .present = arena_take(scratch, count * attributes),
                             .dense = arena_take(scratch, count * dense * sizeof(float)) };
    size_t positions = 0;
    if (behaviors) {
        const struct batch_column *column = &pass->batch->behavior;
        const uint8_t *present = pass->rows[m->features->behavior_table].present;
        uint32_t *offset = arena_take(scratch, (count + 1) * sizeof *offset);
        for (size_t u = 0; u < count; u++) {
            assert(column->offset[example[u] + 1] - column->offset[example[u]] <= m->features->behavior_max_length);
            offset[u] = (uint32_t)positions;
            for (uint32_t j = column->offset[example[u]]; j < column->offset[example[u] + 1]; j++)
                positions += present[column->row[j]];
        }
        offset[count] = (uint32_t)positions;
        t.behavior_offset = offset;
        t.behavior = arena_take(scratch, positions * d * sizeof(float));
        t.behavior_slot = arena_take(scratch, positions * sizeof *t.behavior_slot);
        t.pooled = arena_take(scratch, count * d * sizeof(float));
    }
    compute_run(&m->compute, (positions + count * attributes) * d, gather_part, &t);
    return (struct zero_shot_users){ .count = count,
                                     .attribute = t.attribute,
                                     .present = t.present,
                                     .dense = t.dense,
                                     .pooled = t.pooled,
                                     .behavior = t.behavior,
                                     .behavior_offset = t.behavior_offset,
                                     .behavior_slot = t.behavior_slot };
}

/* z_v of the new users among the (changed) examples. */
static void generate(struct model *m, struct model_pass *pass, const uint8_t *changed, struct arena *scratch)
{
    size_t count = 0, d = m->dimension;
    uint32_t *example = arena_take(scratch, (pass->new_users + 1) * sizeof *example);
    for (size_t u = 0; u < pass->new_users; u++)
        if (!changed || changed[pass->new_user[u]]) example[count++] = pass->new_user[u];
    if (!count) return;
    struct zero_shot_users users = gather_users(m, pass, example, count, false, scratch);
    float *z_v = arena_take(scratch, count * d * sizeof *z_v);
    m->zero_shot_ops->generate(m->zero_shot, &m->compute, &users, z_v, scratch);
    for (size_t u = 0; u < count; u++)
        memcpy(pass->z + example[u] * m->width + m->behavior_offset, z_v + u * d, d * sizeof *z_v);
}

static struct ranking_input ranking_input(const struct model *m, const struct model_pass *pass)
{
    return (struct ranking_input){ .size = pass->batch->size, .width = m->width, .z = pass->z };
}

struct model_pass *model_forward_score(struct model *m, const struct batch *batch, const struct model_rows *rows,
                                       struct arena *scratch, float *click_probability)
{
    struct model_pass *pass = arena_take_zeroed(scratch, sizeof *pass);
    size_t attributes = m->features->group_categorical[GROUP_USER];
    pass->batch = batch;
    pass->rows = rows;
    pass->z = arena_take(scratch, batch->size * m->width * sizeof *pass->z);
    pass->attribute = arena_take(scratch, batch->size * attributes * m->dimension * sizeof *pass->attribute);
    pass->present = arena_take(scratch, batch->size * attributes);
    pass->new_user = arena_take(scratch, batch->size * sizeof *pass->new_user);
    for (size_t i = 0; i < batch->size; i++)
        if (batch->is_new[i]) pass->new_user[pass->new_users++] = (uint32_t)i;
    pool(m, pass, NULL, scratch);
    generate(m, pass, NULL, scratch);
    struct ranking_input in = ranking_input(m, pass);
    float *logit = arena_take(scratch, m->ranking_ops->outputs * batch->size * sizeof *logit);
    pass->ranking = m->ranking_ops->score(m->ranking, &m->compute, &in, logit, scratch);
    sigmoid(batch->size, logit, click_probability);
    return pass;
}

/* ---- Scoring with parameters that stay ---- */

bool model_fix(struct model *m, struct cs_error *err)
{
    size_t shared = m->group_offset[GROUP_ITEM];
    if (!parameter_set_pack(&m->set, err)) return false;
    if (m->zero_shot_ops->fix && !m->zero_shot_ops->fix(m->zero_shot, &m->compute, err)) return false;
    fixed_tower_destroy(m->fixed);
    return (m->fixed = m->ranking_ops->fix(m->ranking, shared, err)) != NULL;
}

/* Adds the means of one group's values to z. They are left in mean, `step` apart, with whether there is one in present
 * (NULL: nobody asks). Returns where the next group's rows begin. */
static const float *const *pool_group(const struct model *m, enum feature_group group, const uint8_t *count,
                                      const float *const *row, float *z, float *mean, size_t step, uint8_t *present)
{
    size_t d = m->dimension;
    for (size_t c = 0; c < m->features->group_categorical[group]; row += count[c++], mean += step) {
        size_t values = 0;
        for (size_t j = 0; j < count[c]; j++) values += row[j] != NULL;
        if (present) present[c] = values > 0;
        memset(mean, 0, d * sizeof *mean);
        if (!values) continue;
        for (size_t j = 0; j < count[c]; j++)
            if (row[j]) add_row(mean, row[j], 1.0f / (float)values, d);
        add_row(z, mean, 1.0f, d);
    }
    return row;
}

static void standardise_group(const struct model *m, enum feature_group group, const float *dense, float *z)
{
    for (size_t i = 0; i < m->features->group_dense[group]; i++)
        z[i] = standardised(m, m->features->group_dense_begin[group] + i, (double)dense[i]);
}

/* z's shared part of each, but for generated behaviors. */
static void pool_shared(const struct model *m, const struct model_shared *shared, float *z, float *attribute,
                        uint8_t *present, float *mean)
{
    const struct features *features = m->features;
    size_t d = m->dimension, users = features->group_categorical[GROUP_USER];
    float *context = z + m->group_offset[GROUP_CONTEXT];
    memset(z, 0, m->group_offset[GROUP_ITEM] * sizeof *z);
    const float *const *row = pool_group(m, GROUP_USER, shared->count, shared->row, z, attribute, d, present);
    pool_group(m, GROUP_CONTEXT, shared->count + users, row, context, mean, 0, NULL);
    standardise_group(m, GROUP_USER, shared->dense, z + d);
    standardise_group(m, GROUP_CONTEXT, shared->dense + features->group_dense[GROUP_USER], context + d);
    for (size_t j = 0; j < shared->behavior_count; j++)
        if (shared->behavior[j]) add_row(z + m->behavior_offset, shared->behavior[j], 1.0f, d);
}

/* The new ones' behaviors, all at once: attribute, present and dense of them come to the front. */
static void generate_shared(struct model *m, const struct model_shared *shared, size_t count, float *z,
                            float *attribute, uint8_t *present, struct packed_job *beside, struct arena *scratch)
{
    struct compute compute = m->compute;
    size_t d = m->dimension, width = m->group_offset[GROUP_ITEM], users = 0,
           attributes = m->features->group_categorical[GROUP_USER], dense = m->features->group_dense[GROUP_USER];
    float *known = arena_take(scratch, count * dense * sizeof *known),
          *z_v = arena_take(scratch, count * d * sizeof *z_v);
    for (size_t i = 0; i < count; i++) {
        if (shared[i].behavior_count) continue;
        memmove(attribute + users * attributes * d, attribute + i * attributes * d, attributes * d * sizeof *attribute);
        memmove(present + users * attributes, present + i * attributes, attributes);
        memcpy(known + users++ * dense, z + i * width + d, dense * sizeof *known);
    }
    if (!users) return;
    struct zero_shot_users new = { .count = users, .attribute = attribute, .present = present, .dense = known };
    compute.beside = beside;
    m->zero_shot_ops->generate(m->zero_shot, &compute, &new, z_v, scratch);
    for (size_t i = count; i-- > 0;)
        if (!shared[i].behavior_count) memcpy(z + i * width + m->behavior_offset, z_v + --users * d, d * sizeof *z_v);
}

void model_score_fixed(struct model *m, const struct model_shared *shared, size_t shared_count,
                       const struct model_own *own, size_t count, struct arena *scratch, float *click_probability)
{
    const struct features *features = m->features;
    size_t d = m->dimension, width = m->group_offset[GROUP_ITEM], rest = m->width - width,
           attributes = features->group_categorical[GROUP_USER];
    assert(m->fixed && (shared_count == 1 || shared_count == count));
    float *z = arena_take(scratch, shared_count * width * sizeof *z),
          *item = arena_take_zeroed(scratch, count * rest * sizeof *item),
          *attribute = arena_take(scratch, shared_count * attributes * d * sizeof *attribute),
          *mean = arena_take(scratch, d * sizeof *mean);
    uint8_t *present = arena_take(scratch, shared_count * attributes);
    for (size_t i = 0; i < shared_count; i++)
        pool_shared(m, &shared[i], z + i * width, attribute + i * attributes * d, present + i * attributes, mean);
    for (size_t i = 0; i < count; i++) {
        pool_group(m, GROUP_ITEM, own[i].count, own[i].row, item + i * rest, mean, 0, NULL);
        standardise_group(m, GROUP_ITEM, own[i].dense, item + i * rest + d);
    }
    float *logit = arena_take(scratch, count * sizeof *logit);
    struct packed_job job;
    bool beside = shared_count == 1 && !shared->behavior_count && m->zero_shot_ops->generates_long &&
                  fixed_tower_begin(m->fixed, count, item, rest, &job, scratch);
    generate_shared(m, shared, shared_count, z, attribute, present, beside ? &job : NULL, scratch);
    if (beside) fixed_tower_end(m->fixed, &job, z, logit, scratch);
    else fixed_tower_score(m->fixed, count, z, shared_count > 1 ? width : 0, item, rest, logit, scratch);
    sigmoid(count, logit, click_probability);
}

/* ---- Learning ---- */

void model_refresh(struct model *m, struct model_pass *pass, const uint8_t *changed, struct arena *scratch)
{
    size_t count = 0;
    uint32_t *example = arena_take(scratch, pass->batch->size * sizeof *example);
    for (size_t i = 0; i < pass->batch->size; i++)
        if (changed[i]) example[count++] = (uint32_t)i;
    if (!count) return;
    pool(m, pass, changed, scratch);
    generate(m, pass, changed, scratch);
    struct ranking_input in = ranking_input(m, pass);
    m->ranking_ops->refresh(m->ranking, &m->compute, &in, pass->ranking, example, count, scratch);
}

/* The ranking loss goes on through what was generated, into the map and the attributes. */
static void backward_generated(struct model *m, struct model_pass *pass, struct arena *scratch)
{
    size_t d = m->dimension, attributes = m->features->group_categorical[GROUP_USER];
    struct zero_shot_users users = gather_users(m, pass, pass->new_user, pass->new_users, false, scratch);
    float *dz_v = arena_take(scratch, users.count * d * sizeof *dz_v);
    pass->new_user_of = arena_take(scratch, pass->batch->size * sizeof *pass->new_user_of);
    memset(pass->new_user_of, 0xff, pass->batch->size * sizeof *pass->new_user_of);
    for (size_t u = 0; u < users.count; u++) {
        pass->new_user_of[pass->new_user[u]] = (uint32_t)u;
        memcpy(dz_v + u * d, pass->dz + pass->new_user[u] * m->width + m->behavior_offset, d * sizeof *dz_v);
    }
    pass->dattribute = arena_take_zeroed(scratch, users.count * attributes * d * sizeof *pass->dattribute);
    m->zero_shot_ops->generated_backward(m->zero_shot, &m->compute, &users, dz_v, pass->dattribute, scratch);
}

double model_train_ranking(struct model *m, struct model_pass *pass, uint64_t seed, uint64_t step,
                           struct arena *scratch)
{
    const struct batch *batch = pass->batch;
    struct ranking_input in = ranking_input(m, pass);
    float *logit = arena_take(scratch, m->ranking_ops->outputs * batch->size * sizeof *logit);
    float *dlogit = arena_take(scratch, m->ranking_ops->outputs * batch->size * sizeof *dlogit);
    m->ranking_ops->forward(m->ranking, &m->compute, &in, pass->ranking, seed, step, logit, scratch);
    double loss = cross_entropy(batch->size, logit, batch->clicked, batch->correction, dlogit);
    pass->dz = arena_take(scratch, batch->size * m->width * sizeof *pass->dz);
    pass->rounding = arena_take_zeroed(scratch, m->width * sizeof *pass->rounding);
    m->ranking_ops->backward(m->ranking, &m->compute, &in, pass->ranking, dlogit, pass->dz, pass->rounding, scratch);
    if (m->zero_shot_ops->generated_backward) backward_generated(m, pass, scratch);
    return loss;
}

void model_row_gradient(struct model *m, struct model_pass *pass, size_t table, float *gradient, struct arena *scratch)
{
    struct row_gradient_source source = { .dz = pass->dz,
                                          .rounding = pass->rounding,
                                          .width = m->width,
                                          .dimension = m->dimension,
                                          .behavior_offset = m->behavior_offset,
                                          .user = pass->new_user_of,
                                          .dattribute = pass->dattribute };
    memcpy(source.group_offset, m->group_offset, sizeof source.group_offset);
    row_gradient(&m->compute, m->features, pass->batch, table, pass->rows[table].present, &source, gradient, scratch);
}

bool model_gradient_finite(const struct model *m, const struct model_pass *pass)
{
    return vector_finite(pass->dz, pass->batch->size * m->width);
}

struct zero_shot_loss model_train_zero_shot(struct model *m, struct model_pass *pass, const uint32_t *example,
                                            size_t count, uint64_t seed, uint64_t step, struct arena *scratch)
{
    struct zero_shot_users users = gather_users(m, pass, example, count, true, scratch);
    return m->zero_shot_ops->train(m->zero_shot, &m->compute, &users, seed, step, scratch);
}

static void take_in(struct running *running, double value)
{
    running->count += 1.0;
    double away = value - running->mean;
    running->mean += away / running->count;
    running->m2 += away * (value - running->mean);
}

void model_commit(struct model *m, struct model_pass *pass)
{
    const struct batch *batch = pass->batch;
    if (m->ranking_ops->commit) m->ranking_ops->commit(m->ranking, pass->ranking);
    for (size_t f = 0; f < m->features->dense_count; f++)
        for (size_t i = 0; i < batch->size; i++) {
            float value = batch->dense[f * batch->size + i];
            if (isfinite(value)) take_in(&m->running[f], (double)value);
        }
    model_changed(m);
}
