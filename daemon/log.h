/* One line an event: time, level, message, then key=value (or JSON); to stderr, or to the journal when stderr is one.
 *
 *     log_info("snapshot written", LOG_U("bytes", bytes), LOG_F("seconds", seconds), LOG_S("directory", path));
 *
 * Thread-safe. The message is a fixed text (it names the event); what varies is in the fields. Never a secret. A
 * warning or an error gets its remedy from daemon/log_remedy.c. Lines alike but for digits are told a few times a
 * minute, then counted. docs/logs.md is the reference. */
#ifndef DAEMON_LOG_H
#define DAEMON_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"

struct log_field { const char *name; enum { FIELD_TEXT, FIELD_SIGNED, FIELD_UNSIGNED, FIELD_FLOAT } type;
                   union { const char *text; int64_t number; uint64_t count; double real; } value; };
#define LOG_S(n, v) { .name = (n), .type = FIELD_TEXT, .value.text = (v) }
#define LOG_I(n, v) { .name = (n), .type = FIELD_SIGNED, .value.number = (v) }
#define LOG_U(n, v) { .name = (n), .type = FIELD_UNSIGNED, .value.count = (v) }
#define LOG_F(n, v) { .name = (n), .type = FIELD_FLOAT, .value.real = (v) }

void log_open(enum log_level level, enum log_format format);
void log_set(enum log_level level, enum log_format format);        /* also at run time */
bool log_in_journal(void);                          /* else lines go to stderr */
extern const char *const log_level_name[];         /* by level; NULL ends it */
enum log_level log_current_level(void);
enum log_format log_current_format(void);
void log_write(enum log_level level, const char *file, int line, const char *function, const char *message,
               const struct log_field *field);
enum { LOG_ID_SIZE = 33 };
/* MESSAGE_ID: of the kind of event, so of the fixed text. */
void log_message_id(const char *message, char id[LOG_ID_SIZE]);
/* Tells how often what was left out has been repeated, where its minute is over; all: whether it is or not. To be
 * called now and then, and at the end. */
void log_tell_repeats(bool all);

#define log_event(level, message, ...) \
    log_write((level), __FILE__, __LINE__, __func__, (message), \
              (const struct log_field[]){ __VA_ARGS__ __VA_OPT__(,) { .name = NULL } })
#define log_error(...)   log_event(LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_event(LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...)  log_event(LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...)    log_event(LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_event(LEVEL_DEBUG, __VA_ARGS__)

#endif
