/* The table of remedies. */
#include "daemon/log_remedy.h"

#include <stddef.h>
#include <string.h>

#define BROKERS "nothing where it passes; else look at the brokers, at source.kafka.properties (bootstrap.servers, " \
                "security.protocol, credentials), and whether the network lets us through"
#define ACLS "check that the topic exists and that our user may WRITE it"

const struct log_remedy log_remedies[] = {
    /* learning */
    { "a batch was skipped: not finite",
      "look at the batch in <snapshot.directory>/aside; lower the learning rates where it happens again" },
    { "every batch is skipped: nothing is learned any more; stop, and go on from an earlier snapshot or with other "
      "settings",
      "stop the daemon, `coldstreamctl restore` a backup or lower the learning rates, start again" },
    { "a skipped batch can't be kept aside", "free room on the disk; check that <snapshot.directory>/aside is ours" },
    { "batches are too small for batch normalisation: raise batch.max_delay, so that tens of examples come in it",
      "raise batch.max_delay and restart" },
    { "impressions leave before their window ends: raise join.max_pending or shorten join.window",
      "raise join.max_pending (restart), or shorten join.window (reload)" },
    { "the join's counts do not add up to what came in: a defect; keep this snapshot and report it",
      "keep a `coldstreamctl backup` of the snapshot and report it with this line" },
    { "quality has fallen since the version was published",
      "look for a change in the producers' events; `coldstreamctl rollback`, where it has not been done by itself" },

    /* the stream */
    { "librdkafka", BROKERS },
    { "Kafka consumer", BROKERS },
    { "Kafka producer", BROKERS },
    { "Kafka producer of deltas", BROKERS },
    { "Kafka consumer of deltas", BROKERS },
    { "all brokers are down", BROKERS },
    { "waiting before reading", "make the topics where they are missing; else " BROKERS },
    { "dead letters are refused: they are kept, and tried again",
      ACLS ": they go by themselves then; past 64 MiB of them nothing is read" },
    { "a dead letter is refused: it is kept, and tried again",
      "raise max.message.bytes of the topic above that of the topic that it came from; it goes by itself then" },
    { "offsets not committed to the broker", "nothing where it passes; else allow our user to READ the group" },
    { "offsets not committed to the broker; lag tools show old ones until the next snapshot",
      "nothing where it passes; else allow our user to READ the group" },
    { "new partition, read from its beginning: keys may now meet in other partitions than before",
      "none is needed where events of one key may lie in different partitions; expect orphans for a join.window" },
    { "topic does not exist any more: nothing comes from it until it does; if it was made anew, reading ends with an "
      "error",
      "make it again only if it is meant to be empty: then `coldstreamctl offsets` sets where to begin" },
    { "the last record learned is not at the broker any more (retention or compaction): it can't be told whether the "
      "topic was made anew",
      "raise the topic's retention above the longest outage to be survived" },
    { "nothing more can be read: a transaction was opened here and neither committed nor aborted",
      "end the producer's transaction (kafka-transactions.sh find-hanging, abort), or wait for its timeout" },
    { "closing the Kafka consumer takes too long, left behind", "none: the state is safe" },

    /* snapshots */
    { "snapshot failed, the previous one stands",
      "free room on the disk of snapshot.directory (df), check its owner and the kernel's log; it is tried again" },
    { "reading is paused until a snapshot succeeds", "as for the failed snapshot; then reading goes on by itself" },
    { "the newest snapshot is damaged: going on from the one before it",
      "look for the cause (`coldstreamctl verify`, the disk's health); one interval is learned again" },
    { "beside the snapshot lies a copy that was never finished",
      "remove it: a backup or a restore was killed. The next `coldstreamctl restore` does so itself" },
    { "no memory is left to keep ready for snapshots: they may hold up learning",
      "give the daemon more memory (MemoryMax= of its unit), or lower compute and table sizes" },
    { "OpenBLAS has another kernel than when the snapshot was written: last digits may differ",
      "none, unless runs must be equal to the bit: then the same processor, or OPENBLAS_CORETYPE" },
    { "compute.seed differs from the snapshot's: rows made from now on start differently",
      "none, unless runs must be equal to the bit: then set compute.seed back" },

    /* versions */
    { "quality since the last version can't be judged", "look at snapshot.directory and its disk; it is tried again" },
    { "no automatic rollback: name a version by `coldstreamctl rollback VERSION`",
      "`coldstreamctl rollback VERSION`, of those in checkpoint.directory" },
    { "version refused, the current one stands",
      "look at the reasons and at status; widen checkpoint.gate only if the new quality is right, then reload" },
    { "version not published", "free room on the disk of checkpoint.directory, check its owner; it is tried again" },
    { "a version is not announced; readers that follow `current` see it all the same",
      "check that checkpoint.announce_topic exists and that our user may WRITE it" },
    { "a version can't be gone back to", "`coldstreamctl verify` it; remove it where it is damaged" },
    { "nothing is published until `coldstreamctl resume`", "`coldstreamctl resume`, once the cause is mended" },

    /* deltas */
    { "delta not sent: what it held goes with the next one",
      "nothing where it passes; else check that checkpoint.delta_topic exists, with one partition, and that our user "
      "may WRITE it" },
    { "more rows went than are kept note of while no delta could be sent: readers go on with the next full checkpoint",
      "mend what kept deltas from being sent" },
    { "no new chain of deltas", "give the daemon more memory; readers follow full checkpoints meanwhile" },
    { "deltas can't be read, tried again each second",
      "nothing where it passes; else see that --delta-topic is the daemon's checkpoint.delta_topic, that it exists, "
      "and that our user may READ it" },
    { "the delta topic has more than one partition, and is not read: full versions are followed alone",
      "make the topic anew with one partition, or mend --delta-topic" },
    { "delta not applied, what is served stays",
      "none where the next full version mends it; else compare both sides' configuration and delta topic" },

    /* serving */
    { "version refused, the one before serves on", "`coldstreamctl verify` it; fetch or publish it again" },
    { "the shadow version fails where the current one scored; said once, then counted alone",
      "do not promote it; try it by `coldstreamctl score`" },

    /* programs */
    { "request of an operator refused: not permitted", "have the user added to the socket's group, if he may" },
    { "reload refused", "mend the file, `coldstreamctl check-config FILE`, and reload; restart for what needs it" },
    { "configuration refused", "mend the file: `coldstreamctl check-config FILE` tells all that is wrong with it" },
    { "configuration not reloaded", "mend the file, `coldstreamctl check-config FILE`, and reload" },
    { "running as root: a user of its own is safer, as in coldstream.service",
      "run it by the unit, or by `setpriv --reuid coldstream`" },
    { "others can exchange what is in a directory of ours",
      "chown it to the daemon's user, and chmod o-w it; snapshots and checkpoints want directories of their own" },
    { "stopped by an error", "the line's own remedy; what its exit status means: docs/operations.md, Exit statuses" },
    { "coldstream-serve can't serve",
      "the line's own remedy; what its exit status means: docs/operations.md, Exit statuses" },
    { "stopped at once: state is the last snapshot's", "none: what came after it is learned again at the next start" },
    { NULL, NULL },
};

const char *log_remedy(const char *message)
{
    for (const struct log_remedy *row = log_remedies; row->message; row++)
        if (strcmp(row->message, message) == 0) return row->remedy;
    return NULL;
}

const char *log_remedy_of_daemon(enum cs_code code)
{
    switch (code) {
    case CS_USAGE: return "see --help";
    case CS_REFUSED:
        return "nothing was changed: `coldstreamctl verify` the state, or `offsets` where the stream is at fault";
    case CS_FENCED:
        return "one daemon a state: stop the other one, or give this one directories and a control.socket of its own";
    case CS_CONFIG: return "mend the configuration: `coldstreamctl check-config FILE`";
    case CS_OK:
    case CS_FAILED: break;
    }
    return "look at what the error names; started again, it goes on from the last snapshot";
}

/* A scorer has no state of its own: what it can't do is about its options, its socket, or the version to be read. */
const char *log_remedy_of_scorer(enum cs_code code)
{
    switch (code) {
    case CS_USAGE:
    case CS_CONFIG: return "mend the options (under systemd in /etc/coldstream/serve.env, serve-NAME.env): see --help";
    case CS_REFUSED:
        return "`coldstreamctl verify` the version; publish or fetch another one, or `coldstreamctl rollback` to one "
               "that can be read, then start again";
    case CS_OK:
    case CS_FENCED:
    case CS_FAILED: break;
    }
    return "look at what the error names, then start again: the current version is opened anew, nothing is lost";
}
