/* Opening a checkpoint of 5 million rows, and finding rows in it. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include "storage/checkpoint.h"
#include "tools/bench.h"

enum { ROWS = 5000000, DIMENSION = 32, LOOKUPS = 2000000, REQUEST = 1000 };

static int by_key(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static bool publish(const char *directory, const uint64_t *key, struct cs_error *err)
{
    struct checkpoint_writer *writer = checkpoint_begin(directory, err);
    float row[DIMENSION] = { 0 };
    uint64_t version;
    if (!writer) return false;
    for (size_t i = 0; i < ROWS; i++) {
        row[i % DIMENSION] = (float)i;
        if (checkpoint_row(writer, "item", key[i], row, DIMENSION, err)) continue;
        checkpoint_abandon(writer);
        return false;
    }
    return checkpoint_finish(writer, "{}", 1, &version, err);
}

/* kB of this process's memory that it shares with nobody. */
static double private_memory(void)
{
    char line[256];
    double sum = 0;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, "Private_Dirty:", 14)) sum += strtod(line + 14, NULL);
    if (file) fclose(file);
    return sum;
}

static bool measure(struct bench *bench, const char *directory, const uint64_t *key, bool verify, struct cs_error *err)
{
    malloc_trim(0);         /* so that what was freed before does not hide what is taken now */
    double seconds[BENCH_REPEAT], memory = private_memory();
    struct checkpoint *checkpoint = NULL;
    char what[64];
    for (size_t i = 0; i < BENCH_REPEAT; i++) {
        checkpoint_close(checkpoint);
        double begin = bench_seconds();
        if (!(checkpoint = checkpoint_open(directory, verify, err))) return false;
        seconds[i] = bench_seconds() - begin;
    }
    memory = private_memory() - memory;
    snprintf(what, sizeof what, "opening 5 million rows, %s", verify ? "SHA-256 checked" : "all rows looked at");
    bench_add(bench, what, bench_median(seconds, BENCH_REPEAT), "s", 1.0, "what was asked for");
    if (verify)
        bench_add(bench, "  memory of its own", memory / 1024, "MiB", ROWS * 16.0 / (1 << 20), "16 bytes a row");
    uint64_t *asked = malloc(LOOKUPS * sizeof *asked);
    const float **row = malloc(LOOKUPS * sizeof *row);
    int *table = calloc(LOOKUPS, sizeof *table);
    size_t found = 0;
    if (!asked || !row || !table) abort();
    for (size_t i = 0; i < LOOKUPS; i++) asked[i] = key[random_bits(7, i) % ROWS] ^ (i % 10 == 0);
    double begin = bench_seconds();
    for (size_t i = 0; i < LOOKUPS; i++) found += checkpoint_find(checkpoint, 0, asked[i]) != NULL;
    double single = (bench_seconds() - begin) / LOOKUPS;
    begin = bench_seconds();
    for (size_t i = 0; i < LOOKUPS; i += REQUEST) checkpoint_find_all(checkpoint, REQUEST, table, asked + i, row + i);
    double together = (bench_seconds() - begin) / LOOKUPS;
    for (size_t i = 0; i < LOOKUPS; i++) found -= row[i] != NULL;
    if (verify) bench_add(bench, "  finding a row, many together", 1e9 * together, "ns", 1e9 * single, "one by one");
    free(asked);
    free(row);
    free(table);
    checkpoint_close(checkpoint);
    return found ? cs_fail(err, CS_FAILED, "one by one %zu rows more were found", found) : true;
}

bool bench_open(struct bench *bench, struct cs_error *err)
{
    char directory[300];
    uint64_t *key = malloc(ROWS * sizeof *key);
    if (!key) abort();
    bench_progress("opening a checkpoint");
    snprintf(directory, sizeof directory, "%s/open", bench->directory);
    for (size_t i = 0; i < ROWS; i++) key[i] = random_bits(3, i) & ~1ull;
    qsort(key, ROWS, sizeof *key, by_key);
    bool ok = publish(directory, key, err) && measure(bench, directory, key, true, err) &&
              measure(bench, directory, key, false, err);
    free(key);
    return ok;
}
