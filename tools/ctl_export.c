/* export: a snapshot or a checkpoint as one safetensors or npz file, under canonical names (numerics.md, section 8). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/text.h"
#include "tools/ctl_answer.h"
#include "tools/ctl_exchange.h"
#include "tools/ctl_source.h"
#include "tools/ctl_verbs.h"

const struct program_option ctl_export_options[] = {
    { "from", 'f', "PATH", "a snapshot's or a checkpoint's directory", true },
    { "format", 't', "safetensors|npz", "[by the file's ending]", false },
    CTL_JSON,
    { NULL, 0, NULL, NULL, false },
};

/* Tables are read one at a time, twice: to announce their sizes, and to write them. */
struct export
{
    struct source *source;
    struct exchange_writer *writer;
    const struct ctl_arguments *arguments;
    uint64_t tables, rows, tensors;     /* written */
    bool writing;
};

static bool export_table(void *self, const char *name, struct cs_error *err)
{
    struct export *x = self;
    struct source_table t;
    bool ok;

    if (!source_table_read(x->source, name, &t, err)) return false;
    if (!x->writing) {
        ok = exchange_announce_table(x->writer, name, t.count, t.dimension, t.m != NULL, t.v != NULL, t.step != NULL,
                                     err);
    } else {
        size_t row_bytes = t.count * t.dimension * sizeof(float);
        ok = exchange_data(x->writer, t.key, t.count * sizeof *t.key, err) &&
             exchange_data(x->writer, t.row, row_bytes, err) &&
             (!t.m || exchange_data(x->writer, t.m, row_bytes, err)) &&
             (!t.v || exchange_data(x->writer, t.v, row_bytes, err)) &&
             (!t.step || exchange_data(x->writer, t.step, t.count * sizeof *t.step, err));
        x->tables++;
        x->rows += t.count;
        if (x->arguments->verbose) ctl_progress_end(x->source->progress);
        if (x->arguments->verbose) ctl_say(x->arguments, "table %s: %zu rows", name, t.count);
    }
    source_table_release(&t);
    return ok;
}

static bool export_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    struct export *x = self;
    x->tensors += x->writing;
    return x->writing ? exchange_data(x->writer, tensor->data, tensor_bytes(tensor), err)
                      : exchange_announce(x->writer, tensor, err);
}

int ctl_export(const struct ctl_arguments *arguments)
{
    const char *file = arguments->position[0], *format = ctl_value(arguments, "format");
    struct cs_error err = { 0 };
    struct source source = { 0 };
    struct export x = { .source = &source, .arguments = arguments };
    enum exchange_format kind;
    struct ctl_progress progress;
    struct stat written = { 0 };
    bool ok = false;

    if (!format) format = has_ending(file, ".npz") ? "npz" : has_ending(file, ".safetensors") ? "safetensors" : "";
    if (strcmp(format, "safetensors") == 0) kind = EXCHANGE_SAFETENSORS;
    else if (strcmp(format, "npz") == 0) kind = EXCHANGE_NPZ;
    else {
        cs_fail(&err, CS_USAGE, "--format: found \"%s\", allowed are safetensors and npz", format);
        return ctl_fail(arguments, &err);
    }
    ctl_progress_start(&progress, arguments, 0, "bytes");
    if (!source_open(&source, ctl_value(arguments, "from"), &progress, &err)) goto out;
    x.writer = exchange_create(file, kind, &err);
    if (!x.writer) goto out;
    source_phase(&source, "reading twice, writing", 2);
    for (int pass = 0; pass < 2; pass++) {
        x.writing = pass == 1;
        if (!source_tables(&source, export_table, &x, &err) || !source_tensors(&source, export_tensor, &x, &err))
            goto out;
    }
    ok = exchange_finish(x.writer, &err);
    x.writer = NULL;
out:
    if (x.writer) exchange_abandon(x.writer);
    ctl_progress_end(&progress);
    source_close(&source);
    if (!ok) return ctl_fail(arguments, &err);
    if (!ctl_flag(arguments, "json")) return 0;
    stat(file, &written);
    return ctl_answer(arguments, json_pack("{s:o,s:s,s:I,s:I,s:I,s:I}", "file", text_json(file), "format", format,
                                           "tensors", (json_int_t)x.tensors, "tables", (json_int_t)x.tables, "rows",
                                           (json_int_t)x.rows, "bytes", (json_int_t)written.st_size));
}
