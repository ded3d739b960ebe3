/* librdkafka's properties: what the daemon itself must decide and what runs code is refused here; whether a key exists
 * and its value is right is asked of librdkafka, through the caller's check. */
#include "config/config_load.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "config/value.h"
#include "core/need.h"

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

/* What would let its reader be us. */
static bool is_secret(const char *key)
{
    return strstr(key, "password") || strstr(key, "secret") || strstr(key, "key.pem");
}

const struct config_pair *config_find_property(const struct cs_config *config, const char *name)
{
    for (size_t i = 0; i < config->source.property_count; i++)
        if (strcmp(config->source.property[i].name, name) == 0) return &config->source.property[i];
    return NULL;
}

const char *config_property(const struct cs_config *config, const char *name, const char *otherwise)
{
    const struct config_pair *found = config_find_property(config, name);
    return found ? found->value : otherwise;
}

const char *config_sasl_mechanism(const struct cs_config *config)
{
    return config_property(config, "sasl.mechanism", config_property(config, "sasl.mechanisms", ""));
}

/* librdkafka takes a new user and password for PLAIN and SCRAM alone. */
bool config_property_is_live(const struct cs_config *config, const char *name)
{
    const char *mechanism = config_sasl_mechanism(config);
    if (strcmp(name, "sasl.username") != 0 && strcmp(name, "sasl.password") != 0) return false;
    return strcmp(mechanism, "PLAIN") == 0 || strncmp(mechanism, "SCRAM-", 6) == 0;
}

bool config_names_file(const char *property)
{
    static const char end[] = ".location";
    size_t length = strlen(property);
    return strncmp(property, "ssl.", 4) == 0 && length >= sizeof end &&
           strcmp(property + length - (sizeof end - 1), end) == 0;
}

/* The private key among them: no byte of it stays here. */
void config_note_content(struct config_pair *property)
{
    enum { MOST = 16 << 20 };
    struct stat status;
    if (!config_names_file(property->name)) return;
    int file = open(property->value, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return;
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0 && status.st_size <= MOST) {
        char *bytes = need(malloc((size_t)status.st_size));
        size_t got = value_read(file, bytes, (size_t)status.st_size);
        XXH128_hash_t hash = XXH3_128bits(bytes, got);
        property->content[0] = hash.high64;
        property->content[1] = hash.low64;
        explicit_bzero(bytes, got);
        free(bytes);
    }
    close(file);
}

void config_wipe(char *secret)
{
    if (secret) explicit_bzero(secret, strlen(secret));
    free(secret);
}

char *config_property_value(const char *key, const char *text, char *why, size_t size)
{
    struct pool *pool = pool_create();
    bool referenced = false;
    const char *reason = NULL, *value = value_resolve(pool, text, true, &referenced, &reason);
    char *copy = NULL;
    if (!value) snprintf(why, size, "%s", reason);
    else if (*value && !referenced && is_secret(key))
        snprintf(why, size, "a secret does not stand here, where `ps` shows it to all; allowed: file:/PATH (mode "
                            "0400), credential:NAME, or ${VARIABLE}");
    else copy = need(strdup(value));
    pool_destroy(pool);         /* wipes */
    return copy;
}

/* One of "host:port, PROTOCOL://[address]:port, ...", its length bytes. */
static bool is_server(const char *at, size_t length)
{
    static const char *const protocols[] = { "plaintext://", "ssl://", "sasl_plaintext://", "sasl_ssl://" };
    for (size_t i = 0; i < sizeof protocols / sizeof *protocols; i++) {
        size_t skipped = strlen(protocols[i]);
        if (length > skipped && strncasecmp(at, protocols[i], skipped) == 0) at += skipped, length -= skipped;
    }
    const char *end = at + length, *port = memrchr(at, ':', length), *host_end = port ? port : end;
    if (*at == '[' ? !memchr(at, ']', length) : port && memchr(at, ':', (size_t)(port - at)))
        return *at != '[' && length == strspn(at, "0123456789abcdefABCDEF:.");     /* an IPv6 address as it is */
    if (*at == '[' && end[-1] == ']') port = NULL, host_end = end;
    if (host_end == at || memchr(at, ' ', length) || memchr(at, '/', length)) return false;
    if (!port) return true;
    size_t digits = strspn(port + 1, "0123456789");
    long number = strtol(port + 1, NULL, 10);
    return digits > 0 && digits < 6 && port + 1 + digits == end && number > 0 && number <= 65535;
}

static bool are_servers(const char *value)
{
    size_t count = 0;
    for (const char *at = value; *at;) {
        at += strspn(at, " ,");
        size_t length = strcspn(at, ","), used = length;
        while (used && at[used - 1] == ' ') used--;
        if (used && !is_server(at, used)) return false;
        count += used > 0;
        at += length;
    }
    return count > 0;
}

/* A private key that librdkafka reads by itself is held to what a secret's file is, but for a group (ssl-cert). */
static void check_key_file(struct loader *loader, const struct node *node, const char *path)
{
    struct stat status;
    const char *key = node->key->text;
    if (strcmp(key, "ssl.key.location") != 0 && strcmp(key, "ssl.keystore.location") != 0) return;
    if (stat(path, &status) == 0 && (status.st_mode & S_IRWXO))
        problem_add(loader->problems, node->line, node->column,
                    "source.kafka.properties: \"%s\": %s can be read or changed by everyone (mode %04o): chmod 0400 it",
                    key, path, status.st_mode & 07777);
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
    bool secret = is_secret(key);
    if (value && *value && secret && !referenced && loader->use == CONFIG_FOR_DAEMON) {
        problem_add(loader->problems, node->line, node->column,
                    "source.kafka.properties: \"%s\": a secret does not stand in the configuration; allowed: "
                    "file:/PATH (mode 0400), credential:NAME (systemd's LoadCredential), or ${VARIABLE}", key);
        return;
    }
    if (value && loader->use == CONFIG_FOR_DAEMON) check_key_file(loader, node, value);
    bool servers = strcmp(key, "bootstrap.servers") == 0 || strcmp(key, "metadata.broker.list") == 0;
    if (value && servers && loader->use == CONFIG_FOR_DAEMON && !are_servers(value)) {
        problem_add(loader->problems, node->line, node->column,
                    "source.kafka.properties: \"%s\": found \"%.60s\", allowed: host:port, ... (ports 1 to 65535)", key,
                    referenced || strchr(value, '@') ? "..." : value);       /* user:password@host */
        return;
    }
    char message[512] = "";
    if (!value || !loader->checks || loader->use != CONFIG_FOR_DAEMON) return;
    if (loader->checks->property(key, value, message, sizeof message)) return;
    /* librdkafka quotes the value that it refuses, as far as there is room: a secret must not come out that way. */
    char beginning[5];
    snprintf(beginning, sizeof beginning, "%s", value);
    if (*value && (referenced || secret) && strstr(message, beginning))
        snprintf(message, sizeof message, "its value is refused (not shown: it may be a secret)");
    problem_add(loader->problems, line, column, "source.kafka.properties: \"%s\": %s", key,
                *message ? message : "refused");
}

/* At the property that it is about. No secret is in it, whatever librdkafka quotes. */
static void say_problem(void *self, const char *property, const char *text)
{
    struct loader *loader = self;
    const struct cs_config *config = loader->config;
    const struct config_pair *about = property ? config_find_property(config, property) : NULL;
    const struct node *all = loader_near(loader, "source.kafka.properties");
    int line = about ? about->line : all->key ? all->key->line : all->line;
    int column = about ? about->column : all->key ? all->key->column : all->column;
    for (size_t i = 0; i < config->source.property_count; i++) {
        const struct config_pair *other = &config->source.property[i];
        if (is_secret(other->name) && *other->value && strstr(text, other->value))
            text = "refused (why is not shown: it may hold a secret)";
    }
    if (about) problem_add(loader->problems, line, column, "source.kafka.properties: \"%s\": %s", property, text);
    else problem_add(loader->problems, line, column, "source.kafka.properties: %s", text);
}

void config_check_properties(struct loader *loader)
{
    if (!loader->checks || !loader->checks->properties) return;
    if (loader->use != CONFIG_FOR_DAEMON || loader->wrong_properties) return;
    if (loader->config->source.configured) loader->checks->properties(loader->config, say_problem, loader);
}
