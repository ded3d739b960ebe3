/* The control socket, from both sides. */
#include "daemon/control.h"

#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static json_t *verb_status(void *self, struct control_call *call, struct cs_error *err)
{
    (void)err;
    ++*(int *)self;
    return json_pack("{s:i, s:s?}", "runs", *(int *)self, "argument", call->argument);
}

static json_t *verb_refuse(void *self, struct control_call *call, struct cs_error *err)
{
    (void)self;
    cs_fail(err, CS_REFUSED, "no version \"%s\"", call->argument ? call->argument : "");
    return NULL;
}

/* More than a socket's buffer holds, several times. */
enum { LONG = 300000 };
static json_t *verb_long(void *self, struct control_call *call, struct cs_error *err)
{
    (void)self, (void)call, (void)err;
    json_t *list = json_array();
    for (int i = 0; i < LONG; i++) json_array_append_new(list, json_integer(i));
    return list;
}

static json_t *verb_reasons(void *self, struct control_call *call, struct cs_error *err)
{
    (void)self;
    call->reasons = json_pack("[s, s]", "first", "second");
    cs_fail(err, CS_CONFIG, "two reasons");
    return NULL;
}

static sem_t waiting, go_on;
static json_t *verb_wait(void *self, struct control_call *call, struct cs_error *err)
{
    (void)self, (void)call, (void)err;
    sem_post(&waiting);
    while (sem_wait(&go_on) != 0) {}
    return json_string("waited");
}

static const struct control_verb verbs[] = {
    { "status", false, verb_status }, { "rollback", true, verb_refuse }, { "long", false, verb_long },
    { "wait", true, verb_wait },      { "reasons", true, verb_reasons }, { 0 },
};

/* Those that the daemon has, but that time passes where a test says so. */
static _Atomic int64_t fake_time;
static int64_t fake_clock(void)
{
    return fake_time;
}
static struct control_limits limits;

struct place { char directory[64], path[96]; struct control_server *server; int runs; };

static int setup(void **state)
{
    struct place *place = *state = calloc(1, sizeof *place);
    limits = control_limits;
    limits.clock = fake_clock;
    fake_time = 1;
    sem_init(&waiting, 0, 0);
    sem_init(&go_on, 0, 0);
    snprintf(place->directory, sizeof place->directory, "/tmp/coldstream-control-XXXXXX");
    if (!mkdtemp(place->directory)) return -1;
    snprintf(place->path, sizeof place->path, "%s/control.sock", place->directory);
    struct cs_error err = { 0 };
    place->server = control_start(place->path, &limits, verbs, &place->runs, &err);
    return place->server ? 0 : -1;
}

static int teardown(void **state)
{
    struct place *place = *state;
    for (int i = 0; i < 32; i++) sem_post(&go_on);      /* what a test that failed left waiting ends */
    fake_time = INT64_MAX / 2;
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
    assert_non_null(strstr(err.message, "A standby has none"));
    assert_null(control_request(place->path, "bad\xff", NULL, &err));
    assert_int_equal(err.code, CS_USAGE);
}

static void long_answers_arrive_whole(void **state)
{
    struct place *place = *state;
    struct cs_error err = { 0 };
    json_t *result = control_request(place->path, "long", NULL, &err);
    assert_int_equal(json_array_size(result), LONG);
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

/* More silent connections than there are places: who comes next is served at once, in the place of the oldest. */
static void silent_connections_hold_up_nobody(void **state)
{
    enum { PLACES = 32, MORE = 8 };
    struct place *place = *state;
    int handle[PLACES + MORE];
    for (int i = 0; i < PLACES + MORE; i++) handle[i] = raw_connect(place->path);
    verbs_answer(state);
    char byte;
    for (int i = 0; i < MORE; i++) assert_int_equal(recv(handle[i], &byte, 1, 0), 0);   /* the oldest were let go */
    const char *text = "{\"verb\":\"status\"}\n";
    assert_int_equal(send(handle[PLACES + MORE - 1], text, strlen(text), 0), (ssize_t)strlen(text));
    json_t *reply = raw_answer(handle[PLACES + MORE - 1]);      /* a young one has kept its place */
    assert_true(json_is_true(json_object_get(reply, "ok")));
    json_decref(reply);
    for (int i = 0; i < PLACES + MORE; i++) close(handle[i]);
}

/* Requests that came before the daemon got to them are not what is let go. */
static void what_was_asked_is_answered_however_many_come(void **state)
{
    enum { ASKING = 100 };
    struct place *place = *state;
    int handle[ASKING];
    const char *text = "{\"verb\":\"status\"}\n";
    for (int i = 0; i < ASKING; i++) {
        handle[i] = raw_connect(place->path);
        assert_int_equal(send(handle[i], text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
        json_t *reply = raw_answer(handle[i]);
        assert_true(json_is_true(json_object_get(reply, "ok")));
        json_decref(reply);
    }
    for (int i = 0; i < ASKING; i++) close(handle[i]);
}

/* A verb that waits until it is let go, as a snapshot does. */
static void verbs_that_wait_hold_up_nobody(void **state)
{
    struct place *place = *state;
    const char *both = "{\"verb\":\"wait\"}\n{\"verb\":\"status\"}\n";
    int handle = raw_connect(place->path), gone = raw_connect(place->path);
    assert_int_equal(send(handle, both, strlen(both), 0), (ssize_t)strlen(both));
    assert_int_equal(send(gone, both, 16, 0), 16);
    assert_int_equal(sem_wait(&waiting), 0);
    assert_int_equal(sem_wait(&waiting), 0);
    close(gone);
    verbs_answer(state);                                        /* others are answered meanwhile */
    char byte;
    assert_int_equal(recv(handle, &byte, 1, MSG_DONTWAIT), -1);  /* in their order: the first has not run yet */
    sem_post(&go_on);
    sem_post(&go_on);
    json_t *reply = raw_answer(handle);
    assert_string_equal(json_string_value(json_object_get(reply, "result")), "waited");
    json_decref(reply);
    reply = raw_answer(handle);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(reply, "result"), "runs")), 3);
    json_decref(reply);
    close(handle);
}

/* More of them at once than run at once: each has its turn. */
static void many_verbs_that_wait_take_turns(void **state)
{
    enum { MANY = 12, AT_ONCE = 8 };
    struct place *place = *state;
    int handle[MANY];
    for (int i = 0; i < MANY; i++) {
        handle[i] = raw_connect(place->path);
        assert_int_equal(send(handle[i], "{\"verb\":\"wait\"}\n", 16, 0), 16);
    }
    for (int i = 0; i < AT_ONCE; i++) assert_int_equal(sem_wait(&waiting), 0);
    verbs_answer(state);
    assert_int_equal(sem_trywait(&waiting), -1);
    for (int i = 0; i < MANY; i++) sem_post(&go_on);
    for (int i = AT_ONCE; i < MANY; i++) assert_int_equal(sem_wait(&waiting), 0);
    for (int i = 0; i < MANY; i++) {
        json_t *reply = raw_answer(handle[i]);
        assert_true(json_is_true(json_object_get(reply, "ok")));
        json_decref(reply);
        close(handle[i]);
    }
}

/* What is closed at this time is closed when it returns: the answer comes from a turn of the loop that knew of it. */
static void time_is(const struct place *place, int64_t time)
{
    struct cs_error err = { 0 };
    fake_time = time;
    json_t *result = control_request(place->path, "status", NULL, &err);
    assert_non_null(result);
    json_decref(result);
}

static bool is_open(int handle)
{
    struct pollfd wait = { .fd = handle, .events = POLLRDHUP };
    return poll(&wait, 1, 0) == 0;
}

/* Three that could be closed too early, or never: one is silent, one's verb runs, one does not read its answer. */
static void each_has_its_time_and_no_more(void **state)
{
    enum { SILENT = 60000, UNREAD = 10000 };
    struct place *place = *state;
    assert_int_equal(control_limits.silent, SILENT);        /* as docs/control.md says */
    assert_int_equal(control_limits.unread, UNREAD);
    int silent = raw_connect(place->path), runs = raw_connect(place->path), unread = raw_connect(place->path);
    assert_int_equal(send(silent, "{\"verb\":\"status\"}\n{", 19, 0), 19);  /* a piece of a next one is none */
    json_decref(raw_answer(silent));
    assert_int_equal(send(runs, "{\"verb\":\"wait\"}\n", 16, 0), 16);
    assert_int_equal(sem_wait(&waiting), 0);
    assert_int_equal(send(unread, "{\"verb\":\"long\"}\n", 16, 0), 16);
    assert_int_equal(poll(&(struct pollfd){ .fd = unread, .events = POLLIN }, 1, -1), 1);
    time_is(place, 1);                                      /* by then no more of it fits */
    time_is(place, UNREAD);
    assert_true(is_open(unread));
    time_is(place, UNREAD + 1);
    assert_false(is_open(unread));
    assert_true(is_open(silent));
    time_is(place, SILENT);
    assert_true(is_open(silent));
    time_is(place, SILENT + 1);
    assert_false(is_open(silent));
    time_is(place, 24 * 60 * SILENT);
    assert_true(is_open(runs));                             /* a verb may take as long as it takes */
    sem_post(&go_on);
    json_t *reply = raw_answer(runs);
    assert_string_equal(json_string_value(json_object_get(reply, "result")), "waited");
    json_decref(reply);
    close(silent);
    close(runs);
    close(unread);
}

/* Whoever reads, however slowly, gets all of it: its time begins anew with each piece that went out. */
static void a_slow_reader_gets_all_of_it(void **state)
{
    struct place *place = *state;
    int handle = raw_connect(place->path);
    assert_int_equal(send(handle, "{\"verb\":\"long\"}\n", 16, 0), 16);
    static char text[1 << 22];
    size_t total = 0;
    int pieces = 0;
    for (; !total || text[total - 1] != '\n'; pieces++) {
        int queued;
        assert_int_equal(poll(&(struct pollfd){ .fd = handle, .events = POLLIN }, 1, -1), 1);
        time_is(place, fake_time);                          /* the next piece has come, whole */
        time_is(place, fake_time + 9000);
        assert_int_equal(ioctl(handle, FIONREAD, &queued), 0);
        assert_true(queued > 0 && total + (size_t)queued <= sizeof text);                       /* nobody has hung up */
        assert_int_equal(recv(handle, text + total, (size_t)queued, MSG_WAITALL), queued);
        total += (size_t)queued;
    }
    assert_true(pieces > 2);
    assert_in_range(total, 1988000, 1990000);
    close(handle);
}

static void *let_go(void *unused)
{
    sem_post(&go_on);
    return unused;
}

static void the_end_waits_for_what_runs_and_answers_it(void **state)
{
    struct place *place = *state;
    int handle = raw_connect(place->path), silent = raw_connect(place->path);
    assert_int_equal(send(handle, "{\"verb\":\"wait\"}\n", 16, 0), 16);
    assert_int_equal(sem_wait(&waiting), 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, let_go, NULL), 0);
    control_stop(place->server);
    place->server = NULL;
    pthread_join(thread, NULL);
    json_t *reply = raw_answer(handle);
    assert_string_equal(json_string_value(json_object_get(reply, "result")), "waited");
    json_decref(reply);
    assert_null(raw_answer(silent));
    close(handle);
    close(silent);
}

static void the_end_does_not_wait_for_who_does_not_read(void **state)
{
    struct place *place = *state;
    int handle = raw_connect(place->path);
    assert_int_equal(send(handle, "{\"verb\":\"long\"}\n", 16, 0), 16);
    assert_int_equal(poll(&(struct pollfd){ .fd = handle, .events = POLLIN }, 1, -1), 1);
    time_is(place, 1);
    fake_time = control_limits.unread + 1;
    control_stop(place->server);
    place->server = NULL;
    close(handle);
}

static void all_reasons_arrive(void **state)
{
    struct place *place = *state;
    struct cs_error err = { 0 };
    json_t *reasons;
    assert_null(control_ask(place->path, "reasons", NULL, &reasons, &err));
    assert_int_equal(err.code, CS_CONFIG);
    assert_int_equal(json_array_size(reasons), 2);
    assert_string_equal(json_string_value(json_array_get(reasons, 1)), "second");
    json_decref(reasons);
    assert_null(control_ask(place->path, "rollback", "7", &reasons, &err));
    assert_null(reasons);
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
    assert_null(control_start(place->path, &limits, verbs, NULL, &err));
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
    struct control_server *server = control_start(path, &limits, verbs, &place->runs, &err);
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
    assert_null(control_start(path, &limits, verbs, NULL, &err));
    assert_int_equal(err.code, CS_CONFIG);
    assert_int_equal(unlink(path), 0);
    char longer[200];
    memset(longer, 'x', sizeof longer - 1);
    longer[199] = 0;
    assert_null(control_start(longer, &limits, verbs, NULL, &err));
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
        if (control_request(place->path, "rollback", "7", &err) || !strstr(err.message, "is not permitted")) _exit(4);
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
        TEST(silent_connections_hold_up_nobody),
        TEST(what_was_asked_is_answered_however_many_come),
        TEST(verbs_that_wait_hold_up_nobody),
        TEST(many_verbs_that_wait_take_turns),
        TEST(each_has_its_time_and_no_more),
        TEST(a_slow_reader_gets_all_of_it),
        TEST(the_end_waits_for_what_runs_and_answers_it),
        TEST(the_end_does_not_wait_for_who_does_not_read),
        TEST(all_reasons_arrive),
        TEST(socket_is_for_owner_and_group),
        TEST(a_living_daemon_is_not_pushed_out),
        TEST(a_stale_socket_is_replaced_and_stop_removes_ours),
        TEST(other_files_are_left_alone), TEST(strangers_may_only_look),
        TEST(many_ask_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
