/* All that a restart needs, of one directory: each cut becomes visible by one LMDB transaction. Knows records and
 * tensors, never a tower.
 *
 *   <directory>/data.mdb, lock.mdb    the root: the manifest of the newest cut and of the one before it, small
 *   <directory>/segments/<20 digits>  what cuts wrote, each once (storage/segment.h)
 *   <directory>/LOCK                  held by flock for life; also says which cut was committed last
 *
 *   cut  ->  new segments: changed records, tensors, copies of what lives on in segments that are to go
 *        ->  fsync of the files and their folder  ->  LMDB transaction: manifest n in, manifest n - 2 out (the commit)
 *        ->  segments that neither manifest names are unlinked
 *
 * A record's newest copy is the one that counts; which segment has it is kept in memory, 4 bytes a slot (and 4 for
 * its size, where a section's records differ in it). A segment whose records have mostly newer copies elsewhere is
 * emptied: what still lives in it is given again by its owner in the next cut, or copied from it. So space stays
 * below 2 x what lives, and bytes written below 2 x the bytes changed. A large cut makes several files, so that none
 * is too large to be emptied beside what a cut writes anyhow.
 *
 * Two halves, so that learning never waits for the disk:
 *   1. snapshot_begin gives a state_writer that takes note of what changed (in the threads that own the state);
 *   2. snapshot_commit reads it and writes it (in the snapshot thread), at the pace of snapshot_set_pace.
 * A failed commit keeps the old snapshot whole; what it held is owed to the next cut, which is no larger for it.
 * One process at a time: CS_FENCED names the holder's pid. Everything that is read is compared with a checksum first:
 * CS_REFUSED names file, section and what was found. */
#ifndef STORAGE_SNAPSHOT_H
#define STORAGE_SNAPSHOT_H

#include "core/state.h"
#include "storage/watch.h"

struct snapshot_store;
struct snapshot_cut;

struct snapshot_options {
    size_t map_bytes;       /* of the root's address space to begin with; it grows by itself; 0: default */
    bool previous;          /* where the newest cut is damaged, begin from the one before it, if that is intact */
};

/* Creates the directory and its files where there are none. Checks the root and every segment's size and footer; with
 * options->previous every block too. *damage, where not NULL, is set to what was wrong with the newest cut when the one
 * before it was taken (code CS_OK otherwise). options NULL: defaults. */
struct snapshot_store *snapshot_open(const char *directory, const struct snapshot_options *options,
                                     struct cs_error *damage, struct cs_error *err);
void snapshot_close(struct snapshot_store *store);
bool snapshot_exists(const struct snapshot_store *store);       /* at least one committed cut */
const char *snapshot_directory(const struct snapshot_store *store);

/* The share of one core that writing takes, 0 < share <= 1; 1 at first. Any thread, also while a commit is under way.
 * While the learner works, less leaves it its cores; a last snapshot wants 1. */
void snapshot_set_pace(struct snapshot_store *store, double share);

/* Memory for copies of this many bytes of tensors, for the store's life: without it the first cuts wait for fresh
 * pages. Before the first cut. False: there is no such memory, and cuts take what they need as they need it. */
bool snapshot_reserve(struct snapshot_store *store, size_t tensor_bytes);

/* Told of what commits write, from then on; it outlives them. For tools: a daemon's learner does not wait. */
void snapshot_watch(struct snapshot_store *store, const struct storage_watch *watch);

struct snapshot_stats {
    uint64_t cut;               /* number of the newest, 0: none; rising by one */
    uint64_t changed_bytes;     /* of the last commit: what owners gave because it changed */
    uint64_t written_bytes;     /* of the last commit: all bytes written to segments and root */
    uint64_t live_bytes;        /* what a compact copy would take */
    uint64_t disk_bytes;        /* of all segments and the root, as they are now */
    uint64_t segments;
    uint64_t peak_bytes;        /* of disk, while the last commit was under way */
};
struct snapshot_stats snapshot_stats(const struct snapshot_store *store);

/* Any thread may give to a cut, one at a time. One cut at a time. */
struct snapshot_cut *snapshot_begin(struct snapshot_store *store);
struct state_writer *snapshot_writer(struct snapshot_cut *cut);
/* The name "format" is the store's own. A cut's meta is whole: what it does not name is gone. */
bool snapshot_meta(struct snapshot_cut *cut, const char *name, const char *text, struct cs_error *err);
/* Copies the tensors that were given, at full speed: to be called first by the thread that will commit, so that the
 * owner, who settles them when it next changes them, finds nothing left to copy. */
void snapshot_take_tensors(struct snapshot_cut *cut);
/* Ends the cut either way, and calls every records' end. */
bool snapshot_commit(struct snapshot_cut *cut, struct cs_error *err);
void snapshot_abandon(struct snapshot_cut *cut);                /* as a commit that failed */

/* A view of the last committed cut; stays the same while others commit (its files stay open). Read-only, any one
 * thread. */
struct snapshot_view;
struct snapshot_view *snapshot_view_open(struct snapshot_store *store, struct cs_error *err);
/* The same for tools, without the lock, on a directory that may be in use. */
struct snapshot_view *snapshot_view_open_directory(const char *directory, struct cs_error *err);
void snapshot_view_close(struct snapshot_view *view);
/* The bytes of all its blocks: what one reading of all goes over at most. watch is told of each block that is read. */
uint64_t snapshot_view_bytes(const struct snapshot_view *view);
void snapshot_view_watch(struct snapshot_view *view, const struct storage_watch *watch);
/* get's bytes live until the view closes, each's until its callback returns. */
struct state_reader *snapshot_reader(struct snapshot_view *view);
const char *snapshot_view_meta(struct snapshot_view *view, const char *name);      /* NULL: none */
typedef bool snapshot_meta_visitor(void *self, const char *name, const char *text, struct cs_error *err);
bool snapshot_view_each_meta(struct snapshot_view *view, snapshot_meta_visitor *visit, void *self,
                             struct cs_error *err);
/* Ascending by name; tensors are not sections. records: living; bytes: of them. */
bool snapshot_view_sections(struct snapshot_view *view,
                            bool (*visit)(void *self, const char *section, uint64_t records, uint64_t bytes,
                                          struct cs_error *err),
                            void *self, struct cs_error *err);
/* Every stored tensor by name, ascending, data borrowed until the callback returns. */
bool snapshot_view_tensors(struct snapshot_view *view, tensor_visitor *visit, void *self, struct cs_error *err);
/* Everything read and its checksum compared, living counts too. records, bytes: may be NULL. */
bool snapshot_view_verify(struct snapshot_view *view, uint64_t *records, uint64_t *bytes, struct cs_error *err);

/* A compact copy of the newest cut of a directory that may be in use, made under a temporary name beside `to`, read
 * back and verified, then renamed: `to` must not exist. watch (NULL: nobody) is told of three readings: of what there
 * is, of the copy, and again of what there is. */
bool snapshot_backup(const char *directory, const char *to, const struct storage_watch *watch, struct cs_error *err);
/* Removes a copy that is of no use, as far as it is one. */
void snapshot_discard(const char *directory);
/* Copies beside `to` that were never finished: a backup to it was killed, or a restore of it. Each is told of, and
 * taken away first where `away`. What a copy that still runs holds is none of them. Returns how many there were. */
size_t snapshot_leftovers(const char *to, bool away, void (*tell)(void *self, const char *path), void *self);

#endif
