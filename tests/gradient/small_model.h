/* A small model and batch for tests: attributes with absent and multiple values, dense features in every group, old and
 * new users, rows that are not there. After cmocka.h. */
#ifndef TESTS_GRADIENT_SMALL_MODEL_H
#define TESTS_GRADIENT_SMALL_MODEL_H

#include "core/features.h"
#include "core/learner.h"
#include "core/random.h"

enum { SMALL_D = 4, SMALL_SIZE = 12, SMALL_BEHAVIORS = 5 };

static const struct feature_options small_feature[] = {
    { .name = "age", .group = GROUP_USER, .kind = FEATURE_CATEGORICAL, .table = "age" },
    { .name = "tags", .group = GROUP_USER, .kind = FEATURE_CATEGORICAL, .table = "tags" },
    { .name = "income", .group = GROUP_USER, .kind = FEATURE_DENSE },
    { .name = "hour", .group = GROUP_CONTEXT, .kind = FEATURE_CATEGORICAL, .table = "hour" },
    { .name = "wind", .group = GROUP_CONTEXT, .kind = FEATURE_DENSE },
    { .name = "item_id", .group = GROUP_ITEM, .kind = FEATURE_CATEGORICAL, .table = "item" },
    { .name = "price", .group = GROUP_ITEM, .kind = FEATURE_DENSE },
};

static inline struct features *small_features(void)
{
    struct features_options options = { .feature = (struct feature_options *)small_feature,
                                        .feature_count = sizeof small_feature / sizeof *small_feature,
                                        .behavior_table = "item",
                                        .behavior_max_length = SMALL_BEHAVIORS };
    struct features *features = features_create(&options, NULL);
    assert_non_null(features);
    return features;
}

static inline struct model_options small_options(enum ranking_kind tower, enum zero_shot_kind kind)
{
    struct optimizer_options adam = {
        .kind = OPTIMIZER_ADAM, .learning_rate = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8
    };
    return (struct model_options){
        .ranking = { .tower = tower, .hidden = { 6, 5 }, .hidden_count = 2 },
        .zero_shot = { .kind = kind,
                       .losses = LOSSES_FULL,
                       .target = TARGET_POOLED,
                       .attention = 3,
                       .encoder = { 7, 6, 5 },
                       .encoder_count = 3,
                       .decoder = { 6, 7 },
                       .decoder_count = 2,
                       .bandwidth = 1.0,
                       .sample = 1.0 },
        .ranking_optimizer = adam,
        .zero_shot_optimizer = adam,
        .embedding_optimizer = adam,
    };
}

/* Users 0, 3, 6, 9 are new. Key k stands for value k. */
static inline struct batch *small_batch(const struct features *features, uint64_t seed, struct arena *arena)
{
    struct example *example[SMALL_SIZE];
    for (size_t i = 0; i < SMALL_SIZE; i++) {
        uint64_t stream = random_stream(seed, "example", i), bits = random_bits(stream, 0);
        size_t behaviors = i % 3 ? 1 + bits % SMALL_BEHAVIORS : 0, tags = bits / 64 % 3, age = i != 4;
        struct example *e = example[i] = example_create(features, 2, behaviors, age + tags + 2);
        memcpy(example_id(e), "id", 3);
        uint8_t *keys_of = example_keys_of(e);
        keys_of[0] = (uint8_t)age, keys_of[1] = (uint8_t)tags, keys_of[2] = 1, keys_of[3] = 1;
        uint64_t *key = example_keys(e);
        for (size_t j = 0; j < age + tags + 2; j++) key[j] = 1 + random_bits(stream, 10 + j) % 5;
        for (size_t j = 0; j < behaviors; j++) example_behaviors(e)[j] = 1 + random_bits(stream, 20 + j) % 5;
        for (size_t j = 0; j < 3; j++)
            example_dense(e)[j] = i == 5 ? NAN : 4.0f * random_uniform(stream, 30 + j) - 2.0f;
        e->clicked = random_bits(stream, 40) & 1;
        e->user = e->item = i;
        e->time = e->released = (int64_t)i;
    }
    example[7]->correction = example[7]->clicked = 1;
    struct batch *batch = batch_build(features, example, SMALL_SIZE, arena);
    for (size_t i = 0; i < SMALL_SIZE; i++) free(example[i]);
    assert_true(batch_check(features, batch));
    return batch;
}

#endif
