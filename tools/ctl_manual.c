/* sample, manual: documentation written from the tables of settings, verbs and options: it can't fall behind them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/roff.h"
#include "daemon/version.h"
#include "tools/ctl_verbs.h"

const struct program_option ctl_sample_options[] = {
    { "minimal", 'm', NULL, "only what has no default that could be right for you", false },
    { NULL, 0, NULL, NULL, false },
};
const struct program_option ctl_manual_options[] = {
    { "format", 'f', "markdown|man", "of the settings [markdown]; of a page man alone", false },
    { NULL, 0, NULL, NULL, false },
};

static int print(char *text)
{
    int failed = !text || fputs(text, stdout) == EOF || fflush(stdout) != 0;
    free(text);
    return failed ? cs_exit_code(CS_FAILED) : 0;
}

int ctl_sample(const struct ctl_arguments *arguments)
{
    return print(config_sample(ctl_flag(arguments, "minimal")));
}

/* ---- the programs' pages ---- */

static void man_options(FILE *out, const struct program_option *option)
{
    for (; option && option->name; option++) {
        if (strcmp(option->name, "-") == 0) continue;
        fputs(".TP\n", out);
        if (option->letter) fprintf(out, "\\fB\\-%c\\fR, ", option->letter);
        fputs("\\fB", out);
        roff_text(out, "--");
        roff_text(out, option->name);
        fputs("\\fR", out);
        if (option->value) {
            fputs(" \\fI", out);
            roff_text(out, option->value);
            fputs("\\fR", out);
        }
        fputc('\n', out);
        roff_text(out, option->doc);
        fputs(option->required ? " (required)\n" : "\n", out);
    }
}

static void man_usage(FILE *out, const struct program *program)
{
    fputs(".B ", out);
    roff_line(out, program->name);
    for (const struct program_option *o = program->option; o && o->name; o++) {
        if (!o->required) continue;
        fputs("\\fB", out);
        roff_text(out, "--");
        roff_text(out, o->name);
        fputs("\\fR \\fI", out);
        roff_text(out, o->value);
        fputs("\\fR\n", out);
    }
    if (program->option && program->option->name) fputs(".RI [ options ]\n", out);
    if (program->words) {
        fputs(".I ", out);
        roff_line(out, program->words);
    }
}

static void man_example(FILE *out, const char *example)
{
    if (!example) return;
    fputs(".PP\n.nf\n.RS\n", out);
    roff_text(out, example);
    fputs(".RE\n.fi\n", out);
}

static void man_exit(FILE *out)
{
    static const struct { int code; const char *doc; } row[] = {
        { 0, "done" },
        { 1, "failed: a disk, the network, memory; it may work later" },
        { 2, "wrong usage" },
        { 65, "state or data refused: damaged, another model's, or offsets out of range" },
        { 76, "the state is owned by another instance" },
        { 78, "bad configuration" },
    };
    fputs(".SH EXIT STATUS\n", out);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) fprintf(out, ".TP\n.B %d\n%s\n", row[i].code, row[i].doc);
}

/* Each line a paragraph; exit statuses have a section of their own. */
static void man_notes(FILE *out, const char *note)
{
    fputs(".SH NOTES\n", out);
    for (size_t length; *note && strncmp(note, "Exit: ", 6) != 0; note += length + (note[length] == '\n')) {
        char line[512];
        length = strcspn(note, "\n");
        snprintf(line, sizeof line, "%.*s", (int)length, note);
        roff_line(out, line);
        fputs(".PP\n", out);
    }
}

static void man_environment(FILE *out)
{
    fputs(".SH ENVIRONMENT\n.TP\n.B NO_COLOR\nwhere it is set and not empty nothing is colored; neither is anything "
          "that does "
          "not go to a terminal, or to one whose\n.B TERM\nis dumb. There is no line of progress there either.\n",
          out);
}

/* A daemon's page; description: roff, what --help has no room for. */
static void man_daemon(FILE *out, const struct program *program, const char *brief, const char *more, const char *also)
{
    roff_begin(out, program->name, 8, version_number, brief);
    fputs(".SH SYNOPSIS\n", out);
    man_usage(out, program);
    fputs(".SH DESCRIPTION\n", out);
    roff_line(out, program->doc);
    fputs(more, out);
    fputs(".SH OPTIONS\n", out);
    man_options(out, program->option);
    man_options(out, program_common);
    man_notes(out, program->note);
    man_exit(out);
    man_environment(out);
    fputs(".SH EXAMPLES\n", out);
    man_example(out, program->example);
    fprintf(out, ".SH SEE ALSO\n%s", also);
}

static void man_coldstreamd(FILE *out)
{
    man_daemon(
        out, &program_coldstreamd, "learns a click model from a stream, and publishes it",
        ".PP\nIt reads impressions and clicks from Kafka, joins them in event time, scores each batch before it learns "
        "it, "
        "and keeps the model, its optimizers and its place in the stream in one snapshot, from which a restart goes on "
        "as if nothing had been. Versions of the model are published as immutable directories.\n"
        ".SH FILES\n"
        ".TP\n.I /etc/coldstream/coldstream.yaml\nthe configuration:\n.BR coldstream.yaml (5)\n"
        ".TP\n.I /var/lib/coldstream/snapshot\nits state:\n.BR coldstream\\-snapshot (5)\n"
        ".TP\n.I /var/lib/coldstream/checkpoints\nwhat it publishes:\n.BR coldstream\\-checkpoint (5)\n"
        ".TP\n.I /run/coldstream/control.sock\nwhere\n.BR coldstreamctl (1)\nasks it\n",
        ".BR coldstreamctl (1),\n.BR coldstream.yaml (5),\n.BR coldstream\\-snapshot (5),\n"
        ".BR coldstream\\-checkpoint (5),\n.BR coldstream\\-serve (8)\n");
}

static void man_coldstream_serve(FILE *out)
{
    man_daemon(out, &program_coldstream_serve, "scores over HTTP with what coldstreamd publishes", "",
               ".BR coldstreamd (8),\n.BR coldstream\\-fetch (1),\n.BR coldstream\\-checkpoint (5),\n"
               ".BR libcoldstream (3)\n");
}

static void man_coldstreamctl(FILE *out)
{
    const char *group = NULL;
    roff_begin(out, "coldstreamctl", 1, version_number, "asks a running coldstreamd, and works on its files");
    fputs(".SH SYNOPSIS\n.B coldstreamctl\n.I VERB\n.RI [ options ]\n.SH DESCRIPTION\n"
          "Results go to standard output, messages to standard error. Where a verb has\n.B \\-\\-json\n"
          "its result is for programs: members may be added, none is renamed or removed.\n",
          out);
    for (const struct ctl_verb *verb = ctl_verb_table; verb->name; verb++) {
        char name[64];
        if (!verb->group) continue;
        struct program program = ctl_program(verb, name);
        if (verb->group != group) {
            fputs(".SH \"", out);
            roff_text(out, verb->group);
            fputs("\"\n", out);
        }
        group = verb->group;
        fprintf(out, ".SS %s\n", verb->name);
        man_usage(out, &program);
        fputs(".PP\n", out);
        roff_line(out, verb->doc);
        man_options(out, verb->option);
        if (verb->note) {
            fputs(".PP\n", out);
            roff_line(out, verb->note);
        }
        man_example(out, verb->example);
    }
    fputs(".SH OPTIONS OF ALL VERBS\n", out);
    man_options(out, program_common);
    man_exit(out);
    man_environment(out);
    fputs(".SH SEE ALSO\n.BR coldstreamd (8),\n.BR coldstream.yaml (5),\n.BR coldstream\\-fetch (1)\n", out);
}

static void man_coldstream_yaml(FILE *out)
{
    char *text = config_man(version_number);
    fputs(text, out);
    free(text);
}

const char *const ctl_manual_pages[] = { "coldstreamctl.1", "coldstream.yaml.5", "coldstreamd.8", "coldstream-serve.8",
                                         NULL };
enum { PAGES = sizeof ctl_manual_pages / sizeof *ctl_manual_pages - 1 };
static void (*const writes[PAGES])(FILE *out) = {       /* in the same order */
    man_coldstreamctl, man_coldstream_yaml, man_coldstreamd, man_coldstream_serve,
};

int ctl_manual(const struct ctl_arguments *arguments)
{
    struct cs_error err = { 0 };
    const char *format = ctl_value(arguments, "format"), *page = arguments->position[0];
    bool man = format ? strcmp(format, "man") == 0 : page != NULL;

    if (format && !man && strcmp(format, "markdown") != 0) {
        cs_fail(&err, CS_USAGE, "--format: found \"%.60s\", allowed are markdown and man", format);
        return ctl_fail(arguments, &err);
    }
    if (!page) page = "coldstream.yaml.5";
    if (!man && strcmp(page, "coldstream.yaml.5") == 0) return print(config_manual());
    for (size_t i = 0; man && i < PAGES; i++) {
        if (strcmp(ctl_manual_pages[i], page) != 0) continue;
        writes[i](stdout);
        return 0;
    }
    const char *near = program_nearest(page, ctl_manual_pages);
    if (!man) cs_fail(&err, CS_USAGE, "%.60s is there as --format man alone", page);
    else
        cs_fail(&err, CS_USAGE, "no page \"%.60s\"%s%s%s; allowed: coldstreamctl.1, coldstream.yaml.5, coldstreamd.8, "
                "coldstream-serve.8", page, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    return ctl_fail(arguments, &err);
}
