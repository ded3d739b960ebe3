/* coldstream-serve's pages: POST /v1/score, GET /livez /readyz /metrics, on a pool of libmicrohttpd's threads that
 * score. */
#ifndef DAEMON_SERVE_HTTP_H
#define DAEMON_SERVE_HTTP_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "daemon/coldstream.h"
#include "daemon/serve_shadow.h"
#include "daemon/serve_versions.h"
#include "daemon/telemetry.h"

struct serve_options {
    const char *listen;         /* "127.0.0.1:9465", "[::1]:9465"; port 0 takes a free one */
    unsigned threads;           /* that answer, >= 1 */
    size_t max_body;            /* bytes of a request; more is answered 413 */
    size_t max_requests, max_scores;    /* of one call; more is answered 413; 0: any number */
    unsigned connections;       /* at once; 0: 1024 */
    int64_t timeout, idle;      /* ms that a request may take to come, or an answer to be read; ms between two requests
                                   of a connection; 0: 30 s, 75 s */
    int socket;                 /* listens already, as systemd hands it over; 0: none, `listen` is bound */
    struct serve_versions *versions;    /* that a request may name, borrowed; NULL: the current one alone */
};

struct serve_http;
/* cs NULL: there is no checkpoint yet; scoring and readiness are answered 503 until serve_http_use gives one. */
struct serve_http *serve_http_start(struct coldstream *cs, const struct serve_options *options,
                                    struct telemetry *telemetry, struct cs_error *err);
void serve_http_use(struct serve_http *server, struct coldstream *cs);
/* Borrowed until the server's end. */
void serve_http_shadow(struct serve_http *server, struct serve_shadow *shadow);
int serve_http_port(const struct serve_http *server);       /* 0: no port, but a path */
/* From now on it is not ready, and every answer ends its connection; new ones are still taken. */
void serve_http_drain(struct serve_http *server);
/* Takes no new connection, lets running requests finish for up to `wait` milliseconds, then ends. */
void serve_http_stop(struct serve_http *server, int64_t wait);

#endif
