/* The models on this machine that run as instances, coldstream@NAME, each with the socket that its unit has it make. */
#ifndef TOOLS_CTL_INSTANCE_H
#define TOOLS_CTL_INSTANCE_H

#include <stdbool.h>
#include <stddef.h>

#include "core/error.h"

enum { CTL_INSTANCES_MAX = 64 };

/* /run/coldstream-NAME/control.sock. CS_USAGE: no instance can be called so, or its directories would be another's. */
bool ctl_instance_socket(const char *name, char *path, size_t size, struct cs_error *err);
/* The names of those that have a socket, in order, as far as this user may look; released by ctl_instances_release. */
size_t ctl_instances(char *name[CTL_INSTANCES_MAX + 1]);        /* ended by NULL */
void ctl_instances_release(char *name[CTL_INSTANCES_MAX + 1]);

#endif
