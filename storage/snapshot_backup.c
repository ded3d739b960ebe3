/* A backup is a snapshot of its own: every living record of a view becomes the one full cut of a new directory. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/need.h"
#include "storage/file.h"
#include "storage/snapshot_view.h"

/* One section, handed out record by record as an owner would. */
struct source {
    struct snapshot_view *view;
    const struct index_section *section;
    size_t segment, block, at;
    struct bytes payload;
    bool loaded;
    struct cs_error *err;               /* state_records can't say what went wrong: it is told here */
    bool *failed;
};

static void source_begin(void *self, bool full, const uint64_t *again, size_t words)
{
    (void)self, (void)full, (void)again, (void)words;
}

static void source_end(void *self, bool written)
{
    (void)written;
    bytes_free(&((struct source *)self)->payload);
}

/* The next block with anything living, read. */
static bool load_block(struct source *source)
{
    struct snapshot_view *view = source->view;
    for (; source->segment < view->manifest.segments; source->segment++, source->block = 0) {
        const struct segment *segment = &view->segment[source->segment];
        for (; source->block < segment->blocks; source->block++) {
            if (!view_block_lives(source->section, segment, &segment->block[source->block])) continue;
            source->at = 0;
            source->loaded = view_read(view, segment, source->block, &source->payload, source->err);
            if (!source->loaded) *source->failed = true;
            return source->loaded;
        }
    }
    return false;
}

static enum state_read source_read(void *self, void *into, size_t room, size_t *size)
{
    struct source *source = self;
    *size = 0;
    for (;;) {
        if (!source->loaded && !load_block(source)) return STATE_READ_END;
        const struct segment *segment = &source->view->segment[source->segment];
        size_t before = source->at;
        const struct state_record *record = view_next(source->section, segment, &source->payload, &source->at);
        if (!record) {
            source->loaded = false;
            source->block++;
            continue;
        }
        size_t bytes = segment_record_bytes(record->size);
        if (bytes > room - *size) {
            source->at = before;
            if (*size) return STATE_READ_MORE;
            *size = bytes;
            return STATE_READ_ROOM;
        }
        memcpy((char *)into + *size, record, bytes);
        *size += bytes;
    }
}

static bool give_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    struct snapshot_cut *cut = self;
    struct state_writer *writer = snapshot_writer(cut);
    if (!writer->tensor(writer, tensor, err)) return false;
    struct state_hold *hold = writer->hold(writer);
    hold->settle(hold);         /* its bytes end with this visit */
    return true;
}

static bool copy_cut(struct snapshot_view *view, struct snapshot_store *store, struct cs_error *err)
{
    bool ok = true, failed = false;
    struct cs_error wrong = { 0 };
    struct source *source = need(calloc(view->index.sections + 1, sizeof *source));
    store->last_number = view->manifest.cut - 1;        /* a copy of this cut, under its number */
    struct snapshot_cut *cut = snapshot_begin(store);
    struct state_writer *writer = snapshot_writer(cut);
    for (size_t i = 0; ok && i < view->manifest.metas; i++)
        if (strcmp(view->manifest.meta[i].name, "format"))
            ok = snapshot_meta(cut, view->manifest.meta[i].name, view->manifest.meta[i].text, err);
    ok = ok && snapshot_view_tensors(view, give_tensor, cut, err);
    for (size_t i = 0; ok && i < view->index.sections; i++) {
        const struct index_section *section = &view->index.section[i];
        if (section->about.is_tensor || !section->living) continue;
        source[i] = (struct source){ .view = view, .section = section, .err = &wrong, .failed = &failed };
        ok = writer->records(writer, section->about.name,
                             &(struct state_records){ &source[i], source_begin, source_read, source_end }, err);
    }
    if (ok) ok = snapshot_commit(cut, err);
    else snapshot_abandon(cut);
    if (failed) {
        if (err) *err = wrong;
        ok = false;
    }
    free(source);
    return ok;
}

static bool compare(struct snapshot_view *view, const char *directory, struct cs_error *err)
{
    uint64_t records, bytes, records_there, bytes_there;
    struct snapshot_view *copy = snapshot_view_open_directory(directory, err);
    if (copy) copy->watch = view->watch;
    bool ok = copy && snapshot_view_verify(copy, &records_there, &bytes_there, err) &&
              snapshot_view_verify(view, &records, &bytes, err);
    if (ok && (records != records_there || bytes != bytes_there))
        ok = cs_fail(err, CS_FAILED, "the copy has %" PRIu64 " records of %" PRIu64 " bytes, the snapshot %" PRIu64
                     " of %" PRIu64, records_there, bytes_there, records, bytes);
    snapshot_view_close(copy);
    return ok;
}

void snapshot_discard(const char *directory)
{
    char segments[PATH_MAX];
    if (snprintf(segments, sizeof segments, "%s/segments", directory) < (int)sizeof segments)
        file_remove_directory(segments);
    file_remove_directory(directory);
}

/* TO.new-123abc, TO.1700000000.new-123abc, TO.1700000000-2.new-123abc: where a copy grows that is to be TO, or that a
 * restore will change places with TO. */
static bool is_copy_of(const char *name, const char *to)
{
    size_t length = strlen(to);
    if (strncmp(name, to, length) != 0) return false;
    name += length;
    if (strncmp(name, ".new-", 5) != 0) {
        if (*name++ != '.' || !(length = strspn(name, "0123456789-"))) return false;
        name += length;
    }
    return file_is_held_name(name, ".new-");
}

size_t snapshot_leftovers(const char *to, bool away, void (*tell)(void *self, const char *path), void *self)
{
    char folder[PATH_MAX], name[PATH_MAX], path[PATH_MAX];
    size_t count = 0;
    snprintf(folder, sizeof folder, "%s", to);
    snprintf(name, sizeof name, "%s", to);
    const char *parent = dirname(folder), *last = basename(name);
    DIR *stream = opendir(parent);
    for (struct dirent *entry; stream && (entry = readdir(stream));) {
        if (!is_copy_of(entry->d_name, last)) continue;
        if (snprintf(path, sizeof path, "%s/%s", parent, entry->d_name) >= (int)sizeof path) continue;
        int held = file_hold(path);
        if (held < 0) continue;
        if (away) snapshot_discard(path);
        tell(self, path);
        close(held);
        count++;
    }
    if (stream) closedir(stream);
    return count;
}

bool snapshot_backup(const char *directory, const char *to, const struct storage_watch *watch, struct cs_error *err)
{
    char prefix[PATH_MAX], *temporary = NULL;
    struct stat status;
    struct snapshot_store *store = NULL;
    bool ok = false;
    int held = -1;

    size_t length = strlen(to);
    while (length > 1 && to[length - 1] == '/') length--;
    if (snprintf(prefix, sizeof prefix, "%.*s.new-", (int)length, to) >= (int)sizeof prefix - 64)
        return cs_fail(err, CS_FAILED, "the path of %s is too long", to);
    if (!lstat(to, &status))
        return cs_fail(err, CS_FAILED, "%s exists: a backup goes to a place of its own, name another or move it", to);
    struct snapshot_view *view = snapshot_view_open_directory(directory, err);
    if (!view) return false;
    view->watch = watch;
    if ((held = file_make_held(prefix, &temporary, err)) < 0) goto out;
    if (!(store = snapshot_open(temporary, NULL, NULL, err))) goto out;
    ok = copy_cut(view, store, err);
    snapshot_close(store);
    ok = ok && compare(view, temporary, err);
    if (ok && renameat2(AT_FDCWD, temporary, AT_FDCWD, to, RENAME_NOREPLACE))
        ok = environment_fail(err, errno, temporary, 0, "renaming the backup");
    ok = ok && environment_sync_parent(to, err);
out:
    if (!ok && temporary) snapshot_discard(temporary);
    if (held >= 0) close(held);
    free(temporary);
    snapshot_view_close(view);
    return ok;
}
