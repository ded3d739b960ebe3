/* One thread, its signals blocked: see the header. */
#include "daemon/start_alone.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char variable[] = "OPENBLAS_NUM_THREADS";

void start_alone(const sigset_t *set, char **argv)
{
    pthread_sigmask(SIG_BLOCK, set, NULL);
    const char *threads = getenv(variable);
    if (threads && strcmp(threads, "1") == 0) return;
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length > 0 && setenv(variable, "1", 1) == 0) {
        program[length] = 0;
        execv(program, argv);
    }
    fprintf(stderr, "%s: can't run itself with %s=1 (%s): set that variable, or a signal at a bad moment may end it\n",
            argv[0], variable, strerror(errno));
}
