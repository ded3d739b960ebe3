/* Rows that changed since a checkpoint, as immutable levels over it: what a scoring thread reads is never written.
 *
 *     level  newest    rows of the last deltas          small
 *            ...       rows of earlier ones, merged     each at least RATIO times the next newer one
 *            oldest                                     large
 *     base             the checkpoint itself             (not known here: a row that no level has is the base's)
 *
 * A level is, for each table, an open-addressing table of keys, half full at most: the key's row, or that it went. A
 * lookup asks the levels from the newest on. Tables are numbers, the same ones in every level of an overlay. */
#ifndef STORAGE_OVERLAY_H
#define STORAGE_OVERLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct overlay_level;

/* At most, of one table: keys, gone ones too, below 2^30; and those of them that are put with a row. */
struct overlay_room { size_t keys, rows; };
/* room [tables]: memory is taken for all of it. Every table has rows of `dimension` floats. */
struct overlay_level *overlay_level_create(size_t tables, size_t dimension, const struct overlay_room *room,
                                           uint64_t sequence);
/* While it is being made. row NULL: the row went. A key given twice has what was given last. */
void overlay_level_put(struct overlay_level *level, size_t table, uint64_t key, const float *row);
uint64_t overlay_level_keys(const struct overlay_level *level);        /* different ones, in all tables */
/* The last holder's frees it. */
void overlay_level_drop(struct overlay_level *level);

enum { OVERLAY_LEVELS = 24 };

struct overlay { struct overlay_level *level[OVERLAY_LEVELS]; size_t levels; };      /* [0]: the oldest */

/* Takes the level over as the newest. The sequences of levels ascend. */
void overlay_push(struct overlay *overlay, struct overlay_level *level);
/* Merges the newest levels until each is RATIO times as large as the next. Every row is copied a few times in its life
 * so. */
void overlay_compact(struct overlay *overlay);
/* Drops the levels that hold nothing newer than this sequence. A level that also holds older rows stays whole. */
void overlay_drop_through(struct overlay *overlay, uint64_t sequence);
void overlay_copy(struct overlay *to, const struct overlay *from);         /* holds each level once more */
void overlay_release(struct overlay *overlay);
size_t overlay_bytes(const struct overlay *overlay);
uint64_t overlay_rows(const struct overlay *overlay);           /* keys; one that is in two levels counts twice */

/* row[i], as the base has it, becomes what the newest level says of key[i] in table[i], where one does; NULL: it went.
 * Many at once wait for memory together. Thread-safe, no lock, no system call. */
void overlay_find_all(const struct overlay *overlay, size_t count, const int *table, const uint64_t *key,
                      const float **row);

#endif
