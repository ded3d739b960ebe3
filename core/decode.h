/* Bytes -> event, or the reason and the byte where it went wrong (interfaces.md, section 2). JSON by yajl's callbacks
 * (measured: 1.9 us for an event of 729 bytes, where building jansson's tree takes 11.6), protobuf by protobuf-c.
 * A decoder is not thread-safe: one a thread. */
#ifndef CORE_DECODE_H
#define CORE_DECODE_H

#include "core/error.h"
#include "core/event.h"

enum decode_format { DECODE_JSON, DECODE_PROTOBUF };

/* Where the fields are, as dotted paths: events.fields maps others. Element i is the name for field i. */
enum decode_field { FIELD_EVENT, FIELD_IMPRESSION_ID, FIELD_TIME, FIELD_USER_ID, FIELD_USER, FIELD_BEHAVIORS,
                    FIELD_CONTEXT, FIELD_ITEM_ID, FIELD_ITEM, FIELD_CLICKED, FIELD_CONVERTED, FIELDS };
extern const char *const decode_field_name[FIELDS];     /* the defaults: "event", "impression_id", "ts", ... */

struct decode_options {
    enum decode_format format;
    const char *field[FIELDS];      /* NULL: the default name */
    size_t max_bytes;
    int64_t min_time, max_time;     /* bounds of ts, ms; both 0: only ts >= 0 and below the year 10000 */
};

/* What the topic says of an event without "event"; DECODE_KIND_UNSAID: the record must say. */
enum { DECODE_KIND_UNSAID = -1 };

enum decode_result {
    DECODE_OK,
    DECODE_EMPTY,           /* tombstone or empty value: counted and skipped, not dead-lettered */
    DECODE_NOT_JSON, DECODE_MISSING, DECODE_MISTYPED, DECODE_NOT_FINITE, DECODE_TOO_LARGE, DECODE_TIME_OUT_OF_BOUNDS,
    DECODE_UNKNOWN_EVENT,
    DECODE_RESULTS
};
extern const char *const decode_result_name[DECODE_RESULTS];    /* the counters' labels: "ok", "empty", ... */

struct decoder;
struct decoder *decoder_create(const struct features *features, const struct decode_options *options,
                               struct cs_error *err);
void decoder_destroy(struct decoder *decoder);
/* Times after this are out of bounds from now on: for an owner that has a clock. A record from the future would move
 * the event clock, and with it end the wait of all that is pending. */
void decoder_set_max_time(struct decoder *decoder, int64_t max_time);

/* On DECODE_OK fills *event, which the caller releases. Otherwise *event is empty and err says what was found, what is
 * allowed and, in at.minor, the byte. expected: an enum event_kind or DECODE_KIND_UNSAID. */
enum decode_result decode(struct decoder *decoder, const void *bytes, size_t size, int expected, struct event *event,
                          struct cs_error *err);

#endif
