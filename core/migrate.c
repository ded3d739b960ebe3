/* Which part of the new state is which part of the old. */
#include "core/migrate.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

enum { NEW = -1, ENCODER_LAYERS = 3, RULES = 8 };

/* Along one axis of a tensor: from[i] is the old place of new place i, or NEW. */
struct axis { size_t count, old_count; int64_t *from; };

struct rule { const char *tensor; size_t axis; const struct axis *parts; };

/* What an empty table saves: for a table that the old state does not have. */
struct fresh { char section[STATE_SECTION_MAX]; void *bytes; size_t size; };

struct migration {
    struct state_reader reader;         /* first: the callbacks' self */
    struct state_writer writer;
    struct state_reader *inner;
    const struct features *from, *to;
    int64_t *column, *dense;            /* [to's] old place, or NEW */
    struct axis z, encoder[ENCODER_LAYERS], attributes;
    struct rule rule[RULES];
    size_t rules;
    struct fresh *fresh;
    size_t fresh_count;
};

/* ---- features ---- */

static const struct feature *find_feature(const struct features *features, const struct feature *wanted)
{
    for (size_t i = 0; i < features->count; i++) {
        const struct feature *feature = &features->feature[i];
        if (feature->group == wanted->group && feature->kind == wanted->kind &&
            strcmp(feature->name, wanted->name) == 0)
            return feature;
    }
    return NULL;
}

static bool axis_create(struct axis *axis, size_t count, size_t old_count)
{
    *axis = (struct axis){ count, old_count, malloc((count + 1) * sizeof *axis->from) };
    for (size_t i = 0; axis->from && i < count; i++) axis->from[i] = NEW;
    return axis->from != NULL;
}

static void axis_span(struct axis *axis, size_t at, size_t old_at, size_t count)
{
    for (size_t i = 0; i < count; i++) axis->from[at + i] = (int64_t)(old_at + i);
}

/* The dense features of a group, which stand from `at` on (formerly from old_at). */
static void axis_dense(const struct migration *m, struct axis *axis, enum feature_group group, size_t at, size_t old_at)
{
    for (size_t i = 0; i < m->to->group_dense[group]; i++) {
        int64_t old = m->dense[m->to->group_dense_begin[group] + i];
        if (old != NEW) axis->from[at + i] = (int64_t)old_at + old - (int64_t)m->from->group_dense_begin[group];
    }
}

static bool map_inputs(struct migration *m, size_t d, const struct zero_shot_options *zero_shot)
{
    struct model_layout to = model_layout(m->to, d), from = model_layout(m->from, d);
    size_t attributes = m->to->group_categorical[GROUP_USER], old_attributes = m->from->group_categorical[GROUP_USER];
    if (!axis_create(&m->z, to.width, from.width) ||
        !axis_create(&m->attributes, attributes * d, old_attributes * d))
        return false;
    for (enum feature_group group = 0; group < GROUPS; group++) {
        axis_span(&m->z, to.group_offset[group], from.group_offset[group], d);
        axis_dense(m, &m->z, group, to.group_offset[group] + d, from.group_offset[group] + d);
    }
    axis_span(&m->z, to.behavior_offset, from.behavior_offset, d);
    for (size_t l = 0; l < ENCODER_LAYERS; l++) {
        size_t read = (l ? zero_shot->encoder[l - 1] : 0) + d;
        if (!axis_create(&m->encoder[l], read + m->to->group_dense[GROUP_USER],
                         read + m->from->group_dense[GROUP_USER]))
            return false;
        axis_span(&m->encoder[l], 0, 0, read);
        axis_dense(m, &m->encoder[l], GROUP_USER, read, read);
    }
    for (size_t a = 0; a < attributes; a++) {
        int64_t old = m->column[m->to->group_categorical_begin[GROUP_USER] + a];
        if (old == NEW) continue;
        axis_span(&m->attributes, a * d, ((size_t)old - m->from->group_categorical_begin[GROUP_USER]) * d, d);
    }
    return true;
}

static void add_rule(struct migration *m, const char *tensor, size_t axis, const struct axis *parts)
{
    m->rule[m->rules++] = (struct rule){ tensor, axis, parts };
}

struct migration *migration_create(const struct features *from, const struct features *to, size_t dimension,
                                   const struct model_options *options, struct cs_error *err)
{
    struct migration *m = calloc(1, sizeof *m);
    if (!m) goto no_memory;
    m->from = from;
    m->to = to;
    m->column = malloc((to->categorical_count + 1) * sizeof *m->column);
    m->dense = malloc((to->dense_count + 1) * sizeof *m->dense);
    if (!m->column || !m->dense) goto no_memory;
    for (size_t i = 0; i < to->count; i++) {
        const struct feature *feature = &to->feature[i], *old = find_feature(from, feature);
        int64_t *place = feature->kind == FEATURE_DENSE ? m->dense : m->column;
        place[feature->column] = old ? (int64_t)old->column : NEW;
    }
    if (!map_inputs(m, dimension, &options->zero_shot)) goto no_memory;
    add_rule(m, options->ranking.tower == RANKING_EMB_LR ? "ranking.output.weight" : "ranking.hidden.0.weight", 1,
             &m->z);
    add_rule(m, "zero_shot.encoder_user.0.weight", 1, &m->encoder[0]);
    add_rule(m, "zero_shot.encoder_user.1.weight", 1, &m->encoder[1]);
    add_rule(m, "zero_shot.encoder_user.2.weight", 1, &m->encoder[2]);
    add_rule(m, "zero_shot.linear.weight", 1, &m->attributes);
    add_rule(m, "zero_shot.decoder_user.2.weight", 0, &m->attributes);
    add_rule(m, "zero_shot.decoder_user.2.bias", 0, &m->attributes);
    return m;
no_memory:
    migration_destroy(m);
    cs_fail(err, CS_FAILED, "out of memory: migration");
    return NULL;
}

void migration_destroy(struct migration *m)
{
    if (!m) return;
    for (size_t i = 0; i < m->fresh_count; i++) free(m->fresh[i].bytes);
    free(m->fresh);
    free(m->z.from);
    for (size_t l = 0; l < ENCODER_LAYERS; l++) free(m->encoder[l].from);
    free(m->attributes.from);
    free(m->column);
    free(m->dense);
    free(m);
}

/* ---- tables that are new ---- */

static bool keep_put(struct state_writer *writer, const char *section, uint64_t slot, const void *bytes, size_t size,
                     struct cs_error *err)
{
    struct migration *m = (struct migration *)((char *)writer - offsetof(struct migration, writer));
    (void)err;
    assert(slot == 0);                  /* all that an empty table puts */
    m->fresh = need(realloc(m->fresh, (m->fresh_count + 1) * sizeof *m->fresh));
    struct fresh *fresh = &m->fresh[m->fresh_count];
    *fresh = (struct fresh){ .bytes = need(malloc(size)), .size = size };
    memcpy(fresh->bytes, bytes, size);
    snprintf(fresh->section, sizeof fresh->section, "%s", section);
    m->fresh_count++;
    return true;
}

/* Of an empty table: there is nothing to read. */
static bool skip_records(struct state_writer *writer, const char *section, const struct state_records *records,
                         struct cs_error *err)
{
    uint64_t nothing;
    size_t size = 0;
    enum state_read result = STATE_READ_MORE;
    (void)writer;
    records->begin(records->self, true, NULL, 0);
    while (result == STATE_READ_MORE && !size) result = records->read(records->self, &nothing, sizeof nothing, &size);
    records->end(records->self, true);
    return (result == STATE_READ_END && !size) || cs_fail(err, CS_FAILED, "section %s of a new table is not empty",
                                                          section);
}

static bool has_table(const struct features *features, const char *name)
{
    for (size_t t = 0; t < features->table_count; t++)
        if (strcmp(features->table[t], name) == 0) return true;
    return false;
}

/* ---- reading ---- */

/* The table of a section "<kind>.<table>", or NULL. */
static const char *table_of(const char *section)
{
    static const char *const kind[] = { "rows.", "waiting.", "table." };
    for (size_t i = 0; i < sizeof kind / sizeof *kind; i++)
        if (strncmp(section, kind[i], strlen(kind[i])) == 0) return section + strlen(kind[i]);
    return NULL;
}

static bool is_new(const struct migration *m, const char *section)
{
    const char *table = table_of(section);
    return table && !has_table(m->from, table);
}

static bool get(struct state_reader *reader, const char *section, uint64_t slot, const void **bytes, size_t *size,
                struct cs_error *err)
{
    struct migration *m = (struct migration *)reader;
    if (!is_new(m, section)) return m->inner->get(m->inner, section, slot, bytes, size, err);
    *bytes = NULL;
    for (size_t i = 0; i < m->fresh_count && slot == 0; i++) {
        if (strcmp(m->fresh[i].section, section) != 0) continue;
        *bytes = m->fresh[i].bytes;
        *size = m->fresh[i].size;
    }
    return true;
}

static bool each(struct state_reader *reader, const char *section, state_block *block, void *argument,
                 struct cs_error *err)
{
    struct migration *m = (struct migration *)reader;
    return is_new(m, section) || m->inner->each(m->inner, section, block, argument, err);
}

/* "optimizer.<name>.m" -> "<name>"; a parameter's own name as it is. */
static void parameter_of(const char *tensor, char name[TENSOR_NAME_MAX])
{
    static const char prefix[] = "optimizer.";
    bool moment = strncmp(tensor, prefix, sizeof prefix - 1) == 0;
    snprintf(name, TENSOR_NAME_MAX, "%s", moment ? tensor + sizeof prefix - 1 : tensor);
    if (moment && strrchr(name, '.')) *strrchr(name, '.') = '\0';
}

static const struct rule *rule_of(const struct migration *m, const char *parameter)
{
    for (size_t i = 0; i < m->rules; i++)
        if (strcmp(m->rule[i].tensor, parameter) == 0) return &m->rule[i];
    return NULL;
}

/* Statistics of a dense feature, "features.<group>.<name>.<part>": fresh where the feature is new. */
static bool is_new_statistic(const struct migration *m, const char *name)
{
    for (size_t i = 0; i < m->to->count; i++) {
        const struct feature *feature = &m->to->feature[i];
        char prefix[TENSOR_NAME_MAX];
        if (feature->kind != FEATURE_DENSE || m->dense[feature->column] != NEW) continue;
        snprintf(prefix, sizeof prefix, "features.%s.%s.", feature_group_name[feature->group], feature->name);
        size_t length = strlen(prefix);
        if (strncmp(name, prefix, length) == 0 && !strchr(name + length, '.')) return true;
    }
    return false;
}

static bool tensor_by_parts(struct migration *m, const struct rule *rule, const struct tensor *tensor, bool is_weight,
                            struct cs_error *err)
{
    struct tensor old = *tensor;
    bool columns = rule->axis == 1;
    size_t rows = columns ? tensor->shape[0] : 1, width = !columns && tensor->rank == 2 ? tensor->shape[1] : 1;
    if (rule->axis >= tensor->rank || tensor->shape[rule->axis] != rule->parts->count || tensor->type != TENSOR_F32)
        return cs_fail(err, CS_FAILED, "%s does not follow from the features as it should", tensor->name);
    old.shape[rule->axis] = rule->parts->old_count;
    float *values = old.data = malloc(tensor_bytes(&old) + 1), *into = tensor->data;
    if (!values) return cs_fail(err, CS_FAILED, "out of memory: %s", tensor->name);
    bool ok = m->inner->tensor(m->inner, &old, err);
    for (size_t r = 0; ok && r < rows; r++)
        for (size_t i = 0; i < rule->parts->count; i++) {
            int64_t from = rule->parts->from[i];
            float *to = into + (r * rule->parts->count + i) * width;
            if (from != NEW)
                memcpy(to, values + (r * rule->parts->old_count + (size_t)from) * width, width * sizeof *to);
            else if (columns && is_weight)
                memset(to, 0, width * sizeof *to);
        }
    free(values);
    return ok;
}

static bool tensor(struct state_reader *reader, const struct tensor *tensor, struct cs_error *err)
{
    struct migration *m = (struct migration *)reader;
    char parameter[TENSOR_NAME_MAX];
    if (is_new_statistic(m, tensor->name)) return true;
    parameter_of(tensor->name, parameter);
    const struct rule *rule = rule_of(m, parameter);
    if (!rule) return m->inner->tensor(m->inner, tensor, err);
    return tensor_by_parts(m, rule, tensor, strcmp(parameter, tensor->name) == 0, err);
}

struct state_reader *migration_reader(struct migration *m, struct state_reader *inner, struct learner *into,
                                      struct cs_error *err)
{
    m->inner = inner;
    m->reader = (struct state_reader){ .get = get, .each = each, .tensor = tensor };
    m->writer = (struct state_writer){ .full = true, .put = keep_put, .records = skip_records };
    for (size_t t = 0; t < m->to->table_count; t++)
        if (!has_table(m->from, m->to->table[t]) && !embedding_save(learner_table(into, t), &m->writer, err))
            return NULL;
    return &m->reader;
}

/* ---- examples ---- */

struct example *migration_example(const struct migration *m, struct example *old)
{
    const struct features *to = m->to;
    const uint8_t *old_keys_of = example_keys_of(old);
    size_t *old_begin = need(malloc((m->from->categorical_count + 1) * sizeof *old_begin)), keys = 0, begin = 0;
    for (size_t c = 0; c < m->from->categorical_count; begin += old_keys_of[c++]) old_begin[c] = begin;
    for (size_t c = 0; c < to->categorical_count; c++)
        if (m->column[c] != NEW) keys += old_keys_of[m->column[c]];
    size_t behaviors = old->behavior_count, gone = 0;
    if (behaviors > to->behavior_max_length) gone = behaviors - to->behavior_max_length;
    struct example *example = example_create(to, old->id_length, behaviors - gone, keys), shape = *example;
    *example = *old;
    example->size = shape.size;
    example->behavior_count = shape.behavior_count;
    example->key_count = shape.key_count;
    example->dense_count = shape.dense_count;
    example->column_count = shape.column_count;
    memcpy(example_behaviors(example), example_behaviors(old) + gone, (behaviors - gone) * sizeof(uint64_t));
    uint64_t *key = example_keys(example);
    for (size_t c = 0; c < to->categorical_count; c++) {
        if (m->column[c] == NEW) continue;
        size_t count = old_keys_of[m->column[c]];
        memcpy(key, example_keys(old) + old_begin[m->column[c]], count * sizeof *key);
        example_keys_of(example)[c] = (uint8_t)count;
        key += count;
    }
    for (size_t i = 0; i < to->dense_count; i++)
        if (m->dense[i] != NEW) example_dense(example)[i] = example_dense(old)[m->dense[i]];
    memcpy(example_id(example), example_id(old), old->id_length);
    free(old_begin);
    free(old);
    return example;
}
