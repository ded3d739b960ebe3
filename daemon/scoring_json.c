/* The JSON of POST /v1/score: a tree is read (requests are few and their errors want a place), scores are written. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"
#include "daemon/scoring_internal.h"

/* A JSON scalar as the decoder sees it. text: >= 32 bytes, holds a number's digits, which no locale changes. */
static struct value scalar(const json_t *json, char text[32])
{
    switch (json_typeof(json)) {
    case JSON_STRING:
        return (
            struct value){ .kind = VALUE_TEXT, .text = json_string_value(json), .length = json_string_length(json) };
    case JSON_INTEGER:
        return (struct value){ .kind = VALUE_NUMBER, .text = text,
                               .length = (size_t)snprintf(text, 32, "%" PRId64, (int64_t)json_integer_value(json)) };
    case JSON_REAL:
        return (struct value){ .kind = VALUE_NUMBER, .text = text, .length = number_text(json_real_value(json), text) };
    case JSON_TRUE:
        return (struct value){ .kind = VALUE_BOOLEAN, .boolean = true };
    case JSON_FALSE:
        return (struct value){ .kind = VALUE_BOOLEAN };
    default:
        return (struct value){ .kind = VALUE_NULL };
    }
}

static bool is_scalar(const json_t *json)
{
    return !json_is_object(json) && !json_is_array(json);
}

static void read_feature(struct scoring *scoring, size_t index, const json_t *json)
{
    char text[32];
    size_t i;
    json_t *element;
    if (is_scalar(json)) {
        struct value value = scalar(json, text);
        fields_feature(scoring_fields(scoring), index, &value);
    } else if (json_is_object(json) || scoring_features(scoring)->feature[index].kind == FEATURE_DENSE) {
        fields_feature_mistyped(scoring_fields(scoring), index, json_is_object(json) ? "an object" : "a list",
                                "a value or, if categorical, a list of values");
    } else {
        json_array_foreach(json, i, element) {
            if (!is_scalar(element)) {
                fields_feature_mistyped(scoring_fields(scoring), index, "a list with a list or an object in it",
                                        "a value or a list of values");
                return;
            }
            struct value value = scalar(element, text);
            fields_feature(scoring_fields(scoring), index, &value);
        }
    }
}

static void read_group(struct scoring *scoring, enum decode_field field, enum feature_group group, const json_t *object)
{
    if (!object || json_is_null(object)) return;
    if (!json_is_object(object)) {
        fields_mistyped(scoring_fields(scoring), field, json_is_array(object) ? "a list" : "a single value",
                        "an object");
        return;
    }
    const struct features *features = scoring_features(scoring);
    for (size_t i = 0; i < features->count; i++) {
        const struct feature *feature = &features->feature[i];
        if (feature->group != group || i == scoring_fields(scoring)->item_id_feature) continue;
        const json_t *value = json_object_get(object, feature->name);
        if (value) read_feature(scoring, i, value);
    }
}

static void read_single(struct scoring *scoring, enum decode_field field, const json_t *json)
{
    char text[32];
    if (!json) return;
    if (!is_scalar(json)) {
        fields_mistyped(scoring_fields(scoring), field, json_is_array(json) ? "a list" : "an object",
                        "a text or a number");
        return;
    }
    struct value value = scalar(json, text);
    fields_value(scoring_fields(scoring), field, &value);
}

static void read_behaviors(struct scoring *scoring, const json_t *list)
{
    size_t i;
    json_t *element;
    char text[32];
    if (!list || json_is_null(list)) return;        /* the serving side keeps no history: none given is none */
    if (!json_is_array(list)) {
        fields_mistyped(scoring_fields(scoring), FIELD_BEHAVIORS, json_is_object(list) ? "an object" : "a single value",
                        "a list of texts and numbers");
        return;
    }
    scoring_fields(scoring)->has_behaviors = true;
    json_array_foreach(list, i, element) {
        if (!is_scalar(element)) {
            fields_mistyped(scoring_fields(scoring), FIELD_BEHAVIORS, "a list with a list or an object in it",
                            "a list of texts and numbers");
            return;
        }
        struct value value = scalar(element, text);
        fields_behavior(scoring_fields(scoring), &value);
    }
}

static void read_user(struct scoring *scoring, const json_t *request)
{
    scoring_begin(scoring);
    read_single(scoring, FIELD_USER_ID, json_object_get(request, "user_id"));
    read_group(scoring, FIELD_USER, GROUP_USER, json_object_get(request, "user"));
    read_group(scoring, FIELD_CONTEXT, GROUP_CONTEXT, json_object_get(request, "context"));
    read_behaviors(scoring, json_object_get(request, "behaviors"));
}

static void read_item(struct scoring *scoring, const json_t *request)
{
    read_single(scoring, FIELD_ITEM_ID, json_object_get(request, "item_id"));
    read_group(scoring, FIELD_ITEM, GROUP_ITEM, json_object_get(request, "item"));
}

/* -- answers ------------------------------------------------------------------------------------------------------ */

struct answer {
    char *text;
    size_t used, size;
    bool finite;
};

__attribute__((format(printf, 2, 3)))
static void say(struct answer *answer, const char *format, ...)
{
    va_list arguments;
    if (answer->size - answer->used < 128) {        /* nothing said at once is longer */
        answer->size = answer->size * 2 + 1024;
        answer->text = need(realloc(answer->text, answer->size));
    }
    va_start(arguments, format);
    answer->used += (size_t)vsnprintf(answer->text + answer->used, answer->size - answer->used, format, arguments);
    va_end(arguments);
}

/* Nine digits read back as the same float; the decimal point is a point in every locale. */
static void say_score(struct answer *answer, float score)
{
    char text[48];
    if (!isfinite(score)) answer->finite = false;
    snprintf(text, sizeof text, "%.9g", (double)score);
    for (char *at = text; *at; at++)
        if (!strchr("0123456789+-einfa", *at)) *at = '.';
    say(answer, "%s", text);
}

struct work {
    struct scoring *scoring;
    const json_t *requests;
    size_t count;
    float *score;                   /* [count] of impressions */
    bool *is_new;
    struct answer answer;
};

/* "item_id: missing" -> "requests[0].item_id: missing". Returns false. */
__attribute__((format(printf, 2, 3)))
static bool inside(struct cs_error *err, const char *format, ...)
{
    char place[64], text[sizeof err->message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(place, sizeof place, format, arguments);
    va_end(arguments);
    snprintf(text, sizeof text, "%s.%s", place, err->message);
    memcpy(err->message, text, sizeof text);
    return false;
}

/* All impressions of the call are scored together, whatever stands between them. */
static bool score_impressions(struct work *work, struct cs_error *err)
{
    size_t place[SCORING_BATCH], made = 0, i;
    float score[SCORING_BATCH];
    json_t *request;

    for (i = 0; i <= work->count; i++) {
        if (made == SCORING_BATCH || (i == work->count && made)) {
            scoring_score(work->scoring, score);
            while (made--) work->score[place[made]] = score[made];
            made = 0;
        }
        if (i == work->count) break;
        request = json_array_get(work->requests, i);
        if (json_object_get(request, "candidates")) continue;
        if (!json_is_object(request)) return cs_fail(err, CS_USAGE, "requests[%zu]: must be an object", i);
        read_user(work->scoring, request);
        read_item(work->scoring, request);
        if (!scoring_take_shared(work->scoring, err) || !scoring_take_item(work->scoring, err))
            return inside(err, "requests[%zu]", i);
        place[made++] = i;
        work->is_new[i] = scoring_fields(work->scoring)->behavior_count == 0;
    }
    return true;
}

static bool score_candidates(struct work *work, size_t number, const json_t *request, struct cs_error *err)
{
    const json_t *candidates = json_object_get(request, "candidates");
    float score[SCORING_BATCH];
    size_t count = json_array_size(candidates), made;

    if (!json_is_array(candidates)) return cs_fail(err, CS_USAGE, "requests[%zu].candidates: must be a list", number);
    read_user(work->scoring, request);
    work->is_new[number] = scoring_fields(work->scoring)->behavior_count == 0;
    say(&work->answer, "[");
    for (size_t begin = 0; begin < count || !begin; begin += SCORING_BATCH) {
        if (!scoring_take_shared(work->scoring, err)) return inside(err, "requests[%zu]", number);
        for (made = 0; made < SCORING_BATCH && begin + made < count; made++) {
            const json_t *candidate = json_array_get(candidates, begin + made);
            scoring_next_item(work->scoring);
            if (!json_is_object(candidate))
                return cs_fail(err, CS_USAGE, "requests[%zu].candidates[%zu]: must be an object", number, begin + made);
            read_item(work->scoring, candidate);
            if (!scoring_take_item(work->scoring, err))
                return inside(err, "requests[%zu].candidates[%zu]", number, begin + made);
        }
        scoring_score(work->scoring, score);
        for (size_t i = 0; i < made; i++) {
            if (begin + i) say(&work->answer, ",");
            say_score(&work->answer, score[i]);
        }
    }
    say(&work->answer, "]");
    return true;
}

static bool score_all(struct work *work, struct cs_error *err)
{
    size_t i;
    json_t *request;
    say(&work->answer, "{\"version\":%" PRIu64 ",\"scores\":[",
        scoring_version(work->scoring));
    if (!score_impressions(work, err)) return false;
    json_array_foreach(work->requests, i, request) {
        if (i) say(&work->answer, ",");
        if (!json_object_get(request, "candidates")) say_score(&work->answer, work->score[i]);
        else if (!score_candidates(work, i, request, err)) return false;
    }
    say(&work->answer, "],\"new\":[");
    for (i = 0; i < work->count; i++) say(&work->answer, "%s%s", i ? "," : "", work->is_new[i] ? "true" : "false");
    say(&work->answer, "]}");
    return work->answer.finite || cs_fail(err, CS_FAILED, "the model gave a score that is no number");
}

/* -- calls --------------------------------------------------------------------------------------------------------- */

struct scoring_call { json_t *root, *requests; uint64_t version; size_t scores; };

/* A number of JSON's, or its digits as a text: not every client's numbers have 64 bits. */
static bool read_version(const json_t *json, uint64_t *version, struct cs_error *err)
{
    const char *text = json_string_value(json);
    if (!json || json_is_null(json)) return true;
    if (json_is_integer(json) && json_integer_value(json) > 0) {
        *version = (uint64_t)json_integer_value(json);
        return true;
    }
    if (text && *text && strspn(text, "0123456789") == strlen(text) && strlen(text) <= 20)
        *version = strtoull(text, NULL, 10);
    return *version || cs_fail(err, CS_USAGE, "version: must be a number above 0, or its digits as a text");
}

static bool count_scores(struct scoring_call *call, const struct scoring_limits *limits, bool *too_large,
                         struct cs_error *err)
{
    size_t count = json_array_size(call->requests);
    if (limits->requests && count > limits->requests) {
        *too_large = true;
        return cs_fail(err, CS_USAGE, "requests: %zu are more than the %zu that one call may have", count,
                       limits->requests);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *candidates = json_object_get(json_array_get(call->requests, i), "candidates");
        call->scores += candidates ? json_array_size(candidates) : 1;
        if (!limits->scores || call->scores <= limits->scores) continue;
        *too_large = true;
        return cs_fail(err, CS_USAGE, "requests[%zu]: with its %zu, more scores are asked for than the %zu of one call",
                       i, candidates ? json_array_size(candidates) : 1, limits->scores);
    }
    return true;
}

struct scoring_call *scoring_call_read(const char *request, size_t length, const struct scoring_limits *limits,
                                       bool *too_large, struct cs_error *err)
{
    json_error_t where;
    struct scoring_call *call = need(calloc(1, sizeof *call));
    *too_large = false;
    if (!(call->root = json_loadb(request, length, JSON_REJECT_DUPLICATES, &where))) {
        cs_fail(err, CS_USAGE, "not JSON: %s (byte %d)", where.text, where.position);
        goto fail;
    }
    call->requests = json_object_get(call->root, "requests");
    if (!json_is_array(call->requests)) {
        cs_fail(err, CS_USAGE, call->requests ? "requests: must be a list" : "requests: missing");
        goto fail;
    }
    if (read_version(json_object_get(call->root, "version"), &call->version, err) &&
        count_scores(call, limits, too_large, err))
        return call;
fail:
    scoring_call_destroy(call);
    return NULL;
}

void scoring_call_destroy(struct scoring_call *call)
{
    if (!call) return;
    json_decref(call->root);
    free(call);
}

uint64_t scoring_call_version(const struct scoring_call *call)
{
    return call->version;
}

size_t scoring_call_scores(const struct scoring_call *call)
{
    return call->scores;
}

bool scoring_call_score(struct scoring *scoring, const struct scoring_call *call, char **response,
                        struct cs_error *err)
{
    struct work work = { .scoring = scoring, .requests = call->requests, .answer = { .finite = true } };
    *response = NULL;
    scoring_drop(scoring);
    if (call->version && call->version != scoring_version(scoring))
        return cs_fail(err, CS_USAGE, "version: %" PRIu64 " is asked for, and this is %" PRIu64, call->version,
                       scoring_version(scoring));
    work.count = json_array_size(work.requests);
    work.score = need(calloc(work.count + 1, sizeof *work.score));
    work.is_new = need(calloc(work.count + 1, sizeof *work.is_new));
    bool ok = score_all(&work, err);
    if (ok) *response = work.answer.text;
    else free(work.answer.text);
    free(work.score);
    free(work.is_new);
    return ok;
}

bool scoring_json(struct scoring *scoring, const char *request, size_t length, char **response, size_t *scores,
                  struct cs_error *err)
{
    bool too_large;
    struct scoring_call *call = scoring_call_read(request, length, &(struct scoring_limits){ 0 }, &too_large, err);
    *response = NULL;
    bool ok = call && scoring_call_score(scoring, call, response, err);
    if (ok && scores) *scores = call->scores;
    scoring_call_destroy(call);
    return ok;
}
