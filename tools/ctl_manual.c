/* sample, manual: the configuration's documentation, written from the table of settings. */
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "tools/ctl_verbs.h"

const struct ctl_option ctl_manual_options[] = {
    { NULL, 0, NULL, NULL, false },
};

static int print(char *text)
{
    int failed = fputs(text, stdout) == EOF || fflush(stdout) != 0;
    free(text);
    return failed ? cs_exit_code(CS_FAILED) : 0;
}

int ctl_sample(const struct ctl_arguments *arguments)
{
    (void)arguments;
    return print(config_sample());
}

int ctl_manual(const struct ctl_arguments *arguments)
{
    (void)arguments;
    return print(config_manual());
}
