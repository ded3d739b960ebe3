/* UTF-8, looked at byte by byte. */
#include "daemon/text.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

size_t text_character(const char *text)
{
    const unsigned char *byte = (const unsigned char *)text;
    if (byte[0] < 0x80) return 1;
    size_t count = byte[0] >= 0xc2 && byte[0] < 0xe0   ? 2
                   : byte[0] >= 0xe0 && byte[0] < 0xf0 ? 3
                   : byte[0] >= 0xf0 && byte[0] < 0xf5 ? 4
                                                       : 0;
    for (size_t i = 1; i < count; i++)
        if ((byte[i] & 0xc0) != 0x80) return 0;
    if (byte[0] == 0xe0 && byte[1] < 0xa0) return 0;
    if (byte[0] == 0xed && byte[1] > 0x9f) return 0;
    if (byte[0] == 0xf0 && byte[1] < 0x90) return 0;
    if (byte[0] == 0xf4 && byte[1] > 0x8f) return 0;
    return count;
}

bool text_is_control(const char *text)
{
    const unsigned char *byte = (const unsigned char *)text;
    return byte[0] < 0x20 || byte[0] == 0x7f || (byte[0] == 0xc2 && byte[1] >= 0x80 && byte[1] < 0xa0);
}

size_t text_show(FILE *out, const char *text)
{
    size_t columns = 0;
    while (*text) {
        size_t count = text_character(text);
        if (count && !text_is_control(text)) {
            fwrite(text, 1, count, out);
            columns++;
        } else if (*text == '\n' || *text == '\t') {
            columns += (size_t)fprintf(out, "\\%c", *text == '\n' ? 'n' : 't');
            count = 1;
        } else if (count > 1) {
            columns += (size_t)fprintf(out, "\\u%04x", (unsigned char)text[1]);     /* U+0080 to U+009F */
        } else {
            columns += (size_t)fprintf(out, "\\x%02x", (unsigned char)*text);
            count = 1;
        }
        text += count;
    }
    return columns;
}

void text_show_padded(FILE *out, const char *text, size_t columns)
{
    for (size_t used = text_show(out, text); used < columns; used++) fputc(' ', out);
}

json_t *text_json(const char *text)
{
    static const char unknown[] = "\xef\xbf\xbd";
    json_t *json = json_string(text);
    if (json) return json;
    char *copy = need(malloc(3 * strlen(text) + 1)), *to = copy;
    while (*text) {
        size_t count = text_character(text), taken = count ? count : 1, written = count ? count : strlen(unknown);
        memcpy(to, count ? text : unknown, written);
        text += taken;
        to += written;
    }
    *to = 0;
    json = need(json_string(copy));
    free(copy);
    return json;
}

json_t *text_json_of(const char *format, ...)
{
    char *text;
    va_list list;
    va_start(list, format);
    if (vasprintf(&text, format, list) < 0) need(NULL);
    va_end(list);
    json_t *json = text_json(text);
    free(text);
    return json;
}
