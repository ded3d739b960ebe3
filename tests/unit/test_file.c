/* Files, where others have laid traps for who opens, replaces or removes them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "storage/file.h"

struct world { char folder[64], trap[96], victim[96]; };

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void assert_holds(const char *path, const char *wanted)
{
    char text[64] = "";
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fread(text, 1, sizeof text - 1, file), strlen(wanted));
    fclose(file);
    assert_string_equal(text, wanted);
}

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    strcpy(world->folder, "/tmp/coldstream-file-XXXXXX");
    assert_non_null(mkdtemp(world->folder));
    snprintf(world->trap, sizeof world->trap, "%s/trap", world->folder);
    snprintf(world->victim, sizeof world->victim, "%s/victim", world->folder);
    write_file(world->victim, "theirs");
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", world->folder);
    assert_int_equal(system(command), 0);
    free(world);
    return 0;
}

static void only_files_are_opened(void **state)
{
    const struct world *world = *state;
    struct cs_error err;
    const int flags[] = { O_RDONLY, O_RDWR, O_RDWR | O_CREAT, O_WRONLY };

    assert_int_equal(file_open(world->trap, O_RDONLY, &err), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(err.code, CS_FAILED);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        assert_int_equal(mkfifo(world->trap, 0600), 0);
        assert_int_equal(file_open(world->trap, flags[i], &err), -1);       /* and does not wait */
        assert_int_equal(err.code, CS_REFUSED);
        assert_non_null(strstr(err.message, "trap is a pipe, allowed is a file"));
        unlink(world->trap);
        assert_int_equal(mkdir(world->trap, 0700), 0);
        assert_int_equal(file_open(world->trap, flags[i], &err), -1);
        assert_non_null(strstr(err.message, "is a directory"));
        rmdir(world->trap);
        assert_int_equal(symlink("victim", world->trap), 0);
        assert_int_equal(file_open(world->trap, flags[i] | O_NOFOLLOW, &err), -1);
        assert_int_equal(err.code, CS_REFUSED);
        assert_non_null(strstr(err.message, "is a link"));
        int fd = file_open(world->trap, flags[i], &err);
        assert_true(fd >= 0);
        close(fd);
        unlink(world->trap);
        assert_int_equal(symlink("nowhere", world->trap), 0);
        assert_int_equal(file_open(world->trap, flags[i] | O_NOFOLLOW, &err), -1);
        assert_non_null(strstr(err.message, "is a link"));
        unlink(world->trap);
    }
}

static void what_is_put_replaces_and_is_whole(void **state)
{
    const struct world *world = *state;
    struct stat status;
    struct cs_error err;
    char hidden[96];

    snprintf(hidden, sizeof hidden, "%s/.trap.new", world->folder);
    for (int i = 0; i < 6; i++) {
        const char *place = i % 2 ? hidden : world->trap;
        if (i < 2) assert_int_equal(symlink("victim", place), 0);
        else if (i < 4) assert_int_equal(link(world->victim, place), 0);
        else assert_int_equal(mkfifo(place, 0600), 0);
        if (!file_put(world->folder, "trap", "ours", 4, i < 3, &err)) fail_msg("%s", err.message);
        assert_int_equal(lstat(world->trap, &status), 0);
        assert_true(S_ISREG(status.st_mode));
        assert_int_equal(status.st_mode & 0777 & ~0640u, 0);
        assert_holds(world->trap, "ours");
        assert_holds(world->victim, "theirs");
        assert_int_equal(lstat(hidden, &status), -1);
        unlink(world->trap);
    }
    assert_int_equal(mkdir(world->trap, 0700), 0);
    assert_false(file_put(world->folder, "trap", "ours", 4, true, &err));
    assert_int_equal(lstat(hidden, &status), -1);
    assert_false(file_put(world->victim, "trap", "ours", 4, true, &err));
}

static void directories_are_made_and_removed_where_they_are(void **state)
{
    const struct world *world = *state;
    struct cs_error err;
    struct stat status;
    char inside[128];

    assert_true(file_make_directory(world->trap, &err));
    assert_true(file_make_directory(world->trap, &err));
    rmdir(world->trap);
    assert_int_equal(symlink(".", world->trap), 0);
    assert_false(file_make_directory(world->trap, &err));
    assert_int_equal(err.code, CS_REFUSED);
    file_remove_directory(world->trap);             /* the link goes, what it leads to stays */
    assert_int_equal(lstat(world->trap, &status), -1);
    assert_holds(world->victim, "theirs");
    assert_false(file_make_directory("/nowhere/at/all", &err));
    assert_true(file_make_directory(world->trap, &err));
    snprintf(inside, sizeof inside, "%s/link", world->trap);
    assert_int_equal(symlink("../victim", inside), 0);
    file_remove_directory(world->trap);
    assert_int_equal(lstat(world->trap, &status), -1);
    assert_holds(world->victim, "theirs");
}

static void what_is_held_is_not_left_behind(void **state)
{
    const struct world *world = *state;
    struct cs_error err;
    char *path;
    int held = file_make_held(world->trap, &path, &err);

    assert_true(held >= 0);
    assert_true(file_is_held_name(path, world->trap));
    assert_false(file_is_held_name(world->trap, world->trap));
    assert_int_equal(file_hold(path), -1);
    close(held);
    assert_true((held = file_hold(path)) >= 0);
    close(held);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(symlink(".", path), 0);
    assert_int_equal(file_hold(path), -1);
    free(path);
    assert_int_equal(file_make_held("/nowhere/at/all", &path, &err), -1);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(only_files_are_opened),
        TEST(what_is_put_replaces_and_is_whole),
        TEST(directories_are_made_and_removed_where_they_are),
        TEST(what_is_held_is_not_left_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
