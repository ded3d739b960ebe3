/* The control socket: one JSON object a line in, one out, then the connection may go on.
 *     {"verb":"snapshot"}  ->  {"ok":true,"result":{...}}
 *                          or  {"ok":false,"code":65,"error":"...","reasons":["...", ...]}
 * Mode 0660; peers are checked by SO_PEERCRED: reading verbs for whoever may connect, changing verbs for the daemon's
 * own uid, root, and members of the socket's group. Reading verbs run on the control thread and must not wait; changing
 * verbs run on threads of their own, several at once, and may. docs/control.md is the reference. */
#ifndef DAEMON_CONTROL_H
#define DAEMON_CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"

/* A request, read. */
struct control_call {
    const char *verb, *argument;        /* within request; argument may be NULL */
    json_t *request;
    json_t *reasons;                    /* a verb that fails may leave all of its reasons here: an array of texts */
};

struct control_verb {
    const char *name;                   /* NULL ends the table */
    bool changes;
    /* The result, owned by the caller, or NULL and err. */
    json_t *(*run)(void *self, struct control_call *call, struct cs_error *err);
};

/* ms until a request has to be there, and that an answer may stand still because nobody reads it; by which clock. */
struct control_limits { int64_t silent, unread, (*clock)(void); };
extern const struct control_limits control_limits;      /* those of docs/control.md, by the monotonic clock */

struct control_server;
struct control_server *control_start(const char *path, const struct control_limits *limits,
                                     const struct control_verb *verb, void *self, struct cs_error *err);
void control_stop(struct control_server *server);       /* removes the socket */

/* The client's side, for coldstreamctl: sends, waits without limit, returns the result or fails with the daemon's own
 * error. */
json_t *control_request(const char *path, const char *verb, const char *argument, struct cs_error *err);
/* As it, and *reasons (NULL is fine): an array where the daemon gave several, to be released; else NULL. */
json_t *control_ask(const char *path, const char *verb, const char *argument, json_t **reasons, struct cs_error *err);

#endif
