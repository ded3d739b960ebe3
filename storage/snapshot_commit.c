/* Writing a cut: tensors, what was put, what was frozen, what still lives where files are to be emptied; then the
 * manifest, which makes it count. Until that nothing in the store changes, so that a failure leaves no trace. */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "core/need.h"
#include "storage/format.h"
#include "storage/snapshot_internal.h"

struct bits { uint64_t *word; size_t words; };

struct writing {
    struct snapshot_cut *cut;
    struct snapshot_store *store;
    struct segment_writer *writer;
    struct bits *given;                 /* by index section: slots that are in this cut already */
    size_t givens;
    uint64_t changed, work_began;       /* ns of this thread's time */
    uint64_t told;                      /* bytes that the store's watch knows of */
    uint64_t *left;                     /* by index segment: living bytes that nothing in this cut replaces */
    bool *emptied;                      /* by index segment: nothing is to be left */

    /* of the section under way */
    size_t section;
    const struct again *again;
};

/* -- the pace -- */

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Rests as long as the share asks for after the work since the last rest. */
static void rest(void *self)
{
    struct writing *writing = self;
    struct snapshot_store *store = writing->store;
    uint64_t written = segment_writer_bytes(writing->writer);
    watch_tell(store->watch, written - writing->told);
    writing->told = written;
    uint64_t worked = clock_ns(CLOCK_THREAD_CPUTIME_ID) - writing->work_began, began = clock_ns(CLOCK_MONOTONIC);
    pthread_mutex_lock(&store->mutex);
    while (store->pace < 1) {
        uint64_t until = began + (uint64_t)((double)worked * (1 / store->pace - 1));
        if (clock_ns(CLOCK_MONOTONIC) >= until) break;
        struct timespec at = { .tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u) };
        pthread_cond_clockwait(&store->pace_changed, &store->mutex, CLOCK_MONOTONIC, &at);
    }
    pthread_mutex_unlock(&store->mutex);
    writing->work_began = clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

/* -- what has been given -- */

static bool is_given(const struct writing *writing, size_t section, uint32_t slot)
{
    if (section >= writing->givens || slot / 64 >= writing->given[section].words) return false;
    return writing->given[section].word[slot / 64] >> slot % 64 & 1;
}

/* One less that lives on in its old place. */
static void leave(struct writing *writing, size_t section, uint32_t slot)
{
    const struct index *index = &writing->store->index;
    if (!index_lives(&index->section[section], slot)) return;
    size_t segment = index_find(index, index->section[section].home[slot]);
    if (segment < index->segments)
        writing->left[segment] -= segment_record_bytes(index_size(&index->section[section], slot));
}

/* False: it was already. */
static bool give(struct writing *writing, size_t section, uint32_t slot)
{
    if (section >= writing->givens) {
        struct bits *grown = need(realloc(writing->given, (section + 1) * sizeof *grown));
        memset(grown + writing->givens, 0, (section + 1 - writing->givens) * sizeof *grown);
        writing->given = grown;
        writing->givens = section + 1;
    }
    struct bits *bits = &writing->given[section];
    if (slot / 64 >= bits->words) {
        size_t words = slot / 64 + 1 + bits->words / 4;
        if (writing->store->index.section[section].slots > words * 64)
            words = (writing->store->index.section[section].slots + 63) / 64;
        uint64_t *grown = need(realloc(bits->word, words * sizeof *grown));
        memset(grown + bits->words, 0, (words - bits->words) * sizeof *grown);
        bits->word = grown;
        bits->words = words;
    }
    uint64_t bit = 1ull << slot % 64;
    if (bits->word[slot / 64] & bit) return false;
    bits->word[slot / 64] |= bit;
    leave(writing, section, slot);
    return true;
}

/* -- tensors -- */

static bool write_tensor(struct writing *writing, struct held *held, size_t number, struct cs_error *err)
{
    const struct tensor *tensor = held_tensor(held, number);
    struct segment_section about = { .is_tensor = true, .tensor = *tensor };
    memcpy(about.name, tensor->name, strlen(tensor->name) + 1);
    size_t section = index_section_add(&writing->store->index, &about), room, pieces = segment_tensor_pieces(tensor);
    if (is_given(writing, section, 0))
        return cs_fail(err, CS_FAILED, "tensor %s was given twice to one snapshot", tensor->name);
    segment_writer_section(writing->writer, &about);
    for (size_t piece = 0; piece < pieces; piece++) {
        uint32_t size = (uint32_t)segment_piece_size(tensor, piece);
        size_t whole = segment_record_bytes(size);
        unsigned char *to = segment_writer_room(writing->writer, whole, &room, err);
        if (!to) return false;
        struct state_record record = { (uint32_t)piece, size };
        memset(to + whole - 8, 0, 8);
        memcpy(to, &record, sizeof record);
        held_read(held, number, piece, to + sizeof record);
        if (!segment_writer_added(writing->writer, whole, NULL, NULL, err)) return false;
        give(writing, section, record.slot);
        writing->changed += whole;
    }
    /* It was longer before. */
    for (size_t piece = pieces; piece < writing->store->index.section[section].slots; piece++) {
        if (!index_lives(&writing->store->index.section[section], (uint32_t)piece)) continue;
        if (!segment_writer_record(writing->writer, (uint32_t)piece, NULL, 0, err)) return false;
        give(writing, section, (uint32_t)piece);
    }
    return true;
}

static bool write_tensors(struct writing *writing, struct cs_error *err)
{
    for (struct held *held = writing->cut->held; held; held = held_next(held))
        for (size_t i = 0; i < held_tensors(held); i++)
            if (!write_tensor(writing, held, i, err)) return false;
    return true;
}

/* -- what was put, and what was frozen -- */

static void begin_section(struct writing *writing, const char *name)
{
    struct segment_section about = { 0 };
    memcpy(about.name, name, strlen(name) + 1);
    writing->section = index_section_add(&writing->store->index, &about);
    writing->again = NULL;
    for (size_t i = 0; i < writing->store->agains; i++)
        if (!strcmp(writing->store->again[i].section, name)) writing->again = &writing->store->again[i];
    segment_writer_section(writing->writer, &about);
}

static bool write_puts(struct writing *writing, struct cs_error *err)
{
    struct puts *puts = &writing->cut->puts;
    puts_sort(puts);
    for (size_t i = 0; i < puts->count; i++) {
        const struct put *put = &puts->put[i];
        if (!i || put->section != put[-1].section) begin_section(writing, puts->section[put->section]);
        if (!put->bytes && !index_lives(&writing->store->index.section[writing->section], put->slot)) continue;
        if (!segment_writer_record(writing->writer, put->slot, put->bytes, put->size, err)) return false;
        give(writing, writing->section, put->slot);
        writing->changed += segment_record_bytes((uint32_t)put->size);
    }
    return true;
}

static bool seen(void *self, const struct state_record *record, struct cs_error *err)
{
    struct writing *writing = self;
    if (!give(writing, writing->section, record->slot))
        return cs_fail(err, CS_FAILED, "section '%s' gave slot %" PRIu32 " twice to one snapshot",
                       writing->store->index.section[writing->section].about.name, record->slot);
    const struct again *again = writing->again;
    bool moved = again && record->slot / 64 < again->words && again->bits[record->slot / 64] >> record->slot % 64 & 1;
    if (!moved) writing->changed += segment_record_bytes(record->size);
    return true;
}

static bool write_records(struct writing *writing, const struct given_records *given, struct cs_error *err)
{
    size_t need = sizeof(struct state_record), room, size;
    unsigned waits = 0;
    begin_section(writing, given->section);
    for (;;) {
        unsigned char *to = segment_writer_room(writing->writer, need, &room, err);
        if (!to) return false;
        size = 0;
        enum state_read answer = given->records.read(given->records.self, to, room, &size);
        if (answer == STATE_READ_ROOM) {
            if (size <= room || size > (size_t)1 << 32)
                return cs_fail(err, CS_FAILED, "section '%s' asks for %zu bytes of room", given->section, size);
            need = size;
            continue;
        }
        need = sizeof(struct state_record);
        if (size && !segment_writer_added(writing->writer, size, seen, writing, err)) return false;
        if (answer == STATE_READ_END) return true;
        if (size) {
            waits = 0;
        } else if (++waits < 16) {
            sched_yield();      /* the owner is just setting a record aside */
        } else {
            nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
        }
    }
}

/* -- what nobody gave and lives in a file that is to go -- */

static bool move_block(struct writing *writing, const struct segment *segment, size_t number, size_t section,
                       struct bytes *buffer, struct cs_error *err)
{
    const struct index *index = &writing->store->index;
    const struct segment_block *block = &segment->block[number];
    bool wanted = false;
    for (struct segment_cursor cursor = segment_cursor(block); !wanted && segment_next(&cursor);)
        wanted = cursor.size && index->section[section].home[cursor.slot] == segment->number &&
                 !is_given(writing, section, cursor.slot);
    if (!wanted) return true;
    if (!segment_read(segment, number, buffer, err)) return false;
    struct segment_section about = index->section[section].about;
    segment_writer_section(writing->writer, &about);
    const struct state_record *record;
    for (size_t at = 0; (record = segment_record(buffer, buffer->size, &at));) {
        if (!record->size || index->section[section].home[record->slot] != segment->number ||
            is_given(writing, section, record->slot))
            continue;
        if (!segment_writer_record(writing->writer, record->slot, record + 1, record->size, err)) return false;
        give(writing, section, record->slot);
    }
    return true;
}

static bool move_victim(struct writing *writing, const struct index_segment *victim, struct bytes *buffer,
                        struct cs_error *err)
{
    struct segment segment;
    bool missing, ok = true;
    if (!segment_open(&segment, writing->store->segments, writing->store->newest.store, victim->number, victim->size,
                      victim->digest, &missing, err))
        return false;
    for (size_t b = 0; ok && b < segment.blocks; b++) {
        const struct segment_section *about = &segment.section[segment.block[b].section];
        ok = move_block(writing, &segment, b, index_section_add(&writing->store->index, about), buffer, err);
    }
    segment_close(&segment);
    return ok;
}

/* Where an older file may hold a copy of what is no more, that stays said. */
static bool move_graves(struct writing *writing, struct cs_error *err)
{
    struct index *index = &writing->store->index;
    bool older = false, any = false;
    bool *carried = need(calloc(index->segments + 1, sizeof *carried));
    for (size_t i = 0; i < index->segments; i++) {
        carried[i] = older && writing->emptied[i] && index->segment[i].graves;
        any = any || carried[i];
        older = older || !writing->emptied[i];
    }
    bool ok = true;
    for (size_t s = 0; ok && any && s < index->sections; s++) {
        bool begun = false;
        for (size_t slot = 0; ok && slot < index->section[s].slots; slot++) {
            uint32_t home = index->section[s].home[slot];
            if (!(home & INDEX_GRAVE) || is_given(writing, s, (uint32_t)slot)) continue;
            size_t segment = index_find(index, home & ~INDEX_GRAVE);
            if (segment >= index->segments || !carried[segment]) continue;
            struct segment_section about = index->section[s].about;
            if (!begun) segment_writer_section(writing->writer, &about);
            begun = true;
            ok = segment_writer_record(writing->writer, (uint32_t)slot, NULL, 0, err);
        }
    }
    free(carried);
    return ok;
}

static bool empty_victims(struct writing *writing, struct cs_error *err)
{
    struct index *index = &writing->store->index;
    struct bytes buffer = { 0 };
    uint64_t late = 0;
    bool ok = true;
    for (size_t i = 0; i < index->segments; i++) {
        writing->emptied[i] = index->segment[i].victim;
        /* Of some so little is left now that they can go at once. */
        uint64_t rest_bytes = writing->left[i] + 8 * index->segment[i].graves;
        if (writing->emptied[i] || rest_bytes > index->segment[i].size / 8 ||
            late + rest_bytes > writing->changed / 4)
            continue;
        writing->emptied[i] = true;
        late += rest_bytes;
    }
    writing->store->credit -= late < writing->store->credit ? late : writing->store->credit;
    for (size_t i = 0; ok && i < index->segments; i++)
        if (writing->emptied[i] && writing->left[i]) ok = move_victim(writing, &index->segment[i], &buffer, err);
    bytes_free(&buffer);
    return ok && move_graves(writing, err);
}

/* -- the commit -- */

static int by_kind_and_name(const void *left, const void *right)
{
    const struct manifest_section *a = left, *b = right;
    return a->is_tensor != b->is_tensor ? (int)a->is_tensor - (int)b->is_tensor : strcmp(a->name, b->name);
}

/* What the root is to say: the segments that hold anything once this cut counts, and what they come to. */
static void describe(struct writing *writing, const struct index_forecast *forecast, struct manifest *manifest)
{
    struct snapshot_store *store = writing->store;
    const struct index *index = &store->index;
    size_t parts = segment_writer_parts(writing->writer);
    *manifest = (struct manifest){ .store = store->newest.store, .cut = store->last_number + 1 };
    manifest->segment = need(calloc(index->segments + parts + 1, sizeof *manifest->segment));
    manifest->section = need(calloc(index->sections + 1, sizeof *manifest->section));
    for (size_t i = 0; i < index->segments + parts; i++) {
        bool old = i < index->segments;
        const struct forecast_count *count = old ? &forecast->segment[i] : &forecast->part[i - index->segments];
        if (!count->live && !(count->graves && manifest->segments)) continue;
        const struct segment *part = old ? NULL : &segment_writer_part(writing->writer, i - index->segments)->segment;
        manifest->segment[manifest->segments++] =
            old ? (struct manifest_segment){ index->segment[i].number, index->segment[i].size,
                                             index->segment[i].digest }
                : (struct manifest_segment){ part->number, part->size, part->digest };
    }
    for (size_t i = 0; i < index->sections; i++) {
        const struct forecast_section *sum = &forecast->section[i];
        if (!sum->living) continue;
        struct manifest_section *section = &manifest->section[manifest->sections++];
        *section = (struct manifest_section){ .is_tensor = index->section[i].about.is_tensor, .slots = sum->slots,
                                              .living = (uint64_t)sum->living, .bytes = (uint64_t)sum->bytes };
        memcpy(section->name, index->section[i].about.name, sizeof section->name);
    }
    if (manifest->sections) qsort(manifest->section, manifest->sections, sizeof *manifest->section, by_kind_and_name);
    manifest->meta = writing->cut->meta;        /* handed over */
    manifest->metas = writing->cut->metas;
    writing->cut->meta = NULL;
    writing->cut->metas = 0;
}

/* The cut counts: the store says so too. */
static void take_over(struct writing *writing, struct manifest *manifest)
{
    struct snapshot_store *store = writing->store;
    size_t parts = segment_writer_parts(writing->writer);
    for (size_t i = 0; i < parts; i++)
        if (!index_apply(&store->index, &segment_writer_part(writing->writer, i)->segment)) abort();
    uint32_t *named = need(calloc(manifest->segments + 1, sizeof *named));
    for (size_t i = 0; i < manifest->segments; i++) named[i] = manifest->segment[i].number;
    index_keep(&store->index, named, manifest->segments);
    free(named);
    manifest_free(&store->before);
    store->before = store->newest;
    store->newest = *manifest;
    store->last_number = manifest->cut;
    root_head_write(store->lock, manifest->cut);
    snapshot_sweep(store);
}

static bool write_segments(struct writing *writing, struct cs_error *err)
{
    if (!write_tensors(writing, err) || !write_puts(writing, err)) return false;
    for (size_t i = 0; i < writing->cut->records_count; i++)
        if (!write_records(writing, &writing->cut->records[i], err)) return false;
    return empty_victims(writing, err) && segment_writer_finish(writing->writer, err);
}

static bool write_cut(struct writing *writing, struct cs_error *err)
{
    struct snapshot_store *store = writing->store;
    if (!write_segments(writing, err)) {
        segment_writer_undo(writing->writer);
        return false;
    }
    size_t parts = segment_writer_parts(writing->writer);
    const struct segment **part = need(calloc(parts + 1, sizeof *part));
    for (size_t i = 0; i < parts; i++) part[i] = &segment_writer_part(writing->writer, i)->segment;
    struct index_forecast *forecast = index_forecast(&store->index, part, parts);
    struct manifest manifest;
    describe(writing, forecast, &manifest);
    index_forecast_free(forecast);
    free(part);

    uint64_t disk = snapshot_stats(store).disk_bytes, root;
    if (!root_write(store->environment, &manifest, store->newest.cut, &root, err)) {
        uint64_t newest = 0, before;
        /* Where even that can't be told the files stay: the next commit, or the next start, knows. */
        if (root_cuts(store->environment, &newest, &before, NULL) && newest < manifest.cut)
            segment_writer_undo(writing->writer);
        manifest_free(&manifest);
        return false;
    }
    uint64_t written = segment_writer_bytes(writing->writer) + root;
    take_over(writing, &manifest);
    pthread_mutex_lock(&store->mutex);
    store->stats.changed_bytes = writing->changed;
    store->stats.written_bytes = written;
    store->stats.peak_bytes = disk + written;
    pthread_mutex_unlock(&store->mutex);
    return true;
}

bool snapshot_commit(struct snapshot_cut *cut, struct cs_error *err)
{
    struct snapshot_store *store = cut->store;
    struct writing writing = { .cut = cut, .store = store, .work_began = clock_ns(CLOCK_THREAD_CPUTIME_ID) };
    struct segment_writer_options options = { .directory = store->segments,
                                              .store = store->newest.store,
                                              .number = store->next_segment,
                                              .part_bytes = index_live_bytes(&store->index) / 32,
                                              .pause = rest,
                                              .self = &writing };
    writing.writer = segment_writer_create(&options);
    writing.left = need(calloc(store->index.segments + 1, sizeof *writing.left));
    writing.emptied = need(calloc(store->index.segments + 1, sizeof *writing.emptied));
    for (size_t i = 0; i < store->index.segments; i++) writing.left[i] = store->index.segment[i].live;
    bool ok = write_cut(&writing, err);
    store->next_segment += (uint32_t)segment_writer_parts(writing.writer);
    if (ok) {
        for (size_t i = 0; i < cut->records_count; i++) cut->records[i].records.end(cut->records[i].records.self, true);
        snapshot_cut_destroy(cut);
        snapshot_count(store);
        snapshot_prepare(store, writing.changed);
    } else {
        snapshot_cut_failed(cut);
    }
    segment_writer_destroy(writing.writer);
    for (size_t i = 0; i < writing.givens; i++) free(writing.given[i].word);
    free(writing.given);
    free(writing.left);
    free(writing.emptied);
    return ok;
}
