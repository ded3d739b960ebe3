/* LMDB environments: opening, sharing, growing, and what their error codes mean. */
#include "storage/environment.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/need.h"
#include "storage/file.h"
#include "storage/format.h"
#include "storage/root_check.h"

/* Address space, not memory and not disk: the file grows only by what is written. */
static const size_t default_map = (size_t)64 << 30;
static const size_t smallest_map = (size_t)1 << 20;

struct environment {
    MDB_env *env;
    MDB_dbi database[DATABASES];
    char *directory;
    bool writable;
    dev_t device;               /* of data.mdb: one environment a file and process */
    ino_t inode;
    size_t users;               /* who opened it; guarded by registry_lock */
    struct environment *next;

    pthread_mutex_t lock;       /* guards the two below */
    pthread_cond_t changed;
    size_t readers;
    bool growing;
};

/* LMDB must not be opened twice on one file in one process: closing one would drop the other's locks. */
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct environment *registry;

static const char *const database_name[DATABASES] = { "cuts" };
enum { DATABASES_OPEN = DATABASES + 1 };        /* and format 1's meta, to know it by */

bool environment_fail(struct cs_error *err, int code, const char *directory, size_t wanted, const char *doing)
{
    switch (code) {
    case EIO:           /* LMDB reports a short write, which is what a full disk gives, as EIO */
    case ENOSPC:
    case EDQUOT: {
        struct statvfs disk;
        if (statvfs(directory, &disk) == 0) {
            uint64_t free_bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
            if (code != EIO || free_bytes < wanted + ((uint64_t)1 << 20))
                return cs_fail(err, CS_FAILED, "%s: disk full: %" PRIu64 " bytes free in %s", doing, free_bytes,
                               directory);
        }
        return cs_fail_errno(err, code, "%s in %s", doing, directory);
    }
    case MDB_INVALID: return cs_fail(err, CS_REFUSED, "%s: %s holds no LMDB file, or a damaged one", doing, directory);
    case MDB_VERSION_MISMATCH:
        return cs_fail(err, CS_REFUSED, "%s: %s was written by another version of LMDB", doing, directory);
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INCOMPATIBLE:
    case MDB_BAD_VALSIZE:
        return cs_fail(err, CS_REFUSED, "%s: %s is damaged: %s", doing, directory, mdb_strerror(code));
    case MDB_READERS_FULL: return cs_fail(err, CS_FAILED, "%s: too many programs read %s at once", doing, directory);
    default: break;
    }
    if (code > 0) return cs_fail_errno(err, code, "%s in %s", doing, directory);
    return cs_fail(err, CS_FAILED, "%s in %s: %s", doing, directory, mdb_strerror(code));
}

bool environment_sync_directory(const char *directory, struct cs_error *err)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return cs_fail_errno(err, errno, "opening %s", directory);
    int failed = fsync(fd) ? errno : 0;
    close(fd);
    return failed ? cs_fail_errno(err, failed, "flushing %s", directory) : true;
}

bool environment_sync_parent(const char *path, struct cs_error *err)
{
    char copy[PATH_MAX];
    if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy)
        return cs_fail(err, CS_FAILED, "the path %s is too long", path);
    return environment_sync_directory(dirname(copy), err);
}

/* The file holds every page that the state of it in use needs. */
static bool check_size(MDB_env *env, const char *file, struct cs_error *err)
{
    MDB_envinfo info;
    MDB_stat stat_;
    int fd;
    struct stat status;

    if (mdb_env_info(env, &info) || mdb_env_stat(env, &stat_) || mdb_env_get_fd(env, &fd) || fstat(fd, &status))
        return cs_fail_errno(err, errno, "looking at %s", file);
    uint64_t needed;
    if (__builtin_mul_overflow((uint64_t)info.me_last_pgno + 1, (uint64_t)stat_.ms_psize, &needed) ||
        needed > (uint64_t)status.st_size)
        return cs_fail(err, CS_REFUSED, "%s is truncated: %" PRIu64 " bytes needed, %" PRIu64 " there", file, needed,
                       (uint64_t)status.st_size);
    return true;
}

/* LMDB takes an empty file for a new one: a snapshot that was cut to nothing would silently begin anew. */
static bool check_file(const char *file, struct stat *status, struct cs_error *err)
{
    if (stat(file, status)) return cs_fail_errno(err, errno, "opening %s", file);
    if (!S_ISREG(status->st_mode)) return cs_fail(err, CS_REFUSED, "%s is not a file", file);
    if (status->st_size == 0)
        return cs_fail(err, CS_REFUSED, "%s is damaged: it is empty. To begin anew, remove it", file);
    return true;
}

/* mdb_env_open with less and less address space: a limit (ulimit -v) may forbid the generous start. */
static int open_mapped(MDB_env **env, const char *path, unsigned flags, unsigned max, size_t map_bytes)
{
    for (size_t bytes = map_bytes;; bytes /= 2) {
        int code = mdb_env_create(env);
        if (code) return code;
        code = mdb_env_set_maxdbs(*env, max);
        if (!code && bytes) code = mdb_env_set_mapsize(*env, bytes);
        if (!code) code = mdb_env_open(*env, path, flags, 0640);
        if (!code) return 0;
        mdb_env_close(*env);
        *env = NULL;
        if (code != ENOMEM || bytes <= smallest_map) return code;
    }
}

/* Format 1 kept all in LMDB, its version under meta's "format". */
static bool refuse_format_1(struct environment *environment, struct cs_error *err)
{
    MDB_txn *txn;
    MDB_dbi meta;
    MDB_val key = { .mv_size = strlen("format"), .mv_data = (void *)(uintptr_t)"format" }, value;
    char version[32] = "1";
    int code = mdb_txn_begin(environment->env, NULL, MDB_RDONLY, &txn);
    if (code) return environment_fail(err, code, environment->directory, 0, "opening the snapshot");
    code = mdb_dbi_open(txn, "meta", 0, &meta);
    if (!code && !mdb_get(txn, meta, &key, &value) && value.mv_size < sizeof version) {
        memcpy(version, value.mv_data, value.mv_size);
        version[value.mv_size] = 0;
    }
    mdb_txn_abort(txn);
    if (code == MDB_NOTFOUND) return true;
    if (code) return environment_fail(err, code, environment->directory, 0, "opening the snapshot");
    return cs_fail(err, CS_REFUSED, "%s has snapshot format %s, this program reads %d: take another directory, and the "
                   "events from their beginning or weights by import", environment->directory, version,
                   FORMAT_SNAPSHOT_VERSION);
}

static bool open_databases(struct environment *environment, struct cs_error *err)
{
    MDB_txn *txn = NULL;
    if (!refuse_format_1(environment, err)) return false;
    int code = mdb_txn_begin(environment->env, NULL, environment->writable ? 0 : MDB_RDONLY, &txn);
    for (int i = 0; !code && i < DATABASES; i++)
        code = mdb_dbi_open(txn, database_name[i], environment->writable ? MDB_CREATE : 0, &environment->database[i]);
    if (!code) {
        code = mdb_txn_commit(txn);         /* a read transaction too: that is what keeps the handles */
        txn = NULL;
    }
    if (txn) mdb_txn_abort(txn);
    if (code == MDB_NOTFOUND) return cs_fail(err, CS_REFUSED, "%s holds no snapshot", environment->directory);
    if (code) return environment_fail(err, code, environment->directory, 1 << 20, "opening the snapshot");
    return true;
}

static bool open_fresh(struct environment *environment, size_t map_bytes, struct cs_error *err)
{
    char file[PATH_MAX], lock[PATH_MAX];
    bool there, locked;
    if (snprintf(file, sizeof file, "%s/data.mdb", environment->directory) >= (int)sizeof file ||
        snprintf(lock, sizeof lock, "%s/lock.mdb", environment->directory) >= (int)sizeof lock)
        return cs_fail(err, CS_FAILED, "the path of %s is too long", environment->directory);
    /* LMDB opens both by path, and writes to where a link leads. */
    if (!file_check(file, &there, err) || !file_check(lock, &locked, err)) return false;
    bool created = !there;
    if (created && !environment->writable)
        return cs_fail(err, CS_REFUSED, "%s holds no snapshot", environment->directory);
    struct stat status;
    if (!created && (!check_file(file, &status, err) || !root_check(file, NULL, err))) return false;
    unsigned flags = MDB_NOTLS | (environment->writable ? 0 : MDB_RDONLY);
    int code = open_mapped(&environment->env, environment->directory, flags, DATABASES_OPEN,
                           map_bytes ? map_bytes : default_map);
    if (code) {
        /* What a full disk leaves of a first start must not look like damage to the next. */
        if (created && stat(file, &status) == 0 && status.st_size == 0) unlink(file);
        if (code == EACCES && locked && access(lock, R_OK | W_OK)) return cs_fail_errno(err, code, "opening %s", lock);
        return environment_fail(err, code, environment->directory, 0, "opening the snapshot");
    }
    if (!check_size(environment->env, file, err)) return false;
    int cleared;
    mdb_reader_check(environment->env, &cleared);       /* slots of readers that died: they would make the file grow */
    if (!open_databases(environment, err)) return false;
    if (created && !environment_sync_directory(environment->directory, err)) return false;
    if (stat(file, &status)) return cs_fail_errno(err, errno, "looking at %s", file);
    environment->device = status.st_dev;
    environment->inode = status.st_ino;
    return true;
}

static void destroy(struct environment *environment)
{
    if (!environment) return;
    if (environment->env) mdb_env_close(environment->env);
    pthread_mutex_destroy(&environment->lock);
    pthread_cond_destroy(&environment->changed);
    free(environment->directory);
    free(environment);
}

static struct environment *shared(const char *directory)
{
    char file[PATH_MAX];
    struct stat status;
    if (snprintf(file, sizeof file, "%s/data.mdb", directory) >= (int)sizeof file || stat(file, &status)) return NULL;
    for (struct environment *e = registry; e; e = e->next)
        if (e->device == status.st_dev && e->inode == status.st_ino) return e;
    return NULL;
}

struct environment *environment_open(const char *directory, bool writable, size_t map_bytes, struct cs_error *err)
{
    pthread_mutex_lock(&registry_lock);
    struct environment *environment = shared(directory);
    if (environment && writable && !environment->writable) {
        cs_fail(err, CS_FAILED, "%s is open for reading in this process, close that first", directory);
        environment = NULL;
    } else if (environment) {
        environment->users++;
    } else {
        environment = need(calloc(1, sizeof *environment));
        pthread_mutex_init(&environment->lock, NULL);
        pthread_cond_init(&environment->changed, NULL);
        environment->directory = need(strdup(directory));
        environment->writable = writable;
        environment->users = 1;
        if (open_fresh(environment, map_bytes, err)) {
            environment->next = registry;
            registry = environment;
        } else {
            destroy(environment);
            environment = NULL;
        }
    }
    pthread_mutex_unlock(&registry_lock);
    return environment;
}

void environment_close(struct environment *environment)
{
    if (!environment) return;
    pthread_mutex_lock(&registry_lock);
    if (--environment->users == 0) {
        struct environment **link = &registry;
        while (*link != environment) link = &(*link)->next;
        *link = environment->next;
        destroy(environment);
    }
    pthread_mutex_unlock(&registry_lock);
}

MDB_env *environment_handle(struct environment *environment)
{
    return environment->env;
}

MDB_dbi environment_database(const struct environment *environment, enum environment_database database)
{
    return environment->database[database];
}

const char *environment_directory(const struct environment *environment)
{
    return environment->directory;
}

/* Waits until nobody reads and keeps new readers out, until resize_end. */
static void resize_begin(struct environment *environment)
{
    pthread_mutex_lock(&environment->lock);
    while (environment->growing) pthread_cond_wait(&environment->changed, &environment->lock);
    environment->growing = true;
    while (environment->readers) pthread_cond_wait(&environment->changed, &environment->lock);
    pthread_mutex_unlock(&environment->lock);
}

static void resize_end(struct environment *environment)
{
    pthread_mutex_lock(&environment->lock);
    environment->growing = false;
    pthread_cond_broadcast(&environment->changed);
    pthread_mutex_unlock(&environment->lock);
}

static void reader_leaves(struct environment *environment)
{
    pthread_mutex_lock(&environment->lock);
    environment->readers--;
    pthread_cond_broadcast(&environment->changed);
    pthread_mutex_unlock(&environment->lock);
}

MDB_txn *environment_read_begin(struct environment *environment, struct cs_error *err)
{
    for (int attempt = 0;; attempt++) {
        MDB_txn *txn = NULL;
        pthread_mutex_lock(&environment->lock);
        while (environment->growing) pthread_cond_wait(&environment->changed, &environment->lock);
        environment->readers++;
        pthread_mutex_unlock(&environment->lock);
        /* env is NULL where reopening failed: the next write tries it again. */
        int code = environment->env ? mdb_txn_begin(environment->env, NULL, MDB_RDONLY, &txn) : MDB_PANIC;
        if (!code) {
            if (check_size(environment->env, environment->directory, err)) return txn;
            environment_read_end(environment, txn);
            return NULL;
        }
        reader_leaves(environment);
        if (code != MDB_MAP_RESIZED || attempt == 10) {
            environment_fail(err, code, environment->directory, 0, "reading the snapshot");
            return NULL;
        }
        resize_begin(environment);          /* another process grew it: take over its size */
        mdb_env_set_mapsize(environment->env, 0);
        resize_end(environment);
    }
}

void environment_read_end(struct environment *environment, MDB_txn *txn)
{
    if (!txn) return;
    mdb_txn_abort(txn);
    reader_leaves(environment);
}

bool environment_grow(struct environment *environment, struct cs_error *err)
{
    MDB_envinfo info;
    resize_begin(environment);
    int code = mdb_env_info(environment->env, &info);
    if (!code) code = mdb_env_set_mapsize(environment->env, info.me_mapsize * 2);
    resize_end(environment);
    return code ? environment_fail(err, code, environment->directory, 0, "growing the snapshot's map") : true;
}

bool environment_reopen(struct environment *environment, struct cs_error *err)
{
    MDB_envinfo info;
    pthread_mutex_lock(&registry_lock);     /* nobody shares what is closed */
    resize_begin(environment);
    size_t map_bytes = !environment->env || mdb_env_info(environment->env, &info) ? 0 : info.me_mapsize;
    if (environment->env) mdb_env_close(environment->env);
    environment->env = NULL;
    bool ok = open_fresh(environment, map_bytes, err);
    if (!ok && environment->env) {
        mdb_env_close(environment->env);
        environment->env = NULL;
    }
    resize_end(environment);
    pthread_mutex_unlock(&registry_lock);
    return ok;
}

MDB_env *environment_open_file(const char *file, unsigned max, struct cs_error *err)
{
    MDB_env *env = NULL;
    struct stat status;
    if (!check_file(file, &status, err)) return NULL;
    /* The map is the file: whatever size its meta page speaks of, no more is mapped than LMDB says it uses. */
    size_t bytes = ((size_t)status.st_size + 4095) / 4096 * 4096;
    int code = open_mapped(&env, file, MDB_RDONLY | MDB_NOLOCK | MDB_NOSUBDIR | MDB_NOTLS, max, bytes ? bytes : 4096);
    if (code) {
        environment_fail(err, code, file, 0, "opening");
        return NULL;
    }
    if (!check_size(env, file, err)) {
        mdb_env_close(env);
        return NULL;
    }
    return env;
}

const char *environment_lmdb_version(void) { return mdb_version(NULL, NULL, NULL); }
