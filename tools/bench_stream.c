/* From a file of generated events to learned examples, as the daemon does it: one thread decodes and joins, another
 * learns. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/gemm.h"
#include "core/shown.h"
#include "daemon/assemble.h"
#include "daemon/queue.h"
#include "tools/bench.h"
#include "tools/ctl_checkpoint.h"
#include "tools/generate.h"

enum { EVENTS = 60000, IN_FLIGHT = 4, HELD = 20, WARM = 6, GEMM_REPEAT = 5 };

const char bench_model_settings[] =
    "features:\n"
    "  user: [{name: age, bucketize: [18, 25, 35, 45, 55]}, {name: gender}, {name: city}, {name: device},\n"
    "         {name: language}, {name: plan}, {name: occupation}, {name: channel}]\n"
    "  context: [{name: hour}, {name: position}]\n"
    "  item: [{name: item_id, table: item}, {name: category}]\n"
    "  behavior: {table: item, max_length: 100}\n"
    "join: {window: 1m}\n"
    "model:\n"
    "  ranking: {tower: base_dnn}\n"
    "  zero_shot: ";

const struct bench_system bench_system[BENCH_SYSTEMS] = {
    { "base_dnn", "{kind: none}\n", false },
    { "mail, pooled", "{kind: mail, target: pooled}\n", true },
    { "mail, sequence", "{kind: mail, target: sequence}\n", false },
};

/* What the daemon's join thread has, over a file. */
struct source {
    const struct cs_config *config;
    struct features *features;
    struct decoder *decoder;
    struct ingest *ingest;
    bool gives_shown;           /* impressions as they are shown, too */
    FILE *file;
    char *line;
    size_t room;
    bool finished;
    uint64_t events, bytes, refused;
};

struct parcel { struct arena *arena; struct batch *batch; };

struct feeder {
    struct source source;
    struct queue *spare, *ready;
    pthread_t thread;
};

static bool source_open(struct source *source, const struct cs_config *config, struct features *features,
                        const char *file, struct cs_error *err)
{
    *source = (struct source){ .config = config, .features = features };
    source->decoder = assemble_decoder(config, features, err);
    source->ingest = source->decoder ? assemble_ingest(config, features, 0, err) : NULL;
    if (!source->ingest) return false;
    source->file = fopen(file, "r");
    if (!source->file) return cs_fail_errno(err, errno, "cannot read %s", file);
    setvbuf(source->file, NULL, _IOFBF, 1 << 20);
    return true;
}

static void source_close(struct source *source)
{
    if (source->file) fclose(source->file);
    free(source->line);
    ingest_destroy(source->ingest);
    decoder_destroy(source->decoder);
}

/* The next batch (one that is shown_only where these are wanted), NULL at the end of the file. */
static struct batch *source_batch(struct source *source, struct arena *arena)
{
    for (;;) {
        struct batch *batch = ingest_pop(source->ingest, arena);
        if (batch && batch->shown_only && !source->gives_shown) continue;
        if (batch || source->finished) return batch;
        ssize_t length = getline(&source->line, &source->room, source->file);
        if (length < 0) {
            ingest_finish(source->ingest);
            source->finished = true;
            continue;
        }
        struct event event = { 0 };
        source->bytes += (uint64_t)length;
        source->events++;
        if (decode(source->decoder, source->line, (size_t)length - 1, DECODE_KIND_UNSAID, &event, NULL) == DECODE_OK)
            ingest_push(source->ingest, &event);
        else
            source->refused++;
        event_release(&event);
    }
}

static void *feed(void *argument)
{
    struct feeder *feeder = argument;
    struct parcel *parcel;
    while ((parcel = queue_pop(feeder->spare, -1))) {
        parcel->batch = source_batch(&feeder->source, parcel->arena);
        if (!parcel->batch || !queue_push(feeder->ready, parcel)) break;
    }
    queue_close(feeder->ready);
    return NULL;
}

/* Examples a second of decode, join and learn, each in its thread, over the second half of the file. */
static bool train_from_file(struct learner *learner, struct metrics *metrics, struct shown *shown,
                            const struct cs_config *config, struct features *features, const char *file, size_t batches,
                            struct source *counted, double *rate, struct cs_error *err)
{
    struct feeder feeder = { .spare = queue_create(IN_FLIGHT), .ready = queue_create(IN_FLIGHT) };
    struct parcel parcel[IN_FLIGHT] = { { NULL, NULL } }, *next;
    double begin = bench_seconds();
    size_t batch = 0, examples = 0;
    bool ok = source_open(&feeder.source, config, features, file, err);
    feeder.source.gives_shown = true;
    for (size_t i = 0; i < IN_FLIGHT; i++) {
        parcel[i].arena = arena_create(1 << 20);
        queue_push(feeder.spare, &parcel[i]);
    }
    if (ok && pthread_create(&feeder.thread, NULL, feed, &feeder))
        ok = cs_fail(err, CS_FAILED, "cannot start a thread");
    if (ok) {
        while ((next = queue_pop(feeder.ready, -1))) {
            const float *probability = learner_score(learner, next->batch);
            if (next->batch->shown_only) {
                shown_keep(shown, next->batch, probability);
                queue_push(feeder.spare, next);
                continue;
            }
            metrics_observe(metrics, next->batch, probability);
            shown_judge(shown, next->batch, probability);
            learner_learn(learner, next->batch);
            examples += next->batch->size;
            if (++batch == batches / 2) {
                begin = bench_seconds();
                examples = 0;
            }
            queue_push(feeder.spare, next);
        }
        *rate = (double)examples / (bench_seconds() - begin);
        queue_close(feeder.spare);
        pthread_join(feeder.thread, NULL);
    }
    *counted = feeder.source;
    source_close(&feeder.source);
    queue_destroy(feeder.spare);
    queue_destroy(feeder.ready);
    for (size_t i = 0; i < IN_FLIGHT; i++) arena_destroy(parcel[i].arena);
    return ok;
}

/* The products of a recorded step over again, on numbers that stay as they are: seconds. */
static double bare_products(const struct gemm_recorder *recorder, struct parallel *parallel)
{
    struct compute compute = { .parallel = parallel };
    double seconds[GEMM_REPEAT];
    size_t a = 1, b = 1, c = 1;
    for (size_t i = 0; i < recorder->count; i++) {
        const struct gemm_shape *s = &recorder->shape[i];
        if (s->m * s->k > a) a = s->m * s->k;
        if (s->k * s->n > b) b = s->k * s->n;
        if (s->m * s->n > c) c = s->m * s->n;
    }
    float *left = malloc(a * sizeof *left), *right = malloc(b * sizeof *right), *out = malloc(c * sizeof *out);
    if (!left || !right || !out) abort();
    for (size_t i = 0; i < a; i++) left[i] = (float)(i % 7) - 3;
    for (size_t i = 0; i < b; i++) right[i] = (float)(i % 5) - 2;
    for (size_t repeat = 0; repeat < GEMM_REPEAT; repeat++) {
        double begin = bench_seconds();
        for (size_t i = 0; i < recorder->count; i++) {
            const struct gemm_shape *s = &recorder->shape[i];
            gemm(&compute, s->transpose_a, s->transpose_b, s->m, s->n, s->k, left, s->transpose_a ? s->m : s->k, right,
                 s->transpose_b ? s->k : s->n, 0.0f, out, s->n);
        }
        seconds[repeat] = bench_seconds() - begin;
    }
    free(left);
    free(right);
    free(out);
    return bench_median(seconds, GEMM_REPEAT);
}

/* Reading and updating the rows of a batch, as a step does, apart from it: seconds. The learner is spoilt by it. */
static double rows_alone(struct learner *learner, const struct features *features, const struct batch *batch,
                         struct parallel *parallel)
{
    double seconds = 0;
    for (size_t t = 0; t < features->table_count; t++) {
        struct embedding_table *table = learner_table(learner, t);
        size_t count = batch->table[t].count, d = embedding_dimension(table);
        uint32_t *slot = malloc((count + 1) * sizeof *slot);
        float *row = malloc((count * d + 1) * sizeof *row);
        if (!slot || !row) abort();
        double begin = bench_seconds();
        embedding_find(table, batch->table[t].key, count, slot);
        embedding_gather(table, slot, count, row, parallel);
        embedding_admit(table, batch->table[t].key, batch->table[t].sightings, count, batch->last_time, slot);
        embedding_update(table, slot, count, row, parallel);
        seconds += bench_seconds() - begin;
        free(slot);
        free(row);
    }
    return seconds;
}

/* Batches that are held in memory, learned over again: the learner without its feeder. */
static bool train_alone(struct bench *bench, struct learner *learner, struct metrics *metrics,
                        const struct cs_config *config,
                        struct features *features, const char *file, const char *name, double *products,
                            struct cs_error *err)
{
    static struct gemm_recorder recorder;
    struct source source;
    struct arena *arena[HELD] = { NULL };
    struct batch *batch[HELD];
    double step[HELD], score[HELD], observe[HELD], learn[HELD], rows[HELD];
    size_t held = 0;
    char what[96];
    bool ok = source_open(&source, config, features, file, err);
    for (; ok && held < HELD; held++) {
        arena[held] = arena_create(1 << 20);
        batch[held] = source_batch(&source, arena[held]);
        if (!batch[held] || batch[held]->size < config->batch.size) break;
    }
    if (ok && held <= WARM) ok = cs_fail(err, CS_FAILED, "too few generated events");
    for (size_t i = 0; ok && i < held; i++) {
        double begin = bench_seconds(), scored, observed;
        if (i == held - 1) {
            recorder.count = 0;
            model_record(learner_model(learner), &recorder);
        }
        const float *probability = learner_score(learner, batch[i]);
        scored = bench_seconds();
        metrics_observe(metrics, batch[i], probability);
        observed = bench_seconds();
        learner_learn(learner, batch[i]);
        step[i] = bench_seconds() - begin;
        score[i] = scored - begin;
        observe[i] = observed - scored;
        learn[i] = step[i] - (observed - begin);
    }
    if (ok) {
        size_t count = held - WARM;
        model_record(learner_model(learner), NULL);
        *products = bare_products(&recorder, bench->parallel);
        double examples = (double)config->batch.size, median = bench_median(step + WARM, count);
        for (size_t i = WARM; i < held; i++) rows[i] = rows_alone(learner, features, batch[i], bench->parallel);
        snprintf(what, sizeof what, "learner alone, %s", name);
        bench_add(bench, what, examples / median, "examples/s", examples / *products,
                  "the bare matrix products of the step");
        const struct { const char *part; double seconds; } profile[] = {
            { "a step", median },
            { "  scoring, as serving would", bench_median(score + WARM, count) },
            { "  judging (metrics)", bench_median(observe + WARM, count) },
            { "  learning", bench_median(learn + WARM, count) },
            { "  of all: bare matrix products", *products },
            { "  of all: rows found, read, updated", bench_median(rows + WARM, count) },
        };
        for (size_t i = 0; i < sizeof profile / sizeof *profile; i++) {
            snprintf(what, sizeof what, "%s, %s", profile[i].part, name);
            bench_add(bench, what, profile[i].seconds * 1e3, "ms", NAN, "");
        }
    }
    for (size_t i = 0; i < HELD; i++) arena_destroy(arena[i]);
    source_close(&source);
    return ok;
}

struct cs_config *bench_configure(const char *zero_shot, struct cs_error *err)
{
    struct config_problems problems = { 0 };
    char text[2048];
    int length = snprintf(text, sizeof text, "%s%s", bench_model_settings, zero_shot);
    struct cs_config *config = config_parse("bench", text, (size_t)length, CONFIG_FOR_TRAIN, &problems);
    if (!config) {
        char *said = config_problems_text(&problems);
        cs_fail(err, CS_CONFIG, "%s", said ? said : "out of memory");
        free(said);
    }
    config_problems_release(&problems);
    return config;
}

static bool write_events(struct generator *generator, const char *file, struct cs_error *err)
{
    struct generated event;
    FILE *out = fopen(file, "w");
    if (!out) return cs_fail_errno(err, errno, "cannot write %s", file);
    while (generator_next(generator, &event)) {
        fwrite(event.value, 1, event.value_length, out);
        putc('\n', out);
    }
    bool failed = ferror(out) != 0;
    return (fclose(out) == 0 && !failed) || cs_fail_errno(err, errno, "cannot write %s", file);
}

/* Decode and join alone: events a second, and how many batches the file makes. */
static bool decode_alone(struct bench *bench, const char *file, size_t *batches, struct cs_error *err)
{
    struct cs_config *config = bench_configure(bench_system[0].zero_shot, err);
    struct features *features = config ? features_create(&config->features, err) : NULL;
    struct source source = { 0 };
    struct arena *arena = arena_create(1 << 20);
    bool ok = features && source_open(&source, config, features, file, err);
    *batches = 0;
    if (ok) {
        double begin = bench_seconds();
        while (source_batch(&source, arena)) ++*batches;
        double seconds = bench_seconds() - begin;
        struct join_counts counts = ingest_counts(source.ingest);
        if (source.refused) ok = cs_fail(err, CS_FAILED, "%ju generated events were refused",
                                         (uintmax_t)source.refused);
        if (bench_wants(bench, "decode")) {
            bench_add(bench, "decode, join, batch: one thread, from a file", (double)source.events / seconds,
                      "events/s",
                      (double)source.events / bench_memcpy(source.bytes), "memcpy of the same bytes");
            bench_add(bench, "  the same", (double)source.bytes / seconds / 1e6, "MB/s", NAN, "");
            bench_add(bench, "  the same", (double)counts.impressions / seconds, "examples/s", NAN, "");
        }
    }
    source_close(&source);
    arena_destroy(arena);
    features_destroy(features);
    config_destroy(config);
    return ok;
}

static bool run_system(struct bench *bench, const struct bench_system *system, const char *file, size_t batches,
                       struct generator *generator,
                       struct cs_error *err)
{
    struct cs_config *config = bench_configure(system->zero_shot, err);
    struct features *features = config ? features_create(&config->features, err) : NULL;
    struct learner *learner = features ? assemble_learner(config, features, bench->parallel, err) : NULL;
    struct metrics *metrics = learner ? metrics_create(config->evaluation.window) : NULL;
    struct shown *shown = metrics ? shown_create(config->evaluation.window) : NULL;
    struct source counted;
    double rate = NAN, products = NAN;
    char what[96], directory[300];
    uint64_t version;
    size_t line = bench->lines++;       /* of the whole, whose ideal is known after its parts */
    bool ok = false;

    if (!shown) goto out;
    if (!train_from_file(learner, metrics, shown, config, features, file, batches, &counted, &rate, err)) goto out;
    if (system->scored && bench_wants(bench, "score")) {
        snprintf(directory, sizeof directory, "%s/checkpoints", bench->directory);
        if (!checkpoint_from_learner(learner, features, config, metrics, shown, 0, directory, &version, err)) goto out;
    }
    if (!train_alone(bench, learner, metrics, config, features, file, system->name, &products, err)) goto out;
    bench->bare_rate[system - bench_system] = (double)config->batch.size / products;
    snprintf(what, sizeof what, "decode, join and learn from a file, %s", system->name);
    size_t end = bench->lines;
    bench->lines = line;
    bench_add(bench, what, rate, "examples/s", bench->bare_rate[system - bench_system],
              "the bare matrix products of the step");
    bench->lines = bench_wants(bench, "train") ? end : line;
    ok = !(system->scored && bench_wants(bench, "score")) || bench_score(bench, directory, generator, err);
out:
    if (!ok) bench->lines = line;
    shown_destroy(shown);
    metrics_destroy(metrics);
    learner_destroy(learner);
    features_destroy(features);
    config_destroy(config);
    return ok;
}

bool bench_stream(struct bench *bench, struct cs_error *err)
{
    struct generate_settings world;
    struct generator *generator = NULL;
    char file[300];
    size_t batches;
    bool ok = false;

    bench_progress("generating 60,000 events: 8 attributes, up to 100 behaviors, 40 % new users");
    if (!generate_profile(&world, "bench", err)) return false;
    world.events = EVENTS;
    generator = generator_create(&world, err);
    snprintf(file, sizeof file, "%s/events.jsonl", bench->directory);
    if (!generator || !write_events(generator, file, err)) goto out;
    bench_progress("decoding and joining");
    if (!decode_alone(bench, file, &batches, err)) goto out;
    for (size_t i = 0; i < BENCH_SYSTEMS; i++) {
        if (!bench_wants(bench, "train") && !bench_wants(bench, "kafka") &&
            !(bench_wants(bench, "score") && bench_system[i].scored)) continue;
        bench_progress(bench_system[i].name);
        if (!run_system(bench, &bench_system[i], file, batches, generator, err)) goto out;
    }
    ok = true;
out:
    generator_destroy(generator);
    return ok;
}
