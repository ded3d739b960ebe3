/* What the verbs of coldstreamctl share: one table of verbs, each with its own table of options, from which parsing,
 * help and the suggestions for mistyped words follow. */
#ifndef TOOLS_CTL_H
#define TOOLS_CTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "daemon/program.h"

enum { CTL_OPTIONS_MAX = 48, CTL_POSITIONS_MAX = 2 };

struct ctl_arguments;

struct ctl_verb {
    const char *name;           /* NULL ends the table */
    const char *group;          /* heading in the help; NULL: not shown */
    const char *positions; /* "FILE", "[VERSION]": as many words as the verb takes, those in brackets may be left out */
    const char *brief;          /* for the list of verbs: at most 24 columns */
    const char *doc;
    const struct program_option *option;
    int (*run)(const struct ctl_arguments *arguments);     /* the exit code */
    const char *example;        /* lines to type; NULL: none */
    const char *note;           /* after the options; NULL: none */
};

struct ctl_arguments {
    const struct ctl_verb *verb;
    const char *value[CTL_OPTIONS_MAX];         /* by the option's index; NULL: not given; a given flag: "" */
    const char *position[CTL_POSITIONS_MAX];    /* NULL: left out */
    bool quiet, verbose;
};

extern const struct ctl_verb ctl_verb_table[];

/* NULL, or the option's value. An option that the verb's table lacks is our bug. */
const char *ctl_value(const struct ctl_arguments *arguments, const char *option);
static inline bool ctl_flag(const struct ctl_arguments *arguments, const char *option)
{
    return ctl_value(arguments, option) != NULL;
}
/* The option as a whole number within bounds; fallback where it is not given. */
bool ctl_count(const struct ctl_arguments *arguments, const char *option, uint64_t min, uint64_t max, uint64_t fallback,
               uint64_t *count, struct cs_error *err);
/* What its help and its man page say. name: room for "coldstreamctl VERB"; borrowed by the answer. */
struct program ctl_program(const struct ctl_verb *verb, char name[64]);
const struct ctl_verb *ctl_find_verb(const char *name);     /* NULL: there is none */
/* Reads the words after the verb. -1: to be run; otherwise the exit code: help was given, or usage was wrong. */
int ctl_parse(const struct ctl_verb *verb, int argc, char **argv, struct ctl_arguments *arguments);

/* "coldstreamctl VERB: [source:major:minor: ]message" on stderr; the exit code. */
int ctl_fail(const struct ctl_arguments *arguments, const struct cs_error *err);
/* A message for people on stderr, unless quiet. */
void ctl_say(const struct ctl_arguments *arguments, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
