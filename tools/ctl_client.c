/* The verbs that ask a running daemon: one request on its control socket, one answer. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "daemon/control.h"
#include "daemon/text.h"
#include "tools/ctl_instance.h"
#include "tools/ctl_status.h"
#include "tools/ctl_verbs.h"

#define SOCKET \
    { "control", 's', "SOCKET", "the daemon's control socket [/run/coldstream/control.sock]", false }, \
    { "instance", 'i', "INSTANCE", "the socket of coldstream@INSTANCE instead", false }
#define JSON { "json", 'j', NULL, "the daemon's answer as it is, for programs", false }
const struct program_option ctl_client_options[] = { SOCKET, JSON, { NULL, 0, NULL, NULL, false } };
#define WATCH { "watch", 'w', "[SECONDS]", "again each so many seconds, until interrupted [2]", false }
const struct program_option ctl_status_options[] = { SOCKET, JSON, WATCH, { NULL, 0, NULL, NULL, false } };

static void print_line(FILE *out, const char *before, const char *text)
{
    fputs(before, out);
    text_show(out, text);
    fputc('\n', out);
}

/* "key: value" lines; what stands in an object is indented under its name, short lists stay on their line. */
static void print_value(const char *name, const json_t *value, int depth)
{
    const char *key;
    const json_t *member;
    size_t i;

    if (json_is_object(value)) {
        if (name) printf("%*s%s\n", 2 * depth, "", name);
        json_object_foreach((json_t *)value, key, member) print_value(key, member, name ? depth + 1 : depth);
        return;
    }
    if (json_is_array(value) && json_array_size(value) && json_is_object(json_array_get(value, 0))) {
        if (name) printf("%*s%s\n", 2 * depth, "", name);
        json_array_foreach(value, i, member) {
            char *line = json_dumps(member, JSON_COMPACT);
            printf("%*s%s\n", 2 * depth + 2, "", line ? line : "");
            free(line);
        }
        return;
    }
    printf("%*s%-*s ", 2 * depth, "", 28 - 2 * depth, name ? name : "");
    if (json_is_string(value)) print_line(stdout, "", json_string_value(value));
    else if (json_is_real(value)) printf("%.6g\n", json_real_value(value));
    else {
        char *line = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        printf("%s\n", line ? line : "");
        free(line);
    }
}

/* By --control, or by --instance. 0, or the exit code: all has been said. */
static int find_socket(const struct ctl_arguments *arguments, char path[PATH_MAX])
{
    const char *socket = ctl_value(arguments, "control"), *instance = ctl_value(arguments, "instance");
    char *name[CTL_INSTANCES_MAX + 1];
    struct cs_error err = { 0 };

    snprintf(path, PATH_MAX, "%s", socket ? socket : "/run/coldstream/control.sock");
    if (!instance) return 0;
    if (socket) {
        cs_fail(&err, CS_USAGE, "found --control and --instance, allowed is one of them");
        return ctl_fail(arguments, &err);
    }
    if (!ctl_instance_socket(instance, path, PATH_MAX, &err)) return ctl_fail(arguments, &err);
    if (access(path, F_OK) == 0 || errno != ENOENT) return 0;
    cs_fail(&err, CS_FAILED, "no instance %.40s runs: there is no %.80s", instance, path);
    int code = ctl_fail(arguments, &err);
    size_t count = ctl_instances(name);
    fputs(count ? "  those that run:" : "  no instance runs that this user may see", stderr);
    for (size_t i = 0; i < count; i++) fprintf(stderr, " %s", name[i]);
    fprintf(stderr, "\n  to start it: systemctl start coldstream@%s (its control.socket is to be that path)\n",
            instance);
    ctl_instances_release(name);
    return code;
}

/* Where there are several reasons they follow, a line each. */
static int fail_with_reasons(const struct ctl_arguments *arguments, const struct cs_error *err, json_t *reasons)
{
    size_t i;
    const json_t *one;
    int code = ctl_fail(arguments, err);
    if (json_array_size(reasons) > 1)
        json_array_foreach(reasons, i, one) print_line(stderr, "  ", json_string_value(one));
    json_decref(reasons);
    return code;
}

static void print_json(const json_t *result)
{
    json_dumpf(result, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
    putchar('\n');
}

int ctl_client(const struct ctl_arguments *arguments)
{
    struct cs_error err = { 0 };
    char path[PATH_MAX];
    json_t *reasons, *result;
    int code = find_socket(arguments, path);

    if (code) return code;
    result = control_ask(path, arguments->verb->name, arguments->position[0], &reasons, &err);
    if (!result) return fail_with_reasons(arguments, &err, reasons);
    if (ctl_flag(arguments, "json")) print_json(result);
    else if (json_is_object(result) && json_object_size(result) == 0) ctl_say(arguments, "done");
    else print_value(NULL, result, 0);
    json_decref(result);
    return fflush(stdout) == 0 ? 0 : 1;
}

/* A secret is not shown before nor after: it can only be said that it is another one. */
static void print_change(const json_t *change)
{
    const char *key = json_string_value(json_object_get(change, "key"));
    const char *from = json_string_value(json_object_get(change, "from"));
    const char *to = json_string_value(json_object_get(change, "to"));

    printf("%s: ", key);
    if (strcmp(from, to) != 0) {
        text_show(stdout, from);
        print_line(stdout, " -> ", to);
    } else puts("replaced");
}

int ctl_reload(const struct ctl_arguments *arguments)
{
    struct cs_error err = { 0 };
    json_t *reasons, *result;
    size_t i;
    const json_t *one;
    char path[PATH_MAX];
    int code = find_socket(arguments, path);

    if (code) return code;
    result = control_ask(path, "reload", NULL, &reasons, &err);
    if (!result) return fail_with_reasons(arguments, &err, reasons);
    const json_t *settings = json_object_get(result, "settings");
    if (ctl_flag(arguments, "json")) print_json(result);
    else if (json_array_size(settings) == 0) ctl_say(arguments, "nothing has changed");
    else
        json_array_foreach(settings, i, one) print_change(one);
    const char *note = json_string_value(json_object_get(result, "note"));
    if (note && !ctl_flag(arguments, "json")) ctl_say(arguments, "%s", note);
    json_decref(result);
    return fflush(stdout) == 0 ? 0 : 1;
}

/* Once, or until interrupted: written over the last one on a terminal, one below the other elsewhere. A daemon that is
 * away meanwhile (restarted, perhaps) is asked again. */
int ctl_status(const struct ctl_arguments *arguments)
{
    uint64_t seconds = 2;
    struct cs_error err = { 0 };
    bool watch = ctl_flag(arguments, "watch"), json = ctl_flag(arguments, "json"), terminal = program_rewrites(stdout);
    bool colors = program_colors(stdout);
    char path[PATH_MAX];
    int code = find_socket(arguments, path);

    if (code) return code;
    if (watch && *ctl_value(arguments, "watch") && !ctl_count(arguments, "watch", 1, 86400, 2, &seconds, &err))
        return ctl_fail(arguments, &err);
    for (bool first = true;; first = false) {
        json_t *status = control_request(path, "status", NULL, &err);
        if (!status && (!watch || first)) return ctl_fail(arguments, &err);
        if (watch && terminal && !json) printf("\033[H\033[2J");
        else if (!first && !json) putchar('\n');
        if (!status) ctl_fail(arguments, &err);
        else if (json && watch) {       /* one object a line, for programs that follow */
            json_dumpf(status, stdout, JSON_COMPACT);
            putchar('\n');
        } else if (json) print_json(status);
        else ctl_print_status(status, colors, stdout);
        json_decref(status);
        if (fflush(stdout) != 0) return 1;
        if (!watch) return 0;
        sleep((unsigned)seconds);
    }
}
