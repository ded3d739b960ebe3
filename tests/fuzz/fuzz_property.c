/* Any key and value under source.kafka.properties: what loads or runs code is never shown to librdkafka, and a value
 * that may be a secret is never in a message. The first byte: is the value from a reference? The key ends at a line
 * break. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_load.h"
#include "daemon/kafka_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static const char marker[] = "Zq7secret";

static bool check(const char *name, const char *value, char *text, size_t size)
{
    static const char *const code[] = { "plugin", "interceptor", "engine", "providers", "kinit.cmd", "_cb" };
    for (size_t i = 0; i < sizeof code / sizeof *code; i++) {
        const char *at = strstr(name, code[i]);
        if (!at) continue;
        if (kafka_property_check(name, value, text, size)) abort();    /* names that it does not have are fine */
        return false;
    }
    return kafka_property_check(name, value, text, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (!size) return 0;
    bool referenced = *bytes & 1;
    const uint8_t *end = memchr(bytes + 1, '\n', size - 1);
    size_t key_size = end ? (size_t)(end - bytes - 1) : size - 1, value_size = end ? size - 2 - key_size : 0;
    size_t secret = referenced ? sizeof marker - 1 : 0;
    char *key_text = calloc(1, key_size + 1), *value = calloc(1, secret + value_size + 1);
    if (!key_text || !value) abort();
    memcpy(key_text, bytes + 1, key_size);
    memcpy(value, marker, secret);
    if (end) memcpy(value + secret, end + 1, value_size);
    struct config_problems problems = { 0 };
    const struct config_source_checks checks = { .property = check };
    struct loader loader = { .problems = &problems, .checks = &checks };
    struct node key = { .text = key_text, .line = 1, .column = 1 }, node = { .key = &key, .text = value };
    config_check_property(&loader, &node, value, referenced);
    if (problems.count > 1) abort();
    if (referenced && problems.count && strstr(problems.problem[0].text, marker) && !strstr(key_text, marker)) abort();
    config_problems_release(&problems);
    free(key_text);
    free(value);
    return 0;
}
