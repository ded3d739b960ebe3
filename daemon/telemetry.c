/* Series by metric and label values, behind one lock: it is taken once a batch or more rarely, and while the text is
 * made. */
#include "daemon/telemetry.h"

#include <assert.h>
#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/need.h"
#include "daemon/telemetry_table.h"
#include "daemon/version.h"

struct series {
    struct series *next;                        /* in order of first use */
    char *label[LABELS_MAX];
    double value;                               /* histogram: sum of observations */
    uint64_t bucket[BUCKETS_MAX + 1];   /* observations at most this large, not cumulated; the last: larger */
};

struct telemetry {
    pthread_mutex_t lock;
    struct series *first[METRICS], *found[METRICS];     /* found: last, or NULL */
    double started;                             /* seconds since the epoch */
};

static size_t label_count(enum telemetry_metric metric)
{
    size_t count = 0;
    while (telemetry_table[metric].label[count]) count++;
    return count;
}

/* From a series up to `end`, which is not looked at. */
static struct series *look(struct series *series, const struct series *end, const char *const *label, size_t count)
{
    for (; series != end; series = series->next) {
        size_t same = 0;
        while (same < count && strcmp(series->label[same], label[same]) == 0) same++;
        if (same == count) return series;
    }
    return NULL;
}

/* The series of these labels; made where there is none, unless `make` is false. The lock is held. Told of in the same
 * order again and again, as a thousand partitions are, each stands behind the one found before it. */
static struct series *find(struct telemetry *telemetry, enum telemetry_metric metric, const char *const *label,
                           bool make)
{
    size_t count = label_count(metric);
    assert(metric < METRICS && (count == 0 || label));
    struct series *begin = telemetry->found[metric] ? telemetry->found[metric]->next : NULL,
                  *series = look(begin, NULL, label, count), **end = &telemetry->first[metric];
    if (!series) series = look(telemetry->first[metric], begin, label, count);
    if (series) return telemetry->found[metric] = series;
    if (!make) return NULL;
    series = need(calloc(1, sizeof *series));
    for (size_t i = 0; i < count; i++)
        series->label[i] = need(strdup(label[i]));
    while (*end) end = &(*end)->next;
    return telemetry->found[metric] = *end = series;
}

/* What the program's start was by the wall clock: from the kernel's own record of it, so that it is the same however
 * long loading took. /proc/stat may be hidden from us, so the time since boot is asked for, not boot's time. */
static double start_time(void)
{
    struct timespec now, since_boot;
    clock_gettime(CLOCK_REALTIME, &now);
    clock_gettime(CLOCK_BOOTTIME, &since_boot);
    double wall = (double)now.tv_sec + (double)now.tv_nsec / 1e9,
           up = (double)since_boot.tv_sec + (double)since_boot.tv_nsec / 1e9;
    FILE *file = fopen("/proc/self/stat", "re");
    char text[2048];
    unsigned long long ticks = 0;
    size_t length = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) fclose(file);
    text[length] = 0;
    const char *at = strrchr(text, ')');        /* the command's name may hold anything */
    if (!at || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                      &ticks) != 1)
        return wall;
    return wall - up + (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

struct telemetry *telemetry_create(void)
{
    struct telemetry *telemetry = need(calloc(1, sizeof *telemetry));
    pthread_mutex_init(&telemetry->lock, NULL);
    telemetry->started = start_time();
    telemetry_set(telemetry, METRIC_START_TIME, NULL, telemetry->started);
    telemetry_set(telemetry, METRIC_BUILD_INFO, TELEMETRY_LABELS(version_number, version_commit), 1);
    return telemetry;
}

void telemetry_destroy(struct telemetry *telemetry)
{
    if (!telemetry) return;
    for (size_t metric = 0; metric < METRICS; metric++)
        for (struct series *series = telemetry->first[metric], *next; series; series = next) {
            next = series->next;
            for (size_t i = 0; i < LABELS_MAX; i++) free(series->label[i]);
            free(series);
        }
    pthread_mutex_destroy(&telemetry->lock);
    free(telemetry);
}

void telemetry_add(struct telemetry *telemetry, enum telemetry_metric metric, const char *const *label, double amount)
{
    assert(telemetry_table[metric].kind == KIND_COUNTER && amount >= 0);
    pthread_mutex_lock(&telemetry->lock);
    find(telemetry, metric, label, true)->value += amount;
    pthread_mutex_unlock(&telemetry->lock);
}

void telemetry_set(struct telemetry *telemetry, enum telemetry_metric metric, const char *const *label, double value)
{
    assert(telemetry_table[metric].kind != KIND_HISTOGRAM);
    pthread_mutex_lock(&telemetry->lock);
    find(telemetry, metric, label, true)->value = value;
    pthread_mutex_unlock(&telemetry->lock);
}

void telemetry_expect(struct telemetry *telemetry, enum telemetry_metric metric)
{
    assert(telemetry_table[metric].kind == KIND_HISTOGRAM);
    pthread_mutex_lock(&telemetry->lock);
    find(telemetry, metric, NULL, true);
    pthread_mutex_unlock(&telemetry->lock);
}

void telemetry_observe(struct telemetry *telemetry, enum telemetry_metric metric, double seconds)
{
    assert(telemetry_table[metric].kind == KIND_HISTOGRAM);
    if (!isfinite(seconds)) return;
    const struct telemetry_buckets *buckets = telemetry_table[metric].buckets;
    size_t bucket = 0;
    while (bucket < buckets->count && seconds > buckets->bound[bucket]) bucket++;
    pthread_mutex_lock(&telemetry->lock);
    struct series *series = find(telemetry, metric, NULL, true);
    series->value += seconds;
    series->bucket[bucket]++;
    pthread_mutex_unlock(&telemetry->lock);
}

double telemetry_get(struct telemetry *telemetry, enum telemetry_metric metric, const char *const *label)
{
    pthread_mutex_lock(&telemetry->lock);
    const struct series *series = find(telemetry, metric, label, false);
    double value = series ? series->value : NAN;
    pthread_mutex_unlock(&telemetry->lock);
    return value;
}

/* ---- the text ---- */

static void write_value(FILE *out, double value)
{
    if (isnan(value)) fputs(" NaN\n", out);
    else if (isinf(value)) fputs(value > 0 ? " +Inf\n" : " -Inf\n", out);
    else if (value == floor(value) && fabs(value) < 9e15) fprintf(out, " %.0f\n", value);
    else fprintf(out, " %.17g\n", value);
}

static void write_labels(FILE *out, const struct telemetry_row *row, const struct series *series)
{
    for (size_t i = 0; row->label[i]; i++) {
        fprintf(out, "%s%s=\"", i ? "," : "{", row->label[i]);
        for (const char *at = series->label[i]; *at; at++) {
            if (*at == '\n') fputs("\\n", out);
            else {
                if (*at == '"' || *at == '\\') fputc('\\', out);
                fputc(*at, out);
            }
        }
        fputc('"', out);
    }
    if (row->label[0]) fputc('}', out);
}

static void write_histogram(FILE *out, const struct telemetry_row *row, const struct series *series)
{
    const char *name = row->name;
    uint64_t count = 0;
    for (size_t i = 0; i < row->buckets->count; i++)
        fprintf(out, "coldstream_%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, row->buckets->bound[i],
                count += series->bucket[i]);
    count += series->bucket[row->buckets->count];
    fprintf(out, "coldstream_%s_bucket{le=\"+Inf\"} %" PRIu64 "\ncoldstream_%s_sum", name, count, name);
    write_value(out, series->value);
    fprintf(out, "coldstream_%s_count %" PRIu64 "\n", name, count);
}

static void write_process_metric(FILE *out, const char *name, const char *kind, const char *help, double value)
{
    fprintf(out, "# HELP process_%s %s\n# TYPE process_%s %s\nprocess_%s", name, help, name, kind, name);
    write_value(out, value);
}

/* A file descriptor each; the one of the listing itself does not count. */
static double open_files(void)
{
    DIR *directory = opendir("/proc/self/fd");
    if (!directory) return NAN;
    double count = -1;
    for (const struct dirent *entry; (entry = readdir(directory));) count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

/* The names that every Prometheus client library gives, with no prefix of ours. */
static void write_process(FILE *out, const struct telemetry *telemetry)
{
    struct rusage usage;
    struct rlimit limit;
    unsigned long long pages = 0, resident = 0;
    double page = (double)sysconf(_SC_PAGESIZE);
    getrusage(RUSAGE_SELF, &usage);
    write_process_metric(out, "cpu_seconds_total", "counter", "Processor time used, user and system.",
                         (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                             (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    FILE *file = fopen("/proc/self/statm", "re");
    if (file && fscanf(file, "%llu %llu", &pages, &resident) == 2) {
        write_process_metric(out, "virtual_memory_bytes", "gauge", "Virtual memory.", (double)pages * page);
        write_process_metric(out, "resident_memory_bytes", "gauge", "Resident memory.", (double)resident * page);
    }
    if (file) fclose(file);
    double files = open_files();
    if (!isnan(files)) write_process_metric(out, "open_fds", "gauge", "Open file descriptors.", files);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        write_process_metric(out, "max_fds", "gauge", "File descriptors that may be open.", (double)limit.rlim_cur);
    write_process_metric(out, "start_time_seconds", "gauge", "When the program started.", telemetry->started);
}

char *telemetry_text(struct telemetry *telemetry)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = need(open_memstream(&text, &size));
    pthread_mutex_lock(&telemetry->lock);
    for (size_t metric = 0; metric < METRICS; metric++) {
        const struct telemetry_row *row = &telemetry_table[metric];
        static const char *const kind[] = {
            [KIND_COUNTER] = "counter", [KIND_GAUGE] = "gauge", [KIND_HISTOGRAM] = "histogram"
        };
        const struct series *series = telemetry->first[metric];
        if (!series) continue;
        fprintf(out, "# HELP coldstream_%s %s\n# TYPE coldstream_%s %s\n", row->name, row->help, row->name,
                kind[row->kind]);
        for (; series; series = series->next) {
            if (row->kind == KIND_HISTOGRAM) {
                write_histogram(out, row, series);
                continue;
            }
            fprintf(out, "coldstream_%s", row->name);
            write_labels(out, row, series);
            write_value(out, series->value);
        }
    }
    pthread_mutex_unlock(&telemetry->lock);
    write_process(out, telemetry);
    fclose(out);
    return text;
}
