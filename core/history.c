/* Users' own clicks: a hash table of users over blocks of entries, which are also what is saved, and a list by
 * activity.
 *
 *   index   user -> entry number (open addressing)
 *   block   [HISTORY_BLOCK entries], dirty where something changed since the last save
 *   list    least recently active first: who leaves when max_users is reached; its entry is reused in place */
#include "core/history.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1024, NONE = UINT32_MAX };

static const char section[] = "history";

struct user {
    uint64_t user, activity; /* activity: number of the append; the list is in its order */
    uint64_t *item;
    uint32_t older, newer, count, capacity;
};

struct history {
    struct history_options options;
    struct user **block;
    uint8_t *is_dirty;
    size_t blocks, count;
    uint32_t *index; /* entry number + 1, 0: free */
    size_t index_mask;
    uint32_t oldest, newest;
    uint64_t appends;
    size_t item_bytes;
};

static void *grow(void *memory, size_t bytes)
{
    void *grown = realloc(memory, bytes);
    if (!grown) abort();
    return grown;
}

static struct user *at(const struct history *history, uint32_t entry)
{
    return &history->block[entry / BLOCK][entry % BLOCK];
}
static size_t home(const struct history *history, uint64_t user) { return (user ^ user >> 32) & history->index_mask; }

static void index_reset(struct history *history, size_t slots)
{
    free(history->index);
    history->index = calloc(slots, sizeof *history->index);
    if (!history->index) abort();
    history->index_mask = slots - 1;
}

/* The slot that holds the user, or the free one where it would be. */
static size_t index_find(const struct history *history, uint64_t user)
{
    size_t slot = home(history, user);
    while (history->index[slot] && at(history, history->index[slot] - 1)->user != user)
        slot = (slot + 1) & history->index_mask;
    return slot;
}

/* Those behind the freed slot that would no longer be found move up. */
static void index_remove(struct history *history, size_t slot)
{
    for (size_t next = (slot + 1) & history->index_mask; history->index[next];
         next = (next + 1) & history->index_mask) {
        size_t wanted = home(history, at(history, history->index[next] - 1)->user);
        if (((next - wanted) & history->index_mask) < ((next - slot) & history->index_mask)) continue;
        history->index[slot] = history->index[next];
        slot = next;
    }
    history->index[slot] = 0;
}

struct history *history_create(const struct history_options *options)
{
    struct history *history = calloc(1, sizeof *history);
    if (!history) return NULL;
    history->options = *options;
    history->oldest = history->newest = NONE;
    index_reset(history, 1024);
    return history;
}

void history_destroy(struct history *history)
{
    if (!history) return;
    for (size_t i = 0; i < history->count; i++) free(at(history, (uint32_t)i)->item);
    for (size_t i = 0; i < history->blocks; i++) free(history->block[i]);
    free(history->block);
    free(history->is_dirty);
    free(history->index);
    free(history);
}

static void list_remove(struct history *history, uint32_t entry)
{
    struct user *user = at(history, entry);
    *(user->older == NONE ? &history->oldest : &at(history, user->older)->newer) = user->newer;
    *(user->newer == NONE ? &history->newest : &at(history, user->newer)->older) = user->older;
}

static void list_append(struct history *history, uint32_t entry)
{
    struct user *user = at(history, entry);
    user->older = history->newest;
    user->newer = NONE;
    *(history->newest == NONE ? &history->oldest : &at(history, history->newest)->newer) = entry;
    history->newest = entry;
}

static uint32_t entry_add(struct history *history)
{
    if (history->count == history->blocks * BLOCK) {
        history->block = grow(history->block, (history->blocks + 1) * sizeof *history->block);
        history->is_dirty = grow(history->is_dirty, history->blocks + 1);
        history->block[history->blocks] = calloc(BLOCK, sizeof **history->block);
        if (!history->block[history->blocks]) abort();
        history->is_dirty[history->blocks++] = 1;
    }
    return (uint32_t)history->count++;
}

static void index_grow(struct history *history)
{
    if ((history->count + 1) * 2 <= history->index_mask + 1) return;
    index_reset(history, (history->index_mask + 1) * 2);
    for (size_t i = 0; i < history->count; i++)
        history->index[index_find(history, at(history, (uint32_t)i)->user)] = (uint32_t)i + 1;
}

static uint32_t find_or_add(struct history *history, uint64_t key)
{
    size_t slot = index_find(history, key);
    if (history->index[slot]) {
        uint32_t entry = history->index[slot] - 1;
        list_remove(history, entry);
        return entry;
    }
    uint32_t entry;
    if (history->options.max_users && history->count >= history->options.max_users) {
        entry = history->oldest;
        list_remove(history, entry);
        index_remove(history, index_find(history, at(history, entry)->user));
        at(history, entry)->count = 0;
    } else {
        index_grow(history);
        entry = entry_add(history);
    }
    at(history, entry)->user = key;
    history->index[index_find(history, key)] = entry + 1;
    return entry;
}

static void set_capacity(struct history *history, struct user *user, uint32_t capacity)
{
    user->item = grow(user->item, capacity * sizeof *user->item);
    history->item_bytes += (capacity - user->capacity) * sizeof *user->item;
    user->capacity = capacity;
}

void history_append(struct history *history, uint64_t key, uint64_t item)
{
    if (!history->options.max_length) return;
    uint32_t entry = find_or_add(history, key);
    struct user *user = at(history, entry);
    if (user->count >= history->options.max_length) {
        uint32_t kept = (uint32_t)history->options.max_length - 1;
        memmove(user->item, user->item + user->count - kept, kept * sizeof *user->item);
        user->count = kept;
    }
    if (user->count == user->capacity) {
        size_t capacity = user->capacity ? user->capacity * 2 : 4;
        set_capacity(history, user,
                     (uint32_t)(capacity < history->options.max_length ? capacity : history->options.max_length));
    }
    user->item[user->count++] = item;
    user->activity = history->appends++;
    list_append(history, entry);
    history->is_dirty[entry / BLOCK] = 1;
}

const uint64_t *history_of(const struct history *history, uint64_t user, size_t *count)
{
    uint32_t entry = history->index[index_find(history, user)];
    *count = entry ? at(history, entry - 1)->count : 0;
    return entry ? at(history, entry - 1)->item : NULL;
}

size_t history_users(const struct history *history) { return history->count; }

size_t history_bytes(const struct history *history)
{
    return sizeof *history + history->blocks * BLOCK * sizeof(struct user) +
           (history->index_mask + 1) * sizeof *history->index + history->item_bytes;
}

/* Saved: block i holds its entries in order, each as a record and then its items. */
struct record {
    uint64_t user, activity, count;
};

bool history_save(struct history *history, struct state_writer *writer, struct cs_error *err)
{
    uint8_t *bytes = NULL;
    bool ok = true;
    for (size_t i = 0; i < history->blocks && ok; i++) {
        if (!writer->full && !history->is_dirty[i]) continue;
        size_t entries = history->count - i * BLOCK < BLOCK ? history->count - i * BLOCK : BLOCK, size = 0;
        for (size_t j = 0; j < entries; j++)
            size += sizeof(struct record) + history->block[i][j].count * sizeof(uint64_t);
        bytes = grow(bytes, size);
        uint8_t *out = bytes;
        for (size_t j = 0; j < entries; j++) {
            const struct user *user = &history->block[i][j];
            struct record record = { user->user, user->activity, user->count };
            memcpy(out, &record, sizeof record);
            memcpy(out + sizeof record, user->item, user->count * sizeof *user->item);
            out += sizeof record + user->count * sizeof *user->item;
        }
        ok = writer->put(writer, section, i, bytes, size, err);
        if (ok) history->is_dirty[i] = 0;
    }
    free(bytes);
    return ok;
}

static bool load_block(void *argument, uint64_t id, const void *bytes, size_t size, struct cs_error *err)
{
    struct history *history = argument;
    if (id * BLOCK != history->count)
        return cs_fail(err, CS_REFUSED, "history: block %zu is missing", history->count / BLOCK);
    const uint8_t *in = bytes, *end = in + size;
    while (in < end) {
        struct record record;
        if ((size_t)(end - in) < sizeof record)
            return cs_fail(err, CS_REFUSED, "history: block %zu is cut short", (size_t)id);
        memcpy(&record, in, sizeof record);
        in += sizeof record;
        if (record.count > (size_t)(end - in) / sizeof(uint64_t) || record.count > UINT32_MAX)
            return cs_fail(err, CS_REFUSED, "history: block %zu is cut short", (size_t)id);
        index_grow(history);
        size_t slot = index_find(history, record.user);
        if (history->index[slot]) return cs_fail(err, CS_REFUSED, "history: a user is there twice");
        uint32_t entry = entry_add(history);
        history->index[slot] = entry + 1;
        struct user *user = at(history, entry);
        user->user = record.user;
        user->activity = record.activity;
        size_t kept = record.count < history->options.max_length ? record.count : history->options.max_length;
        if (kept) {
            set_capacity(history, user, (uint32_t)kept);
            memcpy(user->item, in + (record.count - kept) * sizeof(uint64_t), kept * sizeof(uint64_t));
        }
        user->count = (uint32_t)kept;
        in += record.count * sizeof(uint64_t);
        if (record.activity >= history->appends) history->appends = record.activity + 1;
    }
    return true;
}

struct active {
    uint64_t activity;
    uint32_t entry;
};

static int by_activity(const void *a, const void *b)
{
    uint64_t x = ((const struct active *)a)->activity, y = ((const struct active *)b)->activity;
    return (x > y) - (x < y);
}

bool history_load(struct history *history, struct state_reader *reader, struct cs_error *err)
{
    assert(!history->count);
    if (!reader->each(reader, section, load_block, history, err)) return false;
    struct active *active = malloc((history->count + 1) * sizeof *active);
    if (!active) return cs_fail(err, CS_FAILED, "out of memory: %zu histories", history->count);
    for (size_t i = 0; i < history->count; i++)
        active[i] = (struct active){ at(history, (uint32_t)i)->activity, (uint32_t)i };
    qsort(active, history->count, sizeof *active, by_activity);
    for (size_t i = 0; i < history->count; i++) list_append(history, active[i].entry);
    free(active);
    if (history->blocks) memset(history->is_dirty, 0, history->blocks);
    return true;
}
