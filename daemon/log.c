/* Log lines: formatted into one buffer on the stack, written by one write(), so that threads never mix and no lock is
 * held. Level and format are the process's, like stderr itself: two atomics, nothing else is shared. */
#include "daemon/log.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

enum {
    LINE_SIZE = 8192,       /* a longer line is cut, still well formed */
    RESERVE = 16,           /* room that values leave for "..." and what closes the line */
    JOURNAL_FIELDS = 32,
};

static _Atomic int current_level = LEVEL_INFO;
static _Atomic int current_format = LOG_TEXT;
static atomic_bool to_journal;

/* Name and syslog priority of each level. */
static const struct { const char *name; int priority; } levels[] = {
    [LEVEL_ERROR] = { "error", 3 }, [LEVEL_WARNING] = { "warning", 4 }, [LEVEL_NOTICE] = { "notice", 5 },
    [LEVEL_INFO] = { "info", 6 }, [LEVEL_DEBUG] = { "debug", 7 },
};

struct line { size_t length; char text[LINE_SIZE]; };

static void add_bytes(struct line *line, const char *bytes, size_t count)
{
    size_t room = LINE_SIZE - line->length;
    if (count > room) count = room;
    memcpy(line->text + line->length, bytes, count);
    line->length += count;
}

static void add(struct line *line, const char *text)
{
    add_bytes(line, text, strlen(text));
}

/* Bytes of the UTF-8 character at text: 0 where it is not one (cut short, overlong, a surrogate, a stray byte). */
static size_t character(const unsigned char *text)
{
    if (text[0] < 0x80) return 1;
    size_t count = text[0] >= 0xc2 && text[0] < 0xe0   ? 2
                   : text[0] >= 0xe0 && text[0] < 0xf0 ? 3
                   : text[0] >= 0xf0 && text[0] < 0xf5 ? 4
                                                       : 0;
    for (size_t i = 1; i < count; i++)
        if ((text[i] & 0xc0) != 0x80) return 0;
    if (text[0] == 0xe0 && text[1] < 0xa0) return 0;
    if (text[0] == 0xed && text[1] > 0x9f) return 0;
    if (text[0] == 0xf0 && text[1] < 0x90) return 0;
    if (text[0] == 0xf4 && text[1] > 0x8f) return 0;
    return count;
}

/* text within double quotes; nothing in it can end the line, the quotes, or steer a terminal. */
static void add_quoted(struct line *line, const char *text, enum log_format format)
{
    add(line, "\"");
    for (const unsigned char *at = (const unsigned char *)text; *at;) {
        if (line->length > LINE_SIZE - RESERVE) { add(line, "..."); break; }
        char escape[8];
        size_t count = character(at);
        if (*at == '"' || *at == '\\') snprintf(escape, sizeof escape, "\\%c", *at);
        else if (*at == '\n') snprintf(escape, sizeof escape, "\\n");
        else if (*at == '\t') snprintf(escape, sizeof escape, "\\t");
        else if (count == 0) snprintf(escape, sizeof escape, format == LOG_JSON ? "\\ufffd" : "\\x%02x", *at);
        else if (*at < 0x20 || *at == 0x7f)
            snprintf(escape, sizeof escape, format == LOG_JSON ? "\\u%04x" : "\\x%02x", *at);
        else {
            add_bytes(line, (const char *)at, count);
            at += count;
            continue;
        }
        add(line, escape);
        at++;
    }
    add(line, "\"");
}

/* Can stand without quotes in key=value. */
static bool is_plain(const char *text)
{
    if (!*text) return false;
    for (const unsigned char *at = (const unsigned char *)text; *at; at++)
        if (*at <= 0x20 || *at >= 0x7f || *at == '"' || *at == '\\' || *at == '=') return false;
    return strlen(text) < LINE_SIZE / 2;
}

static void add_value(struct line *line, const struct log_field *field, enum log_format format)
{
    char number[64];
    switch (field->type) {
    case FIELD_TEXT: {
        const char *text = field->value.text;
        if (!text) add(line, format == LOG_JSON ? "null" : "-");
        else if (format == LOG_TEXT && is_plain(text)) add(line, text);
        else add_quoted(line, text, format);
        return;
    }
    case FIELD_SIGNED: snprintf(number, sizeof number, "%" PRId64, field->value.number); break;
    case FIELD_UNSIGNED: snprintf(number, sizeof number, "%" PRIu64, field->value.count); break;
    case FIELD_FLOAT:
        if (format == LOG_JSON && !isfinite(field->value.real)) snprintf(number, sizeof number, "null");
        else snprintf(number, sizeof number, "%.9g", field->value.real);
        break;
    }
    add(line, number);
}

/* A field is left out whole where it would not fit: what is written stays well formed. */
static bool fits(const struct line *line, const struct log_field *field)
{
    return line->length + strlen(field->name) + 64 + 2 * RESERVE < LINE_SIZE;
}

static void add_text_fields(struct line *line, const struct log_field *field)
{
    for (; field->name && fits(line, field); field++) {
        add(line, " ");
        add(line, field->name);
        add(line, "=");
        if (field->type == FIELD_TEXT && field->value.text &&
            line->length + strlen(field->value.text) + RESERVE > LINE_SIZE)
            add_quoted(line, field->value.text, LOG_TEXT);
        else add_value(line, field, LOG_TEXT);
    }
}

static void format_text(struct line *line, const char *when, enum log_level level, const char *message,
                        const struct log_field *field)
{
    add(line, when);
    add(line, " ");
    add(line, levels[level].name);
    add(line, " ");
    add(line, message);
    add_text_fields(line, field);
}

static void format_json(struct line *line, const char *when, enum log_level level, const char *message,
                        const struct log_field *field)
{
    add(line, "{\"time\":\"");
    add(line, when);
    add(line, "\",\"level\":\"");
    add(line, levels[level].name);
    add(line, "\",\"message\":");
    add_quoted(line, message, LOG_JSON);
    for (; field->name && fits(line, field); field++) {
        add(line, ",");
        add_quoted(line, field->name, LOG_JSON);
        add(line, ":");
        add_value(line, field, LOG_JSON);
    }
    add(line, "}");
}

/* systemd sets JOURNAL_STREAM to device:inode of the socket that it gave us; stderr may have been redirected since. */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat status;
    if (!stream || sscanf(stream, "%llu:%llu", &device, &inode) != 2 || fstat(STDERR_FILENO, &status) != 0)
        return false;
    return status.st_dev == device && status.st_ino == inode;
}

/* COLDSTREAM_TOPIC=..., so that `journalctl COLDSTREAM_TOPIC=x` finds it; MESSAGE carries the fields for people. */
static void send_journal(enum log_level level, const char *file, int number, const char *message,
                         const struct log_field *field)
{
    struct line readable = { 0 };
    add(&readable, message);
    add_text_fields(&readable, field);
    struct line packed = { 0 };
    size_t start[JOURNAL_FIELDS], count = 0;
    char head[320];
    XXH128_hash_t id = XXH3_128bits(message, strlen(message));      /* the message names the event */
    start[count++] = 0;
    snprintf(head, sizeof head, "PRIORITY=%d", levels[level].priority);
    add(&packed, head);
    start[count++] = packed.length;
    snprintf(head, sizeof head, "MESSAGE_ID=%016" PRIx64 "%016" PRIx64, (uint64_t)id.high64, (uint64_t)id.low64);
    add(&packed, head);
    start[count++] = packed.length;
    snprintf(head, sizeof head, "CODE_FILE=%s", file);
    add(&packed, head);
    start[count++] = packed.length;
    snprintf(head, sizeof head, "CODE_LINE=%d", number);
    add(&packed, head);
    start[count++] = packed.length;
    snprintf(head, sizeof head, "SYSLOG_IDENTIFIER=%s", program_invocation_short_name);
    add(&packed, head);
    for (; field->name && fits(&packed, field) && count + 2 < JOURNAL_FIELDS; field++) {
        if (field->type == FIELD_TEXT &&
            (!field->value.text || packed.length + strlen(field->value.text) + 64 > LINE_SIZE))
            continue;
        start[count++] = packed.length;
        add(&packed, "COLDSTREAM_");
        for (const char *at = field->name; *at; at++) {
            char upper = (char)(*at >= 'a' && *at <= 'z' ? *at - 'a' + 'A' : *at);
            add_bytes(&packed, &upper, 1);
        }
        add(&packed, "=");
        if (field->type == FIELD_TEXT) add(&packed, field->value.text);
        else add_value(&packed, field, LOG_TEXT);
    }
    struct iovec part[JOURNAL_FIELDS + 1];
    for (size_t i = 0; i < count; i++) {
        size_t end = i + 1 < count ? start[i + 1] : packed.length;
        part[i] = (struct iovec){ packed.text + start[i], end - start[i] };
    }
    char text[LINE_SIZE + 16];
    int length = snprintf(text, sizeof text, "MESSAGE=%.*s", (int)readable.length, readable.text);
    part[count++] = (struct iovec){ text, (size_t)length };
    sd_journal_sendv(part, (int)count);
}

void log_set(enum log_level level, enum log_format format)
{
    atomic_store(&current_level, (int)level);
    atomic_store(&current_format, (int)format);
}

void log_open(enum log_level level, enum log_format format)
{
    log_set(level, format);
    atomic_store(&to_journal, stderr_is_journal());
}

enum log_level log_current_level(void)
{
    return (enum log_level)atomic_load_explicit(&current_level, memory_order_relaxed);
}

enum log_format log_current_format(void)
{
    return (enum log_format)atomic_load_explicit(&current_format, memory_order_relaxed);
}

void log_write(enum log_level level, const char *file, int number, const char *message, const struct log_field *field)
{
    if (level > log_current_level()) return;
    int saved = errno;          /* logging must not change what the caller is about to report */
    if (atomic_load_explicit(&to_journal, memory_order_relaxed)) {
        send_journal(level, file, number, message, field);
        errno = saved;
        return;
    }
    struct timespec now;
    struct tm parts;
    char when[40], date[24];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(when, sizeof when, "%s.%03dZ", date, (int)(now.tv_nsec / 1000000));
    struct line line;
    line.length = 0;
    if (log_current_format() == LOG_JSON) format_json(&line, when, level, message, field);
    else format_text(&line, when, level, message, field);
    if (line.length == LINE_SIZE) line.length--;
    line.text[line.length++] = '\n';
    ssize_t written;
    do written = write(STDERR_FILENO, line.text, line.length); while (written < 0 && errno == EINTR);
    errno = saved;
}
