/* What export, inspect and verify read from. */
#include "tools/ctl_source.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config.h"

static const char rows_prefix[] = "rows.";

/* How wide rows are stands in the model's text, kept with the state. */
static bool read_dimension(struct source *source, struct cs_error *err)
{
    struct cs_config *config = config_kept(source_meta(source, "config"), err);

    if (!config) return false;
    source->dimension = config->embedding.dimension;
    config_destroy(config);
    return true;
}

static uint64_t file_bytes(const char *path, const char *within)
{
    char name[PATH_MAX];
    struct stat status;
    snprintf(name, sizeof name, "%s/%sdata.mdb", path, within);
    return stat(name, &status) == 0 ? (uint64_t)status.st_size : 0;
}

bool source_open(struct source *source, const char *path, struct ctl_progress *progress, struct cs_error *err)
{
    char name[PATH_MAX];
    bool is_checkpoint;

    *source = (struct source){ .progress = progress };
    if (access(path, R_OK) != 0) return cs_fail(err, CS_FAILED, "%s: no such directory, or not to be read", path);
    snprintf(name, sizeof name, "%s/manifest.json", path);
    is_checkpoint = access(name, F_OK) == 0;
    snprintf(name, sizeof name, "%s/current", path);
    is_checkpoint = is_checkpoint || access(name, F_OK) == 0;
    if (is_checkpoint) {
        uint64_t current = file_bytes(path, "current/");
        ctl_progress_phase(progress, "checksum", current ? current : file_bytes(path, ""), "bytes");
        source->checkpoint = checkpoint_open_watched(path, &progress->watch, err);
    } else {
        source->snapshot = snapshot_view_open_directory(path, err);
        if (source->snapshot) snapshot_view_watch(source->snapshot, &progress->watch);
    }
    if (!source->checkpoint && !source->snapshot) return false;
    if (read_dimension(source, err)) return true;
    source_close(source);
    return false;
}

void source_close(struct source *source)
{
    if (source->checkpoint) checkpoint_close(source->checkpoint);
    if (source->snapshot) snapshot_view_close(source->snapshot);
    *source = (struct source){ 0 };
}

static bool add_table_bytes(void *self, const char *table, uint64_t rows, struct cs_error *err)
{
    struct { struct source *source; uint64_t bytes; } *sum = self;
    (void)table, (void)err;
    sum->bytes += rows * (sizeof(uint64_t) + sum->source->dimension * sizeof(float));
    return true;
}

void source_phase(struct source *source, const char *what, uint64_t readings)
{
    struct { struct source *source; uint64_t bytes; } sum = { source, 0 };
    if (source->snapshot) sum.bytes = snapshot_view_bytes(source->snapshot);
    else checkpoint_tables(source->checkpoint, add_table_bytes, &sum, NULL);
    ctl_progress_phase(source->progress, what, readings * sum.bytes, "bytes");
}

const char *source_meta(struct source *source, const char *name)
{
    return source->checkpoint ? checkpoint_meta_text(source->checkpoint, name)
                              : snapshot_view_meta(source->snapshot, name);
}

bool source_tensors(struct source *source, tensor_visitor *visit, void *self, struct cs_error *err)
{
    return source->checkpoint ? checkpoint_tensors(source->checkpoint, visit, self, err)
                              : snapshot_view_tensors(source->snapshot, visit, self, err);
}

struct tables { source_table_visitor *visit; void *self; };

static bool visit_checkpoint_table(void *self, const char *table, uint64_t rows, struct cs_error *err)
{
    struct tables *tables = self;
    (void)rows;
    return tables->visit(tables->self, table, err);
}

static bool visit_section(void *self, const char *section, uint64_t records, uint64_t bytes, struct cs_error *err)
{
    struct tables *tables = self;
    (void)records, (void)bytes;
    if (strncmp(section, rows_prefix, sizeof rows_prefix - 1) != 0) return true;
    return tables->visit(tables->self, section + sizeof rows_prefix - 1, err);
}

bool source_tables(struct source *source, source_table_visitor *visit, void *self, struct cs_error *err)
{
    struct tables tables = { visit, self };
    return source->checkpoint ? checkpoint_tables(source->checkpoint, visit_checkpoint_table, &tables, err)
                              : snapshot_view_sections(source->snapshot, visit_section, &tables, err);
}

/* --------------------------------------------------------------------------------------------------------- rows */

/* Rows as they come; sorted afterwards by an index. */
struct gathering {
    struct embedding_shape shape;
    struct source_table table;
    size_t room;
    bool m, v;
    struct ctl_progress *progress;
};

static bool grow(struct gathering *g, struct cs_error *err)
{
    size_t room = g->room ? 2 * g->room : 1024, d = g->table.dimension;

#define GROW(field, width) \
    do { \
        void *grown = realloc(g->table.field, room * (width) * sizeof *g->table.field); \
        if (!grown) return cs_fail(err, CS_FAILED, "out of memory for %zu rows of table %s", room, g->table.name); \
        g->table.field = grown; \
    } while (0)
    GROW(key, 1);
    GROW(row, d);
    if (g->m) GROW(m, d);
    if (g->v) GROW(v, d);
    GROW(step, 1);
    GROW(seen, 1);
#undef GROW
    g->room = room;
    return true;
}

static bool gather(void *self, const struct embedding_row *row, struct cs_error *err)
{
    struct gathering *g = self;
    size_t i = g->table.count, d = g->table.dimension;

    if (i == 0) {
        g->m = row->m != NULL;
        g->v = row->v != NULL;
    }
    if (i == g->room && !grow(g, err)) return false;
    g->table.key[i] = row->key;
    memcpy(g->table.row + i * d, row->row, d * sizeof(float));
    if (g->m && row->m) memcpy(g->table.m + i * d, row->m, d * sizeof(float));
    if (g->v && row->v) memcpy(g->table.v + i * d, row->v, d * sizeof(float));
    g->table.step[i] = row->step;
    g->table.seen[i] = row->seen;
    g->table.count++;
    return true;
}

static bool gather_record(void *self, uint64_t slot, const void *bytes, size_t size, struct cs_error *err)
{
    struct gathering *g = self;
    struct embedding_row row;

    if (!embedding_record_parse(&g->shape, bytes, size, &row, err))
        return cs_error_prefix(err, "slot %llu of rows.%s", (unsigned long long)slot, g->table.name);
    return gather(g, &row, err);
}

/* A table that the snapshot does not have is read as an empty one. */
static bool gather_table(struct gathering *g, struct state_reader *reader, struct cs_error *err)
{
    char section[STATE_SECTION_MAX];
    const void *bytes;
    size_t size;

    snprintf(section, sizeof section, "table.%s", g->table.name);
    if (!reader->get(reader, section, 0, &bytes, &size, err)) return false;
    if (!bytes) return true;
    if (!embedding_shape_parse(bytes, size, &g->shape, err)) return cs_error_prefix(err, "section %s", section);
    g->table.dimension = g->shape.dimension;
    snprintf(section, sizeof section, "%s%s", rows_prefix, g->table.name);
    if (!reader->each(reader, section, gather_record, g, err)) return false;
    return g->table.count == g->shape.rows ||
           cs_fail(err, CS_REFUSED, "section %s: %zu rows are stored, the table says %llu", section, g->table.count,
                   (unsigned long long)g->shape.rows);
}

static bool gather_checkpoint(void *self, uint64_t key, const float *row, size_t dimension, struct cs_error *err)
{
    struct gathering *g = self;
    struct embedding_row one = { .key = key, .row = row };

    g->table.dimension = dimension;
    ctl_progress_add(g->progress, sizeof key + dimension * sizeof *row);
    return gather(g, &one, err);
}

struct order { uint64_t key; size_t index; };

static int by_key(const void *a, const void *b)
{
    uint64_t x = ((const struct order *)a)->key, y = ((const struct order *)b)->key;
    return (x > y) - (x < y);
}

/* Puts elements of `width` bytes into that order. */
static bool permute(void *array, size_t width, const struct order *order, size_t n)
{
    char *sorted = malloc(n * width + 1);

    if (!sorted) return false;
    for (size_t i = 0; i < n; i++) memcpy(sorted + i * width, (char *)array + order[i].index * width, width);
    memcpy(array, sorted, n * width);
    free(sorted);
    return true;
}

static bool sort(struct source_table *t, struct cs_error *err)
{
    struct order *order = malloc((t->count + 1) * sizeof *order);
    size_t bytes = t->dimension * sizeof(float);
    bool ok = order != NULL;

    for (size_t i = 0; ok && i < t->count; i++) order[i] = (struct order){ t->key[i], i };
    if (ok) qsort(order, t->count, sizeof *order, by_key);
    ok = ok && permute(t->key, sizeof *t->key, order, t->count) && permute(t->row, bytes, order, t->count)
      && (!t->m || permute(t->m, bytes, order, t->count)) && (!t->v || permute(t->v, bytes, order, t->count))
      && permute(t->step, sizeof *t->step, order, t->count) && permute(t->seen, sizeof *t->seen, order, t->count);
    free(order);
    return ok || cs_fail(err, CS_FAILED, "out of memory for %zu rows of table %s", t->count, t->name);
}

bool source_table_read(struct source *source, const char *name, struct source_table *table, struct cs_error *err)
{
    struct gathering g = { .progress = source->progress };
    bool ok;

    snprintf(g.table.name, sizeof g.table.name, "%s", name);
    g.table.dimension = source->dimension;
    if (source->checkpoint) {
        ok = checkpoint_each_row(source->checkpoint, name, gather_checkpoint, &g, err);
        free(g.table.step);
        free(g.table.seen);
        g.table.step = NULL;
        g.table.seen = NULL;
    } else {
        ok = gather_table(&g, snapshot_reader(source->snapshot), err) && (g.table.count == 0 || sort(&g.table, err));
    }
    *table = g.table;
    if (!ok) source_table_release(table);
    return ok;
}

void source_table_release(struct source_table *table)
{
    free(table->key);
    free(table->row);
    free(table->m);
    free(table->v);
    free(table->step);
    free(table->seen);
    *table = (struct source_table){ 0 };
}
