/* bench: how fast this build is on this machine, each line beside the best that the machine could do.
 *
 *     bench [--only PART] [--rows N]
 *
 * --rows: how many the table has that snapshots are measured with; 5 million where it is not given. */
#include "tools/bench.h"

#include <cblas.h>
#include <ftw.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const part_name[] = { "rows", "open", "decode", "train", "score", "kafka", "snapshot", "delta",
                                         "freshness", "swaps", "overhead" };
enum { PARTS = sizeof part_name / sizeof *part_name };

double bench_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_quantile(double *value, size_t count, double share)
{
    qsort(value, count, sizeof *value, by_value);
    size_t at = (size_t)(share * (double)count);
    return value[at < count ? at : count - 1];
}

double bench_median(double *value, size_t count)
{
    return bench_quantile(value, count, 0.5);
}

void bench_progress(const char *what)
{
    fprintf(stderr, "%s ...\n", what);
}

bool bench_wants(const struct bench *bench, const char *part)
{
    return !bench->only || strcmp(bench->only, part) == 0;
}

void bench_add(struct bench *bench, const char *what, double value, const char *unit, double best, const char *ideal)
{
    if (bench->lines == BENCH_LINES_MAX) return;
    struct bench_line *line = &bench->line[bench->lines++];
    snprintf(line->what, sizeof line->what, "%s", what);
    snprintf(line->unit, sizeof line->unit, "%s", unit);
    snprintf(line->ideal, sizeof line->ideal, "%s", ideal);
    line->value = value;
    line->best = best;
}

double bench_memcpy(size_t bytes)
{
    char *from = malloc(bytes), *to = malloc(bytes);
    double seconds[BENCH_REPEAT];
    if (!from || !to) abort();
    memset(from, 1, bytes);
    memset(to, 2, bytes);
    for (size_t i = 0; i < BENCH_REPEAT; i++) {
        double begin = bench_seconds();
        memcpy(to, from, bytes);
        __asm__ volatile("" : : "r"(to) : "memory");
        seconds[i] = bench_seconds() - begin;
    }
    free(from);
    free(to);
    return bench_median(seconds, BENCH_REPEAT);
}

static void print_number(double value)
{
    if (isnan(value)) printf(" %14s", "-");
    else printf(" %14.*f", value < 10 ? 3 : value < 1000 ? 1 : 0, value);
}

static void print_table(const struct bench *bench)
{
    printf("%-52s %14s %-11s %14s  %-6s %s\n", "what", "measured", "unit", "ideal", "ratio", "the ideal is");
    for (size_t i = 0; i < bench->lines; i++) {
        const struct bench_line *line = &bench->line[i];
        printf("%-52s", line->what);
        print_number(line->value);
        printf(" %-11s", line->unit);
        print_number(line->best);
        if (isnan(line->best)) printf("  %-6s %s\n", "", line->ideal);
        else printf("  %-6.2f %s\n", line->value / line->best, line->ideal);
    }
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)type, (void)walk;
    return remove(path);
}

static bool scratch(struct bench *bench, struct cs_error *err)
{
    const char *parent = getenv("TMPDIR");
    snprintf(bench->directory, sizeof bench->directory, "%s/coldstream-bench-XXXXXX",
             parent && *parent ? parent : "/tmp");
    return mkdtemp(bench->directory) || cs_fail(err, CS_FAILED, "cannot make %s", bench->directory);
}

static void print_parts(FILE *to)
{
    for (size_t i = 0; i < PARTS; i++) fprintf(to, " %s", part_name[i]);
    fputc('\n', to);
}

int main(int count, char **arguments)
{
    static const struct option options[] = { { "only", required_argument, NULL, 'o' },
                                             { "rows", required_argument, NULL, 'r' },
                                             { "help", no_argument, NULL, 'h' }, { NULL, 0, NULL, 0 } };
    struct bench bench = { .rows = 5000000 };
    struct cs_error err = { 0 };
    bool ok = false, known = false;

    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        if (option == 'o') bench.only = optarg;
        else if (option == 'r') bench.rows = strtoull(optarg, NULL, 10);
        else {
            FILE *to = option == 'h' ? stdout : stderr;
            fprintf(to, "usage: bench [--only PART] [--rows N]\nparts:");
            print_parts(to);
            return option == 'h' ? 0 : cs_exit_code(CS_USAGE);
        }
    }
    for (size_t i = 0; i < PARTS; i++) known |= bench_wants(&bench, part_name[i]);
    if (!known) {
        fprintf(stderr, "bench: no part \"%s\"; there are", bench.only);
        print_parts(stderr);
        return cs_exit_code(CS_USAGE);
    }
    if (bench.rows < 1000 || bench.rows > 100000000) {
        fprintf(stderr, "bench: --rows takes a number from 1000 to 100000000\n");
        return cs_exit_code(CS_USAGE);
    }
    snprintf(bench.programs, sizeof bench.programs, "%s", arguments[0]);
    if (strrchr(bench.programs, '/')) *strrchr(bench.programs, '/') = '\0';
    openblas_set_num_threads(1);
    bench.pool = worker_pool_create(0, &err);
    if (!bench.pool) goto out;
    bench.parallel = worker_pool_parallel(bench.pool);
    if (!scratch(&bench, &err)) goto out;
    if (bench_wants(&bench, "rows") && !bench_rows(&bench, &err)) goto out;
    if (bench_wants(&bench, "open") && !bench_open(&bench, &err)) goto out;
    bool stream = bench_wants(&bench, "decode") || bench_wants(&bench, "train") || bench_wants(&bench, "score");
    if ((stream || bench_wants(&bench, "kafka")) && !bench_stream(&bench, &err)) goto out;
    if (bench_wants(&bench, "kafka") && !bench_kafka(&bench, &err)) goto out;
    if (bench_wants(&bench, "snapshot") && !bench_snapshot(&bench, &err)) goto out;
    if (bench_wants(&bench, "delta") && !bench_delta(&bench, &err)) goto out;
    if (bench_wants(&bench, "freshness") && !bench_freshness(&bench, &err)) goto out;
    if (bench_wants(&bench, "swaps") && !bench_swaps(&bench, &err)) goto out;
    if (bench_wants(&bench, "overhead") && !bench_overhead(&bench, &err)) goto out;
    ok = true;
out:
    if (bench.lines) print_table(&bench);
    if (!ok) fprintf(stderr, "bench: %s\n", err.message);
    if (!ok && *bench.directory) fprintf(stderr, "bench: what it left is in %s\n", bench.directory);
    else if (*bench.directory) nftw(bench.directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    worker_pool_destroy(bench.pool);
    return ok ? 0 : cs_exit_code(err.code);
}
