/* A list of clients, and the user and password that they have by now. */
#include <librdkafka/rdkafka.h>

#include "daemon/kafka_clients.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"
#include "daemon/kafka_config.h"
#include "daemon/log.h"

struct kafka_clients {
    pthread_mutex_t lock;               /* over what follows: no client is made while all are told */
    char *username, *password;          /* NULL: none is configured */
    rd_kafka_t **client;
    size_t count;
};

static char *copy(const char *text)
{
    return text ? need(strdup(text)) : NULL;
}

static bool same(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

struct kafka_clients *kafka_clients_create(const struct cs_config *config)
{
    struct kafka_clients *clients = need(calloc(1, sizeof *clients));
    pthread_mutex_init(&clients->lock, NULL);
    clients->username = copy(config_property(config, "sasl.username", NULL));
    clients->password = copy(config_property(config, "sasl.password", NULL));
    return clients;
}

void kafka_clients_destroy(struct kafka_clients *clients)
{
    if (!clients) return;
    config_wipe(clients->username);
    config_wipe(clients->password);
    free(clients->client);
    pthread_mutex_destroy(&clients->lock);
    free(clients);
}

/* All clients have the same mechanism, so that the first refuses where any does. */
static bool tell_all(struct kafka_clients *clients, const char *username, const char *password, struct cs_error *err)
{
    for (size_t i = 0; i < clients->count; i++) {
        rd_kafka_error_t *error = rd_kafka_sasl_set_credentials(clients->client[i], username, password);
        if (!error) continue;
        cs_fail(err, CS_CONFIG, "source.kafka.properties sasl.username and sasl.password: %s",
                rd_kafka_error_string(error));
        rd_kafka_error_destroy(error);
        return false;
    }
    return true;
}

bool kafka_clients_login(struct kafka_clients *clients, const struct cs_config *config, bool *replaced,
                         struct cs_error *err)
{
    const char *username = config_property(config, "sasl.username", NULL);
    const char *password = config_property(config, "sasl.password", NULL);
    pthread_mutex_lock(&clients->lock);
    *replaced = username && password && !(same(username, clients->username) && same(password, clients->password));
    bool fine = !*replaced || tell_all(clients, username, password, err);
    if (*replaced && fine) {
        config_wipe(clients->username);
        config_wipe(clients->password);
        clients->username = copy(username);
        clients->password = copy(password);
        log_notice("Kafka user or password replaced: from each client's next connection on",
                   LOG_U("clients", clients->count));
    }
    pthread_mutex_unlock(&clients->lock);
    return fine;
}

/* Set on conf, as what is made connects at once. */
static bool set_login(const struct kafka_clients *clients, rd_kafka_conf_t *conf, struct cs_error *err)
{
    return (!clients->username || kafka_conf_set(conf, "sasl.username", clients->username, err)) &&
           (!clients->password || kafka_conf_set(conf, "sasl.password", clients->password, err));
}

static rd_kafka_t *create(rd_kafka_type_t type, rd_kafka_conf_t *conf, const char *what, struct cs_error *err)
{
    char text[256];
    rd_kafka_t *rk = rd_kafka_new(type, conf, text, sizeof text);
    if (rk) return rk;
    rd_kafka_conf_destroy(conf);
    cs_fail(err, CS_CONFIG, "%s: %s", what, text);
    return NULL;
}

rd_kafka_t *kafka_client_create(struct kafka_clients *clients, rd_kafka_type_t type, rd_kafka_conf_t *conf,
                                const char *what, struct cs_error *err)
{
    if (!clients) return create(type, conf, what, err);
    rd_kafka_t *rk = NULL;
    pthread_mutex_lock(&clients->lock);
    if (!set_login(clients, conf, err)) rd_kafka_conf_destroy(conf);
    else if ((rk = create(type, conf, what, err))) {
        clients->client = need(realloc(clients->client, (clients->count + 1) * sizeof(rd_kafka_t *)));
        clients->client[clients->count++] = rk;
    }
    pthread_mutex_unlock(&clients->lock);
    return rk;
}

void kafka_client_forget(struct kafka_clients *clients, rd_kafka_t *rk)
{
    if (!clients) return;
    pthread_mutex_lock(&clients->lock);
    for (size_t i = 0; i < clients->count; i++)
        if (clients->client[i] == rk) {
            clients->client[i] = clients->client[--clients->count];
            break;
        }
    pthread_mutex_unlock(&clients->lock);
}
