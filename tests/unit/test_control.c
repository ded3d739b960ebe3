/* The control socket, from both sides. */
#include "daemon/control.h"

#include <grp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static json_t *verb_status(void *self, const char *argument, struct cs_error *err)
{
    (void)err;
    ++*(int *)self;
    return json_pack("{s:i, s:s?}", "runs", *(int *)self, "argument", argument);
}

static json_t *verb_refuse(void *self, const char *argument, struct cs_error *err)
{
    (void)self;
    cs_fail(err, CS_REFUSED, "no version \"%s\"", argument ? argument : "");
    return NULL;
}

/* More than a socket's buffer holds. */
static json_t *verb_long(void *self, const char *argument, struct cs_error *err)
{
    (void)self, (void)argument, (void)err;
    json_t *list = json_array();
    for (int i = 0; i < 100000; i++) json_array_append_new(list, json_integer(i));
    return list;
}

static const struct control_verb verbs[] = {
    { "status", false, verb_status }, { "rollback", true, verb_refuse }, { "long", false, verb_long }, { 0 },
};

struct place { char directory[64], path[96]; struct control_server *server; int runs; };

static int setup(void **state)
{
    struct place *place = calloc(1, sizeof *place);
    snprintf(place->directory, sizeof place->directory, "/tmp/coldstream-control-XXXXXX");
    if (!mkdtemp(place->directory)) return -1;
    snprintf(place->path, sizeof place->path, "%s/control.sock", place->directory);
    struct cs_error err = { 0 };
    place->server = control_start(place->path, verbs, &place->runs, &err);
    *state = place;
    return place->server ? 0 : -1;
}

static int teardown(void **state)
{
    struct place *place = *state;
    control_stop(place->server);
    unlink(place->path);
    rmdir(place->directory);
    free(place);
    return 0;
}

static int raw_connect(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int handle = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(handle, (struct sockaddr *)&address, sizeof address), 0);
    return handle;
}

/* One line of an answer, read byte by byte; NULL at the end. */
static json_t *raw_answer(int handle)
{
    char text[4096];
    size_t length = 0;
    while (length < sizeof text && recv(handle, text + length, 1, 0) == 1 && text[length] != '\n') length++;
    return length ? json_loadb(text, length, 0, NULL) : NULL;
}

static void verbs_answer(void **state)
{
    struct place *place = *state;
    struct cs_error err = { 0 };
    json_t *result = control_request(place->path, "status", "x \"y\"", &err);
    assert_non_null(result);
    assert_string_equal(json_string_value(json_object_get(result, "argument")), "x \"y\"");
    json_decref(result);
    result = control_request(place->path, "status", NULL, &err);
    assert_true(json_is_null(json_object_get(result, "argument")));
    assert_int_equal(json_integer_value(json_object_get(result, "runs")), 2);
    json_decref(result);
}

static void errors_keep_their_code_and_text(void **state)
{
    struct place *place = *state;
    struct cs_error err = { 0 };
    assert_null(control_request(place->path, "rollback", "7", &err));
    assert_int_equal(err.code, CS_REFUSED);
    assert_string_equal(err.message, "no version \"7\"");
    assert_null(control_request(place->path, "statsu", NULL, &err));
    assert_int_equal(err.code, CS_USAGE);
    assert_null(control_request("/nowhere/control.sock", "status", NULL, &err));
    assert_int_equal(err.code, CS_FAILED);
    assert_non_null(strstr(err.message, "no daemon answers on /nowhere/control.sock"));
    assert_null(control_request(place->path, "bad\xff", NULL, &err));
    assert_int_equal(err.code, CS_USAGE);
}

static void long_answers_arrive_whole(void **state)
{
    struct place *place = *state;
    struct cs_error err = { 0 };
    json_t *result = control_request(place->path, "long", NULL, &err);
    assert_int_equal(json_array_size(result), 100000);
    json_decref(result);
}

static void requests_may_come_in_pieces_and_several_at_once(void **state)
{
    struct place *place = *state;
    int handle = raw_connect(place->path);
    const char *text = "{\"verb\":\"status\"}\n{\"verb\":\"status\",\"argument\":null}\n{\"ve";
    assert_int_equal(send(handle, text, strlen(text), 0), (ssize_t)strlen(text));
    for (int i = 1; i <= 2; i++) {
        json_t *reply = raw_answer(handle);
        assert_int_equal(json_integer_value(json_object_get(json_object_get(reply, "result"), "runs")), i);
        json_decref(reply);
    }
    assert_int_equal(send(handle, "rb\":\"status\"}\n", 14, 0), 14);
    json_t *reply = raw_answer(handle);
    assert_true(json_is_true(json_object_get(reply, "ok")));
    json_decref(reply);
    close(handle);
}

static void garbage_is_answered_and_harms_nobody(void **state)
{
    static const char *const lines[] = { "garbage\n",
                                         "\n",
                                         "[]\n",
                                         "{\"verb\":3}\n",
                                         "{\"verb\":\"status\",\"argument\":{}}\n",
                                         "{\"verb\":\"status\",\"verb\":\"rollback\"}\n",
                                         "{\"verb\":\"\"}\n" };
    struct place *place = *state;
    int handle = raw_connect(place->path);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        assert_int_equal(send(handle, lines[i], strlen(lines[i]), 0), (ssize_t)strlen(lines[i]));
        json_t *reply = raw_answer(handle);
        assert_true(json_is_false(json_object_get(reply, "ok")));
        assert_int_equal(json_integer_value(json_object_get(reply, "code")), 2);
        json_decref(reply);
    }
    close(handle);
    assert_int_equal(place->runs, 0);
}

static void endless_requests_are_cut_off(void **state)
{
    struct place *place = *state;
    int handle = raw_connect(place->path);
    char *text = malloc(65536);
    memset(text, 'x', 65536);
    assert_int_equal(send(handle, text, 65536, MSG_NOSIGNAL), 65536);
    free(text);
    json_t *reply = raw_answer(handle);
    assert_non_null(strstr(json_string_value(json_object_get(reply, "error")), "longer than 65536"));
    json_decref(reply);
    assert_null(raw_answer(handle));
    close(handle);
    verbs_answer(state);
}

/* More silent connections than are served at once: the next one waits, and is served once they go. */
static void silent_connections_are_bounded(void **state)
{
    struct place *place = *state;
    int handle[16];
    for (int i = 0; i < 16; i++) {
        handle[i] = raw_connect(place->path);
        assert_int_equal(send(handle[i], "{}\n", 3, 0), 3);     /* its answer says that it was accepted */
        json_decref(raw_answer(handle[i]));
    }
    int late = raw_connect(place->path);
    const char *text = "{\"verb\":\"status\"}\n";
    assert_int_equal(send(late, text, strlen(text), 0), (ssize_t)strlen(text));
    close(handle[3]);
    json_t *reply = raw_answer(late);
    assert_true(json_is_true(json_object_get(reply, "ok")));
    json_decref(reply);
    close(late);
    for (int i = 0; i < 16; i++)
        if (i != 3) close(handle[i]);
}

static void socket_is_for_owner_and_group(void **state)
{
    struct place *place = *state;
    struct stat status;
    assert_int_equal(stat(place->path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0660);
}

static void a_living_daemon_is_not_pushed_out(void **state)
{
    struct place *place = *state;
    struct cs_error err = { 0 };
    assert_null(control_start(place->path, verbs, NULL, &err));
    assert_int_equal(err.code, CS_FENCED);
    verbs_answer(state);
}

static void a_stale_socket_is_replaced_and_stop_removes_ours(void **state)
{
    struct place *place = *state;
    struct cs_error err = { 0 };
    char path[128];
    snprintf(path, sizeof path, "%s/stale.sock", place->directory);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int left = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(left, (struct sockaddr *)&address, sizeof address), 0);
    close(left);
    struct control_server *server = control_start(path, verbs, &place->runs, &err);
    if (!server) fail_msg("%s", err.message);
    json_t *result = control_request(path, "status", NULL, &err);
    assert_non_null(result);
    json_decref(result);
    control_stop(server);
    assert_int_equal(access(path, F_OK), -1);
}

static void other_files_are_left_alone(void **state)
{
    struct place *place = *state;
    struct cs_error err = { 0 };
    char path[128];
    snprintf(path, sizeof path, "%s/file", place->directory);
    FILE *file = fopen(path, "w");
    fclose(file);
    assert_null(control_start(path, verbs, NULL, &err));
    assert_int_equal(err.code, CS_CONFIG);
    assert_int_equal(unlink(path), 0);
    char longer[200];
    memset(longer, 'x', sizeof longer - 1);
    longer[199] = 0;
    assert_null(control_start(longer, verbs, NULL, &err));
    assert_int_equal(err.code, CS_CONFIG);
}

/* Somebody who could connect, but is neither the daemon's user nor in its group: may look, may not change. */
static void strangers_may_only_look(void **state)
{
    enum { UNREACHABLE = 77 };
    struct place *place = *state;
    if (geteuid() != 0) skip();     /* only root can become somebody else */
    chmod(place->directory, 0755);
    chmod(place->path, 0666);
    pid_t child = fork();
    if (child == 0) {
        struct cs_error err = { 0 };
        if (setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0) _exit(2);
        if (access(place->path, F_OK) != 0) _exit(UNREACHABLE);
        json_t *result = control_request(place->path, "status", NULL, &err);
        if (!result) _exit(3);
        if (control_request(place->path, "rollback", "7", &err) || !strstr(err.message, "not permitted")) _exit(4);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == UNREACHABLE) {
        print_message("no stranger reaches %s at all: a folder above it is closed to them\n", place->path);
        skip();
    }
    assert_int_equal(status, 0);
}

static void *ask(void *argument)
{
    for (int i = 0; i < 50; i++) {
        json_t *result = control_request(argument, "status", NULL, NULL);
        if (!result) return (void *)1;
        json_decref(result);
    }
    return NULL;
}

static void many_ask_at_once(void **state)
{
    struct place *place = *state;
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) pthread_create(&thread[i], NULL, ask, place->path);
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(thread[i], &failed);
        assert_null(failed);
    }
    struct cs_error err = { 0 };
    json_t *result = control_request(place->path, "status", NULL, &err);
    assert_int_equal(json_integer_value(json_object_get(result, "runs")), 201);
    json_decref(result);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(verbs_answer),
        TEST(errors_keep_their_code_and_text),
        TEST(long_answers_arrive_whole),
        TEST(requests_may_come_in_pieces_and_several_at_once),
        TEST(garbage_is_answered_and_harms_nobody),
        TEST(endless_requests_are_cut_off),
        TEST(silent_connections_are_bounded),
        TEST(socket_is_for_owner_and_group),
        TEST(a_living_daemon_is_not_pushed_out),
        TEST(a_stale_socket_is_replaced_and_stop_removes_ours),
        TEST(other_files_are_left_alone), TEST(strangers_may_only_look),
        TEST(many_ask_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
