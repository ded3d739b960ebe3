/* libyaml's events become a tree. Events rather than its documents: a document resolves aliases silently, a few lines
 * of which can stand for billions of nodes or for a loop. */
#include "config/node.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "core/need.h"

enum { DEPTH_MAX = 16, NODES_MAX = 20000, FOUND_MAX = 60 };

struct reader {
    yaml_parser_t parser;
    struct pool *pool;
    struct config_problems *problems;
    const char *text;
    size_t length, nodes;
    int sound;                          /* lines above this one are surely what they look like */
};

/* A key may hold what steers a terminal or ends a line: it is shown as \x1b. malloc'd, as text was. */
static char *without_controls(char *text)
{
    static const char digit[] = "0123456789abcdef";
    size_t controls = 0;
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) controls += *at < 0x20 || *at == 0x7f;
    if (!controls) return text;
    char *shown = need(malloc(strlen(text) + 3 * controls + 1)), *end = shown;
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        bool control = *at < 0x20 || *at == 0x7f;
        if (control) *end++ = '\\', *end++ = 'x', *end++ = digit[*at >> 4];
        *end++ = (char)(control ? digit[*at & 15] : *at);
    }
    *end = 0;
    free(text);
    return shown;
}

static void problem_list(struct config_problems *problems, int line, int column, const char *format, va_list arguments)
{
    char *text;
    problems->problem = need(realloc(problems->problem, (problems->count + 1) * sizeof *problems->problem));
    if (vasprintf(&text, format, arguments) < 0) need(NULL);
    problems->problem[problems->count++] = (struct config_problem){ without_controls(text), line, column };
}

void problem_add(struct config_problems *problems, int line, int column, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    problem_list(problems, line, column, format, arguments);
    va_end(arguments);
}

void problems_begin(struct config_problems *problems, const char *file)
{
    *problems = (struct config_problems){ .file = need(strdup(file)) };
}

void problems_drop(struct config_problems *problems, size_t from, int line)
{
    size_t kept = from;
    for (size_t i = from; i < problems->count; i++) {
        if (problems->problem[i].line < line) problems->problem[kept++] = problems->problem[i];
        else free(problems->problem[i].text);
    }
    problems->count = kept;
}

void problems_sort(struct config_problems *problems)
{
    for (size_t i = 1; i < problems->count; i++) {      /* insertion: stable, and the lists are short */
        struct config_problem moved = problems->problem[i];
        size_t at = i;
        for (; at > 0; at--) {
            const struct config_problem *before = &problems->problem[at - 1];
            if (before->line < moved.line || (before->line == moved.line && before->column <= moved.column)) break;
            problems->problem[at] = *before;
        }
        problems->problem[at] = moved;
    }
}

void config_problems_release(struct config_problems *problems)
{
    for (size_t i = 0; i < problems->count; i++) free(problems->problem[i].text);
    free(problems->problem);
    free(problems->file);
    *problems = (struct config_problems){ 0 };
}

char *config_problems_text(const struct config_problems *problems)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = need(open_memstream(&text, &size));
    for (size_t i = 0; i < problems->count; i++) {
        const struct config_problem *problem = &problems->problem[i];
        fputs(problems->file, out);
        if (problem->line > 0) fprintf(out, ":%d:%d", problem->line, problem->column);
        fprintf(out, ": %s\n", problem->text);
    }
    fclose(out);
    return text;
}

static void at(struct reader *reader, const yaml_mark_t *mark, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void at(struct reader *reader, const yaml_mark_t *mark, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    problem_list(reader->problems, (int)mark->line + 1, (int)mark->column + 1, format, arguments);
    va_end(arguments);
}

/* What to do about libyaml's own words; "" where nothing is known. */
static const char *syntax_remedy(const char *problem, const char *context)
{
    static const struct { const char *words, *remedy;
    } row[] = {
        { "cannot start any token",
          "indent with blanks, not tabs; quote a text that begins with one of @ ` % & * ! | >" },
        { "mapping values are not allowed",
          "one `key: value` a line, the same indentation within a section; quote a text "
          "that holds \": \"" },
        { "expected ',' or '}'",
          "close the map with }, part its entries by commas, quote texts that hold { } , : as \"${NAME}\"" },
        { "expected ',' or ']'", "close the list with ], part its elements by commas" },
        { "expected <block end>",
          "entries of one section begin in one column, and no bracket is closed that was not opened" },
        { "expected key", "entries of one section begin in one column, and no bracket is closed that was not opened" },
        { "could not find expected ':'", "write `key: value`, with a blank behind the colon" },
        { "expected node content",
          "a value is missing, or a comma is too many; ~ stands for none; quote texts that hold : # { } [ ] , & *" },
        { "expected '-' indicator",
          "each element of a list begins with - in one column, and what belongs to it stands in the column of its "
          "first word" },
        { "block sequence entries are not allowed", "begin a list in a line of its own, or write [a, b]" },
        { "unexpected end of stream", "close the quote" },
        { "document indicator", "close the quote; --- begins another document" },
        { "unknown escape", "in double quotes \\\\ stands for a backslash; or take single quotes" },
        { "hexdecimal", "in double quotes \\\\ stands for a backslash; or take single quotes" },
        { "document start", "a configuration is one document: one section below the other, nothing behind it" },
        { "directive", "leave lines that begin with % out" },
        { "indentation", "indent with blanks, not tabs" },
        { "alphabetical or numeric", "quote a text that begins with & or *" },
        { "nesting", "no setting needs so many levels" },
        { "undefined tag", "leave tags out: quote a text that begins with !" },
        { "tag", "leave tags out: quote a text that begins with !" },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if ((problem && strstr(problem, row[i].words)) || (context && strstr(context, row[i].words)))
            return row[i].remedy;
    return "quote texts that hold : # { } [ ] , & * ! | > ' \" % @ `";
}

static bool next_event(struct reader *reader, yaml_event_t *event)
{
    if (yaml_parser_parse(&reader->parser, event)) return true;
    const yaml_parser_t *parser = &reader->parser;
    yaml_mark_t mark = parser->problem_mark;
    if (parser->error == YAML_READER_ERROR) {       /* gives a byte, not a mark, since it reads ahead */
        mark = (yaml_mark_t){ 0 };
        for (size_t i = 0; i < parser->problem_offset && i < reader->length; i++) {
            mark.column = reader->text[i] == '\n' ? 0 : mark.column + 1;
            mark.line += reader->text[i] == '\n';
        }
        at(reader, &mark, "not readable as UTF-8 text: %s; allowed: UTF-8, without control characters",
           parser->problem ? parser->problem : "reading failed");
        reader->sound = 0;                          /* it reads ahead: nothing else is told */
        return false;
    }
    /* A quote or bracket that is not closed takes in what stands below it; a block is read line by line. */
    bool below = parser->context && !strstr(parser->context, "block");
    reader->sound = (int)(below ? parser->context_mark.line : mark.line) + 1;
    const char *remedy = syntax_remedy(parser->problem, parser->context);
    if (parser->context)
        at(reader, &mark, "YAML syntax: %s, %s that begins at line %zu; %s",
           parser->problem ? parser->problem : "wrong", parser->context, parser->context_mark.line + 1, remedy);
    else at(reader, &mark, "YAML syntax: %s; %s", parser->problem ? parser->problem : "wrong", remedy);
    return false;
}

static struct node *new_node(struct reader *reader, enum node_kind kind, const yaml_event_t *event)
{
    struct node *node = pool_take(reader->pool, sizeof *node);
    node->kind = kind;
    node->text = "";
    node->line = (int)event->start_mark.line + 1;
    node->column = (int)event->start_mark.column + 1;
    return node;
}

/* Their names are not told: a password that was not quoted may begin so. */
static bool refuse_extras(struct reader *reader, const yaml_event_t *event, const yaml_char_t *anchor,
                          const yaml_char_t *tag)
{
    if (anchor)
        at(reader, &event->start_mark,
           "found an anchor: anchors and aliases are not supported, write the value out; quote a text that begins "
           "with &");
    if (tag)
        at(reader, &event->start_mark,
           "found a tag: tags are not supported, leave it out; quote a text that begins with !");
    return !anchor && !tag;
}

static bool read_node(struct reader *reader, yaml_event_t *event, int depth, struct node **node);

/* One entry of a map: the key was read, its value follows. */
static bool read_value(struct reader *reader, struct node *map, struct node ***end, struct node *key, int depth)
{
    yaml_event_t event;
    struct node *value = NULL;
    if (!next_event(reader, &event)) return false;
    bool ok = read_node(reader, &event, depth + 1, &value);
    yaml_event_delete(&event);
    if (!value) return false;
    if (key->kind != NODE_SCALAR) {
        problem_add(reader->problems, key->line, key->column, "found %s as a key, allowed: a name",
                    node_found(reader->pool, key));
        return ok;
    }
    const struct node *earlier = node_member(map, key->text);
    if (earlier) {
        problem_add(reader->problems, key->line, key->column,
                    "\"%s\" is given twice, first in line %d; keep one of them", key->text, earlier->key->line);
        return ok;
    }
    value->key = key;
    **end = value;
    *end = &value->next;
    map->count++;
    return ok;
}

/* False: reading ends here; what there is of the children stays. */
static bool read_children(struct reader *reader, struct node *parent, int depth)
{
    struct node **end = &parent->first;
    for (;;) {
        yaml_event_t event;
        if (!next_event(reader, &event)) return false;
        if (event.type == YAML_MAPPING_END_EVENT || event.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&event);
            return true;
        }
        struct node *child;
        bool ok = read_node(reader, &event, depth + 1, &child);
        yaml_event_delete(&event);
        if (!ok) return false;
        if (parent->kind == NODE_MAP) {
            if (!read_value(reader, parent, &end, child, depth)) return false;
        } else {
            *end = child;
            end = &child->next;
            parent->count++;
        }
    }
}

static bool read_node(struct reader *reader, yaml_event_t *event, int depth, struct node **node)
{
    if (depth > DEPTH_MAX || ++reader->nodes > NODES_MAX) {
        reader->sound = (int)event->start_mark.line + 1;
        at(reader, &event->start_mark,
           depth > DEPTH_MAX ? "nested too deeply: no setting needs more than %d levels" : "more than %d values",
           depth > DEPTH_MAX ? DEPTH_MAX : NODES_MAX);
        return false;
    }
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        *node = new_node(reader, NODE_SCALAR, event);
        (*node)->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        if (memchr(event->data.scalar.value, 0, event->data.scalar.length)) {
            at(reader, &event->start_mark, "found a NUL byte in a text; allowed: any other character");
            (*node)->broken = true;
        }
        (*node)->text = pool_copy(reader->pool, (const char *)event->data.scalar.value, event->data.scalar.length);
        explicit_bzero(event->data.scalar.value, event->data.scalar.length);     /* it may be a password */
        refuse_extras(reader, event, event->data.scalar.anchor, event->data.scalar.tag);
        return true;
    case YAML_SEQUENCE_START_EVENT:
        *node = new_node(reader, NODE_LIST, event);
        refuse_extras(reader, event, event->data.sequence_start.anchor, event->data.sequence_start.tag);
        return !((*node)->broken = !read_children(reader, *node, depth));
    case YAML_MAPPING_START_EVENT:
        *node = new_node(reader, NODE_MAP, event);
        refuse_extras(reader, event, event->data.mapping_start.anchor, event->data.mapping_start.tag);
        return !((*node)->broken = !read_children(reader, *node, depth));
    case YAML_ALIAS_EVENT:
        at(reader, &event->start_mark,
           "found an alias: anchors and aliases are not supported, write the value out; quote a text that begins "
           "with *");
        *node = new_node(reader, NODE_SCALAR, event);
        (*node)->broken = true;
        return true;
    default:
        at(reader, &event->start_mark, "YAML syntax: a value was expected; write one, or ~ for none");
        reader->sound = (int)event->start_mark.line + 1;
        return false;
    }
}

struct node *node_parse(struct pool *pool, const char *text, size_t length, struct config_problems *problems)
{
    struct reader reader = { .pool = pool, .problems = problems, .text = text, .length = length };
    struct node *root = NULL;
    yaml_event_t event;
    if (!yaml_parser_initialize(&reader.parser)) need(NULL);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, length);
    for (bool more = true; more;) {
        if (!next_event(&reader, &event)) {
            if (root) root->broken = true;
            break;
        }
        switch (event.type) {
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT:
            break;
        case YAML_STREAM_END_EVENT:
            more = false;
            if (!root) root = new_node(&reader, NODE_MAP, &event);      /* an empty file: nothing given */
            break;
        case YAML_DOCUMENT_START_EVENT:
            if (!root) break;
            at(&reader, &event.start_mark,
               "a second document begins here: a configuration is one document; leave --- out");
            more = false;
            break;
        default:
            more = read_node(&reader, &event, 0, &root);
        }
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&reader.parser);
    if (root) root->sound = reader.sound;
    return root;
}

struct node *node_member(const struct node *map, const char *key)
{
    for (struct node *member = map->first; member; member = member->next)
        if (strcmp(member->key->text, key) == 0) return member;
    return NULL;
}

bool node_is_null(const struct node *node)
{
    if (node->kind != NODE_SCALAR || node->quoted) return false;
    static const char *const words[] = { "", "~", "null", "Null", "NULL" };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(node->text, words[i]) == 0) return true;
    return false;
}

const char *node_found(struct pool *pool, const struct node *node)
{
    if (node->kind == NODE_MAP) return node->count ? "a map" : "an empty map";
    if (node->kind == NODE_LIST) return node->count ? pool_format(pool, "a list of %zu", node->count) : "an empty list";
    if (node_is_null(node)) return "nothing";
    size_t length = strnlen(node->text, FOUND_MAX + 1);
    bool cut = length > FOUND_MAX;
    if (cut) for (length = FOUND_MAX; length > 0 && ((unsigned char)node->text[length] & 0xc0) == 0x80;) length--;
    return pool_format(pool, "\"%.*s%s\"", (int)length, node->text, cut ? "..." : "");
}

const char *config_yaml_version(void) { return yaml_get_version_string(); }
