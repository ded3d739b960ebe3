/* From a cut to what is on disk: snapshot commit, then offsets to the broker (for lag tools), then, when due, a
 * checkpoint made from the committed snapshot and its announcement. On a thread of its own: learning never waits for a
 * disk. */
#ifndef DAEMON_PUBLISH_H
#define DAEMON_PUBLISH_H

#include "config/config.h"
#include "core/ingest.h"
#include "core/learner.h"
#include "core/shown.h"
#include "daemon/gate.h"
#include "daemon/kafka_sink.h"
#include "daemon/kafka_source.h"
#include "daemon/probe.h"
#include "daemon/telemetry.h"
#include "daemon/versions.h"
#include "storage/delta_format.h"
#include "storage/snapshot.h"

/* The niceness of the snapshot thread: it takes what the learner's threads leave before it takes from them. */
enum { PUBLISH_NICE = 10 };

/* The state of all threads between two events. Made by the join thread, completed by the learn thread, ended by ours.
 */
struct cut {
    struct snapshot_cut *snapshot;
    bool failed;                        /* a save went wrong: to be abandoned */
    struct cs_error error;
    char *positions;                    /* JSON: [{"topic", "partition", "next"}, ...] */
    struct kafka_source *source;        /* NULL: no offsets to commit */
    struct kafka_position *commit;      /* for the broker; topics borrowed from the source */
    size_t commit_count;
    int64_t watermark;                  /* the event clock */
    struct delta_place delta;           /* where its state stands in the chain of deltas; epoch 0: there is none */
    uint64_t number;                    /* of the version made of it, at least; 0: whichever comes next */
    bool publish;                       /* asked for, whatever the interval says */
    bool final;                         /* the daemon stops after it: no checkpoint, wait for the broker's answer */
    uint64_t ticket;
    uint64_t steps;
    struct probe_scores *probe;         /* what the learner says now; NULL: nothing */
    double join_seconds, stall;         /* that the join and the learn thread spent on it */
    struct metrics_report report[USERS_GROUPS][SPANS];      /* filled from the snapshot, where it is published */
    struct metrics_report delayed[USERS_GROUPS][SPANS];     /* the same, by the scores of the showing */
};

struct publisher_view {
    uint64_t snapshots, failures, failures_in_row;
    struct snapshot_stats stats;        /* of the last success; disk and segments as they are now */
    int64_t snapshot_time;              /* wall clock of the last success, 0: none */
    double snapshot_seconds;
    double stall_seconds;               /* that learning has waited for the newest cut, so far */
    char snapshot_error[256];           /* of the last failure in a row; "" */
    uint64_t version, published, publish_failures;      /* version: current; 0: none */
    int64_t publish_time, publish_watermark;
    double publish_seconds, freshness_seconds;
    char publish_error[256];
    bool held;                          /* rolled back: nothing is published until resumed */
    char hold[400];                     /* since when and why; "" */
    uint64_t refused, refused_version;  /* by the gate, in this run; the last one */
    int64_t refused_time;
    char refusal[1024];                 /* why */
};

struct publisher;
/* Borrows everything. sink may be NULL (no Kafka). */
struct publisher *publisher_create(const struct cs_config *config, struct snapshot_store *store,
                                   struct kafka_sink *sink, struct telemetry *telemetry, size_t threads,
                                   struct cs_error *err);
void publisher_destroy(struct publisher *publisher);            /* after publisher_finish */
/* What a reload may change: of snapshot and checkpoint what the settings table calls live. */
void publisher_set_live(struct publisher *publisher, const struct cs_config *config);

/* The join thread's side. Due: asked for, or the interval is over and something `changed`; never while another is under
 * way. When true the caller owes a cut (begun here). */
struct cut *publisher_begin_if_due(struct publisher *publisher, bool changed);
struct cut *publisher_begin_final(struct publisher *publisher);    /* waits for the one under way first */
/* The learn thread's side: takes the cut over. */
void publisher_submit(struct publisher *publisher, struct cut *cut);
void publisher_waited(struct publisher *publisher, double seconds);     /* for what the newest cut still read */
/* Commits what was submitted, then ends the thread; who waits for anything else is told so. */
void publisher_finish(struct publisher *publisher);

/* The operator's side. Both wait until it is committed (and published). */
bool publisher_snapshot(struct publisher *publisher, struct cs_error *err);
bool publisher_publish(struct publisher *publisher, uint64_t *version, struct cs_error *err);
void publisher_request(struct publisher *publisher, bool publication);      /* a snapshot (and a version) soon, without
                                                                               waiting */
struct versions *publisher_versions(struct publisher *publisher);      /* to roll back, to resume, to pin */
struct publisher_view publisher_view(struct publisher *publisher);
/* May what changes between versions leave for readers? Not while publishing is held, and not from a refusal of the gate
 * until a version passes. */
bool publisher_may_send(struct publisher *publisher);
bool publisher_stuck(struct publisher *publisher); /* three snapshots in a row have failed: reading should wait */

/* Start-up: everything of the last snapshot into fresh objects. False where it is another model's or damaged
 * (CS_REFUSED). The positions are malloc'd, topics too. */
bool publish_resume(const struct cs_config *config, struct snapshot_store *store, size_t threads,
                    struct learner *learner, struct ingest *ingest, struct metrics *metrics,
                    struct shown *shown, struct letters *letters, struct kafka_positions *positions,
                    struct cs_error *err);

#endif
