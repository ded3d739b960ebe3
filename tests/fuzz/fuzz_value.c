/* Any text as a duration, a size, a number, a time or a reference: refused, or what it reads as can be written, and
 * that reads as the same again. The first byte says how references are looked at; the rest is the text. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/value.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static const char secret[] = "r4T9secret";

static void numbers(struct pool *pool, const char *text)
{
    uint64_t count, bytes;
    int64_t duration, again, time;
    double number, same;
    bool counts = !value_count(text, &count);
    if (counts && (text[strspn(text, "0123456789")] || !*text)) abort();
    if (!value_size(text, &bytes) && counts && bytes != count) abort();
    if (!value_duration(text, &duration)) {
        if (duration < 0) abort();
        if (value_duration(value_duration_text(pool, duration), &again) || again != duration) abort();
    }
    if (!value_number(text, &number)) {
        if (!isfinite(number)) abort();
        if (value_number(value_number_text(pool, number), &same) || same != number) abort();
    }
    if (!value_time(text, &time) && (time < 0 || time > INT64_C(253402300799999))) abort();
    if (!value_text_text(pool, text)) abort();
}

/* A failure's reason never holds a value; what is resolved holds no reference to the secret any more. */
static void reference(struct pool *pool, const char *text, bool whole)
{
    bool referenced = false;
    const char *why = NULL;
    if (strstr(text, secret)) return;                   /* guessed: what is written openly may be shown */
    if (whole && !strncmp(text, "file:/", 6)) return;           /* no file of this machine is input */
    const char *resolved = value_resolve(pool, text, whole, &referenced, &why);
    if (!resolved && !why) abort();
    if (!resolved && strstr(why, secret)) abort();
    if (resolved && strstr(resolved, secret) && !referenced) abort();
    if (resolved && !referenced && !strstr(text, "$") && strcmp(resolved, text)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (!size) return 0;
    setenv("FUZZ", secret, 1);
    unsetenv("CREDENTIALS_DIRECTORY");
    struct pool *pool = pool_create();
    char *text = malloc(size);
    if (!text) abort();
    memcpy(text, bytes + 1, size - 1);
    text[size - 1] = 0;
    numbers(pool, text);
    reference(pool, text, *bytes & 1);
    free(text);
    pool_destroy(pool);
    return 0;
}
