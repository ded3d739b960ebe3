/* The feature table: which field of an event feeds which embedding table, and where it stands in a batch.
 * Made once from options; everything that handles features is handed it, read-only. */
#ifndef CORE_FEATURES_H
#define CORE_FEATURES_H

#include "core/error.h"
#include "core/options.h"

extern const char *const feature_group_name[GROUPS];        /* "user", "context", "item" */

struct feature {
    char name[NAME_SIZE];
    enum feature_group group;
    enum feature_kind kind;
    size_t column;              /* categorical: its place among the categorical features; dense: among the dense ones */
    size_t table;               /* categorical: index into features.table */
    const double *bucket;
    size_t bucket_count;
};

struct features {
    struct feature *feature;    /* user, context, item; configured order */
    size_t count, categorical_count, dense_count;
    size_t group_categorical[GROUPS], group_dense[GROUPS];      /* how many of each; columns of a group are adjacent */
    size_t group_categorical_begin[GROUPS], group_dense_begin[GROUPS];
    char (*table)[NAME_SIZE];   /* names of all embedding tables, ascending */
    size_t table_count;
    size_t behavior_table;      /* index */
    size_t behavior_max_length;
};

/* CS_CONFIG where names repeat within a group or a bound is not ascending. */
struct features *features_create(const struct features_options *options, struct cs_error *err);
void features_destroy(struct features *features);

/* Keys (numerics.md, section 1). */
uint64_t key_of_text(const char *text, size_t length);
/* The shortest decimal text that reads back as the same double, as ECMAScript and RFC 8785 write it:
 * 25, 0.1, 1e+21, 1e-7. */
uint64_t key_of_number(double value);
size_t number_text(double value, char text[32]);
uint64_t key_of_bucket(double value, const double *bucket, size_t count);

#endif
