/* The table at five million rows: lookups, updates, memory. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/embedding.h"
#include "core/random.h"
#include "tools/bench.h"

enum { D = 32, ROWS = 5000000, BATCH = 16384, BATCHES = 40, ROW_BYTES = D * 4,
       RECORD_BYTES = 3 * D * 4 + 4 };

static const struct optimizer_options adam = { .kind = OPTIMIZER_ADAM, .learning_rate = 1e-3, .beta1 = 0.9, .beta2 =
                                               0.999, .epsilon = 1e-8 };

uint64_t bench_key(uint64_t i)
{
    return random_bits(17, i);
}

bool bench_fill(struct embedding_table *table, uint64_t rows, struct cs_error *err)
{
    float row[D];
    for (size_t i = 0; i < D; i++) row[i] = 0.01f * (float)i;
    for (uint64_t i = 0; i < rows; i++)
        if (!embedding_put(table, &(struct embedding_row){ .key = bench_key(i), .row = row, .seen = 1 }, err))
            return false;
    return true;
}

/* The best that memory can do: as many bytes, to or from as many places, at random, known well ahead. */
struct touch { const uint32_t *place; char *memory; size_t stride, bytes; char *side; bool write; };

static void touch_part(void *argument, size_t part, size_t parts)
{
    const struct touch *touch = argument;
    size_t begin, end;
    parallel_share(BATCH, 64, part, parts, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        if (i + 8 < end)
            for (size_t at = 0; at < touch->bytes; at += 64)
                __builtin_prefetch(touch->memory + touch->place[i + 8] * touch->stride + at);
        char *there = touch->memory + touch->place[i] * touch->stride;
        char *side = touch->side + (part * 64 + i % 32) * touch->bytes;     /* stays in the nearest cache */
        memcpy(side, there, touch->bytes);
        if (touch->write) memcpy(there, side, touch->bytes);
    }
}

/* Each batch reads BATCH rows that no other part of it reads: a walk through a permutation. */
static void choose(uint64_t batch, uint32_t *place)
{
    for (uint64_t i = 0; i < BATCH; i++) place[i] = (uint32_t)((batch * BATCH + i) * UINT64_C(2654435761) % ROWS);
}

bool bench_rows(struct bench *bench, struct cs_error *err)
{
    static uint32_t place[BATCH], slot[BATCH], one[BATCH];
    static uint64_t key[BATCH];
    double find[BATCHES], update[BATCHES], admit[BATCHES], read[BATCHES], write[BATCHES], begin;
    float *row = calloc(BATCH, ROW_BYTES);
    char *side = calloc(BATCH, RECORD_BYTES), *memory = NULL;
    size_t stride = (RECORD_BYTES + 63) / 64 * 64;
    bool ok = false;

    bench_progress("filling a table with 5,000,000 rows");
    struct table_options options = { .name = "item", .admit_after = 1 };
    struct embedding_table *table = embedding_create(&options, D, 0.01, 1, &adam, err);
    if (!table || !bench_fill(table, ROWS, err)) goto out;
    for (size_t i = 0; i < BATCH; i++) one[i] = 1;
    for (uint64_t b = 0; b < BATCHES; b++) {
        choose(b, place);
        for (size_t i = 0; i < BATCH; i++) key[i] = bench_key(place[i]);
        begin = bench_seconds();
        embedding_find(table, key, BATCH, slot);
        embedding_gather(table, slot, BATCH, row, bench->parallel);
        find[b] = bench_seconds() - begin;
        choose(b + BATCHES, place);
        for (size_t i = 0; i < BATCH; i++) key[i] = bench_key(place[i]);
        begin = bench_seconds();
        embedding_admit(table, key, one, BATCH, 2, slot);
        admit[b] = bench_seconds() - begin;
        choose(b + 2 * BATCHES, place);
        for (size_t i = 0; i < BATCH; i++) key[i] = bench_key(place[i]);
        embedding_find(table, key, BATCH, slot);
        begin = bench_seconds();
        embedding_update(table, slot, BATCH, row, bench->parallel);
        update[b] = bench_seconds() - begin;
    }
    double bytes = (double)embedding_bytes(table) / ROWS;
    embedding_destroy(table);
    table = NULL;
    memory = malloc((size_t)ROWS * stride);
    if (!memory) {
        cs_fail(err, CS_FAILED, "out of memory");
        goto out;
    }
    memset(memory, 1, (size_t)ROWS * stride);
    for (uint64_t b = 0; b < BATCHES; b++) {
        struct touch touch = { place, memory, stride, ROW_BYTES, side, false };
        choose(b, place);
        begin = bench_seconds();
        bench->parallel->run(bench->parallel, touch_part, &touch);
        read[b] = bench_seconds() - begin;
        choose(b + BATCHES, place);
        touch.bytes = RECORD_BYTES, touch.write = true;
        begin = bench_seconds();
        bench->parallel->run(bench->parallel, touch_part, &touch);
        write[b] = bench_seconds() - begin;
    }
    double best_read = BATCH / bench_median(read, BATCHES), best_write = BATCH / bench_median(write, BATCHES);
    bench_add(bench, "row lookups, 5 million rows (find and gather)", BATCH / bench_median(find, BATCHES), "rows/s",
              best_read,
              "random reads of the same 128 bytes");
    bench_add(bench, "row updates, 5 million rows (Adam)", BATCH / bench_median(update, BATCHES), "rows/s", best_write,
              "random reads and writes of the same 388 bytes");
    bench_add(bench, "known keys admitted, 5 million rows", BATCH / bench_median(admit, BATCHES), "keys/s", best_read,
              "random reads of 128 bytes");
    bench_add(bench, "memory a row, 5 million rows", bytes, "bytes", RECORD_BYTES, "row, moments and step");
    ok = true;
out:
    embedding_destroy(table);
    free(row);
    free(side);
    free(memory);
    return ok;
}
