/* Protobuf -> fields. */
#include "core/decode_fields.h"

struct decode_protobuf *decode_protobuf_create(struct fields *fields, struct cs_error *err)
{
    (void)fields;
    cs_fail(err, CS_CONFIG, "events.format protobuf is not built in, json is allowed");
    return NULL;
}

void decode_protobuf_destroy(struct decode_protobuf *decoder) { (void)decoder; }

bool decode_protobuf_read(struct decode_protobuf *decoder, const void *bytes, size_t size)
{
    (void)decoder, (void)bytes, (void)size;
    return false;
}
