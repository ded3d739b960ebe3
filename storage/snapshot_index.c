/* Where every record's newest copy is, and which files are worth emptying. */
#include "storage/snapshot_index.h"

#include <assert.h>

#include "core/need.h"

/* Past this many files the smallest are merged. */
static const size_t most_segments = 96;

void index_free(struct index *index)
{
    for (size_t i = 0; i < index->sections; i++) {
        free(index->section[i].home);
        free(index->section[i].size);
    }
    free(index->section);
    free(index->segment);
    *index = (struct index){ 0 };
}

struct index_section *index_section(const struct index *index, bool is_tensor, const char *name)
{
    for (size_t i = 0; i < index->sections; i++)
        if (index->section[i].about.is_tensor == is_tensor && !strcmp(index->section[i].about.name, name))
            return &index->section[i];
    return NULL;
}

size_t index_section_add(struct index *index, const struct segment_section *about)
{
    struct index_section *section = index_section(index, about->is_tensor, about->name);
    if (section) return (size_t)(section - index->section);
    struct index_section *grown = need(realloc(index->section, (index->sections + 1) * sizeof *grown));
    index->section = grown;
    index->section[index->sections] = (struct index_section){ .about = *about };
    return index->sections++;
}

size_t index_find(const struct index *index, uint32_t number)
{
    size_t low = 0, high = index->segments;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (index->segment[middle].number < number) low = middle + 1;
        else high = middle;
    }
    return low < index->segments && index->segment[low].number == number ? low : index->segments;
}

static struct index_segment *find_segment(const struct index *index, uint32_t number)
{
    size_t at = index_find(index, number);
    return at < index->segments ? &index->segment[at] : NULL;
}

static bool grow(struct index_section *section, size_t slots)
{
    if (slots <= section->slots) return true;
    if (slots > section->capacity) {
        size_t capacity = section->capacity + section->capacity / 4;
        if (capacity < slots) capacity = slots;
        if (capacity < 64) capacity = 64;
        uint32_t *home = realloc(section->home, capacity * sizeof *home);
        if (!home) return false;
        section->home = home;
        if (section->size) {
            uint32_t *size = realloc(section->size, capacity * sizeof *size);
            if (!size) return false;
            section->size = size;
        }
        section->capacity = capacity;
    }
    memset(section->home + section->slots, 0, (slots - section->slots) * sizeof *section->home);
    if (section->size) memset(section->size + section->slots, 0, (slots - section->slots) * sizeof *section->size);
    section->slots = slots;
    return true;
}

static bool set_size(struct index_section *section, uint32_t slot, uint32_t size)
{
    if (!section->size) {
        if (!section->constant_size) section->constant_size = size;
        if (section->constant_size == size) return true;
        if (!(section->size = malloc(section->capacity * sizeof *section->size))) return false;
        for (size_t i = 0; i < section->slots; i++) section->size[i] = section->constant_size;
    }
    section->size[slot] = size;
    return true;
}

static size_t highest_slot(const struct segment *segment, size_t section)
{
    size_t slots = 0;
    for (size_t b = 0; b < segment->blocks; b++) {
        if (segment->block[b].section != section) continue;
        for (struct segment_cursor cursor = segment_cursor(&segment->block[b]); segment_next(&cursor);)
            if (cursor.slot >= slots) slots = cursor.slot + 1u;
    }
    return slots;
}

/* Takes the slot out of what its home is credited with. */
static void leave_home(const struct index *index, struct index_section *section, uint32_t slot,
                       struct index_segment **last)
{
    uint32_t home = section->home[slot], number = home & ~INDEX_GRAVE;
    if (!home) return;
    if (!*last || (*last)->number != number) *last = find_segment(index, number);
    struct index_segment *segment = *last;
    if (home & INDEX_GRAVE) {
        if (segment) segment->graves--;         /* where there is none, it went with all older ones: nothing to bury */
        return;
    }
    uint64_t bytes = segment_record_bytes(index_size(section, slot));
    if (segment) segment->live -= bytes;
    section->living--;
    section->bytes -= bytes;
}

bool index_apply(struct index *index, const struct segment *segment)
{
    assert(!index->segments || index->segment[index->segments - 1].number < segment->number);
    struct index_segment *grown = realloc(index->segment, (index->segments + 1) * sizeof *grown), *last = NULL;
    if (!grown) return false;
    index->segment = grown;
    index->segment[index->segments++] =
        (struct index_segment){ .number = segment->number, .size = segment->size, .digest = segment->digest };
    struct index_segment *self = &index->segment[index->segments - 1];
    size_t *mapped = malloc((segment->sections + 1) * sizeof *mapped);
    if (!mapped) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < segment->sections; i++) {
        mapped[i] = index_section_add(index, &segment->section[i]);
        index->section[mapped[i]].about = segment->section[i];      /* a tensor's shape may be another than before */
        ok = grow(&index->section[mapped[i]], highest_slot(segment, i));
    }
    for (size_t b = 0; ok && b < segment->blocks; b++) {
        struct index_section *section = &index->section[mapped[segment->block[b].section]];
        for (struct segment_cursor cursor = segment_cursor(&segment->block[b]); ok && segment_next(&cursor);) {
            leave_home(index, section, cursor.slot, &last);
            section->home[cursor.slot] = segment->number | (cursor.size ? 0 : INDEX_GRAVE);
            if (!cursor.size) {
                self->graves++;
                continue;
            }
            uint64_t bytes = segment_record_bytes(cursor.size);
            self->live += bytes;
            section->living++;
            section->bytes += bytes;
            ok = set_size(section, cursor.slot, cursor.size);
        }
    }
    free(mapped);
    return ok;
}

void index_forecast_free(struct index_forecast *forecast)
{
    if (!forecast) return;
    free(forecast->segment);
    free(forecast->part);
    free(forecast->section);
    free(forecast);
}

static void forecast_record(const struct index *index, const struct index_section *section, uint32_t slot,
                            uint32_t size, struct index_forecast *forecast, struct forecast_section *sum,
                            struct forecast_count *self, struct index_segment **last)
{
    uint32_t home = slot < section->slots ? section->home[slot] : 0, number = home & ~INDEX_GRAVE;
    if (home) {
        if (!*last || (*last)->number != number) *last = find_segment(index, number);
        struct forecast_count *old = *last ? &forecast->segment[*last - index->segment] : NULL;
        if (home & INDEX_GRAVE) {
            if (old) old->graves--;
        } else {
            int64_t bytes = (int64_t)segment_record_bytes(index_size(section, slot));
            if (old) old->live -= bytes;
            sum->living--;
            sum->bytes -= bytes;
        }
    }
    if (size) {
        self->live += (int64_t)segment_record_bytes(size);
        sum->living++;
        sum->bytes += (int64_t)segment_record_bytes(size);
    } else {
        self->graves++;
    }
    if (slot >= sum->slots) sum->slots = slot + 1u;
}

struct index_forecast *index_forecast(struct index *index, const struct segment *const *part, size_t parts)
{
    for (size_t p = 0; p < parts; p++)
        for (size_t i = 0; i < part[p]->sections; i++) index_section_add(index, &part[p]->section[i]);
    struct index_forecast *forecast = need(calloc(1, sizeof *forecast));
    forecast->segment = need(calloc(index->segments + 1, sizeof *forecast->segment));
    forecast->part = need(calloc(parts + 1, sizeof *forecast->part));
    forecast->section = need(calloc(index->sections + 1, sizeof *forecast->section));
    for (size_t i = 0; i < index->segments; i++)
        forecast->segment[i] =
            (struct forecast_count){ (int64_t)index->segment[i].live, (int64_t)index->segment[i].graves };
    for (size_t i = 0; i < index->sections; i++) {
        const struct index_section *section = &index->section[i];
        forecast->section[i] =
            (struct forecast_section){ (int64_t)section->living, (int64_t)section->bytes, section->slots };
    }
    struct index_segment *last = NULL;
    for (size_t p = 0; p < parts; p++)
        for (size_t b = 0; b < part[p]->blocks; b++) {
            const struct segment_block *block = &part[p]->block[b];
            size_t s = index_section_add(index, &part[p]->section[block->section]);
            for (struct segment_cursor cursor = segment_cursor(block); segment_next(&cursor);)
                forecast_record(index, &index->section[s], cursor.slot, cursor.size, forecast, &forecast->section[s],
                                &forecast->part[p], &last);
        }
    return forecast;
}

void index_keep(struct index *index, const uint32_t *number, size_t count)
{
    size_t kept = 0, n = 0;
    for (size_t i = 0; i < index->segments; i++) {
        while (n < count && number[n] < index->segment[i].number) n++;
        if (n < count && number[n] == index->segment[i].number) index->segment[kept++] = index->segment[i];
    }
    index->segments = kept;
}

uint64_t index_live_bytes(const struct index *index)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < index->segments; i++) bytes += index->segment[i].live;
    return bytes;
}

uint64_t index_disk_bytes(const struct index *index)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < index->segments; i++) bytes += index->segment[i].size;
    return bytes;
}

static uint64_t cost(const struct index_segment *segment)
{
    return segment->live + 8 * segment->graves;
}

/* The one with the lowest share of living bytes, or the fewest of them. */
static struct index_segment *next_victim(const struct index *index, bool by_share)
{
    struct index_segment *best = NULL;
    for (size_t i = 0; i < index->segments; i++) {
        struct index_segment *segment = &index->segment[i];
        if (segment->victim) continue;
        double here = (double)cost(segment), there = best ? (double)cost(best) : 0;
        if (best && by_share) here *= (double)best->size, there *= (double)segment->size;
        if (!best || here < there) best = segment;
    }
    return best;
}

void index_choose_victims(struct index *index, uint64_t changed, uint64_t kept, uint64_t *credit)
{
    uint64_t live = index_live_bytes(index), disk = index_disk_bytes(index), copied = 0, budget = *credit;
    size_t segments = index->segments;
    for (size_t i = 0; i < index->segments; i++) index->segment[i].victim = false;
    if (disk + kept > live + live / 10 * 9) budget += changed / 2;
    /* One file at least where the credit is enough for it, but no more in one cut than it writes anyhow. Nothing is won
     * by moving what is nearly all alive. */
    while (disk + changed + copied > live + live * 3 / 10) {
        struct index_segment *victim = next_victim(index, true);
        if (!victim || cost(victim) > victim->size - victim->size / 8 || copied + cost(victim) > budget ||
            (copied && copied + cost(victim) > changed))
            break;
        victim->victim = true;
        copied += cost(victim);
        disk -= victim->size;
        segments--;
    }
    while (segments > most_segments) {
        struct index_segment *victim = next_victim(index, false);
        if (!victim || (copied + cost(victim) > budget && segments < 2 * most_segments)) break;
        victim->victim = true;
        copied += cost(victim);
        segments--;
    }
    *credit -= copied < *credit ? copied : *credit;
}

uint64_t *index_again(const struct index *index, const struct index_section *section, size_t *words)
{
    uint64_t *again = NULL;
    struct index_segment *last = NULL;
    *words = (section->slots + 63) / 64;
    for (size_t slot = 0; slot < section->slots; slot++) {
        uint32_t home = section->home[slot];
        if (!home || (home & INDEX_GRAVE)) continue;
        if (!last || last->number != home) last = find_segment(index, home);
        if (!last || !last->victim) continue;
        if (!again) again = need(calloc(*words, sizeof *again));
        again[slot / 64] |= 1ull << slot % 64;
    }
    if (!again) *words = 0;
    return again;
}
