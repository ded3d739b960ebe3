/* Copy on write by record: an owner's numbered records, read by another thread as they were at a cut while the owner
 * goes on changing them.
 *
 *   owner's thread     freeze_touch(slot) before every change of a record (also its making and its end)
 *   at a cut           begin: for each unit (2^shift neighbouring slots) with changes, its bits become `frozen`
 *   writing thread     read: claims one frozen record after the other and copies it
 *   owner's thread     a touch of a record that is frozen and not yet claimed claims it and sets its bytes aside; a
 *                      touch of the very record that is being copied waits for that copy. Nothing else ever waits.
 *   writing thread     end: what could not be written counts as changed again from the next begin on
 *
 * Claims are single bits cleared by atomic operations; no lock, so no thread ever waits for one that was put aside by
 * the kernel, but for that one record. What is set aside goes through a queue of one producer and one consumer.
 *
 * Memory: 4 bits a slot of units that ever changed, and what is set aside until it is read (at most the changed
 * records). A touch costs a bit, and during a cut, for a frozen record, the copy of its bytes. begin costs half a
 * microsecond a unit with changes, next to nothing for the others. One owner thread and one reading thread at a time;
 * cuts do not overlap. */
#ifndef CORE_FREEZE_H
#define CORE_FREEZE_H

#include "core/state.h"

/* How the owner's records look. unit runs in the owner's thread at begin; size and write run in either thread, only on
 * frozen records: of `self` they may read what never changes, and of the record all. */
struct freeze_ops {
    /* Units that may hold a record now. In the owner's thread, at begin. */
    size_t (*units)(const void *self);
    /* base: handed to size and write. living: bits of the unit's slots that hold a record, [2^shift / 64] words.
     * A unit without any record may give NULL for both. */
    void (*unit)(const void *self, size_t unit, const void **base, const uint64_t **living);
    /* Bytes of a living record, > 0 and the same until it is touched. */
    size_t (*size)(const void *self, const void *base, uint32_t place);
    void (*write)(const void *self, const void *base, uint32_t place, void *into);
};

struct freeze;
/* shift >= 6. `self` is passed to ops. NULL: out of memory. */
struct freeze *freeze_create(unsigned shift, const struct freeze_ops *ops, const void *self);
void freeze_destroy(struct freeze *freeze);     /* not between begin and end; NULL is fine */
size_t freeze_bytes(const struct freeze *freeze);
/* Copies of records made because they changed before they were read, since create. For the bench and metrics. */
uint64_t freeze_set_aside(const struct freeze *freeze);

/* Before every change of the record. Slots may come in any order; memory grows with the highest. Aborts when out of
 * memory, as the arena does. */
void freeze_touch(struct freeze *freeze, uint32_t slot);
/* All is as the state has it: after a load. */
void freeze_clear(struct freeze *freeze);

/* Living records of the cut that has begun: read gives so many with bytes. In the owner's thread. */
uint64_t freeze_frozen(const struct freeze *freeze);

/* What state_writer.records takes. */
struct state_records freeze_records(struct freeze *freeze);

#endif
