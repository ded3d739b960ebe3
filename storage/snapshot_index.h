/* Where the newest copy of every record is: 4 bytes a slot (and 4 more where a section's records differ in size), and
 * how much of each segment still lives. Made from the segments' footers, oldest first: the later counts.
 *
 * A slot that holds nothing any more stays written as such ("grave") as long as an older segment may hold a copy. */
#ifndef STORAGE_SNAPSHOT_INDEX_H
#define STORAGE_SNAPSHOT_INDEX_H

#include "storage/segment.h"

static const uint32_t INDEX_GRAVE = UINT32_C(1) << 31;

struct index_segment {
    uint32_t number;
    uint64_t size, digest;              /* of the file; of its footer */
    uint64_t live, graves;              /* bytes of records whose newest copy is here; slots without a record */
    bool victim;                        /* to be emptied by the next cut */
};

struct index_section {
    struct segment_section about;
    uint32_t *home;                     /* segment number, perhaps | INDEX_GRAVE; 0: never was */
    uint32_t *size;                     /* NULL while all records have constant_size */
    uint32_t constant_size;
    size_t slots, capacity;
    uint64_t living, bytes;             /* records, and what they take */
};

struct index {
    struct index_segment *segment;      /* by number, ascending */
    size_t segments;
    struct index_section *section;
    size_t sections;
};

void index_free(struct index *index);
struct index_section *index_section(const struct index *index, bool is_tensor, const char *name);     /* NULL: none */
size_t index_section_add(struct index *index, const struct segment_section *about);                    /* or finds it */
static inline bool index_lives(const struct index_section *section, uint32_t slot)
{
    return slot < section->slots && section->home[slot] && !(section->home[slot] & INDEX_GRAVE);
}
static inline uint32_t index_size(const struct index_section *section, uint32_t slot)
{
    return section->size ? section->size[slot] : section->constant_size;
}

/* Where a segment is; index->segments: nowhere. */
size_t index_find(const struct index *index, uint32_t number);
/* Adds a segment newer than all. False: out of memory. */
bool index_apply(struct index *index, const struct segment *segment);

/* What applying the given segments would leave, without doing it: nothing is to change before a commit is one. */
struct index_forecast {
    struct forecast_count { int64_t live, graves; } *segment, *part;
    struct forecast_section { int64_t living, bytes; size_t slots; } *section;
};
struct index_forecast *index_forecast(struct index *index, const struct segment *const *part, size_t parts);
void index_forecast_free(struct index_forecast *forecast);

/* Forgets all segments but these, ascending. */
void index_keep(struct index *index, const uint32_t *number, size_t count);

/* Chooses the segments that the next cut empties. changed: bytes that it is expected to write besides. kept: bytes of
 * files that only the cut before names. credit: bytes that may be copied; what the choice will copy is taken off. */
void index_choose_victims(struct index *index, uint64_t changed, uint64_t kept, uint64_t *credit);
/* The living slots of a section in victims, or NULL where there are none. *words of them. */
uint64_t *index_again(const struct index *index, const struct index_section *section, size_t *words);
uint64_t index_live_bytes(const struct index *index);
uint64_t index_disk_bytes(const struct index *index);

#endif
