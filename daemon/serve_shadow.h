/* A second version that scores along, off the answering path: a share of the requests goes to a thread of its own,
 * which compares its scores with those that were answered. Where it can't keep up, requests are left out and counted;
 * nobody waits for it, and nothing of it is ever answered. */
#ifndef DAEMON_SERVE_SHADOW_H
#define DAEMON_SERVE_SHADOW_H

#include "core/error.h"
#include "daemon/coldstream.h"
#include "daemon/telemetry.h"

struct serve_shadow;
/* Takes cs over, on success. share: of the requests, above 0 to 1. */
struct serve_shadow *serve_shadow_create(struct coldstream *cs, double share, struct telemetry *telemetry,
                                         struct cs_error *err);
/* Ends with the request that it is at. */
void serve_shadow_destroy(struct serve_shadow *shadow);
uint64_t serve_shadow_version(struct serve_shadow *shadow);
/* A request and what was answered; both are copied where they are taken. NULL is fine: there is no shadow. */
void serve_shadow_offer(struct serve_shadow *shadow, const char *request, size_t length, const char *response);

#endif
