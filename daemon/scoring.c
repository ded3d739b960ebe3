/* Scoring with one checkpoint: the towers, the rows of a batch, and examples made from C structures. JSON:
 * scoring_json.c. */
#include "daemon/scoring.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "core/model.h"
#include "core/need.h"
#include "daemon/scoring_internal.h"
#include "storage/format.h"

/* What scorers over one checkpoint share. */
struct scored {
    _Atomic unsigned holders;
    struct checkpoint *checkpoint;
    struct cs_config *config;
    struct features *features;
    size_t dimension;
    int *handle;                    /* [features->table_count] the checkpoint's of each table */
    int *table;                     /* [features->categorical_count + 1] of each column, then of the behaviors */
    uint64_t layout;                /* hash of the configuration: where it is the same, so are the features */
};

struct scorer {
    struct scored *over;
    const struct features *features;
    struct model *model;
    struct overlay overlay;         /* rows that are newer than the checkpoint's */
    uint64_t version;
};

/* Where an example's part stands in a batch's arrays. */
struct part { size_t count, dense, key, behavior, behavior_count; };

/* Arrays grow to what the largest call needs, and stay. */
struct scoring {
    struct scorer *scorer;
    struct fields fields;           /* the example being read */
    size_t *guess;                  /* [GROUPS][VALUES_MAX] the feature that the value at this place named last */
    struct part *shared, *own;      /* [SCORING_BATCH] */
    size_t shared_count, own_count;
    uint8_t *count;                 /* values of each column */
    float *dense;
    uint64_t *key;
    int *table, *handle;            /* of each key: of the features, and the checkpoint's */
    const float **row;              /* of each key */
    size_t counts, counts_room, denses, denses_room, keys, keys_room;
    struct arena *scratch;
};

/* -- the scorer --------------------------------------------------------------------------------------------------- */

static bool find_tables(struct scored *over, struct cs_error *err)
{
    const struct features *features = over->features;
    over->handle = need(calloc(features->table_count, sizeof *over->handle));
    over->table = need(calloc(features->categorical_count + 1, sizeof *over->table));
    for (size_t i = 0; i < features->table_count; i++) {
        int handle = checkpoint_table(over->checkpoint, features->table[i]);   /* none: no row was ever made */
        size_t dimension = checkpoint_dimension(over->checkpoint, handle);
        if (dimension && dimension != over->dimension)
            return cs_fail(err, CS_REFUSED, "table %s has rows of %zu numbers, the model reads %zu", features->table[i],
                           dimension, over->dimension);
        over->handle[i] = handle;
    }
    for (size_t f = 0; f < features->count; f++)
        if (features->feature[f].kind == FEATURE_CATEGORICAL)
            over->table[features->feature[f].column] = (int)features->feature[f].table;
    over->table[features->categorical_count] = (int)features->behavior_table;
    return true;
}

static void scored_drop(struct scored *over)
{
    if (!over || atomic_fetch_sub(&over->holders, 1) > 1) return;
    features_destroy(over->features);
    config_destroy(over->config);
    checkpoint_close(over->checkpoint);
    free(over->handle);
    free(over->table);
    free(over);
}

struct tensor_source { struct checkpoint *checkpoint; const struct delta *delta; };

static bool read_parameter(void *self, const struct tensor *tensor, struct cs_error *err)
{
    const struct tensor_source *source = self;
    if (tensor->role != TENSOR_SCORING) return true;
    if (!source->delta) return checkpoint_read_tensor(source->checkpoint, tensor, err);
    for (size_t i = 0; i < source->delta->tensors; i++)
        if (!strcmp(source->delta->tensor[i].name, tensor->name))
            return format_tensor_copy(tensor, &source->delta->tensor[i], err);
    return cs_fail(err, CS_REFUSED, "tensor %s is missing in delta %" PRIu64, tensor->name,
                   source->delta->place.sequence);
}

static bool make_model(struct scorer *scorer, const struct delta *delta, struct cs_error *err)
{
    const struct scored *over = scorer->over;
    struct tensor_source source = { over->checkpoint, delta };
    scorer->features = over->features;
    scorer->model = model_create(over->features, over->dimension, &over->config->model, &parallel_serial, err);
    if (!scorer->model || !model_tensors(scorer->model, read_parameter, &source, err)) return false;
    model_changed(scorer->model);
    return model_fix(scorer->model, err);
}

struct scorer *scorer_create(struct checkpoint *checkpoint, struct cs_error *err)
{
    struct scorer *scorer = need(calloc(1, sizeof *scorer));
    struct scored *over = need(calloc(1, sizeof *over));
    atomic_init(&over->holders, 1);
    scorer->over = over;
    scorer->version = checkpoint_version(checkpoint);
    over->checkpoint = checkpoint;
    const char *text = checkpoint_meta_text(checkpoint, "config");
    if (!(over->config = config_kept(text, err))) goto fail;
    over->layout = key_of_text(text, strlen(text));
    over->dimension = over->config->embedding.dimension;
    if (!(over->features = features_create(&over->config->features, err)) || !find_tables(over, err)) goto fail;
    if (make_model(scorer, NULL, err)) return scorer;
fail:
    over->checkpoint = NULL;        /* stays the caller's */
    scorer_destroy(scorer);
    return NULL;
}

struct scorer *scorer_create_over(const struct scorer *scorer, const struct overlay *overlay,
                                  const struct delta *delta, struct cs_error *err)
{
    struct scorer *newer = need(calloc(1, sizeof *newer));
    newer->over = scorer->over;
    atomic_fetch_add(&newer->over->holders, 1);
    newer->version = delta->place.version;
    overlay_copy(&newer->overlay, overlay);
    if (make_model(newer, delta, err)) return newer;
    scorer_destroy(newer);
    return NULL;
}

static size_t table_named(const struct features *features, const char *name)
{
    size_t i = 0;
    while (i < features->table_count && strcmp(features->table[i], name)) i++;
    return i;
}

struct overlay_level *scorer_level(const struct scorer *scorer, const struct delta *delta, struct cs_error *err)
{
    const struct features *features = scorer->features;
    size_t dimension = scorer->over->dimension, keys = 0;
    struct overlay_room *room = need(calloc(features->table_count, sizeof *room));
    struct overlay_level *level = NULL;
    for (size_t i = 0; i < delta->parts; i++) {
        const struct delta_part *part = &delta->part[i];
        size_t table = table_named(features, part->table);
        if (table == features->table_count) {
            cs_fail(err, CS_REFUSED, "delta %" PRIu64 " has rows of table %s, which the model does not read",
                    delta->place.sequence, part->table);
            goto out;
        }
        if (part->row && part->dimension != dimension) {
            cs_fail(err, CS_REFUSED, "delta %" PRIu64 ": table %s has rows of %zu numbers, the model reads %zu",
                    delta->place.sequence, part->table, part->dimension, dimension);
            goto out;
        }
        room[table].keys += part->keys;
        if (part->row) room[table].rows += part->keys;
        keys += part->keys;
    }
    level = overlay_level_create(features->table_count, dimension, room, delta->place.sequence);
    for (size_t i = 0; i < delta->parts; i++) {
        const struct delta_part *part = &delta->part[i];
        size_t table = table_named(features, part->table);
        for (size_t k = 0; k < part->keys; k++)
            overlay_level_put(level, table, part->key[k], part->row ? part->row + k * dimension : NULL);
    }
    if (overlay_level_keys(level) != keys) {
        cs_fail(err, CS_REFUSED, "delta %" PRIu64 " has a key twice", delta->place.sequence);
        overlay_level_drop(level);
        level = NULL;
    }
out:
    free(room);
    return level;
}

void scorer_destroy(struct scorer *scorer)
{
    if (!scorer) return;
    model_destroy(scorer->model);           /* reads the features */
    overlay_release(&scorer->overlay);
    scored_drop(scorer->over);
    free(scorer);
}

struct checkpoint *scorer_checkpoint(const struct scorer *scorer)
{
    return scorer->over->checkpoint;
}

uint64_t scorer_version(const struct scorer *scorer)
{
    return scorer->version;
}

/* -- a thread's scratch ------------------------------------------------------------------------------------------- */

static bool make_fields(struct scoring *scoring, struct cs_error *err)
{
    struct decode_options options = { .format = DECODE_JSON };
    free(scoring->guess);
    scoring->guess = need(calloc(GROUPS * VALUES_MAX, sizeof *scoring->guess));
    return fields_create(&scoring->fields, scoring->scorer->features, &options, err);
}

struct scoring *scoring_create(struct scorer *scorer, struct cs_error *err)
{
    struct scoring *scoring = need(calloc(1, sizeof *scoring));
    scoring->scorer = scorer;
    scoring->scratch = need(arena_create(1 << 20));
    scoring->shared = need(calloc(SCORING_BATCH, sizeof *scoring->shared));
    scoring->own = need(calloc(SCORING_BATCH, sizeof *scoring->own));
    if (make_fields(scoring, err)) return scoring;
    scoring_destroy(scoring);
    return NULL;
}

bool scoring_move(struct scoring *scoring, uint64_t layout, struct scorer *scorer, struct cs_error *err)
{
    scoring->scorer = scorer;
    if (layout == scorer->over->layout) {
        scoring->fields.features = scorer->features;
        return true;
    }
    fields_release(&scoring->fields);
    return make_fields(scoring, err);
}

uint64_t scorer_layout(const struct scorer *scorer)
{
    return scorer->over->layout;
}

void scoring_destroy(struct scoring *scoring)
{
    if (!scoring) return;
    fields_release(&scoring->fields);
    arena_destroy(scoring->scratch);
    free(scoring->guess);
    free(scoring->shared);
    free(scoring->own);
    free(scoring->count);
    free(scoring->dense);
    free(scoring->key);
    free(scoring->table);
    free(scoring->handle);
    free(scoring->row);
    free(scoring);
}

/* -- a batch ------------------------------------------------------------------------------------------------------ */

static void reserve(struct scoring *scoring, size_t counts, size_t denses, size_t keys)
{
    if (scoring->counts + counts > scoring->counts_room) {
        scoring->counts_room = 2 * (scoring->counts + counts) + 1024;
        scoring->count = need(realloc(scoring->count, scoring->counts_room));
    }
    if (scoring->denses + denses > scoring->denses_room) {
        scoring->denses_room = 2 * (scoring->denses + denses) + 1024;
        scoring->dense = need(realloc(scoring->dense, scoring->denses_room * sizeof *scoring->dense));
    }
    if (scoring->keys + keys > scoring->keys_room) {
        scoring->keys_room = 2 * (scoring->keys + keys) + 1024;
        scoring->key = need(realloc(scoring->key, scoring->keys_room * sizeof *scoring->key));
        scoring->table = need(realloc(scoring->table, scoring->keys_room * sizeof *scoring->table));
        scoring->handle = need(realloc(scoring->handle, scoring->keys_room * sizeof *scoring->handle));
        scoring->row = need(realloc(scoring->row, scoring->keys_room * sizeof *scoring->row));
    }
}

static void take_keys(struct scoring *scoring, int table, const uint64_t *key, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        scoring->key[scoring->keys] = key[i];
        scoring->table[scoring->keys++] = table;
    }
}

/* The values of adjacent columns; dense ones likewise. */
static struct part take_columns(struct scoring *scoring, size_t column, size_t columns, size_t dense, size_t denses)
{
    const struct fields *fields = &scoring->fields;
    struct part part = { .count = scoring->counts, .dense = scoring->denses, .key = scoring->keys };
    size_t keys = 0;
    for (size_t c = column; c < column + columns; c++) keys += fields->key_count[c];
    reserve(scoring, columns, denses, keys);
    if (columns) memcpy(scoring->count + scoring->counts, fields->key_count + column, columns);
    if (denses) memcpy(scoring->dense + scoring->denses, fields->dense + dense, denses * sizeof *fields->dense);
    scoring->counts += columns;
    scoring->denses += denses;
    for (size_t c = column; c < column + columns; c++)
        take_keys(scoring, scoring->scorer->over->table[c], fields->key + c * VALUES_MAX, fields->key_count[c]);
    return part;
}

static bool check_fields(const struct fields *fields, bool item, struct cs_error *err)
{
    const struct problem *problem = fields->failed.result != DECODE_OK ? &fields->failed : &fields->shown;
    if (problem->result == DECODE_OK)
        return !item || fields->has_item || cs_fail(err, CS_USAGE, "item_id: missing or empty");
    if (err) *err = problem->err;
    if (err) err->code = CS_USAGE;
    return false;
}

bool scoring_take_shared(struct scoring *scoring, struct cs_error *err)
{
    const struct fields *fields = &scoring->fields;
    const struct features *features = scoring->scorer->features;
    size_t length = features->behavior_max_length;
    assert(scoring->shared_count < SCORING_BATCH);
    if (!check_fields(fields, false, err)) return false;
    struct part part = take_columns(scoring, 0, features->group_categorical_begin[GROUP_ITEM], 0,
                                    features->group_dense_begin[GROUP_ITEM]);
    part.behavior = scoring->keys;
    part.behavior_count = fields->behavior_count < length ? fields->behavior_count : length;
    reserve(scoring, 0, 0, part.behavior_count);
    size_t oldest = fields->behavior_count > length ? fields->behavior_count % length : 0;
    int table = scoring->scorer->over->table[features->categorical_count];
    take_keys(scoring, table, fields->behavior + oldest, part.behavior_count - oldest);
    take_keys(scoring, table, fields->behavior, oldest);
    scoring->shared[scoring->shared_count++] = part;
    return true;
}

bool scoring_take_item(struct scoring *scoring, struct cs_error *err)
{
    const struct features *features = scoring->scorer->features;
    assert(scoring->own_count < SCORING_BATCH);
    if (!check_fields(&scoring->fields, true, err)) return false;
    scoring->own[scoring->own_count++] = take_columns(
        scoring, features->group_categorical_begin[GROUP_ITEM], features->group_categorical[GROUP_ITEM],
        features->group_dense_begin[GROUP_ITEM], features->group_dense[GROUP_ITEM]);
    return true;
}

void scoring_drop(struct scoring *scoring)
{
    scoring->shared_count = scoring->own_count = scoring->counts = scoring->denses = scoring->keys = 0;
}

static void find_rows(struct scoring *scoring)
{
    const struct scorer *scorer = scoring->scorer;
    for (size_t i = 0; i < scoring->keys; i++) scoring->handle[i] = scorer->over->handle[scoring->table[i]];
    checkpoint_find_all(scorer->over->checkpoint, scoring->keys, scoring->handle, scoring->key, scoring->row);
    overlay_find_all(&scorer->overlay, scoring->keys, scoring->table, scoring->key, scoring->row);
}

void scoring_score(struct scoring *scoring, float *score)
{
    if (!scoring->own_count) {          /* a user without candidates: there may be no arrays yet to point into */
        scoring_drop(scoring);
        return;
    }
    arena_reset(scoring->scratch);
    struct model_shared *shared = arena_take(scoring->scratch, scoring->shared_count * sizeof *shared);
    struct model_own *own = arena_take(scoring->scratch, scoring->own_count * sizeof *own);
    find_rows(scoring);
    for (size_t i = 0; i < scoring->shared_count; i++) {
        const struct part *part = &scoring->shared[i];
        shared[i] = (struct model_shared){ .count = scoring->count + part->count,
                                           .row = scoring->row + part->key,
                                           .dense = scoring->dense + part->dense,
                                           .behavior = scoring->row + part->behavior,
                                           .behavior_count = part->behavior_count };
    }
    for (size_t i = 0; i < scoring->own_count; i++) {
        const struct part *part = &scoring->own[i];
        own[i] = (struct model_own){ .count = scoring->count + part->count,
                                     .row = scoring->row + part->key,
                                     .dense = scoring->dense + part->dense };
    }
    model_score_fixed(scoring->scorer->model, shared, scoring->shared_count, own, scoring->own_count, scoring->scratch,
                      score);
    scoring_drop(scoring);
}

const struct features *scoring_features(const struct scoring *scoring)
{
    return scoring->scorer->features;
}

uint64_t scoring_version(const struct scoring *scoring)
{
    return scoring->scorer->version;
}

struct fields *scoring_fields(struct scoring *scoring)
{
    return &scoring->fields;
}

void scoring_begin(struct scoring *scoring)
{
    fields_reset(&scoring->fields, EVENT_IMPRESSION);
}

void scoring_next_item(struct scoring *scoring)
{
    struct fields *fields = &scoring->fields;
    const struct features *features = scoring->scorer->features;
    fields->has_item = false;
    fields->item = 0;
    memset(fields->key_count + features->group_categorical_begin[GROUP_ITEM], 0,
           features->group_categorical[GROUP_ITEM]);
    for (size_t i = 0; i < features->group_dense[GROUP_ITEM]; i++)
        fields->dense[features->group_dense_begin[GROUP_ITEM] + i] = NAN;
}

/* -- examples ----------------------------------------------------------------------------------------------------- */

static void read_example(struct scoring *scoring, const struct example *example)
{
    struct fields *fields = &scoring->fields;
    const struct features *features = scoring->scorer->features;
    const uint64_t *key = example_keys(example), *behavior = example_behaviors(example);
    scoring_begin(scoring);
    memcpy(fields->key_count, example_keys_of(example), features->categorical_count);
    memcpy(fields->dense, example_dense(example), features->dense_count * sizeof *fields->dense);
    for (size_t c = 0; c < features->categorical_count; key += fields->key_count[c++])
        memcpy(fields->key + c * VALUES_MAX, key, fields->key_count[c] * sizeof *key);
    for (size_t i = 0; i < example->behavior_count && features->behavior_max_length; i++)
        fields->behavior[fields->behavior_count++ % features->behavior_max_length] = behavior[i];
    fields->has_item = true;
}

void scoring_examples(struct scoring *scoring, struct example *const *example, size_t count, float *score)
{
    scoring_drop(scoring);
    for (size_t i = 0; i < count; i++) {
        read_example(scoring, example[i]);
        if (!scoring_take_shared(scoring, NULL) || !scoring_take_item(scoring, NULL)) abort(); /* nothing can fail */
        if (scoring->own_count == SCORING_BATCH || i + 1 == count)
            scoring_score(scoring, score + i + 1 - scoring->own_count);
    }
}

/* -- C structures ------------------------------------------------------------------------------------------------- */

static bool is_named(const struct scoring *scoring, size_t i, enum feature_group group, const char *name)
{
    const struct feature *feature = &scoring->scorer->features->feature[i];
    return feature->group == group && i != scoring->fields.item_id_feature && !strcmp(feature->name, name);
}

/* The index of a feature, or the features' count. Callers name the same features in the same order again and again. */
static size_t feature_of(struct scoring *scoring, enum feature_group group, size_t place, const char *name)
{
    size_t *guess = place < VALUES_MAX ? &scoring->guess[group * VALUES_MAX + place] : NULL, i = 0,
           count = scoring->scorer->features->count;
    if (guess && *guess < count && is_named(scoring, *guess, group, name)) return *guess;
    while (i < count && !is_named(scoring, i, group, name)) i++;
    if (guess) *guess = i;
    return i;
}

static struct value text_value(const char *text)
{
    return (struct value){ .kind = VALUE_TEXT, .text = text, .length = strlen(text) };
}

static void read_values(struct scoring *scoring, enum feature_group group, const struct coldstream_value *values,
                        size_t count)
{
    for (size_t k = 0; k < count; k++) {
        if (!values[k].feature) continue;
        size_t feature = feature_of(scoring, group, k, values[k].feature);
        if (feature == scoring->scorer->features->count) continue;
        if (values[k].text) {
            struct value value = text_value(values[k].text);
            fields_feature(&scoring->fields, feature, &value);
        } else {
            fields_feature_number(&scoring->fields, feature, values[k].number);
        }
    }
}

static void read_behaviors(struct scoring *scoring, const char *const *behavior, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!behavior[i]) continue;
        struct value value = text_value(behavior[i]);
        fields_behavior(&scoring->fields, &value);
    }
}

static void read_item(struct scoring *scoring, const char *item_id, const struct coldstream_value *item, size_t count)
{
    scoring_next_item(scoring);
    read_values(scoring, GROUP_ITEM, item, count);
    if (!item_id) return;
    struct value value = text_value(item_id);
    fields_value(&scoring->fields, FIELD_ITEM_ID, &value);
}

bool scoring_request(struct scoring *scoring, const struct coldstream_request *request, float *score, int *is_new,
                     struct cs_error *err)
{
    if (request->size < sizeof *request)
        return cs_fail(err, CS_USAGE, "size: %u is not this structure's", request->size);
    scoring_drop(scoring);
    scoring_begin(scoring);
    read_values(scoring, GROUP_USER, request->user, request->user_count);
    read_values(scoring, GROUP_CONTEXT, request->context, request->context_count);
    read_behaviors(scoring, request->behavior, request->behavior_count);
    if (is_new) *is_new = scoring->fields.behavior_count == 0;
    if (!check_fields(&scoring->fields, false, err)) return false;
    for (size_t i = 0; i < request->candidate_count; i++) {
        const struct coldstream_candidate *candidate = &request->candidate[i];
        if (scoring->own_count == 0 && !scoring_take_shared(scoring, err)) return false;
        read_item(scoring, candidate->item_id, candidate->item, candidate->item_count);
        if (!scoring_take_item(scoring, err)) return cs_error_prefix(err, "candidate[%zu]", i);
        if (scoring->own_count == SCORING_BATCH || i + 1 == request->candidate_count)
            scoring_score(scoring, score + i + 1 - scoring->own_count);
    }
    return true;
}

bool scoring_impressions(struct scoring *scoring, const struct coldstream_impression *impression, size_t count,
                         float *score, unsigned char *is_new, struct cs_error *err)
{
    scoring_drop(scoring);
    for (size_t i = 0; i < count; i++) {
        const struct coldstream_impression *one = &impression[i];
        scoring_begin(scoring);
        read_values(scoring, GROUP_USER, one->user, one->user_count);
        read_values(scoring, GROUP_CONTEXT, one->context, one->context_count);
        read_behaviors(scoring, one->behavior, one->behavior_count);
        if (is_new) is_new[i] = scoring->fields.behavior_count == 0;
        read_item(scoring, one->item_id, one->item, one->item_count);
        if (!scoring_take_shared(scoring, err) || !scoring_take_item(scoring, err))
            return cs_error_prefix(err, "impression[%zu]", i);
        if (scoring->own_count == SCORING_BATCH || i + 1 == count)
            scoring_score(scoring, score + i + 1 - scoring->own_count);
    }
    return true;
}
