/* The table of metrics. Names are interfaces.md's, section 5. */
#include "daemon/telemetry_table.h"

/* Where the values of each kind of time lie, so that a quantile is off by no more than the next bound. */
static const struct telemetry_buckets step_time = {
    14, { 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10 }
};
static const struct telemetry_buckets request_time = {
    14, { 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5 }
};
static const struct telemetry_buckets stall_time = {
    13, { 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1 }
};
static const struct telemetry_buckets snapshot_time = {
    15, { 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600 }
};
static const struct telemetry_buckets delta_time = {
    12, { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30 }
};
static const struct telemetry_buckets age = {
    16, { 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600 }
};
static const struct telemetry_buckets distance = { 8, { 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3 } };

#define COUNTER(metric, text, words, ...)                                                                              \
    [metric] = { .name = text, .kind = KIND_COUNTER, .label = { __VA_ARGS__ __VA_OPT__(, ) NULL }, .help = words }
#define GAUGE(metric, text, words, ...)                                                                                \
    [metric] = { .name = text, .kind = KIND_GAUGE, .label = { __VA_ARGS__ __VA_OPT__(, ) NULL }, .help = words }
#define HISTOGRAM(metric, text, bounds, words)                                                                         \
    [metric] = { .name = text, .kind = KIND_HISTOGRAM, .label = { NULL }, .help = words, .buckets = &(bounds) }

const struct telemetry_row telemetry_table[METRICS] = {
    COUNTER(METRIC_EVENTS, "events_total", "Records read, by topic and by what became of them.", "topic", "result"),
    GAUGE(METRIC_STATE, "state",
          "1 for what reading is: waiting (for brokers or topics), running, paused, held (snapshots fail), standby, "
          "stopping.",
          "state"),
    GAUGE(METRIC_CONNECTED, "kafka_connected", "1 where the brokers answer."),
    GAUGE(METRIC_EVENT_LAG, "event_lag_seconds", "Wall clock less the event time of the newest event joined."),
    GAUGE(METRIC_CONSUMER_LAG, "consumer_lag", "Records between the next offset to be read and the partition's end.",
          "topic", "partition"),
    GAUGE(METRIC_TRANSACTION_HELD, "transaction_held_records",
          "Offsets behind an open transaction, which can't be read while the last stable offset stands still.", "topic",
          "partition"),
    COUNTER(METRIC_JOIN_FORCED, "join_forced_total",
            "Impressions and early clicks that left before their time, as join.max_pending were held."),
    GAUGE(METRIC_JOIN_PENDING, "join_pending", "Impressions and early clicks that the joiner holds."),
    COUNTER(METRIC_JOIN, "join_total", "Outcomes of the join: matched, expired, late, duplicate, orphan.", "result"),
    COUNTER(METRIC_JOIN_EVENTS, "join_events_total", "Events that came to the join: impression, click, conversion.",
            "kind"),
    GAUGE(METRIC_JOIN_UNDECIDED, "join_undecided",
          "Impressions and clicks without an outcome yet: with 2 matched + the other outcomes, all that came.", "kind"),
    COUNTER(METRIC_EXAMPLES, "examples_total", "Examples learned.", "users"),
    COUNTER(METRIC_STEPS, "steps_total", "Batches learned."),
    HISTOGRAM(METRIC_STEP_SECONDS, "step_seconds", step_time, "Time of a step: scoring and learning one batch."),
    GAUGE(METRIC_LOG_LOSS, "progressive_logloss", "Log loss of scores given before their examples were learned.",
          "users", "window"),
    GAUGE(METRIC_AUC, "progressive_auc", "AUC of scores given before their examples were learned.", "users", "window"),
    GAUGE(METRIC_GAUC, "progressive_gauc", "AUC within each user, weighted by the user's impressions.", "users",
          "window"),
    GAUGE(METRIC_CALIBRATION, "calibration_ratio", "Sum of scores over the number of clicks; 1 is right.", "users",
          "window"),
    GAUGE(METRIC_DELAYED_LOG_LOSS, "delayed_logloss", "Log loss of scores given when the impressions were shown.",
          "users", "window"),
    GAUGE(METRIC_DELAYED_AUC, "delayed_auc", "AUC of scores given when the impressions were shown.", "users", "window"),
    GAUGE(METRIC_DELAYED_GAUC, "delayed_gauc", "The same within each user, weighted by the user's impressions.",
          "users", "window"),
    GAUGE(METRIC_DELAYED_CALIBRATION, "delayed_calibration_ratio",
          "Sum of scores given when the impressions were shown over the number of clicks.", "users", "window"),
    GAUGE(METRIC_LOSS, "loss", "Loss of the last step, by part.", "part"),
    GAUGE(METRIC_ROWS, "embedding_rows", "Rows in an embedding table.", "table"),
    COUNTER(METRIC_ADMITTED, "embedding_admitted_total", "Rows made.", "table"),
    COUNTER(METRIC_EVICTED, "embedding_evicted_total", "Rows that expired or were pushed out.", "table"),
    COUNTER(METRIC_NONFINITE, "nonfinite_skipped_total", "Updates skipped because a gradient was not finite."),
    HISTOGRAM(METRIC_SNAPSHOT_SECONDS, "snapshot_seconds", snapshot_time,
              "Time from asking for a snapshot to its commit."),
    HISTOGRAM(METRIC_SNAPSHOT_STALL, "snapshot_stall_seconds", stall_time,
              "Each time that a snapshot held up learning."),
    GAUGE(METRIC_SNAPSHOT_SUCCESS, "snapshot_last_success_timestamp_seconds", "When the last snapshot was committed."),
    GAUGE(METRIC_SNAPSHOT_BYTES, "snapshot_bytes", "Bytes that the last snapshot wrote."),
    GAUGE(METRIC_SNAPSHOT_CHANGED, "snapshot_changed_bytes", "Bytes of state that had changed for the last snapshot."),
    GAUGE(METRIC_SNAPSHOT_LIVE, "snapshot_live_bytes", "Bytes of state that the last snapshot stands for."),
    GAUGE(METRIC_SNAPSHOT_DISK, "snapshot_disk_bytes", "Bytes that the snapshot's directory takes on the disk."),
    GAUGE(METRIC_SNAPSHOT_SEGMENTS, "snapshot_segments", "Files that the state lies in."),
    COUNTER(METRIC_SNAPSHOT_FAILURES, "snapshot_failures_total", "Snapshots that failed."),
    GAUGE(METRIC_SNAPSHOT_INTERVAL, "snapshot_interval_seconds", "The setting snapshot.interval."),
    GAUGE(METRIC_DISK_FREE, "disk_free_bytes", "Bytes that may still be written where the directory is.", "directory"),
    COUNTER(METRIC_PUBLISH, "publish_total", "Versions made: ok, refused by the gate, or failed.", "result"),
    GAUGE(METRIC_PUBLISHED_VERSION, "published_version", "The version that is current."),
    GAUGE(METRIC_PUBLISH_SUCCESS, "publish_last_success_timestamp_seconds",
          "When this program last published a version."),
    GAUGE(METRIC_PUBLISH_INTERVAL, "checkpoint_interval_seconds", "The setting checkpoint.interval."),
    GAUGE(METRIC_PUBLISH_HELD, "publish_held", "1 where nothing is published since a rollback, until resume."),
    COUNTER(METRIC_ROLLBACKS, "rollbacks_total", "Rollbacks: by an operator, or automatic.", "cause"),
    COUNTER(METRIC_DELTAS, "delta_total", "Deltas sent, or failed and owed to the next one.", "result"),
    GAUGE(METRIC_DELTA_BYTES, "delta_bytes", "Bytes of the newest delta that was acknowledged."),
    GAUGE(METRIC_DELTA_ROWS, "delta_rows", "Rows in it, those that went too."),
    COUNTER(METRIC_DELTAS_APPLIED, "delta_applied_total", "Deltas, or records of them, by what became of them here.",
            "result"),
    GAUGE(METRIC_DELTAS_WAITING, "delta_waiting", "Deltas that wait for a full checkpoint."),
    GAUGE(METRIC_DELTAS_ROWS, "delta_overlay_rows", "Rows that lie over the checkpoint served."),
    GAUGE(METRIC_DELTAS_LAG, "delta_lag", "Records of the delta topic that are not read yet."),
    HISTOGRAM(METRIC_DELTA_SECONDS, "delta_seconds", delta_time, "Time from a delta's cut to its acknowledgement."),
    GAUGE(METRIC_SERVING_VERSION, "serving_version", "The version that scores; 0: none yet."),
    COUNTER(METRIC_SWAPS, "swaps_total", "Versions that came to serve: ok, or refused.", "result"),
    HISTOGRAM(METRIC_FRESHNESS, "freshness_seconds", age,
              "Age of events in a version when readers can have it: with deltas, from an example's release (with "
              "join.release: click, from the click) to the delta's acknowledgement, sampled; else of a checkpoint's "
              "newest."),
    COUNTER(METRIC_RELOADS, "config_reloads_total", "Reloads of the configuration: ok, or failed as they were refused.",
            "result"),
    COUNTER(METRIC_DEAD_LETTERS, "dead_letters_total", "Records sent to the dead letters.", "topic", "reason"),
    GAUGE(METRIC_DEAD_LETTERS_KEPT, "dead_letters_kept",
          "Dead letters that the brokers refuse: kept, and tried again."),
    COUNTER(METRIC_REQUESTS, "requests_total", "Requests answered, by HTTP status.", "code"),
    HISTOGRAM(METRIC_REQUEST_SECONDS, "request_seconds", request_time, "Time to answer a request."),
    COUNTER(METRIC_SCORES, "scores_total", "Scores given."),
    GAUGE(METRIC_IN_FLIGHT, "requests_in_flight", "Requests whose head has come and whose answer has not left."),
    GAUGE(METRIC_CONNECTIONS, "http_connections", "Connections open."),
    COUNTER(METRIC_CONNECTIONS_CUT, "http_connections_cut_total",
            "Connections ended: late (too slow), displaced (made room for another), refused (all were worked for).",
            "reason"),
    COUNTER(METRIC_NAMED_VERSIONS, "named_version_requests_total",
            "Requests that named a version: it was current, kept, or unknown.", "result"),
    GAUGE(METRIC_SHADOW_VERSION, "shadow_version", "The version that scores along without answering."),
    COUNTER(METRIC_SHADOW_REQUESTS, "shadow_requests_total",
            "Requests that the shadow version was to score: compared, failed, or left_out as it could not keep up.",
            "result"),
    COUNTER(METRIC_SHADOW_SCORES, "shadow_scores_total", "Scores compared."),
    COUNTER(METRIC_SHADOW_SUM, "shadow_score_sum_total", "Sum of the scores compared, of what was served or shadow.",
            "of"),
    HISTOGRAM(METRIC_SHADOW_DIFFERENCE, "shadow_score_difference", distance,
              "Distance between the score served and the shadow version's."),
    GAUGE(METRIC_BUILD_INFO, "build_info", "1, with what this program was built from.", "version", "commit"),
    GAUGE(METRIC_START_TIME, "process_start_time_seconds", "When the program started."),
};
