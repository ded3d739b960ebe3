/* What an operator does with snapshots: verify, backup, restore, migrate, and starting on a damaged one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/flow/mock_broker.h"

enum { IMPRESSIONS = 3000, PARTITIONS = 2 };
static const int64_t BEGIN = 1700000000000;

struct world { struct mock_broker *broker; struct daemon_run run; char said[65536]; };

static void produce(struct mock_broker *broker, int begin, int end, const char *user_more)
{
    char text[1024];
    for (int i = begin; i < end; i++) {
        unsigned dice = (unsigned)i * 2654435761u >> 8, user = dice % 97, item = dice / 97 % 50;
        int length = snprintf(
            text, sizeof text,
            "{\"event\":\"impression\",\"impression_id\":\"r%d\",\"ts\":%lld,\"user_id\":\"u%u\",\"user\":{\"age\":%u,"
            "\"city\":\"c%u\"%s},\"behaviors\":[%s],\"context\":{\"hour\":%d},\"item_id\":\"i%u\",\"item\":{"
            "\"category\":\"k%u\"}}",
            i, (long long)BEGIN + i * 20, user, 18 + user % 50, user % 7, user_more,
            user % 4 ? "\"i1\",\"i7\",\"i3\"" : "", i / 100 % 24, item, item % 5);
        mock_broker_produce(broker, "impressions", (int)(user % PARTITIONS), text, length);
        if ((item + user) % 3) continue;
        length = snprintf(text, sizeof text, "{\"event\":\"click\",\"impression_id\":\"r%d\",\"ts\":%lld}", i,
                          (long long)BEGIN + i * 20 + 300);
        mock_broker_produce(broker, "clicks", 0, text, length);
    }
    mock_broker_flush(broker);
}

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    world->broker = mock_broker_create();
    daemon_prepare(&world->run);
    mock_broker_topic(world->broker, "impressions", PARTITIONS);
    mock_broker_topic(world->broker, "clicks", 1);
    mock_broker_topic(world->broker, "impressions.dlq", 1);
    mock_broker_topic(world->broker, "clicks.dlq", 1);
    *state = world;
    return 0;
}

static bool examples(const json_t *status, int64_t count) { return status_number(status, "examples.all") >= count; }

/* coldstreamctl's exit code; all it says is in world->said. */
static int tool(struct world *world, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int tool(struct world *world, const char *format, ...)
{
    char words[1500], command[2000];
    const char *build = getenv("BUILD");
    va_list list;
    va_start(list, format);
    vsnprintf(words, sizeof words, format, list);
    va_end(list);
    snprintf(command, sizeof command, "%s/coldstreamctl %s 2>&1", build ? build : "build", words);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    world->said[fread(world->said, 1, sizeof world->said - 1, pipe)] = '\0';
    int status = pclose(pipe);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void said(const struct world *world, const char *text)
{
    if (!strstr(world->said, text)) fail_msg("not said: \"%s\", but: %s", text, world->said);
}

static void log_says(const struct world *world, const char *text)
{
    char *log = calloc(1, 1 << 20);
    FILE *file = fopen(world->run.log, "r");
    assert_non_null(file);
    log[fread(log, 1, (1 << 20) - 1, file)] = '\0';
    fclose(file);
    bool found = strstr(log, text) != NULL;
    if (!found) fprintf(stderr, "%s", log + (strlen(log) > 4000 ? strlen(log) - 4000 : 0));
    free(log);
    if (!found) fail_msg("the log does not say \"%s\"", text);
}

static uint64_t digest_of(const struct world *world, const char *directory)
{
    struct daemon_run other = world->run;
    snprintf(other.snapshot, sizeof other.snapshot, "%s", directory);
    return daemon_digest(&other);
}

static void learn_some(struct world *world)
{
    produce(world->broker, 0, IMPRESSIONS, "");
    daemon_configure(&world->run, world->broker, &(struct daemon_settings){ .idle_after = "1h" });
    daemon_start(&world->run);
    assert_true(daemon_until(&world->run, examples, IMPRESSIONS / 2));
}

static void take_snapshot(struct world *world)
{
    json_t *result = daemon_ask(&world->run, "snapshot", NULL);
    assert_non_null(result);
    assert_true(status_number(result, "bytes") > 0);
    json_decref(result);
}

static void a_backup_of_a_running_daemon_brings_its_state_back(void **state)
{
    struct world *world = *state;
    struct daemon_run *run = &world->run;
    char backup[160], moved[160] = "";
    learn_some(world);
    take_snapshot(world);
    snprintf(backup, sizeof backup, "%s/backup", run->directory);
    assert_int_equal(tool(world, "backup --config %s %s", run->config, backup), 0);
    said(world, "read back and compared");
    assert_int_equal(tool(world, "backup %s %s", run->snapshot, backup), 1);       /* never over another one */
    assert_int_equal(tool(world, "verify %s", backup), 0);
    said(world, "snapshot: whole");
    assert_int_equal(tool(world, "verify --config %s", run->config), 0);
    uint64_t digest = digest_of(world, run->snapshot);
    assert_int_equal(digest_of(world, backup), digest);
    assert_int_equal(tool(world, "restore %s %s", backup, run->snapshot), 76);      /* its daemon is running */
    said(world, "in use by process");

    produce(world->broker, IMPRESSIONS, 2 * IMPRESSIONS, "");
    assert_true(daemon_until(run, examples, IMPRESSIONS * 3 / 2));
    assert_int_equal(daemon_stop(run, SIGTERM), 0);
    uint64_t later = daemon_digest(run);
    assert_int_not_equal(later, digest);
    assert_int_equal(tool(world, "restore %s %s", backup, run->snapshot), 65);
    said(world, "--force");
    assert_int_equal(daemon_digest(run), later);
    assert_int_equal(tool(world, "restore --force %s --config %s", backup, run->config), 0);
    assert_int_equal(daemon_digest(run), digest);
    const char *at = strstr(world->said, "is now in ");
    assert_non_null(at);
    sscanf(at, "is now in %159s", moved);
    assert_int_equal(digest_of(world, moved), later);

    /* What came after the backup is learned again: the same state as the one moved away. */
    daemon_start(run);
    assert_true(daemon_until(run, examples, IMPRESSIONS * 3 / 2));
    assert_int_equal(daemon_stop(run, SIGTERM), 0);
    daemon_configure(run, world->broker, &(struct daemon_settings){ 0 });
    daemon_start(run);
    assert_true(daemon_until(run, examples, 2 * IMPRESSIONS));
    assert_int_equal(daemon_stop(run, SIGTERM), 0);
    digest = daemon_digest(run);
    assert_int_equal(tool(world, "restore --force %s %s", moved, run->snapshot), 0);
    daemon_start(run);
    assert_true(daemon_until(run, examples, 2 * IMPRESSIONS));
    assert_int_equal(daemon_stop(run, SIGTERM), 0);
    assert_int_equal(daemon_digest(run), digest);
}

static void a_restore_fills_an_empty_directory_only_with_a_whole_backup(void **state)
{
    struct world *world = *state;
    struct daemon_run *run = &world->run;
    char empty[160];
    struct stat status;
    learn_some(world);
    assert_int_equal(daemon_stop(run, SIGTERM), 0);
    snprintf(empty, sizeof empty, "%s/empty", run->directory);
    assert_int_equal(mkdir(empty, 0710), 0);
    assert_int_equal(tool(world, "restore %s %s", empty, run->snapshot), 65);       /* no snapshot at all */
    assert_int_equal(tool(world, "restore %s/nowhere %s", run->directory, empty), 1);
    assert_int_equal(tool(world, "restore %s %s", run->snapshot, empty), 0);
    assert_int_equal(digest_of(world, empty), daemon_digest(run));
    assert_int_equal(stat(empty, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0710);
    assert_int_equal(tool(world, "restore %s", run->snapshot), 2);
    assert_int_equal(tool(world, "backup %s %s --config %s", run->snapshot, empty, run->config), 2);
}

static void a_feature_that_comes_is_migrated(void **state)
{
    struct world *world = *state;
    struct daemon_run *run = &world->run;
    char migrated[160], old[160], same[160], first[160], second[160];
    learn_some(world);
    assert_int_equal(daemon_stop(run, SIGTERM), 0);
    uint64_t digest = daemon_digest(run);
    snprintf(same, sizeof same, "%s/same", run->directory);
    assert_int_equal(tool(world, "migrate --config %s --from %s --to %s", run->config, run->snapshot, same), 0);
    said(world, "no difference");
    assert_int_equal(digest_of(world, same), digest);
    snprintf(first, sizeof first, "%s/first.safetensors", run->directory);
    snprintf(second, sizeof second, "%s/second.safetensors", run->directory);
    assert_int_equal(tool(world, "export --from %s %s", run->snapshot, first), 0);
    assert_int_equal(tool(world, "export --from %s %s", same, second), 0);
    char compare[400];
    snprintf(compare, sizeof compare, "cmp -s %s %s", first, second);
    assert_int_equal(system(compare), 0);

    daemon_configure(run, world->broker, &(struct daemon_settings){ .extra_user = ", {name: plan}" });
    daemon_start(run);
    assert_int_equal(daemon_wait(run), 65);
    log_says(world, "features.user: plan here, not there");
    log_says(world, "coldstreamctl migrate");
    snprintf(migrated, sizeof migrated, "%s/migrated", run->directory);
    assert_int_equal(tool(world, "migrate --config %s --from %s --to %s", run->config, run->snapshot, migrated), 0);
    said(world, "plan here, not there");
    assert_int_equal(daemon_digest(run), digest);       /* only read */
    assert_int_equal(tool(world, "migrate --config %s --from %s --to %s", run->config, run->snapshot, migrated), 65);

    snprintf(old, sizeof old, "%s/old", run->directory);
    assert_int_equal(rename(run->snapshot, old), 0);
    assert_int_equal(rename(migrated, run->snapshot), 0);
    produce(world->broker, IMPRESSIONS, 2 * IMPRESSIONS, ",\"plan\":\"gold\"");
    daemon_start(run);
    assert_true(daemon_until(run, examples, 2 * IMPRESSIONS));
    json_t *status = daemon_ask(run, "status", NULL);
    assert_int_equal(status_number(status, "examples.all"), 2 * IMPRESSIONS);       /* none lost, none twice */
    assert_int_equal(status_number(status, "join.impressions"), 2 * IMPRESSIONS);
    assert_int_equal(status_number(status, "tables.plan.rows"), 1);
    json_decref(status);
    assert_int_equal(daemon_stop(run, SIGTERM), 0);

    /* And back: what the feature has learned is left behind. */
    char again[160];
    daemon_configure(run, world->broker, &(struct daemon_settings){ 0 });
    snprintf(again, sizeof again, "%s/again", run->directory);
    assert_int_equal(tool(world, "migrate --config %s --from %s --to %s", run->config, run->snapshot, again), 0);
    said(world, "table plan: its 1 rows are left behind");
}

static void what_can_not_be_migrated_is_said(void **state)
{
    struct world *world = *state;
    struct daemon_run *run = &world->run;
    learn_some(world);
    assert_int_equal(daemon_stop(run, SIGTERM), 0);
    daemon_configure(run, world->broker, &(struct daemon_settings){ .extra_model = ", losses: single" });
    int code = tool(world, "migrate --config %s --from %s --to %s/new", run->config, run->snapshot, run->directory);
    assert_int_equal(code, 65);
    said(world, "model.zero_shot.losses: full there, single here");
    daemon_start(run);
    assert_int_equal(daemon_wait(run), 65);
    log_says(world, "model.zero_shot.losses: full there, single here");
}

static void flip(const char *path, long at)
{
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    int byte = fgetc(file);
    assert_int_equal(fseek(file, -1, SEEK_CUR), 0);
    fputc(byte ^ 16, file);
    assert_int_equal(fclose(file), 0);
}

static void newest_segment(const struct world *world, char path[200])
{
    char folder[160], name[32] = "";
    snprintf(folder, sizeof folder, "%s/segments", world->run.snapshot);
    DIR *stream = opendir(folder);
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream));)
        if (strcmp(entry->d_name, name) > 0) snprintf(name, sizeof name, "%.31s", entry->d_name);
    closedir(stream);
    snprintf(path, 200, "%s/%s", folder, name);
}

static void a_damaged_snapshot_is_refused_or_the_one_before_is_taken(void **state)
{
    struct world *world = *state;
    struct daemon_run *run = &world->run;
    char segment[200];
    learn_some(world);
    take_snapshot(world);
    uint64_t digest = daemon_digest(run);
    produce(world->broker, IMPRESSIONS, 2 * IMPRESSIONS, "");
    assert_true(daemon_until(run, examples, IMPRESSIONS * 3 / 2));
    assert_int_equal(daemon_stop(run, SIGTERM), 0);
    assert_int_not_equal(daemon_digest(run), digest);
    newest_segment(world, segment);
    flip(segment, 200);

    assert_int_equal(tool(world, "verify %s", run->snapshot), 65);
    said(world, strrchr(segment, '/') + 1);
    daemon_start(run);
    assert_int_equal(daemon_wait(run), 65);
    log_says(world, strrchr(segment, '/') + 1);
    log_says(world, "snapshot.on_damage: previous");

    daemon_configure(run, world->broker, &(struct daemon_settings){ .extra_snapshot = ", on_damage: previous" });
    daemon_start(run);
    assert_true(daemon_until(run, examples, 2 * IMPRESSIONS));
    log_says(world, "the newest snapshot is damaged");
    json_t *status = daemon_ask(run, "status", NULL);
    assert_int_equal(status_number(status, "examples.all"), 2 * IMPRESSIONS);
    json_decref(status);
    assert_int_equal(daemon_stop(run, SIGTERM), 0);
    assert_int_equal(tool(world, "verify %s", run->snapshot), 0);
}

static bool is_state(const json_t *status, const char *state)
{
    return strcmp(json_string_value(json_object_get(status, "state")), state) == 0;
}
static bool held(const json_t *status, int64_t argument) { (void)argument; return is_state(status, "held"); }
static bool runs(const json_t *status, int64_t argument) { (void)argument; return is_state(status, "running"); }

/* Nobody asks again: the interval is an hour. */
static void reading_is_held_by_three_failures_and_goes_on_by_itself(void **state)
{
    struct world *world = *state;
    struct daemon_run *run = &world->run;
    char segments[160], away[160];
    learn_some(world);
    take_snapshot(world);
    snprintf(segments, sizeof segments, "%s/segments", run->snapshot);
    snprintf(away, sizeof away, "%s/away", run->snapshot);
    assert_int_equal(rename(segments, away), 0);
    for (int i = 0; i < 3; i++) assert_null(daemon_ask(run, "snapshot", NULL));
    assert_true(daemon_until(run, held, 0));
    json_t *status = daemon_ask(run, "status", NULL);
    assert_int_equal(status_number(status, "snapshot.failures_in_row"), 3);
    assert_int_equal(status_number(status, "snapshot.committed"), 1);
    json_decref(status);
    log_says(world, "reading is paused until a snapshot succeeds");
    produce(world->broker, IMPRESSIONS, 2 * IMPRESSIONS, "");
    assert_int_equal(rename(away, segments), 0);
    assert_true(daemon_until(run, runs, 0));
    log_says(world, "a snapshot succeeded: reading goes on");
    assert_true(daemon_until(run, examples, IMPRESSIONS * 3 / 2));
    status = daemon_ask(run, "status", NULL);
    assert_int_equal(status_number(status, "snapshot.failures_in_row"), 0);
    assert_int_equal(status_number(status, "snapshot.committed"), 2);
    assert_true(status_number(status, "snapshot.disk_bytes") >= status_number(status, "snapshot.live_bytes"));
    json_decref(status);
    assert_int_equal(daemon_stop(run, SIGTERM), 0);
    assert_int_equal(tool(world, "verify %s", run->snapshot), 0);
}

static void a_checkpoint_without_its_data_is_damaged(void **state)
{
    struct world *world = *state;
    char data[200];
    learn_some(world);
    json_t *result = daemon_ask(&world->run, "publish", NULL);
    assert_non_null(result);
    snprintf(data, sizeof data, "%s/%020lld/data.mdb", world->run.checkpoints,
             (long long)status_number(result, "version"));
    json_decref(result);
    assert_int_equal(tool(world, "verify %s", world->run.checkpoints), 0);
    said(world, "checkpoint: whole");
    assert_int_equal(unlink(data), 0);
    assert_int_equal(tool(world, "verify %s", world->run.checkpoints), 65);
    said(world, "no data.mdb");
    assert_int_equal(daemon_stop(&world->run, SIGTERM), 0);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_backup_of_a_running_daemon_brings_its_state_back, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(a_restore_fills_an_empty_directory_only_with_a_whole_backup, setup,
                                        flow_teardown),
        cmocka_unit_test_setup_teardown(a_feature_that_comes_is_migrated, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(what_can_not_be_migrated_is_said, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(a_damaged_snapshot_is_refused_or_the_one_before_is_taken, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(reading_is_held_by_three_failures_and_goes_on_by_itself, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(a_checkpoint_without_its_data_is_damaged, setup, flow_teardown),
    };
    return cmocka_run_group_tests_name("snapshots", tests, NULL, NULL);
}
