/* Checkpoints, the writing side: a version is built under a temporary name, flushed, renamed, named by `current`, and
 * the oldest versions are removed. Reading: checkpoint_read.c.
 *
 *   .new-XXXXXX/   being written, or sealed and judged; its directory is held by flock, so that what a crash left
 *                  behind is told from it
 *   .old-<20 digits>   being removed */
#include "storage/checkpoint.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/need.h"
#include "storage/checkpoint_file.h"
#include "storage/environment.h"
#include "storage/file.h"
#include "storage/format.h"

enum { TABLE_NAME_MAX = 200 };
/* One write transaction holds this much at most: its pages are in memory until it commits. */
static const size_t transaction_bytes = (size_t)64 << 20;

struct written_table { char *name; uint64_t rows; size_t dimension; };

struct checkpoint_writer {
    char *directory, *temporary;
    char *manifest;                     /* sealed: the caller's */
    uint64_t least;                     /* its number is not below this */
    uint64_t size;                      /* of data.mdb */
    char sha256[65];
    int lock;                           /* flock on the temporary directory */
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta, dense, rows;
    size_t pending;                     /* bytes put in the open transaction */
    struct written_table *table;        /* the last one is being written */
    size_t table_count;
};

/* -- names -------------------------------------------------------------------------------------------------------- */

bool checkpoint_version_parse(const char *name, uint64_t *version)
{
    if (strlen(name) != CHECKPOINT_DIGITS || strspn(name, "0123456789") != CHECKPOINT_DIGITS) return false;
    errno = 0;
    *version = strtoull(name, NULL, 10);
    return errno == 0 && *version > 0;
}

static bool join(char path[PATH_MAX], const char *directory, const char *name, struct cs_error *err)
{
    if (snprintf(path, PATH_MAX, "%s/%s", directory, name) < PATH_MAX) return true;
    return cs_fail(err, CS_FAILED, "the path of %s is too long", directory);
}

bool checkpoint_path(char path[PATH_MAX], const char *directory, uint64_t version, const char *file,
                     struct cs_error *err)
{
    const char *slash = *file ? "/" : "";
    if (snprintf(path, PATH_MAX, "%s/%020" PRIu64 "%s%s", directory, version, slash, file) < PATH_MAX) return true;
    return cs_fail(err, CS_FAILED, "the path of %s is too long", directory);
}

uint64_t checkpoint_current(const char *directory)
{
    char path[PATH_MAX], target[CHECKPOINT_DIGITS + 2];
    uint64_t version;
    if (!join(path, directory, "current", NULL)) return 0;
    ssize_t length = readlink(path, target, sizeof target);
    if (length != CHECKPOINT_DIGITS) return 0;          /* what leads elsewhere is not followed */
    target[length] = 0;
    return checkpoint_version_parse(target, &version) ? version : 0;
}

static int ascending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

bool checkpoint_list(const char *directory, uint64_t **version, size_t *count, struct cs_error *err)
{
    DIR *stream = opendir(directory);
    struct dirent *entry;

    *version = NULL;
    *count = 0;
    if (!stream) return cs_fail_errno(err, errno, "opening %s", directory);
    while ((entry = readdir(stream))) {
        uint64_t found;
        char path[PATH_MAX];
        if (!checkpoint_version_parse(entry->d_name, &found)) continue;
        if (snprintf(path, sizeof path, "%s/%s/manifest.json", directory, entry->d_name) >= (int)sizeof path ||
            access(path, F_OK))
            continue;
        if ((*count & (*count + 1)) == 0) *version = need(realloc(*version, (2 * *count + 2) * sizeof **version));
        (*version)[(*count)++] = found;
    }
    closedir(stream);
    if (*count) qsort(*version, *count, sizeof **version, ascending);
    return true;
}

bool checkpoint_repoint(const char *directory, uint64_t version, struct cs_error *err)
{
    char current[PATH_MAX], temporary[PATH_MAX], manifest[PATH_MAX], name[64];

    if (!checkpoint_path(manifest, directory, version, "manifest.json", err) ||
        !join(current, directory, "current", err)) return false;
    if (access(manifest, R_OK)) return cs_fail(err, CS_FAILED, "%s has no version %" PRIu64, directory, version);
    snprintf(name, sizeof name, ".current-%ld-%p", (long)getpid(), (void *)temporary); /* other threads' names differ */
    if (!join(temporary, directory, name, err)) return false;
    snprintf(name, sizeof name, "%020" PRIu64, version);
    unlink(temporary);
    if (symlink(name, temporary)) return cs_fail_errno(err, errno, "making a link in %s", directory);
    if (rename(temporary, current)) {
        cs_fail_errno(err, errno, "naming version %" PRIu64 " current in %s", version, directory);
        unlink(temporary);
        return false;
    }
    return environment_sync_directory(directory, err);
}

/* -- removing ----------------------------------------------------------------------------------------------------- */

/* What crashes left behind: a temporary directory that nobody holds. */
static void clean(const char *directory)
{
    DIR *stream = opendir(directory);
    struct dirent *entry;
    if (!stream) return;
    while ((entry = readdir(stream))) {
        char path[PATH_MAX];
        if (strncmp(entry->d_name, ".new-", 5) && strncmp(entry->d_name, ".old-", 5)) continue;
        if (!join(path, directory, entry->d_name, NULL)) continue;
        int held = file_hold(path);
        if (held < 0) continue;
        file_remove_directory(path);
        close(held);
    }
    closedir(stream);
}

static void prune(const char *directory, uint64_t current, uint64_t predecessor, uint64_t keep)
{
    uint64_t *version;
    size_t count;
    if (!checkpoint_list(directory, &version, &count, NULL)) return;
    for (size_t i = 0; i < count && count - i > keep; i++) {
        char path[PATH_MAX], old[PATH_MAX], name[64];
        if (version[i] == current || version[i] == predecessor ||
            checkpoint_is_marked(directory, version[i], CHECKPOINT_PINNED))
            continue;
        snprintf(name, sizeof name, ".old-%020" PRIu64, version[i]);
        if (!checkpoint_path(path, directory, version[i], "", NULL) || !join(old, directory, name, NULL)) continue;
        if (rename(path, old) == 0) file_remove_directory(old);     /* never a half version under a version's name */
    }
    free(version);
}

/* -- writing ------------------------------------------------------------------------------------------------------ */

static bool failed(struct checkpoint_writer *writer, int code, struct cs_error *err)
{
    return environment_fail(err, code, writer->directory, writer->pending, "writing the checkpoint");
}

static bool commit(struct checkpoint_writer *writer, struct cs_error *err)
{
    if (!writer->txn) return true;
    int code = mdb_txn_commit(writer->txn);
    writer->txn = NULL;
    if (code) return failed(writer, code, err);
    writer->pending = 0;
    return true;
}

/* A transaction with room for `bytes` more. The map follows the file, so that readers map no more than that. */
static bool reserve(struct checkpoint_writer *writer, size_t bytes, struct cs_error *err)
{
    MDB_envinfo info;
    MDB_stat stat_;

    if (writer->txn && writer->pending + bytes <= transaction_bytes) {
        writer->pending += bytes;
        return true;
    }
    if (!commit(writer, err)) return false;
    int code = mdb_env_info(writer->env, &info);
    if (!code) code = mdb_env_stat(writer->env, &stat_);
    if (code) return failed(writer, code, err);
    /* Rows fill more than half of each page when appended; a large value fills its pages. */
    size_t wanted = ((info.me_last_pgno + 1) * stat_.ms_psize) +
                    3 * (transaction_bytes > bytes ? transaction_bytes : bytes) + (1 << 20);
    if (wanted > info.me_mapsize) code = mdb_env_set_mapsize(writer->env, wanted);
    if (!code) code = mdb_txn_begin(writer->env, NULL, 0, &writer->txn);
    if (code) return failed(writer, code, err);
    writer->pending = bytes;
    return true;
}

/* A narrow umask is overruled. */
static bool open_to_group(int directory)
{
    struct stat status;
    if (fstat(directory, &status)) return false;
    return (status.st_mode & 0777) == 0750 || fchmod(directory, (status.st_mode & S_ISGID) | 0750) == 0;
}

struct checkpoint_writer *checkpoint_begin(const char *directory, struct cs_error *err)
{
    struct checkpoint_writer *writer = need(calloc(1, sizeof *writer));
    char data[PATH_MAX];
    int code;

    writer->lock = -1;
    writer->directory = need(strdup(directory));
    if (mkdir(directory, 0750) && errno != EEXIST) {
        cs_fail_errno(err, errno, "making %s", directory);
        goto fail;
    }
    clean(directory);
    if (!join(data, directory, ".new-", err) ||
        (writer->lock = file_make_held(data, &writer->temporary, err)) < 0) goto fail;
    if (!open_to_group(writer->lock)) {
        cs_fail_errno(err, errno, "opening %s to its group", writer->temporary);
        goto fail;
    }
    if (!join(data, writer->temporary, "data.mdb", err)) goto fail;
    code = mdb_env_create(&writer->env);
    if (!code) code = mdb_env_set_maxdbs(writer->env, CHECKPOINT_DATABASES_MAX);
    if (!code) code = mdb_env_open(writer->env, data, MDB_NOSUBDIR | MDB_NOLOCK, 0640);
    if (code) {
        failed(writer, code, err);
        goto fail;
    }
    if (!reserve(writer, 0, err)) goto fail;
    code = mdb_dbi_open(writer->txn, "meta", MDB_CREATE, &writer->meta);
    if (!code) code = mdb_dbi_open(writer->txn, "dense", MDB_CREATE, &writer->dense);
    if (code) {
        failed(writer, code, err);
        goto fail;
    }
    char format[16];
    snprintf(format, sizeof format, "%d", FORMAT_CHECKPOINT_VERSION);
    if (checkpoint_meta(writer, "format", format, err)) return writer;
fail:
    checkpoint_abandon(writer);
    return NULL;
}

bool checkpoint_meta(struct checkpoint_writer *writer, const char *name, const char *text, struct cs_error *err)
{
    assert(*name && strlen(name) <= TABLE_NAME_MAX);
    MDB_val key = { strlen(name), (void *)(uintptr_t)name }, value = { strlen(text), (void *)(uintptr_t)text };
    if (!reserve(writer, value.mv_size, err)) return false;
    int code = mdb_put(writer->txn, writer->meta, &key, &value, 0);
    return code ? failed(writer, code, err) : true;
}

bool checkpoint_tensor(struct checkpoint_writer *writer, const struct tensor *tensor, struct cs_error *err)
{
    size_t size = tensor_bytes(tensor);
    assert(*tensor->name && tensor->rank <= TENSOR_RANK_MAX);
    if (size > UINT32_MAX - FORMAT_DENSE_HEADER)
        return cs_fail(err, CS_FAILED, "tensor %s: %zu bytes are too many for one value", tensor->name, size);
    MDB_val key = { strlen(tensor->name), (void *)(uintptr_t)tensor->name },
            value = { FORMAT_DENSE_HEADER + size, NULL };
    if (!reserve(writer, value.mv_size, err)) return false;
    int code = mdb_put(writer->txn, writer->dense, &key, &value, MDB_RESERVE | MDB_NOOVERWRITE);
    if (code == MDB_KEYEXIST) return cs_fail(err, CS_FAILED, "two tensors are called %s", tensor->name);
    if (code) return failed(writer, code, err);
    format_dense_header(value.mv_data, tensor);
    if (size) memcpy((char *)value.mv_data + FORMAT_DENSE_HEADER, tensor->data, size);
    return true;
}

static bool begin_table(struct checkpoint_writer *writer, const char *table, struct cs_error *err)
{
    char name[TABLE_NAME_MAX + 8];
    if (!*table || strlen(table) > TABLE_NAME_MAX)
        return cs_fail(err, CS_FAILED, "'%.40s' can't be a table's name", table);
    for (size_t i = 0; i < writer->table_count; i++)
        if (!strcmp(writer->table[i].name, table))
            return cs_fail(err, CS_FAILED, "rows of table %s come in two pieces", table);
    if (!reserve(writer, 0, err)) return false;
    snprintf(name, sizeof name, "rows.%s", table);
    int code = mdb_dbi_open(writer->txn, name, MDB_CREATE, &writer->rows);
    if (code) return failed(writer, code, err);
    writer->table = need(realloc(writer->table, (writer->table_count + 1) * sizeof *writer->table));
    writer->table[writer->table_count++] = (struct written_table){ .name = need(strdup(table)) };
    return true;
}

bool checkpoint_row(struct checkpoint_writer *writer, const char *table, uint64_t key, const float *row,
                    size_t dimension, struct cs_error *err)
{
    if (!writer->table_count || strcmp(writer->table[writer->table_count - 1].name, table))
        if (!begin_table(writer, table, err)) return false;
    struct written_table *last = &writer->table[writer->table_count - 1];
    if (last->rows && dimension != last->dimension)
        return cs_fail(err, CS_FAILED, "row %016" PRIx64 " of table %s has %zu numbers, those before %zu", key, table,
                       dimension, last->dimension);
    last->dimension = dimension;
    uint64_t bytes = format_big_endian(key);
    MDB_val name = { sizeof bytes, &bytes }, value = { dimension * sizeof *row, (void *)(uintptr_t)row };
    if (!reserve(writer, value.mv_size + 32, err)) return false;
    int code = mdb_put(writer->txn, writer->rows, &name, &value, MDB_APPEND);
    if (code == MDB_KEYEXIST)
        return cs_fail(err, CS_FAILED, "row %016" PRIx64 " of table %s does not ascend", key, table);
    if (code) return failed(writer, code, err);
    last->rows++;
    return true;
}

/* The caller's manifest with what the writer alone knows. Returns its text, malloc'd. */
static char *complete_manifest(struct checkpoint_writer *writer, uint64_t version, struct cs_error *err)
{
    json_error_t where;
    struct timespec now;
    json_t *root = json_loads(writer->manifest, JSON_REJECT_DUPLICATES, &where), *rows = json_object();
    char *text = NULL;

    if (!json_is_object(root)) {
        cs_fail(err, CS_FAILED, "the manifest handed in is not a JSON object: %s", root ? "another type" : where.text);
        goto out;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    for (size_t i = 0; i < writer->table_count; i++)
        json_object_set_new(rows, writer->table[i].name, json_integer((json_int_t)writer->table[i].rows));
    json_object_set_new(root, "version", json_integer((json_int_t)version));
    json_object_set_new(root, "created", json_integer((json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000));
    json_object_set_new(root, "format", json_integer(FORMAT_CHECKPOINT_VERSION));
    json_object_set(root, "rows", rows);
    json_object_set_new(root, "sha256", json_string(writer->sha256));
    json_object_set_new(root, "size", json_integer((json_int_t)writer->size));
    char checksum[17];
    checkpoint_manifest_checksum(root, checksum);
    json_object_set_new(root, "checksum", json_string(checksum));
    text = need(json_dumps(root, JSON_INDENT(2) | JSON_PRESERVE_ORDER));
out:
    json_decref(root);
    json_decref(rows);
    return text;
}

/* One line break more. */
static bool write_text(const char *directory, const char *name, const char *text, struct cs_error *err)
{
    char *line;
    int length = asprintf(&line, "%s\n", text);
    if (length < 0) abort();
    bool ok = file_put(directory, name, line, (size_t)length, true, err);
    free(line);
    return ok;
}

static bool write_manifest(struct checkpoint_writer *writer, uint64_t version, struct cs_error *err)
{
    char *text = complete_manifest(writer, version, err);
    bool ok = text && write_text(writer->temporary, "manifest.json", text, err) &&
              environment_sync_directory(writer->temporary, err);
    free(text);
    return ok;
}

/* Flushed, measured and hashed. */
static bool seal_data(struct checkpoint_writer *writer, struct cs_error *err)
{
    char path[PATH_MAX];
    bool ok = false;
    if (!commit(writer, err)) return false;
    mdb_env_close(writer->env);
    writer->env = NULL;
    if (!join(path, writer->temporary, "data.mdb", err)) return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd)) cs_fail_errno(err, errno, "flushing %s", path);
    else ok = checkpoint_sha256(fd, NULL, &writer->size, writer->sha256) ||
              cs_fail_errno(err, errno, "reading %s", path);
    if (fd >= 0) close(fd);
    return ok;
}

static bool find_newest(const char *directory, uint64_t *last, struct cs_error *err)
{
    uint64_t *existing;
    size_t count;
    char refused[PATH_MAX];
    if (!checkpoint_list(directory, &existing, &count, err)) return false;
    *last = checkpoint_current(directory);
    if (count && existing[count - 1] > *last) *last = existing[count - 1];
    free(existing);
    if (join(refused, directory, CHECKPOINT_REFUSED, NULL) && checkpoint_list(refused, &existing, &count, NULL)) {
        if (count && existing[count - 1] > *last) *last = existing[count - 1];
        free(existing);
    }
    return true;
}

uint64_t checkpoint_newest(const char *directory)
{
    uint64_t last;
    return find_newest(directory, &last, NULL) ? last : 0;
}

/* 0: failed. */
static uint64_t next_version(const struct checkpoint_writer *writer, struct cs_error *err)
{
    uint64_t last;
    if (!find_newest(writer->directory, &last, err)) return 0;
    return last < writer->least ? writer->least : last + 1;
}

void checkpoint_number_from(struct checkpoint_writer *writer, uint64_t least)
{
    assert(!writer->manifest);
    writer->least = least;
}

bool checkpoint_seal(struct checkpoint_writer *writer, const char *manifest, struct cs_error *err)
{
    assert(!writer->manifest);
    writer->manifest = need(strdup(manifest));
    uint64_t next = seal_data(writer, err) ? next_version(writer, err) : 0;
    return next && write_manifest(writer, next, err);
}

const char *checkpoint_candidate(const struct checkpoint_writer *writer)
{
    return writer->temporary;
}

/* Gives what was built its name in `directory`; another writer may take the number first: then the next. */
static bool take_version(struct checkpoint_writer *writer, const char *directory, uint64_t *version,
                         struct cs_error *err)
{
    uint64_t next = next_version(writer, err);
    for (; next; next++) {
        char path[PATH_MAX];
        if (!write_manifest(writer, next, err) || !checkpoint_path(path, directory, next, "", err)) return false;
        if (rename(writer->temporary, path) == 0) break;
        if (errno != EEXIST && errno != ENOTEMPTY)
            return cs_fail_errno(err, errno, "naming version %" PRIu64 " in %s", next, directory);
    }
    if (!next) return false;
    *version = next;
    free(writer->temporary);
    writer->temporary = NULL;
    return environment_sync_directory(directory, err);
}

bool checkpoint_accept(struct checkpoint_writer *writer, uint64_t keep, uint64_t *version, struct cs_error *err)
{
    uint64_t predecessor = checkpoint_current(writer->directory);
    assert(writer->manifest);
    bool named = take_version(writer, writer->directory, version, err);
    bool ok = named && checkpoint_repoint(writer->directory, *version, err);
    /* Also where `current` can't be moved: or each try would leave one more. */
    if (named) prune(writer->directory, checkpoint_current(writer->directory), predecessor, keep);
    checkpoint_abandon(writer);
    return ok;
}

bool checkpoint_refuse(struct checkpoint_writer *writer, const char *reason, uint64_t keep, uint64_t *version,
                       struct cs_error *err)
{
    char refused[PATH_MAX];
    assert(writer->manifest);
    bool ok = join(refused, writer->directory, CHECKPOINT_REFUSED, err);
    ok = ok && file_make_directory(refused, err);
    if (ok) clean(refused);
    ok = ok && write_text(writer->temporary, "reason.txt", reason, err) && take_version(writer, refused, version, err);
    if (ok) prune(refused, *version, 0, keep);
    checkpoint_abandon(writer);
    return ok;
}

bool checkpoint_finish(struct checkpoint_writer *writer, const char *manifest, uint64_t keep, uint64_t *version,
                       struct cs_error *err)
{
    if (checkpoint_seal(writer, manifest, err)) return checkpoint_accept(writer, keep, version, err);
    checkpoint_abandon(writer);
    return false;
}

void checkpoint_abandon(struct checkpoint_writer *writer)
{
    if (!writer) return;
    if (writer->txn) mdb_txn_abort(writer->txn);
    if (writer->env) mdb_env_close(writer->env);
    if (writer->temporary) file_remove_directory(writer->temporary);
    if (writer->lock >= 0) close(writer->lock);
    for (size_t i = 0; i < writer->table_count; i++) free(writer->table[i].name);
    free(writer->table);
    free(writer->manifest);
    free(writer->temporary);
    free(writer->directory);
    free(writer);
}
