/* Trying a version: all its numbers, then the scorer that libcoldstream would make of it. */
#include "daemon/trial.h"

#include <inttypes.h>
#include <math.h>

#include "core/vector_math.h"
#include "daemon/scoring.h"
#include "storage/checkpoint.h"

/* The first element that is not finite; n: all are. */
static size_t first_wrong(const float *value, size_t n)
{
    size_t i = vector_finite(value, n) ? n : 0;
    while (i < n && isfinite(value[i])) i++;
    return i;
}

struct look { struct gate_reasons *reasons; const char *table; uint64_t wrong; };

static bool look_at_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    (void)err;
    struct look *look = self;
    if (tensor->type != TENSOR_F32) return true;
    size_t n = tensor_elements(tensor), wrong = first_wrong(tensor->data, n);
    if (wrong < n)
        gate_reason(look->reasons, "tensor %s: element %zu is %g", tensor->name, wrong,
                    (double)((const float *)tensor->data)[wrong]);
    return true;
}

static bool look_at_row(void *self, uint64_t key, const float *row, size_t dimension, struct cs_error *err)
{
    (void)err;
    struct look *look = self;
    size_t wrong = first_wrong(row, dimension);
    if (wrong < dimension && !look->wrong++)     /* of each table, the first */
        gate_reason(look->reasons, "table %s, row %016" PRIx64 ": element %zu is %g", look->table, key, wrong,
                    (double)row[wrong]);
    return true;
}

struct tables { struct checkpoint *checkpoint; struct look look; };

static bool look_at_table(void *self, const char *table, uint64_t rows, struct cs_error *err)
{
    (void)rows;
    struct tables *tables = self;
    tables->look.table = table;
    tables->look.wrong = 0;
    return checkpoint_each_row(tables->checkpoint, table, look_at_row, &tables->look, err);
}

static void compare(const struct probe_scores *probe, const float *score, struct gate_reasons *reasons)
{
    size_t worst = 0, wrong = 0;
    double most = -1;
    for (size_t i = 0; i < probe->count; i++) {
        double off = fabs((double)score[i] - (double)probe->score[i]);
        if (off <= TRIAL_TOLERANCE) continue;
        wrong++;
        if (off <= most || isnan(most)) continue;       /* NaN is worst of all */
        most = off;
        worst = i;
    }
    if (wrong)
        gate_reason(reasons,
                    "%zu of %zu probes score otherwise than the learner: %.6f there, %.6f here, allowed: %g apart",
                    wrong, probe->count, (double)probe->score[worst], (double)score[worst], TRIAL_TOLERANCE);
}

static bool score_probe(struct scorer *scorer, const struct probe_scores *probe, struct gate_reasons *reasons,
                        struct cs_error *err)
{
    float score[PROBE_EXAMPLES];
    struct scoring *scoring = scoring_create(scorer, err);
    if (!scoring) return false;
    scoring_examples(scoring, probe->example, probe->count, score);
    compare(probe, score, reasons);
    scoring_destroy(scoring);
    return true;
}

bool trial_run(const char *candidate, const struct probe_scores *probe, struct gate_reasons *reasons,
               struct cs_error *err)
{
    struct checkpoint *checkpoint = checkpoint_open(candidate, false, err);     /* the sha256 was read off this file */
    struct scorer *scorer = NULL;
    bool ok = false;
    if (!checkpoint) goto out;
    struct tables tables = { checkpoint, { .reasons = reasons } };
    if (!checkpoint_tensors(checkpoint, look_at_tensor, &tables.look, err) ||
        !checkpoint_tables(checkpoint, look_at_table, &tables, err) || !(scorer = scorer_create(checkpoint, err)))
        goto out;
    checkpoint = NULL;          /* the scorer's */
    ok = !probe || !probe->count || score_probe(scorer, probe, reasons, err);
out:
    scorer_destroy(scorer);
    checkpoint_close(checkpoint);
    if (!ok && err->code == CS_REFUSED) {
        gate_reason(reasons, "it can't be opened: %s", err->message);
        return true;
    }
    return ok;
}
