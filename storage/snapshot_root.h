/* What the root holds: for the newest cut and the one before it a manifest, that is the segments it consists of, what
 * lives in each section, and its meta.
 *
 *   database cuts   key: cut u64 big-endian
 *   value   magic "CSCUT002" | checksum u64 | store u64 | cut u64
 *           segments u32 | each: number u32 | size u64 | footer's checksum u64
 *           sections u32 | each: tensor u32 | slots u64 | living u64 | bytes u64 | name (u32 length, text, NUL)
 *           meta u32     | each: name, text
 *
 * The checksum is XXH3-64 of what follows it. The file LOCK also says, besides the owner's pid, which cut was the last
 * to be committed: a root that ends before it has lost one. */
#ifndef STORAGE_SNAPSHOT_ROOT_H
#define STORAGE_SNAPSHOT_ROOT_H

#include "storage/bytes.h"
#include "storage/environment.h"
#include "storage/segment.h"

struct manifest_segment { uint32_t number; uint64_t size, digest; };
struct manifest_section { bool is_tensor; char name[STATE_SECTION_MAX + 1]; uint64_t slots, living, bytes; };
struct manifest_meta { char *name, *text; };

struct manifest {
    uint64_t store, cut;                /* cut 0: none */
    struct manifest_segment *segment;
    size_t segments;
    struct manifest_section *section;   /* by kind (records first), then by name */
    size_t sections;
    struct manifest_meta *meta;         /* by name */
    size_t metas;
};

void manifest_free(struct manifest *manifest);
bool manifest_names(const struct manifest *manifest, uint32_t number);
const struct manifest_section *manifest_section(const struct manifest *manifest, bool is_tensor, const char *name);
void manifest_encode(const struct manifest *manifest, struct bytes *bytes);
/* CS_REFUSED where the bytes are not the manifest of that cut. where: for messages. */
bool manifest_decode(struct manifest *manifest, uint64_t cut, const void *bytes, size_t size, const char *where,
                     struct cs_error *err);

/* The newest cut's number and the one's before it, 0 where there is none. */
bool root_cuts(struct environment *environment, uint64_t *newest, uint64_t *before, struct cs_error *err);
/* Reads one. CS_REFUSED: damaged, or not there. */
bool root_read(struct environment *environment, uint64_t cut, struct manifest *manifest, struct cs_error *err);
/* Puts manifest in and every other but `keep` out, in one transaction: the commit. *written: bytes, about. */
bool root_write(struct environment *environment, const struct manifest *manifest, uint64_t keep, uint64_t *written,
                struct cs_error *err);

/* The line in LOCK. 0: nothing legible. */
uint64_t root_head_read(int fd);
void root_head_write(int fd, uint64_t cut);

#endif
