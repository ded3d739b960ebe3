/* Errors: formatting and exit codes. */
#include "core/error.h"

#include <stdio.h>
#include <string.h>

static void fill(struct cs_error *err, enum cs_code code, const char *format, va_list arguments)
{
    memset(err, 0, sizeof *err);
    err->code = code;
    vsnprintf(err->message, sizeof err->message, format, arguments);
}

bool cs_fail(struct cs_error *err, enum cs_code code, const char *format, ...)
{
    if (!err) return false;
    va_list arguments;
    va_start(arguments, format);
    fill(err, code, format, arguments);
    va_end(arguments);
    return false;
}

bool cs_fail_errno(struct cs_error *err, int number, const char *format, ...)
{
    if (!err) return false;
    va_list arguments;
    va_start(arguments, format);
    fill(err, CS_FAILED, format, arguments);
    va_end(arguments);
    size_t used = strlen(err->message);
    char text[128];
    snprintf(err->message + used, sizeof err->message - used, ": %s", strerror_r(number, text, sizeof text));
    return false;
}

bool cs_error_prefix(struct cs_error *err, const char *format, ...)
{
    if (!err) return false;
    char text[sizeof err->message];
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (used >= 0 && (size_t)used < sizeof text)
        snprintf(text + used, sizeof text - (size_t)used, ": %s", err->message);
    memcpy(err->message, text, sizeof text);
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
