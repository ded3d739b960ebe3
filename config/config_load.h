/* What loading shares with the checks across settings. */
#ifndef CONFIG_CONFIG_LOAD_H
#define CONFIG_CONFIG_LOAD_H

#include "config/config_table.h"
#include "config/node.h"

struct loader {
    struct cs_config *config;
    struct pool *pool;
    struct config_problems *problems;
    enum config_use use;
    const struct config_source_checks *checks;      /* NULL: property names are not looked at further */
    struct node *root;
    struct node **given;                    /* by row of settings: the value in the file, or NULL */
    bool wrong_features;                    /* a problem with features was reported: more would only follow from it */
    bool wrong_properties;                  /* the same of source.kafka.properties */
};

/* The node given for a key, or NULL where its default holds. */
const struct node *loader_given(const struct loader *loader, const char *key);
/* The nearest thing in the file to a key: its value, or the section that would hold it, or the root. */
const struct node *loader_near(const struct loader *loader, const char *key);

/* What no single setting shows: contradictions, and what is missing. config_check.c */
void config_check(struct loader *loader);
/* One property of librdkafka; value NULL where its reference failed. config_property.c */
void config_check_property(struct loader *loader, const struct node *node, const char *value, bool referenced);
/* All of them together. */
void config_check_properties(struct loader *loader);
/* Whether TLS reads the file that the property's value names. */
bool config_names_file(const char *property);
/* Takes note of what is in that file. */
void config_note_content(struct config_pair *property);

/* The nearest of count names to text, or NULL where none is near enough for a typing error. */
const char *near_miss(const char *text, const char *const *name, size_t count);

#endif
