/* Words of the command line -> arguments of a verb; messages for people. */
#include "tools/ctl.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/value.h"
#include "core/need.h"
#include "daemon/text.h"

const char *ctl_value(const struct ctl_arguments *arguments, const char *option)
{
    size_t i = program_option_index(arguments->verb->option, option, strlen(option));
    assert(i != SIZE_MAX);
    return arguments->value[i];
}

bool ctl_count(const struct ctl_arguments *arguments, const char *option, uint64_t min, uint64_t max, uint64_t fallback,
               uint64_t *count, struct cs_error *err)
{
    const char *text = ctl_value(arguments, option);

    *count = fallback;
    if (!text) return true;
    if (value_count(text, count) || *count < min || *count > max)
        return cs_fail(err, CS_USAGE, "--%s: found \"%s\", allowed is a whole number from %llu to %llu", option, text,
                       (unsigned long long)min, (unsigned long long)max);
    return true;
}

struct program ctl_program(const struct ctl_verb *verb, char name[64])
{
    snprintf(name, 64, "coldstreamctl %s", verb->name);
    return (struct program){ .name = name,
                             .words = verb->positions,
                             .doc = verb->doc,
                             .option = verb->option,
                             .note = verb->note,
                             .example = verb->example };
}

/* What the words come to, once all are read; PROGRAM_WRONG where something is missing. */
static int complete(struct program_reader *reader, const struct ctl_verb *verb, const struct ctl_arguments *arguments,
                    size_t positions, size_t needed)
{
    for (size_t i = 0; verb->option && verb->option[i].name; i++)
        if (verb->option[i].required && !arguments->value[i])
            return program_wrong(reader, "--%s %s is needed", verb->option[i].name, verb->option[i].value);
    if (positions < needed) return program_wrong(reader, "it takes %s", verb->positions);
    return PROGRAM_END;
}

int ctl_parse(const struct ctl_verb *verb, int argc, char **argv, struct ctl_arguments *arguments)
{
    size_t positions = 0, allowed = 0, needed = 0;
    struct program_reader reader;
    char name[64];
    int found, code;
    struct program program = ctl_program(verb, name);

    for (const char *p = verb->positions; p && *p; p += strcspn(p, " "), p += strspn(p, " ")) {
        allowed++;
        needed += *p != '[';
    }
    *arguments = (struct ctl_arguments){ .verb = verb };
    program_begin(&reader, &program, argc, argv);
    while ((found = program_next(&reader)) >= 0 || found == PROGRAM_WORD) {
        if (program_answers(&reader, found, &code)) return code;
        if (found == PROGRAM_QUIET) arguments->quiet = true;
        else if (found == PROGRAM_VERBOSE) arguments->verbose = true;
        else if (found == PROGRAM_WORD) {
            if (positions == allowed && allowed)
                found = program_wrong(&reader, "one word too many: \"%.100s\" (it takes %s)", reader.value,
                                      verb->positions);
            else if (!allowed)
                found = program_wrong(&reader, "takes no word besides its options, found \"%.100s\"", reader.value);
            else arguments->position[positions++] = reader.value;
        } else if (arguments->value[found] && verb->option[found].value) {
            found = program_wrong(&reader, "--%s is given twice", verb->option[found].name);
        } else {
            arguments->value[found] = reader.value;
        }
        if (found == PROGRAM_WRONG) break;
    }
    if (found == PROGRAM_END) found = complete(&reader, verb, arguments, positions, needed);
    return found == PROGRAM_WRONG ? program_refuse(&reader) : -1;
}

int ctl_fail(const struct ctl_arguments *arguments, const struct cs_error *err)
{
    fprintf(stderr, "coldstreamctl %s: ", arguments->verb->name);
    if (err->at.source[0]) {
        text_show(stderr, err->at.source);
        fputc(':', stderr);
        if (err->at.major) fprintf(stderr, "%lld:", (long long)err->at.major);
        if (err->at.minor) fprintf(stderr, "%lld:", (long long)err->at.minor);
        fprintf(stderr, " ");
    }
    text_show(stderr, err->message);
    fputc('\n', stderr);
    return cs_exit_code(err->code);
}

void ctl_say(const struct ctl_arguments *arguments, const char *format, ...)
{
    char *text;
    va_list list;

    if (arguments->quiet) return;
    va_start(list, format);
    if (vasprintf(&text, format, list) < 0) need(NULL);
    va_end(list);
    text_show(stderr, text);
    fputc('\n', stderr);
    free(text);
}
