/* inspect, verify: what a snapshot or a checkpoint holds, and whether it is whole. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "core/features.h"
#include "core/need.h"
#include "daemon/metrics_json.h"
#include "daemon/text.h"
#include "tools/ctl_answer.h"
#include "tools/ctl_exchange.h"
#include "tools/ctl_snapshot.h"
#include "tools/ctl_source.h"
#include "tools/ctl_verbs.h"

const struct program_option ctl_inspect_options[] = {
    { "table", 't', "NAME", "the rows of one embedding table, in short", false },
    { "key", 'k', "VALUE", "with --table: the row of this value (0x... takes a key as it is)", false },
    { "json", 'j', NULL, "for programs", false },
    { NULL, 0, NULL, NULL, false },
};
const struct program_option ctl_verify_options[] = {
    CTL_SNAPSHOT_CONFIG,
    { "json", 'j', NULL, "for programs", false },
    { NULL, 0, NULL, NULL, false },
};

/* ------------------------------------------------------------------------------------------------------ as JSON */

static bool add_table(void *self, const char *name, struct cs_error *err)
{
    struct { struct source *source; json_t *tables; } *to = self;
    struct source_table t;

    if (!source_table_read(to->source, name, &t, err)) return false;
    json_object_set_new(to->tables, name,
                        json_pack("{s:I,s:I}", "rows", (json_int_t)t.count, "dimension", (json_int_t)t.dimension));
    source_table_release(&t);
    return true;
}

static bool add_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    char shape[80];
    (void)err;
    tensor_shape_text(tensor, shape, sizeof shape);
    json_object_set_new(self, tensor->name, json_string(shape));
    return true;
}

static bool add_meta(void *self, const char *name, const char *text, struct cs_error *err)
{
    (void)err;
    json_object_set_new(self, name, text_json(text));
    return true;
}

static bool add_section(void *self, const char *section, uint64_t records, uint64_t bytes, struct cs_error *err)
{
    (void)err;
    json_object_set_new(self, section,
                        json_pack("{s:I,s:I}", "records", (json_int_t)records, "bytes", (json_int_t)bytes));
    return true;
}

static json_t *describe(struct source *source, struct cs_error *err)
{
    json_t *root = json_object(), *tables = json_object(), *tensors = json_object(), *meta = json_object(),
           *sections = NULL;
    struct { struct source *source; json_t *tables; } to = { source, tables };

    json_object_set_new(root, "kind", json_string(source->checkpoint ? "checkpoint" : "snapshot"));
    if (source->checkpoint) {
        json_t *manifest = json_loads(checkpoint_manifest(source->checkpoint), 0, NULL);
        json_object_set_new(root, "manifest", manifest ? manifest : json_null());
        json_object_set_new(meta, "config",
                            json_string(source_meta(source, "config") ? source_meta(source, "config") : ""));
    } else {
        sections = json_object();
        json_object_set_new(root, "sections", sections);
    }
    json_object_set_new(root, "meta", meta);
    json_object_set_new(root, "tables", tables);
    json_object_set_new(root, "tensors", tensors);
    if (source_tables(source, add_table, &to, err) && source_tensors(source, add_tensor, tensors, err)
        && (source->checkpoint || (snapshot_view_each_meta(source->snapshot, add_meta, meta, err)
                                   && snapshot_view_sections(source->snapshot, add_section, sections, err))))
        return root;
    json_decref(root);
    return NULL;
}

/* --------------------------------------------------------------------------------------------------- for people */

static void print_indented(const char *text)
{
    for (const char *line = text; *line; ) {
        size_t length = strcspn(line, "\n");
        printf("    ");
        char *one = need(strndup(line, length));
        text_show(stdout, one);
        free(one);
        putchar('\n');
        line += length + (line[length] == '\n');
    }
}

/* A column of names: they come from the file, whoever wrote it. */
static void print_name(const char *name, size_t columns)
{
    printf("    ");
    text_show_padded(stdout, name, columns);
    putchar(' ');
}

static void print_description(json_t *root)
{
    const char *name;
    json_t *value;

    printf("%s\n", json_string_value(json_object_get(root, "kind")));
    if (json_object_get(root, "manifest")) {
        char *text = json_dumps(json_object_get(root, "manifest"), JSON_INDENT(2));
        printf("\nmanifest\n");
        print_indented(text ? text : "");
        free(text);
    }
    json_object_foreach(json_object_get(root, "meta"), name, value) {
        const char *text = json_string_value(value);
        if (strchr(text, '\n')) {
            putchar('\n');
            text_show(stdout, name);
            putchar('\n');
            print_indented(text);
        } else {
            text_show_padded(stdout, name, 16);
            putchar(' ');
            text_show(stdout, text);
            putchar('\n');
        }
    }
    printf("\ntables\n");
    json_object_foreach(json_object_get(root, "tables"), name, value) {
        print_name(name, 32);
        printf("%10" JSON_INTEGER_FORMAT " rows of %" JSON_INTEGER_FORMAT "\n",
               json_integer_value(json_object_get(value, "rows")),
               json_integer_value(json_object_get(value, "dimension")));
    }
    printf("\ntensors\n");
    json_object_foreach(json_object_get(root, "tensors"), name, value) {
        print_name(name, 52);
        printf("%s\n", json_string_value(value));
    }
    if (!json_object_get(root, "sections")) return;
    printf("\nsections\n");
    json_object_foreach(json_object_get(root, "sections"), name, value) {
        print_name(name, 32);
        printf("%8" JSON_INTEGER_FORMAT " records %14" JSON_INTEGER_FORMAT " bytes\n",
               json_integer_value(json_object_get(value, "records")),
               json_integer_value(json_object_get(value, "bytes")));
    }
}

/* -------------------------------------------------------------------------------------------------------- tables */

static void add_floats(json_t *object, const char *name, const float *value, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(array, number_json((double)value[i]));
    json_object_set_new(object, name, array);
}

static void print_floats(const char *name, const float *value, size_t n)
{
    printf("%s", name);
    for (size_t i = 0; i < n; i++) printf("%s%12.6g", i % 8 ? " " : "\n    ", (double)value[i]);
    putchar('\n');
}

static int print_row(const struct ctl_arguments *arguments, const struct source_table *t, size_t i)
{
    size_t d = t->dimension;

    if (ctl_flag(arguments, "json")) {
        json_t *root = json_pack("{s:s,s:o}", "table", t->name, "key", json_sprintf("%" PRIu64, t->key[i]));
        add_floats(root, "row", t->row + i * d, d);
        if (t->m) add_floats(root, "m", t->m + i * d, d);
        if (t->v) add_floats(root, "v", t->v + i * d, d);
        if (t->step) json_object_set_new(root, "step", json_integer(t->step[i]));
        if (t->seen) json_object_set_new(root, "seen", json_integer(t->seen[i]));
        return ctl_answer(arguments, root);
    }
    printf("table %s, key 0x%016" PRIx64 "\n", t->name, t->key[i]);
    if (t->step) printf("steps %" PRIu32 ", last seen %" PRId64 " ms\n", t->step[i], t->seen[i]);
    print_floats("row", t->row + i * d, d);
    if (t->m) print_floats("m", t->m + i * d, d);
    if (t->v) print_floats("v", t->v + i * d, d);
    return 0;
}

static int print_table(const struct ctl_arguments *arguments, const struct source_table *t)
{
    double square = 0, most = 0, steps = 0;

    for (size_t i = 0; i < t->count * t->dimension; i++) {
        square += (double)t->row[i] * (double)t->row[i];
        if (fabs((double)t->row[i]) > most) most = fabs((double)t->row[i]);
    }
    for (size_t i = 0; t->step && i < t->count; i++) steps += t->step[i];
    square = t->count ? sqrt(square / (double)(t->count * t->dimension)) : 0;
    steps = t->count ? steps / (double)t->count : 0;
    if (ctl_flag(arguments, "json"))
        return ctl_answer(arguments, json_pack("{s:s,s:I,s:I,s:o,s:o,s:f}", "table", t->name, "rows",
                                               (json_int_t)t->count, "dimension", (json_int_t)t->dimension, "rms",
                                               number_json(square), "largest", number_json(most), "mean_steps",
                                               steps));
    printf("table %s: %zu rows of %zu, root mean square %.6g, largest %.6g", t->name, t->count, t->dimension, square,
           most);
    if (t->step) printf(", steps a row %.1f", steps);
    putchar('\n');
    return 0;
}

static int fail(const struct ctl_arguments *arguments, struct ctl_progress *progress, const struct cs_error *err)
{
    ctl_progress_end(progress);
    return ctl_fail(arguments, err);
}

/* The key that --key means: of a value's text, or "0x..." as it stands. */
static bool read_key(const char *value, uint64_t *key, struct cs_error *err)
{
    *key = key_of_text(value, strlen(value));
    if (strncmp(value, "0x", 2) != 0) return true;
    size_t digits = strspn(value + 2, "0123456789abcdefABCDEF");
    if (digits == 0 || digits > 16 || value[2 + digits])
        return cs_fail(err, CS_USAGE, "--key: found \"%s\", allowed behind 0x are 1 to 16 hex digits", value);
    *key = strtoull(value, NULL, 16);
    return true;
}

/* The exit code; -1 and err: it failed. value: NULL means the table as a whole. */
static int show_table(const struct ctl_arguments *arguments, struct source *source, const char *name,
                      const char *value, struct cs_error *err)
{
    struct source_table t;
    uint64_t key = 0;
    size_t low = 0;
    int code = -1;

    if (value && !read_key(value, &key, err)) return -1;
    if (!source_table_read(source, name, &t, err)) return -1;
    ctl_progress_end(source->progress);
    for (size_t high = t.count; value && low < high; ) {
        size_t middle = low + (high - low) / 2;
        if (t.key[middle] < key) low = middle + 1;
        else high = middle;
    }
    if (!t.count) cs_fail(err, CS_FAILED, "there is no table \"%s\", or it is empty", name);
    else if (!value) code = print_table(arguments, &t);
    else if (low < t.count && t.key[low] == key) code = print_row(arguments, &t, low);
    else cs_fail(err, CS_FAILED, "table %s has no row for \"%s\" (key 0x%016" PRIx64 ")", name, value, key);
    source_table_release(&t);
    return code;
}

int ctl_inspect(const struct ctl_arguments *arguments)
{
    const char *table = ctl_value(arguments, "table"), *key = ctl_value(arguments, "key");
    struct cs_error err = { 0 };
    struct source source;
    struct ctl_progress progress;
    json_t *root;
    int code = -1;

    if (key && !table) {
        cs_fail(&err, CS_USAGE, "--key wants --table as well");
        return ctl_fail(arguments, &err);
    }
    ctl_progress_start(&progress, arguments, 0, "bytes");
    if (!source_open(&source, arguments->position[0], &progress, &err)) return fail(arguments, &progress, &err);
    if (table) {
        ctl_progress_phase(&progress, "reading", 0, "bytes");   /* how much of it one table is, nobody knows */
        code = show_table(arguments, &source, table, key, &err);
    } else {
        source_phase(&source, "reading", 1);
        root = describe(&source, &err);
        ctl_progress_end(&progress);
        if (root && !ctl_flag(arguments, "json")) print_description(root);
        if (root) code = ctl_flag(arguments, "json") ? ctl_answer(arguments, json_incref(root)) : 0;
        json_decref(root);
    }
    source_close(&source);
    return code >= 0 ? code : fail(arguments, &progress, &err);
}

/* -------------------------------------------------------------------------------------------------------- verify */

struct tally { struct source *source; uint64_t rows, tensors; };

static bool count_table(void *self, const char *name, struct cs_error *err)
{
    struct tally *tally = self;
    struct source_table t;

    if (!source_table_read(tally->source, name, &t, err)) return false;
    for (size_t i = 1; i < t.count; i++)
        if (t.key[i - 1] >= t.key[i]) {
            source_table_release(&t);
            return cs_fail(err, CS_REFUSED, "table %s has a key twice or out of order", name);
        }
    for (size_t i = 0; i < t.count * t.dimension; i++)
        if (!isfinite(t.row[i])) {
            uint64_t key = t.key[i / t.dimension];
            source_table_release(&t);
            return cs_fail(err, CS_REFUSED, "table %s, key 0x%016" PRIx64 ": a number is not finite", name, key);
        }
    tally->rows += t.count;
    source_table_release(&t);
    return true;
}

static bool count_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    struct tally *tally = self;

    if (tensor->type == TENSOR_F32)
        for (size_t i = 0; i < tensor_elements(tensor); i++) {
            float value;
            memcpy(&value, (const char *)tensor->data + i * sizeof value, sizeof value);
            if (!isfinite(value)) return cs_fail(err, CS_REFUSED, "%s, element %zu is not finite", tensor->name, i);
        }
    tally->tensors++;
    return true;
}

int ctl_verify(const struct ctl_arguments *arguments)
{
    struct cs_error err = { 0 };
    struct source source;
    struct tally tally = { .source = &source };
    uint64_t records = 0, bytes = 0;
    char path[PATH_MAX];
    struct ctl_progress progress;
    int code = 0;
    bool ok;

    if (!ctl_snapshot_directory(arguments, arguments->position[0], path, &err)) return ctl_fail(arguments, &err);
    ctl_progress_start(&progress, arguments, 0, "bytes");
    if (!source_open(&source, path, &progress, &err)) return fail(arguments, &progress, &err);
    source_phase(&source, "checksums", 1);
    ok = source.checkpoint || snapshot_view_verify(source.snapshot, &records, &bytes, &err);
    source_phase(&source, "numbers", 1);
    ok = ok && source_tables(&source, count_table, &tally, &err) && source_tensors(&source, count_tensor, &tally, &err);
    ctl_progress_end(&progress);
    if (ok && ctl_flag(arguments, "json"))
        code = ctl_answer(arguments, json_pack("{s:s,s:b,s:I,s:I,s:I,s:I}", "kind",
                                               source.checkpoint ? "checkpoint" : "snapshot", "whole", 1, "tensors",
                                               (json_int_t)tally.tensors, "rows", (json_int_t)tally.rows, "records",
                                               (json_int_t)records, "bytes", (json_int_t)bytes));
    else if (ok && source.snapshot)
        printf("snapshot: whole; %" PRIu64 " tensors, %" PRIu64 " rows, %" PRIu64 " records of %" PRIu64 " bytes\n",
               tally.tensors, tally.rows, records, bytes);
    else if (ok)
        printf("checkpoint: whole; %" PRIu64 " tensors, %" PRIu64 " rows\n", tally.tensors, tally.rows);
    source_close(&source);
    return ok ? code : ctl_fail(arguments, &err);
}
