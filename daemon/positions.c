/* Positions to JSON and back. */
#include "daemon/positions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

json_t *position_json(const struct kafka_position *position)
{
    json_t *json = json_pack("{s:s, s:i, s:I}", "topic", position->topic, "partition", (int)position->partition, "next",
                             (json_int_t)position->next);
    const struct kafka_fingerprint *last = &position->last;
    if (!last->known) return json;
    char hash[17];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)last->hash);
    json_object_set_new(json, "last",
                        json_pack("{s:I, s:I, s:s}", "offset", (json_int_t)last->offset, "timestamp",
                                  (json_int_t)last->timestamp, "hash", hash));
    return json;
}

static bool parse_last(json_t *json, struct kafka_fingerprint *last)
{
    json_int_t offset, timestamp;
    const char *hash;
    if (!json) return true;         /* of an older program, or nothing was applied yet */
    if (json_unpack(json, "{s:I, s:I, s:s}", "offset", &offset, "timestamp", &timestamp, "hash", &hash)) return false;
    *last = (struct kafka_fingerprint){
        .known = true, .offset = offset, .timestamp = timestamp, .hash = strtoull(hash, NULL, 16)
    };
    return strspn(hash, "0123456789abcdef") == 16 && !hash[16];
}

bool positions_parse(const char *text, struct kafka_positions *positions, struct cs_error *err)
{
    json_error_t json_error;
    json_t *array = json_loads(text, 0, &json_error), *entry;
    size_t i;
    bool ok = json_is_array(array);
    *positions = (struct kafka_positions){ need(calloc(json_array_size(array) + 1, sizeof positions->position[0])), 0 };
    json_array_foreach(array, i, entry) {
        const char *topic;
        json_int_t partition, next;
        json_t *last = NULL;
        struct kafka_position *position = &positions->position[positions->count];
        if (json_unpack(entry, "{s:s, s:I, s:I, s?o}", "topic", &topic, "partition", &partition, "next", &next, "last",
                        &last) ||
            partition < 0 || partition > INT32_MAX || next < 0 || !parse_last(last, &position->last)) {
            ok = false;
            break;
        }
        position->topic = need(strdup(topic));
        position->partition = (int32_t)partition;
        position->next = next;
        positions->count++;
    }
    json_decref(array);
    return ok || cs_fail(err, CS_REFUSED, "the snapshot's positions can't be read: %.200s", text);
}

struct kafka_positions positions_copy(const struct kafka_positions *from)
{
    struct kafka_positions copy = { need(calloc(from->count + 1, sizeof copy.position[0])), from->count };
    for (size_t i = 0; i < from->count; i++) {
        copy.position[i] = from->position[i];
        copy.position[i].topic = need(strdup(from->position[i].topic));
    }
    return copy;
}

void positions_release(struct kafka_positions *positions)
{
    for (size_t i = 0; i < positions->count; i++) free((char *)(uintptr_t)positions->position[i].topic);
    free(positions->position);
    *positions = (struct kafka_positions){ 0 };
}
