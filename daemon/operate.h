/* What operators see and do: the status, the control socket's verbs, readiness, reloading. */
#ifndef DAEMON_OPERATE_H
#define DAEMON_OPERATE_H

#include <jansson.h>

#include "config/config.h"
#include "daemon/control.h"
#include "daemon/http.h"
#include "daemon/pipeline.h"

struct operator;
/* given_level: of the command line, -1: none; it stays above what the file says. */
struct operator* operator_create(const char *config_file, const struct cs_config *config, struct pipeline *pipeline,
                                 struct publisher *publisher, struct kafka_clients *clients,
                                 struct telemetry *telemetry, int given_level);
void operator_destroy(struct operator *operator);
/* For control_start, with the operator as self. */
extern const struct control_verb operator_verbs[];
struct http_pages operator_pages(struct operator *operator);
/* As the verb: NULL and err where the file is wrong or asks for what needs a restart; every reason is in the log, and
 * in *reasons (NULL is fine). */
json_t *operator_reload(struct operator *operator, json_t **reasons, struct cs_error *err);
/* To be called several times a second: keeps count for the rates, and tells systemd every few seconds. */
void operator_tick(struct operator *operator);

#endif
