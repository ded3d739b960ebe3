/* systemd's notify protocol, from a socket such as systemd listens at. */
#include "daemon/notify.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/clock.h"

struct place { char directory[64], path[96]; int handle; };

static int setup(void **state)
{
    struct place *place = *state = calloc(1, sizeof *place);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(place->directory, sizeof place->directory, "/tmp/coldstream-notify-XXXXXX");
    if (!mkdtemp(place->directory)) return -1;
    snprintf(place->path, sizeof place->path, "%s/notify", place->directory);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", place->path);
    place->handle = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    setenv("NOTIFY_SOCKET", place->path, 1);
    unsetenv("WATCHDOG_PID");
    return bind(place->handle, (struct sockaddr *)&address, sizeof address);
}

static int teardown(void **state)
{
    struct place *place = *state;
    close(place->handle);
    unlink(place->path);
    rmdir(place->directory);
    free(place);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    return 0;
}

/* The next datagram, "" where none came. It is there when the call that sent it has returned. */
static const char *heard(const struct place *place)
{
    static char text[1024];
    ssize_t length = recv(place->handle, text, sizeof text - 1, 0);
    text[length > 0 ? length : 0] = 0;
    return text;
}

static void says_where_it_is(void **state)
{
    struct place *place = *state;
    notify_ready("two\nlines");
    assert_string_equal(heard(place), "READY=1\nSTATUS=two lines");
    notify_status("%d of %d", 1, 2);
    assert_string_equal(heard(place), "STATUS=1 of 2");
    notify_extend(1500);
    assert_string_equal(heard(place), "EXTEND_TIMEOUT_USEC=1500000");
    notify_stopping("a last snapshot");
    assert_string_equal(heard(place), "STOPPING=1\nSTATUS=a last snapshot");
    int64_t before = clock_monotonic();
    notify_reloading();
    unsigned long long microseconds;
    assert_int_equal(sscanf(heard(place), "RELOADING=1\nMONOTONIC_USEC=%llu", &microseconds), 1);
    assert_in_range(microseconds / 1000, before, clock_monotonic());
    assert_string_equal(heard(place), "");
}

/* Of a watchdog of an hour, so that no time passes in between. */
static void life_is_that_of_both_threads(void **state)
{
    enum { HOUR = 3600 * 1000 };
    struct place *place = *state;
    int64_t now = clock_monotonic();
    notify_alive(now);
    assert_string_equal(heard(place), "");          /* nobody watches */
    setenv("WATCHDOG_USEC", "3600000000", 1);
    setenv("WATCHDOG_PID", "1", 1);
    notify_alive(now);
    assert_string_equal(heard(place), "");          /* but over another process */
    unsetenv("WATCHDOG_PID");
    notify_alive(now - HOUR / 2 - 1000);
    assert_string_equal(heard(place), "");          /* the other thread hangs */
    notify_alive(INT64_MAX);                        /* it waits for something that answers for itself */
    assert_string_equal(heard(place), "WATCHDOG=1");
    notify_alive(now);
    assert_string_equal(heard(place), "");          /* a quarter of the interval has not passed */
}

/* The queue is full and nobody reads: a status is left out, and the caller goes on. */
static void nobody_waits_for_a_reader(void **state)
{
    struct place *place = *state;
    for (int i = 0; i < 5000; i++) {
        notify_status("%d", i);
        notify_extend(i);
    }
    assert_string_equal(heard(place), "STATUS=0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(says_where_it_is, setup, teardown),
        cmocka_unit_test_setup_teardown(life_is_that_of_both_threads, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_waits_for_a_reader, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
