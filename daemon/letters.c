/* Letters as the bytes that a snapshot has of them, in lists by what is to come. */
#include "daemon/letters.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

enum { MINUTE = 60000, VERSION = 1, PARTS_MAX = 1 << 16 };

static const char section[] = "dead_letters";

/* A slot of the section:
 *
 *     head      | version u32, headers u32, timestamp i64, size of the topic u64, of the key, of the value
 *     headers   | size of the name u64, of the value; each
 *     bytes     | topic, key, value, then name and value of each header; names end in a zero byte
 *
 * Sizes of names count the zero byte. NONE: there is no such thing, which is not an empty one. */
static const uint64_t NONE = UINT64_MAX;
struct head { uint32_t version, headers; int64_t timestamp; uint64_t topic, key, value; };
struct head_header { uint64_t name, value; };

struct list { struct kept *first, *last; size_t count; };

struct kept {
    struct letter letter;           /* first: what others have is a pointer to it */
    struct outlet *outlet;
    struct kept *before, *after;    /* in a list */
    size_t slot, size;
    unsigned char bytes[];          /* of the slot; the letter's parts lie in them */
};

struct outlet {                     /* a topic */
    struct outlet *after;
    struct list waiting, unfit;
    bool shut, trying;              /* trying: one letter is under way, to see whether it is taken now */
    int64_t tried, told;            /* ms; told 0: never */
    char why[300];
    char topic[];
};

struct slot { struct kept *kept; bool stored, dirty; };

struct letters {
    pthread_mutex_t lock;
    struct outlet *outlet;
    struct slot *slot;
    size_t slots, free;             /* free: no free slot below it */
    size_t count, bytes, limit;
    bool changed;
};

/* ---- lists */

static void list_put(struct list *list, struct kept *kept, bool first)
{
    kept->before = first ? NULL : list->last;
    kept->after = first ? list->first : NULL;
    *(kept->before ? &kept->before->after : &list->first) = kept;
    *(kept->after ? &kept->after->before : &list->last) = kept;
    list->count++;
}

static struct kept *list_take(struct list *list)
{
    struct kept *kept = list->first;
    if (!kept) return NULL;
    list->first = kept->after;
    *(list->first ? &list->first->before : &list->last) = NULL;
    list->count--;
    return kept;
}

/* ---- bytes */

static size_t add_size(size_t all, uint64_t size)
{
    return size == NONE ? all : all + size;
}

static void *append(unsigned char **at, const void *bytes, uint64_t size)
{
    if (size == NONE) return NULL;
    void *to = *at;
    if (size) memcpy(to, bytes, size);
    *at += size;
    return to;
}

static size_t header_sizes(const struct letter *letter, struct head_header *sizes)
{
    size_t all = 0;
    for (size_t i = 0; i < letter->headers; i++) {
        const struct letter_header *header = &letter->header[i];
        sizes[i] = (struct head_header){ strlen(header->name) + 1, header->value ? header->size : NONE };
        all = add_size(all + sizes[i].name, sizes[i].value);
    }
    return all;
}

/* Room for a slot of size bytes, and for the pointers to its headers. */
static struct kept *kept_create(size_t size, size_t headers)
{
    struct kept *kept = need(malloc(sizeof *kept + size));
    struct letter_header *header = need(calloc(headers + 1, sizeof *header));
    *kept = (struct kept){ .letter = { .header = header, .headers = headers }, .size = size };
    return kept;
}

static void kept_destroy(struct kept *kept)
{
    free((void *)(uintptr_t)kept->letter.header);
    free(kept);
}

static struct kept *encode(const struct letter *letter)
{
    struct head head = { .version = VERSION,
                         .headers = (uint32_t)letter->headers,
                         .timestamp = letter->timestamp,
                         .topic = strlen(letter->topic) + 1,
                         .key = letter->key ? letter->key_size : NONE,
                         .value = letter->value ? letter->value_size : NONE };
    struct head_header *sizes = need(calloc(letter->headers + 1, sizeof *sizes));
    size_t size = sizeof head + letter->headers * sizeof *sizes + header_sizes(letter, sizes);
    size = add_size(add_size(add_size(size, head.topic), head.key), head.value);
    struct kept *kept = kept_create(size, letter->headers);
    struct letter *is = &kept->letter;
    unsigned char *at = kept->bytes;
    append(&at, &head, sizeof head);
    append(&at, sizes, letter->headers * sizeof *sizes);
    is->topic = append(&at, letter->topic, head.topic);
    is->key = append(&at, letter->key, head.key);
    is->value = append(&at, letter->value, head.value);
    is->key_size = letter->key_size;
    is->value_size = letter->value_size;
    is->timestamp = letter->timestamp;
    struct letter_header *header = (struct letter_header *)(uintptr_t)is->header;
    for (size_t i = 0; i < letter->headers; i++) {
        header[i].name = append(&at, letter->header[i].name, sizes[i].name);
        header[i].value = append(&at, letter->header[i].value, sizes[i].value);
        header[i].size = letter->header[i].size;
    }
    assert(at == kept->bytes + size);
    free(sizes);
    return kept;
}

/* The next size bytes; false: there are not so many. text: the last of them must be a zero byte. */
static bool take(const unsigned char **at, size_t *left, uint64_t size, bool text, const void **part)
{
    *part = NULL;
    if (size == NONE) return !text;
    if (size > *left || (text && (!size || (*at)[size - 1]))) return false;
    *part = *at;
    *at += size;
    *left -= size;
    return true;
}

/* NULL: these are not a letter's bytes. */
static struct kept *decode(const void *bytes, size_t size)
{
    struct head head;
    if (size < sizeof head) return NULL;
    memcpy(&head, bytes, sizeof head);
    if (head.version != VERSION || head.headers > PARTS_MAX ||
        size - sizeof head < head.headers * sizeof(struct head_header))
        return NULL;
    struct kept *kept = kept_create(size, head.headers);
    memcpy(kept->bytes, bytes, size);
    const unsigned char *sizes = kept->bytes + sizeof head, *at = sizes + head.headers * sizeof(struct head_header);
    size_t left = size - (size_t)(at - kept->bytes);
    struct letter *is = &kept->letter;
    const void *topic = NULL, *name;
    struct letter_header *header = (struct letter_header *)(uintptr_t)is->header;
    bool fine = take(&at, &left, head.topic, true, &topic) && take(&at, &left, head.key, false, &is->key) &&
                take(&at, &left, head.value, false, &is->value);
    for (size_t i = 0; fine && i < head.headers; i++) {
        struct head_header each;
        memcpy(&each, sizes + i * sizeof each, sizeof each);
        fine = take(&at, &left, each.name, true, &name) && take(&at, &left, each.value, false, &header[i].value);
        header[i].name = name;
        header[i].size = header[i].value ? each.value : 0;
    }
    is->topic = topic;
    is->key_size = is->key ? head.key : 0;
    is->value_size = is->value ? head.value : 0;
    is->timestamp = head.timestamp;
    if (fine && !left) return kept;
    kept_destroy(kept);
    return NULL;
}

/* ---- the lot of them; under the lock */

static struct outlet *outlet_of(struct letters *letters, const char *topic)
{
    struct outlet **end = &letters->outlet, *outlet;
    assert(topic);
    for (; (outlet = *end); end = &outlet->after)
        if (strcmp(outlet->topic, topic) == 0) return outlet;
    outlet = need(calloc(1, sizeof *outlet + strlen(topic) + 1));
    memcpy(outlet->topic, topic, strlen(topic));
    return *end = outlet;
}

static struct slot *slot_at(struct letters *letters, size_t index)
{
    if (index >= letters->slots) {
        size_t slots = 2 * index + 16;
        letters->slot = need(realloc(letters->slot, slots * sizeof *letters->slot));
        memset(letters->slot + letters->slots, 0, (slots - letters->slots) * sizeof *letters->slot);
        letters->slots = slots;
    }
    return &letters->slot[index];
}

static void enter(struct letters *letters, struct kept *kept, size_t index)
{
    kept->slot = index;
    kept->outlet = outlet_of(letters, kept->letter.topic);
    slot_at(letters, index)->kept = kept;
    list_put(&kept->outlet->waiting, kept, false);
    letters->count++;
    letters->bytes += kept->size;
}

static struct kept *kept_of(const struct letter *letter)
{
    return (struct kept *)(uintptr_t)letter;
}

/* ---- */

struct letters *letters_create(size_t limit)
{
    struct letters *letters = need(calloc(1, sizeof *letters));
    letters->limit = limit;
    pthread_mutex_init(&letters->lock, NULL);
    return letters;
}

void letters_destroy(struct letters *letters)
{
    if (!letters) return;
    for (size_t i = 0; i < letters->slots; i++)
        if (letters->slot[i].kept) kept_destroy(letters->slot[i].kept);
    for (struct outlet *outlet = letters->outlet, *after; outlet; outlet = after) {
        after = outlet->after;
        free(outlet);
    }
    free(letters->slot);
    pthread_mutex_destroy(&letters->lock);
    free(letters);
}

void letters_add(struct letters *letters, const struct letter *letter)
{
    struct kept *kept = encode(letter);
    pthread_mutex_lock(&letters->lock);
    while (letters->free < letters->slots && letters->slot[letters->free].kept) letters->free++;
    enter(letters, kept, letters->free);
    letters->slot[kept->slot].dirty = letters->changed = true;
    pthread_mutex_unlock(&letters->lock);
}

/* Of this topic: all that wait where it takes letters; where it is shut, and of those that did not fit, one at a time.
 */
static struct kept *next_of(struct outlet *outlet, int64_t now)
{
    if (!outlet->shut && outlet->waiting.first) return list_take(&outlet->waiting);
    if (outlet->trying || now - outlet->tried < LETTERS_RETRY) return NULL;
    struct kept *kept = list_take(&outlet->waiting);
    if (!kept) kept = list_take(&outlet->unfit);
    outlet->trying = kept != NULL;
    return kept;
}

const struct letter *letters_next(struct letters *letters, int64_t now)
{
    struct kept *kept = NULL;
    pthread_mutex_lock(&letters->lock);
    for (struct outlet *outlet = letters->outlet; outlet && !kept; outlet = outlet->after) kept = next_of(outlet, now);
    pthread_mutex_unlock(&letters->lock);
    return kept ? &kept->letter : NULL;
}

bool letters_taken(struct letters *letters, const struct letter *letter)
{
    struct kept *kept = kept_of(letter);
    struct outlet *outlet = kept->outlet;
    pthread_mutex_lock(&letters->lock);
    bool again = outlet->shut;
    outlet->shut = outlet->trying = false;
    outlet->tried = INT64_MIN / 2;          /* those that did not fit may go on, one after the other */
    if (!outlet->unfit.count) outlet->why[0] = '\0', outlet->told = 0;
    struct slot *slot = &letters->slot[kept->slot];
    slot->kept = NULL;
    slot->dirty = true;
    letters->changed = true;
    if (kept->slot < letters->free) letters->free = kept->slot;
    letters->count--;
    letters->bytes -= kept->size;
    pthread_mutex_unlock(&letters->lock);
    kept_destroy(kept);
    return again;
}

bool letters_refused(struct letters *letters, const struct letter *letter, enum letters_refusal refusal,
                     const char *why, int64_t now)
{
    struct kept *kept = kept_of(letter);
    struct outlet *outlet = kept->outlet;
    pthread_mutex_lock(&letters->lock);
    outlet->trying = false;
    bool news = refusal != LETTERS_UNSENT && (!outlet->told || now - outlet->told >= MINUTE);
    if (refusal != LETTERS_UNSENT) {
        outlet->shut = refusal == LETTERS_SHUT;
        outlet->tried = now;
        snprintf(outlet->why, sizeof outlet->why, "%s", why);
    }
    if (news) outlet->told = now ? now : 1;
    list_put(refusal == LETTERS_UNFIT ? &outlet->unfit : &outlet->waiting, kept, refusal == LETTERS_UNSENT);
    pthread_mutex_unlock(&letters->lock);
    return news;
}

bool letters_full(struct letters *letters)
{
    pthread_mutex_lock(&letters->lock);
    bool full = letters->bytes >= letters->limit;
    pthread_mutex_unlock(&letters->lock);
    return full;
}

struct letters_view letters_view(struct letters *letters)
{
    pthread_mutex_lock(&letters->lock);
    struct letters_view view = { .count = letters->count, .bytes = letters->bytes };
    for (const struct outlet *outlet = letters->outlet; outlet; outlet = outlet->after) {
        if (!*outlet->why) continue;
        size_t kept = outlet->unfit.count + (outlet->shut ? outlet->waiting.count : 0) + outlet->trying;
        view.kept += kept;
        if (kept && !*view.why) snprintf(view.why, sizeof view.why, "%.100s: %s", outlet->topic, outlet->why);
    }
    pthread_mutex_unlock(&letters->lock);
    return view;
}

/* ---- snapshots */

bool letters_changed(struct letters *letters)
{
    pthread_mutex_lock(&letters->lock);
    bool changed = letters->changed;
    pthread_mutex_unlock(&letters->lock);
    return changed;
}

static bool save_slot(struct slot *slot, size_t index, struct state_writer *writer, struct cs_error *err)
{
    if (!slot->dirty && !(writer->full && slot->kept)) return true;
    if (slot->kept && !writer->put(writer, section, index, slot->kept->bytes, slot->kept->size, err)) return false;
    if (!slot->kept && slot->stored && !writer->remove(writer, section, index, err)) return false;
    slot->stored = slot->kept != NULL;
    slot->dirty = false;
    return true;
}

bool letters_save(struct letters *letters, struct state_writer *writer, struct cs_error *err)
{
    bool ok = true;
    pthread_mutex_lock(&letters->lock);
    for (size_t i = 0; ok && i < letters->slots; i++) ok = save_slot(&letters->slot[i], i, writer, err);
    letters->changed &= !ok;
    pthread_mutex_unlock(&letters->lock);
    return ok;
}

static bool load_slot(void *argument, uint64_t index, const void *bytes, size_t size, struct cs_error *err)
{
    struct letters *letters = argument;
    struct kept *kept = index < STATE_SLOTS_MAX ? decode(bytes, size) : NULL;
    if (!kept) return cs_fail(err, CS_REFUSED, "dead letters: number %zu is damaged", (size_t)index);
    enter(letters, kept, index);
    letters->slot[index].stored = true;
    return true;
}

bool letters_load(struct letters *letters, struct state_reader *reader, struct cs_error *err)
{
    assert(!letters->count);
    return reader->each(reader, section, load_slot, letters, err);
}
