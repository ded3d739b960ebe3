/* The control socket: one thread serves all connections, one verb at a time. A connection that says nothing waits in
 * poll() and holds up nobody; a request is read as it comes, and answered when its line is whole. */
#include "daemon/control.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    REQUEST_MAX = 64 * 1024,            /* bytes of a request's line */
    CONNECTIONS_MAX = 16,
    SEND_SECONDS = 10,                  /* a client that does not read its answer is left after this */
};

struct connection { int handle; struct ucred peer; size_t length; char *text; };

struct control_server {
    char *path;
    int listener, wake;                 /* wake: an eventfd; readable: stop */
    const struct control_verb *verb;
    void *self;
    struct connection connection[CONNECTIONS_MAX];
    size_t connection_count;
    pthread_t thread;
};

/* ---- addresses and lines, for both sides ---- */

static bool make_address(const char *path, struct sockaddr_un *address, struct cs_error *err)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (!*path || strlen(path) >= sizeof address->sun_path)
        return cs_fail(err, CS_CONFIG, "control.socket: the path is empty or longer than %zu bytes: %s",
                       sizeof address->sun_path - 1, path);
    memcpy(address->sun_path, path, strlen(path));
    return true;
}

static bool send_all(int handle, const char *text, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(handle, text, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        text += sent;
        length -= (size_t)sent;
    }
    return true;
}

/* One JSON object and a line break. Takes the object. */
static bool send_object(int handle, json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    size_t length = text ? strlen(text) : 0;
    if (text) text[length++] = '\n';            /* over its NUL: what is sent has a length */
    bool ok = text && send_all(handle, text, length);
    free(text);
    return ok;
}

/* ---- the server's side ---- */

static json_t *failure(enum cs_code code, const char *text)
{
    return json_pack("{s:b, s:i, s:s}", "ok", 0, "code", cs_exit_code(code), "error", text);
}

/* Is the peer in the group that owns the socket? SO_PEERCRED has its main group, SO_PEERGROUPS the others: asked of the
 * kernel, which knows it in our user namespace too, where the user database does not. */
static bool in_socket_group(const struct control_server *server, const struct connection *connection)
{
    struct stat status;
    gid_t group[1024];
    socklen_t size = sizeof group;
    if (stat(server->path, &status) != 0) return false;
    if (connection->peer.gid == status.st_gid) return true;
    if (getsockopt(connection->handle, SOL_SOCKET, SO_PEERGROUPS, group, &size) != 0) return false;
    for (size_t i = 0; i < size / sizeof *group; i++)
        if (group[i] == status.st_gid) return true;
    return false;
}

static bool may_change(const struct control_server *server, const struct connection *connection)
{
    return connection->peer.uid == 0 || connection->peer.uid == geteuid() || in_socket_group(server, connection);
}

static json_t *answer(struct control_server *server, const struct connection *connection, const char *line,
                      size_t length)
{
    json_error_t why;
    json_t *request = json_loadb(line, length, JSON_REJECT_DUPLICATES, &why);
    const char *verb = json_string_value(json_object_get(request, "verb"));
    const json_t *argument = json_object_get(request, "argument");
    const struct control_verb *found = server->verb;
    json_t *reply;
    while (verb && found->name && strcmp(found->name, verb) != 0) found++;
    if (!verb) reply = failure(CS_USAGE, "a request is {\"verb\":\"...\"}, with \"argument\" where the verb takes one");
    else if (argument && !json_is_string(argument) && !json_is_null(argument))
        reply = failure(CS_USAGE, "\"argument\" is a text");
    else if (!found->name) reply = failure(CS_USAGE, "there is no such verb");
    else if (found->changes && !may_change(server, connection))
        reply = failure(CS_FAILED,
                        "not permitted: only the daemon's own user, root and the socket's group may change something");
    else {
        struct cs_error err = { 0 };
        json_t *result = found->run(server->self, json_string_value(argument), &err);
        if (result) reply = json_pack("{s:b, s:o}", "ok", 1, "result", result);
        else reply = failure(err.code == CS_OK ? CS_FAILED : err.code, *err.message ? err.message : "failed");
        /* An error's text is the world's, perhaps no UTF-8. */
        if (!reply) reply = failure(err.code == CS_OK ? CS_FAILED : err.code, "failed, for a reason that is not text");
    }
    json_decref(request);
    return reply;
}

static void close_connection(struct control_server *server, size_t i)
{
    close(server->connection[i].handle);
    free(server->connection[i].text);
    server->connection[i] = server->connection[--server->connection_count];
}

/* Takes what came and answers each whole line. False: the connection is to be closed. */
static bool serve(struct control_server *server, struct connection *connection)
{
    ssize_t got =
        recv(connection->handle, connection->text + connection->length, REQUEST_MAX - connection->length, MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    connection->length += (size_t)got;
    for (char *end; (end = memchr(connection->text, '\n', connection->length));) {
        size_t line = (size_t)(end - connection->text);
        if (!send_object(connection->handle, answer(server, connection, connection->text, line))) return false;
        connection->length -= line + 1;
        memmove(connection->text, end + 1, connection->length);
    }
    if (connection->length < REQUEST_MAX) return true;
    send_object(connection->handle, failure(CS_USAGE, "the request is longer than 65536 bytes"));
    return false;
}

static void accept_connection(struct control_server *server)
{
    int handle = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);
    if (handle < 0) return;
    struct connection *connection = &server->connection[server->connection_count];
    socklen_t size = sizeof connection->peer;
    struct timeval limit = { .tv_sec = SEND_SECONDS };
    *connection = (struct connection){ .handle = handle };
    setsockopt(handle, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    bool known = getsockopt(handle, SOL_SOCKET, SO_PEERCRED, &connection->peer, &size) == 0;
    connection->text = known ? malloc(REQUEST_MAX) : NULL;
    if (connection->text) server->connection_count++;
    else close(handle);
}

static void *run(void *argument)
{
    struct control_server *server = argument;
    for (;;) {
        struct pollfd wait[CONNECTIONS_MAX + 2] = { { .fd = server->wake, .events = POLLIN } };
        bool room = server->connection_count < CONNECTIONS_MAX;      /* else who connects waits in the kernel's queue */
        size_t count = server->connection_count;
        wait[1] = (struct pollfd){ .fd = room ? server->listener : -1, .events = POLLIN };
        for (size_t i = 0; i < count; i++)
            wait[i + 2] = (struct pollfd){ .fd = server->connection[i].handle, .events = POLLIN };
        if (poll(wait, count + 2, -1) < 0 && errno != EINTR) return NULL;
        if (wait[0].revents) return NULL;
        for (size_t i = count; i-- > 0;)        /* backwards: closing one moves the last into its place */
            if (wait[i + 2].revents && !serve(server, &server->connection[i])) close_connection(server, i);
        if (wait[1].revents) accept_connection(server);
    }
}

/* A socket that nobody answers is left over from a crash. */
static bool remove_stale(const char *path, const struct sockaddr_un *address, struct cs_error *err)
{
    struct stat status;
    if (lstat(path, &status) != 0) return errno == ENOENT || cs_fail_errno(err, errno, "control.socket: %s", path);
    if (!S_ISSOCK(status.st_mode)) return cs_fail(err, CS_CONFIG, "control.socket: %s exists and is no socket", path);
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0) return cs_fail_errno(err, errno, "control.socket: no socket");
    int number = connect(probe, (const struct sockaddr *)address, sizeof *address) == 0 ? 0 : errno;
    close(probe);
    if (number == 0 || number == EAGAIN)
        return cs_fail(err, CS_FENCED, "control.socket: another daemon answers on %s", path);
    if (number != ECONNREFUSED) return cs_fail_errno(err, number, "control.socket: %s", path);
    if (unlink(path) != 0 && errno != ENOENT)
        return cs_fail_errno(err, errno, "control.socket: %s can't be removed", path);
    return true;
}

struct control_server *control_start(const char *path, const struct control_verb *verb, void *self,
                                     struct cs_error *err)
{
    struct sockaddr_un address;
    struct control_server *server = calloc(1, sizeof *server);
    bool bound = false;
    if (!server || !(server->path = strdup(path))) {
        free(server);
        cs_fail(err, CS_FAILED, "control: out of memory");
        return NULL;
    }
    server->listener = server->wake = -1;
    server->verb = verb;
    server->self = self;
    if (!make_address(path, &address, err) || !remove_stale(path, &address, err)) goto out;
    server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    server->wake = eventfd(0, EFD_CLOEXEC);
    if (server->listener < 0 || server->wake < 0) {
        cs_fail_errno(err, errno, "control.socket: no socket");
        goto out;
    }
    /* The mode is set before anybody can connect: nobody is listening yet. umask is the whole process's, so it is left
     * alone. */
    if (bind(server->listener, (const struct sockaddr *)&address, sizeof address) != 0) {
        cs_fail_errno(err, errno, "control.socket: can't make %s", path);
        goto out;
    }
    bound = true;
    if (chmod(path, 0660) != 0 || listen(server->listener, CONNECTIONS_MAX) != 0) {
        cs_fail_errno(err, errno, "control.socket: can't listen on %s", path);
        goto out;
    }
    int number = pthread_create(&server->thread, NULL, run, server);
    if (number == 0) return server;
    cs_fail_errno(err, number, "control: its thread does not start");
out:
    if (bound) unlink(path);
    if (server->listener >= 0) close(server->listener);
    if (server->wake >= 0) close(server->wake);
    free(server->path);
    free(server);
    return NULL;
}

void control_stop(struct control_server *server)
{
    if (!server) return;
    eventfd_write(server->wake, 1);
    pthread_join(server->thread, NULL);
    while (server->connection_count) close_connection(server, server->connection_count - 1);
    unlink(server->path);
    close(server->listener);
    close(server->wake);
    free(server->path);
    free(server);
}

/* ---- the client's side ---- */

/* A whole line, malloc'd, or NULL with err. An answer may be long: status names every table. */
static char *receive_line(int handle, struct cs_error *err)
{
    size_t size = 4096, length = 0;
    char *text = malloc(size);
    for (;;) {
        if (text && length + 1 == size) {
            char *grown = realloc(text, size *= 2);
            if (!grown) free(text);
            text = grown;
        }
        if (!text) {
            cs_fail(err, CS_FAILED, "control: out of memory");
            return NULL;
        }
        ssize_t got = recv(handle, text + length, size - length - 1, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            if (got < 0) cs_fail_errno(err, errno, "the daemon's answer");
            else cs_fail(err, CS_FAILED, "the daemon closed the connection without an answer");
            free(text);
            return NULL;
        }
        char *end = memchr(text + length, '\n', (size_t)got);
        length += (size_t)got;
        text[length] = 0;
        if (!end) continue;
        *end = 0;
        return text;
    }
}

static enum cs_code code_of_exit(json_int_t exit_code)
{
    for (int code = CS_FAILED; code <= CS_CONFIG; code++)
        if (cs_exit_code((enum cs_code)code) == exit_code) return (enum cs_code)code;
    return CS_FAILED;
}

json_t *control_request(const char *path, const char *verb, const char *argument, struct cs_error *err)
{
    struct sockaddr_un address;
    json_t *result = NULL, *reply = NULL, *request = NULL;
    char *line = NULL;
    if (!make_address(path, &address, err)) return NULL;
    int handle = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (handle < 0 || connect(handle, (const struct sockaddr *)&address, sizeof address) != 0) {
        cs_fail_errno(err, errno, "no daemon answers on %s", path);
        goto out;
    }
    request = argument ? json_pack("{s:s, s:s}", "verb", verb, "argument", argument) : json_pack("{s:s}", "verb", verb);
    if (!request) {
        cs_fail(err, CS_USAGE, "the verb or its argument is no UTF-8 text");
        goto out;
    }
    if (!send_object(handle, request)) {
        cs_fail_errno(err, errno, "sending to %s", path);
        goto out;
    }
    line = receive_line(handle, err);
    if (!line) goto out;
    reply = json_loads(line, 0, NULL);
    if (json_is_true(json_object_get(reply, "ok"))) {
        result = json_object_get(reply, "result");
        if (result) json_incref(result);
        else cs_fail(err, CS_FAILED, "the daemon's answer has no result");
    } else if (json_is_false(json_object_get(reply, "ok")) && json_is_string(json_object_get(reply, "error"))) {
        cs_fail(err, code_of_exit(json_integer_value(json_object_get(reply, "code"))), "%s",
                json_string_value(json_object_get(reply, "error")));
    } else {
        cs_fail(err, CS_FAILED, "the daemon's answer is not what it should be: %.200s", line);
    }
out:
    if (handle >= 0) close(handle);
    free(line);
    json_decref(reply);
    return result;
}
