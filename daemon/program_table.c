/* The options of the two daemons. Here rather than in their own files: coldstreamctl writes their man pages and answers
 * for their completion from the same rows. */
#include "daemon/program.h"

static const struct program_option coldstreamd_options[] = {
    { "config", 'c', "FILE", "configuration [/etc/coldstream/coldstream.yaml]", false },
    { "check-config", 't', NULL, "say every problem of it as file:line:column, and exit", false },
    { NULL, 0, NULL, NULL, false },
};

const struct program program_coldstreamd = {
    .name = "coldstreamd",
    .doc = "Learns from a stream of impressions and clicks, and publishes models to serve. In the foreground; logs to "
           "stderr, or to the journal.",
    .option = coldstreamd_options,
    .note = "Signals: TERM and INT stop after a last snapshot, a second one stops at once; HUP reloads; USR1 snapshots "
            "now.\n"
            "Exit: 0 done, 1 failed, 2 wrong usage, 65 state or data refused, 76 state owned by another instance, 78 "
            "bad configuration.",
    .example = "coldstreamctl sample > coldstream.yaml     a configuration to start from\n"
               "coldstreamd -t -c coldstream.yaml          is it right?\n"
               "coldstreamd -c coldstream.yaml             ask it: coldstreamctl status\n",
};

static const struct program_option coldstream_serve_options[] = {
    { "checkpoint", 'C', "DIR", "of versions, or of one version", true },
    { "listen", 'l', "ADDRESS:PORT", "where to answer [127.0.0.1:9465]", false },
    { "poll", 'p', "DURATION", "how often `current` is looked at, 10ms to 1h [1s]", false },
    { "threads", 'j', "N", "that answer [one a processor]", false },
    { "delta-topic", 0, "TOPIC", "versions between the full ones, by Kafka", false },
    { "kafka-property", 0, "NAME=VALUE", "librdkafka's, above all bootstrap.servers; repeatable", false },
    PROGRAM_MORE,
    { "max-body", 'm', "BYTES", "of a request [8388608]", false },
    { "max-requests", 0, "N", "of a call [1000]", false },
    { "max-candidates", 0, "N", "that a call may have in all [20000]", false },
    { "connections", 0, "N", "at once [1024]; beyond, the one that is slow for longest makes room", false },
    { "timeout", 0, "DURATION", "that a request may take to come, and an answer to be read [30s]", false },
    { "keep", 0, "N", "versions that requests may still name after they were current, 0 to 100 [1]", false },
    { "with", 0, "VERSION", "another version that requests may name; repeatable", false },
    { "shadow", 0, "DIR|VERSION", "scores along and is compared with what is answered, never answered", false },
    { "shadow-share", 0, "P", "of the requests that the shadow scores, above 0 to 1 [0.1]", false },
    { "drain", 0, "DURATION", "between saying that it stops being ready and taking no connections [none]", false },
    { NULL, 0, NULL, NULL, false },
};

const struct program program_coldstream_serve = {
    .name = "coldstream-serve",
    .doc = "Scores with the current checkpoint of DIR, and moves to the next one without a pause. Where there is none "
           "yet it waits for the first, alive but not ready.",
    .option = coldstream_serve_options,
    .note = "POST /v1/score {\"requests\":[...],\"version\":N}; GET /livez, /readyz, /metrics.\n"
            "TERM and INT finish running requests, then end. A socket that systemd hands over is listened on instead. "
            "Secrets are read at the start: other ones take a restart.\n"
            "Exit: 0 done, 1 failed, 2 wrong usage, 65 checkpoint refused.",
    .example = "coldstream-serve -C /var/lib/coldstream/checkpoints -l 127.0.0.1:8080\n"
               "curl -s localhost:8080/readyz\n",
};
