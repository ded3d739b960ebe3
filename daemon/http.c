/* Pages over libmicrohttpd: one thread of its own that polls. Every answer is small and made from what the callbacks
 * give, so one thread is enough; a slow client holds a connection, not the thread. */
#include "daemon/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/http_bind.h"
#include "daemon/http_guard.h"
#include "daemon/http_page.h"

enum { CONNECTIONS = 64, TIMEOUT = 10000, IDLE = 60000, CONNECTION_MEMORY = 16 * 1024 };

struct http_server {
    struct MHD_Daemon *daemon;
    struct http_guard *guard;
    struct telemetry *telemetry;
    struct http_pages pages;
    int port;
};

/* A page's body: status code, type, and malloc'd text, or a part of the program. */
struct answer { unsigned code; const char *type; char *text; const struct http_resource *fixed; };

static struct answer make(unsigned code, const char *type, char *text)
{
    if (!text)
        return (struct answer){ MHD_HTTP_INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", strdup("out of memory\n"),
                                NULL };
    return (struct answer){ code, type, text, NULL };
}

static struct answer page_metrics(struct http_server *server, struct MHD_Connection *connection)
{
    (void)connection;
    if (server->pages.before_metrics) server->pages.before_metrics(server->pages.self);
    return make(MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", telemetry_text(server->telemetry));
}

static struct answer page_live(struct http_server *server, struct MHD_Connection *connection)
{
    (void)connection;
    if (server->pages.live(server->pages.self)) return make(MHD_HTTP_OK, "text/plain; charset=utf-8", strdup("ok\n"));
    return make(MHD_HTTP_SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", strdup("learning does not move\n"));
}

static struct answer page_ready(struct http_server *server, struct MHD_Connection *connection)
{
    (void)connection;
    char *reasons = NULL, *text = NULL;
    bool ready = server->pages.ready(server->pages.self, &reasons);
    if (asprintf(&text, "{\"ready\":%s,\"reasons\":%s}\n", ready ? "true" : "false",
                 !ready && reasons ? reasons : "[]") < 0)
        text = NULL;
    free(reasons);
    return make(ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, "application/json", text);
}

static struct answer page_status(struct http_server *server, struct MHD_Connection *connection)
{
    (void)connection;
    return make(MHD_HTTP_OK, "application/json", server->pages.status(server->pages.self));
}

/* ?span=6h&from=MILLISECONDS, both optional. */
static struct answer page_history(struct http_server *server, struct MHD_Connection *connection)
{
    const char *span = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "span");
    const char *from = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "from");
    char *end = NULL, *text = NULL;
    long long since = from ? strtoll(from, &end, 10) : 0;
    if (from && (*end || end == from)) {
        return make(MHD_HTTP_BAD_REQUEST, "text/plain; charset=utf-8",
                    strdup("from is a time in milliseconds since the epoch, as the points' own\n"));
    }
    if (!server->pages.trend)
        return make(MHD_HTTP_NOT_FOUND, "text/plain; charset=utf-8", strdup("no history is kept here\n"));
    char *history = trend_json(server->pages.trend, span, since, clock_wall());
    if (history) return make(MHD_HTTP_OK, "application/json", history);
    if (asprintf(&text, "no such span: allowed are %s\n", trend_spans) < 0) text = NULL;
    return make(MHD_HTTP_BAD_REQUEST, "text/plain; charset=utf-8", text);
}

static const struct { const char *path; struct answer (*make)(struct http_server *, struct MHD_Connection *);
} pages[] = {
    { "/metrics", page_metrics }, { "/livez", page_live },     { "/readyz", page_ready },
    { "/status", page_status },   { "/history", page_history },
};

static enum MHD_Result send_answer(struct MHD_Connection *connection, struct answer answer)
{
    struct MHD_Response *response =
        answer.fixed ? MHD_create_response_from_buffer((size_t)(answer.fixed->end - answer.fixed->begin),
                                                       (void *)(uintptr_t)answer.fixed->begin, MHD_RESPMEM_PERSISTENT)
                     : MHD_create_response_from_buffer(answer.text ? strlen(answer.text) : 0, answer.text,
                                                       MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(answer.text);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, answer.type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (answer.code == MHD_HTTP_BAD_REQUEST) MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    if (answer.code == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    MHD_add_response_header(response, "Content-Security-Policy", http_page_policy);
    MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
    enum MHD_Result result = MHD_queue_response(connection, answer.code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result answer_request(void *self, struct MHD_Connection *connection, const char *path,
                                      const char *method, const char *version, const char *body, size_t *body_size,
                                      void **seen)
{
    struct http_server *server = self;
    (void)version, (void)body;
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
        *body_size = 0;
        *seen = server;
        if (!http_guard_enter(server->guard, connection, GUARD_SENDING)) return MHD_NO;
        return send_answer(connection, make(MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain; charset=utf-8",
                                            strdup("these pages are read only\n")));
    }
    if (!*seen) { /* the headers have come: answer at the next call, when a body, if any, has been passed over */
        *seen = server;
        if (!http_guard_enter(server->guard, connection, GUARD_READING)) return MHD_NO;
        if (!http_guard_is_ambiguous(connection)) return MHD_YES;
        return send_answer(connection, make(MHD_HTTP_BAD_REQUEST, "text/plain; charset=utf-8",
                                            strdup("two lengths, or a length and chunks\n")));
    }
    if (*body_size) {
        *body_size = 0;
        return MHD_YES;
    }
    if (!http_guard_enter(server->guard, connection, GUARD_SENDING)) return MHD_NO;
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++)
        if (strcmp(path, pages[i].path) == 0) return send_answer(connection, pages[i].make(server, connection));
    for (const struct http_resource *part = http_page; part->path; part++)
        if (strcmp(path, part->path) == 0)
            return send_answer(connection, (struct answer){ MHD_HTTP_OK, part->type, NULL, part });
    return send_answer(connection, make(MHD_HTTP_NOT_FOUND, "text/plain; charset=utf-8",
                                        strdup("no such page: / /metrics /livez /readyz /status /history\n")));
}

static void on_completed(void *self, struct MHD_Connection *connection, void **seen,
                         enum MHD_RequestTerminationCode why)
{
    struct http_server *server = self;
    (void)why;
    if (*seen) http_guard_enter(server->guard, connection, GUARD_WAITING);
    *seen = NULL;
}

struct http_server *http_start(const char *listen_text, struct telemetry *telemetry, const struct http_pages *callbacks,
                               struct cs_error *err)
{
    struct http_server *server = calloc(1, sizeof *server);
    if (!server) {
        cs_fail(err, CS_FAILED, "http: out of memory");
        return NULL;
    }
    server->telemetry = telemetry;
    server->pages = *callbacks;
    if (!*listen_text) return server;
    struct http_guard_limits limits = { CONNECTIONS, TIMEOUT, TIMEOUT, IDLE };
    server->guard = http_guard_create(&limits, err);
    int handle = server->guard ? http_bind("http.listen", listen_text, CS_CONFIG, err) : -1;
    if (handle >= 0) {
        server->port = http_bind_port(handle);
        server->daemon = MHD_start_daemon(
            MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO, 0, NULL, NULL, answer_request, server,
            MHD_OPTION_LISTEN_SOCKET, handle, MHD_OPTION_NOTIFY_COMPLETED, on_completed, server,
            MHD_OPTION_NOTIFY_CONNECTION, http_guard_connection, server->guard, MHD_OPTION_CONNECTION_LIMIT,
            http_guard_places(server->guard, 1), MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
            MHD_OPTION_END);
        if (!server->daemon) {
            int reason = errno;
            close(handle);
            cs_fail_errno(err, reason, "http.listen: the server does not start");
        }
    }
    if (!server->daemon) {
        http_guard_destroy(server->guard);
        free(server);
        return NULL;
    }
    return server;
}

int http_port(const struct http_server *server)
{
    return server->port;
}

void http_stop(struct http_server *server)
{
    if (!server) return;
    if (server->daemon) MHD_stop_daemon(server->daemon); /* closes the listening socket and waits for its thread */
    http_guard_destroy(server->guard);
    free(server);
}
