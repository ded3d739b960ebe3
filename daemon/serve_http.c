/* coldstream-serve's pages over libmicrohttpd. */
#include "daemon/serve_http.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <microhttpd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/coldstream_internal.h"
#include "daemon/http_bind.h"
#include "daemon/http_guard.h"

enum { CONNECTIONS = 1024, TIMEOUT = 30000, IDLE = 75000, CONNECTION_MEMORY = 64 * 1024, BODY_START = 16 * 1024 };
enum { LINGER = 1000 };         /* ms that a connection gets at the end to send what is on its way */
static const size_t bodies_at_least = 256 << 20;

struct serve_http {
    _Atomic(struct coldstream *) cs;    /* NULL: there is no checkpoint yet */
    struct serve_options options;
    struct telemetry *telemetry;
    struct MHD_Daemon *daemon;
    struct http_guard *guard;
    _Atomic(struct serve_shadow *) shadow;
    int port;
    atomic_int running;             /* requests between their head and their answer's last byte */
    atomic_size_t bodies;           /* bytes held of all requests */
    size_t most_bodies;
    atomic_bool stopping;
};

struct request {
    double begun;
    char *body;
    size_t used, size;
    bool too_large, full, answered, ambiguous;
};

/* An answer: status, body (malloc'd, given away) and its type. */
struct answer { unsigned code; char *text; const char *type, *allow; bool again, last; };

static struct answer failure(unsigned code, const char *message)
{
    json_t *root = json_pack("{s:s}", "error", message);
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    struct answer answer = { code, text, "application/json", NULL, false, false };
    json_decref(root);
    if (!answer.text) answer.text = strdup("{\"error\":\"the request is not UTF-8\"}");
    return answer;
}

static struct answer not_allowed(const char *allow)
{
    struct answer answer = failure(MHD_HTTP_METHOD_NOT_ALLOWED, "this page has other methods");
    answer.allow = allow;
    return answer;
}

/* 503 with Retry-After: the same request may be answered later. */
static struct answer not_now(const char *message)
{
    struct answer answer = failure(MHD_HTTP_SERVICE_UNAVAILABLE, message);
    answer.again = true;
    return answer;
}

static struct answer too_large(const struct serve_http *server)
{
    char text[96];
    snprintf(text, sizeof text, "the request is larger than %zu bytes", server->options.max_body);
    return failure(MHD_HTTP_CONTENT_TOO_LARGE, text);
}

/* What can't be JSON. A form's type is let through: it is what curl says where nobody says anything. */
static bool is_other_type(struct MHD_Connection *connection)
{
    static const char *const fine[] = { "application/json", "text/json", "text/plain", "application/octet-stream",
                                        "application/x-www-form-urlencoded" };
    const char *type = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_TYPE);
    const char *coding = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_ENCODING);
    if (coding && *coding && strcasecmp(coding, "identity")) return true;
    if (!type || !*type) return false;
    size_t length = strcspn(type, "; \t");
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++)
        if (length == strlen(fine[i]) && !strncasecmp(type, fine[i], length)) return false;
    return length < 5 || strncasecmp(type + length - 5, "+json", 5);
}

static struct answer answer_call(struct serve_http *server, struct coldstream *cs, const struct scoring_call *call,
                                 const struct request *request)
{
    struct cs_error err = { 0 };
    char *response;
    if (!coldstream_score_call(cs, call, &response, &err))
        return failure(err.code == CS_USAGE ? MHD_HTTP_BAD_REQUEST : MHD_HTTP_INTERNAL_SERVER_ERROR, err.message);
    telemetry_add(server->telemetry, METRIC_SCORES, NULL, (double)scoring_call_scores(call));
    if (!scoring_call_version(call))
        serve_shadow_offer(atomic_load(&server->shadow), request->body, request->used, response);
    return (struct answer){ MHD_HTTP_OK, response, "application/json", NULL, false, false };
}

/* The version that it names, or 404 with those that there are. */
static struct answer answer_named(struct serve_http *server, struct coldstream *cs, const struct scoring_call *call,
                                  const struct request *request)
{
    uint64_t wanted = scoring_call_version(call);
    char *there = NULL, *text = NULL;
    struct serve_version *version =
        server->options.versions ? serve_versions_take(server->options.versions, wanted, &there) : NULL;
    struct answer answer;
    const char *result = "kept";
    if (version) {
        if (coldstream_version(cs) == wanted) result = "current";
        answer = answer_call(server, serve_version_handle(version), call, request);
        serve_versions_give_back(server->options.versions, version);
    } else if (coldstream_version(cs) == wanted) {      /* this very moment, or all that there is */
        result = "current";
        answer = answer_call(server, cs, call, request);
    } else {
        result = "unknown";
        if (asprintf(&text, "version: %" PRIu64 " is not loaded; there is current %" PRIu64 ", in memory %s", wanted,
                     coldstream_version(cs), there ? there : "none else") < 0)
            need(NULL);
        answer = failure(MHD_HTTP_NOT_FOUND, text);
    }
    telemetry_add(server->telemetry, METRIC_NAMED_VERSIONS, TELEMETRY_LABELS(result), 1);
    free(text);
    free(there);
    return answer;
}

static struct answer score(struct serve_http *server, struct MHD_Connection *connection, const struct request *request)
{
    struct cs_error err = { 0 };
    struct scoring_limits limits = { server->options.max_requests, server->options.max_scores };
    bool beyond;

    if (is_other_type(connection))
        return failure(MHD_HTTP_UNSUPPORTED_MEDIA_TYPE, "the body must be JSON: application/json, not compressed");
    if (request->too_large) return too_large(server);
    if (request->full) return not_now("too many bytes of requests are held at once");
    if (clock_seconds() - request->begun > (double)server->options.timeout / 1000)
        return not_now("the request has waited for too long");
    struct coldstream *cs = atomic_load(&server->cs);
    if (!cs) return not_now("no checkpoint yet");
    struct scoring_call *call =
        scoring_call_read(request->body ? request->body : "", request->used, &limits, &beyond, &err);
    if (!call) return failure(beyond ? MHD_HTTP_CONTENT_TOO_LARGE : MHD_HTTP_BAD_REQUEST, err.message);
    struct answer answer = scoring_call_version(call) ? answer_named(server, cs, call, request)
                                                      : answer_call(server, cs, call, request);
    scoring_call_destroy(call);
    return answer;
}

static struct answer page_live(struct serve_http *server)
{
    (void)server;
    return (struct answer){ MHD_HTTP_OK, strdup("ok\n"), "text/plain; charset=utf-8", NULL, false, false };
}

static struct answer page_ready(struct serve_http *server)
{
    char *text = NULL;
    struct coldstream *cs = atomic_load(&server->cs);
    bool stopping = atomic_load(&server->stopping), ready = cs && !stopping;
    const char *reason = stopping ? "\"stopping\"" : cs ? "" : "\"no checkpoint yet\"";
    if (asprintf(&text, "{\"ready\":%s,\"reasons\":[%s],\"version\":%llu}\n", ready ? "true" : "false", reason,
                 cs ? (unsigned long long)coldstream_version(cs) : 0) < 0)
        need(NULL);
    return (struct answer){ ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, text, "application/json", NULL, false,
                            false };
}

static struct answer page_metrics(struct serve_http *server)
{
    struct coldstream *cs = atomic_load(&server->cs);
    struct serve_shadow *shadow = atomic_load(&server->shadow);
    struct http_guard_counts counts = http_guard_counts(server->guard);
    struct telemetry *telemetry = server->telemetry;
    telemetry_set(telemetry, METRIC_SERVING_VERSION, NULL, cs ? (double)coldstream_version(cs) : 0);
    if (shadow) telemetry_set(telemetry, METRIC_SHADOW_VERSION, NULL, (double)serve_shadow_version(shadow));
    telemetry_set(telemetry, METRIC_IN_FLIGHT, NULL, atomic_load(&server->running));
    telemetry_set(telemetry, METRIC_CONNECTIONS, NULL, counts.open);
    telemetry_set(telemetry, METRIC_CONNECTIONS_CUT, TELEMETRY_LABELS("late"), (double)counts.late);
    telemetry_set(telemetry, METRIC_CONNECTIONS_CUT, TELEMETRY_LABELS("displaced"), (double)counts.displaced);
    telemetry_set(telemetry, METRIC_CONNECTIONS_CUT, TELEMETRY_LABELS("refused"), (double)counts.refused);
    return (struct answer){ MHD_HTTP_OK, telemetry_text(telemetry), "text/plain; version=0.0.4; charset=utf-8",
                            NULL, false, false };
}

static const struct { const char *path; struct answer (*make)(struct serve_http *server); } page[] = {
    { "/livez", page_live }, { "/readyz", page_ready }, { "/metrics", page_metrics },
};

static struct answer answer_to(struct serve_http *server, struct MHD_Connection *connection, const char *path,
                               const char *method, const struct request *request)
{
    if (!strcmp(path, "/v1/score"))
        return strcmp(method, MHD_HTTP_METHOD_POST) ? not_allowed("POST") : score(server, connection, request);
    for (size_t i = 0; i < sizeof page / sizeof *page; i++) {
        if (strcmp(path, page[i].path)) continue;
        bool reads = !strcmp(method, MHD_HTTP_METHOD_GET) || !strcmp(method, MHD_HTTP_METHOD_HEAD);
        return reads ? page[i].make(server) : not_allowed("GET, HEAD");
    }
    return failure(MHD_HTTP_NOT_FOUND, "no such page; there are POST /v1/score, /livez, /readyz and /metrics");
}

static enum MHD_Result send_answer(struct serve_http *server, struct MHD_Connection *connection, struct answer answer)
{
    if (!answer.text) return MHD_NO;
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(answer.text), answer.text, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(answer.text);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, answer.type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (answer.again) MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "1");
    if (answer.allow) MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, answer.allow);
    if (answer.last || atomic_load(&server->stopping))
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    enum MHD_Result result = MHD_queue_response(connection, answer.code, response);
    MHD_destroy_response(response);
    return result;
}

static void take_body(struct serve_http *server, struct request *request, const char *bytes, size_t size)
{
    if (request->full) return;                                  /* read to its end, not kept */
    if (request->too_large || size > server->options.max_body - request->used) {
        request->too_large = true;
        return;
    }
    if (request->size - request->used < size) {
        size_t before = request->size;
        while (request->size - request->used < size) request->size = request->size ? request->size * 2 : BODY_START;
        if (atomic_fetch_add(&server->bodies, request->size - before) + request->size - before > server->most_bodies) {
            atomic_fetch_sub(&server->bodies, request->size - before);
            request->size = before;
            request->full = true;
            return;
        }
        request->body = need(realloc(request->body, request->size));
    }
    memcpy(request->body + request->used, bytes, size);
    request->used += size;
}

static enum MHD_Result answer(struct serve_http *server, struct MHD_Connection *connection, const char *path,
                              const char *method, struct request *request)
{
    if (!http_guard_enter(server->guard, connection, GUARD_WORKING)) return MHD_NO;
    bool scores = !strcmp(path, "/v1/score");
    struct answer made;
    if (request->ambiguous) made = failure(MHD_HTTP_BAD_REQUEST, "two lengths, or a length and chunks");
    else if (scores && request->answered) made = too_large(server);
    else made = answer_to(server, connection, path, method, request);
    char code[16];
    snprintf(code, sizeof code, "%u", made.code);
    telemetry_add(server->telemetry, METRIC_REQUESTS, TELEMETRY_LABELS(code), 1);
    if (scores) telemetry_observe(server->telemetry, METRIC_REQUEST_SECONDS, clock_seconds() - request->begun);
    http_guard_enter(server->guard, connection, GUARD_SENDING);
    made.last = request->ambiguous;
    return send_answer(server, connection, made);
}

/* A body that says that it is too large, of a client who waits for leave to send it, or that would take long to read
 * over: answered before it comes. */
static bool refuse_at_once(const struct serve_http *server, struct MHD_Connection *connection, struct request *request)
{
    const char *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    uint64_t bytes = length ? strtoull(length, NULL, 10) : 0;
    request->too_large = bytes > server->options.max_body;
    if (!request->too_large) return false;
    return bytes / 8 > server->options.max_body ||
           MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_EXPECT);
}

static enum MHD_Result on_request(void *self, struct MHD_Connection *connection, const char *path, const char *method,
                                  const char *version, const char *body, size_t *body_size, void **state)
{
    struct serve_http *server = self;
    struct request *request = *state;
    (void)version;

    if (!request) {
        *state = request = need(calloc(1, sizeof *request));
        request->begun = clock_seconds();
        atomic_fetch_add(&server->running, 1);
        request->answered = refuse_at_once(server, connection, request);
        request->ambiguous = http_guard_is_ambiguous(connection);
        if (request->answered || request->ambiguous) return answer(server, connection, path, method, request);
        return http_guard_enter(server->guard, connection, GUARD_READING) ? MHD_YES : MHD_NO;
    }
    if (*body_size) {
        take_body(server, request, body, *body_size);
        *body_size = 0;
        return MHD_YES;
    }
    return answer(server, connection, path, method, request);
}

static void on_completed(void *self, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode why)
{
    struct serve_http *server = self;
    struct request *request = *state;
    (void)why;
    if (!request) return;
    http_guard_enter(server->guard, connection, GUARD_WAITING);
    atomic_fetch_sub(&server->bodies, request->size);
    free(request->body);
    free(request);
    *state = NULL;
    atomic_fetch_sub(&server->running, 1);
}

struct serve_http *serve_http_start(struct coldstream *cs, const struct serve_options *options,
                                    struct telemetry *telemetry, struct cs_error *err)
{
    struct serve_http *server = need(calloc(1, sizeof *server));
    atomic_init(&server->cs, cs);
    server->options = *options;
    if (!server->options.connections) server->options.connections = CONNECTIONS;
    if (!server->options.timeout) server->options.timeout = TIMEOUT;
    if (!server->options.idle) server->options.idle = IDLE;
    server->most_bodies = options->max_body > bodies_at_least / 4 ? 4 * options->max_body : bodies_at_least;
    server->telemetry = telemetry;
    telemetry_add(telemetry, METRIC_REQUESTS, TELEMETRY_LABELS("200"), 0);
    telemetry_add(telemetry, METRIC_REQUESTS, TELEMETRY_LABELS("503"), 0);
    telemetry_add(telemetry, METRIC_SCORES, NULL, 0);
    telemetry_expect(telemetry, METRIC_REQUEST_SECONDS);
    int fd = options->socket ? options->socket : http_bind("--listen", options->listen, CS_USAGE, err);
    if (fd < 0) goto fail;
    server->port = http_bind_port(fd);
    struct http_guard_limits limits = { server->options.connections, server->options.timeout, server->options.timeout,
                                        server->options.idle };
    if (!(server->guard = http_guard_create(&limits, err))) goto fail_closing;
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC, 0, NULL, NULL, on_request, server, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, server, MHD_OPTION_NOTIFY_CONNECTION, http_guard_connection,
        server->guard, MHD_OPTION_THREAD_POOL_SIZE, options->threads > 1 ? options->threads : 0u,
        MHD_OPTION_CONNECTION_LIMIT, http_guard_places(server->guard, options->threads),
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY, MHD_OPTION_END);
    if (server->daemon) return server;
    cs_fail_errno(err, errno, "the HTTP server on %s does not start", options->socket ? "its socket" : options->listen);
    http_guard_destroy(server->guard);
fail_closing:
    close(fd);
fail:
    free(server);
    return NULL;
}

void serve_http_use(struct serve_http *server, struct coldstream *cs)
{
    atomic_store(&server->cs, cs);
}

void serve_http_shadow(struct serve_http *server, struct serve_shadow *shadow)
{
    atomic_store(&server->shadow, shadow);
}

int serve_http_port(const struct serve_http *server)
{
    return server->port;
}

void serve_http_drain(struct serve_http *server)
{
    atomic_store(&server->stopping, true);
}

/* Those who wait for an answer get it; those who wait to ask may do so for a moment more, as what they send may be on
 * its way, and are told by the answer that it was the last. */
static bool is_drained(struct serve_http *server, int64_t passed)
{
    struct http_guard_counts counts = http_guard_counts(server->guard);
    return !counts.open || (counts.open == counts.waiting && passed >= LINGER);
}

void serve_http_stop(struct serve_http *server, int64_t wait)
{
    if (!server) return;
    serve_http_drain(server);
    int fd = MHD_quiesce_daemon(server->daemon);
    if (fd >= 0) close(fd);
    for (int64_t begun = clock_monotonic(), passed = 0; passed < wait && !is_drained(server, passed);
         passed = clock_monotonic() - begun)
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    http_guard_close_waiting(server->guard);
    MHD_stop_daemon(server->daemon);
    http_guard_destroy(server->guard);
    free(server);
}
