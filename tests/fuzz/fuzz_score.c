/* Any bytes as the body of POST /v1/score (and as a line of `coldstreamctl score`, which goes the same way): refused
 * with a reason, or as many scores as were asked for, each a probability. The first byte chooses the limits. */
#include "tests/unit/serving_fixture.h"

#include <jansson.h>
#include <math.h>

#include "daemon/scoring.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct scoring *scoring;

static void start(void)
{
    struct cs_error err = { 0 };
    struct fixture fixture = fixture_create();
    fixture_publish(&fixture, 1);
    struct scorer *scorer = scorer_create(checkpoint_open(fixture.directory, false, &err), &err);
    scoring = scorer ? scoring_create(scorer, &err) : NULL;
    if (!scoring) abort();
    fixture_destroy(&fixture);          /* what is mapped stays */
}

static size_t check_scores(const json_t *json)
{
    size_t count = 0, i;
    json_t *element;
    if (json_is_array(json)) {
        json_array_foreach(json, i, element) count += check_scores(element);
        return count;
    }
    double score = json_number_value(json);
    if (!json_is_number(json) || !(score >= 0 && score <= 1)) abort();
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (!scoring) start();
    if (!size) return 0;
    struct scoring_limits limits = { *bytes & 1 ? 3 : 0, *bytes & 2 ? 5 : 0 };
    struct cs_error err = { 0 };
    bool too_large;
    char *response;
    struct scoring_call *call = scoring_call_read((const char *)bytes + 1, size - 1, &limits, &too_large, &err);
    if (!call) {
        if (err.code != CS_USAGE || !*err.message) abort();
        return 0;
    }
    if (scoring_call_score(scoring, call, &response, &err)) {
        json_t *answer = json_loads(response, JSON_REJECT_DUPLICATES, NULL);
        if (check_scores(json_object_get(answer, "scores")) != scoring_call_scores(call)) abort();
        if (limits.scores && scoring_call_scores(call) > limits.scores) abort();
        json_decref(answer);
        free(response);
    } else if (err.code != CS_USAGE || !*err.message || response) {
        abort();
    }
    scoring_call_destroy(call);
    return 0;
}
