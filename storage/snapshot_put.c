/* Small things put into a cut: copied into chunks, sorted when they are written, kept where a cut fails. */
#include <assert.h>

#include "storage/snapshot_internal.h"

enum { CHUNK_BYTES = 1 << 20 };
struct chunk { struct chunk *next; size_t used, size; unsigned char bytes[]; };

static unsigned char *take(struct puts *puts, size_t size)
{
    size = (size + 7) & ~(size_t)7;
    if (!puts->chunk || puts->chunk->size - puts->chunk->used < size) {
        size_t bytes = size > CHUNK_BYTES ? size : CHUNK_BYTES;
        struct chunk *chunk = malloc(sizeof *chunk + bytes);
        if (!chunk) return NULL;
        *chunk = (struct chunk){ .next = puts->chunk, .size = bytes };
        puts->chunk = chunk;
    }
    unsigned char *bytes = puts->chunk->bytes + puts->chunk->used;
    puts->chunk->used += size;
    return bytes;
}

static bool find_section(struct puts *puts, const char *section, size_t *number)
{
    assert(*section && strlen(section) <= STATE_SECTION_MAX);
    for (size_t i = puts->sections; i-- > 0;)
        if (!strcmp(puts->section[i], section)) {
            *number = i;
            return true;
        }
    void *grown = realloc(puts->section, (puts->sections + 1) * sizeof *puts->section);
    if (!grown) return false;
    puts->section = grown;
    memcpy(puts->section[puts->sections], section, strlen(section) + 1);
    *number = puts->sections++;
    return true;
}

bool puts_add(struct puts *puts, const char *section, uint32_t slot, const void *bytes, size_t size,
              struct cs_error *err)
{
    struct put put = { .slot = slot, .size = size, .order = (uint32_t)puts->count };
    bool ok = find_section(puts, section, &put.section);
    if (ok && bytes) {
        ok = (put.bytes = take(puts, size)) != NULL;
        if (ok) memcpy(put.bytes, bytes, size);
    }
    if (ok && puts->count == puts->capacity) {
        size_t capacity = puts->capacity ? puts->capacity * 2 : 64;
        struct put *grown = realloc(puts->put, capacity * sizeof *grown);
        ok = grown != NULL;
        if (grown) {
            puts->put = grown;
            puts->capacity = capacity;
        }
    }
    if (!ok) return cs_fail(err, CS_FAILED, "out of memory for a snapshot: section '%s', %zu bytes", section, size);
    puts->put[puts->count++] = put;
    return true;
}

static int by_place(const void *left, const void *right)
{
    const struct put *a = left, *b = right;
    if (a->section != b->section) return a->section < b->section ? -1 : 1;
    if (a->slot != b->slot) return a->slot < b->slot ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

void puts_sort(struct puts *puts)
{
    size_t kept = 0;
    if (puts->count) qsort(puts->put, puts->count, sizeof *puts->put, by_place);
    for (size_t i = 0; i < puts->count; i++) {
        const struct put *this = &puts->put[i], *next = i + 1 < puts->count ? this + 1 : NULL;
        if (next && next->section == this->section && next->slot == this->slot) continue;
        puts->put[kept++] = *this;
    }
    puts->count = kept;
    for (size_t i = 0; i < kept; i++) puts->put[i].order = (uint32_t)i;
}

void puts_free(struct puts *puts)
{
    for (struct chunk *chunk = puts->chunk, *next; chunk; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
    free(puts->section);
    free(puts->put);
    *puts = (struct puts){ 0 };
}

void puts_move(struct puts *to, struct puts *from)
{
    assert(!to->count && !to->chunk);
    free(to->section);
    free(to->put);
    *to = *from;
    *from = (struct puts){ 0 };
}

void puts_compact(struct puts *puts)
{
    struct puts compact = { 0 };
    puts_sort(puts);
    for (size_t i = 0; i < puts->count; i++) {
        const struct put *put = &puts->put[i];
        if (!puts_add(&compact, puts->section[put->section], put->slot, put->bytes, put->size, NULL)) {
            puts_free(&compact);        /* as it is it is right, too, and only larger */
            return;
        }
    }
    puts_free(puts);
    *puts = compact;
}
