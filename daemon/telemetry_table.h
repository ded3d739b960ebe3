/* One row a metric: from it follow the names, the HELP and TYPE lines and the checks of labels. */
#ifndef DAEMON_TELEMETRY_TABLE_H
#define DAEMON_TELEMETRY_TABLE_H

#include <stddef.h>

#include "daemon/telemetry.h"

enum telemetry_kind { KIND_COUNTER, KIND_GAUGE, KIND_HISTOGRAM };
enum { LABELS_MAX = 2 };

struct telemetry_row {
    const char *name;                   /* without "coldstream_" */
    enum telemetry_kind kind;
    const char *label[LABELS_MAX + 1];  /* names, NULL ends */
    const char *help;
};

extern const struct telemetry_row telemetry_table[METRICS];
/* Upper bounds of every histogram's buckets, in seconds, ascending; +Inf follows. */
extern const double telemetry_bucket[];
enum { TELEMETRY_BUCKETS = 16 };

#endif
