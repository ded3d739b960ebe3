/* LD_PRELOAD: the wall clock, as the daemon reads it, moved by as many seconds as stand in $CLOCK_JUMP_FILE; the
 * monotonic clock is left alone, as the kernel does when an operator sets the time. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long seconds(void)
{
    const char *path = getenv("CLOCK_JUMP_FILE");
    char text[32] = "";
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    return got > 0 ? strtol(text, NULL, 10) : 0;
}

int clock_gettime(clockid_t id, struct timespec *time)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(id, time);
    if (id == CLOCK_REALTIME) time->tv_sec += seconds();
    return status;
}
