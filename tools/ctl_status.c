/* The status as a person reads it: what is wrong, what is going on, how good it is, how old what was saved is. Every
 * number is in --json, under the names of docs/control.md. */
#include "tools/ctl_status.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "daemon/text.h"

/* A member deep within: "snapshot.last". NULL: not there. */
static const json_t *at(const json_t *status, const char *path)
{
    char name[64];
    while (status && *path) {
        size_t length = strcspn(path, ".");
        snprintf(name, sizeof name, "%.*s", (int)length, path);
        status = json_object_get(status, name);
        path += length + (path[length] == '.');
    }
    return status;
}

static const char *text_at(const json_t *status, const char *path)
{
    const char *text = json_string_value(at(status, path));
    return text ? text : "";
}

static long long count_at(const json_t *status, const char *path)
{
    return (long long)json_integer_value(at(status, path));
}

/* 12,345,678 */
static const char *grouped(long long number, char text[32])
{
    char digits[24];
    snprintf(digits, sizeof digits, "%lld", number);
    size_t length = strlen(digits), used = 0;
    for (size_t i = 0; i < length; i++) {
        text[used++] = digits[i];
        size_t left = length - 1 - i;
        if (left && left % 3 == 0 && digits[i] != '-') text[used++] = ',';
    }
    text[used] = 0;
    return text;
}

/* 0.8 s, 12 s, 3 min 5 s, 2 h 10 min, 5 d 3 h */
static const char *lasting(double seconds, char text[32])
{
    long long whole = (long long)seconds;
    if (seconds < 10) snprintf(text, 32, "%.1f s", seconds);
    else if (whole < 60) snprintf(text, 32, "%lld s", whole);
    else if (whole < 3600) snprintf(text, 32, "%lld min %lld s", whole / 60, whole % 60);
    else if (whole < 86400) snprintf(text, 32, "%lld h %lld min", whole / 3600, whole / 60 % 60);
    else snprintf(text, 32, "%lld d %lld h", whole / 86400, whole / 3600 % 24);
    return text;
}

/* "12 s ago", of a wall clock's milliseconds. */
static const char *ago(const json_t *time_of, char text[32])
{
    struct timespec now;
    char length[32];
    if (!json_is_integer(time_of)) return "never";
    clock_gettime(CLOCK_REALTIME, &now);
    double seconds = (double)now.tv_sec + (double)now.tv_nsec / 1e9 - (double)json_integer_value(time_of) / 1000;
    snprintf(text, 32, "%.27s ago", lasting(seconds < 0 ? 0 : seconds, length));
    return text;
}

static void print_between(FILE *out, const char *before, const char *text, const char *behind)
{
    fputs(before, out);
    text_show(out, text);
    fputs(behind, out);
}

static void print_problems(const json_t *status, bool colors, FILE *out)
{
    size_t i;
    const json_t *one;
    json_array_foreach(at(status, "problems"), i, one)
        print_between(out, colors ? "\033[1;31m! " : "! ", json_string_value(one), colors ? "\033[0m\n" : "\n");
}

/* Said where there are some. */
static void print_unusable(const json_t *status, FILE *out)
{
    const char *name, *begin = "unusable    ";
    const json_t *count;
    char number[32];
    json_object_foreach((json_t *)at(status, "events"), name, count) {
        if (json_integer_value(count) == 0 || strcmp(name, "ok") == 0 || strcmp(name, "empty") == 0) continue;
        fprintf(out, "%s%s %s", begin, grouped((long long)json_integer_value(count), number), name);
        begin = ", ";
    }
    if (*begin == ',') fprintf(out, "; in the topics' .dlq\n");
}

static void print_stream(const json_t *status, FILE *out)
{
    char a[32], b[32], c[32], d[32];
    const json_t *lag = at(status, "lag"), *behind = at(status, "event_lag_seconds");
    fprintf(out, "stream      %s events/s, %s examples/s, %s records behind\n",
            grouped((long long)json_number_value(at(status, "rate.events_per_second")), a),
            grouped((long long)json_number_value(at(status, "rate.examples_per_second")), b),
            json_is_integer(lag) ? grouped((long long)json_integer_value(lag), c) : "an unknown number of");
    fprintf(out, "            event time is %s%s\n",
            json_is_number(behind) ? lasting(json_number_value(behind), a) : "not known yet",
            !json_is_number(behind)                       ? ""
            : json_is_true(at(status, "idle")) ? " old; all that came is read" : " old");
    fprintf(out, "joins       %s matched, %s expired, %s late, %s orphaned; %s wait for their click\n",
            grouped(count_at(status, "join.matched"), a), grouped(count_at(status, "join.expired"), b),
            grouped(count_at(status, "join.late"), c), grouped(count_at(status, "join.orphan"), d),
            grouped(count_at(status, "join.pending"), (char[32]){ 0 }));
    print_unusable(status, out);
    fprintf(out, "learned     %s examples, %s of them of new users, in %s steps\n",
            grouped(count_at(status, "examples.all"), a), grouped(count_at(status, "examples.new"), b),
            grouped(count_at(status, "steps"), c));
}

static void print_quality(const json_t *status, FILE *out)
{
    static const char *const users[] = { "all", "new", "old" };
    static const char *const figure[] = { "log_loss", "auc", "gauc", "calibration" };
    fprintf(out, "quality     users    log loss       AUC      GAUC   calibration   of examples\n");
    for (size_t i = 0; i < sizeof users / sizeof *users; i++) {
        char path[64], number[32];
        fprintf(out, "            %-5s", users[i]);
        snprintf(path, sizeof path, "metrics.%s.window.examples", users[i]);
        bool judged = count_at(status, path) > 0;
        for (size_t f = 0; f < sizeof figure / sizeof *figure; f++) {
            snprintf(path, sizeof path, "metrics.%s.window.%s", users[i], figure[f]);
            const json_t *value = at(status, path);
            int width = f == 0 ? 12 : f == 3 ? 14 : 10;
            if (judged && json_is_number(value)) fprintf(out, "%*.*f", width, f == 3 ? 3 : 4, json_number_value(value));
            else fprintf(out, "%*s", width, "-");
        }
        snprintf(path, sizeof path, "metrics.%s.window.examples", users[i]);
        fprintf(out, "%14s\n", grouped(count_at(status, path), number));
    }
}

static void print_saved(const json_t *status, FILE *out)
{
    char a[32], b[32];
    fprintf(out, "snapshot    %s, took %s; %s MiB on disk", ago(at(status, "snapshot.last"), a),
            lasting(json_number_value(at(status, "snapshot.seconds")), b),
            grouped(count_at(status, "snapshot.disk_bytes") >> 20, (char[32]){ 0 }));
    print_between(out, ", in ", text_at(status, "snapshot.directory"), "\n");
    if (json_is_integer(at(status, "checkpoint.version")))
        fprintf(out, "published   version %lld%s%s, %zu pinned\n", count_at(status, "checkpoint.version"),
                json_is_integer(at(status, "checkpoint.last")) ? ", " : "",
                json_is_integer(at(status, "checkpoint.last")) ? ago(at(status, "checkpoint.last"), a) : "",
                json_array_size(at(status, "checkpoint.pinned")));
    else fprintf(out, "published   nothing yet\n");
    if (json_is_object(at(status, "deltas")))
        fprintf(out, "deltas      %s sent, the last %s\n", grouped(count_at(status, "deltas.sent"), a),
                ago(at(status, "deltas.last"), b));
}

static void print_size(const json_t *status, FILE *out)
{
    char a[32], b[32], c[32];
    const char *name;
    const json_t *table;
    fprintf(out, "memory      %s MiB for the model, %s MiB for what waits; rows:",
            grouped(count_at(status, "memory.learner") >> 20, a), grouped(count_at(status, "memory.joiner") >> 20, b));
    json_object_foreach((json_t *)at(status, "tables"), name, table)
        fprintf(out, " %s %s", name, grouped(count_at(table, "rows"), c));
    fprintf(out, "\nlogging     %s, by %s\n", text_at(status, "logging.level"), text_at(status, "logging.by"));
}

void ctl_print_status(const json_t *status, bool colors, FILE *out)
{
    char a[32];
    bool fine = json_array_size(at(status, "problems")) == 0;
    print_problems(status, colors, out);
    fprintf(out, "%s%s%s, for %s; coldstreamd %s (%s)\n", colors ? fine ? "\033[1;32m" : "\033[1m" : "",
            text_at(status, "state"), colors ? "\033[0m" : "", lasting(json_number_value(at(status, "uptime")), a),
            text_at(status, "version"), text_at(status, "commit"));
    print_stream(status, out);
    print_quality(status, out);
    print_saved(status, out);
    print_size(status, out);
}
