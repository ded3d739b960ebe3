/* State carried over to another list of features: what both have stays bit for bit, nothing jumps, learning goes on.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/metrics.h"
#include "core/migrate.h"
#include "daemon/assemble.h"
#include "tests/unit/memory_state.h"

enum { EVENTS = 600, WAITING = 40 };

static const char *const models[] = {
    ("model: {ranking: {tower: base_dnn, hidden: [12, 6]}, zero_shot: {kind: mail, attention: 6, encoder: [8, 8, 4], "
     "decoder: [4, 8]}}\n"),
    "model: {ranking: {tower: emb_lr}, zero_shot: {kind: linear}}\noptimizer: {ranking: {kind: adagrad}}\n",
    "model: {ranking: {tower: base_dnn, hidden: [8]}, zero_shot: {kind: none}}\n",
};
static const char same[] =
    "features:\n  user: [{name: age, bucketize: [25, 45]}, {name: city}, {name: income, kind: dense}]\n"
    "  context: [{name: hour}, {name: depth, kind: dense}]\n"
    "  item: [{name: item_id, table: item}, {name: price, kind: dense}]\n  behavior: {table: item, max_length: 5}\n";
/* In every group, before and behind what was there; what was there in another order; new tables and old ones. */
static const char more[] =
    "features:\n  user: [{name: score, kind: dense}, {name: city}, {name: plan}, {name: income, kind: dense}, "
    "{name: age, bucketize: [25, 45]}]\n"
    "  context: [{name: delay, kind: dense}, {name: depth, kind: dense}, {name: page, table: item}, {name: hour}]\n"
    "  item: [{name: brand}, {name: price, kind: dense}, {name: item_id, table: item}, {name: weight, kind: dense}]\n"
    "  behavior: {table: item, max_length: 3}\n";
static const char fewer[] =
    "features:\n  user: [{name: age, bucketize: [25, 45]}]\n  context: [{name: hour}]\n"
    "  item: [{name: item_id, table: item}]\n  behavior: {table: item, max_length: 5}\n";

struct side {
    struct cs_config *config;
    struct features *features;
    struct decoder *decoder;
    struct learner *learner;
    struct ingest *ingest;
    struct arena *arena;
};

static void side_open(struct side *side, const char *features, const char *model)
{
    char text[2048];
    struct cs_error err = { 0 };
    struct config_problems problems = { 0 };
    snprintf(text, sizeof text, "%sembedding: {dimension: 4, init_std: 0.3}\nbatch: {size: 16}\njoin: {window: 1m}\n%s",
             features, model);
    side->config = config_parse("test", text, strlen(text), CONFIG_FOR_TRAIN, &problems);
    if (!side->config) fail_msg("%s", problems.problem[0].text);
    config_problems_release(&problems);
    side->features = features_create(&side->config->features, &err);
    side->decoder = assemble_decoder(side->config, side->features, &err);
    side->learner = assemble_learner(side->config, side->features, &parallel_serial, &err);
    side->ingest = assemble_ingest(side->config, side->features, 0, &err);
    side->arena = arena_create(1 << 16);
    assert_non_null(side->ingest);
}

static void side_close(struct side *side)
{
    ingest_destroy(side->ingest);
    learner_destroy(side->learner);
    decoder_destroy(side->decoder);
    features_destroy(side->features);
    arena_destroy(side->arena);
    config_destroy(side->config);
}

/* all: also features that only the newer configuration knows. none: of those that may be dropped, nothing. */
struct event_kind_of { bool all, none, waits; };

static void push(struct side *side, int i, struct event_kind_of kind)
{
    char text[1024], user[160] = "", context[80] = "", item[80] = "";
    unsigned dice = (unsigned)i * 2654435761u >> 8;
    if (!kind.none) {
        snprintf(user, sizeof user, ",\"city\":\"c%u\",\"income\":%u", dice % 5, dice % 100);
        snprintf(context, sizeof context, ",\"depth\":%u", dice / 7 % 9);
        snprintf(item, sizeof item, "\"price\":%u", dice / 11 % 50);
    }
    if (kind.all) {
        snprintf(user + strlen(user), sizeof user - strlen(user), ",\"plan\":\"p%u\",\"score\":%u", dice % 3,
                 dice % 7);
        snprintf(context + strlen(context), sizeof context - strlen(context), ",\"page\":\"g%u\",\"delay\":3",
                 dice % 4);
        snprintf(item + strlen(item), sizeof item - strlen(item), ",\"brand\":\"b%u\",\"weight\":%u", dice % 6,
                 dice % 8);
    }
    int length = snprintf(
        text, sizeof text,
        "{\"event\":\"%s\",\"impression_id\":\"r%d\",\"ts\":%d,\"user_id\":\"u%u\",\"user\":{\"age\":%u%s},"
        "\"behaviors\":[%s],\"context\":{\"hour\":%d%s},\"item_id\":\"i%u\",\"item\":{%s}%s}",
        kind.waits ? "impression" : "example", i, 1000 + i, dice % 37, 18 + dice % 50, user,
        !(dice % 3) ? "" : kind.waits ? "\"i1\",\"i2\",\"i3\",\"i4\",\"i5\"" : "\"i1\",\"i2\",\"i3\"",
        i % 24, context, dice / 97 % 20, item,
        kind.waits ? "" : dice % 4 ? ",\"clicked\":false" : ",\"clicked\":true");
    struct event event;
    struct cs_error err;
    if (decode(side->decoder, text, (size_t)length, DECODE_KIND_UNSAID, &event, &err) != DECODE_OK)
        fail_msg("%s: %s", text, err.message);
    ingest_push(side->ingest, &event);
}

/* Scores and learns what is closed; the scores of the last batch are in score. Returns how many it has. */
static size_t learn(struct side *side, float score[16])
{
    struct batch *batch;
    size_t size = 0;
    while ((batch = ingest_pop(side->ingest, side->arena))) {
        const float *probability = learner_score(side->learner, batch);
        if (batch->shown_only) continue;
        size = batch->size;
        if (score) memcpy(score, probability, size * sizeof *score);
        struct learner_losses losses = learner_learn(side->learner, batch);
        assert_true(isfinite(losses.ranking) && !losses.skipped);
        arena_reset(side->arena);
    }
    return size;
}

static void learn_stream(struct side *side, int begin, int end, struct event_kind_of kind)
{
    for (int i = begin; i < end; i++) {
        push(side, i, kind);
        learn(side, NULL);
    }
}

static struct example *replace(void *self, struct example *example) { return migration_example(self, example); }

static void save(struct side *side, struct memory_state *state)
{
    struct cs_error err = { 0 };
    state->writer.full = true;
    assert_true(learner_save(side->learner, &state->writer, &err) && ingest_save(side->ingest, &state->writer, &err));
}

/* As coldstreamctl migrate does it. */
static void migrate(const struct side *old, struct memory_state *state, struct side *to)
{
    struct cs_error err = { 0 };
    struct migration *migration =
        migration_create(old->features, to->features, 4, &to->config->model, &err);
    struct state_reader *reader = migration_reader(migration, &state->reader, to->learner, &err);
    if (!reader || !learner_load(to->learner, reader, &err)) fail_msg("%s", err.message);
    struct ingest *between = assemble_ingest(old->config, old->features, 0, &err);
    if (!ingest_load(between, &state->reader, &err)) fail_msg("%s", err.message);
    ingest_replace_examples(between, replace, migration);
    struct memory_state carried;
    memory_state_init(&carried);
    carried.writer.full = true;
    assert_true(ingest_save(between, &carried.writer, &err));
    if (!ingest_load(to->ingest, &carried.reader, &err)) fail_msg("%s", err.message);
    memory_state_release(&carried);
    ingest_destroy(between);
    migration_destroy(migration);
}

struct collected { size_t count; struct tensor tensor[256]; };

static bool collect(void *self, const struct tensor *tensor, struct cs_error *err)
{
    struct collected *collected = self;
    (void)err;
    assert_true(collected->count < 256);
    collected->tensor[collected->count++] = *tensor;
    return true;
}

static bool compare_row(void *self, const struct embedding_row *row, struct cs_error *err)
{
    (void)err;
    struct { const struct embedding_row *row; size_t count; } *rows = self;
    const struct embedding_row *other = &rows->row[rows->count++];
    assert_true(row->key == other->key && row->step == other->step && row->seen == other->seen);
    assert_memory_equal(row->row, other->row, 4 * sizeof(float));
    assert_memory_equal(row->m, other->m, 4 * sizeof(float));
    return true;
}

static bool keep_row(void *self, const struct embedding_row *row, struct cs_error *err)
{
    (void)err;
    struct { struct embedding_row row[1024]; size_t count; } *rows = self;
    assert_true(rows->count < 1024);
    rows->row[rows->count++] = *row;
    return true;
}

static void compare_tables(const struct side *a, const struct side *b)
{
    struct cs_error err;
    for (size_t t = 0; t < a->features->table_count; t++) {
        static struct { struct embedding_row row[1024]; size_t count; } kept;
        kept.count = 0;
        assert_true(embedding_each(learner_table(a->learner, t), keep_row, &kept, &err));
        struct { const struct embedding_row *row; size_t count; } rows = { kept.row, 0 };
        assert_int_equal(embedding_rows(learner_table(b->learner, t)), kept.count);
        assert_true(embedding_each(learner_table(b->learner, t), compare_row, &rows, &err));
    }
}

static void compare_tensors(const struct side *a, const struct side *b)
{
    struct cs_error err;
    static struct collected first, second;
    first.count = second.count = 0;
    assert_true(learner_tensors(a->learner, collect, &first, &err));
    assert_true(learner_tensors(b->learner, collect, &second, &err));
    assert_int_equal(first.count, second.count);
    for (size_t i = 0; i < first.count; i++) {
        assert_string_equal(first.tensor[i].name, second.tensor[i].name);
        assert_int_equal(tensor_bytes(&first.tensor[i]), tensor_bytes(&second.tensor[i]));
        if (memcmp(first.tensor[i].data, second.tensor[i].data, tensor_bytes(&first.tensor[i])))
            fail_msg("%s differs", first.tensor[i].name);
    }
}

static void same_features_change_nothing(void **state)
{
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        struct side old, new;
        struct memory_state saved;
        memory_state_init(&saved);
        side_open(&old, same, models[m]);
        side_open(&new, same, models[m]);
        learn_stream(&old, 0, EVENTS, (struct event_kind_of){ 0 });
        learn_stream(&old, EVENTS, EVENTS + WAITING, (struct event_kind_of){ .waits = true });
        save(&old, &saved);
        migrate(&old, &saved, &new);
        compare_tensors(&old, &new);
        compare_tables(&old, &new);
        assert_int_equal(ingest_pending(new.ingest), WAITING);
        ingest_finish(old.ingest);
        ingest_finish(new.ingest);
        learn(&old, NULL);
        learn(&new, NULL);
        compare_tensors(&old, &new);
        compare_tables(&old, &new);
        side_close(&old);
        side_close(&new);
        memory_state_release(&saved);
    }
}

/* The old learner and the migrated one score the same events, before either has learned them. */
static void compare_scores(struct side *old, struct side *new, struct event_kind_of kind)
{
    float before[16], after[16];
    ingest_finish(old->ingest);
    ingest_finish(new->ingest);
    while (ingest_pop(old->ingest, old->arena)) {}      /* what waited: the next is a whole batch */
    while (ingest_pop(new->ingest, new->arena)) {}
    for (int i = 0; i < 16; i++) {
        push(old, 2 * EVENTS + i, kind);
        push(new, 2 * EVENTS + i, kind);
    }
    assert_int_equal(learn(old, before), 16);
    assert_int_equal(learn(new, after), 16);
    for (int i = 0; i < 16; i++)
        if (!(fabsf(before[i] - after[i]) <= 1e-6f)) fail_msg("score %d: %.9g and %.9g", i, (double)before[i],
                                                              (double)after[i]);
    for (int i = 1; i < 16; i++)
        if (fabsf(before[i] - before[0]) > 1e-4f) return;
    fail_msg("all scores are alike: nothing was compared");
}

static void scores_stay(const char *features, struct event_kind_of kind)
{
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        struct side old, new;
        struct memory_state saved;
        memory_state_init(&saved);
        side_open(&old, same, models[m]);
        side_open(&new, features, models[m]);
        learn_stream(&old, 0, EVENTS, (struct event_kind_of){ 0 });
        save(&old, &saved);
        migrate(&old, &saved, &new);
        assert_int_equal(learner_steps(new.learner), learner_steps(old.learner));
        compare_scores(&old, &new, kind);
        side_close(&old);
        side_close(&new);
        memory_state_release(&saved);
    }
}

static void features_that_come_do_not_change_a_score(void **state)
{
    (void)state;
    scores_stay(more, (struct event_kind_of){ 0 });
    scores_stay(more, (struct event_kind_of){ .all = true });       /* their first values neither */
}

static void features_that_go_do_not_change_scores_without_them(void **state)
{
    (void)state;
    scores_stay(fewer, (struct event_kind_of){ .none = true });
}

static const float *values_of(struct side *side, const char *name)
{
    static struct collected all;
    struct cs_error err;
    all.count = 0;
    assert_true(learner_tensors(side->learner, collect, &all, &err));
    for (size_t i = 0; i < all.count; i++)
        if (strcmp(all.tensor[i].name, name) == 0) return all.tensor[i].data;
    return NULL;
}

/* What is reconstructed of a user: age and city before; city, plan, age now. */
static void outputs_follow_their_features(void **state)
{
    (void)state;
    static const char *const names[] = { "zero_shot.decoder_user.2.bias", "optimizer.zero_shot.decoder_user.2.bias.m",
                                         "optimizer.zero_shot.decoder_user.2.bias.v" };
    struct side old, new;
    struct memory_state saved;
    memory_state_init(&saved);
    side_open(&old, same, models[0]);
    side_open(&new, more, models[0]);
    learn_stream(&old, 0, EVENTS, (struct event_kind_of){ 0 });
    save(&old, &saved);
    migrate(&old, &saved, &new);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const float *before = values_of(&old, names[i]), *after = values_of(&new, names[i]);
        const float none[4] = { 0 };
        assert_memory_not_equal(before, none, sizeof none);
        assert_memory_equal(after, before + 4, sizeof none);
        assert_memory_equal(after + 4, none, sizeof none);
        assert_memory_equal(after + 8, before, sizeof none);
    }
    const float *before = values_of(&old, "zero_shot.decoder_user.2.weight"),
                *after = values_of(&new, "zero_shot.decoder_user.2.weight");
    size_t width = 8 + 4;       /* the layer before, and the code */
    assert_memory_equal(after, before + 4 * width, 4 * width * sizeof *after);
    assert_memory_equal(after + 8 * width, before, 4 * width * sizeof *after);
    side_close(&old);
    side_close(&new);
    memory_state_release(&saved);
}

static double sum_of(struct side *side, const char *name)
{
    static struct collected all;
    struct cs_error err;
    double sum = 0;
    all.count = 0;
    assert_true(learner_tensors(side->learner, collect, &all, &err));
    for (size_t i = 0; i < all.count; i++) {
        if (strcmp(all.tensor[i].name, name)) continue;
        for (size_t j = 0; j < tensor_elements(&all.tensor[i]); j++)
            sum += all.tensor[i].type == TENSOR_F64 ? ((double *)all.tensor[i].data)[j]
                                                    : fabs((double)((float *)all.tensor[i].data)[j]);
        return sum;
    }
    fail_msg("no tensor %s", name);
    return 0;
}

/* Also what waited for its click when the features came: it is learned without them. */
static void learning_goes_on_with_what_came(void **state)
{
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        struct side old, new;
        struct memory_state saved;
        memory_state_init(&saved);
        side_open(&old, same, models[m]);
        side_open(&new, more, models[m]);
        learn_stream(&old, 0, EVENTS, (struct event_kind_of){ 0 });
        learn_stream(&old, EVENTS, EVENTS + WAITING, (struct event_kind_of){ .waits = true });
        save(&old, &saved);
        migrate(&old, &saved, &new);
        size_t waiting = ingest_pending(new.ingest) + ingest_open(new.ingest), learned = 0, keys = 0;
        assert_int_equal(waiting, WAITING + ingest_open(old.ingest));
        ingest_finish(new.ingest);
        for (struct batch *batch; (batch = ingest_pop(new.ingest, new.arena)); arena_reset(new.arena)) {
            learned += batch->shown_only ? 0 : batch->size;
            for (size_t i = 0; i < batch->size; i++)
                assert_true(batch->behavior.offset[i + 1] - batch->behavior.offset[i] <= 3);
            for (size_t f = 0; f < new.features->count; f++) {
                const struct feature *feature = &new.features->feature[f];
                bool was = strstr(" city age hour item_id ", feature->name) != NULL;
                if (feature->kind == FEATURE_DENSE) continue;
                keys = batch->column[feature->column].offset[batch->size];
                assert_int_equal(keys, was ? batch->size : 0);
            }
            learner_score(new.learner, batch);
            if (batch->shown_only) continue;
            assert_false(learner_learn(new.learner, batch).skipped);
        }
        assert_int_equal(learned, waiting);
        assert_true(sum_of(&new, "features.user.score.count") == 0);
        double depth = sum_of(&new, "features.context.depth.count");
        assert_true(depth == EVENTS + WAITING);
        learn_stream(&new, 2 * EVENTS, 3 * EVENTS, (struct event_kind_of){ .all = true });
        assert_true(sum_of(&new, "features.user.score.count") > EVENTS / 2.0);
        for (size_t t = 0; t < new.features->table_count; t++) {
            size_t rows = embedding_rows(learner_table(new.learner, t));
            if (strcmp(new.features->table[t], "brand") == 0) assert_int_equal(rows, 6);
            if (strcmp(new.features->table[t], "plan") == 0) assert_int_equal(rows, 3);
            if (strcmp(new.features->table[t], "item") == 0) assert_int_equal(rows, 20 + 4);
        }
        side_close(&old);
        side_close(&new);
        memory_state_release(&saved);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_features_change_nothing),
        cmocka_unit_test(features_that_come_do_not_change_a_score),
        cmocka_unit_test(features_that_go_do_not_change_scores_without_them),
        cmocka_unit_test(outputs_follow_their_features),
        cmocka_unit_test(learning_goes_on_with_what_came),
    };
    return cmocka_run_group_tests_name("migrate", tests, NULL, NULL);
}
