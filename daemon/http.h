/* The daemon's read-only pages, on libmicrohttpd's own thread: /metrics /livez /readyz /status /history and / (a page
 * for people, with its script and style). GET and HEAD only; loopback unless configured; limits on connections,
 * header size and time. */
#ifndef DAEMON_HTTP_H
#define DAEMON_HTTP_H

#include <stdbool.h>

#include "core/error.h"
#include "daemon/telemetry.h"
#include "daemon/trend.h"

struct http_pages {
    void *self;
    bool (*live)(void *self);
    /* True when ready; otherwise why not, as a JSON array text (malloc'd) in *reasons. */
    bool (*ready)(void *self, char **reasons);
    char *(*status)(void *self);        /* JSON text, malloc'd */
    void (*before_metrics)(void *self); /* brings gauges up to date; NULL: nothing to do */
    struct trend *trend;                /* /history's; borrowed */
};

struct http_server;
/* listen: "127.0.0.1:9464", "[::1]:9464" or "" (no pages). Port 0 takes a free one. */
struct http_server *http_start(const char *listen, struct telemetry *telemetry, const struct http_pages *pages,
                               struct cs_error *err);
int http_port(const struct http_server *server);
void http_stop(struct http_server *server);

#endif
