/* See value.h. */
#include "config/value.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SECRET_MAX = 64 * 1024 };

static const struct { const char *name; int64_t milliseconds; } duration_units[] = {
    { "d", 86400000 }, { "h", 3600000 }, { "m", 60000 }, { "s", 1000 }, { "ms", 1 },
};
static const struct {
    const char *name;
    unsigned shift;
} size_units[] = { { "GiB", 30 }, { "MiB", 20 }, { "KiB", 10 }, { "B", 0 } };

/* Leading decimal digits; *end is what follows. False: none, or beyond 64 bits. */
static bool digits(const char *text, uint64_t *value, const char **end)
{
    uint64_t sum = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++)
        if (__builtin_mul_overflow(sum, UINT64_C(10), &sum) || __builtin_add_overflow(sum, (uint64_t)(*at - '0'), &sum))
            return false;
    *value = sum;
    *end = at;
    return at > text;
}

const char *value_count(const char *text, uint64_t *value)
{
    const char *end;
    return digits(text, value, &end) && !*end ? NULL : "";
}

const char *value_number(const char *text, double *value)
{
    char *end;
    if (text[strspn(text, "0123456789.eE+-")] || !*text) return "";     /* no hexadecimal, nan, inf, blanks */
    errno = 0;
    *value = strtod(text, &end);
    return end != text && !*end && isfinite(*value) ? NULL : "";
}

const char *value_duration(const char *text, int64_t *milliseconds)
{
    uint64_t count;
    const char *unit;
    if (!digits(text, &count, &unit)) return "";
    if (!*unit) {
        *milliseconds = 0;
        return count == 0 ? NULL : "a duration has a unit, as 10s";
    }
    for (size_t i = 0; i < sizeof duration_units / sizeof *duration_units; i++) {
        if (strcmp(unit, duration_units[i].name) != 0) continue;
        uint64_t product;
        if (__builtin_mul_overflow(count, (uint64_t)duration_units[i].milliseconds, &product) || product > INT64_MAX)
            return "";
        *milliseconds = (int64_t)product;
        return NULL;
    }
    return "";
}

const char *value_size(const char *text, uint64_t *bytes)
{
    uint64_t count;
    const char *unit;
    if (!digits(text, &count, &unit)) return "";
    *bytes = count;
    if (!*unit) return NULL;
    for (size_t i = 0; i < sizeof size_units / sizeof *size_units; i++) {
        if (strcmp(unit, size_units[i].name) != 0) continue;
        return __builtin_mul_overflow(count, UINT64_C(1) << size_units[i].shift, bytes) ? "" : NULL;
    }
    return strchr("kKmMgG", *unit) ? "units count in 1024: KiB, MiB, GiB" : "";
}

const char *value_time(const char *text, int64_t *milliseconds)
{
    uint64_t count;
    const char *end;
    if (digits(text, &count, &end) && !*end) {
        *milliseconds = (int64_t)count;
        if (count > INT64_C(253402300799999)) return "beyond the year 9999";
        return count < UINT64_C(10000000000) && count > 0 ? "a time is in milliseconds since the epoch" : NULL;
    }
    struct tm parts = { 0 };
    end = strptime(text, "%Y-%m-%dT%H:%M:%S", &parts);
    if (!end) return "";
    int64_t part = 0;
    if (*end == '.') {
        int64_t scale = 100;
        for (end++; *end >= '0' && *end <= '9'; end++, scale /= 10) part += (*end - '0') * scale;
    }
    if (strcmp(end, "Z") != 0) return "a time ends in Z (UTC)";
    struct tm checked = parts;
    time_t seconds = timegm(&checked);
    if (checked.tm_mday != parts.tm_mday || checked.tm_hour != parts.tm_hour || checked.tm_sec != parts.tm_sec ||
        seconds < 0)
        return "";
    *milliseconds = (int64_t)seconds * 1000 + part;
    return NULL;
}

char *value_number_text(struct pool *pool, double value)
{
    for (int precision = 1; precision < 17; precision++) {
        char text[40];
        snprintf(text, sizeof text, "%.*g", precision, value);
        if (strtod(text, NULL) == value) return pool_copy(pool, text, strlen(text));
    }
    return pool_format(pool, "%.17g", value);
}

char *value_duration_text(struct pool *pool, int64_t milliseconds)
{
    if (milliseconds == 0) return pool_copy(pool, "0", 1);
    size_t i = 0;
    while (milliseconds % duration_units[i].milliseconds) i++;
    return pool_format(pool, "%" PRId64 "%s", milliseconds / duration_units[i].milliseconds, duration_units[i].name);
}

char *value_text_text(struct pool *pool, const char *text)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_/", others[] = "0123456789.-";
    static const char *const words[] = { "null", "Null", "NULL" };
    bool plain = *text && strchr(letters, *text);
    for (const char *at = text; *at && plain; at++) plain = strchr(letters, *at) || strchr(others, *at);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) plain = plain && strcmp(text, words[i]) != 0;
    if (plain) return pool_copy(pool, text, strlen(text));
    static const char digit[] = "0123456789abcdef";
    char *quoted = pool_take(pool, 4 * strlen(text) + 3), *end = quoted;
    *end++ = '"';
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (*at == '"' || *at == '\\') *end++ = '\\';
        if (*at < 0x20 || *at == 0x7f) {
            *end++ = '\\';
            *end++ = 'x';
            *end++ = digit[*at >> 4];
            *end++ = digit[*at & 15];
        } else {
            *end++ = (char)*at;
        }
    }
    *end++ = '"';
    return quoted;
}

/* ---- references ---- */

size_t value_read(int file, char *bytes, size_t size)
{
    size_t length = 0;
    while (length < size) {
        ssize_t got = read(file, bytes + length, size - length);
        if (got > 0) length += (size_t)got;
        else if (got == 0 || errno != EINTR) break;
    }
    return length;
}

/* shown: the path as messages may have it. A credential lies in a directory that systemd made for us alone, and may
 * carry an ACL, whose mask looks like the group's right to read. */
static const char *read_secret(struct pool *pool, const char *path, const char *shown, bool credential,
                               const char **why)
{
    const char *value = NULL;
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0 || fstat(file, &status) != 0) *why = pool_format(pool, "%s can't be read: %s", shown, strerror(errno));
    else if (!S_ISREG(status.st_mode)) *why = pool_format(pool, "%s is not a file", shown);
    else if (status.st_mode & S_IWOTH) *why = pool_format(pool, "%s can be changed by everyone: chmod 0400 it", shown);
    else if (status.st_mode & (credential ? S_IRWXO : S_IRWXG | S_IRWXO))
        *why = pool_format(pool, "%s can be read or changed by others (mode %04o): chmod 0400 it", shown,
                           status.st_mode & 07777);
    else if (!credential && geteuid() != 0 && status.st_uid != 0 && status.st_uid != geteuid())
        *why = pool_format(pool, "%s belongs to another user (%u): chown it to the daemon's user or to root", shown,
                           (unsigned)status.st_uid);
    else if (status.st_size > SECRET_MAX)
        *why = pool_format(pool, "%s is too large for a secret: %lld bytes of at most %d", shown,
                           (long long)status.st_size, SECRET_MAX);
    else {
        char *text = pool_take(pool, (size_t)status.st_size + 1);
        size_t length = value_read(file, text, (size_t)status.st_size);
        bool whole = length == (size_t)status.st_size;
        if (length > 0 && text[length - 1] == '\n') length--;
        if (length > 0 && text[length - 1] == '\r') length--;
        text[length] = 0;
        if (!whole) *why = pool_format(pool, "%s ends before its size: is it being written?", shown);
        else if (length == 0) *why = pool_format(pool, "%s is empty", shown);
        else if (memchr(text, 0, length)) *why = pool_format(pool, "%s holds a NUL byte", shown);
        else value = text;
    }
    if (file >= 0) close(file);
    return value;
}

static const char *expand_variables(struct pool *pool, const char *text, bool *referenced, const char **why)
{
    const char *value = "";
    while (*text) {
        const char *mark = strstr(text, "${");
        if (!mark) return pool_format(pool, "%s%s", value, text);
        if (mark > text && mark[-1] == '$') {       /* $${ is a plain ${ */
            value = pool_format(pool, "%s%.*s{", value, (int)(mark - text), text);
            text = mark + 2;
            continue;
        }
        const char *end = strchr(mark, '}');
        if (!end || end == mark + 2) {
            *why = end ? "${} names no environment variable" : "${ without its }";
            return NULL;
        }
        const char *name = pool_copy(pool, mark + 2, (size_t)(end - mark - 2)), *found = getenv(name);
        if (!found) {
            *why = pool_format(pool, "the environment variable %s is not set", name);
            return NULL;
        }
        value = pool_format(pool, "%s%.*s%s", value, (int)(mark - text), text, found);
        *referenced = true;
        text = end + 1;
    }
    return value;
}

const char *value_resolve(struct pool *pool, const char *text, bool whole, bool *referenced, const char **why)
{
    const char *written = text;
    if (strstr(text, "${") && !(text = expand_variables(pool, text, referenced, why))) return NULL;
    const char *shown = text == written ? NULL : written;       /* a variable may hold a secret, even as a path */
    if (whole && strncmp(text, "file:", 5) == 0) {
        *referenced = true;
        return read_secret(pool, text + 5, shown ? shown : text + 5, false, why);
    }
    if (whole && strncmp(text, "credential:", 11) == 0) {
        const char *directory = getenv("CREDENTIALS_DIRECTORY"), *name = text + 11;
        *referenced = true;
        if (!directory)
            *why = "there are no credentials: CREDENTIALS_DIRECTORY is not set (systemd's LoadCredential sets it)";
        else if (!*name || strchr(name, '/')) *why = "a credential is named without directories";
        else {
            const char *path = pool_format(pool, "%s/%s", directory, name);
            return read_secret(pool, path, shown ? shown : path, true, why);
        }
        return NULL;
    }
    return text;
}
