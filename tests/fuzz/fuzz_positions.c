/* Any bytes as the positions that a snapshot keeps: refused, or written and read again they are the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/positions.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static char *write_all(const struct kafka_positions *positions)
{
    json_t *array = json_array();
    for (size_t i = 0; i < positions->count; i++)
        if (json_array_append_new(array, position_json(&positions->position[i]))) abort();
    char *text = json_dumps(array, JSON_COMPACT);
    json_decref(array);
    if (!text) abort();
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct kafka_positions positions, again;
    struct cs_error err = { 0 };
    char *text = calloc(1, size + 1);
    if (!text) abort();
    memcpy(text, bytes, size);
    if (!positions_parse(text, &positions, &err)) {
        if (err.code != CS_REFUSED) abort();
    } else {
        char *first = write_all(&positions);
        if (!positions_parse(first, &again, &err) || again.count != positions.count) abort();
        char *second = write_all(&again);
        if (strcmp(first, second)) abort();
        free(first);
        free(second);
        positions_release(&again);
    }
    positions_release(&positions);
    free(text);
    return 0;
}
