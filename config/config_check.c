/* Checks across settings: what is missing as a whole, and what contradicts itself. Each says where to look. */
#include "config/config_load.h"

#include <string.h>

static void problem_near(struct loader *loader, const char *key, const char *text)
{
    const struct node *node = loader_near(loader, key);
    if (node->key && node->kind != NODE_SCALAR) node = node->key;     /* a section is found by its name */
    problem_add(loader->problems, node->line, node->column, "%s", text);
}

static void check_source(struct loader *loader)
{
    const struct cs_config *config = loader->config;
    if (!config->source.configured) {
        if (loader->use == CONFIG_FOR_DAEMON)
            problem_near(loader, "source",
                         "source: missing, allowed: kafka: {properties: {bootstrap.servers: host:port}}");
        return;
    }
    const struct node *near = loader_near(loader, "source.kafka"),
                      *properties = loader_given(loader, "source.kafka.properties");
    if (near->kind != NODE_MAP && !node_is_null(near)) return;      /* told: a map belongs there */
    bool servers = false;
    if (properties && properties->kind == NODE_MAP)
        servers = node_member(properties, "bootstrap.servers") || node_member(properties, "metadata.broker.list");
    if (loader->use == CONFIG_FOR_DAEMON && !servers)
        problem_near(loader, "source.kafka.properties",
                     "source.kafka.properties: bootstrap.servers is missing, allowed: host:port, ...");
}

/* What can't be used of topic number `of` goes to <topic>.dlq: that is a topic's name, too, and no other of ours. */
static void check_dead_letters(struct loader *loader, const char *const *key, char **const *topic, size_t of,
                               size_t count)
{
    const char *name = *topic[of];
    size_t length = name ? strlen(name) : 0;
    if (length > TOPIC_MAX - strlen(".dlq"))
        problem_near(loader, key[of],
                     pool_format(loader->pool, "%s: the name leaves no room for that of its dead letters, <topic>.dlq, "
                                 "allowed: at most %zu bytes", key[of], TOPIC_MAX - strlen(".dlq")));
    for (size_t i = 0; name && i < count; i++)
        if (*topic[i] && strncmp(*topic[i], name, length) == 0 && strcmp(*topic[i] + length, ".dlq") == 0)
            problem_near(loader, loader_given(loader, key[i]) ? key[i] : key[of],
                         pool_format(loader->pool, "%s: \"%s\" is where the dead letters of %s go, allowed: another "
                                     "topic", key[i], *topic[i], key[of]));
}

/* Impressions and clicks go together; a stream that is off takes with it the defaults of what needs it. */
static void check_topics(struct loader *loader)
{
    struct cs_config *config = loader->config;
    char **const topic[] = { &config->source.topics.impressions, &config->source.topics.clicks,
                             &config->source.topics.conversions, &config->source.topics.examples,
                             &config->checkpoint.announce_topic, &config->checkpoint.delta_topic };
    static const char *const key[] = { "source.kafka.topics.impressions", "source.kafka.topics.clicks",
                                       "source.kafka.topics.conversions", "source.kafka.topics.examples",
                                       "checkpoint.announce_topic", "checkpoint.delta_topic" };
    enum { TOPICS = sizeof topic / sizeof *topic, SOURCES = 4 };        /* the first are read */
    const struct node *impressions = loader_given(loader, key[0]);
    if (impressions && node_is_null(impressions)) {
        for (size_t i = 1; i <= 2; i++) {
            if (!loader_given(loader, key[i])) *topic[i] = NULL;
            if (*topic[i])
                problem_near(loader, key[i],
                             pool_format(loader->pool, "%s: given without impressions, which it belongs to", key[i]));
        }
    } else if (config->source.topics.impressions && !config->source.topics.clicks &&
               node_is_null(loader_near(loader, key[1]))) {
        problem_near(loader, key[1], "source.kafka.topics.clicks: impressions need clicks; turn both off, or none");
    }
    if (impressions && node_is_null(impressions) && !config->source.topics.examples)
        problem_near(
            loader, "source.kafka.topics",
            "source.kafka.topics: nothing to learn from, allowed: impressions and clicks, or examples, or all");
    for (size_t i = 1; i < TOPICS; i++)
        for (size_t j = 0; j < i; j++)
            if (*topic[i] && *topic[j] && strcmp(*topic[i], *topic[j]) == 0) {
                size_t at = loader_given(loader, key[i]) ? i : j;
                problem_near(loader, key[at],
                             pool_format(loader->pool, "%s: the topic \"%s\" already serves %s", key[at], *topic[at],
                                         key[at == i ? j : i]));
            }
    for (size_t i = 0; i < SOURCES; i++) check_dead_letters(loader, key, topic, i, TOPICS);
}

static bool table_is_used(const struct features_options *features, const char *table)
{
    if (strcmp(features->behavior_table, table) == 0) return true;
    for (size_t i = 0; i < features->feature_count; i++)
        if (features->feature[i].kind == FEATURE_CATEGORICAL && strcmp(features->feature[i].table, table) == 0)
            return true;
    return false;
}

static void check_features(struct loader *loader)
{
    const struct cs_config *config = loader->config;
    const struct features_options *features = &config->features;
    if (loader->wrong_features) return;
    if (features->feature_count == 0) {
        problem_near(loader, "features",
                     "features: missing, allowed: lists of features under user, context and item, as item: [{name: "
                     "item_id, table: item}]");
        return;
    }
    size_t attributes = 0;
    for (size_t i = 0; i < features->feature_count; i++)
        attributes += features->feature[i].group == GROUP_USER && features->feature[i].kind == FEATURE_CATEGORICAL;
    if (attributes == 0 && config->model.zero_shot.kind != ZERO_SHOT_NONE)
        problem_near(loader, "model.zero_shot.kind",
                     "model.zero_shot.kind: works from the user's attributes, but features.user has no categorical "
                     "feature; add one, or choose none");
    const struct node *tables = loader_given(loader, "embedding.tables");
    for (const struct node *table = tables && tables->kind == NODE_MAP ? tables->first : NULL; table;
         table = table->next) {
        if (table_is_used(features, table->key->text)) continue;
        const char *name[256];
        size_t count = 0;
        name[count++] = features->behavior_table;
        for (size_t i = 0; i < features->feature_count && count < sizeof name / sizeof *name; i++)
            if (features->feature[i].kind == FEATURE_CATEGORICAL) name[count++] = features->feature[i].table;
        const char *meant = near_miss(table->key->text, name, count);
        problem_add(loader->problems, table->key->line, table->key->column,
                    "embedding.tables: no feature uses a table %s%s%s%s", node_found(loader->pool, table->key),
                    meant ? ", did you mean \"" : "", meant ? meant : "", meant ? "\"?" : "");
    }
}

static void check_model(struct loader *loader)
{
    struct cs_config *config = loader->config;
    struct ranking_options *ranking = &config->model.ranking;
    const struct node *tower = loader_given(loader, "model.ranking.tower");
    if (ranking->tower != RANKING_EMB_LR || !tower || strcmp(tower->text, "emb_lr") != 0) return;
    if (loader_given(loader, "model.ranking.hidden"))
        problem_near(loader, "model.ranking.hidden",
                     "model.ranking.hidden: the tower emb_lr has no hidden layers; leave it out, or choose base_dnn");
    if (loader_given(loader, "model.ranking.dropout") && ranking->dropout > 0)
        problem_near(loader, "model.ranking.dropout",
                     "model.ranking.dropout: the tower emb_lr has no dropout; leave it out, or choose base_dnn");
    memset(ranking->hidden, 0, sizeof ranking->hidden);
    ranking->hidden_count = 0;
    ranking->dropout = 0;
}

/* Each part with a slash behind it, without "." and "x/..": equal where two paths are. Links are not followed. */
static char *plain_path(struct pool *pool, const char *path)
{
    char *plain = pool_take(pool, strlen(path) + 2), *end = plain;
    size_t parts = 0;                           /* that ".." takes back */
    bool absolute = *path == '/';
    if (absolute) *end++ = '/';
    for (size_t length; path += strspn(path, "/"), *path; path += length) {
        length = strcspn(path, "/");
        bool back = length == 2 && strncmp(path, "..", 2) == 0;
        if ((length == 1 && *path == '.') || (back && absolute && !parts)) continue;
        if (back && parts) {
            for (end--; end > plain && end[-1] != '/';) end--;
            parts--;
            continue;
        }
        memcpy(end, path, length);
        end += length;
        *end++ = '/';
        parts += !back;
    }
    *end = 0;
    return plain;
}

static void check_directories(struct loader *loader)
{
    const struct cs_config *config = loader->config;
    if (!config->snapshot.directory || !config->checkpoint.directory) return;
    if (strcmp(plain_path(loader->pool, config->snapshot.directory),
               plain_path(loader->pool, config->checkpoint.directory)) == 0)
        problem_near(loader,
                     loader_given(loader, "checkpoint.directory") ? "checkpoint.directory" : "snapshot.directory",
                     "checkpoint.directory: the same as snapshot.directory, allowed: one of its own");
}

/* It would look as if somebody watched. */
static void check_gate(struct loader *loader)
{
    const struct config_gate *gate = &loader->config->checkpoint.gate;
    bool bounded = gate->max_log_loss_rise > 0 || gate->max_auc_drop > 0 || gate->max_calibration_error > 0;
    if (bounded && loader_given(loader, "checkpoint.gate.min_examples") &&
        gate->min_examples > loader->config->evaluation.window)
        problem_near(loader, "checkpoint.gate.min_examples",
                     pool_format(loader->pool, "checkpoint.gate.min_examples: more than evaluation.window, %zu, ever "
                                 "has, so nothing would be judged; give at most that",
                                 loader->config->evaluation.window));
    if (bounded || gate->rollback != ROLLBACK_AUTOMATIC) return;
    problem_near(loader, "checkpoint.gate.rollback",
                 "checkpoint.gate.rollback: automatic, but there is no bound to break; give max_log_loss_rise, "
                 "max_auc_drop or max_calibration_error");
}

void config_check(struct loader *loader)
{
    check_source(loader);
    if (loader->config->source.configured) check_topics(loader);
    check_features(loader);
    check_model(loader);
    check_directories(loader);
    check_gate(loader);
    if (loader->config->events.format == FORMAT_PROTOBUF && loader->config->events.field_count)
        problem_near(loader, "events.fields",
                     "events.fields: the protobuf schema's fields are fixed; leave it out, or choose json");
}
