/* Words of the command line -> arguments of a verb; messages and progress for people. */
#include "tools/ctl.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Levenshtein's distance; words of an option's length, so a small table will do. */
static size_t distance(const char *a, const char *b)
{
    size_t row[64], width = strlen(b);

    if (width >= 63) return SIZE_MAX;
    for (size_t j = 0; j <= width; j++) row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= width; j++) {
            size_t above = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (above + 1 < best) best = above + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
            diagonal = above;
        }
    }
    return row[width];
}

const char *ctl_nearest(const char *word, const char *const *names)
{
    const char *best = NULL;
    size_t least = strlen(word) / 3 + 1;        /* further away is no typing error */

    for (; *names; names++) {
        size_t d = distance(word, *names);
        if (strncmp(word, *names, strlen(word)) == 0 && strlen(word) >= 3) d = 1;
        if (d <= least && (!best || d < least)) {
            best = *names;
            least = d;
        }
    }
    return best;
}

static size_t option_index(const struct ctl_verb *verb, const char *name, size_t length)
{
    for (size_t i = 0; verb->option && verb->option[i].name; i++)
        if (strlen(verb->option[i].name) == length && strncmp(verb->option[i].name, name, length) == 0) return i;
    return SIZE_MAX;
}

const char *ctl_value(const struct ctl_arguments *arguments, const char *option)
{
    size_t i = option_index(arguments->verb, option, strlen(option));
    assert(i != SIZE_MAX);
    return arguments->value[i];
}

bool ctl_count(const struct ctl_arguments *arguments, const char *option, uint64_t min, uint64_t max, uint64_t fallback,
               uint64_t *count, struct cs_error *err)
{
    const char *text = ctl_value(arguments, option);
    char *end;

    *count = fallback;
    if (!text) return true;
    errno = 0;
    *count = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || *count < min || *count > max)
        return cs_fail(err, CS_USAGE, "--%s: found \"%s\", allowed is a whole number from %llu to %llu", option, text,
                       (unsigned long long)min, (unsigned long long)max);
    return true;
}

static bool wrong(const struct ctl_verb *verb, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool wrong(const struct ctl_verb *verb, const char *format, ...)
{
    va_list list;

    fprintf(stderr, "coldstreamctl %s: ", verb->name);
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fprintf(stderr, "\nTry 'coldstreamctl %s --help'.\n", verb->name);
    return false;
}

static bool unknown_option(const struct ctl_verb *verb, const char *word)
{
    const char *names[CTL_OPTIONS_MAX + 4] = { "help", "quiet", "verbose" }, *near;
    char name[64];
    size_t n = 3;

    for (size_t i = 0; verb->option && verb->option[i].name; i++) names[n++] = verb->option[i].name;
    names[n] = NULL;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    near = word[1] == '-' ? ctl_nearest(name, names) : NULL;
    return near ? wrong(verb, "no option \"%.*s\"; did you mean --%s?", (int)strcspn(word, "="), word, near)
                : wrong(verb, "no option \"%.*s\"", (int)strcspn(word, "="), word);
}

bool ctl_parse(const struct ctl_verb *verb, int argc, char **argv, struct ctl_arguments *arguments)
{
    size_t positions = 0, allowed = 0, needed = 0;
    bool words_only = false;

    for (const char *p = verb->positions; p && *p; p += strcspn(p, " "), p += strspn(p, " ")) {
        allowed++;
        needed += *p != '[';
    }
    *arguments = (struct ctl_arguments){ .verb = verb };
    for (int a = 0; a < argc; a++) {
        const char *word = argv[a], *value = NULL;
        size_t i = SIZE_MAX;

        if (words_only || word[0] != '-' || word[1] == '\0') {
            if (positions == allowed)
                return allowed ? wrong(verb, "one word too many: \"%s\" (it takes %s)", word, verb->positions)
                               : wrong(verb, "takes no word besides its options, found \"%s\"", word);
            arguments->position[positions++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) { words_only = true; continue; }
        if (strcmp(word, "-q") == 0 || strcmp(word, "--quiet") == 0) { arguments->quiet = true; continue; }
        if (strcmp(word, "-v") == 0 || strcmp(word, "--verbose") == 0) { arguments->verbose = true; continue; }
        if (word[1] == '-') {
            size_t length = strcspn(word + 2, "=");
            i = option_index(verb, word + 2, length);
            if (i != SIZE_MAX && word[2 + length] == '=') value = word + 3 + length;
        } else {
            for (size_t o = 0; verb->option && verb->option[o].name; o++)
                if (verb->option[o].letter == word[1] && (verb->option[o].value || word[2] == '\0')) i = o;
            if (i != SIZE_MAX && word[2]) value = word + 2;
        }
        if (i == SIZE_MAX) return unknown_option(verb, word);
        if (!verb->option[i].value) {
            if (value) return wrong(verb, "--%s takes no value", verb->option[i].name);
            value = "";
        } else if (!value && *verb->option[i].value == '[') {      /* may be left out: a number follows, or none */
            value = a + 1 < argc && isdigit((unsigned char)*argv[a + 1]) ? argv[++a] : "";
        } else if (!value) {
            if (a + 1 == argc)
                return wrong(verb, "--%s wants a value: %s", verb->option[i].name, verb->option[i].value);
            value = argv[++a];
        }
        if (arguments->value[i] && verb->option[i].value)
            return wrong(verb, "--%s is given twice", verb->option[i].name);
        arguments->value[i] = value;
    }
    for (size_t i = 0; verb->option && verb->option[i].name; i++)
        if (verb->option[i].required && !arguments->value[i])
            return wrong(verb, "--%s %s is needed", verb->option[i].name, verb->option[i].value);
    if (positions < needed) return wrong(verb, "it takes %s", verb->positions);
    return true;
}

void ctl_help_verb(const struct ctl_verb *verb)
{
    printf("usage: coldstreamctl %s%s", verb->name, verb->option && verb->option[0].name ? " [options]" : "");
    for (size_t i = 0; verb->option && verb->option[i].name; i++)
        if (verb->option[i].required) printf(" --%s %s", verb->option[i].name, verb->option[i].value);
    printf("%s%s\n\n%s\n\noptions:\n", verb->positions ? " " : "", verb->positions ? verb->positions : "", verb->doc);
    for (size_t i = 0; verb->option && verb->option[i].name; i++) {
        const struct ctl_option *o = &verb->option[i];
        char left[80];
        snprintf(left, sizeof left, "%c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                 o->letter ? ", " : "  ", o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("  %-32s %s\n", left, o->doc);
    }
    printf("  %-32s %s\n  %-32s %s\n  %-32s %s\n", "-q, --quiet", "no messages besides errors", "-v, --verbose",
           "more of them", "    --help", "this text");
}

int ctl_fail(const struct ctl_arguments *arguments, const struct cs_error *err)
{
    fprintf(stderr, "coldstreamctl %s: ", arguments->verb->name);
    if (err->at.source[0]) {
        fprintf(stderr, "%s:", err->at.source);
        if (err->at.major) fprintf(stderr, "%lld:", (long long)err->at.major);
        if (err->at.minor) fprintf(stderr, "%lld:", (long long)err->at.minor);
        fprintf(stderr, " ");
    }
    fprintf(stderr, "%s\n", err->message);
    return cs_exit_code(err->code);
}

void ctl_say(const struct ctl_arguments *arguments, const char *format, ...)
{
    va_list list;

    if (arguments->quiet) return;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
}

double ctl_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void ctl_progress_start(struct ctl_progress *progress, const struct ctl_arguments *arguments, uint64_t total,
                        const char *unit)
{
    *progress = (struct ctl_progress){
        .shown = !arguments->quiet && isatty(STDERR_FILENO), .started = ctl_seconds(), .total = total, .unit = unit
    };
    progress->last = progress->started;
}

void ctl_progress_update(struct ctl_progress *progress, uint64_t done, const char *more)
{
    double now, seconds;

    if (!progress->shown || (now = ctl_seconds()) - progress->last < 0.2) return;
    progress->last = now;
    progress->active = true;
    seconds = now - progress->started;
    fprintf(stderr, "\r\033[K%llu %s, %.0f/s", (unsigned long long)done, progress->unit, (double)done / seconds);
    if (progress->total && done)
        fprintf(stderr, ", %.0f %%, %.0f s left", 100.0 * (double)done / (double)progress->total,
                seconds / (double)done * (double)(progress->total > done ? progress->total - done : 0));
    if (more && *more) fprintf(stderr, "  %s", more);
    fflush(stderr);
}

void ctl_progress_end(struct ctl_progress *progress)
{
    if (progress->active) fprintf(stderr, "\r\033[K");
    progress->active = false;
}
