/* Copy on write by record. One thread owns, one thread reads; what passes between them:
 *
 *   pending[word]   bit set: frozen, claimed by nobody. Whoever clears it has the record to copy.
 *   writing         the slot that the reader is copying. Set before its bit is cleared, so that an owner who finds
 *                   the bit cleared also finds this, or that the copy is done.
 *   aside_busy      set while the owner claims and sets aside, so that a reader who finds every bit cleared knows
 *                   whether a record is still on its way into the queue.
 *   aside           queue of one producer (owner) and one consumer (reader): chunks of records. Chunks that were read
 *                   go back to the owner by `drained`: memory that the kernel gives anew costs more than the copy
 *   stage           IDLE -> READING (begin, owner) -> WRITTEN or FAILED (end, reader) -> IDLE (next begin) */
#include "core/freeze.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

enum { ASIDE_CHUNK = 256 * 1024, ASIDE_KEPT = 128, NOBODY = UINT32_MAX };       /* of chunks, for use again */
enum stage { IDLE, READING, WRITTEN, FAILED };

/* A unit's part of the cut. */
struct frozen {
    const void *base;
    uint64_t *bits, *living;        /* [words] as they were at begin */
    _Atomic uint64_t *pending;
    uint32_t number;
};

/* The owner's alone. */
struct unit {
    uint64_t *changed;              /* [words]; NULL: never touched */
    struct frozen *frozen;          /* NULL: no part of the cut */
    bool any;                       /* of `changed` is set */
};

struct aside {
    _Atomic(struct aside *) next;
    _Atomic size_t used;
    size_t size;
    uint64_t bytes[];
};

struct freeze {
    struct freeze_ops ops;
    const void *self;
    unsigned shift;
    size_t words;

    /* the owner's */
    struct unit *unit;
    size_t units, capacity;
    struct frozen *frozen;          /* room for all units, with their bits behind: one allocation each, reused */
    uint64_t *bits;
    size_t room;                    /* units that both have room for */
    struct aside *tail, *spare;     /* spare: chunks to be used again, by `next` */
    atomic_uint_fast64_t set_aside;

    /* set by begin, then the reader's */
    size_t frozen_count, at, at_word;
    struct aside *head;
    size_t head_at;
    uint8_t *spill;                 /* a record that was claimed and did not fit */
    size_t spill_size, spill_room;

    _Atomic(struct aside *) drained;    /* read; a stack by `next` that the owner takes whole */
    atomic_size_t kept;                 /* chunks in drained and spare */
    _Atomic uint32_t writing;
    atomic_bool aside_busy;
    _Atomic int stage;
};

static struct aside *aside_clear(struct aside *aside)
{
    atomic_store_explicit(&aside->next, NULL, memory_order_relaxed);
    atomic_store_explicit(&aside->used, 0, memory_order_relaxed);
    return aside;
}

static struct aside *aside_create(size_t bytes)
{
    struct aside *aside = need(malloc(sizeof *aside + bytes));
    aside->size = bytes;
    return aside_clear(aside);
}

/* Read: by the reader, or by the owner while nobody reads. */
static void aside_give_back(struct freeze *freeze, struct aside *aside)
{
    if (aside->size != ASIDE_CHUNK || atomic_load_explicit(&freeze->kept, memory_order_relaxed) >= ASIDE_KEPT) {
        free(aside);
        return;
    }
    atomic_fetch_add_explicit(&freeze->kept, 1, memory_order_relaxed);
    struct aside *top = atomic_load_explicit(&freeze->drained, memory_order_relaxed);
    do atomic_store_explicit(&aside->next, top, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&freeze->drained, &top, aside, memory_order_release,
                                                  memory_order_relaxed));
}

/* The owner's. */
static struct aside *aside_take(struct freeze *freeze, size_t bytes)
{
    if (bytes > ASIDE_CHUNK) return aside_create(bytes);
    if (!freeze->spare) freeze->spare = atomic_exchange_explicit(&freeze->drained, NULL, memory_order_acquire);
    struct aside *aside = freeze->spare;
    if (!aside) return aside_create(ASIDE_CHUNK);
    freeze->spare = atomic_load_explicit(&aside->next, memory_order_relaxed);
    atomic_fetch_sub_explicit(&freeze->kept, 1, memory_order_relaxed);
    return aside_clear(aside);
}

struct freeze *freeze_create(unsigned shift, const struct freeze_ops *ops, const void *self)
{
    assert(shift >= 6 && shift < 30);
    struct freeze *freeze = calloc(1, sizeof *freeze);
    if (!freeze) return NULL;
    freeze->ops = *ops;
    freeze->self = self;
    freeze->shift = shift;
    freeze->words = (size_t)1 << (shift - 6);
    freeze->head = freeze->tail = aside_create(ASIDE_CHUNK);
    atomic_init(&freeze->writing, NOBODY);
    atomic_init(&freeze->stage, IDLE);
    return freeze;
}

/* Back to one empty chunk. By the owner, while nobody reads. */
static void aside_reset(struct freeze *freeze)
{
    while (freeze->head != freeze->tail) {
        struct aside *next = atomic_load_explicit(&freeze->head->next, memory_order_relaxed);
        aside_give_back(freeze, freeze->head);
        freeze->head = next;
    }
    atomic_store_explicit(&freeze->head->used, 0, memory_order_relaxed);
    freeze->head_at = 0;
}

void freeze_destroy(struct freeze *freeze)
{
    if (!freeze) return;
    assert(atomic_load(&freeze->stage) != READING);
    aside_reset(freeze);
    while (atomic_load(&freeze->kept)) free(aside_take(freeze, 0));
    free(freeze->head);
    for (size_t i = 0; i < freeze->units; i++) free(freeze->unit[i].changed);
    free(freeze->unit);
    free(freeze->frozen);
    free(freeze->bits);
    free(freeze->spill);
    free(freeze);
}

size_t freeze_bytes(const struct freeze *freeze)
{
    size_t bytes = sizeof *freeze + sizeof *freeze->tail + freeze->tail->size +
                   atomic_load_explicit(&freeze->kept, memory_order_relaxed) * (sizeof *freeze->tail + ASIDE_CHUNK) +
                   freeze->capacity * sizeof *freeze->unit;
    for (size_t i = 0; i < freeze->units; i++) bytes += freeze->unit[i].changed ? freeze->words * 8 : 0;
    return bytes + freeze->room * (sizeof *freeze->frozen + 3 * freeze->words * 8);
}

uint64_t freeze_set_aside(const struct freeze *freeze)
{
    return atomic_load_explicit(&freeze->set_aside, memory_order_relaxed);
}

/* ---- records as they are given */

static size_t padded(size_t size)
{
    return (size + 7) & ~(size_t)7;
}

static size_t record_bytes(const struct freeze *freeze, const struct frozen *frozen, uint32_t place)
{
    bool lives = frozen->living[place / 64] >> place % 64 & 1;
    return lives ? freeze->ops.size(freeze->self, frozen->base, place) : 0;
}

static void record_write(const struct freeze *freeze, const struct frozen *frozen, uint32_t place, size_t size,
                         void *into)
{
    *(struct state_record *)into = (struct state_record){ frozen->number << freeze->shift | place, (uint32_t)size };
    if (!size) return;
    uint8_t *bytes = (uint8_t *)into + sizeof(struct state_record);
    memset(bytes + padded(size) - 8, 0, 8);
    freeze->ops.write(freeze->self, frozen->base, place, bytes);
}

/* ---- the owner's side */

static struct unit *unit_of(struct freeze *freeze, size_t number)
{
    if (number >= freeze->capacity) {
        size_t capacity = freeze->capacity ? freeze->capacity : 64;
        while (capacity <= number) capacity *= 2;
        freeze->unit = need(realloc(freeze->unit, capacity * sizeof *freeze->unit));
        memset(freeze->unit + freeze->capacity, 0, (capacity - freeze->capacity) * sizeof *freeze->unit);
        freeze->capacity = capacity;
    }
    if (number >= freeze->units) freeze->units = number + 1;
    struct unit *unit = &freeze->unit[number];
    if (!unit->changed) unit->changed = need(calloc(freeze->words, sizeof *unit->changed));
    return unit;
}

static void set_aside(struct freeze *freeze, const struct frozen *frozen, uint32_t place)
{
    size_t size = record_bytes(freeze, frozen, place), whole = sizeof(struct state_record) + padded(size);
    struct aside *tail = freeze->tail, *fresh = NULL;
    size_t used = atomic_load_explicit(&tail->used, memory_order_relaxed);
    if (tail->size - used < whole) {
        fresh = aside_take(freeze, whole);
        tail = fresh;
        used = 0;
    }
    record_write(freeze, frozen, place, size, (uint8_t *)tail->bytes + used);
    atomic_store_explicit(&tail->used, used + whole, memory_order_release);
    if (fresh) {
        atomic_store_explicit(&freeze->tail->next, fresh, memory_order_release);
        freeze->tail = fresh;
    }
    atomic_fetch_add_explicit(&freeze->set_aside, 1, memory_order_relaxed);
}

/* The record may be changed when this returns. */
static void take_back(struct freeze *freeze, const struct frozen *frozen, uint32_t slot, uint32_t place)
{
    uint64_t bit = UINT64_C(1) << place % 64;
    _Atomic uint64_t *pending = &frozen->pending[place / 64];
    if (atomic_load_explicit(pending, memory_order_acquire) & bit) {
        atomic_store(&freeze->aside_busy, true);
        bool ours = atomic_fetch_and(pending, ~bit) & bit;
        if (ours) set_aside(freeze, frozen, place);
        atomic_store(&freeze->aside_busy, false);
        if (ours) return;
    }
    while (atomic_load_explicit(&freeze->writing, memory_order_acquire) == slot) {
#ifdef __x86_64__
        __builtin_ia32_pause();
#endif
    }
}

void freeze_touch(struct freeze *freeze, uint32_t slot)
{
    struct unit *unit = unit_of(freeze, slot >> freeze->shift);
    uint32_t place = slot & ((UINT32_C(1) << freeze->shift) - 1);
    if (unit->frozen && atomic_load_explicit(&freeze->stage, memory_order_acquire) == READING)
        take_back(freeze, unit->frozen, slot, place);
    unit->changed[place / 64] |= UINT64_C(1) << place % 64;
    unit->any = true;
}

void freeze_clear(struct freeze *freeze)
{
    assert(atomic_load(&freeze->stage) == IDLE);
    for (size_t i = 0; i < freeze->units; i++) {
        if (freeze->unit[i].any) memset(freeze->unit[i].changed, 0, freeze->words * 8);
        freeze->unit[i].any = false;
    }
}

uint64_t freeze_frozen(const struct freeze *freeze)
{
    uint64_t count = 0;
    for (size_t i = 0; i < freeze->frozen_count; i++)
        for (size_t w = 0; w < freeze->words; w++)
            count += (uint64_t)__builtin_popcountll(freeze->frozen[i].bits[w] & freeze->frozen[i].living[w]);
    return count;
}

/* ---- a cut begins: the owner's thread */

/* The cut before is over: its bits are dropped, or where it failed belong to what changed. */
static void take_in_last(struct freeze *freeze)
{
    int stage = atomic_load_explicit(&freeze->stage, memory_order_acquire);
    assert(stage != READING);
    for (size_t i = 0; i < freeze->frozen_count; i++) {
        const struct frozen *frozen = &freeze->frozen[i];
        struct unit *unit = &freeze->unit[frozen->number];
        unit->frozen = NULL;
        if (stage != FAILED) continue;
        for (size_t w = 0; w < freeze->words; w++) unit->changed[w] |= frozen->bits[w];
        unit->any = true;
    }
    freeze->frozen_count = 0;
    freeze->spill_size = 0;
    aside_reset(freeze);
}

static void make_room(struct freeze *freeze)
{
    if (freeze->room >= freeze->units) return;
    free(freeze->frozen);
    free(freeze->bits);
    freeze->room = freeze->capacity;
    freeze->frozen = need(malloc(freeze->room * sizeof *freeze->frozen));
    freeze->bits = need(malloc(freeze->room * 3 * freeze->words * sizeof *freeze->bits));
}

static bool asked_for(const struct freeze *freeze, size_t number, const uint64_t *again, size_t again_words)
{
    for (size_t w = number * freeze->words; w < again_words && w < (number + 1) * freeze->words; w++)
        if (again[w]) return true;
    return false;
}

/* What of the unit goes into the cut. Its bits since the last cut are taken. */
static void freeze_unit(struct freeze *freeze, size_t number, bool full, const uint64_t *again, size_t again_words)
{
    struct unit *unit = &freeze->unit[number];
    if (!full && !unit->any && !asked_for(freeze, number, again, again_words)) return;
    size_t words = freeze->words, first = number * words;
    struct frozen *frozen = &freeze->frozen[freeze->frozen_count];
    uint64_t *bits = freeze->bits + freeze->frozen_count * 3 * words, any = 0;
    const uint64_t *living = NULL;
    *frozen = (struct frozen){ .bits = bits, .living = bits + words, .pending = (_Atomic uint64_t *)(bits + 2 * words),
                               .number = (uint32_t)number };
    freeze->ops.unit(freeze->self, number, &frozen->base, &living);
    for (size_t w = 0; w < words; w++) {
        uint64_t lives = living ? living[w] : 0, asked = first + w < again_words ? again[first + w] : 0;
        uint64_t changed = unit->any ? unit->changed[w] : 0;
        frozen->living[w] = lives;
        bits[w] = full ? lives : changed | (asked & lives);
        any |= bits[w];
        atomic_init(&frozen->pending[w], bits[w]);
    }
    if (unit->any) memset(unit->changed, 0, words * sizeof *unit->changed);
    unit->any = false;
    if (!any) return;
    unit_of(freeze, number)->frozen = frozen;
    freeze->frozen_count++;
}

static void begin(void *self, bool full, const uint64_t *again, size_t again_words)
{
    struct freeze *freeze = self;
    take_in_last(freeze);
    size_t units = freeze->ops.units(freeze->self);     /* they need not have been touched since they were loaded */
    if (units) unit_of(freeze, units - 1);
    make_room(freeze);
    for (size_t i = 0; i < freeze->units; i++) freeze_unit(freeze, i, full, again, again_words);
    freeze->at = freeze->at_word = 0;
    atomic_store_explicit(&freeze->stage, READING, memory_order_release);
}

/* ---- the reading thread */

/* Gives a record of `whole` bytes from memory that only we have. False: no room, tell what is needed. */
static bool give(uint8_t *into, size_t room, size_t *used, const void *record, size_t whole)
{
    if (room - *used < whole) return false;
    memcpy(into + *used, record, whole);
    *used += whole;
    return true;
}

/* What the owner has set aside so far. Returns 0, or the bytes of the record that has no room. */
static size_t drain_aside(struct freeze *freeze, uint8_t *into, size_t room, size_t *used)
{
    for (;;) {
        struct aside *head = freeze->head;
        while (freeze->head_at < atomic_load_explicit(&head->used, memory_order_acquire)) {
            const uint8_t *record = (const uint8_t *)head->bytes + freeze->head_at;
            size_t whole = sizeof(struct state_record) + padded(((const struct state_record *)record)->size);
            if (!give(into, room, used, record, whole)) return whole;
            freeze->head_at += whole;
        }
        struct aside *next = atomic_load_explicit(&head->next, memory_order_acquire);
        if (!next) return 0;
        if (freeze->head_at < atomic_load_explicit(&head->used, memory_order_acquire)) continue;
        aside_give_back(freeze, head);
        freeze->head = next;
        freeze->head_at = 0;
    }
}

/* Claims and copies one record. Returns 0, or the bytes that the record needs: it is kept until there is room. */
static size_t claim(struct freeze *freeze, const struct frozen *frozen, uint32_t place, uint8_t *into, size_t room,
                    size_t *used)
{
    uint64_t bit = UINT64_C(1) << place % 64;
    size_t lacking = 0;
    atomic_store(&freeze->writing, frozen->number << freeze->shift | place);
    if (atomic_fetch_and(&frozen->pending[place / 64], ~bit) & bit) {
        size_t size = record_bytes(freeze, frozen, place), whole = sizeof(struct state_record) + padded(size);
        uint8_t *to = into + *used;
        if (room - *used < whole) {
            if (freeze->spill_room < whole) {
                free(freeze->spill);
                freeze->spill = need(malloc(freeze->spill_room = whole));
            }
            to = freeze->spill;
            freeze->spill_size = lacking = whole;
        } else {
            *used += whole;
        }
        record_write(freeze, frozen, place, size, to);
    }
    atomic_store_explicit(&freeze->writing, NOBODY, memory_order_release);
    return lacking;
}

static enum state_read no_room(size_t used, size_t lacking, size_t *size)
{
    *size = used ? used : lacking;
    return used ? STATE_READ_MORE : STATE_READ_ROOM;
}

static enum state_read read(void *self, void *into, size_t room, size_t *size)
{
    struct freeze *freeze = self;
    size_t used = 0, lacking;
    assert(atomic_load(&freeze->stage) == READING);
    if (freeze->spill_size) {
        if (!give(into, room, &used, freeze->spill, freeze->spill_size)) return no_room(0, freeze->spill_size, size);
        freeze->spill_size = 0;
    }
    if ((lacking = drain_aside(freeze, into, room, &used))) return no_room(used, lacking, size);
    for (; freeze->at < freeze->frozen_count; freeze->at++, freeze->at_word = 0) {
        const struct frozen *frozen = &freeze->frozen[freeze->at];
        for (; freeze->at_word < freeze->words; freeze->at_word++) {
            uint64_t word = atomic_load_explicit(&frozen->pending[freeze->at_word], memory_order_acquire);
            for (; word; word &= word - 1) {
                uint32_t place = (uint32_t)(freeze->at_word * 64) + (uint32_t)__builtin_ctzll(word);
                if ((lacking = claim(freeze, frozen, place, into, room, &used))) return no_room(used, lacking, size);
            }
        }
    }
    /* Every bit is cleared; the last of the owner's may be on its way. */
    bool busy = atomic_load(&freeze->aside_busy);
    if ((lacking = drain_aside(freeze, into, room, &used))) return no_room(used, lacking, size);
    *size = used;
    return busy ? STATE_READ_MORE : STATE_READ_END;
}

static void end(void *self, bool written)
{
    struct freeze *freeze = self;
    atomic_store_explicit(&freeze->stage, written ? WRITTEN : FAILED, memory_order_release);
}

struct state_records freeze_records(struct freeze *freeze)
{
    return (struct state_records){ .self = freeze, .begin = begin, .read = read, .end = end };
}
