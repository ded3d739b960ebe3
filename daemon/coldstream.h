/* libcoldstream: scores with the current checkpoint of a directory, and moves to the next one without a pause.
 *
 *     struct coldstream *cs = coldstream_open("/var/lib/coldstream/checkpoints", NULL, error, sizeof error);
 *     coldstream_score_json(cs, request, length, &response, error, sizeof error);
 *     coldstream_close(cs);
 *
 * Thread-safe: any number of threads may score at once. Scoring takes no lock; a new version is opened, checked and
 * warmed in the library's own threads, then becomes current by one pointer; the old one goes when its last reader
 * leaves. The threads that score are the parallelism: a call is computed by its caller alone. */
#ifndef COLDSTREAM_H
#define COLDSTREAM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define COLDSTREAM_API __attribute__((visibility("default")))

struct coldstream;

/* What became of a delta, or of a record of one. */
enum coldstream_delta_result {
    COLDSTREAM_DELTA_APPLIED,       /* its version is served */
    COLDSTREAM_DELTA_DUPLICATE,     /* what is served has it already: no harm */
    COLDSTREAM_DELTA_UNFINISHED,    /* another began before its end: as if never sent */
    COLDSTREAM_DELTA_GAP,           /* deltas before it are missing: it waits for a full checkpoint */
    COLDSTREAM_DELTA_EPOCH,         /* of another run of the daemon: it waits for that run's first full checkpoint */
    COLDSTREAM_DELTA_DAMAGED,       /* a record is damaged, missing or out of order: its delta is given up */
    COLDSTREAM_DELTA_REFUSED,       /* of another model: unknown table, another shape, a tensor missing */
    COLDSTREAM_DELTA_OVERFLOW,      /* more than delta_bytes: what is served stays until the next full checkpoint */
    COLDSTREAM_DELTA_HELD,          /* `current` is not the newest checkpoint (rolled back): deltas wait until it is */
    COLDSTREAM_DELTA_RESULTS
};

struct coldstream_delta_report {
    uint32_t size;                  /* of this structure, as the library has it */
    enum coldstream_delta_result result;
    uint64_t epoch, sequence, version;      /* 0: not known */
    const char *detail;             /* what is wrong; "" where nothing is. For the call's time, as is learned */
    const int64_t *learned;         /* APPLIED: event times, ms since the epoch, of what was learned since the delta */
    size_t learned_count;           /* before, or of some of it */
};

struct coldstream_options {
    uint32_t size;              /* sizeof(struct coldstream_options): lets fields be added */
    uint32_t poll_milliseconds; /* how often `current` is looked at; 0: 1000 */
    uint32_t follow;            /* 0: stay with the version opened */
    uint32_t verify;            /* check the file's sha256 on opening */
    /* A full checkpoint, by its own number. error NULL: swapped; else this version was refused. Called by the library's
     * own thread. */
    void (*on_swap)(void *argument, uint64_t version, const char *error);
    void *argument;
    /* A delta, or records of one; NULL: not told. Called by the library's own thread, or within coldstream_delta. */
    void (*on_delta)(void *argument, const struct coldstream_delta_report *report);
    uint64_t delta_bytes;       /* of rows beyond the checkpoint's, and as many of deltas that wait; 0: 1 GiB */
};

/* directory: of versions, or of one version. NULL on failure, with a text in error. options NULL: follow, verify. */
COLDSTREAM_API struct coldstream *coldstream_open(const char *directory, const struct coldstream_options *options,
                                                  char *error, size_t error_size);
COLDSTREAM_API void coldstream_close(struct coldstream *cs);
/* A handle that stays with one version while cs moves on: what cs scores with now (0), or another that the directory
 * still holds, opened here and now. Pruning or damage of the file's name does not reach it. To be released by
 * coldstream_close, before or after cs is. NULL on failure, with a text in error. */
COLDSTREAM_API struct coldstream *coldstream_pin(struct coldstream *cs, uint64_t version, char *error,
                                                 size_t error_size);
/* Of what is served: a full checkpoint's, or the newest delta's over one. Rises from swap to swap, also where a full
 * checkpoint follows deltas; falls only where somebody went back (docs/serving.md). */
COLDSTREAM_API uint64_t coldstream_version(struct coldstream *cs);
COLDSTREAM_API uint64_t coldstream_created(struct coldstream *cs);              /* ms since the epoch */
/* What is served: the checkpoint's manifest; where deltas lie over it, with their version, created, steps,
 * event_time_watermark, delta (topic, epoch, sequence) and "checkpoint", the full version that all else is of.
 * malloc'd, the caller frees. */
COLDSTREAM_API char *coldstream_info(struct coldstream *cs);

/* Takes one record of the delta topic (docs/formats.md), as it came from the broker and in the topic's order. Once the
 * last one of a delta is there, the library's own thread puts the delta onto what is served, prepares the version that
 * it makes, and swaps to it; a version is applied whole or not at all. A reader begins anywhere in the topic; what is
 * older than the checkpoint it serves is passed over. Waits for the library's thread only where that is behind by
 * delta_bytes.
 * Any thread, one at a time (others wait); not one that scores: it may take milliseconds.
 * 0; -1 where the record is refused, or this handle follows no directory: what is served stays. */
COLDSTREAM_API int coldstream_delta(struct coldstream *cs, const void *record, size_t size, char *error,
                                    size_t error_size);
struct coldstream_delta_info {
    uint32_t size;                  /* sizeof(struct coldstream_delta_info) */
    uint32_t waiting;               /* deltas that wait for a full checkpoint */
    uint64_t checkpoint;            /* the version that the rows of deltas lie over */
    uint64_t epoch, sequence;       /* that is served; 0, 0: the checkpoint is in no chain of deltas */
    uint64_t rows, bytes;           /* beyond the checkpoint's */
    uint64_t count[COLDSTREAM_DELTA_RESULTS];
};
COLDSTREAM_API void coldstream_delta_state(struct coldstream *cs, struct coldstream_delta_info *info);
COLDSTREAM_API const char *coldstream_delta_result_name(enum coldstream_delta_result result);   /* "applied", ... */

/* request: {"requests":[...]} as POST /v1/score takes it. Returns 0 and a malloc'd {"version","scores","new"} text,
 * which the caller frees; -1 where the request is wrong, error saying what and where; -2 where scoring failed.
 * scores[i] is a number for an impression, a list for a request with candidates. All of one call is scored by one
 * version. */
COLDSTREAM_API int coldstream_score_json(struct coldstream *cs, const char *request, size_t length, char **response,
                                         char *error, size_t error_size);

/* Without JSON, and without a lock, a system call or (once a thread's memory has grown to its largest request) an
 * allocation. A feature is named as in the configuration, one that the version does not read is passed over; one given
 * twice has two values. text NULL: the value is the number, as JSON would write it. A dense or bucketized feature's
 * text is a decimal number. */
struct coldstream_value { const char *feature, *text; double number; };

/* One user, many candidates: what depends on user and context alone is computed once. */
struct coldstream_candidate { const char *item_id; const struct coldstream_value *item; size_t item_count; };
struct coldstream_request {
    uint32_t size;              /* sizeof(struct coldstream_request) */
    const char *user_id;
    const struct coldstream_value *user; size_t user_count;
    const char *const *behavior; size_t behavior_count;         /* oldest first; none: a new user */
    const struct coldstream_value *context; size_t context_count;
    const struct coldstream_candidate *candidate; size_t candidate_count;
};
/* score [candidate_count]; version, is_new may be NULL. 0; -1 where the request is wrong, -2 where scoring failed. */
COLDSTREAM_API int coldstream_score(struct coldstream *cs, const struct coldstream_request *request, float *score,
                                    uint64_t *version, int *is_new, char *error, size_t error_size);

/* Many impressions, each with a user of its own, by one version. */
struct coldstream_impression {
    const char *user_id;
    const struct coldstream_value *user; size_t user_count;
    const char *const *behavior; size_t behavior_count;
    const struct coldstream_value *context; size_t context_count;
    const char *item_id;
    const struct coldstream_value *item; size_t item_count;
};
/* impression_size: sizeof(struct coldstream_impression). score, is_new [count]; is_new, version may be NULL. Returns as
 * coldstream_score. */
COLDSTREAM_API int coldstream_score_impressions(struct coldstream *cs, const struct coldstream_impression *impression,
                                                size_t count, size_t impression_size, float *score, uint64_t *version,
                                                unsigned char *is_new, char *error, size_t error_size);

#ifdef __cplusplus
}
#endif
#endif
