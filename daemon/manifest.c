/* Snapshot -> checkpoint. */
#include "daemon/manifest.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/embedding.h"
#include "daemon/version.h"
#include "storage/checkpoint.h"

struct row { uint64_t key; const float *value; };

/* The rows of one table: found in the snapshot's blocks in slot order, written in order of key. */
struct rows { struct row *row; size_t count, capacity; };

struct copy {
    struct snapshot_view *view;
    struct checkpoint_writer *writer;
    struct rows rows;
    const char *section;
    size_t dimension;
};

static bool copy_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    struct copy *copy = self;
    return tensor->role != TENSOR_SCORING || checkpoint_tensor(copy->writer, tensor, err);
}

static bool collect_row(void *self, const struct embedding_row *row, struct cs_error *err)
{
    struct rows *rows = self;
    if (rows->count == rows->capacity) {
        size_t capacity = rows->capacity ? rows->capacity * 2 : 4096;
        struct row *more = realloc(rows->row, capacity * sizeof *more);
        if (!more) return cs_fail(err, CS_FAILED, "no memory to sort %zu rows", capacity);
        rows->row = more;
        rows->capacity = capacity;
    }
    rows->row[rows->count++] = (struct row){ row->key, row->row };
    return true;
}

/* Visited blocks live for the call alone; those asked for by id live as long as the view, as the collected rows must.
 */
static bool collect_block(void *self, uint64_t id, const void *bytes, size_t size, struct cs_error *err)
{
    struct copy *copy = self;
    struct state_reader *reader = snapshot_reader(copy->view);
    if (!reader->get(reader, copy->section, id, &bytes, &size, err)) return false;
    return embedding_block_each(bytes, size, collect_row, &copy->rows, err);
}

static int by_key(const void *a, const void *b)
{
    uint64_t left = ((const struct row *)a)->key, right = ((const struct row *)b)->key;
    return left < right ? -1 : left > right;
}

static bool copy_section(void *self, const char *section, uint64_t blocks, uint64_t bytes, struct cs_error *err)
{
    (void)blocks, (void)bytes;
    struct copy *copy = self;
    if (strncmp(section, "rows.", 5) != 0) return true;
    struct state_reader *reader = snapshot_reader(copy->view);
    copy->rows.count = 0;
    copy->section = section;
    if (!reader->each(reader, section, collect_block, copy, err)) return false;
    qsort(copy->rows.row, copy->rows.count, sizeof copy->rows.row[0], by_key);
    for (size_t i = 0; i < copy->rows.count; i++)
        if (!checkpoint_row(copy->writer, section + 5, copy->rows.row[i].key, copy->rows.row[i].value, copy->dimension,
                            err))
            return false;
    return true;
}

static json_t *number(double value)     /* JSON knows no NaN: null */
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *metrics_of(const struct metrics_report *report)
{
    return json_pack("{s:I, s:I, s:o, s:o, s:o, s:o}", "examples", (json_int_t)report->examples, "clicks",
                     (json_int_t)report->clicks, "log_loss", number(report->log_loss), "auc", number(report->auc),
                     "gauc", number(report->gauc), "calibration", number(report->calibration));
}

static json_t *features_of(const struct cs_config *config)
{
    static const char *const group[GROUPS] = { "user", "context", "item" };
    json_t *array = json_array();
    for (size_t i = 0; i < config->features.feature_count; i++) {
        const struct feature_options *feature = &config->features.feature[i];
        json_t *entry = json_pack("{s:s, s:s}", "name", feature->name, "group", group[feature->group]);
        if (feature->kind == FEATURE_CATEGORICAL) json_object_set_new(entry, "table", json_string(feature->table));
        json_array_append_new(array, entry);
    }
    return array;
}

char *manifest_text(const struct cs_config *config, const char *fingerprint, const struct cut *cut)
{
    json_t *metrics = json_object();
    for (int users = 0; users < USERS_GROUPS; users++) {
        json_t *spans = json_object();
        for (int span = 0; span < SPANS; span++)
            json_object_set_new(spans, metrics_span_name[span], metrics_of(&cut->report[users][span]));
        json_object_set_new(metrics, metrics_users_name[users], spans);
    }
    json_t *offsets = cut->positions ? json_loads(cut->positions, 0, NULL) : NULL;
    json_t *manifest =
        json_pack("{s:o, s:o, s:I, s:I, s:o, s:o, s:s, s:s, s:s}", "event_time_watermark",
                  cut->watermark == INT64_MIN ? json_null() : json_integer(cut->watermark), "offsets",
                  offsets ? offsets : json_array(), "examples", (json_int_t)cut->report[USERS_ALL][SPAN_START].examples,
                  "steps", (json_int_t)cut->steps, "features", features_of(config), "metrics", metrics, "fingerprint",
                  fingerprint, "program", version_number, "commit", version_commit);
    char *text = json_dumps(manifest, JSON_INDENT(1));
    json_decref(manifest);
    return text;
}

bool manifest_publish(const struct cs_config *config, struct snapshot_store *store, const char *fingerprint,
                      const struct cut *cut, uint64_t keep, uint64_t *version, struct cs_error *err)
{
    bool ok = false;
    struct copy copy = { .dimension = config->embedding.dimension };
    char *manifest = NULL;
    if (!(copy.view = snapshot_view_open(store, err))) goto out;
    if (!(copy.writer = checkpoint_begin(config->checkpoint.directory, err))) goto out;
    const char *model = snapshot_view_meta(copy.view, "config");
    if (!checkpoint_meta(copy.writer, "config", model ? model : "", err)) goto out;
    if (!checkpoint_meta(copy.writer, "fingerprint", fingerprint, err)) goto out;
    if (!snapshot_view_tensors(copy.view, copy_tensor, &copy, err)) goto out;
    if (!snapshot_view_sections(copy.view, copy_section, &copy, err)) goto out;
    if (!(manifest = manifest_text(config, fingerprint, cut))) {
        cs_fail(err, CS_FAILED, "no memory for the manifest");
        goto out;
    }
    struct checkpoint_writer *writer = copy.writer;
    copy.writer = NULL;
    ok = checkpoint_finish(writer, manifest, keep, version, err);
out:
    if (copy.writer) checkpoint_abandon(copy.writer);
    if (copy.view) snapshot_view_close(copy.view);
    free(manifest);
    free(copy.rows.row);
    return ok;
}
