/* From a cut to a version, and what who asked for one is told. */
#include "tests/unit/snapshot_fixture.h"

#include <pthread.h>

#include "daemon/publish.h"

struct asker { struct publisher *publisher; bool done; uint64_t version; struct cs_error err; };

static void *ask(void *argument)
{
    struct asker *asker = argument;
    asker->done = publisher_publish(asker->publisher, &asker->version, &asker->err);
    return NULL;
}

/* The daemon's last cut takes what was asked for along, and makes no version. */
static void who_asks_while_it_stops_is_told_so(void **state)
{
    struct cs_error err = { 0 };
    char *const directory = *state, checkpoints[300];
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", directory);
    struct cs_config config = { .snapshot = { .directory = directory, .interval = INT64_MAX / 2, .pace = 1 },
                                .checkpoint = { .directory = checkpoints, .interval = INT64_MAX / 2 } };
    struct snapshot_store *store = open_store(directory);
    struct telemetry *telemetry = telemetry_create();
    struct publisher *publisher = publisher_create(&config, store, NULL, telemetry, 1, &err);
    if (!publisher) fail_msg("%s", err.message);
    struct asker asker = { .publisher = publisher };
    pthread_t thread;
    struct cut *cut;
    pthread_create(&thread, NULL, ask, &asker);
    while (!(cut = publisher_begin_if_due(publisher, false))) {}
    assert_true(cut->publish);
    cut->final = true;
    publisher_submit(publisher, cut);
    pthread_join(thread, NULL);
    assert_false(asker.done);
    assert_string_equal(asker.err.message, "no version is made: the daemon is stopping");
    publisher_finish(publisher);
    assert_int_equal(publisher_view(publisher).snapshots, 1);
    publisher_destroy(publisher);
    telemetry_destroy(telemetry);
    snapshot_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(who_asks_while_it_stops_is_told_so, fresh_directory, release),
    };
    if (!make_root(false)) return 1;
    return run_and_clean(cmocka_run_group_tests(tests, NULL, NULL));
}
