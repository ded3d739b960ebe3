/* JSON -> event, by yajl's callbacks over a tree of the field paths that the configuration names. */
#include "core/decode.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <yajl/yajl_parse.h>

#include "core/decode_fields.h"
#include "core/need.h"

const char *const decode_field_name[FIELDS] = {
    [FIELD_EVENT] = "event",
    [FIELD_IMPRESSION_ID] = "impression_id",
    [FIELD_TIME] = "ts",
    [FIELD_USER_ID] = "user_id",
    [FIELD_USER] = "user",
    [FIELD_BEHAVIORS] = "behaviors",
    [FIELD_CONTEXT] = "context",
    [FIELD_ITEM_ID] = "item_id",
    [FIELD_ITEM] = "item",
    [FIELD_CLICKED] = "clicked",
    [FIELD_CONVERTED] = "converted",
};

const char *const decode_result_name[DECODE_RESULTS] = {
    [DECODE_OK] = "ok",
    [DECODE_EMPTY] = "empty",
    [DECODE_NOT_JSON] = "not_json",
    [DECODE_MISSING] = "missing",
    [DECODE_MISTYPED] = "mistyped",
    [DECODE_NOT_FINITE] = "not_finite",
    [DECODE_TOO_LARGE] = "too_large",
    [DECODE_TIME_OUT_OF_BOUNDS] = "time_out_of_bounds",
    [DECODE_UNKNOWN_EVENT] = "unknown_event",
};

enum { NOTHING = -1, ROOT = 0, SCRATCH_BYTES = 32 * 1024 };

static const unsigned OBJECTS = 1u << FIELD_USER | 1u << FIELD_CONTEXT | 1u << FIELD_ITEM;
static const enum decode_field object_of[GROUPS] = { FIELD_USER, FIELD_CONTEXT, FIELD_ITEM };

/* A place in the event that something is read from; places that nothing is read from have no node. One place may be
 * several fields and features: two fields mapped to one path, two groups mapped to one object. */
struct node {
    int parent;
    char *name;
    size_t length;
    unsigned fields; /* bit f: enum decode_field f is here */
    size_t feature;  /* first feature that is here, SIZE_MAX: none; more by decoder->next_feature */
    uint64_t seen;   /* number of the last event that had it */
};

struct frame {
    int node;
    bool is_list;
};

/* yajl's memory for one event, handed out by bumping; what does not fit comes from malloc. */
struct scratch {
    _Alignas(16) char bytes[SCRATCH_BYTES];
    size_t used;
};

struct decoder {
    size_t max_bytes;
    struct fields fields;
    struct decode_protobuf *protobuf; /* NULL: JSON */
    struct node *node;
    size_t nodes;
    size_t *next_feature; /* [features->count] */
    int *index;           /* hash of (parent, name) -> node */
    size_t index_mask;

    uint64_t events;
    yajl_handle parser; /* of the event being read */
    int key;            /* node of the key just read */
    size_t depth;
    struct frame frame[DEPTH_MAX];
    struct scratch scratch;
};

/* ---- yajl's memory: [size, padded to 16][bytes...] ---- */

static void *scratch_take(void *context, size_t size)
{
    struct scratch *scratch = context;
    size_t whole = ((size + 15) & ~(size_t)15) + 16;
    char *block;
    if (whole <= sizeof scratch->bytes - scratch->used) {
        block = scratch->bytes + scratch->used;
        scratch->used += whole;
    } else {
        block = need(malloc(whole));
    }
    memcpy(block, &size, sizeof size);
    return block + 16;
}

static bool in_scratch(const struct scratch *scratch, const char *block)
{
    return (uintptr_t)block >= (uintptr_t)scratch->bytes &&
           (uintptr_t)block < (uintptr_t)(scratch->bytes + sizeof scratch->bytes);
}

static void scratch_give(void *context, void *pointer)
{
    if (pointer && !in_scratch(context, pointer)) free((char *)pointer - 16);
}

static void *scratch_resize(void *context, void *pointer, size_t size)
{
    void *moved = scratch_take(context, size);
    if (pointer) {
        size_t old;
        memcpy(&old, (char *)pointer - 16, sizeof old);
        memcpy(moved, pointer, old < size ? old : size);
        scratch_give(context, pointer);
    }
    return moved;
}

/* ---- the tree of paths ---- */

static uint64_t hash_of(int parent, const char *name, size_t length)
{
    return XXH3_64bits_withSeed(name, length, (uint64_t)parent);
}

static int find_node(const struct decoder *decoder, int parent, const char *name, size_t length)
{
    for (size_t at = hash_of(parent, name, length) & decoder->index_mask;; at = (at + 1) & decoder->index_mask) {
        int found = decoder->index[at];
        if (found == NOTHING) return NOTHING;
        const struct node *node = &decoder->node[found];
        if (node->parent == parent && node->length == length && memcmp(node->name, name, length) == 0) return found;
    }
}

static int add_node(struct decoder *decoder, int parent, const char *name, size_t length)
{
    int found = decoder->nodes ? find_node(decoder, parent, name, length) : NOTHING;
    if (found != NOTHING) return found;
    struct node *node = &decoder->node[decoder->nodes];
    *node = (struct node){ .parent = parent, .name = need(strndup(name, length)), .length = length,
                           .feature = SIZE_MAX };
    size_t at = hash_of(parent, name, length) & decoder->index_mask;
    while (decoder->index[at] != NOTHING) at = (at + 1) & decoder->index_mask;
    decoder->index[at] = (int)decoder->nodes;
    return (int)decoder->nodes++;
}

static size_t count_parts(const char *path)
{
    size_t parts = 1;
    for (; *path; path++) parts += *path == '.';
    return parts;
}

static bool add_path(struct decoder *decoder, const char *path, enum decode_field field, struct cs_error *err)
{
    int node = ROOT;
    for (const char *at = path;;) {
        size_t length = strcspn(at, ".");
        if (!length)
            return cs_fail(err, CS_CONFIG, "events.fields.%s is \"%s\": allowed are names joined by dots",
                           decode_field_name[field], path);
        node = add_node(decoder, node, at, length);
        if (!at[length]) break;
        at += length + 1;
    }
    decoder->node[node].fields |= 1u << field;
    return true;
}

static bool build_tree(struct decoder *decoder, struct cs_error *err)
{
    const struct fields *fields = &decoder->fields;
    const struct features *features = fields->features;
    size_t most = 1 + features->count, slots = 64;
    for (size_t i = 0; i < FIELDS; i++) most += count_parts(fields->name[i]);
    while (slots < most * 4) slots *= 2;
    decoder->node = calloc(most, sizeof *decoder->node);
    decoder->next_feature = calloc(features->count + 1, sizeof *decoder->next_feature);
    decoder->index = malloc(slots * sizeof *decoder->index);
    if (!decoder->node || !decoder->next_feature || !decoder->index)
        return cs_fail(err, CS_FAILED, "out of memory: the decoder");
    decoder->index_mask = slots - 1;
    for (size_t i = 0; i < slots; i++) decoder->index[i] = NOTHING;
    add_node(decoder, NOTHING, "", 0);

    for (size_t i = 0; i < FIELDS; i++)
        if (!add_path(decoder, fields->name[i], (enum decode_field)i, err)) return false;
    for (size_t i = 0; i < features->count; i++) {
        const struct feature *feature = &features->feature[i];
        if (i == fields->item_id_feature) continue;
        int object = NOTHING;
        for (size_t j = 0; j < decoder->nodes; j++)
            if (decoder->node[j].fields & 1u << object_of[feature->group]) object = (int)j;
        struct node *node = &decoder->node[add_node(decoder, object, feature->name, strlen(feature->name))];
        decoder->next_feature[i] = node->feature;
        node->feature = i;
    }
    for (size_t i = 1; i < decoder->nodes; i++) {
        const struct node *node = &decoder->node[i];
        bool is_value = (node->fields & ~OBJECTS) || node->feature != SIZE_MAX;
        bool is_object = node->fields & OBJECTS;
        for (size_t j = 1; j < decoder->nodes; j++) is_object |= decoder->node[j].parent == (int)i;
        if (is_value && is_object)
            return cs_fail(err, CS_CONFIG,
                           "events.fields: \"%s\" is used as a value and as an object that holds other fields",
                           node->name);
    }
    return true;
}

/* ---- yajl's callbacks: 0 stops, with fields.failed set ---- */

static void locate(struct decoder *decoder) { decoder->fields.at = yajl_get_bytes_consumed(decoder->parser); }

static bool deliver_value(struct decoder *decoder, const struct value *value)
{
    struct fields *fields = &decoder->fields;
    if (!decoder->depth)
        return fields_fail(fields, DECODE_MISTYPED, "the record is a single value, an object is allowed");
    const struct frame *frame = &decoder->frame[decoder->depth - 1];
    int target = frame->is_list ? frame->node : decoder->key;
    if (target == NOTHING) return true;
    locate(decoder);
    const struct node *node = &decoder->node[target];
    for (unsigned rest = node->fields; rest; rest &= rest - 1) {
        enum decode_field field = (enum decode_field)__builtin_ctz(rest);
        if (frame->is_list)
            fields_behavior(fields, value); /* the only field that is a list */
        else if (!fields_value(fields, field, value))
            return false;
    }
    for (size_t i = node->feature; i != SIZE_MAX; i = decoder->next_feature[i]) fields_feature(fields, i, value);
    return true;
}

static int on_null(void *self) { return deliver_value(self, &(struct value){ .kind = VALUE_NULL }); }
static int on_boolean(void *self, int boolean)
{
    return deliver_value(self, &(struct value){ .kind = VALUE_BOOLEAN, .boolean = boolean });
}

static int on_number(void *self, const char *text, size_t length)
{
    return deliver_value(self, &(struct value){ .kind = VALUE_NUMBER, .text = text, .length = length });
}

static int on_text(void *self, const unsigned char *text, size_t length)
{
    return deliver_value(self, &(struct value){ .kind = VALUE_TEXT, .text = (const char *)text, .length = length });
}

static int on_key(void *self, const unsigned char *text, size_t length)
{
    struct decoder *decoder = self;
    int parent = decoder->frame[decoder->depth - 1].node;
    decoder->key = parent == NOTHING ? NOTHING : find_node(decoder, parent, (const char *)text, length);
    if (decoder->key == NOTHING) return 1;
    struct node *node = &decoder->node[decoder->key];
    if (node->seen == decoder->events) {
        locate(decoder);
        return fields_fail(&decoder->fields, DECODE_MISTYPED, "%s is given twice", node->name);
    }
    node->seen = decoder->events;
    return 1;
}

/* Every field and feature at this place is told that it found a list or an object. */
static bool deliver_mistyped(struct decoder *decoder, const struct node *node, unsigned fields_here, const char *found)
{
    struct fields *fields = &decoder->fields;
    for (unsigned rest = fields_here; rest; rest &= rest - 1) {
        enum decode_field field = (enum decode_field)__builtin_ctz(rest);
        const char *needed = OBJECTS & 1u << field      ? "an object"
                             : field == FIELD_BEHAVIORS ? "a list of texts and numbers"
                                                        : "a single value";
        if (!fields_mistyped(fields, field, found, needed)) return false;
    }
    for (size_t i = node->feature; i != SIZE_MAX; i = decoder->next_feature[i])
        fields_feature_mistyped(fields, i, found, "a value or a list of values");
    return true;
}

static bool enter(struct decoder *decoder, int node, bool is_list)
{
    if (decoder->depth == DEPTH_MAX) {
        locate(decoder);
        return fields_fail(&decoder->fields, DECODE_NOT_JSON, "nested deeper than %d", DEPTH_MAX);
    }
    decoder->frame[decoder->depth++] = (struct frame){ node, is_list };
    return true;
}

static int on_object(void *self)
{
    struct decoder *decoder = self;
    if (!decoder->depth) return enter(decoder, ROOT, false);
    const struct frame *frame = &decoder->frame[decoder->depth - 1];
    int target = frame->is_list ? frame->node : decoder->key;
    if (target != NOTHING) {
        const struct node *node = &decoder->node[target];
        locate(decoder);
        if (frame->is_list || node->feature != SIZE_MAX || (node->fields & ~OBJECTS)) {
            if (!deliver_mistyped(decoder, node, node->fields & ~OBJECTS,
                                  frame->is_list ? "a list with an object in it" : "an object"))
                return 0;
            target = NOTHING;
        }
    }
    return enter(decoder, target, false);
}

static int on_list(void *self)
{
    struct decoder *decoder = self;
    if (!decoder->depth)
        return fields_fail(&decoder->fields, DECODE_MISTYPED, "the record is a list, an object is allowed");
    const struct frame *frame = &decoder->frame[decoder->depth - 1];
    int target = frame->is_list ? frame->node : decoder->key;
    if (target != NOTHING) {
        const struct node *node = &decoder->node[target];
        locate(decoder);
        if (frame->is_list) {
            if (!deliver_mistyped(decoder, node, node->fields, "a list with a list in it")) return 0;
            target = NOTHING;
        } else if (node->fields == 1u << FIELD_BEHAVIORS && node->feature == SIZE_MAX) {
            decoder->fields.has_behaviors = true;
        } else if (node->fields) {
            if (!deliver_mistyped(decoder, node, node->fields & ~(1u << FIELD_BEHAVIORS), "a list")) return 0;
            target = NOTHING;
        } else {
            for (size_t i = node->feature; i != SIZE_MAX; i = decoder->next_feature[i])
                if (decoder->fields.features->feature[i].kind == FEATURE_DENSE) {
                    fields_feature_mistyped(&decoder->fields, i, "a list", "a number");
                    target = NOTHING;
                }
            if (node->feature == SIZE_MAX) target = NOTHING; /* only on the way to others */
        }
    }
    return enter(decoder, target, true);
}

static int on_end(void *self)
{
    ((struct decoder *)self)->depth--;
    return 1;
}

static const yajl_callbacks callbacks = {
    .yajl_null = on_null,
    .yajl_boolean = on_boolean,
    .yajl_number = on_number,
    .yajl_string = on_text,
    .yajl_start_map = on_object,
    .yajl_map_key = on_key,
    .yajl_end_map = on_end,
    .yajl_start_array = on_list,
    .yajl_end_array = on_end,
};

/* ---- one record ---- */

/* Some writers put NaN and Infinity where JSON has no word for them: told apart from what is no JSON at all. */
static bool stops_at_not_finite(const char *text, size_t size, size_t at)
{
    static const char *const words[] = { "NaN", "Infinity", "-Infinity" };
    for (size_t begin = at < 2 ? 0 : at - 2; begin <= at; begin++)
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (size - begin >= strlen(words[i]) && memcmp(text + begin, words[i], strlen(words[i])) == 0) return true;
    return false;
}

static void read_json(struct decoder *decoder, const void *bytes, size_t size)
{
    struct fields *fields = &decoder->fields;
    size_t valid = utf8_valid_until(bytes, size);
    if (valid < size) {
        fields->at = valid;
        fields_fail(fields, DECODE_NOT_JSON, "not UTF-8");
        return;
    }
    decoder->scratch.used = 0;
    yajl_alloc_funcs memory = {
        .malloc = scratch_take, .realloc = scratch_resize, .free = scratch_give, .ctx = &decoder->scratch
    };
    decoder->parser = yajl_alloc(&callbacks, &memory, decoder);
    yajl_config(decoder->parser, yajl_dont_validate_strings, 1);
    yajl_status status = yajl_parse(decoder->parser, bytes, size);
    fields->at = yajl_get_bytes_consumed(decoder->parser);
    if (status == yajl_status_ok) status = yajl_complete_parse(decoder->parser);
    if (status == yajl_status_error) {
        unsigned char *said = yajl_get_error(decoder->parser, 0, NULL, 0);
        if (stops_at_not_finite(bytes, size, fields->at < size ? fields->at : size))
            fields_fail(fields, DECODE_NOT_FINITE, "NaN and Infinity are not numbers in JSON");
        else
            fields_fail(fields, DECODE_NOT_JSON, "not JSON: %.*s", (int)strcspn((char *)said, "\n"), (char *)said);
        yajl_free_error(decoder->parser, said);
    }
    assert(status != yajl_status_client_canceled || fields->failed.result != DECODE_OK);
    yajl_free(decoder->parser);
    decoder->parser = NULL;
}

struct decoder *decoder_create(const struct features *features, const struct decode_options *options,
                               struct cs_error *err)
{
    struct decoder *decoder = calloc(1, sizeof *decoder);
    if (!decoder) {
        cs_fail(err, CS_FAILED, "out of memory: the decoder");
        return NULL;
    }
    decoder->max_bytes = options->max_bytes ? options->max_bytes : SIZE_MAX;
    if (!fields_create(&decoder->fields, features, options, err)) goto fail;
    if (options->format == DECODE_PROTOBUF) {
        for (size_t i = 0; i < FIELDS; i++)
            if (options->field[i] && strcmp(options->field[i], decode_field_name[i]) != 0) {
                cs_fail(err, CS_CONFIG,
                        "events.fields.%s: with events.format protobuf the schema says where fields are",
                        decode_field_name[i]);
                goto fail;
            }
        decoder->protobuf = decode_protobuf_create(&decoder->fields, err);
        if (!decoder->protobuf) goto fail;
    } else if (!build_tree(decoder, err)) {
        goto fail;
    }
    return decoder;
fail:
    decoder_destroy(decoder);
    return NULL;
}

void decoder_set_max_time(struct decoder *decoder, int64_t max_time) { decoder->fields.max_time = max_time; }

void decoder_destroy(struct decoder *decoder)
{
    if (!decoder) return;
    decode_protobuf_destroy(decoder->protobuf);
    for (size_t i = 0; i < decoder->nodes; i++) free(decoder->node[i].name);
    free(decoder->node);
    free(decoder->next_feature);
    free(decoder->index);
    fields_release(&decoder->fields);
    free(decoder);
}

enum decode_result decode(struct decoder *decoder, const void *bytes, size_t size, int expected, struct event *event,
                          struct cs_error *err)
{
    *event = (struct event){ 0 };
    if (!bytes || !size) {
        cs_fail(err, CS_REFUSED, "the record is empty");
        return DECODE_EMPTY;
    }
    if (size > decoder->max_bytes) {
        cs_fail(err, CS_REFUSED, "the record has %zu bytes, at most %zu are allowed (events.max_bytes)", size,
                decoder->max_bytes);
        return DECODE_TOO_LARGE;
    }
    decoder->events++;
    decoder->depth = 0;
    decoder->key = NOTHING;
    fields_reset(&decoder->fields, expected);
    if (decoder->protobuf)
        decode_protobuf_read(decoder->protobuf, bytes, size);
    else
        read_json(decoder, bytes, size);
    return fields_finish(&decoder->fields, event, err);
}
