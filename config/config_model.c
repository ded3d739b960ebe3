/* What the learned state depends on, as text and as a fingerprint; and what differs between two configurations. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "config/config_format.h"
#include "core/need.h"

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
    FILE *out = need(open_memstream(&text, &size));
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

struct cs_config *config_kept(const char *text, struct cs_error *err)
{
    struct config_problems problems = { 0 };
    if (!text) {
        cs_fail(err, CS_REFUSED, "it does not say which configuration it is of");
        return NULL;
    }
    struct cs_config *config = config_parse("config", text, strlen(text), CONFIG_FOR_TRAIN, &problems);
    if (!config) {
        char *said = config_problems_text(&problems);
        cs_fail(err, CS_REFUSED, "the configuration kept in it can't be read: %.*s",
                said ? (int)strcspn(said, "\n") : 0, said ? said : "");
        free(said);
    }
    config_problems_release(&problems);
    return config;
}

static struct cs_config *read_model(const char *name, const char *text, char *why, size_t size)
{
    struct config_problems problems;
    struct cs_config *config = config_parse(name, text, strlen(text), CONFIG_FOR_TRAIN, &problems);
    if (!config) snprintf(why, size, "%s is not readable: %s", name, problems.count ? problems.problem[0].text : "");
    config_problems_release(&problems);
    return config;
}

/* ---- what differs, and whether a migration can carry the state over ---- */

struct comparison {
    struct pool *pool;
    const struct cs_config *there, *here;
    const struct setting *row;
    config_difference *tell;
    void *self;
    size_t count;
};

static void tell(struct comparison *c, bool migratable, const char *text)
{
    c->count++;
    c->tell(c->self, text, migratable);
}

/* The next feature of the row's group from *i on; NULL: no more. */
static const struct feature_options *next_of_group(const struct comparison *c, const struct cs_config *config,
                                                   size_t *i)
{
    while (*i < config->features.feature_count) {
        const struct feature_options *feature = &config->features.feature[(*i)++];
        if ((int)feature->group == c->row->group) return feature;
    }
    return NULL;
}

static const struct feature_options *same_name(const struct comparison *c, const struct cs_config *config,
                                               const char *name)
{
    const struct feature_options *feature;
    for (size_t i = 0; (feature = next_of_group(c, config, &i));)
        if (strcmp(feature->name, name) == 0) return feature;
    return NULL;
}

/* Other bounds give the same rows another meaning; another table or kind leaves a feature that starts anew. */
static void compare_feature(struct comparison *c, const struct feature_options *a, const struct feature_options *b)
{
    for (size_t i = 0; i < feature_setting_count; i++) {
        const struct setting *row = &feature_settings[i];
        const char *from = setting_text(c->pool, row, a), *to = setting_text(c->pool, row, b);
        if (strcmp(from, to) == 0) continue;
        tell(c, row->type != SETTING_BOUNDS || a->kind != b->kind,
             pool_format(c->pool, "%s: %s: %s %s there, %s here", c->row->key, a->name, row->key, from, to));
    }
}

static const char *names_of(const struct comparison *c, const struct cs_config *config)
{
    const struct feature_options *feature;
    const char *text = "";
    for (size_t i = 0; (feature = next_of_group(c, config, &i));)
        text = pool_format(c->pool, "%s%s%s", text, *text ? ", " : "", feature->name);
    return text;
}

/* Feature by feature, for what the whole lists would hide. */
static void compare_features(struct comparison *c)
{
    const struct feature_options *feature, *other;
    size_t before = c->count;
    for (size_t i = 0; (feature = next_of_group(c, c->there, &i));) {
        if ((other = same_name(c, c->here, feature->name))) compare_feature(c, feature, other);
        else tell(c, true, pool_format(c->pool, "%s: %s there, not here", c->row->key, feature->name));
    }
    for (size_t i = 0; (feature = next_of_group(c, c->here, &i));)
        if (!same_name(c, c->there, feature->name))
            tell(c, true, pool_format(c->pool, "%s: %s here, not there", c->row->key, feature->name));
    if (c->count == before)
        tell(c, true, pool_format(c->pool, "%s: in another order: %s there; %s here", c->row->key,
                                  names_of(c, c->there), names_of(c, c->here)));
}

static bool is_migratable(const struct comparison *c)
{
    const struct zero_shot_options *zero_shot = &c->here->model.zero_shot;
    bool by_position = zero_shot->kind == ZERO_SHOT_MAIL && zero_shot->target == TARGET_SEQUENCE;
    return strcmp(c->row->key, "features.behavior.max_length") == 0 && !by_position;
}

size_t config_model_differences(const char *there, const char *here, config_difference *told, void *self)
{
    char why[256];
    struct comparison c = { .pool = pool_create(), .tell = told, .self = self };
    struct cs_config *first = read_model("the model there", there, why, sizeof why), *second = NULL;
    if (first) second = read_model("the model here", here, why, sizeof why);
    if (!second) tell(&c, false, why);
    c.there = first;
    c.here = second;
    for (size_t i = 0; second && i < setting_count; i++) {
        c.row = &settings[i];
        if (!part_of_model(c.row, first) && !part_of_model(c.row, second)) continue;
        const char *a = part_of_model(c.row, first) ? setting_text(c.pool, c.row, first) : "none";
        const char *b = part_of_model(c.row, second) ? setting_text(c.pool, c.row, second) : "none";
        if (strcmp(a, b) == 0) continue;
        if (c.row->type == SETTING_FEATURES) compare_features(&c);
        else tell(&c, is_migratable(&c), pool_format(c.pool, "%s: %s there, %s here", c.row->key, a, b));
    }
    config_destroy(first);
    config_destroy(second);
    pool_destroy(c.pool);
    return c.count;
}

struct first { char *text; size_t size; bool found, migratable; };

static void note_first(void *self, const char *text, bool migratable)
{
    struct first *first = self;
    first->migratable = first->migratable && migratable;
    if (first->found) return;
    snprintf(first->text, first->size, "%s", text);
    first->found = true;
}

bool config_model_difference(const char *there, const char *here, char *text, size_t size)
{
    struct first first = { .text = text, .size = size, .migratable = true };
    snprintf(text, size, "no difference");
    config_model_differences(there, here, note_first, &first);
    return first.migratable;
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
            const struct config_pair *now = config_find_property(other, pair->name);
            const char *key = pool_format(pool, "%s.%s", row->key, pair->name);
            if (!now)
                changed(self, key, of == 0 ? "(not shown)" : "none", of == 0 ? "none" : "(not shown)", row->live);
            else if (of == 0 && strcmp(now->value, pair->value) != 0)
                changed(self, key, "(not shown)", "(not shown)", config_property_is_live(running, pair->name));
            else if (of == 0 && memcmp(now->content, pair->content, sizeof now->content) != 0)
                changed(self, key, "what it held at the start", "what it holds now", false);
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
