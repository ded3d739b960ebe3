/* coldstream-serve's deltas: from the topic into libcoldstream, and what becomes of them into log and metrics. */
#ifndef DAEMON_SERVE_DELTAS_H
#define DAEMON_SERVE_DELTAS_H

#include "daemon/coldstream_internal.h"
#include "daemon/telemetry.h"

enum { SERVE_DELTAS_PROPERTIES = 64 };

struct serve_deltas;
struct serve_deltas *serve_deltas_create(void);
void serve_deltas_destroy(struct serve_deltas *deltas);         /* before the handle is closed; NULL is fine */
void serve_deltas_topic(struct serve_deltas *deltas, const char *topic);       /* borrowed, as properties are */
/* "name=value". CS_USAGE where it is no such thing or not librdkafka's. */
bool serve_deltas_property(struct serve_deltas *deltas, const char *text, struct cs_error *err);
bool serve_deltas_wanted(const struct serve_deltas *deltas);
/* From now on into this handle, if a topic was given. */
bool serve_deltas_start(struct serve_deltas *deltas, struct coldstream *cs, struct telemetry *telemetry,
                        struct cs_error *err);
void serve_deltas_told(struct serve_deltas *deltas, const struct coldstream_delta_report *report);     /* on_delta */
void serve_deltas_measure(struct serve_deltas *deltas);         /* gauges; now and then */

#endif
