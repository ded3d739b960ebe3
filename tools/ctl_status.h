/* How `coldstreamctl status` looks. */
#ifndef TOOLS_CTL_STATUS_H
#define TOOLS_CTL_STATUS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/* The daemon's answer to `status`, a screenful; what is wrong comes first. What it lacks is told as not known. */
void ctl_print_status(const json_t *status, bool colors, FILE *out);

#endif
