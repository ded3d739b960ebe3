/* Deltas put together again from their records (storage/delta_format.h), each whole or not at all: what is handed out
 * has every record from BEGIN to COMMIT once, in order, with the checksums and counts that its COMMIT and BEGIN say. */
#ifndef STORAGE_DELTA_READER_H
#define STORAGE_DELTA_READER_H

#include <stddef.h>

#include "storage/delta_format.h"

/* One ROWS or GONE record. row NULL: the keys' rows went. */
struct delta_part { char *table; size_t dimension, keys; uint64_t *key; float *row; };

/* Never changes once it is whole; held by whoever needs it. */
struct delta {
    struct delta_place place;
    uint64_t base, steps;
    int64_t watermark, created;
    char *fingerprint;              /* of the model that it was learned by */
    int64_t *sample;                /* [samples] event times of what was learned since base, or some of them */
    size_t samples, parts, tensors, bytes;
    struct delta_part *part;
    struct tensor *tensor;
    struct delta *next;             /* the holder's, for a list */
    unsigned _Atomic holders;
};
struct delta *delta_hold(struct delta *delta);
void delta_drop(struct delta *delta);                   /* NULL is fine */

enum delta_fed {
    DELTA_FED_TAKEN,        /* a part of a delta that is not whole yet */
    DELTA_FED_WHOLE,        /* *delta is one, the caller's to drop */
    DELTA_FED_PASSED,       /* of a delta whose BEGIN was not seen, or that was given up before */
    DELTA_FED_DUPLICATE,    /* seen before, bit for bit: no harm */
    DELTA_FED_UNFINISHED,   /* the BEGIN of a delta, while the one before it has no COMMIT: that one is given up */
    DELTA_FED_BROKEN,       /* damaged, missing or out of order: err; the delta that it belongs to is given up */
};

struct delta_reader;
struct delta_reader *delta_reader_create(size_t bytes_max);     /* of one delta, in memory */
void delta_reader_destroy(struct delta_reader *reader);
enum delta_fed delta_reader_feed(struct delta_reader *reader, const void *record, size_t size, struct delta **delta,
                                 struct cs_error *err);

#endif
