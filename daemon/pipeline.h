/* The step, and the two threads that take it (ARCHITECTURE.md): join (decode, merge, join, batch) and learn (score,
 * judge, learn). */
#ifndef DAEMON_PIPELINE_H
#define DAEMON_PIPELINE_H

#include "config/config.h"
#include "core/decode.h"
#include "core/ingest.h"
#include "core/learner.h"
#include "core/shown.h"
#include "daemon/aside.h"
#include "daemon/delta.h"
#include "daemon/kafka_sink.h"
#include "daemon/kafka_source.h"
#include "daemon/publish.h"
#include "daemon/telemetry.h"

/* All borrowed, and from pipeline_start to pipeline_join used by our threads alone. */
struct pipeline_parts {
    const struct cs_config *config;
    const struct features *features;
    struct decoder *decoder;
    struct ingest *ingest;
    struct learner *learner;
    struct metrics *metrics;
    struct shown *shown;
    struct aside *aside;
    struct kafka_sink *sink;
    struct publisher *publisher;
    struct telemetry *telemetry;
    struct deltas *deltas;              /* NULL: none are sent */
    struct kafka_clients *clients;
};

/* Makes the Kafka source, which starts at `positions`; threads run from here on. */
struct pipeline;
struct pipeline *pipeline_start(const struct pipeline_parts *parts, const struct kafka_positions *positions,
                                struct cs_error *err);
void pipeline_stop(struct pipeline *pipeline); /* asks: no more reading, all closed batches learned, a last snapshot.
                                                  Returns at once */
bool pipeline_ended(struct pipeline *pipeline);     /* stopped, or failed: join it */
/* Waits for the threads. False where reading had failed; state up to there is in the snapshot. */
bool pipeline_join(struct pipeline *pipeline, struct cs_error *err);
void pipeline_destroy(struct pipeline *pipeline);

/* ---- any thread */

void pipeline_pause(struct pipeline *pipeline, bool paused);
struct pipeline_live { int64_t join_window; double ranking_rate, zero_shot_rate, embedding_rate; };
void pipeline_set_live(struct pipeline *pipeline,
                       const struct pipeline_live *live); /* takes effect between two events and between two steps */
struct deltas *pipeline_deltas(const struct pipeline *pipeline);   /* NULL: none are sent */
bool pipeline_alive(struct pipeline *pipeline);     /* both threads moved within the last minute */

enum pipeline_state { STATE_WAITING, STATE_RUNNING, STATE_PAUSED, STATE_HELD, STATE_STOPPING };
/* For the label of a metric, and for people; in the enum's order. */
struct pipeline_state_name { const char *label, *text; };
enum { PIPELINE_STATES = STATE_STOPPING + 1 };
extern const struct pipeline_state_name pipeline_state_name[PIPELINE_STATES];

struct source_view {
    char topic[256];
    int32_t partition;
    int64_t next, end;
    int64_t held;                   /* offsets behind an open transaction */
    bool idle;
};
struct table_view { const char *name; uint64_t rows, admitted, evicted; size_t bytes; };

/* What the threads last said of themselves, at most a second old. Metrics, but for the examples since the start: as old
 * as they are dear, with a window of 100,000 some 15 s while there is something to learn. */
struct pipeline_view {
    enum pipeline_state state;
    bool connected;
    char waiting[200];              /* for what, before reading has started */
    char held[500];                 /* why reading is held up by ourselves */
    struct letters_view letters;
    struct source_view *source;     /* malloc'd; pipeline_view_release */
    size_t source_count;
    uint64_t events[DECODE_RESULTS];
    struct join_counts join;
    struct join_held undecided;     /* core/joiner.h: with `join` they add up to what came in */
    size_t pending, open, ingest_bytes;
    int64_t clock;                  /* event time; INT64_MIN: no event yet */
    bool all_idle;
    uint64_t steps, zero_shot_steps, nonfinite;
    struct learner_losses losses;
    struct metrics_report report[USERS_GROUPS][SPANS], delayed[USERS_GROUPS][SPANS];
    size_t shown_waiting;           /* scores kept until their examples are learned */
    struct table_view *table;       /* malloc'd */
    size_t table_count, learner_bytes;
};
struct pipeline_view pipeline_view(struct pipeline *pipeline);
/* Records that are at the brokers and not learned; -1: not known, while the end of a partition is not. */
int64_t pipeline_view_lag(const struct pipeline_view *view);
void pipeline_view_release(struct pipeline_view *view);

#endif
