/* One user, 500 candidates, through the library that a serving process embeds. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/gemm.h"
#include "daemon/coldstream.h"
#include "tools/bench.h"
#include "tools/generate.h"

enum { CANDIDATES = 500, REQUESTS = 300, WARM = 20, VALUES = 16, BEHAVIORS = 1000 };

/* A request and what it points into. */
struct prepared {
    json_t *root;
    struct coldstream_value user[VALUES], context[VALUES], item[CANDIDATES][2];
    const char *behavior[BEHAVIORS];
    struct coldstream_candidate candidate[CANDIDATES];
    struct coldstream_request request;
};

static size_t values_of(json_t *object, struct coldstream_value *value, size_t room)
{
    const char *name;
    json_t *member;
    size_t count = 0;
    json_object_foreach(object, name, member)
        if (count < room) value[count++] = (struct coldstream_value){
                name, json_string_value(member), json_number_value(member) };
    return count;
}

static bool prepare(struct prepared *p, struct generator *generator, uint64_t user)
{
    char *text = generator_request(generator, user, CANDIDATES, 13);
    json_t *entry;
    size_t at;
    memset(p, 0, sizeof *p);
    p->root = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    if (!p->root) return false;
    json_t *asked = json_array_get(json_object_get(p->root, "requests"), 0);
    struct coldstream_request *r = &p->request;
    r->size = sizeof *r;
    r->user_id = json_string_value(json_object_get(asked, "user_id"));
    r->user = p->user;
    r->user_count = values_of(json_object_get(asked, "user"), p->user, VALUES);
    r->context = p->context;
    r->context_count = values_of(json_object_get(asked, "context"), p->context, VALUES);
    r->behavior = p->behavior;
    json_array_foreach(json_object_get(asked, "behaviors"), at, entry)
        if (r->behavior_count < BEHAVIORS) p->behavior[r->behavior_count++] = json_string_value(entry);
    r->candidate = p->candidate;
    json_array_foreach(json_object_get(asked, "candidates"), at, entry) {
        if (r->candidate_count == CANDIDATES) break;
        struct coldstream_value *item = p->item[r->candidate_count];
        p->candidate[r->candidate_count++] = (struct coldstream_candidate){
            .item_id = json_string_value(json_object_get(entry, "item_id")), .item = item,
            .item_count = values_of(json_object_get(entry, "item"), item, 2),
        };
    }
    return r->user_id && r->candidate_count == CANDIDATES;
}

/* The matrix products of one request: the ranking tower over all candidates and, for a new user, the path that
 * generates. */
static double bare_products(bool is_new)
{
    static const struct gemm_shape shape[] = {
        { CANDIDATES, 512, 128, false, true }, { CANDIDATES, 256, 512, false, true },
            { CANDIDATES, 1, 256, false, true },
        { 8, 128, 32, false, true },    { 1, 1024, 32, false, true },   { 1, 512, 1056, false, true },
            { 1, 512, 544, false, true },
        { 1, 512, 512, false, true },   { 1, 1024, 1024, false, true }, { 1, 32, 1536, false, true },
    };
    enum { RANKING = 3, ALL = sizeof shape / sizeof *shape, LARGEST = 1024 * 1056 };
    struct compute compute = { .parallel = &parallel_serial };
    float *a = calloc(LARGEST, sizeof *a), *b = calloc(LARGEST, sizeof *b), *c = calloc(LARGEST, sizeof *c);
    double seconds[REQUESTS];
    if (!a || !b || !c) abort();
    for (size_t request = 0; request < REQUESTS; request++) {
        double begin = bench_seconds();
        for (size_t i = 0; i < (is_new ? ALL : RANKING); i++) {
            const struct gemm_shape *s = &shape[i];
            gemm(&compute, false, true, s->m, s->n, s->k, a, s->k, b, s->k, 0.0f, c, s->n);
        }
        seconds[request] = bench_seconds() - begin;
    }
    free(a);
    free(b);
    free(c);
    return bench_median(seconds, REQUESTS);
}

/* The same network by onnxruntime, in an environment of `make bench`'s (tools/onnx.sh). */
static bool time_onnx(const struct bench *bench, const char *checkpoints, double *seconds, char version[32],
                      struct cs_error *err)
{
    char command[1024];
    snprintf(command, sizeof command, "'%s/onnx/bin/python' tools/bench_onnx.py '%s' %d '%s/coldstreamctl'",
             bench->programs, checkpoints, CANDIDATES, bench->programs);
    FILE *said = popen(command, "r");
    int read = said ? fscanf(said, "%lf %31s", seconds, version) : 0;
    int status = said ? pclose(said) : -1;
    return (read == 2 && !status) ||
           cs_fail(err, CS_FAILED, "onnxruntime was not measured: run tools/onnx.sh %s first", bench->programs);
}

bool bench_score(struct bench *bench, const char *checkpoints, struct generator *generator, struct cs_error *err)
{
    static struct prepared prepared;
    static float score[CANDIDATES];
    double seconds[REQUESTS], onnx[2], median_of[2];
    char error[512], what[96], version[32];
    struct coldstream_options options = { .size = sizeof options, .follow = 0, .verify = 1 };
    struct coldstream *cs = coldstream_open(checkpoints, &options, error, sizeof error);

    bench_progress("scoring");
    if (!cs) return cs_fail(err, CS_FAILED, "%s", error);
    for (int is_new = 0; is_new < 2; is_new++) {
        if (!time_onnx(bench, checkpoints, &onnx[is_new], version, err)) {
            coldstream_close(cs);
            return false;
        }
        uint64_t first = is_new ? 0 : generator_new_users(generator);
        for (size_t i = 0; i < WARM + REQUESTS; i++) {
            int said = 0;
            bool ready = prepare(&prepared, generator, first + i);
            double begin = bench_seconds();
            bool ok = ready && coldstream_score(cs, &prepared.request, score, NULL, &said, error, sizeof error) == 0;
            if (i >= WARM) seconds[i - WARM] = bench_seconds() - begin;
            json_decref(prepared.root);
            if (!ready) snprintf(error, sizeof error, "cannot make a request");
            if (ok && said == is_new) continue;
            coldstream_close(cs);
            return cs_fail(err, CS_FAILED, "scoring: %s", ok ? "old and new users were mixed up" : error);
        }
        const char *kind = is_new ? "new" : "old";
        double best = bare_products(is_new != 0), median = median_of[is_new] = bench_median(seconds, REQUESTS);
        snprintf(what, sizeof what, "scores, one %s user, 500 candidates, one thread", kind);
        bench_add(bench, what, CANDIDATES / median, "scores/s", CANDIDATES / best,
                  "the bare matrix products of the request");
        snprintf(what, sizeof what, "  p99 of a request, %s user", kind);
        bench_add(bench, what, 1e3 * bench_quantile(seconds, REQUESTS, 0.99), "ms", 1e3 * best,
                  "the bare matrix products of the request");
    }
    coldstream_close(cs);
    double fastest = onnx[0] < onnx[1] ? onnx[0] : onnx[1];
    snprintf(what, sizeof what, "onnxruntime %s, its tower alone", version);
    bench_add(bench, "  median of a request, old user", 1e3 * median_of[0], "ms", 1e3 * fastest, what);
    bench_add(bench, "  median of a request, new user", 1e3 * median_of[1], "ms", 1e3 * median_of[0], "an old user's");
    return true;
}
