/* Views: one committed cut, its files open, read through the index that their footers make. */
#include "storage/snapshot_view.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "core/need.h"
#include "storage/file.h"
#include "storage/format.h"

static bool is_newest(const struct index_section *section, const struct segment *segment, uint32_t slot, uint32_t size)
{
    return size && section->home[slot] == segment->number;
}

const struct state_record *view_next(const struct index_section *section, const struct segment *segment,
                                     const struct bytes *payload, size_t *at)
{
    const struct state_record *record;
    while ((record = segment_record(payload, payload->size, at)))
        if (is_newest(section, segment, record->slot, record->size)) return record;
    return NULL;
}

static bool same_section(const struct index_section *section, const struct segment *segment,
                         const struct segment_block *block)
{
    const struct segment_section *about = &segment->section[block->section];
    return about->is_tensor == section->about.is_tensor && !strcmp(about->name, section->about.name);
}

bool view_read(const struct snapshot_view *view, const struct segment *segment, size_t block, struct bytes *buffer,
               struct cs_error *err)
{
    if (!segment_read(segment, block, buffer, err)) return false;
    watch_tell(view->watch, segment->block[block].size);
    return true;
}

bool view_block_lives(const struct index_section *section, const struct segment *segment,
                      const struct segment_block *block)
{
    if (!same_section(section, segment, block)) return false;
    for (struct segment_cursor cursor = segment_cursor(block); segment_next(&cursor);)
        if (is_newest(section, segment, cursor.slot, cursor.size)) return true;
    return false;
}

static const struct segment *find_segment(const struct snapshot_view *view, uint32_t number)
{
    for (size_t i = 0; i < view->manifest.segments; i++)
        if (view->segment[i].number == number) return &view->segment[i];
    return NULL;
}

static bool holds(const struct segment_block *block, uint32_t slot)
{
    for (struct segment_cursor cursor = segment_cursor(block); segment_next(&cursor);)
        if (cursor.slot == slot && cursor.size) return true;
    return false;
}

static bool view_get(struct state_reader *self, const char *name, uint64_t slot, const void **bytes, size_t *size,
                     struct cs_error *err)
{
    struct snapshot_view *view = (struct snapshot_view *)self;
    const struct index_section *section = index_section(&view->index, false, name);
    *bytes = NULL;
    *size = 0;
    if (!section || slot >= STATE_SLOTS_MAX || !index_lives(section, (uint32_t)slot)) return true;
    const struct segment *segment = find_segment(view, section->home[slot]);
    for (size_t b = 0; segment && b < segment->blocks; b++) {
        const struct segment_block *block = &segment->block[b];
        if (!same_section(section, segment, block) || !holds(block, (uint32_t)slot)) continue;
        if (!view_read(view, segment, b, &view->buffer, err)) return false;
        const struct state_record *record = NULL;
        for (size_t at = 0; (record = view_next(section, segment, &view->buffer, &at)) && record->slot != slot;)
            continue;
        if (!record) break;
        struct kept *kept = malloc(sizeof *kept + record->size);
        if (!kept) return cs_fail(err, CS_FAILED, "out of memory for a record of %" PRIu32 " bytes", record->size);
        kept->next = view->kept;
        view->kept = kept;
        memcpy(kept->bytes, record + 1, record->size);
        *bytes = kept->bytes;
        *size = record->size;
        return true;
    }
    return cs_fail(err, CS_REFUSED, "section '%s', slot %" PRIu64 " is missing in the file that has it", name, slot);
}

static bool each_record(struct snapshot_view *view, const struct index_section *section, state_block *block,
                        void *argument, struct cs_error *err)
{
    uint64_t found = 0;
    for (size_t i = 0; i < view->manifest.segments; i++) {
        const struct segment *segment = &view->segment[i];
        for (size_t b = 0; b < segment->blocks; b++) {
            if (!view_block_lives(section, segment, &segment->block[b])) continue;
            if (!view_read(view, segment, b, &view->buffer, err)) return false;
            const struct state_record *record;
            for (size_t at = 0; (record = view_next(section, segment, &view->buffer, &at)); found++)
                if (!block(argument, record->slot, record + 1, record->size, err)) return false;
        }
    }
    if (found == section->living) return true;
    return cs_fail(err, CS_REFUSED, "section '%s' has %" PRIu64 " records, %" PRIu64 " are named", section->about.name,
                   found, section->living);
}

static bool view_each(struct state_reader *self, const char *name, state_block *block, void *argument,
                      struct cs_error *err)
{
    struct snapshot_view *view = (struct snapshot_view *)self;
    const struct index_section *section = index_section(&view->index, false, name);
    return !section || each_record(view, section, block, argument, err);
}

struct pieces { const struct tensor *tensor; unsigned char *into; };

static bool put_piece(void *self, uint64_t piece, const void *bytes, size_t size, struct cs_error *err)
{
    struct pieces *pieces = self;
    if (piece >= segment_tensor_pieces(pieces->tensor) || size != segment_piece_size(pieces->tensor, piece))
        return cs_fail(err, CS_REFUSED, "tensor %s is damaged: piece %" PRIu64 " has %zu bytes", pieces->tensor->name,
                       piece, size);
    memcpy(pieces->into + piece * SEGMENT_PIECE, bytes, size);
    return true;
}

/* A tensor's bytes into `into`, which has room for max(tensor_bytes, 8). */
static bool read_tensor(struct snapshot_view *view, const struct index_section *section, unsigned char *into,
                        struct cs_error *err)
{
    struct pieces pieces = { &section->about.tensor, into };
    if (section->living != segment_tensor_pieces(&section->about.tensor))
        return cs_fail(err, CS_REFUSED, "tensor %s is damaged: %" PRIu64 " of %zu pieces are there",
                       section->about.name, section->living, segment_tensor_pieces(&section->about.tensor));
    return each_record(view, section, put_piece, &pieces, err);
}

static unsigned char *tensor_room(const struct tensor *tensor, struct cs_error *err)
{
    size_t bytes = tensor_bytes(tensor);
    unsigned char *room = malloc(bytes > 8 ? bytes : 8);
    if (!room) cs_fail(err, CS_FAILED, "out of memory for tensor %s", tensor->name);
    return room;
}

static bool view_tensor(struct state_reader *self, const struct tensor *tensor, struct cs_error *err)
{
    struct snapshot_view *view = (struct snapshot_view *)self;
    const struct index_section *section = index_section(&view->index, true, tensor->name);
    if (!section || !section->living)
        return cs_fail(err, CS_REFUSED, "tensor %s is missing in the snapshot", tensor->name);
    struct tensor stored = section->about.tensor;
    if (!(stored.data = tensor_room(&stored, err))) return false;
    bool ok = read_tensor(view, section, stored.data, err) && format_tensor_copy(tensor, &stored, err);
    free(stored.data);
    return ok;
}

/* -- opening -- */

static void add_format(struct manifest *manifest)
{
    char text[16];
    struct manifest_meta *grown = need(realloc(manifest->meta, (manifest->metas + 1) * sizeof *grown));
    manifest->meta = grown;
    size_t at = manifest->metas++;
    for (; at && strcmp(grown[at - 1].name, "format") > 0; at--) grown[at] = grown[at - 1];
    snprintf(text, sizeof text, "%d", FORMAT_SNAPSHOT_VERSION);
    grown[at] = (struct manifest_meta){ need(strdup("format")), need(strdup(text)) };
}

static uint64_t head_of(const char *directory)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/LOCK", directory);
    int fd = file_open(path, O_RDONLY | O_NOFOLLOW, NULL);
    if (fd < 0) return 0;
    uint64_t head = root_head_read(fd);
    close(fd);
    return head;
}

/* wanted 0: the newest. A commit between reading the manifest and opening its files may take them away: again, then. */
static struct snapshot_view *view_open(struct environment *environment, uint64_t wanted, struct cs_error *err)
{
    const char *directory = environment_directory(environment);
    char segments[PATH_MAX];
    struct snapshot_view *view = need(calloc(1, sizeof *view));
    uint64_t tried = 0;

    view->reader = (struct state_reader){ .get = view_get, .each = view_each, .tensor = view_tensor };
    snprintf(segments, sizeof segments, "%s/segments", directory);
    for (;;) {
        uint64_t newest, before, head = wanted ? 0 : head_of(directory);
        bool missing = false;
        if (!root_cuts(environment, &newest, &before, err)) break;
        if (head > newest) {
            cs_fail(err, CS_REFUSED, "%s is damaged: it ends at cut %" PRIu64 ", and cut %" PRIu64 " was committed",
                    directory, newest, head);
            break;
        }
        uint64_t cut = wanted ? wanted : newest;
        if (!cut) {
            cs_fail(err, CS_REFUSED, "%s holds no snapshot yet", directory);
            break;
        }
        if (root_read(environment, cut, &view->manifest, err) &&
            snapshot_load(segments, &view->manifest, false, &view->index, &view->segment, &missing, err)) {
            add_format(&view->manifest);
            return view;
        }
        manifest_free(&view->manifest);
        if (newest == tried || (wanted && wanted != newest && !missing)) break;
        tried = newest;
        if (wanted) wanted = newest;
    }
    snapshot_view_close(view);
    return NULL;
}

struct snapshot_view *snapshot_view_open(struct snapshot_store *store, struct cs_error *err)
{
    uint64_t cut = snapshot_stats(store).cut;
    if (cut) return view_open(store->environment, cut, err);
    cs_fail(err, CS_REFUSED, "%s holds no snapshot yet", store->directory);
    return NULL;
}

struct snapshot_view *snapshot_view_open_directory(const char *directory, struct cs_error *err)
{
    struct environment *environment = environment_open(directory, false, 0, err);
    struct snapshot_view *view = environment ? view_open(environment, 0, err) : NULL;
    environment_close(environment);
    return view;
}

void snapshot_view_close(struct snapshot_view *view)
{
    if (!view) return;
    snapshot_segments_close(view->segment, view->manifest.segments);
    for (struct kept *kept = view->kept, *next; kept; kept = next) {
        next = kept->next;
        free(kept);
    }
    index_free(&view->index);
    manifest_free(&view->manifest);
    bytes_free(&view->buffer);
    free(view);
}

uint64_t snapshot_view_bytes(const struct snapshot_view *view)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < view->manifest.segments; i++)
        for (size_t b = 0; b < view->segment[i].blocks; b++) bytes += view->segment[i].block[b].size;
    return bytes;
}

void snapshot_view_watch(struct snapshot_view *view, const struct storage_watch *watch)
{
    view->watch = watch;
}

struct state_reader *snapshot_reader(struct snapshot_view *view)
{
    return &view->reader;
}

/* -- what tools look at -- */

const char *snapshot_view_meta(struct snapshot_view *view, const char *name)
{
    for (size_t i = 0; i < view->manifest.metas; i++)
        if (!strcmp(view->manifest.meta[i].name, name)) return view->manifest.meta[i].text;
    return NULL;
}

bool snapshot_view_each_meta(struct snapshot_view *view, snapshot_meta_visitor *visit, void *self, struct cs_error *err)
{
    for (size_t i = 0; i < view->manifest.metas; i++)
        if (!visit(self, view->manifest.meta[i].name, view->manifest.meta[i].text, err)) return false;
    return true;
}

static uint64_t payload_bytes(const struct index_section *section)
{
    if (!section->size) return section->living * section->constant_size;
    uint64_t bytes = 0;
    for (size_t slot = 0; slot < section->slots; slot++)
        if (index_lives(section, (uint32_t)slot)) bytes += section->size[slot];
    return bytes;
}

/* The manifest's sections come by kind, then by name. */
bool snapshot_view_sections(struct snapshot_view *view,
                            bool (*visit)(void *self, const char *section, uint64_t records, uint64_t bytes,
                                          struct cs_error *err),
                            void *self, struct cs_error *err)
{
    for (size_t i = 0; i < view->manifest.sections; i++) {
        const struct index_section *section = index_section(&view->index, false, view->manifest.section[i].name);
        if (view->manifest.section[i].is_tensor || !section) continue;
        if (!visit(self, section->about.name, section->living, payload_bytes(section), err)) return false;
    }
    return true;
}

bool snapshot_view_tensors(struct snapshot_view *view, tensor_visitor *visit, void *self, struct cs_error *err)
{
    for (size_t i = 0; i < view->manifest.sections; i++) {
        const struct index_section *section = index_section(&view->index, true, view->manifest.section[i].name);
        if (!view->manifest.section[i].is_tensor || !section) continue;
        struct tensor tensor = section->about.tensor;
        if (!(tensor.data = tensor_room(&tensor, err))) return false;
        bool ok = read_tensor(view, section, tensor.data, err) && visit(self, &tensor, err);
        free(tensor.data);
        if (!ok) return false;
    }
    return true;
}

bool snapshot_view_verify(struct snapshot_view *view, uint64_t *records, uint64_t *bytes, struct cs_error *err)
{
    uint64_t count = 0, sum = 0;
    for (size_t i = 0; i < view->manifest.segments; i++)
        for (size_t b = 0; b < view->segment[i].blocks; b++)
            if (!view_read(view, &view->segment[i], b, &view->buffer, err)) return false;
    for (size_t i = 0; i < view->index.sections; i++) {
        const struct index_section *section = &view->index.section[i];
        const struct tensor *tensor = &section->about.tensor;
        if (section->about.is_tensor && section->living && section->living != segment_tensor_pieces(tensor))
            return cs_fail(err, CS_REFUSED, "tensor %s is damaged: %" PRIu64 " of %zu pieces are there",
                           section->about.name, section->living, segment_tensor_pieces(tensor));
        count += section->about.is_tensor ? section->living > 0 : section->living;
        sum += section->about.is_tensor && section->living ? tensor_bytes(tensor) : payload_bytes(section);
    }
    if (records) *records = count;
    if (bytes) *bytes = sum;
    return true;
}
