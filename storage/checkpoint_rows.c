/* Leaves of a table, and rows in a leaf. */
#include "storage/checkpoint_rows.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"
#include "storage/format.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || __SIZEOF_SIZE_T__ != 8
#error "LMDB's pages are read as they lie: little-endian, 64-bit"
#endif

enum { HEADER = 16, NODE = 8, KEY = 8, BRANCH = 1, LEAF = 2, OVERFLOW = 4, BIG = 1, DEPTH_MAX = 32, RECORD = 48 };

static const uint64_t NO_ROOT = UINT64_MAX;

static uint16_t u16(const unsigned char *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t u64(const unsigned char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static const unsigned char *page_at(const struct mapped_file *file, uint64_t number)
{
    return file->bytes + number * file->page_size;
}

/* How many nodes a page has; 0 where it is no such page. */
static size_t page_nodes(const struct mapped_file *file, uint64_t number, unsigned kind)
{
    if (number >= file->pages) return 0;
    const unsigned char *page = page_at(file, number);
    size_t lower = u16(page + 12);
    if (u64(page) != number || u16(page + 10) != kind || lower < HEADER || lower > file->page_size || lower % 2)
        return 0;
    return (lower - HEADER) / 2;
}

/* NULL where the node's head and key do not lie in the page. */
static const unsigned char *node_at(const struct mapped_file *file, const unsigned char *page, size_t i)
{
    size_t offset = u16(page + HEADER + 2 * i);
    return offset < HEADER || offset + NODE + KEY > file->page_size ? NULL : page + offset;
}

static uint64_t node_key(const unsigned char *node)
{
    return format_big_endian(u64(node + NODE));
}

/* The row of a leaf's node, and how many floats it has; NULL where it does not lie in the file. */
static const float *node_row(const struct mapped_file *file, const unsigned char *page, const unsigned char *node,
                             size_t *dimension)
{
    size_t size = u16(node) | (size_t)u16(node + 2) << 16;
    const unsigned char *value = node + NODE + KEY, *end = page + file->page_size;
    unsigned flags = u16(node + 4);
    if (u16(node + 6) != KEY || size % sizeof(float) || flags & ~(unsigned)BIG) return NULL;
    if (flags & BIG) {
        if ((size_t)(end - value) < sizeof(uint64_t)) return NULL;
        uint64_t number = u64(value);
        if (number >= file->pages || u16(page_at(file, number) + 10) != OVERFLOW) return NULL;
        value = page_at(file, number) + HEADER;
        end = file->bytes + file->pages * file->page_size;
    }
    if (size > (size_t)(end - value) || (uintptr_t)value % sizeof(float)) return NULL;
    *dimension = size / sizeof(float);
    return (const float *)(const void *)value;
}

/* -- opening ------------------------------------------------------------------------------------------------------ */

static bool damaged(struct cs_error *err, uint64_t page, const char *what)
{
    return cs_fail(err, CS_REFUSED, "page %" PRIu64 " is damaged: %s", page, what);
}

struct walk { struct row_leaves *rows; size_t expected; };

static bool add_leaf(struct walk *walk, uint64_t page, uint64_t first, struct cs_error *err)
{
    struct row_leaves *rows = walk->rows;
    if (rows->leaves == walk->expected) return damaged(err, page, "more leaves than the table has");
    if (rows->leaves && rows->first[rows->leaves - 1] >= first) return damaged(err, page, "its key does not ascend");
    rows->first[rows->leaves] = first;
    rows->page[rows->leaves++] = (uint32_t)page;
    return true;
}

/* A page `depth` levels above the leaves' level; first: the smallest key that may lie below it. */
static bool walk_page(struct walk *walk, uint64_t number, unsigned depth, uint64_t first, struct cs_error *err)
{
    const struct mapped_file *file = walk->rows->file;
    if (number >= file->pages) return damaged(err, number, "beyond the file's end");
    if (!depth) return add_leaf(walk, number, first, err);
    size_t nodes = page_nodes(file, number, BRANCH);
    if (!nodes) return damaged(err, number, "no branch");
    for (size_t i = 0; i < nodes; i++) {
        const unsigned char *page = page_at(file, number), *node = node_at(file, page, i);
        /* The first node's key is empty, and the node may end where the page does. */
        size_t offset = u16(page + HEADER + 2 * i);
        if (!node && (i || offset < HEADER || offset + NODE > file->page_size))
            return damaged(err, number, "a node outside");
        node = page + offset;
        if (u16(node + 6) != (i ? KEY : 0)) return damaged(err, number, "a key of another size");
        uint64_t child = u16(node) | (uint64_t)u16(node + 2) << 16 | (uint64_t)u16(node + 4) << 32;
        if (!walk_page(walk, child, depth - 1, i ? node_key(node) : first, err)) return false;
    }
    return true;
}

static void fill_buckets(struct row_leaves *rows)
{
    unsigned bits = 1;
    size_t leaf = 0;
    while (bits < 32 && (uint64_t)1 << bits < rows->leaves) bits++;
    rows->shift = 64 - bits;
    rows->bucket = need(malloc((((size_t)1 << bits) + 1) * sizeof *rows->bucket));
    for (uint64_t b = 0; b < (uint64_t)1 << bits; b++) {
        while (leaf + 1 < rows->leaves && rows->first[leaf + 1] <= b << rows->shift) leaf++;
        rows->bucket[b] = (uint32_t)leaf;
    }
    rows->bucket[(size_t)1 << bits] = (uint32_t)(rows->leaves ? rows->leaves - 1 : 0);
}

struct check { uint64_t rows, last; };

static bool check_row(void *self, uint64_t key, const float *row, size_t dimension, struct cs_error *err)
{
    struct check *check = self;
    (void)row, (void)dimension;
    if (check->rows++ && key <= check->last)
        return cs_fail(err, CS_REFUSED, "row %016" PRIx64 " does not ascend", key);
    check->last = key;
    return true;
}

bool row_leaves_open(struct row_leaves *rows, const struct mapped_file *file, const void *record, size_t record_size,
                     bool all, struct cs_error *err)
{
    const unsigned char *at = record;
    *rows = (struct row_leaves){ .file = file };
    if (record_size != RECORD || u16(at + 4) != 0)
        return cs_fail(err, CS_REFUSED, "its database's record is damaged or of another kind");
    unsigned depth = u16(at + 6);
    uint64_t leaves = u64(at + 16), root = u64(at + 40);
    rows->rows = u64(at + 32);
    if (root == NO_ROOT && rows->rows) return cs_fail(err, CS_REFUSED, "%" PRIu64 " rows and no page", rows->rows);
    if (root == NO_ROOT) leaves = 0;
    if (leaves > file->pages || file->pages > UINT32_MAX || depth > DEPTH_MAX || (leaves && !depth))
        return cs_fail(err, CS_REFUSED, "%" PRIu64 " leaves at depth %u in %zu pages", leaves, depth, file->pages);
    struct walk walk = { rows, leaves };
    rows->first = need(calloc(leaves + 1, sizeof *rows->first));
    rows->page = need(calloc(leaves + 1, sizeof *rows->page));
    if (leaves && !walk_page(&walk, root, depth - 1, 0, err)) return false;
    if (rows->leaves != leaves)
        return cs_fail(err, CS_REFUSED, "%zu leaves, %" PRIu64 " expected", rows->leaves, leaves);
    fill_buckets(rows);
    if (leaves) {
        const unsigned char *page = page_at(file, rows->page[0]);
        const unsigned char *node = page_nodes(file, rows->page[0], LEAF) ? node_at(file, page, 0) : NULL;
        if (!node || !node_row(file, page, node, &rows->dimension)) return damaged(err, rows->page[0], "no rows in it");
    }
    struct check check = { 0 };
    if (!all) return true;
    if (!row_leaves_each(rows, check_row, &check, err)) return false;
    return check.rows == rows->rows ||
           cs_fail(err, CS_REFUSED, "%" PRIu64 " rows, says %" PRIu64, check.rows, rows->rows);
}

void row_leaves_close(struct row_leaves *rows)
{
    free(rows->first);
    free(rows->page);
    free(rows->bucket);
    *rows = (struct row_leaves){ 0 };
}

/* -- finding ------------------------------------------------------------------------------------------------------ */

static uint64_t next_first(const struct row_leaves *rows, size_t leaf)
{
    return leaf + 1 < rows->leaves ? rows->first[leaf + 1] : UINT64_MAX;
}

/* Where a key would stand among n that are spread evenly over [first, next). */
static size_t guess(uint64_t key, uint64_t first, uint64_t next, size_t n)
{
    double share = (double)(key - first) / ((double)(next - first) + 1.0);
    size_t at = (size_t)(share * (double)n);
    return at < n ? at : n - 1;
}

void row_leaves_prefetch(const struct row_leaves *rows, uint64_t key)
{
    __builtin_prefetch(&rows->bucket[key >> rows->shift]);
}

size_t row_leaves_leaf(const struct row_leaves *rows, uint64_t key)
{
    if (!rows->leaves) return 0;
    size_t low = rows->bucket[key >> rows->shift], high = rows->bucket[(key >> rows->shift) + 1];
    while (high - low > 8) {            /* keys that are no hashes may crowd one bucket */
        size_t middle = low + (high - low + 1) / 2;
        if (rows->first[middle] <= key) low = middle;
        else high = middle - 1;
    }
    while (low < high && rows->first[low + 1] <= key) low++;
    const unsigned char *page = page_at(rows->file, rows->page[low]);
    __builtin_prefetch(page);
    /* Rows that were appended in order stand from the page's end downwards, all of one size. */
    size_t size = NODE + KEY + rows->dimension * sizeof(float);
    if (size < (rows->file->page_size - HEADER) / 2) {
        size_t n = (rows->file->page_size - HEADER) / (size + 2);
        size_t at = guess(key, rows->first[low], next_first(rows, low), n);
        __builtin_prefetch(page + rows->file->page_size - (at + 1) * size);
    }
    return low;
}

const float *row_leaves_find(const struct row_leaves *rows, size_t leaf, uint64_t key)
{
    enum { GUESSES = 6 };
    if (leaf >= rows->leaves) return NULL;
    const struct mapped_file *file = rows->file;
    const unsigned char *page = page_at(file, rows->page[leaf]);
    size_t low = 0, high = page_nodes(file, rows->page[leaf], LEAF), at, dimension;
    if (!high) return NULL;
    at = guess(key, rows->first[leaf], next_first(rows, leaf), high);
    for (size_t step = 0; low < high; step++) {
        if (step >= GUESSES) at = low + (high - low) / 2;
        const unsigned char *node = node_at(file, page, at);
        if (!node) return NULL;
        uint64_t there = node_key(node);
        if (there == key) {
            const float *row = node_row(file, page, node, &dimension);
            return row && dimension == rows->dimension ? row : NULL;
        }
        if (there < key) at = low = at + 1;
        else high = at, at -= at > low;
    }
    return NULL;
}

bool row_leaves_each(const struct row_leaves *rows, row_visitor *visit, void *self, struct cs_error *err)
{
    for (size_t leaf = 0; leaf < rows->leaves; leaf++) {
        size_t nodes = page_nodes(rows->file, rows->page[leaf], LEAF);
        if (!nodes) return damaged(err, rows->page[leaf], "no leaf");
        for (size_t i = 0; i < nodes; i++) {
            const unsigned char *page = page_at(rows->file, rows->page[leaf]), *node = node_at(rows->file, page, i);
            size_t dimension = 0;
            const float *row = node ? node_row(rows->file, page, node, &dimension) : NULL;
            if (!row || dimension != rows->dimension || node_key(node) < rows->first[leaf] ||
                (leaf + 1 < rows->leaves && node_key(node) >= rows->first[leaf + 1]))
                return damaged(err, rows->page[leaf], "a row in it is");
            if (!visit(self, node_key(node), row, dimension, err)) return false;
        }
    }
    return true;
}
