/* A sealed version tried as its readers would, before `current` names it. */
#ifndef DAEMON_TRIAL_H
#define DAEMON_TRIAL_H

#include "daemon/gate.h"
#include "daemon/probe.h"

/* How far a probe's score may be from the learner's own. */
#define TRIAL_TOLERANCE 1e-5

/* Adds a reason where a value of it is not finite, where no reader could open it, or where it scores the probe (NULL:
 * none) otherwise than the learner did. False: it could not be tried (memory, I/O), which says nothing about it. */
bool trial_run(const char *candidate, const struct probe_scores *probe, struct gate_reasons *reasons,
               struct cs_error *err);

#endif
