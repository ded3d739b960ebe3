/* coldstream-serve's pages: answers, errors, limits, swaps under load over HTTP, and an end that finishes what runs. */
#include "tests/unit/serving_fixture.h"

#include <curl/curl.h>
#include <inttypes.h>
#include <stdatomic.h>

#include "daemon/serve_http.h"

enum { THREADS = 3, FLIPS = 10, MAX_BODY = 4000 };

static struct fixture fixture;
static struct coldstream *cs;
static struct telemetry *telemetry;
static struct serve_http *server;
static struct swaps swaps;

static int set_up(void **state)
{
    (void)state;
    struct cs_error err = { 0 };
    char error[256];
    fixture = fixture_create();
    fixture_publish(&fixture, 1);
    swaps = (struct swaps){ PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, "" };
    struct coldstream_options options = {
        .size = sizeof options, .poll_milliseconds = 1, .follow = 1, .on_swap = swaps_note, .argument = &swaps
    };
    cs = coldstream_open(fixture.directory, &options, error, sizeof error);
    telemetry = telemetry_create();
    server = serve_http_start(cs, &(struct serve_options){ "127.0.0.1:0", 2, MAX_BODY }, telemetry, &err);
    return cs && server ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    serve_http_stop(server, 5000);
    coldstream_close(cs);
    telemetry_destroy(telemetry);
    fixture_destroy(&fixture);
    return 0;
}

struct reply { char text[16384]; size_t used; };

static size_t take(char *bytes, size_t one, size_t size, void *argument)
{
    struct reply *reply = argument;
    (void)one;
    if (reply->used + size >= sizeof reply->text) return 0;
    memcpy(reply->text + reply->used, bytes, size);
    reply->used += size;
    reply->text[reply->used] = 0;
    return size;
}

/* body NULL: GET. Returns the status, 0 where there was no answer. */
static long ask(CURL *curl, const char *path, const char *body, size_t size, struct reply *reply)
{
    char url[128];
    long code = 0;
    reply->used = 0;
    reply->text[0] = 0;
    curl_easy_reset(curl);
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", serve_http_port(server), path);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, reply);
    if (body) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)size);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    }
    if (curl_easy_perform(curl) == CURLE_OK) curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
    return code;
}

static void without_a_checkpoint_it_lives_and_is_not_ready(void **state)
{
    (void)state;
    struct cs_error err = { 0 };
    struct serve_http *serving = server;
    static const char body[] = "{\"requests\":[]}";
    CURL *curl = curl_easy_init();
    struct reply reply;
    server = serve_http_start(NULL, &(struct serve_options){ "127.0.0.1:0", 2, MAX_BODY }, telemetry, &err);
    assert_non_null(server);
    assert_int_equal(ask(curl, "/livez", NULL, 0, &reply), 200);
    assert_int_equal(ask(curl, "/metrics", NULL, 0, &reply), 200);
    assert_int_equal(ask(curl, "/readyz", NULL, 0, &reply), 503);
    assert_non_null(strstr(reply.text, "no checkpoint yet"));
    assert_int_equal(ask(curl, "/v1/score", body, sizeof body - 1, &reply), 503);
    assert_non_null(strstr(reply.text, "no checkpoint yet"));
    serve_http_use(server, cs);
    assert_int_equal(ask(curl, "/readyz", NULL, 0, &reply), 200);
    assert_int_equal(ask(curl, "/v1/score", body, sizeof body - 1, &reply), 200);
    curl_easy_cleanup(curl);
    serve_http_stop(server, 5000);
    server = serving;
}

static void pages_answer_and_wrong_requests_are_told(void **state)
{
    (void)state;
    struct reply reply;
    CURL *curl = curl_easy_init();
    assert_int_equal(ask(curl, "/v1/score", fixture_request, strlen(fixture_request), &reply), 200);
    assert_ptr_equal(strstr(reply.text, "{\"version\":1,\"scores\":[0."), reply.text);
    assert_non_null(strstr(reply.text, "\"new\":[false,true,false]}"));
    assert_int_equal(ask(curl, "/v1/score", "{\"requests\":[{}]}", 17, &reply), 400);
    assert_string_equal(reply.text, "{\"error\":\"requests[0].item_id: missing or empty\"}");
    assert_int_equal(ask(curl, "/v1/score", "\xff", 1, &reply), 400);
    assert_int_equal(ask(curl, "/v1/score", "", 0, &reply), 400);
    assert_int_equal(ask(curl, "/v1/score", NULL, 0, &reply), 405);
    assert_int_equal(ask(curl, "/metrics", "x", 1, &reply), 405);
    assert_int_equal(ask(curl, "/nowhere", NULL, 0, &reply), 404);
    assert_int_equal(ask(curl, "/livez", NULL, 0, &reply), 200);
    assert_int_equal(ask(curl, "/readyz", NULL, 0, &reply), 200);
    assert_string_equal(reply.text, "{\"ready\":true,\"reasons\":[],\"version\":1}\n");
    assert_int_equal(ask(curl, "/metrics", NULL, 0, &reply), 200);
    assert_non_null(strstr(reply.text, "coldstream_serving_version 1\n"));
    assert_non_null(strstr(reply.text, "coldstream_requests_total{code=\"400\"} 3\n"));
    assert_non_null(strstr(reply.text, "coldstream_scores_total 5\n"));
    curl_easy_cleanup(curl);
}

static void large_bodies_are_refused(void **state)
{
    (void)state;
    struct reply reply;
    CURL *curl = curl_easy_init();
    char *body = malloc(100000);
    memset(body, ' ', 100000);
    memcpy(body, "{\"requests\":[]}", 15);
    assert_int_equal(ask(curl, "/v1/score", body, MAX_BODY, &reply), 200);
    assert_int_equal(ask(curl, "/v1/score", body, MAX_BODY + 1, &reply), 413);
    assert_int_equal(ask(curl, "/v1/score", body, 100000, &reply), 413);
    assert_non_null(strstr(reply.text, "larger than 4000 bytes"));
    curl_easy_cleanup(curl);
    free(body);
}

struct load { const char *expected[3]; atomic_bool *stop; atomic_int *bad; atomic_ulong *answers; };

static void *keep_asking(void *argument)
{
    struct load *load = argument;
    struct reply reply;
    CURL *curl = curl_easy_init();
    while (!atomic_load(load->stop)) {
        long code = ask(curl, "/v1/score", fixture_request, strlen(fixture_request), &reply);
        if (code != 200 || (strcmp(reply.text, load->expected[1]) && strcmp(reply.text, load->expected[2])))
            atomic_fetch_add(load->bad, 1);
        atomic_fetch_add(load->answers, 1);
    }
    curl_easy_cleanup(curl);
    return NULL;
}

static void swaps_fail_no_request_and_mix_no_answer(void **state)
{
    (void)state;
    struct reply first, second;
    pthread_t thread[THREADS];
    atomic_bool stop = false;
    atomic_int bad = 0;
    atomic_ulong answers = 0;
    CURL *curl = curl_easy_init();
    assert_int_equal(ask(curl, "/v1/score", fixture_request, strlen(fixture_request), &first), 200);
    fixture_publish(&fixture, 2);
    swaps_await(&swaps, 1, 0);
    assert_int_equal(ask(curl, "/v1/score", fixture_request, strlen(fixture_request), &second), 200);
    assert_string_not_equal(first.text, second.text);
    struct load load = { { NULL, first.text, second.text }, &stop, &bad, &answers };
    for (size_t i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&thread[i], NULL, keep_asking, &load), 0);
    for (unsigned flip = 1; flip <= FLIPS; flip++) {
        assert_true(checkpoint_repoint(fixture.directory, flip % 2 ? 1 : 2, NULL));
        swaps_await(&swaps, flip + 1, 0);
    }
    atomic_store(&stop, true);
    for (size_t i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
    assert_int_equal(atomic_load(&bad), 0);
    assert_true(atomic_load(&answers) >= THREADS);
    curl_easy_cleanup(curl);
}

static void a_wrong_address_is_told(void **state)
{
    (void)state;
    struct cs_error err = { 0 };
    char taken[64];
    const char *const address[] = { "9465", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:http" };
    for (size_t i = 0; i < 4; i++) {
        assert_null(serve_http_start(cs, &(struct serve_options){ address[i], 1, MAX_BODY }, telemetry, &err));
        assert_non_null(strstr(err.message, address[i]));
    }
    snprintf(taken, sizeof taken, "127.0.0.1:%d", serve_http_port(server));
    assert_null(serve_http_start(cs, &(struct serve_options){ taken, 1, MAX_BODY }, telemetry, &err));
    assert_int_equal(err.code, CS_FAILED);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(without_a_checkpoint_it_lives_and_is_not_ready),
        TEST(pages_answer_and_wrong_requests_are_told),
        TEST(large_bodies_are_refused),
        TEST(swaps_fail_no_request_and_mix_no_answer),
        TEST(a_wrong_address_is_told),
    };
    curl_global_init(CURL_GLOBAL_DEFAULT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
