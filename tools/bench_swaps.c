/* coldstream-serve's pages under full load, without and with `current` moving all the time between two versions whose
 * every score differs: what fails, what is mixed, and what a swap costs the slowest requests. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/config.h"
#include "core/features.h"
#include "core/model.h"
#include "core/random.h"
#include "daemon/serve_http.h"
#include "storage/checkpoint.h"
#include "tools/bench.h"
#include "tools/generate.h"
#include "tools/http_ask.h"

enum { SWAPS = 1000, CLIENTS = 4, BODIES = 16, CANDIDATES = 100, ITEMS = 5000, SAMPLES = 1 << 20, QUIET = 12,
       EVERY = 40 };

struct swapping {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    size_t swapped;
    char refused[256];
    struct coldstream *cs;
    int port;
    char *body[BODIES], *expected[2][BODIES];
    atomic_bool stop;
    atomic_size_t count, failed, mixed;
    double *seconds;                /* [SAMPLES] of each answer of the running phase */
};

static void on_swap(void *argument, uint64_t version, const char *error)
{
    struct swapping *swapping = argument;
    (void)version;
    pthread_mutex_lock(&swapping->mutex);
    if (error) snprintf(swapping->refused, sizeof swapping->refused, "%s", error);
    swapping->swapped++;
    pthread_cond_signal(&swapping->changed);
    pthread_mutex_unlock(&swapping->mutex);
}

static int ascending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static bool put_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    return tensor->role != TENSOR_SCORING || checkpoint_tensor(self, tensor, err);
}

/* A model of the default size as it starts, other for each seed, and rows for all items. */
static bool publish(const char *directory, uint64_t seed, uint64_t *version, struct cs_error *err)
{
    static uint64_t key[ITEMS];
    struct cs_config *config = bench_configure("{kind: mail, target: pooled}\n", err);
    struct features *features = config ? features_create(&config->features, err) : NULL;
    size_t dimension = config ? config->embedding.dimension : 0;
    struct model *model =
        features ? model_create(features, dimension, &config->model, &parallel_serial, err) : NULL;
    if (model) model_start(model, seed);
    struct checkpoint_writer *writer = model ? checkpoint_begin(directory, err) : NULL;
    char *text = config ? config_model_text(config) : NULL;
    float *row = calloc(dimension + 1, sizeof *row);
    bool ok = writer && row && checkpoint_meta(writer, "config", text, err) &&
              model_tensors(model, put_tensor, writer, err);
    for (size_t i = 0; i < ITEMS; i++) {
        char name[32];
        key[i] = key_of_text(name, (size_t)snprintf(name, sizeof name, "i%zu", i));
    }
    qsort(key, ITEMS, sizeof *key, ascending);
    for (size_t t = 0; ok && t < features->table_count; t++)
        for (size_t i = 0; ok && i < ITEMS; i++) {
            uint64_t stream = random_stream(seed, features->table[t], key[i]);
            for (size_t d = 0; d < dimension; d++) row[d] = random_normal(stream, d);
            ok = checkpoint_row(writer, features->table[t], key[i], row, dimension, err);
        }
    if (ok) ok = checkpoint_finish(writer, "{}", 100, version, err);
    else if (writer) checkpoint_abandon(writer);
    free(row);
    free(text);
    model_destroy(model);
    features_destroy(features);
    config_destroy(config);
    return ok;
}

static void *keep_asking(void *argument)
{
    struct swapping *swapping = argument;
    struct http_answer *answer = malloc(sizeof *answer);
    CURL *curl = curl_easy_init();
    if (!answer || !curl) abort();
    for (size_t i = 0; !atomic_load(&swapping->stop); i = (i + 1) % BODIES) {
        const char *body = swapping->body[i];
        double begin = bench_seconds();
        long code = http_ask(curl, swapping->port, "/v1/score", body, strlen(body), answer);
        double seconds = bench_seconds() - begin;
        size_t at = atomic_fetch_add(&swapping->count, 1);
        if (at < SAMPLES) swapping->seconds[at] = seconds;
        if (code != 200) atomic_fetch_add(&swapping->failed, 1);
        else if (strcmp(answer->text, swapping->expected[0][i]) && strcmp(answer->text, swapping->expected[1][i]))
            atomic_fetch_add(&swapping->mixed, 1);
    }
    curl_easy_cleanup(curl);
    free(answer);
    return NULL;
}

/* The p99 of a phase, in seconds; NAN never: a phase without an answer fails. */
static bool phase(struct swapping *swapping, const char *directory, const uint64_t version[2], bool swaps, double *p99,
                  struct cs_error *err)
{
    pthread_t client[CLIENTS];
    atomic_store(&swapping->stop, false);
    atomic_store(&swapping->count, 0);
    atomic_store(&swapping->failed, 0);
    atomic_store(&swapping->mixed, 0);
    for (size_t i = 0; i < CLIENTS; i++)
        if (pthread_create(&client[i], NULL, keep_asking, swapping)) abort();
    if (!swaps) nanosleep(&(struct timespec){ .tv_sec = QUIET }, NULL);
    bool ok = true;
    for (size_t i = 0; swaps && ok && i < SWAPS; i++) {
        size_t before = swapping->swapped;      /* none is under way */
        nanosleep(&(struct timespec){ .tv_nsec = EVERY * 1000000L }, NULL);
        ok = checkpoint_repoint(directory, version[i % 2], err);
        pthread_mutex_lock(&swapping->mutex);
        while (ok && swapping->swapped == before) pthread_cond_wait(&swapping->changed, &swapping->mutex);
        if (*swapping->refused) ok = cs_fail(err, CS_FAILED, "a swap was refused: %s", swapping->refused);
        pthread_mutex_unlock(&swapping->mutex);
    }
    atomic_store(&swapping->stop, true);
    for (size_t i = 0; i < CLIENTS; i++) pthread_join(client[i], NULL);
    size_t count = atomic_load(&swapping->count);
    if (ok && count < 1000) return cs_fail(err, CS_FAILED, "%zu answers came, too few for a p99", count);
    *p99 = bench_quantile(swapping->seconds, count < SAMPLES ? count : SAMPLES, 0.99);
    return ok;
}

/* What each body is to be answered by each version: by the library itself, a handle pinned to that version. */
static bool expect(struct swapping *swapping, const uint64_t version[2], struct cs_error *err)
{
    char error[256] = "";
    for (size_t v = 0; v < 2; v++) {
        struct coldstream *pinned = coldstream_pin(swapping->cs, version[v], error, sizeof error);
        bool ok = pinned != NULL;
        for (size_t i = 0; ok && i < BODIES; i++)
            ok = !coldstream_score_json(pinned, swapping->body[i], strlen(swapping->body[i]),
                                        &swapping->expected[v][i], error, sizeof error);
        coldstream_close(pinned);
        if (!ok) return cs_fail(err, CS_FAILED, "%s", error);
    }
    for (size_t i = 0; i < BODIES; i++) {
        const char *a = strchr(swapping->expected[0][i], ','), *b = strchr(swapping->expected[1][i], ',');
        if (!a || !b || !strcmp(a, b)) return cs_fail(err, CS_FAILED, "both versions have the same scores");
    }
    return true;
}

bool bench_swaps(struct bench *bench, struct cs_error *err)
{
    struct swapping swapping = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    struct coldstream_options options = { .size = sizeof options, .poll_milliseconds = 1, .follow = 1, .verify = 1,
                                          .on_swap = on_swap, .argument = &swapping };
    struct serve_options serve = { .listen = "127.0.0.1:0", .threads = 2, .max_body = 1 << 20 };
    struct generate_settings world;
    struct generator *generator = NULL;
    struct telemetry *telemetry = telemetry_create();
    struct serve_http *server = NULL;
    char directory[300], error[256];
    uint64_t version[2];
    double quiet[2], swapped, begin, took;
    bool ok = false;

    bench_progress("1,000 swaps under load");
    snprintf(directory, sizeof directory, "%s/swaps", bench->directory);
    swapping.seconds = malloc(SAMPLES * sizeof *swapping.seconds);
    if (!telemetry || !swapping.seconds) abort();
    if (!generate_profile(&world, "bench", err) || !(generator = generator_create(&world, err))) goto out;
    for (size_t i = 0; i < BODIES; i++)         /* new users and old ones */
        if (!(swapping.body[i] = generator_request(generator, i % 2 ? i : generator_new_users(generator) + i,
                                                   CANDIDATES, 13))) abort();
    if (!publish(directory, 1, &version[0], err) || !publish(directory, 2, &version[1], err)) goto out;
    if (!(swapping.cs = coldstream_open(directory, &options, error, sizeof error))) {
        cs_fail(err, CS_FAILED, "%s", error);
        goto out;
    }
    if (!expect(&swapping, version, err)) goto out;
    if (!(server = serve_http_start(swapping.cs, &serve, telemetry, err))) goto out;
    swapping.port = serve_http_port(server);
    if (!phase(&swapping, directory, version, false, &quiet[0], err)) goto out;
    begin = bench_seconds();
    if (!phase(&swapping, directory, version, true, &swapped, err)) goto out;
    took = bench_seconds() - begin;
    size_t answers = atomic_load(&swapping.count), failed = atomic_load(&swapping.failed),
           mixed = atomic_load(&swapping.mixed);
    if (!phase(&swapping, directory, version, false, &quiet[1], err)) goto out;
    char what[64];
    snprintf(what, sizeof what, "1,000 swaps, %zu answers, 4 clients: failed", answers);
    bench_add(bench, what, (double)failed, "requests", NAN, "none");
    bench_add(bench, "  answers of mixed versions", (double)mixed, "answers", NAN, "none");
    bench_add(bench, "  swaps a second", SWAPS / took, "swaps/s", NAN, "");
    bench_add(bench, "  p99 of a request while swapping", 1e3 * swapped, "ms", 1e3 * (quiet[0] + quiet[1]) / 2,
              "the same load before and after, wanted <= 1.2");
    ok = true;
out:
    serve_http_stop(server, 5000);
    coldstream_close(swapping.cs);
    telemetry_destroy(telemetry);
    generator_destroy(generator);
    for (size_t i = 0; i < BODIES; i++) {
        free(swapping.body[i]);
        free(swapping.expected[0][i]);
        free(swapping.expected[1][i]);
    }
    free(swapping.seconds);
    return ok;
}
