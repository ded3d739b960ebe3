/* The structure of an LMDB 0.9 file, walked by pread alone. As far as it matters here:
 *
 *   page        number u64 | pad u16 | flags u16 | lower u16, upper u16 (overflow: pages u32) | offsets u16[] ... nodes
 *   node        data size u32 | flags u16 | key size u16 | key | data
 *               in a branch the first 6 bytes are a page number
 *   database    pad u32 | flags u16 | depth u16 | branch, leaf, overflow pages, entries, root u64        48 bytes
 *   meta page   after 16 bytes: magic, version u32 | address, map size u64 | free, main database | last page, txn u64
 *
 * Transaction t writes meta page t % 2; so the other one has t - 1. */
#include "storage/root_check.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/need.h"
#include "storage/file.h"

enum {
    PAGE_HEADER = 16, NODE_HEADER = 8, DEPTH_MAX = 32, KEY_MAX = 511, BRANCH = 1, LEAF = 2, OVERFLOW_RUN = 4, META = 8,
    NODE_BIG = 1, NODE_DATABASE = 2, INTEGER_KEY = 8, NO_SUBDIR = 0x4000,
};
static const uint32_t lmdb_magic = 0xBEEFC0DE;
static const uint64_t no_page = UINT64_MAX;

struct database { uint32_t pad; uint16_t flags, depth; uint64_t branches, leaves, overflows, entries, root; };
struct meta { uint32_t magic, version; uint64_t address, map_bytes; struct database free, main; uint64_t last, txn; };
struct page_header { uint64_t number; uint16_t pad, flags, lower, upper; };
struct node_header { uint16_t low, high, flags, key_size; };
_Static_assert(sizeof(struct database) == 48 && sizeof(struct meta) == 136, "as LMDB has it on 64 bits");
_Static_assert(sizeof(struct page_header) == PAGE_HEADER && sizeof(struct node_header) == NODE_HEADER, "no padding");

struct walk {
    const char *file, *apart;
    int fd;
    size_t page_size;
    struct meta meta;
    uint64_t *used;                     /* a bit a page */
    struct cs_error *err;
    bool free_list;                     /* walking that tree */
    struct database seen;               /* counts of the tree under way */
    bool integer_keys;
    unsigned char last_key[KEY_MAX];    /* of the leaf before: keys must rise */
    size_t last_key_size;
    bool has_last_key;
};

static bool bad(const struct walk *walk, uint64_t page, const char *what)
{
    return cs_fail(walk->err, CS_REFUSED, "%s is damaged: page %" PRIu64 " %s", walk->file, page, what);
}

static bool read_page(struct walk *walk, uint64_t number, void *into, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(walk->fd, (char *)into + done, size - done, (off_t)(number * walk->page_size + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return cs_fail_errno(walk->err, errno, "reading %s", walk->file);
        if (got == 0) return bad(walk, number, "is past the end of the file");
        done += (size_t)got;
    }
    return true;
}

static bool use(struct walk *walk, uint64_t page, uint64_t count)
{
    if (page < 2 || page > walk->meta.last || count > walk->meta.last - page + 1)
        return bad(walk, page, "is named and is not in the file");
    for (uint64_t p = page; p < page + count; p++) {
        if (walk->used[p / 64] >> p % 64 & 1) return bad(walk, p, "is used twice");
        walk->used[p / 64] |= 1ull << p % 64;
    }
    return true;
}

static bool walk_database(struct walk *walk, const struct database *database, bool named);

static bool check_free_list(struct walk *walk, uint64_t page, const unsigned char *data, size_t size)
{
    uint64_t count, before = no_page, at;
    if (size < 8 || size % 8) return bad(walk, page, "has a list of free pages of an impossible size");
    memcpy(&count, data, 8);
    if (count > size / 8 - 1) return bad(walk, page, "has a list of free pages longer than its record");
    for (uint64_t i = 1; i <= count; i++, before = at) {
        memcpy(&at, data + 8 * i, 8);
        if (at >= before) return bad(walk, page, "has a list of free pages out of order");
        if (!use(walk, at, 1)) return cs_error_prefix(walk->err, "of the free pages");
    }
    return true;
}

static bool big_data(struct walk *walk, uint64_t page, const unsigned char *data, size_t size)
{
    struct page_header header;
    uint64_t run, pages = (PAGE_HEADER - 1 + (uint64_t)size) / walk->page_size + 1;
    uint32_t said;
    memcpy(&run, data, 8);
    if (!use(walk, run, pages)) return false;
    if (!read_page(walk, run, &header, sizeof header)) return false;
    memcpy(&said, &header.lower, sizeof said);
    if (header.number != run || header.flags != OVERFLOW_RUN || said != pages)
        return bad(walk, run, "is not the overflow that a record names");
    walk->seen.overflows += pages;
    if (!walk->free_list) return true;
    unsigned char *list = need(malloc(size ? size : 1));
    bool ok = true;
    size_t header_size = PAGE_HEADER;
    for (size_t done = 0; ok && done < size;) {
        ssize_t got = pread(walk->fd, list + done, size - done, (off_t)(run * walk->page_size + header_size + done));
        if (got <= 0) ok = bad(walk, run, "can't be read");
        else done += (size_t)got;
    }
    ok = ok && check_free_list(walk, page, list, size);
    free(list);
    return ok;
}

/* Keys rise through all leaves. */
static bool check_key(struct walk *walk, uint64_t page, const unsigned char *key, size_t size)
{
    if (size > KEY_MAX) return bad(walk, page, "has a key that is too long");
    if (walk->integer_keys && size != 8) return bad(walk, page, "has a key of another size than a number");
    if (walk->has_last_key) {
        int order;
        if (walk->integer_keys) {
            uint64_t left, right;
            memcpy(&left, walk->last_key, 8);
            memcpy(&right, key, 8);
            order = left < right ? -1 : left > right;
        } else {
            size_t common = size < walk->last_key_size ? size : walk->last_key_size;
            order = memcmp(walk->last_key, key, common);
            if (!order) order = walk->last_key_size < size ? -1 : walk->last_key_size > size;
        }
        if (order >= 0) return bad(walk, page, "has keys out of order");
    }
    memcpy(walk->last_key, key, size);
    walk->last_key_size = size;
    return walk->has_last_key = true;
}

static bool is_apart(const struct walk *walk, const unsigned char *name, size_t size)
{
    size_t length = walk->apart ? strlen(walk->apart) : 0;
    return length && size > length && !memcmp(name, walk->apart, length);
}

static bool leaf_node(struct walk *walk, uint64_t page, const unsigned char *node, size_t room, bool main_tree)
{
    struct node_header header;
    memcpy(&header, node, sizeof header);
    size_t size = header.low | (size_t)header.high << 16;
    size_t in_page = header.flags & NODE_BIG ? 8 : size;
    if (header.key_size + in_page > room - NODE_HEADER) return bad(walk, page, "has a record past its end");
    const unsigned char *key = node + NODE_HEADER, *data = key + header.key_size;
    if (header.flags & ~(NODE_BIG | (main_tree ? NODE_DATABASE : 0)) || header.flags == (NODE_BIG | NODE_DATABASE))
        return bad(walk, page, "has a record of an unknown kind");
    if (!check_key(walk, page, key, header.key_size)) return false;
    walk->seen.entries++;
    if (header.flags & NODE_BIG) return big_data(walk, page, data, size);
    if (walk->free_list) return check_free_list(walk, page, data, size);
    if (!(header.flags & NODE_DATABASE)) return true;
    struct database database;
    if (size != sizeof database) return bad(walk, page, "has a database of an impossible size");
    if (is_apart(walk, key, header.key_size)) return true;
    memcpy(&database, data, sizeof database);
    struct walk kept = *walk;       /* another tree inside this one */
    bool ok = walk_database(walk, &database, true);
    walk->seen = kept.seen;
    walk->integer_keys = kept.integer_keys;
    memcpy(walk->last_key, kept.last_key, sizeof walk->last_key);
    walk->last_key_size = kept.last_key_size;
    walk->has_last_key = kept.has_last_key;
    return ok;
}

static bool walk_page(struct walk *walk, uint64_t number, unsigned depth, bool main_tree)
{
    struct page_header header = { 0 };
    if (!use(walk, number, 1)) return false;
    unsigned char *page = need(malloc(walk->page_size));
    bool ok = read_page(walk, number, page, walk->page_size);
    if (ok) memcpy(&header, page, sizeof header);
    if (ok && (header.number != number || header.flags != (depth > 1 ? BRANCH : LEAF)))
        ok = bad(walk, number, "is not the one that is named");
    if (ok && (header.lower < PAGE_HEADER || header.lower > header.upper || header.upper > walk->page_size ||
               header.lower % 2))
        ok = bad(walk, number, "has impossible bounds");
    size_t nodes = ok ? (header.lower - PAGE_HEADER) / 2u : 0;
    if (ok && nodes < (depth > 1 ? 2 : 1)) ok = bad(walk, number, "has too few records");
    *(depth > 1 ? &walk->seen.branches : &walk->seen.leaves) += 1;
    for (size_t i = 0; ok && i < nodes; i++) {
        uint16_t offset;
        struct node_header node;
        memcpy(&offset, page + PAGE_HEADER + 2 * i, sizeof offset);
        if (offset < header.upper || offset % 2 || offset > walk->page_size - NODE_HEADER) {
            ok = bad(walk, number, "has a record out of its bounds");
            break;
        }
        if (depth == 1) {
            ok = leaf_node(walk, number, page + offset, walk->page_size - offset, main_tree);
            continue;
        }
        memcpy(&node, page + offset, sizeof node);
        if (node.key_size > walk->page_size - offset - NODE_HEADER || (!i && node.key_size))
            ok = bad(walk, number, "has a key past its end");
        else ok = walk_page(walk, node.low | (uint64_t)node.high << 16 | (uint64_t)node.flags << 32, depth - 1,
                            main_tree);
    }
    free(page);
    return ok;
}

static bool walk_database(struct walk *walk, const struct database *database, bool named)
{
    walk->seen = (struct database){ 0 };
    walk->has_last_key = false;
    walk->integer_keys = database->flags & INTEGER_KEY;
    uint64_t page = database->root == no_page ? 0 : database->root;
    if (database->flags != (walk->free_list ? INTEGER_KEY : 0) || database->depth > DEPTH_MAX ||
        (database->root == no_page) != (database->depth == 0))
        return bad(walk, page, "is the root of a database that can't be");
    if (database->depth && !walk_page(walk, database->root, database->depth, !walk->free_list && !named)) return false;
    if (walk->seen.branches != database->branches || walk->seen.leaves != database->leaves ||
        walk->seen.overflows != database->overflows || walk->seen.entries != database->entries)
        return bad(walk, page, "is the root of another number of pages or records than is said");
    return true;
}

static bool read_meta(struct walk *walk, uint64_t number, struct meta *meta)
{
    unsigned char bytes[PAGE_HEADER + sizeof *meta];
    struct page_header header;
    if (!read_page(walk, number, bytes, sizeof bytes)) return false;
    memcpy(&header, bytes, sizeof header);
    memcpy(meta, bytes + PAGE_HEADER, sizeof *meta);
    if (header.number != number || header.flags != META || meta->magic != lmdb_magic || meta->version != 1)
        return bad(walk, number, "is no meta page");
    size_t size = meta->free.pad;
    if (size < 512 || size > 65536 || size & (size - 1) || (number && size != walk->page_size))
        return bad(walk, number, "has an impossible page size");
    meta->free.flags &= (uint16_t)~NO_SUBDIR;       /* how the file was made: by its path, as checkpoints are */
    if (meta->free.flags != INTEGER_KEY || meta->main.flags)
        return bad(walk, number, "has unknown flags");
    return true;
}

static bool walk_file(struct walk *walk, uint64_t file_size, uint64_t *txn)
{
    struct meta meta[2];
    walk->page_size = 4096;             /* of the first read, at 0: any would do */
    if (!read_meta(walk, 0, &meta[0])) return false;
    walk->page_size = meta[0].free.pad;
    if (!read_meta(walk, 1, &meta[1])) return false;
    walk->meta = meta[meta[1].txn > meta[0].txn];
    *txn = walk->meta.txn;
    for (uint64_t i = 0; i < 2; i++)
        if ((meta[0].txn || meta[1].txn) && (meta[i].txn % 2 != i || walk->meta.txn - meta[i].txn > 1))
            return bad(walk, i, "has the number of an impossible transaction");
    if (walk->meta.last < 1 || walk->meta.last >= file_size / walk->page_size)
        return cs_fail(walk->err, CS_REFUSED, "%s is truncated: its last page is number %" PRIu64 ", the file has "
                       "%" PRIu64 " bytes", walk->file, walk->meta.last, file_size);
    walk->used = need(calloc(walk->meta.last / 64 + 1, sizeof *walk->used));
    bool ok = walk_database(walk, &walk->meta.main, false);
    walk->free_list = true;
    ok = ok && walk_database(walk, &walk->meta.free, false);
    free(walk->used);
    return ok;
}

bool root_check(const char *file, const char *apart, struct cs_error *err)
{
    uint64_t before = no_page;
    int fd = file_open(file, O_RDONLY, err);
    if (fd < 0) return false;
    bool ok;
    for (;;) {
        struct stat status;
        uint64_t txn = no_page - 1;
        struct walk walk = { .file = file, .apart = apart, .fd = fd, .err = err };
        if (fstat(fd, &status)) {
            ok = cs_fail_errno(err, errno, "looking at %s", file);
            break;
        }
        ok = walk_file(&walk, (uint64_t)status.st_size, &txn);
        if (ok || txn == before) break;
        before = txn;           /* its writer may have gone on under us: damage stays in one and the same transaction */
    }
    close(fd);
    return ok;
}
