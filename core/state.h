/* All that storage sees of the running system, and all that the running system sees of storage: blocks of bytes under
 * (section, id), and tensors under their names. Every owner of state has a pair
 *
 *     bool X_save(struct X *, struct state_writer *, struct cs_error *);
 *     bool X_load(struct X *, struct state_reader *, struct cs_error *);
 *
 * A save puts only what changed since the last save (everything when writer->full); what is not put and not removed
 * stays as it was. All puts of one cut become visible in one transaction or not at all. put copies: when it returns,
 * the owner may go on changing. The owner marks its blocks clean as it puts them; when a cut could not be written, the
 * next one is asked for in full. */
#ifndef CORE_STATE_H
#define CORE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "core/tensor.h"

enum { STATE_SECTION_MAX = 200 };

struct state_writer {
    bool full;      /* nothing is there yet: put everything */
    bool (*put)(struct state_writer *self, const char *section, uint64_t id, const void *bytes, size_t size,
                struct cs_error *err);
    bool (*remove)(struct state_writer *self, const char *section, uint64_t id, struct cs_error *err);
    bool (*tensor)(struct state_writer *self, const struct tensor *tensor, struct cs_error *err);
};

typedef bool state_block(void *argument, uint64_t id, const void *bytes, size_t size, struct cs_error *err);

struct state_reader {
    /* The block, borrowed until the reader closes; *bytes is NULL and the call succeeds where there is none. 8-byte
     * aligned. */
    bool (*get)(struct state_reader *self, const char *section, uint64_t id, const void **bytes, size_t *size,
                struct cs_error *err);
    /* Each block of a section, ids ascending. */
    bool (*each)(struct state_reader *self, const char *section, state_block *block, void *argument,
                 struct cs_error *err);
    /* Fills tensor->data; CS_REFUSED where it is missing or type or shape differ, naming both. */
    bool (*tensor)(struct state_reader *self, const struct tensor *tensor, struct cs_error *err);
};

#endif
