/* The read-only pages, asked over a socket as a browser, a scraper or a stranger would. */
#include "daemon/http.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct place { bool live, ready; struct trend *trend; struct telemetry *telemetry; struct http_server *server; };

static bool is_live(void *self) { return ((struct place *)self)->live; }

static bool is_ready(void *self, char **reasons)
{
    const struct place *place = self;
    if (!place->ready) *reasons = strdup("[\"no broker answers\"]");
    return place->ready;
}

static char *status(void *self) { (void)self; return strdup("{\"examples\":7}"); }
static void before(void *self) { telemetry_set(((struct place *)self)->telemetry, METRIC_JOIN_PENDING, NULL, 42); }

static int setup(void **state)
{
    struct place *place = calloc(1, sizeof *place);
    place->trend = trend_create();
    struct http_pages pages = { place, is_live, is_ready, status, before, place->trend };
    struct cs_error err = { 0 };
    place->telemetry = telemetry_create();
    place->server = http_start("127.0.0.1:0", place->telemetry, &pages, &err);
    *state = place;
    return place->server ? 0 : -1;
}

static int teardown(void **state)
{
    struct place *place = *state;
    http_stop(place->server);
    telemetry_destroy(place->telemetry);
    trend_destroy(place->trend);
    free(place);
    return 0;
}

/* Sends request (closing our side's sending) and returns everything that came back, malloc'd. */
static char *ask(const struct place *place, const char *request, size_t length)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)http_port(place->server)) };
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    int handle = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(handle, (struct sockaddr *)&address, sizeof address), 0);
    for (size_t sent = 0; sent < length;) {
        ssize_t now = send(handle, request + sent, length - sent, MSG_NOSIGNAL);
        if (now <= 0) break;
        sent += (size_t)now;
    }
    size_t size = 1 << 20, got = 0;
    char *text = calloc(1, size);
    for (ssize_t now; got < size - 1 && (now = recv(handle, text + got, size - 1 - got, 0)) > 0;) got += (size_t)now;
    close(handle);
    return text;
}

static char *get(const struct place *place, const char *method, const char *path)
{
    char request[512];
    int length =
        snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method, path);
    return ask(place, request, (size_t)length);
}

static int code(const char *answer) { return strlen(answer) > 12 ? (int)strtol(answer + 9, NULL, 10) : 0; }

static const char *body(const char *answer)
{
    const char *end = strstr(answer, "\r\n\r\n");
    assert_non_null(end);
    return end + 4;
}

static void assert_get(const struct place *place, const char *path, int expected_code, const char *type,
                       const char *expected)
{
    char *answer = get(place, "GET", path);
    if (code(answer) != expected_code || !strstr(answer, type) || !strstr(body(answer), expected))
        fail_msg("%s: %s", path, answer);
    free(answer);
}

static void pages_answer(void **state)
{
    struct place *place = *state;
    place->live = place->ready = true;
    assert_get(place, "/livez", 200, "text/plain", "ok");
    assert_get(place, "/readyz", 200, "application/json", "{\"ready\":true,\"reasons\":[]}");
    assert_get(place, "/status", 200, "application/json", "{\"examples\":7}");
    assert_get(place, "/metrics", 200, "text/plain; version=0.0.4", "\ncoldstream_join_pending 42\n");
    assert_get(place, "/", 200, "text/html", "</html>");
    assert_get(place, "/status?x=1", 200, "application/json", "{\"examples\":7}");
    assert_get(place, "/nothing", 404, "text/plain", "no such page");
    assert_get(place, "/metrics/", 404, "text/plain", "no such page");
    assert_get(place, "/../etc/passwd", 404, "text/plain", "no such page");
}

static void troubles_are_said(void **state)
{
    struct place *place = *state;
    assert_get(place, "/livez", 503, "text/plain", "does not move");
    assert_get(place, "/readyz", 503, "application/json", "{\"ready\":false,\"reasons\":[\"no broker answers\"]}");
}

static void nothing_but_reading(void **state)
{
    static const char *const methods[] = { "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW" };
    struct place *place = *state;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        char *answer = get(place, methods[i], "/metrics");
        if (code(answer) != 405 || !strstr(answer, "Allow: GET, HEAD\r\n")) fail_msg("%s: %s", methods[i], answer);
        free(answer);
    }
    char *answer = get(place, "HEAD", "/status");
    assert_int_equal(code(answer), 200);
    assert_non_null(strstr(answer, "Content-Length: 14\r\n"));
    assert_string_equal(body(answer), "");
    free(answer);
}

static void strangers_are_bounded(void **state)
{
    struct place *place = *state;
    place->live = true;
    size_t length = 100000;
    char *request = malloc(length + 64);
    int start = snprintf(request, length, "GET / HTTP/1.1\r\nHost: x\r\nX-Long: ");
    memset(request + start, 'a', length - (size_t)start);
    memcpy(request + length, "\r\n\r\n", 4);
    char *answer = ask(place, request, length + 4);
    assert_true(code(answer) == 0 || code(answer) / 100 == 4);
    free(answer);
    free(request);
    answer = ask(place, "\x16\x03\x01\x00\xff garbage\r\n\r\n", 18);
    assert_true(code(answer) == 0 || code(answer) / 100 == 4);
    free(answer);
    static const char with_body[] =
        "GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
    answer = ask(place, with_body, sizeof with_body - 1);
    assert_int_equal(code(answer), 200);
    free(answer);
    assert_get(place, "/livez", 200, "text/plain", "ok");
}

/* More than there are connections, none of which asks for anything whole or reads what it gets. */
static void slow_readers_do_not_keep_others_waiting(void **state)
{
    struct place *place = *state;
    enum { SLOW = 150 };
    place->live = true;
    int slow[SLOW];
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)http_port(place->server)),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    for (size_t i = 0; i < SLOW; i++) {
        const char *text = i % 2 ? "GET /met" : "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        slow[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(slow[i], (struct sockaddr *)&address, sizeof address), 0);
        send(slow[i], text, strlen(text), MSG_NOSIGNAL);
    }
    assert_get(place, "/livez", 200, "text/plain", "ok");
    for (size_t i = 0; i < SLOW; i++) close(slow[i]);
}

/* The page loads nothing from elsewhere, and nothing in it is inline: it works where there is no network, under a
 * policy that lets no other script run. */
static void the_page_stands_alone(void **state)
{
    static const struct { const char *path, *type; } part[] = {
        { "/", "text/html" },
        { "/page.css", "text/css" },
        { "/draw.js", "text/javascript" },
        { "/page.js", "text/javascript" },
        { "/icon.svg", "image/svg+xml" },
    };
    struct place *place = *state;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        char *answer = get(place, "GET", part[i].path);
        assert_int_equal(code(answer), 200);
        assert_non_null(strstr(answer, part[i].type));
        assert_null(strstr(body(answer), "https://"));
        if (!strstr(body(answer), "http://www.w3.org/2000/svg")) assert_null(strstr(body(answer), "http://"));
        assert_null(strstr(body(answer), "innerHTML"));
        assert_null(strstr(body(answer), "<style"));
        assert_null(strstr(body(answer), " style="));
        assert_null(strstr(body(answer), "<script>"));
        char *policy = strstr(answer, "Content-Security-Policy: default-src 'none'");
        assert_non_null(policy);
        assert_null(strstr(policy, "unsafe"));
        assert_non_null(strstr(policy, "frame-ancestors 'none'"));
        assert_non_null(strstr(answer, "X-Content-Type-Options: nosniff"));
        free(answer);
    }
}

static void history_is_asked_for_by_span_and_time(void **state)
{
    struct place *place = *state;
    struct trend_sample sample = { .value = { [TREND_EVENTS] = 7 } };
    trend_add(place->trend, 1700000000000, &sample);
    trend_add(place->trend, 1700000005000, &sample);
    assert_get(place, "/history", 200, "application/json", "\"time\":[1700000000000,1700000005000]");
    assert_get(place, "/history?span=6h", 200, "application/json", "\"step\":30000");
    assert_get(place, "/history?from=1700000005000", 200, "application/json", "\"time\":[1700000005000]");
    assert_get(place, "/history?span=6h&from=99999999999999", 200, "application/json", "\"time\":[]");
    assert_get(place, "/history?span=2h", 400, "text/plain", "allowed are 1h, 6h, 24h, 7d");
    assert_get(place, "/history?span", 200, "application/json", "\"span\":\"1h\"");
    assert_get(place, "/history?from=yesterday", 400, "text/plain", "milliseconds");
    assert_get(place, "/history?from=1e9", 400, "text/plain", "milliseconds");
    assert_get(place, "/history?from=", 400, "text/plain", "milliseconds");
}

static void a_taken_port_is_an_error(void **state)
{
    struct place *place = *state;
    struct http_pages pages = { place, is_live, is_ready, status, NULL, NULL };
    struct cs_error err = { 0 };
    char listen_text[64];
    snprintf(listen_text, sizeof listen_text, "127.0.0.1:%d", http_port(place->server));
    assert_null(http_start(listen_text, place->telemetry, &pages, &err));
    assert_int_equal(err.code, CS_FAILED);
    assert_non_null(strstr(err.message, listen_text));
    assert_non_null(strstr(err.message, "in use"));
    assert_null(http_start("nonsense", place->telemetry, &pages, &err));
    assert_int_equal(err.code, CS_CONFIG);
    struct http_server *none = http_start("", place->telemetry, &pages, &err);
    assert_non_null(none);
    assert_int_equal(http_port(none), 0);
    http_stop(none);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(pages_answer),          TEST(troubles_are_said),     TEST(nothing_but_reading),
        TEST(strangers_are_bounded), TEST(slow_readers_do_not_keep_others_waiting),
        TEST(the_page_stands_alone), TEST(history_is_asked_for_by_span_and_time),
        TEST(a_taken_port_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
