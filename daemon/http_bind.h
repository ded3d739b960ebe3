/* The socket that pages are answered on. Bound by ourselves rather than by libmicrohttpd, whose failure has no reason.
 */
#ifndef DAEMON_HTTP_BIND_H
#define DAEMON_HTTP_BIND_H

#include "core/error.h"

/* Listens on address:port: numbers, [IPv6], a host's name, `localhost` (127.0.0.1), or nothing before the colon for all
 * of this machine. Warns where others than this machine may connect, as these pages know no users. -1 with err: of the
 * code `wrong` where it is no address, with a remedy where nothing can listen there. `setting` is what names it. */
int http_bind(const char *setting, const char *address, enum cs_code wrong, struct cs_error *err);
/* 0: it listens at a path. */
int http_bind_port(int socket);

#endif
