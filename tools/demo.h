/* What the demo's two halves share: what it was asked and holds, its programs, and how it speaks to people. */
#ifndef TOOLS_DEMO_H
#define TOOLS_DEMO_H

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/error.h"
#include "tools/generate.h"

enum { PARTITIONS = 4, PARTITIONS_MAX = 64, STREAMS = 2, RUNS = 2, WAIT_SECONDS = 240 };

struct demo {
    const char *impressions, *clicks, *config, *broker;    /* NULL: generated, embedded */
    const char *programs;                                   /* directory of coldstreamd and coldstream-serve */
    uint64_t events;
    bool keep;
    char directory[64];
    struct generate_settings settings;

    rd_kafka_t *producer;
    rd_kafka_mock_cluster_t *mock;
    rd_kafka_topic_t *topic[STREAMS];
    char brokers[256];
    int32_t partitions[STREAMS];
    atomic_llong failed;                                    /* records that were not delivered */
    int64_t produced[STREAMS][PARTITIONS_MAX];              /* records */
    size_t bytes[STREAMS][PARTITIONS_MAX];

    pid_t daemon, serve;
    char socket[128], checkpoints[128];
};

double demo_now(void);                                      /* seconds */
void demo_sleep(long milliseconds);
void demo_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Starts one of our programs, its output in a log of the demo's directory. */
pid_t demo_start(const struct demo *demo, const char *program, const char *log, const char *const *arguments);
bool demo_runs(pid_t *pid);
bool demo_stop(pid_t *pid, const char *name, struct cs_error *err);
void demo_show_log(const struct demo *demo, const char *log);   /* its end, on stderr */

/* demo_serve.c: the checkpoint served over HTTP, and one new user's best items as it ranks them. */
bool demo_serve(struct demo *demo, const char *checkpoints, struct cs_error *err);

#endif
