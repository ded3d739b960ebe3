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

/* Each request is parsed just before it is scored, as a server does; texts are made before all. Old and new users take
 * turns, so that the machine's moods meet both. */
enum { CANDIDATES = 500, USERS = 40, REQUESTS = 10 * USERS, VALUES = 16, BEHAVIORS = 1000 };

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

static bool prepare(struct prepared *p, const char *text)
{
    json_t *entry;
    size_t at;
    memset(p, 0, sizeof *p);
    p->root = json_loads(text, 0, NULL);
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

/* seconds [2][REQUESTS]: of old users, of new ones. In turns of USERS requests of a kind. */
static bool time_requests(struct coldstream *cs, char *const *text, double (*seconds)[REQUESTS], struct cs_error *err)
{
    static float score[CANDIDATES];
    static struct prepared prepared;
    char error[512] = "";
    for (size_t i = 0; i < (size_t)2 * REQUESTS; i++) {
        int is_new = i / USERS % 2 != 0, said = !is_new;
        bool ready = prepare(&prepared, text[i % ((size_t)2 * USERS)]);
        double begin = bench_seconds();
        bool ok = ready && coldstream_score(cs, &prepared.request, score, NULL, &said, error, sizeof error) == 0;
        seconds[is_new][i / (2 * (size_t)USERS) * USERS + i % USERS] = bench_seconds() - begin;
        json_decref(prepared.root);
        if (!ready) return cs_fail(err, CS_FAILED, "cannot make a request");
        if (!ok) return cs_fail(err, CS_FAILED, "scoring: %s", error);
        if (said != is_new) return cs_fail(err, CS_FAILED, "scoring: old and new users were mixed up");
    }
    return true;
}

bool bench_score(struct bench *bench, const char *checkpoints, struct generator *generator, struct cs_error *err)
{
    double seconds[2][REQUESTS], onnx[2], median_of[2];
    char error[512], what[96], version[32];
    struct coldstream_options options = { .size = sizeof options, .follow = 0, .verify = 1 };
    struct coldstream *cs = coldstream_open(checkpoints, &options, error, sizeof error);

    bench_progress("scoring");
    if (!cs) return cs_fail(err, CS_FAILED, "%s", error);
    char *text[2 * USERS];
    for (size_t i = 0; i < 2 * USERS; i++)
        if (!(text[i] = generator_request(generator, i < USERS ? generator_new_users(generator) + i : i - USERS,
                                          CANDIDATES, 13))) abort();
    bool ok = time_onnx(bench, checkpoints, &onnx[0], version, err) && time_requests(cs, text, seconds, err) &&
              time_onnx(bench, checkpoints, &onnx[1], version, err);
    for (size_t i = 0; i < 2 * USERS; i++) free(text[i]);
    coldstream_close(cs);
    if (!ok) return false;
    for (int is_new = 0; is_new < 2; is_new++) {
        const char *kind = is_new ? "new" : "old";
        double best = bare_products(is_new != 0), median = median_of[is_new] = bench_median(seconds[is_new], REQUESTS);
        snprintf(what, sizeof what, "scores, one %s user, 500 candidates, one thread", kind);
        bench_add(bench, what, CANDIDATES / median, "scores/s", CANDIDATES / best,
                  "the bare matrix products of the request");
        snprintf(what, sizeof what, "  p99 of a request, %s user", kind);
        bench_add(bench, what, 1e3 * bench_quantile(seconds[is_new], REQUESTS, 0.99), "ms", 1e3 * best,
                  "the bare matrix products of the request");
    }
    double fastest = onnx[0] < onnx[1] ? onnx[0] : onnx[1];
    snprintf(what, sizeof what, "onnxruntime %s, its tower alone", version);
    bench_add(bench, "  median of a request, old user", 1e3 * median_of[0], "ms", 1e3 * fastest, what);
    bench_add(bench, "  median of a request, new user", 1e3 * median_of[1], "ms", 1e3 * median_of[0], "an old user's");
    return true;
}
