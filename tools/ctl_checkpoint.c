/* Learner -> checkpoint: what scoring reads of the dense tensors, and every row. */
#include "tools/ctl_checkpoint.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include <jansson.h>

#include "daemon/version.h"
#include "storage/checkpoint.h"

static bool write_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    return tensor->role != TENSOR_SCORING || checkpoint_tensor(self, tensor, err);
}

struct rows { struct checkpoint_writer *writer; const char *table; size_t dimension; };

static bool write_row(void *self, const struct embedding_row *row, struct cs_error *err)
{
    struct rows *rows = self;
    return checkpoint_row(rows->writer, rows->table, row->key, row->row, rows->dimension, err);
}

static json_t *number_or_null(double value) { return isfinite(value) ? json_real(value) : json_null(); }

/* The same members as the daemon's manifests (daemon/manifest.c), without offsets: a file has none. */
static char *manifest_text(const struct cs_config *config, const struct metrics *metrics, const char *fingerprint,
                           int64_t watermark, uint64_t examples, uint64_t steps)
{
    static const char *const group[GROUPS] = { "user", "context", "item" };
    json_t *root = json_object(), *features = json_array(), *all = json_object();
    char *text;

    for (size_t i = 0; i < config->features.feature_count; i++) {
        const struct feature_options *feature = &config->features.feature[i];
        json_t *entry = json_pack("{s:s,s:s}", "name", feature->name, "group", group[feature->group]);
        if (feature->kind == FEATURE_CATEGORICAL) json_object_set_new(entry, "table", json_string(feature->table));
        json_array_append_new(features, entry);
    }
    for (int users = 0; users < USERS_GROUPS; users++) {
        json_t *spans = json_object();
        for (int span = 0; span < SPANS; span++) {
            struct metrics_report r = metrics_report(metrics, (enum metrics_users)users, (enum metrics_span)span);
            json_object_set_new(spans, metrics_span_name[span],
                                json_pack("{s:I,s:I,s:o,s:o,s:o,s:o}", "examples", (json_int_t)r.examples, "clicks",
                                          (json_int_t)r.clicks, "log_loss", number_or_null(r.log_loss), "auc",
                                          number_or_null(r.auc), "gauc", number_or_null(r.gauc), "calibration",
                                          number_or_null(r.calibration)));
        }
        json_object_set_new(all, metrics_users_name[users], spans);
    }
    json_object_set_new(root, "event_time_watermark", watermark == INT64_MIN ? json_null() : json_integer(watermark));
    json_object_set_new(root, "offsets", json_array());
    json_object_set_new(root, "examples", json_integer((json_int_t)examples));
    json_object_set_new(root, "steps", json_integer((json_int_t)steps));
    json_object_set_new(root, "features", features);
    json_object_set_new(root, "metrics", all);
    json_object_set_new(root, "fingerprint", json_string(fingerprint));
    json_object_set_new(root, "program", json_string(version_number));
    json_object_set_new(root, "commit", json_string(version_commit));
    text = json_dumps(root, JSON_INDENT(1));
    json_decref(root);
    return text;
}

bool checkpoint_from_learner(struct learner *learner, const struct features *features, const struct cs_config *config,
                             const struct metrics *metrics, int64_t watermark, uint64_t examples, const char *directory,
                             uint64_t *version, struct cs_error *err)
{
    struct checkpoint_writer *writer = checkpoint_begin(directory, err);
    char *model = config_model_text(config), *manifest, fingerprint[33];
    bool ok = false;

    config_fingerprint(config, fingerprint);
    manifest = manifest_text(config, metrics, fingerprint, watermark, examples, learner_steps(learner));

    if (!writer) goto out;
    if (!model || !manifest) {
        cs_fail(err, CS_FAILED, "out of memory");
        goto out;
    }
    if (!checkpoint_meta(writer, "config", model, err) || !checkpoint_meta(writer, "fingerprint", fingerprint, err)
        || !learner_tensors(learner, write_tensor, writer, err)) goto out;
    for (size_t t = 0; t < features->table_count; t++) {
        const struct embedding_table *table = learner_table(learner, t);
        struct rows rows = { writer, embedding_name(table), embedding_dimension(table) };
        if (!embedding_each(table, write_row, &rows, err)) goto out;
    }
    ok = checkpoint_finish(writer, manifest, config->checkpoint.keep, version, err);
    writer = NULL;
out:
    if (writer) checkpoint_abandon(writer);
    free(model);
    free(manifest);
    return ok;
}
