/* What the verbs of coldstreamctl share: one table of verbs, each with its own table of options, from which parsing,
 * help and the suggestions for mistyped words follow. */
#ifndef TOOLS_CTL_H
#define TOOLS_CTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

enum { CTL_OPTIONS_MAX = 48, CTL_POSITIONS_MAX = 2 };

struct ctl_option {
    const char *name;           /* without the dashes; NULL ends a table */
    char letter;                /* 0: none */
    const char *value;          /* what its value is called in the help; NULL: a flag; [N]: a number
                                   that may be left out, "" then */
    const char *doc;
    bool required;
};

struct ctl_arguments;

struct ctl_verb {
    const char *name;           /* NULL ends the table */
    const char *group;          /* heading in the help */
    const char *positions; /* "FILE", "[VERSION]": as many words as the verb takes, those in brackets may be left out */
    const char *doc;
    const struct ctl_option *option;
    int (*run)(const struct ctl_arguments *arguments);     /* the exit code */
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
/* Reads the words after the verb. False: usage was wrong, and said so on stderr. */
bool ctl_parse(const struct ctl_verb *verb, int argc, char **argv, struct ctl_arguments *arguments);
/* The name in the list (NULL-terminated) that was probably meant, or NULL. */
const char *ctl_nearest(const char *word, const char *const *names);
void ctl_help_verb(const struct ctl_verb *verb);

/* "coldstreamctl VERB: [source:major:minor: ]message" on stderr; the exit code. */
int ctl_fail(const struct ctl_arguments *arguments, const struct cs_error *err);
/* A message for people on stderr, unless quiet. */
void ctl_say(const struct ctl_arguments *arguments, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line on stderr that is written anew as work goes on: rate, share, time left. Silent where stderr is no terminal. */
struct ctl_progress { bool shown, active; double started, last; uint64_t total; const char *unit; };
void ctl_progress_start(struct ctl_progress *progress, const struct ctl_arguments *arguments, uint64_t total,
                        const char *unit);
void ctl_progress_update(struct ctl_progress *progress, uint64_t done,
                         const char *more); /* cheap: looks at the clock */
void ctl_progress_end(struct ctl_progress *progress);
double ctl_seconds(void);       /* monotonic */

#endif
