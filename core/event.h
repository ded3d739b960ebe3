/* What a record says, decoded: an event, and the example that an impression becomes.
 *
 * An example is one allocation, so that the joiner can hold millions, and its bytes are what a snapshot stores:
 *
 *   struct example | uint64 behavior[behavior_count] | uint64 key[key_count]
 *                  | float dense[dense_count, padded to 8 bytes]
 *                  | uint8 keys_of[categorical features, padded to 8] | char id[id_length + 1, padded to 8]
 *
 * Behaviors are oldest first. Keys stand in the order of the categorical columns; keys_of says how many each column has
 * (0: absent; at most 255). An absent dense value is NaN. */
#ifndef CORE_EVENT_H
#define CORE_EVENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/features.h"

struct example {
    uint32_t size;              /* bytes of all this, a multiple of 8 */
    uint16_t id_length, behavior_count;
    uint32_t key_count;
    uint16_t dense_count, column_count;
    uint8_t clicked, converted;
    uint8_t has_behaviors;      /* the event said what the user has, even if nothing: no history is asked */
    uint8_t correction;         /* a late click: a positive, with the fake negative's weight taken back */
    uint8_t reserved[4];
    uint64_t shown;             /* number of the score of its showing (core/ingest.h), or one of these: */
    int64_t time;               /* of the impression, ms since the epoch */
    int64_t released;           /* event time at which it left the joiner: batches close by it */
    uint64_t user, item;        /* XXH3 of the ids */
};

/* Of example.shown: not judged by a score of its showing; shown and learned at once, so that both scores are one. */
static const uint64_t SHOWN_NOT = 0, SHOWN_NOW = UINT64_MAX;

enum event_kind { EVENT_IMPRESSION, EVENT_CLICK, EVENT_CONVERSION, EVENT_EXAMPLE };

struct event {
    enum event_kind kind;
    int64_t time;
    struct example *example;    /* impression, example: owned by the event until taken (then NULL) */
    char *id;                   /* click, conversion: the impression's id, owned by the event; otherwise NULL */
    size_t id_length;
};

void event_release(struct event *event);    /* frees what it still owns */

struct example *example_create(const struct features *features, size_t id_length, size_t behavior_count,
                               size_t key_count);
struct example *example_copy(const struct example *example);
/* A copy with other behaviors; the original is freed. */
struct example *example_with_behaviors(struct example *example, const uint64_t *behavior, size_t count);
/* Gives another example of the same impression, and frees this one. */
typedef struct example *example_replace(void *self, struct example *example);
/* True where the bytes are a whole example for these features: lengths add up, counts agree, no more behaviors than may
 * be. Used on load. */
bool example_check(const struct features *features, const void *bytes, size_t size);

uint64_t *example_behaviors(const struct example *example);
uint64_t *example_keys(const struct example *example);
float *example_dense(const struct example *example);
uint8_t *example_keys_of(const struct example *example);
char *example_id(const struct example *example);

#endif
