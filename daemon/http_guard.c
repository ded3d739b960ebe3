/* The registry of a server's connections, and a thread that ends those beyond their time. A connection is ended by
 * shutdown() of its socket: libmicrohttpd then finds it hung up. It takes it out of the registry before it closes the
 * socket, so under the lock a socket's number is always this connection's own. */
#include "daemon/http_guard.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "core/need.h"
#include "daemon/clock.h"

enum { RESERVE = 32 };

static const char too_late[] = "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
                               "Content-Length: 49\r\n\r\n{\"error\":\"the request took too long to be sent\"}\n";
static const char too_many[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                               "Connection: close\r\nRetry-After: 1\r\nContent-Length: 35\r\n\r\n"
                               "{\"error\":\"all connections in use\"}\n";

struct place {
    struct place *before, *after;
    int socket;
    enum http_guard_state state;
    int64_t since;              /* in this state */
    bool first;                 /* no request has come yet */
    bool given_up;
};

struct http_guard {
    struct http_guard_limits limits;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_t thread;
    bool stop;
    struct place head;          /* a ring */
    unsigned open;
    struct http_guard_counts counts;
};

static struct place *place_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    if (!info || !info->socket_context) abort();    /* come() gave every connection its place */
    return info->socket_context;
}

/* say: what is answered, where nothing of an answer is under way. */
static void give_up(struct http_guard *guard, struct place *place, const char *say)
{
    place->given_up = true;
    guard->open--;              /* it is gone: libmicrohttpd only has to find it out */
    if (say) (void)!send(place->socket, say, strlen(say), MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(place->socket, SHUT_RDWR);
}

static int64_t deadline(const struct http_guard *guard, const struct place *place)
{
    switch (place->state) {
    case GUARD_WAITING: return place->since + (place->first ? guard->limits.request : guard->limits.idle);
    case GUARD_READING: return place->since + guard->limits.request;
    case GUARD_SENDING: return place->since + guard->limits.answer;
    case GUARD_WORKING: break;
    }
    return INT64_MAX;
}

static int64_t least_limit(const struct http_guard *guard)
{
    int64_t least = guard->limits.request;
    if (guard->limits.answer < least) least = guard->limits.answer;
    return guard->limits.idle < least ? guard->limits.idle : least;
}

static void end_late(struct http_guard *guard)
{
    int64_t now = clock_monotonic();
    for (struct place *place = guard->head.after; place != &guard->head; place = place->after) {
        if (place->given_up || deadline(guard, place) > now) continue;
        bool asks = place->state == GUARD_READING || (place->state == GUARD_WAITING && place->first);
        give_up(guard, place, asks ? too_late : NULL);
        guard->counts.late++;
    }
}

static void *watch(void *argument)
{
    struct http_guard *guard = argument;
    int64_t pause = least_limit(guard) / 8;
    if (pause > 1000) pause = 1000;
    if (pause < 5) pause = 5;
    pthread_mutex_lock(&guard->mutex);
    while (!guard->stop) {
        const struct timespec until = clock_in(pause);
        pthread_cond_clockwait(&guard->wake, &guard->mutex, CLOCK_MONOTONIC, &until);
        end_late(guard);
    }
    pthread_mutex_unlock(&guard->mutex);
    return NULL;
}

struct http_guard *http_guard_create(const struct http_guard_limits *limits, struct cs_error *err)
{
    struct http_guard *guard = need(calloc(1, sizeof *guard));
    guard->limits = *limits;
    guard->head.before = guard->head.after = &guard->head;
    pthread_mutex_init(&guard->mutex, NULL);
    pthread_cond_init(&guard->wake, NULL);
    if (pthread_create(&guard->thread, NULL, watch, guard) == 0) return guard;
    pthread_cond_destroy(&guard->wake);
    pthread_mutex_destroy(&guard->mutex);
    free(guard);
    cs_fail(err, CS_FAILED, "http: no thread to watch over connections with");
    return NULL;
}

void http_guard_destroy(struct http_guard *guard)
{
    if (!guard) return;
    pthread_mutex_lock(&guard->mutex);
    guard->stop = true;
    pthread_cond_signal(&guard->wake);
    pthread_mutex_unlock(&guard->mutex);
    pthread_join(guard->thread, NULL);
    pthread_cond_destroy(&guard->wake);
    pthread_mutex_destroy(&guard->mutex);
    free(guard);
}

unsigned http_guard_places(const struct http_guard *guard, unsigned threads)
{
    return guard->limits.connections + RESERVE * (threads ? threads : 1);
}

/* The one to go, when a place is needed; NULL: all are worked for. */
static struct place *longest(struct http_guard *guard, const struct place *newcomer)
{
    struct place *found = NULL;
    for (struct place *place = guard->head.after; place != &guard->head; place = place->after) {
        if (place == newcomer || place->given_up || place->state == GUARD_WORKING) continue;
        if (!found || place->since < found->since) found = place;
    }
    return found;
}

static void come(struct http_guard *guard, struct MHD_Connection *connection, void **context)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct place *place = need(calloc(1, sizeof *place));
    if (!info) abort();
    place->socket = info->connect_fd;
    place->since = clock_monotonic();
    place->first = true;
    *context = place;
    pthread_mutex_lock(&guard->mutex);
    place->before = guard->head.before;
    place->after = &guard->head;
    place->before->after = place->after->before = place;
    if (++guard->open > guard->limits.connections) {
        struct place *victim = longest(guard, place);
        give_up(guard, victim ? victim : place, victim ? NULL : too_many);
        if (victim) guard->counts.displaced++;
        else guard->counts.refused++;
    }
    pthread_mutex_unlock(&guard->mutex);
}

void http_guard_connection(void *self, struct MHD_Connection *connection, void **context,
                           enum MHD_ConnectionNotificationCode code)
{
    struct http_guard *guard = self;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        come(guard, connection, context);
        return;
    }
    struct place *place = *context;
    pthread_mutex_lock(&guard->mutex);
    place->before->after = place->after;
    place->after->before = place->before;
    if (!place->given_up) guard->open--;
    pthread_mutex_unlock(&guard->mutex);
    free(place);
    *context = NULL;
}

bool http_guard_enter(struct http_guard *guard, struct MHD_Connection *connection, enum http_guard_state state)
{
    struct place *place = place_of(connection);
    pthread_mutex_lock(&guard->mutex);
    bool usable = !place->given_up;
    place->state = state;
    place->since = clock_monotonic();
    place->first = false;
    pthread_mutex_unlock(&guard->mutex);
    return usable;
}

struct http_guard_counts http_guard_counts(struct http_guard *guard)
{
    pthread_mutex_lock(&guard->mutex);
    struct http_guard_counts counts = guard->counts;
    counts.open = guard->open;
    for (struct place *place = guard->head.after; place != &guard->head; place = place->after)
        counts.waiting += !place->given_up && place->state == GUARD_WAITING;
    pthread_mutex_unlock(&guard->mutex);
    return counts;
}

void http_guard_close_waiting(struct http_guard *guard)
{
    pthread_mutex_lock(&guard->mutex);
    for (struct place *place = guard->head.after; place != &guard->head; place = place->after)
        if (!place->given_up && place->state == GUARD_WAITING) give_up(guard, place, NULL);
    pthread_mutex_unlock(&guard->mutex);
}

static enum MHD_Result count_framing(void *self, enum MHD_ValueKind kind, const char *name, const char *value)
{
    (void)kind, (void)value;
    *(int *)self += strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0 ||
                    strcasecmp(name, MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0;
    return MHD_YES;
}

bool http_guard_is_ambiguous(struct MHD_Connection *connection)
{
    int count = 0;
    MHD_get_connection_values(connection, MHD_HEADER_KIND, count_framing, &count);
    return count > 1;
}
