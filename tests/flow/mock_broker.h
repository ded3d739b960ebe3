/* A broker in the test's own process (librdkafka's mock cluster), and the real coldstreamd run against it. */
#ifndef TESTS_FLOW_MOCK_BROKER_H
#define TESTS_FLOW_MOCK_BROKER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct mock_broker;
struct mock_broker *mock_broker_create(void);
/* A cluster of so many, with ids from 1. */
struct mock_broker *mock_broker_create_many(int brokers);
void mock_broker_destroy(struct mock_broker *broker);
const char *mock_broker_address(const struct mock_broker *broker);
void mock_broker_topic(struct mock_broker *broker, const char *topic, int partitions);
void mock_broker_hide(struct mock_broker *broker, const char *topic, bool hidden);      /* as if it were not there */
void mock_broker_down(struct mock_broker *broker, bool down);                           /* all of them */
/* From now on this one leads the partition; all others refuse to be read from and written to. */
void mock_broker_lead(struct mock_broker *broker, const char *topic, int partition, int leader);
/* size -1: a tombstone. Waits until nothing is under way when value is NULL and size is 0. */
void mock_broker_produce(struct mock_broker *broker, const char *topic, int partition, const char *value, int size);
void mock_broker_flush(struct mock_broker *broker);
/* Joined examples, those numbered from .. from + count - 1, into the topic `examples`; what is clicked depends on the
 * item alone. Waits until they are there. */
void mock_broker_produce_examples(struct mock_broker *broker, int from, int count);
/* The n-th record of a topic with one partition: its value, and a header's text ("" where there is none). malloc'd;
 * NULL: none came. */
char *mock_broker_read(struct mock_broker *broker, const char *topic, int n, const char *header, char text[256]);

/* Every record of a topic with one partition, from the offset on to its end; the next offset is returned. */
typedef void mock_broker_record(void *self, const void *bytes, size_t size);
int64_t mock_broker_each(struct mock_broker *broker, const char *topic, int64_t from, mock_broker_record *take,
                         void *self);
/* The next requests to produce, whoever's: refused (not authorized for the topic), or the connection is cut. */
void mock_broker_refuse(struct mock_broker *broker, int requests);
void mock_broker_cut_off(struct mock_broker *broker, int requests);
/* The next request to produce to broker 1, whoever's: its records are taken, and no answer comes, nor to any after it
 * on the same connection. */
void mock_broker_withhold(struct mock_broker *broker);
/* The next fetch, whoever's: its offset is said to be out of range, as after a truncation. */
void mock_broker_truncated(struct mock_broker *broker);

/* A directory of its own under /tmp with a configuration, a snapshot directory, checkpoints, a socket. */
struct daemon_run {
    char directory[64], config[128], socket[128], snapshot[128], checkpoints[128], log[128];
    pid_t pid;
};
void daemon_prepare(struct daemon_run *run);
void daemon_remove(struct daemon_run *run);             /* the directory and all in it */
/* Writes the configuration: a small model, and what the test adds to or replaces in it. */
struct daemon_settings {
    const char *properties, *idle_after, *extra_model, *window, *extra;
    const char *extra_user;     /* user features: ", {name: plan}" */
    const char *extra_embedding;        /* ", tables: {...}" */
    const char *extra_snapshot; /* ", on_damage: previous" */
    const char *topics;         /* instead of impressions and clicks */
    const char *checkpoint_interval;    /* 1h */
    const char *extra_checkpoint;       /* ", gate: {...}" */
};
void daemon_configure(struct daemon_run *run, const struct mock_broker *broker, const struct daemon_settings *settings);
void daemon_start(struct daemon_run *run);
/* Another program of the build in its place; arguments end with NULL. */
void daemon_start_as(struct daemon_run *run, const char *program, const char *const argument[]);
int daemon_wait(struct daemon_run *run);                /* exit status; -signal */
int daemon_stop(struct daemon_run *run, int signal);    /* signals, waits */
json_t *daemon_ask(const struct daemon_run *run, const char *verb,
                   const char *argument); /* NULL: refused, or no answer */
/* Asks for the status until test says yes; false after 60 s (the log is shown then). */
bool daemon_until(const struct daemon_run *run, bool (*test)(const json_t *status, int64_t argument), int64_t argument);
size_t daemon_logged(const struct daemon_run *run, const char *text);   /* in how many lines of its log */
void daemon_show_log(const struct daemon_run *run);     /* its end, on stderr */
int64_t status_number(const json_t *status, const char *path);  /* "examples.all"; -1: none */
/* For daemon_until: so many versions were published; nothing is left to be learned of so many examples (the last batch,
 * too, was closed, by the idle clock), and all deltas are sent. */
bool published(const json_t *status, int64_t versions);
bool all_sent(const json_t *status, int64_t examples);
/* One number over all learned tensors and rows of the snapshot: equal where the learned state is. */
uint64_t daemon_digest(const struct daemon_run *run);

/* What a flow test's own world begins with, malloc'd in its setup; the teardown of them all. */
struct flow_world { struct mock_broker *broker; struct daemon_run run; };
int flow_teardown(void **state);

#endif
