/* The command line of a program or of a verb: one table of options, from which parsing, --help, the man pages and
 * completion follow. A terminal's manners: when there are colors, how wide it is. */
#ifndef DAEMON_PROGRAM_H
#define DAEMON_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct program_option {
    const char *name;           /* without the dashes; NULL ends a table */
    char letter;                /* 0: none */
    const char *value;          /* what its value is called; NULL: a flag; [N], a number, or [A,...], a list: may be
                                   left out, "" then; words in lower case are values themselves: "safetensors|npz" */
    const char *doc;
    bool required;
};
/* A row that ends what --help shows of a long table; --help-all and the man page show what follows it as well. */
#define PROGRAM_MORE { "-", 0, NULL, NULL, false }

struct program {
    const char *name;           /* "coldstreamd", "coldstreamctl train" */
    const char *words;          /* what it takes besides options: "FILE", "[SNAPSHOT] TO"; NULL: nothing */
    const char *doc;            /* what it does, a sentence or two */
    const struct program_option *option;
    const char *note;           /* after the options; NULL: none */
    const char *example;        /* lines to type, each ended by a line break; NULL: none */
};

/* All programs have these: -q -v -V -h and their long forms. */
extern const struct program_option program_common[];
enum {
    PROGRAM_END = -1, PROGRAM_WORD = -2, PROGRAM_WRONG = -3,    /* what program_next found, besides an option's index */
    PROGRAM_QUIET = 1000, PROGRAM_VERBOSE, PROGRAM_VERSION, PROGRAM_HELP, PROGRAM_HELP_ALL,
};

struct program_reader {
    const struct program *program;
    int count;
    char **word;
    int at;                     /* the next word */
    const char *flags;          /* rest of a word of letters: -jq */
    bool words_only;            /* behind -- */
    const char *value;          /* of the option found, "" of a flag; the word itself */
    char wrong[256];            /* with PROGRAM_WRONG: what, found where, allowed is */
};

/* words: without the program's name. */
void program_begin(struct program_reader *reader, const struct program *program, int count, char **word);
/* --long, --long=value, --long value, -l, -lvalue, -l value, -ab, -- ; a long name may be cut short where only one
 * begins so. */
int program_next(struct program_reader *reader);
/* Is it this option of the program's own table? */
bool program_is(const struct program_reader *reader, int found, const char *name);
/* Notes what the caller found wrong; PROGRAM_WRONG. */
int program_wrong(struct program_reader *reader, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Says what is wrong on stderr; returns the exit code. */
int program_refuse(const struct program_reader *reader);
/* --help, --help-all, -V, --version: does it, and returns true. code, where not NULL: the exit code. */
bool program_answers(const struct program_reader *reader, int found, int *code);

/* The option of the table, or SIZE_MAX. */
size_t program_option_index(const struct program_option *option, const char *name, size_t length);
/* The name in the list (NULL-terminated) that was probably meant, or NULL. */
const char *program_nearest(const char *word, const char *const *names);
void program_help(const struct program *program, bool all, FILE *out);
/* Writes text in lines of at most 80 columns, the first from column `at`, others indented; ends the last one. */
void program_wrap(FILE *out, int at, int indent, const char *text);
/* What was written to stdout is there, or it is said why not: the exit code, code unless writing failed. */
int program_flush(const char *name, int code);

/* Colors are for terminals that can, and for people who have not set NO_COLOR. */
bool program_colors(FILE *out);
/* A line may be written over again: a terminal, and not a dumb one. */
bool program_rewrites(FILE *out);

/* The two daemons' own; coldstreamctl's are in its table of verbs. */
extern const struct program program_coldstreamd, program_coldstream_serve;

#endif
