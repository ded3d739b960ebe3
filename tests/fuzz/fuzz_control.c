/* Any bytes at the control socket, from either side. First byte even: the daemon answers each line with one JSON object
 * that says ok or why not, and goes on. Odd: the bytes are what a daemon answers, and the client returns a result or an
 * error. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/control.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* libFuzzer's alarms interrupt calls, hence the retries. */
enum { BYTES_MAX = 32 * 1024 };         /* below what a socket's buffer takes: nobody waits for the other */

static json_t *run_status(void *self, struct control_call *call, struct cs_error *err)
{
    (void)self, (void)err;
    return json_pack("{s:s?}", "argument", call->argument);
}

static json_t *run_rollback(void *self, struct control_call *call, struct cs_error *err)
{
    (void)self;
    cs_fail(err, CS_REFUSED, "no version \"%s\"", call->argument ? call->argument : "");
    return NULL;
}

static const struct control_verb verbs[] = {
    { "status", false, run_status }, { "rollback", true, run_rollback }, { 0 },
};

static char daemon_path[64], client_path[64];
static int listener;

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    return address;
}

static void start(void)
{
    static char directory[] = "/tmp/fuzz_control.XXXXXX";
    struct cs_error err = { 0 };
    if (!mkdtemp(directory)) abort();
    snprintf(daemon_path, sizeof daemon_path, "%s/daemon", directory);
    snprintf(client_path, sizeof client_path, "%s/client", directory);
    if (!control_start(daemon_path, &control_limits, verbs, NULL, &err)) abort();
    struct sockaddr_un address = address_of(client_path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4)) abort();
}

static void give(int handle, const uint8_t *bytes, size_t size)
{
    while (size) {
        ssize_t sent = TEMP_FAILURE_RETRY(send(handle, bytes, size, MSG_NOSIGNAL));
        if (sent <= 0) return;          /* closed by the other: it has had enough */
        bytes += sent;
        size -= (size_t)sent;
    }
}

static void check_answer(const char *line, size_t length)
{
    json_t *answer = json_loadb(line, length, JSON_REJECT_DUPLICATES, NULL);
    const json_t *ok = json_object_get(answer, "ok");
    if (!json_is_boolean(ok)) abort();
    bool whole = json_is_true(ok) ? json_object_get(answer, "result") != NULL
                                  : json_is_string(json_object_get(answer, "error"));
    if (!whole) abort();
    json_decref(answer);
}

/* One answer a line. The daemon may close before the end; what it has said by then is whole. */
static void ask(const uint8_t *bytes, size_t size)
{
    static char text[8 << 20];
    struct sockaddr_un address = address_of(daemon_path);
    int handle = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (handle < 0 || connect(handle, (struct sockaddr *)&address, sizeof address)) abort();
    size_t lines = 0, used = 0, answers = 0;
    for (size_t begin = 0, end; begin < size && answers == lines; begin = end) {
        const uint8_t *found = memchr(bytes + begin, '\n', size - begin);
        end = found ? (size_t)(found - bytes) + 1 : size;
        give(handle, bytes + begin, end - begin);
        if (!found) break;
        lines++;
        for (used = 0; answers < lines;) {
            ssize_t got = TEMP_FAILURE_RETRY(recv(handle, text + used, sizeof text - used, 0));
            if (got <= 0) abort();      /* a line that is whole is always answered */
            used += (size_t)got;
            if (text[used - 1] != '\n') continue;
            check_answer(text, used - 1);
            answers++;
        }
    }
    close(handle);
}

struct reply { const uint8_t *bytes; size_t size; };

static void *play_daemon(void *argument)
{
    const struct reply *reply = argument;
    char line[256];
    int handle = TEMP_FAILURE_RETRY(accept(listener, NULL, NULL));
    if (handle < 0 || TEMP_FAILURE_RETRY(recv(handle, line, sizeof line, 0)) <= 0) abort();
    give(handle, reply->bytes, reply->size);
    close(handle);
    return NULL;
}

static void be_asked(const uint8_t *bytes, size_t size)
{
    struct reply reply = { bytes, size };
    struct cs_error err = { 0 };
    pthread_t thread;
    if (pthread_create(&thread, NULL, play_daemon, &reply)) abort();
    json_t *result = control_request(client_path, "status", NULL, &err);
    if (!result && (err.code == CS_OK || !*err.message)) abort();
    json_decref(result);
    pthread_join(thread, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (!listener) start();
    if (!size || size > BYTES_MAX) return 0;
    if (*bytes & 1) be_asked(bytes + 1, size - 1);
    else ask(bytes + 1, size - 1);
    return 0;
}
