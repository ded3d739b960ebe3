/* What the status page draws: the daemon's numbers over time, in memory of a fixed size (some 400 KiB), and what
 * happened lately. Nothing of it survives a restart. Any thread may ask while another adds.
 *
 * Four spans are kept, each in at most 720 points; a point stands for one step of time, and is told by its beginning:
 *
 *     span   1h    6h    24h    7d
 *     step   5 s   30 s  2 min  14 min
 *
 * A wider step folds what came in it: the mean of most numbers, the largest of what hurts by its peaks (lag,
 * freshness). Steps in which nothing was known have no point, or null. */
#ifndef DAEMON_TREND_H
#define DAEMON_TREND_H

#include <stdbool.h>
#include <stdint.h>

enum trend_field {
    TREND_EVENTS, TREND_REJECTED,                                   /* a second */
    TREND_EXAMPLES, TREND_NEW_EXAMPLES,
    TREND_MATCHED, TREND_EXPIRED, TREND_LATE, TREND_DUPLICATE, TREND_ORPHAN,
    TREND_DELTAS,
    TREND_CONSUMER_LAG, TREND_PENDING,                              /* records, entries */
    TREND_EVENT_LAG, TREND_FRESHNESS,                               /* seconds */
    TREND_AUC_ALL, TREND_AUC_NEW, TREND_AUC_OLD,                    /* progressive, over the window */
    TREND_LOG_LOSS_ALL, TREND_LOG_LOSS_NEW, TREND_LOG_LOSS_OLD,
    TREND_LOSS_RANKING, TREND_LOSS_RECONSTRUCT_USER, TREND_LOSS_RECONSTRUCT_BEHAVIOR, TREND_LOSS_MMD,
    TREND_READY,                                                    /* 1 or 0; folded: the share of time */
    TREND_FIELDS
};

struct trend_sample { double value[TREND_FIELDS]; };    /* NAN: not known */

enum trend_kind { TREND_SNAPSHOTS, TREND_VERSIONS, TREND_OUTAGES, TREND_KINDS };
enum { TREND_HAPPENINGS = 40 };                         /* the newest of each kind are kept */
struct trend_happening {
    int64_t time, until;        /* wall clock, ms; until: of outages, 0 while it lasts */
    bool ok;
    uint64_t number;            /* the snapshot's cut, the version; 0: none */
    double seconds, stall, freshness;
    uint64_t bytes, changed;
    char text[400];             /* why not, where not ok */
};

struct trend;
struct trend *trend_create(void);               /* NULL when out of memory */
void trend_destroy(struct trend *trend);
/* now: wall clock, ms. A clock that is set back only loses what would come before the newest point. */
void trend_add(struct trend *trend, int64_t now, const struct trend_sample *sample);
void trend_happened(struct trend *trend, enum trend_kind kind, const struct trend_happening *happening);
/* The newest of its kind has ended. */
void trend_ended(struct trend *trend, enum trend_kind kind, int64_t now);

/* The page /history: a JSON text, malloc'd, of points from `from` (ms) on; span NULL: "1h". NULL where there is no such
 * span. The newest point may still change: who asks again gives its time as `from`. docs/status_page.md has the fields.
 */
char *trend_json(struct trend *trend, const char *span, int64_t from, int64_t now);
extern const char trend_spans[];                /* "1h, 6h, 24h, 7d", for messages */

#endif
