/* systemd's notify protocol, and nothing else. Nothing is done about a failure: systemd is not there, or has its own
 * timeouts. */
#include "daemon/notify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "daemon/clock.h"

enum { PATIENCE = 2 };          /* seconds */

/* One datagram. libsystemd's sd_notify() waits without limit where the socket's queue is full, which would let whoever
 * reads slowly stop the thread that learns; so what is said again and again is left out then, and what says where we
 * are in our life waits PATIENCE at most. */
static void send_state(bool must_arrive, const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    size_t length = path ? strlen(path) : 0;
    if (length < 2 || (*path != '/' && *path != '@') || length >= sizeof address.sun_path) return;
    memcpy(address.sun_path, path, length);
    if (*path == '@') address.sun_path[0] = 0;          /* an abstract name */
    int handle = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (handle < 0) return;
    struct timeval patience = { .tv_sec = PATIENCE };
    setsockopt(handle, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    sendto(handle, state, strlen(state), MSG_NOSIGNAL | (must_arrive ? 0 : MSG_DONTWAIT),
           (const struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
    close(handle);
}

/* A status is one line: what follows a line break would be read as another assignment. */
static void one_line(char *text)
{
    for (; *text; text++)
        if (*text == '\n' || *text == '\r') *text = ' ';
}

void notify_ready(const char *status)
{
    char text[512], state[600];
    snprintf(text, sizeof text, "%s", status ? status : "");
    one_line(text);
    snprintf(state, sizeof state, "READY=1\nSTATUS=%s", text);
    send_state(true, state);
}

void notify_status(const char *format, ...)
{
    char text[512], state[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    one_line(text);
    snprintf(state, sizeof state, "STATUS=%s", text);
    send_state(false, state);
}

void notify_reloading(void)
{
    struct timespec now;
    char state[80];
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t microseconds = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    snprintf(state, sizeof state, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, microseconds);
    send_state(true, state);
}

void notify_stopping(const char *status)
{
    char state[200];
    snprintf(state, sizeof state, "STOPPING=1\nSTATUS=%s", status);
    send_state(true, state);
}

/* Of WATCHDOG_USEC, where it is meant for us; 0: no watchdog. */
static int64_t watchdog_milliseconds(void)
{
    const char *interval = getenv("WATCHDOG_USEC"), *process = getenv("WATCHDOG_PID");
    if (!interval || (process && strtoll(process, NULL, 10) != getpid())) return 0;
    long long microseconds = strtoll(interval, NULL, 10);
    return microseconds > 0 ? microseconds / 1000 : 0;
}

void notify_alive(int64_t moved)
{
    static _Atomic int64_t told = INT64_MIN / 2;
    int64_t interval = watchdog_milliseconds(), now = clock_monotonic();
    if (!interval || now - moved > interval / 2 || now - atomic_load(&told) < interval / 4) return;
    atomic_store(&told, now);
    send_state(false, "WATCHDOG=1");
}

void notify_extend(int64_t milliseconds)
{
    char state[80];
    snprintf(state, sizeof state, "EXTEND_TIMEOUT_USEC=%" PRId64, milliseconds * 1000);
    send_state(false, state);
}

int notify_socket(struct cs_error *err)
{
    int count = sd_listen_fds(1);
    if (count == 0) return 0;
    if (count < 0) {
        cs_fail_errno(err, -count, "the sockets that systemd hands over");
        return -1;
    }
    if (count > 1) {
        cs_fail(err, CS_USAGE, "systemd hands over %d sockets, and there is use for one: leave one ListenStream",
                count);
        return -1;
    }
    if (sd_is_socket(SD_LISTEN_FDS_START, AF_UNSPEC, SOCK_STREAM, 1) > 0) return SD_LISTEN_FDS_START;
    cs_fail(err, CS_USAGE, "the socket that systemd hands over does not listen: it needs ListenStream and Accept=no");
    return -1;
}
