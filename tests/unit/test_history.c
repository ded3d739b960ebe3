/* Users' own clicks: bounds, who leaves first, and the same after a restart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/history.h"
#include "core/random.h"
#include "memory_state.h"

static void assert_history(const struct history *history, uint64_t user, size_t expected, const uint64_t *item)
{
    size_t count;
    const uint64_t *found = history_of(history, user, &count);
    assert_int_equal(count, expected);
    if (expected) assert_memory_equal(found, item, expected * sizeof *item);
}

static void test_bounds(void **state)
{
    (void)state;
    struct history *history = history_create(&(struct history_options){ .max_length = 3, .max_users = 2 });
    assert_history(history, 1, 0, NULL);
    for (uint64_t item = 1; item <= 5; item++) history_append(history, 1, item);
    assert_history(history, 1, 3, (uint64_t[]){ 3, 4, 5 });
    history_append(history, 2, 7);
    history_append(history, 1, 6); /* 2 is now the least recently active */
    history_append(history, 3, 8);
    assert_int_equal(history_users(history), 2);
    assert_history(history, 2, 0, NULL);
    assert_history(history, 1, 3, (uint64_t[]){ 4, 5, 6 });
    assert_history(history, 3, 1, (uint64_t[]){ 8 });
    history_append(history, 2, 9); /* comes back with nothing of what it had */
    assert_history(history, 2, 1, (uint64_t[]){ 9 });
    assert_history(history, 1, 0, NULL);
    history_destroy(history);
}

/* The plain version: an array of users, searched from end to end. */
struct plain {
    uint64_t user, activity, item[4];
    size_t count;
};

static struct plain *plain_append(struct plain *plain, size_t *users, size_t max_users, uint64_t user, uint64_t item,
                                  uint64_t now)
{
    struct plain *found = NULL;
    for (size_t i = 0; i < *users; i++)
        if (plain[i].user == user) found = &plain[i];
    if (!found && *users < max_users)
        found = &plain[(*users)++];
    else if (!found) {
        found = plain;
        for (size_t i = 1; i < *users; i++)
            if (plain[i].activity < found->activity) found = &plain[i];
        found->count = 0;
    }
    found->user = user;
    found->activity = now;
    if (found->count == 4) memmove(found->item, found->item + 1, --found->count * sizeof *found->item);
    found->item[found->count++] = item;
    return found;
}

static void test_against_plain_with_restarts(void **state)
{
    (void)state;
    enum { USERS = 1500 };
    struct history_options options = { .max_length = 4, .max_users = USERS };
    struct history *history = history_create(&options);
    struct plain *plain = calloc(USERS, sizeof *plain);
    struct memory_state saved;
    memory_state_init(&saved);
    size_t users = 0;
    for (uint64_t n = 0; n < 12000; n++) {
        uint64_t user = random_bits(3, random_bits(1, n) % 2000), item = random_bits(2, n);
        plain_append(plain, &users, USERS, user, item, n);
        history_append(history, user, item);
        if (n % 4000 != 3999) continue;
        assert_true(history_save(history, &saved.writer, NULL));
        saved.writer.full = false;
        history_destroy(history);
        history = history_create(&options);
        assert_true(history_load(history, &saved.reader, NULL));
    }
    assert_int_equal(history_users(history), users);
    for (size_t i = 0; i < users; i++) assert_history(history, plain[i].user, plain[i].count, plain[i].item);
    history_destroy(history);
    memory_state_release(&saved);
    free(plain);
}

static void test_save_gives_only_what_changed(void **state)
{
    (void)state;
    struct history *history = history_create(&(struct history_options){ .max_length = 4 });
    struct memory_state saved;
    memory_state_init(&saved);
    for (uint64_t user = 0; user < 5000; user++) history_append(history, user, 1);
    assert_true(history_save(history, &saved.writer, NULL));
    assert_int_equal(saved.given, 5000);
    assert_int_equal(saved.puts, 1); /* the header */
    saved.writer.full = false;
    saved.given = 0;
    history_append(history, 4999, 2);
    history_append(history, 5000, 2);
    history_append(history, 4999, 3);
    assert_true(history_save(history, &saved.writer, NULL));
    assert_int_equal(saved.given, 2);
    history_destroy(history);
    memory_state_release(&saved);
}

/* A cut is what was there at the save, whatever users do or leave before it is read; and a state loaded from it is
 * whole where all is given anew. */
static void test_cut_stays_as_it_was(void **state)
{
    (void)state;
    struct history_options options = { .max_length = 4, .max_users = 3000 };
    struct history *history = history_create(&options);
    struct memory_state at_once, later, again;
    memory_state_init(&at_once);
    memory_state_init(&later);
    memory_state_init(&again);
    for (uint64_t n = 0; n < 5000; n++) history_append(history, random_bits(1, n) % 2900, n);
    assert_true(history_save(history, &at_once.writer, NULL));
    later.later = true;
    assert_true(history_save(history, &later.writer, NULL));
    for (uint64_t n = 0; n < 9000; n++) history_append(history, random_bits(2, n) % 6000, n);
    memory_state_read(&later);
    memory_state_end(&later, true);
    assert_true(memory_state_same(&at_once, &later));
    history_destroy(history);
    history = history_create(&options);
    assert_true(history_load(history, &later.reader, NULL));
    assert_true(history_save(history, &again.writer, NULL));
    assert_true(memory_state_same(&at_once, &again));
    history_destroy(history);
    memory_state_release(&at_once);
    memory_state_release(&later);
    memory_state_release(&again);
}

/* The same with the reading thread at work meanwhile (a matter for the thread sanitizer too). */
static void test_cut_is_read_while_users_go_on(void **state)
{
    (void)state;
    struct history *history = history_create(&(struct history_options){ .max_length = 4, .max_users = 3000 });
    struct memory_state at_once, later;
    memory_state_init(&at_once);
    memory_state_init(&later);
    for (uint64_t n = 0; n < 8000; n++) history_append(history, random_bits(1, n) % 2900, n);
    assert_true(history_save(history, &at_once.writer, NULL));
    later.later = true;
    assert_true(history_save(history, &later.writer, NULL));
    pthread_t reader;
    assert_int_equal(pthread_create(&reader, NULL, memory_state_read, &later), 0);
    for (uint64_t n = 0; n < 9000; n++) history_append(history, random_bits(2, n) % 6000, n);
    pthread_join(reader, NULL);
    memory_state_end(&later, true);
    assert_true(memory_state_same(&at_once, &later));
    history_destroy(history);
    memory_state_release(&at_once);
    memory_state_release(&later);
}

static bool loads(struct memory_state *saved)
{
    struct cs_error err = { 0 };
    struct history *history = history_create(&(struct history_options){ .max_length = 4 });
    bool loaded = history_load(history, &saved->reader, &err);
    assert_int_equal(err.code, loaded ? CS_OK : CS_REFUSED);
    history_destroy(history);
    return loaded;
}

static void test_shorter_limit_and_damage(void **state)
{
    (void)state;
    struct history *history = history_create(&(struct history_options){ .max_length = 4 });
    struct memory_state saved;
    memory_state_init(&saved);
    for (uint64_t item = 1; item <= 4; item++) history_append(history, 1, item);
    assert_true(history_save(history, &saved.writer, NULL));
    history_destroy(history);
    history = history_create(&(struct history_options){ .max_length = 2 });
    assert_true(history_load(history, &saved.reader, NULL));
    assert_history(history, 1, 2, (uint64_t[]){ 3, 4 });
    history_destroy(history);

    assert_true(loads(&saved));
    memory_find(&saved, "history.users", 0)->size -= 8; /* an item less than it says */
    assert_false(loads(&saved));
    memory_find(&saved, "history.users", 0)->size += 8;
    memory_find(&saved, "history", 0)->size -= 8;
    assert_false(loads(&saved));
    memory_find(&saved, "history", 0)->size += 8;
    memory_forget(&saved, "history.users", 0); /* the header tells of one */
    assert_false(loads(&saved));
    memory_forget(&saved, "history", 0);
    assert_false(loads(&saved));
    memory_state_release(&saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_against_plain_with_restarts),
        cmocka_unit_test(test_save_gives_only_what_changed),
        cmocka_unit_test(test_cut_stays_as_it_was),
        cmocka_unit_test(test_cut_is_read_while_users_go_on),
        cmocka_unit_test(test_shorter_limit_and_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
