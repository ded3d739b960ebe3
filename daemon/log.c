/* Log lines: formatted into one buffer on the stack, written by one write(), so that threads never mix and no lock is
 * held meanwhile. The process's, like stderr itself: level and format, two atomics, and a table that counts repeats. */
#include "daemon/log.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#define SD_JOURNAL_SUPPRESS_LOCATION    /* else its own CODE_FILE, of this file, goes before ours */
#include <systemd/sd-journal.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "daemon/clock.h"
#include "daemon/log_remedy.h"
#include "daemon/text.h"

enum {
    LINE_SIZE = 8192,       /* a longer line is cut, still well formed */
    RESERVE = 16,           /* room that values leave for "..." and what closes the line */
    JOURNAL_FIELDS = 32,
    HEADS = 6,              /* of them, that every line has */
    FIELDS = 24,            /* of a line, its remedy included; more are left out */
    KINDS = 128,            /* of lines that are watched for repeats; the one begun first gives way */
    PERIOD = 60000,         /* ms */
    SOME = 5,               /* warnings or errors of a kind in a period that are told */
    MANY = 120,             /* others; debug lines are all told */
};

static _Atomic int current_level = LEVEL_INFO;
static _Atomic int current_format = LOG_TEXT;
static atomic_bool to_journal;

const char *const log_level_name[] = {
    [LEVEL_ERROR] = "error", [LEVEL_WARNING] = "warning", [LEVEL_NOTICE] = "notice", [LEVEL_INFO] = "info",
    [LEVEL_DEBUG] = "debug", NULL,
};
/* syslog's */
static const int priority[] = {
    [LEVEL_ERROR] = 3, [LEVEL_WARNING] = 4, [LEVEL_NOTICE] = 5, [LEVEL_INFO] = 6, [LEVEL_DEBUG] = 7,
};

struct line { size_t length; char text[LINE_SIZE]; };

/* Lines alike but for digits, in one period. */
struct kind {
    uint64_t hash;                      /* 0: free */
    int64_t since;                      /* monotonic ms */
    uint64_t order;                     /* rises with each that begins */
    uint64_t told, left_out;
    enum log_level level;
    const char *file, *function, *message;      /* static texts */
    int line;
    char like[240];                     /* fields of the first that was left out */
};

static struct { pthread_mutex_t lock; struct kind kind[KINDS]; uint64_t begun; } repeats = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
};

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

/* text within double quotes; nothing in it can end the line, the quotes, or steer a terminal, as U+0080 to U+009F do
 * too. */
static void add_quoted(struct line *line, const char *text, enum log_format format)
{
    add(line, "\"");
    for (const char *at = text; *at;) {
        if (line->length > LINE_SIZE - RESERVE) { add(line, "..."); break; }
        char escape[8];
        size_t count = text_character(at);
        unsigned byte = (unsigned char)*at;
        if (*at == '"' || *at == '\\') snprintf(escape, sizeof escape, "\\%c", *at);
        else if (*at == '\n') snprintf(escape, sizeof escape, "\\n");
        else if (*at == '\t') snprintf(escape, sizeof escape, "\\t");
        else if (count == 0) snprintf(escape, sizeof escape, format == LOG_JSON ? "\\ufffd" : "\\x%02x", byte);
        else if (count > 1 && text_is_control(at)) snprintf(escape, sizeof escape, "\\u%04x", (unsigned char)*++at);
        else if (text_is_control(at))
            snprintf(escape, sizeof escape, format == LOG_JSON ? "\\u%04x" : "\\x%02x", byte);
        else {
            add_bytes(line, at, count);
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
    add(line, log_level_name[level]);
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
    add(line, log_level_name[level]);
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
    if (access("/run/systemd/journal/socket", W_OK) != 0) return false;  /* sd_journal_send says 0, and all is lost */
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat status;
    if (!stream || sscanf(stream, "%llu:%llu", &device, &inode) != 2 || fstat(STDERR_FILENO, &status) != 0)
        return false;
    return status.st_dev == device && status.st_ino == inode;
}

void log_message_id(const char *message, char id[LOG_ID_SIZE])
{
    XXH128_hash_t hash = XXH3_128bits(message, strlen(message));
    snprintf(id, LOG_ID_SIZE, "%016" PRIx64 "%016" PRIx64, (uint64_t)hash.high64, (uint64_t)hash.low64);
}

/* COLDSTREAM_TOPIC=..., so that `journalctl COLDSTREAM_TOPIC=x` finds it; MESSAGE carries the fields for people. */
static void send_journal(enum log_level level, const char *file, int number, const char *function,
                         const char *message, const struct log_field *field)
{
    struct line readable = { 0 };
    add(&readable, message);
    add_text_fields(&readable, field);
    struct line packed = { 0 };
    size_t start[JOURNAL_FIELDS], count = 0;
    char id[LOG_ID_SIZE];
    log_message_id(message, id);
    char head[HEADS][320];
    snprintf(head[0], sizeof *head, "PRIORITY=%d", priority[level]);
    snprintf(head[1], sizeof *head, "MESSAGE_ID=%s", id);
    snprintf(head[2], sizeof *head, "CODE_FILE=%s", file);
    snprintf(head[3], sizeof *head, "CODE_LINE=%d", number);
    snprintf(head[4], sizeof *head, "CODE_FUNC=%s", function);
    snprintf(head[5], sizeof *head, "SYSLOG_IDENTIFIER=%s", program_invocation_short_name);
    for (; count < HEADS; count++) {
        start[count] = packed.length;
        add(&packed, head[count]);
    }
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

bool log_in_journal(void)
{
    return atomic_load_explicit(&to_journal, memory_order_relaxed);
}

enum log_level log_current_level(void)
{
    return (enum log_level)atomic_load_explicit(&current_level, memory_order_relaxed);
}

enum log_format log_current_format(void)
{
    return (enum log_format)atomic_load_explicit(&current_format, memory_order_relaxed);
}

static void write_line(enum log_level level, const char *file, int number, const char *function, const char *message,
                       const struct log_field *field)
{
    if (atomic_load_explicit(&to_journal, memory_order_relaxed)) {
        send_journal(level, file, number, function, message, field);
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
}

/* ---- repeats */

/* Over the message and all texts of its fields but for digits: what an error counts or times makes it no other. */
static uint64_t hash_of(const char *message, const struct log_field *field)
{
    XXH64_hash_t hash = XXH3_64bits(message, strlen(message));
    for (; field->name; field++) {
        if (field->type != FIELD_TEXT || !field->value.text) continue;
        for (const char *at = field->value.text; *at;) {
            size_t plain = strcspn(at, "0123456789");
            hash = XXH3_64bits_withSeed(at, plain, hash);
            at += plain;
            at += strspn(at, "0123456789");
        }
    }
    return hash | 1;
}

static void tell_repeats(const struct kind *kind)
{
    const struct log_field field[] = { LOG_U("repeated", kind->left_out),
                                       LOG_F("seconds", (double)(clock_monotonic() - kind->since) / 1000),
                                       LOG_S("like", kind->like), { .name = NULL } };
    if (kind->left_out) write_line(kind->level, kind->file, kind->line, kind->function, kind->message, field);
}

/* The line's kind, of this period; *before: what it took the place of. Under the lock. */
static struct kind *find_kind(uint64_t hash, int64_t now, struct kind *before)
{
    struct kind *found = NULL, *oldest = &repeats.kind[0];
    for (struct kind *kind = repeats.kind; kind < repeats.kind + KINDS && !found; kind++) {
        if (kind->hash == hash) found = kind;
        else if (!kind->hash || (oldest->hash && kind->order < oldest->order)) oldest = kind;
    }
    if (found && now - found->since < PERIOD) return found;
    if (!found) found = oldest;
    *before = *found;
    *found = (struct kind){ .hash = hash, .since = now, .order = ++repeats.begun };
    return found;
}

/* True: the line is to be told. */
static bool is_news(enum log_level level, const char *file, int number, const char *function, const char *message,
                    const struct log_field *field)
{
    struct kind before = { 0 };
    uint64_t hash = hash_of(message, field), most = level <= LEVEL_WARNING ? SOME : MANY;
    pthread_mutex_lock(&repeats.lock);
    struct kind *kind = find_kind(hash, clock_monotonic(), &before);
    bool news = kind->told < most;
    if (news) kind->told++;
    else if (!kind->left_out++) {
        struct line fields = { 0 };
        add_text_fields(&fields, field);
        kind->level = level;
        kind->file = file;
        kind->line = number;
        kind->function = function;
        kind->message = message;
        snprintf(kind->like, sizeof kind->like, "%.*s", (int)fields.length - (fields.length > 0),
                 fields.text + (fields.length > 0));
    }
    pthread_mutex_unlock(&repeats.lock);
    tell_repeats(&before);
    return news;
}

void log_tell_repeats(bool all)
{
    int saved = errno;
    for (struct kind *kind = repeats.kind; kind < repeats.kind + KINDS; kind++) {
        struct kind over = { 0 };
        pthread_mutex_lock(&repeats.lock);
        if (kind->hash && (all || clock_monotonic() - kind->since >= PERIOD)) {
            over = *kind;
            *kind = (struct kind){ 0 };
        }
        pthread_mutex_unlock(&repeats.lock);
        tell_repeats(&over);
    }
    errno = saved;
}

void log_write(enum log_level level, const char *file, int number, const char *function, const char *message,
               const struct log_field *field)
{
    if (level > log_current_level()) return;
    int saved = errno;          /* logging must not change what the caller is about to report */
    if (level == LEVEL_DEBUG || is_news(level, file, number, function, message, field)) {
        struct log_field all[FIELDS + 1] = { { .name = NULL } };
        const char *remedy = level <= LEVEL_WARNING ? log_remedy(message) : NULL;
        size_t count = 0;
        for (; field->name && count < FIELDS - 1; field++) {
            all[count++] = *field;
            if (strcmp(field->name, "remedy") == 0) remedy = NULL;
        }
        if (remedy) all[count++] = (struct log_field)LOG_S("remedy", remedy);
        all[count] = (struct log_field){ .name = NULL };
        write_line(level, file, number, function, message, all);
    }
    errno = saved;
}
