/* A snapshot or a checkpoint, whichever a path is, read the same way: texts, dense tensors, tables of rows. */
#ifndef TOOLS_CTL_SOURCE_H
#define TOOLS_CTL_SOURCE_H

#include "core/embedding.h"
#include "storage/checkpoint.h"
#include "storage/snapshot.h"
#include "tools/ctl_progress.h"

/* A table's rows in ascending order of key. m, v: NULL where none are stored (checkpoints; optimizers without). */
struct source_table {
    char name[NAME_SIZE];
    size_t count, dimension;
    uint64_t *key;
    float *row, *m, *v;
    uint32_t *step;             /* NULL: a checkpoint */
    int64_t *seen;              /* NULL: a checkpoint */
};

struct source {
    struct checkpoint *checkpoint;      /* one of these two */
    struct snapshot_view *snapshot;
    size_t dimension;                   /* of all rows */
    struct ctl_progress *progress;      /* told of what is read */
};

/* A checkpoint is first read against its manifest's SHA-256: LMDB trusts its pages, and crashes on damaged ones.
 * progress lives as long as the source; the stretches below are of its bytes. */
bool source_open(struct source *source, const char *path, struct ctl_progress *progress, struct cs_error *err);
/* The next stretch: so many readings of all there is. */
void source_phase(struct source *source, const char *what, uint64_t readings);
void source_close(struct source *source);
typedef bool source_table_visitor(void *self, const char *table, struct cs_error *err);
bool source_tables(struct source *source, source_table_visitor *visit, void *self, struct cs_error *err);
/* Reads all rows of one table into memory; released by source_table_release. */
bool source_table_read(struct source *source, const char *name, struct source_table *table, struct cs_error *err);
void source_table_release(struct source_table *table);
bool source_tensors(struct source *source, tensor_visitor *visit, void *self, struct cs_error *err);
const char *source_meta(struct source *source, const char *name);      /* NULL: none */

#endif
