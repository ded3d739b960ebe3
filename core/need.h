/* Memory without which there is no way on: where there is none the process ends, and systemd starts it again from the
 * last snapshot. */
#ifndef CORE_NEED_H
#define CORE_NEED_H

#include <stdlib.h>

static inline void *need(void *memory)
{
    if (!memory) abort();
    return memory;
}

#endif
