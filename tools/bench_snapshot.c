/* Snapshots of a learner with a table of millions of rows, a fifth of which changed at random places since the last
 * one: how long learning stops and how much slower it is meanwhile, what is written and kept, how fast, and how long a
 * resume takes. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/embedding_internal.h"
#include "core/random.h"
#include "daemon/assemble.h"
#include "daemon/delta.h"
#include "daemon/publish.h"
#include "storage/snapshot.h"
#include "tools/bench.h"

enum { HELD = 16, PIECE = 1 << 20, ROUNDS = 5, CUTS = 10, STEPS_MAX = 100000, ADMITTED_AT_ONCE = 16384 };
#define ALONE_SECONDS 2.0
#define SLOW 0.99

struct pupil {
    struct cs_config *config;
    struct features *features;
    struct learner *learner;
    struct embedding_table *item;
    uint64_t rows, changes;             /* of item; changes drawn so far */
    int64_t time;
    struct arena *arena[HELD];
    struct batch *batch[HELD];
    uint64_t steps;
};

/* ---- What is learned: item keys by popularity (log-uniform), up to 100 behaviors, 40 % new users. ---- */

static uint64_t popular(const struct pupil *pupil, uint64_t stream, uint64_t counter)
{
    double rank = exp((double)random_uniform(stream, counter) * log((double)pupil->rows));
    return bench_key((uint64_t)rank * UINT64_C(2654435761) % pupil->rows);
}

static struct batch *make_batch(const struct pupil *pupil, uint64_t number, struct arena *arena)
{
    size_t size = pupil->config->batch.size, columns = pupil->features->categorical_count;
    struct example **example = calloc(size, sizeof *example);
    if (!example) abort();
    for (size_t i = 0; i < size; i++) {
        uint64_t stream = random_stream(number, "example", i), drawn = 0;
        size_t behaviors = random_uniform(stream, drawn++) < 0.4f ? 0 : 1 + random_bits(stream, drawn++) % 100;
        struct example *e = example[i] = example_create(pupil->features, 2, behaviors, columns);
        if (!e) abort();
        memcpy(example_id(e), "id", 3);
        for (size_t c = 0; c < columns; c++) {
            example_keys_of(e)[c] = 1;
            example_keys(e)[c] = random_bits(stream, drawn++) % 50;
        }
        for (size_t f = 0; f < pupil->features->count; f++)
            if (!strcmp(pupil->features->feature[f].name, "item_id"))
                example_keys(e)[pupil->features->feature[f].column] = popular(pupil, stream, drawn++);
        for (size_t b = 0; b < behaviors; b++) example_behaviors(e)[b] = popular(pupil, stream, drawn++);
        e->clicked = random_bits(stream, drawn++) & 1;
        e->user = e->item = i;
        e->time = e->released = 1000;
    }
    struct batch *batch = batch_build(pupil->features, example, size, arena);
    for (size_t i = 0; i < size; i++) free(example[i]);
    free(example);
    return batch;
}

static bool pupil_create(struct pupil *pupil, uint64_t rows, struct parallel *parallel, struct cs_error *err)
{
    *pupil = (struct pupil){ .rows = rows, .time = 1000, .config = bench_configure("{kind: none}\n", err) };
    pupil->features = pupil->config ? features_create(&pupil->config->features, err) : NULL;
    pupil->learner = pupil->features ? assemble_learner(pupil->config, pupil->features, parallel, err) : NULL;
    if (!pupil->learner) return false;
    pupil->item = learner_table(pupil->learner, pupil->features->behavior_table);
    return true;
}

static void pupil_destroy(struct pupil *pupil)
{
    for (size_t i = 0; i < HELD; i++) arena_destroy(pupil->arena[i]);
    learner_destroy(pupil->learner);
    features_destroy(pupil->features);
    config_destroy(pupil->config);
}

static void learn(struct pupil *pupil)
{
    struct batch *batch = pupil->batch[pupil->steps++ % HELD];
    batch->last_time = ++pupil->time;
    learner_score(pupil->learner, batch);
    learner_learn(pupil->learner, batch);
}

/* A fifth of the rows at random places is seen again. */
static void change_a_fifth(struct pupil *pupil)
{
    static uint64_t key[ADMITTED_AT_ONCE];
    static uint32_t one[ADMITTED_AT_ONCE], slot[ADMITTED_AT_ONCE];
    pupil->time++;
    for (uint64_t left = pupil->rows / 5; left > 0;) {
        size_t n = left < ADMITTED_AT_ONCE ? left : ADMITTED_AT_ONCE;
        for (size_t i = 0; i < n; i++) {        /* a walk through a permutation: each row once before any is repeated */
            key[i] = bench_key(pupil->changes++ * UINT64_C(2654435761) % pupil->rows);
            one[i] = 1;
        }
        embedding_admit(pupil->item, key, one, n, pupil->time, slot);
        left -= n;
    }
}

/* ---- Plain files, for comparison ---- */

static bool write_plainly(const char *file, size_t bytes, double *seconds, struct cs_error *err)
{
    char *piece = malloc(PIECE);
    int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = piece && fd >= 0;
    if (piece) memset(piece, 7, PIECE);
    double begin = bench_seconds();
    for (size_t left = bytes; ok && left > 0;) {
        ssize_t n = write(fd, piece, left < PIECE ? left : PIECE);
        ok = n > 0;
        if (ok) left -= (size_t)n;
    }
    ok = ok && fsync(fd) == 0;
    *seconds = bench_seconds() - begin;
    if (!ok) cs_fail_errno(err, errno, "cannot write %s", file);
    if (fd >= 0) close(fd);
    free(piece);
    return ok;
}

/* Into memory that was never used, as a resume reads it. */
static bool read_plainly(const char *file, size_t bytes, double *seconds, struct cs_error *err)
{
    char *memory = malloc(bytes);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    bool ok = memory && fd >= 0;
    double begin = bench_seconds();
    for (size_t at = 0; ok && at < bytes;) {
        ssize_t n = read(fd, memory + at, bytes - at < PIECE ? bytes - at : PIECE);
        ok = n > 0;
        if (ok) at += (size_t)n;
    }
    *seconds = bench_seconds() - begin;
    if (!ok) cs_fail_errno(err, errno, "cannot read %s", file);
    if (fd >= 0) close(fd);
    free(memory);
    return ok;
}

/* ---- A full snapshot, and a resume from it ---- */

static struct snapshot_cut *begin_cut(struct snapshot_store *store, struct pupil *pupil, struct cs_error *err)
{
    struct snapshot_cut *cut = snapshot_begin(store);
    if (learner_save(pupil->learner, snapshot_writer(cut), err)) return cut;
    snapshot_abandon(cut);
    return NULL;
}

static bool whole_cut(struct snapshot_store *store, struct pupil *pupil, struct cs_error *err)
{
    struct snapshot_cut *cut = begin_cut(store, pupil, err);
    return cut && snapshot_commit(cut, err);
}

static bool measure_full(struct bench *bench, const char *directory, struct pupil *pupil, double *plain_read,
                         struct cs_error *err)
{
    char file[320];
    double plain[2], begin, seconds;
    struct snapshot_store *store = snapshot_open(directory, NULL, NULL, err);
    if (!store) return false;
    snprintf(file, sizeof file, "%s/plain", bench->directory);
    begin = bench_seconds();
    bool ok = whole_cut(store, pupil, err);
    seconds = bench_seconds() - begin;
    size_t bytes = snapshot_stats(store).written_bytes;
    snapshot_close(store);
    ok = ok && write_plainly(file, bytes, &plain[0], err) && write_plainly(file, bytes, &plain[1], err) &&
         read_plainly(file, bytes, plain_read, err);
    unlink(file);
    if (!ok) return false;
    double mega = (double)bytes / 1e6;
    bench_add(bench, "snapshot: all rows", mega / seconds, "MB/s", mega / bench_median(plain, 2),
              "sequential write and fsync of the same bytes");
    return true;
}

static bool measure_resume(struct bench *bench, const char *directory, const struct pupil *saved, double plain_read,
                           struct cs_error *err)
{
    struct pupil pupil;
    struct snapshot_view *view = NULL;
    struct snapshot_store *store = NULL;
    double begin = bench_seconds();
    bool ok = pupil_create(&pupil, saved->rows, bench->parallel, err);
    store = ok ? snapshot_open(directory, NULL, NULL, err) : NULL;
    view = store ? snapshot_view_open(store, err) : NULL;
    ok = view && learner_load(pupil.learner, snapshot_reader(view), err);
    double seconds = bench_seconds() - begin;
    if (ok && embedding_rows(pupil.item) != embedding_rows(saved->item))
        ok = cs_fail(err, CS_FAILED, "%ju rows came back of %ju", (uintmax_t)embedding_rows(pupil.item),
                     (uintmax_t)embedding_rows(saved->item));
    if (ok) bench_add(bench, "snapshot: resume, all loaded", seconds, "s", plain_read, "read of the same bytes");
    snapshot_view_close(view);
    snapshot_close(store);
    pupil_destroy(&pupil);
    return ok;
}

/* ---- Learning goes on while one is written ---- */

struct commit { struct snapshot_cut *cut; pthread_t thread; _Atomic bool done; bool ok; struct cs_error err; };

static void *commit_cut(void *argument)
{
    struct commit *commit = argument;
    setpriority(PRIO_PROCESS, (id_t)gettid(), PUBLISH_NICE);      /* as the daemon's */
    commit->ok = snapshot_commit(commit->cut, &commit->err);
    commit->done = true;
    return NULL;
}

/* step[0 ... *steps - 1]: seconds each. Until the seconds are over or, where there is a commit, until it is done. */
static double learn_for(struct pupil *pupil, double seconds, const struct commit *commit, double *step, size_t *steps)
{
    double begin = bench_seconds(), last = begin;
    *steps = 0;
    while (commit ? !commit->done : last - begin < seconds) {
        learn(pupil);
        double now = bench_seconds();
        if (*steps < STEPS_MAX) step[(*steps)++] = now - last;
        last = now;
    }
    return (double)*steps / (last - begin);
}

/* Before, while and after one is written, so that a machine that slows down meanwhile is not counted for it. Of steps:
 * seconds beyond the usual one. */
struct round { double save, writing, rate, rate_alone, usual, first, slow, slow_alone, longest, aside; };

static bool measure_round(struct snapshot_store *store, struct pupil *pupil, double *step, struct round *round,
                          struct cs_error *err)
{
    size_t steps;
    double before = learn_for(pupil, ALONE_SECONDS, NULL, step, &steps);
    round->slow_alone = bench_quantile(step, steps, SLOW);
    uint64_t aside = embedding_set_aside(pupil->item);
    double begin = bench_seconds();
    struct commit commit = { .cut = begin_cut(store, pupil, err) };
    round->save = bench_seconds() - begin;
    if (!commit.cut) return false;
    if (pthread_create(&commit.thread, NULL, commit_cut, &commit)) {
        snapshot_abandon(commit.cut);
        return cs_fail(err, CS_FAILED, "cannot start a thread");
    }
    begin = bench_seconds();
    round->rate = learn_for(pupil, 0, &commit, step, &steps);
    round->writing = bench_seconds() - begin;
    round->first = step[0];
    round->slow = bench_quantile(step, steps, SLOW);
    round->longest = bench_quantile(step, steps, 1);
    round->aside = (double)(embedding_set_aside(pupil->item) - aside);
    pthread_join(commit.thread, NULL);
    if (!commit.ok) {
        *err = commit.err;
        return false;
    }
    round->rate_alone = (before + learn_for(pupil, ALONE_SECONDS, NULL, step, &steps)) / 2;
    round->usual = bench_median(step, steps);
    round->first -= round->usual;
    round->longest -= round->usual;
    round->slow -= round->usual;
    round->slow_alone -= round->usual;
    return true;
}

static double median_of(const struct round *round, size_t member)
{
    double value[ROUNDS];
    for (size_t i = 0; i < ROUNDS; i++) memcpy(&value[i], (const char *)&round[i] + member, sizeof *value);
    return bench_median(value, ROUNDS);
}

#define MEDIAN(member) median_of(round, offsetof(struct round, member))

static bool measure_learning(struct bench *bench, struct snapshot_store *store, struct pupil *pupil,
                             struct cs_error *err)
{
    struct round round[ROUNDS];
    double *step = calloc(STEPS_MAX, sizeof *step), share[ROUNDS];
    bool ok = step ? true : cs_fail(err, CS_FAILED, "out of memory");
    for (size_t i = 0; ok && i < HELD; i++) learn(pupil);       /* whatever is made at first */
    ok = ok && whole_cut(store, pupil, err);
    snapshot_set_pace(store, pupil->config->snapshot.pace);
    for (size_t i = 0; ok && i < ROUNDS; i++) {
        change_a_fifth(pupil);
        ok = measure_round(store, pupil, step, &round[i], err);
        if (ok) share[i] = round[i].rate / round[i].rate_alone;
    }
    snapshot_set_pace(store, 1);
    free(step);
    if (!ok) return false;
    double alone = (double)pupil->config->batch.size * MEDIAN(rate_alone), ms = 1e3;
    bench_add(bench, "snapshot: the save itself (learning waits)", ms * MEDIAN(save), "ms", 5, "what is allowed");
    bench_add(bench, "snapshot: first step after it, beyond a usual one", ms * MEDIAN(first), "ms", 5,
              "what is allowed");
    bench_add(bench, "snapshot: one step of a hundred, beyond a usual one", ms * MEDIAN(slow), "ms",
              ms * MEDIAN(slow_alone), "the same without a snapshot");
    bench_add(bench, "snapshot: learning while one is written", alone * bench_median(share, ROUNDS), "examples/s",
              alone, "without a snapshot, before and after");
    bench_add(bench, "  a usual step", ms * MEDIAN(usual), "ms", NAN, "");
    bench_add(bench, "  the longest step, beyond a usual one", ms * MEDIAN(longest), "ms", NAN, "");
    bench_add(bench, "  written in", MEDIAN(writing), "s", NAN, "");
    bench_add(bench, "  rows set aside", MEDIAN(aside), "rows", NAN, "");
    return true;
}

/* ---- What many of them write and keep ---- */

static bool measure_bytes(struct bench *bench, struct snapshot_store *store, struct pupil *pupil, struct cs_error *err)
{
    double changed = 0, written = 0, peak = 0, disk = 0, live = 1;
    for (size_t i = 0; i < CUTS; i++) {
        change_a_fifth(pupil);
        if (!whole_cut(store, pupil, err)) return false;
        struct snapshot_stats stats = snapshot_stats(store);
        changed += (double)stats.changed_bytes;
        written += (double)stats.written_bytes;
        live = (double)stats.live_bytes;
        if ((double)stats.disk_bytes / live > disk) disk = (double)stats.disk_bytes / live;
        if ((double)stats.peak_bytes / live > peak) peak = (double)stats.peak_bytes / live;
    }
    bench_add(bench, "snapshot: written, of 10 in a row", written / 1e6, "MB", changed / 1e6, "the bytes changed");
    bench_add(bench, "snapshot: largest on disk after one", disk * live / 1e6, "MB", live / 1e6, "the live state");
    bench_add(bench, "snapshot: largest on disk during one", peak * live / 1e6, "MB", live / 1e6, "the live state");
    return true;
}

/* A table of bench->rows, and batches to learn. */
static bool prepare(struct bench *bench, struct pupil *pupil, struct cs_error *err)
{
    if (!pupil_create(pupil, bench->rows, bench->parallel, err) || !bench_fill(pupil->item, bench->rows, err))
        return false;
    for (size_t i = 0; i < HELD; i++) {
        pupil->arena[i] = arena_create(1 << 20);
        pupil->batch[i] = make_batch(pupil, i, pupil->arena[i]);
    }
    return true;
}

bool bench_snapshot(struct bench *bench, struct cs_error *err)
{
    char directory[300], what[96];
    struct pupil pupil;
    struct snapshot_store *store = NULL;
    double plain_read;

    snprintf(directory, sizeof directory, "%s/snapshot", bench->directory);
    snprintf(what, sizeof what, "snapshots: filling a table with %ju rows", (uintmax_t)bench->rows);
    bench_progress(what);
    bool ok = prepare(bench, &pupil, err);
    if (!ok) goto out;
    bench_progress("a full snapshot, and a resume from it");
    ok = measure_full(bench, directory, &pupil, &plain_read, err) &&
         measure_resume(bench, directory, &pupil, plain_read, err);
    store = ok ? snapshot_open(directory, NULL, NULL, err) : NULL;
    if (!store) goto out;
    bench_progress("learning while snapshots are written");
    ok = measure_learning(bench, store, &pupil, err);
    if (ok) bench_progress("ten snapshots in a row");
    ok = ok && measure_bytes(bench, store, &pupil, err);
out:
    ok = ok && store;
    snapshot_close(store);
    pupil_destroy(&pupil);
    return ok;
}

/* ---- Deltas: what it costs to send all that changes, twice a second, without the broker ---- */

static bool swallow(void *self, const void *key, size_t key_size, const void *bytes, size_t size, struct cs_error *err)
{
    (void)self, (void)key, (void)key_size, (void)bytes, (void)size, (void)err;
    return true;
}

static bool acknowledge(void *self, struct cs_error *err) { (void)self, (void)err; return true; }
static void nothing(void *self) { (void)self; }
static void stop_nothing(void *self, int64_t milliseconds) { (void)self, (void)milliseconds; }

/* Examples a second over ALONE_SECONDS; seconds of a cut, on average. */
static double learn_and_send(struct pupil *pupil, struct deltas *deltas, double *stall)
{
    uint64_t steps = 0, cuts = 0;
    double begin = bench_seconds(), seconds;
    for (; (seconds = bench_seconds() - begin) < ALONE_SECONDS; steps++) {
        learn(pupil);
        deltas_learned(deltas, pupil->batch[(pupil->steps - 1) % HELD]);
        if (deltas_wait(deltas, 1) > 0) continue;
        double cut = bench_seconds();
        deltas_cut(deltas, pupil->learner);
        *stall += bench_seconds() - cut;
        cuts++;
    }
    if (cuts) *stall /= (double)cuts;
    return (double)(steps * pupil->config->batch.size) / seconds;
}

static bool measure_deltas(struct bench *bench, struct pupil *pupil, struct telemetry *telemetry, struct cs_error *err)
{
    const struct delta_sink sink = { NULL, swallow, acknowledge, nothing, stop_nothing };
    const struct deltas_options options = { .topic = "deltas", .fingerprint = "", .epoch = 1, .retry = 1000,
                                            .interval = pupil->config->checkpoint.delta_interval };
    double off[ROUNDS], share[ROUNDS], stall[ROUNDS], bytes[ROUNDS], unused = 0;
    for (size_t i = 0; i < HELD; i++) learn(pupil);
    for (size_t i = 0; i < ROUNDS; i++) {
        struct deltas *deltas = NULL;
        off[i] = learn_and_send(pupil, NULL, &unused);
        stall[i] = 0;
        if (!learner_watch(pupil->learner, err) || !(deltas = deltas_create(&options, &sink, telemetry, err)))
            return false;
        double rate = learn_and_send(pupil, deltas, &stall[i]);
        deltas_stop(deltas, 1000);
        bytes[i] = (double)deltas_view(deltas).bytes;
        deltas_destroy(deltas);
        for (size_t t = 0; t < pupil->features->table_count; t++)
            embedding_unwatch(learner_table(pupil->learner, t));
        share[i] = rate / ((off[i] + (i ? off[i - 1] : off[i])) / 2);
    }
    double alone = bench_median(off, ROUNDS);
    bench_add(bench, "deltas: learning while they are sent", alone * bench_median(share, ROUNDS), "examples/s", alone,
              "without deltas, before and after");
    bench_add(bench, "deltas: the cut itself (learning waits)", 1e3 * bench_median(stall, ROUNDS), "ms", 5,
              "what a snapshot's is allowed");
    bench_add(bench, "  bytes of one", bench_median(bytes, ROUNDS) / 1e6, "MB", NAN, "");
    return true;
}

bool bench_delta(struct bench *bench, struct cs_error *err)
{
    struct pupil pupil;
    struct telemetry *telemetry = telemetry_create();
    bench_progress("learning while deltas are sent");
    bool ok = prepare(bench, &pupil, err) && measure_deltas(bench, &pupil, telemetry, err);
    pupil_destroy(&pupil);
    telemetry_destroy(telemetry);
    return ok;
}
