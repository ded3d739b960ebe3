/* The configuration: what is read, what is refused and where, what a reload would change. */
#include "config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define FEATURES "features: {user: [{name: age}], item: [{name: item_id, table: item}]}\n"
#define SOURCE "source: {kafka: {properties: {bootstrap.servers: x}}}\n"

static struct cs_config *must_parse(const char *text, enum config_use use)
{
    struct config_problems problems;
    struct cs_config *config = config_parse("test.yaml", text, strlen(text), use, &problems);
    char *listed = config_problems_text(&problems);
    if (!config) fail_msg("%s", listed);
    assert_int_equal(problems.count, 0);
    free(listed);
    config_problems_release(&problems);
    return config;
}

/* ---- what is refused ---- */

struct refused { const char *text; int line, column; const char *piece; };

/* One problem each. FEATURES is line 1, SOURCE line 2, unless the case has its own. */
static const struct refused refused_for_train[] = {
    /* YAML itself */
    { FEATURES "batch: {size: 3", 3, 1, "YAML syntax" },
    { FEATURES "batch:\n\tsize: 3\n", 3, 1, "YAML syntax" },
    { FEATURES "batch: [", 3, 1, "YAML syntax" },
    { FEATURES "batch: {size: \"3}\n", 3, 1, "YAML syntax" },
    { FEATURES "batch: {size: 1}\nbatch: {size: 2}\n", 3, 1, "\"batch\" is given twice, first in line 2" },
    { FEATURES "batch: {size: 1, size: 2}\n", 2, 18, "\"size\" is given twice" },
    { FEATURES "---\nbatch: {}\n", 2, 1, "second document" },
    { FEATURES "batch: &a {size: 3}\n", 2, 8, "found an anchor" },
    { FEATURES "batch: {size: *a}\n", 2, 15, "found an alias" },
    { FEATURES "batch: {size: !!int 3}\n", 2, 15, "tags are not supported" },
    { FEATURES "? [a, b]\n: 3\n", 2, 3, "as a key, allowed: a name" },
    { FEATURES "batch: {size: \"1\\0\"}\n", 2, 15, "NUL byte" },
    { "[1, 2]\n", 1, 1, "found a list of 2, allowed: a map of settings" },
    { "hello\n", 1, 1, "found \"hello\", allowed: a map of settings" },
    { FEATURES "x: [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]\n", 2, 20, "nested too deeply" },
    { FEATURES "# \xff\n", 2, 3, "UTF-8" },
    /* unknown keys, and what was meant */
    { FEATURES "bacth: {size: 3}\n", 2, 1, "unknown key \"bacth\", did you mean \"batch\"?" },
    { FEATURES "batch: {sise: 3}\n", 2, 9, "did you mean \"size\"? Allowed: size, max_delay" },
    { FEATURES "batch: {color: 3}\n", 2, 9, "unknown key \"color\", allowed: size, max_delay" },
    { FEATURES "batch.size: 3\n", 2, 1, "unknown key \"batch.size\"" },
    { FEATURES "model: {zero_shot: {knid: mail}}\n", 2, 21, "did you mean \"kind\"?" },
    { FEATURES "optimizer: {rankin: {}}\n", 2, 13, "did you mean \"ranking\"?" },
    { FEATURES "events: {fields: {time: a.b}}\n", 2, 19, "unknown field \"time\"" },
    /* wrong types */
    { FEATURES "batch: 3\n", 2, 8, "batch: found \"3\", allowed: a map of settings" },
    { FEATURES "batch: [1]\n", 2, 8, "batch: found a list of 1" },
    { FEATURES "batch: {size: [3]}\n", 2, 15,
      "batch.size: found a list of 1, allowed: a whole number from 1 to 65536" },
    { FEATURES "batch: {size: ~}\n", 2, 15, "batch.size: found nothing" },
    { FEATURES "batch: {size: 3.5}\n", 2, 15, "found \"3.5\", allowed: a whole number" },
    { FEATURES "batch: {size: 0x10}\n", 2, 15, "found \"0x10\"" },
    { FEATURES "batch: {size: -1}\n", 2, 15, "found \"-1\"" },
    { FEATURES "batch: {size: 99999999999999999999999}\n", 2, 15, "a whole number" },
    { FEATURES "embedding: {init_std: nan}\n", 2, 23, "allowed: a number from 0 to 10" },
    { FEATURES "embedding: {init_std: 1e999}\n", 2, 23, "allowed: a number" },
    { FEATURES "model: {ranking: {hidden: 512}}\n", 2, 27, "allowed: a list of 1 to 8 widths" },
    { FEATURES "model: {ranking: {hidden: []}}\n", 2, 27, "found an empty list" },
    { FEATURES "model: {ranking: {hidden: [8, big]}}\n", 2, 31, "model.ranking.hidden[1]: found \"big\"" },
    { FEATURES "source: {kafka: {properties: [a]}}\n", 2, 30, "allowed: a map of names to texts" },
    { FEATURES "source: {kafka: {properties: {a: {b: c}}}}\n", 2, 34, "source.kafka.properties.a" },
    /* out of range */
    { FEATURES "batch: {size: 0}\n", 2, 15, "from 1 to 65536" },
    { FEATURES "batch: {size: 65537}\n", 2, 15, "from 1 to 65536" },
    { FEATURES "compute: {threads: 257}\n", 2, 20, "from 0 to 256" },
    { FEATURES "model: {ranking: {dropout: 1}}\n", 2, 28, "from 0 to less than 1" },
    { FEATURES "optimizer: {zero_shot: {learning_rate: 0}}\n", 2, 40, "greater than 0 to 10" },
    { FEATURES "model: {zero_shot: {sample: 0}}\n", 2, 29, "greater than 0 to 1" },
    { FEATURES "model: {zero_shot: {encoder: [1, 2]}}\n", 2, 30, "allowed: a list of 3 widths" },
    { FEATURES "model: {zero_shot: {decoder: [1, 2, 3]}}\n", 2, 30, "allowed: a list of 2 widths" },
    { FEATURES "model: {zero_shot: {decoder: [1, 0]}}\n", 2, 34, "model.zero_shot.decoder[1]" },
    { FEATURES "evaluation: {hold_out_new: 1.01}\n", 2, 28, "from 0 to 1" },
    { "features: {user: [{name: a}], behavior: {max_length: 65536}}\n", 1, 54, "from 1 to 65535" },
    /* durations, sizes, times */
    { FEATURES "batch: {max_delay: 10}\n", 2, 20, "a duration has a unit, as 10s" },
    { FEATURES "batch: {max_delay: 10 s}\n", 2, 20, "units ms s m h d" },
    { FEATURES "join: {window: 1.5h}\n", 2, 16, "a duration from 1ms to 30d" },
    { FEATURES "join: {window: 0}\n", 2, 16, "a duration from 1ms to 30d" },
    { FEATURES "join: {window: 9999999999999999999d}\n", 2, 16, "a duration from 1ms to 30d" },
    { FEATURES "events: {max_bytes: 1MB}\n", 2, 21, "units count in 1024" },
    { FEATURES "events: {max_bytes: 65MiB}\n", 2, 21, "to 64MiB" },
    { FEATURES "source: {kafka: {start: yesterday}}\n", 2, 25, "earliest, latest, or a time" },
    { FEATURES "source: {kafka: {start: 2026-01-31T12:00:00}}\n", 2, 25, "a time ends in Z" },
    { FEATURES "source: {kafka: {start: 2026-02-30T12:00:00Z}}\n", 2, 25, "earliest, latest, or a time" },
    { FEATURES "source: {kafka: {start: 1700000000}}\n", 2, 25, "in milliseconds" },
    /* words */
    { FEATURES "join: {release: clik}\n", 2, 17, "allowed: window, click (did you mean click?)" },
    { FEATURES "logging: {level: warn}\n", 2, 18, "error, warning, notice, info, debug" },
    { FEATURES "model: {ranking: {tower: deep_fm}}\n", 2, 26,
      "\"deep_fm\" is not available in this version; available: emb_lr, base_dnn" },
    { FEATURES "model: {zero_shot: {kind: llae}}\n", 2, 27,
      "not available in this version; available: mail, none, linear" },
    { FEATURES "source: {kafka: {mode: groups}}\n", 2, 24, "allowed: assign, group (did you mean group?)" },
    { FEATURES "checkpoint: {gate: {max_auc_drop: 2}}\n", 2, 35,
      "checkpoint.gate.max_auc_drop: found \"2\", allowed: a number from 0 to 1" },
    { FEATURES "checkpoint: {gate: {max_auc_drops: 0.1}}\n", 2, 21, "did you mean \"max_auc_drop\"?" },
    { FEATURES "checkpoint: {gate: {rollback: yes}}\n", 2, 31, "allowed: manual, automatic" },
    { FEATURES "checkpoint: {delta_topic: d/e}\n", 2, 27, "allowed: a topic's name" },
    { FEATURES "checkpoint: {delta_topic: d, delta_interval: 1ms}\n", 2, 46, "allowed: a duration from 10ms to 1h" },
    /* texts */
    { FEATURES "http: {listen: \"9464\"}\n", 2, 16, "allowed: address:port" },
    { FEATURES "http: {listen: \"127.0.0.1:70000\"}\n", 2, 16, "allowed: address:port" },
    { FEATURES "http: {listen: \":9464\"}\n", 2, 16, "allowed: address:port" },
    { FEATURES "control: {socket: \"\"}\n", 2, 19, "allowed: a path" },
    { FEATURES "snapshot: {directory: ~}\n", 2, 23, "snapshot.directory: found nothing" },
    { FEATURES "checkpoint: {announce_topic: a b}\n", 2, 30, "allowed: a topic's name" },
    /* features */
    { "", 1, 1, "features: missing" },
    { "features:\n", 1, 10, "features: missing" },
    { "features: {user: [], item: []}\n", 1, 1, "features: missing" },
    { "features: {user: {name: age}}\n", 1, 18, "features.user: found a map, allowed: a list of features" },
    { "features: {user: [age]}\n", 1, 19, "features.user[0]: found \"age\", allowed: a map as {name: ...}" },
    { "features: {user: [{table: age}]}\n", 1, 19, "features.user[0].name: missing" },
    { "features: {user: [{name: age, typ: dense}]}\n", 1, 31, "unknown key \"typ\"" },
    { "features: {user: [{name: age}, {name: age}]}\n", 1, 39, "a feature \"age\" is already in features.user" },
    { "features: {user: [{name: \"\"}]}\n", 1, 26, "a name of 1 to 63 bytes" },
    { "features: {user: [{name: a, table: b/c}]}\n", 1, 36, "a table's name" },
    { "features: {user: [{name: a b}]}\n", 1, 26, "can't name its table" },
    { "features: {user: [{name: a}, {name: b, kind: dense, table: c}]}\n", 1, 60, "a dense feature has no table" },
    { "features: {user: [{name: a}, {name: b, kind: dense, bucketize: [1]}]}\n", 1, 64,
      "a dense feature is used as it is" },
    { "features: {user: [{name: a, bucketize: [1, 3, 2]}]}\n", 1, 47, "ascending" },
    { "features: {user: [{name: a, bucketize: [1, x]}]}\n", 1, 44, "ascending numbers" },
    { "features: {item: [{name: item_id}]}\n", 1, 1, "features.user has no categorical feature" },
    { FEATURES "embedding: {tables: {itme: {max_rows: 1}}}\n", 2, 22,
      "no feature uses a table \"itme\", did you mean \"item\"?" },
    { FEATURES "embedding: {tables: {item: {max_row: 1}}}\n", 2, 29, "did you mean \"max_rows\"?" },
    { FEATURES "embedding: {tables: {item: {admit_after: 0}}}\n", 2, 42, "embedding.tables.item.admit_after" },
    /* contradictions */
    { FEATURES "model: {ranking: {tower: emb_lr, hidden: [8]}}\n", 2, 34, "emb_lr has no hidden layers" },
    { FEATURES "model: {ranking: {tower: emb_lr, dropout: 0.1}}\n", 2, 43, "emb_lr has no dropout" },
    { FEATURES "snapshot: {directory: /a/b}\ncheckpoint: {directory: /a//b/}\n", 3, 25,
      "the same as snapshot.directory" },
    { FEATURES "checkpoint: {gate: {rollback: automatic, min_examples: 5}}\n", 2, 31, "there is no bound to break" },
    { FEATURES "events: {format: protobuf, fields: {ts: t}}\n", 2, 28, "the protobuf schema's fields are fixed" },
    { FEATURES "source: {kafka: {topics: {clicks: impressions}}}\n", 2, 35,
      "already serves source.kafka.topics.impressions" },
    { FEATURES "source: {kafka: {topics: {impressions: ~}}}\n", 2, 18, "nothing to learn from" },
    { FEATURES "source: {kafka: {topics: {clicks: ~}}}\n", 2, 35, "impressions need clicks" },
    { FEATURES "source: {kafka: {topics: {impressions: ~, clicks: c, examples: e}}}\n", 2, 51,
      "given without impressions" },
    { FEATURES "source: {kafka: {}}\ncheckpoint: {announce_topic: clicks}\n", 3, 30,
      "already serves source.kafka.topics.clicks" },
    /* properties */
    { FEATURES "source: {kafka: {properties: {enable.auto.commit: true}}}\n", 2, 31,
      "\"enable.auto.commit\" is refused" },
    { FEATURES "source: {kafka: {properties: {group.id: x}}}\n", 2, 31, "use source.kafka.group" },
    { FEATURES "source: {kafka: {properties: {auto.offset.reset: latest}}}\n", 2, 31, "use source.kafka.start" },
    { FEATURES "source: {kafka: {properties: {plugin.library.paths: x}}}\n", 2, 31, "it loads code" },
    { FEATURES "source: {kafka: {properties: {ssl.engine.location: x}}}\n", 2, 31, "it loads code" },
    { FEATURES "source: {kafka: {properties: {sasl.kerberos.kinit.cmd: x}}}\n", 2, 31, "it runs a command" },
    { FEATURES "source: {kafka: {properties: {dr_msg_cb: x}}}\n", 2, 31, "it is for programs" },
};

static const struct refused refused_for_daemon[] = {
    { FEATURES, 1, 1, "source: missing" },
    { FEATURES "source: ~\n", 2, 9, "source: missing" },
    { FEATURES "source: {kafka: {group: g}}\n", 2, 10, "bootstrap.servers is missing" },
    { FEATURES "source: {kafka: {properties: {client.id: g}}}\n", 2, 18, "bootstrap.servers is missing" },
    { FEATURES "source: {kafka: {properties: {bootstrap.servers: x, sasl.password: \"${COLDSTREAM_TEST_UNSET}\"}}}\n",
      2, 68, "the environment variable COLDSTREAM_TEST_UNSET is not set" },
    { FEATURES "source: {kafka: {properties: {bootstrap.servers: x, sasl.password: \"${\"}}}\n", 2, 68,
      "${ without its }" },
    { FEATURES "source: {kafka: {properties: {bootstrap.servers: x, sasl.password: file:/nowhere/x}}}\n", 2, 68,
      "/nowhere/x can't be read" },
    { FEATURES "source: {kafka: {properties: {bootstrap.servers: x, sasl.password: file:/}}}\n", 2, 68,
      "/ is not a file" },
    { FEATURES "source: {kafka: {properties: {bootstrap.servers: x, sasl.password: credential:a}}}\n", 2, 68,
      "CREDENTIALS_DIRECTORY is not set" },
    { FEATURES SOURCE "batch: {size: \"${COLDSTREAM_TEST_UNSET}\"}\n", 3, 15, "COLDSTREAM_TEST_UNSET" },
};

/* How many cases are not as they should be; each is printed. */
static int check_refused(const struct refused *cases, size_t count, enum config_use use)
{
    int wrong = 0;
    for (const struct refused *one = cases; one < cases + count; one++) {
        struct config_problems problems;
        struct cs_config *config = config_parse("test.yaml", one->text, strlen(one->text), use, &problems);
        char *listed = config_problems_text(&problems);
        bool right = !config && problems.count == 1 && problems.problem[0].line == one->line &&
                     problems.problem[0].column == one->column && strstr(listed, one->piece);
        if (!right) {
            wrong++;
            print_error("in %s\nexpected %d:%d ... %s\nfound %s\n", one->text, one->line, one->column, one->piece,
                        config ? "nothing wrong" : listed);
        }
        config_destroy(config);
        free(listed);
        config_problems_release(&problems);
    }
    return wrong;
}

static void each_mistake_is_found_where_it_is(void **state)
{
    (void)state;
    unsetenv("CREDENTIALS_DIRECTORY");
    int wrong =
        check_refused(refused_for_train, sizeof refused_for_train / sizeof *refused_for_train, CONFIG_FOR_TRAIN) +
        check_refused(refused_for_daemon, sizeof refused_for_daemon / sizeof *refused_for_daemon, CONFIG_FOR_DAEMON);
    assert_int_equal(wrong, 0);
}

static void all_mistakes_in_one_run_in_order(void **state)
{
    (void)state;
    static const char text[] =
        "sorce: {}\n"                                              /* 1 */
        "source:\n  kafka:\n    mode: none\n"                      /* 4 */
        "    properties: {group.id: x, enable.auto.commit: y}\n"   /* 5 twice, and without servers */
        "features:\n  user: [{name: age, bucketize: [2, 1]}]\n"    /* 7 */
        "batch: {size: 0, max_delay: 3}\n"                         /* 8 twice */
        "batch: {}\n"                                              /* 9 */
        "logging: {level: loud}\n";                                /* 10 */
    struct config_problems problems;
    assert_null(config_parse("many.yaml", text, strlen(text), CONFIG_FOR_DAEMON, &problems));
    static const int lines[] = { 1, 4, 5, 5, 5, 7, 8, 8, 9, 10 };
    char *listed = config_problems_text(&problems);
    if (problems.count != sizeof lines / sizeof *lines) fail_msg("%s", listed);
    for (size_t i = 0; i < problems.count; i++) assert_int_equal(problems.problem[i].line, lines[i]);
    assert_memory_equal(listed, "many.yaml:1:1: unknown key", 26);
    free(listed);
    config_problems_release(&problems);
}

static void files_that_cannot_be_read(void **state)
{
    (void)state;
    struct config_problems problems;
    assert_null(config_load("/nowhere/c.yaml", CONFIG_FOR_TRAIN, &problems));
    char *listed = config_problems_text(&problems);
    assert_string_equal(listed, "/nowhere/c.yaml: can't be read: No such file or directory\n");
    free(listed);
    config_problems_release(&problems);
    assert_null(config_load("/tmp", CONFIG_FOR_TRAIN, &problems));
    listed = config_problems_text(&problems);
    assert_string_equal(listed, "/tmp: can't be read: Is a directory\n");
    free(listed);
    config_problems_release(&problems);
}

/* ---- what is read ---- */

static void defaults_are_as_documented(void **state)
{
    (void)state;
    struct cs_config *config = must_parse(FEATURES SOURCE, CONFIG_FOR_DAEMON);
    assert_true(config->source.configured);
    assert_string_equal(config->source.topics.impressions, "impressions");
    assert_string_equal(config->source.topics.clicks, "clicks");
    assert_string_equal(config->source.topics.conversions, "conversions");
    assert_null(config->source.topics.examples);
    assert_int_equal(config->source.mode, SOURCE_ASSIGN);
    assert_string_equal(config->source.group, "coldstream");
    assert_int_equal(config->source.start, START_EARLIEST);
    assert_int_equal(config->source.idle_after, 5000);
    assert_int_equal(config->source.discover, 60000);
    assert_int_equal(config->source.property_count, 1);
    assert_string_equal(config->source.property[0].name, "bootstrap.servers");
    assert_int_equal(config->source.property[0].line, 2);
    assert_int_equal(config->source.property[0].column, 31);
    assert_int_equal(config->events.format, FORMAT_JSON);
    assert_int_equal(config->events.max_bytes, 1048576);
    assert_int_equal(config->join.window, 600000);
    assert_int_equal(config->join.release, RELEASE_WINDOW);
    assert_int_equal(config->join.late_click, LATE_DROP);
    assert_int_equal(config->join.max_pending, 5000000);
    assert_int_equal(config->history.max_length, 100);
    assert_int_equal(config->history.max_users, 1000000);
    assert_string_equal(config->features.behavior_table, "item");
    assert_int_equal(config->features.behavior_max_length, 100);
    assert_int_equal(config->embedding.dimension, 32);
    assert_true(config->embedding.init_std == 0.01);
    assert_int_equal(config->embedding.table_count, 0);
    const struct model_options *model = &config->model;
    assert_int_equal(model->ranking.tower, RANKING_BASE_DNN);
    assert_int_equal(model->ranking.hidden_count, 2);
    assert_int_equal(model->ranking.hidden[0], 512);
    assert_int_equal(model->ranking.hidden[1], 256);
    assert_true(model->ranking.dropout == 0);
    assert_int_equal(model->zero_shot.kind, ZERO_SHOT_MAIL);
    assert_int_equal(model->zero_shot.losses, LOSSES_FULL);
    assert_int_equal(model->zero_shot.target, TARGET_POOLED);
    assert_int_equal(model->zero_shot.attention, 128);
    assert_int_equal(model->zero_shot.encoder[0], 1024);
    assert_int_equal(model->zero_shot.encoder[2], 512);
    assert_int_equal(model->zero_shot.decoder[1], 1024);
    assert_int_equal(model->zero_shot.encoder_count, 3);
    assert_int_equal(model->zero_shot.decoder_count, 2);
    assert_true(model->zero_shot.bandwidth == 1 && model->zero_shot.sample == 1 && model->zero_shot.dropout == 0);
    const struct optimizer_options *optimizer[] = { &model->ranking_optimizer, &model->zero_shot_optimizer,
                                                    &model->embedding_optimizer };
    for (int i = 0; i < 3; i++) {
        assert_int_equal(optimizer[i]->kind, OPTIMIZER_ADAM);
        assert_true(optimizer[i]->learning_rate == 0.001 && optimizer[i]->beta1 == 0.9 &&
                    optimizer[i]->beta2 == 0.999 && optimizer[i]->epsilon == 1e-8);
    }
    assert_int_equal(config->batch.size, 1024);
    assert_int_equal(config->batch.max_delay, 1000);
    assert_false(config->batch_max_delay_given);
    assert_int_equal(config->evaluation.window, 100000);
    assert_string_equal(config->snapshot.directory, "/var/lib/coldstream/snapshot");
    assert_int_equal(config->snapshot.interval, 60000);
    assert_string_equal(config->checkpoint.directory, "/var/lib/coldstream/checkpoints");
    assert_int_equal(config->checkpoint.interval, 300000);
    assert_int_equal(config->checkpoint.keep, 5);
    assert_null(config->checkpoint.announce_topic);
    assert_string_equal(config->control.socket, "/run/coldstream/control.sock");
    assert_string_equal(config->http.listen, "127.0.0.1:9464");
    assert_int_equal(config->logging.level, LEVEL_INFO);
    assert_int_equal(config->logging.format, LOG_TEXT);
    assert_int_equal(config->compute.threads, 0);
    assert_int_equal(config->compute.seed, 1);
    config_destroy(config);
}

static void values_are_read(void **state)
{
    (void)state;
    struct cs_config *config = must_parse(
        "source: {kafka: {topics: {impressions: ~, examples: e}, start: 2026-01-31T12:00:00.250Z}}\n"
        "events: {max_bytes: 64KiB, fields: {ts: meta.time}}\n"
        "features:\n"
        "  item: [{name: item_id, table: item}]\n"           /* before user: the order is that of the groups */
        "  context: [{name: price, kind: dense}]\n"
        "  user: [{name: age, bucketize: [18, 25.5]}, {name: city, table: place}]\n"
        "  behavior: {table: seen, max_length: 7}\n"
        "embedding: {tables: {place: {expire_after: 30d, admit_after: 2}, seen: {max_rows: 9}}}\n"
        "model: {ranking: {tower: emb_lr, dropout: 0}, zero_shot: {kind: none}}\n"
        "optimizer: {embedding: {kind: ftrl, learning_rate: 5e-2, l1: 1, beta: 0.5}}\n"
        "batch: {max_delay: 0s}\n"
        "http: {listen: \"[::1]:0\"}\n"
        "logging: {level: debug, format: json}\n", CONFIG_FOR_TRAIN);
    assert_null(config->source.topics.impressions);
    assert_null(config->source.topics.clicks);          /* defaults that need impressions go with them */
    assert_null(config->source.topics.conversions);
    assert_string_equal(config->source.topics.examples, "e");
    assert_int_equal(config->source.start, START_TIMESTAMP);
    assert_int_equal(config->source.start_time, INT64_C(1769860800250));
    assert_int_equal(config->events.max_bytes, 65536);
    assert_string_equal(config->events.field[0].name, "ts");
    assert_string_equal(config->events.field[0].value, "meta.time");
    assert_int_equal(config->features.feature_count, 4);
    const struct feature_options *feature = config->features.feature;
    assert_string_equal(feature[0].name, "age");
    assert_string_equal(feature[0].table, "age");
    assert_int_equal(feature[0].bucket_count, 2);
    assert_true(feature[0].bucket[1] == 25.5);
    assert_string_equal(feature[1].table, "place");
    assert_int_equal(feature[2].group, GROUP_CONTEXT);
    assert_int_equal(feature[2].kind, FEATURE_DENSE);
    assert_string_equal(feature[2].table, "");
    assert_string_equal(feature[3].table, "item");
    assert_int_equal(config->features.behavior_max_length, 7);
    assert_int_equal(config->embedding.table_count, 2);
    assert_string_equal(config->embedding.table[0].name, "place");
    assert_int_equal(config->embedding.table[0].admit_after, 2);
    assert_int_equal(config->embedding.table[0].expire_after, INT64_C(30) * 86400000);
    assert_int_equal(config->embedding.table[1].max_rows, 9);
    assert_int_equal(config->embedding.table[1].admit_after, 1);
    assert_int_equal(config->model.ranking.hidden_count, 0);
    assert_int_equal(config->model.embedding_optimizer.kind, OPTIMIZER_FTRL);
    assert_true(config->model.embedding_optimizer.learning_rate == 0.05 &&
                config->model.embedding_optimizer.beta == 0.5);
    assert_true(config->batch_max_delay_given);
    assert_int_equal(config->batch.max_delay, 0);
    config_destroy(config);
}

static void the_preset_gives_defaults_only(void **state)
{
    (void)state;
    struct cs_config *config =
        must_parse(FEATURES "model: {preset: paper, zero_shot: {dropout: 0.25}}\n", CONFIG_FOR_TRAIN);
    assert_true(config->model.ranking.dropout == 0.5);
    assert_true(config->model.zero_shot.dropout == 0.25);
    assert_int_equal(config->model.zero_shot.target, TARGET_SEQUENCE);
    config_destroy(config);
}

/* ---- secrets ---- */

static bool check_like_librdkafka(const char *key, const char *value, char *message, size_t size)
{
    if (strcmp(key, "bootstrap.servers") == 0) return true;
    snprintf(message, size, "Invalid value \"%s\" for configuration property \"%s\"", value, key);
    return false;
}

static void the_check_sees_properties_and_no_secret_comes_out(void **state)
{
    (void)state;
    char path[] = "/tmp/coldstream-config-XXXXXX";
    int file = mkstemp(path);
    static const char text[] =
        FEATURES "source:\n  kafka:\n    properties:\n      bootstrap.servers: x\n      nonsense: 17\n"
                 "      security.protocol: \"${COLDSTREAM_TEST_SECRET}\"\n"
                 "      sasl.password: \"${COLDSTREAM_TEST_SECRET}\"\n";
    setenv("COLDSTREAM_TEST_SECRET", "hunter2", 1);
    assert_int_equal(write(file, text, strlen(text)), (ssize_t)strlen(text));
    close(file);
    struct config_problems problems;
    static const struct config_source_checks checks = { check_like_librdkafka, NULL };  /* not asked: some are wrong */
    assert_null(config_load_checked(path, CONFIG_FOR_DAEMON, &checks, &problems));
    char *listed = config_problems_text(&problems);
    assert_int_equal(problems.count, 3);
    assert_int_equal(problems.problem[0].line, 6);
    assert_int_equal(problems.problem[0].column, 7);
    assert_non_null(strstr(listed, "Invalid value \"17\""));
    assert_null(strstr(listed, "hunter2"));
    free(listed);
    config_problems_release(&problems);
    struct cs_config *config = config_load(path, CONFIG_FOR_DAEMON, &problems);
    assert_non_null(config);
    config_destroy(config);
    config_problems_release(&problems);
    unlink(path);
}

/* ---- the model's text ---- */

static void the_model_text_reads_back(void **state)
{
    (void)state;
    static const char *const texts[] = {
        FEATURES,
        FEATURES "model: {ranking: {tower: emb_lr}, zero_shot: {kind: none}}\noptimizer: {embedding: {kind: sgd}}\n",
        "features: {user: [{name: \"a: b\\n\", table: t, bucketize: [-1, 0.1, 1e21]}, {name: \"null\", table: x}, "
        "{name: \"7\"}],\n"
        " context: [{name: h, kind: dense}]}\nmodel: {preset: paper, ranking: {hidden: [7]}}\n",
        FEATURES "model: {zero_shot: {kind: linear}}\n",
    };
    char fingerprint[4][33];
    for (size_t i = 0; i < 4; i++) {
        /* "a: b\n" holds a control character and is refused as a name: keep to what is allowed */
        char *source = strdup(texts[i]), *bad = strstr(source, "\\n\"");
        if (bad) memmove(bad, bad + 2, strlen(bad + 2) + 1);
        struct cs_config *config = must_parse(source, CONFIG_FOR_TRAIN);
        char *text = config_model_text(config);
        struct cs_config *again = must_parse(text, CONFIG_FOR_TRAIN);
        char *second = config_model_text(again), other[33];
        assert_string_equal(text, second);
        config_fingerprint(config, fingerprint[i]);
        config_fingerprint(again, other);
        assert_string_equal(fingerprint[i], other);
        assert_int_equal(strlen(other), 32);
        for (size_t j = 0; j < i; j++) assert_string_not_equal(fingerprint[i], fingerprint[j]);
        free(text);
        free(second);
        config_destroy(again);
        config_destroy(config);
        free(source);
    }
}

static void the_fingerprint_covers_the_state_and_no_more(void **state)
{
    (void)state;
    static const char *const same[] = {
        "optimizer: {ranking: {learning_rate: 0.5, beta1: 0.1}}\n",
        "batch: {size: 3}\n",
        "embedding: {init_std: 0.5, tables: {item: {max_rows: 3}}}\n",
        "model: {ranking: {dropout: 0.5}, zero_shot: {sample: 0.5, bandwidth: 3}}\n",
        "compute: {seed: 9}\n",
        "embedding: {dimension: 32}\n",
        SOURCE,
    };
    static const char *const different[] = {
        "embedding: {dimension: 16}\n",
        "model: {ranking: {hidden: [512]}}\n",
        "model: {zero_shot: {attention: 5}}\n",
        "model: {zero_shot: {kind: none}}\n",
        "model: {zero_shot: {target: sequence}}\n",
        "optimizer: {embedding: {kind: adagrad}}\n",
    };
    char base[33], other[33], text[512];
    struct cs_config *config = must_parse(FEATURES, CONFIG_FOR_TRAIN);
    config_fingerprint(config, base);
    config_destroy(config);
    for (size_t i = 0; i < sizeof same / sizeof *same + sizeof different / sizeof *different; i++) {
        bool equal = i < sizeof same / sizeof *same;
        snprintf(text, sizeof text, FEATURES "%s", equal ? same[i] : different[i - sizeof same / sizeof *same]);
        config = must_parse(text, CONFIG_FOR_TRAIN);
        config_fingerprint(config, other);
        if ((strcmp(base, other) == 0) != equal) fail_msg("%s", text);
        config_destroy(config);
    }
}

/* What a kind does not read is no part of its model. */
static void only_mail_depends_on_its_settings(void **state)
{
    (void)state;
    char first[33], second[33];
    struct cs_config *config = must_parse(FEATURES "model: {zero_shot: {kind: linear}}\n", CONFIG_FOR_TRAIN);
    config_fingerprint(config, first);
    config_destroy(config);
    config = must_parse(FEATURES "model: {zero_shot: {kind: linear, attention: 5}}\n", CONFIG_FOR_TRAIN);
    config_fingerprint(config, second);
    config_destroy(config);
    assert_string_equal(first, second);
}

static void differences_are_named(void **state)
{
    (void)state;
    struct cs_config *a = must_parse(FEATURES, CONFIG_FOR_TRAIN),
                     *b = must_parse(FEATURES "model: {ranking: {hidden: [256]}}\n", CONFIG_FOR_TRAIN);
    char *there = config_model_text(a), *here = config_model_text(b), text[200];
    config_model_difference(there, here, text, sizeof text);
    assert_string_equal(text, "model.ranking.hidden: [512, 256] there, [256] here");
    config_model_difference(there, there, text, sizeof text);
    assert_string_equal(text, "no difference");
    config_model_difference("{garbage", here, text, sizeof text);
    assert_non_null(strstr(text, "the model there is not readable"));
    free(there);
    free(here);
    config_destroy(a);
    config_destroy(b);
}

struct difference { const char *there, *here, *said; bool migratable; };

/* USER is a list of user features; every difference between two models in one line each. */
#define USER(list) "features:\n  user: [" list "]\n  item: [{name: item_id}]\n  behavior: {table: item_id}\n"
static const struct difference differences[] = {
    { USER("{name: a}"), USER("{name: a}, {name: b}"), "features.user: b here, not there\n", true },
    { USER("{name: a}, {name: b}"), USER("{name: b}"), "features.user: a there, not here\n", true },
    { USER("{name: a}"), USER("{name: b}"), "features.user: a there, not here\nfeatures.user: b here, not there\n",
      true },
    { USER("{name: a}, {name: b}"), USER("{name: b}, {name: a}"),
      "features.user: in another order: a, b there; b, a here\n", true },
    { USER("{name: a}"), USER("{name: a, table: t}"), "features.user: a: table a there, t here\n", true },
    { USER("{name: a}, {name: b}"), USER("{name: a}, {name: b, kind: dense}"),
      "features.user: b: kind categorical there, dense here\n", true },
    { USER("{name: a, bucketize: [1, 2]}"), USER("{name: a, bucketize: [1, 3]}"),
      "features.user: a: bucketize [1, 2] there, [1, 3] here\n", false },
    { FEATURES, FEATURES "embedding: {dimension: 8}\n", "embedding.dimension: 32 there, 8 here\n", false },
    { FEATURES, FEATURES "optimizer: {embedding: {kind: sgd}}\n", "optimizer.embedding.kind: adam there, sgd here\n",
      false },
    { FEATURES, FEATURES "model: {zero_shot: {kind: linear}}\n", "model.zero_shot.kind: mail there, linear here\n",
      false },
    { USER("{name: a}"), "features:\n  user: [{name: a}]\n  item: [{name: item_id}]\n"
      "  behavior: {table: item_id, max_length: 7}\n", "features.behavior.max_length: 100 there, 7 here\n", true },
    { USER("{name: a}") "model: {zero_shot: {target: sequence}}\n",
      "features:\n  user: [{name: a}]\n  item: [{name: item_id}]\n  behavior: {table: item_id, max_length: 7}\n"
      "model: {zero_shot: {target: sequence}}\n", "features.behavior.max_length: 100 there, 7 here\n", false },
};

struct said { char text[2048]; bool migratable; };

static void note_difference(void *self, const char *text, bool migratable)
{
    struct said *said = self;
    size_t used = strlen(said->text);
    snprintf(said->text + used, sizeof said->text - used, "%s\n", text);
    said->migratable = said->migratable && migratable;
}

static void it_is_said_which_differences_can_be_migrated(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof differences / sizeof *differences; i++) {
        const struct difference *d = &differences[i];
        struct cs_config *a = must_parse(d->there, CONFIG_FOR_TRAIN), *b = must_parse(d->here, CONFIG_FOR_TRAIN);
        char *there = config_model_text(a), *here = config_model_text(b), first[200];
        struct said said = { .migratable = true };
        assert_true(config_model_differences(there, here, note_difference, &said) > 0);
        if (!strstr(said.text, d->said)) fail_msg("%s: said %s", d->said, said.text);
        if (said.migratable != d->migratable) fail_msg("%s: migratable: %d", d->said, said.migratable);
        assert_int_equal(config_model_difference(there, here, first, sizeof first), d->migratable);
        assert_int_equal(strncmp(said.text, first, strlen(first)), 0);
        free(there);
        free(here);
        config_destroy(a);
        config_destroy(b);
    }
}

/* ---- reload ---- */

struct changes { char text[8192]; };

static void note_change(void *self, const char *key, const char *from, const char *to, bool live)
{
    struct changes *changes = self;
    size_t used = strlen(changes->text);
    snprintf(changes->text + used, sizeof changes->text - used, "%s: %s -> %s%s\n", key, from, to,
             live ? "" : " (restart)");
}

static void a_reload_says_what_can_change(void **state)
{
    (void)state;
    struct changes changes = { 0 };
    setenv("COLDSTREAM_OLD", "hunter2", 1);
    setenv("COLDSTREAM_NEW", "hunter3", 1);
    struct cs_config *running = must_parse(
        FEATURES "source: {kafka: {properties: {bootstrap.servers: x, sasl.password: "
                 "\"${COLDSTREAM_OLD}\", client.id: a}}}\n",
        CONFIG_FOR_DAEMON);
    struct cs_config *same = must_parse("source: {kafka: {properties: {bootstrap.servers: x, "
                                        "sasl.password: \"${COLDSTREAM_OLD}\", "
                                        "client.id: a}}}\nbatch: {size: 1024}\n" FEATURES,
                                        CONFIG_FOR_DAEMON);
    struct cs_config *wanted =
        must_parse("features: {user: [{name: age, table: years}], item: [{name: item_id, table: item}]}\n"
                   "source: {kafka: {properties: {bootstrap.servers: x, sasl.password: \"${COLDSTREAM_NEW}\", "
                   "log_level: 7}}}\n"
                   "join: {window: 5m}\noptimizer: {zero_shot: {learning_rate: 0.01}}\nlogging: {level: "
                   "debug}\nsnapshot: {interval: 90s}\n"
                   "checkpoint: {interval: 2h, announce_topic: t, gate: {max_auc_drop: 0.05, rollback: automatic}}\n"
                   "batch: {size: 2}\n",
                   CONFIG_FOR_DAEMON);
    config_compare(running, same, note_change, &changes);
    assert_string_equal(changes.text, "");
    config_compare(running, wanted, note_change, &changes);
    assert_string_equal(changes.text,
        "source.kafka.properties.sasl.password: (not shown) -> (not shown) (restart)\n"
        "source.kafka.properties.client.id: (not shown) -> none (restart)\n"
        "source.kafka.properties.log_level: none -> (not shown) (restart)\n"
        "join.window: 10m -> 5m\n"
        "features.user: [{name: age, table: age}] -> [{name: age, table: years}] (restart)\n"
        "optimizer.zero_shot.learning_rate: 0.001 -> 0.01\n"
        "batch.size: 1024 -> 2 (restart)\n"
        "snapshot.interval: 1m -> 90s\n"
        "checkpoint.interval: 5m -> 2h\n"
        "checkpoint.gate.max_auc_drop: 0 -> 0.05\n"
        "checkpoint.gate.rollback: manual -> automatic\n"
        "checkpoint.announce_topic: ~ -> t (restart)\n"
        "logging.level: info -> debug\n");
    config_destroy(running);
    config_destroy(same);
    config_destroy(wanted);
}

/* ---- sample and manual ---- */

static void the_sample_is_valid_and_changes_nothing(void **state)
{
    (void)state;
    char *sample = config_sample(false);
    struct changes changes = { 0 };
    struct cs_config *config = must_parse(sample, CONFIG_FOR_DAEMON);
    struct cs_config *plain = must_parse(SOURCE "features: {user: [{name: age, bucketize: [18, 25, 35, 45, 55]}, "
                                                "{name: gender}, {name: city}], context: [{name: hour}],\n"
                                                " item: [{name: item_id, table: item}, {name: category}]}\n",
                                         CONFIG_FOR_DAEMON);
    config_compare(plain, config, note_change, &changes);
    assert_string_equal(changes.text,
                        "source.kafka.properties.bootstrap.servers: (not shown) -> (not shown) (restart)\n"
                        "embedding.tables: {} -> {item: {}} (restart)\n");
    for (const char *line = sample; *line; line += strcspn(line, "\n") + 1) assert_true(strcspn(line, "\n") <= 120);
    config_destroy(plain);
    config_destroy(config);
    free(sample);
}

/* What is in it has to be, and what is not need not: without any one of source and features it is refused. */
static void the_minimal_sample_is_all_that_must_be_given(void **state)
{
    (void)state;
    char *sample = config_sample(true), *all = config_sample(false);
    struct changes changes = { 0 };
    struct config_problems problems = { 0 };
    struct cs_config *config = must_parse(sample, CONFIG_FOR_DAEMON), *whole = must_parse(all, CONFIG_FOR_DAEMON);
    config_compare(whole, config, note_change, &changes);
    assert_string_equal(changes.text, "embedding.tables: {item: {}} -> {} (restart)\n");
    const char *features = strstr(sample, "\nfeatures:");
    assert_non_null(features);
    assert_null(config_parse("test", features, strlen(features), CONFIG_FOR_DAEMON, &problems));
    assert_non_null(strstr(problems.problem[0].text, "source: missing"));
    config_problems_release(&problems);
    assert_null(config_parse("test", sample, (size_t)(features - sample), CONFIG_FOR_DAEMON, &problems));
    assert_non_null(strstr(problems.problem[0].text, "features: missing"));
    config_problems_release(&problems);
    size_t lines = 0, comments = 0;
    for (const char *line = sample; *line; line += strcspn(line, "\n") + 1) {
        assert_true(strcspn(line, "\n") <= 120);
        lines++;
        comments += line[strspn(line, " ")] == '#';
    }
    assert_in_range(lines, 10, 40);
    assert_true(comments > 6);
    config_destroy(whole);
    config_destroy(config);
    free(all);
    free(sample);
}

static void the_manual_has_every_setting(void **state)
{
    (void)state;
    char *manual = config_manual();
    static const char *const keys[] = { "### `join.window`", "### `features.user[].bucketize`",
                                        "### `embedding.tables.<table>.max_rows`", "### `optimizer.embedding.l1`",
                                        "### `source.kafka.properties`" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) assert_non_null(strstr(manual, keys[i]));
    free(manual);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_mistake_is_found_where_it_is),
        cmocka_unit_test(all_mistakes_in_one_run_in_order),
        cmocka_unit_test(files_that_cannot_be_read),
        cmocka_unit_test(defaults_are_as_documented),
        cmocka_unit_test(values_are_read),
        cmocka_unit_test(the_preset_gives_defaults_only),
        cmocka_unit_test(the_check_sees_properties_and_no_secret_comes_out),
        cmocka_unit_test(the_model_text_reads_back),
        cmocka_unit_test(the_fingerprint_covers_the_state_and_no_more),
        cmocka_unit_test(only_mail_depends_on_its_settings),
        cmocka_unit_test(differences_are_named),
        cmocka_unit_test(it_is_said_which_differences_can_be_migrated),
        cmocka_unit_test(a_reload_says_what_can_change),
        cmocka_unit_test(the_sample_is_valid_and_changes_nothing),
        cmocka_unit_test(the_minimal_sample_is_all_that_must_be_given),
        cmocka_unit_test(the_manual_has_every_setting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
