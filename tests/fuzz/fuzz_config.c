/* Any bytes as a configuration: it is refused with problems, or its model reads back as itself. */
#include "config/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void changed(void *self, const char *key, const char *from, const char *to, bool live)
{
    (void)self, (void)key, (void)from, (void)to, (void)live;
    abort();        /* nothing differs from itself */
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct config_problems problems;
    struct cs_config *config = config_parse("fuzz.yaml", (const char *)bytes, size,
                                            size % 2 ? CONFIG_FOR_DAEMON : CONFIG_FOR_TRAIN, &problems);
    if (!config == !problems.count) abort();
    free(config_problems_text(&problems));
    config_problems_release(&problems);
    if (!config) return 0;
    config_compare(config, config, changed, NULL);
    char *text = config_model_text(config);
    struct cs_config *again = config_parse("model", text, strlen(text), CONFIG_FOR_TRAIN, &problems);
    if (!again) abort();
    char *second = config_model_text(again);
    if (strcmp(text, second) != 0) abort();
    free(text);
    free(second);
    config_problems_release(&problems);
    config_destroy(again);
    config_destroy(config);
    return 0;
}
