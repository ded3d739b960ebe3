/* Many partitions, one order. Sources are tens: the smallest head is found by looking at all. */
#include "core/merge.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

struct source {
    uint64_t rank;
    bool is_idle;
    struct merge_entry *entry; /* ring [capacity], a power of two */
    size_t begin, count, capacity;
};

struct merge {
    struct source *source;
    size_t count, capacity;
};

struct merge *merge_create(void) { return need(calloc(1, sizeof(struct merge))); }

void merge_destroy(struct merge *merge)
{
    if (!merge) return;
    for (size_t i = 0; i < merge->count; i++) {
        struct source *source = &merge->source[i];
        for (size_t j = 0; j < source->count; j++) {
            struct merge_entry *entry = &source->entry[(source->begin + j) & (source->capacity - 1)];
            if (entry->has_event) event_release(&entry->event);
        }
        free(source->entry);
    }
    free(merge->source);
    free(merge);
}

size_t merge_add_source(struct merge *merge, uint64_t rank)
{
    if (merge->count == merge->capacity) {
        merge->capacity = merge->capacity ? merge->capacity * 2 : 16;
        merge->source = need(realloc(merge->source, merge->capacity * sizeof *merge->source));
    }
    merge->source[merge->count] = (struct source){ .rank = rank };
    return merge->count++;
}

void merge_push(struct merge *merge, size_t index, const struct merge_entry *entry)
{
    assert(index < merge->count);
    struct source *source = &merge->source[index];
    if (source->count == source->capacity) {
        size_t capacity = source->capacity ? source->capacity * 2 : 64;
        struct merge_entry *ring = need(malloc(capacity * sizeof *ring));
        for (size_t i = 0; i < source->count; i++)
            ring[i] = source->entry[(source->begin + i) & (source->capacity - 1)];
        free(source->entry);
        source->entry = ring;
        source->begin = 0;
        source->capacity = capacity;
    }
    source->entry[(source->begin + source->count++) & (source->capacity - 1)] = *entry;
    source->is_idle = false;
}

size_t merge_queued(const struct merge *merge, size_t source) { return merge->source[source].count; }
void merge_set_idle(struct merge *merge, size_t source, bool idle) { merge->source[source].is_idle = idle; }
bool merge_is_idle(const struct merge *merge, size_t source) { return merge->source[source].is_idle; }

static const struct merge_entry *head(const struct source *source) { return &source->entry[source->begin]; }

bool merge_pop(struct merge *merge, struct merge_entry *entry, size_t *index, size_t *waiting_for)
{
    size_t bad = SIZE_MAX, first = SIZE_MAX, empty = SIZE_MAX;
    for (size_t i = 0; i < merge->count; i++) {
        const struct source *source = &merge->source[i];
        size_t *best = &first;
        if (!source->count) {
            if (source->is_idle) continue;
            best = &empty;
        } else if (!head(source)->has_event) {
            best = &bad;
        }
        const struct source *other = *best == SIZE_MAX ? NULL : &merge->source[*best];
        if (other && best == &first) {
            int64_t time = head(source)->event.time, best_time = head(other)->event.time;
            if (time > best_time || (time == best_time && source->rank >= other->rank)) continue;
        } else if (other && source->rank >= other->rank) {
            continue;
        }
        *best = i;
    }
    size_t chosen = bad != SIZE_MAX ? bad : empty != SIZE_MAX ? SIZE_MAX : first;
    if (chosen == SIZE_MAX) {
        *waiting_for = empty;
        return false;
    }
    struct source *source = &merge->source[chosen];
    *entry = *head(source);
    source->begin = (source->begin + 1) & (source->capacity - 1);
    source->count--;
    *index = chosen;
    return true;
}
