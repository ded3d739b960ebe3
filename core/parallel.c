/* Shares of work, and the way to run it on one processor. */
#include "core/parallel.h"

static void run_serial(struct parallel *self, parallel_task *task, void *argument)
{
    (void)self;
    task(argument, 0, 1);
}

struct parallel parallel_serial = { .width = 1, .run = run_serial };

void parallel_share(size_t count, size_t grain, size_t part, size_t parts, size_t *begin, size_t *end)
{
    size_t grains = (count + grain - 1) / grain;
    size_t first = grains * part / parts * grain, last = grains * (part + 1) / parts * grain;
    *begin = first < count ? first : count;
    *end = last < count ? last : count;
}
