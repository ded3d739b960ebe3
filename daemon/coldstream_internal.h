/* libcoldstream for the programs of this project: the same calls, with errors as the rest of it knows them. Not
 * exported. */
#ifndef DAEMON_COLDSTREAM_INTERNAL_H
#define DAEMON_COLDSTREAM_INTERNAL_H

#include "core/error.h"
#include "daemon/coldstream.h"
#include "daemon/scoring.h"

struct coldstream *coldstream_open_explained(const char *directory, const struct coldstream_options *options,
                                             struct cs_error *err);
struct coldstream *coldstream_pin_explained(struct coldstream *cs, uint64_t version, struct cs_error *err);
/* CS_USAGE: the request is wrong. *scores: how many were given. */
bool coldstream_score_explained(struct coldstream *cs, const char *request, size_t length, char **response,
                                size_t *scores, struct cs_error *err);
/* A call that was read before. */
bool coldstream_score_call(struct coldstream *cs, const struct scoring_call *call, char **response,
                           struct cs_error *err);

#endif
