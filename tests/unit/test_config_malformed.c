/* Malformed configurations of all kinds: each is refused at its line and column, and the message says what to do. */
#include "config/config_table.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define FEATURES "features: {user: [{name: age}], item: [{name: item_id, table: item}]}\n"

#define FORTY "a123456789b123456789c123456789d123456789"
#define LONG FORTY FORTY FORTY FORTY FORTY FORTY "e12345"

/* Where the problem is, and a piece of what is to be done about it. */
struct malformed { const char *text; int line, column; const char *remedy; };

static const struct malformed cases[] = {
    /* -- YAML that is none -- */
    { FEATURES "batch: {size: 3", 3, 1, "close the map with }" },
    { FEATURES "batch: {size: 3\njoin: {window: 1m}\n", 3, 5, "close the map with }" },
    { FEATURES "batch: [1, 2", 3, 1, "close the list with ]" },
    { FEATURES "batch:\n\tsize: 3\n", 3, 1, "indent with blanks, not tabs" },
    { FEATURES "batch:\n  size: 3\n\tmax_delay: 1s\n", 4, 1, "indent with blanks, not tabs" },
    { FEATURES "batch:\n  size: 3\n max_delay: 1s\n", 4, 2, "begin in one column" },
    { FEATURES "batch:\n  size: 3\n    max_delay: 1s\n", 4, 14, "one `key: value` a line" },
    { FEATURES "batch: size: 3\n", 2, 12, "one `key: value` a line" },
    { FEATURES "batch:size\njoin:\n  window: 1m\n", 3, 1, "a blank behind the colon" },
    { FEATURES "http: {listen: @home}\n", 2, 16, "quote a text that begins with" },
    { FEATURES "http: {listen: `x`}\n", 2, 16, "quote a text that begins with" },
    { FEATURES "http: {listen: \"127.0.0.1:1}\n", 3, 1, "close the quote" },
    { FEATURES "http: {listen: 'a}\n", 3, 1, "close the quote" },
    { FEATURES "snapshot: {directory: \"C:\\data\"}\n", 2, 26, "take single quotes" },
    { FEATURES "batch: {size: 10,, max_delay: 1s}\n", 2, 18, "a value is missing, or a comma is too many" },
    { "features:\n  user:\n    - name: age\n     kind: dense\n", 4, 6, "stands in the column of its first word" },
    { FEATURES "batch: - 3\n", 2, 8, "begin a list in a line of its own" },
    { FEATURES "%YAML 1.1\n", 3, 1, "a configuration is one document" },
    { FEATURES "batch: {size: 3}}\n", 2, 17, "no bracket is closed that was not opened" },
    { FEATURES "] oops\n", 2, 1, "one column" },
    { "\x01", 1, 1, "allowed: UTF-8" },
    { FEATURES "# caf\xe9\n", 2, 6, "allowed: UTF-8" },
    { FEATURES "http: {listen: \"\xc0\xaf\"}\n", 2, 17, "allowed: UTF-8" },
    { FEATURES "http: {listen: \"\xed\xa0\x80\"}\n", 2, 17, "allowed: UTF-8" },
    { FEATURES "batch: {size: \"1\\0\"}\n", 2, 15, "allowed: any other character" },
    { "\x7f" "ELF\x02\x01\x01", 1, 1, "allowed: UTF-8" },
    { "PK\x03\x04", 1, 3, "allowed: UTF-8" },
    /* -- YAML that has no place here -- */
    { FEATURES "batch: &a {size: 3}\n", 2, 8, "write the value out" },
    { FEATURES "batch: *a\n", 2, 8, "write the value out" },
    { FEATURES "source: {kafka: {properties: {sasl.password: *Zq7secret}}}\n", 2, 46, "text that begins with *" },
    { FEATURES "source: {kafka: {properties: {sasl.password: &Zq7secret a}}}\n", 2, 46, "text that begins with &" },
    { FEATURES "source: {kafka: {properties: {sasl.password: !Zq7secret a}}}\n", 2, 46, "text that begins with !" },
    { FEATURES "batch: {size: ${SIZE}}\n", 2, 16, "as \"${NAME}\"" },
    { FEATURES "batch: {<<: *a}\n", 2, 13, "write the value out" },
    { FEATURES "batch: {size: !!int 3}\n", 2, 15, "leave it out" },
    { FEATURES "batch: !python/object:os.system {}\n", 2, 8, "leave it out" },
    { FEATURES "---\nbatch: {}\n", 2, 1, "leave --- out" },
    { FEATURES "? [a, b]\n: 3\n", 2, 3, "allowed: a name" },
    { FEATURES "? {a: b}\n: 3\n", 2, 3, "allowed: a name" },
    { FEATURES "batch: {size: 1}\nbatch: {size: 2}\n", 3, 1, "keep one of them" },
    { FEATURES "batch: {size: 1, size: 2}\n", 2, 18, "keep one of them" },
    { FEATURES "\"a\\nb\": 1\n\"a\\nb\": 2\n", 3, 1, "\"a\\x0ab\" is given twice, first in line 2; keep one of them" },
    { FEATURES "batch: {\"\\e]0;x\\a\": 1}\n", 2, 9, "unknown key \"\\x1b]0;x\\x07\", allowed: size, max_delay" },
    { FEATURES "logging:\n  level: >\n    info\n", 3, 10, "found \"info\\x0a\", allowed: error, warning" },
    { FEATURES "x: [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]\n", 2, 20, "no setting needs more than 16 levels" },
    { "[1, 2]\n", 1, 1, "allowed: a map of settings" },
    { "just a text\n", 1, 1, "allowed: a map of settings" },
    { "42\n", 1, 1, "allowed: a map of settings" },
    { "{\"json\": true, \"features\": {\"user\": [{\"name\": \"a\"}]}}\n", 1, 2, "allowed: source, events" },
    { "[section]\nkey = value\n", 2, 1, "one document" },
    /* -- names -- */
    { FEATURES "bacth: {size: 3}\n", 2, 1, "did you mean \"batch\"?" },
    { FEATURES "Batch: {size: 3}\n", 2, 1, "did you mean \"batch\"?" },
    { FEATURES "batch: {szie: 3}\n", 2, 9, "did you mean \"size\"?" },
    { FEATURES "batch: {max-delay: 1s}\n", 2, 9, "did you mean \"max_delay\"?" },
    { FEATURES "batch.size: 3\n", 2, 1, "allowed: source, events, join" },
    { FEATURES "batch: {colour: 3}\n", 2, 9, "allowed: size, max_delay" },
    { FEATURES "checkpiont: {}\n", 2, 1, "did you mean \"checkpoint\"?" },
    { FEATURES "snapshot: {dir: /x}\n", 2, 12, "allowed: directory, interval" },
    { FEATURES "snapshot: {intervall: 1m}\n", 2, 12, "did you mean \"interval\"?" },
    { FEATURES "model: {zero_shot: {knid: mail}}\n", 2, 21, "did you mean \"kind\"?" },
    { FEATURES "model: {rankin: {}}\n", 2, 9, "did you mean \"ranking\"?" },
    { FEATURES "optimizer: {embeding: {}}\n", 2, 13, "did you mean \"embedding\"?" },
    { FEATURES "optimizer: {ranking: {learning-rate: 0.1}}\n", 2, 23, "did you mean \"learning_rate\"?" },
    { FEATURES "compute: {thread: 2}\n", 2, 11, "did you mean \"threads\"?" },
    { FEATURES "logging: {levle: info}\n", 2, 11, "did you mean \"level\"?" },
    { FEATURES "source: {kafka: {topic: {}}}\n", 2, 18, "did you mean \"topics\"?" },
    { FEATURES "source: {kafak: {}}\n", 2, 10, "did you mean \"kafka\"?" },
    { FEATURES "source: {kafka: {topics: {click: c}}}\n", 2, 27, "did you mean \"clicks\"?" },
    { FEATURES "events: {fields: {impressionid: a.b}}\n", 2, 19, "did you mean \"impression_id\"?" },
    { "features: {user: [{nmae: age}, {name: b}]}\n", 1, 19, "allowed: a name" },
    { "features: {users: [{name: age}], user: [{name: b}]}\n", 1, 12, "did you mean \"user\"?" },
    { "features: {user: [{name: age, bucketise: [1]}]}\n", 1, 31, "did you mean \"bucketize\"?" },
    { FEATURES "embedding: {tables: {itme: {max_rows: 1}}}\n", 2, 22, "did you mean \"item\"?" },
    { FEATURES "embedding: {tables: {item: {maxrows: 1}}}\n", 2, 29, "did you mean \"max_rows\"?" },
    /* -- kinds of values -- */
    { FEATURES "batch: 3\n", 2, 8, "allowed: a map of settings" },
    { FEATURES "batch: [1]\n", 2, 8, "allowed: a map of settings" },
    { FEATURES "batch: {size: many}\n", 2, 15, "allowed: a whole number from 1 to 65536" },
    { FEATURES "batch: {size: 1e3}\n", 2, 15, "allowed: a whole number from 1 to 65536" },
    { FEATURES "batch: {size: 1_000}\n", 2, 15, "allowed: a whole number from 1 to 65536" },
    { FEATURES "batch: {size: \" 3\"}\n", 2, 15, "allowed: a whole number from 1 to 65536" },
    { FEATURES "batch: {size: true}\n", 2, 15, "allowed: a whole number from 1 to 65536" },
    { FEATURES "batch: {size:}\n", 2, 13, "quote texts that hold :" },
    { FEATURES "batch: {size: {}}\n", 2, 15, "allowed: a whole number from 1 to 65536" },
    { FEATURES "batch: {size: \"\"}\n", 2, 15, "allowed: a whole number from 1 to 65536" },
    { FEATURES "batch: {size: \xd9\xa3}\n", 2, 15, "allowed: a whole number from 1 to 65536" },
    { FEATURES "embedding: {init_std: .inf}\n", 2, 23, "allowed: a number from 0 to 10" },
    { FEATURES "embedding: {init_std: 0,01}\n", 2, 25, "allowed: dimension" },
    { FEATURES "embedding: {init_std: 0x1p3}\n", 2, 23, "allowed: a number from 0 to 10" },
    { FEATURES "model: {ranking: {hidden: 512}}\n", 2, 27, "allowed: a list of 1 to 8 widths" },
    { FEATURES "model: {ranking: {hidden: [1,2,3,4,5,6,7,8,9]}}\n", 2, 27, "allowed: a list of 1 to 8 widths" },
    { FEATURES "model: {ranking: {hidden: [8, -8]}}\n", 2, 31, "allowed: a list of 1 to 8 widths" },
    { "features: [{name: age}]\n", 1, 11, "allowed: a map of settings" },
    { "features: {user: age, item: [{name: i}]}\n", 1, 18, "allowed: a list of features as {name: age}" },
    { "features: {user: [age]}\n", 1, 19, "allowed: a map as {name: ...}" },
    { FEATURES "source: {kafka: {properties: [a]}}\n", 2, 30, "allowed: a map of names to texts" },
    { FEATURES "embedding: {tables: [item]}\n", 2, 21, "allowed: a map of tables" },
    /* -- ranges and units -- */
    { FEATURES "batch: {size: 65537}\n", 2, 15, "from 1 to 65536" },
    { FEATURES "batch: {size: 18446744073709551617}\n", 2, 15, "from 1 to 65536" },
    { FEATURES "batch: {max_delay: 10}\n", 2, 20, "a duration has a unit, as 10s" },
    { FEATURES "batch: {max_delay: 10 s}\n", 2, 20, "units ms s m h d" },
    { FEATURES "batch: {max_delay: 10sec}\n", 2, 20, "units ms s m h d" },
    { FEATURES "batch: {max_delay: -1s}\n", 2, 20, "units ms s m h d" },
    { FEATURES "join: {window: 1.5h}\n", 2, 16, "a duration from 1ms to 30d" },
    { FEATURES "join: {window: 1y}\n", 2, 16, "a duration from 1ms to 30d" },
    { FEATURES "join: {window: 31d}\n", 2, 16, "a duration from 1ms to 30d" },
    { FEATURES "events: {max_bytes: 1MB}\n", 2, 21, "units count in 1024" },
    { FEATURES "events: {max_bytes: 1TiB}\n", 2, 21, "units KiB MiB GiB" },
    { FEATURES "events: {max_bytes: 999GiB}\n", 2, 21, "to 64MiB" },
    { FEATURES "model: {ranking: {dropout: 1}}\n", 2, 28, "from 0 to less than 1" },
    { FEATURES "optimizer: {ranking: {learning_rate: -0.1}}\n", 2, 38, "greater than 0 to 10" },
    { FEATURES "source: {kafka: {start: 2026-02-30T12:00:00Z}}\n", 2, 25, "a time as 2026-01-31T12:00:00Z" },
    { FEATURES "source: {kafka: {start: yesterday}}\n", 2, 25, "earliest, latest, or a time" },
    /* -- words -- */
    { FEATURES "join: {release: clik}\n", 2, 17, "did you mean click?" },
    { FEATURES "join: {late_click: ignore}\n", 2, 20, "allowed: drop, correct" },
    { FEATURES "logging: {level: trace}\n", 2, 18, "allowed: error, warning, notice, info, debug" },
    { FEATURES "logging: {level: INFO}\n", 2, 18, "allowed: error, warning, notice, info, debug" },
    { FEATURES "model: {ranking: {tower: dnn}}\n", 2, 26, "allowed: emb_lr, base_dnn" },
    { FEATURES "model: {ranking: {tower: deep_fm}}\n", 2, 26, "available: emb_lr, base_dnn" },
    { FEATURES "optimizer: {ranking: {kind: adamw}}\n", 2, 29, "did you mean adam?" },
    { FEATURES "model: {preset: offline}\n", 2, 17, "did you mean online?" },
    /* -- texts -- */
    { FEATURES "http: {listen: localhost}\n", 2, 16, "allowed: address:port" },
    { FEATURES "http: {listen: \"127.0.0.1:99999\"}\n", 2, 16, "allowed: address:port" },
    { FEATURES "http: {listen: \"[::1:80\"}\n", 2, 16, "allowed: address:port" },
    { FEATURES "control: {socket: \"\"}\n", 2, 19, "allowed: a path" },
    { FEATURES "snapshot: {directory: \"\"}\n", 2, 23, "allowed: a directory" },
    { FEATURES "checkpoint: {announce_topic: \"a/b\"}\n", 2, 30, "1 to 249 of a-z A-Z 0-9 . _ -" },
    { FEATURES "checkpoint: {delta_topic: \"..\"}\n", 2, 27, "1 to 249 of a-z A-Z 0-9 . _ -" },
    { "features: {user: [{name: \"\"}]}\n", 1, 26, "a name of 1 to 63 bytes" },
    { "features: {user: [{name: a, table: b/c}]}\n", 1, 36, "a table's name" },
    /* -- what doesn't go together -- */
    { FEATURES "snapshot: {directory: /a}\ncheckpoint: {directory: /a/}\n", 3, 25, "allowed: one of its own" },
    { FEATURES "snapshot: {directory: /a/b}\ncheckpoint: {directory: /../a/./c/..//b}\n", 3, 25, "one of its own" },
    { FEATURES "snapshot: {directory: a/../../b}\ncheckpoint: {directory: ../b/c/..}\n", 3, 25, "one of its own" },
    { FEATURES "model: {ranking: {tower: emb_lr, hidden: [8]}}\n", 2, 34, "leave it out, or choose base_dnn" },
    { FEATURES "checkpoint: {gate: {rollback: automatic, min_examples: 5}}\n", 2, 31, "give max_log_loss_rise" },
    { "features: {user: [{name: a}, {name: a}]}\n", 1, 37, "is already in features.user" },
    { "features: {user: [{name: a}, {name: b, kind: dense, table: c}]}\n", 1, 60, "leave it out" },
    { "features: {user: [{name: a, bucketize: [3, 1]}]}\n", 1, 44, "each greater than the one before" },
    { "features: {item: [{name: item_id}]}\n", 1, 1, "add one, or choose none" },
    { "", 1, 1, "allowed: lists of features" },
    { "# only a comment\n", 2, 1, "allowed: lists of features" },
    { FEATURES "checkpoint: {gate: {max_auc_drop: 0.1, min_examples: 200}}\nevaluation: {window: 100}\n", 2, 54,
      "more than evaluation.window, 100, ever has, so nothing would be judged; give at most that" },
    { FEATURES "source: {kafka: {topics: {impressions: a, clicks: a.dlq}}}\n", 2, 51, "allowed: another topic" },
    { FEATURES "source: {kafka: {topics: {impressions: clicks.dlq}}}\n", 2, 40, "where the dead letters of" },
    { FEATURES "source: {kafka: {}}\ncheckpoint: {announce_topic: clicks.dlq}\n", 3, 30, "allowed: another topic" },
    { FEATURES "source: {kafka: {topics: {clicks: " LONG "}}}\n", 2, 35, "allowed: at most 245 bytes" },
    { FEATURES "source: {kafka: {topics: {clicks: impressions}}}\n", 2, 35, "already serves" },
    { FEATURES "source: {kafka: {properties: {enable.auto.commit: true}}}\n", 2, 31, "after each snapshot" },
    { FEATURES "source: {kafka: {properties: {group.id: x}}}\n", 2, 31, "use source.kafka.group" },
    { FEATURES "source: {kafka: {properties: {plugin.library.paths: x}}}\n", 2, 31, "it loads code" },
    { FEATURES "http: {listen: \"${COLDSTREAM_TEST_UNSET}\"}\n", 2, 16, "COLDSTREAM_TEST_UNSET is not set" },
    { FEATURES "http: {listen: \"${\"}\n", 2, 16, "${ without its }" },
};

static void each_is_refused_where_it_is_and_says_what_to_do(void **state)
{
    (void)state;
    size_t wrong = 0, count = sizeof cases / sizeof *cases;
    unsetenv("COLDSTREAM_TEST_UNSET");
    assert_true(count >= 100);
    for (const struct malformed *one = cases; one < cases + count; one++) {
        struct config_problems problems;
        struct cs_config *config = config_parse("m.yaml", one->text, strlen(one->text), CONFIG_FOR_TRAIN, &problems);
        bool right = false;
        char *listed = config_problems_text(&problems);
        for (size_t i = 0; !config && i < problems.count; i++)
            right |= problems.problem[i].line == one->line && problems.problem[i].column == one->column &&
                     strstr(problems.problem[i].text, one->remedy);
        /* Every problem, this one or another of the file, has its place and more than a complaint. */
        for (size_t i = 0; !config && i < problems.count; i++)
            right &= problems.problem[i].line > 0 && problems.problem[i].column > 0 &&
                     strlen(problems.problem[i].text) > 20 && !strpbrk(problems.problem[i].text, "\x1b\n\a") &&
                     !strstr(problems.problem[i].text, "Zq7secret");
        if (!right) {
            wrong++;
            print_error("%s\nexpected %d:%d ... %s\nfound %s\n\n", one->text, one->line, one->column, one->remedy,
                        config ? "nothing wrong" : listed);
        }
        config_destroy(config);
        free(listed);
        config_problems_release(&problems);
    }
    assert_int_equal(wrong, 0);
}

/* What does not follow from what stands there: a misspelled tower has hidden layers. */
static void one_mistake_is_one_problem(void **state)
{
    (void)state;
    static const struct { const char *text, *told; } mistake[] = {
        { FEATURES "model: {ranking: {tower: base_dn, hidden: [8], dropout: 0.1}}\n", "did you mean base_dnn" },
        { FEATURES "source: kafka\n", "found \"kafka\", allowed: a map of settings" },
        { FEATURES "source: {kafka: h:9}\n", "found \"h:9\", allowed: a map of settings" },
    };
    for (size_t i = 0; i < sizeof mistake / sizeof *mistake; i++) {
        struct config_problems problems;
        assert_null(config_parse("m.yaml", mistake[i].text, strlen(mistake[i].text), CONFIG_FOR_DAEMON, &problems));
        bool source = strstr(mistake[i].text, "source:") != NULL;       /* else that is missing, too */
        assert_int_equal(problems.count, source ? 1 : 2);
        char *listed = config_problems_text(&problems);
        assert_non_null(strstr(listed, mistake[i].told));
        free(listed);
        config_problems_release(&problems);
    }
    static const char thrice[] = "features: {user: [{name: a}, {name: a}, {name: a}]}\n";
    struct config_problems problems;
    assert_null(config_parse("m.yaml", thrice, strlen(thrice), CONFIG_FOR_TRAIN, &problems));
    assert_int_equal(problems.count, 2);        /* one for each that is too many */
    config_problems_release(&problems);
}

/* The text of setting `row` with a value of any shape; *column: where the value is. */
static char *one_setting(const struct setting *row, const char *value, int *column)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    fputs(strncmp(row->key, "features.", 9) == 0 ? "" : FEATURES, out);
    long begin = ftell(out);
    int depth = 0;
    for (const char *at = row->key; ; at++, depth++) {
        const char *end = strchrnul(at, '.');
        fprintf(out, "%s%.*s: ", depth ? "{" : "", (int)(end - at), at);
        if (!*(at = end)) break;
    }
    *column = (int)(ftell(out) - begin) + 1;
    fprintf(out, "%s%.*s\n", value, depth, "}}}}}}");
    fclose(out);
    return text;
}

static bool is_one_value(enum setting_type type)
{
    switch (type) {
    case SETTING_WIDTHS: case SETTING_BOUNDS: case SETTING_PAIRS: case SETTING_FEATURES: case SETTING_TABLES:
        return false;
    default: return true;
    }
}

/* A value of another shape than the setting's is one problem, where it stands; nothing that is asked of it after that
 * takes it for a word. */
static void any_setting_may_hold_any_shape(void **state)
{
    (void)state;
    static const char *const shapes[] = { "{kind: adam}", "{}", "[]", "[x]", "[[x]]", "{x: {y: [z]}}", "[{name: x}]",
                                          "~", "\"\"", "x", "-1", "true" };
    for (size_t i = 0; i < setting_count; i++)
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
            for (int use = CONFIG_FOR_DAEMON; use <= CONFIG_FOR_TRAIN; use++) {
                int column = 0;
                char *text = one_setting(&settings[i], shapes[k], &column);
                struct config_problems problems;
                config_destroy(config_parse("m.yaml", text, strlen(text), (enum config_use)use, &problems));
                size_t there = 0;
                for (size_t j = 0; j < problems.count; j++)
                    there += problems.problem[j].column == column;
                if (k < 7 && is_one_value(settings[i].type) && there != 1) {
                    char *listed = config_problems_text(&problems);
                    fail_msg("%s\n%zu problems at column %d:\n%s", text, there, column, listed);
                }
                config_problems_release(&problems);
                free(text);
            }
}

/* What stands above a mistake of syntax is read all the same; what it may have taken in is not guessed at. */
static void syntax_hides_nothing_above_it(void **state)
{
    (void)state;
    static const struct { const char *text; size_t count; int last; } broken[] = {
        { "batch: {sise: 3}\njoin: {window: 1y}\nhttp: {listen: \"127.0.0.1:1}\n" FEATURES, 3, 5 },
        { "batch: {sise: 3}\njoin: {window: [1m\nhttp: {listen: 5}\n", 2, 3 },
        { "batch:\n  size: many\n  max_delay: 1s\n\tx: 1\nhttp: {listen: 5}\n", 2, 4 },
        { "batch: [\n", 1, 2 },
        { "batch:\n  size: many\n max_delay: 1s\n", 2, 3 },
        { "source: {kafka: {start: never}}\nfeatures: {user: [{nmae: a},\n  {name: b, kind: dens}, {name\n", 2, 4 },
        { "x: 1\nbatch: {size: [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}\ny: 1\n", 2, 2 },
        { FEATURES "batch: {size: 0}\n}\n", 2, 3 },
        { "batch: {size: 0}\n---\nbatch: {size: 0}\n" FEATURES, 3, 2 },
        { "batch: {size: 0}\njoin: {window: \"\xff\"}\n", 1, 2 },
        { "batch: {size: 3\n", 1, 2 },
        { "a\n: b: c\n", 1, 2 },
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        struct config_problems problems;
        assert_null(config_parse("m.yaml", broken[i].text, strlen(broken[i].text), CONFIG_FOR_TRAIN, &problems));
        char *listed = config_problems_text(&problems);
        if (problems.count != broken[i].count || problems.problem[problems.count - 1].line != broken[i].last)
            fail_msg("%s\nexpected %zu problems, the last in line %d, found\n%s", broken[i].text, broken[i].count,
                     broken[i].last, listed);
        free(listed);
        config_problems_release(&problems);
    }
}

/* A file of the given bytes; its problems, as they are printed. */
static char *problems_of(const char *path)
{
    struct config_problems problems;
    struct cs_config *config = config_load(path, CONFIG_FOR_TRAIN, &problems);
    char *listed = config_problems_text(&problems);
    if (config) fail_msg("%s was taken", path);
    config_problems_release(&problems);
    return listed;
}

static void write_file(const char *path, const char *text, size_t length, mode_t mode)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, mode), 0);
}

static void what_is_no_file_of_settings(void **state)
{
    (void)state;
    char folder[] = "/tmp/coldstream-malformed-XXXXXX", path[128], *listed;
    assert_non_null(mkdtemp(folder));
    static const char *const devices[] = { "/dev/null", "/dev/zero", "/dev/full" };
    for (size_t i = 0; i < 3; i++) {
        listed = problems_of(devices[i]);
        assert_non_null(strstr(listed, "a device or a socket, allowed: a file or a pipe"));
        free(listed);
    }
    listed = problems_of(folder);
    assert_non_null(strstr(listed, "Is a directory"));
    free(listed);
    snprintf(path, sizeof path, "%s/loop", folder);
    assert_int_equal(symlink("loop", path), 0);
    listed = problems_of(path);
    assert_non_null(strstr(listed, "can't be read: "));
    free(listed);
    unlink(path);
    snprintf(path, sizeof path, "%s/socket", folder);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int handle = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(handle, (struct sockaddr *)&address, sizeof address), 0);
    listed = problems_of(path);
    assert_non_null(strstr(listed, "can't be read: "));
    free(listed);
    close(handle);
    unlink(path);
    snprintf(path, sizeof path, "%s/file", folder);
    write_file(path, FEATURES, strlen(FEATURES), 0666);
    listed = problems_of(path);
    assert_non_null(strstr(listed, "chmod o-w it"));
    free(listed);
    if (geteuid() != 0) {
        chmod(path, 0);
        listed = problems_of(path);
        assert_non_null(strstr(listed, "Permission denied"));
        free(listed);
    }
    unlink(path);
    assert_int_equal(rmdir(folder), 0);
}

/* Nobody writes: it is told, rather than waited for without end. */
static void a_pipe_without_a_writer(void **state)
{
    (void)state;
    char folder[] = "/tmp/coldstream-malformed-XXXXXX", path[128];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/pipe", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    char *listed = problems_of(path);
    assert_non_null(strstr(listed, "a pipe that nobody writes to"));
    free(listed);
    unlink(path);
    rmdir(folder);
}

/* As a shell's <(command) gives it, in pieces. */
static void a_pipe_with_a_writer_is_read_to_its_end(void **state)
{
    (void)state;
    int ends[2];
    char path[64];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        const char *at = FEATURES "batch: {sise: 3}\n";
        for (; *at; at++)
            if (write(ends[1], at, 1) != 1) _exit(1);
        _exit(0);
    }
    close(ends[1]);
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    char *listed = problems_of(path);
    if (!strstr(listed, ":2:9: unknown key \"sise\"")) fail_msg("%s", listed);
    free(listed);
    close(ends[0]);
}

/* Whatever is given, an answer comes soon; all of it, where there are thousands of mistakes. */
static void large_ones_are_answered_soon(void **state)
{
    (void)state;
    char folder[] = "/tmp/coldstream-malformed-XXXXXX", path[128], *listed;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
    size_t size = (1 << 20) + 100;
    char *text = malloc(size);
    assert_non_null(text);

    memset(text, '#', size);                                    /* one comment, too long */
    write_file(path, text, size, 0600);
    listed = problems_of(path);
    assert_non_null(strstr(listed, "larger than 1048576 bytes"));
    free(listed);

    memset(text, '[', 1 << 20);                                 /* depth */
    write_file(path, text, 1 << 20, 0600);
    listed = problems_of(path);
    assert_non_null(strstr(listed, ":1:18: nested too deeply"));
    free(listed);

    size_t used = 0;                                            /* thousands of mistakes: all are told */
    for (int i = 3999; i >= 0; i--) used += (size_t)snprintf(text + used, size - used, "k%d: {a: b}\n", i);
    write_file(path, text, used, 0600);
    listed = problems_of(path);
    size_t lines = 0;
    for (const char *at = listed; (at = strchr(at, '\n')); at++) lines++;
    assert_int_equal(lines, 4000 + 1);       /* and that there are no features */
    free(listed);

    used = 0;                                                   /* aliases that stand for billions */
    used += (size_t)snprintf(text, size, "a0: &a0 [x, x]\n");
    for (int i = 1; i < 40; i++)
        used += (size_t)snprintf(text + used, size - used, "a%d: &a%d [*a%d, *a%d]\n", i, i, i - 1, i - 1);
    write_file(path, text, used, 0600);
    listed = problems_of(path);
    assert_non_null(strstr(listed, "anchors and aliases are not supported"));
    free(listed);

    unlink(path);
    rmdir(folder);
    free(text);
}

/* What other editors leave in a file is no mistake. */
static void byte_order_marks_and_windows_line_ends_are_taken(void **state)
{
    (void)state;
    static const char *const texts[] = { "\xef\xbb\xbf" FEATURES, "features:\r\n  user:\r\n    - name: age\r\n" };
    for (size_t i = 0; i < 2; i++) {
        struct config_problems problems;
        struct cs_config *config = config_parse("w.yaml", texts[i], strlen(texts[i]), CONFIG_FOR_TRAIN, &problems);
        assert_non_null(config);
        config_destroy(config);
        config_problems_release(&problems);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_refused_where_it_is_and_says_what_to_do),
        cmocka_unit_test(one_mistake_is_one_problem),
        cmocka_unit_test(syntax_hides_nothing_above_it),
        cmocka_unit_test(any_setting_may_hold_any_shape),
        cmocka_unit_test(what_is_no_file_of_settings),
        cmocka_unit_test(a_pipe_without_a_writer),
        cmocka_unit_test(a_pipe_with_a_writer_is_read_to_its_end),
        cmocka_unit_test(large_ones_are_answered_soon),
        cmocka_unit_test(byte_order_marks_and_windows_line_ends_are_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
