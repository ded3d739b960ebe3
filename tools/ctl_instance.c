/* Instance -> socket, by the paths that systemd/coldstream.service.in gives an instance. */
#include "tools/ctl_instance.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEFORE "/run/coldstream-"
#define BEHIND "/control.sock"

/* Their units don't start either: systemd/units.sh. */
static const struct { const char *name, *whose; } reserved[] = {
    { "serve", "/run/coldstream-serve is coldstream-serve's" },
    { "snapshot", "/var/lib/coldstream/snapshot is coldstream.service's" },
    { "checkpoints", "/var/lib/coldstream/checkpoints is coldstream.service's" },
};

bool ctl_instance_socket(const char *name, char *path, size_t size, struct cs_error *err)
{
    /* What systemd lets stand behind the @, escapes included; a dot alone would lead elsewhere. */
    size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\");
    if (!*name || name[length] || !strcmp(name, ".") || !strcmp(name, ".."))
        return cs_fail(err, CS_USAGE, "--instance: found \"%.60s\", allowed is what stands behind the @ of "
                       "coldstream@NAME", name);
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        if (strcmp(name, reserved[i].name) == 0)
            return cs_fail(err, CS_USAGE, "--instance: no model can be called %s, %s: give it another name", name,
                           reserved[i].whose);
    if ((size_t)snprintf(path, size, BEFORE "%s" BEHIND, name) < size) return true;
    return cs_fail(err, CS_USAGE, "--instance: found a name of %zu bytes, longer than a socket's path can be", length);
}

size_t ctl_instances(char *name[CTL_INSTANCES_MAX + 1])
{
    glob_t found;
    size_t count = 0;

    if (glob(BEFORE "*" BEHIND, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc && count < CTL_INSTANCES_MAX; i++) {
            const char *path = found.gl_pathv[i] + sizeof BEFORE - 1;
            name[count] = strndup(path, strlen(path) - (sizeof BEHIND - 1));
            if (name[count]) count++;
        }
        globfree(&found);
    }
    name[count] = NULL;
    return count;
}

void ctl_instances_release(char *name[CTL_INSTANCES_MAX + 1])
{
    for (size_t i = 0; name[i]; i++) free(name[i]);
    name[0] = NULL;
}
