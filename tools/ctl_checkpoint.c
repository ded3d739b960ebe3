/* Learner -> checkpoint: what scoring reads of the dense tensors, and every row. */
#include "tools/ctl_checkpoint.h"

#include <stdlib.h>

#include "daemon/manifest.h"
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

bool checkpoint_from_learner(struct learner *learner, const struct features *features, const struct cs_config *config,
                             const struct metrics *metrics, const struct shown *shown, int64_t watermark,
                             const char *directory, uint64_t *version, struct cs_error *err)
{
    struct checkpoint_writer *writer = checkpoint_begin(directory, err);
    char *model = config_model_text(config), *manifest, fingerprint[33];
    struct cut facts = { .watermark = watermark, .steps = learner_steps(learner) };
    bool ok = false;

    for (int users = 0; users < USERS_GROUPS; users++)
        for (int span = 0; span < SPANS; span++) {
            facts.report[users][span] = metrics_report(metrics, users, span);
            facts.delayed[users][span] = metrics_report(shown_metrics(shown), users, span);
        }
    config_fingerprint(config, fingerprint);
    manifest = manifest_text(config, fingerprint, &facts);

    if (!writer) goto out;
    if (!model || !manifest) {
        cs_fail(err, CS_FAILED, "out of memory for the checkpoint's manifest");
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
