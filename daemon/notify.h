/* What systemd is told; does nothing where no NOTIFY_SOCKET is set. Never waits for long, the sign of life and the
 * status not at all. */
#ifndef DAEMON_NOTIFY_H
#define DAEMON_NOTIFY_H

#include <stdint.h>

#include "core/error.h"

void notify_ready(const char *status);
void notify_status(const char *format, ...) __attribute__((format(printf, 1, 2)));
void notify_reloading(void);
void notify_stopping(const char *status);
/* WATCHDOG=1, from a thread whose progress matters; at most every quarter of the interval, and not where another such
 * thread, which last moved at `moved` (clock_monotonic), has stood still for half of it. */
void notify_alive(int64_t moved);
void notify_extend(int64_t milliseconds);       /* EXTEND_TIMEOUT_USEC */

/* Socket activation: the one socket that systemd hands over, > 0; 0: none. -1 where it is not one that listens, or
 * there are several. */
int notify_socket(struct cs_error *err);

#endif
