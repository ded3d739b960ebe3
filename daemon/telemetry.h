/* The numbers that operators watch: one row a metric in telemetry_table.c (name, kind, labels, help), from which the
 * Prometheus text and its HELP and TYPE lines follow. Owners add to it once a batch or more rarely, not per record. */
#ifndef DAEMON_TELEMETRY_H
#define DAEMON_TELEMETRY_H

#include <stdint.h>

enum telemetry_metric {
    METRIC_EVENTS,              /* events_total{topic,result} */
    METRIC_STATE,               /* state{state}: 1 for what reading is, 0 for what it isn't */
    METRIC_CONNECTED,           /* kafka_connected */
    METRIC_EVENT_LAG,           /* event_lag_seconds: wall clock less event time of the newest event joined */
    METRIC_CONSUMER_LAG,        /* consumer_lag{topic,partition} */
    METRIC_TRANSACTION_HELD,    /* transaction_held_records{topic,partition} */
    METRIC_JOIN_FORCED,         /* join_forced_total: left early, as max_pending were held */
    METRIC_JOIN_PENDING, METRIC_JOIN,                       /* join_pending, join_total{result} */
    METRIC_JOIN_EVENTS, METRIC_JOIN_UNDECIDED,              /* {kind}: what came in, and what has no outcome yet */
    METRIC_EXAMPLES,            /* examples_total{users} */
    METRIC_STEPS, METRIC_STEP_SECONDS,                      /* steps_total, step_seconds (histogram) */
    METRIC_LOG_LOSS, METRIC_AUC, METRIC_GAUC, METRIC_CALIBRATION,   /* {users,window}: window = "window" or "start" */
    METRIC_DELAYED_LOG_LOSS, METRIC_DELAYED_AUC, METRIC_DELAYED_GAUC, METRIC_DELAYED_CALIBRATION,   /* the same */
    METRIC_LOSS,                /* loss{part} */
    METRIC_ROWS, METRIC_ADMITTED, METRIC_EVICTED,           /* embedding_*{table} */
    METRIC_NONFINITE,
    METRIC_SNAPSHOT_SECONDS, METRIC_SNAPSHOT_STALL,         /* histograms */
    METRIC_SNAPSHOT_SUCCESS, METRIC_SNAPSHOT_BYTES,         /* ..._last_success_timestamp_seconds; bytes of the last */
    METRIC_SNAPSHOT_CHANGED, METRIC_SNAPSHOT_LIVE,          /* snapshot_*_bytes */
    METRIC_SNAPSHOT_DISK, METRIC_SNAPSHOT_SEGMENTS,
    METRIC_SNAPSHOT_FAILURES,
    METRIC_SNAPSHOT_INTERVAL,   /* the setting: what alerts count in */
    METRIC_DISK_FREE,           /* disk_free_bytes{directory}: snapshot, checkpoint */
    METRIC_PUBLISH, METRIC_PUBLISHED_VERSION,               /* publish_total{result} */
    METRIC_PUBLISH_SUCCESS, METRIC_PUBLISH_INTERVAL,        /* ..._last_success_timestamp_seconds; the setting */
    METRIC_PUBLISH_HELD, METRIC_ROLLBACKS,                  /* rollbacks_total{cause} */
    METRIC_DELTAS, METRIC_DELTA_BYTES, METRIC_DELTA_ROWS,   /* delta_total{result}; of the newest */
    METRIC_DELTA_SECONDS,       /* delta_seconds (histogram) */
    METRIC_DELTAS_APPLIED,      /* delta_applied_total{result}: coldstream-serve's, as the next three */
    METRIC_DELTAS_WAITING, METRIC_DELTAS_ROWS, METRIC_DELTAS_LAG,
    METRIC_SWAPS,               /* swaps_total{result} */
    METRIC_SERVING_VERSION, METRIC_FRESHNESS,               /* freshness_seconds (histogram) */
    METRIC_RELOADS,             /* config_reloads_total{result} */
    METRIC_DEAD_LETTERS,        /* dead_letters_total{topic,reason} */
    METRIC_DEAD_LETTERS_KEPT,
    METRIC_REQUESTS,            /* coldstream-serve: requests_total{code} */
    METRIC_REQUEST_SECONDS, METRIC_SCORES,                  /* histogram; scores_total */
    METRIC_IN_FLIGHT, METRIC_CONNECTIONS, METRIC_CONNECTIONS_CUT,       /* connections_cut_total{reason} */
    METRIC_NAMED_VERSIONS,      /* named_version_requests_total{result} */
    METRIC_SHADOW_VERSION, METRIC_SHADOW_REQUESTS,          /* shadow_requests_total{result} */
    METRIC_SHADOW_SCORES, METRIC_SHADOW_SUM, METRIC_SHADOW_DIFFERENCE,  /* shadow_score_sum_total{of}; histogram */
    METRIC_BUILD_INFO, METRIC_START_TIME,
    METRICS
};

struct telemetry;
struct telemetry *telemetry_create(void);
void telemetry_destroy(struct telemetry *telemetry);
/* label: as many values as the metric has labels, in the table's order; NULL where it has none. Thread-safe. */
/* Counters. Adding 0 shows one before its first event: Prometheus sees no increase from nothing to 1. */
void telemetry_add(struct telemetry *telemetry, enum telemetry_metric metric, const char *const *label, double amount);
/* Gauges, and counters kept elsewhere. */
void telemetry_set(struct telemetry *telemetry, enum telemetry_metric metric, const char *const *label, double value);
/* Histograms. */
void telemetry_observe(struct telemetry *telemetry, enum telemetry_metric metric, double seconds);
/* Shows one before its first observation, as adding 0 shows a counter. */
void telemetry_expect(struct telemetry *telemetry, enum telemetry_metric metric);
/* Label values inline: TELEMETRY_LABELS("impressions", "ok") */
#define TELEMETRY_LABELS(...) ((const char *const[]){ __VA_ARGS__ })
/* NaN: never set. */
double telemetry_get(struct telemetry *telemetry, enum telemetry_metric metric, const char *const *label);
/* Prometheus text 0.0.4, with the process metrics; malloc'd. Metrics never set are left out. */
char *telemetry_text(struct telemetry *telemetry);

#endif
