/* The control socket. One thread owns all connections and never waits for any of them: it reads what came, answers
 * reading verbs itself (they look at copies), and gives a changing verb a thread of its own, since a snapshot or a
 * publication may take minutes while `status` wants its answer now.
 *
 *     a connection   idle -> (a line is whole) -> running its verb -> answering -> idle ...
 *     is closed      idle for limits.silent; or, where all places are taken and one more comes, idle the longest;
 *                    an answer is not read for limits.unread; a request is longer than REQUEST_MAX */
#include "daemon/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/log.h"
#include "daemon/text.h"

enum {
    REQUEST_MAX = 64 * 1024,            /* bytes of a request's line */
    CONNECTIONS_MAX = 32,
    VERBS_MAX = 8,                      /* changing verbs that run at once; the next waits its turn */
    ACCEPT_AGAIN = 1000,                /* ms until it is tried again, where no file descriptor is left */
};

const struct control_limits control_limits = { 60000, 10000, clock_monotonic };

/* A changing verb on its way. The connection waits for it, even where its peer has gone. */
struct job {
    struct control_server *server;
    const struct control_verb *verb;
    struct control_call call;
    char *answer;                       /* NULL until it has run */
    size_t answer_length;
    bool done;                          /* under the server's lock */
    pthread_t thread;
};

struct connection {
    int handle;                         /* -1: the peer went while its verb runs */
    struct ucred peer;
    int64_t since;                      /* monotonic ms: idle, or the answer last moved */
    uint64_t turn;                      /* rises with each connection and answer: who has been silent the longest */
    char *text;                         /* REQUEST_MAX bytes */
    size_t length;
    char *answer;                       /* not sent yet */
    size_t answer_length, answer_sent;
    bool last;                          /* closed once the answer is out */
    struct job *job;                    /* NULL: none runs */
};

struct control_server {
    char *path;
    int listener, wake;                 /* wake: an eventfd; readable: a verb has run, or stop */
    struct control_limits limits;
    const struct control_verb *verb;
    void *self;
    struct connection connection[CONNECTIONS_MAX];
    size_t connection_count, jobs;
    uint64_t turns;
    int64_t accept_again;               /* monotonic ms */
    atomic_bool stopping;
    pthread_mutex_t lock;               /* over each job's done and answer */
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

/* One JSON object and a line break, malloc'd. Takes the object. */
static char *line_of(json_t *object, size_t *length)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    *length = text ? strlen(text) : 0;
    if (text) text[(*length)++] = '\n';         /* over its NUL: what is sent has a length */
    return text;
}

/* ---- requests and their answers ---- */

/* False: no request, and err says what one is. To be released whatever comes. */
static bool control_parse(const char *line, size_t length, struct control_call *call, struct cs_error *err)
{
    json_error_t why;
    *call = (struct control_call){ .request = json_loadb(line, length, JSON_REJECT_DUPLICATES, &why) };
    call->verb = json_string_value(json_object_get(call->request, "verb"));
    const json_t *argument = json_object_get(call->request, "argument");
    call->argument = json_string_value(argument);
    if (!call->verb)
        return cs_fail(err, CS_USAGE,
                       "a request is {\"verb\":\"...\"} in one line, with \"argument\" where the verb takes one");
    if (argument && !call->argument && !json_is_null(argument)) return cs_fail(err, CS_USAGE, "\"argument\" is a text");
    return true;
}

static void control_call_release(struct control_call *call)
{
    json_decref(call->request);
    json_decref(call->reasons);
    *call = (struct control_call){ 0 };
}

static json_t *failure(const struct cs_error *err, json_t *reasons)
{
    enum cs_code code = err->code == CS_OK ? CS_FAILED : err->code;
    const char *text = *err->message ? err->message : "failed";
    json_t *reply = json_pack("{s:b, s:i, s:o}", "ok", 0, "code", cs_exit_code(code), "error", text_json(text));
    if (reasons) json_object_set(reply, "reasons", reasons);
    return reply;
}

static char *run_verb(const struct control_verb *verb, void *self, struct control_call *call, size_t *length)
{
    struct cs_error err = { 0 };
    json_t *result = verb->run(self, call, &err);
    /* Each is told, and as the asker is: lines of what failed are counted where they repeat. */
    if (!result) log_info("an operator's request failed", LOG_S("verb", verb->name), LOG_S("error", err.message));
    return line_of(result ? json_pack("{s:b, s:o}", "ok", 1, "result", result) : failure(&err, call->reasons), length);
}

static bool no_such_verb(const struct control_server *server, const char *verb, struct cs_error *err)
{
    char names[400] = "";
    for (const struct control_verb *known = server->verb; known->name; known++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", known->name);
    }
    return cs_fail(err, CS_USAGE, "there is no verb \"%.40s\"; there are %s", verb, names);
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

static bool may_change(const struct control_server *server, const struct connection *connection, const char *verb,
                       struct cs_error *err)
{
    if (connection->peer.uid == 0 || connection->peer.uid == geteuid() || in_socket_group(server, connection))
        return true;
    log_warning("request of an operator refused: not permitted", LOG_S("verb", verb),
                LOG_U("uid", connection->peer.uid), LOG_I("pid", connection->peer.pid));
    return cs_fail(err, CS_FAILED,
                   "%s is not permitted to user id %lu: only root, the daemon's own user and the group of its socket "
                   "may change something; try sudo, or have yourself added to that group",
                   verb, (unsigned long)connection->peer.uid);
}

/* ---- connections ---- */

static void close_connection(struct control_server *server, size_t i)
{
    struct connection *connection = &server->connection[i];
    if (connection->handle >= 0) close(connection->handle);
    free(connection->text);
    free(connection->answer);
    *connection = server->connection[--server->connection_count];
}

/* Whose next request waits for its turn is not. */
static bool is_idle(const struct connection *connection)
{
    return !connection->job && !connection->answer && !memchr(connection->text, '\n', connection->length);
}

static void give_answer(struct control_server *server, struct connection *connection, char *answer, size_t length)
{
    connection->turn = ++server->turns;
    connection->answer = answer;
    connection->answer_length = length;
    connection->answer_sent = 0;
    connection->since = server->limits.clock();
    if (!answer) connection->last = true;       /* out of memory: closed, which says as much */
}

static void *run_job(void *argument)
{
    struct job *job = argument;
    size_t length;
    char *answer = run_verb(job->verb, job->server->self, &job->call, &length);
    pthread_mutex_lock(&job->server->lock);
    job->answer = answer;
    job->answer_length = length;
    job->done = true;
    pthread_mutex_unlock(&job->server->lock);
    eventfd_write(job->server->wake, 1);
    return NULL;
}

/* Takes the call over. */
static bool start_job(struct control_server *server, struct connection *connection, const struct control_verb *verb,
                      struct control_call *call, struct cs_error *err)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job) return cs_fail(err, CS_FAILED, "control: out of memory");
    *job = (struct job){ .server = server, .verb = verb, .call = *call };
    log_info("asked by an operator", LOG_S("verb", verb->name), LOG_S("argument", call->argument ? call->argument : ""),
             LOG_U("uid", connection->peer.uid), LOG_I("pid", connection->peer.pid));
    int number = pthread_create(&job->thread, NULL, run_job, job);
    if (number != 0) {
        free(job);
        return cs_fail_errno(err, number, "control: no thread for %s; try again", verb->name);
    }
    *call = (struct control_call){ 0 };
    connection->job = job;
    server->jobs++;
    return true;
}

/* Answers the line, or sets its verb going. False: as many run as may, its turn comes when one of them has run. */
static bool take_line(struct control_server *server, struct connection *connection, size_t length)
{
    struct control_call call;
    struct cs_error err = { 0 };
    const struct control_verb *verb = server->verb;
    char *answer = NULL;
    size_t answer_length = 0;
    bool ok = control_parse(connection->text, length, &call, &err);
    while (ok && verb->name && strcmp(verb->name, call.verb) != 0) verb++;
    if (ok && !verb->name) ok = no_such_verb(server, call.verb, &err);
    if (ok && verb->changes && server->jobs >= VERBS_MAX) {
        control_call_release(&call);
        return false;
    }
    if (ok && verb->changes)
        ok = may_change(server, connection, verb->name, &err) && start_job(server, connection, verb, &call, &err);
    else if (ok) answer = run_verb(verb, server->self, &call, &answer_length);
    if (!ok) answer = line_of(failure(&err, NULL), &answer_length);
    if (!connection->job) give_answer(server, connection, answer, answer_length);
    control_call_release(&call);
    return true;
}

/* Sends what is there to be sent, and takes lines that are whole, one after the other. False: it is to be closed. */
static bool advance(struct control_server *server, struct connection *connection)
{
    for (;;) {
        while (connection->answer_sent < connection->answer_length) {
            ssize_t sent = send(connection->handle, connection->answer + connection->answer_sent,
                                connection->answer_length - connection->answer_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent < 0 && errno == EINTR) continue;
            if (sent < 0) return errno == EAGAIN;
            connection->answer_sent += (size_t)sent;
            connection->since = server->limits.clock();
        }
        free(connection->answer);
        connection->answer = NULL;
        connection->answer_length = connection->answer_sent = 0;
        if (connection->last) return false;
        if (connection->job || atomic_load(&server->stopping)) return true;
        char *end = memchr(connection->text, '\n', connection->length);
        if (end) {
            size_t line = (size_t)(end - connection->text);
            if (!take_line(server, connection, line)) return true;
            connection->length -= line + 1;
            memmove(connection->text, end + 1, connection->length);
        } else if (connection->length == REQUEST_MAX) {
            struct cs_error err;
            size_t length;
            cs_fail(&err, CS_USAGE, "the request is longer than %d bytes", REQUEST_MAX);
            char *answer = line_of(failure(&err, NULL), &length);
            give_answer(server, connection, answer, length);
            connection->last = true;
        } else {
            return true;
        }
    }
}

/* Takes what came. False: the connection is to be closed. */
static bool take(struct control_server *server, struct connection *connection)
{
    if (connection->length < REQUEST_MAX) {
        ssize_t got = recv(connection->handle, connection->text + connection->length, REQUEST_MAX - connection->length,
                           MSG_DONTWAIT);
        if (got < 0) return errno == EAGAIN || errno == EINTR;
        if (got == 0) return false;
        connection->length += (size_t)got;
    }
    return advance(server, connection);
}

/* The idle connection that has said nothing for the longest; the count where none is idle. */
static size_t longest_idle(const struct control_server *server)
{
    size_t found = server->connection_count;
    for (size_t i = 0; i < server->connection_count; i++)
        if (is_idle(&server->connection[i]) &&
            (found == server->connection_count || server->connection[i].turn < server->connection[found].turn))
            found = i;
    return found;
}

static void accept_connection(struct control_server *server)
{
    int handle = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);
    if (handle < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
            server->accept_again = server->limits.clock() + ACCEPT_AGAIN;
        return;
    }
    if (server->connection_count == CONNECTIONS_MAX) close_connection(server, longest_idle(server));
    struct connection *connection = &server->connection[server->connection_count];
    socklen_t size = sizeof connection->peer;
    *connection = (struct connection){ .handle = handle, .since = server->limits.clock(), .turn = ++server->turns };
    bool known = getsockopt(handle, SOL_SOCKET, SO_PEERCRED, &connection->peer, &size) == 0;
    connection->text = known ? malloc(REQUEST_MAX) : NULL;
    if (connection->text) server->connection_count++;
    else close(handle);
}

/* Verbs that have run give their answers to their connections. */
static void collect_jobs(struct control_server *server)
{
    for (size_t i = server->connection_count; i-- > 0;) {
        struct connection *connection = &server->connection[i];
        struct job *job = connection->job;
        if (!job) continue;
        pthread_mutex_lock(&server->lock);
        bool done = job->done;
        pthread_mutex_unlock(&server->lock);
        if (!done) continue;
        pthread_join(job->thread, NULL);
        server->jobs--;
        connection->job = NULL;
        give_answer(server, connection, job->answer, job->answer_length);
        control_call_release(&job->call);
        free(job);
        if (connection->handle < 0 || !advance(server, connection)) close_connection(server, i);
    }
    for (size_t i = server->connection_count; i-- > 0 && server->jobs < VERBS_MAX;)     /* whose turn it is now */
        if (!server->connection[i].job && !advance(server, &server->connection[i])) close_connection(server, i);
}

/* When the connection has waited long enough; INT64_MAX: it may wait. */
static int64_t deadline(const struct control_limits *limits, const struct connection *connection)
{
    if (connection->answer) return connection->since + limits->unread;
    return is_idle(connection) ? connection->since + limits->silent : INT64_MAX;
}

/* Closes whose time is over; ms until the next one's is, -1: nobody's. */
static int expire(struct control_server *server)
{
    int64_t now = server->limits.clock(), next = server->accept_again > now ? server->accept_again : INT64_MAX;
    for (size_t i = server->connection_count; i-- > 0;) {
        int64_t end = deadline(&server->limits, &server->connection[i]);
        if (end <= now) close_connection(server, i);
        else if (end < next) next = end;
    }
    return next == INT64_MAX ? -1 : (int)(next - now) + 1;
}

/* Nothing more is taken; what runs is waited for, and its answer sent, unless nobody reads it. */
static bool has_ended(struct control_server *server)
{
    if (!atomic_load(&server->stopping)) return false;
    for (size_t i = server->connection_count; i-- > 0;)
        if (!server->connection[i].job && !server->connection[i].answer) close_connection(server, i);
    return server->connection_count == 0;
}

static short events_of(const struct connection *connection)
{
    if (connection->answer) return POLLOUT;
    return is_idle(connection) ? POLLIN : 0;    /* a hang-up is told all the same */
}

static void *run(void *argument)
{
    struct control_server *server = argument;
    for (;;) {
        int timeout = expire(server);           /* first: it may close the last that the end waits for */
        if (has_ended(server)) return NULL;
        struct pollfd wait[CONNECTIONS_MAX + 2] = { { .fd = server->wake, .events = POLLIN } };
        size_t count = server->connection_count;
        bool room = count < CONNECTIONS_MAX || longest_idle(server) < count;    /* else the kernel's queue keeps it */
        room = room && !atomic_load(&server->stopping) && server->limits.clock() >= server->accept_again;
        wait[1] = (struct pollfd){ .fd = room ? server->listener : -1, .events = POLLIN };
        for (size_t i = 0; i < count; i++)
            wait[i + 2] = (struct pollfd){ .fd = server->connection[i].handle,
                                           .events = events_of(&server->connection[i]) };
        if (poll(wait, count + 2, timeout) < 0) {
            if (errno == EINTR || errno == ENOMEM) continue;
            log_error("the control socket has failed: no verb is answered any more",
                      LOG_S("error", strerrordesc_np(errno)), LOG_S("remedy", "restart the daemon"));
            return NULL;
        }
        for (size_t i = count; i-- > 0;) {      /* backwards: closing one moves the last into its place */
            struct connection *connection = &server->connection[i];
            if (!wait[i + 2].revents) continue;
            if (connection->job) {
                close(connection->handle);      /* it has gone; its verb goes on */
                connection->handle = -1;
            } else if (!(connection->answer ? advance(server, connection) : take(server, connection))) {
                close_connection(server, i);
            }
        }
        if (wait[1].revents) accept_connection(server);
        if (wait[0].revents) {
            eventfd_t ignored;
            eventfd_read(server->wake, &ignored);
            collect_jobs(server);
        }
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

struct control_server *control_start(const char *path, const struct control_limits *limits,
                                     const struct control_verb *verb, void *self, struct cs_error *err)
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
    pthread_mutex_init(&server->lock, NULL);
    server->limits = *limits;
    server->verb = verb;
    server->self = self;
    if (!make_address(path, &address, err) || !remove_stale(path, &address, err)) goto out;
    server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    server->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
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
    /* Not following: who may write in the folder could have put a link there meanwhile. */
    if (fchmodat(AT_FDCWD, path, 0660, AT_SYMLINK_NOFOLLOW) != 0 || listen(server->listener, CONNECTIONS_MAX) != 0) {
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
    pthread_mutex_destroy(&server->lock);
    free(server->path);
    free(server);
    return NULL;
}

void control_stop(struct control_server *server)
{
    if (!server) return;
    atomic_store(&server->stopping, true);
    eventfd_write(server->wake, 1);
    pthread_join(server->thread, NULL);
    unlink(server->path);
    close(server->listener);
    close(server->wake);
    pthread_mutex_destroy(&server->lock);
    free(server->path);
    free(server);
}

/* ---- the client's side ---- */

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

static bool not_connected(const char *path, int number, struct cs_error *err)
{
    const char *remedy = number == EACCES ? "only its group may ask: try sudo, or have yourself added to it"
                         : number == ENOENT || number == ECONNREFUSED
                             ? "is coldstreamd running, and is this the control.socket of its configuration? A standby "
                               "has none: /readyz and `systemctl status` say whom it waits for"
                             : "";
    return cs_fail(err, CS_FAILED, "no daemon answers on %s: %s%s%s", path, strerrordesc_np(number),
                   *remedy ? "; " : "", remedy);
}

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

json_t *control_ask(const char *path, const char *verb, const char *argument, json_t **reasons,
                    struct cs_error *err)
{
    struct sockaddr_un address;
    json_t *result = NULL, *reply = NULL, *request = NULL;
    char *line = NULL, *asked = NULL;
    size_t length;
    if (reasons) *reasons = NULL;
    if (!make_address(path, &address, err)) return NULL;
    int handle = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (handle < 0 || connect(handle, (const struct sockaddr *)&address, sizeof address) != 0) {
        not_connected(path, errno, err);
        goto out;
    }
    request = argument ? json_pack("{s:s, s:s}", "verb", verb, "argument", argument) : json_pack("{s:s}", "verb", verb);
    if (!request) {
        cs_fail(err, CS_USAGE, "the verb or its argument is no UTF-8 text");
        goto out;
    }
    asked = line_of(request, &length);
    if (!asked || !send_all(handle, asked, length)) {
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
    } else if (json_is_false(json_object_get(reply, "ok")) && json_string_length(json_object_get(reply, "error"))) {
        cs_fail(err, code_of_exit(json_integer_value(json_object_get(reply, "code"))), "%s",
                json_string_value(json_object_get(reply, "error")));
        if (reasons) *reasons = json_incref(json_object_get(reply, "reasons"));
    } else {
        cs_fail(err, CS_FAILED, "the daemon's answer is not what it should be: %.200s", line);
    }
out:
    if (handle >= 0) close(handle);
    free(line);
    free(asked);
    json_decref(reply);
    return result;
}

json_t *control_request(const char *path, const char *verb, const char *argument, struct cs_error *err)
{
    return control_ask(path, verb, argument, NULL, err);
}
