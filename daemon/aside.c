/* Skipped batches as lines of JSON, and the thread that writes them. */
#include "daemon/aside.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/log.h"
#include "daemon/queue.h"
#include "storage/file.h"

enum {
    WAITING = 64, WAITING_BYTES = 32 << 20,     /* texts that may wait for the disk */
    FILE_BYTES = 16 << 20,      /* of one batch: beyond it lines are left out, and the last says how many */
    NAME_BYTES = 48,
    ROW = 16,                   /* batches skipped in a row: past it they are not logged one by one */
    MINUTE = 60000,
};

struct text {
    char name[NAME_BYTES];
    char *bytes;
    size_t size;
};

struct aside {
    char *directory;
    uint64_t keep;
    struct queue *queue;        /* of struct text; NULL: nothing is kept */
    atomic_size_t waiting;      /* bytes in it */
    pthread_t thread;

    /* the learn thread's */
    uint64_t row;               /* batches skipped one after the other */
    int64_t warned;             /* of that: monotonic ms, 0: never */
};

/* ---- a batch as text */

static void put_string(FILE *out, const char *text)
{
    putc('"', out);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') putc('\\', out);
        if (c < 0x20) fprintf(out, "\\u%04x", c);
        else putc(c, out);
    }
    putc('"', out);
}

static void put_number(FILE *out, float value)
{
    if (isnan(value)) fputs("\"nan\"", out);
    else if (isinf(value)) fputs(value > 0 ? "\"inf\"" : "\"-inf\"", out);
    else fprintf(out, "%.9g", (double)value);
}

static void put_keys(FILE *out, const struct batch_column *column, size_t i, const uint64_t *key)
{
    putc('[', out);
    for (uint32_t j = column->offset[i]; j < column->offset[i + 1]; j++)
        fprintf(out, "%s\"%016" PRIx64 "\"", j > column->offset[i] ? "," : "", key[column->row[j]]);
    putc(']', out);
}

static void put_features(FILE *out, const struct features *features, const struct batch *batch, size_t i)
{
    const char *comma = "";
    for (size_t f = 0; f < features->count; f++) {
        const struct feature *feature = &features->feature[f];
        const struct batch_column *column = &batch->column[feature->column];
        float value = 0;
        if (feature->kind == FEATURE_DENSE) value = batch->dense[feature->column * batch->size + i];
        if (feature->kind == FEATURE_DENSE ? isnan(value) : column->offset[i] == column->offset[i + 1]) continue;
        fputs(comma, out);
        put_string(out, feature->name);
        putc(':', out);
        if (feature->kind == FEATURE_DENSE) put_number(out, value);
        else put_keys(out, column, i, batch->table[feature->table].key);
        comma = ",";
    }
}

static const char *boolean(bool value) { return value ? "true" : "false"; }

static void put_example(FILE *out, const struct features *features, const struct batch *batch, size_t i, float score)
{
    fputs("{\"impression_id\":", out);
    put_string(out, batch->id[i]);
    fprintf(out, ",\"time\":%" PRId64 ",\"user\":\"%016" PRIx64 "\",\"item\":\"%016" PRIx64 "\"", batch->time[i],
            batch->user[i], batch->item[i]);
    fprintf(out, ",\"new\":%s,\"clicked\":%s,\"converted\":%s,\"correction\":%s,\"score\":", boolean(batch->is_new[i]),
            boolean(batch->clicked[i]), boolean(batch->converted[i]), boolean(batch->correction[i]));
    put_number(out, score);
    fputs(",\"features\":{", out);
    put_features(out, features, batch, i);
    fputs("},\"behaviors\":", out);
    put_keys(out, &batch->behavior, i, batch->table[features->behavior_table].key);
    fputs("}\n", out);
}

static struct text *text_of(const struct features *features, const struct batch *batch, const float *score,
                            uint64_t steps)
{
    struct text *text = need(calloc(1, sizeof *text));
    FILE *out = need(open_memstream(&text->bytes, &text->size));
    XXH64_hash_t hash = 0;
    for (size_t i = 0; i < batch->size; i++) {
        hash = XXH3_64bits_withSeed(batch->id[i], strlen(batch->id[i]), hash);
        if (ftell(out) < FILE_BYTES) put_example(out, features, batch, i, score[i]);
        else if (i == batch->size - 1) fprintf(out, "{\"left_out\":true,\"examples\":%zu}\n", batch->size);
    }
    if (fclose(out)) need(NULL);
    snprintf(text->name, sizeof text->name, "%020" PRIu64 "-%016" PRIx64 ".jsonl", steps, (uint64_t)hash);
    return text;
}

static void text_release(struct text *text)
{
    free(text->bytes);
    free(text);
}

/* ---- files, in the thread */

/* Under another name first, so that a file is whole. Not synced: after a power cut the batch is read and skipped again,
 * unless a snapshot covers it. */
static void write_text(const struct aside *aside, const struct text *text)
{
    struct cs_error err;
    if (file_make_directory(aside->directory, &err) &&
        file_put(aside->directory, text->name, text->bytes, text->size, false, &err))
        return;
    log_warning("a skipped batch can't be kept aside", LOG_S("directory", aside->directory), LOG_S("file", text->name),
                LOG_S("error", err.message));
}

struct kept { char name[NAME_BYTES]; struct timespec time; uint64_t bytes; };

static int newest_first(const void *a, const void *b)
{
    const struct kept *x = a, *y = b;
    if (x->time.tv_sec != y->time.tv_sec) return x->time.tv_sec < y->time.tv_sec ? 1 : -1;
    if (x->time.tv_nsec != y->time.tv_nsec) return x->time.tv_nsec < y->time.tv_nsec ? 1 : -1;
    return strcmp(y->name, x->name);
}

static bool is_ours(const char *name)
{
    return strlen(name) == 20 + 1 + 16 + 6 && strspn(name, "0123456789") == 20 && name[20] == '-' &&
           strspn(name + 21, "0123456789abcdef") == 16 && strcmp(name + 37, ".jsonl") == 0;
}

/* file_put's, of one that was killed. */
static bool is_unfinished(const char *name)
{
    size_t length = strlen(name);
    return name[0] == '.' && length > 10 && strcmp(name + length - 10, ".jsonl.new") == 0;
}

/* The newest stay. */
static void prune(const struct aside *aside)
{
    int handle = open(aside->directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *folder = handle < 0 ? NULL : fdopendir(handle);
    struct kept *kept = NULL;
    size_t count = 0;
    uint64_t bytes = 0;
    if (!folder) {
        if (handle >= 0) close(handle);
        return;
    }
    for (struct dirent *entry; (entry = readdir(folder));) {
        struct stat stat;
        if (is_unfinished(entry->d_name)) unlinkat(dirfd(folder), entry->d_name, 0);
        if (!is_ours(entry->d_name) || fstatat(dirfd(folder), entry->d_name, &stat, AT_SYMLINK_NOFOLLOW)) continue;
        kept = need(realloc(kept, (count + 1) * sizeof *kept));
        kept[count] = (struct kept){ .time = stat.st_mtim, .bytes = (uint64_t)stat.st_size };
        snprintf(kept[count++].name, sizeof kept->name, "%s", entry->d_name);
    }
    if (count) qsort(kept, count, sizeof *kept, newest_first);
    for (size_t i = 0; i < count; i++) {
        bytes += kept[i].bytes;
        if (i >= aside->keep || (i && bytes > ASIDE_BYTES)) unlinkat(dirfd(folder), kept[i].name, 0);
    }
    free(kept);
    closedir(folder);
}

static void *write_loop(void *argument)
{
    struct aside *aside = argument;
    struct text *text;
    while ((text = queue_pop(aside->queue, -1))) {
        write_text(aside, text);
        atomic_fetch_sub(&aside->waiting, text->size);
        text_release(text);
        prune(aside);
    }
    return NULL;
}

/* ---- */

struct aside *aside_create(const char *directory, uint64_t keep, struct cs_error *err)
{
    struct aside *aside = need(calloc(1, sizeof *aside));
    if (asprintf(&aside->directory, "%s/aside", directory) < 0) need(NULL);
    aside->keep = keep;
    if (!keep) return aside;
    aside->queue = queue_create(WAITING);
    int error = pthread_create(&aside->thread, NULL, write_loop, aside);
    if (!error) return aside;
    cs_fail_errno(err, error, "starting the thread that keeps skipped batches");
    queue_destroy(aside->queue);
    free(aside->directory);
    free(aside);
    return NULL;
}

void aside_destroy(struct aside *aside)
{
    if (!aside) return;
    if (aside->queue) {
        queue_close(aside->queue);
        pthread_join(aside->thread, NULL);
        queue_destroy(aside->queue);
    }
    free(aside->directory);
    free(aside);
}

/* The model itself may be broken: worth a line a minute, not one a batch. */
static void warn_of_row(struct aside *aside, const struct learner_losses *losses)
{
    int64_t now = clock_monotonic();
    if (aside->warned && now - aside->warned < MINUTE) return;
    aside->warned = now;
    log_error("every batch is skipped: nothing is learned any more; stop, and go on from an earlier snapshot or with "
              "other settings",
              LOG_U("in_a_row", aside->row), LOG_S("not_finite", losses->nonfinite),
              LOG_S("table", losses->table ? losses->table : ""));
}

static bool has_room(const struct aside *aside)
{
    return queue_length(aside->queue) < WAITING && atomic_load(&aside->waiting) < WAITING_BYTES;
}

void aside_keep(struct aside *aside, const struct features *features, const struct batch *batch, const float *score,
                const struct learner_losses *losses, uint64_t steps)
{
    char file[4200] = "";
    const char *found = losses->nonfinite, *table = losses->table ? losses->table : "";
    aside->row++;
    if (aside->row > ROW) warn_of_row(aside, losses);
    if (aside->keep && aside->row <= aside->keep && has_room(aside)) {
        struct text *text = text_of(features, batch, score, steps);
        snprintf(file, sizeof file, "%s/%s", aside->directory, text->name);
        atomic_fetch_add(&aside->waiting, text->size);
        queue_push(aside->queue, text);
    }
    if (aside->row > ROW && !*file) return;
    log_warning("a batch was skipped: not finite", LOG_S("found", found), LOG_S("table", table),
                LOG_U("steps", steps), LOG_U("examples", batch->size), LOG_S("first", batch->id[0]),
                LOG_S("kept", *file ? file : !aside->keep ? "no: snapshot.keep_aside is 0"
                              : aside->row > aside->keep ? "no: one of many in a row" : "no: the disk is behind"));
}

void aside_learned(struct aside *aside)
{
    aside->row = 0;
    aside->warned = 0;
}
