/* The synthetic world of generate.h. Users are made when first seen, from their own random stream, so that a world of
 * millions of users starts at once; records wait in a heap by the moment at which they are sent. */
#include "tools/generate.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"

enum { TASTE = 8, ATTRIBUTES = 8, CHOICE = 6, VALUE_MAX = 24, CANDIDATES_MAX = 1000 };

const char *const generated_topic_name[GENERATED_TOPICS] = { "impressions", "clicks", "conversions", "examples" };

/* The attributes of a user in order: name, how many values, and how much of the taste it tells. Numbers are ages. */
static const struct attribute {
    const char *name;
    const char *prefix;
    unsigned values;
    float weight;
} attribute_table[ATTRIBUTES] = {
    { "age", NULL, 60, 1.2f },       { "gender", "g", 3, 0.8f },    { "city", "city", 120, 1.0f },
    { "device", "d", 12, 0.5f },     { "language", "l", 16, 0.8f }, { "plan", "p", 4, 0.2f },
    { "occupation", "o", 24, 0.3f }, { "channel", "ch", 10, 0.2f },
};

#define COUNT(field, name, min, max, doc)    { name, 'u', offsetof(struct generate_settings, field), min, max, doc }
#define NUMBER(field, name, min, max, doc)   { name, 'f', offsetof(struct generate_settings, field), min, max, doc }
#define MILLIS(field, name, min, max, doc)   { name, 't', offsetof(struct generate_settings, field), min, max, doc }
#define YES_NO(field, name, doc)             { name, 'b', offsetof(struct generate_settings, field), 0, 1, doc }
const struct generate_setting generate_setting_table[] = {
    COUNT(events, "events", 1, 1e12, "how many events in all, clicks included"),
    COUNT(seed, "seed", 0, 1e15, "of the random numbers: one seed, one stream"),
    COUNT(users, "users", 2, 1e8, "users"),
    COUNT(items, "items", 2, 1e8, "items"),
    COUNT(categories, "categories", 1, 1e6, "categories of items"),
    COUNT(attributes, "attributes", 1, ATTRIBUTES, "attributes of a user"),
    NUMBER(new_share, "new-share", 0, 1, "share of the sessions that are new users'"),
    NUMBER(attributes_say, "attributes-say", 0, 1, "share of a taste's variance that the attributes tell"),
    NUMBER(strength, "strength", 0, 20, "of taste in the click's logit"),
    NUMBER(click_bias, "click-bias", -20, 20, "the click's logit for a neutral pair"),
    NUMBER(zipf, "zipf", 0, 4, "exponent of the items' popularity"),
    COUNT(behavior_mean, "behavior-mean", 1, 1000, "past clicks of an old user, mean"),
    COUNT(behavior_max, "behavior-max", 1, 1000, "and at most"),
    COUNT(session_mean, "session-mean", 1, 100, "items shown in a session, mean"),
    MILLIS(start, "start", 0, 4e12, "event time of the first event, milliseconds since the epoch"),
    MILLIS(span, "span", 1, 1e13, "event time that the events cover"),
    MILLIS(click_delay, "click-delay", 0, 1e10, "of a click after its impression, mean"),
    MILLIS(window, "window", 1, 1e10, "clicks of the late share come between one and two of these"),
    NUMBER(late_share, "late-share", 0, 1, "of the clicks"),
    NUMBER(duplicate_share, "duplicate-share", 0, 1, "of impressions and clicks that come twice"),
    NUMBER(disorder_share, "disorder-share", 0, 1, "of impressions that come up to 2 s late"),
    NUMBER(conversion_share, "conversion-share", 0, 1, "of the clicks that are followed by a conversion"),
    YES_NO(joined, "joined", "`example` events, already joined, instead of impressions and clicks"),
    YES_NO(key_user, "key-user", "impressions keyed by user id instead of impression id"),
    { NULL, 0, 0, 0, 0, NULL },
};

/* --------------------------------------------------------------------------------------------------- settings */

static const struct generate_settings day = {
    .events = 300000,
    .seed = 1,
    .users = 30000,
    .items = 1000,
    .categories = 16,
    .attributes = 8,
    .new_share = 0.4,
    .attributes_say = 0.8,
    .strength = 3,
    .click_bias = -1.6,
    .zipf = 0.6,
    .behavior_mean = 20,
    .behavior_max = 50,
    .session_mean = 8,
    .start = 1700006400000,
    .span = 86400000,
    .click_delay = 45000,
    .window = 600000,
    .late_share = 0.01,
    .duplicate_share = 0.002,
    .disorder_share = 0.01,
};

static const char *const profile_name[] = { "day", "bench", "small" };

static void built_in(struct generate_settings *settings, const char *name)
{
    *settings = day;
    if (strcmp(name, "bench") == 0) {
        settings->events = 1000000;
        settings->users = 200000;
        settings->items = 100000;
        settings->categories = 200;
        settings->behavior_mean = 50;
        settings->behavior_max = 100;
        settings->zipf = 1.0;
        settings->span = 3600000;
        settings->click_delay = 10000;
        settings->window = 60000;
    } else if (strcmp(name, "small") == 0) {
        settings->events = 2000;
        settings->users = 200;
        settings->items = 100;
        settings->categories = 8;
        settings->attributes = 3;
        settings->behavior_mean = 6;
        settings->behavior_max = 12;
        settings->span = 3600000;
        settings->click_delay = 10000;
        settings->window = 60000;
    }
}

static bool parse_number(const char *text, char type, double *value)
{
    static const struct { const char *unit; double scale; } units[] = {
        { "ms", 1 }, { "s", 1e3 }, { "m", 6e4 }, { "h", 3.6e6 }, { "d", 8.64e7 },
    };
    char *end;

    errno = 0;
    *value = strtod(text, &end);
    if (end == text || errno || !isfinite(*value)) return false;
    if (*end == '\0') return type != 'u' || *value == floor(*value);
    if (type != 't') return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].unit) == 0) {
            *value *= units[i].scale;
            return true;
        }
    return false;
}

bool generate_set(struct generate_settings *settings, const char *name, const char *value, struct cs_error *err)
{
    for (const struct generate_setting *s = generate_setting_table; s->name; s++) {
        void *field = (char *)settings + s->offset;
        double number;

        if (strcmp(s->name, name) != 0) continue;
        if (s->type == 'b') {
            bool yes = strcmp(value, "true") == 0 || strcmp(value, "yes") == 0,
                 no = strcmp(value, "false") == 0 || strcmp(value, "no") == 0;
            if (!yes && !no) return cs_fail(err, CS_USAGE, "%s: found \"%s\", allowed are yes and no", name, value);
            *(bool *)field = yes;
            return true;
        }
        if (!parse_number(value, s->type, &number) || number < s->min || number > s->max)
            return cs_fail(err, CS_USAGE, "%s: found \"%s\", allowed is %s from %.15g to %.15g%s", name, value,
                           s->type == 'u' ? "a whole number" : "a number", s->min, s->max,
                           s->type == 't' ? " milliseconds, or with a unit: 500ms 10s 5m 1h 30d" : "");
        if (s->type == 'u') *(uint64_t *)field = (uint64_t)number;
        else *(double *)field = number;
        return true;
    }
    return cs_fail(err, CS_USAGE, "no such setting of the generator: \"%s\"", name);
}

static bool is_built_in(const char *name)
{
    for (size_t i = 0; i < sizeof profile_name / sizeof *profile_name; i++)
        if (strcmp(profile_name[i], name) == 0) return true;
    return false;
}

bool generate_profile(struct generate_settings *settings, const char *name_or_file, struct cs_error *err)
{
    char line[512];
    FILE *file;
    bool ok = true;

    built_in(settings, "day");
    if (is_built_in(name_or_file)) {
        built_in(settings, name_or_file);
        return true;
    }
    file = fopen(name_or_file, "r");
    if (!file)
        return cs_fail(err, CS_USAGE,
                       "no profile \"%s\": it is neither one of day, bench, small nor a file that can be read",
                       name_or_file);
    for (int64_t number = 1; ok && fgets(line, sizeof line, file); number++) {
        char *name = line + strspn(line, " \t"), *value, *end;

        name[strcspn(name, "#\r\n")] = '\0';
        if (*name == '\0') continue;
        value = strchr(name, ':');
        if (value) {
            *value++ = '\0';
            value += strspn(value, " \t");
            for (end = value + strlen(value); end > value && (end[-1] == ' ' || end[-1] == '\t'); ) *--end = '\0';
            for (char *c = name; *c; c++) if (*c == '_') *c = '-';
            if (strcmp(name, "profile") != 0) ok = generate_set(settings, name, value, err);
            else if (is_built_in(value)) built_in(settings, value);
            else ok = cs_fail(err, CS_CONFIG, "profile: found \"%s\", allowed are day, bench, small", value);
        } else {
            ok = cs_fail(err, CS_CONFIG, "found \"%s\", allowed is a line \"name: value\"", name);
        }
        if (!ok) {
            if (err) err->code = CS_CONFIG;
            cs_error_at(err, name_or_file, number, 0);
        }
    }
    if (ok && ferror(file)) ok = cs_fail_errno(err, errno, "cannot read the profile %s", name_or_file);
    fclose(file);
    return ok;
}

/* ------------------------------------------------------------------------------------------------------ world */

struct user {
    float taste[TASTE];
    uint8_t attribute[ATTRIBUTES];
    bool made;
    uint16_t behavior_count;
    uint32_t *behavior;             /* [behavior_max], oldest first; NULL: new */
};

struct item { float vector[TASTE]; float appeal; uint32_t category; uint8_t name_length; char name[15]; };

/* A record that waits for the moment at which it is sent. */
struct record {
    int64_t send, time;
    uint64_t number;                /* ties go in order of making */
    enum generated_topic topic;
    bool is_new;
    uint32_t key_length, value_length;
    char text[];                    /* key, then value */
};

/* Numbers drawn one after the other (splitmix64). */
struct draws { uint64_t state; };

struct generator {
    struct generate_settings settings;
    struct user *user;
    struct item *item;
    uint32_t *alias;                /* Vose's: items by popularity in constant time */
    float *keep;
    float (*effect)[ATTRIBUTES][128][TASTE];    /* what a value of an attribute tells of the taste */
    float (*hour_effect)[24];       /* [categories] */
    char attribute_text[ATTRIBUTES][128][VALUE_MAX];
    uint64_t new_users;
    struct draws draws;
    uint64_t session, number, given;
    double clock, step;
    struct record **heap, *last;
    size_t heap_count, heap_room;
    char *text;                     /* room for one record's value */
    size_t text_room;
};

static uint64_t draw(struct draws *d)
{
    uint64_t z = d->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double draw_uniform(struct draws *d) { return (double)(draw(d) >> 11) * 0x1p-53; }
static uint64_t draw_below(struct draws *d, uint64_t n) { return (uint64_t)((unsigned __int128)draw(d) * n >> 64); }
static double draw_exponential(struct draws *d, double mean) { return -mean * log1p(-draw_uniform(d)); }

static float dot(const float *a, const float *b)
{
    float sum = 0;
    for (size_t i = 0; i < TASTE; i++) sum += a[i] * b[i];
    return sum;
}

static uint32_t draw_item(struct generator *g, struct draws *d)
{
    uint64_t bits = draw(d);
    uint32_t i = (uint32_t)((bits >> 32) * g->settings.items >> 32);
    return (float)(uint32_t)bits * 0x1p-32f < g->keep[i] ? i : g->alias[i];
}

static bool make_popularity(struct generator *g)
{
    size_t n = g->settings.items, small = 0, large = 0;
    double *weight = malloc(n * sizeof *weight), sum = 0;
    uint32_t *stack = malloc(n * sizeof *stack);       /* small ones from the front, large ones from the back */

    if (!weight || !stack) {
        free(weight);
        free(stack);
        return false;
    }
    for (size_t i = 0; i < n; i++) sum += weight[i] = pow((double)i + 1, -g->settings.zipf);
    for (size_t i = 0; i < n; i++) {
        weight[i] *= (double)n / sum;
        if (weight[i] < 1) stack[small++] = (uint32_t)i;
        else stack[n - ++large] = (uint32_t)i;
    }
    while (small && large) {
        uint32_t less = stack[--small], more = stack[n - large];
        g->keep[less] = (float)weight[less];
        g->alias[less] = more;
        weight[more] -= 1 - weight[less];
        if (weight[more] < 1) {
            large--;
            stack[small++] = more;
        }
    }
    while (large) g->keep[stack[n - large--]] = 2;
    while (small) g->keep[stack[--small]] = 2;
    free(weight);
    free(stack);
    return true;
}

static void make_items(struct generator *g)
{
    for (size_t i = 0; i < g->settings.items; i++) {
        struct item *item = &g->item[i];
        uint64_t own = random_stream(g->settings.seed, "item", i), category;

        item->category = (uint32_t)((random_bits(own, 100) >> 32) * g->settings.categories >> 32);
        category = random_stream(g->settings.seed, "category", item->category);
        for (size_t k = 0; k < TASTE; k++)
            item->vector[k] = (0.85f * random_normal(category, k) + 0.53f * random_normal(own, k)) / sqrtf(TASTE);
        item->appeal = 0.4f * random_normal(own, 200);
        item->name_length = (uint8_t)snprintf(item->name, sizeof item->name, "i%zu", i);
    }
    for (size_t c = 0; c < g->settings.categories; c++) {
        uint64_t stream = random_stream(g->settings.seed, "hour", c);
        for (size_t h = 0; h < 24; h++)     /* each category has its time of day */
            g->hour_effect[c][h] = 0.4f * cosf((float)(2 * M_PI) * ((float)h / 24 - random_uniform(stream, 0)));
    }
}

static void make_attributes(struct generator *g)
{
    float scale = 0;

    for (size_t a = 0; a < g->settings.attributes; a++) scale += attribute_table[a].weight * attribute_table[a].weight;
    for (size_t a = 0; a < g->settings.attributes; a++)
        for (size_t v = 0; v < attribute_table[a].values; v++) {
            /* Ages tell by the decade, so that bucketize has something to find. */
            uint64_t stream =
                random_stream(g->settings.seed, attribute_table[a].name, attribute_table[a].prefix ? v : v / 10);
            for (size_t k = 0; k < TASTE; k++)
                (*g->effect)[a][v][k] = attribute_table[a].weight / sqrtf(scale) * random_normal(stream, k);
            if (attribute_table[a].prefix)
                snprintf(g->attribute_text[a][v], VALUE_MAX, "\"%s%zu\"", attribute_table[a].prefix, v);
            else
                snprintf(g->attribute_text[a][v], VALUE_MAX, "%zu", v + 16);
        }
}

/* What a user would click, of CHOICE items that are popular. */
static uint32_t choose_item(struct generator *g, const struct user *user, struct draws *d)
{
    uint32_t best = draw_item(g, d);
    float best_score = dot(user->taste, g->item[best].vector) + g->item[best].appeal;

    for (int i = 1; i < CHOICE; i++) {
        uint32_t other = draw_item(g, d);
        float score = dot(user->taste, g->item[other].vector) + g->item[other].appeal;
        if (score > best_score) {
            best = other;
            best_score = score;
        }
    }
    return best;
}

static struct user *get_user(struct generator *g, uint64_t index)
{
    struct user *user = &g->user[index];
    uint64_t stream;
    struct draws d;
    float told, untold;

    if (user->made) return user;
    stream = random_stream(g->settings.seed, "user", index);
    d.state = random_bits(stream, 1000);
    told = sqrtf((float)g->settings.attributes_say);
    untold = sqrtf(1 - (float)g->settings.attributes_say);
    for (size_t k = 0; k < TASTE; k++) user->taste[k] = untold * random_normal(stream, k);
    for (size_t a = 0; a < g->settings.attributes; a++) {
        user->attribute[a] = (uint8_t)draw_below(&d, attribute_table[a].values);
        for (size_t k = 0; k < TASTE; k++) user->taste[k] += told * (*g->effect)[a][user->attribute[a]][k];
    }
    user->made = true;
    if (index < g->new_users) return user;
    user->behavior = malloc(g->settings.behavior_max * sizeof *user->behavior);
    if (!user->behavior) abort();
    size_t count = 1 + (size_t)draw_exponential(&d, (double)g->settings.behavior_mean - 0.5);
    if (count > g->settings.behavior_max) count = g->settings.behavior_max;
    for (size_t i = 0; i < count; i++) user->behavior[i] = choose_item(g, user, &d);
    user->behavior_count = (uint16_t)count;
    return user;
}

static void remember_click(struct generator *g, struct user *user, uint32_t item)
{
    if (!user->behavior) return;                                /* a new user stays new: that is what we want to see */
    if (user->behavior_count == g->settings.behavior_max)
        memmove(user->behavior, user->behavior + 1, --user->behavior_count * sizeof *user->behavior);
    user->behavior[user->behavior_count++] = item;
}

static double click_probability(const struct generator *g, const struct user *user, const struct item *item, int hour,
                                uint64_t position)
{
    double logit = g->settings.click_bias + g->settings.strength * (double)dot(user->taste, item->vector) +
                   (double)item->appeal + (double)g->hour_effect[item->category][hour] - 0.08 * (double)position;
    return 1 / (1 + exp(-logit));
}

/* ---------------------------------------------------------------------------------------------------- records */

static bool before(const struct record *a, const struct record *b)
{
    return a->send != b->send ? a->send < b->send : a->number < b->number;
}

static void heap_push(struct generator *g, struct record *record)
{
    size_t i = g->heap_count++;

    if (g->heap_count > g->heap_room) {
        g->heap_room = g->heap_room ? 2 * g->heap_room : 1024;
        g->heap = realloc(g->heap, g->heap_room * sizeof *g->heap);
        if (!g->heap) abort();
    }
    for (; i > 0 && before(record, g->heap[(i - 1) / 2]); i = (i - 1) / 2) g->heap[i] = g->heap[(i - 1) / 2];
    g->heap[i] = record;
}

static struct record *heap_pop(struct generator *g)
{
    struct record *top = g->heap[0], *last = g->heap[--g->heap_count];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < g->heap_count) {
        if (child + 1 < g->heap_count && before(g->heap[child + 1], g->heap[child])) child++;
        if (!before(g->heap[child], last)) break;
        g->heap[i] = g->heap[child];
        i = child;
    }
    g->heap[i] = last;
    return top;
}

static void send_record(struct generator *g, enum generated_topic topic, int64_t send, int64_t time, const char *key,
                        size_t key_length, const char *value, size_t value_length, bool is_new)
{
    struct record *record = malloc(sizeof *record + key_length + value_length);

    if (!record) abort();
    *record = (struct record){ .send = send, .time = time, .number = g->number++, .topic = topic, .is_new = is_new,
                               .key_length = (uint32_t)key_length, .value_length = (uint32_t)value_length };
    memcpy(record->text, key, key_length);
    memcpy(record->text + key_length, value, value_length);
    heap_push(g, record);
}

static char *put(char *at, const char *text) { size_t n = strlen(text); memcpy(at, text, n); return at + n; }
static char *put_bytes(char *at, const char *text, size_t n) { memcpy(at, text, n); return at + n; }

static char *put_number(char *at, uint64_t number)
{
    char digits[20];
    size_t n = 0;

    do digits[n++] = (char)('0' + number % 10); while (number /= 10);
    while (n) *at++ = digits[--n];
    return at;
}

/* "user":{...},"behaviors":[...] */
static char *put_user(const struct generator *g, char *at, const struct user *user)
{
    at = put(at, "\"user\":{");
    for (size_t a = 0; a < g->settings.attributes; a++) {
        at = put(at, a ? ",\"" : "\"");
        at = put(at, attribute_table[a].name);
        at = put(at, "\":");
        at = put(at, g->attribute_text[a][user->attribute[a]]);
    }
    at = put(at, "},\"behaviors\":[");
    for (size_t i = 0; i < user->behavior_count; i++) {
        const struct item *item = &g->item[user->behavior[i]];
        if (i) *at++ = ',';
        *at++ = '"';
        at = put_bytes(at, item->name, item->name_length);
        *at++ = '"';
    }
    *at++ = ']';
    return at;
}

static char *put_item(char *at, const struct item *item)
{
    at = put(at, "\"item_id\":\"");
    at = put_bytes(at, item->name, item->name_length);
    at = put(at, "\",\"item\":{\"category\":\"c");
    at = put_number(at, item->category);
    return put(at, "\"}");
}

static void send_click(struct generator *g, const char *kind, enum generated_topic topic, int64_t time, const char *id,
                       size_t id_length)
{
    char value[200], *at = value;
    int64_t send = time;

    at = put(at, "{\"event\":\"");
    at = put(at, kind);
    at = put(at, "\",\"impression_id\":\"");
    at = put_bytes(at, id, id_length);
    at = put(at, "\",\"ts\":");
    at = put_number(at, (uint64_t)time);
    at = put(at, "}");
    send_record(g, topic, send, time, id, id_length, value, (size_t)(at - value), false);
    if (draw_uniform(&g->draws) < g->settings.duplicate_share)
        send_record(g, topic, send + 1000, time, id, id_length, value, (size_t)(at - value), false);
}

/* One session: its impressions and all that follows from them go into the heap. */
static void make_session(struct generator *g)
{
    struct generate_settings *s = &g->settings;
    struct draws *d = &g->draws;
    bool is_new = draw_uniform(d) < s->new_share;
    uint64_t index = is_new ? draw_below(d, g->new_users) : g->new_users + draw_below(d, s->users - g->new_users);
    struct user *user = get_user(g, index);
    uint64_t shown = 1 + draw_below(d, 2 * s->session_mean - 1);
    char user_id[32], id[48], *value, *after_user;
    uint32_t clicked_item[200];
    size_t clicked_count = 0,
           user_id_length = (size_t)snprintf(user_id, sizeof user_id, "u%llu", (unsigned long long)index);
    char *user_text = g->text;
    int64_t time = (int64_t)(s->start + g->clock);
    int hour = (int)(time / 3600000 % 24);

    after_user = put_user(g, user_text, user);
    value = after_user;
    for (uint64_t position = 0; position < shown; position++) {
        uint32_t shown_item = draw_item(g, d);
        const struct item *item = &g->item[shown_item];
        bool clicked = draw_uniform(d) < click_probability(g, user, item, hour, position);
        bool converted = clicked && draw_uniform(d) < s->conversion_share;
        int64_t send = time + (int64_t)position, at_time = send;
        size_t id_length;
        char *at = value;

        id_length =
            (size_t)snprintf(id, sizeof id, "r%llu-%llu", (unsigned long long)g->session, (unsigned long long)position);
        at = put(at, s->joined ? "{\"event\":\"example\",\"impression_id\":\""
                               : "{\"event\":\"impression\",\"impression_id\":\"");
        at = put_bytes(at, id, id_length);
        at = put(at, "\",\"ts\":");
        at = put_number(at, (uint64_t)at_time);
        at = put(at, ",\"user_id\":\"");
        at = put_bytes(at, user_id, user_id_length);
        at = put(at, "\",");
        at = put_bytes(at, user_text, (size_t)(after_user - user_text));
        at = put(at, ",\"context\":{\"hour\":");
        at = put_number(at, (uint64_t)hour);
        at = put(at, ",\"position\":");
        at = put_number(at, position);
        at = put(at, "},");
        at = put_item(at, item);
        if (s->joined) {
            at = put(at, clicked ? ",\"clicked\":true" : ",\"clicked\":false");
            at = put(at, converted ? ",\"converted\":true" : ",\"converted\":false");
        }
        at = put(at, "}");
        if (draw_uniform(d) < s->disorder_share) send += (int64_t)draw_below(d, 2000);
        const char *key = s->key_user ? user_id : id;
        size_t key_length = s->key_user ? user_id_length : id_length;
        enum generated_topic topic = s->joined ? GENERATED_EXAMPLE : GENERATED_IMPRESSION;
        send_record(g, topic, send, at_time, key, key_length, value, (size_t)(at - value), !user->behavior);
        if (!s->joined && draw_uniform(d) < s->duplicate_share)
            send_record(g, topic, send + 500, at_time, key, key_length, value, (size_t)(at - value), !user->behavior);
        if (clicked && clicked_count < sizeof clicked_item / sizeof *clicked_item)
            clicked_item[clicked_count++] = shown_item;
        if (clicked && !s->joined) {
            double delay = draw_exponential(d, s->click_delay);
            if (delay > s->window) delay = s->window;
            if (draw_uniform(d) < s->late_share) delay = s->window * (1 + draw_uniform(d));
            send_click(g, "click", GENERATED_CLICK, at_time + 1 + (int64_t)delay, id, id_length);
            if (converted)
                send_click(g, "conversion", GENERATED_CONVERSION,
                           at_time + 2 + (int64_t)(delay + (s->window - delay) * draw_uniform(d) / 2), id, id_length);
        }
    }
    for (size_t i = 0; i < clicked_count; i++) remember_click(g, user, clicked_item[i]);
    g->session++;
    g->clock += g->step * (double)shown;
}

struct generator *generator_create(const struct generate_settings *settings, struct cs_error *err)
{
    struct generator *g = calloc(1, sizeof *g);

    if (!g) goto out_of_memory;
    g->settings = *settings;
    g->draws.state = random_stream(settings->seed, "sessions", 0);
    /* New users come back less often than old ones in the same number of sessions: half of all users are new. */
    g->new_users = settings->new_share > 0 ? (settings->users + 1) / 2 : 0;
    if (settings->new_share >= 1) g->new_users = settings->users;
    /* An impression brings about 1.25 events (itself and its click): the span fits the events roughly, never exactly.
     */
    g->step = settings->span / (double)settings->events * (settings->joined ? 1 : 1.25);
    g->text_room = 4096 + settings->behavior_max * 20 + CANDIDATES_MAX * 64;
    g->user = calloc(settings->users, sizeof *g->user);
    g->item = malloc(settings->items * sizeof *g->item);
    g->alias = calloc(settings->items, sizeof *g->alias);
    g->keep = malloc(settings->items * sizeof *g->keep);
    g->effect = calloc(1, sizeof *g->effect);
    g->hour_effect = malloc(settings->categories * sizeof *g->hour_effect);
    g->text = malloc(2 * g->text_room);
    if (!g->user || !g->item || !g->alias || !g->keep || !g->effect || !g->hour_effect || !g->text ||
        !make_popularity(g))
        goto out_of_memory;
    make_items(g);
    make_attributes(g);
    return g;
out_of_memory:
    generator_destroy(g);
    cs_fail(err, CS_FAILED, "out of memory for %llu users and %llu items", (unsigned long long)settings->users,
            (unsigned long long)settings->items);
    return NULL;
}

void generator_destroy(struct generator *g)
{
    if (!g) return;
    for (size_t i = 0; g->user && i < g->settings.users; i++) free(g->user[i].behavior);
    while (g->heap_count) free(heap_pop(g));
    free(g->last);
    free(g->heap);
    free(g->user);
    free(g->item);
    free(g->alias);
    free(g->keep);
    free(g->effect);
    free(g->hour_effect);
    free(g->text);
    free(g);
}

bool generator_next(struct generator *g, struct generated *out)
{
    struct record *record;

    if (g->given == g->settings.events) return false;
    /* What is sent first is known once the sessions that could still come before it are made. */
    while (g->heap_count == 0 || g->heap[0]->send >= (int64_t)(g->settings.start + g->clock)) make_session(g);
    free(g->last);
    record = g->last = heap_pop(g);
    *out = (struct generated){ .topic = record->topic, .time = record->time, .is_new = record->is_new,
                               .key = record->text, .key_length = record->key_length,
                               .value = record->text + record->key_length, .value_length = record->value_length };
    g->given++;
    return true;
}

double generator_click_probability(struct generator *g, uint64_t user, uint64_t item, int hour)
{
    return click_probability(g, get_user(g, user), &g->item[item], hour, 0);
}

uint64_t generator_new_users(const struct generator *g) { return g->new_users; }

char *generator_request(struct generator *g, uint64_t user, size_t count, int hour)
{
    struct draws d = { random_stream(g->settings.seed, "request", user) };
    char *at = g->text;

    assert(count <= CANDIDATES_MAX && count <= g->settings.items);
    at = put(at, "{\"requests\":[{\"user_id\":\"u");
    at = put_number(at, user);
    at = put(at, "\",");
    at = put_user(g, at, get_user(g, user));
    at = put(at, ",\"context\":{\"hour\":");
    at = put_number(at, (uint64_t)hour);
    at = put(at, ",\"position\":0},\"candidates\":[");
    bool *taken = calloc(g->settings.items, sizeof *taken);
    if (!taken) return NULL;
    for (size_t i = 0; i < count; i++) {
        uint32_t item = draw_item(g, &d);
        while (taken[item]) item = (item + 1) % (uint32_t)g->settings.items;
        taken[item] = true;
        at = put(at, i ? ",{" : "{");
        at = put_item(at, &g->item[item]);
        at = put(at, "}");
    }
    free(taken);
    at = put(at, "]}]}");
    *at = '\0';
    return strdup(g->text);
}
