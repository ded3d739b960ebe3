/* The verbs of coldstreamctl: one file each, one line each. */
#ifndef TOOLS_CTL_VERBS_H
#define TOOLS_CTL_VERBS_H

#include "tools/ctl.h"

extern const struct program_option ctl_check_config_options[], ctl_status_options[], ctl_client_options[],
    ctl_train_options[], ctl_export_options[], ctl_import_options[], ctl_inspect_options[], ctl_verify_options[],
    ctl_backup_options[], ctl_restore_options[], ctl_migrate_options[], ctl_score_options[],
    ctl_generate_options[], ctl_manual_options[], ctl_sample_options[], ctl_doctor_options[],
    ctl_complete_options[], ctl_offsets_options[];

int ctl_check_config(const struct ctl_arguments *arguments);
int ctl_client(const struct ctl_arguments *arguments);          /* all verbs that ask a running daemon */
int ctl_status(const struct ctl_arguments *arguments);
int ctl_reload(const struct ctl_arguments *arguments);
int ctl_sample(const struct ctl_arguments *arguments);
int ctl_manual(const struct ctl_arguments *arguments);
int ctl_train(const struct ctl_arguments *arguments);
int ctl_export(const struct ctl_arguments *arguments);
int ctl_import(const struct ctl_arguments *arguments);
int ctl_inspect(const struct ctl_arguments *arguments);
int ctl_verify(const struct ctl_arguments *arguments);
int ctl_backup(const struct ctl_arguments *arguments);
int ctl_restore(const struct ctl_arguments *arguments);
int ctl_migrate(const struct ctl_arguments *arguments);
int ctl_offsets(const struct ctl_arguments *arguments);
int ctl_score(const struct ctl_arguments *arguments);
int ctl_generate(const struct ctl_arguments *arguments);
int ctl_doctor(const struct ctl_arguments *arguments);
int ctl_complete(const struct ctl_arguments *arguments);
int ctl_complete_words(int count, char **word);                 /* of a command line, the last one unfinished */

extern const char *const ctl_manual_pages[];                    /* that `manual` can write; ended by NULL */

#endif
