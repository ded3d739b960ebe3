/* Texts to values and back: durations, sizes, numbers, times; and the references that stand for secrets. */
#ifndef CONFIG_VALUE_H
#define CONFIG_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/pool.h"

/* Each fills *value, or returns a hint: "" where the text is simply something else. NULL: fine. */
const char *value_count(const char *text, uint64_t *value);
const char *value_number(const char *text, double *value);          /* finite */
const char *value_duration(const char *text, int64_t *milliseconds);
const char *value_size(const char *text, uint64_t *bytes);
/* 2026-01-31T12:00:00[.123]Z, or milliseconds since the epoch. */
const char *value_time(const char *text, int64_t *milliseconds);

char *value_number_text(struct pool *pool, double value);           /* the shortest that reads back */
char *value_duration_text(struct pool *pool, int64_t milliseconds);
char *value_text_text(struct pool *pool, const char *text);         /* quoted for YAML where it must be */

/* ${NAME} anywhere in text becomes the environment variable ($${ is a plain ${); with `whole`, a text "file:PATH"
 * becomes that file's content and "credential:NAME" that of $CREDENTIALS_DIRECTORY/NAME, without one last newline. NULL
 * on failure, with *why, which never holds a value. *referenced: something was replaced, so the value is not to be
 * shown. */
const char *value_resolve(struct pool *pool, const char *text, bool whole, bool *referenced, const char **why);
/* What file has, size bytes at most, over interrupted and short reads; less than size where it ends or fails. */
size_t value_read(int file, char *bytes, size_t size);

#endif
