/* Secrets of the configuration: where they may stand, who may read them, and that none comes out. */
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

static struct cs_config *must_parse(const char *text, enum config_use use)
{
    struct config_problems problems;
    struct cs_config *config = config_parse("x", text, strlen(text), use, &problems);
    if (!config) fail_msg("%s", problems.problem[0].text);
    config_problems_release(&problems);
    return config;
}

static void write_file(const char *path, const char *text, mode_t mode)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    chmod(path, mode);
}

static void references_are_resolved(void **state)
{
    (void)state;
    char directory[] = "/tmp/coldstream-config-XXXXXX", path[64], text[512];
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/secret", directory);
    write_file(path, "from file\n", 0600);
    setenv("CREDENTIALS_DIRECTORY", directory, 1);
    setenv("COLDSTREAM_TEST_NAME", "cold", 1);
    snprintf(text, sizeof text,
             FEATURES "source: {kafka: {group: \"${COLDSTREAM_TEST_NAME}-1\", properties: {bootstrap.servers: x, "
                      "sasl.username: \"${COLDSTREAM_TEST_NAME}\",\n"
                      " sasl.password: \"file:%s\", ssl.key.password: credential:secret, client.id: \"$${a}\"}}}\n",
             path);
    struct cs_config *config = must_parse(text, CONFIG_FOR_DAEMON);
    assert_string_equal(config->source.group, "cold-1");
    assert_string_equal(config->source.property[1].value, "cold");
    assert_string_equal(config->source.property[2].value, "from file");
    assert_string_equal(config->source.property[3].value, "from file");
    assert_string_equal(config->source.property[4].value, "${a}");
    config_destroy(config);
    struct config_problems problems;
    static const struct { mode_t mode; size_t problems; const char *said; } refused[] = {
        { 0606, 2, "can be changed by everyone" }, { 0604, 2, "read or changed by others (mode 0604)" },
        { 0440, 1, "read or changed by others (mode 0440)" },       /* a credential may have an ACL, which looks so */
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        chmod(path, refused[i].mode);
        assert_null(config_parse("x", text, strlen(text), CONFIG_FOR_DAEMON, &problems));
        assert_int_equal(problems.count, refused[i].problems);
        assert_non_null(strstr(problems.problem[0].text, refused[i].said));
        assert_null(strstr(problems.problem[0].text, "from file"));
        config_problems_release(&problems);
    }
    unlink(path);
    /* train does not use the source: its secrets need not be here */
    config_destroy(must_parse(text, CONFIG_FOR_TRAIN));
    unsetenv("CREDENTIALS_DIRECTORY");
    rmdir(directory);
}

static void secrets_stand_in_no_configuration_and_no_command_line(void **state)
{
    (void)state;
    static const char *const secret[] = { "sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem",
                                          "sasl.oauthbearer.client.secret" };
    char text[512], why[256];
    setenv("COLDSTREAM_TEST_SECRET", "hunter2", 1);
    for (size_t i = 0; i < sizeof secret / sizeof *secret; i++) {
        struct config_problems problems;
        snprintf(text, sizeof text,
                 FEATURES "source: {kafka: {properties: {bootstrap.servers: x, %s: hunter2}}}\n", secret[i]);
        assert_null(config_parse("x", text, strlen(text), CONFIG_FOR_DAEMON, &problems));
        assert_int_equal(problems.count, 1);
        assert_int_equal(problems.problem[0].line, 2);
        assert_non_null(strstr(problems.problem[0].text, secret[i]));
        assert_non_null(strstr(problems.problem[0].text, "file:/PATH"));
        assert_null(strstr(problems.problem[0].text, "hunter2"));
        config_problems_release(&problems);
        config_destroy(must_parse(text, CONFIG_FOR_TRAIN));         /* train does not use it */
        assert_null(config_property_value(secret[i], "hunter2", why, sizeof why));
        assert_null(strstr(why, "hunter2"));
        char *value = config_property_value(secret[i], "${COLDSTREAM_TEST_SECRET}", why, sizeof why);
        assert_string_equal(value, "hunter2");
        free(value);
    }
    char *value = config_property_value("client.id", "plain", why, sizeof why);
    assert_string_equal(value, "plain");
    free(value);
}

static void what_everyone_may_change_is_refused(void **state)
{
    (void)state;
    char directory[] = "/tmp/coldstream-config-XXXXXX", key[64], path[64], text[512];
    struct config_problems problems;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/coldstream.yaml", directory);
    snprintf(key, sizeof key, "%s/key", directory);
    snprintf(text, sizeof text,
             FEATURES "source: {kafka: {properties: {bootstrap.servers: x, ssl.key.location: %s}}}\n", key);
    write_file(path, text, 0644);
    write_file(key, "a private key", 0640);
    struct cs_config *config = config_load(path, CONFIG_FOR_DAEMON, &problems);
    assert_non_null(config);
    config_destroy(config);
    config_problems_release(&problems);
    chmod(key, 0604);
    assert_null(config_load(path, CONFIG_FOR_DAEMON, &problems));
    assert_non_null(strstr(problems.problem[0].text, "read or changed by everyone (mode 0604)"));
    config_problems_release(&problems);
    chmod(key, 0600);
    chmod(path, 0646);
    assert_null(config_load(path, CONFIG_FOR_DAEMON, &problems));
    assert_non_null(strstr(problems.problem[0].text, "can be changed by everyone (mode 0646): chmod o-w it"));
    config_problems_release(&problems);
    unlink(key);
    unlink(path);
    rmdir(directory);
}

/* ---- what a reload says of them */

static char said[1024];

static void note_change(void *self, const char *key, const char *from, const char *to, bool live)
{
    size_t used = strlen(said);
    (void)self;
    snprintf(said + used, sizeof said - used, "%s: %s -> %s%s\n", key + strlen("source.kafka.properties."), from, to,
             live ? "" : " (restart)");
}

/* Between a configuration as it was read and the same text, read after what it refers to has changed. */
static const char *changes(const struct cs_config *running, const char *text)
{
    struct cs_config *now = must_parse(text, CONFIG_FOR_DAEMON);
    *said = 0;
    config_compare(running, now, note_change, NULL);
    config_destroy(now);
    return said;
}

static void a_login_is_live_where_librdkafka_can_change_it(void **state)
{
    (void)state;
    static const char live[] = "sasl.username: (not shown) -> (not shown)\n"
                               "sasl.password: (not shown) -> (not shown)\n";
    static const char restart[] = "sasl.username: (not shown) -> (not shown) (restart)\n"
                                  "sasl.password: (not shown) -> (not shown) (restart)\n";
    static const struct { const char *mechanism, *said; } cases[] = {
        { "sasl.mechanism: PLAIN", live },
        { "sasl.mechanisms: SCRAM-SHA-512", live },
        { "sasl.mechanism: GSSAPI", restart },
        { "client.id: x", restart },
    };
    char directory[] = "/tmp/coldstream-config-XXXXXX", path[64], text[512];
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/password", directory);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text,
                 FEATURES "source: {kafka: {properties: {bootstrap.servers: x, %s,\n"
                          " sasl.username: \"${COLDSTREAM_USER}\", sasl.password: \"file:%s\",\n"
                          " ssl.key.password: \"${COLDSTREAM_KEY}\"}}}\n",
                 cases[i].mechanism, path);
        write_file(path, "hunter2\n", 0600);
        setenv("COLDSTREAM_USER", "old", 1);
        setenv("COLDSTREAM_KEY", "hunter4", 1);
        struct cs_config *running = must_parse(text, CONFIG_FOR_DAEMON);
        assert_string_equal(changes(running, text), "");
        write_file(path, "hunter3\n", 0600);
        setenv("COLDSTREAM_USER", "new", 1);
        assert_string_equal(changes(running, text), cases[i].said);
        write_file(path, "hunter2\n", 0600);
        setenv("COLDSTREAM_USER", "old", 1);
        setenv("COLDSTREAM_KEY", "hunter5", 1);
        assert_string_equal(changes(running, text), "ssl.key.password: (not shown) -> (not shown) (restart)\n");
        config_destroy(running);
    }
    unlink(path);
    rmdir(directory);
}

static void files_of_tls_are_compared_by_what_is_in_them(void **state)
{
    (void)state;
    char directory[] = "/tmp/coldstream-config-XXXXXX", certificate[64], key[64], text[512];
    assert_non_null(mkdtemp(directory));
    snprintf(certificate, sizeof certificate, "%s/client.crt", directory);
    snprintf(key, sizeof key, "%s/client.key", directory);
    snprintf(text, sizeof text,
             FEATURES "source: {kafka: {properties: {bootstrap.servers: x, ssl.certificate.location: %s,\n"
                      " ssl.key.location: %s, ssl.ca.location: %s}}}\n",
             certificate, key, directory);
    write_file(certificate, "a certificate", 0644);
    write_file(key, "a key", 0600);
    struct cs_config *running = must_parse(text, CONFIG_FOR_DAEMON);
    unlink(key);
    write_file(key, "a key", 0600);                     /* another file, the same content; a directory is left alone */
    assert_string_equal(changes(running, text), "");
    write_file(key, "a yek", 0600);
    unlink(certificate);
    assert_string_equal(changes(running, text),
                        "ssl.certificate.location: what it held at the start -> what it holds now (restart)\n"
                        "ssl.key.location: what it held at the start -> what it holds now (restart)\n");
    write_file(key, "a key", 0600);
    write_file(certificate, "a certificate", 0644);
    assert_string_equal(changes(running, text), "");
    config_destroy(running);
    unlink(certificate);
    unlink(key);
    rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(references_are_resolved),
        cmocka_unit_test(secrets_stand_in_no_configuration_and_no_command_line),
        cmocka_unit_test(what_everyone_may_change_is_refused),
        cmocka_unit_test(a_login_is_live_where_librdkafka_can_change_it),
        cmocka_unit_test(files_of_tls_are_compared_by_what_is_in_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
