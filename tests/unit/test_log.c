/* Log lines: what a person and a machine read back from stderr. */
#include "daemon/log.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* stderr goes to a temporary file between capture_begin and capture_end. */
static int saved_stderr;
static FILE *captured;

static void capture_begin(void)
{
    captured = tmpfile();
    assert_non_null(captured);
    saved_stderr = dup(STDERR_FILENO);
    dup2(fileno(captured), STDERR_FILENO);
}

static char *capture_end(void)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    long size = lseek(fileno(captured), 0, SEEK_END);
    char *text = calloc(1, (size_t)size + 1);
    assert_int_equal(pread(fileno(captured), text, (size_t)size, 0), size);
    fclose(captured);
    return text;
}

static void text_lines(void **state)
{
    (void)state;
    log_open(LEVEL_INFO, LOG_TEXT);
    capture_begin();
    log_info("snapshot written", LOG_U("bytes", 12), LOG_F("seconds", 0.25), LOG_S("directory", "/a b"),
             LOG_I("offset", -1));
    log_debug("not shown");
    log_error("plain");
    char *text = capture_end();
    assert_int_equal(text[4], '-');
    assert_int_equal(text[23], 'Z');
    assert_non_null(strstr(text, " info snapshot written bytes=12 seconds=0.25 directory=\"/a b\" offset=-1\n"));
    assert_non_null(strstr(text, " error plain\n"));
    assert_null(strstr(text, "not shown"));
    free(text);
}

static void values_cannot_forge_lines(void **state)
{
    (void)state;
    log_open(LEVEL_DEBUG, LOG_TEXT);
    capture_begin();
    log_debug("x", LOG_S("a", "1\n2026 error forged"), LOG_S("b", "q\"uote\\"), LOG_S("c", ""), LOG_S("d", "\x1b[31m"),
              LOG_S("e", "bad\xff"), LOG_S("f", "k=v"), LOG_S("g", NULL), LOG_S("h", "\xc3\xb8l"));
    char *text = capture_end();
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    assert_non_null(strstr(text, "a=\"1\\n2026 error forged\" b=\"q\\\"uote\\\\\" c=\"\" d=\"\\x1b[31m\" "
                                 "e=\"bad\\xff\" f=\"k=v\" g=- h=\"\xc3\xb8l\"\n"));
    free(text);
}

static void json_lines(void **state)
{
    (void)state;
    log_open(LEVEL_INFO, LOG_JSON);
    capture_begin();
    log_warning("odd", LOG_S("text", "a\"\\\n\x01\xff\xed\xa0\x80z"), LOG_F("nan", NAN),
                LOG_U("big", UINT64_C(1) << 53), LOG_S("none", NULL));
    char *text = capture_end();
    json_error_t why;
    json_t *line = json_loads(text, 0, &why);
    if (!line) fail_msg("%s in %s", why.text, text);
    assert_string_equal(json_string_value(json_object_get(line, "level")), "warning");
    assert_string_equal(json_string_value(json_object_get(line, "message")), "odd");
    assert_string_equal(json_string_value(json_object_get(line, "text")),
                        "a\"\\\n\x01\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz");
    assert_true(json_is_null(json_object_get(line, "nan")));
    assert_true(json_is_null(json_object_get(line, "none")));
    assert_int_equal(json_integer_value(json_object_get(line, "big")), INT64_C(1) << 53);
    json_decref(line);
    free(text);
}

static void long_values_are_cut_and_well_formed(void **state)
{
    (void)state;
    char *value = malloc(100001);
    memset(value, 'x', 100000);
    value[100000] = 0;
    for (int format = LOG_TEXT; format <= LOG_JSON; format++) {
        log_open(LEVEL_INFO, (enum log_format)format);
        capture_begin();
        log_info("long", LOG_U("before", 7), LOG_S("value", value), LOG_S("after", value));
        char *text = capture_end();
        assert_true(strlen(text) <= 8192);
        assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
        assert_non_null(strstr(text, "...\""));
        if (format == LOG_JSON) {
            json_t *line = json_loads(text, 0, NULL);
            assert_non_null(line);
            assert_int_equal(json_integer_value(json_object_get(line, "before")), 7);
            json_decref(line);
        }
        free(text);
    }
    free(value);
}

static void errno_survives(void **state)
{
    (void)state;
    log_open(LEVEL_INFO, LOG_TEXT);
    capture_begin();
    errno = ENOSPC;
    log_info("x");
    int after = errno;
    free(capture_end());
    assert_int_equal(after, ENOSPC);
}

enum { WRITERS = 4, LINES = 500 };

static void *writer(void *argument)
{
    for (int i = 0; i < LINES; i++)
        log_info("from a thread", LOG_U("thread", (uint64_t)(size_t)argument), LOG_I("line", i));
    return NULL;
}

static void threads_never_mix_lines(void **state)
{
    (void)state;
    log_open(LEVEL_INFO, LOG_JSON);
    capture_begin();
    pthread_t thread[WRITERS];
    for (size_t i = 0; i < WRITERS; i++) assert_int_equal(pthread_create(&thread[i], NULL, writer, (void *)i), 0);
    for (size_t i = 0; i < WRITERS; i++) pthread_join(thread[i], NULL);
    char *text = capture_end();
    int lines = 0, next[WRITERS] = { 0 };
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n")) && *line; lines++) {
        json_t *read = json_loads(line, 0, NULL);
        assert_non_null(read);
        size_t who = (size_t)json_integer_value(json_object_get(read, "thread"));
        assert_in_range(who, 0, WRITERS - 1);
        assert_int_equal(json_integer_value(json_object_get(read, "line")), next[who]++);
        json_decref(read);
    }
    assert_int_equal(lines, WRITERS * LINES);
    free(text);
}

static void level_changes_at_run_time(void **state)
{
    (void)state;
    log_open(LEVEL_ERROR, LOG_TEXT);
    capture_begin();
    log_info("hidden");
    log_set(LEVEL_INFO, LOG_TEXT);
    log_info("seen");
    char *text = capture_end();
    assert_int_equal(log_current_level(), LEVEL_INFO);
    assert_null(strstr(text, "hidden"));
    assert_non_null(strstr(text, "seen"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_lines),
        cmocka_unit_test(values_cannot_forge_lines),
        cmocka_unit_test(json_lines),
        cmocka_unit_test(long_values_are_cut_and_well_formed),
        cmocka_unit_test(errno_survives),
        cmocka_unit_test(threads_never_mix_lines),
        cmocka_unit_test(level_changes_at_run_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
