/* The writer that times its owner's waits: all is handed on, the wait is told, nobody is told after the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "daemon/stall.h"

struct inner { struct state_writer writer; struct state_hold hold; char calls[64]; int settled; };
static struct inner inner;

static void note(char call)
{
    inner.calls[strlen(inner.calls)] = call;
}
static bool put(struct state_writer *self, const char *section, uint64_t slot, const void *bytes, size_t size,
                struct cs_error *err)
{
    (void)err;
    assert_ptr_equal(self, &inner.writer);
    assert_string_equal(section, "a");
    assert_int_equal(slot, 3);
    assert_int_equal(size, 2);
    assert_memory_equal(bytes, "xy", 2);
    note('p');
    return true;
}
static bool remove_slot(struct state_writer *self, const char *section, uint64_t slot, struct cs_error *err)
{
    assert_ptr_equal(self, &inner.writer);
    assert_string_equal(section, "b");
    assert_int_equal(slot, 4);
    note('r');
    return cs_fail(err, CS_FAILED, "no room");
}
static bool records(struct state_writer *self, const char *section, const struct state_records *of,
                    struct cs_error *err)
{
    (void)err;
    assert_ptr_equal(self, &inner.writer);
    assert_string_equal(section, "c");
    assert_ptr_equal(of->self, &inner);
    note('s');
    return true;
}
static bool tensor(struct state_writer *self, const struct tensor *given, struct cs_error *err)
{
    (void)err;
    assert_ptr_equal(self, &inner.writer);
    assert_string_equal(given->name, "t");
    note('t');
    return true;
}
static void settle(struct state_hold *self)
{
    assert_ptr_equal(self, &inner.hold);
    nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    inner.settled++;
}
static struct state_hold *hold(struct state_writer *self)
{
    assert_ptr_equal(self, &inner.writer);
    inner.hold.settle = settle;
    return &inner.hold;
}

static void waited(void *self, double seconds) { *(double *)self += seconds; }

static void setup_inner(void)
{
    inner = (struct inner){ .writer = { true, put, remove_slot, records, tensor, hold } };
}

static void all_is_handed_on(void **state)
{
    (void)state;
    setup_inner();
    struct stall_writer stall;
    struct stall_hold *found = NULL;
    struct cs_error err;
    double seconds = 0;
    stall_writer_init(&stall, &inner.writer, &found, waited, &seconds);
    struct state_writer *writer = &stall.writer;
    assert_true(writer->full);
    assert_true(writer->put(writer, "a", 3, "xy", 2, &err));
    assert_false(writer->remove(writer, "b", 4, &err));
    assert_string_equal(err.message, "no room");
    assert_true(writer->records(writer, "c", &(struct state_records){ .self = &inner }, &err));
    assert_true(writer->tensor(writer, &(struct tensor){ .name = "t" }, &err));
    assert_string_equal(inner.calls, "prst");
}

static void a_wait_is_told_once_until_disarmed(void **state)
{
    (void)state;
    setup_inner();
    struct stall_writer stall;
    struct stall_hold *found = NULL;
    double seconds = 0;
    stall_writer_init(&stall, &inner.writer, &found, waited, &seconds);
    struct state_hold *given = stall.writer.hold(&stall.writer);
    assert_non_null(found);
    given->settle(given);
    assert_int_equal(inner.settled, 1);
    assert_null(found);
    assert_true(seconds >= 0.002);

    double before = seconds;
    stall_writer_init(&stall, &inner.writer, &found, waited, &seconds);
    given = stall.writer.hold(&stall.writer);
    stall_hold_disarm(found);
    stall_hold_disarm(NULL);
    given->settle(given);
    assert_int_equal(inner.settled, 2);
    assert_true(seconds == before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_is_handed_on),
        cmocka_unit_test(a_wait_is_told_once_until_disarmed),
    };
    return cmocka_run_group_tests_name("stall", tests, NULL, NULL);
}
