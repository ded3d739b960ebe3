/* From YAML to values, through the table. Every problem is noted and reading goes on, so that one run shows all. */
#include "config/config_load.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/value.h"
#include "core/need.h"

enum { FILE_MAX = 1 << 20, GROUP_FEATURES_MAX = 250, PIPE_WAIT = 5000 /* ms */ };

/* ---- near misses ---- */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Edits (insert, delete, replace, swap neighbours) from a to b, both at most 63 long. */
static size_t edit_distance(const char *a, const char *b)
{
    enum { MOST = 64 };
    size_t rows[3][MOST], *before = rows[0], *last = rows[1], *now = rows[2];
    size_t a_length = strlen(a), b_length = strlen(b);
    if (a_length >= MOST || b_length >= MOST) return MOST;
    for (size_t j = 0; j <= b_length; j++) last[j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        now[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            now[j] = least(least(last[j] + 1, now[j - 1] + 1), last[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = least(now[j], before[j - 2] + 1);
        }
        size_t *free_row = before;
        before = last;
        last = now;
        now = free_row;
    }
    return last[b_length];
}

const char *near_miss(const char *text, const char *const *name, size_t count)
{
    const char *best = NULL;
    size_t best_distance = strlen(text) < 5 ? 1 : (strlen(text) + 1) / 3;        /* further away is no typing error */
    for (size_t i = 0; i < count; i++) {
        size_t distance = edit_distance(text, name[i]);
        if (distance < best_distance || (distance == best_distance && !best)) best = name[i], best_distance = distance;
    }
    return best;
}

/* Names for a message: what is allowed, or the one that was probably meant. */
struct names { const char *name[64]; size_t count; };

static void names_add(struct names *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->name[i], name) == 0) return;
    if (names->count < sizeof names->name / sizeof *names->name) names->name[names->count++] = name;
}

static void unknown(struct loader *loader, const struct node *key, const char *what, const struct names *names)
{
    const char *meant = near_miss(key->text, names->name, names->count), *list = "";
    const char *found = node_found(loader->pool, key);
    for (size_t i = 0; i < names->count; i++)
        list = pool_format(loader->pool, "%s%s%s", list, i ? ", " : "", names->name[i]);
    if (meant)
        problem_add(loader->problems, key->line, key->column, "unknown %s %s, did you mean \"%s\"? Allowed: %s", what,
                    found, meant, list);
    else problem_add(loader->problems, key->line, key->column, "unknown %s %s, allowed: %s", what, found, list);
}

/* ---- single values ---- */

static void wrong(struct loader *loader, const struct setting *row, const char *path, const struct node *node,
                  const char *hint)
{
    /* What stands behind a reference, or where secrets stand, is never shown. */
    bool hidden = row->secret && node->kind == NODE_SCALAR && !node_is_null(node);
    const char *found = hidden ? "a value" : node_found(loader->pool, node);
    problem_add(loader->problems, node->line, node->column, "%s: found %s, allowed: %s%s%s%s", path, found,
                setting_allowed(loader->pool, row), hint && *hint ? " (" : "", hint ? hint : "",
                hint && *hint ? ")" : "");
}

/* The scalar's text with references resolved; NULL when there is none (reported). */
static const char *scalar(struct loader *loader, const struct setting *row, const char *path, const struct node *node,
                          bool whole, bool *referenced)
{
    if (node->broken) return NULL;
    if (node->kind != NODE_SCALAR || node_is_null(node)) {
        wrong(loader, row, path, node, NULL);
        return NULL;
    }
    if (loader->use != CONFIG_FOR_DAEMON && strncmp(path, "source.", 7) == 0)
        return node->text;      /* not used: its secrets need not be here */
    const char *why = NULL, *value = value_resolve(loader->pool, node->text, whole, referenced, &why);
    if (!value) problem_add(loader->problems, node->line, node->column, "%s: %s", path, why);
    return value;
}

static bool in_range_number(const struct setting *row, double value)
{
    bool above = row->min[0] == '>', below = row->max[0] == '<';
    double min = strtod(row->min + above, NULL), max = strtod(row->max + below, NULL);
    return (above ? value > min : value >= min) && (below ? value < max : value <= max);
}

/* Whole numbers of all kinds, with their reader. */
static const char *whole_number(const struct setting *row, const char *text, uint64_t *value)
{
    int64_t duration = 0;
    const char *hint;
    switch (row->type) {
    case SETTING_DURATION: hint = value_duration(text, &duration); *value = (uint64_t)duration; return hint;
    case SETTING_SIZE: return value_size(text, value);
    default: return value_count(text, value);
    }
}

static bool in_range_whole(const struct setting *row, uint64_t value)
{
    uint64_t min = 0, max = 0;
    whole_number(row, row->min, &min);
    whole_number(row, row->max, &max);
    return value >= min && value <= max;
}

static bool set_choice(struct loader *loader, const struct setting *row, const char *path, const struct node *node,
                       const char *text, int *to)
{
    struct names names = { 0 };
    const char *word;
    bool available;
    for (size_t i = 0; (word = choice_word(loader->pool, row->choices, i, &available)); i++) {
        if (strcmp(word, text) == 0) {
            *to = (int)i;
            if (!available)
                problem_add(loader->problems, node->line, node->column,
                            "%s: \"%s\" is not available in this version; available: %s", path, word,
                            setting_allowed(loader->pool, row));
            return available;
        }
        if (available) names_add(&names, word);
    }
    const char *meant = near_miss(text, names.name, names.count);
    wrong(loader, row, path, node, meant ? pool_format(loader->pool, "did you mean %s?", meant) : NULL);
    return false;
}

static void set_list(struct loader *loader, const struct setting *row, const char *path, const struct node *node,
                     char *base)
{
    bool widths = row->type == SETTING_WIDTHS;
    if (node->kind != NODE_LIST || (widths && (node->count < row->least || node->count > row->most))) {
        wrong(loader, row, path, node, NULL);
        return;
    }
    size_t *width = (size_t *)(void *)(base + row->offset), i = 0;
    double *bound = widths ? NULL : pool_take(loader->pool, (node->count ? node->count : 1) * sizeof *bound);
    for (const struct node *element = node->first; element; element = element->next, i++) {
        bool referenced = false;
        const char *here = pool_format(loader->pool, "%s[%zu]", path, i),
                   *text = scalar(loader, row, here, element, false, &referenced);
        if (!text) continue;
        uint64_t value = 0;
        if (widths && (value_count(text, &value) || !in_range_whole(row, value)))
            wrong(loader, row, here, element, NULL);
        else if (widths) width[i] = value;
        else if (value_number(text, &bound[i])) wrong(loader, row, here, element, NULL);
        else if (i > 0 && !(bound[i] > bound[i - 1]))
            wrong(loader, row, here, element, "each greater than the one before");
    }
    if (!widths) *(double **)(void *)(base + row->offset) = bound;
    *(size_t *)(void *)(base + row->count_offset) = node->count;
}

static void set_pairs(struct loader *loader, const struct setting *row, const char *path, const struct node *node,
                      char *base)
{
    struct config_pair *pair = NULL;
    size_t count = 0;
    const struct setting one = { .type = SETTING_TEXT, .allowed = "a text", .secret = row->secret };
    if (node->kind != NODE_MAP) {
        if (!node_is_null(node)) wrong(loader, row, path, node, NULL);
        node = NULL;
    } else if (node->count) {
        pair = pool_take(loader->pool, node->count * sizeof *pair);
    }
    for (const struct node *value = pair ? node->first : NULL; value; value = value->next) {
        const char *here = pool_format(loader->pool, "%s.%s", path, value->key->text);
        struct names names = { 0 };
        const char *word;
        bool referenced = false, known = !row->choices;
        for (size_t i = 0; (word = choice_word(loader->pool, row->choices, i, NULL)); i++) {
            names_add(&names, word);
            known |= strcmp(word, value->key->text) == 0;
        }
        if (!known) {
            unknown(loader, value->key, "field", &names);
            continue;
        }
        const char *text = scalar(loader, &one, here, value, row->secret, &referenced);
        if (text && !row->secret && !*text) wrong(loader, &one, here, value, NULL);
        if (row->secret) {
            size_t before = loader->problems->count;
            config_check_property(loader, value, text, referenced);
            loader->wrong_properties |= !text || loader->problems->count > before;
        }
        if (!text) continue;
        pair[count] = (struct config_pair){ .name = pool_copy(loader->pool, value->key->text, strlen(value->key->text)),
                                            .value = pool_copy(loader->pool, text, strlen(text)),
                                            .line = value->key->line,
                                            .column = value->key->column };
        if (row->secret && loader->use == CONFIG_FOR_DAEMON) config_note_content(&pair[count]);
        count++;
    }
    *(struct config_pair **)(void *)(base + row->offset) = pair;
    *(size_t *)(void *)(base + row->count_offset) = count;
}

static void set_record(struct loader *loader, struct setting_list rows, const char *path, const struct node *node,
                       void *record);

/* Elements are added to what the groups before it gave: user, context and item stand in this order in the table. */
static void set_features(struct loader *loader, const struct setting *row, const char *path, const struct node *node)
{
    struct features_options *features = &loader->config->features;
    if (node->kind != NODE_LIST || node->count > GROUP_FEATURES_MAX) {
        if (node_is_null(node)) return;
        wrong(loader, row, path, node, node->kind == NODE_LIST ? "at most 250 a group" : NULL);
        loader->wrong_features = true;
        return;
    }
    size_t before = loader->problems->count, first = features->feature_count, i = 0;
    struct feature_options *grown = pool_take(loader->pool, (first + node->count + 1) * sizeof *grown);
    if (first) memcpy(grown, features->feature, first * sizeof *grown);
    features->feature = grown;
    for (const struct node *element = node->first; element; element = element->next, i++) {
        struct feature_options *feature = &grown[features->feature_count];
        const char *here = pool_format(loader->pool, "%s[%zu]", path, i);
        feature->group = (enum feature_group)row->group;
        set_record(loader, setting_record(SETTING_FEATURES), here, element, feature);
        if (element->kind != NODE_MAP || !feature->name[0]) continue;
        const struct node *name = node_member(element, "name"), *table = node_member(element, "table"),
                          *bucket = node_member(element, "bucketize");
        size_t other = first;
        while (other < features->feature_count && strcmp(grown[other].name, feature->name) != 0) other++;
        if (other < features->feature_count)
            problem_add(loader->problems, name->line, name->column, "%s.name: a feature \"%s\" is already in %s", here,
                        feature->name, path);
        if (feature->kind == FEATURE_DENSE && table && !node_is_null(table))
            problem_add(loader->problems, table->line, table->column,
                        "%s.table: a dense feature has no table; leave it out, or make it categorical", here);
        if (feature->kind == FEATURE_DENSE && bucket && feature->bucket_count)
            problem_add(loader->problems, bucket->line, bucket->column,
                        "%s.bucketize: a dense feature is used as it is; leave bucketize out, or make it categorical",
                        here);
        if (feature->kind == FEATURE_CATEGORICAL && !feature->table[0]) {
            if (!settings[setting_index("features.behavior.table")].check(feature->name))
                problem_add(loader->problems, name->line, name->column,
                            "%s: the name \"%s\" can't name its table: give one, as table: %s", here, feature->name,
                            "t1");
            snprintf(feature->table, sizeof feature->table, "%s", feature->name);
        }
        if (feature->kind == FEATURE_DENSE) feature->table[0] = 0;
        features->feature_count++;
    }
    loader->wrong_features |= loader->problems->count > before;
}

static void set_tables(struct loader *loader, const struct setting *row, const char *path, const struct node *node)
{
    struct embedding_options *embedding = &loader->config->embedding;
    if (node->kind != NODE_MAP) {
        if (!node_is_null(node)) wrong(loader, row, path, node, NULL);
        return;
    }
    if (node->count) embedding->table = pool_take(loader->pool, node->count * sizeof *embedding->table);
    for (const struct node *value = node->first; value; value = value->next) {
        struct table_options *table = &embedding->table[embedding->table_count++];
        snprintf(table->name, sizeof table->name, "%s", value->key->text);
        set_record(loader, setting_record(SETTING_TABLES), pool_format(loader->pool, "%s.%s", path, value->key->text),
                   value, table);
    }
}

/* Writes the node's value where the row says, or notes what is wrong with it. */
static void set_value(struct loader *loader, const struct setting *row, const char *path, const struct node *node,
                      void *base)
{
    char *to = (char *)base + row->offset;
    bool referenced = false;
    if (node->broken) return;
    switch (row->type) {
    case SETTING_WIDTHS:
    case SETTING_BOUNDS: set_list(loader, row, path, node, base); return;
    case SETTING_PAIRS: set_pairs(loader, row, path, node, base); return;
    case SETTING_FEATURES: set_features(loader, row, path, node); return;
    case SETTING_TABLES: set_tables(loader, row, path, node); return;
    default: break;
    }
    if (row->optional && node_is_null(node)) return;        /* stays NULL or "" */
    const char *text = scalar(loader, row, path, node, false, &referenced), *hint = NULL;
    if (!text) return;
    uint64_t whole = 0;
    switch (row->type) {
    case SETTING_TEXT:
        if (!row->check(text)) hint = "";
        else *(char **)(void *)to = pool_copy(loader->pool, text, strlen(text));
        break;
    case SETTING_NAME:
        if (!row->check(text)) hint = "";
        else snprintf(to, NAME_SIZE, "%s", text);
        break;
    case SETTING_CHOICE: set_choice(loader, row, path, node, text, (int *)(void *)to); break;
    case SETTING_NUMBER: {
        double number = 0;
        hint = value_number(text, &number);
        if (!hint && !in_range_number(row, number)) hint = "";
        if (!hint) *(double *)(void *)to = number;
        break;
    }
    case SETTING_START:
        if (strcmp(text, "earliest") == 0) *(enum source_start *)(void *)to = START_EARLIEST;
        else if (strcmp(text, "latest") == 0) *(enum source_start *)(void *)to = START_LATEST;
        else {
            *(enum source_start *)(void *)to = START_TIMESTAMP;
            hint = value_time(text, (int64_t *)(void *)((char *)base + row->count_offset));
        }
        break;
    default:
        hint = whole_number(row, text, &whole);
        if (!hint && !in_range_whole(row, whole)) hint = "";
        if (!hint && row->type == SETTING_COUNT32) *(uint32_t *)(void *)to = (uint32_t)whole;
        else if (!hint) *(uint64_t *)(void *)to = whole;
    }
    if (hint) wrong(loader, row, path, node, hint);
}

static void set_default(struct loader *loader, const struct setting *row, const char *path, const char *preset,
                        void *base)
{
    struct node *node = node_parse(loader->pool, preset, strlen(preset), loader->problems);
    set_value(loader, row, path, node, base);
}

static void set_record(struct loader *loader, struct setting_list rows, const char *path, const struct node *node,
                       void *record)
{
    if (node->kind != NODE_MAP && !node_is_null(node)) {
        problem_add(loader->problems, node->line, node->column, "%s: found %s, allowed: a map as {%s: ...}", path,
                    node_found(loader->pool, node), rows.row[0].key);
        return;
    }
    struct names names = { 0 };
    for (size_t i = 0; i < rows.count; i++) names_add(&names, rows.row[i].key);
    for (const struct node *value = node->kind == NODE_MAP ? node->first : NULL; value; value = value->next) {
        bool known = false;
        for (size_t i = 0; i < rows.count; i++) known |= strcmp(rows.row[i].key, value->key->text) == 0;
        if (!known) unknown(loader, value->key, "key", &names);
    }
    for (size_t i = 0; i < rows.count; i++) {
        const struct setting *row = &rows.row[i];
        const struct node *value = node->kind == NODE_MAP ? node_member(node, row->key) : NULL;
        const char *here = pool_format(loader->pool, "%s.%s", path, row->key);
        if (value) set_value(loader, row, here, value, record);
        else if (row->preset) set_default(loader, row, here, row->preset, record);
        else
            problem_add(loader->problems, node->line, node->column, "%s: missing, allowed: %s", here,
                        setting_allowed(loader->pool, row));
    }
}

/* ---- the whole file ---- */

const struct node *loader_given(const struct loader *loader, const char *key)
{
    return loader->given[setting_index(key)];
}

const struct node *loader_near(const struct loader *loader, const char *key)
{
    const struct node *node = loader->root;
    while (*key && node->kind == NODE_MAP) {
        size_t length = strcspn(key, ".");
        const struct node *member = node_member(node, pool_copy(loader->pool, key, length));
        if (!member) break;
        node = member;
        key += length + (key[length] == '.');
    }
    return node;
}

/* Matches the map at path (with its last dot; "" is the root) against the table: rows get their nodes, sections are
 * entered. */
static void walk(struct loader *loader, const struct node *map, const char *path)
{
    size_t path_length = strlen(path);
    struct names names = { 0 };
    for (size_t i = 0; i < setting_count; i++) {
        if (strncmp(settings[i].key, path, path_length) != 0) continue;
        const char *rest = settings[i].key + path_length;
        names_add(&names, pool_copy(loader->pool, rest, strcspn(rest, ".")));
    }
    for (struct node *value = map->first; value; value = value->next) {
        const char *here = pool_format(loader->pool, "%s%s", path, value->key->text),
                   *section = pool_format(loader->pool, "%s.", here);
        bool is_row = false, is_section = false;
        bool dotted = strchr(value->key->text, '.') != NULL;       /* "batch.size: 3" is not how it is written */
        for (size_t i = 0; i < setting_count && !is_row && !dotted; i++) {
            is_section |= strncmp(settings[i].key, section, strlen(section)) == 0;
            if (strcmp(settings[i].key, here) != 0) continue;
            is_row = true;
            loader->given[i] = value;
        }
        if (is_row) continue;
        if (!is_section) unknown(loader, value->key, "key", &names);
        else if (value->kind == NODE_MAP) walk(loader, value, section);
        else if (!node_is_null(value) && !value->broken)
            problem_add(loader->problems, value->line, value->column, "%s: found %s, allowed: a map of settings", here,
                        node_found(loader->pool, value));
    }
}

static void load(struct loader *loader)
{
    struct cs_config *config = loader->config;
    loader->given = pool_take(loader->pool, setting_count * sizeof *loader->given);
    walk(loader, loader->root, "");
    config->source.configured =
        node_member(loader->root, "source") && !node_is_null(node_member(loader->root, "source"));
    config->batch_max_delay_given = loader_given(loader, "batch.max_delay") != NULL;
    const struct node *preset = loader_given(loader, "model.preset");
    bool paper = preset && preset->kind == NODE_SCALAR && strcmp(preset->text, "paper") == 0;
    for (size_t i = 0; i < setting_count; i++) {
        const struct setting *row = &settings[i];
        if (loader->given[i]) set_value(loader, row, row->key, loader->given[i], config);
        else set_default(loader, row, row->key, paper && row->paper ? row->paper : row->preset, config);
    }
    if (loader->root->broken) return;       /* what is missing may stand below */
    config_check(loader);
    config_check_properties(loader);
}

static struct cs_config *parse(const char *name, const char *text, size_t length, enum config_use use,
                               const struct config_source_checks *checks, struct config_problems *problems)
{
    problems_begin(problems, name);
    struct pool *pool = pool_create();
    struct loader loader = { .config = pool_take(pool, sizeof(struct cs_config)),
                             .pool = pool,
                             .problems = problems,
                             .use = use,
                             .checks = checks };
    loader.config->memory = pool;
    loader.root = node_parse(pool, text, length, problems);
    size_t syntax = problems->count;
    if (loader.root && loader.root->broken) {
        if (loader.root->kind == NODE_MAP) load(&loader);
        problems_drop(problems, syntax, loader.root->sound);
    } else if (loader.root && loader.root->kind != NODE_MAP && !node_is_null(loader.root)) {
        problem_add(problems, loader.root->line, loader.root->column, "found %s, allowed: a map of settings",
                    node_found(pool, loader.root));
    } else if (loader.root) {
        if (loader.root->kind == NODE_SCALAR) loader.root->kind = NODE_MAP;     /* a file of comments alone, or ~ */
        load(&loader);
    }
    if (problems->count == 0) return loader.config;
    problems_sort(problems);
    config_destroy(loader.config);
    return NULL;
}

struct cs_config *config_parse(const char *name, const char *text, size_t length, enum config_use use,
                               struct config_problems *problems)
{
    return parse(name, text, length, use, NULL, problems);
}

struct cs_config *config_load(const char *file, enum config_use use, struct config_problems *problems)
{
    return config_load_checked(file, use, NULL, problems);
}

struct cs_config *config_load_checked(const char *file, enum config_use use, const struct config_source_checks *checks,
                                      struct config_problems *problems)
{
    struct cs_config *config = NULL;
    struct stat status = { 0 };
    size_t length = 0;
    char *text = NULL;
    /* Not blocking: a named pipe that nobody writes to would hold us for ever. */
    int handle = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    const char *why = NULL;
    if (handle < 0 || fstat(handle, &status) != 0) why = strerror(errno);
    else if (S_ISDIR(status.st_mode)) why = strerror(EISDIR);
    else if (!S_ISREG(status.st_mode) && !S_ISFIFO(status.st_mode))
        why = "a device or a socket, allowed: a file or a pipe";
    if (why) {
        problems_begin(problems, file);
        problem_add(problems, 0, 0, "can't be read: %s", why);
        goto out;
    }
    if (S_ISREG(status.st_mode) && (status.st_mode & S_IWOTH)) {
        problems_begin(problems, file);
        problem_add(problems, 0, 0, "can be changed by everyone (mode %04o): chmod o-w it", status.st_mode & 07777);
        goto out;
    }
    text = need(malloc(FILE_MAX + 1));  /* read to its end rather than by its size: it may be a pipe */
    for (bool more = true; more && length <= FILE_MAX;) {
        if (S_ISFIFO(status.st_mode) && poll(&(struct pollfd){ handle, POLLIN, 0 }, 1, PIPE_WAIT) == 0) {
            problems_begin(problems, file);
            problem_add(problems, 0, 0, "can't be read: a pipe that nobody writes to for %d s", PIPE_WAIT / 1000);
            goto out;
        }
        ssize_t got = read(handle, text + length, FILE_MAX + 1 - length);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        more = got > 0;
        length += got > 0 ? (size_t)got : 0;
        if (got >= 0) continue;
        problems_begin(problems, file);
        problem_add(problems, 0, 0, "can't be read: %s", strerror(errno));
        goto out;
    }
    if (length > FILE_MAX) {
        problems_begin(problems, file);
        problem_add(problems, 0, 0, "larger than %d bytes: this is no configuration; allowed: a YAML file of settings",
                    FILE_MAX);
        goto out;
    }
    config = parse(file, text, length, use, checks, problems);
out:
    if (handle >= 0) close(handle);
    if (text) explicit_bzero(text, length);
    free(text);
    return config;
}

void config_destroy(struct cs_config *config)
{
    if (config) pool_destroy(config->memory);       /* config itself is in it */
}
