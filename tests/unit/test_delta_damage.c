/* 10,000 streams of deltas, each harmed in its own way: what is put onto a version is a prefix of what was sent, row by
 * row and tensor by tensor, and nothing else. */
#include "tests/unit/delta_fixture.h"

#include "daemon/delta_follow.h"

enum { STREAMS = 10000, DELTAS = 3, ALL_MAX = DELTAS * RECORDS_MAX + 8, EPOCH = 7000 };

static struct fixture fixture;
static struct state state[DELTAS + 1];
static struct records sent[DELTAS + 1];
static struct records twin[DELTAS + 1];         /* of another daemon that takes itself for this one */
static struct scorer *scorer;
static struct model *model[DELTAS + 1];
static unsigned results[COLDSTREAM_DELTA_RESULTS];

static void note(void *argument, const struct coldstream_delta_report *report)
{
    (void)argument;
    results[report->result]++;
    if (report->result == COLDSTREAM_DELTA_DAMAGED || report->result == COLDSTREAM_DELTA_GAP)
        assert_true(strlen(report->detail) > 10);
}

static int set_up(void **unused)
{
    (void)unused;
    fixture = fixture_create();
    chain_make(&fixture, DELTAS, EPOCH, 100, state, sent);
    state_publish(&fixture, fixture.directory, &state[0], EPOCH, 0);
    for (unsigned i = 0; i <= DELTAS; i++) {
        if (i) {
            struct state other = state[i - 1];
            state_step(&fixture, &other, 20 + i);
            delta_make(&fixture, &state[i - 1], &other, (struct delta_place){ EPOCH, i, 100 + i }, i - 1, &twin[i]);
        }
        model[i] = fixture_model(&fixture, state[i].tensors);
    }
    scorer = fixture_scorer(fixture.directory);
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    scorer_destroy(scorer);
    for (unsigned i = 0; i <= DELTAS; i++) {
        records_release(&sent[i]);
        records_release(&twin[i]);
        model_destroy(model[i]);
    }
    fixture_destroy(&fixture);
    return 0;
}

static bool same_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    const struct delta *delta = self;
    (void)err;
    if (tensor->role != TENSOR_SCORING) return true;
    for (size_t i = 0; i < delta->tensors; i++)
        if (!strcmp(delta->tensor[i].name, tensor->name)) {
            assert_int_equal(tensor_bytes(&delta->tensor[i]), tensor_bytes(tensor));
            assert_memory_equal(delta->tensor[i].data, tensor->data, tensor_bytes(tensor));
            return true;
        }
    fail_msg("%s is missing", tensor->name);
    return false;
}

/* The overlay over the first state is the state of that sequence. */
static void check(const struct delta_state *reached)
{
    static const float base[8] = { 0 };
    const struct state *expected = &state[reached->at.sequence];
    assert_true(reached->at.sequence <= DELTAS && reached->at.epoch == EPOCH);
    for (size_t t = 0; t < fixture.features->table_count; t++) {
        uint64_t key[FIXTURE_KEYS];
        const float *row[FIXTURE_KEYS];
        int table[FIXTURE_KEYS];
        for (size_t i = 0; i < FIXTURE_KEYS; i++) {
            key[i] = fixture_key(i);
            row[i] = base;
            table[i] = (int)t;
        }
        overlay_find_all(&reached->overlay, FIXTURE_KEYS, table, key, row);
        for (size_t i = 0; i < FIXTURE_KEYS; i++) {
            float made[8];
            unsigned seed = expected->row[t][i];
            if (row[i] == base) assert_int_equal(seed, state[0].row[t][i]);
            else if (!row[i]) assert_int_equal(seed, 0);
            else {
                assert_int_not_equal(seed, 0);
                fixture_row(seed, fixture.features->table[t], key[i], 8, made);
                assert_memory_equal(row[i], made, sizeof made);
            }
        }
    }
    if (!reached->at.sequence) assert_null(reached->newest);
    else model_tensors(model[reached->at.sequence], same_tensor, reached->newest, NULL);
}

struct stream { struct record record[ALL_MAX]; size_t count; unsigned char *harmed; };

static uint64_t draw(uint64_t stream, uint64_t *n, uint64_t below)
{
    return random_bits(stream, (*n)++) % below;
}

/* One harm: a bit, a cut, bytes too many, a record lost, doubled, moved, or another's in its place. */
static void harm(struct stream *stream, uint64_t random, uint64_t *n)
{
    size_t at = draw(random, n, stream->count), to = draw(random, n, stream->count);
    struct record *record = &stream->record[at], moved = *record;
    uint64_t kind = draw(random, n, 9);
    if (kind <= 2 && stream->harmed) kind += 3;         /* one copy of a record a stream */
    switch (kind) {
    case 0:
    case 1:
    case 2:
        stream->harmed = malloc(record->size + 8);
        assert_non_null(stream->harmed);
        memcpy(stream->harmed, record->bytes, record->size);
        memset(stream->harmed + record->size, 0, 8);
        record->bytes = stream->harmed;
        if (kind == 0) {
            size_t where = draw(random, n, 2) ? draw(random, n, 48) : draw(random, n, record->size);
            stream->harmed[where] ^= (unsigned char)(1u << draw(random, n, 8));
        } else if (kind == 1) record->size = draw(random, n, record->size);
        else record->size += 1 + draw(random, n, 8);
        break;
    case 3:
        memmove(record, record + 1, (stream->count - at - 1) * sizeof *record);
        stream->count--;
        break;
    case 4:
        memmove(record + 1, record, (stream->count - at) * sizeof *record);
        stream->count++;
        break;
    case 5:
        *record = stream->record[to];
        break;
    case 8:                                             /* whole, and of the same delta by its header */
        for (unsigned i = 1; i <= DELTAS; i++)
            for (size_t k = 1; k + 1 < sent[i].count && k + 1 < twin[i].count; k++)
                if (record->bytes == sent[i].record[k].bytes) moved = twin[i].record[k];
        *record = moved;
        break;
    case 6:
        stream->record[at] = stream->record[to];
        stream->record[to] = moved;
        break;
    default:                                            /* a whole piece of the stream again */
        for (size_t i = 0; i < 8 && stream->count < ALL_MAX && at + i < stream->count; i++)
            stream->record[stream->count++] = stream->record[at + i];
    }
}

static void a_harmed_stream_is_a_prefix_or_nothing(void **unused)
{
    (void)unused;
    unsigned reached[DELTAS + 1] = { 0 };
    for (unsigned s = 0; s < STREAMS; s++) {
        uint64_t random = random_stream(99, "harm", s), n = 0;
        struct stream stream = { .count = 0 };
        struct delta_follow *follow = delta_follow_create(1 << 20, note, NULL);
        struct delta_state at = { .at = { EPOCH, 0 } };
        struct cs_error err;
        for (unsigned i = 1; i <= DELTAS; i++)
            for (size_t r = 0; r < sent[i].count; r++) stream.record[stream.count++] = sent[i].record[r];
        uint64_t harms = s ? 1 + draw(random, &n, 3) : 0;
        for (uint64_t i = 0; i < harms; i++) harm(&stream, random, &n);
        bool each = draw(random, &n, 2);                /* taken one by one, or all that came at once */
        for (size_t r = 0; r < stream.count; r++) {
            bool whole;
            size_t put;
            delta_follow_feed(follow, stream.record[r].bytes, stream.record[r].size, &whole, &err);
            if (!(whole && each) && r + 1 < stream.count) continue;
            delta_follow_take(follow, &at.at);
            if (!delta_follow_put(follow, scorer, &at, &put, &err)) fail_msg("%s", err.message);
            delta_follow_tell(follow, NULL);
            if (draw(random, &n, 2)) overlay_compact(&at.overlay);
            check(&at);
        }
        reached[at.at.sequence]++;
        if (!harms) assert_int_equal(at.at.sequence, DELTAS);
        delta_state_release(&at);
        delta_follow_destroy(follow);
        free(stream.harmed);
    }
    print_message("# %d streams of %d deltas: %u, %u, %u and %u reached none, one, two and all of them whole\n",
                  STREAMS, DELTAS, reached[0], reached[1], reached[2], reached[3]);
    for (unsigned i = 0; i <= DELTAS; i++) assert_true(reached[i] > STREAMS / 50);       /* or little was tried */
    assert_true(results[COLDSTREAM_DELTA_DAMAGED] > STREAMS / 4 && results[COLDSTREAM_DELTA_GAP] > STREAMS / 4);
    assert_true(results[COLDSTREAM_DELTA_DUPLICATE] > STREAMS / 4);
    assert_int_equal(results[COLDSTREAM_DELTA_REFUSED], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(a_harmed_stream_is_a_prefix_or_nothing) };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
