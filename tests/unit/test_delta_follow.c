/* What becomes of each delta is told once and counted, what waits is known, and memory is bounded: the reading end of
 * the chain, fed and asked by one thread. */
#include "tests/unit/delta_fixture.h"

#include "daemon/delta_follow.h"

enum { DELTAS = 7, EPOCH = 7000, VERSION = 5000, REPORTS = 400 };

static struct fixture fixture;
static struct state state[DELTAS + 1];
static struct records sent[DELTAS + 1];
static size_t bytes[DELTAS + 1];        /* of each delta in memory */
static struct scorer *scorer;

static struct {
    struct coldstream_delta_report report[REPORTS];
    char detail[REPORTS][160];
    unsigned count, of[COLDSTREAM_DELTA_RESULTS];
} told;

static void note(void *argument, const struct coldstream_delta_report *report)
{
    (void)argument;
    assert_true(told.count < REPORTS);
    told.report[told.count] = *report;
    snprintf(told.detail[told.count++], sizeof told.detail[0], "%s", report->detail);
    told.of[report->result]++;
}

static size_t bytes_of(const struct records *records)
{
    struct delta_reader *reader = delta_reader_create(1 << 20);
    struct delta *delta = NULL;
    struct cs_error err;
    for (size_t i = 0; i < records->count; i++)
        delta_reader_feed(reader, records->record[i].bytes, records->record[i].size, &delta, &err);
    assert_non_null(delta);
    size_t size = delta->bytes;
    delta_drop(delta);
    delta_reader_destroy(reader);
    return size;
}

static int set_up(void **unused)
{
    (void)unused;
    fixture = fixture_create();
    chain_make(&fixture, DELTAS, EPOCH, VERSION, state, sent);
    for (unsigned i = 1; i <= DELTAS; i++) bytes[i] = bytes_of(&sent[i]);
    state_publish(&fixture, fixture.directory, &state[0], EPOCH, 0);
    scorer = fixture_scorer(fixture.directory);
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    scorer_destroy(scorer);
    for (unsigned i = 1; i <= DELTAS; i++) records_release(&sent[i]);
    fixture_destroy(&fixture);
    return 0;
}

static struct delta_follow *follow_with(size_t bytes_max)
{
    memset(&told, 0, sizeof told);
    return delta_follow_create(bytes_max, note, NULL);
}

static void feed(struct delta_follow *follow, const struct records *records)
{
    struct cs_error err;
    bool whole;
    for (size_t i = 0; i < records->count; i++)
        assert_true(delta_follow_feed(follow, records->record[i].bytes, records->record[i].size, &whole, &err));
}

static void take(struct delta_follow *follow, const struct delta_state *at) { delta_follow_take(follow, &at->at); }

static size_t put(struct delta_follow *follow, struct delta_state *at)
{
    struct cs_error err = { 0 };
    size_t count;
    if (!delta_follow_put(follow, scorer, at, &count, &err)) fail_msg("%s", err.message);
    delta_follow_tell(follow, NULL);
    return count;
}

/* What was served is replaced by a checkpoint: nothing lies over it. */
static void go_to(struct delta_state *at, uint64_t sequence)
{
    delta_state_release(at);
    *at = (struct delta_state){ .at = { EPOCH, sequence } };
}

static uint32_t waiting(struct delta_follow *follow)
{
    struct coldstream_delta_info info = { .size = sizeof info };
    delta_follow_count(follow, &info);
    for (size_t i = 0; i < COLDSTREAM_DELTA_RESULTS; i++) assert_int_equal(info.count[i], told.of[i]);
    return info.waiting;
}

/* The newest report, and how many there are of its kind. */
static void was_told(enum coldstream_delta_result result, unsigned count, uint64_t sequence, const char *detail)
{
    assert_true(told.count > 0);
    const struct coldstream_delta_report *last = &told.report[told.count - 1];
    assert_int_equal(last->result, result);
    assert_int_equal(told.of[result], count);
    assert_int_equal(last->sequence, sequence);
    assert_int_equal(last->version, sequence ? VERSION + sequence : 0);
    assert_int_equal(last->epoch != 0, sequence != 0);
    if (!strstr(told.detail[told.count - 1], detail)) fail_msg("%s", told.detail[told.count - 1]);
}

static void each_is_told_once_and_what_waits_is_known(void **unused)
{
    (void)unused;
    struct delta_follow *follow = follow_with(1 << 20);
    struct delta_state at = { .at = { EPOCH, 0 } };
    struct cs_error err = { 0 };
    bool whole;
    feed(follow, &sent[1]);
    assert_int_equal(told.count, 0);
    take(follow, &at);
    assert_int_equal(waiting(follow), 1);
    assert_true(delta_follow_waits(follow));
    assert_int_equal(put(follow, &at), 1);
    was_told(COLDSTREAM_DELTA_APPLIED, 1, 1, "");
    assert_int_equal(told.report[0].learned_count, 2);
    assert_int_equal(waiting(follow), 0);

    feed(follow, &sent[1]);                     /* the same records again */
    assert_int_equal(told.of[COLDSTREAM_DELTA_DUPLICATE], sent[1].count);
    feed(follow, &sent[3]);
    take(follow, &at);
    was_told(COLDSTREAM_DELTA_GAP, 1, 3, "it builds on delta 2, the last one here is 1");
    feed(follow, &sent[4]);
    take(follow, &at);
    assert_int_equal(told.of[COLDSTREAM_DELTA_GAP], 1);         /* it goes on from what waits */
    feed(follow, &sent[3]);                     /* whole, and waiting already */
    take(follow, &at);
    was_told(COLDSTREAM_DELTA_DUPLICATE, (unsigned)sent[1].count + 1, 3, "");
    assert_int_equal(put(follow, &at), 0);
    assert_int_equal(waiting(follow), 2);
    delta_follow_hold(follow);
    was_told(COLDSTREAM_DELTA_HELD, 1, 3, "what is served is not the newest checkpoint");
    go_to(&at, 3);
    take(follow, &at);
    assert_int_equal(waiting(follow), 1);       /* the checkpoint has the first */
    assert_int_equal(put(follow, &at), 1);
    was_told(COLDSTREAM_DELTA_APPLIED, 2, 4, "");

    feed(follow, &sent[2]);                     /* whole, and known */
    take(follow, &at);
    was_told(COLDSTREAM_DELTA_DUPLICATE, (unsigned)sent[1].count + 2, 2, "");
    assert_int_equal(waiting(follow), 0);
    struct records other = { 0 };
    delta_make(&fixture, &state[0], &state[1], (struct delta_place){ EPOCH + 1, 1, VERSION + 1 }, 0, &other);
    feed(follow, &other);
    take(follow, &at);
    was_told(COLDSTREAM_DELTA_EPOCH, 1, 1, "of epoch 7001, what is served is of 7000");
    records_release(&other);
    go_to(&at, 0);
    at.at.epoch = EPOCH + 1;
    assert_int_equal(put(follow, &at), 1);

    go_to(&at, 4);
    assert_true(delta_follow_feed(follow, sent[5].record[0].bytes, sent[5].record[0].size, &whole, &err));
    feed(follow, &sent[6]);
    was_told(COLDSTREAM_DELTA_UNFINISHED, 1, 0, "");
    assert_false(delta_follow_feed(follow, "x", 1, &whole, &err));
    was_told(COLDSTREAM_DELTA_DAMAGED, 1, 0, "1 bytes");
    take(follow, &at);
    was_told(COLDSTREAM_DELTA_GAP, 2, 6, "it builds on delta 5");
    go_to(&at, 6);                              /* put onto a checkpoint that has it */
    assert_int_equal(put(follow, &at), 0);
    assert_int_equal(waiting(follow), 0);
    delta_state_release(&at);
    delta_follow_destroy(follow);
}

/* One that can't be read by this model takes with it what builds on it; one that was put and can't be served is told as
 * refused, too. */
static void what_is_refused_is_told(void **unused)
{
    (void)unused;
    struct delta_follow *follow = follow_with(1 << 20);
    struct delta_state at = { .at = { EPOCH, 0 } };
    struct cs_error err = { 0 };
    size_t count;
    struct delta_encoder encoder = { 0 };
    struct delta_begin begin = { .fingerprint = "another model" };
    struct records alien = { 0 };
    assert_true(delta_encode_begin(&encoder, &(struct delta_place){ EPOCH, 1, VERSION + 1 }, &begin));
    records_add(&alien, &encoder);
    assert_true(delta_encode_commit(&encoder));
    records_add(&alien, &encoder);
    feed(follow, &alien);
    feed(follow, &sent[2]);
    take(follow, &at);
    assert_int_equal(waiting(follow), 2);
    assert_false(delta_follow_put(follow, scorer, &at, &count, &err));
    was_told(COLDSTREAM_DELTA_REFUSED, 1, 1, "it is of another model");
    assert_int_equal(waiting(follow), 0);
    assert_false(delta_follow_waits(follow));
    assert_int_equal(at.at.sequence, 0);

    feed(follow, &sent[1]);
    take(follow, &at);
    assert_true(delta_follow_put(follow, scorer, &at, &count, &err));
    assert_int_equal(count, 1);
    cs_fail(&err, CS_FAILED, "no memory for its model");
    delta_follow_tell(follow, &err);
    was_told(COLDSTREAM_DELTA_REFUSED, 2, 1, "no memory for its model");
    delta_follow_tell(follow, NULL);            /* of nothing */
    assert_int_equal(told.of[COLDSTREAM_DELTA_APPLIED], 0);
    waiting(follow);
    delta_encoder_release(&encoder);
    records_release(&alien);
    delta_state_release(&at);
    delta_follow_destroy(follow);
}

static void those_that_wait_are_bounded(void **unused)
{
    (void)unused;
    struct delta_follow *follow = follow_with(bytes[3] + bytes[4] - 1);
    struct delta_state at = { .at = { EPOCH, 0 } };
    feed(follow, &sent[3]);
    take(follow, &at);
    was_told(COLDSTREAM_DELTA_GAP, 1, 3, "");
    feed(follow, &sent[4]);
    take(follow, &at);
    was_told(COLDSTREAM_DELTA_OVERFLOW, 1, 4, "bytes of deltas wait for a checkpoint: they are given up");
    assert_int_equal(waiting(follow), 1);
    go_to(&at, 3);
    assert_int_equal(put(follow, &at), 1);      /* what came after those that went */
    for (unsigned i = 5; i <= DELTAS; i++) {    /* bytes that have gone do not count */
        go_to(&at, i - 1);
        feed(follow, &sent[i]);
        take(follow, &at);
        assert_int_equal(put(follow, &at), 1);
    }
    assert_int_equal(told.of[COLDSTREAM_DELTA_OVERFLOW], 1);
    waiting(follow);
    delta_state_release(&at);
    delta_follow_destroy(follow);
}

static void those_over_a_checkpoint_are_bounded(void **unused)
{
    (void)unused;
    size_t most = 0;
    for (unsigned i = 1; i <= DELTAS; i++) most = bytes[i] > most ? bytes[i] : most;
    struct delta_follow *follow = follow_with(most);
    struct delta_state at = { .at = { EPOCH, 0 } };
    for (unsigned i = 1; i + 1 <= 6; i += 2) {  /* each time that it is full, once */
        go_to(&at, i - 1);
        feed(follow, &sent[i]);
        take(follow, &at);
        assert_int_equal(put(follow, &at), 1);
        feed(follow, &sent[i + 1]);
        take(follow, &at);
        for (int again = 0; again < 2; again++) {
            assert_int_equal(put(follow, &at), 0);
            was_told(COLDSTREAM_DELTA_OVERFLOW, (i + 1) / 2, i + 1, "no room for more rows over the checkpoint");
            assert_int_equal(waiting(follow), 1);
        }
        go_to(&at, i);
        assert_int_equal(put(follow, &at), 1);
    }
    delta_state_release(&at);
    delta_follow_destroy(follow);
}

/* Each record is sound, and so is the chain: what is wrong is what they make together. */
static void what_a_delta_promised_it_has(void **unused)
{
    (void)unused;
    enum { FLOATS = 200000 };           /* more than a record holds */
    enum part { END, ROW, SMALL, LARGE, LARGE_BEGUN, LEFT_OUT };
    static const struct { struct delta_begin begin; enum part part[4]; size_t bytes_max; const char *says; } wrong[] = {
        { { .rows = 2 }, { ROW }, 1 << 20, "its BEGIN promised another number" },
        { { .gone = 1 }, { END }, 1 << 20, "its BEGIN promised another number" },
        { { .tensors = 2 }, { SMALL }, 1 << 20, "its BEGIN promised another number" },
        { { .tensors = 2 }, { SMALL, SMALL }, 1 << 20, "a tensor that was there" },
        { { .tensors = 1 }, { LARGE_BEGUN }, 1 << 20, "the last tensor lacks a piece" },
        { { .rows = 1, .tensors = 1 }, { LARGE_BEGUN, ROW }, 1 << 20, "a tensor before it lacks a piece" },
        { { .tensors = 2 }, { LARGE_BEGUN, SMALL }, 1 << 20, "the tensor before it lacks a piece" },
        { { .tensors = 1 }, { LARGE }, FLOATS * sizeof(float), "the delta is larger than is allowed here" },
        { { .rows = 2 }, { ROW, LEFT_OUT, ROW }, 1 << 20, "records before it are missing" },
        { { .rows = 1, .tensors = 2 }, { SMALL, LARGE, ROW }, 1 << 20, NULL },          /* nothing is wrong */
    };
    float *values = calloc(FLOATS, sizeof *values), row[8] = { 1 };
    const struct tensor small = { .name = "small", .rank = 1, .shape = { 3 }, .data = values },
                        large = { .name = "large", .rank = 1, .shape = { FLOATS }, .data = values };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct delta_encoder encoder = { 0 };
        struct records records = { 0 };
        struct delta_begin begin = wrong[i].begin;
        size_t offset;
        begin.fingerprint = "model";
        assert_true(delta_encode_begin(&encoder, &(struct delta_place){ EPOCH, 1, VERSION }, &begin));
        records_add(&records, &encoder);
        for (size_t p = 0; wrong[i].part[p] != END; p++) {
            enum part part = wrong[i].part[p];
            if (part == ROW || part == LEFT_OUT) {
                assert_true(delta_encode_rows(&encoder, "item", 8, 1, &(uint64_t){ p }, row));
                if (part == ROW) records_add(&records, &encoder);
                continue;
            }
            offset = 0;
            do {
                assert_true(delta_encode_dense(&encoder, part == SMALL ? &small : &large, &offset));
                records_add(&records, &encoder);
            } while (part == LARGE && offset < FLOATS * sizeof(float));
            assert_int_equal(offset < FLOATS * sizeof(float), part != LARGE);
        }
        assert_true(delta_encode_commit(&encoder));
        records_add(&records, &encoder);

        struct delta_reader *reader = delta_reader_create(wrong[i].bytes_max);
        struct delta *delta = NULL;
        struct cs_error err = { 0 };
        enum delta_fed fed = DELTA_FED_TAKEN;
        for (size_t r = 0; r < records.count && fed == DELTA_FED_TAKEN; r++)
            fed = delta_reader_feed(reader, records.record[r].bytes, records.record[r].size, &delta, &err);
        assert_int_equal(fed, wrong[i].says ? DELTA_FED_BROKEN : DELTA_FED_WHOLE);
        if (wrong[i].says && !strstr(err.message, wrong[i].says)) fail_msg("%s", err.message);
        delta_drop(delta);
        delta_reader_destroy(reader);
        delta_encoder_release(&encoder);
        records_release(&records);
    }
    free(values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_told_once_and_what_waits_is_known),
        cmocka_unit_test(what_is_refused_is_told),
        cmocka_unit_test(those_that_wait_are_bounded),
        cmocka_unit_test(what_a_delta_promised_it_has),
        cmocka_unit_test(those_over_a_checkpoint_are_bounded),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
