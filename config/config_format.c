/* See config_format.h. */
#include "config/config_format.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "config/value.h"

/* "{name: age, table: age}": what differs from the record's defaults. */
static char *record_text(struct pool *pool, struct setting_list rows, const void *record)
{
    char *text = pool_copy(pool, "", 0);
    for (size_t i = 0; i < rows.count; i++) {
        const char *value = setting_text(pool, &rows.row[i], record);
        if (rows.row[i].preset && strcmp(value, rows.row[i].preset) == 0) continue;
        text = pool_format(pool, "%s%s%s: %s", text, *text ? ", " : "", rows.row[i].key, value);
    }
    return pool_format(pool, "{%s}", text);
}

static char *features_text(struct pool *pool, const struct setting *row, const struct features_options *features)
{
    char *text = pool_copy(pool, "", 0);
    for (size_t i = 0; i < features->feature_count; i++)
        if ((int)features->feature[i].group == row->group)
            text = pool_format(pool, "%s%s%s", text, *text ? ", " : "",
                               record_text(pool, setting_record(SETTING_FEATURES), &features->feature[i]));
    return pool_format(pool, "[%s]", text);
}

static char *list_text(struct pool *pool, const struct setting *row, const char *base)
{
    size_t count = *(const size_t *)(const void *)(base + row->count_offset);
    const size_t *width = (const size_t *)(const void *)(base + row->offset);
    const double *bound = row->type == SETTING_BOUNDS ? *(double *const *)(const void *)(base + row->offset) : NULL;
    char *text = pool_copy(pool, "", 0);
    for (size_t i = 0; i < count; i++)
        text = pool_format(pool, "%s%s%s", text, i ? ", " : "",
                           bound ? value_number_text(pool, bound[i]) : pool_format(pool, "%zu", width[i]));
    return pool_format(pool, "[%s]", text);
}

static char *map_text(struct pool *pool, const struct setting *row, const char *base)
{
    size_t count = *(const size_t *)(const void *)(base + row->count_offset);
    const void *first = *(void *const *)(const void *)(base + row->offset);
    char *text = pool_copy(pool, "", 0);
    for (size_t i = 0; i < count; i++) {
        const char *name, *value;
        if (row->type == SETTING_PAIRS) {
            const struct config_pair *pair = (const struct config_pair *)first + i;
            name = pair->name;
            value = value_text_text(pool, pair->value);
        } else {
            const struct table_options *table = (const struct table_options *)first + i;
            name = table->name;
            value = record_text(pool, setting_record(SETTING_TABLES), table);
        }
        text = pool_format(pool, "%s%s%s: %s", text, i ? ", " : "", value_text_text(pool, name), value);
    }
    return pool_format(pool, "{%s}", text);
}

static char *time_text(struct pool *pool, const struct setting *row, const char *base)
{
    static const char *const words[] = { [START_EARLIEST] = "earliest", [START_LATEST] = "latest" };
    enum source_start start = *(const enum source_start *)(const void *)(base + row->offset);
    if (start != START_TIMESTAMP) return pool_copy(pool, words[start], strlen(words[start]));
    return pool_format(pool, "%" PRId64, *(const int64_t *)(const void *)(base + row->count_offset));
}

char *setting_text(struct pool *pool, const struct setting *row, const void *base)
{
    const void *value = (const char *)base + row->offset;
    switch (row->type) {
    case SETTING_TEXT: {
        const char *text = *(char *const *)value;
        return text ? value_text_text(pool, text) : pool_copy(pool, "~", 1);
    }
    case SETTING_NAME:
        return row->optional && !*(const char *)value ? pool_copy(pool, "~", 1) : value_text_text(pool, value);
    case SETTING_DURATION: return value_duration_text(pool, *(const int64_t *)value);
    case SETTING_SIZE:
    case SETTING_COUNT: return pool_format(pool, "%" PRIu64, *(const uint64_t *)value);
    case SETTING_COUNT32: return pool_format(pool, "%" PRIu32, *(const uint32_t *)value);
    case SETTING_NUMBER: return value_number_text(pool, *(const double *)value);
    case SETTING_CHOICE: {
        const char *word = choice_word(pool, row->choices, (size_t)*(const int *)value, NULL);
        return pool_copy(pool, word, strlen(word));
    }
    case SETTING_WIDTHS:
    case SETTING_BOUNDS: return list_text(pool, row, base);
    case SETTING_START: return time_text(pool, row, base);
    case SETTING_PAIRS:
    case SETTING_TABLES: return map_text(pool, row, base);
    case SETTING_FEATURES: return features_text(pool, row, value);
    }
    abort();        /* the table has no other type */
}

const char *open_sections(FILE *out, const char *previous, const char *key, int *depth)
{
    *depth = 0;
    const char *rest = key;
    for (const char *dot; (dot = strchr(rest, '.')); rest = dot + 1, ++*depth) {
        size_t section = (size_t)(dot - key) + 1;
        if (previous && strncmp(previous, key, section) == 0) continue;
        fprintf(out, "%*s%.*s:\n", 2 * *depth, "", (int)(dot - rest), rest);
        previous = NULL;
    }
    return rest;
}
