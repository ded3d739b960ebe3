/* What scoring needs and nothing else, as an immutable, versioned directory (interfaces.md, section 4):
 *
 *     <directory>/<20 digits>/data.mdb        LMDB, read-only, no lock file: `meta`, `dense`, `rows.<table>`
 *     <directory>/<20 digits>/manifest.json
 *     <directory>/current -> <20 digits>      replaced by rename, after everything before it is on disk
 *     <directory>/refused/<20 digits>/        versions that were never published, each with its reason.txt
 *
 * Written under a temporary name, fsynced (files and directories), renamed, then named by `current`. */
#ifndef STORAGE_CHECKPOINT_H
#define STORAGE_CHECKPOINT_H

#include <limits.h>

#include "core/state.h"
#include "storage/watch.h"

/* <directory>/<version>/<file>, or the version's own path where file is "". CS_FAILED: longer than PATH_MAX. */
bool checkpoint_path(char path[PATH_MAX], const char *directory, uint64_t version, const char *file,
                     struct cs_error *err);

struct checkpoint_writer;
struct checkpoint_writer *checkpoint_begin(const char *directory, struct cs_error *err);
bool checkpoint_meta(struct checkpoint_writer *writer, const char *name, const char *text, struct cs_error *err);
bool checkpoint_tensor(struct checkpoint_writer *writer, const struct tensor *tensor, struct cs_error *err);
/* Keys ascending within a table; tables one after the other. */
bool checkpoint_row(struct checkpoint_writer *writer, const char *table, uint64_t key, const float *row,
                    size_t dimension, struct cs_error *err);
/* For who numbers versions among other things: it gets this number, or one more than any there is where that is
 * larger. Before it is sealed. */
void checkpoint_number_from(struct checkpoint_writer *writer, uint64_t least);
/* manifest: a JSON object text; version, created, format, rows by table, sha256 and size of data.mdb are added to it.
 * Ends the writer either way; *version is the new one, larger than any before, already named by `current`. Then all but
 * the newest `keep` versions (never current, its predecessor or a pinned one) are removed. */
bool checkpoint_finish(struct checkpoint_writer *writer, const char *manifest, uint64_t keep, uint64_t *version,
                       struct cs_error *err);
/* The same in two steps, for who judges a version before it is named. Sealed, it is whole under its temporary name,
 * `checkpoint_candidate`, which checkpoint_open takes; nobody who follows `current` or lists versions sees it. */
bool checkpoint_seal(struct checkpoint_writer *writer, const char *manifest, struct cs_error *err);
const char *checkpoint_candidate(const struct checkpoint_writer *writer);
/* Both end the writer either way. Refused: kept aside with its reason, the newest `keep` of such; its number is not
 * given again. */
bool checkpoint_accept(struct checkpoint_writer *writer, uint64_t keep, uint64_t *version, struct cs_error *err);
bool checkpoint_refuse(struct checkpoint_writer *writer, const char *reason, uint64_t keep, uint64_t *version,
                       struct cs_error *err);
void checkpoint_abandon(struct checkpoint_writer *writer);

uint64_t checkpoint_current(const char *directory);             /* 0: none */
uint64_t checkpoint_newest(const char *directory);              /* the largest number there is, refused ones' too */
/* All complete versions, ascending; malloc'd. */
bool checkpoint_list(const char *directory, uint64_t **version, size_t *count, struct cs_error *err);
bool checkpoint_repoint(const char *directory, uint64_t version, struct cs_error *err);

/* Marks: small files beside a version's own, which say what was decided about it; they go with it. */
#define CHECKPOINT_REFUSED "refused"            /* the directory of those that were not published */
#define CHECKPOINT_PINNED "pinned"              /* never removed */
#define CHECKPOINT_WITHDRAWN "withdrawn"        /* rolled back from: no rollback leads to it unless it is named */
#define CHECKPOINT_FROZEN "frozen"              /* rolled back to: served as it is, no delta is applied to it */
bool checkpoint_mark(const char *directory, uint64_t version, const char *mark, const char *text,
                     struct cs_error *err);
bool checkpoint_unmark(const char *directory, uint64_t version, const char *mark, struct cs_error *err);
bool checkpoint_is_marked(const char *directory, uint64_t version, const char *mark);

/* An opened version. Rows are read straight from the mapped file. The path is a version's directory, or a directory
 * of versions (then `current` is followed once). Checks size, structure and (verify) sha256 before anything is read. */
struct checkpoint;
struct checkpoint *checkpoint_open(const char *path, bool verify, struct cs_error *err);
/* With verify; watch is told of what of data.mdb has been hashed. */
struct checkpoint *checkpoint_open_watched(const char *path, const struct storage_watch *watch, struct cs_error *err);
void checkpoint_close(struct checkpoint *checkpoint);
uint64_t checkpoint_version(const struct checkpoint *checkpoint);
const char *checkpoint_manifest(const struct checkpoint *checkpoint);          /* the JSON text */
/* Whether it has the mark now: one look at the file system. */
bool checkpoint_has_mark(const struct checkpoint *checkpoint, const char *mark);
const char *checkpoint_meta_text(const struct checkpoint *checkpoint, const char *name);   /* NULL: none */
bool checkpoint_read_tensor(struct checkpoint *checkpoint, const struct tensor *tensor, struct cs_error *err);
bool checkpoint_tensors(struct checkpoint *checkpoint, tensor_visitor *visit, void *self, struct cs_error *err);
/* Handle of a table for checkpoint_find; < 0: there is none. */
int checkpoint_table(const struct checkpoint *checkpoint, const char *name);
/* Floats in each row of it; 0 where it has none. */
size_t checkpoint_dimension(const struct checkpoint *checkpoint, int table);
/* The row, borrowed for the checkpoint's life, or NULL. Thread-safe, no lock, no system call. */
const float *checkpoint_find(const struct checkpoint *checkpoint, int table, uint64_t key);
/* Many at once: row[i] is that of key[i] in table[i]. Waits for memory together, not once a key. */
void checkpoint_find_all(const struct checkpoint *checkpoint, size_t count, const int *table, const uint64_t *key,
                         const float **row);
typedef bool checkpoint_row_visitor(void *self, uint64_t key, const float *row, size_t dimension, struct cs_error *err);
bool checkpoint_each_row(struct checkpoint *checkpoint, const char *table, checkpoint_row_visitor *visit, void *self,
                         struct cs_error *err);
bool checkpoint_tables(struct checkpoint *checkpoint,
                       bool (*visit)(void *self, const char *table, uint64_t rows, struct cs_error *err), void *self,
                       struct cs_error *err);

#endif
