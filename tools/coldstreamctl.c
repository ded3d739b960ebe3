/* coldstreamctl: the operator's and the developer's tool. One row a verb; help, parsing and suggestions follow from it.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/version.h"
#include "tools/ctl_verbs.h"

static const char running[] = "Ask a running daemon", files[] = "Work on files", load[] = "Make load";

const struct ctl_verb ctl_verb_table[] = {
    { "status", running, NULL, "What the daemon is doing, at a glance.", ctl_status_options, ctl_status },
    { "snapshot", running, NULL, "Save the daemon's state now, and wait until it is on disk.", ctl_client_options,
      ctl_client },
    { "publish", running, NULL, "Snapshot, then publish a checkpoint of it for the serving fleet.", ctl_client_options,
      ctl_client },
    { "rollback", running, "[VERSION]",
      "Point `current` at an earlier checkpoint, by default the previous one, and publish nothing until resume.",
      ctl_client_options, ctl_client },
    { "pin", running, "VERSION", "Keep a checkpoint, however many come after it.", ctl_client_options, ctl_client },
    { "unpin", running, "VERSION", "Let a pinned checkpoint go with the others.", ctl_client_options, ctl_client },
    { "reload", running, NULL, "Read the configuration file again, as SIGHUP does, and say what changed.",
      ctl_client_options, ctl_reload },
    { "pause", running, NULL, "Stop learning; the position in the stream is kept.", ctl_client_options, ctl_client },
    { "resume", running, NULL, "Go on learning, and publishing after a rollback.", ctl_client_options, ctl_client },
    { "log-level", running, "LEVEL", "Change what is logged: error, warning, notice, info or debug.",
      ctl_client_options, ctl_client },
    { "check-config", files, "FILE", "Say all that is wrong with a configuration.", ctl_check_config_options,
      ctl_check_config },
    { "sample", files, NULL, "Print a configuration with every setting, its default and what it does.",
      ctl_manual_options, ctl_sample },
    { "manual", files, NULL, "Print the manual of all settings, as Markdown.", ctl_manual_options, ctl_manual },
    { "train", files, NULL,
      "Learn from a file of events as the daemon would from Kafka: the same code, the same numbers.", ctl_train_options,
      ctl_train },
    { "export", files, "FILE", "Write a snapshot's or a checkpoint's tensors, for other programs to read.",
      ctl_export_options, ctl_export },
    { "import", files, "FILE", "Make a snapshot from a safetensors file, for a daemon to start from.",
      ctl_import_options, ctl_import },
    { "inspect", files, "PATH", "Say what a snapshot or a checkpoint holds.", ctl_inspect_options, ctl_inspect },
    { "verify", files, "[PATH]", "Read all of a snapshot or a checkpoint and compare every checksum.",
      ctl_verify_options, ctl_verify },
    { "backup", files, "[SNAPSHOT] TO", "Copy a snapshot compactly, also while a daemon uses it.", ctl_backup_options,
      ctl_backup },
    { "restore", files, "BACKUP [SNAPSHOT]", "Bring a backup back, for a daemon to start from.", ctl_restore_options,
      ctl_restore },
    { "migrate", files, NULL, "Carry a snapshot over to a configuration with other features.", ctl_migrate_options,
      ctl_migrate },
    { "offsets", files, NULL,
      "Move a stopped daemon's positions in the stream: the way on where records or topics are gone.",
      ctl_offsets_options, ctl_offsets },
    { "score", files, NULL, "Score impressions with a checkpoint: JSON lines in, one line out for each.",
      ctl_score_options, ctl_score },
    { "generate", load, NULL, "Make a synthetic stream that can be learned: to a file, a pipe or Kafka.",
      ctl_generate_options, ctl_generate },
    { NULL, NULL, NULL, NULL, NULL, NULL },
};

static const struct ctl_verb *find_verb(const char *name)
{
    for (const struct ctl_verb *v = ctl_verb_table; v->name; v++)
        if (strcmp(v->name, name) == 0) return v;
    return NULL;
}

static void help(FILE *out)
{
    const char *group = NULL;

    fprintf(out, "usage: coldstreamctl VERB [options]\n");
    for (const struct ctl_verb *v = ctl_verb_table; v->name; v++) {
        if (v->group != group) fprintf(out, "\n%s:\n", v->group);
        group = v->group;
        fprintf(out, "  %-14s %s\n", v->name, v->doc);
    }
    fprintf(
        out,
        "\n'coldstreamctl VERB --help' lists a verb's options; --version says what this is built of.\n"
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 65 state or data refused, 76 fenced, 78 bad configuration.\n");
}

static int unknown_verb(const char *word)
{
    const char *names[48], *near;
    size_t n = 0;

    for (const struct ctl_verb *v = ctl_verb_table; v->name; v++) names[n++] = v->name;
    names[n] = NULL;
    near = ctl_nearest(word, names);
    fprintf(stderr, "coldstreamctl: no verb \"%s\"%s%s%s\nTry 'coldstreamctl --help'.\n", word,
            near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    return 2;
}

int main(int argc, char **argv)
{
    struct ctl_arguments arguments;
    const struct ctl_verb *verb;

    if (argc < 2) {
        help(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        version_print("coldstreamctl", stdout);
        return 0;
    }
    if (strcmp(argv[1], "help") == 0 && argc == 3 && find_verb(argv[2])) {
        ctl_help_verb(find_verb(argv[2]));
        return 0;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        help(stdout);
        return 0;
    }
    verb = find_verb(argv[1]);
    if (!verb) return unknown_verb(argv[1]);
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            ctl_help_verb(verb);
            return 0;
        }
    if (!ctl_parse(verb, argc - 2, argv + 2, &arguments)) return 2;
    return verb->run(&arguments);
}
