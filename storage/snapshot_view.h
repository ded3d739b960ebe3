/* A view from inside, for storage/snapshot_view.c and storage/snapshot_backup.c. */
#ifndef STORAGE_SNAPSHOT_VIEW_H
#define STORAGE_SNAPSHOT_VIEW_H

#include "storage/snapshot_internal.h"

struct kept { struct kept *next; uint64_t bytes[]; };

struct snapshot_view {
    struct state_reader reader;         /* first: the reader's self is the view */
    struct manifest manifest;
    struct index index;
    struct segment *segment;            /* [manifest.segments], open: the view's files stay whatever others do */
    struct bytes buffer;
    struct kept *kept;                  /* what `get` gave */
    const struct storage_watch *watch;  /* NULL: nobody waits */
};

/* segment_read, and the watch told of it. */
bool view_read(const struct snapshot_view *view, const struct segment *segment, size_t block, struct bytes *buffer,
               struct cs_error *err);

/* The first record of a block from *at on that is the newest of its slot; NULL: none is left. */
const struct state_record *view_next(const struct index_section *section, const struct segment *segment,
                                     const struct bytes *payload, size_t *at);
/* Whether a block holds any of the section's living records. */
bool view_block_lives(const struct index_section *section, const struct segment *segment,
                      const struct segment_block *block);

#endif
