/* The store of snapshots: opening what is there, and taking note of a cut. Writing it is storage/snapshot_commit.c's
 * job, reading storage/snapshot_view.c's. */
#include "storage/snapshot.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/need.h"
#include "storage/file.h"
#include "storage/snapshot_internal.h"

/* -- the store ---------------------------------------------------------------------------------------------------- */

static bool take_lock(struct snapshot_store *store, struct cs_error *err)
{
    char path[PATH_MAX], text[33] = "";
    if (snprintf(path, sizeof path, "%s/LOCK", store->directory) >= (int)sizeof path)
        return cs_fail(err, CS_FAILED, "the path of %s is too long", store->directory);
    if ((store->lock = file_open(path, O_RDWR | O_CREAT | O_NOFOLLOW, err)) < 0) return false;
    if (flock(store->lock, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK) return cs_fail_errno(err, errno, "locking %s", path);
        ssize_t got = pread(store->lock, text, sizeof text - 1, 0);
        text[got > 0 ? strcspn(text, " \n") : 0] = 0;
        return cs_fail(err, CS_FENCED, "%s is in use by process %s", store->directory, *text ? text : "(unknown)");
    }
    /* The line has one length, so that the one behind it stays where it is. */
    int length = snprintf(text, sizeof text, "%-31ld\n", (long)getpid());
    if (pwrite(store->lock, text, (size_t)length, 0) != length)
        return environment_fail(err, errno, store->directory, 0, "writing LOCK");
    return true;
}

void snapshot_segments_close(struct segment *segment, size_t count)
{
    for (size_t i = 0; segment && i < count; i++) segment_close(&segment[i]);
    free(segment);
}

static bool check_counts(const struct index *index, const struct manifest *manifest, const char *segments,
                         struct cs_error *err)
{
    for (size_t i = 0; i < index->sections; i++) {
        const struct index_section *section = &index->section[i];
        const struct manifest_section *said =
            manifest_section(manifest, section->about.is_tensor, section->about.name);
        uint64_t living = said ? said->living : 0, bytes = said ? said->bytes : 0;
        if (section->living != living || section->bytes != bytes || (said && section->slots > said->slots))
            return cs_fail(err, CS_REFUSED, "%s: section '%s' holds %" PRIu64 " records of %" PRIu64 " bytes, the "
                           "manifest of cut %" PRIu64 " says %" PRIu64 " of %" PRIu64, segments, section->about.name,
                           section->living, section->bytes, manifest->cut, living, bytes);
    }
    for (size_t i = 0; i < manifest->sections; i++)
        if (manifest->section[i].living &&
            !index_section(index, manifest->section[i].is_tensor, manifest->section[i].name))
            return cs_fail(err, CS_REFUSED, "%s: section '%s' is missing, the manifest of cut %" PRIu64 " names it",
                           segments, manifest->section[i].name, manifest->cut);
    return true;
}

bool snapshot_load(const char *segments, const struct manifest *manifest, bool blocks, struct index *index,
                   struct segment **opened, bool *missing, struct cs_error *err)
{
    struct segment *segment = need(calloc(manifest->segments + 1, sizeof *segment));
    struct bytes buffer = { 0 };
    bool ok = true;
    *index = (struct index){ 0 };
    *missing = false;
    for (size_t i = 0; i < manifest->segments; i++) segment[i].fd = -1;
    for (size_t i = 0; ok && i < manifest->segments; i++) {
        const struct manifest_segment *named = &manifest->segment[i];
        ok = segment_open(&segment[i], segments, manifest->store, named->number, named->size, named->digest, missing,
                          err);
        for (size_t b = 0; ok && blocks && b < segment[i].blocks; b++) ok = segment_read(&segment[i], b, &buffer, err);
        if (ok && !index_apply(index, &segment[i]))
            ok = cs_fail(err, CS_FAILED, "out of memory for the index of %s", segments);
        if (!opened) segment_close(&segment[i]);
    }
    ok = ok && check_counts(index, manifest, segments, err);
    bytes_free(&buffer);
    if (!ok) index_free(index);
    if (ok && opened) *opened = segment;
    else snapshot_segments_close(segment, opened ? manifest->segments : 0);
    return ok;
}

void snapshot_sweep(struct snapshot_store *store)
{
    DIR *folder = opendir(store->segments);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        uint32_t number = segment_number(entry->d_name);
        if (!number || manifest_names(&store->newest, number) || manifest_names(&store->before, number)) continue;
        unlinkat(dirfd(folder), entry->d_name, 0);      /* what can't be removed now is tried again at the next cut */
    }
    closedir(folder);
}

/* A number that no file has, and none that a reader might know. */
static void find_next_segment(struct snapshot_store *store)
{
    uint32_t last = 0;
    DIR *folder = opendir(store->segments);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        uint32_t number = segment_number(entry->d_name);
        if (number > last) last = number;
    }
    if (folder) closedir(folder);
    for (size_t i = 0; i < store->newest.segments; i++)
        if (store->newest.segment[i].number > last) last = store->newest.segment[i].number;
    store->next_segment = last + 1;
}

void snapshot_count(struct snapshot_store *store)
{
    struct stat status;
    char path[PATH_MAX];
    uint64_t disk = index_disk_bytes(&store->index), live = index_live_bytes(&store->index);
    for (size_t i = 0; i < store->before.segments; i++)
        if (!manifest_names(&store->newest, store->before.segment[i].number)) disk += store->before.segment[i].size;
    snprintf(path, sizeof path, "%s/data.mdb", store->directory);
    if (!stat(path, &status)) disk += (uint64_t)status.st_blocks * 512;
    pthread_mutex_lock(&store->mutex);
    store->stats.cut = store->newest.cut;
    store->stats.live_bytes = live;
    store->stats.disk_bytes = disk;
    store->stats.segments = store->index.segments;
    pthread_mutex_unlock(&store->mutex);
}

static void forget_again(struct snapshot_store *store)
{
    for (size_t i = 0; i < store->agains; i++) free(store->again[i].bits);
    free(store->again);
    store->again = NULL;
    store->agains = 0;
}

void snapshot_prepare(struct snapshot_store *store, uint64_t changed)
{
    uint64_t kept = 0;
    for (size_t i = 0; i < store->before.segments; i++)
        if (!manifest_names(&store->newest, store->before.segment[i].number)) kept += store->before.segment[i].size;
    /* A little less than what changes is copied besides, so that all writing stays below twice the change. What is not
     * copied now may be copied later: a large file is emptied once enough has changed to pay for it. */
    store->credit += changed - changed / 8;
    if (store->credit > index_live_bytes(&store->index)) store->credit = index_live_bytes(&store->index);
    index_choose_victims(&store->index, changed, kept, &store->credit);
    forget_again(store);
    store->again = need(calloc(store->index.sections + 1, sizeof *store->again));
    for (size_t i = 0; i < store->index.sections; i++) {
        const struct index_section *section = &store->index.section[i];
        struct again *again = &store->again[store->agains];
        if (section->about.is_tensor || !(again->bits = index_again(&store->index, section, &again->words))) continue;
        memcpy(again->section, section->about.name, sizeof again->section);
        store->agains++;
    }
}

/* Loads one cut; where it is damaged and there is another that may be taken instead, *damage says what was wrong. */
static bool load_newest(struct snapshot_store *store, bool previous, struct cs_error *damage, struct cs_error *err)
{
    uint64_t newest, before, head = root_head_read(store->lock);
    struct cs_error wrong = { 0 };
    bool missing, ok = true;

    if (!root_cuts(store->environment, &newest, &before, err)) return false;
    store->last_number = newest > head ? newest : head;
    if (head > newest) {
        cs_fail(&wrong, CS_REFUSED, "%s is damaged: it ends at cut %" PRIu64 ", and cut %" PRIu64 " was committed",
                store->directory, newest, head);
        before = newest;
        ok = false;
    } else if (newest) {
        ok = root_read(store->environment, newest, &store->newest, &wrong) &&
             snapshot_load(store->segments, &store->newest, previous, &store->index, NULL, &missing, &wrong);
    }
    if (!ok && previous && before && wrong.code == CS_REFUSED) {
        manifest_free(&store->newest);
        if (!root_read(store->environment, before, &store->newest, err) ||
            !snapshot_load(store->segments, &store->newest, true, &store->index, NULL, &missing, err))
            return cs_error_prefix(err, "%s; and the one before it", wrong.message);
        if (damage) *damage = wrong;
        find_next_segment(store);       /* nothing is swept: the damaged cut's files stay until the next commit */
        return true;
    }
    if (!ok) {
        if (err) *err = wrong;
        return false;
    }
    /* Of the cut before only what it names matters: its files stay. Damaged, it is no choice any more. */
    if (before && !root_read(store->environment, before, &store->before, NULL))
        manifest_free(&store->before);
    find_next_segment(store);
    snapshot_sweep(store);
    return true;
}

static bool has_segments(const struct snapshot_store *store)
{
    DIR *folder = opendir(store->segments);
    bool any = false;
    for (struct dirent *entry; folder && !any && (entry = readdir(folder));) any = *entry->d_name != '.';
    if (folder) closedir(folder);
    return any;
}

/* A root whose two meta pages never reached the disk, in a store that never had a cut: killed, or without power, in the
 * very first write. Nothing can be lost with it, and LMDB would take it for damage for ever. */
static bool remove_stillborn(const struct snapshot_store *store, struct cs_error *err)
{
    enum { META_PAGES = 2 * 4096 };
    char path[PATH_MAX];
    static const unsigned char zeros[META_PAGES];
    unsigned char bytes[META_PAGES];
    snprintf(path, sizeof path, "%s/data.mdb", store->directory);
    if (root_head_read(store->lock) || has_segments(store)) return true;
    int fd = file_open(path, O_RDONLY | O_NOFOLLOW, NULL);
    if (fd < 0) return true;        /* none, or what opening it says better */
    ssize_t got = pread(fd, bytes, sizeof bytes, 0);
    close(fd);
    bool stillborn = got >= 0 && (got < META_PAGES || !memcmp(bytes, zeros, META_PAGES));
    return !stillborn || !unlink(path) || cs_fail_errno(err, errno, "removing the unfinished %s", path);
}

struct snapshot_store *snapshot_open(const char *directory, const struct snapshot_options *options,
                                     struct cs_error *damage, struct cs_error *err)
{
    struct snapshot_store *store = need(calloc(1, sizeof *store));
    char segments[PATH_MAX];

    if (damage) *damage = (struct cs_error){ 0 };
    store->lock = -1;
    store->pace = 1;
    pthread_mutex_init(&store->mutex, NULL);
    pthread_cond_init(&store->pace_changed, NULL);
    store->directory = need(strdup(directory));
    if (snprintf(segments, sizeof segments, "%s/segments", directory) >= (int)sizeof segments - 32) {
        cs_fail(err, CS_FAILED, "the path of %s is too long", directory);
        goto fail;
    }
    store->segments = need(strdup(segments));
    if (mkdir(directory, 0750) && errno != EEXIST) {
        environment_fail(err, errno, directory, 0, "making the snapshot's directory");
        goto fail;
    }
    if (!take_lock(store, err) || !remove_stillborn(store, err)) goto fail;
    if (!(store->environment = environment_open(directory, true, options ? options->map_bytes : 0, err))) goto fail;
    if (!file_make_directory(segments, err) || !environment_sync_directory(directory, err)) goto fail;
    if (!load_newest(store, options && options->previous, damage, err)) goto fail;
    if (!store->newest.store && getrandom(&store->newest.store, sizeof store->newest.store, 0) < 0) {
        cs_fail_errno(err, errno, "naming a new snapshot");
        goto fail;
    }
    snapshot_count(store);
    /* As much will change as last time: what the newest cut wrote, two thirds of it about. */
    uint64_t wrote = 0;
    for (size_t i = 0; i < store->newest.segments; i++)
        if (!manifest_names(&store->before, store->newest.segment[i].number)) wrote += store->newest.segment[i].size;
    snapshot_prepare(store, wrote / 3 * 2);
    return store;
fail:
    snapshot_close(store);
    return NULL;
}

void snapshot_close(struct snapshot_store *store)
{
    if (!store) return;
    environment_close(store->environment);
    if (store->lock >= 0) close(store->lock);       /* the pid stays in the file: it says who was there last */
    index_free(&store->index);
    manifest_free(&store->newest);
    manifest_free(&store->before);
    forget_again(store);
    puts_free(&store->owed);
    staging_release(store->staging);
    pthread_mutex_destroy(&store->mutex);
    pthread_cond_destroy(&store->pace_changed);
    free(store->segments);
    free(store->directory);
    free(store);
}

bool snapshot_reserve(struct snapshot_store *store, size_t tensor_bytes)
{
    if (!store->staging) store->staging = staging_create(tensor_bytes);
    return store->staging != NULL;
}

struct snapshot_stats snapshot_stats(const struct snapshot_store *store)
{
    pthread_mutex_t *mutex = (pthread_mutex_t *)&store->mutex;
    pthread_mutex_lock(mutex);
    struct snapshot_stats stats = store->stats;
    pthread_mutex_unlock(mutex);
    return stats;
}

bool snapshot_exists(const struct snapshot_store *store)
{
    return snapshot_stats(store).cut > 0;
}

const char *snapshot_directory(const struct snapshot_store *store)
{
    return store->directory;
}

void snapshot_watch(struct snapshot_store *store, const struct storage_watch *watch)
{
    store->watch = watch;
}

void snapshot_set_pace(struct snapshot_store *store, double share)
{
    pthread_mutex_lock(&store->mutex);
    store->pace = share > 1 ? 1 : share < 0.01 ? 0.01 : share;
    pthread_cond_broadcast(&store->pace_changed);
    pthread_mutex_unlock(&store->mutex);
}

/* -- a cut: taking note ------------------------------------------------------------------------------------------- */

static bool cut_put(struct state_writer *self, const char *section, uint64_t slot, const void *bytes, size_t size,
                    struct cs_error *err)
{
    struct snapshot_cut *cut = (struct snapshot_cut *)self;
    assert(size > 0 && bytes);
    if (slot >= STATE_SLOTS_MAX || size >= INT32_MAX)
        return cs_fail(err, CS_FAILED, "section '%s', slot %" PRIu64 ": %zu bytes are past what a snapshot holds",
                       section, slot, size);
    return puts_add(&cut->puts, section, (uint32_t)slot, bytes, size, err);
}

static bool cut_remove(struct state_writer *self, const char *section, uint64_t slot, struct cs_error *err)
{
    if (slot >= STATE_SLOTS_MAX) return true;       /* never was one */
    return puts_add(&((struct snapshot_cut *)self)->puts, section, (uint32_t)slot, NULL, 0, err);
}

static bool cut_records(struct state_writer *self, const char *section, const struct state_records *records,
                        struct cs_error *err)
{
    struct snapshot_cut *cut = (struct snapshot_cut *)self;
    const struct snapshot_store *store = cut->store;
    struct given_records *grown = realloc(cut->records, (cut->records_count + 1) * sizeof *grown);
    assert(*section && strlen(section) <= STATE_SECTION_MAX);
    if (!grown) return cs_fail(err, CS_FAILED, "out of memory for a snapshot: section '%s'", section);
    cut->records = grown;
    struct given_records *given = &cut->records[cut->records_count++];
    *given = (struct given_records){ .records = *records };
    memcpy(given->section, section, strlen(section) + 1);
    const uint64_t *again = NULL;
    size_t words = 0;
    for (size_t i = 0; !cut->writer.full && i < store->agains; i++)
        if (!strcmp(store->again[i].section, section)) {
            again = store->again[i].bits;
            words = store->again[i].words;
        }
    records->begin(records->self, cut->writer.full, again, words);
    return true;
}

/* Tensors are held by their owner: the group that is filled until `hold` closes it. */
static struct held *open_group(struct snapshot_cut *cut)
{
    if (!cut->open_held) {
        cut->open_held = held_create(cut->store->staging);
        held_set_next(cut->open_held, cut->held);
        cut->held = cut->open_held;
    }
    return cut->open_held;
}

static bool cut_tensor(struct state_writer *self, const struct tensor *tensor, struct cs_error *err)
{
    struct snapshot_cut *cut = (struct snapshot_cut *)self;
    assert(*tensor->name && tensor->rank <= TENSOR_RANK_MAX);
    return held_add(open_group(cut), tensor, err);
}

static struct state_hold *cut_hold(struct state_writer *self)
{
    struct snapshot_cut *cut = (struct snapshot_cut *)self;
    struct state_hold *hold = held_hold(open_group(cut));
    cut->open_held = NULL;      /* tensors of another owner are held apart */
    return hold;
}

bool snapshot_meta(struct snapshot_cut *cut, const char *name, const char *text, struct cs_error *err)
{
    assert(*name && strlen(name) < TENSOR_NAME_MAX && strcmp(name, "format"));
    char *copy = strdup(text);
    for (size_t i = 0; copy && i < cut->metas; i++)
        if (!strcmp(cut->meta[i].name, name)) {
            free(cut->meta[i].text);
            cut->meta[i].text = copy;
            return true;
        }
    struct manifest_meta *grown = realloc(cut->meta, (cut->metas + 1) * sizeof *grown);
    if (grown) cut->meta = grown;
    char *kept = strdup(name);
    if (!copy || !grown || !kept) {
        free(copy);
        free(kept);
        return cs_fail(err, CS_FAILED, "out of memory for a snapshot: meta %s", name);
    }
    size_t at = cut->metas++;
    for (; at && strcmp(cut->meta[at - 1].name, name) > 0; at--) cut->meta[at] = cut->meta[at - 1];
    cut->meta[at] = (struct manifest_meta){ kept, copy };
    return true;
}

struct snapshot_cut *snapshot_begin(struct snapshot_store *store)
{
    struct snapshot_cut *cut = need(calloc(1, sizeof *cut));
    cut->store = store;
    cut->writer = (struct state_writer){ .full = store->newest.cut == 0,
                                         .put = cut_put,
                                         .remove = cut_remove,
                                         .records = cut_records,
                                         .tensor = cut_tensor,
                                         .hold = cut_hold };
    puts_move(&cut->puts, &store->owed);
    return cut;
}

void snapshot_take_tensors(struct snapshot_cut *cut)
{
    for (struct held *held = cut->held; held; held = held_next(held)) held_take(held);
}

struct state_writer *snapshot_writer(struct snapshot_cut *cut)
{
    return &cut->writer;
}

void snapshot_cut_destroy(struct snapshot_cut *cut)
{
    for (struct held *held = cut->held, *next; held; held = next) {
        next = held_next(held);
        held_release(held);
    }
    for (size_t i = 0; i < cut->metas; i++) {
        free(cut->meta[i].name);
        free(cut->meta[i].text);
    }
    free(cut->meta);
    free(cut->records);
    puts_free(&cut->puts);
    free(cut);
}

void snapshot_cut_failed(struct snapshot_cut *cut)
{
    for (size_t i = 0; i < cut->records_count; i++) cut->records[i].records.end(cut->records[i].records.self, false);
    puts_compact(&cut->puts);
    puts_move(&cut->store->owed, &cut->puts);
    snapshot_cut_destroy(cut);
}

void snapshot_abandon(struct snapshot_cut *cut)
{
    if (cut) snapshot_cut_failed(cut);
}
