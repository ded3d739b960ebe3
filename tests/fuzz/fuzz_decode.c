/* Any bytes at the decoder: it answers with a whole event or a reason, never with a crash, a leak or half an example.
 * The first byte chooses format, kind of topic and where the fields are; the rest is the record. */
#include <stdint.h>
#include <stdlib.h>

#include "core/decode.h"

static double bound[] = { 18, 25, 35 };

static struct features *make_features(void)
{
    struct feature_options feature[] = {
        { .name = "age", .bucket = bound, .bucket_count = 3 },
        { .name = "gender" },
        { .name = "city" },
        { .name = "income", .kind = FEATURE_DENSE },
        { .name = "hour", .group = GROUP_CONTEXT },
        { .name = "item_id", .group = GROUP_ITEM, .table = "item" },
        { .name = "category", .group = GROUP_ITEM },
    };
    struct features_options options = { .feature = feature,
                                        .feature_count = sizeof feature / sizeof *feature,
                                        .behavior_table = "item",
                                        .behavior_max_length = 3 };
    return features_create(&options, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct features *features;
    static struct decoder *decoder[3];
    if (!features) {
        struct decode_options plain = { .max_bytes = 65536 },
                              binary = { .format = DECODE_PROTOBUF, .max_bytes = 65536 };
        struct decode_options mapped = {
            .field = { [FIELD_TIME] = "meta.when.ms", [FIELD_USER_ID] = "user.id", [FIELD_CONTEXT] = "meta" }
        };
        features = make_features();
        decoder[0] = decoder_create(features, &plain, NULL);
        decoder[1] = decoder_create(features, &binary, NULL);
        decoder[2] = decoder_create(features, &mapped, NULL);
        if (!decoder[0] || !decoder[1] || !decoder[2]) abort();
    }
    if (!size) return 0;
    struct event event;
    struct cs_error err = { 0 };
    int expected = (bytes[0] >> 2) % 5 - 1;
    enum decode_result result = decode(decoder[bytes[0] % 3], bytes + 1, size - 1, expected, &event, &err);
    if (result != DECODE_OK) {
        if (event.example || event.id || !err.message[0]) abort();
        return 0;
    }
    bool shown = event.kind == EVENT_IMPRESSION || event.kind == EVENT_EXAMPLE;
    if (shown != (event.example != NULL) || shown == (event.id != NULL)) abort();
    if (event.example && !example_check(features, event.example, event.example->size)) abort();
    event_release(&event);
    return 0;
}
