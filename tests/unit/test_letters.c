/* Dead letters until a broker has taken them: what goes when, what is kept, and what a snapshot brings back of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/letters.h"
#include "memory_state.h"

static void add(struct letters *letters, const char *topic, const char *value)
{
    const struct letter_header header[] = { { "reason", "not_json", 8 }, { "none", NULL, 0 }, { "empty", "", 0 } };
    letters_add(letters, &(struct letter){ .topic = topic, .value = value, .value_size = strlen(value),
                                           .timestamp = 1700000000123, .header = header, .headers = 3 });
}

/* The next one's value; "" where nothing is to be sent. */
static const char *next(struct letters *letters, int64_t now, const struct letter **letter)
{
    static char text[64];
    *letter = letters_next(letters, now);
    if (!*letter) return "";
    snprintf(text, sizeof text, "%.*s", (int)(*letter)->value_size, (const char *)(*letter)->value);
    return text;
}

static void assert_view(struct letters *letters, uint64_t count, uint64_t kept, const char *why)
{
    struct letters_view view = letters_view(letters);
    assert_int_equal(view.count, count);
    assert_int_equal(view.kept, kept);
    assert_string_equal(view.why, why);
}

static void test_letters_go_at_once_and_are_forgotten(void **state)
{
    (void)state;
    struct letters *letters = letters_create(1000);
    const struct letter *first, *second, *none;
    assert_false(letters_changed(letters));
    add(letters, "a.dlq", "one");
    add(letters, "b.dlq", "two");
    assert_string_equal(next(letters, 0, &first), "one");
    assert_string_equal(next(letters, 0, &second), "two");
    assert_string_equal(next(letters, 0, &none), "");
    assert_view(letters, 2, 0, "");
    assert_false(letters_taken(letters, first));
    assert_false(letters_taken(letters, second));
    assert_view(letters, 0, 0, "");
    assert_int_equal(letters_view(letters).bytes, 0);
    letters_destroy(letters);
}

static void test_what_could_not_be_tried_goes_first(void **state)
{
    (void)state;
    struct letters *letters = letters_create(1000);
    const struct letter *letter;
    add(letters, "a.dlq", "one");
    add(letters, "a.dlq", "two");
    next(letters, 0, &letter);
    assert_false(letters_refused(letters, letter, LETTERS_UNSENT, "queue full", 0));
    assert_view(letters, 2, 0, "");
    assert_string_equal(next(letters, 0, &letter), "one");
    letters_taken(letters, letter);
    letters_destroy(letters);
}

/* One is tried every LETTERS_RETRY, whatever comes meanwhile; once it is taken all go. Other topics' are not held up.
 */
static void test_a_topic_that_refuses_is_tried_now_and_then(void **state)
{
    (void)state;
    struct letters *letters = letters_create(10000);
    const struct letter *letter, *other;
    add(letters, "a.dlq", "one");
    add(letters, "a.dlq", "two");
    next(letters, 100, &letter);
    assert_true(letters_refused(letters, letter, LETTERS_SHUT, "no leave", 100));
    add(letters, "a.dlq", "three");
    add(letters, "b.dlq", "four");
    assert_string_equal(next(letters, 101, &other), "four");
    letters_taken(letters, other);
    assert_string_equal(next(letters, 99 + LETTERS_RETRY, &letter), "");
    assert_view(letters, 3, 3, "a.dlq: no leave");
    assert_string_equal(next(letters, 100 + LETTERS_RETRY, &letter), "two");
    assert_string_equal(next(letters, 100 + 3 * LETTERS_RETRY, &other), "");        /* one at a time */
    assert_false(letters_refused(letters, letter, LETTERS_SHUT, "no leave", 100 + LETTERS_RETRY));
    assert_string_equal(next(letters, 100 + 2 * LETTERS_RETRY, &letter), "one");
    assert_true(letters_taken(letters, letter));
    assert_view(letters, 2, 0, "");
    for (int i = 0; i < 2; i++) {
        assert_string_not_equal(next(letters, 100 + 2 * LETTERS_RETRY, &letter), "");
        assert_false(letters_taken(letters, letter));
    }
    assert_view(letters, 0, 0, "");
    letters_destroy(letters);
}

/* What is too large for its topic holds nobody up, and is tried alone. */
static void test_a_letter_that_does_not_fit_lets_others_pass(void **state)
{
    (void)state;
    struct letters *letters = letters_create(10000);
    const struct letter *letter, *large;
    add(letters, "a.dlq", "large");
    add(letters, "a.dlq", "larger");
    for (int i = 0; i < 2; i++) {
        next(letters, 0, &large);
        letters_refused(letters, large, LETTERS_UNFIT, "too large", 0);
    }
    add(letters, "a.dlq", "small");
    assert_string_equal(next(letters, 1, &letter), "small");
    assert_string_equal(next(letters, 1, &large), "");
    letters_taken(letters, letter);
    assert_view(letters, 2, 2, "a.dlq: too large");
    assert_string_equal(next(letters, 2, &large), "large"); /* the topic takes letters: perhaps this one too, now */
    assert_string_equal(next(letters, 2, &letter), "");
    letters_refused(letters, large, LETTERS_UNFIT, "too large", 2);
    assert_string_equal(next(letters, 3, &letter), "");
    assert_string_equal(next(letters, 2 + LETTERS_RETRY, &large), "larger");
    letters_taken(letters, large);
    assert_string_equal(next(letters, 3 + LETTERS_RETRY, &large), "large");         /* at once: one has passed */
    letters_taken(letters, large);
    assert_view(letters, 0, 0, "");
    letters_destroy(letters);
}

static void test_what_is_kept_is_bounded(void **state)
{
    (void)state;
    struct letters *letters = letters_create(1000);
    const struct letter *letter;
    char value[600];
    memset(value, 'x', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    add(letters, "a.dlq", value);
    assert_false(letters_full(letters));
    add(letters, "a.dlq", value);
    assert_true(letters_full(letters));
    next(letters, 0, &letter);
    letters_taken(letters, letter);
    assert_false(letters_full(letters));
    letters_destroy(letters);
}

static void assert_saved(struct letters *letters, struct memory_state *saved)
{
    struct cs_error err;
    assert_true(letters_changed(letters));
    assert_true(letters_save(letters, &saved->writer, &err));
    assert_false(letters_changed(letters));
}

/* Each letter with all of its parts, under way or not; none that was taken. */
static void test_a_snapshot_has_what_no_broker_has(void **state)
{
    (void)state;
    struct letters *letters = letters_create(10000);
    struct memory_state saved;
    struct cs_error err;
    const struct letter *taken, *sent, *refused, *letter;
    memory_state_init(&saved);
    add(letters, "a.dlq", "taken");
    assert_saved(letters, &saved);
    add(letters, "a.dlq", "sent");
    add(letters, "a.dlq", "refused");
    letters_add(letters, &(struct letter){ .topic = "b.dlq", .key = "k", .key_size = 1, .value = "", .value_size = 0 });
    next(letters, 0, &taken);
    next(letters, 0, &sent);
    next(letters, 0, &refused);
    letters_taken(letters, taken);
    letters_refused(letters, refused, LETTERS_SHUT, "no leave", 0);
    assert_saved(letters, &saved);
    assert_true(letters_save(letters, &saved.writer, &err));
    assert_int_equal(saved.count, 3);
    letters_destroy(letters);

    letters = letters_create(10000);
    assert_true(letters_load(letters, &saved.reader, &err));
    assert_false(letters_changed(letters));
    assert_int_equal(letters_view(letters).count, 3);
    bool found[3] = { false };
    while ((letter = letters_next(letters, 0))) {
        if (strcmp(letter->topic, "b.dlq") == 0) {
            assert_int_equal(letter->key_size, 1);
            assert_memory_equal(letter->key, "k", 1);
            assert_non_null(letter->value);
            assert_int_equal(letter->value_size, 0);
            found[2] = true;
        } else {
            found[memcmp(letter->value, "sent", 4) == 0] = true;
            assert_string_equal(letter->topic, "a.dlq");
            assert_null(letter->key);
            assert_int_equal(letter->timestamp, 1700000000123);
            assert_int_equal(letter->headers, 3);
            assert_string_equal(letter->header[0].name, "reason");
            assert_int_equal(letter->header[0].size, 8);
            assert_memory_equal(letter->header[0].value, "not_json", 8);
            assert_string_equal(letter->header[1].name, "none");
            assert_null(letter->header[1].value);
            assert_non_null(letter->header[2].value);
            assert_int_equal(letter->header[2].size, 0);
        }
        letters_taken(letters, letter);
    }
    assert_true(found[0] && found[1] && found[2]);
    assert_saved(letters, &saved);
    assert_int_equal(saved.count, 0);
    letters_destroy(letters);
    memory_state_release(&saved);
}

/* Cut anywhere, or with any bit turned over: taken for what it says, or refused; never read past its end. */
static void test_damaged_letters_are_refused(void **state)
{
    (void)state;
    struct letters *letters = letters_create(10000);
    struct memory_state saved;
    struct cs_error err;
    memory_state_init(&saved);
    add(letters, "a.dlq", "value");
    assert_saved(letters, &saved);
    letters_destroy(letters);
    size_t size = saved.block[0].size, refused = 0;
    uint8_t *whole = malloc(size);
    memcpy(whole, saved.block[0].bytes, size);
    for (size_t i = 0; i < size * 9; i++) {
        uint8_t *bytes = malloc(size);       /* of exactly its size, for the sanitizers */
        memcpy(bytes, whole, size);
        size_t left = i < size ? i : size;
        if (i >= size) bytes[(i - size) / 8] ^= (uint8_t)(1 << (i - size) % 8);
        free(saved.block[0].bytes);
        saved.block[0].bytes = left ? memcpy(malloc(left), bytes, left) : malloc(1);
        saved.block[0].size = left;
        free(bytes);
        letters = letters_create(10000);
        bool taken = letters_load(letters, &saved.reader, &err);
        assert_true(i >= size || !taken);
        if (!taken) assert_int_equal(err.code, CS_REFUSED);
        refused += !taken;
        letters_destroy(letters);
    }
    assert_true(refused > size);
    free(whole);
    memory_state_release(&saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_letters_go_at_once_and_are_forgotten),
        cmocka_unit_test(test_what_could_not_be_tried_goes_first),
        cmocka_unit_test(test_a_topic_that_refuses_is_tried_now_and_then),
        cmocka_unit_test(test_a_letter_that_does_not_fit_lets_others_pass),
        cmocka_unit_test(test_what_is_kept_is_bounded),
        cmocka_unit_test(test_a_snapshot_has_what_no_broker_has),
        cmocka_unit_test(test_damaged_letters_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
