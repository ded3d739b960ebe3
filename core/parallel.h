/* How the core uses several processors without knowing of threads: the owner (daemon/worker_pool) hands in a way to run
 * the same task in `width` parts at once. The core splits only what needs no reduction across parts (rows, columns,
 * elements), so that the bytes of a result do not depend on the width. */
#ifndef CORE_PARALLEL_H
#define CORE_PARALLEL_H

#include <stddef.h>

typedef void parallel_task(void *argument, size_t part, size_t parts);

struct parallel {
    size_t width;       /* parts that run at once, >= 1 */
    /* Calls task(argument, part, parts) for part = 0 .. parts-1 (parts == width), the caller's thread doing one of
     * them; returns when all are done. */
    void (*run)(struct parallel *self, parallel_task *task, void *argument);
};

extern struct parallel parallel_serial;     /* width 1: calls the task */

/* The share [*begin, *end) of `count` items that falls to `part`, in multiples of `grain` items. */
void parallel_share(size_t count, size_t grain, size_t part, size_t parts, size_t *begin, size_t *end);

#endif
