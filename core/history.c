/* Users' own clicks: a hash table of users over blocks of entries, and a list by activity.
 *
 *   index   user -> entry number (open addressing)
 *   block   [BLOCK entries], in use from the first on
 *   list    least recently active first: who leaves when max_users is reached; its entry is reused in place. Follows
 *           from the entries' activity, so it is no part of what is saved
 *   freeze  an entry is a record of the snapshot, with its items: freeze_touch before each change of either */
#include "core/history.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/freeze.h"
#include "core/need.h"

enum { BLOCK_SHIFT = 10, BLOCK = 1 << BLOCK_SHIFT, NONE = UINT32_MAX };

static const char section[] = "history", section_users[] = "history.users";

struct user {
    uint64_t user, activity; /* activity: number of the append; the list is in its order */
    uint64_t *item;
    uint32_t older, newer, count, capacity;
};

struct block {
    struct user user[BLOCK];
    uint64_t living[BLOCK / 64]; /* entries in use */
};

struct history {
    struct history_options options;
    struct block **block;
    size_t blocks, count;
    struct freeze *freeze;
    uint32_t *index; /* entry number + 1, 0: free */
    size_t index_mask;
    uint32_t oldest, newest;
    uint64_t appends;
    size_t item_bytes;
};

static struct user *at(const struct history *history, uint32_t entry)
{
    return &history->block[entry / BLOCK]->user[entry % BLOCK];
}
static size_t home(const struct history *history, uint64_t user) { return (user ^ user >> 32) & history->index_mask; }

static void index_reset(struct history *history, size_t slots)
{
    free(history->index);
    history->index = need(calloc(slots, sizeof *history->index));
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

/* ---- as the snapshot sees users: a record, then the items ---- */

struct record {
    uint64_t user, activity, count;
};

static size_t frozen_units(const void *self) { return ((const struct history *)self)->blocks; }

static void frozen_unit(const void *self, size_t unit, const void **base, const uint64_t **living)
{
    const struct history *history = self;
    *base = history->block[unit];
    *living = history->block[unit]->living;
}

static size_t frozen_size(const void *self, const void *base, uint32_t place)
{
    (void)self;
    return sizeof(struct record) + ((const struct block *)base)->user[place].count * sizeof(uint64_t);
}

static void frozen_write(const void *self, const void *base, uint32_t place, void *into)
{
    (void)self;
    const struct user *user = &((const struct block *)base)->user[place];
    struct record record = { user->user, user->activity, user->count };
    memcpy(into, &record, sizeof record);
    if (user->count) memcpy((uint8_t *)into + sizeof record, user->item, user->count * sizeof *user->item);
}

static const struct freeze_ops frozen_users = {
    .units = frozen_units, .unit = frozen_unit, .size = frozen_size, .write = frozen_write
};

/* ---- users, by id and by activity ---- */

struct history *history_create(const struct history_options *options)
{
    struct history *history = calloc(1, sizeof *history);
    if (!history) return NULL;
    history->options = *options;
    history->oldest = history->newest = NONE;
    history->freeze = freeze_create(BLOCK_SHIFT, &frozen_users, history);
    if (!history->freeze) {
        free(history);
        return NULL;
    }
    index_reset(history, 1024);
    return history;
}

void history_destroy(struct history *history)
{
    if (!history) return;
    for (size_t i = 0; i < history->count; i++) free(at(history, (uint32_t)i)->item);
    for (size_t i = 0; i < history->blocks; i++) free(history->block[i]);
    free(history->block);
    freeze_destroy(history->freeze);
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

static void add_block(struct history *history)
{
    assert(history->blocks < STATE_SLOTS_MAX / BLOCK);
    history->block = need(realloc(history->block, (history->blocks + 1) * sizeof *history->block));
    history->block[history->blocks++] = need(calloc(1, sizeof **history->block));
}

static void set_living(struct history *history, uint32_t entry)
{
    history->block[entry / BLOCK]->living[entry % BLOCK / 64] |= UINT64_C(1) << (entry % 64);
}

static uint32_t entry_add(struct history *history)
{
    if (history->count == history->blocks * BLOCK) add_block(history);
    set_living(history, (uint32_t)history->count);
    return (uint32_t)history->count++;
}

static void index_grow(struct history *history)
{
    if ((history->count + 1) * 2 <= history->index_mask + 1) return;
    index_reset(history, (history->index_mask + 1) * 2);
    for (size_t i = 0; i < history->count; i++)
        history->index[index_find(history, at(history, (uint32_t)i)->user)] = (uint32_t)i + 1;
}

/* The user's entry, touched and out of the list. */
static uint32_t find_or_add(struct history *history, uint64_t key)
{
    size_t slot = index_find(history, key);
    if (history->index[slot]) {
        uint32_t entry = history->index[slot] - 1;
        freeze_touch(history->freeze, entry);
        list_remove(history, entry);
        return entry;
    }
    uint32_t entry;
    if (history->options.max_users && history->count >= history->options.max_users) {
        entry = history->oldest;
        freeze_touch(history->freeze, entry);
        list_remove(history, entry);
        index_remove(history, index_find(history, at(history, entry)->user));
        at(history, entry)->count = 0;
    } else {
        index_grow(history);
        entry = entry_add(history);
        freeze_touch(history->freeze, entry);
    }
    at(history, entry)->user = key;
    history->index[index_find(history, key)] = entry + 1;
    return entry;
}

static void set_capacity(struct history *history, struct user *user, uint32_t capacity)
{
    user->item = need(realloc(user->item, capacity * sizeof *user->item));
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
    return sizeof *history + history->blocks * sizeof(struct block) +
           (history->index_mask + 1) * sizeof *history->index + history->item_bytes + freeze_bytes(history->freeze);
}

/* ---- state ----
 *
 *   history, 0          struct header
 *   history.users, n    of entry n: struct record, then uint64 item[count], oldest first */

struct header {
    uint64_t version, count, appends;
};

enum { VERSION = 2 };

bool history_save(struct history *history, struct state_writer *writer, struct cs_error *err)
{
    struct header header = { VERSION, history->count, history->appends };
    struct state_records records = freeze_records(history->freeze);
    return writer->put(writer, section, 0, &header, sizeof header, err) &&
           writer->records(writer, section_users, &records, err);
}

/* In any order: the blocks and history->count are there already. */
struct loading {
    struct history *history;
    size_t loaded;
};

static bool load_user(void *argument, uint64_t slot, const void *bytes, size_t size, struct cs_error *err)
{
    struct loading *loading = argument;
    struct history *history = loading->history;
    struct record record;
    if (slot >= history->count)
        return cs_fail(err, CS_REFUSED, "histories: user %zu is stored, %zu users are expected", (size_t)slot,
                       history->count);
    if (size < sizeof record) goto damaged;
    memcpy(&record, bytes, sizeof record);
    size_t rest = size - sizeof record;
    if (rest % sizeof(uint64_t) || record.count != rest / sizeof(uint64_t) || record.activity >= history->appends)
        goto damaged;
    size_t at_index = index_find(history, record.user);
    if (history->index[at_index]) goto damaged;
    uint32_t entry = (uint32_t)slot;
    history->index[at_index] = entry + 1;
    set_living(history, entry);
    struct user *user = at(history, entry);
    user->user = record.user;
    user->activity = record.activity;
    size_t kept = record.count < history->options.max_length ? record.count : history->options.max_length;
    if (kept) {
        set_capacity(history, user, (uint32_t)kept);
        memcpy(user->item, (const uint8_t *)bytes + size - kept * sizeof(uint64_t), kept * sizeof(uint64_t));
    }
    user->count = (uint32_t)kept;
    loading->loaded++;
    return true;
damaged:
    return cs_fail(err, CS_REFUSED, "histories: user %zu is damaged, or there twice", (size_t)slot);
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
    const void *bytes;
    size_t size, slots = 1024;
    struct header header;
    if (!reader->get(reader, section, 0, &bytes, &size, err)) return false;
    if (!bytes) return cs_fail(err, CS_REFUSED, "no histories are stored");
    if (size != sizeof header)
        return cs_fail(err, CS_REFUSED, "histories: the header has %zu bytes, %zu are expected", size, sizeof header);
    memcpy(&header, bytes, sizeof header);
    if (header.version != VERSION)
        return cs_fail(err, CS_REFUSED, "histories: version %d, %d is expected", (int)header.version, VERSION);
    if (header.count > STATE_SLOTS_MAX || header.count > header.appends)
        return cs_fail(err, CS_REFUSED, "histories: the header is damaged");
    while (history->blocks * BLOCK < header.count) add_block(history);
    while (slots < (header.count + 1) * 2) slots *= 2;
    index_reset(history, slots);
    history->count = header.count;
    history->appends = header.appends;
    struct loading loading = { .history = history };
    if (!reader->each(reader, section_users, load_user, &loading, err)) return false;
    if (loading.loaded != history->count)
        return cs_fail(err, CS_REFUSED, "histories: %zu users are stored, %zu are expected", loading.loaded,
                       history->count);
    struct active *active = malloc((history->count + 1) * sizeof *active);
    if (!active) return cs_fail(err, CS_FAILED, "out of memory: %zu histories", history->count);
    for (size_t i = 0; i < history->count; i++)
        active[i] = (struct active){ at(history, (uint32_t)i)->activity, (uint32_t)i };
    qsort(active, history->count, sizeof *active, by_activity);
    for (size_t i = 0; i < history->count; i++) list_append(history, active[i].entry);
    free(active);
    return true;
}
