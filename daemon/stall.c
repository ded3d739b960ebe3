/* A writer that times what its owner waits for. */
#include "daemon/stall.h"

#include <stdlib.h>

#include "core/need.h"
#include "daemon/clock.h"

struct stall_hold {
    struct state_hold hold;
    struct state_hold *inner;
    struct stall_hold **found;
    void (*waited)(void *self, double seconds);
    void *self;
};

static struct state_writer *inner_of(struct state_writer *writer)
{
    return ((struct stall_writer *)writer)->inner;
}

static bool put(struct state_writer *writer, const char *section, uint64_t slot, const void *bytes, size_t size,
                struct cs_error *err)
{
    struct state_writer *inner = inner_of(writer);
    return inner->put(inner, section, slot, bytes, size, err);
}

static bool remove_slot(struct state_writer *writer, const char *section, uint64_t slot, struct cs_error *err)
{
    struct state_writer *inner = inner_of(writer);
    return inner->remove(inner, section, slot, err);
}

static bool records(struct state_writer *writer, const char *section, const struct state_records *of,
                    struct cs_error *err)
{
    struct state_writer *inner = inner_of(writer);
    return inner->records(inner, section, of, err);
}

static bool tensor(struct state_writer *writer, const struct tensor *given, struct cs_error *err)
{
    struct state_writer *inner = inner_of(writer);
    return inner->tensor(inner, given, err);
}

static void settle(struct state_hold *self)
{
    struct stall_hold *hold = (struct stall_hold *)self;
    double begin = clock_seconds();
    hold->inner->settle(hold->inner);
    if (hold->waited) {
        *hold->found = NULL;
        hold->waited(hold->self, clock_seconds() - begin);
    }
    free(hold);
}

static struct state_hold *hold(struct state_writer *writer)
{
    struct stall_writer *stall = (struct stall_writer *)writer;
    struct stall_hold *made = need(calloc(1, sizeof *made));
    *made = (struct stall_hold){ .hold = { settle }, .inner = stall->inner->hold(stall->inner), .found = stall->hold,
                                 .waited = stall->waited, .self = stall->self };
    *stall->hold = made;
    return &made->hold;
}

void stall_writer_init(struct stall_writer *stall, struct state_writer *inner, struct stall_hold **found,
                       void (*waited)(void *self, double seconds), void *self)
{
    *stall = (struct stall_writer){
        .writer = { .full = inner->full, .put = put, .remove = remove_slot, .records = records, .tensor = tensor,
                    .hold = hold },
        .inner = inner,
        .hold = found,
        .waited = waited,
        .self = self,
    };
}

void stall_hold_disarm(struct stall_hold *hold)
{
    if (hold) hold->waited = NULL;
}
