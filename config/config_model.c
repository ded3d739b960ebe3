/* What the learned state depends on, as text and as a fingerprint; and what differs between two configurations. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "config/config_format.h"

/* Not every row of the model has a meaning for every kind of it. */
static bool part_of_model(const struct setting *row, const struct cs_config *config)
{
    if (!row->model) return false;
    if (row->mail && config->model.zero_shot.kind != ZERO_SHOT_MAIL) return false;
    return row->type != SETTING_WIDTHS || *(const size_t *)(const void *)((const char *)config + row->count_offset) > 0;
}

char *config_model_text(const struct cs_config *config)
{
    struct pool *pool = pool_create();
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) abort();
    const char *previous = NULL;
    for (size_t i = 0; i < setting_count; i++) {
        if (!part_of_model(&settings[i], config)) continue;
        int depth;
        const char *name = open_sections(out, previous, settings[i].key, &depth);
        fprintf(out, "%*s%s: %s\n", 2 * depth, "", name, setting_text(pool, &settings[i], config));
        previous = settings[i].key;
    }
    fclose(out);
    pool_destroy(pool);
    return text;
}

void config_fingerprint(const struct cs_config *config, char text[33])
{
    char *model = config_model_text(config);
    XXH128_hash_t hash = XXH3_128bits(model, strlen(model));
    snprintf(text, 33, "%016" PRIx64 "%016" PRIx64, (uint64_t)hash.high64, (uint64_t)hash.low64);
    free(model);
}

static struct cs_config *read_model(const char *name, const char *text, char *why, size_t size)
{
    struct config_problems problems;
    struct cs_config *config = config_parse(name, text, strlen(text), CONFIG_FOR_TRAIN, &problems);
    if (!config) snprintf(why, size, "%s is not readable: %s", name, problems.count ? problems.problem[0].text : "");
    config_problems_release(&problems);
    return config;
}

void config_model_difference(const char *there, const char *here, char *text, size_t size)
{
    struct pool *pool = pool_create();
    struct cs_config *first = read_model("the model there", there, text, size), *second = NULL;
    if (first) second = read_model("the model here", here, text, size);
    if (second) snprintf(text, size, "no difference");
    for (size_t i = 0; second && i < setting_count; i++) {
        const struct setting *row = &settings[i];
        if (!part_of_model(row, first) && !part_of_model(row, second)) continue;
        const char *a = part_of_model(row, first) ? setting_text(pool, row, first) : "none";
        const char *b = part_of_model(row, second) ? setting_text(pool, row, second) : "none";
        if (strcmp(a, b) == 0) continue;
        snprintf(text, size, "%s: %s there, %s here", row->key, a, b);
        break;
    }
    config_destroy(first);
    config_destroy(second);
    pool_destroy(pool);
}

static const char *pair_value(const struct config_pair *pair, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(pair[i].name, name) == 0) return pair[i].value;
    return NULL;
}

/* Properties one by one, their values never shown: any may be a secret. */
static void compare_properties(struct pool *pool, const struct setting *row, const struct cs_config *running,
                               const struct cs_config *wanted, config_changed *changed, void *self)
{
    const struct cs_config *side[] = { running, wanted };
    for (int of = 0; of < 2; of++) {
        const struct cs_config *other = side[!of];
        for (size_t i = 0; i < side[of]->source.property_count; i++) {
            const struct config_pair *pair = &side[of]->source.property[i];
            const char *value = pair_value(other->source.property, other->source.property_count, pair->name);
            const char *key = pool_format(pool, "%s.%s", row->key, pair->name);
            if (!value)
                changed(self, key, of == 0 ? "(not shown)" : "none", of == 0 ? "none" : "(not shown)", row->live);
            else if (of == 0 && strcmp(value, pair->value) != 0)
                changed(self, key, "(not shown)", "(not shown)", row->live);
        }
    }
}

void config_compare(const struct cs_config *running, const struct cs_config *wanted, config_changed *changed,
                    void *self)
{
    struct pool *pool = pool_create();
    for (size_t i = 0; i < setting_count; i++) {
        const struct setting *row = &settings[i];
        if (row->secret) {
            compare_properties(pool, row, running, wanted, changed, self);
            continue;
        }
        const char *from = setting_text(pool, row, running), *to = setting_text(pool, row, wanted);
        if (strcmp(from, to) != 0) changed(self, row->key, from, to, row->live);
    }
    pool_destroy(pool);
}
