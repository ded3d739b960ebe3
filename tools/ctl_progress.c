/* One line on a terminal, written over. */
#include "tools/ctl_progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static const double between = 0.2;      /* seconds: more often nobody reads */

double ctl_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void add_bytes(void *self, uint64_t bytes)
{
    ctl_progress_add(self, bytes);
}

static bool is_json(const struct ctl_arguments *arguments)
{
    size_t i = program_option_index(arguments->verb->option, "json", 4);
    return i != SIZE_MAX && arguments->value[i];
}

void ctl_progress_start(struct ctl_progress *progress, const struct ctl_arguments *arguments, uint64_t total,
                        const char *unit)
{
    *progress = (struct ctl_progress){ .shown = !arguments->quiet && !is_json(arguments) && program_rewrites(stderr) };
    progress->watch = (struct storage_watch){ progress->shown ? add_bytes : NULL, progress };
    ctl_progress_phase(progress, NULL, total, unit);
}

void ctl_progress_phase(struct ctl_progress *progress, const char *what, uint64_t total, const char *unit)
{
    progress->started = ctl_seconds();
    progress->last = 0;
    progress->done = 0;
    progress->total = total;
    progress->unit = unit;
    progress->what = what;
}

static size_t write_amount(char *text, size_t size, double amount, const char *unit, const char *behind)
{
    static const char *const scale[] = { "bytes", "kB", "MB", "GB", "TB" };
    size_t step = 0;

    if (strcmp(unit, "bytes") != 0) return (size_t)snprintf(text, size, "%.0f%s%s", amount, *behind ? "" : " ",
                                                            *behind ? behind : unit);
    for (; amount >= 999.5 && step + 1 < sizeof scale / sizeof *scale; step++) amount /= 1000;
    return (size_t)snprintf(text, size, "%.*f %s%s", step && amount < 99.95 ? 1 : 0, amount, scale[step], behind);
}

/* "1200 rows, 400/s, 40 %, 5 s left  what": a rate once there is enough to tell one. */
static void write_line(const struct ctl_progress *progress, double seconds, const char *what, char *line, size_t size)
{
    double done = (double)progress->done, left = (double)progress->total - done;
    size_t used = write_amount(line, size, done, progress->unit, "");

    if (seconds >= between) {
        used += (size_t)snprintf(line + used, size - used, ", ");
        used += write_amount(line + used, size - used, done / seconds, progress->unit, "/s");
    }
    if (progress->total && done > 0) {
        double share = left > 0 ? done / (double)progress->total : 1;
        used += (size_t)snprintf(line + used, size - used, ", %.0f %%", 100 * share);
        if (seconds >= between && share >= 0.01) {      /* sooner it would be a guess */
            double wait = left > 0 ? seconds / done * left : 0;
            used += (size_t)snprintf(line + used, size - used, wait < 600 ? ", %.0f s left" : ", %.0f min left",
                                     wait < 600 ? wait : wait / 60);
        }
    }
    if (what && *what) snprintf(line + used, size - used, "  %.60s", what);
}

static void show(struct ctl_progress *progress, const char *what)
{
    struct winsize window;
    char line[256];
    double now;

    if (!progress->shown || (now = ctl_seconds()) - progress->last < between) return;
    progress->last = now;
    progress->active = true;
    size_t width = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col ? window.ws_col : 80;
    write_line(progress, now - progress->started, what, line, sizeof line);
    fprintf(stderr, "\r\033[K%.*s", (int)(width - 1), line);      /* a full line would be two */
    fflush(stderr);
}

void ctl_progress_update(struct ctl_progress *progress, uint64_t done, const char *more)
{
    progress->done = done;
    show(progress, more);
}

void ctl_progress_add(struct ctl_progress *progress, uint64_t more)
{
    progress->done += more;
    show(progress, progress->what);
}

void ctl_progress_end(struct ctl_progress *progress)
{
    if (progress->active) fprintf(stderr, "\r\033[K");
    progress->active = false;
}
