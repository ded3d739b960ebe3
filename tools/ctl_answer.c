/* Answers for programs. */
#include "tools/ctl_answer.h"

#include <stdio.h>


int ctl_answer(const struct ctl_arguments *arguments, json_t *answer)
{
    struct cs_error err = { 0 };

    if (!answer) {
        cs_fail(&err, CS_FAILED, "out of memory for the answer: it is done all the same");
        return ctl_fail(arguments, &err);
    }
    json_dumpf(answer, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(answer);
    return 0;
}
