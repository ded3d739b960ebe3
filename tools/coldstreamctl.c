/* coldstreamctl: the operator's and the developer's tool. One row a verb; help, parsing, suggestions, man page and
 * completion follow from it. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/version.h"
#include "tools/ctl_verbs.h"

static const char running[] = "Ask a running daemon", files[] = "Work on files", load[] = "Make load";

const struct ctl_verb ctl_verb_table[] = {
    { .name = "status",
      .group = running,
      .option = ctl_status_options,
      .run = ctl_status,
      .brief = "what it is doing",
      .doc = "What the daemon is doing, at a glance.",
      .example = "coldstreamctl status --watch 5\n"
                 "coldstreamctl status --instance second\n"
                 "coldstreamctl status --json | jq .join\n" },
    { .name = "snapshot",
      .group = running,
      .option = ctl_client_options,
      .run = ctl_client,
      .brief = "save its state now",
      .doc = "Save the daemon's state now, and wait until it is on disk.",
      .example = "coldstreamctl snapshot && coldstreamctl backup -c new.yaml /backup/today\n" },
    { .name = "publish",
      .group = running,
      .option = ctl_client_options,
      .run = ctl_client,
      .brief = "a new version, now",
      .doc = "Snapshot, then publish a checkpoint of it for the serving fleet.",
      .example = "coldstreamctl publish --json | jq .version\n" },
    { .name = "rollback",
      .group = running,
      .positions = "[VERSION]",
      .option = ctl_client_options,
      .run = ctl_client,
      .brief = "to an earlier version",
      .doc = "Point `current` at an earlier checkpoint, by default the previous one, and publish nothing until resume.",
      .example = "coldstreamctl rollback              to the one before\n"
                 "coldstreamctl rollback 41 && coldstreamctl pin 41\n" },
    { .name = "pin",
      .group = running,
      .positions = "VERSION",
      .option = ctl_client_options,
      .run = ctl_client,
      .brief = "keep a version",
      .doc = "Keep a checkpoint, however many come after it.",
      .example = "coldstreamctl pin 41\n" },
    { .name = "unpin",
      .group = running,
      .positions = "VERSION",
      .option = ctl_client_options,
      .run = ctl_client,
      .brief = "let it go",
      .doc = "Let a pinned checkpoint go with the others.",
      .example = "coldstreamctl unpin 41\n" },
    { .name = "reload",
      .group = running,
      .option = ctl_client_options,
      .run = ctl_reload,
      .brief = "the configuration",
      .doc =
          "Read the configuration file again, and the secrets that it refers to, as SIGHUP does, and say what changed. "
          "Where anything in it is wrong, or needs a restart, nothing changes. Another SASL user or password is shown "
          "to the brokers at each client's next connection; certificates and keys of TLS need a restart.",
      .example = "coldstreamctl check-config new.yaml\n"
                 "coldstreamctl reload\n" },
    { .name = "pause",
      .group = running,
      .option = ctl_client_options,
      .run = ctl_client,
      .brief = "stop learning",
      .doc = "Stop learning; the position in the stream is kept.",
      .example = "coldstreamctl pause\n" },
    { .name = "resume",
      .group = running,
      .option = ctl_client_options,
      .run = ctl_client,
      .brief = "go on",
      .doc = "Go on learning, and publishing after a rollback.",
      .example = "coldstreamctl resume\n" },
    { .name = "log-level",
      .group = running,
      .positions = "LEVEL",
      .option = ctl_client_options,
      .run = ctl_client,
      .brief = "what is logged",
      .doc = "Change what is logged: error, warning, notice, info or debug.",
      .example = "coldstreamctl log-level debug\n" },
    { .name = "check-config",
      .group = files,
      .positions = "FILE",
      .option = ctl_check_config_options,
      .run = ctl_check_config,
      .brief = "all that is wrong",
      .doc = "Say all that is wrong with a configuration, each as file:line:column.",
      .example = "coldstreamctl check-config /etc/coldstream/coldstream.yaml\n"
                 "coldstreamctl check-config --json new.yaml | jq -r '.problems[].message'\n" },
    { .name = "doctor",
      .group = files,
      .option = ctl_doctor_options,
      .run = ctl_doctor,
      .brief = "is this machine fit?",
      .doc = "Look at the machine that a daemon is to run on: memory, disks, directories, brokers and topics, the "
             "processor. Run it as the daemon's user.",
      .example = "sudo -u coldstream coldstreamctl doctor\n"
                 "coldstreamctl doctor -c new.yaml --json\n",
      .note = "Exit: 0 nothing failed (there may be warnings), 1 something did, 78 bad configuration." },
    { .name = "sample",
      .group = files,
      .option = ctl_sample_options,
      .run = ctl_sample,
      .brief = "a configuration",
      .doc = "Print a configuration with every setting, its default and what it does.",
      .example = "coldstreamctl sample > coldstream.yaml\n"
                 "coldstreamctl sample --minimal > new.yaml\n" },
    { .name = "manual",
      .group = files,
      .positions = "[PAGE]",
      .option = ctl_manual_options,
      .run = ctl_manual,
      .brief = "all settings; man pages",
      .doc = "Print the manual of all settings, or a man page: coldstreamd.8, coldstream-serve.8, coldstreamctl.1, "
             "coldstream.yaml.5.",
      .example = "coldstreamctl manual | less\n"
                 "coldstreamctl manual --format man coldstream.yaml.5 > coldstream.yaml.5\n" },
    { .name = "train",
      .group = files,
      .option = ctl_train_options,
      .run = ctl_train,
      .brief = "learn from a file",
      .doc = "Learn from a file of events as the daemon would from Kafka: the same code, the same numbers.",
      .example = "coldstreamctl train -c model.yaml -e day.jsonl -k checkpoints\n" },
    { .name = "score",
      .group = files,
      .option = ctl_score_options,
      .run = ctl_score,
      .brief = "with a checkpoint",
      .doc = "Score impressions with a checkpoint: JSON lines in, one line out for each.",
      .example = "coldstreamctl score -k /var/lib/coldstream/checkpoints < impressions.jsonl\n" },
    { .name = "inspect",
      .group = files,
      .positions = "PATH",
      .option = ctl_inspect_options,
      .run = ctl_inspect,
      .brief = "what state holds",
      .doc = "Say what a snapshot or a checkpoint holds.",
      .example = "coldstreamctl inspect /var/lib/coldstream/checkpoints\n"
                 "coldstreamctl inspect /var/lib/coldstream/checkpoints --table item --key i9\n" },
    { .name = "verify",
      .group = files,
      .positions = "[PATH]",
      .option = ctl_verify_options,
      .run = ctl_verify,
      .brief = "every checksum",
      .doc = "Read all of a snapshot or a checkpoint and compare every checksum.",
      .example = "coldstreamctl verify /var/lib/coldstream/checkpoints\n" },
    { .name = "backup",
      .group = files,
      .positions = "[SNAPSHOT] TO",
      .option = ctl_backup_options,
      .run = ctl_backup,
      .brief = "copy a snapshot",
      .doc = "Copy a snapshot compactly, also while a daemon uses it.",
      .example = "coldstreamctl backup -c /etc/coldstream/coldstream.yaml /backup/$(date +%F)\n" },
    { .name = "restore",
      .group = files,
      .positions = "BACKUP [SNAPSHOT]",
      .option = ctl_restore_options,
      .run = ctl_restore,
      .brief = "bring it back",
      .doc = "Bring a backup back, for a daemon to start from.",
      .example = "coldstreamctl restore -c new.yaml --force /backup/2026-01-31\n" },
    { .name = "migrate",
      .group = files,
      .option = ctl_migrate_options,
      .run = ctl_migrate,
      .brief = "to other features",
      .doc = "Carry a snapshot over to a configuration with other features.",
      .example = "coldstreamctl migrate -c new.yaml --from snapshot --to snapshot.new\n" },
    { .name = "offsets",
      .group = files,
      .option = ctl_offsets_options,
      .run = ctl_offsets,
      .brief = "move its positions",
      .doc = "Move a stopped daemon's positions in the stream: the way on where records or topics are gone.",
      .example = "coldstreamctl offsets -c coldstream.yaml --to earliest --topic clicks\n" },
    { .name = "export",
      .group = files,
      .positions = "FILE",
      .option = ctl_export_options,
      .run = ctl_export,
      .brief = "tensors for others",
      .doc = "Write a snapshot's or a checkpoint's tensors, for other programs to read.",
      .example = "coldstreamctl export --from /var/lib/coldstream/checkpoints model.safetensors\n" },
    { .name = "import",
      .group = files,
      .positions = "FILE",
      .option = ctl_import_options,
      .run = ctl_import,
      .brief = "tensors of others",
      .doc = "Make a snapshot from a safetensors file, for a daemon to start from.",
      .example = "coldstreamctl import -c model.yaml --to snapshot model.safetensors\n" },
    { .name = "generate",
      .group = load,
      .option = ctl_generate_options,
      .run = ctl_generate,
      .brief = "a synthetic stream",
      .doc = "Make a synthetic stream that can be learned: to a file, a pipe or Kafka.",
      .example = "coldstreamctl generate -p small -n 100000 -o day.jsonl\n"
                 "coldstreamctl generate -p day -n 1000000 -b 127.0.0.1:9092 --rate 5000\n" },
    { .name = "complete",
      .positions = "[PROGRAM] [WORD]",
      .option = ctl_complete_options,
      .run = ctl_complete,
      .brief = "for the shell",
      .doc = "Answer a shell that completes a command line." },
    { .name = NULL },
};

const struct ctl_verb *ctl_find_verb(const char *name)
{
    for (const struct ctl_verb *v = ctl_verb_table; v->name; v++)
        if (strcmp(v->name, name) == 0) return v;
    return NULL;
}

/* Two columns, so that all verbs and an example stand on one screen. */
static void help(FILE *out)
{
    const char *group = NULL, *bold = program_colors(out) ? "\033[1m" : "", *plain = *bold ? "\033[m" : "";
    bool right = false;

    fprintf(out, "%susage:%s coldstreamctl VERB [options]      coldstreamctl VERB --help says more\n", bold, plain);
    for (const struct ctl_verb *v = ctl_verb_table; v->name; v++) {
        if (!v->group) continue;
        if (v->group != group) fprintf(out, "%s%s%s:%s\n", right ? "\n" : "", bold, v->group, plain);
        if (v->group != group) right = false;
        group = v->group;
        fprintf(out, right ? "%-13s%s\n" : "  %-13s%-25s", v->name, v->brief);
        right = !right;
    }
    fprintf(out,
            "%s%sExamples:%s\n"
            "  coldstreamctl sample > new.yaml && coldstreamctl check-config new.yaml\n"
            "  coldstreamctl status --watch\n"
            "Exit: 0 done, 1 failed, 2 wrong usage, 65 state or data refused,\n"
            "      76 fenced, 78 bad configuration.       -V, -VV: the version\n",
            right ? "\n" : "", bold, plain);
}

static int unknown_verb(const char *word)
{
    const char *names[48], *near;
    size_t n = 0;

    for (const struct ctl_verb *v = ctl_verb_table; v->name; v++)
        if (v->group) names[n++] = v->name;
    names[n] = NULL;
    near = program_nearest(word, names);
    fprintf(stderr, "coldstreamctl: no verb \"%.100s\"%s%s%s\nTry 'coldstreamctl --help'.\n", word,
            near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    return 2;
}

/* Before the verb: --help, --version, their letters, and what is no option at all. */
static int without_verb(int argc, char **argv)
{
    static const struct program program = { .name = "coldstreamctl" };
    struct program_reader reader;
    int code, found;

    program_begin(&reader, &program, argc - 1, argv + 1);
    found = program_next(&reader);
    if (found == PROGRAM_HELP || found == PROGRAM_HELP_ALL) {
        help(stdout);
        return program_flush("coldstreamctl", 0);
    }
    if (found == PROGRAM_WRONG) return program_refuse(&reader);
    if (program_answers(&reader, found, &code)) return code;
    fputs("coldstreamctl: options come behind a verb, as in: coldstreamctl status --verbose\n"
          "Try 'coldstreamctl --help'.\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    struct ctl_arguments arguments;
    const struct ctl_verb *verb;
    char *word = argc > 1 ? argv[1] : NULL;
    int code;

    if (!word) {
        help(stderr);
        return 2;
    }
    if (word[0] == '-') return without_verb(argc, argv);
    if (strcmp(word, "help") == 0 && argc == 3 && ctl_find_verb(argv[2])) {
        char name[64];
        struct program program = ctl_program(ctl_find_verb(argv[2]), name);
        program_help(&program, false, stdout);
        return program_flush("coldstreamctl", 0);
    }
    if (strcmp(word, "help") == 0) {
        help(stdout);
        return program_flush("coldstreamctl", 0);
    }
    if (!(verb = ctl_find_verb(word))) return unknown_verb(word);
    /* A shell's words are its user's: not options of ours. */
    if (verb->run == ctl_complete) return program_flush("coldstreamctl", ctl_complete_words(argc - 2, argv + 2));
    if ((code = ctl_parse(verb, argc - 2, argv + 2, &arguments)) >= 0) return code;
    umask(027);         /* what is written has events, a model, or persons' histories in it */
    return program_flush("coldstreamctl", verb->run(&arguments));
}
