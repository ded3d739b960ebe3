/* The bounded queue: order, back-pressure, closing. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/queue.h"

enum { ITEMS = 20000 };

static void *write_items(void *argument)
{
    for (uintptr_t i = 1; i <= ITEMS; i++)
        if (!queue_push(argument, (void *)i)) return (void *)i;
    queue_close(argument);
    return NULL;
}

static void test_order_through_a_small_queue(void **state)
{
    (void)state;
    struct queue *queue = queue_create(3);
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, write_items, queue), 0);
    for (uintptr_t i = 1; i <= ITEMS; i++) {
        assert_true(queue_length(queue) <= 3);
        assert_ptr_equal(queue_pop(queue, -1), (void *)i);
    }
    assert_null(queue_pop(queue, -1));
    void *refused;
    pthread_join(writer, &refused);
    assert_null(refused);
    queue_destroy(queue);
}

static void test_close_wakes_a_waiting_writer(void **state)
{
    (void)state;
    struct queue *queue = queue_create(2);
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, write_items, queue), 0);
    assert_ptr_equal(queue_pop(queue, -1), (void *)1);
    queue_close(queue);
    void *refused;
    pthread_join(writer, &refused);
    assert_non_null(refused);                   /* was told that the item did not go in */
    uintptr_t next = 2;
    for (void *item; (item = queue_pop(queue, 0));) assert_int_equal((uintptr_t)item, next++);
    assert_int_equal(next, (uintptr_t)refused); /* all that went in came out */
    queue_destroy(queue);
}

static void test_empty(void **state)
{
    (void)state;
    struct queue *queue = queue_create(1);
    assert_null(queue_pop(queue, 0));
    assert_null(queue_pop(queue, 1));
    int item;
    assert_true(queue_push(queue, &item));
    assert_int_equal(queue_length(queue), 1);
    queue_close(queue);
    assert_false(queue_push(queue, &item));
    assert_ptr_equal(queue_pop(queue, -1), &item);
    assert_null(queue_pop(queue, -1));
    queue_destroy(queue);
    queue_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_through_a_small_queue),
        cmocka_unit_test(test_close_wakes_a_waiting_writer),
        cmocka_unit_test(test_empty),
    };
    return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
