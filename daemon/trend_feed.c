/* Counters become rates here: over the last two looks, since the threads' own words are up to a second old. */
#include "daemon/trend_feed.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/clock.h"

enum { LOOK = 5000, RATES = TREND_DELTAS + 1, LOOKS = 2 };

struct counts { int64_t time; double of[RATES]; };      /* monotonic ms; time 0: none */

struct trend_feed {
    struct trend_feed_options with;
    int64_t next;                       /* monotonic ms */
    struct counts before[LOOKS];        /* [0] is the older */
    bool began;                         /* what the publisher said before is in `publisher` */
    struct publisher_view publisher;
    bool out;                           /* an outage lasts */
};

struct trend_feed *trend_feed_create(const struct trend_feed_options *options)
{
    struct trend_feed *feed = calloc(1, sizeof *feed);
    if (feed) feed->with = *options;
    return feed;
}

void trend_feed_destroy(struct trend_feed *feed)
{
    free(feed);
}

static void rates(struct trend_feed *feed, const struct counts *now, struct trend_sample *sample)
{
    const struct counts *then = feed->before[0].time ? &feed->before[0] : &feed->before[1];
    double seconds = (double)(now->time - then->time) / 1000;
    for (size_t i = 0; i < RATES; i++)
        sample->value[i] = then->time && seconds > 0 ? (now->of[i] - then->of[i]) / seconds : NAN;
    feed->before[0] = feed->before[1];
    feed->before[1] = *now;
}

/* With deltas, how old what was learned is when readers have it; else how far the version is behind the event clock. */
static double freshness(const struct pipeline_view *view, const struct publisher_view *publisher,
                        const struct deltas_view *deltas)
{
    if (deltas) return deltas->sent ? deltas->freshness : NAN;
    if (!publisher->publish_watermark || view->clock == INT64_MIN) return NAN;
    return (double)(clock_wall() - publisher->publish_watermark) / 1000;
}

static void take_numbers(struct trend_feed *feed, const struct pipeline_view *view,
                         const struct publisher_view *publisher, struct trend_sample *sample)
{
    struct deltas *sends = pipeline_deltas(feed->with.pipeline);
    struct deltas_view deltas = sends ? deltas_view(sends) : (struct deltas_view){ 0 };

    struct counts now = { .time = clock_monotonic() };
    for (int i = 0; i < DECODE_RESULTS; i++)
        if (i != DECODE_EMPTY) now.of[i == DECODE_OK ? TREND_EVENTS : TREND_REJECTED] += (double)view->events[i];
    now.of[TREND_EXAMPLES] = (double)view->report[USERS_ALL][SPAN_START].examples;
    now.of[TREND_NEW_EXAMPLES] = (double)view->report[USERS_NEW][SPAN_START].examples;
    now.of[TREND_MATCHED] = (double)view->join.result[JOIN_MATCHED];
    now.of[TREND_EXPIRED] = (double)view->join.result[JOIN_EXPIRED];
    now.of[TREND_LATE] = (double)view->join.result[JOIN_LATE];
    now.of[TREND_DUPLICATE] = (double)view->join.result[JOIN_DUPLICATE];
    now.of[TREND_ORPHAN] = (double)view->join.result[JOIN_ORPHAN];
    now.of[TREND_DELTAS] = (double)deltas.sent;
    rates(feed, &now, sample);
    if (!sends) sample->value[TREND_DELTAS] = NAN;

    int64_t lag = pipeline_view_lag(view);
    sample->value[TREND_CONSUMER_LAG] = lag < 0 ? NAN : (double)lag;
    sample->value[TREND_PENDING] = (double)view->pending;
    sample->value[TREND_EVENT_LAG] = view->clock == INT64_MIN ? NAN : (double)(clock_wall() - view->clock) / 1000;
    sample->value[TREND_FRESHNESS] = freshness(view, publisher, sends ? &deltas : NULL);
    for (int users = 0; users < USERS_GROUPS; users++) {
        sample->value[TREND_AUC_ALL + users] = view->report[users][SPAN_WINDOW].auc;
        sample->value[TREND_LOG_LOSS_ALL + users] = view->report[users][SPAN_WINDOW].log_loss;
    }
    bool learned = view->steps > 0;
    sample->value[TREND_LOSS_RANKING] = learned ? view->losses.ranking : NAN;
    sample->value[TREND_LOSS_RECONSTRUCT_USER] = learned ? view->losses.reconstruct_user : NAN;
    sample->value[TREND_LOSS_RECONSTRUCT_BEHAVIOR] = learned ? view->losses.reconstruct_behavior : NAN;
    sample->value[TREND_LOSS_MMD] = learned ? view->losses.mmd : NAN;
}

static void take_snapshots(struct trend_feed *feed, const struct publisher_view *now)
{
    const struct publisher_view *then = &feed->publisher;
    struct trend_happening happening = { .freshness = NAN, .seconds = NAN, .stall = NAN };
    if (now->failures > then->failures) {
        happening.time = clock_wall();
        snprintf(happening.text, sizeof happening.text, "%s", now->snapshot_error);
        trend_happened(feed->with.trend, TREND_SNAPSHOTS, &happening);
    }
    if (now->snapshots == then->snapshots) return;
    happening = (struct trend_happening){ .time = now->snapshot_time,
                                          .ok = true,
                                          .number = now->stats.cut,
                                          .seconds = now->snapshot_seconds,
                                          .stall = now->stall_seconds,
                                          .freshness = NAN,
                                          .bytes = now->stats.written_bytes,
                                          .changed = now->stats.changed_bytes };
    trend_happened(feed->with.trend, TREND_SNAPSHOTS, &happening);
}

static void take_versions(struct trend_feed *feed, const struct publisher_view *now)
{
    const struct publisher_view *then = &feed->publisher;
    struct trend_happening none = { .time = clock_wall(), .freshness = NAN, .seconds = NAN, .stall = NAN }, one;
    if (now->publish_failures > then->publish_failures) {
        one = none;
        snprintf(one.text, sizeof one.text, "failed: %s", now->publish_error);
        trend_happened(feed->with.trend, TREND_VERSIONS, &one);
    }
    if (now->refused > then->refused) {
        one = none;
        one.time = now->refused_time;
        one.number = now->refused_version;
        snprintf(one.text, sizeof one.text, "refused by the gate: %.370s", now->refusal);
        trend_happened(feed->with.trend, TREND_VERSIONS, &one);
    }
    if (now->published > then->published) {
        one = none;
        one.ok = true;
        one.time = now->publish_time;
        one.number = now->version;
        one.seconds = now->publish_seconds;
        one.freshness = now->freshness_seconds;
        trend_happened(feed->with.trend, TREND_VERSIONS, &one);
    }
    if (now->held && !then->held) {
        one = none;
        one.number = now->version;
        snprintf(one.text, sizeof one.text, "%.380s", now->hold);
        trend_happened(feed->with.trend, TREND_VERSIONS, &one);
    }
}

static void take_readiness(struct trend_feed *feed, struct trend_sample *sample)
{
    char *reasons = NULL;
    int64_t now = clock_wall();
    bool ready = feed->with.ready(feed->with.self, &reasons);
    sample->value[TREND_READY] = ready;
    if (ready && feed->out) trend_ended(feed->with.trend, TREND_OUTAGES, now);
    if (!ready && !feed->out) {
        struct trend_happening happening = { .time = now, .freshness = NAN, .seconds = NAN, .stall = NAN };
        json_t *array = reasons ? json_loads(reasons, 0, NULL) : NULL, *reason;
        size_t i, used = 0;
        json_array_foreach(array, i, reason) {
            const char *text = json_string_value(reason);
            if (!text) text = json_string_value(json_object_get(reason, "reason"));
            int length = snprintf(happening.text + used, sizeof happening.text - used, "%s%s", i ? "; " : "",
                                  text ? text : "for a reason that is not text");
            used += length > 0 ? (size_t)length : 0;
            if (used >= sizeof happening.text - 1) break;
        }
        json_decref(array);
        trend_happened(feed->with.trend, TREND_OUTAGES, &happening);
    }
    feed->out = !ready;
    free(reasons);
}

void trend_feed_look(struct trend_feed *feed)
{
    int64_t now = clock_monotonic();
    if (!feed || now < feed->next) return;
    feed->next = now + LOOK;
    struct trend_sample sample;
    for (size_t i = 0; i < TREND_FIELDS; i++) sample.value[i] = NAN;
    struct pipeline_view view = pipeline_view(feed->with.pipeline);
    struct publisher_view publisher = publisher_view(feed->with.publisher);
    take_numbers(feed, &view, &publisher, &sample);
    take_readiness(feed, &sample);
    if (!feed->began) {                 /* a held publication is news even where it was so from the start */
        feed->publisher = publisher;
        feed->publisher.held = false;
        feed->publisher.snapshots = feed->publisher.published = 0;
    }
    take_snapshots(feed, &publisher);
    take_versions(feed, &publisher);
    feed->publisher = publisher;
    feed->began = true;
    trend_add(feed->with.trend, clock_wall(), &sample);
    pipeline_view_release(&view);
}
