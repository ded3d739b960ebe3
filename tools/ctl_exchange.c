/* Learner <-> file, tensor by tensor; tables stream, one pass over their rows for each tensor of theirs. */
#include "tools/ctl_exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/optimizer.h"

static const char *const type_name[] = { "f32", "f64", "u32", "u64", "i64" };

void tensor_shape_text(const struct tensor *tensor, char *text, size_t size)
{
    size_t n = (size_t)snprintf(text, size, "[");

    for (size_t i = 0; i < tensor->rank && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%zu", i ? ", " : "", tensor->shape[i]);
    if (n < size) snprintf(text + n, size - n, "] %s", type_name[tensor->type]);
}

bool has_ending(const char *name, const char *ending)
{
    size_t n = strlen(name), e = strlen(ending);
    return n >= e && strcmp(name + n - e, ending) == 0;
}

/* ------------------------------------------------------------------------------------------------------ writing */

bool exchange_announce_table(struct exchange_writer *writer, const char *table, size_t n, size_t dimension, bool m,
                             bool v, bool step, struct cs_error *err)
{
    const struct { const char *part; enum tensor_type type; size_t rank; bool kept;
    } parts[] = {
        { "keys", TENSOR_U64, 1, true }, { "rows", TENSOR_F32, 2, true }, { "m", TENSOR_F32, 2, m },
        { "v", TENSOR_F32, 2, v },       { "step", TENSOR_U32, 1, step },
    };

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        struct tensor tensor = { .type = parts[i].type, .rank = parts[i].rank, .shape = { n, dimension } };
        if (!parts[i].kept) continue;
        snprintf(tensor.name, sizeof tensor.name, "embedding.%s.%s", table, parts[i].part);
        if (!exchange_announce(writer, &tensor, err)) return false;
    }
    return true;
}

enum part { PART_KEYS, PART_ROWS, PART_M, PART_V, PART_STEP, PARTS };
static bool write_zeros(struct exchange_writer *writer, size_t bytes, struct cs_error *err);

struct pass { struct exchange_writer *writer; enum part part; size_t dimension; };

static bool write_row(void *self, const struct embedding_row *row, struct cs_error *err)
{
    struct pass *pass = self;

    switch (pass->part) {
    case PART_KEYS: return exchange_data(pass->writer, &row->key, sizeof row->key, err);
    case PART_ROWS: return exchange_data(pass->writer, row->row, pass->dimension * sizeof(float), err);
    case PART_M:
    case PART_V: {
        const float *moment = pass->part == PART_M ? row->m : row->v;
        size_t bytes = pass->dimension * sizeof(float);
        return moment ? exchange_data(pass->writer, moment, bytes, err) : write_zeros(pass->writer, bytes, err);
    }
    default: return exchange_data(pass->writer, &row->step, sizeof row->step, err);
    }
}

/* The learner's dense tensors; then, with data NULL, zeros for the moments that an optimizer other than Adam does not
 * keep: the names of the interchange are the same whichever optimizer it was. */
struct dense { struct tensor *tensor; size_t count, room; };

static bool collect_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    struct dense *dense = self;

    if (dense->count == dense->room) {
        size_t room = dense->room ? 2 * dense->room : 256;
        struct tensor *more = realloc(dense->tensor, room * sizeof *more);
        if (!more) return cs_fail(err, CS_FAILED, "out of memory for the names of %zu tensors", room);
        dense->tensor = more;
        dense->room = room;
    }
    dense->tensor[dense->count++] = *tensor;
    return true;
}

static const struct tensor *find_tensor(const struct dense *dense, const char *name)
{
    for (size_t i = 0; i < dense->count; i++)
        if (strcmp(dense->tensor[i].name, name) == 0) return &dense->tensor[i];
    return NULL;
}

/* Statistics are no parameters: no optimizer has moments for them. */
static bool is_parameter(const struct tensor *tensor)
{
    return tensor->role != TENSOR_OPTIMIZER && strncmp(tensor->name, "features.", 9) != 0 &&
           !(strncmp(tensor->name, "ranking.norm.", 13) == 0 &&
             (has_ending(tensor->name, ".mean") || has_ending(tensor->name, ".variance")));
}

static bool collect_dense(struct learner *learner, struct dense *dense, struct cs_error *err)
{
    static const char *const part[] = { "m", "v" };

    if (!learner_tensors(learner, collect_tensor, dense, err)) return false;
    for (size_t i = 0, n = dense->count; i < n; i++)
        for (size_t k = 0; k < 2; k++) {
            struct tensor zeros = dense->tensor[i];
            if (!is_parameter(&zeros)) continue;
            snprintf(zeros.name, sizeof zeros.name, "optimizer.%.*s.%s", TENSOR_NAME_MAX - 20, dense->tensor[i].name,
                     part[k]);
            zeros.role = TENSOR_OPTIMIZER;
            zeros.data = NULL;
            if (!find_tensor(dense, zeros.name) && !collect_tensor(dense, &zeros, err)) return false;
        }
    return true;
}

static bool write_zeros(struct exchange_writer *writer, size_t bytes, struct cs_error *err)
{
    static const char zeros[4096];
    for (; bytes; bytes -= bytes < sizeof zeros ? bytes : sizeof zeros)
        if (!exchange_data(writer, zeros, bytes < sizeof zeros ? bytes : sizeof zeros, err)) return false;
    return true;
}

bool exchange_from_learner(struct learner *learner, const struct features *features, const char *file,
                           enum exchange_format format, struct cs_error *err)
{
    struct exchange_writer *writer = exchange_create(file, format, err);
    struct dense dense = { 0 };

    if (!writer || !collect_dense(learner, &dense, err)) goto fail;
    for (size_t t = 0; t < features->table_count; t++) {
        const struct embedding_table *table = learner_table(learner, t);
        if (!exchange_announce_table(writer, embedding_name(table), embedding_rows(table), embedding_dimension(table),
                                     true, true, true, err))
            goto fail;
    }
    for (size_t i = 0; i < dense.count; i++)
        if (!exchange_announce(writer, &dense.tensor[i], err)) goto fail;
    for (size_t t = 0; t < features->table_count; t++) {
        const struct embedding_table *table = learner_table(learner, t);
        struct pass pass = { writer, PART_KEYS, embedding_dimension(table) };
        for (; pass.part < PARTS; pass.part++)
            if (!embedding_each(table, write_row, &pass, err)) goto fail;
    }
    for (size_t i = 0; i < dense.count; i++) {
        const struct tensor *tensor = &dense.tensor[i];
        if (!(tensor->data ? exchange_data(writer, tensor->data, tensor_bytes(tensor), err)
                           : write_zeros(writer, tensor_bytes(tensor), err)))
            goto fail;
    }
    free(dense.tensor);
    return exchange_finish(writer, err);
fail:
    free(dense.tensor);
    if (writer) exchange_abandon(writer);
    return false;
}

/* ------------------------------------------------------------------------------------------------------ reading */

/* All that is wrong with a file, in one message: names until there is no more room. */
struct complaints { size_t count, used; char text[400]; };

static void complain(struct complaints *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void complain(struct complaints *c, const char *format, ...)
{
    char one[300];
    va_list list;
    size_t n;

    va_start(list, format);
    vsnprintf(one, sizeof one, format, list);
    va_end(list);
    n = strlen(one) + 2;
    if (c->used + n < sizeof c->text)
        c->used += (size_t)snprintf(c->text + c->used, sizeof c->text - c->used, "%s%s", c->count ? "; " : "", one);
    c->count++;
}

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    return a->type == b->type && a->rank == b->rank && memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0;
}

struct import {
    const struct exchange_file *file;
    struct complaints complaints;
    size_t known;               /* tensors of the file that were asked for */
    bool stateless;             /* the file has no optimizer state at all */
    bool uncounted;             /* nor statistics of dense features, for which numerics.md has no names: they begin */
    bool copy;                  /* second visit: everything fits */
    struct ctl_progress *progress;
};

/* The tensor of the file that has this name and shape, or NULL and a complaint. */
static const struct tensor *take(struct import *in, const struct tensor *wanted, bool needed)
{
    const struct tensor *found = exchange_find(in->file, wanted->name);
    char here[80], there[80];

    if (!found) {
        if (needed) complain(&in->complaints, "%s is missing", wanted->name);
        return NULL;
    }
    in->known++;
    if (same_shape(found, wanted)) return found;
    tensor_shape_text(found, there, sizeof there);
    tensor_shape_text(wanted, here, sizeof here);
    complain(&in->complaints, "%s is %s in the file, %s here", wanted->name, there, here);
    return NULL;
}

static bool import_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    struct import *in = self;
    const struct tensor *found;

    (void)err;
    if (in->copy) {
        found = exchange_find(in->file, tensor->name);
        if (found) memcpy(tensor->data, found->data, tensor_bytes(tensor));
        else if (tensor->role == TENSOR_OPTIMIZER)
            memset(tensor->data, 0, tensor_bytes(tensor)); /* numerics.md, section 8 */
    } else {
        bool statistics = strncmp(tensor->name, "features.", 9) == 0;
        take(in, tensor, statistics ? !in->uncounted : !(in->stateless && tensor->role == TENSOR_OPTIMIZER));
    }
    return true;
}

static bool import_table(struct import *in, struct embedding_table *table, bool m_kept, bool v_kept, int64_t seen,
                         struct cs_error *err)
{
    const char *name = embedding_name(table);
    size_t dimension = embedding_dimension(table), n;
    struct tensor wanted = { .type = TENSOR_U64, .rank = 1 };
    const struct tensor *keys, *rows, *m = NULL, *v = NULL, *steps;
    bool ok = true;
    float *row;

    snprintf(wanted.name, sizeof wanted.name, "embedding.%s.keys", name);
    keys = exchange_find(in->file, wanted.name);
    n = wanted.shape[0] = keys && keys->rank == 1 ? keys->shape[0] : 0;
    keys = take(in, &wanted, true);
    wanted = (struct tensor){ .type = TENSOR_F32, .rank = 2, .shape = { n, dimension } };
    snprintf(wanted.name, sizeof wanted.name, "embedding.%s.rows", name);
    rows = take(in, &wanted, true);
    snprintf(wanted.name, sizeof wanted.name, "embedding.%s.m", name);
    if (m_kept) m = take(in, &wanted, !in->stateless);
    snprintf(wanted.name, sizeof wanted.name, "embedding.%s.v", name);
    if (v_kept) v = take(in, &wanted, !in->stateless);
    wanted = (struct tensor){ .type = TENSOR_U32, .rank = 1, .shape = { n } };
    snprintf(wanted.name, sizeof wanted.name, "embedding.%s.step", name);
    steps = take(in, &wanted, !in->stateless);
    if (!in->copy || !keys || !rows) return true;

    row = calloc(3 * dimension, sizeof *row);   /* moments that the file does not have are zero */
    if (!row) return cs_fail(err, CS_FAILED, "out of memory for a row of table %s", name);
    for (size_t i = 0; ok && i < n; i++) {
        struct embedding_row one = {
            .row = row, .m = m_kept ? row + dimension : NULL, .v = v_kept ? row + 2 * dimension : NULL, .seen = seen
        };
        size_t bytes = dimension * sizeof *row;
        uint64_t before = 0;
        memcpy(&one.key, (const char *)keys->data + i * sizeof one.key, sizeof one.key);
        if (i) memcpy(&before, (const char *)keys->data + (i - 1) * sizeof before, sizeof before);
        if (i && before >= one.key)
            ok = cs_fail(err, CS_REFUSED, "embedding.%s.keys is not ascending at index %zu", name, i);
        memcpy(row, (const char *)rows->data + i * bytes, bytes);
        if (m) memcpy(row + dimension, (const char *)m->data + i * bytes, bytes);
        if (v) memcpy(row + 2 * dimension, (const char *)v->data + i * bytes, bytes);
        if (steps) memcpy(&one.step, (const char *)steps->data + i * sizeof one.step, sizeof one.step);
        ok = ok && embedding_put(table, &one, err);
        ctl_progress_add(in->progress, 1);
    }
    free(row);
    return ok;
}

/* Which moments the optimizer keeps: adagrad has its sum of squares alone, in v. */
static bool keeps_m(enum optimizer_kind kind) { return optimizer_state_count(kind) == 2; }
static bool keeps_v(enum optimizer_kind kind) { return optimizer_state_count(kind) >= 1; }

static bool all_zero(const struct tensor *tensor)
{
    const char *bytes = tensor->data;
    bool floats = tensor->type == TENSOR_F32;
    for (size_t i = 0; i < tensor_bytes(tensor); i += floats ? sizeof(float) : 1) {
        float number = bytes[i];
        if (floats) memcpy(&number, bytes + i, sizeof number);
        if (number != 0.0f) return false;       /* -0 is zero */
    }
    return true;
}

/* Says which tensors of the file nobody asked for. Moments that this optimizer does not keep are fine while they are
 * zero. */
static bool find_unknown(struct import *in, struct learner *learner, const struct features *features, bool m_kept,
                         bool v_kept, struct cs_error *err)
{
    static const char *const part[] = { "keys", "rows", "m", "v", "step" };
    struct dense dense = { 0 };

    if (!collect_dense(learner, &dense, err)) {
        free(dense.tensor);
        return false;
    }
    for (size_t i = 0; i < exchange_count(in->file); i++) {
        const struct tensor *there = exchange_tensor(in->file, i), *here = find_tensor(&dense, there->name);
        bool known = here != NULL, kept = known && here->data;
        char name[TENSOR_NAME_MAX];
        for (size_t t = 0; !known && t < features->table_count; t++)
            for (size_t p = 0; !known && p < sizeof part / sizeof *part; p++) {
                snprintf(name, sizeof name, "embedding.%s.%s", features->table[t], part[p]);
                known = strcmp(name, there->name) == 0;
                kept = !(p == 2 && !m_kept) && !(p == 3 && !v_kept);
            }
        if (!known) complain(&in->complaints, "%s is not known to this configuration", there->name);
        else if (!kept && !all_zero(there))
            complain(&in->complaints, "%s is state that this configuration's optimizer does not keep", there->name);
    }
    free(dense.tensor);
    return true;
}

bool exchange_into_learner(struct learner *learner, const struct features *features,
                           enum optimizer_kind embedding_optimizer, const char *file, int64_t seen,
                           struct ctl_progress *progress, struct cs_error *err)
{
    struct exchange_file *opened = exchange_open(file, err);
    struct import in = { .file = opened, .stateless = true, .uncounted = true, .progress = progress };
    uint64_t rows = 0;
    bool ok = false, m = keeps_m(embedding_optimizer), v = keeps_v(embedding_optimizer);

    if (!opened) return false;
    for (size_t i = 0; i < exchange_count(opened); i++) {
        const char *name = exchange_tensor(opened, i)->name, *end = strrchr(name, '.');
        bool state = strncmp(name, "optimizer.", 10) == 0 || strncmp(name, "embedding.", 10) == 0;
        if (state && end && (strcmp(end, ".m") == 0 || strcmp(end, ".v") == 0)) in.stateless = false;
        if (strncmp(name, "features.", 9) == 0) in.uncounted = false;
        if (strncmp(name, "embedding.", 10) == 0 && has_ending(name, ".keys"))
            rows += tensor_elements(exchange_tensor(opened, i));
    }
    ctl_progress_phase(progress, "reading", rows, "rows");
    for (int visit = 0; visit < 2; visit++) {       /* first look at all, then copy */
        in.copy = visit == 1;
        if (!learner_tensors(learner, import_tensor, &in, err)) goto out;
        for (size_t t = 0; t < features->table_count; t++)
            if (!import_table(&in, learner_table(learner, t), m, v, seen, err)) goto out;
        if (visit == 0 && in.known < exchange_count(opened) && !find_unknown(&in, learner, features, m, v, err))
            goto out;
        if (in.complaints.count) {
            cs_fail(err, CS_REFUSED, "%zu tensors do not fit this configuration: %s%s", in.complaints.count,
                    in.complaints.text,
                    in.complaints.used + 2 < sizeof in.complaints.text && in.complaints.used ? "" : " ...");
            goto out;
        }
    }
    learner_changed(learner);
    ok = true;
out:
    exchange_close(opened);
    if (!ok) cs_error_at(err, file, 0, 0);
    return ok;
}
