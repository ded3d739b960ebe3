/* Skipped batches on disk: what a line says, and that neither files nor bytes nor a broken disk get out of bounds. */
#include <math.h>
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

#include <glob.h>
#include <jansson.h>

#include "daemon/aside.h"
#include "daemon/log.h"
#include "tests/gradient/small_model.h"

struct world { char directory[64]; struct features *features; struct arena *arena; };

static const struct learner_losses skipped = { .skipped = true, .nonfinite = "gradient of rows", .table = "item" };
static const float score[SMALL_SIZE] = { 0.25f, NAN, INFINITY };

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    strcpy(world->directory, "/tmp/coldstream-aside-XXXXXX");
    assert_non_null(mkdtemp(world->directory));
    world->features = small_features();
    world->arena = arena_create(1 << 14);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", world->directory);
    assert_int_equal(system(command), 0);
    features_destroy(world->features);
    arena_destroy(world->arena);
    free(world);
    return 0;
}

static struct aside *create(const struct world *world, uint64_t keep)
{
    struct cs_error err;
    struct aside *aside = aside_create(world->directory, keep, &err);
    assert_non_null(aside);
    return aside;
}

static void keep(struct aside *aside, const struct world *world, uint64_t steps)
{
    struct batch *batch = small_batch(world->features, steps, world->arena);
    aside_keep(aside, world->features, batch, score, &skipped, steps);
}

/* Steps in the names, ascending; to be released. */
static size_t kept(const struct world *world, uint64_t steps[32])
{
    char pattern[96];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/aside/*", world->directory);
    if (glob(pattern, GLOB_PERIOD, NULL, &found) == GLOB_NOMATCH) return 0;
    size_t count = 0;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        const char *name = strrchr(found.gl_pathv[i], '/') + 1;
        if (!strcmp(name, ".") || !strcmp(name, "..")) continue;
        assert_int_equal(strlen(name), 20 + 1 + 16 + 6);
        assert_true(count < 32);
        steps[count++] = strtoull(name, NULL, 10);
    }
    globfree(&found);
    return count;
}

static json_t *line_of(const struct world *world, size_t number)
{
    char pattern[96], *line = NULL;
    size_t room = 0;
    glob_t found;
    json_t *example = NULL;
    snprintf(pattern, sizeof pattern, "%s/aside/*", world->directory);
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    FILE *file = fopen(found.gl_pathv[0], "r");
    assert_non_null(file);
    for (size_t i = 0; getline(&line, &room, file) > 0; i++)
        if (i == number) example = json_loads(line, 0, NULL);
    fclose(file);
    free(line);
    globfree(&found);
    assert_non_null(example);
    return example;
}

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static void test_a_line_says_what_the_batch_had(void **state)
{
    struct world *world = *state;
    struct aside *aside = create(world, 4);
    struct batch *batch = small_batch(world->features, 1, world->arena);
    batch->id[1] = "\"\\\n\xc3\xa9";
    batch->dense[0 * SMALL_SIZE + 1] = -INFINITY;      /* income */
    batch->dense[1 * SMALL_SIZE + 1] = NAN;            /* wind: absent */
    batch->dense[2 * SMALL_SIZE + 1] = 1.5f;           /* price */
    aside_keep(aside, world->features, batch, score, &skipped, 7);
    aside_destroy(aside);

    json_t *line = line_of(world, 1), *features = json_object_get(line, "features");
    assert_string_equal(text_of(line, "impression_id"), "\"\\\n\xc3\xa9");
    assert_int_equal(json_integer_value(json_object_get(line, "time")), 1);
    assert_string_equal(text_of(line, "user"), "0000000000000001");
    assert_string_equal(text_of(line, "item"), "0000000000000001");
    assert_string_equal(text_of(line, "score"), "nan");
    assert_string_equal(text_of(features, "income"), "-inf");
    assert_null(json_object_get(features, "wind"));
    assert_true(json_real_value(json_object_get(features, "price")) == 1.5);
    char key[20];
    const struct batch_column *item = &batch->column[3];
    snprintf(key, sizeof key, "%016llx", (unsigned long long)
             batch->table[world->features->behavior_table].key[item->row[item->offset[1]]]);
    json_t *items = json_object_get(features, "item_id");
    assert_int_equal(json_array_size(items), 1);
    assert_string_equal(json_string_value(json_array_get(items, 0)), key);
    assert_int_equal(json_array_size(json_object_get(line, "behaviors")),
                     batch->behavior.offset[2] - batch->behavior.offset[1]);
    assert_false(json_is_true(json_object_get(line, "new")));
    assert_int_equal(json_is_true(json_object_get(line, "clicked")), batch->clicked[1]);
    json_decref(line);
    line = line_of(world, 7);
    assert_true(json_is_true(json_object_get(line, "correction")));
    assert_string_equal(text_of(line, "impression_id"), "id");
    json_decref(line);
    line = line_of(world, 0);
    assert_true(json_real_value(json_object_get(line, "score")) == 0.25);
    assert_true(json_is_true(json_object_get(line, "new")));
    json_decref(line);
}

static void test_the_oldest_go(void **state)
{
    struct world *world = *state;
    uint64_t steps[32];
    struct aside *aside = create(world, 3);
    for (uint64_t i = 1; i <= 5; i++) {
        keep(aside, world, i);
        aside_learned(aside);
    }
    aside_destroy(aside);
    assert_int_equal(kept(world, steps), 3);
    for (size_t i = 0; i < 3; i++) assert_int_equal(steps[i], i + 3);
    aside = create(world, 3);       /* the same batch again, after a resume: the same file */
    keep(aside, world, 5);
    aside_destroy(aside);
    assert_int_equal(kept(world, steps), 3);
    assert_int_equal(steps[0], 3);
}

static void test_the_first_of_a_row_stay(void **state)
{
    struct world *world = *state;
    uint64_t steps[32];
    struct aside *aside = create(world, 3);
    for (uint64_t i = 1; i <= 40; i++) keep(aside, world, i);
    aside_destroy(aside);
    assert_int_equal(kept(world, steps), 3);
    for (size_t i = 0; i < 3; i++) assert_int_equal(steps[i], i + 1);
}

static void test_what_is_not_ours_stays(void **state)
{
    struct world *world = *state;
    char path[128];
    struct aside *aside = create(world, 1);
    keep(aside, world, 1);
    aside_destroy(aside);
    snprintf(path, sizeof path, "%s/aside/notes.jsonl", world->directory);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    aside = create(world, 1);
    keep(aside, world, 2);
    aside_destroy(aside);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(unlink(path), 0);
    uint64_t steps[32];
    assert_int_equal(kept(world, steps), 1);
    assert_int_equal(steps[0], 2);
}

static void test_a_link_is_not_followed(void **state)
{
    struct world *world = *state;
    char elsewhere[96], theirs[160], ours[96], unfinished[160];
    uint64_t steps[32];
    snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", world->directory);
    snprintf(ours, sizeof ours, "%s/aside", world->directory);
    assert_int_equal(mkdir(elsewhere, 0700), 0);
    for (int i = 7; i <= 8; i++) {                  /* by their names ours, and one too many */
        snprintf(theirs, sizeof theirs, "%s/%020d-%016x.jsonl", elsewhere, i, i);
        fclose(fopen(theirs, "w"));
    }
    assert_int_equal(symlink("elsewhere", ours), 0);
    struct aside *aside = create(world, 1);
    keep(aside, world, 1);
    aside_destroy(aside);
    assert_int_equal(kept(world, steps), 2);        /* through the link: what was there, and nothing else */
    assert_int_equal(steps[0], 7);
    assert_int_equal(unlink(ours), 0);
    assert_int_equal(mkdir(ours, 0700), 0);
    snprintf(unfinished, sizeof unfinished, "%s/.%020d-%016x.jsonl.new", ours, 7, 7);
    fclose(fopen(unfinished, "w"));                 /* of one that was killed */
    aside = create(world, 1);
    keep(aside, world, 2);
    aside_destroy(aside);
    assert_int_equal(kept(world, steps), 1);
    assert_int_equal(steps[0], 2);
    assert_int_equal(access(theirs, F_OK), 0);
}

static void test_nothing_is_kept_where_it_is_off_or_cannot_be(void **state)
{
    struct world *world = *state;
    uint64_t steps[32];
    char path[128];
    struct aside *aside = create(world, 0);
    for (uint64_t i = 0; i < 20; i++) keep(aside, world, i);
    aside_destroy(aside);
    assert_int_equal(kept(world, steps), 0);
    snprintf(path, sizeof path, "%s/aside", world->directory);
    FILE *file = fopen(path, "w");          /* a file where the folder should be: logged, and learning goes on */
    assert_non_null(file);
    fclose(file);
    aside = create(world, 3);
    keep(aside, world, 1);
    aside_destroy(aside);
    struct stat stat_of;
    assert_int_equal(stat(path, &stat_of), 0);
    assert_int_equal(stat_of.st_size, 0);
}

int main(void)
{
    log_open(LEVEL_ERROR, LOG_TEXT);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_line_says_what_the_batch_had, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_oldest_go, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_first_of_a_row_stay, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_not_ours_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_link_is_not_followed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_kept_where_it_is_off_or_cannot_be, setup, teardown),
    };
    return cmocka_run_group_tests_name("aside", tests, NULL, NULL);
}
