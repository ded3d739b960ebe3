/* The root: manifests in, manifests out. */
#include "storage/snapshot_root.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/need.h"
#include "storage/format.h"

static const char magic[8] = { 'C', 'S', 'C', 'U', 'T', '0', '0', '2' };
enum { VALUE_HEADER = 16, META_NAME_MAX = 1024, META_TEXT_MAX = 64 << 20, HEAD_SIZE = 96 };

void manifest_free(struct manifest *manifest)
{
    for (size_t i = 0; i < manifest->metas; i++) {
        free(manifest->meta[i].name);
        free(manifest->meta[i].text);
    }
    free(manifest->meta);
    free(manifest->section);
    free(manifest->segment);
    *manifest = (struct manifest){ 0 };
}

bool manifest_names(const struct manifest *manifest, uint32_t number)
{
    for (size_t i = 0; i < manifest->segments; i++)
        if (manifest->segment[i].number == number) return true;
    return false;
}

const struct manifest_section *manifest_section(const struct manifest *manifest, bool is_tensor, const char *name)
{
    for (size_t i = 0; i < manifest->sections; i++)
        if (manifest->section[i].is_tensor == is_tensor && !strcmp(manifest->section[i].name, name))
            return &manifest->section[i];
    return NULL;
}

void manifest_encode(const struct manifest *manifest, struct bytes *bytes)
{
    bytes->size = 0;
    bytes_add(bytes, magic, sizeof magic);
    bytes_u64(bytes, 0);
    bytes_u64(bytes, manifest->store);
    bytes_u64(bytes, manifest->cut);
    bytes_u32(bytes, (uint32_t)manifest->segments);
    for (size_t i = 0; i < manifest->segments; i++) {
        bytes_u32(bytes, manifest->segment[i].number);
        bytes_u64(bytes, manifest->segment[i].size);
        bytes_u64(bytes, manifest->segment[i].digest);
    }
    bytes_u32(bytes, (uint32_t)manifest->sections);
    for (size_t i = 0; i < manifest->sections; i++) {
        bytes_u32(bytes, manifest->section[i].is_tensor);
        bytes_u64(bytes, manifest->section[i].slots);
        bytes_u64(bytes, manifest->section[i].living);
        bytes_u64(bytes, manifest->section[i].bytes);
        bytes_text(bytes, manifest->section[i].name);
    }
    bytes_u32(bytes, (uint32_t)manifest->metas);
    for (size_t i = 0; i < manifest->metas; i++) {
        bytes_text(bytes, manifest->meta[i].name);
        bytes_text(bytes, manifest->meta[i].text);
    }
    if (bytes->failed) abort();         /* some kilobytes */
    uint64_t checksum = XXH3_64bits(bytes->data + VALUE_HEADER, bytes->size - VALUE_HEADER);
    memcpy(bytes->data + sizeof magic, &checksum, sizeof checksum);
}

static bool parse(struct manifest *manifest, struct bytes_reader *reader, size_t size)
{
    manifest->store = bytes_take_u64(reader);
    manifest->cut = bytes_take_u64(reader);
    uint32_t count = bytes_take_u32(reader);
    if (reader->bad || count > size / 20) return false;
    manifest->segment = need(calloc(count + 1u, sizeof *manifest->segment));
    for (uint32_t i = 0; i < count; i++) {
        struct manifest_segment *segment = &manifest->segment[manifest->segments++];
        segment->number = bytes_take_u32(reader);
        segment->size = bytes_take_u64(reader);
        segment->digest = bytes_take_u64(reader);
        if (!segment->number || segment->number > INT32_MAX) return false;
        if (i && segment->number <= segment[-1].number) return false;
    }
    count = bytes_take_u32(reader);
    if (reader->bad || count > size / 28) return false;
    manifest->section = need(calloc(count + 1u, sizeof *manifest->section));
    for (uint32_t i = 0; i < count; i++) {
        struct manifest_section *section = &manifest->section[manifest->sections++];
        uint32_t kind = bytes_take_u32(reader);
        section->is_tensor = kind == 1;
        section->slots = bytes_take_u64(reader);
        section->living = bytes_take_u64(reader);
        section->bytes = bytes_take_u64(reader);
        const char *name = bytes_take_text(reader, STATE_SECTION_MAX);
        if (!name || kind > 1 || section->slots > STATE_SLOTS_MAX) return false;
        memcpy(section->name, name, strlen(name) + 1);
    }
    count = bytes_take_u32(reader);
    if (reader->bad || count > size / 10) return false;
    manifest->meta = need(calloc(count + 1u, sizeof *manifest->meta));
    for (uint32_t i = 0; i < count; i++) {
        const char *name = bytes_take_text(reader, META_NAME_MAX), *text = bytes_take_text(reader, META_TEXT_MAX);
        if (!name || !text) return false;
        struct manifest_meta *meta = &manifest->meta[manifest->metas++];
        *meta = (struct manifest_meta){ need(strdup(name)), need(strdup(text)) };
    }
    return !reader->bad && reader->at == reader->end;
}

bool manifest_decode(struct manifest *manifest, uint64_t cut, const void *value, size_t size, const char *directory,
                     struct cs_error *err)
{
    const unsigned char *bytes = value;
    uint64_t checksum;
    *manifest = (struct manifest){ 0 };
    if (size < VALUE_HEADER || memcmp(bytes, magic, sizeof magic)) {
        if (size >= VALUE_HEADER && !memcmp(bytes, magic, sizeof magic - 3))
            return cs_fail(err, CS_REFUSED, "%s has snapshot format %.3s, this program reads %03d", directory,
                           bytes + 5, FORMAT_SNAPSHOT_VERSION);
        return cs_fail(err, CS_REFUSED, "%s is damaged: the manifest of cut %" PRIu64 " does not begin as one",
                       directory, cut);
    }
    memcpy(&checksum, bytes + sizeof magic, sizeof checksum);
    struct bytes_reader reader = { .at = bytes + VALUE_HEADER, .end = bytes + size };
    if (XXH3_64bits(reader.at, size - VALUE_HEADER) != checksum)
        return cs_fail(err, CS_REFUSED, "%s is damaged: the checksum of the manifest of cut %" PRIu64 " differs",
                       directory, cut);
    if (parse(manifest, &reader, size) && manifest->cut == cut) return true;
    manifest_free(manifest);
    return cs_fail(err, CS_REFUSED, "%s is damaged: the manifest of cut %" PRIu64 " does not add up", directory, cut);
}

static bool fail(struct environment *environment, int code, struct cs_error *err)
{
    return environment_fail(err, code, environment_directory(environment), 0, "reading the snapshot");
}

bool root_cuts(struct environment *environment, uint64_t *newest, uint64_t *before, struct cs_error *err)
{
    MDB_txn *txn = environment_read_begin(environment, err);
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    uint64_t cut;
    bool ok = true;

    *newest = *before = 0;
    if (!txn) return false;
    int code = mdb_cursor_open(txn, environment_database(environment, DATABASE_CUTS), &cursor);
    while (!code && ok && !(code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT))) {
        if (key.mv_size != sizeof cut) {
            ok = cs_fail(err, CS_REFUSED, "%s is damaged: a cut's number has %zu bytes",
                         environment_directory(environment), key.mv_size);
            break;
        }
        memcpy(&cut, key.mv_data, sizeof cut);
        *before = *newest;
        *newest = format_big_endian(cut);
    }
    if (ok && code != MDB_NOTFOUND) ok = fail(environment, code, err);
    if (cursor) mdb_cursor_close(cursor);
    environment_read_end(environment, txn);
    return ok;
}

bool root_read(struct environment *environment, uint64_t cut, struct manifest *manifest, struct cs_error *err)
{
    uint64_t number = format_big_endian(cut);
    MDB_val key = { .mv_size = sizeof number, .mv_data = &number }, value;
    *manifest = (struct manifest){ 0 };
    MDB_txn *txn = environment_read_begin(environment, err);
    if (!txn) return false;
    bool ok;
    int code = mdb_get(txn, environment_database(environment, DATABASE_CUTS), &key, &value);
    if (code == MDB_NOTFOUND)
        ok = cs_fail(err, CS_REFUSED, "%s has no cut %" PRIu64 " any more", environment_directory(environment), cut);
    else if (code) ok = fail(environment, code, err);
    else ok = manifest_decode(manifest, cut, value.mv_data, value.mv_size, environment_directory(environment), err);
    environment_read_end(environment, txn);
    return ok;
}

static int write_once(struct environment *environment, uint64_t cut, const struct bytes *bytes, uint64_t keep)
{
    MDB_txn *txn;
    MDB_cursor *cursor = NULL;
    MDB_dbi cuts = environment_database(environment, DATABASE_CUTS);
    uint64_t number = format_big_endian(cut);
    MDB_val key = { .mv_size = sizeof number, .mv_data = &number }, value = { bytes->size, bytes->data }, other;
    int code = mdb_txn_begin(environment_handle(environment), NULL, 0, &txn);
    if (code) return code;
    /* In a page's tree of a handful of records order does not matter; out goes first, so that its pages serve again. */
    code = mdb_cursor_open(txn, cuts, &cursor);
    MDB_val found;
    while (!code && !(code = mdb_cursor_get(cursor, &found, &other, MDB_NEXT))) {
        uint64_t there = 0;
        if (found.mv_size == sizeof there) memcpy(&there, found.mv_data, sizeof there);
        if (format_big_endian(there) != keep) code = mdb_cursor_del(cursor, 0);
    }
    if (code == MDB_NOTFOUND) code = 0;
    if (cursor) mdb_cursor_close(cursor);
    if (!code) code = mdb_put(txn, cuts, &key, &value, 0);
    if (code) {
        mdb_txn_abort(txn);
        return code;
    }
    return mdb_txn_commit(txn);
}

bool root_write(struct environment *environment, const struct manifest *manifest, uint64_t keep, uint64_t *written,
                struct cs_error *err)
{
    struct bytes bytes = { 0 };
    bool ok = false;
    manifest_encode(manifest, &bytes);
    for (int attempt = 0;; attempt++) {
        if (!environment_handle(environment) && !environment_reopen(environment, err)) break;
        int code = write_once(environment, manifest->cut, &bytes, keep);
        ok = code == 0;
        if (ok) break;
        if (code == MDB_PANIC && !attempt) {
            if (!environment_reopen(environment, err)) break;
        } else if (code == MDB_MAP_FULL || code == MDB_MAP_RESIZED) {
            if (!environment_grow(environment, err)) break;
        } else {
            environment_fail(err, code, environment_directory(environment), bytes.size + 65536, "writing the snapshot");
            break;
        }
    }
    *written = bytes.size + 5 * 4096;       /* leaf, root, the main database's page, free list, meta */
    bytes_free(&bytes);
    return ok;
}

/* "cut 00000000000000000007 0123456789abcdef" after the pid's line, of which both have a fixed length. */
enum { HEAD_AT = 32, HEAD_TEXT = 24 };

uint64_t root_head_read(int fd)
{
    char text[HEAD_SIZE] = "", number[HEAD_TEXT + 1] = "";
    unsigned long long check;
    if (pread(fd, text, sizeof text - 1, HEAD_AT) < HEAD_TEXT + 17) return 0;
    memcpy(number, text, HEAD_TEXT);
    if (strncmp(number, "cut ", 4) || sscanf(text + HEAD_TEXT, " %16llx", &check) != 1 ||
        check != XXH3_64bits(number, HEAD_TEXT))
        return 0;
    return strtoull(number + 4, NULL, 10);
}

void root_head_write(int fd, uint64_t cut)
{
    char text[HEAD_SIZE];
    snprintf(text, sizeof text, "cut %020" PRIu64, cut);
    snprintf(text + HEAD_TEXT, sizeof text - HEAD_TEXT, " %016llx\n", (unsigned long long)XXH3_64bits(text, HEAD_TEXT));
    size_t size = strlen(text);
    /* A second witness, not the commit: where it can't be written there is only the first. */
    if (pwrite(fd, text, size, HEAD_AT) != (ssize_t)size) return;
}
