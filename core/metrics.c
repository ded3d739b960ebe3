/* Progressive validation: a ring of the last predictions, and sums since the start. */
#include "core/metrics.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

const char *const metrics_users_name[USERS_GROUPS] = { "all", "new", "old" };
const char *const metrics_span_name[SPANS] = { "window", "start" };
const char metrics_section[] = "metrics";

enum {
    BINS = 8192, BINS_A_UNIT = 256,     /* of the logit, from -16 to 16 */
    BLOCK = 4096,                       /* observations of the ring that are saved together */
    STATE_VERSION = 1,
};

static const double PROBABILITY_MARGIN = 1e-7;

struct observation { uint64_t user; float prediction; uint8_t clicked, is_new, reserved[2]; };

/* Since the start, for new and for old users; all users are their sum. */
struct sums {
    uint64_t examples, clicks;
    double log_loss, prediction;
    uint64_t bin[2][BINS];              /* not clicked, clicked */
};

struct grouped { double sum, weight; }; /* GAUC times impressions, impressions */

struct totals {
    /* of the ring: size, filled, where the next goes, since the last boundary */
    uint64_t window, count, next, pending;
    struct grouped grouped[USERS_GROUPS];       /* of the windows that are complete */
    struct sums sums[2];                        /* old, new */
};

struct metrics {
    const char *section;
    struct totals totals;
    struct observation *ring;           /* [window] */
    bool *changed;                      /* [blocks] since the last save */
    size_t stored;                      /* blocks that the state has */
};

static size_t block_count(size_t window)
{
    return (window + BLOCK - 1) / BLOCK;
}

struct metrics *metrics_create(size_t window) { return metrics_create_named(window, metrics_section); }

struct metrics *metrics_create_named(size_t window, const char *section)
{
    assert(window > 0);
    struct metrics *metrics = calloc(1, sizeof *metrics);
    if (!metrics) return NULL;
    metrics->section = section;
    metrics->totals.window = window;
    metrics->ring = calloc(window, sizeof *metrics->ring);
    metrics->changed = calloc(block_count(window), sizeof *metrics->changed);
    if (metrics->ring && metrics->changed) return metrics;
    metrics_destroy(metrics);
    return NULL;
}

void metrics_destroy(struct metrics *metrics)
{
    if (!metrics) return;
    free(metrics->ring);
    free(metrics->changed);
    free(metrics);
}

/* Unsigned integers in the order of the predictions, the label in the lowest bit. */
static uint64_t ordered(float prediction, bool clicked)
{
    float value = prediction + 0.0f;        /* -0 and 0 are one prediction */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = bits >> 31 ? ~bits : bits | UINT32_C(1) << 31;
    return (uint64_t)bits << 1 | clicked;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Of the pairs of a click and no click, the share in which the click was predicted higher; a tie is half a pair. */
static double auc_of_sorted(const uint64_t *value, size_t n, size_t stride)
{
    double clicks = 0, others = 0, won = 0;
    for (size_t i = 0; i < n;) {
        double tied[2] = { 0, 0 };
        uint64_t prediction = value[i * stride] >> 1;
        for (; i < n && value[i * stride] >> 1 == prediction; i++) tied[value[i * stride] & 1]++;
        won += tied[1] * (others + tied[0] / 2);
        others += tied[0];
        clicks += tied[1];
    }
    return clicks > 0 && others > 0 ? won / (clicks * others) : NAN;
}

double metric_auc(const float *prediction, const uint8_t *clicked, size_t n)
{
    uint64_t *value = need(malloc((n + 1) * sizeof *value));
    for (size_t i = 0; i < n; i++) value[i] = ordered(prediction[i], clicked[i] != 0);
    qsort(value, n, sizeof *value, by_value);
    double auc = auc_of_sorted(value, n, 1);
    free(value);
    return auc;
}

struct impression { uint64_t user, value; };

static int by_user(const void *a, const void *b)
{
    const struct impression *x = a, *y = b;
    if (x->user != y->user) return x->user < y->user ? -1 : 1;
    return (x->value > y->value) - (x->value < y->value);
}

static struct grouped grouped_of(struct impression *impression, size_t n)
{
    struct grouped grouped = { 0, 0 };
    qsort(impression, n, sizeof *impression, by_user);
    for (size_t begin = 0, end; begin < n; begin = end) {
        for (end = begin + 1; end < n && impression[end].user == impression[begin].user; end++) {}
        double auc = auc_of_sorted(&impression[begin].value, end - begin,
                                   sizeof *impression / sizeof impression->value);
        if (isnan(auc)) continue;
        grouped.sum += auc * (double)(end - begin);
        grouped.weight += (double)(end - begin);
    }
    return grouped;
}

static double grouped_mean(struct grouped grouped)
{
    return grouped.weight > 0 ? grouped.sum / grouped.weight : NAN;
}

double metric_gauc(const float *prediction, const uint8_t *clicked, const uint64_t *user, size_t n)
{
    struct impression *impression = need(malloc((n + 1) * sizeof *impression));
    for (size_t i = 0; i < n; i++) impression[i] = (struct impression){ user[i], ordered(prediction[i],
            clicked[i] != 0) };
    struct grouped grouped = grouped_of(impression, n);
    free(impression);
    return grouped_mean(grouped);
}

static bool belongs(const struct observation *observation, enum metrics_users users)
{
    return users == USERS_ALL || (users == USERS_NEW) == (observation->is_new != 0);
}

/* The i-th newest, from 0. */
static const struct observation *newest(const struct metrics *metrics, size_t i)
{
    const struct totals *totals = &metrics->totals;
    return &metrics->ring[(totals->next + totals->window - 1 - i) % totals->window];
}

static struct grouped grouped_newest(const struct metrics *metrics, enum metrics_users users, size_t count)
{
    struct impression *impression = need(malloc((count + 1) * sizeof *impression));
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        const struct observation *o = newest(metrics, i);
        if (belongs(o, users)) impression[n++] = (struct impression){ o->user, ordered(o->prediction, o->clicked) };
    }
    struct grouped grouped = grouped_of(impression, n);
    free(impression);
    return grouped;
}

static double inner(float prediction)
{
    return fmin(fmax((double)prediction, PROBABILITY_MARGIN), 1.0 - PROBABILITY_MARGIN);
}

static double log_loss(float prediction, bool clicked)
{
    double p = inner(prediction);
    return -log(clicked ? p : 1.0 - p);
}

static size_t bin_of(float prediction)
{
    double p = inner(prediction), at = (log(p) - log1p(-p)) * BINS_A_UNIT + BINS / 2.0;
    return at < 0 ? 0 : at >= BINS ? BINS - 1 : (size_t)at;
}

static void push(struct metrics *metrics, struct observation observation)
{
    struct totals *totals = &metrics->totals;
    metrics->ring[totals->next] = observation;
    metrics->changed[totals->next / BLOCK] = true;
    totals->next = (totals->next + 1) % totals->window;
    if (totals->count < totals->window) totals->count++;
    if (++totals->pending < totals->window) return;
    for (enum metrics_users users = 0; users < USERS_GROUPS; users++) {
        struct grouped grouped = grouped_newest(metrics, users, totals->pending);
        totals->grouped[users].sum += grouped.sum;
        totals->grouped[users].weight += grouped.weight;
    }
    totals->pending = 0;
}

void metrics_observe(struct metrics *metrics, const struct batch *batch, const float *click_probability)
{
    for (size_t i = 0; i < batch->size; i++) {
        float prediction = click_probability[i];
        if (batch->correction[i] || !isfinite(prediction)) continue;
        bool clicked = batch->clicked[i] != 0, is_new = batch->is_new[i] != 0;
        struct sums *sums = &metrics->totals.sums[is_new];
        sums->examples++;
        sums->clicks += clicked;
        sums->log_loss += log_loss(prediction, clicked);
        sums->prediction += (double)prediction;
        sums->bin[clicked][bin_of(prediction)]++;
        push(metrics, (struct observation){ .user = batch->user[i], .prediction = prediction, .clicked = clicked,
                                            .is_new = is_new });
    }
}

static struct metrics_report report_of(uint64_t examples, uint64_t clicks, double log_loss_sum, double prediction_sum)
{
    return (struct metrics_report){
        .examples = examples, .clicks = clicks,
        .log_loss = examples ? log_loss_sum / (double)examples : NAN,
        .calibration = clicks ? prediction_sum / (double)clicks : NAN,
        .auc = NAN, .gauc = NAN,
    };
}

struct metrics_report metrics_report_newest(const struct metrics *metrics, enum metrics_users users, uint64_t count)
{
    if (count > metrics->totals.count) count = metrics->totals.count;
    uint64_t *value = need(malloc((count ? count : 1) * sizeof *value));
    uint64_t examples = 0, clicks = 0;
    double losses = 0, predictions = 0;
    for (size_t i = 0; i < count; i++) {
        const struct observation *o = newest(metrics, i);
        if (!belongs(o, users)) continue;
        value[examples++] = ordered(o->prediction, o->clicked);
        clicks += o->clicked;
        losses += log_loss(o->prediction, o->clicked);
        predictions += (double)o->prediction;
    }
    struct metrics_report report = report_of(examples, clicks, losses, predictions);
    qsort(value, examples, sizeof *value, by_value);
    report.auc = auc_of_sorted(value, examples, 1);
    report.gauc = grouped_mean(grouped_newest(metrics, users, count));
    free(value);
    return report;
}

uint64_t metrics_examples(const struct metrics *metrics, enum metrics_users users)
{
    return (users == USERS_NEW ? 0 : metrics->totals.sums[0].examples) +
           (users == USERS_OLD ? 0 : metrics->totals.sums[1].examples);
}

static struct metrics_report report_start(const struct metrics *metrics, enum metrics_users users)
{
    static const struct sums none;
    const struct totals *totals = &metrics->totals;
    const struct sums *old = users == USERS_NEW ? &none : &totals->sums[0],
        *new = users == USERS_OLD ? &none : &totals->sums[1];
    struct metrics_report report = report_of(old->examples + new->examples, old->clicks + new->clicks,
                                             old->log_loss + new->log_loss,
                                             old->prediction + new->prediction);
    double clicks = 0, others = 0, won = 0;
    for (size_t b = 0; b < BINS; b++) {
        double other = (double)(old->bin[0][b] + new->bin[0][b]), click = (double)(old->bin[1][b] + new->bin[1][b]);
        won += click * (others + other / 2);
        others += other;
        clicks += click;
    }
    if (clicks > 0 && others > 0) report.auc = won / (clicks * others);
    struct grouped grouped = grouped_newest(metrics, users, totals->pending);
    grouped.sum += totals->grouped[users].sum;
    grouped.weight += totals->grouped[users].weight;
    report.gauc = grouped_mean(grouped);
    return report;
}

struct metrics_report metrics_report(const struct metrics *metrics, enum metrics_users users, enum metrics_span span)
{
    return span == SPAN_WINDOW ? metrics_report_newest(metrics, users, UINT64_MAX) : report_start(metrics, users);
}

/* "metrics" 0: | version u64 | struct totals |   "metrics.window" b: observations [b * BLOCK, ...) of the ring */
struct saved { uint64_t version; struct totals totals; };

struct section { char name[STATE_SECTION_MAX]; };

static struct section window_of(const struct metrics *metrics)
{
    struct section section;
    snprintf(section.name, sizeof section.name, "%s.window", metrics->section);
    return section;
}

bool metrics_save(struct metrics *metrics, struct state_writer *writer, struct cs_error *err)
{
    const struct totals *totals = &metrics->totals;
    struct section window = window_of(metrics);
    size_t blocks = block_count(totals->count);
    for (size_t b = 0; b < blocks; b++) {
        if (!writer->full && !metrics->changed[b]) continue;
        size_t count = totals->count - b * BLOCK < BLOCK ? totals->count - b * BLOCK : BLOCK;
        if (!writer->put(writer, window.name, b, metrics->ring + b * BLOCK, count * sizeof *metrics->ring, err))
            return false;
        metrics->changed[b] = false;
    }
    /* Left over where the window was larger before. */
    for (size_t b = blocks; b < metrics->stored && !writer->full; b++)
        if (!writer->remove(writer, window.name, b, err)) return false;
    metrics->stored = blocks;
    struct saved *saved = malloc(sizeof *saved);
    if (!saved) return cs_fail(err, CS_FAILED, "out of memory");
    *saved = (struct saved){ .version = STATE_VERSION, .totals = *totals };
    bool ok = writer->put(writer, metrics->section, 0, saved, sizeof *saved, err);
    free(saved);
    return ok;
}

bool metrics_load(struct metrics *metrics, struct state_reader *reader, struct cs_error *err)
{
    const void *bytes;
    size_t size, window = metrics->totals.window;
    if (!reader->get(reader, metrics->section, 0, &bytes, &size, err)) return false;
    const struct saved *saved = bytes;
    if (!saved || size != sizeof *saved || saved->version != STATE_VERSION)
        return cs_fail(err, CS_REFUSED, "section %s: %zu bytes, %zu of version %d are needed", metrics->section,
                       saved ? size : 0, sizeof *saved, STATE_VERSION);
    const struct totals *totals = &saved->totals;
    if (!totals->window || totals->count > totals->window || totals->next >= totals->window
        || totals->pending >= totals->window ||
        totals->pending > totals->count || (totals->count < totals->window && totals->next != totals->count))
        return cs_fail(err, CS_REFUSED, "section %s: a window of %ju with %ju examples, %ju pending, next %ju",
                       metrics->section, (uintmax_t)totals->window, (uintmax_t)totals->count,
                       (uintmax_t)totals->pending, (uintmax_t)totals->next);
    struct section name = window_of(metrics);
    size_t blocks = block_count(totals->count);
    const struct observation **block = calloc(blocks + 1, sizeof *block);
    if (!block) return cs_fail(err, CS_FAILED, "out of memory");
    bool ok = false;
    for (size_t b = 0; b < blocks; b++) {
        size_t count = totals->count - b * BLOCK < BLOCK ? totals->count - b * BLOCK : BLOCK;
        if (!reader->get(reader, name.name, b, &bytes, &size, err)) goto out;
        if (!bytes || size != count * sizeof **block) {
            cs_fail(err, CS_REFUSED, "section %s: block %zu has %zu bytes, %zu are needed", name.name, b,
                    bytes ? size : 0, count * sizeof **block);
            goto out;
        }
        block[b] = bytes;
    }
    /* Oldest first. With the same window every observation lands where it was; with another, the newest stay. */
    size_t skip = totals->count > window ? totals->count - window : 0,
        first = totals->count < totals->window ? 0 : totals->next;
    size_t kept = totals->count - skip, to = totals->window == window ? first : 0;
    for (size_t i = 0; i < kept; i++) {
        size_t from = (first + skip + i) % totals->window;
        metrics->ring[(to + i) % window] = block[from / BLOCK][from % BLOCK];
    }
    metrics->totals = *totals;
    metrics->stored = blocks;
    if (totals->window != window) {
        metrics->totals.window = window;
        metrics->totals.count = kept;
        metrics->totals.next = kept % window;
        metrics->totals.pending = totals->pending < window ? totals->pending : window - 1;
        for (size_t b = 0; b < block_count(window); b++) metrics->changed[b] = true;
    }
    ok = true;
out:
    free(block);
    return ok;
}
