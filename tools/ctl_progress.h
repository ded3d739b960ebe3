/* How far long work is, for a person who waits: one line on stderr, written over: how much, rate, share and time left
 * where the whole is known. Silent where stderr is no terminal, or a dumb one, and with --quiet or --json. */
#ifndef TOOLS_CTL_PROGRESS_H
#define TOOLS_CTL_PROGRESS_H

#include "storage/watch.h"
#include "tools/ctl.h"

struct ctl_progress {       /* all zeros: nobody waits */
    bool shown, active;     /* active: a line stands there now */
    double started, last;
    uint64_t done, total;   /* total 0: not known */
    const char *unit;       /* "bytes" are written as kB, MB, GB */
    const char *what;       /* behind it; NULL: nothing */
    struct storage_watch watch;         /* adds to this */
};

void ctl_progress_start(struct ctl_progress *progress, const struct ctl_arguments *arguments, uint64_t total,
                        const char *unit);
/* The next stretch of the same work: counts and rate begin anew. */
void ctl_progress_phase(struct ctl_progress *progress, const char *what, uint64_t total, const char *unit);
/* Both are cheap: they look at the clock, and write five times a second. */
void ctl_progress_update(struct ctl_progress *progress, uint64_t done, const char *more);
void ctl_progress_add(struct ctl_progress *progress, uint64_t more);
/* Takes the line away. Also before anything else is written to stderr. */
void ctl_progress_end(struct ctl_progress *progress);
double ctl_seconds(void);       /* monotonic */

#endif
