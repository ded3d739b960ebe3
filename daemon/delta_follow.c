/* Deltas in a queue, in waiting, and onto a version. */
#include "daemon/delta_follow.h"

#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

/* Whole deltas in the order they came. */
struct run { struct delta *first, **end; size_t count, bytes; };

struct delta_follow {
    size_t bytes_max;
    void (*report)(void *argument, const struct coldstream_delta_report *report);
    void *argument;
    _Atomic uint64_t count[COLDSTREAM_DELTA_RESULTS];
    _Atomic uint32_t waits;
    pthread_mutex_t feeding;        /* of the reader */
    struct delta_reader *reader;
    pthread_mutex_t mutex;          /* of the queue */
    pthread_cond_t taken;
    struct run queue;
    /* The library's thread alone: */
    struct run waiting, put;
    bool full;                      /* said that no more rows go over the checkpoint */
};

const char *coldstream_delta_result_name(enum coldstream_delta_result result)
{
    static const char *const name[] = { "applied", "duplicate", "unfinished", "gap",
                                        "epoch",   "damaged",   "refused",    "overflow",  "held" };
    return result < COLDSTREAM_DELTA_RESULTS ? name[result] : "?";
}

/* -- runs --------------------------------------------------------------------------------------------------------- */

static void run_add(struct run *run, struct delta *delta)
{
    if (!run->end) run->end = &run->first;
    delta->next = NULL;
    *run->end = delta;
    run->end = &delta->next;
    run->count++;
    run->bytes += delta->bytes;
}

static struct delta *run_take(struct run *run)
{
    struct delta *delta = run->first;
    if (!delta) return NULL;
    run->first = delta->next;
    if (!run->first) run->end = &run->first;
    run->count--;
    run->bytes -= delta->bytes;
    return delta;
}

static void run_clear(struct run *run)
{
    for (struct delta *delta; (delta = run_take(run));) delta_drop(delta);
}

static const struct delta *run_last(const struct run *run)
{
    const struct delta *delta = run->first;
    while (delta && delta->next) delta = delta->next;
    return delta;
}

/* -- states ------------------------------------------------------------------------------------------------------- */

struct delta_position delta_position_of(const char *manifest)
{
    struct delta_position at = { 0 };
    json_t *root = json_loads(manifest, 0, NULL), *delta = json_object_get(root, "delta");
    json_int_t epoch = json_integer_value(json_object_get(delta, "epoch")),
               sequence = json_integer_value(json_object_get(delta, "sequence"));
    if (epoch > 0 && sequence >= 0) at = (struct delta_position){ (uint64_t)epoch, (uint64_t)sequence };
    json_decref(root);
    return at;
}

void delta_state_copy(struct delta_state *to, const struct delta_state *from)
{
    to->at = from->at;
    overlay_copy(&to->overlay, &from->overlay);
    to->newest = from->newest ? delta_hold(from->newest) : NULL;
}

void delta_state_release(struct delta_state *state)
{
    overlay_release(&state->overlay);
    delta_drop(state->newest);
    state->newest = NULL;
}

/* Deltas and full versions say which model they are of; one of another can't be put together with this one, however
 * alike its tables and tensors are. */
static bool is_of_the_model(const struct scorer *scorer, const struct delta *delta, struct cs_error *err)
{
    const char *served = checkpoint_meta_text(scorer_checkpoint(scorer), "fingerprint");
    if (served && !strcmp(served, delta->fingerprint)) return true;
    return cs_fail(err, CS_REFUSED,
                   "it is of another model (%.32s) than the full version below (%.32s): is it the topic of the daemon "
                   "that publishes here?",
                   delta->fingerprint, served ? served : "says none");
}

/* -- telling ------------------------------------------------------------------------------------------------------ */

static void tell(struct delta_follow *follow, enum coldstream_delta_result result, const struct delta *delta,
                 const char *detail)
{
    struct coldstream_delta_report report = { .size = sizeof report, .result = result, .detail = detail };
    atomic_fetch_add(&follow->count[result], 1);
    if (!follow->report) return;
    if (delta) {
        report.epoch = delta->place.epoch;
        report.sequence = delta->place.sequence;
        report.version = delta->place.version;
        if (result == COLDSTREAM_DELTA_APPLIED) {
            report.learned = delta->sample;
            report.learned_count = delta->samples;
        }
    }
    follow->report(follow->argument, &report);
}

/* -- feeding ------------------------------------------------------------------------------------------------------ */

struct delta_follow *delta_follow_create(size_t bytes_max,
                                         void (*report)(void *argument, const struct coldstream_delta_report *report),
                                         void *argument)
{
    struct delta_follow *follow = need(calloc(1, sizeof *follow));
    follow->bytes_max = bytes_max;
    follow->report = report;
    follow->argument = argument;
    follow->reader = delta_reader_create(bytes_max);
    pthread_mutex_init(&follow->feeding, NULL);
    pthread_mutex_init(&follow->mutex, NULL);
    pthread_cond_init(&follow->taken, NULL);
    return follow;
}

void delta_follow_destroy(struct delta_follow *follow)
{
    if (!follow) return;
    run_clear(&follow->queue);
    run_clear(&follow->waiting);
    run_clear(&follow->put);
    delta_reader_destroy(follow->reader);
    pthread_mutex_destroy(&follow->feeding);
    pthread_mutex_destroy(&follow->mutex);
    pthread_cond_destroy(&follow->taken);
    free(follow);
}

static void enqueue(struct delta_follow *follow, struct delta *delta)
{
    pthread_mutex_lock(&follow->mutex);
    while (follow->queue.bytes > follow->bytes_max) pthread_cond_wait(&follow->taken, &follow->mutex);
    run_add(&follow->queue, delta);
    pthread_mutex_unlock(&follow->mutex);
}

bool delta_follow_feed(struct delta_follow *follow, const void *record, size_t size, bool *whole, struct cs_error *err)
{
    struct delta *delta;
    struct cs_error wrong = { 0 };
    *whole = false;
    pthread_mutex_lock(&follow->feeding);
    enum delta_fed fed = delta_reader_feed(follow->reader, record, size, &delta, &wrong);
    if (fed == DELTA_FED_WHOLE) enqueue(follow, delta);
    pthread_mutex_unlock(&follow->feeding);
    switch (fed) {
    case DELTA_FED_WHOLE: *whole = true; break;
    case DELTA_FED_DUPLICATE: tell(follow, COLDSTREAM_DELTA_DUPLICATE, NULL, ""); break;
    case DELTA_FED_UNFINISHED: tell(follow, COLDSTREAM_DELTA_UNFINISHED, NULL, ""); break;
    case DELTA_FED_BROKEN: tell(follow, COLDSTREAM_DELTA_DAMAGED, NULL, wrong.message); break;
    case DELTA_FED_TAKEN:
    case DELTA_FED_PASSED: break;
    }
    if (fed == DELTA_FED_BROKEN && err) *err = wrong;
    return fed != DELTA_FED_BROKEN;
}

/* -- judging ------------------------------------------------------------------------------------------------------ */

static bool goes_onto(const struct delta *delta, const struct delta_position *at)
{
    return delta->place.epoch == at->epoch && delta->base <= at->sequence && at->sequence < delta->place.sequence;
}

static bool is_older(const struct delta *delta, const struct delta_position *at)
{
    return delta->place.epoch < at->epoch || (delta->place.epoch == at->epoch && delta->place.sequence <= at->sequence);
}

static void judge(struct delta_follow *follow, struct delta *delta, const struct delta_position *served)
{
    const struct delta *last = run_last(&follow->waiting);
    struct delta_position at = last ? (struct delta_position){ last->place.epoch, last->place.sequence } : *served;
    char detail[160] = "";
    if (is_older(delta, served) || (last && is_older(delta, &at))) {
        tell(follow, COLDSTREAM_DELTA_DUPLICATE, delta, "");
        delta_drop(delta);
        return;
    }
    if (!goes_onto(delta, &at)) {
        enum coldstream_delta_result result = COLDSTREAM_DELTA_GAP;
        if (delta->place.epoch != at.epoch) {
            result = COLDSTREAM_DELTA_EPOCH;
            snprintf(detail, sizeof detail, "of epoch %" PRIu64 ", what is served is of %" PRIu64, delta->place.epoch,
                     served->epoch);
        } else {
            snprintf(detail, sizeof detail, "it builds on delta %" PRIu64 ", the last one here is %" PRIu64,
                     delta->base, at.sequence);
        }
        tell(follow, result, delta, detail);
    }
    if (follow->waiting.bytes + delta->bytes > follow->bytes_max) {
        snprintf(detail, sizeof detail, "%zu bytes of deltas wait for a checkpoint: they are given up",
                 follow->waiting.bytes);
        tell(follow, COLDSTREAM_DELTA_OVERFLOW, delta, detail);
        run_clear(&follow->waiting);
    }
    run_add(&follow->waiting, delta);
}

void delta_follow_take(struct delta_follow *follow, const struct delta_position *served)
{
    pthread_mutex_lock(&follow->mutex);
    struct run queue = follow->queue;
    follow->queue = (struct run){ 0 };
    pthread_cond_broadcast(&follow->taken);
    pthread_mutex_unlock(&follow->mutex);
    /* A checkpoint may have come that has what waits. */
    while (follow->waiting.first && is_older(follow->waiting.first, served)) delta_drop(run_take(&follow->waiting));
    for (struct delta *delta = queue.first, *next; delta; delta = next) {
        next = delta->next;
        judge(follow, delta, served);
    }
    atomic_store(&follow->waits, (uint32_t)follow->waiting.count);
}

bool delta_follow_put(struct delta_follow *follow, const struct scorer *scorer, struct delta_state *state, size_t *put,
                      struct cs_error *err)
{
    *put = 0;
    while (follow->waiting.first && is_older(follow->waiting.first, &state->at)) delta_drop(run_take(&follow->waiting));
    while (follow->waiting.first && goes_onto(follow->waiting.first, &state->at)) {
        struct delta *delta = follow->waiting.first;
        bool full = overlay_bytes(&state->overlay) + delta->bytes > follow->bytes_max;
        if (full && !follow->full)
            tell(follow, COLDSTREAM_DELTA_OVERFLOW, delta,
                 "no room for more rows over the checkpoint: deltas wait for the next");
        follow->full = full;
        if (full) break;
        struct overlay_level *level =
            is_of_the_model(scorer, delta, err) ? scorer_level(scorer, delta, err) : NULL;
        if (!level) {
            tell(follow, COLDSTREAM_DELTA_REFUSED, delta, err->message);
            run_clear(&follow->waiting);
            atomic_store(&follow->waits, 0);
            return false;
        }
        overlay_push(&state->overlay, level);
        state->at.sequence = delta->place.sequence;
        delta_drop(state->newest);
        state->newest = delta_hold(delta);
        run_take(&follow->waiting);
        run_add(&follow->put, delta);
        ++*put;
    }
    atomic_store(&follow->waits, (uint32_t)follow->waiting.count);
    return true;
}

bool delta_follow_waits(const struct delta_follow *follow)
{
    return follow->waiting.first != NULL;
}

void delta_follow_hold(struct delta_follow *follow)
{
    tell(follow, COLDSTREAM_DELTA_HELD, follow->waiting.first,
         "what is served is not the newest checkpoint: deltas wait until `current` is");
}

void delta_follow_tell(struct delta_follow *follow, const struct cs_error *err)
{
    for (struct delta *delta; (delta = run_take(&follow->put));) {
        tell(follow, err ? COLDSTREAM_DELTA_REFUSED : COLDSTREAM_DELTA_APPLIED, delta, err ? err->message : "");
        delta_drop(delta);
    }
}

void delta_follow_count(struct delta_follow *follow, struct coldstream_delta_info *info)
{
    info->waiting = atomic_load(&follow->waits);
    for (size_t i = 0; i < COLDSTREAM_DELTA_RESULTS; i++) info->count[i] = atomic_load(&follow->count[i]);
}
