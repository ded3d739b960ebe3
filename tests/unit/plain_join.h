/* The joiner's contract (core/joiner.h) once more, plainly: a list of all ids, gone through from end to end each time.
 * What the tests compare the fast one with. Same counts, same examples in the same order. */
#ifndef TESTS_PLAIN_JOIN_H
#define TESTS_PLAIN_JOIN_H

#include <stdlib.h>

#include "core/joiner.h"

enum plain_state { PLAIN_GONE, PLAIN_WAITS, PLAIN_EARLY, PLAIN_KNOWN };

struct plain_id {
    uint64_t id, order;
    enum plain_state state;
    int64_t time, end;
    bool clicked, converted, kept;
};
struct plain_out {
    uint64_t id;
    int64_t time, released;
    bool clicked, converted, correction;
};

struct plain_join {
    struct join_options options;
    struct plain_id *id;
    size_t ids, capacity;
    int64_t clock;
    uint64_t orders;
    struct join_counts counts;
    struct plain_out *out;
    size_t outs;
};

static void plain_put(struct plain_join *join, struct plain_id *id, int64_t released, bool correction)
{
    join->out = realloc(join->out, (join->outs + 1) * sizeof *join->out);
    join->out[join->outs++] =
        (struct plain_out){ id->id, id->time, released, id->clicked || correction, id->converted, correction };
}

/* The first of these states by (end, order). */
static struct plain_id *plain_first(struct plain_join *join, bool held)
{
    struct plain_id *first = NULL;
    for (size_t i = 0; i < join->ids; i++) {
        struct plain_id *id = &join->id[i];
        if (id->state == PLAIN_GONE || (id->state != PLAIN_KNOWN) != held) continue;
        if (!first || id->end < first->end || (id->end == first->end && id->order < first->order)) first = id;
    }
    return first;
}

static size_t plain_count(const struct plain_join *join, bool held)
{
    size_t count = 0;
    for (size_t i = 0; i < join->ids; i++)
        count += join->id[i].state != PLAIN_GONE && (join->id[i].state != PLAIN_KNOWN) == held;
    return count;
}

/* What has no outcome yet. */
static inline struct join_held plain_held(const struct plain_join *join)
{
    struct join_held held = { 0 };
    for (size_t i = 0; i < join->ids; i++) {
        held.impressions += join->id[i].state == PLAIN_WAITS && !join->id[i].clicked;
        held.clicks += join->id[i].state == PLAIN_EARLY && join->id[i].clicked;
    }
    return held;
}

static void plain_leave(struct plain_join *join, struct plain_id *id, int64_t released)
{
    if (id->state == PLAIN_EARLY) {
        join->counts.result[JOIN_ORPHAN] += id->clicked;
        id->state = PLAIN_GONE;
        return;
    }
    join->counts.result[JOIN_EXPIRED] += !id->clicked;
    plain_put(join, id, released, false);
    id->state = PLAIN_KNOWN;
    id->kept = !id->clicked && join->options.late_click == LATE_CORRECT;
    id->end = released + join->options.window;
    id->order = join->orders++;
    while (plain_count(join, false) > join->options.max_pending) plain_first(join, false)->state = PLAIN_GONE;
}

static void plain_advance(struct plain_join *join, int64_t clock)
{
    if (clock <= join->clock) return;
    join->clock = clock;
    struct plain_id *id;
    while ((id = plain_first(join, true)) && id->end < clock) plain_leave(join, id, id->end);
    while ((id = plain_first(join, false)) && id->end < clock) id->state = PLAIN_GONE;
}

static void plain_late(struct plain_join *join, struct plain_id *id)
{
    join->counts.result[JOIN_LATE]++;
    if (id->kept) {
        plain_put(join, id, join->clock, true);
        join->counts.corrected++;
    }
    id->clicked = true;
}

static struct plain_id *plain_find(struct plain_join *join, uint64_t wanted)
{
    for (size_t i = 0; i < join->ids; i++)
        if (join->id[i].state != PLAIN_GONE && join->id[i].id == wanted) return &join->id[i];
    return NULL;
}

static struct plain_id *plain_add(struct plain_join *join, uint64_t number, enum plain_state state, int64_t time)
{
    struct plain_id *first;
    while (plain_count(join, true) >= join->options.max_pending && (first = plain_first(join, true))) {
        join->counts.forced++;
        plain_leave(join, first, join->clock);
    }
    if (join->ids == join->capacity) {
        join->capacity = join->capacity ? join->capacity * 2 : 1024;
        join->id = realloc(join->id, join->capacity * sizeof *join->id);
    }
    struct plain_id *id = &join->id[join->ids++];
    *id = (struct plain_id){
        .id = number, .order = join->orders++, .state = state, .time = time, .end = time + join->options.window
    };
    return id;
}

static void plain_impression(struct plain_join *join, uint64_t number, int64_t time)
{
    struct plain_id *early = plain_find(join, number), was = { 0 };
    join->counts.impressions++;
    if (early && early->state != PLAIN_EARLY) {
        join->counts.duplicate_impressions++;
        join->counts.result[JOIN_DUPLICATE]++;
        return;
    }
    if (early) {
        was = *early;
        early->state = PLAIN_GONE;
    }
    struct plain_id *id = plain_add(join, number, PLAIN_WAITS, time);
    bool matched = was.clicked && was.time <= id->end, late = was.clicked && !matched;
    id->converted = was.converted;
    id->clicked = matched;
    join->counts.result[JOIN_MATCHED] += matched;
    if (id->end < join->clock || late)
        plain_leave(join, id, join->clock);
    else if (matched && join->options.release == RELEASE_CLICK)
        plain_leave(join, id, was.time > time ? was.time : time);
    if (late) plain_late(join, id);
}

static void plain_click(struct plain_join *join, uint64_t number, int64_t time)
{
    struct plain_id *id = plain_find(join, number);
    join->counts.clicks++;
    if (!id) {
        plain_add(join, number, PLAIN_EARLY, time)->clicked = true;
    } else if (id->clicked) {
        join->counts.result[JOIN_DUPLICATE]++;
    } else if (id->state == PLAIN_EARLY) {
        id->clicked = true;
        id->time = time;
        id->end = time + join->options.window;
        id->order = join->orders++;
    } else if (id->state == PLAIN_WAITS) {
        id->clicked = true;
        join->counts.result[JOIN_MATCHED]++;
        if (join->options.release == RELEASE_CLICK) plain_leave(join, id, id->time > time ? id->time : time);
    } else {
        plain_late(join, id);
    }
}

static void plain_conversion(struct plain_join *join, uint64_t number, int64_t time)
{
    struct plain_id *id = plain_find(join, number);
    join->counts.conversions++;
    if (!id) id = plain_add(join, number, PLAIN_EARLY, time);
    id->converted = true;
}

static void plain_push(struct plain_join *join, enum event_kind kind, uint64_t number, int64_t time)
{
    plain_advance(join, time);
    if (kind == EVENT_IMPRESSION)
        plain_impression(join, number, time);
    else if (kind == EVENT_CLICK)
        plain_click(join, number, time);
    else
        plain_conversion(join, number, time);
}

static void plain_release_all(struct plain_join *join)
{
    struct plain_id *id;
    while ((id = plain_first(join, true))) plain_leave(join, id, id->end);
}

#endif
