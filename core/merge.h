/* Several partitions become one stream whose order is a function of their contents: the partitions' heads are merged by
 * event time, ties by (topic, partition), which is the order in which sources are numbered; within a source by offset.
 * A source without a head is waited for unless it was declared idle (by the daemon, which has the clock: nothing
 * left to read and nothing come for source.kafka.idle_after). No clocks, no threads; one thread pushes and pops. */
#ifndef CORE_MERGE_H
#define CORE_MERGE_H

#include "core/event.h"

struct merge_entry {
    bool has_event;             /* false: a record that could not be used; it goes out as soon as it is the head */
    struct event event;
    int64_t offset;
    /* the owner's own: */
    int64_t timestamp;          /* of the record */
    uint64_t hash;              /* of its bytes */
    size_t size;                /* of them */
    void *record;               /* e.g. the raw bytes for the dead-letter topic; may be NULL */
};

struct merge;
struct merge *merge_create(void);
void merge_destroy(struct merge *merge);            /* releases events; the owner drains records itself beforehand */
/* A new source; the caller numbers them in order of (topic, partition): `rank` breaks ties, given in any order. */
size_t merge_add_source(struct merge *merge, uint64_t rank);
/* The source is idle no longer. */
void merge_push(struct merge *merge, size_t source, const struct merge_entry *entry);
size_t merge_queued(const struct merge *merge, size_t source);
void merge_set_idle(struct merge *merge, size_t source, bool idle);
bool merge_is_idle(const struct merge *merge, size_t source);
/* The next entry, if it is determined. Otherwise false: *waiting_for is the first source that must push or be declared
 * idle, or SIZE_MAX where all are idle and empty. */
bool merge_pop(struct merge *merge, struct merge_entry *entry, size_t *source, size_t *waiting_for);

#endif
