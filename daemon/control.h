/* The control socket: one JSON object a line in, one out, then the connection may go on.
 *     {"verb":"snapshot"}  ->  {"ok":true,"result":{...}}  or  {"ok":false,"code":65,"error":"..."}
 * Mode 0660; peers are checked by SO_PEERCRED: reading verbs for whoever may connect, changing verbs for the daemon's
 * own uid, root, and members of the socket's group. Verbs run one at a time on the control thread and may wait. */
#ifndef DAEMON_CONTROL_H
#define DAEMON_CONTROL_H

#include <jansson.h>
#include <stdbool.h>

#include "core/error.h"

struct control_verb {
    const char *name;                   /* NULL ends the table */
    bool changes;
    /* The result, owned by the caller, or NULL and err. */
    json_t *(*run)(void *self, const char *argument, struct cs_error *err);
};

struct control_server;
struct control_server *control_start(const char *path, const struct control_verb *verb, void *self,
                                     struct cs_error *err);
void control_stop(struct control_server *server);       /* removes the socket */

/* The client's side, for coldstreamctl: sends, waits without limit, returns the result or fails with the daemon's own
 * error. */
json_t *control_request(const char *path, const char *verb, const char *argument, struct cs_error *err);

#endif
