/* One embedding table: rows that come, are updated and go while the stream runs.
 *
 *   index    open addressing in small segments that double one at a time: key -> slot. No pause, no collision of keys
 *   chunk    a fixed number of rows that never move; a row, its moments, step, key and last sighting stand together:
 *            | key u64 | seen i64 | step u32 | batch u32 | row f32[d] | m f32[d] | v f32[d] |
 *   waiting  keys that were seen fewer than admit_after times: key -> sightings. Age lets go of them as of rows, and at
 *            most EMBEDDING_WAITING_MAX wait at once: beyond it the least recently seen start anew
 *
 * Memory per row <= 1.3 x (row + moments + step) at 5 million rows. The layout of slots is part of the state: a
 * restored table goes on exactly as the saved one would. */
#ifndef CORE_EMBEDDING_H
#define CORE_EMBEDDING_H

#include "core/options.h"
#include "core/parallel.h"
#include "core/state.h"

enum { EMBEDDING_NONE = UINT32_MAX };   /* no row: contributes nothing */
enum { EMBEDDING_WAITING_MAX = 1 << 20 };   /* 24 bytes each, and the index */

struct embedding_table;

struct embedding_table *embedding_create(const struct table_options *options, size_t dimension, double init_std,
                                         uint64_t seed, const struct optimizer_options *optimizer,
                                         struct cs_error *err);
void embedding_destroy(struct embedding_table *table);

/* Slots of n keys, EMBEDDING_NONE where there is no row. Reads only: scoring. */
void embedding_find(const struct embedding_table *table, const uint64_t *key, size_t n, uint32_t *slot);
/* A training batch sees n distinct keys, sightings[i] times each, at event time `time` (ms): notes the sighting,
 * makes the rows that are due (start: random_normal x init_std by (seed, table, key, column)) and fills their slots.
 * Rows over max_rows push out the least recently seen (exactly up to 32 rows, the oldest of the next 32 in a larger
 * table), never one that this batch reads: what a batch has beyond max_rows gets EMBEDDING_NONE and is counted as
 * refused. */
void embedding_admit(struct embedding_table *table, const uint64_t *key, const uint32_t *sightings, size_t n,
                     int64_t time, uint32_t *slot);
/* What embedding_admit will do, without a trace: slot is embedding_find's. fresh[i] = 1 where a key that has none will
 * get a row, otherwise 0; row[i * d ..] = its start there, otherwise left alone. Returns how many. (Where more than
 * EMBEDDING_WAITING_MAX keys wait, admission may come later than said here: one of this batch pushed the other out.) */
size_t embedding_foresee(const struct embedding_table *table, const uint64_t *key, const uint32_t *sightings, size_t n,
                         const uint32_t *slot, float *row, uint8_t *fresh);
/* row[i * d ..] = the row of slot[i], zeros for EMBEDDING_NONE. */
void embedding_gather(const struct embedding_table *table, const uint32_t *slot, size_t n, float *row,
                      struct parallel *parallel);
/* One lazy optimizer step for each slot that is not EMBEDDING_NONE: gradient[i * d ..] is the sum over the batch; the
 * row's own step count goes up by one (numerics.md, section 5). */
void embedding_update(struct embedding_table *table, const uint32_t *slot, size_t n, const float *gradient,
                      struct parallel *parallel);
/* Lets go of rows not seen since time - expire_after; looks at `budget` slots, so the cost of a call is bounded. */
void embedding_expire(struct embedding_table *table, int64_t time, size_t budget);
void embedding_set_learning_rate(struct embedding_table *table, double learning_rate);

const char *embedding_name(const struct embedding_table *table);
size_t embedding_dimension(const struct embedding_table *table);
uint64_t embedding_rows(const struct embedding_table *table);
uint64_t embedding_admitted(const struct embedding_table *table);   /* since the state began */
uint64_t embedding_evicted(const struct embedding_table *table);    /* expired or pushed out */
/* due, but max_rows was taken up by its own batch */
uint64_t embedding_refused(const struct embedding_table *table);
uint64_t embedding_waiting(const struct embedding_table *table);    /* keys that were not yet seen admit_after times */
uint64_t embedding_set_aside(const struct embedding_table *table);  /* rows copied since they changed during a cut */
size_t embedding_bytes(const struct embedding_table *table);        /* all memory it holds */

/* Tools: rows in ascending order of key. m, v are NULL where the optimizer has none. Borrowed until the next change. */
struct embedding_row { uint64_t key; const float *row, *m, *v; uint32_t step; int64_t seen; };
typedef bool embedding_visitor(void *self, const struct embedding_row *row, struct cs_error *err);
bool embedding_each(const struct embedding_table *table, embedding_visitor *visit, void *self, struct cs_error *err);
/* Import: makes or replaces the row, bypassing admission. NULL m or v: as a fresh row's. max_rows holds here too. */
bool embedding_put(struct embedding_table *table, const struct embedding_row *row, struct cs_error *err);

/* State: sections "rows.<table>" (a record a living row, by slot), "waiting.<table>" (the same, of keys that wait) and
 * "table.<table>" (one record: the shape of the others, counters and hands). Load fills a table that was just created,
 * in whatever order the records come; CS_REFUSED where the state is damaged or of another shape. */
bool embedding_save(struct embedding_table *table, struct state_writer *writer, struct cs_error *err);
bool embedding_load(struct embedding_table *table, struct state_reader *reader, struct cs_error *err);

/* Deltas: from embedding_watch on it is noted whose values change and who goes; save_delta gives what did since the
 * last one (or since watch): "rows.<table>", records of | key u64 | float row[d] | by slot; put as "delta.<table>" 0 a
 * struct embedding_delta, and as "gone.<table>" 0 the keys u64[] that had a row and have none now, each once. What was
 * given is given again once its records have ended with written false: the writer keeps nothing. Memory: 4 bits a slot,
 * what changes while a delta is read, 8 bytes a key that went. Beyond EMBEDDING_GONE_MAX of these the chain is lost,
 * and watch begins a new one. */
enum { EMBEDDING_GONE_MAX = 1 << 22 };
struct embedding_delta { uint32_t dimension, reserved; uint64_t rows; };
bool embedding_watch(struct embedding_table *table, struct cs_error *err);     /* no delta is being read */
bool embedding_delta_lost(const struct embedding_table *table);
bool embedding_save_delta(struct embedding_table *table, struct state_writer *writer, struct cs_error *err);

/* The same records without a table: publishing and inspection read the snapshot. */
struct embedding_shape { uint32_t dimension, moments; uint64_t rows, waiting; };    /* moments: bits, 1 m, 2 v */
/* Of "table.<table>" 0. CS_REFUSED where it is damaged. */
bool embedding_shape_parse(const void *bytes, size_t size, struct embedding_shape *shape, struct cs_error *err);
/* One record of "rows.<table>", 8-byte aligned; *row points into it. CS_REFUSED where its size isn't the shape's. */
bool embedding_record_parse(const struct embedding_shape *shape, const void *bytes, size_t size,
                            struct embedding_row *row, struct cs_error *err);

#endif
