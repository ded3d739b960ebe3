/* One row a metric: from it follow the names, the HELP and TYPE lines and the checks of labels. */
#ifndef DAEMON_TELEMETRY_TABLE_H
#define DAEMON_TELEMETRY_TABLE_H

#include <stddef.h>

#include "daemon/telemetry.h"

enum telemetry_kind { KIND_COUNTER, KIND_GAUGE, KIND_HISTOGRAM };
enum { LABELS_MAX = 2, BUCKETS_MAX = 16 };

/* Upper bounds, ascending, inclusive; +Inf follows. */
struct telemetry_buckets { size_t count; double bound[BUCKETS_MAX]; };

struct telemetry_row {
    const char *name;                   /* without "coldstream_" */
    enum telemetry_kind kind;
    const char *label[LABELS_MAX + 1];  /* names, NULL ends */
    const char *help;
    const struct telemetry_buckets *buckets;    /* of a histogram */
};

extern const struct telemetry_row telemetry_table[METRICS];

#endif
