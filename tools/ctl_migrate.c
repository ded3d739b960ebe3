/* migrate: what was learned with other features, carried over to a configuration (core/migrate.h says how). */
#include <cblas.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/metrics.h"
#include "core/migrate.h"
#include "daemon/assemble.h"
#include "daemon/text.h"
#include "storage/snapshot.h"
#include "tools/ctl_answer.h"
#include "tools/ctl_progress.h"
#include "tools/ctl_snapshot.h"
#include "tools/ctl_verbs.h"

const struct program_option ctl_migrate_options[] = {
    { "config", 'c', "FILE", "the configuration to carry the state over to", true },
    { "from", 'f', "SNAPSHOT", "the state there is; it is only read", true },
    { "to", 't', "DIR", "the new snapshot's directory: new, or empty", true },
    CTL_JSON,
    { NULL, 0, NULL, NULL, false },
};

enum { OPEN_BATCH_MAX = 1 << 20 };      /* nothing may leave the open batch on the way */

struct migrate {
    const struct ctl_arguments *arguments;
    struct snapshot_view *view;
    struct cs_config *old, *config;
    struct features *from, *to;
    struct migration *migration;
    struct learner *learner;
    struct ingest *ingest;
    struct metrics *metrics;
    struct ctl_progress progress;
    json_t *differences, *left_behind;
    char refusal[400];
};

static void note_difference(void *self, const char *text, bool migratable)
{
    struct migrate *x = self;

    json_array_append_new(x->differences, json_string(text));
    ctl_say(x->arguments, "%s%s", text, migratable ? "" : " (can't be migrated)");
    if (!migratable && !*x->refusal) snprintf(x->refusal, sizeof x->refusal, "%s", text);
}

static bool compare(struct migrate *x, struct cs_error *err)
{
    char *here = config_model_text(x->config);

    if (!config_model_differences(snapshot_view_meta(x->view, "config"), here, note_difference, x))
        ctl_say(x->arguments, "no difference: the state is copied as it is");
    free(here);
    return !*x->refusal || cs_fail(err, CS_REFUSED,
                                   "%s. Only features that come, go or change places or tables, and the length of the "
                                   "behavior sequence, can be migrated: restore that setting, or start anew",
                                   x->refusal);
}

static struct example *replace(void *self, struct example *example)
{
    return migration_example(self, example);
}

static bool load(struct migrate *x, struct cs_error *err)
{
    struct state_reader *reader = snapshot_reader(x->view), *migrated;
    struct cs_config waiting = *x->config;

    if (!(x->from = features_create(&x->old->features, err)) || !(x->to = features_create(&x->config->features, err)))
        return false;
    x->migration = migration_create(x->from, x->to, x->config->embedding.dimension, &x->config->model, err);
    if (!x->migration || !(x->learner = assemble_learner(x->config, x->to, &parallel_serial, err))) return false;
    migrated = migration_reader(x->migration, reader, x->learner, err);
    if (!migrated || !learner_load(x->learner, migrated, err)) return false;

    waiting.batch.size = OPEN_BATCH_MAX;
    waiting.evaluation.hold_out_new = 0;
    if (!(x->ingest = assemble_ingest(&waiting, x->from, 0, err)) || !ingest_load(x->ingest, reader, err)) return false;
    ingest_replace_examples(x->ingest, replace, x->migration);

    x->metrics = metrics_create(x->config->evaluation.window);
    return x->metrics ? metrics_load(x->metrics, reader, err)
                      : cs_fail(err, CS_FAILED, "out of memory: evaluation.window");
}

/* ------------------------------------------------------------------------------------------------------- writing */

static bool is_ours(const char *section)
{
    static const char *const known[] = { "rows.", "waiting.", "table.", "joiner", "history", "ingest" };

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(section, known[i], strlen(known[i])) == 0) return true;
    return strcmp(section, "metrics") == 0 || strcmp(section, "metrics.window") == 0;
}

struct passing { struct state_reader *reader; struct state_writer *writer; const char *section; };

static bool pass_record(void *self, uint64_t slot, const void *bytes, size_t size, struct cs_error *err)
{
    struct passing *passing = self;
    return passing->writer->put(passing->writer, passing->section, slot, bytes, size, err);
}

/* State that does not depend on features stays as it is, whoever's it is. */
static bool pass_section(void *self, const char *section, uint64_t records, uint64_t bytes, struct cs_error *err)
{
    struct passing *passing = self;
    (void)records, (void)bytes;
    if (is_ours(section)) return true;
    passing->section = section;
    return passing->reader->each(passing->reader, section, pass_record, passing, err);
}

static bool pass_meta(void *self, const char *name, const char *text, struct cs_error *err)
{
    static const char *const anew[] = { "format", "config", "fingerprint", "program", "seed" };

    for (size_t i = 0; i < sizeof anew / sizeof *anew; i++)
        if (strcmp(name, anew[i]) == 0) return true;
    return snapshot_meta(self, name, text, err);
}

static bool write_cut(struct migrate *x, struct snapshot_cut *cut, struct cs_error *err)
{
    struct passing passing = { snapshot_reader(x->view), snapshot_writer(cut), NULL };

    return snapshot_view_each_meta(x->view, pass_meta, cut, err) &&
           ctl_snapshot_fill(cut, x->config, x->learner, x->ingest, x->metrics, err) &&
           snapshot_view_sections(x->view, pass_section, &passing, err);
}

static bool write_snapshot(struct migrate *x, const char *directory, struct cs_error *err)
{
    struct snapshot_store *store = snapshot_open(directory, NULL, NULL, err);
    struct snapshot_cut *cut;
    bool ok = false;

    if (!store) return false;
    snapshot_view_watch(x->view, NULL);
    ctl_progress_phase(&x->progress, "writing", 0, "bytes");
    snapshot_watch(store, &x->progress.watch);
    if (snapshot_exists(store)) {
        cs_fail(err, CS_REFUSED, "%s holds a snapshot already: move it away first", directory);
    } else {
        cut = snapshot_begin(store);
        ok = write_cut(x, cut, err);
        if (ok) ok = snapshot_commit(cut, err);
        else snapshot_abandon(cut);
    }
    snapshot_close(store);
    ctl_progress_end(&x->progress);
    return ok;
}

static bool say_dropped(void *self, const char *section, uint64_t records, uint64_t bytes, struct cs_error *err)
{
    static const char prefix[] = "rows.";
    struct migrate *x = self;
    (void)bytes, (void)err;

    if (strncmp(section, prefix, sizeof prefix - 1) != 0) return true;
    for (size_t t = 0; t < x->to->table_count; t++)
        if (strcmp(x->to->table[t], section + sizeof prefix - 1) == 0) return true;
    json_array_append_new(x->left_behind, json_pack("{s:s,s:I}", "table", section + sizeof prefix - 1, "rows",
                                                    (json_int_t)records));
    ctl_say(x->arguments, "table %s: its %" PRIu64 " rows are left behind: no feature reads them",
            section + sizeof prefix - 1, records);
    return true;
}

int ctl_migrate(const struct ctl_arguments *arguments)
{
    struct migrate x = { .arguments = arguments, .differences = json_array(), .left_behind = json_array() };
    const char *from = ctl_value(arguments, "from"), *to = ctl_value(arguments, "to");
    struct cs_error err = { 0 };
    uint64_t rows = 0;
    int code = -1;

    if (!(x.config = ctl_config_load(ctl_value(arguments, "config"), CONFIG_FOR_TRAIN))) {
        code = cs_exit_code(CS_CONFIG);
        goto out;
    }
    openblas_set_num_threads(1);
    ctl_progress_start(&x.progress, arguments, 0, "bytes");
    if (!(x.view = snapshot_view_open_directory(from, &err))) goto out;
    ctl_progress_phase(&x.progress, "reading", snapshot_view_bytes(x.view), "bytes");
    snapshot_view_watch(x.view, &x.progress.watch);
    if (!(x.old = config_kept(snapshot_view_meta(x.view, "config"), &err)) || !compare(&x, &err) || !load(&x, &err)) {
        cs_error_prefix(&err, "%s", from);
        goto out;
    }
    ctl_progress_end(&x.progress);
    if (!snapshot_view_sections(x.view, say_dropped, &x, &err) || !write_snapshot(&x, to, &err)) goto out;
    for (size_t t = 0; t < x.to->table_count; t++) rows += embedding_rows(learner_table(x.learner, t));
    code = 0;
    if (ctl_flag(arguments, "json"))
        code = ctl_answer(arguments, json_pack("{s:o,s:I,s:I,s:I,s:O,s:O}", "directory", text_json(to), "steps",
                                               (json_int_t)learner_steps(x.learner), "rows", (json_int_t)rows,
                                               "waiting", (json_int_t)ingest_pending(x.ingest), "differences",
                                               x.differences, "left_behind", x.left_behind));
    else ctl_say(arguments, "%s: %" PRIu64 " rows, step %" PRIu64 ", %zu impressions wait", to, rows,
                 learner_steps(x.learner), ingest_pending(x.ingest));
out:
    ctl_progress_end(&x.progress);
    json_decref(x.differences);
    json_decref(x.left_behind);
    metrics_destroy(x.metrics);
    ingest_destroy(x.ingest);
    learner_destroy(x.learner);
    migration_destroy(x.migration);
    features_destroy(x.from);
    features_destroy(x.to);
    if (x.view) snapshot_view_close(x.view);
    if (x.old) config_destroy(x.old);
    if (x.config) config_destroy(x.config);
    return code >= 0 ? code : ctl_fail(arguments, &err);
}
