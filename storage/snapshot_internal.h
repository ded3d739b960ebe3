/* What the parts of storage/snapshot_*.c share: the store, a cut, tensors given by reference. */
#ifndef STORAGE_SNAPSHOT_INTERNAL_H
#define STORAGE_SNAPSHOT_INTERNAL_H

#include <pthread.h>

#include "storage/environment.h"
#include "storage/segment.h"
#include "storage/snapshot.h"
#include "storage/snapshot_index.h"
#include "storage/snapshot_root.h"

/* The slots that the next cut's owners are to give again, by section. */
struct again { char section[STATE_SECTION_MAX + 1]; uint64_t *bits; size_t words; };

/* A small thing that was put, or removed: bytes NULL. */
struct put { size_t section; uint32_t slot, order; unsigned char *bytes; size_t size; };
struct puts {
    char (*section)[STATE_SECTION_MAX + 1];
    size_t sections;
    struct put *put;
    size_t count, capacity;
    struct chunk *chunk;
};

struct snapshot_store {
    char *directory, *segments;         /* its path, and that of the segments' folder */
    int lock;                           /* the flock on LOCK, held for life */
    struct environment *environment;
    /* The writing thread's, between cuts nobody's: one cut at a time. */
    struct manifest newest, before;     /* cut 0: none */
    uint64_t last_number;               /* of a cut, ever */
    uint32_t next_segment;
    struct index index;
    struct again *again;
    size_t agains;
    uint64_t credit;                    /* bytes that may be copied: a little less than what changed, ever */
    struct puts owed;                   /* of cuts that failed */
    struct staging *staging;            /* NULL: nothing was reserved */
    const struct storage_watch *watch;  /* NULL: nobody waits */

    pthread_mutex_t mutex;              /* guards what follows */
    pthread_cond_t pace_changed;
    double pace;
    struct snapshot_stats stats;
};

struct given_records { char section[STATE_SECTION_MAX + 1]; struct state_records records; };

struct snapshot_cut {
    struct state_writer writer;         /* first: the writer's self is the cut */
    struct snapshot_store *store;
    struct puts puts;
    struct given_records *records;
    size_t records_count;
    struct held *held, *open_held;      /* all groups of tensors; the one that `hold` has not closed yet */
    struct manifest_meta *meta;
    size_t metas;
};

/* -- snapshot_put.c: puts, by section and slot, the last one counts -- */
bool puts_add(struct puts *puts, const char *section, uint32_t slot, const void *bytes, size_t size,
              struct cs_error *err);
void puts_sort(struct puts *puts);      /* by section and slot, one each */
void puts_free(struct puts *puts);
void puts_move(struct puts *to, struct puts *from);     /* from's are older than what `to` gets later; to is empty */
void puts_compact(struct puts *puts);   /* forgets the bytes of what was overwritten */

/* -- snapshot_tensor.c: tensors by reference, in pieces that are claimed one by one -- */
struct staging *staging_create(size_t size);    /* NULL: no memory */
void staging_release(struct staging *staging);  /* NULL is fine; groups that were lent it may still have it */
struct held *held_create(struct staging *staging);
bool held_add(struct held *held, const struct tensor *tensor, struct cs_error *err);
struct state_hold *held_hold(struct held *held);        /* the owner has it from now on, too */
struct held *held_next(struct held *held);
void held_set_next(struct held *held, struct held *next);
size_t held_tensors(const struct held *held);
const struct tensor *held_tensor(const struct held *held, size_t tensor);
/* The cut's: copies all that is not yet claimed, so that the owner need not. */
void held_take(struct held *held);
/* A piece as it was when it was given. */
void held_read(struct held *held, size_t tensor, size_t piece, void *into);
void held_release(struct held *held);   /* the cut needs it no more: owners who settle don't wait and don't copy */

/* -- snapshot.c -- */
/* Opens the manifest's segments and makes the index of them. blocks: reads every block, too. */
bool snapshot_load(const char *segments, const struct manifest *manifest, bool blocks, struct index *index,
                   struct segment **opened, bool *missing, struct cs_error *err);
void snapshot_segments_close(struct segment *segment, size_t count);
void snapshot_prepare(struct snapshot_store *store, uint64_t changed);      /* chooses victims for the next cut */
void snapshot_sweep(struct snapshot_store *store);                          /* unlinks what no manifest names */
void snapshot_count(struct snapshot_store *store);                          /* live, disk, segments into stats */
void snapshot_cut_destroy(struct snapshot_cut *cut);
void snapshot_cut_failed(struct snapshot_cut *cut);     /* what was put is owed, what was frozen changed still */

#endif
