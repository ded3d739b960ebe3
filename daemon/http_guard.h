/* Keeps clients that are slow, silent or too many from taking a server away from the others. libmicrohttpd has one
 * timeout, between two bytes of a connection, and where its connections are used up it lets all others wait: who reads
 * or writes a byte now and then holds a place for ever. The guard knows what each connection is at and since when:
 *
 *     waiting    for a request's head: `request` milliseconds for the first, `idle` for those after it
 *     reading    its body: `request` milliseconds from the head's end
 *     working    on the answer: never cut
 *     sending    the answer: `answer` milliseconds
 *
 * Beyond its time a connection is closed (408 first, where no answer has begun and one is waited for). Where all
 * places are taken, the one that has been at the same thing for longest makes room for the new one, so that who has
 * just come is not the one to go; where all are worked for, the new one is answered 503 with Retry-After. */
#ifndef DAEMON_HTTP_GUARD_H
#define DAEMON_HTTP_GUARD_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "core/error.h"

struct http_guard_limits { unsigned connections; int64_t request, answer, idle; };     /* milliseconds */

struct http_guard;
struct http_guard *http_guard_create(const struct http_guard_limits *limits, struct cs_error *err);
/* After the server's end. */
void http_guard_destroy(struct http_guard *guard);
/* For libmicrohttpd: more places than the guard gives, so that it is the guard who decides. */
unsigned http_guard_places(const struct http_guard *guard, unsigned threads);
/* MHD_OPTION_NOTIFY_CONNECTION's, with the guard as its argument. */
void http_guard_connection(void *guard, struct MHD_Connection *connection, void **context,
                           enum MHD_ConnectionNotificationCode code);

enum http_guard_state { GUARD_WAITING, GUARD_READING, GUARD_WORKING, GUARD_SENDING };
/* False: the connection has been given up, and nothing may be sent on it. */
bool http_guard_enter(struct http_guard *guard, struct MHD_Connection *connection, enum http_guard_state state);

struct http_guard_counts {
    unsigned open, waiting;             /* connections now */
    uint64_t late, displaced, refused;  /* since the start: out of time, made room for another, answered 503 */
};
struct http_guard_counts http_guard_counts(struct http_guard *guard);
/* A request of which two readers may see different ends: more than one length, or a length and chunks. A proxy and we
 * must not disagree on where the next one begins: it is answered 400, and its connection closed. */
bool http_guard_is_ambiguous(struct MHD_Connection *connection);
/* Closes those that wait for a request. */
void http_guard_close_waiting(struct http_guard *guard);

#endif
