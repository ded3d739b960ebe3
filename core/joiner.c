/* The joiner: one table of impression ids, two queues by time.
 *
 *   entry       HELD_IMPRESSION   until its window ends; then its example leaves and the entry is REMEMBERED
 *               HELD_CLICK        a click (or conversion) whose impression has not come
 *               REMEMBERED        id alone, or with late_click correct the negative example, for one more window
 *   blocks      entries live in blocks of BLOCK, handed out in rising order round and round, so that what came together
 *               lies together; a block is also what is saved, if it changed
 *   index       XXH3 of the id -> entry number (open addressing, deletion moves entries up)
 *   held, kept  4-ary heaps by (end, order of arrival); an item whose entry has another order is stale and skipped */
#include "core/joiner.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

const char *const join_result_name[JOIN_RESULTS] = {
    [JOIN_MATCHED] = "matched",     [JOIN_EXPIRED] = "expired", [JOIN_LATE] = "late",
    [JOIN_DUPLICATE] = "duplicate", [JOIN_ORPHAN] = "orphan",
};

enum { BLOCK = 1024, NONE = UINT32_MAX };

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
    uint32_t used;
    bool is_dirty;
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
    uint32_t next;          /* where the search for a free entry goes on */
    uint32_t *index;        /* entry number + 1, 0: free */
    size_t index_mask;
    struct queue held, kept;
    size_t held_count, kept_count;
    int64_t clock;
    uint64_t orders;
    struct join_counts counts;

    struct example **out; /* left, not yet popped: [out_begin, out_end) */
    size_t out_begin, out_end, out_capacity;
    size_t bytes; /* of examples and ids held */
};

static void *grow(void *memory, size_t bytes)
{
    void *grown = realloc(memory, bytes);
    if (!grown) abort();
    return grown;
}

/* ---- queues ---- */

static bool before(const struct item *a, const struct item *b)
{
    return a->end != b->end ? a->end < b->end : a->order < b->order;
}

static void queue_push(struct queue *queue, struct item item)
{
    if (queue->count == queue->capacity) {
        queue->capacity = queue->capacity ? queue->capacity * 2 : 256;
        queue->item = grow(queue->item, queue->capacity * sizeof *queue->item);
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
static void touch(struct joiner *joiner, uint32_t number) { joiner->block[number / BLOCK]->is_dirty = true; }

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
    joiner->index = calloc(slots, sizeof *joiner->index);
    if (!joiner->index) abort();
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
    assert(joiner->blocks < NONE / BLOCK);
    joiner->block = grow(joiner->block, (joiner->blocks + 1) * sizeof *joiner->block);
    joiner->block[joiner->blocks] = calloc(1, sizeof **joiner->block);
    if (!joiner->block[joiner->blocks]) abort();
    joiner->block[joiner->blocks++]->is_dirty = true;
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

/* Puts a filled entry into a free place and the index. */
static uint32_t entry_add(struct joiner *joiner, const struct entry *entry)
{
    index_make_room(joiner);
    uint32_t number = take_free(joiner);
    *entry_at(joiner, number) = *entry;
    joiner->block[number / BLOCK]->used++;
    joiner->entries++;
    joiner->bytes += body_bytes(entry);
    index_put(joiner, number);
    touch(joiner, number);
    return number;
}

static void entry_free(struct joiner *joiner, uint32_t number)
{
    struct entry *entry = entry_at(joiner, number);
    index_remove(joiner, number);
    joiner->bytes -= body_bytes(entry);
    free(entry->example);
    free(entry->id);
    *entry = (struct entry){ .state = FREE };
    joiner->block[number / BLOCK]->used--;
    joiner->entries--;
    touch(joiner, number);
}

static void enqueue(struct joiner *joiner, struct queue *queue, uint32_t number)
{
    struct entry *entry = entry_at(joiner, number);
    queue_push(queue, (struct item){ entry->end, entry->order, number });
    touch(joiner, number);
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
        joiner->out = grow(joiner->out, joiner->out_capacity * sizeof *joiner->out);
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
    joiner->bytes -= body_bytes(entry);
    if (!entry->clicked) joiner->counts.result[JOIN_EXPIRED]++;
    if (!entry->clicked && joiner->options.late_click == LATE_CORRECT) {
        entry->example = example_copy(example);
    } else {
        entry->example = NULL;
        entry->id = grow(NULL, entry->id_length + 1u);
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

static void leave(struct joiner *joiner, uint32_t number, int64_t released)
{
    const struct entry *entry = entry_at(joiner, number);
    if (entry->state == HELD_IMPRESSION) {
        release(joiner, number, released);
    } else {
        if (entry->clicked) joiner->counts.result[JOIN_ORPHAN]++;
        joiner->held_count--;
        entry_free(joiner, number);
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

static void click_matched(struct joiner *joiner, struct entry *entry)
{
    entry->clicked = entry->example->clicked = 1;
    joiner->counts.result[JOIN_MATCHED]++;
    if (joiner->on_click) joiner->on_click(joiner->argument, entry->example);
}

/* A click whose impression left, or is about to leave, as a negative. */
static void click_late(struct joiner *joiner, uint32_t number)
{
    struct entry *entry = entry_at(joiner, number);
    joiner->counts.result[JOIN_LATE]++;
    entry->clicked = 1;
    touch(joiner, number);
    if (!entry->example) return;
    struct example *corrected = example_copy(entry->example);
    corrected->clicked = corrected->correction = 1;
    joiner->counts.corrected++;
    if (joiner->on_click) joiner->on_click(joiner->argument, corrected);
    put_out(joiner, corrected, joiner->clock);
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
        joiner->held_count--;
        entry_free(joiner, number);
    } else {
        make_room(joiner);
    }
    number = entry_add(joiner, &fresh);
    joiner->held_count++;
    struct entry *entry = entry_at(joiner, number);
    if (click_waited) click_matched(joiner, entry);
    if (fresh.end < joiner->clock || click_was_late)
        release(joiner, number, joiner->clock);
    else if (click_waited && joiner->options.release == RELEASE_CLICK)
        release(joiner, number, joined);
    else
        enqueue(joiner, &joiner->held, number);
    if (click_was_late) {
        number = find(joiner, hash, example_id(example), fresh.id_length); /* the example still waits to be popped */
        if (number != NONE)
            click_late(joiner, number);
        else
            joiner->counts.result[JOIN_LATE]++;
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
        entry->clicked = 1;
        entry->time = event->time;
        entry->end = event->time + joiner->options.window;
        entry->order = joiner->orders++;
        enqueue(joiner, &joiner->held, number);
    } else if (entry->state == HELD_IMPRESSION) {
        click_matched(joiner, entry);
        touch(joiner, number);
        if (joiner->options.release == RELEASE_CLICK)
            release(joiner, number, entry->time > event->time ? entry->time : event->time);
    } else {
        click_late(joiner, number);
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
    entry->converted = 1;
    if (entry->example) entry->example->converted = 1;
    touch(joiner, number);
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

size_t joiner_bytes(const struct joiner *joiner)
{
    return sizeof *joiner + joiner->blocks * sizeof(struct block) + (joiner->index_mask + 1) * sizeof *joiner->index +
           (joiner->held.capacity + joiner->kept.capacity) * sizeof(struct item) +
           joiner->out_capacity * sizeof *joiner->out + joiner->bytes;
}

/* ---- state ----
 *
 *   joiner, 0           struct header
 *   joiner.entries, b   of block b: per entry in use a struct record, then its example or its id, padded to 8 bytes */

struct header {
    uint64_t version, blocks, entries, next, orders;
    int64_t clock;
    struct join_counts counts;
};
struct record {
    uint64_t order;
    int64_t end, time;
    uint32_t place, size;
    uint16_t id_length;
    uint8_t state, clicked, converted, has_example, reserved[2];
};

enum { VERSION = 1 };

static bool save_block(struct joiner *joiner, size_t number, struct state_writer *writer, struct cs_error *err)
{
    const struct block *block = joiner->block[number];
    size_t size = 0;
    for (size_t i = 0; i < BLOCK; i++)
        if (block->entry[i].state != FREE)
            size += sizeof(struct record) + ((body_bytes(&block->entry[i]) + 7) & ~(size_t)7);
    uint8_t *bytes = calloc(1, size + 1), *out = bytes;
    if (!bytes) return cs_fail(err, CS_FAILED, "out of memory: saving pending joins");
    for (size_t i = 0; i < BLOCK; i++) {
        const struct entry *entry = &block->entry[i];
        if (entry->state == FREE) continue;
        struct record record = { .order = entry->order,
                                 .end = entry->end,
                                 .time = entry->time,
                                 .place = (uint32_t)i,
                                 .size = (uint32_t)body_bytes(entry),
                                 .id_length = entry->id_length,
                                 .state = entry->state,
                                 .clicked = entry->clicked,
                                 .converted = entry->converted,
                                 .has_example = entry->example != NULL };
        memcpy(out, &record, sizeof record);
        memcpy(out + sizeof record, entry->example ? (const void *)entry->example : entry->id, record.size);
        out += sizeof record + ((record.size + 7) & ~(size_t)7);
    }
    bool ok = writer->put(writer, section_entries, number, bytes, size, err);
    free(bytes);
    return ok;
}

bool joiner_save(struct joiner *joiner, struct state_writer *writer, struct cs_error *err)
{
    assert(joiner->out_begin == joiner->out_end);
    struct header header = { VERSION,        joiner->blocks, joiner->entries, joiner->next,
                             joiner->orders, joiner->clock,  joiner->counts };
    if (!writer->put(writer, section, 0, &header, sizeof header, err)) return false;
    for (size_t i = 0; i < joiner->blocks; i++) {
        if (!writer->full && !joiner->block[i]->is_dirty) continue;
        if (!save_block(joiner, i, writer, err)) return false;
        joiner->block[i]->is_dirty = false;
    }
    return true;
}

static bool load_entry(struct joiner *joiner, size_t block, const struct record *record, const uint8_t *body,
                       struct cs_error *err)
{
    struct entry entry = { .order = record->order,
                           .end = record->end,
                           .time = record->time,
                           .id_length = record->id_length,
                           .state = record->state,
                           .clicked = record->clicked,
                           .converted = record->converted };
    struct block *into = joiner->block[block];
    if (record->place >= BLOCK || into->entry[record->place].state != FREE) goto damaged;
    if (record->state == FREE || record->state > REMEMBERED || record->clicked > 1 || record->converted > 1)
        goto damaged;
    if (record->state == HELD_IMPRESSION && !record->has_example) goto damaged;
    if (record->has_example) {
        if (!example_check(joiner->features, body, record->size)) goto damaged;
        entry.example = example_copy((const struct example *)body);
        if (entry.example->id_length != entry.id_length || record->state == HELD_CLICK) goto damaged;
    } else {
        if (record->size != record->id_length + 1u || body[record->id_length] != '\0') goto damaged;
        entry.id = memcpy(grow(NULL, record->size), body, record->size);
    }
    entry.hash = XXH3_64bits(id_of(&entry), entry.id_length);
    index_make_room(joiner);
    if (find(joiner, entry.hash, id_of(&entry), entry.id_length) != NONE) goto damaged;
    uint32_t number = (uint32_t)(block * BLOCK + record->place);
    into->entry[record->place] = entry;
    into->used++;
    joiner->entries++;
    joiner->bytes += body_bytes(&entry);
    index_put(joiner, number);
    if (entry.state == REMEMBERED)
        joiner->kept_count++;
    else
        joiner->held_count++;
    queue_push(entry.state == REMEMBERED ? &joiner->kept : &joiner->held,
               (struct item){ entry.end, entry.order, number });
    return true;
damaged:
    free(entry.example);
    free(entry.id);
    return cs_fail(err, CS_REFUSED, "pending joins: block %zu, entry %u is damaged, or of other features", block,
                   (unsigned)record->place);
}

static bool load_block(void *argument, uint64_t id, const void *bytes, size_t size, struct cs_error *err)
{
    struct joiner *joiner = argument;
    if (id != joiner->blocks) return cs_fail(err, CS_REFUSED, "pending joins: block %zu is missing", joiner->blocks);
    add_block(joiner);
    const uint8_t *in = bytes, *end = in + size;
    while (in < end) {
        struct record record;
        if ((size_t)(end - in) < sizeof record) goto cut;
        memcpy(&record, in, sizeof record);
        in += sizeof record;
        size_t padded = ((size_t)record.size + 7) & ~(size_t)7;
        if ((size_t)(end - in) < padded) goto cut;
        if (!load_entry(joiner, (size_t)id, &record, in, err)) return false;
        in += padded;
    }
    joiner->block[id]->is_dirty = false;
    return true;
cut:
    return cs_fail(err, CS_REFUSED, "pending joins: block %zu is cut short", (size_t)id);
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
    if (header.blocks >= NONE / BLOCK || header.entries > header.blocks * BLOCK || header.next > header.blocks * BLOCK)
        return cs_fail(err, CS_REFUSED, "pending joins: the header is damaged");
    if (!reader->each(reader, section_entries, load_block, joiner, err)) return false;
    if (joiner->entries != header.entries || joiner->blocks != header.blocks)
        return cs_fail(err, CS_REFUSED, "pending joins: %zu in %zu blocks are stored, %zu in %zu are expected",
                       joiner->entries, joiner->blocks, (size_t)header.entries, (size_t)header.blocks);
    joiner->next = (uint32_t)header.next;
    joiner->orders = header.orders;
    joiner->clock = header.clock;
    joiner->counts = header.counts;
    return true;
}
