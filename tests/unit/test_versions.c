/* Rollback, hold and pins, also across restarts and where a crash came between two steps. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/versions.h"
#include "tests/unit/serving_fixture.h"

struct world {
    struct fixture fixture;
    struct cs_config config;
    struct telemetry *telemetry;
    struct versions *versions;
};

static void open_versions(struct world *world)
{
    struct cs_error err = { 0 };
    versions_close(world->versions);
    world->versions = versions_open(&world->config, NULL, world->telemetry, &err);
    if (!world->versions) fail_msg("%s", err.message);
}

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    world->fixture = fixture_create();
    world->config.checkpoint.directory = world->fixture.directory;
    world->telemetry = telemetry_create();
    for (uint64_t seed = 1; seed <= 3; seed++) assert_int_equal(fixture_publish(&world->fixture, seed), seed);
    open_versions(world);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;
    versions_close(world->versions);
    telemetry_destroy(world->telemetry);
    fixture_destroy(&world->fixture);
    free(world);
    return 0;
}

static struct checkpoint_writer *sealed(struct world *world)
{
    struct cs_error err = { 0 };
    struct checkpoint_writer *writer = checkpoint_begin(world->fixture.directory, &err);
    if (!writer || !checkpoint_seal(writer, "{}", &err)) fail_msg("%s", err.message);
    return writer;
}

static uint64_t current(struct world *world)
{
    uint64_t version = checkpoint_current(world->fixture.directory);
    assert_int_equal(versions_view(world->versions).current, version);
    return version;
}

static bool accepts(struct world *world, uint64_t wanted)
{
    struct cs_error err = { 0 };
    uint64_t version = 0;
    bool ok = versions_accept(world->versions, sealed(world), 100, 0, &version, &err);
    if (ok) assert_int_equal(version, wanted);
    else assert_non_null(strstr(err.message, "nothing is published until `coldstreamctl resume`: rolled back from"));
    return ok;
}

static uint64_t back(struct world *world, uint64_t version)
{
    struct cs_error err = { 0 };
    uint64_t now = 0;
    if (!versions_rollback(world->versions, version, ROLLBACK_BY_OPERATOR, "", &now, &err)) return 0;
    assert_int_equal(current(world), now);
    assert_true(versions_view(world->versions).held);
    return now;
}

static void nothing_is_published_until_resume_also_after_a_restart(void **state)
{
    struct world *world = *state;
    struct cs_error err = { 0 };
    assert_int_equal(versions_watched(world->versions), 3);
    assert_int_equal(back(world, 0), 2);
    assert_int_equal(versions_watched(world->versions), 0);
    assert_false(accepts(world, 0));
    open_versions(world);
    assert_true(versions_view(world->versions).held);
    assert_non_null(strstr(versions_view(world->versions).hold, "rolled back from 3 to 2 at 20"));
    assert_true(telemetry_get(world->telemetry, METRIC_PUBLISH_HELD, NULL) == 1);
    assert_false(accepts(world, 0));
    assert_int_equal(current(world), 2);
    assert_true(versions_release(world->versions, &err));
    assert_true(versions_release(world->versions, &err));
    assert_int_equal(versions_watched(world->versions), 0);     /* it was judged in its own time */
    open_versions(world);
    assert_false(versions_view(world->versions).held);
    assert_true(telemetry_get(world->telemetry, METRIC_PUBLISH_HELD, NULL) == 0);
    assert_true(accepts(world, 4));
    assert_int_equal(versions_watched(world->versions), 4);
}

static void a_version_that_was_left_is_not_gone_back_to(void **state)
{
    struct world *world = *state;
    struct cs_error err = { 0 };
    assert_int_equal(back(world, 0), 2);
    assert_true(checkpoint_is_marked(world->fixture.directory, 3, CHECKPOINT_WITHDRAWN));
    assert_true(checkpoint_is_marked(world->fixture.directory, 2, CHECKPOINT_FROZEN));
    assert_true(versions_release(world->versions, &err));
    assert_true(accepts(world, 4));
    assert_int_equal(back(world, 0), 2);        /* not 3 */
    assert_int_equal(back(world, 3), 3);        /* but by its name */
    assert_false(checkpoint_is_marked(world->fixture.directory, 3, CHECKPOINT_WITHDRAWN));
    assert_false(checkpoint_is_marked(world->fixture.directory, 2, CHECKPOINT_WITHDRAWN));  /* forward: 2 is not bad */
    assert_int_equal(back(world, 3), 3);        /* a hold alone */
    assert_false(checkpoint_is_marked(world->fixture.directory, 3, CHECKPOINT_WITHDRAWN));
    assert_int_equal(back(world, 1), 1);
    assert_int_equal(back(world, 0), 0);
    assert_true(telemetry_get(world->telemetry, METRIC_ROLLBACKS, TELEMETRY_LABELS("operator")) == 5);
}

static void a_version_that_is_not_there_or_refused_is_said(void **state)
{
    struct world *world = *state;
    struct cs_error err = { 0 };
    uint64_t now, refused;
    assert_true(checkpoint_refuse(sealed(world), "AUC fell", 3, &refused, &err));
    assert_int_equal(refused, 4);
    assert_false(versions_rollback(world->versions, 9, ROLLBACK_BY_OPERATOR, "", &now, &err));
    assert_non_null(strstr(err.message, "has no version 9; there are 1, 2, 3"));
    assert_false(versions_rollback(world->versions, 4, ROLLBACK_BY_OPERATOR, "", &now, &err));
    assert_non_null(strstr(err.message, "version 4 was refused"));
    assert_false(versions_pin(world->versions, 9, true, &err));
    assert_int_equal(current(world), 3);
    assert_false(versions_view(world->versions).held);
}

static void damage(struct world *world, int version)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%020d/data.mdb", world->fixture.directory, version);
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    fseek(file, -1000, SEEK_END);
    fputs("damage", file);
    fclose(file);
}

static void a_damaged_version_is_not_gone_back_to(void **state)
{
    struct world *world = *state;
    struct cs_error err = { 0 };
    uint64_t now;
    damage(world, 2);
    assert_false(versions_rollback(world->versions, 0, ROLLBACK_BY_OPERATOR, "", &now, &err));
    assert_int_equal(err.code, CS_REFUSED);
    assert_non_null(strstr(err.message, "no rollback to version 2"));
    assert_int_equal(current(world), 3);
    assert_false(versions_view(world->versions).held);
    assert_int_equal(back(world, 1), 1);
}

static void the_gate_goes_back_to_what_is_intact_and_never_after_an_operator(void **state)
{
    struct world *world = *state;
    struct cs_error err = { 0 };
    uint64_t now;
    damage(world, 2);
    assert_true(versions_rollback(world->versions, 0, ROLLBACK_BY_GATE, "AUC fell", &now, &err));
    assert_int_equal(now, 1);
    assert_non_null(strstr(versions_view(world->versions).hold, "(automatic: AUC fell)"));
    assert_int_equal(back(world, 3), 3);
    assert_false(versions_rollback(world->versions, 0, ROLLBACK_BY_GATE, "AUC fell", &now, &err));
    assert_true(versions_release(world->versions, &err));
    assert_int_equal(back(world, 1), 1);
    assert_true(versions_release(world->versions, &err));
    assert_false(versions_rollback(world->versions, 0, ROLLBACK_BY_GATE, "AUC fell", &now, &err));
    assert_int_equal(current(world), 1);
}

/* The hold is on disk before anything else moves: a process killed right after it is completed by the next. */
static void an_interrupted_rollback_is_completed(void **state)
{
    struct world *world = *state;
    struct cs_error err = { 0 };
    char path[128];
    snprintf(path, sizeof path, "%s/held.json", world->fixture.directory);
    FILE *file = fopen(path, "w");
    fprintf(file, "{\"from\":3,\"to\":1,\"time\":1700000000000,\"cause\":\"operator\",\"reason\":\"\"}");
    fclose(file);
    open_versions(world);
    assert_int_equal(current(world), 1);
    assert_true(versions_view(world->versions).held);
    assert_true(checkpoint_is_marked(world->fixture.directory, 3, CHECKPOINT_WITHDRAWN));
    assert_true(checkpoint_repoint(world->fixture.directory, 2, &err));      /* by hand: left as it is */
    open_versions(world);
    assert_int_equal(current(world), 2);
    assert_true(versions_view(world->versions).held);

    file = fopen(path, "w");
    fputs("{\"from\":3,", file);
    fclose(file);
    versions_close(world->versions);
    world->versions = NULL;
    assert_null(versions_open(&world->config, NULL, world->telemetry, &err));
    assert_int_equal(err.code, CS_REFUSED);
    assert_non_null(strstr(err.message, "remove the file if it may go on"));
    unlink(path);
}

/* The hold comes first: where it can't be noted, nothing moves. */
static void a_hold_that_can_not_be_noted_leaves_all_as_it_was(void **state)
{
    struct world *world = *state;
    struct cs_error err = { 0 };
    char path[128];
    uint64_t now;
    snprintf(path, sizeof path, "%s/held.json", world->fixture.directory);
    assert_int_equal(mkdir(path, 0750), 0);             /* where the note is to stand */
    assert_false(versions_rollback(world->versions, 2, ROLLBACK_BY_OPERATOR, "", &now, &err));
    assert_non_null(strstr(err.message, "publishing is held"));
    assert_int_equal(current(world), 3);
    assert_false(versions_view(world->versions).held);
    assert_false(checkpoint_is_marked(world->fixture.directory, 3, CHECKPOINT_WITHDRAWN));
    assert_false(checkpoint_is_marked(world->fixture.directory, 2, CHECKPOINT_FROZEN));
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(back(world, 2), 2);
}

/* A rollback that was done is not done, counted and told again by each start. */
static void a_rollback_is_counted_once(void **state)
{
    struct world *world = *state;
    for (uint64_t version = 3; version >= 2; version--) {       /* a hold alone; one that moves */
        assert_int_equal(back(world, version), version);
        double counted = telemetry_get(world->telemetry, METRIC_ROLLBACKS, TELEMETRY_LABELS("operator"));
        open_versions(world);
        assert_int_equal(current(world), version);
        assert_true(telemetry_get(world->telemetry, METRIC_ROLLBACKS, TELEMETRY_LABELS("operator")) == counted);
    }
}

static void pins_are_told_and_kept(void **state)
{
    struct world *world = *state;
    struct cs_error err = { 0 };
    uint64_t *version = NULL, accepted;
    assert_true(versions_pin(world->versions, 1, true, &err));
    assert_true(versions_pin(world->versions, 3, true, &err));
    assert_true(versions_pin(world->versions, 3, false, &err));
    for (int i = 0; i < 3; i++)
        assert_true(versions_accept(world->versions, sealed(world), 1, 0, &accepted, &err));
    assert_int_equal(versions_pinned(world->versions, &version), 1);
    assert_int_equal(version[0], 1);
    free(version);
    assert_true(checkpoint_list(world->fixture.directory, &version, &(size_t){ 0 }, &err));
    assert_int_equal(version[0], 1);
    assert_int_equal(version[1], 5);
    free(version);
}

/* Versions of two models in one directory would have readers jump between them. */
static void a_directory_is_one_daemons(void **state)
{
    struct world *world = *state;
    struct cs_error err = { 0 };
    assert_null(versions_open(&world->config, NULL, world->telemetry, &err));
    assert_int_equal(err.code, CS_FENCED);
    assert_non_null(strstr(err.message, world->fixture.directory));
    open_versions(world);                               /* once the other has gone */

    char later[160];                                    /* not made before the first version is */
    snprintf(later, sizeof later, "%s/later", world->fixture.directory);
    world->config.checkpoint.directory = later;
    struct versions *first = versions_open(&world->config, NULL, world->telemetry, &err);
    struct versions *second = versions_open(&world->config, NULL, world->telemetry, &err);
    uint64_t version;
    assert_non_null(first);
    assert_non_null(second);
    struct checkpoint_writer *candidate[2];
    for (int i = 0; i < 2; i++) {
        candidate[i] = checkpoint_begin(later, &err);
        assert_true(checkpoint_seal(candidate[i], "{}", &err));
    }
    assert_true(versions_accept(first, candidate[0], 1, 0, &version, &err));
    assert_false(versions_accept(second, candidate[1], 1, 0, &version, &err));
    assert_int_equal(err.code, CS_FENCED);
    assert_int_equal(checkpoint_current(later), 1);
    versions_close(first);
    versions_close(second);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_published_until_resume_also_after_a_restart),
        TEST(a_version_that_was_left_is_not_gone_back_to),
        TEST(a_version_that_is_not_there_or_refused_is_said),
        TEST(a_damaged_version_is_not_gone_back_to),
        TEST(the_gate_goes_back_to_what_is_intact_and_never_after_an_operator),
        TEST(an_interrupted_rollback_is_completed),
        TEST(a_hold_that_can_not_be_noted_leaves_all_as_it_was),
        TEST(a_rollback_is_counted_once),
        TEST(pins_are_told_and_kept),
        TEST(a_directory_is_one_daemons),
    };
    return cmocka_run_group_tests_name("versions", tests, NULL, NULL);
}
