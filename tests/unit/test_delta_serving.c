/* libcoldstream with deltas: its answers are those of the full checkpoint of the same state, from wherever a reader
 * begins and whatever it misses, and swaps under load mix nothing. */
#include "tests/unit/delta_fixture.h"

#include <jansson.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/coldstream.h"

enum { DELTAS = 9, EPOCH = 7000, THREADS = 4, VERSION = 5000 };

static struct fixture fixture;
static struct state state[DELTAS + 1];
static struct records sent[DELTAS + 1];
static char *answer[DELTAS + 1];        /* of the full checkpoint of each state, without its version */

struct notes {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned swapped, refused, result[COLDSTREAM_DELTA_RESULTS];
    uint64_t sequence;                  /* of the delta applied last */
    int64_t learned;
    char detail[COLDSTREAM_DELTA_RESULTS][256];     /* the last of each */
};

static void note_swap(void *argument, uint64_t version, const char *error)
{
    struct notes *notes = argument;
    (void)version;
    pthread_mutex_lock(&notes->mutex);
    if (error) notes->refused++;
    else notes->swapped++;
    pthread_cond_broadcast(&notes->changed);
    pthread_mutex_unlock(&notes->mutex);
}

static void note_delta(void *argument, const struct coldstream_delta_report *report)
{
    struct notes *notes = argument;
    pthread_mutex_lock(&notes->mutex);
    notes->result[report->result]++;
    if (report->result == COLDSTREAM_DELTA_APPLIED) {
        notes->sequence = report->sequence;
        for (size_t i = 0; i < report->learned_count; i++) notes->learned += report->learned[i];
    } else if (*report->detail) {
        snprintf(notes->detail[report->result], sizeof notes->detail[report->result], "%s", report->detail);
    }
    pthread_cond_broadcast(&notes->changed);
    pthread_mutex_unlock(&notes->mutex);
}

static void await_sequence(struct notes *notes, uint64_t sequence)
{
    pthread_mutex_lock(&notes->mutex);
    while (notes->sequence != sequence) pthread_cond_wait(&notes->changed, &notes->mutex);
    pthread_mutex_unlock(&notes->mutex);
}

static void await_count(struct notes *notes, const unsigned *count, unsigned wanted)
{
    pthread_mutex_lock(&notes->mutex);
    while (*count < wanted) pthread_cond_wait(&notes->changed, &notes->mutex);
    pthread_mutex_unlock(&notes->mutex);
}

static struct notes now(struct notes *notes)
{
    pthread_mutex_lock(&notes->mutex);
    struct notes copy = *notes;
    pthread_mutex_unlock(&notes->mutex);
    return copy;
}

static struct coldstream *open_with(struct notes *notes, const char *directory, uint64_t delta_bytes)
{
    char error[256] = "";
    pthread_mutex_init(&notes->mutex, NULL);
    pthread_cond_init(&notes->changed, NULL);
    struct coldstream_options options = { .size = sizeof options, .poll_milliseconds = 1, .follow = 1, .verify = 1,
                                          .on_swap = note_swap, .on_delta = note_delta, .argument = notes,
                                          .delta_bytes = delta_bytes };
    struct coldstream *cs = coldstream_open(directory, &options, error, sizeof error);
    if (!cs) fail_msg("%s", error);
    return cs;
}

/* The answer's scores as text: equal where every score is, to the last bit. */
static char *scores(struct coldstream *cs, uint64_t *version)
{
    char error[256] = "", *text;
    if (coldstream_score_json(cs, fixture_request, strlen(fixture_request), &text, error, sizeof error))
        fail_msg("%s", error);
    json_t *root = json_loads(text, 0, NULL);
    *version = (uint64_t)json_integer_value(json_object_get(root, "version"));
    char *only = json_dumps(json_object_get(root, "scores"), JSON_COMPACT);
    json_decref(root);
    free(text);
    return only;
}

static void assert_serves(struct coldstream *cs, unsigned which)
{
    uint64_t version;
    char *text = scores(cs, &version);
    assert_string_equal(text, answer[which]);
    free(text);
}

static void make_directory(char *directory)
{
    snprintf(directory, 64, "/tmp/test_delta.XXXXXX");
    assert_non_null(mkdtemp(directory));
}

static void remove_directory(const char *directory)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    assert_int_equal(system(command), 0);
}

/* A directory of its own with the state at the chain's beginning, and a reader that follows it. */
static struct coldstream *follow_first(char directory[64], struct notes *notes)
{
    make_directory(directory);
    state_publish(&fixture, directory, &state[0], EPOCH, 0);
    return open_with(notes, directory, 0);
}

static void end(struct coldstream *cs, const char *directory)
{
    coldstream_close(cs);
    remove_directory(directory);
}

static int set_up(void **unused)
{
    (void)unused;
    fixture = fixture_create();
    chain_make(&fixture, DELTAS, EPOCH, VERSION, state, sent);
    for (unsigned i = 0; i <= DELTAS; i++) {
        uint64_t version;
        char directory[64];
        make_directory(directory);
        state_publish(&fixture, directory, &state[i], 0, 0);
        struct coldstream *cs = coldstream_open(directory, NULL, NULL, 0);
        assert_non_null(cs);
        answer[i] = scores(cs, &version);
        coldstream_close(cs);
        remove_directory(directory);
        if (i) assert_string_not_equal(answer[i], answer[i - 1]);       /* or nothing would be compared */
    }
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    for (unsigned i = 0; i <= DELTAS; i++) {
        records_release(&sent[i]);
        free(answer[i]);
    }
    fixture_destroy(&fixture);
    return 0;
}

static void feed(struct coldstream *cs, unsigned delta)
{
    char error[256] = "";
    for (size_t i = 0; i < sent[delta].count; i++)
        if (coldstream_delta(cs, sent[delta].record[i].bytes, sent[delta].record[i].size, error, sizeof error))
            fail_msg("%s", error);
}

static struct coldstream_delta_info info(struct coldstream *cs)
{
    struct coldstream_delta_info all = { .size = sizeof all };
    coldstream_delta_state(cs, &all);
    return all;
}

static int64_t info_number(struct coldstream *cs, const char *name, const char *member)
{
    char *text = coldstream_info(cs);
    json_t *root = json_loads(text, 0, NULL), *value = json_object_get(root, name);
    int64_t number = json_integer_value(member ? json_object_get(value, member) : value);
    assert_non_null(value);
    json_decref(root);
    free(text);
    return number;
}

static void deltas_score_as_full_checkpoints_do(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    make_directory(directory);
    uint64_t checkpoint = state_publish(&fixture, directory, &state[0], EPOCH, 0);
    struct coldstream *cs = open_with(&notes, directory, 0);
    assert_serves(cs, 0);
    for (unsigned i = 1; i <= DELTAS; i++) {
        uint64_t version;
        feed(cs, i);
        await_sequence(&notes, i);
        char *text = scores(cs, &version);
        assert_string_equal(text, answer[i]);
        assert_int_equal(version, VERSION + i);
        assert_int_equal(coldstream_version(cs), VERSION + i);
        assert_int_equal(coldstream_created(cs), 1700000001000 + i);
        assert_int_equal(info_number(cs, "version", NULL), VERSION + i);
        assert_int_equal(info_number(cs, "checkpoint", NULL), checkpoint);
        assert_int_equal(info_number(cs, "created", NULL), 1700000001000 + i);
        assert_int_equal(info_number(cs, "event_time_watermark", NULL), 1700000000500 + i);
        assert_int_equal(info_number(cs, "steps", NULL), 40 + i);
        assert_int_equal(info_number(cs, "delta", "epoch"), EPOCH);
        assert_int_equal(info_number(cs, "delta", "sequence"), i);
        free(text);
    }
    struct coldstream_delta_info all = info(cs);
    assert_int_equal(all.checkpoint, checkpoint);
    assert_int_equal(all.epoch, EPOCH);
    assert_int_equal(all.sequence, DELTAS);
    assert_int_equal(all.waiting, 0);
    assert_true(all.rows > 100 && all.bytes > all.rows * 8 * sizeof(float) / 2);
    assert_int_equal(all.count[COLDSTREAM_DELTA_APPLIED], DELTAS);
    assert_int_equal(notes.learned, (int64_t)DELTAS * (1700000000123 + 1700000000456));
    end(cs, directory);
}

/* Serves a checkpoint that the topic is far ahead of, and was far behind of. */
static void a_late_joiner_catches_up(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    make_directory(directory);
    state_publish(&fixture, directory, &state[4], EPOCH, 4);
    struct coldstream *cs = open_with(&notes, directory, 0);
    struct records old = { 0 };
    delta_make(&fixture, &state[3], &state[7], (struct delta_place){ EPOCH - 1000, 5, VERSION }, 4, &old);
    for (size_t i = 0; i < old.count; i++)          /* of the run before: retained, and passed over */
        assert_int_equal(coldstream_delta(cs, old.record[i].bytes, old.record[i].size, NULL, 0), 0);
    for (size_t i = 5; i < sent[2].count; i++)      /* what is retained begins within a delta */
        assert_int_equal(coldstream_delta(cs, sent[2].record[i].bytes, sent[2].record[i].size, NULL, 0), 0);
    for (unsigned i = 3; i <= DELTAS; i++) feed(cs, i);
    await_sequence(&notes, DELTAS);
    assert_serves(cs, DELTAS);
    assert_int_equal(now(&notes).result[COLDSTREAM_DELTA_APPLIED], DELTAS - 4);
    assert_int_equal(now(&notes).result[COLDSTREAM_DELTA_DUPLICATE], 3);
    assert_int_equal(now(&notes).result[COLDSTREAM_DELTA_GAP] + now(&notes).result[COLDSTREAM_DELTA_EPOCH], 0);
    records_release(&old);
    end(cs, directory);
}

/* What waits may be broken, too: as far as it goes on, it is used. */
static void two_gaps_wait_in_order(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    struct coldstream *cs = follow_first(directory, &notes);
    feed(cs, 3);
    feed(cs, 4);
    feed(cs, 6);
    feed(cs, 7);
    await_count(&notes, &notes.result[COLDSTREAM_DELTA_GAP], 2);
    state_publish(&fixture, directory, &state[3], EPOCH, 3);
    await_sequence(&notes, 4);
    assert_serves(cs, 4);
    state_publish(&fixture, directory, &state[6], EPOCH, 6);
    await_sequence(&notes, 7);
    assert_serves(cs, 7);
    end(cs, directory);
}

static void a_gap_waits_for_the_next_checkpoint(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    struct coldstream *cs = follow_first(directory, &notes);
    feed(cs, 1);
    feed(cs, 2);
    await_sequence(&notes, 2);
    for (unsigned i = 4; i <= 7; i++) feed(cs, i);
    await_count(&notes, &notes.result[COLDSTREAM_DELTA_GAP], 1);
    assert_string_equal(now(&notes).detail[COLDSTREAM_DELTA_GAP], "it builds on delta 3, the last one here is 2");
    assert_serves(cs, 2);
    state_publish(&fixture, directory, &state[1], EPOCH, 1);        /* behind what is served: goes under it */
    await_count(&notes, &notes.swapped, 1);
    assert_serves(cs, 2);
    assert_int_equal(coldstream_version(cs), VERSION + 2);
    state_publish(&fixture, directory, &state[5], EPOCH, 5);        /* what waits goes on from here */
    await_sequence(&notes, 7);
    assert_serves(cs, 7);
    feed(cs, 8);
    await_sequence(&notes, 8);
    assert_serves(cs, 8);
    assert_int_equal(now(&notes).result[COLDSTREAM_DELTA_GAP], 1);
    assert_int_equal(info(cs).waiting, 0);
    end(cs, directory);
}

/* The usual case: by the time that a full checkpoint is there, deltas are ahead of it. */
static void a_checkpoint_goes_under_what_is_served(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    struct coldstream *cs = follow_first(directory, &notes);
    for (unsigned i = 1; i <= 6; i++) {
        feed(cs, i);
        await_sequence(&notes, i);
    }
    uint64_t rows = info(cs).rows, checkpoint = state_publish(&fixture, directory, &state[4], EPOCH, 4);
    await_count(&notes, &notes.swapped, 1);
    assert_serves(cs, 6);
    assert_int_equal(coldstream_version(cs), VERSION + 6);
    assert_int_equal(info(cs).checkpoint, checkpoint);
    assert_int_equal(info(cs).sequence, 6);
    assert_true(info(cs).rows <= rows);
    feed(cs, 7);
    await_sequence(&notes, 7);
    assert_serves(cs, 7);
    checkpoint = state_publish(&fixture, directory, &state[7], EPOCH, 7);   /* all of it: nothing lies over it */
    await_count(&notes, &notes.swapped, 2);
    assert_serves(cs, 7);
    assert_int_equal(info(cs).rows, 0);
    assert_int_equal(coldstream_version(cs), checkpoint);
    feed(cs, 8);
    await_sequence(&notes, 8);
    assert_serves(cs, 8);
    end(cs, directory);
}

/* The daemon began anew: its deltas wait for its first checkpoint. */
static void another_epoch_waits_for_its_checkpoint(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    struct records first = { 0 }, second = { 0 };
    struct coldstream *cs = follow_first(directory, &notes);
    feed(cs, 1);
    await_sequence(&notes, 1);
    delta_make(&fixture, &state[3], &state[4], (struct delta_place){ EPOCH + 5, 1, VERSION + 90 }, 0, &first);
    delta_make(&fixture, &state[4], &state[5], (struct delta_place){ EPOCH + 5, 2, VERSION + 91 }, 1, &second);
    for (size_t i = 0; i < first.count; i++) coldstream_delta(cs, first.record[i].bytes, first.record[i].size, NULL, 0);
    for (size_t i = 0; i < second.count; i++)
        coldstream_delta(cs, second.record[i].bytes, second.record[i].size, NULL, 0);
    await_count(&notes, &notes.result[COLDSTREAM_DELTA_EPOCH], 1);
    assert_serves(cs, 1);
    state_publish(&fixture, directory, &state[4], EPOCH + 5, 1);
    await_sequence(&notes, 2);
    assert_serves(cs, 5);
    assert_int_equal(coldstream_version(cs), VERSION + 91);
    assert_int_equal(now(&notes).result[COLDSTREAM_DELTA_EPOCH], 1);
    records_release(&first);
    records_release(&second);
    end(cs, directory);
}

/* What could not be sent whole comes again under the next number, on the same base. */
static void a_delta_sent_again_leaves_no_gap(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    struct records again = { 0 };
    struct coldstream *cs = follow_first(directory, &notes);
    for (size_t i = 0; i + 1 < sent[1].count; i++)
        assert_int_equal(coldstream_delta(cs, sent[1].record[i].bytes, sent[1].record[i].size, NULL, 0), 0);
    delta_make(&fixture, &state[0], &state[2], (struct delta_place){ EPOCH, 2, VERSION + 2 }, 0, &again);
    for (size_t i = 0; i < again.count; i++)
        assert_int_equal(coldstream_delta(cs, again.record[i].bytes, again.record[i].size, NULL, 0), 0);
    await_sequence(&notes, 2);
    assert_serves(cs, 2);
    assert_int_equal(now(&notes).result[COLDSTREAM_DELTA_UNFINISHED], 1);
    assert_int_equal(now(&notes).result[COLDSTREAM_DELTA_GAP], 0);
    records_release(&again);
    end(cs, directory);
}

/* Somebody went back to an older checkpoint: no delta undoes it, for a reader that was there or for one that comes. */
static void going_back_is_not_undone(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 }, late = { 0 };
    make_directory(directory);
    uint64_t old = state_publish(&fixture, directory, &state[0], EPOCH, 0);
    state_publish(&fixture, directory, &state[2], EPOCH, 2);
    struct coldstream *cs = open_with(&notes, directory, 0);
    feed(cs, 3);
    await_sequence(&notes, 3);
    assert_true(checkpoint_repoint(directory, old, NULL));
    await_count(&notes, &notes.swapped, 1);
    assert_serves(cs, 0);
    feed(cs, 4);
    await_count(&notes, &notes.result[COLDSTREAM_DELTA_HELD], 1);
    struct coldstream *other = open_with(&late, directory, 0);
    for (unsigned i = 1; i <= 4; i++) feed(other, i);
    await_count(&late, &late.result[COLDSTREAM_DELTA_HELD], 1);
    assert_serves(other, 0);
    assert_serves(cs, 0);
    state_publish(&fixture, directory, &state[4], EPOCH, 4);        /* resumed */
    feed(cs, 5);
    await_sequence(&notes, 5);
    assert_serves(cs, 5);
    feed(other, 5);
    await_sequence(&late, 5);
    assert_serves(other, 5);
    assert_int_equal(now(&notes).result[COLDSTREAM_DELTA_APPLIED], 2);
    assert_int_equal(now(&late).result[COLDSTREAM_DELTA_APPLIED], 1);
    coldstream_close(cs);
    coldstream_close(other);
    remove_directory(directory);
}

/* The checkpoint that the deltas lie over is the one gone back to. */
static void going_back_drops_what_lies_over_it(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    make_directory(directory);
    uint64_t version = state_publish(&fixture, directory, &state[0], EPOCH, 0);
    struct coldstream *cs = open_with(&notes, directory, 0);
    feed(cs, 1);
    await_sequence(&notes, 1);
    assert_true(checkpoint_mark(directory, version, CHECKPOINT_FROZEN, "", NULL));
    await_count(&notes, &notes.swapped, 1);
    assert_serves(cs, 0);
    assert_int_equal(coldstream_version(cs), version);
    feed(cs, 2);
    await_count(&notes, &notes.result[COLDSTREAM_DELTA_HELD], 1);
    state_publish(&fixture, directory, &state[1], EPOCH, 1);
    await_sequence(&notes, 2);
    assert_serves(cs, 2);
    end(cs, directory);
}

/* Gone back to a checkpoint newer than the one below, but older than what is served: nothing newer stays over it. */
static void going_back_is_no_catching_up(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    make_directory(directory);
    uint64_t old = state_publish(&fixture, directory, &state[0], EPOCH, 0);
    struct coldstream *cs = open_with(&notes, directory, 0);
    feed(cs, 1);
    feed(cs, 2);
    await_sequence(&notes, 2);
    assert_true(checkpoint_repoint(directory, old, NULL));
    char from[128], to[128];            /* marked before it is named, as a rollback is */
    make_directory(from);
    state_publish(&fixture, from, &state[0], EPOCH, 0);
    uint64_t version = state_publish(&fixture, from, &state[1], EPOCH, 1);
    assert_true(checkpoint_mark(from, version, CHECKPOINT_FROZEN, "", NULL));
    snprintf(to, sizeof to, "%s/%020" PRIu64, directory, version);
    snprintf(from + strlen(from), 64, "/%020" PRIu64, version);
    assert_int_equal(rename(from, to), 0);
    assert_true(checkpoint_repoint(directory, version, NULL));
    await_count(&notes, &notes.swapped, 1);
    assert_serves(cs, 1);
    coldstream_close(cs);
    from[strlen(from) - 21] = 0;
    remove_directory(from);
    remove_directory(directory);
}

static void memory_is_bounded(void **unused)
{
    (void)unused;
    enum { BYTES = 30000 };
    char directory[64];
    struct notes notes = { 0 };
    make_directory(directory);
    state_publish(&fixture, directory, &state[0], EPOCH, 0);
    struct coldstream *cs = open_with(&notes, directory, BYTES);
    unsigned i = 1;
    for (; i <= DELTAS && !now(&notes).result[COLDSTREAM_DELTA_OVERFLOW]; i++) {
        feed(cs, i);
        pthread_mutex_lock(&notes.mutex);
        while (notes.sequence != i && !notes.result[COLDSTREAM_DELTA_OVERFLOW])
            pthread_cond_wait(&notes.changed, &notes.mutex);
        pthread_mutex_unlock(&notes.mutex);
    }
    assert_in_range(i, 3, DELTAS);
    assert_true(info(cs).bytes < 2 * BYTES);
    assert_serves(cs, (unsigned)info(cs).sequence);
    for (; i < DELTAS; i++) feed(cs, i);
    state_publish(&fixture, directory, &state[DELTAS - 1], EPOCH, DELTAS - 1);      /* room again */
    await_count(&notes, &notes.swapped, 1);
    feed(cs, DELTAS);
    await_sequence(&notes, DELTAS);
    assert_serves(cs, DELTAS);
    end(cs, directory);
}

/* Takes the place of storage's (the linker's --wrap): an opening takes as long as the test likes. */
static struct { pthread_mutex_t mutex; pthread_cond_t changed; bool shut, inside; unsigned failures; } gate = {
    .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER
};
struct checkpoint *__real_checkpoint_open(const char *path, bool verify, struct cs_error *err);
struct checkpoint *__wrap_checkpoint_open(const char *path, bool verify, struct cs_error *err);

struct checkpoint *__wrap_checkpoint_open(const char *path, bool verify, struct cs_error *err)
{
    pthread_mutex_lock(&gate.mutex);
    gate.inside = true;
    pthread_cond_broadcast(&gate.changed);
    while (gate.shut) pthread_cond_wait(&gate.changed, &gate.mutex);
    bool fails = gate.failures > 0;
    gate.failures -= fails;
    pthread_mutex_unlock(&gate.mutex);
    if (fails && !cs_fail(err, CS_FAILED, "no memory, this time")) return NULL;
    return __real_checkpoint_open(path, verify, err);
}

static void gate_shut(bool shut)
{
    pthread_mutex_lock(&gate.mutex);
    gate.shut = shut;
    if (shut) gate.inside = false;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.mutex);
}

static void gate_await(void)
{
    pthread_mutex_lock(&gate.mutex);
    while (!gate.inside) pthread_cond_wait(&gate.changed, &gate.mutex);
    pthread_mutex_unlock(&gate.mutex);
}

static void deltas_go_on_while_a_checkpoint_opens(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    struct coldstream *cs = follow_first(directory, &notes);
    feed(cs, 1);
    await_sequence(&notes, 1);
    gate_shut(true);
    uint64_t checkpoint = state_publish(&fixture, directory, &state[2], EPOCH, 2);
    gate_await();
    for (unsigned i = 2; i <= 5; i++) {
        feed(cs, i);
        await_sequence(&notes, i);
        assert_serves(cs, i);
    }
    assert_int_equal(notes.swapped, 0);
    gate_shut(false);
    await_count(&notes, &notes.swapped, 1);         /* and then it goes under what is served by now */
    assert_serves(cs, 5);
    assert_int_equal(info(cs).checkpoint, checkpoint);
    assert_int_equal(info(cs).sequence, 5);
    feed(cs, 6);
    await_sequence(&notes, 6);
    assert_serves(cs, 6);
    end(cs, directory);
}

/* Gone back while the newer one was being opened: the newer one does not stay. */
static void going_back_overtakes_an_opening(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    make_directory(directory);
    uint64_t old = state_publish(&fixture, directory, &state[0], EPOCH, 0);
    state_publish(&fixture, directory, &state[1], EPOCH, 1);
    struct coldstream *cs = open_with(&notes, directory, 0);
    gate_shut(true);
    state_publish(&fixture, directory, &state[2], EPOCH, 2);
    gate_await();
    assert_true(checkpoint_mark(directory, old, CHECKPOINT_FROZEN, "", NULL));
    assert_true(checkpoint_repoint(directory, old, NULL));
    gate_shut(false);
    while (info(cs).checkpoint != old) sched_yield();
    assert_serves(cs, 0);
    for (unsigned i = 1; i <= 3; i++) {
        feed(cs, i);
        while (info(cs).waiting < i) sched_yield();
    }
    assert_serves(cs, 0);
    coldstream_close(cs);               /* nothing is under way any more */
    assert_int_equal(now(&notes).result[COLDSTREAM_DELTA_HELD], 1);
    remove_directory(directory);
}

static void closing_waits_for_an_opening(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    struct coldstream *cs = follow_first(directory, &notes);
    gate_shut(true);
    state_publish(&fixture, directory, &state[1], EPOCH, 1);
    gate_await();
    gate_shut(false);
    coldstream_close(cs);               /* ASan sees a version that nobody took */
    remove_directory(directory);
}

/* A damaged checkpoint is no reason to stop: deltas lie over the one before. */
static void deltas_go_on_over_a_refused_checkpoint(void **unused)
{
    (void)unused;
    char directory[64], path[160];
    struct notes notes = { 0 };
    struct coldstream *cs = follow_first(directory, &notes);
    gate_shut(true);
    uint64_t version = state_publish(&fixture, directory, &state[1], EPOCH, 1);
    gate_await();
    snprintf(path, sizeof path, "%s/%020" PRIu64 "/data.mdb", directory, version);
    assert_int_equal(remove(path), 0);
    gate_shut(false);
    await_count(&notes, &notes.refused, 1);
    for (unsigned i = 1; i <= 3; i++) {
        feed(cs, i);
        await_sequence(&notes, i);
        assert_serves(cs, i);
    }
    assert_int_equal(notes.refused, 1);
    end(cs, directory);
}

/* What may pass is tried again, and told once. */
static void a_checkpoint_that_fails_to_open_is_opened_later(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    struct coldstream *cs = follow_first(directory, &notes);
    pthread_mutex_lock(&gate.mutex);
    gate.failures = 3;
    pthread_mutex_unlock(&gate.mutex);
    state_publish(&fixture, directory, &state[1], EPOCH, 1);
    await_count(&notes, &notes.swapped, 1);
    assert_int_equal(notes.refused, 1);
    assert_serves(cs, 1);
    end(cs, directory);
}

static void another_models_delta_is_refused(void **unused)
{
    (void)unused;
    char directory[64];
    struct notes notes = { 0 };
    struct coldstream *cs = follow_first(directory, &notes);
    static const struct {
        const char *table, *tensor, *says;
        uint32_t dimension;
        uint64_t second;
        const char *model;
    } wrong[] = {
        { "no such table", NULL, "rows of table no such table, which the model does not read", 8, 2, NULL },
        { "item", NULL, "table item has rows of 7 numbers, the model reads 8", 7, 2, NULL },
        { "item", NULL, "has a key twice", 8, 1, NULL },
        { "item", "user.age", "is missing in delta 1", 8, 2, NULL },
        { "item", NULL, "it is of another model (modem) than the full version below (model)", 8, 2, "modem" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct delta_encoder encoder = { 0 };
        struct delta_begin begin = { .rows = 2, .fingerprint = wrong[i].model ? wrong[i].model : "model" };
        uint64_t key[2] = { 1, wrong[i].second };
        float row[16] = { 0 };
        struct records records = { 0 };
        assert_true(delta_encode_begin(&encoder, &(struct delta_place){ EPOCH, 1, VERSION + i }, &begin));
        records_add(&records, &encoder);
        assert_true(delta_encode_rows(&encoder, wrong[i].table, wrong[i].dimension, 2, key, row));
        records_add(&records, &encoder);
        assert_true(delta_encode_commit(&encoder));
        records_add(&records, &encoder);
        for (size_t r = 0; r < records.count; r++)
            assert_int_equal(coldstream_delta(cs, records.record[r].bytes, records.record[r].size, NULL, 0), 0);
        await_count(&notes, &notes.result[COLDSTREAM_DELTA_REFUSED], (unsigned)i + 1);
        struct notes said = now(&notes);
        if (!strstr(said.detail[COLDSTREAM_DELTA_REFUSED], wrong[i].says))
            fail_msg("%s", said.detail[COLDSTREAM_DELTA_REFUSED]);
        assert_serves(cs, 0);
        delta_encoder_release(&encoder);
        records_release(&records);
    }
    feed(cs, 1);                        /* the right one is taken all the same */
    await_sequence(&notes, 1);
    assert_serves(cs, 1);
    end(cs, directory);
}

static void handles_that_follow_nothing_say_so(void **unused)
{
    (void)unused;
    char directory[64], error[256] = "";
    struct notes notes = { 0 };
    struct coldstream *cs = follow_first(directory, &notes);
    feed(cs, 1);
    await_sequence(&notes, 1);
    struct coldstream *pinned = coldstream_pin(cs, 0, error, sizeof error);
    assert_non_null(pinned);
    assert_int_equal(coldstream_delta(pinned, "", 0, error, sizeof error), -1);
    assert_non_null(strstr(error, "stays with one version"));
    feed(cs, 2);
    await_sequence(&notes, 2);
    assert_serves(pinned, 1);           /* rows and tensors of then, though the handle it came from went on */
    assert_int_equal(coldstream_delta(cs, "CSD1", 4, error, sizeof error), -1);
    assert_non_null(strstr(error, "4 bytes"));
    coldstream_close(cs);
    assert_serves(pinned, 1);
    coldstream_close(pinned);
    remove_directory(directory);
}

static struct { struct coldstream *cs; atomic_bool stop; atomic_uint scored, mixed; } load;

static void *score_on(void *unused)
{
    (void)unused;
    while (!atomic_load(&load.stop)) {
        uint64_t version;
        char *text = scores(load.cs, &version);
        if (strcmp(text, answer[version < VERSION ? 0 : (version - VERSION) % (DELTAS + 1)]))
            atomic_fetch_add(&load.mixed, 1);
        atomic_fetch_add(&load.scored, 1);
        free(text);
    }
    return NULL;
}

/* Round and round through the states, every tenth time over another checkpoint. */
static void deltas_under_load_mix_nothing(void **unused)
{
    (void)unused;
    enum { SWAPS = 60, BEHIND = 3 };
    char directory[64];
    struct notes notes = { 0 };
    pthread_t thread[THREADS];
    unsigned checkpoints = 0;
    make_directory(directory);
    state_publish(&fixture, directory, &state[0], EPOCH, 0);
    load.cs = open_with(&notes, directory, 0);
    for (size_t i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&thread[i], NULL, score_on, NULL), 0);
    for (unsigned i = 1; i <= SWAPS; i++) {
        struct records records = { 0 };
        unsigned before = atomic_load(&load.scored);
        delta_make(&fixture, &state[(i - 1) % (DELTAS + 1)], &state[i % (DELTAS + 1)],
                   (struct delta_place){ EPOCH, i, VERSION + i }, i - 1, &records);
        for (size_t r = 0; r < records.count; r++)
            assert_int_equal(coldstream_delta(load.cs, records.record[r].bytes, records.record[r].size, NULL, 0), 0);
        await_sequence(&notes, i);
        if (i % 10 == 7) {
            state_publish(&fixture, directory, &state[(i - BEHIND) % (DELTAS + 1)], EPOCH, i - BEHIND);
            await_count(&notes, &notes.swapped, ++checkpoints);
        }
        while (atomic_load(&load.scored) < before + THREADS) sched_yield();
        records_release(&records);
    }
    atomic_store(&load.stop, true);
    for (size_t i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
    assert_int_equal(load.mixed, 0);
    assert_true(load.scored >= SWAPS * THREADS);
    assert_serves(load.cs, SWAPS % (DELTAS + 1));
    coldstream_close(load.cs);
    remove_directory(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deltas_score_as_full_checkpoints_do),
        cmocka_unit_test(a_late_joiner_catches_up),
        cmocka_unit_test(a_gap_waits_for_the_next_checkpoint),
        cmocka_unit_test(two_gaps_wait_in_order),
        cmocka_unit_test(a_checkpoint_goes_under_what_is_served),
        cmocka_unit_test(another_epoch_waits_for_its_checkpoint),
        cmocka_unit_test(a_delta_sent_again_leaves_no_gap),
        cmocka_unit_test(going_back_is_not_undone),
        cmocka_unit_test(going_back_drops_what_lies_over_it),
        cmocka_unit_test(going_back_is_no_catching_up),
        cmocka_unit_test(memory_is_bounded),
        cmocka_unit_test(deltas_go_on_while_a_checkpoint_opens),
        cmocka_unit_test(going_back_overtakes_an_opening),
        cmocka_unit_test(closing_waits_for_an_opening),
        cmocka_unit_test(deltas_go_on_over_a_refused_checkpoint),
        cmocka_unit_test(a_checkpoint_that_fails_to_open_is_opened_later),
        cmocka_unit_test(another_models_delta_is_refused),
        cmocka_unit_test(handles_that_follow_nothing_say_so),
        cmocka_unit_test(deltas_under_load_mix_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
