/* The worker pool: every part runs exactly once a section, and the caller sees all of their work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/worker_pool.h"

enum { ITEMS = 1000, SECTIONS = 5000 };

struct sum { size_t parts; unsigned times[16]; uint32_t value[ITEMS]; };

static void add_one(void *argument, size_t part, size_t parts)
{
    struct sum *sum = argument;
    size_t begin, end;
    if (part == 0) sum->parts = parts;
    sum->times[part]++;
    parallel_share(ITEMS, 8, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++) sum->value[i]++;
}

static void test_every_part_once_a_section(void **state)
{
    (void)state;
    for (size_t threads = 1; threads <= 5; threads++) {
        struct cs_error err;
        struct worker_pool *pool = worker_pool_create(threads, &err);
        assert_non_null(pool);
        struct parallel *parallel = worker_pool_parallel(pool);
        assert_int_equal(parallel->width, threads);
        struct sum sum = { 0 };
        for (unsigned section = 1; section <= SECTIONS / threads; section++) {
            parallel->run(parallel, add_one, &sum);
            assert_int_equal(sum.parts, threads);
            for (size_t part = 0; part < threads; part++) assert_int_equal(sum.times[part], section);
            assert_int_equal(sum.value[0], section);
            assert_int_equal(sum.value[ITEMS - 1], section);
        }
        for (size_t i = 0; i < ITEMS; i++) assert_int_equal(sum.value[i], SECTIONS / threads);
        worker_pool_destroy(pool);
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct cs_error err;
    struct worker_pool *pool = worker_pool_create(0, &err);
    assert_non_null(pool);
    assert_true(worker_pool_parallel(pool)->width >= 1);
    worker_pool_destroy(pool);
    assert_null(worker_pool_create(100000, &err));
    assert_int_equal(err.code, CS_FAILED);
    assert_non_null(strstr(err.message, "256"));
    worker_pool_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_part_once_a_section),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests_name("worker_pool", tests, NULL, NULL);
}
