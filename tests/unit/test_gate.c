/* What the gate lets pass and what it refuses, bound by bound; and what a trial of a sealed version finds. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/scoring.h"
#include "daemon/trial.h"
#include "tests/unit/serving_fixture.h"

static const struct config_gate bounds = {
    .max_log_loss_rise = 0.02, .max_auc_drop = 0.03, .max_calibration_error = 0.2, .min_examples = 1000
};

static struct gate_quality good(void)
{
    struct gate_quality quality = { .known = true };
    for (int users = 0; users < USERS_GROUPS; users++)
        quality.users[users] = (struct metrics_report){
            .examples = 5000, .clicks = 500, .log_loss = 0.30, .auc = 0.75, .gauc = 0.7, .calibration = 1.05
        };
    return quality;
}

static struct gate_reasons reasons;

static bool passes(struct gate_quality is, struct gate_quality was)
{
    reasons = (struct gate_reasons){ 0 };
    bool pass = gate_judge(&bounds, &is, &was, &reasons);
    assert_int_equal(pass, reasons.count == 0);
    assert_int_equal(pass, reasons.text[0] == 0);
    return pass;
}

static void each_bound_holds_for_each_group_of_users(void **state)
{
    (void)state;
    assert_true(passes(good(), good()));
    for (int users = 0; users < USERS_GROUPS; users++) {
        const char *name = metrics_users_name[users];
        char text[64];
        struct gate_quality is = good();
        is.users[users].log_loss = 0.3199;
        is.users[users].auc = 0.7201;
        is.users[users].calibration = 1.1999;
        assert_true(passes(is, good()));

        is = good();
        is.users[users].log_loss = 0.3201;
        assert_false(passes(is, good()));
        snprintf(text, sizeof text, "log loss of %s users rose from 0.3000 to 0.3201", name);
        assert_non_null(strstr(reasons.text, text));
        is = good();
        is.users[users].auc = 0.7199;
        assert_false(passes(is, good()));
        snprintf(text, sizeof text, "AUC of %s users fell from 0.7500 to 0.7199", name);
        assert_non_null(strstr(reasons.text, text));
        for (int low = 0; low < 2; low++) {
            is = good();
            is.users[users].calibration = low ? 0.7999 : 1.2001;
            assert_false(passes(is, good()));
            snprintf(text, sizeof text, "calibration of %s users is", name);
            assert_non_null(strstr(reasons.text, text));
        }
        assert_int_equal(reasons.count, 1);
    }
    struct gate_quality is = good();
    for (int users = 0; users < USERS_GROUPS; users++) is.users[users].log_loss = is.users[users].calibration = 2;
    assert_false(passes(is, good()));
    assert_int_equal(reasons.count, 6);
}

static void better_is_never_refused(void **state)
{
    (void)state;
    struct gate_quality was = good(), is = good();
    was.users[USERS_NEW].calibration = 1.5;
    is.users[USERS_NEW].calibration = 1.4;          /* out of bounds, but nearer than what is served */
    is.users[USERS_ALL].log_loss = 0.1;
    is.users[USERS_OLD].auc = 0.99;
    assert_true(passes(is, was));
    is.users[USERS_NEW].calibration = 1.5;          /* as far */
    assert_true(passes(is, was));
    is.users[USERS_NEW].calibration = 0.45;
    assert_false(passes(is, was));
}

static void what_can_not_be_compared_is_not(void **state)
{
    (void)state;
    struct gate_quality bad = good(), unknown = { 0 };
    for (int users = 0; users < USERS_GROUPS; users++) {
        bad.users[users].log_loss = 5;
        bad.users[users].auc = 0.1;
    }
    assert_false(passes(bad, good()));
    assert_true(passes(bad, unknown));              /* the first version */
    struct gate_quality few = bad, was = good();
    for (int users = 0; users < USERS_GROUPS; users++) few.users[users].examples = 999;
    assert_true(passes(few, good()));
    for (int users = 0; users < USERS_GROUPS; users++) was.users[users].examples = 999;
    assert_true(passes(bad, was));
    for (int users = 0; users < USERS_GROUPS; users++) was.users[users].examples = few.users[users].examples = 1000;
    assert_false(passes(few, was));                 /* as many as it takes */
    was = good();
    was.known = false;
    assert_true(passes(bad, was));
    bad = good();
    for (int users = 0; users < USERS_GROUPS; users++) bad.users[users].auc = bad.users[users].calibration = NAN;
    assert_true(passes(bad, good()));               /* no click in the window */
    bad.users[USERS_ALL].log_loss = INFINITY;
    assert_false(passes(bad, unknown));
    bad = good();
    bad.users[USERS_ALL].calibration = 3;           /* needs no reference */
    assert_false(passes(bad, unknown));
}

static void a_bound_of_zero_is_none(void **state)
{
    (void)state;
    const struct config_gate none = { .min_examples = 1 };
    struct gate_quality bad = good();
    bad.users[USERS_ALL] = (struct metrics_report){ .examples = 5000, .log_loss = 9, .auc = 0, .calibration = 50 };
    struct gate_quality was = good();
    reasons = (struct gate_reasons){ 0 };
    assert_true(gate_judge(&none, &bad, &was, &reasons));
}

static void many_reasons_are_cut_off_and_counted(void **state)
{
    (void)state;
    reasons = (struct gate_reasons){ 0 };
    for (int i = 0; i < 500; i++) gate_reason(&reasons, "reason number %d", i);
    assert_int_equal(reasons.count, 500);
    assert_true(strlen(reasons.text) < sizeof reasons.text);
    assert_ptr_equal(strstr(reasons.text, "reason number 0; reason number 1; "), reasons.text);
}

/* A published version's manifest is read for the window's metrics; one that lacks any of them says nothing. */
static void a_manifest_says_the_windows_metrics(void **state)
{
    (void)state;
    static const char report[] = "{\"examples\": %d, \"clicks\": 7, \"log_loss\": 0.25, \"auc\": null, \"gauc\": 0.5, "
                                 "\"calibration\": 1.5}";
    struct fixture fixture = fixture_create();
    struct cs_error err = { 0 };
    for (int lacks = -1; lacks < USERS_GROUPS; lacks++) {
        char manifest[2000] = "{\"examples\": 1234, \"metrics\": {", *end = manifest + strlen(manifest);
        for (int users = 0; users < USERS_GROUPS; users++) {
            end += sprintf(end, "%s\"%s\": {\"%s\": ", users ? ", " : "", metrics_users_name[users],
                           metrics_span_name[SPAN_START]);
            end += sprintf(end, report, 900 + users);
            end += sprintf(end, ", \"%s\": ", lacks == users ? "other" : metrics_span_name[SPAN_WINDOW]);
            end += sprintf(end, report, 100 + users);
            end += sprintf(end, "}");
        }
        sprintf(end, "}}");
        uint64_t version;
        struct checkpoint_writer *writer = checkpoint_begin(fixture.directory, &err);
        if (!writer || !checkpoint_finish(writer, manifest, 9, &version, &err)) fail_msg("%s", err.message);
        struct gate_quality quality = gate_quality_of(fixture.directory, version);
        assert_int_equal(quality.known, lacks < 0);
        if (lacks >= 0) continue;
        assert_int_equal(quality.examples, 1234);
        for (int users = 0; users < USERS_GROUPS; users++) {
            assert_int_equal(quality.users[users].examples, 100 + users);
            assert_int_equal(quality.users[users].clicks, 7);
            assert_true(quality.users[users].log_loss == 0.25 && isnan(quality.users[users].auc));
            assert_true(quality.users[users].gauc == 0.5 && quality.users[users].calibration == 1.5);
        }
    }
    assert_false(gate_quality_of(fixture.directory, 0).known);
    assert_false(gate_quality_of(fixture.directory, 77).known);
    fixture_destroy(&fixture);
}

/* ---- trials: a version that the fixture seals, with what the test puts into it */

struct sealed { struct checkpoint_writer *writer; struct gate_reasons reasons; };

static bool broken_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    if (tensor->role != TENSOR_SCORING) return true;
    struct tensor copy = *tensor;
    float *data = malloc(tensor_bytes(tensor));
    memcpy(data, tensor->data, tensor_bytes(tensor));
    if (strcmp(tensor->name, "ranking.output.bias") == 0) data[0] = NAN;
    copy.data = data;
    bool ok = checkpoint_tensor(self, &copy, err);
    free(data);
    return ok;
}

static struct checkpoint_writer *seal(const struct fixture *fixture, bool tensor, float value, const char *config)
{
    struct cs_error err = { 0 };
    struct model *model = fixture_model(fixture, 3);
    char *text = config_model_text(fixture->config);
    struct checkpoint_writer *writer = checkpoint_begin(fixture->directory, &err);
    if (!writer || !checkpoint_meta(writer, "config", config ? config : text, &err) ||
        !model_tensors(model, tensor ? broken_tensor : fixture_tensor, writer, &err))
        fail_msg("%s", err.message);
    float row[8] = { 0.1f, -0.2f, 0.3f, value, 0, 0, 0, 0 };
    for (uint64_t key = 1; key <= 4; key++) assert_true(checkpoint_row(writer, "item", key, row, 8, &err));
    if (!checkpoint_seal(writer, "{}", &err)) fail_msg("%s", err.message);
    model_destroy(model);
    free(text);
    return writer;
}

static void try(const struct fixture *fixture, struct checkpoint_writer *writer, const struct probe_scores *probe)
{
    struct cs_error err = { 0 };
    (void)fixture;
    reasons = (struct gate_reasons){ 0 };
    if (!trial_run(checkpoint_candidate(writer), probe, &reasons, &err)) fail_msg("%s", err.message);
    checkpoint_abandon(writer);
}

static void a_trial_finds_numbers_that_are_none(void **state)
{
    (void)state;
    struct fixture fixture = fixture_create();
    try(&fixture, seal(&fixture, false, 0.5f, NULL), NULL);
    assert_int_equal(reasons.count, 0);
    try(&fixture, seal(&fixture, true, 0.5f, NULL), NULL);
    assert_string_equal(reasons.text, "tensor ranking.output.bias: element 0 is nan");
    try(&fixture, seal(&fixture, false, INFINITY, NULL), NULL);
    assert_string_equal(reasons.text, "table item, row 0000000000000001: element 3 is inf");
    fixture_destroy(&fixture);
}

static void a_trial_finds_what_no_reader_could_open(void **state)
{
    (void)state;
    struct fixture fixture = fixture_create();
    try(&fixture, seal(&fixture, false, 0.5f, "features: {user: [{name: age}]}\nembedding: {dimension: 4}\n"), NULL);
    assert_int_equal(reasons.count, 1);
    assert_non_null(strstr(reasons.text, "it can't be opened: "));
    fixture_destroy(&fixture);
}

static struct probe_scores *probe_of(const struct fixture *fixture)
{
    struct cs_error err = { 0 };
    struct checkpoint_writer *writer = seal(fixture, false, 0.5f, NULL);
    struct checkpoint *checkpoint = checkpoint_open(checkpoint_candidate(writer), false, &err);
    struct scorer *scorer = checkpoint ? scorer_create(checkpoint, &err) : NULL;
    struct scoring *scoring = scorer ? scoring_create(scorer, &err) : NULL;
    if (!scoring) fail_msg("%s", err.message);
    struct probe_scores *probe = calloc(1, sizeof *probe);
    for (; probe->count < 5; probe->count++) {
        struct example *example = example_create(fixture->features, 0, probe->count, 1);
        for (size_t i = 0; i < probe->count; i++) example_behaviors(example)[i] = 1 + i;
        example_keys(example)[0] = 1 + probe->count;
        for (size_t i = 0; i < fixture->features->count; i++)
            if (strcmp(fixture->features->feature[i].name, "item_id") == 0)
                example_keys_of(example)[fixture->features->feature[i].column] = 1;
        probe->example[probe->count] = example;
    }
    scoring_examples(scoring, probe->example, probe->count, probe->score);
    scoring_destroy(scoring);
    scorer_destroy(scorer);
    checkpoint_abandon(writer);
    return probe;
}

static void a_trial_finds_scores_that_differ(void **state)
{
    (void)state;
    struct fixture fixture = fixture_create();
    struct probe_scores *probe = probe_of(&fixture);
    try(&fixture, seal(&fixture, false, 0.5f, NULL), probe);
    assert_int_equal(reasons.count, 0);
    try(&fixture, seal(&fixture, false, 0.6f, NULL), probe);        /* another row than the learner had */
    assert_int_equal(reasons.count, 1);
    assert_non_null(strstr(reasons.text, "probes score otherwise than the learner"));
    probe->score[2] += 2e-5f;
    try(&fixture, seal(&fixture, false, 0.5f, NULL), probe);
    assert_non_null(strstr(reasons.text, "1 of 5 probes"));
    probe->score[2] = NAN;
    try(&fixture, seal(&fixture, false, 0.5f, NULL), probe);
    assert_non_null(strstr(reasons.text, "1 of 5 probes"));
    probe_scores_destroy(probe);
    fixture_destroy(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_bound_holds_for_each_group_of_users),
        cmocka_unit_test(better_is_never_refused),
        cmocka_unit_test(what_can_not_be_compared_is_not),
        cmocka_unit_test(a_bound_of_zero_is_none),
        cmocka_unit_test(many_reasons_are_cut_off_and_counted),
        cmocka_unit_test(a_manifest_says_the_windows_metrics),
        cmocka_unit_test(a_trial_finds_numbers_that_are_none),
        cmocka_unit_test(a_trial_finds_what_no_reader_could_open),
        cmocka_unit_test(a_trial_finds_scores_that_differ),
    };
    return cmocka_run_group_tests_name("gate", tests, NULL, NULL);
}
