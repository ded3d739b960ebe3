/* What a cut costs the thread that learns: a writer that hands all on to another, and times how long the owner waits
 * when it settles its tensors. The core has no clock, storage does not know who waits. */
#ifndef DAEMON_STALL_H
#define DAEMON_STALL_H

#include "core/state.h"

struct stall_hold;

struct stall_writer {
    struct state_writer writer;         /* to be given to the owner */
    struct state_writer *inner;
    struct stall_hold **hold;           /* where the hold that was given out can be found until it is settled */
    void (*waited)(void *self, double seconds);
    void *self;
};

/* waited is called from the owner's settle. *hold must be NULL. */
void stall_writer_init(struct stall_writer *stall, struct state_writer *inner, struct stall_hold **hold,
                       void (*waited)(void *self, double seconds), void *self);
/* The owner may settle later, but nobody is told: before what `waited` needs is destroyed. NULL is fine. */
void stall_hold_disarm(struct stall_hold *hold);

#endif
