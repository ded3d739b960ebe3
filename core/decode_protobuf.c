/* Protobuf -> fields (core/coldstream_event.proto). What a value means is decode_fields' matter, the same as for JSON.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/coldstream_event.pb-c.h"
#include "core/decode_fields.h"
#include "core/need.h"

enum { SCRATCH_BYTES = 64 * 1024 };

/* The memory of one event, handed out by bumping; what does not fit comes from malloc. */
struct decode_protobuf {
    struct fields *fields;
    ProtobufCAllocator allocator;
    uint64_t events;
    uint64_t *seen; /* [features->count] number of the last event that had it */
    size_t used;
    _Alignas(16) char scratch[SCRATCH_BYTES];
};

static void *take(void *self, size_t size)
{
    struct decode_protobuf *decoder = self;
    size_t whole = (size + 15) & ~(size_t)15;
    if (whole < size || whole > sizeof decoder->scratch - decoder->used) return need(malloc(size));
    decoder->used += whole;
    return decoder->scratch + decoder->used - whole;
}

static void give(void *self, void *pointer)
{
    struct decode_protobuf *decoder = self;
    uintptr_t at = (uintptr_t)pointer, begin = (uintptr_t)decoder->scratch;
    if (at < begin || at >= begin + sizeof decoder->scratch) free(pointer);
}

struct decode_protobuf *decode_protobuf_create(struct fields *fields, struct cs_error *err)
{
    struct decode_protobuf *decoder = calloc(1, sizeof *decoder);
    if (!decoder) goto fail;
    decoder->fields = fields;
    decoder->allocator = (ProtobufCAllocator){ .alloc = take, .free = give, .allocator_data = decoder };
    decoder->seen = calloc(fields->features->count + 1, sizeof *decoder->seen);
    if (decoder->seen) return decoder;
fail:
    decode_protobuf_destroy(decoder);
    cs_fail(err, CS_FAILED, "out of memory: the decoder");
    return NULL;
}

void decode_protobuf_destroy(struct decode_protobuf *decoder)
{
    if (!decoder) return;
    free(decoder->seen);
    free(decoder);
}

/* Numbers pass through the text that JSON would have, so that both formats read the same rows. text: >= 32 bytes. */
static struct value of_number(double number, char *text)
{
    struct value value = { .kind = VALUE_NUMBER, .text = "1e999", .length = 5 }; /* how JSON says not finite */
    if (isfinite(number))
        value = (struct value){ .kind = VALUE_NUMBER, .text = text, .length = number_text(number, text) };
    return value;
}

static struct value of_integer(int64_t number, char *text)
{
    return (
        struct value){ .kind = VALUE_NUMBER, .text = text, .length = (size_t)snprintf(text, 32, "%" PRId64, number) };
}

static struct value of_text(const char *text)
{
    return text ? (struct value){ .kind = VALUE_TEXT, .text = text, .length = strlen(text) }
                : (struct value){ .kind = VALUE_NULL };
}

static struct value of_boolean(bool boolean) { return (struct value){ .kind = VALUE_BOOLEAN, .boolean = boolean }; }

static struct value of_scalar(const Coldstream__Scalar *scalar, char *text)
{
    switch (scalar->value_case) {
    case COLDSTREAM__SCALAR__VALUE_TEXT:
        return of_text(scalar->text);
    case COLDSTREAM__SCALAR__VALUE_NUMBER:
        return of_number(scalar->number, text);
    case COLDSTREAM__SCALAR__VALUE_INTEGER:
        return of_integer(scalar->integer, text);
    case COLDSTREAM__SCALAR__VALUE_BOOLEAN:
        return of_boolean(scalar->boolean);
    default:
        return of_text(NULL);
    }
}

static void read_list(struct fields *fields, size_t feature, const Coldstream__ScalarList *list)
{
    if (fields->features->feature[feature].kind == FEATURE_DENSE) {
        fields_feature_mistyped(fields, feature, "a list", "a number");
        return;
    }
    for (size_t i = 0; i < list->n_value; i++) {
        char text[32];
        struct value value = of_scalar(list->value[i], text);
        fields_feature(fields, feature, &value);
    }
}

static bool read_feature(struct decode_protobuf *decoder, enum feature_group group, const char *name,
                         const Coldstream__Value *from)
{
    struct fields *fields = decoder->fields;
    const struct features *features = fields->features;
    size_t index = 0;
    while (index < features->count &&
           (features->feature[index].group != group || strcmp(features->feature[index].name, name) != 0))
        index++;
    if (index == features->count || index == fields->item_id_feature || !from) return true;
    if (decoder->seen[index] == decoder->events) return fields_fail(fields, DECODE_MISTYPED, "%s is given twice", name);
    decoder->seen[index] = decoder->events;

    char text[32];
    struct value value = { .kind = VALUE_NULL };
    switch (from->value_case) {
    case COLDSTREAM__VALUE__VALUE_TEXT:
        value = of_text(from->text);
        break;
    case COLDSTREAM__VALUE__VALUE_NUMBER:
        value = of_number(from->number, text);
        break;
    case COLDSTREAM__VALUE__VALUE_INTEGER:
        value = of_integer(from->integer, text);
        break;
    case COLDSTREAM__VALUE__VALUE_BOOLEAN:
        value = of_boolean(from->boolean);
        break;
    case COLDSTREAM__VALUE__VALUE_LIST:
        read_list(fields, index, from->list);
        break;
    default:
        break;
    }
    fields_feature(fields, index, &value);
    return true;
}

_Static_assert(COLDSTREAM__EVENT__KIND__EXAMPLE - COLDSTREAM__EVENT__KIND__IMPRESSION == (int)EVENT_EXAMPLE &&
                   COLDSTREAM__EVENT__KIND__CLICK - COLDSTREAM__EVENT__KIND__IMPRESSION == (int)EVENT_CLICK,
               "kinds in the order of enum event_kind");

static bool read_texts(struct fields *fields, const Coldstream__Event *event)
{
    int kind = event->has_event ? (int)event->event : COLDSTREAM__EVENT__KIND__UNSAID;
    if (kind < 0 || kind > COLDSTREAM__EVENT__KIND__EXAMPLE)
        return fields_fail(fields, DECODE_UNKNOWN_EVENT,
                           "event is %d, allowed are 1 to 4: impression, click, conversion, example", kind);
    if (kind) fields->kind = kind - COLDSTREAM__EVENT__KIND__IMPRESSION;
    const struct {
        enum decode_field field;
        const char *text;
    } texts[] = {
        { FIELD_IMPRESSION_ID, event->impression_id },
        { FIELD_USER_ID, event->user_id },
        { FIELD_ITEM_ID, event->item_id },
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct value value = of_text(texts[i].text);
        if (value.length && utf8_valid_until(value.text, value.length) < value.length)
            return fields_fail(fields, DECODE_NOT_JSON, "%s is not UTF-8", fields->name[texts[i].field]);
        if (!fields_value(fields, texts[i].field, &value)) return false;
    }
    return true;
}

static bool read_event(struct decode_protobuf *decoder, const Coldstream__Event *event)
{
    struct fields *fields = decoder->fields;
    char text[32];
    struct value time = of_integer(event->ts, text), clicked = of_boolean(event->clicked),
                 converted = of_boolean(event->converted);
    if (!read_texts(fields, event)) return false;
    if (event->has_ts && !fields_value(fields, FIELD_TIME, &time)) return false;
    if (event->has_clicked && !fields_value(fields, FIELD_CLICKED, &clicked)) return false;
    if (event->has_converted && !fields_value(fields, FIELD_CONVERTED, &converted)) return false;
    for (size_t i = 0; i < event->n_user; i++)
        if (event->user[i]->key && !read_feature(decoder, GROUP_USER, event->user[i]->key, event->user[i]->value))
            return false;
    for (size_t i = 0; i < event->n_context; i++)
        if (event->context[i]->key &&
            !read_feature(decoder, GROUP_CONTEXT, event->context[i]->key, event->context[i]->value))
            return false;
    for (size_t i = 0; i < event->n_item; i++)
        if (event->item[i]->key && !read_feature(decoder, GROUP_ITEM, event->item[i]->key, event->item[i]->value))
            return false;
    if (!event->behaviors) return true;
    fields->has_behaviors = true;
    for (size_t i = 0; i < event->behaviors->n_item_id; i++) {
        struct value value = of_text(event->behaviors->item_id[i]);
        fields_behavior(fields, &value);
    }
    return true;
}

bool decode_protobuf_read(struct decode_protobuf *decoder, const void *bytes, size_t size)
{
    decoder->events++;
    decoder->used = 0;
    Coldstream__Event *event = coldstream__event__unpack(&decoder->allocator, size, bytes);
    if (!event) return fields_fail(decoder->fields, DECODE_NOT_JSON, "not a coldstream.Event in protobuf");
    bool ok = read_event(decoder, event);
    coldstream__event__free_unpacked(event, &decoder->allocator);
    return ok;
}
