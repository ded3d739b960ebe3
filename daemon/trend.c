/* Rings of points, one for each span, and of happenings, one for each kind. */
#include "daemon/trend.h"

#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"
#include "daemon/metrics_json.h"
#include "daemon/text.h"

enum { POINTS = 720, SPANS_KEPT = 4 };
enum fold { FOLD_MEAN, FOLD_LARGEST };

static const struct { const char *name; enum fold fold; } field[TREND_FIELDS] = {
    [TREND_EVENTS] = { "events_per_second", FOLD_MEAN },
    [TREND_REJECTED] = { "rejected_per_second", FOLD_MEAN },
    [TREND_EXAMPLES] = { "examples_per_second", FOLD_MEAN },
    [TREND_NEW_EXAMPLES] = { "new_examples_per_second", FOLD_MEAN },
    [TREND_MATCHED] = { "matched_per_second", FOLD_MEAN },
    [TREND_EXPIRED] = { "expired_per_second", FOLD_MEAN },
    [TREND_LATE] = { "late_per_second", FOLD_MEAN },
    [TREND_DUPLICATE] = { "duplicate_per_second", FOLD_MEAN },
    [TREND_ORPHAN] = { "orphan_per_second", FOLD_MEAN },
    [TREND_DELTAS] = { "deltas_per_second", FOLD_MEAN },
    [TREND_CONSUMER_LAG] = { "consumer_lag", FOLD_LARGEST },
    [TREND_PENDING] = { "join_pending", FOLD_LARGEST },
    [TREND_EVENT_LAG] = { "event_lag_seconds", FOLD_LARGEST },
    [TREND_FRESHNESS] = { "freshness_seconds", FOLD_LARGEST },
    [TREND_AUC_ALL] = { "auc_all", FOLD_MEAN },
    [TREND_AUC_NEW] = { "auc_new", FOLD_MEAN },
    [TREND_AUC_OLD] = { "auc_old", FOLD_MEAN },
    [TREND_LOG_LOSS_ALL] = { "log_loss_all", FOLD_MEAN },
    [TREND_LOG_LOSS_NEW] = { "log_loss_new", FOLD_MEAN },
    [TREND_LOG_LOSS_OLD] = { "log_loss_old", FOLD_MEAN },
    [TREND_LOSS_RANKING] = { "loss_ranking", FOLD_MEAN },
    [TREND_LOSS_RECONSTRUCT_USER] = { "loss_reconstruct_user", FOLD_MEAN },
    [TREND_LOSS_RECONSTRUCT_BEHAVIOR] = { "loss_reconstruct_behavior", FOLD_MEAN },
    [TREND_LOSS_MMD] = { "loss_mmd", FOLD_MEAN },
    [TREND_READY] = { "ready", FOLD_MEAN },
};

static const struct { const char *name; int64_t step; } span_of[SPANS_KEPT] = {     /* ms */
    { "1h", 5000 }, { "6h", 30000 }, { "24h", 120000 }, { "7d", 840000 },
};
const char trend_spans[] = "1h, 6h, 24h, 7d";
static const char *const kind_name[TREND_KINDS] = { "snapshots", "versions", "outages" };

struct point { int64_t time; float value[TREND_FIELDS]; };

struct span {
    struct point point[POINTS];                 /* the closed ones; `next` is written next */
    size_t next, count;
    int64_t time;                               /* of the open one; INT64_MIN: there is none */
    double folded[TREND_FIELDS];                /* sum, or the largest */
    unsigned known[TREND_FIELDS];
};

struct trend {
    pthread_mutex_t lock;
    struct span span[SPANS_KEPT];
    struct trend_happening happening[TREND_KINDS][TREND_HAPPENINGS];
    size_t happened[TREND_KINDS];               /* so many ever; the newest are kept */
};

struct trend *trend_create(void)
{
    struct trend *trend = calloc(1, sizeof *trend);
    if (!trend) return NULL;
    pthread_mutex_init(&trend->lock, NULL);
    for (size_t i = 0; i < SPANS_KEPT; i++) trend->span[i].time = INT64_MIN;
    return trend;
}

void trend_destroy(struct trend *trend)
{
    if (!trend) return;
    pthread_mutex_destroy(&trend->lock);
    free(trend);
}

/* ---- points */

static struct point fold(const struct span *span)
{
    struct point point = { .time = span->time };
    for (size_t i = 0; i < TREND_FIELDS; i++)
        point.value[i] = !span->known[i] ? NAN
                         : field[i].fold == FOLD_MEAN ? (float)(span->folded[i] / span->known[i])
                                                      : (float)span->folded[i];
    return point;
}

static void close_step(struct span *span)
{
    if (span->time == INT64_MIN) return;
    span->point[span->next] = fold(span);
    span->next = (span->next + 1) % POINTS;
    if (span->count < POINTS) span->count++;
}

static void add(struct span *span, int64_t step, int64_t now, const struct trend_sample *sample)
{
    int64_t time = now / step * step;
    if (time < span->time) return;
    if (time > span->time) {
        close_step(span);
        span->time = time;
        memset(span->folded, 0, sizeof span->folded);
        memset(span->known, 0, sizeof span->known);
    }
    for (size_t i = 0; i < TREND_FIELDS; i++) {
        double value = sample->value[i];
        if (!isfinite(value)) continue;
        if (field[i].fold == FOLD_MEAN) span->folded[i] += value;
        else if (!span->known[i] || value > span->folded[i]) span->folded[i] = value;
        span->known[i]++;
    }
}

void trend_add(struct trend *trend, int64_t now, const struct trend_sample *sample)
{
    pthread_mutex_lock(&trend->lock);
    for (size_t i = 0; i < SPANS_KEPT; i++) add(&trend->span[i], span_of[i].step, now, sample);
    pthread_mutex_unlock(&trend->lock);
}

/* ---- happenings */

void trend_happened(struct trend *trend, enum trend_kind kind, const struct trend_happening *happening)
{
    pthread_mutex_lock(&trend->lock);
    trend->happening[kind][trend->happened[kind]++ % TREND_HAPPENINGS] = *happening;
    pthread_mutex_unlock(&trend->lock);
}

void trend_ended(struct trend *trend, enum trend_kind kind, int64_t now)
{
    pthread_mutex_lock(&trend->lock);
    if (trend->happened[kind]) trend->happening[kind][(trend->happened[kind] - 1) % TREND_HAPPENINGS].until = now;
    pthread_mutex_unlock(&trend->lock);
}

static json_t *happening_json(const struct trend_happening *one)
{
    return json_pack("{s:I, s:o, s:b, s:o, s:o, s:o, s:o, s:I, s:I, s:o}", "time", (json_int_t)one->time, "until",
                     one->until ? json_integer((json_int_t)one->until) : json_null(), "ok", one->ok, "number",
                     one->number ? json_integer((json_int_t)one->number) : json_null(), "seconds",
                     number_json(one->seconds), "stall_seconds", number_json(one->stall), "freshness_seconds",
                     number_json(one->freshness), "bytes", (json_int_t)one->bytes, "changed_bytes",
                     (json_int_t)one->changed, "text", text_json(one->text));
}

/* Newest first. */
static void write_happenings(FILE *out, const struct trend *trend)
{
    for (int kind = 0; kind < TREND_KINDS; kind++) {
        json_t *array = json_array();
        size_t ever = trend->happened[kind], kept = ever < TREND_HAPPENINGS ? ever : TREND_HAPPENINGS;
        for (size_t i = 1; i <= kept; i++)
            json_array_append_new(array, happening_json(&trend->happening[kind][(ever - i) % TREND_HAPPENINGS]));
        fprintf(out, ",\"%s\":", kind_name[kind]);
        json_dumpf(array, out, JSON_COMPACT);
        json_decref(array);
    }
}

/* ---- the text */

/* The closed points by age, then the open one. */
static struct point point_at(const struct span *span, size_t i)
{
    return i < span->count ? span->point[(span->next + POINTS - span->count + i) % POINTS] : fold(span);
}

static void write_points(FILE *out, const struct span *span, int64_t from)
{
    size_t end = span->count + (span->time != INT64_MIN), first = 0;
    while (first < end && point_at(span, first).time < from) first++;
    fputs(",\"time\":[", out);
    for (size_t i = first; i < end; i++)
        fprintf(out, "%s%lld", i > first ? "," : "", (long long)point_at(span, i).time);
    fputs("],\"series\":{", out);
    struct point open = { 0 };
    if (span->time != INT64_MIN) open = fold(span);
    for (size_t f = 0; f < TREND_FIELDS; f++) {
        fprintf(out, "%s\"%s\":[", f ? "," : "", field[f].name);
        for (size_t i = first; i < end; i++) {
            size_t place = (span->next + POINTS - span->count + i) % POINTS;
            float value = i < span->count ? span->point[place].value[f] : open.value[f];
            if (i > first) putc_unlocked(',', out);
            if (isfinite(value)) fprintf(out, "%.6g", (double)value);
            else fputs("null", out);
        }
        putc_unlocked(']', out);
    }
    putc_unlocked('}', out);
}

char *trend_json(struct trend *trend, const char *name, int64_t from, int64_t now)
{
    size_t which = 0, size;
    while (name && which < SPANS_KEPT && strcmp(name, span_of[which].name) != 0) which++;
    if (which == SPANS_KEPT) return NULL;
    char *text = NULL;
    FILE *out = need(open_memstream(&text, &size));
    pthread_mutex_lock(&trend->lock);
    fprintf(out, "{\"span\":\"%s\",\"step\":%lld,\"points\":%d,\"now\":%lld", span_of[which].name,
            (long long)span_of[which].step, POINTS, (long long)now);
    write_points(out, &trend->span[which], from);
    write_happenings(out, trend);
    pthread_mutex_unlock(&trend->lock);
    fputs("}\n", out);
    if (fclose(out) != 0) need(NULL);
    return text;
}
