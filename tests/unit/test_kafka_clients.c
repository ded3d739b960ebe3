/* Who the daemon's clients say they are: what a reload brings reaches those that live, and those made later. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <librdkafka/rdkafka.h>

#include "daemon/kafka_clients.h"
#include "daemon/kafka_config.h"

enum { USERNAME, PASSWORD, PROPERTIES = 5 };

/* Nobody listens there. */
#define TEXT(text) (char[]){ text }
static struct config_pair property[PROPERTIES] = {
    [USERNAME] = { .name = TEXT("sasl.username") },
    [PASSWORD] = { .name = TEXT("sasl.password") },
    { .name = TEXT("bootstrap.servers"), .value = TEXT("127.0.0.1:1") },
    { .name = TEXT("security.protocol"), .value = TEXT("sasl_plaintext") },
    { .name = TEXT("sasl.mechanism"), .value = TEXT("PLAIN") },
};
static struct cs_config config = { .source = { .property = property, .property_count = PROPERTIES } };

static void configure(const char *username, const char *password)
{
    property[USERNAME].value = (char *)(uintptr_t)username;
    property[PASSWORD].value = (char *)(uintptr_t)password;
}

/* By the configuration that it was started with, whatever has been reloaded since. */
static rd_kafka_t *client(struct kafka_clients *clients, rd_kafka_type_t type)
{
    struct cs_error err;
    configure("old", "hunter2");
    rd_kafka_conf_t *conf = kafka_conf_create(&config, &err);
    assert_non_null(conf);
    rd_kafka_t *rk = kafka_client_create(clients, type, conf, "Kafka client", &err);
    assert_non_null(rk);
    return rk;
}

static bool login(struct kafka_clients *clients, const char *username, const char *password)
{
    struct cs_error err;
    bool replaced;
    configure(username, password);
    assert_true(kafka_clients_login(clients, &config, &replaced, &err));
    return replaced;
}

static void assert_property(rd_kafka_t *rk, const char *name, const char *expected)
{
    char value[64];
    size_t size = sizeof value;
    assert_int_equal(rd_kafka_conf_get(rd_kafka_conf(rk), name, value, &size), RD_KAFKA_CONF_OK);
    assert_string_equal(value, expected);
}

static void assert_login(rd_kafka_t *rk, const char *username, const char *password)
{
    assert_property(rk, "sasl.username", username);
    assert_property(rk, "sasl.password", password);
}

static void test_all_clients_get_what_a_reload_brings(void **state)
{
    (void)state;
    configure("old", "hunter2");
    struct kafka_clients *clients = kafka_clients_create(&config);
    rd_kafka_t *consumer = client(clients, RD_KAFKA_CONSUMER), *producer = client(clients, RD_KAFKA_PRODUCER);
    assert_login(consumer, "old", "hunter2");
    assert_false(login(clients, "old", "hunter2"));
    assert_true(login(clients, "old", "hunter3"));
    assert_login(consumer, "old", "hunter3");
    assert_login(producer, "old", "hunter3");
    rd_kafka_t *later = client(clients, RD_KAFKA_PRODUCER);
    assert_login(later, "old", "hunter3");
    assert_true(login(clients, "new", "hunter3"));
    assert_false(login(clients, "new", "hunter3"));
    assert_login(consumer, "new", "hunter3");
    assert_login(producer, "new", "hunter3");
    assert_login(later, "new", "hunter3");
    rd_kafka_t *const all[] = { consumer, producer, later };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kafka_client_forget(clients, all[i]);
        rd_kafka_destroy(all[i]);
    }
    assert_true(login(clients, "newer", "hunter4"));        /* none is left to be told */
    kafka_clients_destroy(clients);
}

static void test_who_is_not_of_them_is_left_alone(void **state)
{
    (void)state;
    configure("old", "hunter2");
    struct kafka_clients *clients = kafka_clients_create(&config);
    rd_kafka_t *other = client(NULL, RD_KAFKA_PRODUCER), *gone = client(clients, RD_KAFKA_PRODUCER);
    rd_kafka_t *stays = client(clients, RD_KAFKA_PRODUCER);
    kafka_client_forget(clients, gone);
    kafka_client_forget(NULL, other);
    assert_true(login(clients, "new", "hunter3"));
    assert_login(other, "old", "hunter2");
    assert_login(gone, "old", "hunter2");
    assert_login(stays, "new", "hunter3");
    kafka_client_forget(clients, stays);
    rd_kafka_destroy(other);
    rd_kafka_destroy(gone);
    rd_kafka_destroy(stays);
    kafka_clients_destroy(clients);
    kafka_clients_destroy(NULL);
}

/* Client certificates, or nothing at all: there is neither, and none is made up. */
static void test_without_a_password_there_is_nothing_to_replace(void **state)
{
    (void)state;
    struct cs_config without = { .source = { .property = property + 2, .property_count = 1 } };
    struct kafka_clients *clients = kafka_clients_create(&without);
    struct cs_error err;
    bool replaced = true;
    rd_kafka_conf_t *conf = kafka_conf_create(&without, &err);
    rd_kafka_t *rk = kafka_client_create(clients, RD_KAFKA_PRODUCER, conf, "Kafka producer", &err);
    assert_non_null(rk);
    assert_true(kafka_clients_login(clients, &without, &replaced, &err));
    assert_false(replaced);
    configure("new", "");
    struct cs_config half = { .source = { .property = property, .property_count = 1 } };
    assert_true(kafka_clients_login(clients, &half, &replaced, &err));
    assert_false(replaced);
    kafka_client_forget(clients, rk);
    rd_kafka_destroy(rk);
    kafka_clients_destroy(clients);
}

static void test_what_librdkafka_refuses_is_told(void **state)
{
    (void)state;
    configure("old", "hunter2");
    struct kafka_clients *clients = kafka_clients_create(&config);
    struct cs_error err;
    rd_kafka_conf_t *conf = kafka_conf_create(&config, &err);
    assert_true(kafka_conf_set(conf, "sasl.mechanism", "NO-SUCH", &err));
    assert_null(kafka_client_create(clients, RD_KAFKA_PRODUCER, conf, "Kafka producer", &err));
    assert_int_equal(err.code, CS_CONFIG);
    assert_non_null(strstr(err.message, "Kafka producer: "));
    assert_null(strstr(err.message, "hunter2"));
    assert_true(login(clients, "new", "hunter3"));          /* it is not on the list */
    kafka_clients_destroy(clients);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_clients_get_what_a_reload_brings),
        cmocka_unit_test(test_who_is_not_of_them_is_left_alone),
        cmocka_unit_test(test_without_a_password_there_is_nothing_to_replace),
        cmocka_unit_test(test_what_librdkafka_refuses_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
