/* LMDB environments: opened once a process, read safely, grown when full; the one place where LMDB's codes become
 * cs_error.
 *
 * What operations.md, section 3, measured is held here: default sync only, no WRITEMAP, no DUPSORT, one MDB_env a file
 * and process (a second open shares the first), the file's size checked before anything in it is read (a truncated file
 * would otherwise end in SIGBUS), a full disk told from LMDB's EIO, and no growing of the map while someone reads
 * through it. */
#ifndef STORAGE_ENVIRONMENT_H
#define STORAGE_ENVIRONMENT_H

#include <lmdb.h>

#include "core/error.h"

enum environment_database { DATABASE_CUTS, DATABASES };

struct environment;

const char *environment_lmdb_version(void);     /* of the library that is linked */

/* Opens, or shares what this process has open already; what is opened has its structure checked before LMDB reads it.
 * Writable: the databases are made where they are missing. CS_REFUSED where there are none (read-only), where the
 * structure is damaged, and where there are those of a snapshot of format 1. map_bytes: at least this much address
 * space, 0 for the default. */
struct environment *environment_open(const char *directory, bool writable, size_t map_bytes, struct cs_error *err);
void environment_close(struct environment *environment);
MDB_env *environment_handle(struct environment *environment);
MDB_dbi environment_database(const struct environment *environment, enum environment_database database);
const char *environment_directory(const struct environment *environment);

/* A read transaction, counted so that the map does not move under it. Any thread may use and end it. */
MDB_txn *environment_read_begin(struct environment *environment, struct cs_error *err);
void environment_read_end(struct environment *environment, MDB_txn *txn);
/* Doubles the map; waits until nobody reads. No write transaction may be open. */
bool environment_grow(struct environment *environment, struct cs_error *err);
/* After MDB_PANIC (writing a meta page failed): closes and opens the file anew; waits until nobody reads. */
bool environment_reopen(struct environment *environment, struct cs_error *err);

/* A file that nothing writes any more: no lock, no slot, any number of times. max: named databases. */
MDB_env *environment_open_file(const char *file, unsigned max, struct cs_error *err);

/* Says what LMDB's code means, returns false. wanted: bytes that were being written (0: none), to tell a full disk. */
bool environment_fail(struct cs_error *err, int code, const char *directory, size_t wanted, const char *doing);
/* Flushes a directory's entries; of the directory that the path lies in. */
bool environment_sync_directory(const char *directory, struct cs_error *err);
bool environment_sync_parent(const char *path, struct cs_error *err);

#endif
