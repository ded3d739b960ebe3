/* What a row of the settings table says. Everything that knows a setting by name knows it from here. */
#ifndef CONFIG_CONFIG_TABLE_H
#define CONFIG_CONFIG_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"
#include "config/pool.h"

enum { TOPIC_MAX = 249 };   /* bytes of a topic's name */

enum setting_type {
    SETTING_TEXT,           /* char *; ~ where optional: NULL */
    SETTING_NAME,           /* char [NAME_SIZE] */
    SETTING_DURATION,       /* int64_t, milliseconds */
    SETTING_SIZE,           /* uint64_t, bytes */
    SETTING_COUNT,          /* uint64_t or size_t */
    SETTING_COUNT32,        /* uint32_t */
    SETTING_NUMBER,         /* double */
    SETTING_CHOICE,         /* an enum: the place of the word in `choices` */
    SETTING_WIDTHS,         /* size_t [max], and their count at count_offset */
    SETTING_BOUNDS,         /* double *, ascending, and their count */
    SETTING_START,          /* enum source_start, and a time at count_offset */
    SETTING_PAIRS,          /* struct config_pair *, and their count */
    SETTING_FEATURES,       /* a list of features of one group (record: feature_settings) */
    SETTING_TABLES,         /* a map from table name to table_settings */
};

struct setting {
    const char *key;        /* dotted, from the root; within a record: the plain name */
    enum setting_type type;
    size_t offset, count_offset;        /* in struct cs_config, or in the record */
    const char *preset;     /* default, as YAML; NULL: must be given */
    const char *paper;      /* default with model.preset: paper, where it differs */
    const char *min, *max;  /* inclusive, unless written ">0" or "<1"; of SETTING_WIDTHS: of each width */
    /* Words in the order of the enum; "-word": known, not available in this version. Of pairs: the names allowed. */
    const char *choices;
    bool (*check)(const char *text);    /* of a text: may it stand? */
    const char *allowed;    /* what check allows, in words */
    bool optional;          /* ~ is a value: none */
    bool secret;            /* never shown */
    bool live;              /* a reload may change it */
    bool model;             /* the learned state's shape or meaning depends on it */
    bool mail;              /* only read where model.zero_shot.kind is mail */
    size_t least, most;     /* how many widths */
    int group;              /* of SETTING_FEATURES */
    const char *sample;     /* in the sample, where the default can't stand as it is */
    bool own;               /* every installation's own: in the minimal sample */
    const char *doc;
};

extern const struct setting settings[], feature_settings[];
extern const size_t setting_count, feature_setting_count;

struct setting_list { const struct setting *row; size_t count; };
struct setting_list setting_record(enum setting_type type);     /* rows of one element of FEATURES or TABLES */
size_t setting_index(const char *key);                          /* of a key that exists */

/* Word number `index` of choices, without its "-"; NULL past the last. *available: may be used in this version. */
const char *choice_word(struct pool *pool, const char *choices, size_t index, bool *available);
/* "a whole number from 1 to 65536": what a setting takes, in words. */
const char *setting_allowed(struct pool *pool, const struct setting *row);

#endif
