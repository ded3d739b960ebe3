/* What the parts of the bench share: a clock, medians, lines of the table. A part measures something and, in the
 * same run, what the machine could do at best: the ideal. */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include <sys/types.h>

#include "core/error.h"
#include "daemon/worker_pool.h"

enum { BENCH_LINES_MAX = 64, BENCH_REPEAT = 5 };

struct bench_line { char what[64], unit[16], ideal[64]; double value, best; };

/* The models that are measured: settings is all but zero_shot, which ends the text. */
struct bench_system { const char *name, *zero_shot; bool scored; };
enum { BENCH_SYSTEMS = 3 };
extern const struct bench_system bench_system[BENCH_SYSTEMS];
extern const char bench_model_settings[];

struct bench {
    const char *only;               /* NULL: all parts */
    uint64_t rows;                  /* of the table that snapshots are measured with */
    char programs[256];             /* the folder of coldstreamd */
    double bare_rate[BENCH_SYSTEMS];    /* examples/s of the bare matrix products of a step; set by bench_stream */
    char directory[256];            /* scratch, removed at the end */
    struct worker_pool *pool;
    struct parallel *parallel;
    struct bench_line line[BENCH_LINES_MAX];
    size_t lines;
};

double bench_seconds(void);
/* Sorts. */
double bench_median(double *value, size_t count);
double bench_quantile(double *value, size_t count, double share);
/* best: of the ideal, same unit. */
void bench_add(struct bench *bench, const char *what, double value, const char *unit, double best, const char *ideal);
void bench_progress(const char *what);      /* to stderr */
/* The median of several runs of memcpy over `bytes`, in seconds. */
double bench_memcpy(size_t bytes);

struct embedding_table;
struct cs_config;
uint64_t bench_key(uint64_t i);
/* Rows with the keys bench_key(0 ... rows - 1); the table has 32 columns. */
bool bench_fill(struct embedding_table *table, uint64_t rows, struct cs_error *err);
/* bench_model_settings and the zero-shot tower's. */
struct cs_config *bench_configure(const char *zero_shot, struct cs_error *err);

bool bench_rows(struct bench *bench, struct cs_error *err);
/* decode, train, and what is trained: snapshot, score */
bool bench_stream(struct bench *bench, struct cs_error *err);
/* After bench_stream. */
bool bench_kafka(struct bench *bench, struct cs_error *err);
bool bench_open(struct bench *bench, struct cs_error *err);
bool bench_snapshot(struct bench *bench, struct cs_error *err);
bool bench_delta(struct bench *bench, struct cs_error *err);
bool bench_freshness(struct bench *bench, struct cs_error *err);
bool bench_swaps(struct bench *bench, struct cs_error *err);

bool bench_overhead(struct bench *bench, struct cs_error *err);

/* Of bench_kafka.c, for who else watches a daemon that learns from a real Apache Kafka. */
struct bench_daemon { pid_t pid; char socket[512], log[512]; };
/* word: the first that the command prints, NULL where it doesn't matter; its messages go to our stderr. */
bool bench_command(const char *command, char *word, size_t size, struct cs_error *err);
bool bench_fill_topics(const char *brokers, uint64_t events, struct cs_error *err);
/* port: of http.listen, 0: any. */
bool bench_daemon_config(const char *directory, const char *brokers, size_t system, int port, struct cs_error *err);
bool bench_daemon_start(const struct bench *bench, const char *directory, struct bench_daemon *daemon,
                        struct cs_error *err);
void bench_daemon_stop(struct bench_daemon *daemon);

struct learner;
struct generator;
bool bench_score(struct bench *bench, const char *checkpoints, struct generator *generator, struct cs_error *err);

bool bench_wants(const struct bench *bench, const char *part);

#endif
