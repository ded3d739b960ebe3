/* Threads that run the core's parallel tasks. Width 1 starts none. OpenBLAS itself is kept to one thread: splitting a
 * GEMM by rows over these threads was measured as fast or faster (184 against 178, 200 against 108, 196 against 185
 * GFLOPS on two cores) and leaves no second pool spinning. */
#ifndef DAEMON_WORKER_POOL_H
#define DAEMON_WORKER_POOL_H

#include "core/error.h"
#include "core/parallel.h"

struct worker_pool;
struct worker_pool *worker_pool_create(size_t threads, struct cs_error *err); /* 0: one a processor that we may use */
void worker_pool_destroy(struct worker_pool *pool);
struct parallel *worker_pool_parallel(struct worker_pool *pool);                   /* used by one thread at a time */

#endif
