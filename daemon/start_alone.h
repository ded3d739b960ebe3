/* The first thing that a daemon does: to be one thread, with the signals that it waits for blocked. */
#ifndef DAEMON_START_ALONE_H
#define DAEMON_START_ALONE_H

#include <signal.h>

/* Blocks the set in this thread and in all that come. OpenBLAS starts threads before main: they would block nothing, so
 * that the kernel gave them any signal that comes while main is not waiting for one, which ends the process; and where
 * memory is short they never end, so that exit, which waits for them, hangs. So the program runs itself again, once,
 * with OPENBLAS_NUM_THREADS=1, which keeps them from coming to be (our own threads do their work:
 * daemon/worker_pool.h). The blocked set outlives that, and so does a signal that came meanwhile. Where the variable is
 * 1 already, as in our units, nothing is run again. */
void start_alone(const sigset_t *set, char **argv);

#endif
