/* A bounded queue, and the thread that scores what is in it. */
#include "daemon/serve_shadow.h"

#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"
#include "daemon/coldstream_internal.h"
#include "daemon/log.h"

enum { WAITING = 64 };
static const size_t WAITING_BYTES = 64 << 20;

struct offer { char *request, *response; size_t length; };

struct serve_shadow {
    struct coldstream *cs;
    struct telemetry *telemetry;
    double share;
    _Atomic uint64_t seen;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stop;
    struct offer offer[WAITING];
    size_t first, count, bytes;
    bool complained;
};

static void count(struct serve_shadow *shadow, const char *result, double amount)
{
    telemetry_add(shadow->telemetry, METRIC_SHADOW_REQUESTS, TELEMETRY_LABELS(result), amount);
}

struct sums { double served, shadow; size_t scores; };

static void compare_numbers(struct serve_shadow *shadow, const json_t *served, const json_t *mine, struct sums *sums)
{
    size_t i;
    json_t *one;
    if (json_is_array(served)) {
        json_array_foreach(served, i, one) compare_numbers(shadow, one, json_array_get(mine, i), sums);
        return;
    }
    double a = json_number_value(served), b = json_number_value(mine);
    telemetry_observe(shadow->telemetry, METRIC_SHADOW_DIFFERENCE, fabs(a - b));
    sums->served += a;
    sums->shadow += b;
    sums->scores++;
}

static bool compare(struct serve_shadow *shadow, const struct offer *offer, struct cs_error *err)
{
    bool too_large, ok = false;
    char *response = NULL;
    struct sums sums = { 0 };
    json_t *served = json_loads(offer->response, 0, NULL), *mine = NULL;
    struct scoring_call *call = scoring_call_read(offer->request, offer->length, &(struct scoring_limits){ 0 },
                                                  &too_large, err);
    if (call && coldstream_score_call(shadow->cs, call, &response, err)) {
        mine = json_loads(response, 0, NULL);
        compare_numbers(shadow, json_object_get(served, "scores"), json_object_get(mine, "scores"), &sums);
        telemetry_add(shadow->telemetry, METRIC_SHADOW_SCORES, NULL, (double)sums.scores);
        telemetry_add(shadow->telemetry, METRIC_SHADOW_SUM, TELEMETRY_LABELS("served"), sums.served);
        telemetry_add(shadow->telemetry, METRIC_SHADOW_SUM, TELEMETRY_LABELS("shadow"), sums.shadow);
        ok = true;
    }
    scoring_call_destroy(call);
    json_decref(served);
    json_decref(mine);
    free(response);
    return ok;
}

static void *score_along(void *argument)
{
    struct serve_shadow *shadow = argument;
    pthread_mutex_lock(&shadow->mutex);
    for (;;) {
        while (!shadow->stop && !shadow->count) pthread_cond_wait(&shadow->wake, &shadow->mutex);
        if (shadow->stop) break;
        struct offer offer = shadow->offer[shadow->first];
        shadow->first = (shadow->first + 1) % WAITING;
        shadow->count--;
        pthread_mutex_unlock(&shadow->mutex);
        struct cs_error err = { 0 };
        bool ok = compare(shadow, &offer, &err);
        count(shadow, ok ? "compared" : "failed", 1);
        if (!ok && !shadow->complained)
            log_warning("the shadow version fails where the current one scored; said once, then counted alone",
                        LOG_U("version", serve_shadow_version(shadow)), LOG_S("error", err.message));
        shadow->complained |= !ok;
        free(offer.request);
        free(offer.response);
        pthread_mutex_lock(&shadow->mutex);
        shadow->bytes -= offer.length;
    }
    pthread_mutex_unlock(&shadow->mutex);
    return NULL;
}

struct serve_shadow *serve_shadow_create(struct coldstream *cs, double share, struct telemetry *telemetry,
                                         struct cs_error *err)
{
    struct serve_shadow *shadow = need(calloc(1, sizeof *shadow));
    shadow->cs = cs;
    shadow->share = share;
    shadow->telemetry = telemetry;
    pthread_mutex_init(&shadow->mutex, NULL);
    pthread_cond_init(&shadow->wake, NULL);
    static const char *const result[] = { "compared", "failed", "left_out" };
    for (size_t i = 0; i < 3; i++) count(shadow, result[i], 0);
    if (pthread_create(&shadow->thread, NULL, score_along, shadow) == 0) return shadow;
    pthread_cond_destroy(&shadow->wake);
    pthread_mutex_destroy(&shadow->mutex);
    free(shadow);
    cs_fail(err, CS_FAILED, "no thread for the shadow version");
    return NULL;
}

void serve_shadow_destroy(struct serve_shadow *shadow)
{
    if (!shadow) return;
    pthread_mutex_lock(&shadow->mutex);
    shadow->stop = true;
    pthread_cond_signal(&shadow->wake);
    pthread_mutex_unlock(&shadow->mutex);
    pthread_join(shadow->thread, NULL);
    for (; shadow->count; shadow->count--, shadow->first = (shadow->first + 1) % WAITING) {
        free(shadow->offer[shadow->first].request);
        free(shadow->offer[shadow->first].response);
    }
    pthread_cond_destroy(&shadow->wake);
    pthread_mutex_destroy(&shadow->mutex);
    coldstream_close(shadow->cs);
    free(shadow);
}

uint64_t serve_shadow_version(struct serve_shadow *shadow)
{
    return coldstream_version(shadow->cs);
}

/* Whether the share's sum comes to another whole number with this request: every second one of 0.5, for instance. */
static bool is_due(struct serve_shadow *shadow)
{
    uint64_t number = atomic_fetch_add(&shadow->seen, 1);
    return floor(shadow->share * (double)(number + 1)) > floor(shadow->share * (double)number);
}

void serve_shadow_offer(struct serve_shadow *shadow, const char *request, size_t length, const char *response)
{
    if (!shadow || !is_due(shadow)) return;
    pthread_mutex_lock(&shadow->mutex);
    bool room = shadow->count < WAITING && shadow->bytes + length <= WAITING_BYTES;
    if (room) {
        struct offer offer = { need(malloc(length + 1)), need(strdup(response)), length };
        memcpy(offer.request, request, length);
        shadow->offer[(shadow->first + shadow->count++) % WAITING] = offer;
        shadow->bytes += length;
        pthread_cond_signal(&shadow->wake);
    }
    pthread_mutex_unlock(&shadow->mutex);
    if (!room) count(shadow, "left_out", 1);
}
