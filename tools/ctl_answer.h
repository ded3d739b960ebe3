/* What a verb came to, for programs: one JSON object on stdout, whose members docs/commands.md lists. */
#ifndef TOOLS_CTL_ANSWER_H
#define TOOLS_CTL_ANSWER_H

#include <jansson.h>

#include "tools/ctl.h"

#define CTL_JSON { "json", 'j', NULL, "what came of it, for programs", false }

/* Prints the answer and releases it; the exit code. NULL: json_pack found no memory for it. */
int ctl_answer(const struct ctl_arguments *arguments, json_t *answer);

#endif
