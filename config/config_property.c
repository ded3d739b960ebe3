/* librdkafka's properties: what the daemon itself must decide and what runs code is refused here; whether a key exists
 * and its value is right is asked of librdkafka, through the caller's check. */
#include "config/config_load.h"

#include <stdio.h>
#include <string.h>

/* key: a whole name, or the beginning of names where it ends in "." or "*". */
static const struct { const char *key, *why;
} refused[] = {
    { "enable.auto.commit", "offsets are committed after each snapshot, never by themselves" },
    { "auto.commit.enable", "offsets are committed after each snapshot, never by themselves" },
    { "auto.commit.interval.ms", "offsets are committed after each snapshot, never by themselves" },
    { "enable.auto.offset.store", "offsets are committed after each snapshot, never by themselves" },
    { "offset.store.*", "offsets are in the snapshot" },
    { "auto.offset.reset",
      "a lost position is an error, never a jump; use source.kafka.start for partitions without one" },
    { "group.id", "use source.kafka.group" },
    { "group.instance.id", "all partitions are assigned to this daemon; it joins no group" },
    { "group.protocol.type", "all partitions are assigned to this daemon; it joins no group" },
    { "partition.assignment.strategy", "all partitions are assigned to this daemon; it joins no group" },
    { "enable.partition.eof", "the daemon needs it to tell an idle partition from a slow one" },
    { "isolation.level", "records of aborted transactions are never learned from: it is always read_committed" },
    { "transactional.id", "the daemon's producer uses no transactions" },
    { "enable.idempotence", "the daemon's producer is always idempotent" },
    { "log.queue", "the daemon logs for librdkafka" },
    { "plugin.library.paths", "it loads code" },
    { "interceptors", "it runs code" },
    { "ssl.engine.*", "it loads code" },
    { "ssl_engine_*", "it loads code" },
    { "ssl.providers", "it loads code" },
    { "sasl.kerberos.kinit.cmd", "it runs a command" },
    { "opaque", "it is for programs, not for configurations" },
    { "default_topic_conf", "it is for programs, not for configurations" },
    { "msg_order_cmp", "it is for programs, not for configurations" },
    { "partitioner_cb", "it is for programs, not for configurations" },
};

static bool matches(const char *pattern, const char *key)
{
    size_t length = strlen(pattern);
    if (pattern[length - 1] == '*') return strncmp(pattern, key, length - 1) == 0;
    return strcmp(pattern, key) == 0;
}

void config_check_property(struct loader *loader, const struct node *node, const char *value, bool referenced)
{
    const char *key = node->key->text;
    int line = node->key->line, column = node->key->column;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (!matches(refused[i].key, key)) continue;
        problem_add(loader->problems, line, column, "source.kafka.properties: \"%s\" is refused: %s", key,
                    refused[i].why);
        return;
    }
    size_t length = strlen(key);
    if (length > 3 && strcmp(key + length - 3, "_cb") == 0) {
        problem_add(loader->problems, line, column,
                    "source.kafka.properties: \"%s\" is refused: it is for programs, not for configurations", key);
        return;
    }
    char message[512] = "";
    if (!value || !loader->check_property || loader->check_property(key, value, message, sizeof message)) return;
    /* librdkafka quotes the value that it refuses, as far as there is room: a secret must not come out that way. */
    char beginning[5];
    snprintf(beginning, sizeof beginning, "%s", value);
    if (*value && (referenced || strstr(key, "password") || strstr(key, "secret") || strstr(key, ".pem")) &&
        strstr(message, beginning))
        snprintf(message, sizeof message, "its value is refused (not shown: it may be a secret)");
    problem_add(loader->problems, line, column, "source.kafka.properties: \"%s\": %s", key,
                *message ? message : "refused");
}
