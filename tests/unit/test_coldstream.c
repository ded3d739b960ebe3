/* libcoldstream: its scores are the model's own, wrong requests are told where, and swaps under load mix nothing. */
#include "tests/unit/serving_fixture.h"

#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/decode.h"
#include "daemon/coldstream.h"

enum { THREADS = 4, FLIPS = 30 };

static struct fixture fixture;
static const struct coldstream_options stay = { .size = sizeof stay, .verify = 1 };

static int set_up(void **state)
{
    (void)state;
    fixture = fixture_create();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fixture_destroy(&fixture);
    return 0;
}

static struct coldstream *open_directory(const char *directory, const struct coldstream_options *options)
{
    char error[256] = "";
    struct coldstream *cs = coldstream_open(directory, options, error, sizeof error);
    if (!cs) fail_msg("%s", error);
    return cs;
}

static char *score_text(struct coldstream *cs, const char *request)
{
    char error[256] = "", *response;
    if (coldstream_score_json(cs, request, strlen(request), &response, error, sizeof error)) fail_msg("%s", error);
    return response;
}

/* The way of training: decode, batch, model. */
static float score_by_hand(uint64_t seed, const char *record)
{
    struct cs_error err = { 0 };
    struct decoder *decoder = decoder_create(fixture.features, &(struct decode_options){ 0 }, &err);
    struct event event;
    if (decode(decoder, record, strlen(record), EVENT_IMPRESSION, &event, &err) != DECODE_OK)
        fail_msg("%s", err.message);
    struct arena *arena = arena_create(1 << 16), *scratch = arena_create(1 << 16);
    struct batch *batch = batch_build(fixture.features, &event.example, 1, arena);
    struct model_rows *rows = arena_take(scratch, fixture.features->table_count * sizeof *rows);
    for (size_t t = 0; t < fixture.features->table_count; t++) {
        float *row = arena_take_zeroed(scratch, batch->table[t].count * 8 * sizeof *row);
        uint8_t *present = arena_take_zeroed(scratch, batch->table[t].count);
        for (size_t i = 0; i < batch->table[t].count; i++)
            for (size_t k = 0; k < FIXTURE_KEYS; k++) {
                if (fixture_key(k) != batch->table[t].key[i]) continue;
                fixture_row(seed, fixture.features->table[t], batch->table[t].key[i], 8, row + i * 8);
                present[i] = 1;
            }
        rows[t] = (struct model_rows){ row, present };
    }
    float score;
    struct model *model = fixture_model(&fixture, seed);
    model_changed(model);
    model_forward_score(model, batch, rows, scratch, &score);
    model_destroy(model);
    arena_destroy(arena);
    arena_destroy(scratch);
    event_release(&event);
    decoder_destroy(decoder);
    return score;
}

static void scores_are_the_models_own(void **state)
{
    (void)state;
    uint64_t version = fixture_publish(&fixture, 1);
    struct coldstream *cs = open_directory(fixture.directory, &stay);
    char *text = score_text(cs, fixture_request);
    json_t *answer = json_loads(text, 0, NULL), *scores = json_object_get(answer, "scores"),
           *is_new = json_object_get(answer, "new");
    assert_int_equal(json_integer_value(json_object_get(answer, "version")), version);
    assert_int_equal(coldstream_version(cs), version);
    assert_true(coldstream_created(cs) > 1600000000000);
    assert_int_equal(json_array_size(scores), 3);
    assert_true(json_is_false(json_array_get(is_new, 0)) && json_is_true(json_array_get(is_new, 1)) &&
                json_is_false(json_array_get(is_new, 2)));
    double expected[] = {
        (double)score_by_hand(1, "{\"impression_id\":\"a\",\"ts\":1,\"user_id\":\"u1\",\"user\":{\"age\":30,\"gender\":"
                                 "\"F\",\"income\":1.5},"
                                 "\"behaviors\":[\"i1\",\"i2\"],\"context\":{\"hour\":13},\"item_id\":\"i9\",\"item\":{"
                                 "\"category\":\"c4\"}}"),
        (double)score_by_hand(
            1, "{\"impression_id\":\"a\",\"ts\":1,\"user_id\":\"u2\",\"user\":{\"age\":30,\"gender\":[\"F\",\"M\"]},"
               "\"behaviors\":[],\"item_id\":\"i9\",\"item\":{\"category\":\"c4\"}}"),
        (double)score_by_hand(
            1, "{\"impression_id\":\"a\",\"ts\":1,\"user_id\":\"u2\",\"user\":{\"age\":17,\"gender\":\"M\"},"
               "\"behaviors\":[\"i3\"],\"context\":{\"hour\":2},\"item_id\":\"i1\"}"),
    };
    json_t *candidates = json_array_get(scores, 2);
    assert_int_equal(json_array_size(candidates), 3);
    assert_true(fabs(json_number_value(json_array_get(scores, 0)) - expected[0]) <= 1e-6);
    assert_true(fabs(json_number_value(json_array_get(scores, 1)) - expected[1]) <= 1e-6);
    assert_true(fabs(json_number_value(json_array_get(candidates, 1)) - expected[2]) <= 1e-6);
    assert_true(fabs(expected[0] - expected[1]) > 1e-4 &&
                fabs(expected[0] - expected[2]) > 1e-4); /* or nothing was compared */
    json_decref(answer);
    free(text);
    text = coldstream_info(cs);
    assert_non_null(strstr(text, "sha256"));
    free(text);
    coldstream_close(cs);
}

/* Scoring folds and lays out what the learner computes in steps: every kind of tower there is. */
static void every_tower_scores_as_the_learner_does(void **state)
{
    static const char *const models[] = {
        "  ranking: {tower: emb_lr}\n  zero_shot: {kind: none}\n",
        "  ranking: {tower: emb_lr}\n  zero_shot: {kind: linear}\n",
        "  ranking: {tower: base_dnn, hidden: [40]}\n  zero_shot: {kind: linear}\n",
        "  ranking: {tower: base_dnn, hidden: [64, 33, 5]}\n  zero_shot: {kind: mail, target: pooled, attention: 5, "
        "encoder: [12, 10, 9], decoder: [11, 13]}\n",
        "  ranking: {tower: base_dnn, hidden: [31, 32]}\n  zero_shot: {kind: mail, target: sequence, attention: 35, "
        "encoder: [12, 40, 9], decoder: [64, 13]}\n",
    };
    static const char *const asked[] = {
        "{\"user_id\":\"u1\",\"user\":{\"age\":30,\"gender\":\"F\",\"income\":1.5},"
        "\"behaviors\":[\"i1\",\"i2\"],\"context\":{\"hour\":13},\"item_id\":\"i9\","
        "\"item\":{\"category\":[\"c4\",\"c5\"]}}",
        "{\"user_id\":\"u2\",\"user\":{\"age\":17,\"gender\":[\"F\",\"M\"],\"income\":-40},\"behaviors\":[],"
        "\"item_id\":\"i9\",\"item\":{\"category\":\"c4\"}}",
        "{\"user_id\":\"u3\",\"user\":{\"gender\":\"unseen\"},\"behaviors\":[],\"item_id\":\"unseen\"}",
    };
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        char text[1024];
        fixture_destroy(&fixture);
        snprintf(text, sizeof text, "%s%s", FIXTURE_FEATURES, models[m]);
        fixture = fixture_create_of(text);
        fixture_publish(&fixture, 1);
        struct coldstream *cs = open_directory(fixture.directory, &stay);
        double last = -1;
        for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
            char request[512], record[512];
            snprintf(request, sizeof request, "{\"requests\":[%s]}", asked[i]);
            snprintf(record, sizeof record, "{\"impression_id\":\"a\",\"ts\":1,%s", asked[i] + 1);
            char *answered = score_text(cs, request);
            json_t *answer = json_loads(answered, 0, NULL);
            double score = json_number_value(json_array_get(json_object_get(answer, "scores"), 0)),
                   expected = (double)score_by_hand(1, record);
            if (fabs(score - expected) > 1e-6) fail_msg("model %zu, request %zu: %g, not %g", m, i, score, expected);
            assert_true(fabs(score - last) > 1e-4);     /* or nothing was compared */
            last = score;
            json_decref(answer);
            free(answered);
        }
        coldstream_close(cs);
    }
}

static void impressions_score_as_json_does(void **state)
{
    (void)state;
    fixture_publish(&fixture, 1);
    struct coldstream *cs = open_directory(fixture.directory, &stay);
    char error[256] = "";
    struct coldstream_value old[] = { { "age", NULL, 30 }, { "gender", "F", 0 }, { "income", NULL, 1.5 } },
                            young[] = { { "gender", "F", 0 }, { "age", "30", 0 }, { "gender", "M", 0 } },
                            context[] = { { "hour", "13", 0 } }, item[] = { { "category", "c4", 0 } };
    const char *behavior[] = { "i1", "i2" };
    enum { MANY = 1500 };                       /* more than one batch, old and new ones in turn */
    static struct coldstream_impression impression[MANY];
    static float score[MANY];
    static unsigned char is_new[MANY];
    for (size_t i = 0; i < MANY; i++)
        impression[i] = i % 2 ? (struct coldstream_impression){ .user = young, .user_count = 3, .item_id = "i9",
                                                                .item = item, .item_count = 1 }
                              : (struct coldstream_impression){ .user_id = "u1", .user = old, .user_count = 3,
                                                                .behavior = behavior, .behavior_count = 2,
                                                                .context = context, .context_count = 1,
                                                                .item_id = "i9", .item = item, .item_count = 1 };
    uint64_t version;
    assert_int_equal(coldstream_score_impressions(cs, impression, MANY, sizeof *impression, score, &version, is_new,
                                                  error, sizeof error), 0);
    assert_int_equal(version, 1);
    char *text = score_text(cs, fixture_request);
    json_t *answer = json_loads(text, 0, NULL), *scores = json_object_get(answer, "scores");
    for (size_t i = 0; i < MANY; i++) {
        assert_int_equal(is_new[i], i % 2);
        assert_true(fabs((double)score[i] - json_number_value(json_array_get(scores, i % 2))) <= 1e-6);
    }
    assert_true(fabs((double)score[0] - (double)score[1]) > 1e-4);
    json_decref(answer);
    free(text);
    impression[1100].item_id = "";
    assert_int_equal(coldstream_score_impressions(cs, impression, MANY, sizeof *impression, score, NULL, NULL, error,
                                                  sizeof error), -1);
    assert_non_null(strstr(error, "impression[1100]"));
    assert_int_equal(coldstream_score_impressions(cs, impression, 1, 8, score, NULL, NULL, error, sizeof error), -1);
    assert_non_null(strstr(error, "impression_size"));
    assert_int_equal(coldstream_score_impressions(cs, NULL, 0, sizeof *impression, score, NULL, NULL, error,
                                                  sizeof error), 0);
    coldstream_close(cs);
}

static void structures_score_as_json_does(void **state)
{
    (void)state;
    fixture_publish(&fixture, 1);
    struct coldstream *cs = open_directory(fixture.directory, &stay);
    char error[256] = "";
    struct coldstream_value user[] = { { "age", NULL, 30 }, { "gender", "F", 0 }, { "income", "1.5", 0 },
                                       { "unknown", "x", 0 } },
                            context[] = { { "hour", NULL, 13 } }, item[] = { { "category", "c4", 0 } };
    const char *behavior[] = { "i1", "i2" };
    enum { MANY = 1500 };                       /* more than one batch */
    static struct coldstream_candidate candidate[MANY];
    static float score[MANY];
    for (size_t i = 0; i < MANY; i++) candidate[i] = (struct coldstream_candidate){ i % 2 ? "i1" : "i9", item, 1 };
    struct coldstream_request request = { .size = sizeof request,
                                          .user_id = "u1",
                                          .user = user,
                                          .user_count = 4,
                                          .behavior = behavior,
                                          .behavior_count = 2,
                                          .context = context,
                                          .context_count = 1,
                                          .candidate = candidate,
                                          .candidate_count = MANY };
    uint64_t version;
    int is_new = 1;
    assert_int_equal(coldstream_score(cs, &request, score, &version, &is_new, error, sizeof error), 0);
    assert_int_equal(version, 1);
    assert_int_equal(is_new, 0);
    char *text = score_text(cs, fixture_request);
    json_t *answer = json_loads(text, 0, NULL);
    double expected = json_number_value(json_array_get(json_object_get(answer, "scores"), 0));
    for (size_t i = 0; i < MANY; i += 2) assert_true(fabs((double)score[i] - expected) <= 1e-6);
    assert_true(fabs((double)score[1] - expected) > 1e-5);
    json_decref(answer);
    free(text);
    user[2].text = "much";
    assert_int_equal(coldstream_score(cs, &request, score, NULL, NULL, error, sizeof error), -1);
    assert_non_null(strstr(error, "user.income"));
    user[2].text = "1";
    candidate[1200].item_id = NULL;
    assert_int_equal(coldstream_score(cs, &request, score, NULL, NULL, error, sizeof error), -1);
    assert_non_null(strstr(error, "candidate[1200]"));
    request.size = 4;
    assert_int_equal(coldstream_score(cs, &request, score, NULL, NULL, error, sizeof error), -1);
    coldstream_close(cs);
}

static const struct { const char *request, *says;
} wrong[] = {
    { "", "not JSON" },
    { "{\"requests\":[", "not JSON" },
    { "{}", "requests: missing" },
    { "{\"requests\":{}}", "requests: must be a list" },
    { "[]", "requests: missing" },
    { "{\"requests\":[1]}", "requests[0]: must be an object" },
    { "{\"requests\":[{\"item_id\":\"a\"},{}]}", "requests[1].item_id: missing" },
    { "{\"requests\":[{\"item_id\":[]}]}", "requests[0].item_id" },
    { "{\"requests\":[{\"item_id\":\"a\",\"user\":7}]}", "requests[0].user is" },
    { "{\"requests\":[{\"item_id\":\"a\",\"user\":{\"age\":\"old\"}}]}", "requests[0].user.age" },
    { "{\"requests\":[{\"item_id\":\"a\",\"user\":{\"income\":[1]}}]}", "requests[0].user.income" },
    { "{\"requests\":[{\"item_id\":\"a\",\"user\":{\"gender\":{}}}]}", "requests[0].user.gender" },
    { "{\"requests\":[{\"item_id\":\"a\",\"behaviors\":\"i1\"}]}", "requests[0].behaviors" },
    { "{\"requests\":[{\"item_id\":\"a\",\"behaviors\":[{}]}]}", "requests[0].behaviors" },
    { "{\"requests\":[{\"candidates\":{}}]}", "requests[0].candidates: must be a list" },
    { "{\"requests\":[{\"candidates\":[{\"item_id\":\"a\"},{\"item\":{}}]}]}",
      "requests[0].candidates[1].item_id: missing" },
    { "{\"requests\":[{\"candidates\":[5]}]}", "requests[0].candidates[0]: must be an object" },
    { "{\"requests\":[{\"candidates\":[],\"user\":5}]}", "requests[0].user is" },
};

static void wrong_requests_are_told_where(void **state)
{
    (void)state;
    fixture_publish(&fixture, 1);
    struct coldstream *cs = open_directory(fixture.directory, &stay);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char error[256] = "", *response;
        assert_int_equal(
            coldstream_score_json(cs, wrong[i].request, strlen(wrong[i].request), &response, error, sizeof error), -1);
        assert_null(response);
        if (!strstr(error, wrong[i].says)) fail_msg("%s: %s", wrong[i].request, error);
    }
    char *text = score_text(cs, "{\"requests\":[]}");
    assert_string_equal(text, "{\"version\":1,\"scores\":[],\"new\":[]}");
    free(text);
    text = score_text(cs, "{\"requests\":[{\"candidates\":[]}]}");
    assert_string_equal(text, "{\"version\":1,\"scores\":[[]],\"new\":[true]}");
    free(text);
    coldstream_close(cs);
}

static struct coldstream_options following(struct swaps *swaps)
{
    return (struct coldstream_options){ .size = sizeof(struct coldstream_options),
                                        .poll_milliseconds = 1,
                                        .follow = 1,
                                        .verify = 1,
                                        .on_swap = swaps_note,
                                        .argument = swaps };
}

/* A version whose file is not what its manifest says. */
static void publish_damaged(uint64_t copy_of, uint64_t version)
{
    char command[400], path[300];
    snprintf(command, sizeof command,
             "cd %s && cp -r %020" PRIu64 " %020" PRIu64 " && sed -i 's/\"version\": [0-9]*/\"version\": %" PRIu64
             "/' %020" PRIu64 "/manifest.json",
             fixture.directory, copy_of, version, version, version);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/%020" PRIu64 "/data.mdb", fixture.directory, version);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, "!", 1, 9000), 1);
    close(fd);
    assert_true(checkpoint_repoint(fixture.directory, version, NULL));
}

static void a_bad_version_is_refused_and_the_old_one_serves_on(void **state)
{
    (void)state;
    struct swaps swaps = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, "" };
    fixture_publish(&fixture, 1);
    struct coldstream_options options = following(&swaps);
    struct coldstream *cs = open_directory(fixture.directory, &options);
    publish_damaged(1, 7);
    swaps_await(&swaps, 0, 1);
    assert_non_null(strstr(swaps.error, "SHA-256"));
    assert_int_equal(coldstream_version(cs), 1);
    assert_int_equal(fixture_publish(&fixture, 2), 8);
    swaps_await(&swaps, 1, 1);
    assert_int_equal(coldstream_version(cs), 8);
    coldstream_close(cs);
    char error[256] = "";
    assert_null(coldstream_open("/nowhere", NULL, error, sizeof error));
    assert_true(*error);
}

static void a_pinned_version_stays_while_others_come_and_go(void **state)
{
    (void)state;
    struct swaps swaps = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, "" };
    char error[256] = "", command[200];
    fixture_publish(&fixture, 1);
    struct coldstream_options options = following(&swaps);
    struct coldstream *cs = open_directory(fixture.directory, &options);
    char *first = score_text(cs, fixture_request);
    struct coldstream *pinned = coldstream_pin(cs, 0, error, sizeof error);
    assert_non_null(pinned);
    assert_int_equal(fixture_publish(&fixture, 2), 2);
    swaps_await(&swaps, 1, 0);
    assert_int_equal(coldstream_version(cs), 2);
    assert_int_equal(coldstream_version(pinned), 1);
    struct coldstream *again = coldstream_pin(cs, 1, error, sizeof error);      /* no longer the current one: opened */
    if (!again) fail_msg("%s", error);
    struct coldstream *same = coldstream_pin(cs, 2, error, sizeof error);
    assert_null(coldstream_pin(cs, 99, error, sizeof error));
    assert_non_null(strstr(error, "99"));
    snprintf(command, sizeof command, "rm -r %s/%020d", fixture.directory, 1);
    assert_int_equal(system(command), 0);
    coldstream_close(cs);
    struct coldstream *const handle[] = { pinned, again };
    for (size_t i = 0; i < 2; i++) {
        char *text = score_text(handle[i], fixture_request);
        assert_string_equal(text, first);
        free(text);
        coldstream_close(handle[i]);
    }
    assert_int_equal(coldstream_version(same), 2);
    char *text = score_text(same, fixture_request);
    assert_string_not_equal(text, first);
    free(text);
    free(first);
    coldstream_close(same);
}

struct load {
    struct coldstream *cs;
    const char *expected[3];
    atomic_bool *stop;
    atomic_int *wrong;
    unsigned long answers;
};

static void *keep_scoring(void *argument)
{
    struct load *load = argument;
    while (!atomic_load(load->stop)) {
        char *text = NULL, error[256];
        int failed =
            coldstream_score_json(load->cs, fixture_request, strlen(fixture_request), &text, error, sizeof error);
        if (failed || (strcmp(text, load->expected[1]) && strcmp(text, load->expected[2])))
            atomic_fetch_add(load->wrong, 1);
        free(text);
        load->answers++;
    }
    return NULL;
}

static void swaps_under_load_fail_and_mix_nothing(void **state)
{
    (void)state;
    struct swaps swaps = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, "" };
    struct load load[THREADS];
    pthread_t thread[THREADS];
    atomic_bool stop = false;
    atomic_int bad = 0;
    char *expected[3] = { NULL }, path[300];
    for (uint64_t v = 1; v <= 2; v++) {
        assert_int_equal(fixture_publish(&fixture, v), v);
        snprintf(path, sizeof path, "%s/%020" PRIu64, fixture.directory, v);
        struct coldstream *one = open_directory(path, &stay);
        expected[v] = score_text(one, fixture_request);
        coldstream_close(one);
    }
    assert_string_not_equal(expected[1], expected[2]);
    struct coldstream_options options = following(&swaps);
    struct coldstream *cs = open_directory(fixture.directory, &options);
    for (size_t i = 0; i < THREADS; i++) {
        load[i] = (struct load){ cs, { NULL, expected[1], expected[2] }, &stop, &bad, 0 };
        assert_int_equal(pthread_create(&thread[i], NULL, keep_scoring, &load[i]), 0);
    }
    for (unsigned flip = 1; flip <= FLIPS; flip++) {
        assert_true(checkpoint_repoint(fixture.directory, flip % 2 ? 1 : 2, NULL));
        swaps_await(&swaps, flip, 0);
    }
    atomic_store(&stop, true);
    unsigned long answers = 0;
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        answers += load[i].answers;
    }
    assert_true(answers > FLIPS);
    assert_int_equal(atomic_load(&bad), 0);
    assert_int_equal(swaps.refused, 0);
    coldstream_close(cs);
    free(expected[1]);
    free(expected[2]);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(scores_are_the_models_own), TEST(every_tower_scores_as_the_learner_does),
        TEST(structures_score_as_json_does), TEST(impressions_score_as_json_does),
        TEST(a_pinned_version_stays_while_others_come_and_go), TEST(wrong_requests_are_told_where),
        TEST(a_bad_version_is_refused_and_the_old_one_serves_on), TEST(swaps_under_load_fail_and_mix_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
