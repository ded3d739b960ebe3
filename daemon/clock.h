/* The clocks, in one place: monotonic for spans, wall for what people and event times are compared with. */
#ifndef DAEMON_CLOCK_H
#define DAEMON_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t clock_milliseconds(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
static inline int64_t clock_monotonic(void) { return clock_milliseconds(CLOCK_MONOTONIC); }     /* ms */
static inline int64_t clock_wall(void) { return clock_milliseconds(CLOCK_REALTIME); }           /* ms since the epoch */
static inline double clock_seconds(void)                                                        /* monotonic */
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
/* So many milliseconds from now on the monotonic clock: for pthread_cond_clockwait(..., CLOCK_MONOTONIC, ...). */
static inline struct timespec clock_in(int64_t milliseconds)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_nsec += (long)(milliseconds % 1000) * 1000000;
    time.tv_sec += (time_t)(milliseconds / 1000) + time.tv_nsec / 1000000000;
    time.tv_nsec %= 1000000000;
    return time;
}

#endif
