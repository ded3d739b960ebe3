/* Levels of changed rows: made, merged, asked. */
#include "storage/overlay.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

enum { RATIO = 4, SMALL = 4096, TOGETHER = 32 };

/* row: 0: the slot is empty; GONE: the key's row went; otherwise the row's number, from 1. */
struct slot { uint64_t key; uint32_t row, pad; };
static const uint32_t GONE = UINT32_MAX;

struct level_table {
    struct slot *slot;              /* [mask + 1]; NULL: no keys */
    uint64_t mask;
    float *row;
    struct overlay_room room;
    uint32_t rows, keys;
};

struct overlay_level {
    _Atomic unsigned holders;
    uint64_t sequence;              /* of the newest delta in it */
    size_t tables, dimension;
    struct level_table table[];
};

static void *take(size_t count, size_t size)
{
    return need(calloc(count ? count : 1, size));
}

/* Keys are hashes; but whoever sends them may choose them, so that they are mixed once more. */
static uint64_t slot_of(const struct level_table *table, uint64_t key)
{
    key ^= key >> 32;
    key *= 0x9e3779b97f4a7c15ull;
    return (key ^ key >> 29) & table->mask;
}

/* The key's slot, or the empty one where it belongs. */
static struct slot *find_slot(const struct level_table *table, uint64_t key)
{
    uint64_t i = slot_of(table, key);
    while (table->slot[i].row && table->slot[i].key != key) i = (i + 1) & table->mask;
    return &table->slot[i];
}

/* -- levels ------------------------------------------------------------------------------------------------------- */

struct overlay_level *overlay_level_create(size_t tables, size_t dimension, const struct overlay_room *room,
                                           uint64_t sequence)
{
    struct overlay_level *level = take(1, sizeof *level + tables * sizeof *level->table);
    atomic_init(&level->holders, 1);
    level->sequence = sequence;
    level->tables = tables;
    level->dimension = dimension;
    for (size_t i = 0; i < tables; i++) {
        struct level_table *table = &level->table[i];
        uint64_t slots = 8;
        if (!room[i].keys) continue;
        assert(room[i].keys < UINT32_MAX / 4 && room[i].rows <= room[i].keys);
        while (slots < 2 * room[i].keys) slots *= 2;
        table->room = room[i];
        table->mask = slots - 1;
        table->slot = take(slots, sizeof *table->slot);
        /* Pages that no row needs stay untouched. */
        table->row = need(malloc((room[i].rows ? room[i].rows : 1) * dimension * sizeof *table->row));
    }
    return level;
}

void overlay_level_put(struct overlay_level *level, size_t number, uint64_t key, const float *row)
{
    struct level_table *table = &level->table[number];
    assert(number < level->tables && table->slot);
    struct slot *slot = find_slot(table, key);
    if (!slot->row) table->keys++;
    assert(table->keys <= table->room.keys);
    slot->key = key;
    if (!row) {
        slot->row = GONE;
        return;
    }
    if (!slot->row || slot->row == GONE) {
        assert(table->rows < table->room.rows);
        slot->row = ++table->rows;
    }
    memcpy(table->row + (size_t)(slot->row - 1) * level->dimension, row, level->dimension * sizeof *row);
}

/* Another holder of it. */
static struct overlay_level *hold(struct overlay_level *level)
{
    atomic_fetch_add_explicit(&level->holders, 1, memory_order_relaxed);
    return level;
}

void overlay_level_drop(struct overlay_level *level)
{
    if (!level || atomic_fetch_sub(&level->holders, 1) > 1) return;
    for (size_t i = 0; i < level->tables; i++) {
        free(level->table[i].slot);
        free(level->table[i].row);
    }
    free(level);
}

uint64_t overlay_level_keys(const struct overlay_level *level)
{
    uint64_t keys = 0;
    for (size_t i = 0; i < level->tables; i++) keys += level->table[i].keys;
    return keys;
}

static const float *slot_row(const struct overlay_level *level, const struct level_table *table,
                             const struct slot *slot)
{
    return slot->row == GONE ? NULL : table->row + (size_t)(slot->row - 1) * level->dimension;
}

static void put_all(struct overlay_level *to, size_t number, const struct overlay_level *from,
                    const struct level_table *unless)
{
    const struct level_table *table = &from->table[number];
    if (!table->slot) return;
    for (uint64_t i = 0; i <= table->mask; i++) {
        const struct slot *slot = &table->slot[i];
        if (!slot->row || (unless && unless->slot && find_slot(unless, slot->key)->row)) continue;
        overlay_level_put(to, number, slot->key, slot_row(from, table, slot));
    }
}

static struct overlay_level *merge(const struct overlay_level *older, const struct overlay_level *newer)
{
    assert(older->tables == newer->tables && older->dimension == newer->dimension);
    struct overlay_room *room = take(older->tables, sizeof *room);
    for (size_t i = 0; i < older->tables; i++) {
        const struct level_table *old = &older->table[i], *new = &newer->table[i];
        room[i] = (struct overlay_room){ (size_t)old->keys + new->keys, (size_t)old->rows + new->rows };
    }
    struct overlay_level *level = overlay_level_create(older->tables, older->dimension, room, newer->sequence);
    for (size_t i = 0; i < older->tables; i++) {
        put_all(level, i, newer, NULL);
        put_all(level, i, older, &newer->table[i]);
    }
    free(room);
    return level;
}

/* -- overlays ----------------------------------------------------------------------------------------------------- */

static void merge_newest(struct overlay *overlay)
{
    struct overlay_level **older = &overlay->level[overlay->levels - 2], **newer = &overlay->level[overlay->levels - 1];
    struct overlay_level *merged = merge(*older, *newer);
    overlay_level_drop(*older);
    overlay_level_drop(*newer);
    *older = merged;
    overlay->levels--;
}

void overlay_push(struct overlay *overlay, struct overlay_level *level)
{
    if (overlay->levels == OVERLAY_LEVELS) merge_newest(overlay);
    assert(!overlay->levels || overlay->level[overlay->levels - 1]->sequence < level->sequence);
    overlay->level[overlay->levels++] = level;
}

void overlay_compact(struct overlay *overlay)
{
    while (overlay->levels > 1) {
        uint64_t newer = 0;
        bool wanted = false;
        for (size_t i = overlay->levels; i-- > 0 && !wanted;) {
            uint64_t keys = overlay_level_keys(overlay->level[i]);
            wanted = i + 1 < overlay->levels && (keys < SMALL || keys < RATIO * newer);
            newer += keys;
        }
        if (!wanted) return;
        merge_newest(overlay);
    }
}

void overlay_drop_through(struct overlay *overlay, uint64_t sequence)
{
    size_t kept = 0;
    for (size_t i = 0; i < overlay->levels; i++) {
        if (overlay->level[i]->sequence <= sequence) overlay_level_drop(overlay->level[i]);
        else overlay->level[kept++] = overlay->level[i];
    }
    overlay->levels = kept;
}

void overlay_copy(struct overlay *to, const struct overlay *from)
{
    to->levels = from->levels;
    for (size_t i = 0; i < from->levels; i++) to->level[i] = hold(from->level[i]);
}

void overlay_release(struct overlay *overlay)
{
    for (size_t i = 0; i < overlay->levels; i++) overlay_level_drop(overlay->level[i]);
    overlay->levels = 0;
}

size_t overlay_bytes(const struct overlay *overlay)
{
    size_t bytes = 0;
    for (size_t i = 0; i < overlay->levels; i++) {
        const struct overlay_level *level = overlay->level[i];
        for (size_t k = 0; k < level->tables; k++)
            if (level->table[k].slot)
                bytes += (level->table[k].mask + 1) * sizeof(struct slot) +
                         (size_t)level->table[k].rows * level->dimension * sizeof(float);
    }
    return bytes;
}

uint64_t overlay_rows(const struct overlay *overlay)
{
    uint64_t rows = 0;
    for (size_t i = 0; i < overlay->levels; i++) rows += overlay_level_keys(overlay->level[i]);
    return rows;
}

/* The keys whose bit is in *open; those that the level knows leave it. */
static void ask(const struct overlay_level *level, const int *table, const uint64_t *key, const float **row,
                uint32_t *open)
{
    uint64_t first[TOGETHER];
    for (uint32_t left = *open; left; left &= left - 1) {
        unsigned i = (unsigned)__builtin_ctz(left);
        const struct level_table *in = &level->table[table[i]];
        if (!in->slot) continue;
        first[i] = slot_of(in, key[i]);
        __builtin_prefetch(&in->slot[first[i]]);
    }
    for (uint32_t left = *open; left; left &= left - 1) {
        unsigned i = (unsigned)__builtin_ctz(left);
        const struct level_table *in = &level->table[table[i]];
        if (!in->slot) continue;
        uint64_t at = first[i];
        while (in->slot[at].row && in->slot[at].key != key[i]) at = (at + 1) & in->mask;
        if (!in->slot[at].row) continue;
        row[i] = slot_row(level, in, &in->slot[at]);
        if (row[i]) __builtin_prefetch(row[i]);
        *open &= ~(1u << i);
    }
}

void overlay_find_all(const struct overlay *overlay, size_t count, const int *table, const uint64_t *key,
                      const float **row)
{
    if (!overlay->levels) return;
    for (size_t begin = 0; begin < count; begin += TOGETHER) {
        size_t together = count - begin < TOGETHER ? count - begin : TOGETHER;
        uint32_t open = together == TOGETHER ? UINT32_MAX : (1u << together) - 1;
        for (size_t i = overlay->levels; i-- > 0 && open;)
            ask(overlay->level[i], table + begin, key + begin, row + begin, &open);
    }
}
