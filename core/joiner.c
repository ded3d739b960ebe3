/* The joiner: one table of impression ids, two queues by time.
 *
 *   entry       HELD_IMPRESSION   until its window ends; then its example leaves and the entry is REMEMBERED
 *               HELD_CLICK        a click (or conversion) whose impression has not come
 *               REMEMBERED        id alone, or with late_click correct the negative example, for one more window
 *   blocks      entries live in blocks of BLOCK, handed out in rising order round and round, so that what came together
 *               lies together
 *   frozen      an entry is a record of the snapshot, with the example or id that it owns: `touch` before each change
 *               of either, also before they are freed or handed out, is what lets a cut be written meanwhile
 *   index       XXH3 of the id -> entry number (open addressing, deletion moves entries up)
 *   held, kept  4-ary heaps by (end, order of arrival); an item whose entry has another order is stale and skipped */
#include "core/joiner.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/freeze.h"
#include "core/need.h"

const char *const join_result_name[JOIN_RESULTS] = {
    [JOIN_MATCHED] = "matched",     [JOIN_EXPIRED] = "expired", [JOIN_LATE] = "late",
    [JOIN_DUPLICATE] = "duplicate", [JOIN_ORPHAN] = "orphan",
};

enum { BLOCK_SHIFT = 10, BLOCK = 1 << BLOCK_SHIFT, NONE = UINT32_MAX };

static const char section[] = "joiner", section_entries[] = "joiner.entries";

enum entry_state { FREE, HELD_IMPRESSION, HELD_CLICK, REMEMBERED };

struct entry {
    uint64_t hash;
    uint64_t order;          /* of arrival; of its item in a queue */
    int64_t end;             /* event time after which it leaves its state */
    int64_t time;            /* of the impression, or of the early click */
    struct example *example; /* HELD_IMPRESSION; REMEMBERED: the negative that may yet be corrected, or NULL */
    char *id;                /* where there is no example */
    uint16_t id_length;
    uint8_t state, clicked, converted;
};

struct block {
    struct entry entry[BLOCK];
    uint64_t living[BLOCK / 64]; /* entries in use */
    uint32_t used;
};
struct item {
    int64_t end;
    uint64_t order;
    uint32_t entry;
};
struct queue {
    struct item *item;
    size_t count, capacity;
};

struct joiner {
    const struct features *features;
    struct join_options options;
    joiner_click *on_click;
    void *argument;

    struct block **block;
    size_t blocks, entries; /* entries in use */
    struct freeze *freeze;
    uint32_t next;          /* where the search for a free entry goes on */
    uint32_t *index;        /* entry number + 1, 0: free */
    size_t index_mask;
    struct queue held, kept;
    size_t held_count, kept_count;
    struct join_held undecided;
    int64_t clock;
    uint64_t orders;
    struct join_counts counts;

    struct example **out; /* left, not yet popped: [out_begin, out_end) */
    size_t out_begin, out_end, out_capacity;
    size_t bytes; /* of examples and ids held */
};

/* ---- queues ---- */

static bool before(const struct item *a, const struct item *b)
{
    return a->end != b->end ? a->end < b->end : a->order < b->order;
}

static void queue_push(struct queue *queue, struct item item)
{
    if (queue->count == queue->capacity) {
        queue->capacity = queue->capacity ? queue->capacity * 2 : 256;
        queue->item = need(realloc(queue->item, queue->capacity * sizeof *queue->item));
    }
    size_t at = queue->count++;
    for (; at > 0 && before(&item, &queue->item[(at - 1) / 4]); at = (at - 1) / 4)
        queue->item[at] = queue->item[(at - 1) / 4];
    queue->item[at] = item;
}

static void queue_pop(struct queue *queue)
{
    struct item last = queue->item[--queue->count];
    size_t at = 0;
    for (size_t child = 1; child < queue->count; child = at * 4 + 1) {
        size_t best = child, end = child + 4 < queue->count ? child + 4 : queue->count;
        for (size_t i = child + 1; i < end; i++)
            if (before(&queue->item[i], &queue->item[best])) best = i;
        if (!before(&queue->item[best], &last)) break;
        queue->item[at] = queue->item[best];
        at = best;
    }
    if (queue->count) queue->item[at] = last;
}

/* ---- entries and their index ---- */

static struct entry *entry_at(const struct joiner *joiner, uint32_t number)
{
    return &joiner->block[number / BLOCK]->entry[number % BLOCK];
}
static void touch(struct joiner *joiner, uint32_t number) { freeze_touch(joiner->freeze, number); }

static const char *id_of(const struct entry *entry) { return entry->example ? example_id(entry->example) : entry->id; }

static uint32_t find(const struct joiner *joiner, uint64_t hash, const char *id, size_t length)
{
    for (size_t slot = hash & joiner->index_mask; joiner->index[slot]; slot = (slot + 1) & joiner->index_mask) {
        const struct entry *entry = entry_at(joiner, joiner->index[slot] - 1);
        if (entry->hash == hash && entry->id_length == length && memcmp(id_of(entry), id, length) == 0)
            return joiner->index[slot] - 1;
    }
    return NONE;
}

static void index_put(struct joiner *joiner, uint32_t number)
{
    size_t slot = entry_at(joiner, number)->hash & joiner->index_mask;
    while (joiner->index[slot]) slot = (slot + 1) & joiner->index_mask;
    joiner->index[slot] = number + 1;
}

static void index_remove(struct joiner *joiner, uint32_t number)
{
    size_t mask = joiner->index_mask, slot = entry_at(joiner, number)->hash & mask;
    while (joiner->index[slot] != number + 1) slot = (slot + 1) & mask;
    for (size_t next = (slot + 1) & mask; joiner->index[next]; next = (next + 1) & mask) {
        size_t wanted = entry_at(joiner, joiner->index[next] - 1)->hash & mask;
        if (((next - wanted) & mask) < ((next - slot) & mask)) continue;
        joiner->index[slot] = joiner->index[next];
        slot = next;
    }
    joiner->index[slot] = 0;
}

static void index_create(struct joiner *joiner, size_t slots)
{
    free(joiner->index);
    joiner->index = need(calloc(slots, sizeof *joiner->index));
    joiner->index_mask = slots - 1;
}

static void index_make_room(struct joiner *joiner)
{
    if ((joiner->entries + 1) * 2 <= joiner->index_mask + 1) return;
    index_create(joiner, (joiner->index_mask + 1) * 2);
    for (size_t i = 0; i < joiner->blocks * BLOCK; i++)
        if (entry_at(joiner, (uint32_t)i)->state != FREE) index_put(joiner, (uint32_t)i);
}

static void add_block(struct joiner *joiner)
{
    assert(joiner->blocks < STATE_SLOTS_MAX / BLOCK);
    joiner->block = need(realloc(joiner->block, (joiner->blocks + 1) * sizeof *joiner->block));
    joiner->block[joiner->blocks++] = need(calloc(1, sizeof **joiner->block));
}

/* A free entry, the next one round from the last given: a function of what is in use, so a restored joiner gives the
 * same. */
static uint32_t take_free(struct joiner *joiner)
{
    if (joiner->entries * 8 >= joiner->blocks * BLOCK * 7) {
        joiner->next = (uint32_t)(joiner->blocks * BLOCK);
        add_block(joiner);
    }
    for (;; joiner->next++) {
        if (joiner->next >= joiner->blocks * BLOCK) joiner->next = 0;
        struct block *block = joiner->block[joiner->next / BLOCK];
        if (block->used == BLOCK)
            joiner->next |= BLOCK - 1;
        else if (block->entry[joiner->next % BLOCK].state == FREE)
            return joiner->next;
    }
}

static size_t body_bytes(const struct entry *entry)
{
    return entry->example ? entry->example->size : entry->id ? (size_t)entry->id_length + 1 : 0;
}

/* Puts a filled entry into the free place `number` and the index, which has room. */
static void entry_put(struct joiner *joiner, uint32_t number, const struct entry *entry)
{
    struct block *block = joiner->block[number / BLOCK];
    touch(joiner, number);
    block->entry[number % BLOCK] = *entry;
    block->living[number % BLOCK / 64] |= UINT64_C(1) << (number % 64);
    block->used++;
    joiner->entries++;
    joiner->bytes += body_bytes(entry);
    index_put(joiner, number);
}

static uint32_t entry_add(struct joiner *joiner, const struct entry *entry)
{
    index_make_room(joiner);
    uint32_t number = take_free(joiner);
    entry_put(joiner, number, entry);
    return number;
}

static void entry_free(struct joiner *joiner, uint32_t number)
{
    struct block *block = joiner->block[number / BLOCK];
    struct entry *entry = &block->entry[number % BLOCK];
    touch(joiner, number);
    index_remove(joiner, number);
    joiner->bytes -= body_bytes(entry);
    free(entry->example);
    free(entry->id);
    *entry = (struct entry){ .state = FREE };
    block->living[number % BLOCK / 64] &= ~(UINT64_C(1) << (number % 64));
    block->used--;
    joiner->entries--;
}

static void enqueue(struct joiner *joiner, struct queue *queue, uint32_t number)
{
    const struct entry *entry = entry_at(joiner, number);
    queue_push(queue, (struct item){ entry->end, entry->order, number });
}

/* The first item that still speaks for its entry; false: the queue is empty. */
static bool queue_head(struct joiner *joiner, struct queue *queue, struct item *head)
{
    for (; queue->count; queue_pop(queue)) {
        *head = queue->item[0];
        const struct entry *entry = entry_at(joiner, head->entry);
        if (entry->state != FREE && entry->order == head->order && entry->end == head->end) return true;
    }
    return false;
}

/* ---- as the snapshot sees entries: records, which are drawn under `state` ---- */

struct record {
    uint64_t order;
    int64_t end, time;
    uint16_t id_length;
    uint8_t state, clicked, converted, has_example, reserved[2];
};

static size_t frozen_units(const void *self) { return ((const struct joiner *)self)->blocks; }

static void frozen_unit(const void *self, size_t unit, const void **base, const uint64_t **living)
{
    const struct joiner *joiner = self;
    *base = joiner->block[unit];
    *living = joiner->block[unit]->living;
}

static size_t frozen_size(const void *self, const void *base, uint32_t place)
{
    (void)self;
    return sizeof(struct record) + body_bytes(&((const struct block *)base)->entry[place]);
}

static void frozen_write(const void *self, const void *base, uint32_t place, void *into)
{
    (void)self;
    const struct entry *entry = &((const struct block *)base)->entry[place];
    struct record record = { .order = entry->order,
                             .end = entry->end,
                             .time = entry->time,
                             .id_length = entry->id_length,
                             .state = entry->state,
                             .clicked = entry->clicked,
                             .converted = entry->converted,
                             .has_example = entry->example != NULL };
    memcpy(into, &record, sizeof record);
    memcpy((uint8_t *)into + sizeof record, entry->example ? (const void *)entry->example : entry->id,
           body_bytes(entry));
}

static const struct freeze_ops frozen_entries = {
    .units = frozen_units, .unit = frozen_unit, .size = frozen_size, .write = frozen_write
};

/* ---- what happens to impressions and clicks ---- */

struct joiner *joiner_create(const struct features *features, const struct join_options *options,
                             joiner_click *on_click, void *argument)
{
    struct joiner *joiner = calloc(1, sizeof *joiner);
    if (!joiner) return NULL;
    joiner->features = features;
    joiner->options = *options;
    if (!joiner->options.max_pending) joiner->options.max_pending = UINT64_MAX;
    joiner->on_click = on_click;
    joiner->argument = argument;
    joiner->clock = INT64_MIN;
    joiner->freeze = freeze_create(BLOCK_SHIFT, &frozen_entries, joiner);
    if (!joiner->freeze) {
        free(joiner);
        return NULL;
    }
    index_create(joiner, 4096);
    return joiner;
}

void joiner_destroy(struct joiner *joiner)
{
    if (!joiner) return;
    for (size_t i = joiner->out_begin; i < joiner->out_end; i++) free(joiner->out[i]);
    for (size_t i = 0; i < joiner->blocks; i++) {
        for (size_t j = 0; j < BLOCK; j++) {
            free(joiner->block[i]->entry[j].example);
            free(joiner->block[i]->entry[j].id);
        }
        free(joiner->block[i]);
    }
    free(joiner->block);
    freeze_destroy(joiner->freeze);
    free(joiner->index);
    free(joiner->held.item);
    free(joiner->kept.item);
    free(joiner->out);
    free(joiner);
}

void joiner_set_window(struct joiner *joiner, int64_t window) { joiner->options.window = window; }

static void put_out(struct joiner *joiner, struct example *example, int64_t released)
{
    example->released = released;
    if (joiner->out_begin == joiner->out_end) joiner->out_begin = joiner->out_end = 0;
    if (joiner->out_end == joiner->out_capacity) {
        joiner->out_capacity = joiner->out_capacity ? joiner->out_capacity * 2 : 64;
        joiner->out = need(realloc(joiner->out, joiner->out_capacity * sizeof *joiner->out));
    }
    joiner->out[joiner->out_end++] = example;
}

struct example *joiner_pop(struct joiner *joiner)
{
    return joiner->out_begin < joiner->out_end ? joiner->out[joiner->out_begin++] : NULL;
}

static void forget_one(struct joiner *joiner, const struct item *head)
{
    queue_pop(&joiner->kept);
    joiner->kept_count--;
    entry_free(joiner, head->entry);
}

/* The impression leaves as an example; its id is remembered for another window. */
static void release(struct joiner *joiner, uint32_t number, int64_t released)
{
    struct entry *entry = entry_at(joiner, number);
    struct example *example = entry->example;
    touch(joiner, number);
    joiner->bytes -= body_bytes(entry);
    if (!entry->clicked) {
        joiner->counts.result[JOIN_EXPIRED]++;
        joiner->undecided.impressions--;
    }
    if (!entry->clicked && joiner->options.late_click == LATE_CORRECT) {
        entry->example = example_copy(example);
    } else {
        entry->example = NULL;
        entry->id = need(malloc(entry->id_length + 1u));
        memcpy(entry->id, example_id(example), entry->id_length + 1u);
    }
    joiner->bytes += body_bytes(entry);
    put_out(joiner, example, released);
    entry->state = REMEMBERED;
    entry->end = released + joiner->options.window;
    entry->order = joiner->orders++;
    joiner->held_count--;
    joiner->kept_count++;
    enqueue(joiner, &joiner->kept, number);
    struct item head;
    while (joiner->kept_count > joiner->options.max_pending && queue_head(joiner, &joiner->kept, &head))
        forget_one(joiner, &head);
}

static void early_free(struct joiner *joiner, uint32_t number)
{
    joiner->undecided.clicks -= entry_at(joiner, number)->clicked;
    joiner->held_count--;
    entry_free(joiner, number);
}

static void leave(struct joiner *joiner, uint32_t number, int64_t released)
{
    const struct entry *entry = entry_at(joiner, number);
    if (entry->state == HELD_IMPRESSION) {
        release(joiner, number, released);
    } else {
        if (entry->clicked) joiner->counts.result[JOIN_ORPHAN]++;
        early_free(joiner, number);
    }
}

void joiner_advance(struct joiner *joiner, int64_t clock)
{
    if (clock <= joiner->clock) return;
    joiner->clock = clock;
    struct item head;
    while (queue_head(joiner, &joiner->held, &head) && head.end < clock) {
        queue_pop(&joiner->held);
        leave(joiner, head.entry, head.end);
    }
    while (queue_head(joiner, &joiner->kept, &head) && head.end < clock) forget_one(joiner, &head);
}

void joiner_release_all(struct joiner *joiner)
{
    struct item head;
    while (queue_head(joiner, &joiner->held, &head)) {
        queue_pop(&joiner->held);
        leave(joiner, head.entry, head.end);
    }
}

/* Makes room for one more that is held. */
static void make_room(struct joiner *joiner)
{
    struct item head;
    while (joiner->held_count >= joiner->options.max_pending && queue_head(joiner, &joiner->held, &head)) {
        queue_pop(&joiner->held);
        joiner->counts.forced++;
        leave(joiner, head.entry, joiner->clock);
    }
}

static void click_matched(struct joiner *joiner, uint32_t number)
{
    struct entry *entry = entry_at(joiner, number);
    touch(joiner, number);
    entry->clicked = entry->example->clicked = 1;
    joiner->undecided.impressions--;
    joiner->counts.result[JOIN_MATCHED]++;
    if (joiner->on_click) joiner->on_click(joiner->argument, entry->example);
}

/* A click whose impression left as a negative. negative: NULL where it is not to be corrected. */
static void click_late(struct joiner *joiner, const struct example *negative)
{
    joiner->counts.result[JOIN_LATE]++;
    if (!negative) return;
    struct example *corrected = example_copy(negative);
    corrected->clicked = corrected->correction = 1;
    joiner->counts.corrected++;
    if (joiner->on_click) joiner->on_click(joiner->argument, corrected);
    put_out(joiner, corrected, joiner->clock);
}

static void remembered_clicked(struct joiner *joiner, uint32_t number)
{
    touch(joiner, number);
    entry_at(joiner, number)->clicked = 1;
    click_late(joiner, entry_at(joiner, number)->example);
}

static void push_impression(struct joiner *joiner, struct example *example)
{
    joiner->counts.impressions++;
    uint64_t hash = XXH3_64bits(example_id(example), example->id_length);
    uint32_t number = find(joiner, hash, example_id(example), example->id_length);
    if (number != NONE && entry_at(joiner, number)->state != HELD_CLICK) {
        joiner->counts.duplicate_impressions++;
        joiner->counts.result[JOIN_DUPLICATE]++;
        free(example);
        return;
    }
    struct entry fresh = { .hash = hash,
                           .order = joiner->orders++,
                           .end = example->time + joiner->options.window,
                           .time = example->time,
                           .example = example,
                           .id_length = example->id_length,
                           .state = HELD_IMPRESSION };
    bool click_waited = false, click_was_late = false;
    int64_t joined = example->time; /* when both were there */
    if (number != NONE) {
        const struct entry *waiting = entry_at(joiner, number);
        click_waited = waiting->clicked && waiting->time <= fresh.end;
        click_was_late = waiting->clicked && !click_waited;
        if (waiting->time > joined) joined = waiting->time;
        example->converted = fresh.converted = waiting->converted;
        early_free(joiner, number);
    } else {
        make_room(joiner);
    }
    number = entry_add(joiner, &fresh);
    joiner->held_count++;
    joiner->undecided.impressions++;
    if (click_waited) click_matched(joiner, number);
    if (fresh.end < joiner->clock || click_was_late)
        release(joiner, number, joiner->clock);
    else if (click_waited && joiner->options.release == RELEASE_CLICK)
        release(joiner, number, joined);
    else
        enqueue(joiner, &joiner->held, number);
    if (click_was_late) { /* its negative still waits to be popped; with few ids remembered it may be forgotten */
        number = find(joiner, hash, example_id(example), fresh.id_length);
        if (number != NONE)
            remembered_clicked(joiner, number);
        else
            click_late(joiner, joiner->options.late_click == LATE_CORRECT ? example : NULL);
    }
}

static void push_early(struct joiner *joiner, struct event *event, uint64_t hash)
{
    make_room(joiner);
    struct entry fresh = { .hash = hash,
                           .order = joiner->orders++,
                           .end = event->time + joiner->options.window,
                           .time = event->time,
                           .id = event->id,
                           .id_length = (uint16_t)event->id_length,
                           .state = HELD_CLICK,
                           .clicked = event->kind == EVENT_CLICK,
                           .converted = event->kind == EVENT_CONVERSION };
    event->id = NULL;
    joiner->held_count++;
    joiner->undecided.clicks += fresh.clicked;
    enqueue(joiner, &joiner->held, entry_add(joiner, &fresh));
}

static void push_click(struct joiner *joiner, struct event *event)
{
    joiner->counts.clicks++;
    uint64_t hash = XXH3_64bits(event->id, event->id_length);
    uint32_t number = find(joiner, hash, event->id, event->id_length);
    if (number == NONE) {
        push_early(joiner, event, hash);
        return;
    }
    struct entry *entry = entry_at(joiner, number);
    if (entry->clicked) {
        joiner->counts.result[JOIN_DUPLICATE]++;
    } else if (entry->state == HELD_CLICK) { /* until now only a conversion waited */
        touch(joiner, number);
        joiner->undecided.clicks++;
        entry->clicked = 1;
        entry->time = event->time;
        entry->end = event->time + joiner->options.window;
        entry->order = joiner->orders++;
        enqueue(joiner, &joiner->held, number);
    } else if (entry->state == HELD_IMPRESSION) {
        click_matched(joiner, number);
        if (joiner->options.release == RELEASE_CLICK)
            release(joiner, number, entry->time > event->time ? entry->time : event->time);
    } else {
        remembered_clicked(joiner, number);
    }
}

static void push_conversion(struct joiner *joiner, struct event *event)
{
    joiner->counts.conversions++;
    uint64_t hash = XXH3_64bits(event->id, event->id_length);
    uint32_t number = find(joiner, hash, event->id, event->id_length);
    if (number == NONE) {
        push_early(joiner, event, hash);
        return;
    }
    struct entry *entry = entry_at(joiner, number);
    touch(joiner, number);
    entry->converted = 1;
    if (entry->example) entry->example->converted = 1;
}

void joiner_push(struct joiner *joiner, struct event *event)
{
    joiner_advance(joiner, event->time);
    switch (event->kind) {
    case EVENT_IMPRESSION:
        push_impression(joiner, event->example);
        event->example = NULL;
        break;
    case EVENT_CLICK:
        push_click(joiner, event);
        break;
    case EVENT_CONVERSION:
        push_conversion(joiner, event);
        break;
    case EVENT_EXAMPLE:
        assert(!"examples bypass the joiner");
        break;
    }
    event_release(event);
}

size_t joiner_pending(const struct joiner *joiner) { return joiner->held_count; }
struct join_counts joiner_counts(const struct joiner *joiner) { return joiner->counts; }
struct join_held joiner_held(const struct joiner *joiner) { return joiner->undecided; }

bool join_counts_add_up(const struct join_counts *counts, const struct join_held *held)
{
    const uint64_t *result = counts->result;
    return counts->impressions ==
               result[JOIN_MATCHED] + result[JOIN_EXPIRED] + counts->duplicate_impressions + held->impressions &&
           counts->clicks == result[JOIN_MATCHED] + result[JOIN_LATE] + result[JOIN_DUPLICATE] -
                                 counts->duplicate_impressions + result[JOIN_ORPHAN] + held->clicks;
}

void joiner_replace_examples(struct joiner *joiner, example_replace *replace, void *self)
{
    for (size_t i = 0; i < joiner->blocks * BLOCK; i++) {
        struct entry *entry = entry_at(joiner, (uint32_t)i);
        if (entry->state == FREE || !entry->example) continue;
        touch(joiner, (uint32_t)i);
        joiner->bytes -= body_bytes(entry);
        entry->example = replace(self, entry->example);
        joiner->bytes += body_bytes(entry);
    }
}

size_t joiner_bytes(const struct joiner *joiner)
{
    return sizeof *joiner + joiner->blocks * sizeof(struct block) + (joiner->index_mask + 1) * sizeof *joiner->index +
           (joiner->held.capacity + joiner->kept.capacity) * sizeof(struct item) +
           joiner->out_capacity * sizeof *joiner->out + joiner->bytes + freeze_bytes(joiner->freeze);
}

/* ---- state ----
 *
 *   joiner, 0           struct header
 *   joiner.entries, n   of entry n, where it is in use: a struct record, then its example or its id and a zero */

struct header {
    uint64_t version, blocks, entries, next, orders;
    int64_t clock;
    struct join_counts counts;
};

enum { VERSION = 2 };

bool joiner_save(struct joiner *joiner, struct state_writer *writer, struct cs_error *err)
{
    assert(joiner->out_begin == joiner->out_end);
    struct header header = { VERSION,        joiner->blocks, joiner->entries, joiner->next,
                             joiner->orders, joiner->clock,  joiner->counts };
    struct state_records records = freeze_records(joiner->freeze);
    return writer->put(writer, section, 0, &header, sizeof header, err) &&
           writer->records(writer, section_entries, &records, err);
}

/* What the bytes after the record say; false: damaged, and what was taken is for the caller to free. */
static bool load_body(struct joiner *joiner, const struct record *record, const uint8_t *body, size_t size,
                      struct entry *entry)
{
    if (record->state == FREE || record->state > REMEMBERED || record->clicked > 1 || record->converted > 1)
        return false;
    if (!record->has_example) {
        if (record->state == HELD_IMPRESSION || size != record->id_length + 1u || body[record->id_length] != '\0')
            return false;
        entry->id = memcpy(need(malloc(size)), body, size);
        return true;
    }
    if (record->state == HELD_CLICK || !example_check(joiner->features, body, size)) return false;
    entry->example = example_copy((const struct example *)body);
    return entry->example->id_length == record->id_length;
}

static bool load_entry(void *argument, uint64_t slot, const void *bytes, size_t size, struct cs_error *err)
{
    struct joiner *joiner = argument;
    struct entry entry = { .state = FREE };
    struct record record;
    if (slot >= joiner->blocks * BLOCK)
        return cs_fail(err, CS_REFUSED, "pending joins: entry %zu is stored, entries below %zu are expected",
                       (size_t)slot, joiner->blocks * BLOCK);
    uint32_t number = (uint32_t)slot;
    if (size < sizeof record || entry_at(joiner, number)->state != FREE) goto damaged;
    memcpy(&record, bytes, sizeof record);
    if (!load_body(joiner, &record, (const uint8_t *)bytes + sizeof record, size - sizeof record, &entry)) goto damaged;
    entry.order = record.order;
    entry.end = record.end;
    entry.time = record.time;
    entry.id_length = record.id_length;
    entry.state = record.state;
    entry.clicked = record.clicked;
    entry.converted = record.converted;
    entry.hash = XXH3_64bits(id_of(&entry), entry.id_length);
    index_make_room(joiner);
    if (find(joiner, entry.hash, id_of(&entry), entry.id_length) != NONE) goto damaged;
    entry_put(joiner, number, &entry);
    if (entry.state == REMEMBERED) {
        joiner->kept_count++;
    } else {
        joiner->held_count++;
        joiner->undecided.impressions += entry.state == HELD_IMPRESSION && !entry.clicked;
        joiner->undecided.clicks += entry.state == HELD_CLICK && entry.clicked;
    }
    enqueue(joiner, entry.state == REMEMBERED ? &joiner->kept : &joiner->held, number);
    return true;
damaged:
    free(entry.example);
    free(entry.id);
    return cs_fail(err, CS_REFUSED, "pending joins: entry %zu is damaged, or of other features", (size_t)slot);
}

bool joiner_load(struct joiner *joiner, struct state_reader *reader, struct cs_error *err)
{
    assert(!joiner->entries);
    const void *bytes;
    size_t size;
    struct header header;
    if (!reader->get(reader, section, 0, &bytes, &size, err)) return false;
    if (!bytes) return cs_fail(err, CS_REFUSED, "no pending joins are stored");
    if (size != sizeof header)
        return cs_fail(err, CS_REFUSED, "pending joins: the header has %zu bytes, %zu are expected", size,
                       sizeof header);
    memcpy(&header, bytes, sizeof header);
    if (header.version != VERSION)
        return cs_fail(err, CS_REFUSED, "pending joins: version %d, %d is expected", (int)header.version, VERSION);
    if (header.blocks >= STATE_SLOTS_MAX / BLOCK || header.entries > header.blocks * BLOCK ||
        header.next > header.blocks * BLOCK)
        return cs_fail(err, CS_REFUSED, "pending joins: the header is damaged");
    while (joiner->blocks < header.blocks) add_block(joiner);
    if (!reader->each(reader, section_entries, load_entry, joiner, err)) return false;
    if (joiner->entries != header.entries)
        return cs_fail(err, CS_REFUSED, "pending joins: %zu are stored, %zu are expected", joiner->entries,
                       (size_t)header.entries);
    if (!join_counts_add_up(&header.counts, &joiner->undecided))
        return cs_fail(err, CS_REFUSED,
                       "pending joins: %zu impressions and %zu clicks are undecided, which the counts stored with them "
                       "contradict",
                       (size_t)joiner->undecided.impressions, (size_t)joiner->undecided.clicks);
    joiner->next = (uint32_t)header.next;
    joiner->orders = header.orders;
    joiner->clock = header.clock;
    joiner->counts = header.counts;
    freeze_clear(joiner->freeze);
    return true;
}
