/* The status page that people read: files of daemon/page/, as parts of the program. */
#ifndef DAEMON_HTTP_PAGE_H
#define DAEMON_HTTP_PAGE_H

struct http_resource { const char *path, *type; const unsigned char *begin, *end; };
extern const struct http_resource http_page[];          /* path NULL ends */
/* For the header Content-Security-Policy: nothing inline, nothing from elsewhere. */
extern const char http_page_policy[];

#endif
