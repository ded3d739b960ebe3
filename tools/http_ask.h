/* A server of this machine, asked as any client would ask it: for the demo, the bench and the tests. */
#ifndef TOOLS_HTTP_ASK_H
#define TOOLS_HTTP_ASK_H

#include <curl/curl.h>

struct http_answer { char text[1 << 16]; size_t used; };       /* text ends with a zero byte */

/* POST of size bytes, or, body NULL, GET. curl: the caller's; its connection is kept for the next call. Waits a minute
 * at most. Returns the HTTP status; 0: no answer, or one that is larger than there is room for. */
long http_ask(CURL *curl, int port, const char *path, const char *body, size_t size, struct http_answer *answer);

#endif
