/* The verbs that ask a running daemon: one request on its control socket, one answer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "daemon/control.h"
#include "tools/ctl_verbs.h"

#define SOCKET { "control", 's', "SOCKET", "the daemon's control socket [/run/coldstream/control.sock]", false }
#define JSON { "json", 'j', NULL, "the daemon's answer as it is, for programs", false }
const struct ctl_option ctl_client_options[] = { SOCKET, JSON, { NULL, 0, NULL, NULL, false } };
const struct ctl_option ctl_status_options[] = { SOCKET, JSON, { NULL, 0, NULL, NULL, false } };

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
    if (json_is_string(value)) printf("%s\n", json_string_value(value));
    else if (json_is_real(value)) printf("%.6g\n", json_real_value(value));
    else {
        char *line = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        printf("%s\n", line ? line : "");
        free(line);
    }
}

int ctl_client(const struct ctl_arguments *arguments)
{
    struct cs_error err = { 0 };
    const char *path = ctl_value(arguments, "control");
    json_t *result = control_request(path ? path : "/run/coldstream/control.sock", arguments->verb->name,
                                     arguments->position[0], &err);

    if (!result) return ctl_fail(arguments, &err);
    if (ctl_flag(arguments, "json")) {
        json_dumpf(result, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
        putchar('\n');
    } else if (json_is_object(result) && json_object_size(result) == 0) {
        ctl_say(arguments, "done");
    } else {
        print_value(NULL, result, 0);
    }
    json_decref(result);
    return fflush(stdout) == 0 ? 0 : 1;
}
