/* The versions that a request may name beside the current one: those asked for at the start, and the newest few that
 * were current before. Each stays in memory, whatever becomes of its directory, until newer ones push it out and its
 * last request has been answered. */
#ifndef DAEMON_SERVE_VERSIONS_H
#define DAEMON_SERVE_VERSIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "daemon/coldstream.h"

struct serve_versions;
/* keep: how many of those that were current before. */
struct serve_versions *serve_versions_create(size_t keep);
/* Nobody may be using one any more. */
void serve_versions_destroy(struct serve_versions *versions);
/* Holds what cs serves now. To be called at every swap to a checkpoint, from the thread that swaps, so that none is
 * missed; what deltas make of one comes several times a second, and can be named while it is current. */
void serve_versions_note(struct serve_versions *versions, struct coldstream *cs);
/* Opens one that the directory still holds, and keeps it until the end. */
bool serve_versions_ask(struct serve_versions *versions, struct coldstream *cs, uint64_t version,
                        struct cs_error *err);

/* NULL: it is not there; *there (malloc'd) tells what is, as "1, 2, 3". To be given back. */
struct serve_version;
struct serve_version *serve_versions_take(struct serve_versions *versions, uint64_t version, char **there);
struct coldstream *serve_version_handle(const struct serve_version *version);
void serve_versions_give_back(struct serve_versions *versions, struct serve_version *version);

#endif
