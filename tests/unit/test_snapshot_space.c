/* Snapshots in steady running: how much is written and how much space it takes, simulated with random updates. */
#include "tests/unit/snapshot_fixture.h"

struct run { uint64_t changed, written, segments; double worst_disk; };

/* cuts cuts, each after `updates` random changes; one in `dying` is an end of a record, and some begin. */
static struct run steady(const char *directory, uint32_t slots, uint32_t updates, unsigned dying, int cuts, size_t size)
{
    struct snapshot_store *store = open_store(directory);
    struct toy *toy = toy_create(slots, size, 0);
    struct run run = { 0 };
    uint32_t random = 12345;
    for (uint32_t slot = 0; slot < slots; slot++) toy_set(toy, slot, 1);
    for (int n = 0; n < cuts; n++) {
        struct snapshot_cut *cut = snapshot_begin(store);
        toy_give(toy, cut, "rows.item");
        commit(cut);
        struct snapshot_stats stats = snapshot_stats(store);
        if (n) {        /* the first is the whole, and has nothing to be compared with */
            run.changed += stats.changed_bytes;
            run.written += stats.written_bytes;
            double share = (double)stats.disk_bytes / (double)stats.live_bytes;
            if (share > run.worst_disk) run.worst_disk = share;
            if (stats.segments > run.segments) run.segments = stats.segments;
        }
        if (n % 9 == 4) {
            snapshot_close(store);
            store = open_store(directory);
        }
        for (uint32_t i = 0; n + 1 < cuts && i < updates; i++) {
            random = random * 1664525 + 1013904223;
            uint32_t slot = (uint32_t)((uint64_t)random * slots >> 32);
            random = random * 1664525 + 1013904223;
            toy_set(toy, slot, dying && (random >> 16) % dying == 0 ? 0 : (uint32_t)n + 2);
        }
    }
    assert_toy(toy, store, "rows.item");
    snapshot_close(store);
    toy_destroy(toy);
    print_message("%u slots, %u updates a cut: written/changed %.2f, disk/live at most %.2f, %u segments\n", slots,
                  updates, (double)run.written / (double)run.changed, run.worst_disk, (unsigned)run.segments);
    return run;
}

static void a_fifth_changes_each_time(void **state)
{
    struct run run = steady(*state, 100000, 20000, 0, 60, 408);
    assert_true(run.written <= 2 * run.changed);
    assert_true(run.worst_disk <= 2);
}

static void a_hundredth_changes_each_time(void **state)
{
    struct run run = steady(*state, 100000, 1000, 0, 250, 408);
    assert_true(run.written <= 2 * run.changed);
    assert_true(run.worst_disk <= 2);
    assert_true(run.segments <= 200);
}

static void nearly_all_changes_each_time(void **state)
{
    struct run run = steady(*state, 20000, 60000, 0, 20, 408);
    assert_true(run.written <= 2 * run.changed);
    assert_true(run.worst_disk <= 2.1);             /* two cuts are kept, and each is nearly all */
}

static void records_come_and_go(void **state)
{
    struct run run = steady(*state, 50000, 5000, 3, 120, 96);
    assert_true(run.written <= 2 * run.changed);
    assert_true(run.worst_disk <= 2.2);             /* a third ends at first, for a record of 8 bytes each */
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fresh_directory, release)
    const struct CMUnitTest tests[] = {
        TEST(a_fifth_changes_each_time),
        TEST(a_hundredth_changes_each_time),
        TEST(nearly_all_changes_each_time),
        TEST(records_come_and_go),
    };
    if (!make_root(true)) return 1;
    return run_and_clean(cmocka_run_group_tests(tests, NULL, NULL));
}
