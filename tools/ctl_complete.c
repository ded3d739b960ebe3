/* complete: what a shell offers for a command line, one candidate a line, "candidate<TAB>what it does". Asked by
 * tools/completion/ of all three programs, so that the shells know no option that a program does not. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "daemon/log.h"
#include "tools/ctl_instance.h"
#include "tools/ctl_verbs.h"

const struct program_option ctl_complete_options[] = {
    { NULL, 0, NULL, NULL, false },
};

static void offer(const char *begun, const char *prefix, const char *word, size_t length, const char *doc)
{
    char whole[128];
    snprintf(whole, sizeof whole, "%s%.*s", prefix, (int)length, word);
    if (strncmp(whole, begun, strlen(begun)) == 0) printf("%s\t%s\n", whole, doc);
}

static void offer_instances(const char *begun)
{
    char *name[CTL_INSTANCES_MAX + 1];
    ctl_instances(name);
    for (size_t i = 0; name[i]; i++) offer(begun, "", name[i], strlen(name[i]), "");
    ctl_instances_release(name);
}

/* What a value is called says what it may be: words in lower case are the values, the rest are files or free. */
static void offer_value(const char *called, const char *begun)
{
    static const char *const files[] = { "FILE", "DIR", "PATH", "SNAPSHOT", "CHECKPOINT", "BACKUP", "TO", "SOCKET",
                                         "P.safetensors", "Q.safetensors", "P.csv", "L.csv" };
    bool file = false;

    for (const char *at = called; *at;) {
        size_t length = strcspn(at, "|[] ");
        if (islower((unsigned char)*at)) offer(begun, "", at, length, "");
        for (size_t i = 0; i < sizeof files / sizeof *files; i++)
            file |= strlen(files[i]) == length && strncmp(files[i], at, length) == 0;
        if (length == 5 && strncmp(at, "LEVEL", 5) == 0)
            for (const char *const *level = log_level_name; *level; level++)
                offer(begun, "", *level, strlen(*level), "");
        if (length == 4 && strncmp(at, "PAGE", 4) == 0)
            for (const char *const *page = ctl_manual_pages; *page; page++)
                offer(begun, "", *page, strlen(*page), "");
        if (length == 8 && strncmp(at, "INSTANCE", 8) == 0) offer_instances(begun);
        at += length;
        at += strspn(at, "|[] ");
    }
    if (file) puts(":files");       /* the shell does these better */
}

static void offer_options(const struct program_option *option, const char *begun)
{
    for (; option && option->name; option++)
        if (strcmp(option->name, "-") != 0) offer(begun, "--", option->name, strlen(option->name), option->doc);
}

/* The option whose value comes next, where the word before the last is one. */
static const struct program_option *awaits(const struct program_option *option, const char *word)
{
    if (word[0] != '-' || strchr(word, '=')) return NULL;
    for (; option && option->name; option++) {
        if (!option->value || *option->value == '[') continue;
        if (word[1] == '-' && strcmp(word + 2, option->name) == 0) return option;
        if (word[1] && word[1] == option->letter && !word[2]) return option;
    }
    return NULL;
}

static void complete_words(const struct program *program, int count, char **word)
{
    const char *last = word[count - 1], *positions = program->words ? program->words : "";
    const struct program_option *waiting = count > 1 ? awaits(program->option, word[count - 2]) : NULL;
    int given = 0;

    if (waiting) {
        offer_value(waiting->value, last);
        return;
    }
    if (*last == '-') {
        offer_options(program->option, last);
        offer_options(program_common, last);
        return;
    }
    for (int i = 0; i + 1 < count; i++)         /* words that are neither options nor their values */
        given += word[i][0] != '-' && !(i > 0 && awaits(program->option, word[i - 1]));
    for (; given > 0 && *positions; given--) positions += strcspn(positions, " "), positions += strspn(positions, " ");
    char called[32];
    snprintf(called, sizeof called, "%.*s", (int)strcspn(positions, " "), positions);
    offer_value(called, last);
    if (!*last) offer_options(program->option, last);
}

int ctl_complete_words(int count, char **word)
{
    char name[64];

    if (count < 2) return cs_exit_code(CS_USAGE);
    if (strcmp(word[0], "coldstreamd") == 0) complete_words(&program_coldstreamd, count - 1, word + 1);
    else if (strcmp(word[0], "coldstream-serve") == 0) complete_words(&program_coldstream_serve, count - 1, word + 1);
    else if (strcmp(word[0], "coldstreamctl") != 0) return cs_exit_code(CS_USAGE);
    else if (count == 2) {
        for (const struct ctl_verb *v = ctl_verb_table; v->name; v++)
            if (v->group) offer(word[1], "", v->name, strlen(v->name), v->brief);
        offer(word[1], "", "help", 4, "of all verbs");
        if (*word[1] == '-') offer_options(program_common, word[1]);
    } else if (strcmp(word[1], "help") == 0) {
        for (const struct ctl_verb *v = ctl_verb_table; v->name; v++)
            if (v->group) offer(word[2], "", v->name, strlen(v->name), v->brief);
    } else {
        const struct ctl_verb *verb = ctl_find_verb(word[1]);
        if (!verb) return 0;
        struct program program = ctl_program(verb, name);
        complete_words(&program, count - 2, word + 2);
    }
    return 0;
}

int ctl_complete(const struct ctl_arguments *arguments)
{
    (void)arguments;            /* main hands over the words as they stand */
    return cs_exit_code(CS_USAGE);
}
