/* Deltas of coldstream-serve. */
#include "daemon/serve_deltas.h"

#include <stdlib.h>
#include <string.h>

#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/kafka_config.h"
#include "daemon/kafka_deltas.h"
#include "daemon/log.h"

struct serve_deltas {
    struct telemetry *telemetry;
    struct coldstream *cs;
    const char *topic;
    struct kafka_deltas_property property[SERVE_DELTAS_PROPERTIES];
    size_t properties;
    struct kafka_deltas *reader;
};

struct serve_deltas *serve_deltas_create(void)
{
    return need(calloc(1, sizeof(struct serve_deltas)));
}

static void forget(struct serve_deltas *deltas)
{
    while (deltas->properties) {
        struct kafka_deltas_property *property = &deltas->property[--deltas->properties];
        config_wipe((char *)(uintptr_t)property->value);      /* it may be a secret */
        free((char *)(uintptr_t)property->name);
    }
}

void serve_deltas_destroy(struct serve_deltas *deltas)
{
    if (!deltas) return;
    forget(deltas);
    kafka_deltas_stop(deltas->reader);
    free(deltas);
}

void serve_deltas_topic(struct serve_deltas *deltas, const char *topic)
{
    deltas->topic = topic;
}

bool serve_deltas_property(struct serve_deltas *deltas, const char *text, struct cs_error *err)
{
    const char *value = strchr(text, '=');
    char said[256];
    if (!value || value == text) return cs_fail(err, CS_USAGE, "--kafka-property: \"%s\" is not NAME=VALUE", text);
    if (deltas->properties == SERVE_DELTAS_PROPERTIES)
        return cs_fail(err, CS_USAGE, "--kafka-property: more than %d", SERVE_DELTAS_PROPERTIES);
    /* A copy: the program may still run itself again with these arguments (daemon/start_alone.h). */
    char *name = need(strndup(text, (size_t)(value++ - text))), *resolved;
    resolved = config_property_value(name, value, said, sizeof said);
    if (resolved && kafka_property_check(name, resolved, said, sizeof said)) {
        deltas->property[deltas->properties++] = (struct kafka_deltas_property){ name, resolved };
        return true;
    }
    cs_fail(err, CS_USAGE, "--kafka-property %s: %s", name, said);
    config_wipe(resolved);
    free(name);
    return false;
}

bool serve_deltas_wanted(const struct serve_deltas *deltas)
{
    return deltas->topic != NULL;
}

static void take(void *self, const void *bytes, size_t size)
{
    struct serve_deltas *deltas = self;
    coldstream_delta(deltas->cs, bytes, size, NULL, 0);         /* what is wrong is told by the report */
}

bool serve_deltas_start(struct serve_deltas *deltas, struct coldstream *cs, struct telemetry *telemetry,
                        struct cs_error *err)
{
    if (!deltas->topic) return true;
    deltas->cs = cs;
    deltas->telemetry = telemetry;
    for (int result = 0; result < COLDSTREAM_DELTA_RESULTS; result++)
        telemetry_add(telemetry, METRIC_DELTAS_APPLIED, TELEMETRY_LABELS(coldstream_delta_result_name(result)), 0);
    deltas->reader = kafka_deltas_start(deltas->topic, deltas->property, deltas->properties, take, deltas, err);
    forget(deltas);                     /* librdkafka has its own */
    return deltas->reader != NULL;
}

void serve_deltas_told(struct serve_deltas *deltas, const struct coldstream_delta_report *report)
{
    const char *result = coldstream_delta_result_name(report->result);
    telemetry_add(deltas->telemetry, METRIC_DELTAS_APPLIED, TELEMETRY_LABELS(result), 1);
    switch (report->result) {
    case COLDSTREAM_DELTA_APPLIED:
        for (size_t i = 0; i < report->learned_count; i++)
            telemetry_observe(deltas->telemetry, METRIC_FRESHNESS, (double)(clock_wall() - report->learned[i]) / 1000);
        log_debug("delta applied", LOG_U("sequence", report->sequence), LOG_U("version", report->version));
        break;
    case COLDSTREAM_DELTA_DUPLICATE:
    case COLDSTREAM_DELTA_UNFINISHED:
        log_debug("delta passed over", LOG_S("result", result), LOG_U("sequence", report->sequence));
        break;
    default:
        log_warning("delta not applied, what is served stays", LOG_S("result", result),
                    LOG_U("epoch", report->epoch), LOG_U("sequence", report->sequence),
                    LOG_S("detail", report->detail));
    }
}

void serve_deltas_measure(struct serve_deltas *deltas)
{
    if (!deltas->reader) return;
    struct coldstream_delta_info info = { .size = sizeof info };
    coldstream_delta_state(deltas->cs, &info);
    telemetry_set(deltas->telemetry, METRIC_DELTAS_WAITING, NULL, info.waiting);
    telemetry_set(deltas->telemetry, METRIC_DELTAS_ROWS, NULL, (double)info.rows);
    if (kafka_deltas_lag(deltas->reader) >= 0)
        telemetry_set(deltas->telemetry, METRIC_DELTAS_LAG, NULL, (double)kafka_deltas_lag(deltas->reader));
}
