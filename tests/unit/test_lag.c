/* One number for how far behind the stream we are: of all partitions, or none at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/pipeline.h"

static void it_is_the_sum_once_every_end_is_known(void **state)
{
    (void)state;
    struct source_view source[] = { { .next = 7, .end = 10 }, { .next = 100, .end = -1 } };
    struct pipeline_view view = { .source = source };
    assert_int_equal(pipeline_view_lag(&view), -1);         /* nothing is read yet */
    view.source_count = 1;
    assert_int_equal(pipeline_view_lag(&view), 3);
    view.source_count = 2;
    assert_int_equal(pipeline_view_lag(&view), -1);         /* 3 would be less than there is */
    source[1].end = 142;
    assert_int_equal(pipeline_view_lag(&view), 45);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_the_sum_once_every_end_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
