/* What systemd is told (sd_notify); does nothing where no NOTIFY_SOCKET is set. */
#ifndef DAEMON_NOTIFY_H
#define DAEMON_NOTIFY_H

#include <stdint.h>

#include "core/error.h"

void notify_ready(const char *status);
void notify_status(const char *format, ...) __attribute__((format(printf, 1, 2)));
void notify_reloading(void);
void notify_stopping(void);
void notify_alive(void); /* WATCHDOG=1, from the thread whose progress matters, at most every interval / 4 */
void notify_extend(int64_t milliseconds);       /* EXTEND_TIMEOUT_USEC */

/* Socket activation: the one socket that systemd hands over, > 0; 0: none. -1 where it is not one that listens, or
 * there are several. */
int notify_socket(struct cs_error *err);

#endif
