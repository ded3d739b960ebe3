/* Snapshot -> checkpoint. */
#include "daemon/manifest.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/embedding.h"
#include "core/features.h"
#include "daemon/metrics_json.h"
#include "daemon/version.h"
#include "storage/checkpoint.h"

/* The rows of one table: they come in any order, and are written in order of key. */
struct rows {
    struct embedding_shape shape;
    size_t count;
    float *value;                       /* [shape.rows, dimension], as they came */
    struct row { uint64_t key, place; } *row;
};

struct copy { struct snapshot_view *view; struct checkpoint_writer *writer; };

static bool copy_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    struct copy *copy = self;
    return tensor->role != TENSOR_SCORING || checkpoint_tensor(copy->writer, tensor, err);
}

/* Copied: a record's bytes live for the call alone. */
static bool collect(void *self, uint64_t slot, const void *bytes, size_t size, struct cs_error *err)
{
    struct rows *rows = self;
    struct embedding_row row;
    (void)slot;
    if (!embedding_record_parse(&rows->shape, bytes, size, &row, err)) return false;
    if (rows->count == rows->shape.rows)
        return cs_fail(err, CS_REFUSED, "more rows than the %llu that the table says",
                       (unsigned long long)rows->shape.rows);
    memcpy(rows->value + rows->count * rows->shape.dimension, row.row, rows->shape.dimension * sizeof *rows->value);
    rows->row[rows->count] = (struct row){ row.key, rows->count };
    rows->count++;
    return true;
}

static int by_key(const void *a, const void *b)
{
    uint64_t left = ((const struct row *)a)->key, right = ((const struct row *)b)->key;
    return left < right ? -1 : left > right;
}

/* living: what the section holds, so that a table's own word can't make us ask for any amount of memory. */
static bool read_shape(struct state_reader *reader, const char *table, uint64_t living, struct embedding_shape *shape,
                       struct cs_error *err)
{
    char section[STATE_SECTION_MAX];
    const void *bytes;
    size_t size;
    snprintf(section, sizeof section, "table.%s", table);
    if (!reader->get(reader, section, 0, &bytes, &size, err)) return false;
    if (!bytes) return cs_fail(err, CS_REFUSED, "the snapshot has rows of table %s, but not the table", table);
    if (!embedding_shape_parse(bytes, size, shape, err)) return false;
    return shape->rows == living || cs_fail(err, CS_REFUSED, "%llu rows are stored, the table says %llu",
                                            (unsigned long long)living, (unsigned long long)shape->rows);
}

static bool copy_rows(struct copy *copy, const char *table, const char *section, uint64_t living, struct cs_error *err)
{
    struct state_reader *reader = snapshot_reader(copy->view);
    struct rows rows = { 0 };
    bool ok = false;
    if (!read_shape(reader, table, living, &rows.shape, err)) goto out;
    rows.value = malloc(living * rows.shape.dimension * sizeof *rows.value + 1);
    rows.row = malloc(living * sizeof *rows.row + 1);
    if (!rows.value || !rows.row) {
        cs_fail(err, CS_FAILED, "no memory to sort %llu rows", (unsigned long long)living);
        goto out;
    }
    if (!reader->each(reader, section, collect, &rows, err)) goto out;
    qsort(rows.row, rows.count, sizeof rows.row[0], by_key);
    ok = true;
    for (size_t i = 0; ok && i < rows.count; i++)
        ok = checkpoint_row(copy->writer, table, rows.row[i].key, rows.value + rows.row[i].place * rows.shape.dimension,
                            rows.shape.dimension, err);
out:
    free(rows.value);
    free(rows.row);
    return ok;
}

static bool copy_section(void *self, const char *section, uint64_t records, uint64_t bytes, struct cs_error *err)
{
    (void)bytes;
    static const char prefix[] = "rows.";
    if (strncmp(section, prefix, sizeof prefix - 1) != 0) return true;
    const char *table = section + sizeof prefix - 1;
    return copy_rows(self, table, section, records, err) || cs_error_prefix(err, "table %s", table);
}

/* As they were when the snapshot was cut. */
static bool read_report(const struct cs_config *config, struct snapshot_view *view, const char *section,
                        struct metrics_report report[USERS_GROUPS][SPANS], struct cs_error *err)
{
    struct metrics *metrics = metrics_create_named(config->evaluation.window, section);
    if (!metrics) return cs_fail(err, CS_FAILED, "no memory for the metrics of the manifest");
    bool ok = metrics_load(metrics, snapshot_reader(view), err);
    for (int users = 0; ok && users < USERS_GROUPS; users++)
        for (int span = 0; span < SPANS; span++) report[users][span] = metrics_report(metrics, users, span);
    metrics_destroy(metrics);
    return ok;
}

static json_t *features_of(const struct cs_config *config)
{
    json_t *array = json_array();
    for (size_t i = 0; i < config->features.feature_count; i++) {
        const struct feature_options *feature = &config->features.feature[i];
        json_t *entry = json_pack("{s:s, s:s}", "name", feature->name, "group", feature_group_name[feature->group]);
        if (feature->kind == FEATURE_CATEGORICAL) json_object_set_new(entry, "table", json_string(feature->table));
        json_array_append_new(array, entry);
    }
    return array;
}

char *manifest_text(const struct cs_config *config, const char *fingerprint, const struct cut *cut)
{
    json_t *offsets = cut->positions ? json_loads(cut->positions, 0, NULL) : NULL;
    json_t *manifest =
        json_pack("{s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:s, s:s, s:s}", "event_time_watermark",
                  cut->watermark == INT64_MIN ? json_null() : json_integer(cut->watermark), "offsets",
                  offsets ? offsets : json_array(), "examples", (json_int_t)cut->report[USERS_ALL][SPAN_START].examples,
                  "steps", (json_int_t)cut->steps, "features", features_of(config), "metrics",
                  metrics_json(cut->report), "delayed_metrics", metrics_json(cut->delayed), "fingerprint",
                  fingerprint, "program", version_number, "commit", version_commit);
    if (cut->delta.epoch && config->checkpoint.delta_topic)
        json_object_set_new(manifest, "delta",
                            json_pack("{s:s, s:I, s:I}", "topic", config->checkpoint.delta_topic, "epoch",
                                      (json_int_t)cut->delta.epoch, "sequence", (json_int_t)cut->delta.sequence));
    char *text = json_dumps(manifest, JSON_INDENT(1));
    json_decref(manifest);
    return text;
}

static bool fill(const struct cs_config *config, const char *fingerprint, struct copy *copy, struct cut *cut,
                 struct cs_error *err)
{
    const char *model = snapshot_view_meta(copy->view, "config");
    if (!checkpoint_meta(copy->writer, "config", model ? model : "", err) ||
        !checkpoint_meta(copy->writer, "fingerprint", fingerprint, err) ||
        !snapshot_view_tensors(copy->view, copy_tensor, copy, err) ||
        !snapshot_view_sections(copy->view, copy_section, copy, err) ||
        !read_report(config, copy->view, metrics_section, cut->report, err) ||
        !read_report(config, copy->view, shown_metrics_section, cut->delayed, err))
        return false;
    char *manifest = manifest_text(config, fingerprint, cut);
    bool ok = manifest ? checkpoint_seal(copy->writer, manifest, err)
                       : cs_fail(err, CS_FAILED, "no memory for the manifest");
    free(manifest);
    return ok;
}

struct checkpoint_writer *manifest_candidate(const struct cs_config *config, struct snapshot_store *store,
                                             const char *fingerprint, struct cut *cut, struct cs_error *err)
{
    struct copy copy = { .view = snapshot_view_open(store, err) };
    if (!copy.view) return NULL;
    copy.writer = checkpoint_begin(config->checkpoint.directory, err);
    if (copy.writer) checkpoint_number_from(copy.writer, cut->number);
    if (copy.writer && !fill(config, fingerprint, &copy, cut, err)) {
        checkpoint_abandon(copy.writer);
        copy.writer = NULL;
    }
    snapshot_view_close(copy.view);
    return copy.writer;
}

bool manifest_since(const struct cs_config *config, struct snapshot_store *store, uint64_t examples,
                    struct gate_quality *since, struct cs_error *err)
{
    *since = (struct gate_quality){ 0 };
    struct snapshot_view *view = snapshot_view_open(store, err);
    if (!view) return false;
    struct metrics *metrics = metrics_create(config->evaluation.window);
    bool ok = metrics ? metrics_load(metrics, snapshot_reader(view), err)
                      : cs_fail(err, CS_FAILED, "no memory for the metrics since the last version");
    if (ok && metrics_examples(metrics, USERS_ALL) > examples) {
        since->known = true;
        since->examples = metrics_examples(metrics, USERS_ALL);
        for (int users = 0; users < USERS_GROUPS; users++)
            since->users[users] = metrics_report_newest(metrics, users, since->examples - examples);
    }
    metrics_destroy(metrics);
    snapshot_view_close(view);
    return ok;
}
