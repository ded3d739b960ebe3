/* Produces generated events to Kafka: a topic a kind of event, acknowledged by all replicas before it is done. */
#ifndef TOOLS_GENERATE_KAFKA_H
#define TOOLS_GENERATE_KAFKA_H

#include "tools/generate.h"

struct generate_kafka;
/* properties: "name=value,name=value" or NULL; topics: up to four names in the order of generated_topic, or NULL. */
struct generate_kafka *generate_kafka_create(const char *brokers, const char *properties, const char *topics,
                                             struct cs_error *err);
/* Waits where the producer's queue is full. False when a record before was not delivered. */
bool generate_kafka_send(struct generate_kafka *kafka, const struct generated *event, struct cs_error *err);
bool generate_kafka_flush(struct generate_kafka *kafka, struct cs_error *err);     /* all delivered, or why not */
void generate_kafka_destroy(struct generate_kafka *kafka);

#endif
