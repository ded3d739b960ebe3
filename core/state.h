/* All that storage sees of the running system, and all that the running system sees of storage: records of bytes under
 * (section, slot), and tensors under their names. Every owner of state has a pair
 *
 *     bool X_save(struct X *, struct state_writer *, struct cs_error *);
 *     bool X_load(struct X *, struct state_reader *, struct cs_error *);
 *
 * A save gives only what changed since the last save (everything when writer->full); what is not given and not removed
 * stays as it was. All of one cut becomes visible in one transaction or not at all. There are three ways to give:
 *
 *     put, remove   small things: copied before the call returns
 *     records       many numbered records that change here and there: only what changed is taken note of; the thread
 *                   that writes the cut reads them later, as they were at the save, while the owner goes on
 *                   (core/freeze.h)
 *     tensor        dense arrays that all change with the next step: by reference, until `hold` is settled
 *
 * The owner takes what it gave as saved. When the cut can't be written, storage keeps what was put for the next cut,
 * and tells the records' owners by end(false) that theirs are changed still: no state is ever given in full again for
 * a failed write.
 *
 * Slots are dense small numbers, below STATE_SLOTS_MAX: storage keeps some bytes for each slot up to the highest. */
#ifndef CORE_STATE_H
#define CORE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "core/tensor.h"

enum { STATE_SECTION_MAX = 200 };
enum { STATE_SLOTS_MAX = 1 << 30 };

/* Before a record's bytes in what state_records.read gives; the bytes follow, padded with zeros to 8. */
struct state_record { uint32_t slot, size; };       /* size 0: the slot holds nothing any more */

enum state_read {
    STATE_READ_MORE,        /* *size bytes of whole records were given (perhaps 0: ask again soon) */
    STATE_READ_ROOM,        /* nothing was given: the next record alone needs *size bytes of room */
    STATE_READ_END,         /* *size bytes were given, and that was all */
};

/* The owner's side of `records`, as the writing thread uses it. Copied by `records`. */
struct state_records {
    void *self;
    /* Called by `records`, in the owner's thread, once a cut: what counts as changed from here on belongs to the next
     * cut. full: every living record is to be given. again: bit s % 64 of word s / 64 asks for slot s although it has
     * not changed, if it lives (its copy is to be moved out of an old file); words may be 0. */
    void (*begin)(void *self, bool full, const uint64_t *again, size_t words);
    /* Called by the writing thread until END: struct state_record and its bytes, one after the other, each slot at most
     * once a cut, in any order. */
    enum state_read (*read)(void *self, void *into, size_t room, size_t *size);
    /* Called by the writing thread, once a begin: with written false all that was given counts as changed again. After
     * this the owner may be destroyed. */
    void (*end)(void *self, bool written);
};

/* Settles what `tensor` was given: afterwards the owner may change the arrays. It waits at most for the copy of what
 * has not been written yet. To be called once after each save that gave tensors: before the first change, or before
 * the next save or the owner's end. */
struct state_hold { void (*settle)(struct state_hold *self); };

struct state_writer {
    bool full;      /* nothing is there yet: put everything */
    bool (*put)(struct state_writer *self, const char *section, uint64_t slot, const void *bytes, size_t size,
                struct cs_error *err);      /* size > 0 */
    bool (*remove)(struct state_writer *self, const char *section, uint64_t slot, struct cs_error *err);
    bool (*records)(struct state_writer *self, const char *section, const struct state_records *records,
                    struct cs_error *err);
    bool (*tensor)(struct state_writer *self, const struct tensor *tensor, struct cs_error *err);
    /* For the tensors given so far to this writer; never NULL where `tensor` isn't. */
    struct state_hold *(*hold)(struct state_writer *self);
};

typedef bool state_block(void *argument, uint64_t slot, const void *bytes, size_t size, struct cs_error *err);

struct state_reader {
    /* The record, borrowed until the reader closes; *bytes is NULL and the call succeeds where there is none. 8-byte
     * aligned. For sections of few records: costs a look at each of them. */
    bool (*get)(struct state_reader *self, const char *section, uint64_t slot, const void **bytes, size_t *size,
                struct cs_error *err);
    /* Each living record of a section once, in any order; 8-byte aligned, borrowed until the callback returns. */
    bool (*each)(struct state_reader *self, const char *section, state_block *block, void *argument,
                 struct cs_error *err);
    /* Fills tensor->data; CS_REFUSED where it is missing or type or shape differ, naming both. */
    bool (*tensor)(struct state_reader *self, const struct tensor *tensor, struct cs_error *err);
};

#endif
