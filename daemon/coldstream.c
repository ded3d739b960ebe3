/* libcoldstream: one current version behind one atomic pointer, and a thread that follows `current`.
 *
 * A scoring thread takes a seat: it writes the version it is about to read into the seat, then looks whether that
 * version is still current. The thread that swaps first makes the new version current, then waits until no seat names
 * the old one. One of the two therefore always sees the other, without a lock:
 *
 *     scoring thread                                 following thread
 *     seat = v (from nobody)                         current = w
 *     current is v?  no: seat = current, again       any seat == v?  yes: wait
 *     ... score with v ...                           free v
 *     seat = nobody
 *
 * A seat also keeps the memory that its thread scores in, for the next thread that sits there. */
#include "daemon/coldstream.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/coldstream_internal.h"
#include "daemon/delta_follow.h"
#include "daemon/scoring.h"

enum { SEATS = 256, NOBODY_WAITS_NANOSECONDS = 200000, DELTA_BYTES = 1 << 30, FOLLOW_NICE = 10 };

#define HELD_BY_ITSELF UINT64_MAX

struct version {
    struct scorer *scorer;
    uint64_t number, created;
    uint64_t checkpoint;                    /* the full version that it lies over, or is */
    struct delta_state state;               /* the following thread's, but for `at` and `newest` */
    uint64_t rows, bytes;                   /* beyond the checkpoint's */
    uint64_t serial; /* of all versions ever opened: a freed address may come again */
    _Atomic unsigned handles;               /* that have it as their current one */
};

struct seat {
    _Alignas(64) _Atomic(struct version *) version;     /* NULL: free */
    struct scoring *scoring;                /* the sitter's alone; made for the version of this serial, */
    uint64_t serial, layout;                /* and of this layout */
};

struct coldstream {
    _Atomic(struct version *) current;
    struct seat seat[SEATS];
    struct coldstream_options options;
    char *directory;
    pthread_t follower;
    bool following;
    pthread_mutex_t mutex;                  /* of `stop`, for sleeping alone: scoring never takes it */
    pthread_cond_t wake;
    bool stop, fed, opened;                 /* fed: deltas are there to be taken; opened: so is a checkpoint */
    struct delta_follow *deltas;            /* NULL: follows nothing */
    /* The following thread's: */
    uint64_t held_by;                       /* the newer version that `current` was chosen over; 0: none */
    struct opening *opening;                /* NULL: no checkpoint is being opened */
    struct { uint64_t version; enum cs_code why; } refused;     /* last: told once. version 0: none was */
};

/* A checkpoint on its way to be served, in a thread of its own: millions of rows take a second to check and to warm,
 * and deltas go on meanwhile. */
struct opening {
    struct coldstream *cs;
    pthread_t thread;
    uint64_t wanted;
    struct version *version;
    struct cs_error err;
};

static void say(char *error, size_t size, const struct cs_error *err)
{
    if (error && size) snprintf(error, size, "%s", err->message);
}

/* -- versions ----------------------------------------------------------------------------------------------------- */

static void version_close(struct version *version)
{
    if (!version || atomic_fetch_sub(&version->handles, 1) > 1) return;
    scorer_destroy(version->scorer);
    delta_state_release(&version->state);
    free(version);
}

/* One example without any value: derived weights and first pages are in memory before the first request. */
static bool warm(struct scorer *scorer, struct cs_error *err)
{
    struct scoring *scoring = scoring_create(scorer, err);
    if (!scoring) return false;
    float score;
    struct coldstream_candidate candidate = { .item_id = "-" };
    struct coldstream_request request = { .size = sizeof request, .candidate = &candidate, .candidate_count = 1 };
    bool ok = scoring_request(scoring, &request, &score, NULL, err);
    if (ok && !(score >= 0 && score <= 1))
        ok = cs_fail(err, CS_REFUSED, "the version scores %g, which is no probability", (double)score);
    scoring_destroy(scoring);
    return ok;
}

static struct version *version_warm(struct version *version, struct cs_error *err)
{
    static _Atomic uint64_t serials;
    version->serial = atomic_fetch_add(&serials, 1) + 1;
    atomic_init(&version->handles, 1);
    if (warm(version->scorer, err)) return version;
    version_close(version);
    return NULL;
}

static struct version *version_open(const char *path, bool verify, struct cs_error *err)
{
    struct checkpoint *checkpoint = checkpoint_open(path, verify, err);
    if (!checkpoint) return NULL;
    struct version *version = need(calloc(1, sizeof *version));
    version->scorer = scorer_create(checkpoint, err);
    if (!version->scorer) {
        checkpoint_close(checkpoint);
        free(version);
        return NULL;
    }
    version->number = version->checkpoint = checkpoint_version(checkpoint);
    version->state.at = delta_position_of(checkpoint_manifest(checkpoint));
    json_t *manifest = json_loads(checkpoint_manifest(checkpoint), 0, NULL);
    version->created = (uint64_t)json_integer_value(json_object_get(manifest, "created"));
    json_decref(manifest);
    return version_warm(version, err);
}

/* The checkpoint of `under` with what deltas brought since. */
static struct version *version_over(const struct version *under, const struct delta_state *state, struct cs_error *err)
{
    struct version *version = need(calloc(1, sizeof *version));
    version->scorer = scorer_create_over(under->scorer, &state->overlay, state->newest, err);
    if (!version->scorer) {
        free(version);
        return NULL;
    }
    version->number = scorer_version(version->scorer);
    version->checkpoint = under->checkpoint;
    version->created = (uint64_t)state->newest->created;
    version->rows = overlay_rows(&state->overlay);
    version->bytes = overlay_bytes(&state->overlay);
    delta_state_copy(&version->state, state);
    return version_warm(version, err);
}

/* The checkpoint's manifest; what deltas made newer, as it is served. */
static char *version_info(const struct version *version)
{
    const char *manifest = checkpoint_manifest(scorer_checkpoint(version->scorer));
    const struct delta *newest = version->state.newest;
    json_t *root = newest ? json_loads(manifest, 0, NULL) : NULL, *delta = json_object_get(root, "delta");
    if (!root) return strdup(manifest);
    json_object_del(root, "checksum");
    json_object_set_new(root, "checkpoint", json_integer((json_int_t)version->checkpoint));
    json_object_set_new(root, "version", json_integer((json_int_t)version->number));
    json_object_set_new(root, "created", json_integer(newest->created));
    json_object_set_new(root, "steps", json_integer((json_int_t)newest->steps));
    json_object_set_new(root, "event_time_watermark",
                        newest->watermark == INT64_MIN ? json_null() : json_integer(newest->watermark));
    json_object_set_new(delta, "epoch", json_integer((json_int_t)version->state.at.epoch));
    json_object_set_new(delta, "sequence", json_integer((json_int_t)version->state.at.sequence));
    char *text = json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    return text;
}

/* -- seats -------------------------------------------------------------------------------------------------------- */

static struct seat *sit(struct coldstream *cs)
{
    static _Atomic unsigned threads;
    static _Thread_local unsigned first;    /* each thread likes a seat of its own: + 1, 0 is none yet */
    if (!first) first = atomic_fetch_add(&threads, 1) % SEATS + 1;
    struct version *version = atomic_load(&cs->current);
    for (unsigned i = 0;; i++) {
        struct seat *seat = &cs->seat[(first - 1 + i) % SEATS];
        struct version *nobody = NULL;
        if (!atomic_load_explicit(&seat->version, memory_order_relaxed) &&
            atomic_compare_exchange_strong(&seat->version, &nobody, version)) {
            struct version *now;
            while ((now = atomic_load(&cs->current)) != version) {
                version = now;
                atomic_store(&seat->version, version);
            }
            return seat;
        }
        if (i % SEATS == SEATS - 1) sched_yield();      /* more threads at once than seats */
    }
}

static void stand_up(struct seat *seat)
{
    atomic_store(&seat->version, NULL);
}

static struct version *seated(struct seat *seat)
{
    return atomic_load_explicit(&seat->version, memory_order_relaxed);
}

static struct scoring *seat_scoring(struct seat *seat, struct cs_error *err)
{
    struct version *version = seated(seat);
    if (seat->scoring && seat->serial == version->serial) return seat->scoring;
    if (!seat->scoring) {
        seat->scoring = scoring_create(version->scorer, err);
    } else if (!scoring_move(seat->scoring, seat->layout, version->scorer, err)) {
        scoring_destroy(seat->scoring);
        seat->scoring = NULL;
    }
    seat->serial = version->serial;
    seat->layout = scorer_layout(version->scorer);
    return seat->scoring;
}

static void wait_until_left(struct coldstream *cs, const struct version *version)
{
    for (size_t i = 0; i < SEATS; i++)
        while (atomic_load(&cs->seat[i].version) == version)
            nanosleep(&(struct timespec){ .tv_nsec = NOBODY_WAITS_NANOSECONDS }, NULL);
}

/* -- following ---------------------------------------------------------------------------------------------------- */

static void tell(struct coldstream *cs, uint64_t version, const char *error)
{
    if (cs->options.on_swap) cs->options.on_swap(cs->options.argument, version, error);
}

static void *open_aside(void *argument)
{
    struct opening *opening = argument;
    struct coldstream *cs = opening->cs;
    opening->version = version_open(cs->directory, cs->options.verify, &opening->err);
    pthread_mutex_lock(&cs->mutex);
    cs->opened = true;
    pthread_cond_signal(&cs->wake);
    pthread_mutex_unlock(&cs->mutex);
    return NULL;
}

static void open_begin(struct coldstream *cs, uint64_t wanted)
{
    struct opening *opening = need(calloc(1, sizeof *opening));
    *opening = (struct opening){ .cs = cs, .wanted = wanted };
    if (pthread_create(&opening->thread, NULL, open_aside, opening) == 0) cs->opening = opening;
    else free(opening);         /* tried again at the next look */
}

static bool is_frozen(const struct version *version)
{
    return checkpoint_has_mark(scorer_checkpoint(version->scorer), CHECKPOINT_FROZEN);
}

/* Waits for it. The version, or NULL where it was refused. */
static struct version *open_end(struct coldstream *cs)
{
    struct opening *opening = cs->opening;
    pthread_join(opening->thread, NULL);
    struct version *version = opening->version;
    if (!version && opening->wanted != cs->refused.version) tell(cs, opening->wanted, opening->err.message);
    if (!version)               /* what is served stays, whatever else is there */
        cs->held_by = is_frozen(atomic_load(&cs->current)) ? HELD_BY_ITSELF : 0;
    cs->refused.version = version ? 0 : opening->wanted;
    cs->refused.why = opening->err.code;
    cs->opening = NULL;
    free(opening);
    return version;
}

/* Somebody went back to this checkpoint: deltas would undo it. It says so, or a newer one is there: that one's number.
 * 0: nothing holds it. */
static uint64_t holder_of(const struct coldstream *cs, uint64_t checkpoint)
{
    uint64_t *there = NULL, newest = 0;
    size_t count = 0;
    if (checkpoint_is_marked(cs->directory, checkpoint, CHECKPOINT_FROZEN)) return HELD_BY_ITSELF;
    if (checkpoint_list(cs->directory, &there, &count, NULL) && count) newest = there[count - 1];
    free(there);
    return newest > checkpoint ? newest : 0;
}

/* wanted: what `current` names, other than what is served, or 0. What was gone back to stays as it is until the next
 * one is open; but a newer one that becomes `current` was only about to be named. */
static uint64_t held_by(const struct coldstream *cs, uint64_t served, uint64_t wanted)
{
    uint64_t holder = holder_of(cs, wanted ? wanted : served);
    if (holder == HELD_BY_ITSELF) return holder;
    if (!wanted && !holder) return 0;
    return cs->held_by && cs->held_by != wanted ? cs->held_by : holder;
}

/* `current` looked at, from what is or is about to be served. Another checkpoint is opened, and so is the same one
 * again where it is to be served as it is and deltas lie over it. */
static void look(struct coldstream *cs, const struct version *served)
{
    uint64_t wanted = checkpoint_current(cs->directory);
    bool other = wanted && wanted != served->checkpoint;
    bool back = wanted && !other && served->state.newest && is_frozen(served);
    cs->held_by = held_by(cs, served->checkpoint, other ? wanted : 0);
    if (cs->opening) return;
    if (!other && !back) cs->refused.version = 0;
    /* Damage stays, a failure may pass. */
    bool refused = wanted == cs->refused.version && cs->refused.why != CS_FAILED;
    if ((other || back) && !refused) open_begin(cs, wanted);
}

/* What is served has all that the checkpoint has, and more: the checkpoint only goes under it. */
static bool is_ahead(const struct version *served, const struct version *checkpoint)
{
    const struct delta_position *ahead = &served->state.at, *behind = &checkpoint->state.at;
    return served->state.newest && checkpoint->number > served->checkpoint && ahead->epoch == behind->epoch &&
           ahead->sequence > behind->sequence;
}

static void swap(struct coldstream *cs, struct version *next, bool checkpoint)
{
    struct version *old = atomic_load(&cs->current);
    atomic_store(&cs->current, next);
    if (checkpoint) tell(cs, next->checkpoint, NULL);
    delta_follow_tell(cs->deltas, NULL);
    wait_until_left(cs, old);
    version_close(old);
    overlay_compact(&next->state.overlay);  /* after the swap: those who wait for this version don't wait for that */
}

/* opened: the checkpoint to go to, or NULL; ends as what is served, or under it, or closed. */
static void advance(struct coldstream *cs, struct version *opened)
{
    struct version *served = atomic_load(&cs->current), *under = opened ? opened : served, *next = opened;
    struct delta_state state;
    struct cs_error err = { 0 };
    size_t put = 0;
    bool ahead = opened && is_ahead(served, opened) && !is_frozen(opened);

    delta_state_copy(&state, ahead ? &served->state : &under->state);
    if (ahead) overlay_drop_through(&state.overlay, opened->state.at.sequence);
    if (!cs->held_by) delta_follow_put(cs->deltas, under->scorer, &state, &put, &err);
    if (put || ahead) {
        struct version *over = version_over(under, &state, &err);
        if (!over) delta_follow_tell(cs->deltas, &err);
        else if (opened) version_close(opened);
        if (over) next = over;
    }
    delta_state_release(&state);
    if (next) swap(cs, next, opened != NULL);
}

static bool is_past(const struct timespec *until)
{
    const struct timespec now = clock_in(0);
    return now.tv_sec > until->tv_sec || (now.tv_sec == until->tv_sec && now.tv_nsec >= until->tv_nsec);
}

static void *follow(void *argument)
{
    struct coldstream *cs = argument;
    bool said = false;

    id_t self = (id_t)gettid();                 /* of this thread alone, and of those that it makes */
    setpriority(PRIO_PROCESS, self, getpriority(PRIO_PROCESS, self) + FOLLOW_NICE);
    for (struct timespec until = { 0 };;) {
        pthread_mutex_lock(&cs->mutex);
        while (!cs->stop && !cs->fed && !cs->opened &&
               pthread_cond_clockwait(&cs->wake, &cs->mutex, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
            continue;
        bool stop = cs->stop, is_open = cs->opened;
        cs->fed = cs->opened = false;
        pthread_mutex_unlock(&cs->mutex);
        if (stop) break;
        struct version *opened = is_open ? open_end(cs) : NULL;
        bool polls = opened || is_past(&until);     /* also where deltas never let it sleep */
        if (polls) look(cs, opened ? opened : atomic_load(&cs->current));
        delta_follow_take(cs->deltas, &atomic_load(&cs->current)->state.at);
        if (cs->held_by && !said && delta_follow_waits(cs->deltas)) delta_follow_hold(cs->deltas);
        said = cs->held_by && (said || delta_follow_waits(cs->deltas));
        advance(cs, opened);
        if (!polls) continue;
        until = clock_in(cs->options.poll_milliseconds);
    }
    if (cs->opening) version_close(open_end(cs));
    return NULL;
}

/* -- the interface ------------------------------------------------------------------------------------------------ */

static struct coldstream *handle_create(const char *directory, const struct coldstream_options *options)
{
    struct coldstream *cs = need(aligned_alloc(64, (sizeof *cs + 63) / 64 * 64));
    memset(cs, 0, sizeof *cs);
    cs->options = (struct coldstream_options){ .follow = 1, .verify = 1 };
    if (options) {          /* a caller of an older header knows fewer fields: the others keep what they start with */
        size_t known = options->size < sizeof cs->options ? options->size : sizeof cs->options;
        memcpy(&cs->options, options, known);
    }
    if (!cs->options.poll_milliseconds) cs->options.poll_milliseconds = 1000;
    if (!cs->options.delta_bytes) cs->options.delta_bytes = DELTA_BYTES;
    cs->directory = need(strdup(directory));
    pthread_mutex_init(&cs->mutex, NULL);
    pthread_cond_init(&cs->wake, NULL);
    return cs;
}

struct coldstream *coldstream_open_explained(const char *directory, const struct coldstream_options *options,
                                             struct cs_error *err)
{
    struct coldstream *cs = handle_create(directory, options);
    struct version *version = version_open(directory, cs->options.verify, err);
    if (!version) goto fail;
    atomic_store(&cs->current, version);
    if (cs->options.follow && checkpoint_current(directory)) {
        cs->deltas = delta_follow_create(cs->options.delta_bytes, cs->options.on_delta, cs->options.argument);
        cs->following = pthread_create(&cs->follower, NULL, follow, cs) == 0;
        if (!cs->following) {
            cs_fail(err, CS_FAILED, "no thread to follow %s with", directory);
            goto fail;
        }
    }
    return cs;
fail:
    coldstream_close(cs);
    return NULL;
}

struct coldstream *coldstream_open(const char *directory, const struct coldstream_options *options, char *error,
                                   size_t error_size)
{
    struct cs_error err = { 0 };
    struct coldstream *cs = coldstream_open_explained(directory, options, &err);
    if (!cs) say(error, error_size, &err);
    return cs;
}

void coldstream_close(struct coldstream *cs)
{
    if (!cs) return;
    if (cs->following) {
        pthread_mutex_lock(&cs->mutex);
        cs->stop = true;
        pthread_cond_signal(&cs->wake);
        pthread_mutex_unlock(&cs->mutex);
        pthread_join(cs->follower, NULL);
    }
    for (size_t i = 0; i < SEATS; i++) scoring_destroy(cs->seat[i].scoring);
    version_close(atomic_load(&cs->current));
    delta_follow_destroy(cs->deltas);
    pthread_cond_destroy(&cs->wake);
    pthread_mutex_destroy(&cs->mutex);
    free(cs->directory);
    free(cs);
}

struct coldstream *coldstream_pin_explained(struct coldstream *cs, uint64_t number, struct cs_error *err)
{
    struct coldstream_options options = cs->options;
    struct seat *seat = sit(cs);
    struct version *version = seated(seat);
    bool is_current = !number || number == version->number;
    if (is_current) atomic_fetch_add(&version->handles, 1);     /* the seat holds it until it is held */
    stand_up(seat);
    if (!is_current) {
        char path[PATH_MAX];
        if (snprintf(path, sizeof path, "%s/%020" PRIu64, cs->directory, number) >= (int)sizeof path) {
            cs_fail(err, CS_USAGE, "%s is too long", cs->directory);
            return NULL;
        }
        if (!(version = version_open(path, options.verify, err))) return NULL;
    }
    options.follow = 0;
    struct coldstream *pinned = handle_create(cs->directory, &options);
    atomic_store(&pinned->current, version);
    return pinned;
}

struct coldstream *coldstream_pin(struct coldstream *cs, uint64_t version, char *error, size_t error_size)
{
    struct cs_error err = { 0 };
    struct coldstream *pinned = coldstream_pin_explained(cs, version, &err);
    if (!pinned) say(error, error_size, &err);
    return pinned;
}

uint64_t coldstream_version(struct coldstream *cs)
{
    struct seat *seat = sit(cs);
    uint64_t number = seated(seat)->number;
    stand_up(seat);
    return number;
}

uint64_t coldstream_created(struct coldstream *cs)
{
    struct seat *seat = sit(cs);
    uint64_t created = seated(seat)->created;
    stand_up(seat);
    return created;
}

char *coldstream_info(struct coldstream *cs)
{
    struct seat *seat = sit(cs);
    char *text = version_info(seated(seat));
    stand_up(seat);
    return text;
}

int coldstream_delta(struct coldstream *cs, const void *record, size_t size, char *error, size_t error_size)
{
    struct cs_error err = { 0 };
    bool whole;
    if (!cs->following) {
        cs_fail(&err, CS_USAGE, "this handle stays with one version: it follows no deltas");
        say(error, error_size, &err);
        return -1;
    }
    bool ok = delta_follow_feed(cs->deltas, record, size, &whole, &err);
    if (!ok) say(error, error_size, &err);
    if (!whole) return ok ? 0 : -1;
    pthread_mutex_lock(&cs->mutex);
    cs->fed = true;
    pthread_cond_signal(&cs->wake);
    pthread_mutex_unlock(&cs->mutex);
    return 0;
}

void coldstream_delta_state(struct coldstream *cs, struct coldstream_delta_info *info)
{
    struct coldstream_delta_info all = { .size = info->size };
    struct seat *seat = sit(cs);
    const struct version *version = seated(seat);
    all.checkpoint = version->checkpoint;
    all.epoch = version->state.at.epoch;
    all.sequence = version->state.at.sequence;
    all.rows = version->rows;
    all.bytes = version->bytes;
    stand_up(seat);
    if (cs->deltas) delta_follow_count(cs->deltas, &all);
    memcpy(info, &all, info->size < sizeof all ? info->size : sizeof all);
}

static int result(bool ok, const struct cs_error *err, char *error, size_t error_size)
{
    if (ok) return 0;
    say(error, error_size, err);
    return err->code == CS_USAGE ? -1 : -2;
}

bool coldstream_score_explained(struct coldstream *cs, const char *request, size_t length, char **response,
                                size_t *scores, struct cs_error *err)
{
    struct seat *seat = sit(cs);
    struct scoring *scoring = seat_scoring(seat, err);
    *response = NULL;
    bool ok = scoring && scoring_json(scoring, request, length, response, scores, err);
    stand_up(seat);
    return ok;
}

bool coldstream_score_call(struct coldstream *cs, const struct scoring_call *call, char **response,
                           struct cs_error *err)
{
    struct seat *seat = sit(cs);
    struct scoring *scoring = seat_scoring(seat, err);
    *response = NULL;
    bool ok = scoring && scoring_call_score(scoring, call, response, err);
    stand_up(seat);
    return ok;
}

int coldstream_score_json(struct coldstream *cs, const char *request, size_t length, char **response, char *error,
                          size_t error_size)
{
    struct cs_error err = { 0 };
    return result(coldstream_score_explained(cs, request, length, response, NULL, &err), &err, error, error_size);
}

int coldstream_score(struct coldstream *cs, const struct coldstream_request *request, float *score, uint64_t *version,
                     int *is_new, char *error, size_t error_size)
{
    struct cs_error err = { 0 };
    struct seat *seat = sit(cs);
    struct scoring *scoring = seat_scoring(seat, &err);
    bool ok = scoring && scoring_request(scoring, request, score, is_new, &err);
    if (version) *version = seated(seat)->number;
    stand_up(seat);
    return result(ok, &err, error, error_size);
}

int coldstream_score_impressions(struct coldstream *cs, const struct coldstream_impression *impression, size_t count,
                                 size_t impression_size, float *score, uint64_t *version, unsigned char *is_new,
                                 char *error, size_t error_size)
{
    struct cs_error err = { 0 };
    if (impression_size != sizeof *impression)
        return result(cs_fail(&err, CS_USAGE, "impression_size: %zu is not this structure's", impression_size), &err,
                      error, error_size);
    struct seat *seat = sit(cs);
    struct scoring *scoring = seat_scoring(seat, &err);
    bool ok = scoring && scoring_impressions(scoring, impression, count, score, is_new, &err);
    if (version) *version = seated(seat)->number;
    stand_up(seat);
    return result(ok, &err, error, error_size);
}
