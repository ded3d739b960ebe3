/* train: the daemon's learner over a file instead of Kafka. The path is the daemon's: decode, ingest, score, judge,
 * learn. */
#include <cblas.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <jansson.h>

#include "core/shown.h"
#include "daemon/assemble.h"
#include "daemon/metrics_json.h"
#include "daemon/worker_pool.h"
#include "tools/ctl_answer.h"
#include "tools/ctl_checkpoint.h"
#include "tools/ctl_exchange.h"
#include "tools/ctl_progress.h"
#include "tools/ctl_snapshot.h"
#include "tools/ctl_verbs.h"

const struct program_option ctl_train_options[] = {
    { "config", 'c', "FILE", "features, model, optimizer, batch: as for the daemon; no source is needed", true },
    { "events", 'e', "FILE|-", "a JSON event a line", true },
    { "import", 'i', "P.safetensors", "start from these tensors", false },
    { "export", 'o', "Q.safetensors", "write all tensors at the end", false },
    { "predictions", 'p', "P.csv", "impression_id,new,clicked,score: each given before its example was learned",
      false },
    { "losses", 'l', "L.csv", "of each step: its examples, and the losses by part", false },
    { "checkpoint", 'k', "DIR", "publish a checkpoint there at the end", false },
    { "seed", 's', "N", "instead of the configuration's compute.seed", false },
    { "strict", 0, NULL, "stop at the first line that can't be used (exit code 65)", false },
    { "json", 'j', NULL, "the summary as JSON", false },
    { NULL, 0, NULL, NULL, false },
};

enum { REPORTED_MAX = 20 };     /* bad lines told of on stderr, without --verbose */

struct training {
    const struct ctl_arguments *arguments;
    struct cs_config *config;
    struct features *features;
    struct decoder *decoder;
    struct ingest *ingest;
    struct worker_pool *pool;
    struct learner *learner;
    struct metrics *metrics;
    struct shown *shown;
    struct arena *arena;
    FILE *events, *predictions, *losses;
    const char *events_name;
    uint64_t lines, events_used, examples, steps, zero_shot_steps, skipped, bad[DECODE_RESULTS], bad_lines;
    struct learner_losses mean;         /* sums over the steps */
    struct ctl_progress progress;
    double size;                        /* of the events' file; 0: unknown */
    double started;
};

/* ------------------------------------------------------------------------------------------------------- a step */

static void write_text(FILE *file, const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, file);
        return;
    }
    putc('"', file);
    for (; *text; text++) {
        if (*text == '"') putc('"', file);
        putc(*text, file);
    }
    putc('"', file);
}

static void learn_batch(struct training *t, const struct batch *batch)
{
    const float *score = learner_score(t->learner, batch);
    struct learner_losses losses;

    if (batch->shown_only) {
        shown_keep(t->shown, batch, score);
        return;
    }
    metrics_observe(t->metrics, batch, score);
    shown_judge(t->shown, batch, score);
    if (t->predictions)
        for (size_t i = 0; i < batch->size; i++) {
            write_text(t->predictions, batch->id[i]);
            fprintf(t->predictions, ",%d,%d,%.9g\n", batch->is_new[i], batch->clicked[i], (double)score[i]);
        }
    losses = learner_learn(t->learner, batch);
    if (t->losses)
        fprintf(t->losses, "%" PRIu64 ",%zu,%.9g,%.9g,%.9g,%.9g\n", t->steps, losses.examples, losses.ranking,
                losses.reconstruct_user, losses.reconstruct_behavior, losses.mmd);
    t->examples += batch->size;
    t->steps++;
    t->skipped += losses.skipped;
    if (!losses.skipped) t->mean.ranking += losses.ranking;
    if (losses.zero_shot_trained) {
        t->zero_shot_steps++;
        t->mean.reconstruct_user += losses.reconstruct_user;
        t->mean.reconstruct_behavior += losses.reconstruct_behavior;
        t->mean.mmd += losses.mmd;
    }
}

static void learn_closed(struct training *t)
{
    struct batch *batch;
    while ((batch = ingest_pop(t->ingest, t->arena))) learn_batch(t, batch);
}

/* -------------------------------------------------------------------------------------------------------- lines */

static void show_progress(struct training *t)
{
    char more[80] = "";
    long at = t->size > 0 ? ftell(t->events) : -1;

    if (at > 0) {
        double share = (double)at / t->size, seconds = ctl_seconds() - t->started;
        snprintf(more, sizeof more, "%.0f %%, %.0f s left", 100 * share, seconds / share * (1 - share));
    }
    ctl_progress_update(&t->progress, t->examples, more);
}

static bool refuse_line(struct training *t, enum decode_result result, const struct cs_error *why, struct cs_error *err)
{
    t->bad[result]++;
    if (t->bad_lines++ < REPORTED_MAX || t->arguments->verbose) {
        ctl_progress_end(&t->progress);
        fprintf(stderr, "%s:%" PRIu64 ":%" PRId64 ": %s: %s\n", t->events_name, t->lines, why->at.minor,
                decode_result_name[result], why->message);
        if (t->bad_lines == REPORTED_MAX && !t->arguments->verbose)
            fprintf(stderr, "(more such lines are only counted; --verbose shows all)\n");
    }
    if (!ctl_flag(t->arguments, "strict")) return true;
    return cs_fail(err, CS_REFUSED, "--strict: stopped at line %" PRIu64 ", the first that can't be used", t->lines);
}

static bool read_events(struct training *t, struct cs_error *err)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    bool ok = true;

    while (ok && (length = getline(&line, &room, t->events)) >= 0) {
        struct event event = { 0 };
        struct cs_error why = { 0 };
        enum decode_result result;

        t->lines++;
        while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r')) length--;
        if ((ssize_t)strspn(line, " \t") >= length) continue;
        result = decode(t->decoder, line, (size_t)length, DECODE_KIND_UNSAID, &event, &why);
        if (result != DECODE_OK) {
            ok = refuse_line(t, result, &why, err);
            continue;
        }
        t->events_used++;
        ingest_push(t->ingest, &event);
        learn_closed(t);
        if ((t->lines & 255) == 0) show_progress(t);
    }
    if (ok && ferror(t->events)) ok = cs_fail_errno(err, errno, "cannot read %s", t->events_name);
    free(line);
    ctl_progress_end(&t->progress);
    return ok;
}

/* ----------------------------------------------------------------------------------------------- start and end */

static bool open_output(FILE **file, const char *name, const char *header, struct cs_error *err)
{
    if (!name) return true;
    *file = fopen(name, "w");
    if (!*file) return cs_fail_errno(err, errno, "cannot write %s", name);
    fputs(header, *file);
    return true;
}

static bool close_output(FILE **file, const char *name, struct cs_error *err)
{
    FILE *closing = *file;
    bool bad;

    *file = NULL;
    if (!closing) return true;
    bad = ferror(closing) != 0;
    if (fclose(closing) != 0 || bad) return cs_fail_errno(err, errno, "cannot write %s", name);
    return true;
}

static bool open_events(struct training *t, const char *name, struct cs_error *err)
{
    struct stat stat;

    t->events_name = strcmp(name, "-") == 0 ? "stdin" : name;
    t->events = strcmp(name, "-") == 0 ? stdin : fopen(name, "r");
    if (!t->events) return cs_fail_errno(err, errno, "cannot read %s", name);
    if (fstat(fileno(t->events), &stat) == 0 && S_ISREG(stat.st_mode)) t->size = (double)stat.st_size;
    else if (fstat(fileno(t->events), &stat) == 0 && S_ISDIR(stat.st_mode))
        return cs_fail(err, CS_FAILED, "cannot read %s: it is a directory", name);
    setvbuf(t->events, NULL, _IOFBF, 1 << 20);
    return true;
}

static bool start(struct training *t, struct cs_error *err)
{
    const struct ctl_arguments *a = t->arguments;
    uint64_t seed;
    struct timespec now;

    if (!ctl_count(a, "seed", 0, UINT64_MAX, t->config->compute.seed, &seed, err)) return false;
    t->config->compute.seed = seed;
    openblas_set_num_threads(1);
    t->features = features_create(&t->config->features, err);
    if (!t->features) return false;
    t->decoder = assemble_decoder(t->config, t->features, err);
    /* A file has no clock of its own that anyone waits for: batches close by size, unless the file of settings says
     * more. */
    t->ingest = t->decoder ? assemble_ingest(t->config, t->features,
                                             t->config->batch_max_delay_given ? t->config->batch.max_delay : 0, err)
                           : NULL;
    t->pool = t->ingest ? worker_pool_create(t->config->compute.threads, err) : NULL;
    t->learner = t->pool ? assemble_learner(t->config, t->features, worker_pool_parallel(t->pool), err) : NULL;
    if (!t->learner) return false;
    t->metrics = metrics_create(t->config->evaluation.window);
    t->shown = shown_create(t->config->evaluation.window);
    t->arena = arena_create(1 << 20);
    if (!t->metrics || !t->shown || !t->arena) return cs_fail(err, CS_FAILED, "out of memory: evaluation.window");
    clock_gettime(CLOCK_REALTIME, &now);
    if (ctl_value(a, "import") &&
        !exchange_into_learner(t->learner, t->features, t->config->model.embedding_optimizer.kind,
                               ctl_value(a, "import"), (int64_t)now.tv_sec * 1000, &t->progress, err))
        return false;
    return open_events(t, ctl_value(a, "events"), err) &&
           open_output(&t->predictions, ctl_value(a, "predictions"), "impression_id,new,clicked,score\n", err) &&
           open_output(&t->losses, ctl_value(a, "losses"),
                       "step,examples,ranking,reconstruct_user,reconstruct_behavior,mmd\n", err);
}

static void stop(struct training *t)
{
    if (t->events && t->events != stdin) fclose(t->events);
    if (t->predictions) fclose(t->predictions);
    if (t->losses) fclose(t->losses);
    arena_destroy(t->arena);
    metrics_destroy(t->metrics);
    shown_destroy(t->shown);
    learner_destroy(t->learner);
    worker_pool_destroy(t->pool);
    ingest_destroy(t->ingest);
    decoder_destroy(t->decoder);
    features_destroy(t->features);
    config_destroy(t->config);
}

/* ------------------------------------------------------------------------------------------------------ summary */

static void print_number(double value, int width, int digits)
{
    if (isnan(value)) printf("%*s", width, "-");
    else printf("%*.*f", width, digits, value);
}

static void print_metrics(const struct metrics *metrics, const char *prefix)
{
    for (int span = SPANS - 1; span >= 0; span--)
        for (int users = 0; users < USERS_GROUPS; users++) {
            struct metrics_report r = metrics_report(metrics, (enum metrics_users)users, (enum metrics_span)span);
            char over[24];
            snprintf(over, sizeof over, "%s%s", prefix, metrics_span_name[span]);
            printf("%-14s %-5s %10" PRIu64 " %9" PRIu64, over, metrics_users_name[users], r.examples, r.clicks);
            print_number(r.log_loss, 10, 4);
            print_number(r.auc, 10, 4);
            print_number(r.gauc, 10, 4);
            print_number(r.calibration, 13, 3);
            putchar('\n');
        }
}

static bool is_judged(const struct metrics *metrics)
{
    return metrics_report(metrics, USERS_ALL, SPAN_WINDOW).examples > 0;
}

static void print_summary(struct training *t, double seconds, uint64_t version)
{
    struct join_counts joined = ingest_counts(t->ingest);
    double z = t->zero_shot_steps ? (double)t->zero_shot_steps : NAN, s = (double)(t->steps - t->skipped);

    printf("%" PRIu64 " examples in %" PRIu64 " steps, %.1f s, %.0f examples/s\n\n", t->examples, t->steps, seconds,
           (double)t->examples / seconds);
    printf("%-14s %-5s %10s %9s %9s %9s %9s %12s\n", "over", "users", "examples", "clicks", "log loss", "AUC", "GAUC",
           "calibration");
    print_metrics(t->metrics, "");
    if (is_judged(shown_metrics(t->shown))) print_metrics(shown_metrics(t->shown), "delayed ");
    printf("\nmean loss    ranking %.5f", t->mean.ranking / s);
    if (t->zero_shot_steps)
        printf("   reconstruct user %.5f   reconstruct behavior %.5f   mmd %.5f", t->mean.reconstruct_user / z,
               t->mean.reconstruct_behavior / z, t->mean.mmd / z);
    printf("\nrows        ");
    for (size_t i = 0; i < t->features->table_count; i++)
        printf(" %s %" PRIu64, t->features->table[i], embedding_rows(learner_table(t->learner, i)));
    if (joined.impressions)
        printf("\njoined       %" PRIu64 " impressions, %" PRIu64 " clicks: matched %" PRIu64 ", expired %" PRIu64
               ", late %" PRIu64 ", duplicate %" PRIu64 ", orphan %" PRIu64,
               joined.impressions, joined.clicks, joined.result[JOIN_MATCHED], joined.result[JOIN_EXPIRED],
               joined.result[JOIN_LATE], joined.result[JOIN_DUPLICATE], joined.result[JOIN_ORPHAN]);
    if (t->skipped) printf("\nskipped      %" PRIu64 " steps: a loss or a gradient was not finite", t->skipped);
    if (t->bad_lines) {
        printf("\nrefused      %" PRIu64 " of %" PRIu64 " lines:", t->bad_lines, t->lines);
        for (int i = 0; i < DECODE_RESULTS; i++)
            if (t->bad[i]) printf(" %s %" PRIu64, decode_result_name[i], t->bad[i]);
    }
    if (version) printf("\ncheckpoint   version %020" PRIu64, version);
    putchar('\n');
}

/* Span by span, unlike the daemon's status. */
static json_t *spans_json(const struct metrics *from)
{
    json_t *metrics = json_object();

    for (int span = 0; span < SPANS; span++) {
        json_t *spans = json_object();
        for (int users = 0; users < USERS_GROUPS; users++) {
            struct metrics_report r = metrics_report(from, (enum metrics_users)users, (enum metrics_span)span);
            json_object_set_new(spans, metrics_users_name[users], report_json(&r));
        }
        json_object_set_new(metrics, metrics_span_name[span], spans);
    }
    return metrics;
}

static void print_summary_json(struct training *t, double seconds, uint64_t version)
{
    json_t *root = json_object(), *rows = json_object(), *refused = json_object();

    json_object_set_new(root, "examples", json_integer((json_int_t)t->examples));
    json_object_set_new(root, "steps", json_integer((json_int_t)t->steps));
    json_object_set_new(root, "skipped_steps", json_integer((json_int_t)t->skipped));
    json_object_set_new(root, "lines", json_integer((json_int_t)t->lines));
    json_object_set_new(root, "seconds", json_real(seconds));
    json_object_set_new(root, "examples_per_second", json_real((double)t->examples / seconds));
    for (size_t i = 0; i < t->features->table_count; i++)
        json_object_set_new(rows, t->features->table[i],
                            json_integer((json_int_t)embedding_rows(learner_table(t->learner, i))));
    for (int i = 0; i < DECODE_RESULTS; i++)
        if (t->bad[i]) json_object_set_new(refused, decode_result_name[i], json_integer((json_int_t)t->bad[i]));
    json_object_set_new(root, "metrics", spans_json(t->metrics));
    json_object_set_new(root, "delayed_metrics", spans_json(shown_metrics(t->shown)));
    json_object_set_new(root, "rows", rows);
    json_object_set_new(root, "refused", refused);
    if (version) json_object_set_new(root, "checkpoint", json_integer((json_int_t)version));
    ctl_answer(t->arguments, root);
}

int ctl_train(const struct ctl_arguments *arguments)
{
    struct cs_error err = { 0 };
    struct training t = { .arguments = arguments };
    uint64_t version = 0;
    double seconds;
    bool ok = false;

    t.config = ctl_config_load(ctl_value(arguments, "config"), CONFIG_FOR_TRAIN);
    if (!t.config) return cs_exit_code(CS_CONFIG);
    ctl_progress_start(&t.progress, arguments, 0, "rows");
    if (!start(&t, &err)) goto out;
    t.started = ctl_seconds();
    ctl_progress_phase(&t.progress, NULL, 0, "examples");
    if (!read_events(&t, &err)) goto out;
    ingest_finish(t.ingest);
    learn_closed(&t);
    seconds = ctl_seconds() - t.started;
    if (!close_output(&t.predictions, ctl_value(arguments, "predictions"), &err)) goto out;
    if (!close_output(&t.losses, ctl_value(arguments, "losses"), &err)) goto out;
    if (ctl_value(arguments, "export")
        && !exchange_from_learner(t.learner, t.features, ctl_value(arguments, "export"), EXCHANGE_SAFETENSORS, &err))
        goto out;
    if (ctl_value(arguments, "checkpoint") &&
        !checkpoint_from_learner(t.learner, t.features, t.config, t.metrics, t.shown, ingest_clock(t.ingest),
                                 ctl_value(arguments, "checkpoint"), &version, &err))
        goto out;
    if (ctl_flag(arguments, "json")) print_summary_json(&t, seconds, version);
    else print_summary(&t, seconds, version);
    ok = fflush(stdout) == 0 || cs_fail_errno(&err, errno, "cannot write the summary");
out:
    ctl_progress_end(&t.progress);
    if (!ok) ctl_fail(arguments, &err);
    stop(&t);
    return ok ? 0 : cs_exit_code(err.code);
}
