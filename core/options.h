/* Plain values that the core is created from. config.h embeds them and its table fills them, so that a setting has one
 * home. Strings are NUL-terminated names; arrays belong to whoever filled the options and outlive what is created. */
#ifndef CORE_OPTIONS_H
#define CORE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NAME_SIZE = 64, LAYERS_MAX = 8 };

enum feature_group { GROUP_USER, GROUP_CONTEXT, GROUP_ITEM, GROUPS };
enum feature_kind { FEATURE_CATEGORICAL, FEATURE_DENSE };

struct feature_options {
    char name[NAME_SIZE]; /* field of the event's object; "item_id" in GROUP_ITEM is the event's own item_id */
    enum feature_group group;
    enum feature_kind kind;
    char table[NAME_SIZE];          /* categorical: its own name unless configured */
    double *bucket;                 /* bucketize: ascending bounds; value x has index = count of bounds <= x */
    size_t bucket_count;            /* 0: not bucketized */
};

struct features_options {
    struct feature_options *feature;    /* user features, then context, then item, each in configured order */
    size_t feature_count;
    char behavior_table[NAME_SIZE];     /* "item" */
    size_t behavior_max_length;         /* n_v */
};

enum optimizer_kind { OPTIMIZER_ADAM, OPTIMIZER_ADAGRAD, OPTIMIZER_FTRL, OPTIMIZER_SGD };

struct optimizer_options {
    enum optimizer_kind kind;
    double learning_rate;
    double beta1, beta2, epsilon;       /* adam; epsilon also adagrad */
    double initial_accumulator;         /* adagrad, ftrl */
    double l1, l2, beta;                /* ftrl (McMahan et al. 2013) */
};

struct table_options {
    char name[NAME_SIZE];
    uint32_t admit_after;       /* a row is made at the n-th sighting of its key, >= 1 */
    int64_t expire_after;       /* milliseconds of event time without a sighting; 0: never */
    uint64_t max_rows;          /* least recently seen leave; 0: no limit */
};

struct embedding_options {
    size_t dimension;
    double init_std;
    struct table_options *table;    /* those that the configuration names; others get admit 1, no expiry, no limit */
    size_t table_count;
};

enum ranking_kind { RANKING_EMB_LR, RANKING_BASE_DNN, RANKING_WIDE_DEEP, RANKING_DEEP_FM, RANKING_DMR, RANKING_ESMM };

struct ranking_options {
    enum ranking_kind tower;
    size_t hidden[LAYERS_MAX], hidden_count;
    double dropout;
};

enum zero_shot_kind { ZERO_SHOT_MAIL, ZERO_SHOT_NONE, ZERO_SHOT_LINEAR, ZERO_SHOT_LLAE, ZERO_SHOT_META_EMB };
enum zero_shot_losses { LOSSES_FULL, LOSSES_DUAL, LOSSES_SINGLE };
enum zero_shot_target { TARGET_POOLED, TARGET_SEQUENCE };

struct zero_shot_options {
    enum zero_shot_kind kind;
    enum zero_shot_losses losses;
    enum zero_shot_target target;
    size_t attention;                   /* d_r */
    size_t encoder[3], encoder_count;   /* 1024, 512, 512 */
    size_t decoder[2], decoder_count;   /* 512, 1024; the third layer's width follows from the target */
    double dropout;
    double bandwidth;                   /* sigma of the MMD's kernel */
    double sample;                      /* share of a batch's old-user examples that train the tower, (0, 1] */
};

struct model_options {
    struct ranking_options ranking;
    struct zero_shot_options zero_shot;
    struct optimizer_options ranking_optimizer, zero_shot_optimizer, embedding_optimizer;
};

enum join_release { RELEASE_WINDOW, RELEASE_CLICK };
enum late_click { LATE_DROP, LATE_CORRECT };

struct join_options {
    int64_t window;             /* milliseconds of event time */
    enum join_release release;
    enum late_click late_click;
    uint64_t max_pending;       /* impressions and early clicks held at once: beyond it the oldest leave early */
};

struct history_options {
    size_t max_length;          /* items a user */
    uint64_t max_users;         /* users kept: the least recently active leave */
};

struct batch_options {
    size_t size;
    int64_t max_delay;          /* milliseconds of event time after the first example; 0: by size alone */
};

struct evaluation_options {
    size_t window;              /* examples that the windowed metrics look back on */
    double hold_out_new;        /* share of users, by hash of the user id, that loses its behaviors */
    double delayed;             /* share of users, by another hash, judged by the scores of their showings too */
};

#endif
