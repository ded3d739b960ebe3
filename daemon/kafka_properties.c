/* Properties of librdkafka, each by itself and all together, as librdkafka takes them: what it would refuse when a
 * client is made is told by the check, before anything starts. */
#include <librdkafka/rdkafka.h>

#include "daemon/kafka_config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "config/config_load.h"
#include "core/need.h"

/* ---- one ---- */

/* librdkafka's own table, Markdown: | name | C/P | range | default | ... Called for each row until it returns false;
 * name and range are the row's. */
static void each_property(bool (*seen)(void *self, char *name, char *range), void *self)
{
    char *table = NULL, *rest = NULL;
    size_t size = 0;
    FILE *out = need(open_memstream(&table, &size));
    rd_kafka_conf_properties_show(out);
    fclose(out);
    for (char *line = strtok_r(table, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *name = line, *column[2];
        for (size_t i = 0; line && i < 2; i++)
            if ((line = strstr(line, " | "))) *line = 0, line += 3, column[i] = line;
        char *end = line ? strstr(line, " | ") : NULL;
        if (!end) continue;
        *end = 0;
        for (char *last = name + strlen(name); last > name && last[-1] == ' ';) *--last = 0;
        for (char *last = end; last > column[1] && last[-1] == ' ';) *--last = 0;
        if (!seen(self, name, column[1] + strspn(column[1], " "))) break;
    }
    free(table);
}

struct names { char *name[512]; size_t count; };

static bool add_name(void *self, char *name, char *range)
{
    struct names *names = self;
    (void)range;
    if (names->count == sizeof names->name / sizeof *names->name) return false;
    names->name[names->count++] = need(strdup(name));
    return true;
}

struct range { const char *name; char text[200]; };

static bool find_range(void *self, char *name, char *range)
{
    struct range *wanted = self;
    if (strcmp(name, wanted->name) != 0) return true;
    snprintf(wanted->text, sizeof wanted->text, "%s", range);
    return false;
}

/* librdkafka reads a number up to what is none, and takes 6s for 6 ms. What it has taken, against the whole text. */
static bool is_read_whole(rd_kafka_conf_t *conf, const char *name, const char *value, char *text, size_t size)
{
    char taken[64], *end;
    size_t length = sizeof taken;
    if (!isdigit((unsigned char)value[strspn(value, "+-. ")])) return true;
    if (rd_kafka_conf_get(conf, name, taken, &length) != RD_KAFKA_CONF_OK || strcmp(taken, value) == 0) return true;
    double read = strtod(taken, &end);
    if (end == taken || *end) return true;              /* no number: a list, an address */
    double meant = strtod(value, &end);
    if (!*end && end > value && meant == read) return true;
    snprintf(text, size, "read as %s: a number has no unit here, allowed: digits alone", taken);
    return false;
}

bool kafka_property_check(const char *name, const char *value, char *text, size_t size)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_res_t result = rd_kafka_conf_set(conf, name, value, text, size);
    bool fine = result == RD_KAFKA_CONF_OK && is_read_whole(conf, name, value, text, size);
    rd_kafka_conf_destroy(conf);
    if (result == RD_KAFKA_CONF_UNKNOWN) {
        struct names names = { 0 };
        each_property(add_name, &names);
        const char *meant = near_miss(name, (const char *const *)names.name, names.count);
        if (meant) snprintf(text, size, "librdkafka %s has no such property, did you mean \"%s\"?",
                            rd_kafka_version_str(), meant);
        else snprintf(text, size, "librdkafka %s has no such property", rd_kafka_version_str());
        while (names.count) free(names.name[--names.count]);
    } else if (result == RD_KAFKA_CONF_INVALID) {
        struct range range = { .name = name };
        each_property(find_range, &range);
        size_t used = strcspn(text, "\n");      /* a number out of range: its bounds are told, and the line ended */
        text[used] = 0;
        if (*range.text && !strstr(text, "allowed")) snprintf(text + used, size - used, ", allowed: %s", range.text);
    }
    return fine;
}

/* ---- all together ---- */

static void say_nothing(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    (void)rk, (void)level, (void)facility, (void)text;
}

/* Better than what OpenSSL says of it. */
static bool files_are_there(const struct cs_config *config, config_said *say, void *self)
{
    const char *protocol = config_property(config, "security.protocol", "plaintext");
    bool there = true;
    if (strcasecmp(protocol, "ssl") != 0 && strcasecmp(protocol, "sasl_ssl") != 0) return true;
    for (size_t i = 0; i < config->source.property_count; i++) {
        const struct config_pair *property = &config->source.property[i];
        char text[256];
        if (!config_names_file(property->name) || strcmp(property->value, "probe") == 0) continue;
        if (access(property->value, R_OK) == 0) continue;
        snprintf(text, sizeof text, "what it names can't be read: %s", strerror(errno));
        say(self, property->name, text);
        there = false;
    }
    return there;
}

/* The given property of which the text speaks; NULL: of none. */
static const char *property_of(const struct cs_config *config, const char *text)
{
    const char *best = NULL;
    for (size_t i = 0; i < config->source.property_count; i++) {
        const char *name = config->source.property[i].name;
        if (strstr(text, name) && (!best || strlen(name) > strlen(best))) best = name;
    }
    return best;
}

/* librdkafka's own look at it runs Kerberos's command when it finds nothing wrong. */
static bool kerberos_is_fine(const struct cs_config *config, config_said *say, void *self)
{
    const char *protocol = config_property(config, "security.protocol", "plaintext"),
               *mechanism = config_sasl_mechanism(config);
    bool used = strncasecmp(protocol, "sasl_", 5) == 0 && (!*mechanism || strcmp(mechanism, "GSSAPI") == 0);
    if (!used || config_find_property(config, "sasl.kerberos.keytab") ||
        strcmp(config_property(config, "sasl.kerberos.min.time.before.relogin", ""), "0") == 0)
        return true;
    if (*mechanism) say(self, "sasl.mechanism", "GSSAPI without sasl.kerberos.keytab: give it, or another mechanism");
    else
        say(self, "security.protocol",
            "SASL without sasl.mechanism, allowed: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, or GSSAPI with "
            "sasl.kerberos.keytab");
    return false;
}

/* A client that knows no broker: nothing is connected to. Kerberos's command is not run. */
static void try_client(const struct cs_config *config, rd_kafka_type_t type, config_said *say, void *self)
{
    static const struct kafka_preset none[] = { { NULL, NULL } };
    struct cs_error err = { 0 };
    char text[256], said[400];
    rd_kafka_conf_t *conf = type == RD_KAFKA_CONSUMER ? kafka_consumer_conf(config, none, &err)
                                                      : kafka_producer_conf(config, none, &err);
    bool fine = conf && kafka_conf_set(conf, "bootstrap.servers", "", &err) &&
                kafka_conf_set(conf, "test.mock.num.brokers", "0", &err) &&
                kafka_conf_set(conf, "sasl.kerberos.min.time.before.relogin", "0", &err);
    if (!fine) {
        say(self, NULL, err.message);
        if (conf) rd_kafka_conf_destroy(conf);
        return;
    }
    rd_kafka_conf_set_log_cb(conf, say_nothing);
    rd_kafka_t *client = rd_kafka_new(type, conf, text, sizeof text);
    if (client) {
        rd_kafka_destroy_flags(client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
        return;
    }
    rd_kafka_conf_destroy(conf);
    snprintf(said, sizeof said, "no %s can be made of these: %s%s",
             type == RD_KAFKA_CONSUMER ? "consumer" : "producer", text,
             strstr(text, "enable.idempotence") ? ", and the daemon's always is: leave the property out" : "");
    say(self, property_of(config, text), said);
}

struct once { config_said *say; void *self; bool said; };

static void say_once(void *self, const char *property, const char *text)
{
    struct once *once = self;
    if (!once->said) once->say(once->self, property, text);
    once->said = true;
}

static void check_together(const struct cs_config *config, config_said *say, void *self)
{
    if (!files_are_there(config, say, self) || !kerberos_is_fine(config, say, self)) return;
    /* What both clients are refused for is told of the first. */
    struct once once = { .say = say, .self = self };
    try_client(config, RD_KAFKA_CONSUMER, say_once, &once);
    if (!once.said) try_client(config, RD_KAFKA_PRODUCER, say, self);
}

const struct config_source_checks kafka_checks = { kafka_property_check, check_together },
                                  kafka_checks_each = { kafka_property_check, NULL };
