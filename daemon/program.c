/* Words of a command line -> options, by the program's table; help for people at terminals. */
#include "daemon/program.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config_load.h"
#include "core/error.h"
#include "daemon/version.h"

enum { WIDTH = 80, LEFT_MOST = 30, NAMES_MAX = 64 };

const struct program_option program_common[] = {
    { "quiet", 'q', NULL, "fewer messages", false },
    { "verbose", 'v', NULL, "more of them", false },
    { "version", 'V', NULL, "-V: this version; -VV and --version: also what it is built of", false },
    { "help", 'h', NULL, "help, one screen of it", false },
    { "help-all", 0, NULL, "help with all options", false },
    { NULL, 0, NULL, NULL, false },
};

/* ---- what was probably meant ---- */

const char *program_nearest(const char *word, const char *const *names)
{
    size_t count = 0;
    for (; names[count]; count++)
        if (strlen(word) >= 3 && strncmp(word, names[count], strlen(word)) == 0) return names[count];
    return near_miss(word, names, count);
}

/* ---- reading ---- */

size_t program_option_index(const struct program_option *option, const char *name, size_t length)
{
    for (size_t i = 0; option && option[i].name; i++)
        if (strlen(option[i].name) == length && strncmp(option[i].name, name, length) == 0) return i;
    return SIZE_MAX;
}

void program_begin(struct program_reader *reader, const struct program *program, int count, char **word)
{
    *reader = (struct program_reader){ .program = program, .count = count, .word = word };
}

int program_wrong(struct program_reader *reader, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(reader->wrong, sizeof reader->wrong, format, list);
    va_end(list);
    return PROGRAM_WRONG;
}

/* All long names; those of common options last. */
static size_t all_names(const struct program *program, const char *names[NAMES_MAX + 1])
{
    size_t n = 0;
    for (const struct program_option *o = program->option; o && o->name && n < NAMES_MAX - 5; o++)
        if (strcmp(o->name, "-") != 0) names[n++] = o->name;
    for (const struct program_option *o = program_common; o->name; o++) names[n++] = o->name;
    names[n] = NULL;
    return n;
}

static const struct program_option *option_row(const struct program_reader *reader, int found)
{
    return found >= PROGRAM_QUIET ? &program_common[found - PROGRAM_QUIET] : &reader->program->option[found];
}

static int find_exact(const struct program_reader *reader, const char *name, size_t length)
{
    size_t i = program_option_index(reader->program->option, name, length);
    if (i != SIZE_MAX && strcmp(reader->program->option[i].name, "-") != 0) return (int)i;
    i = program_option_index(program_common, name, length);
    return i == SIZE_MAX ? PROGRAM_WRONG : PROGRAM_QUIET + (int)i;
}

/* By its whole name, or by a beginning that no other shares. */
static int find_long(struct program_reader *reader, const char *name, size_t length)
{
    const char *names[NAMES_MAX + 1], *one = NULL, *other = NULL;
    char word[64];
    int found = find_exact(reader, name, length);

    if (found != PROGRAM_WRONG) return found;
    snprintf(word, sizeof word, "%.*s", (int)(length < 60 ? length : 60), name);
    for (size_t i = 0, n = all_names(reader->program, names); i < n && length > 0; i++) {
        if (strncmp(names[i], name, length) != 0) continue;
        if (one && !(strcmp(one, "help") == 0)) other = names[i];
        if (!one) one = names[i];
    }
    if (other) return program_wrong(reader, "--%s could be --%s or --%s: write more of it", word, one, other);
    if (one) return find_exact(reader, one, strlen(one));
    const char *near = program_nearest(word, names);
    if (near) return program_wrong(reader, "no option \"--%s\"; did you mean --%s?", word, near);
    return program_wrong(reader, "no option \"--%s\"", word);
}

static int find_letter(struct program_reader *reader, char letter)
{
    for (size_t i = 0; reader->program->option && reader->program->option[i].name; i++)
        if (reader->program->option[i].letter == letter) return (int)i;
    for (size_t i = 0; program_common[i].name; i++)
        if (program_common[i].letter == letter) return PROGRAM_QUIET + (int)i;
    return program_wrong(reader, isgraph((unsigned char)letter) ? "no option \"-%c\"" : "no option of the byte 0x%02x",
                 (unsigned char)letter);
}

/* The value of an option that takes one: given with it, or the next word. */
static int take_value(struct program_reader *reader, int found, const char *given)
{
    const struct program_option *row = option_row(reader, found);
    bool next = reader->at < reader->count;
    reader->value = "";
    if (!row->value && given) return program_wrong(reader, "--%s takes no value, found \"%.60s\"", row->name, given);
    if (!row->value) return found;
    if (given) reader->value = given;
    else if (*row->value == '[') {      /* may be left out: what it can be follows, or something else does */
        char first = 0;
        if (next) first = *reader->word[reader->at];
        bool fits = strstr(row->value, "...") ? first && first != '-' : isdigit((unsigned char)first) != 0;
        if (fits) reader->value = reader->word[reader->at++];
    } else if (next) reader->value = reader->word[reader->at++];
    else return program_wrong(reader, "--%s wants a value: %s", row->name, row->value);
    return found;
}

int program_next(struct program_reader *reader)
{
    int found;
    if (reader->flags) {
        const char *at = reader->flags;
        reader->flags = NULL;
        if ((found = find_letter(reader, *at)) == PROGRAM_WRONG) return found;
        if (option_row(reader, found)->value)
            return take_value(reader, found, !at[1] ? NULL : at[1] == '=' ? at + 2 : at + 1);
        reader->flags = at[1] ? at + 1 : NULL;
        reader->value = "";
        return found;
    }
    if (reader->at == reader->count) return PROGRAM_END;
    const char *word = reader->word[reader->at++];
    if (reader->words_only || word[0] != '-' || !word[1]) {
        reader->value = word;
        return PROGRAM_WORD;
    }
    if (strcmp(word, "--") == 0) {
        reader->words_only = true;
        return program_next(reader);
    }
    if (word[1] != '-') {
        reader->flags = word + 1;
        return program_next(reader);
    }
    size_t length = strcspn(word + 2, "=");
    if ((found = find_long(reader, word + 2, length)) == PROGRAM_WRONG) return found;
    return take_value(reader, found, word[2 + length] ? word + 3 + length : NULL);
}

bool program_is(const struct program_reader *reader, int found, const char *name)
{
    return found >= 0 && found < PROGRAM_QUIET && strcmp(reader->program->option[found].name, name) == 0;
}

int program_refuse(const struct program_reader *reader)
{
    fprintf(stderr, "%s: %s\nTry '%s --help'.\n", reader->program->name, reader->wrong, reader->program->name);
    return cs_exit_code(CS_USAGE);
}

bool program_answers(const struct program_reader *reader, int found, int *code)
{
    const char *name = reader->program->name;
    char first[32];
    snprintf(first, sizeof first, "%.*s", (int)strcspn(name, " "), name);
    if (found == PROGRAM_VERSION) {
        /* -VV, -V -V and --version say all. */
        const char *word = reader->word[reader->at - 1];
        bool more = reader->flags && *reader->flags == 'V';
        more |= reader->at < reader->count && strcmp(reader->word[reader->at], "-V") == 0;
        if (more || strncmp(word, "--", 2) == 0) version_print(first, stdout);
        else printf("%s %s (commit %s)\n", first, version_number, version_commit);
    } else if (found == PROGRAM_HELP || found == PROGRAM_HELP_ALL) {
        program_help(reader->program, found == PROGRAM_HELP_ALL, stdout);
    } else {
        return false;
    }
    *code = program_flush(first, 0);
    return true;
}

/* ---- writing ---- */

/* Columns, not bytes. */
static int columns(const char *text, size_t bytes)
{
    int n = 0;
    for (size_t i = 0; i < bytes; i++) n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
}

void program_wrap(FILE *out, int at, int indent, const char *text)
{
    bool begun = false;         /* a word stands in this line already */
    while (*text) {
        size_t length = strcspn(text, " \n");
        int width = columns(text, length);
        if (begun && at + 1 + width > WIDTH) {
            fprintf(out, "\n%*s", indent, "");
            at = indent;
            begun = false;
        }
        if (begun) fputc(' ', out);
        fwrite(text, 1, length, out);
        at += width + begun;
        begun = true;
        text += length;
        if (*text == '\n') {
            if (text[1]) fprintf(out, "\n%*s", indent, "");
            at = indent;
            begun = false;
        }
        text += strspn(text, " \n");
    }
    fputc('\n', out);
}

static int left_of(const struct program_option *o, char *left, size_t size)
{
    if (o->letter) snprintf(left, size, "-%c, --%s%s%s", o->letter, o->name, o->value ? " " : "",
                            o->value ? o->value : "");
    else snprintf(left, size, "    --%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
    return (int)strlen(left);
}

void program_help(const struct program *program, bool all, FILE *out)
{
    char left[96], usage[512];
    const char *bold = program_colors(out) ? "\033[1m" : "", *plain = *bold ? "\033[m" : "";
    int widest = 0;
    bool more = false;
    size_t used = 0;

    for (const struct program_option *o = program->option; o && o->name && (all || *o->name != '-'); o++) {
        int width = *o->name == '-' ? 0 : left_of(o, left, sizeof left);
        if (width > widest && width <= LEFT_MOST) widest = width;
        if (o->required)
            used += (size_t)snprintf(usage + used, sizeof usage - used, " --%s %s", o->name, o->value);
    }
    snprintf(usage + used, sizeof usage - used, "%s%s%s", program->option && program->option->name ? " [options]" : "",
             program->words ? " " : "", program->words ? program->words : "");
    fprintf(out, "%susage:%s %s", bold, plain, program->name);
    program_wrap(out, 7 + (int)strlen(program->name), 7, usage);
    fputc('\n', out);
    program_wrap(out, 0, 0, program->doc);
    fputc('\n', out);
    for (const struct program_option *o = program->option; o && o->name; o++) {
        if (*o->name == '-') {
            more = true;
            if (all) continue;
            break;
        }
        int width = left_of(o, left, sizeof left), indent = 2 + widest + 2;
        fprintf(out, "  %s%*s", left, width > widest ? 2 : widest - width + 2, "");
        program_wrap(out, width > widest ? width + 4 : indent, indent, o->doc);
    }
    fputs("  -q, -v  fewer or more messages;  -V, -VV  the version;  -h  this text", out);
    fputs(more && !all ? "\n  --help-all  this text, and all other options\n" : "\n", out);
    if (program->note) {
        fputc('\n', out);
        program_wrap(out, 0, 0, program->note);
    }
    if (!program->example) return;
    fprintf(out, "\n%sExamples:%s\n", bold, plain);
    for (const char *line = program->example; *line; line += strcspn(line, "\n") + 1)
        fprintf(out, "  %.*s\n", (int)strcspn(line, "\n"), line);
}

int program_flush(const char *name, int code)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    int number = errno;         /* 0: it failed some time before */
    struct pollfd pipe = { .fd = STDOUT_FILENO, .events = POLLOUT };
    bool gone = number == EPIPE || (poll(&pipe, 1, 0) == 1 && (pipe.revents & POLLERR));
    if (!gone)                  /* else who reads has seen enough: not worth a word */
        fprintf(stderr, "%s: can't write to standard output: %s\n", name,
                number ? strerror(number) : "is its disk full?");
    return code ? code : cs_exit_code(CS_FAILED);
}

bool program_rewrites(FILE *out)
{
    const char *terminal = getenv("TERM");
    return isatty(fileno(out)) && terminal && *terminal && strcmp(terminal, "dumb") != 0;
}

bool program_colors(FILE *out)
{
    const char *none = getenv("NO_COLOR");
    return program_rewrites(out) && !(none && *none);
}
