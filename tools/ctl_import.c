/* import: a safetensors file becomes a snapshot that a daemon of the same configuration starts from. */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/shown.h"
#include "daemon/assemble.h"
#include "daemon/text.h"
#include "storage/snapshot.h"
#include "tools/ctl_answer.h"
#include "tools/ctl_exchange.h"
#include "tools/ctl_progress.h"
#include "tools/ctl_snapshot.h"
#include "tools/ctl_verbs.h"

const struct program_option ctl_import_options[] = {
    { "config", 'c', "FILE", "the configuration that the tensors are of", true },
    { "to", 't', "DIR", "the snapshot's directory: new, or empty", true },
    CTL_JSON,
    { NULL, 0, NULL, NULL, false },
};

static bool write_snapshot(struct snapshot_store *store, const struct cs_config *config, struct learner *learner,
                           struct ingest *ingest, struct metrics *metrics, struct shown *shown,
                           struct cs_error *err)
{
    struct snapshot_cut *cut = snapshot_begin(store);
    char steps[24];

    snprintf(steps, sizeof steps, "%llu", (unsigned long long)learner_steps(learner));
    if (snapshot_meta(cut, "steps", steps, err) && ctl_snapshot_fill(cut, config, learner, ingest, metrics, err) &&
        shown_save(shown, snapshot_writer(cut), err))
        return snapshot_commit(cut, err);
    snapshot_abandon(cut);
    return false;
}

int ctl_import(const struct ctl_arguments *arguments)
{
    struct cs_error err = { 0 };
    struct cs_config *config = ctl_config_load(ctl_value(arguments, "config"), CONFIG_FOR_TRAIN);
    struct features *features = NULL;
    struct learner *learner = NULL;
    struct ingest *ingest = NULL;
    struct metrics *metrics = NULL;
    struct shown *shown = NULL;
    struct snapshot_store *store = NULL;
    struct ctl_progress progress;
    uint64_t rows = 0;
    int code = -1;

    if (!config) return cs_exit_code(CS_CONFIG);
    openblas_set_num_threads(1);
    ctl_progress_start(&progress, arguments, 0, "rows");
    features = features_create(&config->features, &err);
    learner = features ? assemble_learner(config, features, &parallel_serial, &err) : NULL;
    ingest = learner ? assemble_ingest(config, features, config->batch.max_delay, &err) : NULL;
    if (!ingest) goto out;
    metrics = metrics_create(config->evaluation.window);
    shown = shown_create(config->evaluation.window);
    if (!metrics || !shown) {
        cs_fail(&err, CS_FAILED, "out of memory: evaluation.window");
        goto out;
    }
    if (!exchange_into_learner(learner, features, config->model.embedding_optimizer.kind, arguments->position[0],
                               (int64_t)time(NULL) * 1000, &progress, &err))
        goto out;
    store = snapshot_open(ctl_value(arguments, "to"), NULL, NULL, &err);
    if (!store) goto out;
    if (snapshot_exists(store)) {
        cs_fail(&err, CS_REFUSED, "%s holds a snapshot already: move it away first", ctl_value(arguments, "to"));
        goto out;
    }
    ctl_progress_phase(&progress, "writing", 0, "bytes");
    snapshot_watch(store, &progress.watch);
    if (!write_snapshot(store, config, learner, ingest, metrics, shown, &err)) goto out;
    ctl_progress_end(&progress);
    for (size_t t = 0; t < features->table_count; t++) rows += embedding_rows(learner_table(learner, t));
    code = 0;
    if (ctl_flag(arguments, "json"))
        code = ctl_answer(arguments, json_pack("{s:o,s:I,s:I,s:I}", "directory",
                                               text_json(ctl_value(arguments, "to")), "steps",
                                               (json_int_t)learner_steps(learner), "tables",
                                               (json_int_t)features->table_count, "rows", (json_int_t)rows));
    else ctl_say(arguments, "%s: %zu tables, %llu rows", ctl_value(arguments, "to"), features->table_count,
                 (unsigned long long)rows);
out:
    ctl_progress_end(&progress);
    if (store) snapshot_close(store);
    shown_destroy(shown);
    metrics_destroy(metrics);
    ingest_destroy(ingest);
    learner_destroy(learner);
    features_destroy(features);
    config_destroy(config);
    return code >= 0 ? code : ctl_fail(arguments, &err);
}
