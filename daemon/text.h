/* Texts that the world had a hand in (paths, names in a file, errors cut in the middle of a character), for terminals
 * and for JSON. */
#ifndef DAEMON_TEXT_H
#define DAEMON_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <jansson.h>

/* Bytes of the UTF-8 character at text: 0 where it is not one (cut short, overlong, a surrogate, a stray byte). */
size_t text_character(const char *text);
/* A character that can end a line or steer a terminal: U+0000 to U+001F, U+007F to U+009F. */
bool text_is_control(const char *text);
/* Writes one line: what could steer a terminal, and what is no UTF-8, comes as \n, \x1b or \u009b. Returns its
 * columns. */
size_t text_show(FILE *out, const char *text);
void text_show_padded(FILE *out, const char *text, size_t columns);     /* with blanks behind it */
/* A JSON string: U+FFFD for each byte that is no UTF-8. Never NULL. */
json_t *text_json(const char *text);
json_t *text_json_of(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
