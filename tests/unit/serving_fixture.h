/* A small model published as versions that differ by their seed: shared by test_coldstream and test_serve. */
#ifndef TESTS_UNIT_SERVING_FIXTURE_H
#define TESTS_UNIT_SERVING_FIXTURE_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "core/features.h"
#include "core/model.h"
#include "core/random.h"
#include "storage/checkpoint.h"

enum { FIXTURE_KEYS = 60 };

#define FIXTURE_FEATURES \
    "features:\n" \
    "  user: [{name: age, bucketize: [18, 25, 35]}, {name: gender}, {name: income, kind: dense}]\n" \
    "  context: [{name: hour}]\n" \
    "  item: [{name: item_id, table: item}, {name: category}]\n" \
    "  behavior: {table: item, max_length: 6}\n" \
    "embedding: {dimension: 8}\n" \
    "model:\n"

static const char fixture_text[] =
    FIXTURE_FEATURES
    "  ranking: {tower: base_dnn, hidden: [14, 7]}\n"
    "  zero_shot: {kind: mail, target: pooled, attention: 5, encoder: [12, 10, 9], decoder: [11, 13]}\n";

/* One user with behaviors, one new, one with candidates, values of every kind. */
static const char fixture_request[] = "{\"requests\":[{\"user_id\":\"u1\",\"user\":{\"age\":30,\"gender\":\"F\","
                                      "\"income\":1.5},\"behaviors\":[\"i1\",\"i2\"],\"context\":{\"hour\":13},"
                                      "\"item_id\":\"i9\",\"item\":{\"category\":\"c4\"}},"
                                      "{\"user_id\":\"u2\",\"user\":{\"age\":\"30\",\"gender\":[\"F\",\"M\"]},"
                                      "\"behaviors\":[],\"item_id\":\"i9\",\"item\":{\"category\":\"c4\"}},"
                                      "{\"user\":{\"age\":17,\"gender\":\"M\"},\"behaviors\":[\"i3\"],\"context\":{"
                                      "\"hour\":2},\"candidates\":[{\"item_id\":\"i9\",\"item\":{\"category\":\"c4\"}},"
                                      "{\"item_id\":\"i1\"},{\"item_id\":\"never seen\"}]}]}";

struct fixture { struct cs_config *config; struct features *features; char directory[64]; };

static inline struct fixture fixture_create_of(const char *configuration)
{
    struct fixture fixture = { .directory = "/tmp/test_serving.XXXXXX" };
    struct config_problems problems = { 0 };
    struct cs_error err = { 0 };
    fixture.config = config_parse("test", configuration, strlen(configuration), CONFIG_FOR_TRAIN, &problems);
    if (!fixture.config) fail_msg("%s", config_problems_text(&problems));
    config_problems_release(&problems);
    fixture.features = features_create(&fixture.config->features, &err);
    if (!fixture.features) fail_msg("%s", err.message);
    assert_non_null(mkdtemp(fixture.directory));
    return fixture;
}

static inline struct fixture fixture_create(void)
{
    return fixture_create_of(fixture_text);
}

static inline void fixture_destroy(struct fixture *fixture)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", fixture->directory);
    if (system(command)) fail();
    features_destroy(fixture->features);
    config_destroy(fixture->config);
}

/* Texts whose keys have rows in every table: "0".."13" (buckets, hours), i0..i14, c0..c14, F, M. */
static inline uint64_t fixture_key(size_t i)
{
    char text[16];
    static const char *const gender[] = { "F", "M" };
    if (i < 2) snprintf(text, sizeof text, "%s", gender[i]);
    else if (i < 30) snprintf(text, sizeof text, "%zu", i - 2);
    else snprintf(text, sizeof text, "%c%zu", i % 2 ? 'i' : 'c', (i - 30) / 2);
    return key_of_text(text, strlen(text));
}

static inline void fixture_row(uint64_t seed, const char *table, uint64_t key, size_t dimension, float *row)
{
    uint64_t stream = random_stream(seed, table, key);
    for (size_t i = 0; i < dimension; i++) row[i] = random_normal(stream, i);
}

static inline bool fixture_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    return tensor->role != TENSOR_SCORING || checkpoint_tensor(self, tensor, err);
}

static inline int fixture_ascending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

/* As if it had been trained: normalisation that does something. */
static inline bool fixture_statistic(void *self, const struct tensor *tensor, struct cs_error *err)
{
    uint64_t stream = random_stream(*(const uint64_t *)self, tensor->name, 7);
    (void)err;
    if (!strstr(tensor->name, ".norm.") && !strstr(tensor->name, ".bias")) return true;
    bool positive = strstr(tensor->name, "variance") || strstr(tensor->name, "gamma");
    for (size_t i = 0; i < tensor_elements(tensor); i++)
        ((float *)tensor->data)[i] = positive ? 0.5f + random_uniform(stream, i) : random_normal(stream, i);
    return true;
}

static inline struct model *fixture_model(const struct fixture *fixture, uint64_t seed)
{
    struct cs_error err = { 0 };
    struct model *model = model_create(fixture->features, 8, &fixture->config->model, &parallel_serial, &err);
    if (model) model_start(model, seed);
    if (!model || !model_tensors(model, fixture_statistic, &seed, &err)) fail_msg("%s", err.message);
    return model;
}

static inline uint64_t fixture_publish(const struct fixture *fixture, uint64_t seed)
{
    struct cs_error err = { 0 };
    uint64_t key[FIXTURE_KEYS], version;
    float row[8];
    struct checkpoint_writer *writer = checkpoint_begin(fixture->directory, &err);
    struct model *model = fixture_model(fixture, seed);
    char *text = config_model_text(fixture->config);
    if (!writer || !checkpoint_meta(writer, "config", text, &err) ||
        !model_tensors(model, fixture_tensor, writer, &err))
        fail_msg("%s", err.message);
    for (size_t i = 0; i < FIXTURE_KEYS; i++) key[i] = fixture_key(i);
    qsort(key, FIXTURE_KEYS, sizeof *key, fixture_ascending);
    for (size_t t = 0; t < fixture->features->table_count; t++)
        for (size_t i = 0; i < FIXTURE_KEYS; i++) {
            fixture_row(seed, fixture->features->table[t], key[i], 8, row);
            if (!checkpoint_row(writer, fixture->features->table[t], key[i], row, 8, &err)) fail_msg("%s", err.message);
        }
    if (!checkpoint_finish(writer, "{}", 100, &version, &err)) fail_msg("%s", err.message);
    model_destroy(model);
    free(text);
    return version;
}

/* Lets a test wait for swaps without sleeping. */
struct swaps { pthread_mutex_t mutex; pthread_cond_t changed; unsigned swapped, refused; char error[256]; };

static inline void swaps_note(void *argument, uint64_t version, const char *error)
{
    struct swaps *swaps = argument;
    (void)version;
    pthread_mutex_lock(&swaps->mutex);
    if (error) snprintf(swaps->error, sizeof swaps->error, "%s", error);
    if (error) swaps->refused++;
    else swaps->swapped++;
    pthread_cond_broadcast(&swaps->changed);
    pthread_mutex_unlock(&swaps->mutex);
}

static inline void swaps_await(struct swaps *swaps, unsigned swapped, unsigned refused)
{
    pthread_mutex_lock(&swaps->mutex);
    while (swaps->swapped < swapped || swaps->refused < refused) pthread_cond_wait(&swaps->changed, &swaps->mutex);
    pthread_mutex_unlock(&swaps->mutex);
}

#endif
