/* Errors: formatting and exit codes. */
#include "core/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_inside_character(char byte)
{
    return ((unsigned char)byte & 0xc0) == 0x80;
}

/* What beginning and end say, what failed and why, stays; of what is too long, a path mostly, the middle goes. */
static void set_message(struct cs_error *err, const char *text, const char *reason)
{
    const size_t size = sizeof err->message, half = (size - 4) / 2;
    size_t length = strlen(text), more = reason ? strlen(reason) + 2 : 0;
    if (length + more < size) {
        snprintf(err->message, size, "%s%s%s", text, reason ? ": " : "", reason ? reason : "");
        return;
    }
    size_t head = half, tail = more < half ? half - more : 0;
    while (head && is_inside_character(text[head])) head--;
    while (tail && is_inside_character(text[length - tail])) tail--;
    snprintf(err->message, size, "%.*s...%s%s%s", (int)head, text, text + length - tail, reason ? ": " : "",
             reason ? reason : "");
}

/* reason: comes behind the text; may be NULL. */
static void fill(struct cs_error *err, enum cs_code code, const char *reason, const char *format, va_list arguments)
{
    char *text = NULL;
    bool whole = vasprintf(&text, format, arguments) >= 0;
    memset(err, 0, sizeof *err);
    err->code = code;
    set_message(err, whole ? text : format, reason);
    if (whole) free(text);
}

bool cs_fail(struct cs_error *err, enum cs_code code, const char *format, ...)
{
    if (!err) return false;
    va_list arguments;
    va_start(arguments, format);
    fill(err, code, NULL, format, arguments);
    va_end(arguments);
    return false;
}

bool cs_fail_errno(struct cs_error *err, int number, const char *format, ...)
{
    if (!err) return false;
    char text[128];
    va_list arguments;
    va_start(arguments, format);
    fill(err, CS_FAILED, strerror_r(number, text, sizeof text), format, arguments);
    va_end(arguments);
    return false;
}

bool cs_error_prefix(struct cs_error *err, const char *format, ...)
{
    if (!err) return false;
    char reason[sizeof err->message];
    struct cs_error prefixed;
    va_list arguments;
    memcpy(reason, err->message, sizeof reason);
    va_start(arguments, format);
    fill(&prefixed, err->code, NULL, format, arguments);
    va_end(arguments);
    char *text = NULL;
    if (asprintf(&text, "%s: %s", prefixed.message, reason) < 0) return false;
    set_message(err, text, NULL);
    free(text);
    return false;
}

void cs_error_at(struct cs_error *err, const char *source, int64_t major, int64_t minor)
{
    if (!err) return;
    snprintf(err->at.source, sizeof err->at.source, "%s", source);
    err->at.major = major;
    err->at.minor = minor;
}

int cs_exit_code(enum cs_code code)
{
    switch (code) {
    case CS_OK: return 0;
    case CS_FAILED: return 1;
    case CS_USAGE: return 2;
    case CS_REFUSED: return 65;
    case CS_FENCED: return 76;
    case CS_CONFIG: return 78;
    }
    return 1;
}
