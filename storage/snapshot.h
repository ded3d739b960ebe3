/* All that a restart needs, in one LMDB environment: each cut is one transaction. Knows blocks and tensors, never a
 * tower.
 *
 * Two halves, so that learning need not wait for the disk:
 *   1. snapshot_begin gives a state_writer that copies what it is given into memory (in the threads that own the
 * state);
 *   2. snapshot_commit writes all of it in one transaction, with meta, and fsyncs (in the snapshot thread).
 * A failed commit keeps the old snapshot whole; the next snapshot_begin is then full.
 * One process at a time: `LOCK` in the directory is held by flock for life; CS_FENCED names the holder's pid.
 * Every stored block carries a checksum, verified on read (CS_REFUSED names section and id). */
#ifndef STORAGE_SNAPSHOT_H
#define STORAGE_SNAPSHOT_H

#include "core/state.h"

struct snapshot_store;
struct snapshot_cut;

/* Creates the directory and its files where there are none. */
struct snapshot_store *snapshot_open(const char *directory, struct cs_error *err);
/* The same, with so many bytes of address space to begin with; it grows by itself. */
struct snapshot_store *snapshot_open_sized(const char *directory, size_t map_bytes, struct cs_error *err);
void snapshot_close(struct snapshot_store *store);
bool snapshot_exists(const struct snapshot_store *store);       /* at least one committed cut */
const char *snapshot_directory(const struct snapshot_store *store);

/* Any thread may put into a cut, one at a time. */
struct snapshot_cut *snapshot_begin(struct snapshot_store *store);
struct state_writer *snapshot_writer(struct snapshot_cut *cut);
size_t snapshot_cut_bytes(const struct snapshot_cut *cut);
/* The name "format" is the store's own. */
bool snapshot_meta(struct snapshot_cut *cut, const char *name, const char *text, struct cs_error *err);
/* Ends the cut either way. A full cut replaces everything: what was not put into it is gone. An incremental cut begun
 * before another one failed is refused: what it builds on was never written. Waits for this process's views when the
 * map has to grow. */
bool snapshot_commit(struct snapshot_cut *cut, struct cs_error *err);
void snapshot_abandon(struct snapshot_cut *cut);                /* the next cut is full */

/* A view of the last committed cut; stays the same while others commit. Read-only, any thread, short-lived. */
struct snapshot_view;
struct snapshot_view *snapshot_view_open(struct snapshot_store *store, struct cs_error *err);
/* The same for tools, without the lock, on a directory that may be in use. */
struct snapshot_view *snapshot_view_open_directory(const char *directory, struct cs_error *err);
void snapshot_view_close(struct snapshot_view *view);
/* get's bytes live until the view closes, each's until its callback returns. */
struct state_reader *snapshot_reader(struct snapshot_view *view);
const char *snapshot_view_meta(struct snapshot_view *view, const char *name);      /* NULL: none */
typedef bool snapshot_meta_visitor(void *self, const char *name, const char *text, struct cs_error *err);
bool snapshot_view_each_meta(struct snapshot_view *view, snapshot_meta_visitor *visit, void *self,
                             struct cs_error *err);
bool snapshot_view_sections(struct snapshot_view *view,
                            bool (*visit)(void *self, const char *section, uint64_t blocks, uint64_t bytes,
                                          struct cs_error *err),
                            void *self, struct cs_error *err);
/* Every stored tensor, data borrowed. */
bool snapshot_view_tensors(struct snapshot_view *view, tensor_visitor *visit, void *self, struct cs_error *err);
/* Every block and tensor read and its checksum compared. */
bool snapshot_view_verify(struct snapshot_view *view, uint64_t *blocks, uint64_t *bytes, struct cs_error *err);

#endif
