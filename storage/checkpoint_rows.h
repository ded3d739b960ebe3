/* One table's rows in a mapped checkpoint, found without LMDB and without an entry a row: at opening only the branch
 * pages are read (1 in 200), and for each leaf page its smallest key and its number are kept, 12 bytes for some thirty
 * rows.
 *
 *   bucket[]  top bits of a key -> the first leaf that may hold it; about one a leaf, keys being hashes
 *   first[]   smallest key of each leaf, ascending           page[]  its page
 *
 * A lookup goes by bucket to the leaf, and by interpolation to the row within it. What is read of a page is checked
 * against the page's bounds each time: no damage leads out of the map.
 *
 * The layout read here is LMDB 0.9's (data version 1), little-endian and 64-bit:
 *
 *   page    | number u64 | pad u16 | flags u16 | lower u16 | upper u16 | node offset u16[] ...     lower = 16 + 2 nodes
 *           flags: 1 branch, 2 leaf, 4 overflow
 *   node    | low u16 | high u16 | flags u16 | key size u16 | key | value
 *   branch  low, high, flags: the child's page number, 16 bits each; the first node's key is empty: "everything below"
 *   leaf    low, high: the value's size; flags 1: the value is the u64 number of an overflow page, data 16 bytes in
 *   record  of a named database: pad u32, flags u16, depth u16, branch, leaf, overflow pages, entries, root u64 each */
#ifndef STORAGE_CHECKPOINT_ROWS_H
#define STORAGE_CHECKPOINT_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

struct mapped_file { const unsigned char *bytes; size_t page_size, pages; };

struct row_leaves {
    const struct mapped_file *file;
    uint64_t rows;
    size_t dimension, leaves;
    uint64_t *first;            /* [leaves] */
    uint32_t *page;             /* [leaves] */
    uint32_t *bucket;           /* [2^bits + 1] */
    unsigned shift;             /* 64 - bits */
};

/* record: of the named database, as the main database holds it. all: every leaf and every row is looked at too, not
 * only the branches: for a file that no checksum stands for. CS_REFUSED where the structure is damaged. */
bool row_leaves_open(struct row_leaves *rows, const struct mapped_file *file, const void *record, size_t record_size,
                     bool all, struct cs_error *err);
void row_leaves_close(struct row_leaves *rows);

/* Where a row would be found, in steps: many lookups take each together, and so wait for memory together. */
void row_leaves_prefetch(const struct row_leaves *rows, uint64_t key);          /* the bucket */
size_t row_leaves_leaf(const struct row_leaves *rows, uint64_t key);            /* prefetches the leaf's beginning */
const float *row_leaves_find(const struct row_leaves *rows, size_t leaf, uint64_t key);        /* NULL: no row */

typedef bool row_visitor(void *self, uint64_t key, const float *row, size_t dimension, struct cs_error *err);
/* In ascending order. */
bool row_leaves_each(const struct row_leaves *rows, row_visitor *visit, void *self, struct cs_error *err);

#endif
