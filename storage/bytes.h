/* Byte strings that grow while they are written, and are taken apart without reading past their end. Little-endian. */
#ifndef STORAGE_BYTES_H
#define STORAGE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* failed: out of memory, once and for all. */
struct bytes { unsigned char *data; size_t size, capacity; bool failed; };

static inline unsigned char *bytes_room(struct bytes *bytes, size_t size)
{
    if (bytes->capacity - bytes->size < size) {
        size_t capacity = bytes->capacity ? bytes->capacity * 2 : 256;
        while (capacity - bytes->size < size) capacity *= 2;
        unsigned char *grown = bytes->failed ? NULL : realloc(bytes->data, capacity);
        if (!grown) {
            bytes->failed = true;
            return NULL;
        }
        bytes->data = grown;
        bytes->capacity = capacity;
    }
    return bytes->data + bytes->size;
}

static inline void bytes_add(struct bytes *bytes, const void *from, size_t size)
{
    unsigned char *to = bytes_room(bytes, size);
    if (!to) return;
    if (size) memcpy(to, from, size);
    bytes->size += size;
}

static inline void bytes_u32(struct bytes *bytes, uint32_t value) { bytes_add(bytes, &value, sizeof value); }
static inline void bytes_u64(struct bytes *bytes, uint64_t value) { bytes_add(bytes, &value, sizeof value); }

/* Seven bits a byte, the lowest first; the eighth says that more follow. */
static inline void bytes_varint(struct bytes *bytes, uint64_t value)
{
    unsigned char *to = bytes_room(bytes, 10);
    if (!to) return;
    size_t used = 0;
    for (; value >= 128; value >>= 7) to[used++] = (unsigned char)(value | 128);
    to[used++] = (unsigned char)value;
    bytes->size += used;
}

/* Length, the text, and a NUL after it. */
static inline void bytes_text(struct bytes *bytes, const char *text)
{
    size_t size = strlen(text);
    bytes_u32(bytes, (uint32_t)size);
    bytes_add(bytes, text, size + 1);
}

static inline void bytes_free(struct bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct bytes){ 0 };
}

/* bad: something reached past the end; everything read from then on is zero. */
struct bytes_reader { const unsigned char *at, *end; bool bad; };

static inline const void *bytes_take(struct bytes_reader *reader, size_t size)
{
    if (reader->bad || (size_t)(reader->end - reader->at) < size) {
        reader->bad = true;
        return NULL;
    }
    const void *at = reader->at;
    reader->at += size;
    return at;
}

static inline uint32_t bytes_take_u32(struct bytes_reader *reader)
{
    uint32_t value = 0;
    const void *from = bytes_take(reader, sizeof value);
    if (from) memcpy(&value, from, sizeof value);
    return value;
}

static inline uint64_t bytes_take_u64(struct bytes_reader *reader)
{
    uint64_t value = 0;
    const void *from = bytes_take(reader, sizeof value);
    if (from) memcpy(&value, from, sizeof value);
    return value;
}

static inline uint64_t bytes_take_varint(struct bytes_reader *reader)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (reader->bad || reader->at == reader->end) break;
        unsigned char byte = *reader->at++;
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return value;
    }
    reader->bad = true;
    return 0;
}

/* NULL where it isn't one of at most max bytes, with its NUL and no other. */
static inline const char *bytes_take_text(struct bytes_reader *reader, size_t max)
{
    uint32_t size = bytes_take_u32(reader);
    if (size > max) reader->bad = true;
    const char *text = bytes_take(reader, (size_t)size + 1);
    if (text && (text[size] || memchr(text, 0, size))) reader->bad = true;
    return reader->bad ? NULL : text;
}

#endif
