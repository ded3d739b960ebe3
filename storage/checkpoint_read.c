/* Checkpoints, the reading side: a version is opened, checked, and indexed once; then rows are found without LMDB.
 *
 * LMDB's own lookup needs a transaction a thread. A published file never changes, so at opening one pass over each
 * table notes where every row stands in the map:
 *
 *   entry[]   {key, row *}, ascending; 16 bytes a row
 *   bucket[]  first entry whose key's top bits are at least b; about one entry a bucket, keys being hashes
 *
 * A lookup reads one bucket, one or two entries, and the row itself. */
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
#include <sys/stat.h>
#include <unistd.h>

#include "storage/checkpoint.h"
#include "storage/checkpoint_file.h"
#include "storage/environment.h"
#include "storage/format.h"

enum { DATABASES_MAX = 1024, MANIFEST_MAX = 16 << 20 };

struct index_entry { uint64_t key; const float *row; };

struct indexed_table {
    char *name;
    MDB_dbi database;
    size_t dimension;
    uint64_t rows;
    struct index_entry *entry;      /* [rows] */
    uint32_t *bucket;               /* [2^bits + 1] */
    unsigned shift;                 /* 64 - bits */
};

struct meta_text { char *name, *text; };

struct checkpoint {
    uint64_t version;
    char *directory, *manifest;
    MDB_env *env;
    MDB_txn *txn;                   /* held for life: nothing is ever written, and the pointers stay */
    struct meta_text *meta;
    struct tensor *tensor;
    struct indexed_table *table;
    size_t meta_count, tensor_count, table_count;
};

bool checkpoint_sha256(int fd, uint64_t *size, char text[65])
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
    }
    int number = errno;
    EVP_DigestFinal_ex(hash, digest, &length);
    EVP_MD_CTX_free(hash);
    free(piece);
    for (unsigned i = 0; i < length; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
    errno = number;
    return got == 0;
}

/* -- opening ------------------------------------------------------------------------------------------------------ */

static char *read_text(const char *path, struct cs_error *err)
{
    struct stat status;
    char *text = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        cs_fail(err, CS_REFUSED, "%s is missing: `current` names a version that is not whole", path);
    } else if (fd < 0 || fstat(fd, &status)) {
        cs_fail_errno(err, errno, "opening %s", path);
    } else if (!S_ISREG(status.st_mode) || status.st_size > MANIFEST_MAX) {
        cs_fail(err, CS_REFUSED, "%s is not a file of up to %d bytes", path, MANIFEST_MAX);
    } else {
        if (!(text = calloc(1, (size_t)status.st_size + 1))) abort();
        if (read(fd, text, (size_t)status.st_size) != status.st_size) {
            cs_fail(err, CS_FAILED, "%s can't be read", path);
            free(text);
            text = NULL;
        }
    }
    if (fd >= 0) close(fd);
    return text;
}

/* What the manifest says of the file, against the file itself. */
static bool check_data(struct checkpoint *checkpoint, const json_t *manifest, const char *path, bool verify,
                       struct cs_error *err)
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
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        cs_fail(err, CS_REFUSED, "%s is damaged: it has a manifest, but no data.mdb", checkpoint->directory);
    } else if (fd < 0 || fstat(fd, &status)) {
        cs_fail_errno(err, errno, "opening %s", path);
    } else if (status.st_size != json_integer_value(size)) {
        cs_fail(err, CS_REFUSED, "%s has %" PRId64 " bytes, its manifest says %" PRId64, path, (int64_t)status.st_size,
                (int64_t)json_integer_value(size));
    } else if (verify && !checkpoint_sha256(fd, &there, digest)) {
        cs_fail_errno(err, errno, "reading %s", path);
    } else if (verify && strcmp(digest, expected)) {
        cs_fail(err, CS_REFUSED, "%s is damaged: its SHA-256 is not the manifest's", path);
    } else {
        ok = true;
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
    checkpoint->meta = realloc(checkpoint->meta, (checkpoint->meta_count + 1) * sizeof *checkpoint->meta);
    if (!checkpoint->meta) abort();
    checkpoint->meta[checkpoint->meta_count++] =
        (struct meta_text){ strndup(key->mv_data, key->mv_size), strndup(value->mv_data, value->mv_size) };
    return true;
}

static bool index_tensor(struct checkpoint *checkpoint, const MDB_val *key, const MDB_val *value, struct cs_error *err)
{
    struct tensor tensor;
    if (!format_dense_open(value->mv_data, value->mv_size, key->mv_data, key->mv_size, &tensor, err)) return false;
    checkpoint->tensor = realloc(checkpoint->tensor, (checkpoint->tensor_count + 1) * sizeof *checkpoint->tensor);
    if (!checkpoint->tensor) abort();
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

static bool index_rows(const struct checkpoint *checkpoint, struct indexed_table *table, MDB_cursor *cursor,
                       struct cs_error *err)
{
    MDB_val key, value;
    uint64_t n = 0;
    int code;

    for (; !(code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)); n++) {
        struct index_entry *entry = &table->entry[n];
        if (n == table->rows || key.mv_size != sizeof entry->key || value.mv_size % sizeof(float) ||
            (uintptr_t)value.mv_data % sizeof(float))
            return cs_fail(err, CS_REFUSED, "table %s of %s is damaged at its row %" PRIu64, table->name,
                           checkpoint->directory, n);
        if (n == 0) table->dimension = value.mv_size / sizeof(float);
        memcpy(&entry->key, key.mv_data, sizeof entry->key);
        entry->key = format_big_endian(entry->key);
        entry->row = value.mv_data;
        if (value.mv_size != table->dimension * sizeof(float) || (n && entry[-1].key >= entry->key))
            return cs_fail(err, CS_REFUSED, "table %s of %s is damaged at its row %" PRIu64, table->name,
                           checkpoint->directory, n);
    }
    if (code != MDB_NOTFOUND) return damaged(checkpoint, code, err);
    if (n != table->rows)
        return cs_fail(err, CS_REFUSED, "table %s of %s has %" PRIu64 " rows, says %" PRIu64, table->name,
                       checkpoint->directory, n, table->rows);
    return true;
}

static void fill_buckets(struct indexed_table *table, unsigned bits)
{
    size_t count = (size_t)1 << bits, entry = 0;
    table->shift = 64 - bits;
    if (!(table->bucket = malloc((count + 1) * sizeof *table->bucket))) abort();
    for (size_t b = 0; b < count; b++) {
        while (entry < table->rows && table->entry[entry].key >> table->shift < b) entry++;
        table->bucket[b] = (uint32_t)entry;
    }
    table->bucket[count] = (uint32_t)table->rows;
}

static bool index_table(struct checkpoint *checkpoint, struct indexed_table *table, struct cs_error *err)
{
    MDB_stat stat_;
    MDB_envinfo info;
    MDB_cursor *cursor;
    int code = mdb_stat(checkpoint->txn, table->database, &stat_);
    if (!code) code = mdb_env_info(checkpoint->env, &info);
    if (code) return damaged(checkpoint, code, err);
    table->rows = stat_.ms_entries;
    /* A row takes more bytes of the file than its key: bounds what is allocated on a damaged count's word. */
    if (table->rows > (uint64_t)(info.me_last_pgno + 1) * stat_.ms_psize / 16 || table->rows > UINT32_MAX)
        return cs_fail(err, CS_REFUSED, "table %s of %s claims %" PRIu64 " rows", table->name, checkpoint->directory,
                       table->rows);
    if (!(table->entry = malloc((table->rows + 1) * sizeof *table->entry))) abort();
    if ((code = mdb_cursor_open(checkpoint->txn, table->database, &cursor))) return damaged(checkpoint, code, err);
    bool ok = index_rows(checkpoint, table, cursor, err);
    mdb_cursor_close(cursor);
    unsigned bits = 1;
    while (bits < 32 && (uint64_t)1 << bits < table->rows) bits++;
    if (ok) fill_buckets(table, bits);
    return ok;
}

/* The main database's keys are the named databases. */
static bool find_table(struct checkpoint *checkpoint, const MDB_val *key, const MDB_val *value, struct cs_error *err)
{
    (void)value;
    (void)err;
    if (key->mv_size <= 5 || memcmp(key->mv_data, "rows.", 5)) return true;
    checkpoint->table = realloc(checkpoint->table, (checkpoint->table_count + 1) * sizeof *checkpoint->table);
    if (!checkpoint->table) abort();
    checkpoint->table[checkpoint->table_count++] =
        (struct indexed_table){ .name = strndup((char *)key->mv_data + 5, key->mv_size - 5) };
    return true;
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
    if (!each_pair(checkpoint, meta, index_meta, err) || !each_pair(checkpoint, dense, index_tensor, err) ||
        !each_pair(checkpoint, root, find_table, err)) return false;
    for (size_t i = 0; i < checkpoint->table_count; i++) {
        char name[512];
        snprintf(name, sizeof name, "rows.%s", checkpoint->table[i].name);
        if ((code = mdb_dbi_open(checkpoint->txn, name, 0, &checkpoint->table[i].database)))
            return damaged(checkpoint, code, err);
        if (!index_table(checkpoint, &checkpoint->table[i], err)) return false;
    }
    const char *format = checkpoint_meta_text(checkpoint, "format");
    if (!format || strtol(format, NULL, 10) != FORMAT_CHECKPOINT_VERSION)
        return cs_fail(err, CS_REFUSED, "%s has checkpoint format %s, this program reads %d", checkpoint->directory,
                       format ? format : "(none)", FORMAT_CHECKPOINT_VERSION);
    return true;
}

struct checkpoint *checkpoint_open(const char *path, bool verify, struct cs_error *err)
{
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    char file[PATH_MAX];
    json_t *manifest = NULL;
    json_error_t where;
    bool ok = false;

    if (!checkpoint) abort();
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
    snprintf(file, sizeof file, "%s/data.mdb", checkpoint->directory);
    if (!check_data(checkpoint, manifest, file, verify, err)) goto out;
    if (!(checkpoint->env = environment_open_file(file, DATABASES_MAX, err))) goto out;
    ok = index_all(checkpoint, err);
out:
    json_decref(manifest);
    if (ok) return checkpoint;
    checkpoint_close(checkpoint);
    return NULL;
}

void checkpoint_close(struct checkpoint *checkpoint)
{
    if (!checkpoint) return;
    if (checkpoint->txn) mdb_txn_abort(checkpoint->txn);
    if (checkpoint->env) mdb_env_close(checkpoint->env);
    for (size_t i = 0; i < checkpoint->meta_count; i++) {
        free(checkpoint->meta[i].name);
        free(checkpoint->meta[i].text);
    }
    for (size_t i = 0; i < checkpoint->table_count; i++) {
        free(checkpoint->table[i].name);
        free(checkpoint->table[i].entry);
        free(checkpoint->table[i].bucket);
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
            if (!(copy = malloc(tensor_bytes(&tensor)))) abort();
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
    return table < 0 ? 0 : checkpoint->table[table].dimension;
}

const float *checkpoint_find(const struct checkpoint *checkpoint, int table, uint64_t key)
{
    if (table < 0) return NULL;
    const struct indexed_table *rows = &checkpoint->table[table];
    uint32_t low = rows->bucket[key >> rows->shift], high = rows->bucket[(key >> rows->shift) + 1];
    while (high - low > 8) {            /* keys that are no hashes may crowd one bucket */
        uint32_t middle = low + (high - low) / 2;
        if (rows->entry[middle].key <= key) low = middle;
        else high = middle;
    }
    for (; low < high; low++)
        if (rows->entry[low].key == key) return rows->entry[low].row;
    return NULL;
}

bool checkpoint_each_row(struct checkpoint *checkpoint, const char *table, checkpoint_row_visitor *visit, void *self,
                         struct cs_error *err)
{
    int number = checkpoint_table(checkpoint, table);
    if (number < 0) return cs_fail(err, CS_FAILED, "%s has no table %s", checkpoint->directory, table);
    const struct indexed_table *rows = &checkpoint->table[number];
    for (uint64_t i = 0; i < rows->rows; i++)
        if (!visit(self, rows->entry[i].key, rows->entry[i].row, rows->dimension, err)) return false;
    return true;
}

bool checkpoint_tables(struct checkpoint *checkpoint,
                       bool (*visit)(void *self, const char *table, uint64_t rows, struct cs_error *err), void *self,
                       struct cs_error *err)
{
    for (size_t i = 0; i < checkpoint->table_count; i++)
        if (!visit(self, checkpoint->table[i].name, checkpoint->table[i].rows, err)) return false;
    return true;
}
