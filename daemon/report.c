/* Figures of steps and validations, under the names of telemetry_table.c. */
#include "daemon/report.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/decode.h"
#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/log.h"

enum {
    SMALL = 8,              /* examples: batch normalisation learns badly from fewer, and from one nothing */
    SMALL_MANY = 100,       /* such batches in a row are worth a warning */
    MINUTE = 60000,
};

void report_step(struct telemetry *telemetry, const struct batch *batch, const struct learner_losses *losses,
                 double seconds)
{
    size_t new_users = 0;
    for (size_t i = 0; i < batch->size; i++) new_users += batch->is_new[i];
    telemetry_observe(telemetry, METRIC_STEP_SECONDS, seconds);
    telemetry_add(telemetry, METRIC_STEPS, NULL, 1);
    telemetry_add(telemetry, METRIC_EXAMPLES, TELEMETRY_LABELS("all"), (double)batch->size);
    telemetry_add(telemetry, METRIC_EXAMPLES, TELEMETRY_LABELS("new"), (double)new_users);
    telemetry_add(telemetry, METRIC_EXAMPLES, TELEMETRY_LABELS("old"), (double)(batch->size - new_users));
    telemetry_set(telemetry, METRIC_LOSS, TELEMETRY_LABELS("ranking"), losses->ranking);
    telemetry_set(telemetry, METRIC_LOSS, TELEMETRY_LABELS("reconstruct_user"), losses->reconstruct_user);
    telemetry_set(telemetry, METRIC_LOSS, TELEMETRY_LABELS("reconstruct_behavior"), losses->reconstruct_behavior);
    telemetry_set(telemetry, METRIC_LOSS, TELEMETRY_LABELS("mmd"), losses->mmd);
    telemetry_add(telemetry, METRIC_NONFINITE, NULL, losses->skipped);
}

const struct pipeline_state_name pipeline_state_name[PIPELINE_STATES] = {
    [STATE_WAITING] = { "waiting", "waiting for brokers" },
    [STATE_RUNNING] = { "running", "running" },
    [STATE_PAUSED] = { "paused", "paused" },
    [STATE_HELD] = { "held", "held" },
    [STATE_STOPPING] = { "stopping", "stopping" },
};

void report_state(struct telemetry *telemetry, enum pipeline_state state, bool connected)
{
    for (int i = 0; i < PIPELINE_STATES; i++)
        telemetry_set(telemetry, METRIC_STATE, &pipeline_state_name[i].label, i == (int)state);
    telemetry_set(telemetry, METRIC_CONNECTED, NULL, connected);
    telemetry_add(telemetry, METRIC_STEPS, NULL, 0);        /* an alert must see also that there was never one */
    telemetry_add(telemetry, METRIC_NONFINITE, NULL, 0);
    for (int users = 0; users < USERS_GROUPS; users++)
        telemetry_add(telemetry, METRIC_EXAMPLES, TELEMETRY_LABELS(metrics_users_name[users]), 0);
    telemetry_expect(telemetry, METRIC_STEP_SECONDS);
}

void report_topic(struct telemetry *telemetry, const char *topic)
{
    for (int result = 0; result < DECODE_RESULTS; result++) {
        const char *name = decode_result_name[result];
        telemetry_add(telemetry, METRIC_EVENTS, TELEMETRY_LABELS(topic, name), 0);
        if (result != DECODE_OK && result != DECODE_EMPTY)
            telemetry_add(telemetry, METRIC_DEAD_LETTERS, TELEMETRY_LABELS(topic, name), 0);
    }
}

void report_partition(struct telemetry *telemetry, const struct kafka_partition *partition, int64_t next,
                      const uint64_t counted[DECODE_RESULTS])
{
    const char *topic = kafka_partition_topic(partition);
    for (int result = 0; result < DECODE_RESULTS; result++)
        if (counted[result])
            telemetry_add(telemetry, METRIC_EVENTS, TELEMETRY_LABELS(topic, decode_result_name[result]),
                          (double)counted[result]);
    int64_t end = kafka_partition_end(partition);
    char number[16];
    snprintf(number, sizeof number, "%d", (int)kafka_partition_number(partition));
    if (end >= 0)
        telemetry_set(telemetry, METRIC_CONSUMER_LAG, TELEMETRY_LABELS(topic, number),
                      (double)(end - kafka_partition_commit_offset(partition, next)));
    telemetry_set(telemetry, METRIC_TRANSACTION_HELD, TELEMETRY_LABELS(topic, number),
                  (double)kafka_partition_held(partition));
}

void report_join(struct telemetry *telemetry, const struct join_counts *join, struct join_held undecided,
                 size_t pending, int64_t clock)
{
    for (int result = 0; result < JOIN_RESULTS; result++)
        telemetry_set(telemetry, METRIC_JOIN, TELEMETRY_LABELS(join_result_name[result]), (double)join->result[result]);
    telemetry_set(telemetry, METRIC_JOIN_EVENTS, TELEMETRY_LABELS("impression"), (double)join->impressions);
    telemetry_set(telemetry, METRIC_JOIN_EVENTS, TELEMETRY_LABELS("click"), (double)join->clicks);
    telemetry_set(telemetry, METRIC_JOIN_EVENTS, TELEMETRY_LABELS("conversion"), (double)join->conversions);
    telemetry_set(telemetry, METRIC_JOIN_UNDECIDED, TELEMETRY_LABELS("impression"), (double)undecided.impressions);
    telemetry_set(telemetry, METRIC_JOIN_UNDECIDED, TELEMETRY_LABELS("click"), (double)undecided.clicks);
    telemetry_set(telemetry, METRIC_JOIN_FORCED, NULL, (double)join->forced);
    telemetry_set(telemetry, METRIC_JOIN_PENDING, NULL, (double)pending);
    if (clock != INT64_MIN) telemetry_set(telemetry, METRIC_EVENT_LAG, NULL, (double)(clock_wall() - clock) / 1000);
}

void report_full(struct letters *letters, char *text, size_t size)
{
    struct letters_view view = letters_view(letters);
    snprintf(text, size,
             "%llu dead letters (%zu MiB) are not taken by the brokers (%s): nothing is read until they are",
             (unsigned long long)view.count, view.bytes >> 20, *view.why ? view.why : "no answer yet");
}

void report_small_batch(struct small_batches *batches, size_t size)
{
    batches->in_a_row = size < SMALL ? batches->in_a_row + 1 : 0;
    int64_t now = clock_monotonic();
    if (batches->in_a_row < SMALL_MANY || (batches->warned && now - batches->warned < MINUTE)) return;
    batches->warned = now;
    log_warning("batches are too small for batch normalisation: raise batch.max_delay, so that tens of examples come "
                "in it",
                LOG_U("examples", size), LOG_U("batches_in_a_row", batches->in_a_row));
}

void report_accounts(struct join_counts counts, struct join_held held)
{
    if (join_counts_add_up(&counts, &held)) return;
    log_error("the join's counts do not add up to what came in: a defect; keep this snapshot and report it",
              LOG_U("impressions", counts.impressions), LOG_U("clicks", counts.clicks),
              LOG_U("matched", counts.result[JOIN_MATCHED]), LOG_U("expired", counts.result[JOIN_EXPIRED]),
              LOG_U("late", counts.result[JOIN_LATE]), LOG_U("duplicate", counts.result[JOIN_DUPLICATE]),
              LOG_U("duplicate_impressions", counts.duplicate_impressions),
              LOG_U("orphan", counts.result[JOIN_ORPHAN]), LOG_U("undecided_impressions", held.impressions),
              LOG_U("undecided_clicks", held.clicks));
}

struct table_view *report_tables(struct telemetry *telemetry, struct learner *learner, size_t count)
{
    struct table_view *table = need(calloc(count + 1, sizeof *table));
    for (size_t i = 0; i < count; i++) {
        const struct embedding_table *from = learner_table(learner, i);
        table[i] = (struct table_view){ embedding_name(from), embedding_rows(from), embedding_admitted(from),
                                        embedding_evicted(from), embedding_bytes(from) };
        telemetry_set(telemetry, METRIC_ROWS, &table[i].name, (double)table[i].rows);
        telemetry_set(telemetry, METRIC_ADMITTED, &table[i].name, (double)table[i].admitted);
        telemetry_set(telemetry, METRIC_EVICTED, &table[i].name, (double)table[i].evicted);
    }
    return table;
}

void report_validation(struct telemetry *telemetry, enum validation validation, const struct metrics *metrics,
                       struct metrics_report report[USERS_GROUPS][SPANS])
{
    static const struct { enum telemetry_metric log_loss, auc, gauc, calibration; } metric[] = {
        [VALIDATION_PROGRESSIVE] = { METRIC_LOG_LOSS, METRIC_AUC, METRIC_GAUC, METRIC_CALIBRATION },
        [VALIDATION_DELAYED] = { METRIC_DELAYED_LOG_LOSS, METRIC_DELAYED_AUC, METRIC_DELAYED_GAUC,
                                 METRIC_DELAYED_CALIBRATION },
    };
    for (int users = 0; users < USERS_GROUPS; users++)
        for (int span = 0; span < SPANS; span++) {
            struct metrics_report one = report[users][span] = metrics_report(metrics, users, span);
            const char *const *label = TELEMETRY_LABELS(metrics_users_name[users], metrics_span_name[span]);
            telemetry_set(telemetry, metric[validation].log_loss, label, one.log_loss);
            telemetry_set(telemetry, metric[validation].auc, label, one.auc);
            telemetry_set(telemetry, metric[validation].gauc, label, one.gauc);
            telemetry_set(telemetry, metric[validation].calibration, label, one.calibration);
        }
}
