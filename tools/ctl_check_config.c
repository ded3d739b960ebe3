/* check-config: every problem of a configuration in one run. */
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "daemon/kafka_config.h"
#include "tools/ctl_verbs.h"

const struct ctl_option ctl_check_config_options[] = {
    { "train", 0, NULL, "check it for `train`, which needs no source, directory or socket", false },
    { NULL, 0, NULL, NULL, false },
};

int ctl_check_config(const struct ctl_arguments *arguments)
{
    struct config_problems problems = { 0 };
    enum config_use use = ctl_flag(arguments, "train") ? CONFIG_FOR_TRAIN : CONFIG_FOR_DAEMON;
    config_property_check *check = use == CONFIG_FOR_DAEMON ? kafka_property_check : NULL;
    struct cs_config *config = config_load_checked(arguments->position[0], use, check, &problems);
    char *text;

    if (config) {
        config_destroy(config);
        ctl_say(arguments, "%s: no problems", arguments->position[0]);
        return 0;
    }
    text = config_problems_text(&problems);
    fputs(text ? text : "out of memory\n", stderr);
    free(text);
    config_problems_release(&problems);
    return cs_exit_code(CS_CONFIG);
}
