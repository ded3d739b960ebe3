/* coldstream-serve's pages: answers, errors, limits, swaps under load over HTTP, and an end that finishes what runs. */
#include "tests/unit/serving_fixture.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/serve_http.h"
#include "tools/http_ask.h"

enum { THREADS = 3, FLIPS = 10, MAX_BODY = 4000 };

static struct fixture fixture;
static struct coldstream *cs;
static struct telemetry *telemetry;
static struct serve_http *server;
static struct swaps swaps;

static struct serve_versions *versions;

static const struct serve_options *options_here(const char *address, unsigned threads)
{
    static struct serve_options options;
    options = (struct serve_options){ .listen = address, .threads = threads, .max_body = MAX_BODY, .max_requests = 4,
                                      .max_scores = 6, .connections = 16, .versions = versions };
    return &options;
}

/* As coldstream-serve does it. The first swap may come before coldstream_open has returned. */
static _Atomic(struct coldstream *) followed;
static void on_swap(void *argument, uint64_t version, const char *error)
{
    if (!error && atomic_load(&followed)) serve_versions_note(versions, atomic_load(&followed));
    swaps_note(argument, version, error);
}

static int set_up(void **state)
{
    (void)state;
    struct cs_error err = { 0 };
    char error[256];
    fixture = fixture_create();
    fixture_publish(&fixture, 1);
    swaps = (struct swaps){ PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, "" };
    struct coldstream_options options = {
        .size = sizeof options, .poll_milliseconds = 1, .follow = 1, .on_swap = on_swap, .argument = &swaps
    };
    cs = coldstream_open(fixture.directory, &options, error, sizeof error);
    versions = serve_versions_create(1);
    if (cs) serve_versions_note(versions, cs);
    atomic_store(&followed, cs);
    telemetry = telemetry_create();
    server = serve_http_start(cs, options_here("127.0.0.1:0", 2), telemetry, &err);
    return cs && server ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    serve_http_stop(server, 5000);
    coldstream_close(cs);
    atomic_store(&followed, NULL);
    serve_versions_destroy(versions);
    telemetry_destroy(telemetry);
    fixture_destroy(&fixture);
    return 0;
}

/* body NULL: GET. Returns the status, 0 where there was no answer. */
static long ask(CURL *curl, const char *path, const char *body, size_t size, struct http_answer *answer)
{
    return http_ask(curl, serve_http_port(server), path, body, size, answer);
}

static void without_a_checkpoint_it_lives_and_is_not_ready(void **state)
{
    (void)state;
    struct cs_error err = { 0 };
    struct serve_http *serving = server;
    static const char body[] = "{\"requests\":[]}";
    CURL *curl = curl_easy_init();
    struct http_answer reply;
    server = serve_http_start(NULL, options_here("127.0.0.1:0", 2), telemetry, &err);
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
    struct http_answer reply;
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
    struct http_answer reply;
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
    struct http_answer reply;
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
    struct http_answer first, second;
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

static void calls_beyond_the_limits_are_refused_whole(void **state)
{
    (void)state;
    struct http_answer reply;
    CURL *curl = curl_easy_init();
    static const char five[] = "{\"requests\":[{\"item_id\":\"a\"},{\"item_id\":\"a\"},{\"item_id\":\"a\"},"
                               "{\"item_id\":\"a\"},{\"item_id\":\"a\"}]}";
    static const char seven[] = "{\"requests\":[{\"item_id\":\"a\"},{\"candidates\":[{\"item_id\":\"a\"},{\"item_id\":"
                                "\"a\"},{\"item_id\":\"a\"},{\"item_id\":\"a\"},{\"item_id\":\"a\"},{\"item_id\":"
                                "\"a\"}]}]}";
    assert_int_equal(ask(curl, "/v1/score", five, sizeof five - 1, &reply), 413);
    assert_string_equal(reply.text, "{\"error\":\"requests: 5 are more than the 4 that one call may have\"}");
    assert_int_equal(ask(curl, "/v1/score", seven, sizeof seven - 1, &reply), 413);
    assert_string_equal(reply.text, "{\"error\":\"requests[1]: with its 6, more scores are asked for than the 6 of "
                                    "one call\"}");
    assert_int_equal(ask(curl, "/metrics", NULL, 0, &reply), 200);
    assert_non_null(strstr(reply.text, "\ncoldstream_scores_total 0\n"));
    curl_easy_cleanup(curl);
}

/* -- clients by the byte: what curl would not send ---------------------------------------------------------------- */

static int dial(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)serve_http_port(server)),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* All that comes until the other side ends it, or until it holds `until`. */
static const char *hear(int fd, const char *until, struct http_answer *reply)
{
    ssize_t got;
    reply->used = 0;
    reply->text[0] = 0;
    while (!(until && strstr(reply->text, until)) &&
           (got = recv(fd, reply->text + reply->used, sizeof reply->text - 1 - reply->used, 0)) > 0) {
        reply->used += (size_t)got;
        reply->text[reply->used] = 0;
    }
    return reply->text;
}

#define HEAD "POST /v1/score HTTP/1.1\r\nHost: a\r\n"

static void what_is_not_json_is_told_by_its_type(void **state)
{
    (void)state;
    static const struct { const char *header, *status; } type[] = {
        { "Content-Type: application/json; charset=utf-8\r\n", "HTTP/1.1 200 " },
        { "Content-Type: application/vnd.scores+json\r\n", "HTTP/1.1 200 " },
        { "Content-Type: application/x-www-form-urlencoded\r\n", "HTTP/1.1 200 " },
        { "", "HTTP/1.1 200 " },
        { "Content-Type: application/x-protobuf\r\n", "HTTP/1.1 415 " },
        { "Content-Type: multipart/form-data; boundary=x\r\n", "HTTP/1.1 415 " },
        { "Content-Encoding: gzip\r\n", "HTTP/1.1 415 " },
    };
    char text[512];
    struct http_answer reply;
    for (size_t i = 0; i < sizeof type / sizeof *type; i++) {
        int fd = dial();
        snprintf(text, sizeof text, HEAD "Connection: close\r\n%sContent-Length: 15\r\n\r\n{\"requests\":[]}",
                 type[i].header);
        say(fd, text);
        hear(fd, NULL, &reply);
        if (strncmp(reply.text, type[i].status, 13)) fail_msg("%s: %s", type[i].header, reply.text);
        close(fd);
    }
}

static void large_heads_and_bodies_are_refused_before_they_come(void **state)
{
    (void)state;
    struct http_answer reply;
    int fd = dial();
    say(fd, HEAD "Content-Length: 5000\r\nExpect: 100-continue\r\n\r\n");
    assert_int_equal(strncmp(hear(fd, NULL, &reply), "HTTP/1.1 413 ", 13), 0);
    close(fd);
    fd = dial();
    say(fd, HEAD "Content-Length: 5000000000\r\n\r\n");
    assert_int_equal(strncmp(hear(fd, NULL, &reply), "HTTP/1.1 413 ", 13), 0);
    close(fd);
    char *head = malloc(200000);
    memset(head, 'a', 200000);
    memcpy(head, "GET /livez HTTP/1.1\r\nX: ", 24);
    fd = dial();
    for (size_t sent = 0; sent < 200000;) {
        ssize_t some = send(fd, head + sent, 200000 - sent, MSG_NOSIGNAL);
        if (some <= 0) break;           /* it has heard enough */
        sent += (size_t)some;
    }
    hear(fd, NULL, &reply);
    assert_true(!reply.used || !strncmp(reply.text, "HTTP/1.1 431 ", 13));
    close(fd);
    free(head);
    fd = dial();
    say(fd, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_int_equal(strncmp(hear(fd, "ok\n", &reply), "HTTP/1.1 200 ", 13), 0);
    close(fd);
}

/* Far more than there are places, each holding one: half a head, half a body, an answer never read. */
static void slow_clients_do_not_keep_others_waiting(void **state)
{
    (void)state;
    enum { SLOW = 150 };
    static const char *const half[] = { "GET /livez HT", HEAD "Content-Length: 100\r\n\r\n{\"requests\"",
                                        "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" };
    int slow[SLOW];
    struct http_answer reply;
    CURL *curl = curl_easy_init();
    for (size_t i = 0; i < SLOW; i++) {
        slow[i] = dial();
        send(slow[i], half[i % 3], strlen(half[i % 3]), MSG_NOSIGNAL);
        if (i % 10 == 9) assert_int_equal(ask(curl, "/livez", NULL, 0, &reply), 200);
    }
    assert_int_equal(ask(curl, "/v1/score", fixture_request, strlen(fixture_request), &reply), 200);
    assert_int_equal(ask(curl, "/metrics", NULL, 0, &reply), 200);
    const char *open = strstr(reply.text, "\ncoldstream_http_connections ");
    assert_non_null(open);
    assert_in_range(strtoul(open + 29, NULL, 10), 1, 16);
    const char *cut = strstr(reply.text, "connections_cut_total{reason=\"displaced\"} ");
    assert_non_null(cut);
    assert_true(strtoul(cut + 42, NULL, 10) >= SLOW - 16);
    for (size_t i = 0; i < SLOW; i++) close(slow[i]);
    curl_easy_cleanup(curl);
}

static void what_takes_too_long_to_come_is_ended(void **state)
{
    (void)state;
    struct cs_error err = { 0 };
    struct http_answer reply;
    struct serve_options options = *options_here("127.0.0.1:0", 2);
    struct serve_http *serving = server;
    options.timeout = options.idle = 300;
    server = serve_http_start(cs, &options, telemetry, &err);
    assert_non_null(server);
    int idle = dial();
    say(idle, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n");      /* at once: it has no longer than the others */
    int head = dial(), body = dial();
    say(head, "GET /live");
    say(body, HEAD "Content-Length: 100\r\n\r\n{\"requests\"");
    assert_int_equal(strncmp(hear(head, NULL, &reply), "HTTP/1.1 408 ", 13), 0);
    assert_int_equal(strncmp(hear(body, NULL, &reply), "HTTP/1.1 408 ", 13), 0);
    assert_int_equal(strncmp(hear(idle, NULL, &reply), "HTTP/1.1 200 ", 13), 0);    /* and then its end, no more */
    assert_string_equal(reply.text + reply.used - 3, "ok\n");
    close(head);
    close(body);
    close(idle);
    serve_http_stop(server, 5000);
    server = serving;
}

static void a_request_may_name_its_version(void **state)
{
    (void)state;
    struct http_answer by[4], reply;
    CURL *curl = curl_easy_init();
    char *named[4], command[128];
    for (int i = 1; i < 4; i++)
        if (asprintf(&named[i], i == 2 ? "{\"version\":\"%d\",%s" : "{\"version\":%d,%s", i, fixture_request + 1) < 0)
            abort();
    assert_int_equal(ask(curl, "/v1/score", named[2], strlen(named[2]), &reply), 404);
    assert_string_equal(reply.text,
                        "{\"error\":\"version: 2 is not loaded; there is current 1, in memory 1\"}");
    assert_int_equal(ask(curl, "/v1/score", "{\"version\":-1,\"requests\":[]}", 28, &reply), 400);
    for (int i = 1; i < 4; i++) {
        if (i > 1) {
            fixture_publish(&fixture, (uint64_t)i);
            swaps_await(&swaps, (unsigned)i - 1, 0);
        }
        assert_int_equal(ask(curl, "/v1/score", fixture_request, strlen(fixture_request), &by[i]), 200);
    }
    snprintf(command, sizeof command, "rm -rf %s/00000000000000000002", fixture.directory);    /* as if pruned */
    assert_int_equal(system(command), 0);
    for (int i = 2; i < 4; i++) {
        assert_int_equal(ask(curl, "/v1/score", named[i], strlen(named[i]), &reply), 200);
        assert_string_equal(reply.text, by[i].text);
    }
    assert_int_equal(ask(curl, "/v1/score", named[1], strlen(named[1]), &reply), 404);     /* one is kept, not two */
    assert_non_null(strstr(reply.text, "there is current 3, in memory 3, 2"));
    struct cs_error err = { 0 };
    assert_false(serve_versions_ask(versions, cs, 7, &err));
    assert_true(serve_versions_ask(versions, cs, 1, &err));
    assert_int_equal(ask(curl, "/v1/score", named[1], strlen(named[1]), &reply), 200);
    assert_string_equal(reply.text, by[1].text);
    assert_int_equal((int)telemetry_get(telemetry, METRIC_NAMED_VERSIONS, TELEMETRY_LABELS("unknown")), 2);
    for (int i = 1; i < 4; i++) free(named[i]);
    curl_easy_cleanup(curl);
}

static void await_count(enum telemetry_metric metric, const char *label, double count)
{
    while (!(telemetry_get(telemetry, metric, TELEMETRY_LABELS(label)) >= count)) sched_yield();
}

static void a_shadow_is_compared_and_never_answers(void **state)
{
    (void)state;
    struct cs_error err = { 0 };
    struct http_answer first, reply;
    CURL *curl = curl_easy_init();
    assert_int_equal(ask(curl, "/v1/score", fixture_request, strlen(fixture_request), &first), 200);
    struct coldstream *one = coldstream_pin(cs, 1, NULL, 0);
    struct serve_shadow *shadow = serve_shadow_create(one, 0.5, telemetry, &err);
    assert_non_null(shadow);
    serve_http_shadow(server, shadow);
    for (int i = 0; i < 4; i++) ask(curl, "/v1/score", fixture_request, strlen(fixture_request), &reply);
    await_count(METRIC_SHADOW_REQUESTS, "compared", 2);         /* half of them, by the same version: no difference */
    ask(curl, "/metrics", NULL, 0, &reply);
    assert_non_null(strstr(reply.text, "coldstream_shadow_version 1\n"));
    assert_non_null(strstr(reply.text, "coldstream_shadow_scores_total 10\n"));
    assert_non_null(strstr(reply.text, "coldstream_shadow_score_difference_sum 0\n"));
    fixture_publish(&fixture, 2);
    swaps_await(&swaps, 1, 0);
    ask(curl, "/v1/score", fixture_request, strlen(fixture_request), &reply);
    assert_string_not_equal(reply.text, first.text);
    assert_int_equal(ask(curl, "/v1/score", fixture_request, strlen(fixture_request), &reply), 200);
    assert_ptr_equal(strstr(reply.text, "{\"version\":2,"), reply.text);
    await_count(METRIC_SHADOW_REQUESTS, "compared", 3);
    ask(curl, "/metrics", NULL, 0, &reply);
    assert_null(strstr(reply.text, "coldstream_shadow_score_difference_sum 0\n"));
    serve_http_shadow(server, NULL);
    serve_shadow_destroy(shadow);
    curl_easy_cleanup(curl);
}

static void draining_answers_and_says_that_it_was_the_last(void **state)
{
    (void)state;
    struct http_answer reply;
    int kept = dial(), late;
    say(kept, "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_int_equal(strncmp(hear(kept, "}\n", &reply), "HTTP/1.1 200 ", 13), 0);
    assert_null(strstr(reply.text, "Connection: close"));
    serve_http_drain(server);
    late = dial();                                      /* still taken: not all have heard yet */
    say(late, "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_int_equal(strncmp(hear(late, NULL, &reply), "HTTP/1.1 503 ", 13), 0);
    assert_non_null(strstr(reply.text, "\"stopping\""));
    say(kept, HEAD "Content-Length: 15\r\n\r\n{\"requests\":[]}");
    assert_int_equal(strncmp(hear(kept, NULL, &reply), "HTTP/1.1 200 ", 13), 0);
    assert_non_null(strstr(reply.text, "Connection: close"));
    close(kept);
    close(late);
}

static void a_wrong_address_is_told(void **state)
{
    (void)state;
    struct cs_error err = { 0 };
    char taken[64];
    const char *const address[] = { "9465", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:http" };
    for (size_t i = 0; i < 4; i++) {
        assert_null(serve_http_start(cs, options_here(address[i], 1), telemetry, &err));
        assert_non_null(strstr(err.message, address[i]));
    }
    snprintf(taken, sizeof taken, "127.0.0.1:%d", serve_http_port(server));
    assert_null(serve_http_start(cs, options_here(taken, 1), telemetry, &err));
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
        TEST(calls_beyond_the_limits_are_refused_whole),
        TEST(what_is_not_json_is_told_by_its_type),
        TEST(large_heads_and_bodies_are_refused_before_they_come),
        TEST(slow_clients_do_not_keep_others_waiting),
        TEST(what_takes_too_long_to_come_is_ended),
        TEST(a_request_may_name_its_version),
        TEST(a_shadow_is_compared_and_never_answers),
        TEST(draining_answers_and_says_that_it_was_the_last),
        TEST(a_wrong_address_is_told),
    };
    curl_global_init(CURL_GLOBAL_DEFAULT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
