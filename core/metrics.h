/* Progressive validation: how good the predictions were that were made before each example was learned
 * (numerics.md, section 7), for all, new and old users, over the last `window` examples and since the start.
 *
 *   log loss     predictions count as at least 1e-7 away from 0 and 1
 *   window       exact
 *   since start  log loss and calibration are exact. AUC is read from a histogram of the logit, bins 1/256 wide from
 *                -16 to 16: off by at most half the share of (click, no click) pairs that fall into one bin. GAUC is
 *                the mean over consecutive disjoint windows of `window` examples (the last may be under way) of each
 *                one's GAUC, weighted by the impressions that it is over
 *
 * Corrections of late clicks (batch->correction) were judged as negatives already: they are not counted again. */
#ifndef CORE_METRICS_H
#define CORE_METRICS_H

#include "core/batch.h"
#include "core/state.h"

enum metrics_users { USERS_ALL, USERS_NEW, USERS_OLD, USERS_GROUPS };
enum metrics_span { SPAN_WINDOW, SPAN_START, SPANS };
extern const char *const metrics_users_name[USERS_GROUPS];      /* "all", "new", "old" */
extern const char *const metrics_span_name[SPANS];              /* "window", "start" */

struct metrics_report {
    uint64_t examples, clicks;
    double log_loss;            /* NaN without examples */
    double auc;                 /* NaN without both labels; ties count half; window: exact */
    double gauc;                /* NaN where no user has both labels */
    double calibration;         /* sum of predictions / clicks; NaN without clicks */
};

struct metrics;
struct metrics *metrics_create(size_t window);     /* window >= 1; NULL when out of memory */
extern const char metrics_section[];            /* "metrics" */
/* With sections of another name than "metrics"; it is borrowed for life. */
struct metrics *metrics_create_named(size_t window, const char *section);
void metrics_destroy(struct metrics *metrics);
/* Costs O(1) an example, and a sort of the window once a window. A prediction that is not finite (the learner gives
 * none) is left out with its example. */
void metrics_observe(struct metrics *metrics, const struct batch *batch, const float *click_probability);
uint64_t metrics_examples(const struct metrics *metrics, enum metrics_users users);     /* judged since the start */
/* Costs O(window log window); not for every step. */
struct metrics_report metrics_report(const struct metrics *metrics, enum metrics_users users, enum metrics_span span);
/* Over the newest `count` predictions of the window alone. */
struct metrics_report metrics_report_newest(const struct metrics *metrics, enum metrics_users users, uint64_t count);
/* Sections "metrics" and "metrics.window", or as named. Restores exactly; where the window was configured anew, its
 * newest part. */
bool metrics_save(struct metrics *metrics, struct state_writer *writer, struct cs_error *err);
bool metrics_load(struct metrics *metrics, struct state_reader *reader, struct cs_error *err);

/* Plain functions under the above, also for tools: n finite predictions, of any range. NaN as in the report. */
double metric_auc(const float *prediction, const uint8_t *clicked, size_t n);
double metric_gauc(const float *prediction, const uint8_t *clicked, const uint64_t *user, size_t n);

#endif
