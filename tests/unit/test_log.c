/* Log lines: what a person and a machine read back from stderr. */
#include "daemon/log.h"
#include "daemon/log_remedy.h"

#include <errno.h>
#include <glob.h>
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

static char *file_text(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file) fail_msg("%s can't be read", path);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *text = calloc(1, (size_t)size + 1);
    assert_int_equal(fread(text, 1, (size_t)size, file), size);
    fclose(file);
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
              LOG_S("e", "bad\xff"), LOG_S("f", "k=v"), LOG_S("g", NULL), LOG_S("h", "\xc3\xb8l"),
              LOG_S("i", "\xc2\x9b" "31m \xc2\xa0"));
    char *text = capture_end();
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    assert_non_null(strstr(text, "a=\"1\\n2026 error forged\" b=\"q\\\"uote\\\\\" c=\"\" d=\"\\x1b[31m\" "
                                 "e=\"bad\\xff\" f=\"k=v\" g=- h=\"\xc3\xb8l\" "
                                 "i=\"\\u009b31m \xc2\xa0\"\n"));
    free(text);
}

static void json_lines(void **state)
{
    (void)state;
    log_open(LEVEL_INFO, LOG_JSON);
    capture_begin();
    log_warning("odd", LOG_S("text", "a\"\\\n\x01\xff\xed\xa0\x80z\xc2\x9b"), LOG_F("nan", NAN),
                LOG_U("big", UINT64_C(1) << 53), LOG_S("none", NULL));
    char *text = capture_end();
    json_error_t why;
    json_t *line = json_loads(text, 0, &why);
    if (!line) fail_msg("%s in %s", why.text, text);
    assert_string_equal(json_string_value(json_object_get(line, "level")), "warning");
    assert_string_equal(json_string_value(json_object_get(line, "message")), "odd");
    assert_string_equal(json_string_value(json_object_get(line, "text")),
                        "a\"\\\n\x01\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz\xc2\x9b");
    assert_null(strstr(text, "\xc2\x9b"));
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
        log_debug("from a thread", LOG_U("thread", (uint64_t)(size_t)argument), LOG_I("line", i));
    return NULL;
}

static void threads_never_mix_lines(void **state)
{
    (void)state;
    log_open(LEVEL_DEBUG, LOG_JSON);
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

static int count_of(const char *text, const char *what)
{
    int count = 0;
    for (; (text = strstr(text, what)); text += strlen(what)) count++;
    return count;
}

static void repeats_are_counted(void **state)
{
    (void)state;
    log_open(LEVEL_DEBUG, LOG_TEXT);
    log_tell_repeats(true);
    capture_begin();
    for (int i = 0; i < 45; i++) {
        char text[64];
        snprintf(text, sizeof text, "refused (after %dms, %d suppressed)", i, 2 * i);
        log_warning("a peer", LOG_S("text", text), LOG_I("offset", i), LOG_S("remedy", "-"));
    }
    log_warning("a peer", LOG_S("text", "another reason"));             /* is news */
    for (int i = 0; i < 300; i++) log_debug("a step", LOG_I("step", i));   /* who asks for these wants them all */
    for (int i = 0; i < 7; i++) log_error("once in a while", LOG_S("remedy", "-"));
    log_tell_repeats(false);                                            /* their minute is not over */
    char *text = capture_end();
    assert_int_equal(count_of(text, "refused (after"), 5);
    assert_int_equal(count_of(text, "another reason"), 1);
    assert_int_equal(count_of(text, "a step"), 300);
    assert_int_equal(count_of(text, "once in a while"), 5);
    assert_int_equal(count_of(text, "repeated="), 0);
    free(text);
    capture_begin();
    log_tell_repeats(true);
    log_tell_repeats(true);
    text = capture_end();
    assert_int_equal(count_of(text, "\n"), 2);
    assert_non_null(strstr(text, " warning a peer repeated=40 seconds="));
    assert_non_null(strstr(text, "refused (after 5ms, 10 suppressed)"));
    assert_non_null(strstr(text, " error once in a while repeated=2 seconds="));
    free(text);
}

/* More kinds at once than are watched: what gives way has its count told. */
static void no_count_is_lost(void **state)
{
    (void)state;
    log_open(LEVEL_INFO, LOG_TEXT);
    log_tell_repeats(true);
    capture_begin();
    for (int i = 0; i < 8; i++) log_warning("the first", LOG_S("remedy", "-"));
    for (int i = 0; i < 200; i++) {
        char text[8] = { (char)('a' + i % 26), (char)('a' + i / 26), 0 };
        log_warning("others", LOG_S("text", text), LOG_S("remedy", "-"));
    }
    char *text = capture_end();
    assert_int_equal(count_of(text, " warning the first repeated=3 "), 1);
    assert_int_equal(count_of(text, " warning others "), 200);
    free(text);
    log_tell_repeats(true);
}

static void errors_say_what_to_do(void **state)
{
    (void)state;
    log_open(LEVEL_INFO, LOG_TEXT);
    log_tell_repeats(true);
    capture_begin();
    log_error("snapshot failed, the previous one stands", LOG_S("error", "disk full"));
    log_warning("all brokers are down", LOG_S("remedy", "its own"));
    log_notice("librdkafka", LOG_S("text", "no error"));
    char *text = capture_end();
    assert_non_null(strstr(text, "error=\"disk full\" remedy=\"free room on the disk of snapshot.directory"));
    assert_int_equal(count_of(text, "remedy="), 2);
    assert_non_null(strstr(text, "remedy=\"its own\""));
    free(text);
}

/* The C string literals at text, one after the other, as one; where they end. */
static const char *literal(const char *text, char *into, size_t size)
{
    size_t used = 0;
    for (text += strspn(text, " \n\t"); *text == '"'; text += strspn(text, " \n\t")) {
        for (text++; *text != '"'; text++) {
            if (*text == '\\') text++;
            assert_true(used + 1 < size);
            into[used++] = *text;
        }
        text++;
    }
    into[used] = 0;
    return text;
}

/* Every warning and error of the daemon's sources has a row, or a field of its own; every row has its message. */
static void every_message_has_its_remedy(void **state)
{
    (void)state;
    glob_t files;
    bool used[256] = { false };
    int found = 0;
    assert_int_equal(glob("daemon/*.c", 0, NULL, &files), 0);      /* tests run in the root of the sources */
    for (size_t i = 0; i < files.gl_pathc; i++) {
        char *source = file_text(files.gl_pathv[i]);
        for (char *at = source; (at = strstr(at, "log_")); at++) {
            size_t name = strncmp(at, "log_error(", 10) == 0 ? 10 : strncmp(at, "log_warning(", 12) == 0 ? 12 : 0;
            if (!name) continue;
            char message[512];
            const char *rest = literal(at + name, message, sizeof message), *end = strstr(rest, ";\n");
            if (!*message) fail_msg("%s: a message that is no literal: %.60s", files.gl_pathv[i], at);
            found++;
            const char *own = strstr(rest, "LOG_S(\"remedy\"");
            size_t row = 0;
            while (log_remedies[row].message && strcmp(log_remedies[row].message, message) != 0) row++;
            if (!log_remedies[row].message && own && end && own < end) continue;
            if (!log_remedies[row].message)
                fail_msg("%s: what does an operator do about \"%s\"? Add a row to daemon/log_remedy.c, or a field "
                         "LOG_S(\"remedy\", ...)", files.gl_pathv[i], message);
            used[row] = true;
        }
        free(source);
    }
    globfree(&files);
    assert_true(found > 40);
    for (size_t row = 0; log_remedies[row].message; row++) {
        assert_null(strchr(log_remedies[row].remedy, '@'));         /* in journald's catalog it would name a field */
        if (!used[row] && strcmp(log_remedies[row].message, "librdkafka") != 0)     /* its level is librdkafka's */
            fail_msg("daemon/log_remedy.c: nothing logs \"%s\" any more", log_remedies[row].message);
    }
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
        cmocka_unit_test(repeats_are_counted),
        cmocka_unit_test(no_count_is_lost),
        cmocka_unit_test(errors_say_what_to_do),
        cmocka_unit_test(every_message_has_its_remedy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
