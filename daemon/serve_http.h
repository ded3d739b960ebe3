/* coldstream-serve's pages: POST /v1/score, GET /livez /readyz /metrics, on a pool of libmicrohttpd's threads that
 * score. */
#ifndef DAEMON_SERVE_HTTP_H
#define DAEMON_SERVE_HTTP_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "daemon/coldstream.h"
#include "daemon/telemetry.h"

struct serve_options {
    const char *listen;         /* "127.0.0.1:9465", "[::1]:9465"; port 0 takes a free one */
    unsigned threads;           /* that answer, >= 1 */
    size_t max_body;            /* bytes of a request; more is answered 413 */
};

struct serve_http;
/* cs NULL: there is no checkpoint yet; scoring and readiness are answered 503 until serve_http_use gives one. */
struct serve_http *serve_http_start(struct coldstream *cs, const struct serve_options *options,
                                    struct telemetry *telemetry, struct cs_error *err);
void serve_http_use(struct serve_http *server, struct coldstream *cs);
int serve_http_port(const struct serve_http *server);
/* Takes no new connection, lets running requests finish for up to `wait` milliseconds, then ends. */
void serve_http_stop(struct serve_http *server, int64_t wait);

#endif
