/* The demo's second half: coldstream-serve on the checkpoint just published, and a new user's items ranked by it. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/demo.h"
#include "tools/http_ask.h"

enum { CANDIDATES = 200, SHOWN = 8 };

struct shown { size_t index; double score; };

static int by_score(const void *a, const void *b)
{
    double x = ((const struct shown *)a)->score, y = ((const struct shown *)b)->score;
    return (x < y) - (x > y);
}

/* Rank correlation of what was served with what the hidden model knows. */
static double agreement(const double *served, const double *hidden, size_t n)
{
    double concordant = 0, pairs = 0;

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) {
            double product = (served[i] - served[j]) * (hidden[i] - hidden[j]);
            pairs++;
            concordant += product > 0 ? 1 : product == 0 ? 0.5 : 0;
        }
    return pairs > 0 ? concordant / pairs : NAN;
}

static bool print_answer(struct demo *demo, const char *request, const char *response, uint64_t user, int hour,
                         struct cs_error *err)
{
    json_t *asked = json_loads(request, 0, NULL), *answer = json_loads(response, 0, NULL),
           *scores = json_object_get(answer, "scores");
    json_t *one = json_array_get(json_object_get(asked, "requests"), 0),
           *candidates = json_object_get(one, "candidates");
    struct generator *generator = demo->impressions ? NULL : generator_create(&demo->settings, err);
    size_t n = json_array_size(candidates);
    struct shown shown[CANDIDATES];
    double served[CANDIDATES], hidden[CANDIDATES];
    bool ok =
        n > 0 && n <= CANDIDATES && (json_array_size(scores) == n || json_array_size(json_array_get(scores, 0)) == n);
    char *attributes = json_dumps(json_object_get(one, "user"), JSON_COMPACT);

    if (!ok) {
        cs_fail(err, CS_FAILED, "coldstream-serve answered %.300s", response);
        goto out;
    }
    if (json_is_array(json_array_get(scores, 0))) scores = json_array_get(scores, 0);
    demo_say("\nA new user, asked of coldstream-serve (checkpoint %" JSON_INTEGER_FORMAT "): %s",
        json_integer_value(json_object_get(answer, "version")), attributes);
    for (size_t i = 0; i < n; i++) {
        const char *item = json_string_value(json_object_get(json_array_get(candidates, i), "item_id"));
        served[i] = json_number_value(json_array_get(scores, i));
        hidden[i] = generator ? generator_click_probability(generator, user, strtoull(item + 1, NULL, 10), hour) : NAN;
        shown[i] = (struct shown){ i, served[i] };
    }
    qsort(shown, n, sizeof *shown, by_score);
    demo_say("  rank  item      served%s   about it", generator ? "   in truth" : "");
    for (size_t i = 0; i < SHOWN && i < n; i++) {
        const json_t *candidate = json_array_get(candidates, shown[i].index);
        char truth[32] = "", *about = json_dumps(json_object_get(candidate, "item"), JSON_COMPACT);
        if (generator) snprintf(truth, sizeof truth, "      %.3f", hidden[shown[i].index]);
        demo_say("  %4zu  %-8s   %.3f%s   %s", i + 1, json_string_value(json_object_get(candidate, "item_id")),
                 shown[i].score, truth, about ? about : "");
        free(about);
    }
    if (generator) {
        double mean = 0, top = 0;
        for (size_t i = 0; i < n; i++) mean += hidden[i] / (double)n;
        for (size_t i = 0; i < SHOWN && i < n; i++) top += hidden[shown[i].index] / SHOWN;
        demo_say("  Of %zu candidates; true click probability of the first %d: %.3f, of all: %.3f. Pairs in the right "
            "order: %.0f %%.",
            n, SHOWN, top, mean, 100 * agreement(served, hidden, n));
    }
out:
    generator_destroy(generator);
    free(attributes);
    json_decref(asked);
    json_decref(answer);
    return ok;
}

static bool is_candidate(const json_t *candidates, const json_t *id)
{
    for (size_t i = 0; i < json_array_size(candidates); i++)
        if (json_equal(json_object_get(json_array_get(candidates, i), "item_id"), id)) return true;
    return false;
}

/* The first impression of a new user in the file, asked again with as many items as are seen before CANDIDATES are
 * found. */
static char *request_from_file(const struct demo *demo, struct cs_error *err)
{
    FILE *file = fopen(demo->impressions, "r");
    char *line = NULL, *text = NULL;
    size_t room = 0;
    json_t *request = NULL, *candidates = json_array();

    while (file && json_array_size(candidates) < CANDIDATES && getline(&line, &room, file) > 0) {
        json_t *event = json_loads(line, 0, NULL), *id = json_object_get(event, "item_id");
        if (!is_candidate(candidates, id))
            json_array_append_new(candidates,
                                  json_pack("{s:O,s:O*}", "item_id", id, "item", json_object_get(event, "item")));
        if (!request) {
            request =
                json_pack("{s:O,s:O?,s:[],s:O?}", "user_id", json_object_get(event, "user_id"), "user",
                          json_object_get(event, "user"), "behaviors", "context", json_object_get(event, "context"));
        }
        json_decref(event);
    }
    if (file) fclose(file);
    free(line);
    if (request && json_array_size(candidates)) {
        json_t *root;
        json_object_set(request, "candidates", candidates);
        root = json_pack("{s:[O]}", "requests", request);
        text = json_dumps(root, JSON_COMPACT);
        json_decref(root);
    } else {
        cs_fail(err, CS_FAILED, "%s has no impressions", demo->impressions);
    }
    json_decref(request);
    json_decref(candidates);
    return text;
}

/* The port that coldstream-serve was given stands in its log. */
static bool find_port(struct demo *demo, int *port, struct cs_error *err)
{
    char path[4096], line[1024];
    const char *at;
    double began = demo_now();
    FILE *file;

    snprintf(path, sizeof path, "%s/serve.log", demo->directory);
    for (;;) {
        file = fopen(path, "r");
        while (file && fgets(line, sizeof line, file))
            if ((at = strstr(line, "port="))) {
                *port = (int)strtol(at + 5, NULL, 10);
                fclose(file);
                return true;
            }
        if (file) fclose(file);
        if (!demo_runs(&demo->serve)) return cs_fail(err, CS_FAILED, "coldstream-serve did not start");
        if (demo_now() - began > 30) return cs_fail(err, CS_FAILED, "coldstream-serve does not say where it listens");
        demo_sleep(50);
    }
}

bool demo_serve(struct demo *demo, const char *checkpoints, struct cs_error *err)
{
    char *request = NULL;
    struct http_answer *answer = malloc(sizeof *answer);
    CURL *curl = curl_easy_init();
    uint64_t user = 7;
    int port = 0, hour = 20;
    bool ok = false;
    double began = demo_now();

    demo->serve = demo_start(
        demo, "coldstream-serve", "serve.log",
        (const char *[]){ "coldstream-serve", "--checkpoint", checkpoints, "--listen", "127.0.0.1:0", NULL });
    if (!answer || !curl) abort();
    if (!find_port(demo, &port, err)) goto out;
    while (http_ask(curl, port, "/readyz", NULL, 0, answer) != 200) {
        if (!demo_runs(&demo->serve) || demo_now() - began > 30) {
            cs_fail(err, CS_FAILED, "coldstream-serve is not ready");
            goto out;
        }
        demo_sleep(50);
    }
    if (demo->impressions) {
        request = request_from_file(demo, err);
    } else {
        struct generator *generator = generator_create(&demo->settings, err);
        request = generator ? generator_request(generator, user, CANDIDATES, hour) : NULL;
        generator_destroy(generator);
    }
    if (!request) goto out;
    if (http_ask(curl, port, "/v1/score", request, strlen(request), answer) != 200) {
        cs_fail(err, CS_FAILED, "coldstream-serve did not score the request: %.300s", answer->text);
        goto out;
    }
    ok = print_answer(demo, request, answer->text, user, hour, err) && demo_stop(&demo->serve, "coldstream-serve", err);
out:
    if (!ok) demo_show_log(demo, "serve.log");
    curl_easy_cleanup(curl);
    free(answer);
    free(request);
    return ok;
}
