/* coldstream-serve's pages over libmicrohttpd. */
#include "daemon/serve_http.h"

#include <errno.h>
#include <jansson.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/coldstream_internal.h"

enum { CONNECTIONS = 1024, TIMEOUT_SECONDS = 30, CONNECTION_MEMORY = 64 * 1024, BODY_START = 16 * 1024 };

struct serve_http {
    _Atomic(struct coldstream *) cs;    /* NULL: there is no checkpoint yet */
    struct serve_options options;
    struct telemetry *telemetry;
    struct MHD_Daemon *daemon;
    int port;
    atomic_int running;             /* requests between their first byte and their answer's last */
    atomic_bool stopping;
};

struct request {
    double begun;
    char *body;
    size_t used, size;
    bool too_large;
};

/* An answer: status, body (malloc'd, given away) and its type. */
struct answer { unsigned code; char *text; const char *type, *allow; };

static struct answer failure(unsigned code, const char *message)
{
    json_t *root = json_pack("{s:s}", "error", message);
    struct answer answer = { code, root ? json_dumps(root, JSON_COMPACT) : NULL, "application/json", NULL };
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

static struct answer score(struct serve_http *server, const struct request *request)
{
    struct cs_error err = { 0 };
    char *response;
    size_t scores = 0;
    char text[96];

    if (request->too_large) {
        snprintf(text, sizeof text, "the request is larger than %zu bytes", server->options.max_body);
        return failure(MHD_HTTP_CONTENT_TOO_LARGE, text);
    }
    struct coldstream *cs = atomic_load(&server->cs);
    if (!cs) return failure(MHD_HTTP_SERVICE_UNAVAILABLE, "no checkpoint yet");
    if (!coldstream_score_explained(cs, request->body ? request->body : "", request->used, &response, &scores,
                                    &err))
        return failure(err.code == CS_USAGE ? MHD_HTTP_BAD_REQUEST : MHD_HTTP_INTERNAL_SERVER_ERROR, err.message);
    telemetry_add(server->telemetry, METRIC_SCORES, NULL, (double)scores);
    return (struct answer){ MHD_HTTP_OK, response, "application/json", NULL };
}

static struct answer page_live(struct serve_http *server)
{
    (void)server;
    return (struct answer){ MHD_HTTP_OK, strdup("ok\n"), "text/plain; charset=utf-8", NULL };
}

static struct answer page_ready(struct serve_http *server)
{
    char *text = NULL;
    struct coldstream *cs = atomic_load(&server->cs);
    bool stopping = atomic_load(&server->stopping), ready = cs && !stopping;
    const char *reason = stopping ? "\"stopping\"" : cs ? "" : "\"no checkpoint yet\"";
    if (asprintf(&text, "{\"ready\":%s,\"reasons\":[%s],\"version\":%llu}\n", ready ? "true" : "false", reason,
                 cs ? (unsigned long long)coldstream_version(cs) : 0) < 0)
        abort();
    return (struct answer){ ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, text, "application/json", NULL };
}

static struct answer page_metrics(struct serve_http *server)
{
    struct coldstream *cs = atomic_load(&server->cs);
    if (cs) telemetry_set(server->telemetry, METRIC_SERVING_VERSION, NULL, (double)coldstream_version(cs));
    return (struct answer){ MHD_HTTP_OK, telemetry_text(server->telemetry), "text/plain; version=0.0.4; charset=utf-8",
                            NULL };
}

static const struct { const char *path; struct answer (*make)(struct serve_http *server); } page[] = {
    { "/livez", page_live }, { "/readyz", page_ready }, { "/metrics", page_metrics },
};

static struct answer answer_to(struct serve_http *server, const char *path, const char *method,
                               const struct request *request)
{
    if (!strcmp(path, "/v1/score"))
        return strcmp(method, MHD_HTTP_METHOD_POST) ? not_allowed("POST") : score(server, request);
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
    if (answer.allow) MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, answer.allow);
    if (atomic_load(&server->stopping)) MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    enum MHD_Result result = MHD_queue_response(connection, answer.code, response);
    MHD_destroy_response(response);
    return result;
}

static void take_body(const struct serve_http *server, struct request *request, const char *bytes, size_t size)
{
    if (request->too_large || size > server->options.max_body - request->used) {        /* read to its end, not kept */
        request->too_large = true;
        return;
    }
    if (request->size - request->used < size) {
        while (request->size - request->used < size) request->size = request->size ? request->size * 2 : BODY_START;
        if (!(request->body = realloc(request->body, request->size))) abort();
    }
    memcpy(request->body + request->used, bytes, size);
    request->used += size;
}

static enum MHD_Result on_request(void *self, struct MHD_Connection *connection, const char *path, const char *method,
                                  const char *version, const char *body, size_t *body_size, void **state)
{
    struct serve_http *server = self;
    struct request *request = *state;
    (void)version;

    if (!request) {
        if (!(*state = request = calloc(1, sizeof *request))) abort();
        request->begun = clock_seconds();
        atomic_fetch_add(&server->running, 1);
        const char *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
        request->too_large = length && strtoull(length, NULL, 10) > server->options.max_body;
        return MHD_YES;
    }
    if (*body_size) {
        take_body(server, request, body, *body_size);
        *body_size = 0;
        return MHD_YES;
    }
    struct answer answer = answer_to(server, path, method, request);
    char code[16];
    snprintf(code, sizeof code, "%u", answer.code);
    telemetry_add(server->telemetry, METRIC_REQUESTS, TELEMETRY_LABELS(code), 1);
    if (!strcmp(path, "/v1/score"))
        telemetry_observe(server->telemetry, METRIC_REQUEST_SECONDS, clock_seconds() - request->begun);
    return send_answer(server, connection, answer);
}

static void on_completed(void *self, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode why)
{
    struct serve_http *server = self;
    struct request *request = *state;
    (void)connection, (void)why;
    if (!request) return;
    free(request->body);
    free(request);
    *state = NULL;
    atomic_fetch_sub(&server->running, 1);
}

/* Bound by us: libmicrohttpd's failure to bind has no reason. -1 with err. */
static int bind_socket(const char *address, int *port, struct cs_error *err)
{
    char host[256];
    const char *colon = strrchr(address, ':'), *begin = address;
    size_t length = colon ? (size_t)(colon - address) : 0;
    if (length > 1 && *address == '[' && colon[-1] == ']') begin++, length -= 2;
    bool numeric = colon && colon[1] && strspn(colon + 1, "0123456789") == strlen(colon + 1) &&
                   strtoul(colon + 1, NULL, 10) <= UINT16_MAX;
    if (!numeric || length >= sizeof host) {
        cs_fail(err, CS_USAGE, "--listen: \"%s\" is no address:port, like 127.0.0.1:9465 or [::1]:9465", address);
        return -1;
    }
    memcpy(host, begin, length);
    host[length] = 0;
    struct addrinfo hint = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *found;
    int code = getaddrinfo(length ? host : NULL, colon + 1, &hint, &found);
    if (code) {
        cs_fail(err, CS_USAGE, "--listen: \"%s\": %s", address, gai_strerror(code));
        return -1;
    }
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    int one = 1, fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, 512) ||
        getsockname(fd, (struct sockaddr *)&bound, &size)) {
        cs_fail_errno(err, errno, "listening on %s", address);
        if (fd >= 0) close(fd);
        fd = -1;
    } else {
        *port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                  : ((struct sockaddr_in *)&bound)->sin_port);
    }
    freeaddrinfo(found);
    return fd;
}

struct serve_http *serve_http_start(struct coldstream *cs, const struct serve_options *options,
                                    struct telemetry *telemetry, struct cs_error *err)
{
    struct serve_http *server = calloc(1, sizeof *server);
    if (!server) abort();
    atomic_init(&server->cs, cs);
    server->options = *options;
    server->telemetry = telemetry;
    int fd = bind_socket(options->listen, &server->port, err);
    if (fd < 0) goto fail;
    server->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC, 0, NULL, NULL, on_request, server,
                                      MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, server,
                                      MHD_OPTION_THREAD_POOL_SIZE, options->threads > 1 ? options->threads : 0u,
                                      MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
                                      (unsigned)TIMEOUT_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                                      (size_t)CONNECTION_MEMORY, MHD_OPTION_END);
    if (server->daemon) return server;
    close(fd);
    cs_fail(err, CS_FAILED, "the HTTP server on %s does not start", options->listen);
fail:
    free(server);
    return NULL;
}

void serve_http_use(struct serve_http *server, struct coldstream *cs)
{
    atomic_store(&server->cs, cs);
}

int serve_http_port(const struct serve_http *server)
{
    return server->port;
}

void serve_http_stop(struct serve_http *server, int64_t wait)
{
    if (!server) return;
    atomic_store(&server->stopping, true);
    int fd = MHD_quiesce_daemon(server->daemon);
    if (fd >= 0) close(fd);
    for (int64_t end = clock_monotonic() + wait; atomic_load(&server->running) > 0 && clock_monotonic() < end;)
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    MHD_stop_daemon(server->daemon);
    free(server);
}
