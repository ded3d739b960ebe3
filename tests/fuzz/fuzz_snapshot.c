/* Any bytes as what a snapshot consists of: the root (LMDB's file), a cut's manifest, a segment's footer. Refused, or
 * what comes out is whole. The first byte says which; where a checksum stands before the rest, it is made right. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "storage/root_check.h"
#include "storage/segment_format.h"
#include "storage/snapshot.h"
#include "storage/snapshot_root.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Decoded and encoded again: the same bytes. */
static void read_manifest(const uint8_t *bytes, size_t size)
{
    enum { CHECKSUM_AT = 8, REST_AT = 16, CUT_AT = 24 };
    struct manifest manifest;
    struct bytes again = { 0 };
    uint64_t cut = 0, checksum;
    uint8_t *copy = malloc(size + 1);
    if (!copy) abort();
    memcpy(copy, bytes, size);
    if (size >= CUT_AT + 8) memcpy(&cut, bytes + CUT_AT, sizeof cut);
    if (size > REST_AT) {
        checksum = XXH3_64bits(copy + REST_AT, size - REST_AT);
        memcpy(copy + CHECKSUM_AT, &checksum, sizeof checksum);
    }
    if (manifest_decode(&manifest, cut, copy, size, "here", NULL)) {
        manifest_encode(&manifest, &again);
        if (again.size != size || memcmp(again.data, copy, size)) abort();
        manifest_free(&manifest);
    }
    bytes_free(&again);
    free(copy);
}

/* Every block lies within the file, and its records come to its bytes. */
static void read_footer(const uint8_t *bytes, size_t size)
{
    uint64_t end = 0;
    if (size < 4) return;
    memcpy(&end, bytes, 4);
    struct segment segment = { .number = 1, .fd = -1 };
    if (!bytes_room(&segment.footer, size)) abort();
    memcpy(segment.footer.data, bytes + 4, size - 4);
    segment.footer.size = size - 4;
    if (segment_adopt(&segment, end))
        for (size_t b = 0; b < segment.blocks; b++) {
            uint64_t total = 0;
            const struct segment_block *block = &segment.block[b];
            if (block->section >= segment.sections || block->offset + block->size > end) abort();
            for (struct segment_cursor cursor = segment_cursor(block); segment_next(&cursor);) {
                if (cursor.slot >= STATE_SLOTS_MAX) abort();
                total += segment_record_bytes(cursor.size);
            }
            if (total != block->size) abort();
        }
    segment_close(&segment);
}

/* LMDB sees only what the check has let through; it must not crash on that. */
static void read_root(const uint8_t *bytes, size_t size)
{
    static char directory[] = "/tmp/fuzz_snapshot.XXXXXX", data[64];
    if (!*data) {
        if (!mkdtemp(directory)) abort();
        snprintf(data, sizeof data, "%s/data.mdb", directory);
    }
    int fd = open(data, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size) abort();
    close(fd);
    struct cs_error err = { 0 };
    struct snapshot_view *view = snapshot_view_open_directory(directory, &err);
    if (!view && err.code != CS_REFUSED && err.code != CS_FAILED) abort();
    snapshot_view_close(view);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (!size) return 0;
    switch (*bytes % 3) {
    case 0: read_root(bytes + 1, size - 1); break;
    case 1: read_manifest(bytes + 1, size - 1); break;
    case 2: read_footer(bytes + 1, size - 1); break;
    }
    return 0;
}
