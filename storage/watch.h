/* Who waits for long work is told how far it is: called by the thread that works, each megabyte or so. */
#ifndef STORAGE_WATCH_H
#define STORAGE_WATCH_H

#include <stdint.h>

struct storage_watch {
    void (*done)(void *self, uint64_t bytes);   /* so many more are done; NULL: nobody waits */
    void *self;
};

static inline void watch_tell(const struct storage_watch *watch, uint64_t bytes)
{
    if (watch && watch->done) watch->done(watch->self, bytes);
}

#endif
