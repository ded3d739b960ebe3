/* The daemon's clients of Kafka, and who they say they are: the configuration's user and password, until a reload
 * brings others. librdkafka takes these for clients that live, and uses them where it connects next; what is connected
 * stays so. All else of a client is read when it is made, TLS keys and certificates among it. Any thread. */
#ifndef DAEMON_KAFKA_CLIENTS_H
#define DAEMON_KAFKA_CLIENTS_H

#include <stdbool.h>

#include "config/config.h"
#include "core/error.h"

struct kafka_clients;
struct kafka_clients *kafka_clients_create(const struct cs_config *config);
void kafka_clients_destroy(struct kafka_clients *clients);     /* after the last client; wipes. NULL is fine */
/* config's sasl.username and sasl.password, to all clients there are and all to come. *replaced: they are others than
 * until now. False where librdkafka refuses them: then nothing has changed. */
bool kafka_clients_login(struct kafka_clients *clients, const struct cs_config *config, bool *replaced,
                         struct cs_error *err);

#ifdef RD_KAFKA_VERSION
/* A client by conf, which is taken over in any case. NULL and CS_CONFIG, after `what`, where librdkafka refuses it.
 * clients NULL: one whose user and password stay. */
rd_kafka_t *kafka_client_create(struct kafka_clients *clients, rd_kafka_type_t type, rd_kafka_conf_t *conf,
                                const char *what, struct cs_error *err);
void kafka_client_forget(struct kafka_clients *clients, rd_kafka_t *rk);       /* before it is destroyed */
#endif

#endif
