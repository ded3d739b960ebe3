/* The page for people: self-contained, so that it works where there is no network but the loopback. */
#ifndef DAEMON_HTTP_PAGE_H
#define DAEMON_HTTP_PAGE_H

extern const char http_page[];

#endif
