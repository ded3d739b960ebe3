/* sd_notify, and nothing else. Nothing is done about a failure: systemd is not there, or has its own timeouts. */
#include "daemon/notify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <time.h>

/* A status is one line: what follows a line break would be read as another assignment. */
static void one_line(char *text)
{
    for (; *text; text++)
        if (*text == '\n' || *text == '\r') *text = ' ';
}

void notify_ready(const char *status)
{
    char text[512];
    snprintf(text, sizeof text, "%s", status ? status : "");
    one_line(text);
    sd_notifyf(0, "READY=1\nSTATUS=%s", text);
}

void notify_status(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    one_line(text);
    sd_notifyf(0, "STATUS=%s", text);
}

void notify_reloading(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t microseconds = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, microseconds);
}

void notify_stopping(void)
{
    sd_notify(0, "STOPPING=1");
}

void notify_alive(void)
{
    sd_notify(0, "WATCHDOG=1");
}

void notify_extend(int64_t milliseconds)
{
    sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%" PRId64, milliseconds * 1000);
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
