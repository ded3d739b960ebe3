/* Memory without which there is no way on: where there is none the process ends, and systemd starts it again from the
 * last snapshot. */
#ifndef CORE_NEED_H
#define CORE_NEED_H

#include <stdio.h>
#include <stdlib.h>

static inline void *need(void *memory)
{
    if (memory) return memory;
    fputs("out of memory\n", stderr);
    abort();
}

#endif
