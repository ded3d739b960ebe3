/* Snapshots: a cut is gathered in memory, sorted, and written in one LMDB transaction; views read what was committed.
 */
#include "storage/snapshot.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/environment.h"
#include "storage/format.h"

enum { CHUNK_BYTES = 8 << 20 };

struct snapshot_store {
    char *directory;
    int lock;                       /* the flock on LOCK, held for life */
    struct environment *environment;
    pthread_mutex_t mutex;          /* guards what follows */
    bool exists;
    uint64_t failures; /* cuts that came to nothing, ever: whatever was begun incrementally before one is void */
    uint64_t covered;               /* its value at the begin of the last full cut that was written */
};

/* A cut's memory: values are packed into large chunks, never moved, freed all at once.
 *
 *   chunk -> | header, payload, pad | header, payload, pad | ...     entry[i] points to a header */
struct chunk { struct chunk *next; size_t used, size; unsigned char bytes[]; };

struct entry {
    const char *name;               /* section (interned in a chunk), tensor name or meta name */
    uint64_t id;
    unsigned char *value;           /* NULL: remove */
    size_t size;                    /* header and payload */
    uint32_t order;                 /* of two puts under one key the later counts */
    uint8_t database;
};

struct snapshot_cut {
    struct state_writer writer;     /* first: the writer's self is the cut */
    struct snapshot_store *store;
    struct chunk *chunk;
    struct entry *entry;
    size_t count, capacity, bytes;
    const char *last_section;       /* puts come section by section */
    uint64_t failures;              /* of the store, when this was begun */
};

/* -- the store ---------------------------------------------------------------------------------------------------- */

static bool take_lock(struct snapshot_store *store, struct cs_error *err)
{
    char path[PATH_MAX], text[32] = "";
    if (snprintf(path, sizeof path, "%s/LOCK", store->directory) >= (int)sizeof path)
        return cs_fail(err, CS_FAILED, "the path of %s is too long", store->directory);
    store->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (store->lock < 0) return cs_fail_errno(err, errno, "opening %s", path);
    if (flock(store->lock, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK) return cs_fail_errno(err, errno, "locking %s", path);
        ssize_t got = pread(store->lock, text, sizeof text - 1, 0);
        text[got > 0 ? strcspn(text, "\n") : 0] = 0;
        return cs_fail(err, CS_FENCED, "%s is in use by process %s", store->directory, *text ? text : "(unknown)");
    }
    int length = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(store->lock, 0) || pwrite(store->lock, text, (size_t)length, 0) != length)
        return cs_fail_errno(err, errno, "writing %s", path);
    return true;
}

static bool check_format(struct environment *environment, MDB_txn *txn, bool *exists, struct cs_error *err)
{
    MDB_val key = { .mv_size = strlen("format"), .mv_data = (void *)(uintptr_t)"format" }, value;
    const char *directory = environment_directory(environment);
    int code = mdb_get(txn, environment_database(environment, DATABASE_META), &key, &value);
    *exists = code == 0;
    if (code == MDB_NOTFOUND) {
        MDB_stat blocks;
        code = mdb_stat(txn, environment_database(environment, DATABASE_BLOCKS), &blocks);
        if (!code && blocks.ms_entries)
            return cs_fail(err, CS_REFUSED, "%s names no format version: it is not a whole snapshot", directory);
        return code ? environment_fail(err, code, directory, 0, "reading the snapshot") : true;
    }
    if (code) return environment_fail(err, code, directory, 0, "reading the snapshot");
    char ours[16];
    int length = snprintf(ours, sizeof ours, "%d", FORMAT_SNAPSHOT_VERSION);
    if (value.mv_size != (size_t)length || memcmp(value.mv_data, ours, value.mv_size))
        return cs_fail(err, CS_REFUSED, "%s has snapshot format %.*s, this program reads %s", directory,
                       (int)(value.mv_size < 32 ? value.mv_size : 32), (const char *)value.mv_data, ours);
    return true;
}

struct snapshot_store *snapshot_open_sized(const char *directory, size_t map_bytes, struct cs_error *err)
{
    struct snapshot_store *store = calloc(1, sizeof *store);
    MDB_txn *txn = NULL;
    bool ok = false;

    if (!store) abort();
    store->lock = -1;
    pthread_mutex_init(&store->mutex, NULL);
    store->directory = strdup(directory);
    if (mkdir(directory, 0750) && errno != EEXIST) {
        cs_fail_errno(err, errno, "making %s", directory);
        goto out;
    }
    if (!take_lock(store, err)) goto out;
    if (!(store->environment = environment_open(directory, true, map_bytes, err))) goto out;
    if (!(txn = environment_read_begin(store->environment, err))) goto out;
    ok = check_format(store->environment, txn, &store->exists, err);
out:
    if (txn) environment_read_end(store->environment, txn);
    if (ok) return store;
    snapshot_close(store);
    return NULL;
}

struct snapshot_store *snapshot_open(const char *directory, struct cs_error *err)
{
    return snapshot_open_sized(directory, 0, err);
}

void snapshot_close(struct snapshot_store *store)
{
    if (!store) return;
    environment_close(store->environment);
    if (store->lock >= 0) close(store->lock);       /* the pid stays in the file: it says who was there last */
    pthread_mutex_destroy(&store->mutex);
    free(store->directory);
    free(store);
}

bool snapshot_exists(const struct snapshot_store *store)
{
    pthread_mutex_t *mutex = (pthread_mutex_t *)&store->mutex;
    pthread_mutex_lock(mutex);
    bool exists = store->exists;
    pthread_mutex_unlock(mutex);
    return exists;
}

const char *snapshot_directory(const struct snapshot_store *store)
{
    return store->directory;
}

/* -- a cut: gathering --------------------------------------------------------------------------------------------- */

static unsigned char *take(struct snapshot_cut *cut, size_t size)
{
    size = (size + 7) & ~(size_t)7;
    if (!cut->chunk || cut->chunk->size - cut->chunk->used < size) {
        size_t bytes = size > CHUNK_BYTES ? size : CHUNK_BYTES;
        struct chunk *chunk = malloc(sizeof *chunk + bytes);
        if (!chunk) return NULL;
        *chunk = (struct chunk){ .next = cut->chunk, .size = bytes };
        cut->chunk = chunk;
    }
    unsigned char *bytes = cut->chunk->bytes + cut->chunk->used;
    cut->chunk->used += size;
    return bytes;
}

static bool no_memory(struct snapshot_cut *cut, struct cs_error *err)
{
    return cs_fail(err, CS_FAILED, "out of memory for a snapshot of %zu bytes so far", cut->bytes);
}

static const char *keep_text(struct snapshot_cut *cut, const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = (char *)take(cut, size);
    return copy ? memcpy(copy, text, size) : NULL;
}

static bool add(struct snapshot_cut *cut, enum environment_database database, const char *name, uint64_t id,
                unsigned char *value, size_t size, struct cs_error *err)
{
    if (cut->count == cut->capacity) {
        size_t capacity = cut->capacity ? cut->capacity * 2 : 1024;
        struct entry *grown = realloc(cut->entry, capacity * sizeof *grown);
        if (!grown) return no_memory(cut, err);
        cut->entry = grown;
        cut->capacity = capacity;
    }
    cut->entry[cut->count] = (struct entry){ .name = name,
                                             .id = id,
                                             .value = value,
                                             .size = size,
                                             .order = (uint32_t)cut->count,
                                             .database = (uint8_t)database };
    cut->count++;
    cut->bytes += size;
    return true;
}

static bool add_block(struct snapshot_cut *cut, const char *section, uint64_t id, unsigned char *value, size_t size,
                      struct cs_error *err)
{
    assert(*section && strlen(section) <= STATE_SECTION_MAX);
    if (!cut->last_section || strcmp(cut->last_section, section))
        if (!(cut->last_section = keep_text(cut, section))) return no_memory(cut, err);
    return add(cut, DATABASE_BLOCKS, cut->last_section, id, value, size, err);
}

static bool cut_put(struct state_writer *self, const char *section, uint64_t id, const void *bytes, size_t size,
                    struct cs_error *err)
{
    struct snapshot_cut *cut = (struct snapshot_cut *)self;
    if (size > UINT32_MAX - FORMAT_BLOCK_HEADER)        /* LMDB's own limit */
        return cs_fail(err, CS_FAILED, "section '%s', block %" PRIu64 ": %zu bytes are too many for one block", section,
                       id, size);
    unsigned char *value = take(cut, FORMAT_BLOCK_HEADER + size);
    if (!value) return no_memory(cut, err);
    if (size) memcpy(value + FORMAT_BLOCK_HEADER, bytes, size);
    return add_block(cut, section, id, value, FORMAT_BLOCK_HEADER + size, err);
}

static bool cut_remove(struct state_writer *self, const char *section, uint64_t id, struct cs_error *err)
{
    return add_block((struct snapshot_cut *)self, section, id, NULL, 0, err);
}

static bool cut_tensor(struct state_writer *self, const struct tensor *tensor, struct cs_error *err)
{
    struct snapshot_cut *cut = (struct snapshot_cut *)self;
    size_t size = tensor_bytes(tensor);
    assert(*tensor->name && tensor->rank <= TENSOR_RANK_MAX);
    if (size > UINT32_MAX - FORMAT_TENSOR_HEADER)
        return cs_fail(err, CS_FAILED, "tensor %s: %zu bytes are too many for one value", tensor->name, size);
    unsigned char *value = take(cut, FORMAT_TENSOR_HEADER + size);
    const char *name = keep_text(cut, tensor->name);
    if (!value || !name) return no_memory(cut, err);
    if (size) memcpy(value + FORMAT_TENSOR_HEADER, tensor->data, size);
    format_tensor_seal(value, tensor);
    return add(cut, DATABASE_DENSE, name, 0, value, FORMAT_TENSOR_HEADER + size, err);
}

bool snapshot_meta(struct snapshot_cut *cut, const char *name, const char *text, struct cs_error *err)
{
    assert(*name && strlen(name) < TENSOR_NAME_MAX && strcmp(name, "format"));
    const char *kept = keep_text(cut, name);
    unsigned char *value = take(cut, strlen(text) + 1);
    if (!kept || !value) return no_memory(cut, err);
    memcpy(value, text, strlen(text) + 1);
    return add(cut, DATABASE_META, kept, 0, value, strlen(text), err);
}

struct snapshot_cut *snapshot_begin(struct snapshot_store *store)
{
    struct snapshot_cut *cut = calloc(1, sizeof *cut);
    if (!cut) abort();
    cut->store = store;
    pthread_mutex_lock(&store->mutex);
    cut->writer = (struct state_writer){ .full = !store->exists || store->covered != store->failures,
                                         .put = cut_put,
                                         .remove = cut_remove,
                                         .tensor = cut_tensor };
    cut->failures = store->failures;
    pthread_mutex_unlock(&store->mutex);
    return cut;
}

struct state_writer *snapshot_writer(struct snapshot_cut *cut)
{
    return &cut->writer;
}

size_t snapshot_cut_bytes(const struct snapshot_cut *cut)
{
    return cut->bytes;
}

static void cut_destroy(struct snapshot_cut *cut)
{
    for (struct chunk *chunk = cut->chunk, *next; chunk; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
    free(cut->entry);
    free(cut);
}

static void note_failure(struct snapshot_store *store)
{
    pthread_mutex_lock(&store->mutex);
    store->failures++;
    pthread_mutex_unlock(&store->mutex);
}

void snapshot_abandon(struct snapshot_cut *cut)
{
    if (!cut) return;
    note_failure(cut->store);
    cut_destroy(cut);
}

/* -- a cut: writing ----------------------------------------------------------------------------------------------- */

/* The order of the keys' bytes in LMDB: a name's end sorts before any longer name, ids are big-endian. */
static int by_key(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;
    if (a->database != b->database) return a->database < b->database ? -1 : 1;
    int names = a->name == b->name ? 0 : strcmp(a->name, b->name);
    if (names) return names;
    if (a->id != b->id) return a->id < b->id ? -1 : 1;
    return a->order < b->order ? -1 : 1;
}

/* Of several entries under one key the last stays. */
static void keep_last(struct snapshot_cut *cut)
{
    size_t kept = 0;
    for (size_t i = 0; i < cut->count; i++) {
        const struct entry *next = i + 1 < cut->count ? &cut->entry[i + 1] : NULL, *this = &cut->entry[i];
        if (next && next->database == this->database && next->id == this->id && !strcmp(next->name, this->name))
            continue;
        cut->entry[kept++] = *this;
    }
    cut->count = kept;
}

static int write_entry(struct snapshot_cut *cut, MDB_txn *txn, const struct entry *entry)
{
    unsigned char bytes[FORMAT_KEY_MAX];
    MDB_dbi database = environment_database(cut->store->environment, entry->database);
    MDB_val key = { .mv_size = strlen(entry->name), .mv_data = (void *)(uintptr_t)entry->name };
    MDB_val value = { .mv_size = entry->size, .mv_data = entry->value };

    if (entry->database == DATABASE_BLOCKS) {
        key = (MDB_val){ .mv_size = format_block_key(bytes, entry->name, entry->id), .mv_data = bytes };
        if (!entry->value) {
            int code = mdb_del(txn, database, &key, NULL);
            return code == MDB_NOTFOUND ? 0 : code;
        }
        format_block_seal(entry->value, entry->size - FORMAT_BLOCK_HEADER, bytes, key.mv_size);
    }
    /* After a drop the keys come in ascending order into an empty tree: appended, without a search. */
    return mdb_put(txn, database, &key, &value, cut->writer.full ? MDB_APPEND : 0);
}

static int write_all(struct snapshot_cut *cut)
{
    struct environment *environment = cut->store->environment;
    MDB_txn *txn = NULL;
    int code = mdb_txn_begin(environment_handle(environment), NULL, 0, &txn);
    for (int i = 0; !code && cut->writer.full && i < DATABASES; i++)
        code = mdb_drop(txn, environment_database(environment, i), 0);
    for (size_t i = 0; !code && i < cut->count; i++) code = write_entry(cut, txn, &cut->entry[i]);
    if (!code) {
        char text[16];
        MDB_val key = { .mv_size = strlen("format"), .mv_data = (void *)(uintptr_t) "format" },
                value = { .mv_data = text };
        value.mv_size = (size_t)snprintf(text, sizeof text, "%d", FORMAT_SNAPSHOT_VERSION);
        code = mdb_put(txn, environment_database(environment, DATABASE_META), &key, &value, 0);
    }
    if (code) {
        if (txn) mdb_txn_abort(txn);
        return code;
    }
    return mdb_txn_commit(txn);
}

bool snapshot_commit(struct snapshot_cut *cut, struct cs_error *err)
{
    struct snapshot_store *store = cut->store;
    bool ok = false;

    pthread_mutex_lock(&store->mutex);
    bool orphan = !cut->writer.full && cut->failures != store->failures;
    pthread_mutex_unlock(&store->mutex);
    if (orphan) {
        cs_fail(
            err, CS_FAILED,
            "the snapshot before this one failed, and this one holds only what changed since: the next will be whole");
        goto out;
    }
    if (cut->count) qsort(cut->entry, cut->count, sizeof *cut->entry, by_key);
    keep_last(cut);
    for (;;) {
        int code = write_all(cut);
        if (code == MDB_MAP_FULL ||
            code == MDB_MAP_RESIZED) { /* all is still in memory: written again into a larger map */
            if (!environment_grow(store->environment, err)) goto out;
            continue;
        }
        if (code) environment_fail(err, code, store->directory, cut->bytes, "writing the snapshot");
        ok = code == 0;
        break;
    }
out:
    pthread_mutex_lock(&store->mutex);
    if (ok) {
        store->exists = true;
        if (cut->writer.full) store->covered = cut->failures;
    } else {
        store->failures++;
    }
    pthread_mutex_unlock(&store->mutex);
    cut_destroy(cut);
    return ok;
}

/* -- a view ------------------------------------------------------------------------------------------------------- */

struct copy { struct copy *next; uint64_t bytes[]; };

struct snapshot_view {
    struct state_reader reader;     /* first: the reader's self is the view */
    struct environment *environment;
    bool owns_environment;
    MDB_txn *txn;
    struct copy *copy;              /* blocks that LMDB keeps unaligned, and texts given their NUL */
};

static void *keep_copy(struct snapshot_view *view, const void *bytes, size_t size)
{
    struct copy *copy = malloc(sizeof *copy + size + 1);
    if (!copy) abort();
    copy->next = view->copy;
    view->copy = copy;
    if (size) memcpy(copy->bytes, bytes, size);
    ((char *)copy->bytes)[size] = 0;
    return copy->bytes;
}

static bool damaged(struct snapshot_view *view, int code, struct cs_error *err)
{
    return environment_fail(err, code, environment_directory(view->environment), 0, "reading the snapshot");
}

static bool aligned(const void *bytes)
{
    return ((uintptr_t)bytes & 7) == 0;
}

static bool view_get(struct state_reader *self, const char *section, uint64_t id, const void **bytes, size_t *size,
                     struct cs_error *err)
{
    struct snapshot_view *view = (struct snapshot_view *)self;
    unsigned char key_bytes[FORMAT_KEY_MAX];
    MDB_val key = { .mv_size = format_block_key(key_bytes, section, id), .mv_data = key_bytes }, value;

    *bytes = NULL;
    *size = 0;
    int code = mdb_get(view->txn, environment_database(view->environment, DATABASE_BLOCKS), &key, &value);
    if (code == MDB_NOTFOUND) return true;
    if (code) return damaged(view, code, err);
    if (!format_block_open(value.mv_data, value.mv_size, key.mv_data, key.mv_size, bytes, size, err)) return false;
    if (!aligned(*bytes)) *bytes = keep_copy(view, *bytes, *size);
    return true;
}

static bool view_each(struct state_reader *self, const char *section, state_block *block, void *argument,
                      struct cs_error *err)
{
    struct snapshot_view *view = (struct snapshot_view *)self;
    unsigned char key_bytes[FORMAT_KEY_MAX];
    MDB_val key = { .mv_size = format_block_key(key_bytes, section, 0), .mv_data = key_bytes }, value;
    size_t prefix = strlen(section) + 1, room = 0;
    uint64_t *scratch = NULL;
    MDB_cursor *cursor = NULL;
    bool ok = false;

    int code = mdb_cursor_open(view->txn, environment_database(view->environment, DATABASE_BLOCKS), &cursor);
    if (!code) code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (; !code; code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        const void *bytes;
        size_t size;
        char name[STATE_SECTION_MAX + 1];
        uint64_t id;
        if (key.mv_size < prefix || memcmp(key.mv_data, section, prefix)) break;
        if (!format_block_key_parse(key.mv_data, key.mv_size, name, &id)) {
            cs_fail(err, CS_REFUSED, "section '%s' has a damaged key", section);
            goto out;
        }
        if (!format_block_open(value.mv_data, value.mv_size, key.mv_data, key.mv_size, &bytes, &size, err)) goto out;
        if (!aligned(bytes)) {
            if (size > room) {
                free(scratch);
                if (!(scratch = malloc(room = size))) abort();
            }
            memcpy(scratch, bytes, size);
            bytes = scratch;
        }
        if (!block(argument, id, bytes, size, err)) goto out;
    }
    if (code && code != MDB_NOTFOUND) damaged(view, code, err);
    else ok = true;
out:
    if (cursor) mdb_cursor_close(cursor);
    free(scratch);
    return ok;
}

static bool view_tensor(struct state_reader *self, const struct tensor *tensor, struct cs_error *err)
{
    struct snapshot_view *view = (struct snapshot_view *)self;
    MDB_val key = { .mv_size = strlen(tensor->name), .mv_data = (void *)(uintptr_t)tensor->name }, value;
    struct tensor stored;
    int code = mdb_get(view->txn, environment_database(view->environment, DATABASE_DENSE), &key, &value);
    if (code == MDB_NOTFOUND) return cs_fail(err, CS_REFUSED, "tensor %s is missing in the snapshot", tensor->name);
    if (code) return damaged(view, code, err);
    return format_tensor_open(value.mv_data, value.mv_size, key.mv_data, key.mv_size, &stored, err) &&
           format_tensor_copy(tensor, &stored, err);
}

static struct snapshot_view *view_open(struct environment *environment, bool owned, struct cs_error *err)
{
    struct snapshot_view *view = calloc(1, sizeof *view);
    bool exists;
    if (!view) abort();
    view->reader = (struct state_reader){ .get = view_get, .each = view_each, .tensor = view_tensor };
    view->environment = environment;
    view->owns_environment = owned;
    if (!(view->txn = environment_read_begin(environment, err))) goto fail;
    if (!check_format(environment, view->txn, &exists, err)) goto fail;
    if (exists) return view;
    cs_fail(err, CS_REFUSED, "%s holds no snapshot yet", environment_directory(environment));
fail:
    snapshot_view_close(view);
    return NULL;
}

struct snapshot_view *snapshot_view_open(struct snapshot_store *store, struct cs_error *err)
{
    return view_open(store->environment, false, err);
}

struct snapshot_view *snapshot_view_open_directory(const char *directory, struct cs_error *err)
{
    struct environment *environment = environment_open(directory, false, 0, err);
    return environment ? view_open(environment, true, err) : NULL;
}

void snapshot_view_close(struct snapshot_view *view)
{
    if (!view) return;
    environment_read_end(view->environment, view->txn);
    if (view->owns_environment) environment_close(view->environment);
    for (struct copy *copy = view->copy, *next; copy; copy = next) {
        next = copy->next;
        free(copy);
    }
    free(view);
}

struct state_reader *snapshot_reader(struct snapshot_view *view)
{
    return &view->reader;
}

const char *snapshot_view_meta(struct snapshot_view *view, const char *name)
{
    MDB_val key = { .mv_size = strlen(name), .mv_data = (void *)(uintptr_t)name }, value;
    if (!key.mv_size || mdb_get(view->txn, environment_database(view->environment, DATABASE_META), &key, &value))
        return NULL;
    return keep_copy(view, value.mv_data, value.mv_size);
}

typedef bool pair_visitor(void *self, const MDB_val *key, const MDB_val *value, struct cs_error *err);

static bool each_pair(struct snapshot_view *view, enum environment_database database, pair_visitor *visit, void *self,
                      struct cs_error *err)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    bool ok = true;
    int code = mdb_cursor_open(view->txn, environment_database(view->environment, database), &cursor);
    if (code) return damaged(view, code, err);
    while (ok && !(code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT))) ok = visit(self, &key, &value, err);
    mdb_cursor_close(cursor);
    if (ok && code != MDB_NOTFOUND) return damaged(view, code, err);
    return ok;
}

struct meta_visit { snapshot_meta_visitor *visit; void *self; };

static bool meta_pair(void *self, const MDB_val *key, const MDB_val *value, struct cs_error *err)
{
    struct meta_visit *visit = self;
    char *name = strndup(key->mv_data, key->mv_size), *text = strndup(value->mv_data, value->mv_size);
    if (!name || !text) abort();
    bool ok = visit->visit(visit->self, name, text, err);
    free(name);
    free(text);
    return ok;
}

bool snapshot_view_each_meta(struct snapshot_view *view, snapshot_meta_visitor *visit, void *self, struct cs_error *err)
{
    return each_pair(view, DATABASE_META, meta_pair, &(struct meta_visit){ visit, self }, err);
}

struct section_visit {
    bool (*visit)(void *, const char *, uint64_t, uint64_t, struct cs_error *);
    void *self;
    char section[STATE_SECTION_MAX + 1];
    uint64_t blocks, bytes;
};

static bool section_pair(void *self, const MDB_val *key, const MDB_val *value, struct cs_error *err)
{
    struct section_visit *sum = self;
    char section[STATE_SECTION_MAX + 1];
    uint64_t id;
    if (!format_block_key_parse(key->mv_data, key->mv_size, section, &id))
        return cs_fail(err, CS_REFUSED, "a block's key is damaged");
    if (sum->blocks && strcmp(section, sum->section)) {
        if (!sum->visit(sum->self, sum->section, sum->blocks, sum->bytes, err)) return false;
        sum->blocks = sum->bytes = 0;
    }
    memcpy(sum->section, section, sizeof section);
    sum->blocks++;
    sum->bytes += value->mv_size > FORMAT_BLOCK_HEADER ? value->mv_size - FORMAT_BLOCK_HEADER : 0;
    return true;
}

bool snapshot_view_sections(struct snapshot_view *view,
                            bool (*visit)(void *self, const char *section, uint64_t blocks, uint64_t bytes,
                                          struct cs_error *err),
                            void *self, struct cs_error *err)
{
    struct section_visit sum = { .visit = visit, .self = self };
    if (!each_pair(view, DATABASE_BLOCKS, section_pair, &sum, err)) return false;
    return !sum.blocks || visit(self, sum.section, sum.blocks, sum.bytes, err);
}

struct tensor_visit { struct snapshot_view *view; tensor_visitor *visit; void *self; };

static bool tensor_pair(void *self, const MDB_val *key, const MDB_val *value, struct cs_error *err)
{
    struct tensor_visit *visit = self;
    struct tensor tensor;
    if (!format_tensor_open(value->mv_data, value->mv_size, key->mv_data, key->mv_size, &tensor, err)) return false;
    if (!aligned(tensor.data)) tensor.data = keep_copy(visit->view, tensor.data, tensor_bytes(&tensor));
    return visit->visit(visit->self, &tensor, err);
}

bool snapshot_view_tensors(struct snapshot_view *view, tensor_visitor *visit, void *self, struct cs_error *err)
{
    return each_pair(view, DATABASE_DENSE, tensor_pair, &(struct tensor_visit){ view, visit, self }, err);
}

struct verified { uint64_t blocks, bytes; };

static bool verify_block(void *self, const MDB_val *key, const MDB_val *value, struct cs_error *err)
{
    struct verified *sum = self;
    const void *payload;
    size_t size;
    if (!format_block_open(value->mv_data, value->mv_size, key->mv_data, key->mv_size, &payload, &size, err))
        return false;
    sum->blocks++;
    sum->bytes += size;
    return true;
}

static bool verify_tensor(void *self, const MDB_val *key, const MDB_val *value, struct cs_error *err)
{
    struct verified *sum = self;
    struct tensor tensor;
    if (!format_tensor_open(value->mv_data, value->mv_size, key->mv_data, key->mv_size, &tensor, err)) return false;
    sum->blocks++;
    sum->bytes += tensor_bytes(&tensor);
    return true;
}

bool snapshot_view_verify(struct snapshot_view *view, uint64_t *blocks, uint64_t *bytes, struct cs_error *err)
{
    struct verified sum = { 0 };
    if (!each_pair(view, DATABASE_BLOCKS, verify_block, &sum, err) ||
        !each_pair(view, DATABASE_DENSE, verify_tensor, &sum, err))
        return false;
    if (blocks) *blocks = sum.blocks;
    if (bytes) *bytes = sum.bytes;
    return true;
}
