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

    for (size_t i = 0; i < tensor->rank && n < size; i++) n += (size_t)snprintf(text + n, size - n, "%s%zu", i ? ", " : "", tensor->shape[i]);
    if (n < size) snprintf(text + n, size - n, "] %s", type_name[tensor->type]);
}

/* ------------------------------------------------------------------------------------------------------ writing */

bool exchange_announce_table(struct exchange_writer *writer, const char *table, size_t n, size_t dimension, bool m, bool v, bool step,
                             struct cs_error *err)
{
    const struct { const char *part; enum tensor_type type; size_t rank; bool kept; } parts[] = {
        { "keys", TENSOR_U64, 1, true }, { "rows", TENSOR_F32, 2, true }, { "m", TENSOR_F32, 2, m }, { "v", TENSOR_F32, 2, v },
        { "step", TENSOR_U32, 1, step },
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
struct pass { struct exchange_writer *writer; enum part part; size_t dimension; };

static bool write_row(void *self, const struct embedding_row *row, struct cs_error *err)
{
    struct pass *pass = self;

    switch (pass->part) {
    case PART_KEYS: return exchange_data(pass->writer, &row->key, sizeof row->key, err);
    case PART_ROWS: return exchange_data(pass->writer, row->row, pass->dimension * sizeof(float), err);
    case PART_M: return exchange_data(pass->writer, row->m, pass->dimension * sizeof(float), err);
    case PART_V: return exchange_data(pass->writer, row->v, pass->dimension * sizeof(float), err);
    default: return exchange_data(pass->writer, &row->step, sizeof row->step, err);
    }
}

static bool announce_tensor(void *self, const struct tensor *tensor, struct cs_error *err) { return exchange_announce(self, tensor, err); }
static bool write_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    return exchange_data(self, tensor->data, tensor_bytes(tensor), err);
}

/* Which moments the optimizer keeps: adagrad has its sum of squares alone, in v. */
static bool keeps_m(enum optimizer_kind kind) { return optimizer_state_count(kind) == 2; }
static bool keeps_v(enum optimizer_kind kind) { return optimizer_state_count(kind) >= 1; }

bool exchange_from_learner(struct learner *learner, const struct features *features, enum optimizer_kind embedding_optimizer,
                           const char *file, enum exchange_format format, struct cs_error *err)
{
    struct exchange_writer *writer = exchange_create(file, format, err);
    bool m = keeps_m(embedding_optimizer), v = keeps_v(embedding_optimizer);

    if (!writer) return false;
    for (size_t t = 0; t < features->table_count; t++) {
        const struct embedding_table *table = learner_table(learner, t);
        if (!exchange_announce_table(writer, embedding_name(table), embedding_rows(table), embedding_dimension(table), m, v, true, err)) goto fail;
    }
    if (!learner_tensors(learner, announce_tensor, writer, err)) goto fail;
    for (size_t t = 0; t < features->table_count; t++) {
        const struct embedding_table *table = learner_table(learner, t);
        struct pass pass = { writer, PART_KEYS, embedding_dimension(table) };
        for (; pass.part < PARTS; pass.part++) {
            if ((pass.part == PART_M && !m) || (pass.part == PART_V && !v)) continue;
            if (!embedding_each(table, write_row, &pass, err)) goto fail;
        }
    }
    if (!learner_tensors(learner, write_tensor, writer, err)) goto fail;
    return exchange_finish(writer, err);
fail:
    exchange_abandon(writer);
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
    if (c->used + n < sizeof c->text) c->used += (size_t)snprintf(c->text + c->used, sizeof c->text - c->used, "%s%s", c->count ? "; " : "", one);
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
    bool copy;                  /* second visit: everything fits */
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
    } else {
        take(in, tensor, !(in->stateless && tensor->role == TENSOR_OPTIMIZER));
    }
    return true;
}

static bool import_table(struct import *in, struct embedding_table *table, bool m_kept, bool v_kept, int64_t seen, struct cs_error *err)
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

    row = malloc(3 * dimension * sizeof *row);
    if (!row) return cs_fail(err, CS_FAILED, "out of memory");
    for (size_t i = 0; ok && i < n; i++) {
        struct embedding_row one = { .row = row, .m = m ? row + dimension : NULL, .v = v ? row + 2 * dimension : NULL, .seen = seen };
        size_t bytes = dimension * sizeof *row;
        uint64_t before = 0;
        memcpy(&one.key, (const char *)keys->data + i * sizeof one.key, sizeof one.key);
        if (i) memcpy(&before, (const char *)keys->data + (i - 1) * sizeof before, sizeof before);
        if (i && before >= one.key) ok = cs_fail(err, CS_REFUSED, "embedding.%s.keys is not ascending at index %zu", name, i);
        memcpy(row, (const char *)rows->data + i * bytes, bytes);
        if (m) memcpy(row + dimension, (const char *)m->data + i * bytes, bytes);
        if (v) memcpy(row + 2 * dimension, (const char *)v->data + i * bytes, bytes);
        if (steps) memcpy(&one.step, (const char *)steps->data + i * sizeof one.step, sizeof one.step);
        ok = ok && embedding_put(table, &one, err);
    }
    free(row);
    return ok;
}

/* Says which tensors of the file nobody asked for. */
static void find_unknown(struct import *in, struct learner *learner, const struct features *features);

struct search { const char *name; bool found; };
static bool match(void *self, const struct tensor *tensor, struct cs_error *err)
{
    struct search *search = self;
    (void)err;
    if (strcmp(tensor->name, search->name) == 0) search->found = true;
    return true;
}

static void find_unknown(struct import *in, struct learner *learner, const struct features *features)
{
    static const char *const part[] = { "keys", "rows", "m", "v", "step" };

    for (size_t i = 0; i < exchange_count(in->file); i++) {
        struct search search = { .name = exchange_tensor(in->file, i)->name };
        char name[TENSOR_NAME_MAX];
        learner_tensors(learner, match, &search, NULL);
        for (size_t t = 0; !search.found && t < features->table_count; t++)
            for (size_t p = 0; p < sizeof part / sizeof *part; p++) {
                snprintf(name, sizeof name, "embedding.%s.%s", features->table[t], part[p]);
                if (strcmp(name, search.name) == 0) search.found = true;
            }
        if (!search.found) complain(&in->complaints, "%s is not known to this configuration", search.name);
    }
}

bool exchange_into_learner(struct learner *learner, const struct features *features, enum optimizer_kind embedding_optimizer,
                           const char *file, int64_t seen, struct cs_error *err)
{
    struct exchange_file *opened = exchange_open(file, err);
    struct import in = { .file = opened, .stateless = true };
    bool ok = false, m = keeps_m(embedding_optimizer), v = keeps_v(embedding_optimizer);

    if (!opened) return false;
    for (size_t i = 0; i < exchange_count(opened); i++) {
        const char *name = exchange_tensor(opened, i)->name, *end = strrchr(name, '.');
        if (strncmp(name, "optimizer.", 10) == 0) in.stateless = false;
        if (strncmp(name, "embedding.", 10) == 0 && end && strcmp(end, ".keys") != 0 && strcmp(end, ".rows") != 0) in.stateless = false;
    }
    for (int visit = 0; visit < 2; visit++) {       /* first look at all, then copy */
        in.copy = visit == 1;
        if (!learner_tensors(learner, import_tensor, &in, err)) goto out;
        for (size_t t = 0; t < features->table_count; t++)
            if (!import_table(&in, learner_table(learner, t), m, v, seen, err)) goto out;
        if (visit == 0 && in.known < exchange_count(opened)) find_unknown(&in, learner, features);
        if (in.complaints.count) {
            cs_fail(err, CS_REFUSED, "%zu tensors do not fit this configuration: %s%s", in.complaints.count, in.complaints.text,
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
