/* Many partitions, one order: whatever the pushes' interleaving. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/merge.h"
#include "core/random.h"

static struct merge_entry entry_at(int64_t time, int64_t offset)
{
    return (struct merge_entry){ .has_event = true, .event = { .kind = EVENT_CLICK, .time = time }, .offset = offset };
}

static void push(struct merge *merge, size_t source, int64_t time, int64_t offset)
{
    struct merge_entry entry = entry_at(time, offset);
    merge_push(merge, source, &entry);
}

static void assert_pops(struct merge *merge, size_t source, int64_t offset)
{
    struct merge_entry entry;
    size_t from, waiting_for;
    assert_true(merge_pop(merge, &entry, &from, &waiting_for));
    assert_int_equal(from, source);
    assert_int_equal(entry.offset, offset);
}

static void assert_waits_for(struct merge *merge, size_t source)
{
    struct merge_entry entry;
    size_t from, waiting_for = 12345;
    assert_false(merge_pop(merge, &entry, &from, &waiting_for));
    assert_true(waiting_for == source);
}

static void test_order_and_waiting(void **state)
{
    (void)state;
    struct merge *merge = merge_create();
    assert_waits_for(merge, SIZE_MAX);
    size_t b = merge_add_source(merge, 2), a = merge_add_source(merge, 1);
    assert_waits_for(merge, a);
    push(merge, a, 10, 0);
    assert_waits_for(merge, b);
    push(merge, b, 10, 0);
    push(merge, b, 5, 1);     /* earlier, but behind offset 0 */
    assert_pops(merge, a, 0); /* equal times: by rank */
    assert_waits_for(merge, a);
    push(merge, a, 20, 1);
    assert_pops(merge, b, 0);
    assert_pops(merge, b, 1);
    assert_waits_for(merge, b);
    assert_int_equal(merge_queued(merge, a), 1);
    merge_destroy(merge);
}

static void test_idle(void **state)
{
    (void)state;
    struct merge *merge = merge_create();
    size_t a = merge_add_source(merge, 0), b = merge_add_source(merge, 1);
    push(merge, a, 10, 0);
    merge_set_idle(merge, b, true);
    assert_pops(merge, a, 0);
    assert_waits_for(merge, a);
    merge_set_idle(merge, a, true);
    assert_waits_for(merge, SIZE_MAX);
    push(merge, b, 1, 0);
    assert_false(merge_is_idle(merge, b));
    assert_pops(merge, b, 0);
    assert_waits_for(merge, b);
    merge_destroy(merge);
}

static void test_unusable_records_leave_at_once(void **state)
{
    (void)state;
    struct merge *merge = merge_create();
    size_t a = merge_add_source(merge, 0), b = merge_add_source(merge, 1);
    push(merge, a, 10, 0);
    struct merge_entry bad = { .offset = 1, .record = merge };
    merge_push(merge, a, &bad);
    assert_waits_for(merge, b); /* not yet its partition's head */
    merge_push(merge, b, &bad);
    assert_pops(merge, b, 1);
    push(merge, b, 50, 2);
    assert_pops(merge, a, 0);
    struct merge_entry entry;
    size_t from, waiting_for;
    assert_true(merge_pop(merge, &entry, &from, &waiting_for));
    assert_false(entry.has_event);
    assert_ptr_equal(entry.record, merge);
    assert_waits_for(merge, a);
    merge_destroy(merge);
}

enum { SOURCES = 7, EACH = 200 };

/* Pushes the same partitions in an interleaving of `seed`, popping whenever possible; writes the order of what came
 * out. */
static void run(uint64_t seed, int64_t (*order)[2])
{
    struct merge *merge = merge_create();
    size_t index[SOURCES], pushed[SOURCES] = { 0 }, rank_of[SOURCES], popped = 0;
    for (size_t i = 0; i < SOURCES; i++) {
        size_t rank = (i + seed) % SOURCES;
        index[rank] = merge_add_source(merge, rank);
        rank_of[index[rank]] = rank;
    }
    for (uint64_t n = 0; popped < SOURCES * EACH; n++) {
        size_t rank = random_bits(seed, n) % SOURCES;
        for (uint64_t burst = random_bits(seed + 1000, n) % 5; burst && pushed[rank] < EACH; burst--) {
            int64_t offset = (int64_t)pushed[rank]++;
            push(merge, index[rank], offset * 3 + (int64_t)(random_bits(rank, (uint64_t)offset) % 40), offset);
        }
        if (pushed[rank] == EACH) merge_set_idle(merge, index[rank], true);
        struct merge_entry entry;
        size_t from, waiting_for;
        while (merge_pop(merge, &entry, &from, &waiting_for)) {
            order[popped][0] = (int64_t)rank_of[from];
            order[popped++][1] = entry.offset;
        }
    }
    merge_destroy(merge);
}

static void test_order_is_a_function_of_the_contents(void **state)
{
    (void)state;
    static int64_t first[SOURCES * EACH][2], other[SOURCES * EACH][2];
    run(0, first);
    for (uint64_t seed = 1; seed < 20; seed++) {
        run(seed, other);
        assert_memory_equal(first, other, sizeof first);
    }
}

static void test_destroy_releases_events(void **state)
{
    (void)state;
    struct merge *merge = merge_create();
    size_t a = merge_add_source(merge, 0);
    struct merge_entry entry = entry_at(1, 0);
    entry.event.id = strdup("held"); /* the leak checker sees it if it stays */
    merge_push(merge, a, &entry);
    merge_destroy(merge);
    merge_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_waiting),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_unusable_records_leave_at_once),
        cmocka_unit_test(test_order_is_a_function_of_the_contents),
        cmocka_unit_test(test_destroy_releases_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
