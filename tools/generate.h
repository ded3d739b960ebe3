/* A synthetic world that can be learned, as a stream of events: for load, for the demo and for tests.
 *
 *   user      attributes -> taste (a latent vector: what the attributes say, plus what they don't); past clicks follow
 *             taste
 *   item      category -> latent vector, plus its own; popularity by Zipf's law
 *   session   one user, one moment, several items shown; clicked by a hidden model of
 *             taste x item + item + position + hour
 *
 * A share of the users is new: behaviors are [], the attributes are all that is known of them. Clicks come as events of
 * their own, delayed, some too late, some twice, some records out of order; or joined, as `example` events.
 * The stream is a function of the settings alone: the same bytes on every run. */
#ifndef TOOLS_GENERATE_H
#define TOOLS_GENERATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

enum generated_topic {
    GENERATED_IMPRESSION,
    GENERATED_CLICK,
    GENERATED_CONVERSION,
    GENERATED_EXAMPLE,
    GENERATED_TOPICS
};
extern const char *const generated_topic_name[GENERATED_TOPICS];    /* "impressions", ... */

struct generate_settings {
    uint64_t events;            /* events to give in all, clicks included */
    uint64_t seed;
    uint64_t users, items, categories;
    uint64_t attributes;        /* of a user, 1 to 8 */
    double new_share;           /* of the sessions: users without behaviors */
    double attributes_say;      /* share of a taste's variance that the attributes tell, 0 to 1 */
    double strength;            /* of taste in the click's logit */
    double click_bias;          /* the click's logit for a neutral pair */
    double zipf;                /* exponent of the items' popularity */
    uint64_t behavior_mean, behavior_max;
    uint64_t session_mean;      /* items shown in a session */
    double start;               /* ms since the epoch */
    double span;                /* ms of event time that all events cover */
    double click_delay;         /* ms, mean of the exponential */
    double window;              /* ms: late clicks come after it */
    double late_share, duplicate_share, disorder_share, conversion_share;
    bool joined;                /* `example` events only */
    bool key_user;              /* impressions keyed by user id, not by impression id */
};

struct generated {
    enum generated_topic topic;
    int64_t time;               /* the event's ts */
    const char *key, *value;    /* borrowed until the next call; not NUL-terminated */
    size_t key_length, value_length;
    bool is_new;                /* impression, example: the user has no behaviors */
};

/* One row a setting: options of `coldstreamctl generate` and lines "name: value" of a profile file alike. */
struct generate_setting { const char *name; char type; /* u: count, f: number, t: milliseconds, b: yes or no */
                          size_t offset; double min, max; const char *doc; };
extern const struct generate_setting generate_setting_table[];      /* name NULL ends it */

/* A built-in profile, or a file of "name: value" lines (which may start from one by "profile: NAME"). CS_USAGE or
 * CS_CONFIG. */
bool generate_profile(struct generate_settings *settings, const char *name_or_file, struct cs_error *err);
/* Sets one by its name; durations as 500ms 10s 5m 1h 30d. CS_USAGE says what is allowed. */
bool generate_set(struct generate_settings *settings, const char *name, const char *value, struct cs_error *err);

struct generator;
struct generator *generator_create(const struct generate_settings *settings, struct cs_error *err);
void generator_destroy(struct generator *generator);
/* False: all events were given. */
bool generator_next(struct generator *generator, struct generated *out);

/* What the hidden model says of a user and an item at the first position. */
double generator_click_probability(struct generator *generator, uint64_t user, uint64_t item, int hour);
/* A request to coldstream-serve for a user, as JSON text (malloc'd); its candidates: `count` different items, drawn by
 * popularity. */
char *generator_request(struct generator *generator, uint64_t user, size_t count, int hour);
/* Sessions of new users draw from users [0, n), those of old users from [n, users). */
uint64_t generator_new_users(const struct generator *generator);

#endif
