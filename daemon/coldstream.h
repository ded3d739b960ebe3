/* libcoldstream: scores with the current checkpoint of a directory, and moves to the next one without a pause.
 *
 *     struct coldstream *cs = coldstream_open("/var/lib/coldstream/checkpoints", NULL, error, sizeof error);
 *     coldstream_score_json(cs, request, length, &response, error, sizeof error);
 *     coldstream_close(cs);
 *
 * Thread-safe: any number of threads may score at once. Scoring takes no lock; a new version is opened, checked and
 * warmed in the library's own thread, then becomes current by one pointer; the old one goes when its last reader
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

struct coldstream_options {
    uint32_t size;              /* sizeof(struct coldstream_options): lets fields be added */
    uint32_t poll_milliseconds; /* how often `current` is looked at; 0: 1000 */
    uint32_t follow;            /* 0: stay with the version opened */
    uint32_t verify;            /* check the file's sha256 on opening */
    /* error NULL: swapped; else this version was refused. Called by the library's own thread. */
    void (*on_swap)(void *argument, uint64_t version, const char *error);
    void *argument;
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
COLDSTREAM_API uint64_t coldstream_version(struct coldstream *cs);
COLDSTREAM_API uint64_t coldstream_created(struct coldstream *cs);              /* ms since the epoch */
/* The manifest's text; malloc'd, the caller frees. */
COLDSTREAM_API char *coldstream_info(struct coldstream *cs);

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
