/* check-config: every problem of a configuration in one run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "config/config.h"
#include "daemon/kafka_config.h"
#include "tools/ctl_verbs.h"

const struct program_option ctl_check_config_options[] = {
    { "train", 0, NULL, "check it for `train`, which needs no source, directory or socket", false },
    { "json", 'j', NULL, "for programs: {\"valid\", \"file\", \"problems\": [{line, column, message}]}", false },
    { NULL, 0, NULL, NULL, false },
};

static void print_json(const char *file, const struct config_problems *problems)
{
    json_t *list = json_array();
    for (size_t i = 0; i < problems->count; i++) {
        const struct config_problem *one = &problems->problem[i];
        json_array_append_new(list, json_pack("{s:i,s:i,s:o}", "line", one->line, "column", one->column, "message",
                                              json_stringn_nocheck(one->text, strlen(one->text))));
    }
    json_t *root = json_pack("{s:b,s:o,s:o}", "valid", problems->count == 0, "file",
                             json_stringn_nocheck(file, strlen(file)), "problems", list);
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    putchar('\n');
    json_decref(root);
}

int ctl_check_config(const struct ctl_arguments *arguments)
{
    struct config_problems problems = { 0 };
    enum config_use use = ctl_flag(arguments, "train") ? CONFIG_FOR_TRAIN : CONFIG_FOR_DAEMON;
    struct cs_config *config = config_load_checked(arguments->position[0], use, &kafka_checks, &problems);
    char *text;

    if (ctl_flag(arguments, "json")) {
        print_json(arguments->position[0], &problems);
        config_destroy(config);
        config_problems_release(&problems);
        return config ? 0 : cs_exit_code(CS_CONFIG);
    }
    if (config) {
        config_destroy(config);
        config_problems_release(&problems);
        ctl_say(arguments, "%s: no problems", arguments->position[0]);
        return 0;
    }
    text = config_problems_text(&problems);
    fputs(text, stderr);
    free(text);
    config_problems_release(&problems);
    return cs_exit_code(CS_CONFIG);
}
