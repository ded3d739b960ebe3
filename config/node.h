/* A YAML file as a tree of nodes that know their line and column, and the list of what is wrong with the file. */
#ifndef CONFIG_NODE_H
#define CONFIG_NODE_H

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"
#include "config/pool.h"

enum node_kind { NODE_SCALAR, NODE_LIST, NODE_MAP };

struct node {
    enum node_kind kind;
    int line, column;           /* from 1 */
    const char *text;           /* of a scalar, may hold no NUL byte; of all else empty */
    bool quoted;                /* scalar in quotes or a block: never null, never a reference to nothing */
    struct node *first, *next;  /* list: elements; map: values, each with its key */
    size_t count;
    struct node *key;           /* in a map: the scalar that names this value */
    bool broken;                /* already a problem: what it would say further is not worth a message */
    int sound;                  /* of a root that is broken: what stands above this line is what it looks like */
};

/* NULL where nothing of the text is a YAML document; broken: what could be read before reading had to end, and so are
 * the maps and lists that were open then. Either is a problem. Anchors, aliases, tags and further documents are
 * refused; so are duplicate keys, keys that are not scalars, and nesting beyond what any setting needs. */
struct node *node_parse(struct pool *pool, const char *text, size_t length, struct config_problems *problems);
struct node *node_member(const struct node *map, const char *key);      /* NULL: none */
bool node_is_null(const struct node *node);                             /* ~, null or nothing, unquoted */
/* What stands there, for messages: "a list of 3", "abc" (quoted, cut when long). */
const char *node_found(struct pool *pool, const struct node *node);

void problem_add(struct config_problems *problems, int line, int column, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void problems_begin(struct config_problems *problems, const char *file);
/* Of problem number `from` and those behind it: what is on that line or below. */
void problems_drop(struct config_problems *problems, size_t from, int line);
void problems_sort(struct config_problems *problems);                   /* by line, then column */

#endif
