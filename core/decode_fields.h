/* What decode (JSON) and decode_protobuf share: the fields of one event as they come, in any order, and the checks that
 * make them an event. daemon/scoring reads requests with them, so that serving keys values as training does; nothing
 * else includes this. */
#ifndef CORE_DECODE_FIELDS_H
#define CORE_DECODE_FIELDS_H

#include "core/decode.h"

enum { ID_BYTES_MAX = 1024, VALUES_MAX = 255, DEPTH_MAX = 64 };

enum value_kind { VALUE_NULL, VALUE_BOOLEAN, VALUE_NUMBER, VALUE_TEXT };

struct value {
    enum value_kind kind;
    bool boolean;
    const char *text;       /* VALUE_TEXT; VALUE_NUMBER: as JSON writes it. Borrowed for the call */
    size_t length;
};

/* A problem with a field that not every kind of event needs: it counts only if this event turns out to need it. */
struct problem { enum decode_result result; struct cs_error err; };

struct fields {
    const struct features *features;
    size_t item_id_feature;             /* index of the item feature that is the event's own item_id; SIZE_MAX: none */
    const char *name[FIELDS];           /* paths, for messages */
    int64_t min_time, max_time;
    size_t at;                          /* byte that is being read, for messages */

    int kind;                           /* enum event_kind or DECODE_KIND_UNSAID */
    bool has_time, has_user, has_item, has_behaviors;
    int clicked, converted;             /* -1: absent */
    int64_t time;
    uint64_t user, item;
    size_t id_length;                   /* 0: absent */
    char id[ID_BYTES_MAX];
    size_t behavior_count;              /* of all that came; the last behavior_max_length are in the ring */
    uint64_t *behavior;                 /* ring [behavior_max_length] */
    uint8_t *key_count;                 /* [categorical_count] */
    uint64_t *key;                      /* [categorical_count][VALUES_MAX] */
    float *dense;                       /* [dense_count] */
    struct problem failed;              /* of the record */
    struct problem shown, labels;       /* of what impressions and examples need; of what examples need */
};

bool fields_create(struct fields *fields, const struct features *features, const struct decode_options *options,
                   struct cs_error *err);
void fields_release(struct fields *fields);
void fields_reset(struct fields *fields, int expected);

/* False: the record cannot be used whatever else it says (fields->failed). */
bool fields_value(struct fields *fields, enum decode_field field, const struct value *value);
void fields_behavior(struct fields *fields, const struct value *value);
void fields_feature(struct fields *fields, size_t feature, const struct value *value);
/* A number as a double: keyed as the text that JSON would write it as. */
void fields_feature_number(struct fields *fields, size_t feature, double number);
/* It is not what it must be. False as fields_value. */
bool fields_mistyped(struct fields *fields, enum decode_field field, const char *found, const char *needed);
void fields_feature_mistyped(struct fields *fields, size_t feature, const char *found, const char *needed);
bool fields_fail(struct fields *fields, enum decode_result result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

enum decode_result fields_finish(struct fields *fields, struct event *event, struct cs_error *err);

/* Strictly UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF (yajl's own check lets these through).
 * The first byte that is not, or size. */
size_t utf8_valid_until(const void *bytes, size_t size);

struct decode_protobuf;
struct decode_protobuf *decode_protobuf_create(struct fields *fields, struct cs_error *err);
void decode_protobuf_destroy(struct decode_protobuf *decoder);
bool decode_protobuf_read(struct decode_protobuf *decoder, const void *bytes, size_t size);

#endif
