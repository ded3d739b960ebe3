/* Scoring with one checkpoint: the towers, the rows of a batch, and examples made from C structures. JSON:
 * scoring_json.c. */
#include "daemon/scoring.h"

#include <cblas.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "core/model.h"
#include "daemon/scoring_internal.h"

struct scorer {
    struct checkpoint *checkpoint;
    struct cs_config *config;
    struct features *features;
    struct model *model;
    size_t dimension;
    int *table;                     /* [features->table_count] the checkpoint's handle */
};

/* -- the scorer --------------------------------------------------------------------------------------------------- */

static bool parse_model_text(struct scorer *scorer, const char *text, struct cs_error *err)
{
    struct config_problems problems = { 0 };
    if (!text) return cs_fail(err, CS_REFUSED, "the checkpoint does not say its configuration");
    scorer->config = config_parse("checkpoint", text, strlen(text), CONFIG_FOR_TRAIN, &problems);
    if (!scorer->config) {
        char *said = config_problems_text(&problems);
        cs_fail(err, CS_REFUSED, "the checkpoint's configuration can't be read: %.*s",
                said ? (int)strcspn(said, "\n") : 0, said ? said : "");
        free(said);
    }
    config_problems_release(&problems);
    return scorer->config != NULL;
}

static bool read_parameter(void *self, const struct tensor *tensor, struct cs_error *err)
{
    const struct scorer *scorer = self;
    return tensor->role != TENSOR_SCORING || checkpoint_read_tensor(scorer->checkpoint, tensor, err);
}

static bool find_tables(struct scorer *scorer, struct cs_error *err)
{
    const struct features *features = scorer->features;
    if (!(scorer->table = calloc(features->table_count + 1, sizeof *scorer->table))) abort();
    for (size_t i = 0; i < features->table_count; i++) {
        scorer->table[i] = checkpoint_table(scorer->checkpoint, features->table[i]); /* none: no row was ever made */
        size_t dimension = checkpoint_dimension(scorer->checkpoint, scorer->table[i]);
        if (dimension && dimension != scorer->dimension)
            return cs_fail(err, CS_REFUSED, "table %s has rows of %zu numbers, the model reads %zu", features->table[i],
                           dimension, scorer->dimension);
    }
    return true;
}

struct scorer *scorer_create(struct checkpoint *checkpoint, struct cs_error *err)
{
    struct scorer *scorer = calloc(1, sizeof *scorer);
    if (!scorer) abort();
    scorer->checkpoint = checkpoint;
    /* Each scoring thread multiplies its own small matrices; OpenBLAS's second pool would only get in their way. */
    openblas_set_num_threads(1);
    if (!parse_model_text(scorer, checkpoint_meta_text(checkpoint, "config"), err)) goto fail;
    scorer->dimension = scorer->config->embedding.dimension;
    if (!(scorer->features = features_create(&scorer->config->features, err)) || !find_tables(scorer, err)) goto fail;
    scorer->model = model_create(scorer->features, scorer->dimension, &scorer->config->model, 0, &parallel_serial, err);
    if (!scorer->model || !model_tensors(scorer->model, read_parameter, scorer, err)) goto fail;
    model_changed(scorer->model);
    return scorer;
fail:
    scorer->checkpoint = NULL;      /* stays the caller's */
    scorer_destroy(scorer);
    return NULL;
}

void scorer_destroy(struct scorer *scorer)
{
    if (!scorer) return;
    model_destroy(scorer->model);
    features_destroy(scorer->features);
    config_destroy(scorer->config);
    checkpoint_close(scorer->checkpoint);
    free(scorer->table);
    free(scorer);
}

const struct features *scorer_features(const struct scorer *scorer)
{
    return scorer->features;
}

struct checkpoint *scorer_checkpoint(const struct scorer *scorer)
{
    return scorer->checkpoint;
}

/* -- a thread's scratch ------------------------------------------------------------------------------------------- */

struct scoring *scoring_create(struct scorer *scorer, struct cs_error *err)
{
    struct scoring *scoring = calloc(1, sizeof *scoring);
    struct decode_options options = { .format = DECODE_JSON };
    if (!scoring) abort();
    scoring->scorer = scorer;
    scoring->features = scorer->features;
    scoring->batch = arena_create(1 << 18);
    scoring->scratch = arena_create(1 << 20);
    if (!scoring->batch || !scoring->scratch) abort();
    if (fields_create(&scoring->fields, scorer->features, &options, err)) return scoring;
    scoring_destroy(scoring);
    return NULL;
}

void scoring_destroy(struct scoring *scoring)
{
    if (!scoring) return;
    fields_release(&scoring->fields);
    arena_destroy(scoring->batch);
    arena_destroy(scoring->scratch);
    free(scoring);
}

/* -- scores ------------------------------------------------------------------------------------------------------- */

/* Missing rows are zeros, and not present. */
static struct model_rows *gather(const struct scoring *scoring, const struct batch *batch)
{
    const struct scorer *scorer = scoring->scorer;
    size_t tables = scorer->features->table_count, d = scorer->dimension;
    struct model_rows *rows = arena_take(scoring->scratch, tables * sizeof *rows);

    for (size_t t = 0; t < tables; t++) {
        const struct batch_table *table = &batch->table[t];
        float *row = arena_take(scoring->scratch, table->count * d * sizeof *row);
        uint8_t *present = arena_take(scoring->scratch, table->count);
        for (size_t i = 0; i < table->count; i++) {
            const float *found = checkpoint_find(scorer->checkpoint, scorer->table[t], table->key[i]);
            present[i] = found != NULL;
            if (found) memcpy(row + i * d, found, d * sizeof *row);
            else memset(row + i * d, 0, d * sizeof *row);
        }
        rows[t] = (struct model_rows){ .row = row, .present = present };
    }
    return rows;
}

static void score_batch(struct scoring *scoring, const struct batch *batch, float *score)
{
    arena_reset(scoring->scratch);
    model_score(scoring->scorer->model, batch, gather(scoring, batch), scoring->scratch, score);
}

void scoring_examples(struct scoring *scoring, struct example *const *example, size_t count, float *score)
{
    for (size_t begin = 0; begin < count; begin += SCORING_BATCH) {
        size_t share = count - begin < SCORING_BATCH ? count - begin : SCORING_BATCH;
        score_batch(scoring, batch_build(scoring->features, example + begin, share, scoring->batch), score + begin);
    }
}

void scoring_candidates(struct scoring *scoring, struct example *const *example, size_t count, float *score)
{
    score_batch(scoring, batch_build_candidates(scoring->features, example, count, scoring->batch), score);
}

/* -- examples ----------------------------------------------------------------------------------------------------- */

void scoring_begin(struct scoring *scoring)
{
    struct fields *fields = &scoring->fields;
    fields_reset(fields, EVENT_IMPRESSION);
    fields->has_time = true;        /* a request is about now: no time, no id */
    fields->time = 0;
    fields->id[0] = '-';
    fields->id_length = 1;
}

void scoring_next_candidate(struct scoring *scoring, bool leads)
{
    struct fields *fields = &scoring->fields;
    const struct features *features = scoring->features;
    fields->has_item = false;
    fields->item = 0;
    memset(fields->key_count + features->group_categorical_begin[GROUP_ITEM], 0,
           features->group_categorical[GROUP_ITEM]);
    for (size_t i = 0; i < features->group_dense[GROUP_ITEM]; i++)
        fields->dense[features->group_dense_begin[GROUP_ITEM] + i] = NAN;
    if (leads) return;
    /* batch_build_candidates reads the first one's user part: the others need not carry it. */
    fields->behavior_count = 0;
    memset(fields->key_count + features->group_categorical_begin[GROUP_USER], 0,
           features->group_categorical[GROUP_USER]);
}

struct example *scoring_finish(struct scoring *scoring, struct cs_error *err)
{
    struct event event = { 0 };
    scoring->fields.has_user = true;        /* no tower reads the user's id: a request may do without */
    if (!scoring->fields.has_item && scoring->fields.failed.result == DECODE_OK &&
        scoring->fields.shown.result == DECODE_OK) {
        cs_fail(err, CS_USAGE, "item_id: missing or empty");
        return NULL;
    }
    if (fields_finish(&scoring->fields, &event, err) == DECODE_OK) return event.example;
    if (err) err->code = CS_USAGE;
    return NULL;
}

/* -- C structures ------------------------------------------------------------------------------------------------- */

static void read_values(struct scoring *scoring, enum feature_group group, const struct coldstream_value *values,
                        size_t count)
{
    for (size_t k = 0; k < count; k++) {
        if (!values[k].feature || !values[k].text) continue;
        struct value value = { .kind = VALUE_TEXT, .text = values[k].text, .length = strlen(values[k].text) };
        for (size_t i = 0; i < scoring->features->count; i++) {
            const struct feature *feature = &scoring->features->feature[i];
            if (feature->group == group && i != scoring->fields.item_id_feature &&
                !strcmp(feature->name, values[k].feature))
                fields_feature(&scoring->fields, i, &value);
        }
    }
}

static void read_user(struct scoring *scoring, const struct coldstream_request *request)
{
    scoring_begin(scoring);
    read_values(scoring, GROUP_USER, request->user, request->user_count);
    read_values(scoring, GROUP_CONTEXT, request->context, request->context_count);
    for (size_t i = 0; i < request->behavior_count; i++) {
        if (!request->behavior[i]) continue;
        fields_behavior(&scoring->fields, &(struct value){ .kind = VALUE_TEXT,
                                                           .text = request->behavior[i],
                                                           .length = strlen(request->behavior[i]) });
    }
    scoring->fields.has_behaviors = true;
}

static void read_candidate(struct scoring *scoring, const struct coldstream_candidate *candidate, bool leads)
{
    scoring_next_candidate(scoring, leads);
    read_values(scoring, GROUP_ITEM, candidate->item, candidate->item_count);
    if (candidate->item_id)
        fields_value(
            &scoring->fields, FIELD_ITEM_ID,
            &(struct value){ .kind = VALUE_TEXT, .text = candidate->item_id, .length = strlen(candidate->item_id) });
}

bool scoring_request(struct scoring *scoring, const struct coldstream_request *request, float *score, int *is_new,
                     struct cs_error *err)
{
    struct example *example[SCORING_BATCH];
    size_t made = 0;
    bool ok = true;

    if (request->size < sizeof *request)
        return cs_fail(err, CS_USAGE, "size: %u is not this structure's", request->size);
    for (size_t begin = 0; ok && begin < request->candidate_count; begin += made) {
        read_user(scoring, request);
        if (is_new) *is_new = scoring->fields.behavior_count == 0;
        size_t share =
            request->candidate_count - begin < SCORING_BATCH ? request->candidate_count - begin : SCORING_BATCH;
        for (made = 0; ok && made < share; made += ok) {
            read_candidate(scoring, &request->candidate[begin + made], made == 0);
            ok = (example[made] = scoring_finish(scoring, err)) != NULL ||
                 cs_error_prefix(err, "candidate[%zu]", begin + made);
        }
        if (ok) scoring_candidates(scoring, example, made, score + begin);
        for (size_t i = 0; i < made; i++) free(example[i]);
    }
    if (!request->candidate_count && is_new) *is_new = request->behavior_count == 0;
    return ok;
}
