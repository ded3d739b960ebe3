/* source.kafka.properties as librdkafka takes them: what it would refuse when the daemon makes its clients is told by
 * the check of the configuration, at its place and with what to do; what it would take is taken. */
#include "config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/kafka_config.h"

#define KNOWN "bootstrap.servers: h:9"

/* properties: from column 31 of line 2 on. column 0: nothing is wrong with them. */
struct properties { const char *text; int column; const char *told; };

static const struct properties cases[] = {
    { KNOWN, 0, "" },
    /* -- brokers -- */
    { "bootstrap.servers: 'a,b:1 , [::1]:9, [::1], ::1, SASL_SSL://h:65535,'", 0, "" },
    { "bootstrap.servers: \"${COLDSTREAM_TEST_SERVERS}\"", 0, "" },
    { "bootstrap.servers: ''", 50, "allowed: host:port, ..." },
    { "bootstrap.servers: ' , '", 50, "allowed: host:port, ..." },
    { "bootstrap.servers: 'h:65536'", 50, "found \"h:65536\", allowed: host:port, ... (ports 1 to 65535)" },
    { "bootstrap.servers: 'h:0'", 50, "ports 1 to 65535" },
    { "bootstrap.servers: 'h:'", 50, "ports 1 to 65535" },
    { "bootstrap.servers: ':9'", 50, "allowed: host:port, ..." },
    { "bootstrap.servers: 'a:9 b:9'", 50, "allowed: host:port, ..." },
    { "bootstrap.servers: '[::1:9'", 50, "allowed: host:port, ..." },
    { "bootstrap.servers: 'http://h:9'", 50, "allowed: host:port, ..." },
    { "bootstrap.servers: 'u:Zq7secret@h:9'", 50, "allowed: host:port, ..." },
    { "bootstrap.servers: \"${COLDSTREAM_TEST_SECRET}\"", 50, "allowed: host:port, ..." },
    { "bootstrap.servers: [a, b]", 50, "found a list of 2, allowed: a text" },
    { "bootstrap.servers: ~", 50, "found nothing, allowed: a text" },
    /* -- each by itself -- */
    { KNOWN ", sasl.pasword: x", 55, "has no such property, did you mean \"sasl.password\"?" },
    { KNOWN ", no.such.thing.at.all: x", 55, "has no such property" },
    { KNOWN ", security.protocol: tls", 55, "allowed: plaintext, ssl, sasl_plaintext, sasl_ssl" },
    { KNOWN ", log_level: 8", 55, "value 8 is outside allowed range 0..7" },
    { KNOWN ", check.crcs: maybe", 55, "allowed: true, false" },
    { KNOWN ", session.timeout.ms: 6s", 55, "read as 6: a number has no unit here, allowed: digits alone" },
    { KNOWN ", socket.timeout.ms: 1e3", 55, "outside allowed range 10..300000" },
    { KNOWN ", session.timeout.ms: 010", 55, "read as 8" },
    { KNOWN ", session.timeout.ms: 6000, linger.ms: 0.5, client.id: 7up, compression.level: -1", 0, "" },
    { KNOWN ", client.rack: 12a, broker.version.fallback: 0.9.0.1, debug: all, acks: all", 0, "" },
    /* -- all together -- */
    { KNOWN ", session.timeout.ms: 600000", 55, "no consumer can be made of these: `max.poll.interval.ms`must be" },
    { KNOWN ", acks: 0", 55, "and the daemon's always is: leave the property out" },
    { KNOWN ", max.in.flight: 100", 55, "no producer can be made of these: `max.in.flight` must be set" },
    { KNOWN ", security.protocol: ssl, ssl.cipher.suites: NOPE", 79, "no cipher match" },
    { KNOWN ", security.protocol: ssl, ssl.ca.location: /nonexistent", 79, "can't be read: No such file or directory" },
    { KNOWN ", security.protocol: ssl, ssl.key.location: /nonexistent, ssl.ca.location: /nonexistent", 111,
      "can't be read: No such file or directory" },
    { KNOWN ", security.protocol: ssl, ssl.certificate.location: /dev/null", 79, "no consumer can be made of these: " },
    { KNOWN ", security.protocol: ssl, ssl.ca.location: probe", 0, "" },
    { KNOWN ", ssl.ca.location: /nonexistent", 0, "" },        /* not read without TLS */
    { KNOWN ", security.protocol: sasl_ssl, sasl.mechanism: PLAIN", 18, "sasl.username and sasl.password must be set" },
    { KNOWN ", security.protocol: sasl_ssl", 55, "SASL without sasl.mechanism, allowed: PLAIN" },
    { KNOWN ", security.protocol: sasl_plaintext, sasl.mechanism: GSSAPI", 90, "without sasl.kerberos.keytab" },
    { KNOWN ", security.protocol: sasl_plaintext, sasl.mechanism: PLAIN, sasl.username: u, sasl.password: "
            "\"${COLDSTREAM_TEST_SECRET}\"", 0, "" },
    { KNOWN ", security.protocol: sasl_plaintext, sasl.mechanism: plain, sasl.username: u, sasl.password: "
            "\"${COLDSTREAM_TEST_SECRET}\"", 18, "Unsupported SASL mechanism: plain" },
};

static struct cs_config *load(const char *properties, struct config_problems *problems)
{
    char path[] = "/tmp/coldstream-properties-XXXXXX", text[1024];
    int length = snprintf(text, sizeof text, "features: {user: [{name: age}]}\nsource: {kafka: {properties: {%s}}}\n",
                          properties);
    int file = mkstemp(path);
    assert_true(file >= 0 && length < (int)sizeof text);
    assert_int_equal(write(file, text, (size_t)length), length);
    close(file);
    struct cs_config *config = config_load_checked(path, CONFIG_FOR_DAEMON, &kafka_checks, problems);
    unlink(path);
    return config;
}

static void what_librdkafka_would_refuse_is_told_at_its_place(void **state)
{
    (void)state;
    size_t wrong = 0;
    for (const struct properties *one = cases; one < cases + sizeof cases / sizeof *cases; one++) {
        struct config_problems problems;
        struct cs_config *config = load(one->text, &problems);
        bool right = one->column == 0 ? config != NULL : false;
        char *listed = config_problems_text(&problems);
        for (size_t i = 0; i < problems.count; i++)
            right |= problems.problem[i].line == 2 && problems.problem[i].column == one->column &&
                     strstr(problems.problem[i].text, one->told) && !strstr(problems.problem[i].text, "Zq7secret");
        if (!right) {
            wrong++;
            print_error("%s\nexpected 2:%d %s\nfound %s\n", one->text, one->column, one->told, listed);
        }
        free(listed);
        config_destroy(config);
        config_problems_release(&problems);
    }
    assert_int_equal(wrong, 0);
}

/* A client that can't be made has one reason, however many clients there are; files that are missing are all told. */
static void what_is_wrong_is_told_once(void **state)
{
    (void)state;
    struct config_problems problems;
    assert_null(load(KNOWN ", security.protocol: sasl_ssl, sasl.mechanism: PLAIN", &problems));
    assert_int_equal(problems.count, 1);
    config_problems_release(&problems);
    assert_null(load(KNOWN ", security.protocol: ssl, ssl.ca.location: /no, ssl.key.location: /no", &problems));
    assert_int_equal(problems.count, 2);
    config_problems_release(&problems);
}

int main(void)
{
    setenv("COLDSTREAM_TEST_SECRET", "Zq7secret with a blank", 1);
    setenv("COLDSTREAM_TEST_SERVERS", "h:9,g:9", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_librdkafka_would_refuse_is_told_at_its_place),
        cmocka_unit_test(what_is_wrong_is_told_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
