/* Checkpoints, the reading side: a version is opened, checked, and indexed once; then rows are found without LMDB.
 *
 * LMDB's own lookup needs a transaction a thread. A published file never changes, so rows are found in a map of the
 * whole file (storage/checkpoint_rows.h), which all processes that read it share with the page cache; LMDB reads the
 * rest.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <lmdb.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/need.h"
#include "storage/checkpoint.h"
#include "storage/checkpoint_file.h"
#include "storage/checkpoint_rows.h"
#include "storage/environment.h"
#include "storage/file.h"
#include "storage/format.h"
#include "storage/root_check.h"

enum { MANIFEST_MAX = 16 << 20 };

struct indexed_table { char *name; struct row_leaves rows; };

struct meta_text { char *name, *text; };

struct checkpoint {
    uint64_t version;
    char *directory, *manifest;
    MDB_env *env;
    MDB_txn *txn;                   /* held for life: nothing is ever written, and the pointers stay */
    bool verified;                  /* its SHA-256 is the manifest's */
    struct mapped_file file;
    size_t mapped;                  /* bytes */
    struct meta_text *meta;
    struct tensor *tensor;
    struct indexed_table *table;
    size_t meta_count, tensor_count, table_count;
};

bool checkpoint_sha256(int fd, const struct storage_watch *watch, uint64_t *size, char text[65])
{
    enum { PIECE = 1 << 18 };
    unsigned char digest[EVP_MAX_MD_SIZE], *piece = malloc(PIECE);
    unsigned length = 0;
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    ssize_t got = 0;

    *size = 0;
    if (!piece || !hash || !EVP_DigestInit_ex(hash, EVP_sha256(), NULL)) abort();
    while ((got = pread(fd, piece, PIECE, (off_t)*size)) > 0) {
        EVP_DigestUpdate(hash, piece, (size_t)got);
        *size += (uint64_t)got;
        watch_tell(watch, (uint64_t)got);
    }
    int number = errno;
    EVP_DigestFinal_ex(hash, digest, &length);
    EVP_MD_CTX_free(hash);
    free(piece);
    for (unsigned i = 0; i < length; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
    errno = number;
    return got == 0;
}

void checkpoint_manifest_checksum(const json_t *manifest, char text[17])
{
    json_t *others = json_copy((json_t *)(uintptr_t)manifest);
    json_object_del(others, "checksum");
    json_object_del(others, "version");
    char *said = need(json_dumps(others, JSON_COMPACT | JSON_SORT_KEYS));
    snprintf(text, 17, "%016" PRIx64, (uint64_t)XXH3_64bits(said, strlen(said)));
    free(said);
    json_decref(others);
}

/* -- opening ------------------------------------------------------------------------------------------------------ */

static char *read_text(const char *path, struct cs_error *err)
{
    struct stat status;
    char *text = NULL;
    int fd = file_open(path, O_RDONLY, err);
    if (fd < 0) {
        if (errno == ENOENT)
            cs_fail(err, CS_REFUSED, "%s is missing: `current` names a version that is not whole", path);
    } else if (fstat(fd, &status)) {
        cs_fail_errno(err, errno, "looking at %s", path);
    } else if (status.st_size > MANIFEST_MAX) {
        cs_fail(err, CS_REFUSED, "%s has more than %d bytes", path, MANIFEST_MAX);
    } else {
        text = need(calloc(1, (size_t)status.st_size + 1));
        if (read(fd, text, (size_t)status.st_size) != status.st_size) {
            cs_fail(err, CS_FAILED, "%s can't be read", path);
            free(text);
            text = NULL;
        }
    }
    if (fd >= 0) close(fd);
    return text;
}

/* Reads the pages in, too, so that no scoring thread is the first to touch one. A file system that fails to is told of
 * here, and not by a signal later. */
static bool map_file(struct checkpoint *checkpoint, int fd, size_t size, const char *path, struct cs_error *err)
{
    if (!size) return cs_fail(err, CS_REFUSED, "%s is empty", path);
    void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return cs_fail_errno(err, errno, "mapping %s", path);
    checkpoint->file.bytes = map;
    checkpoint->mapped = size;
    if (madvise(map, size, MADV_POPULATE_READ) && errno != EINVAL)         /* EINVAL: before Linux 5.14 */
        return cs_fail_errno(err, errno, "reading %s", path);
    return true;
}

/* The data's SHA-256 stands in the manifest, and so does where in the chain of deltas it belongs: nothing else guards
 * these. Manifests of before it had a checksum have none. */
static bool check_manifest(const json_t *manifest, const char *path, struct cs_error *err)
{
    const json_t *stated = json_object_get(manifest, "checksum");
    char checksum[17];
    if (!stated) return true;
    checkpoint_manifest_checksum(manifest, checksum);
    return (json_is_string(stated) && !strcmp(json_string_value(stated), checksum)) ||
           cs_fail(err, CS_REFUSED, "%s is damaged: it says other things than its checksum stands for", path);
}

/* What the manifest says of the file, against the file itself. */
static bool check_data(struct checkpoint *checkpoint, const json_t *manifest, const char *path, bool verify,
                       const struct storage_watch *watch, struct cs_error *err)
{
    json_t *size = json_object_get(manifest, "size");
    const char *expected = json_string_value(json_object_get(manifest, "sha256"));
    json_int_t format = json_integer_value(json_object_get(manifest, "format"));
    uint64_t there, named;
    char digest[65];
    struct stat status;
    bool ok = false;

    if (format != FORMAT_CHECKPOINT_VERSION)
        return cs_fail(err, CS_REFUSED, "%s has checkpoint format %" PRId64 ", this program reads %d",
                       checkpoint->directory, (int64_t)format, FORMAT_CHECKPOINT_VERSION);
    if (!json_is_integer(size) || !expected || json_integer_value(json_object_get(manifest, "version")) <= 0)
        return cs_fail(err, CS_REFUSED, "%s/manifest.json lacks version, size or sha256", checkpoint->directory);
    checkpoint->version = (uint64_t)json_integer_value(json_object_get(manifest, "version"));
    const char *slash = strrchr(checkpoint->directory, '/'), *name = slash ? slash + 1 : checkpoint->directory;
    if (checkpoint_version_parse(name, &named) && named != checkpoint->version)
        return cs_fail(err, CS_REFUSED, "%s holds the manifest of version %" PRIu64, checkpoint->directory,
                       checkpoint->version);
    int fd = file_open(path, O_RDONLY, err);
    if (fd < 0) {
        if (errno == ENOENT)
            cs_fail(err, CS_REFUSED, "%s is damaged: it has a manifest, but no data.mdb", checkpoint->directory);
    } else if (fstat(fd, &status)) {
        cs_fail_errno(err, errno, "looking at %s", path);
    } else if (status.st_size != json_integer_value(size)) {
        cs_fail(err, CS_REFUSED, "%s has %" PRId64 " bytes, its manifest says %" PRId64, path, (int64_t)status.st_size,
                (int64_t)json_integer_value(size));
    } else if (verify && !checkpoint_sha256(fd, watch, &there, digest)) {
        cs_fail_errno(err, errno, "reading %s", path);
    } else if (verify && strcmp(digest, expected)) {
        cs_fail(err, CS_REFUSED, "%s is damaged: its SHA-256 is not the manifest's", path);
    } else {
        checkpoint->verified = verify;
        ok = map_file(checkpoint, fd, (size_t)status.st_size, path, err);
    }
    if (fd >= 0) close(fd);
    return ok;
}

static bool damaged(const struct checkpoint *checkpoint, int code, struct cs_error *err)
{
    return environment_fail(err, code, checkpoint->directory, 0, "reading the checkpoint");
}

static bool index_meta(struct checkpoint *checkpoint, const MDB_val *key, const MDB_val *value, struct cs_error *err)
{
    (void)err;
    checkpoint->meta = need(realloc(checkpoint->meta, (checkpoint->meta_count + 1) * sizeof *checkpoint->meta));
    checkpoint->meta[checkpoint->meta_count++] = (struct meta_text){ need(strndup(key->mv_data, key->mv_size)),
                                                                     need(strndup(value->mv_data, value->mv_size)) };
    return true;
}

static bool index_tensor(struct checkpoint *checkpoint, const MDB_val *key, const MDB_val *value, struct cs_error *err)
{
    struct tensor tensor;
    if (!format_dense_open(value->mv_data, value->mv_size, key->mv_data, key->mv_size, &tensor, err)) return false;
    checkpoint->tensor = need(realloc(checkpoint->tensor, (checkpoint->tensor_count + 1) * sizeof *checkpoint->tensor));
    checkpoint->tensor[checkpoint->tensor_count++] = tensor;
    return true;
}

typedef bool index_pair(struct checkpoint *checkpoint, const MDB_val *key, const MDB_val *value, struct cs_error *err);

static bool each_pair(struct checkpoint *checkpoint, MDB_dbi database, index_pair *index, struct cs_error *err)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    bool ok = true;
    int code = mdb_cursor_open(checkpoint->txn, database, &cursor);
    if (code) return damaged(checkpoint, code, err);
    while (ok && !(code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT))) ok = index(checkpoint, &key, &value, err);
    mdb_cursor_close(cursor);
    return ok && (code == MDB_NOTFOUND || damaged(checkpoint, code, err));
}

/* The main database's keys are the named databases. */
static bool find_table(struct checkpoint *checkpoint, const MDB_val *key, const MDB_val *value, struct cs_error *err)
{
    if (key->mv_size <= 5 || memcmp(key->mv_data, "rows.", 5)) return true;
    checkpoint->table = need(realloc(checkpoint->table, (checkpoint->table_count + 1) * sizeof *checkpoint->table));
    struct indexed_table *table = &checkpoint->table[checkpoint->table_count++];
    *table = (struct indexed_table){ .name = need(strndup((char *)key->mv_data + 5, key->mv_size - 5)) };
    return row_leaves_open(&table->rows, &checkpoint->file, value->mv_data, value->mv_size, !checkpoint->verified,
                           err) ||
           cs_error_prefix(err, "table %s of %s", table->name, checkpoint->directory);
}

static bool index_all(struct checkpoint *checkpoint, struct cs_error *err)
{
    MDB_dbi root, meta, dense;
    int code = mdb_txn_begin(checkpoint->env, NULL, MDB_RDONLY, &checkpoint->txn);
    if (!code) code = mdb_dbi_open(checkpoint->txn, NULL, 0, &root);
    if (!code) code = mdb_dbi_open(checkpoint->txn, "meta", 0, &meta);
    if (!code) code = mdb_dbi_open(checkpoint->txn, "dense", 0, &dense);
    if (code == MDB_NOTFOUND) return cs_fail(err, CS_REFUSED, "%s/data.mdb is no checkpoint", checkpoint->directory);
    if (code) return damaged(checkpoint, code, err);
    MDB_stat stat_;
    if ((code = mdb_stat(checkpoint->txn, root, &stat_))) return damaged(checkpoint, code, err);
    checkpoint->file.page_size = stat_.ms_psize;
    checkpoint->file.pages = checkpoint->mapped / stat_.ms_psize;
    if (!each_pair(checkpoint, meta, index_meta, err) || !each_pair(checkpoint, dense, index_tensor, err) ||
        !each_pair(checkpoint, root, find_table, err)) return false;
    const char *format = checkpoint_meta_text(checkpoint, "format");
    if (!format || strtol(format, NULL, 10) != FORMAT_CHECKPOINT_VERSION)
        return cs_fail(err, CS_REFUSED, "%s has checkpoint format %s, this program reads %d", checkpoint->directory,
                       format ? format : "(none)", FORMAT_CHECKPOINT_VERSION);
    return true;
}

static struct checkpoint *open_version(const char *path, bool verify, const struct storage_watch *watch,
                                       struct cs_error *err)
{
    struct checkpoint *checkpoint = need(calloc(1, sizeof *checkpoint));
    char file[PATH_MAX];
    json_t *manifest = NULL;
    json_error_t where;
    bool ok = false;

    uint64_t current = checkpoint_current(path);
    if (current ? asprintf(&checkpoint->directory, "%s/%020" PRIu64, path, current) < 0
                : !(checkpoint->directory = strdup(path)))
        abort();
    for (size_t n = strlen(checkpoint->directory); n > 1 && checkpoint->directory[n - 1] == '/'; n--)
        checkpoint->directory[n - 1] = 0;
    snprintf(file, sizeof file, "%s/manifest.json", checkpoint->directory);
    if (!current && access(file, F_OK) && errno == ENOENT) {
        cs_fail(err, CS_FAILED, "%s has neither a current version nor a manifest", path);
        goto out;
    }
    if (!(checkpoint->manifest = read_text(file, err))) goto out;
    manifest = json_loads(checkpoint->manifest, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(manifest)) {
        cs_fail(err, CS_REFUSED, "%s is damaged: %s", file, manifest ? "no JSON object" : where.text);
        goto out;
    }
    if (!check_manifest(manifest, file, err)) goto out;
    snprintf(file, sizeof file, "%s/data.mdb", checkpoint->directory);
    if (!check_data(checkpoint, manifest, file, verify, watch, err)) goto out;
    if (!root_check(file, "rows.", err)) goto out;      /* which LMDB does not read: row_leaves_open looks at them */
    if (!(checkpoint->env = environment_open_file(file, CHECKPOINT_DATABASES_MAX, err))) goto out;
    ok = index_all(checkpoint, err);
out:
    json_decref(manifest);
    if (ok) return checkpoint;
    checkpoint_close(checkpoint);
    return NULL;
}

struct checkpoint *checkpoint_open(const char *path, bool verify, struct cs_error *err)
{
    return open_version(path, verify, NULL, err);
}

struct checkpoint *checkpoint_open_watched(const char *path, const struct storage_watch *watch, struct cs_error *err)
{
    return open_version(path, true, watch, err);
}

void checkpoint_close(struct checkpoint *checkpoint)
{
    if (!checkpoint) return;
    if (checkpoint->txn) mdb_txn_abort(checkpoint->txn);
    if (checkpoint->env) mdb_env_close(checkpoint->env);
    if (checkpoint->mapped) munmap((void *)(uintptr_t)checkpoint->file.bytes, checkpoint->mapped);
    for (size_t i = 0; i < checkpoint->meta_count; i++) {
        free(checkpoint->meta[i].name);
        free(checkpoint->meta[i].text);
    }
    for (size_t i = 0; i < checkpoint->table_count; i++) {
        free(checkpoint->table[i].name);
        row_leaves_close(&checkpoint->table[i].rows);
    }
    free(checkpoint->meta);
    free(checkpoint->tensor);
    free(checkpoint->table);
    free(checkpoint->manifest);
    free(checkpoint->directory);
    free(checkpoint);
}

/* -- reading ------------------------------------------------------------------------------------------------------ */

bool checkpoint_has_mark(const struct checkpoint *checkpoint, const char *mark)
{
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s/%s", checkpoint->directory, mark) < PATH_MAX && access(path, F_OK) == 0;
}

uint64_t checkpoint_version(const struct checkpoint *checkpoint)
{
    return checkpoint->version;
}

const char *checkpoint_manifest(const struct checkpoint *checkpoint)
{
    return checkpoint->manifest;
}

const char *checkpoint_meta_text(const struct checkpoint *checkpoint, const char *name)
{
    for (size_t i = 0; i < checkpoint->meta_count; i++)
        if (!strcmp(checkpoint->meta[i].name, name)) return checkpoint->meta[i].text;
    return NULL;
}

bool checkpoint_read_tensor(struct checkpoint *checkpoint, const struct tensor *tensor, struct cs_error *err)
{
    for (size_t i = 0; i < checkpoint->tensor_count; i++)
        if (!strcmp(checkpoint->tensor[i].name, tensor->name))
            return format_tensor_copy(tensor, &checkpoint->tensor[i], err);
    return cs_fail(err, CS_REFUSED, "tensor %s is missing in %s", tensor->name, checkpoint->directory);
}

bool checkpoint_tensors(struct checkpoint *checkpoint, tensor_visitor *visit, void *self, struct cs_error *err)
{
    for (size_t i = 0; i < checkpoint->tensor_count; i++) {
        struct tensor tensor = checkpoint->tensor[i];
        void *copy = NULL;
        if ((uintptr_t)tensor.data % tensor_type_bytes(tensor.type)) {      /* small values stand where LMDB has room */
            copy = need(malloc(tensor_bytes(&tensor)));
            tensor.data = memcpy(copy, tensor.data, tensor_bytes(&tensor));
        }
        bool ok = visit(self, &tensor, err);
        free(copy);
        if (!ok) return false;
    }
    return true;
}

int checkpoint_table(const struct checkpoint *checkpoint, const char *name)
{
    for (size_t i = 0; i < checkpoint->table_count; i++)
        if (!strcmp(checkpoint->table[i].name, name)) return (int)i;
    return -1;
}

size_t checkpoint_dimension(const struct checkpoint *checkpoint, int table)
{
    return table < 0 ? 0 : checkpoint->table[table].rows.dimension;
}

const float *checkpoint_find(const struct checkpoint *checkpoint, int table, uint64_t key)
{
    if (table < 0) return NULL;
    const struct row_leaves *rows = &checkpoint->table[table].rows;
    return row_leaves_find(rows, row_leaves_leaf(rows, key), key);
}

enum { TOGETHER = 32 };

void checkpoint_find_all(const struct checkpoint *checkpoint, size_t count, const int *table, const uint64_t *key,
                         const float **row)
{
    for (size_t begin = 0; begin < count; begin += TOGETHER) {
        size_t together = count - begin < TOGETHER ? count - begin : TOGETHER, leaf[TOGETHER];
        const struct row_leaves *rows[TOGETHER];
        for (size_t i = 0; i < together; i++) {
            rows[i] = table[begin + i] < 0 ? NULL : &checkpoint->table[table[begin + i]].rows;
            if (rows[i]) row_leaves_prefetch(rows[i], key[begin + i]);
        }
        for (size_t i = 0; i < together; i++)
            if (rows[i]) leaf[i] = row_leaves_leaf(rows[i], key[begin + i]);
        for (size_t i = 0; i < together; i++) {
            row[begin + i] = rows[i] ? row_leaves_find(rows[i], leaf[i], key[begin + i]) : NULL;
            if (row[begin + i]) __builtin_prefetch((const char *)row[begin + i] + 64);
        }
    }
}

bool checkpoint_each_row(struct checkpoint *checkpoint, const char *table, checkpoint_row_visitor *visit, void *self,
                         struct cs_error *err)
{
    int number = checkpoint_table(checkpoint, table);
    if (number < 0) return cs_fail(err, CS_FAILED, "%s has no table %s", checkpoint->directory, table);
    return row_leaves_each(&checkpoint->table[number].rows, visit, self, err);
}

bool checkpoint_tables(struct checkpoint *checkpoint,
                       bool (*visit)(void *self, const char *table, uint64_t rows, struct cs_error *err), void *self,
                       struct cs_error *err)
{
    for (size_t i = 0; i < checkpoint->table_count; i++)
        if (!visit(self, checkpoint->table[i].name, checkpoint->table[i].rows.rows, err)) return false;
    return true;
}
