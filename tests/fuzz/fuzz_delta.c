/* Any bytes as a topic's records: refused, or what comes out whole lies in memory as its counts say. The input is a
 * list of records, each behind its length (u16) and a byte that says whether its place in the stream and its checksum
 * are made right, so that what lies behind them is reached too. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "storage/delta_reader.h"
#include "storage/overlay.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

enum { BYTES_MAX = 1 << 20, LENGTH = 3, HEADER_CHECKED = 40 };

/* Header fields that a random stream never gets right: all but the type, which stays. */
static void put_right(unsigned char *record, size_t size, uint32_t index, uint64_t *chain)
{
    uint16_t layout = DELTA_LAYOUT;
    uint64_t epoch = 1, sequence = 2, version = 3, checksum;
    uint32_t payload = (uint32_t)(size - DELTA_HEADER);
    memcpy(record, "CSD1", 4);
    memcpy(record + 4, &layout, 2);
    memcpy(record + 8, &epoch, 8);
    memcpy(record + 16, &sequence, 8);
    memcpy(record + 24, &version, 8);
    memcpy(record + 32, &index, 4);
    memcpy(record + 36, &payload, 4);
    if (record[6] == DELTA_COMMIT && payload >= 16) {
        uint32_t records = index + 1;
        memcpy(record + DELTA_HEADER, &records, 4);
        memset(record + DELTA_HEADER + 4, 0, 4);
        memcpy(record + DELTA_HEADER + 8, chain, 8);
    }
    unsigned char *checked = malloc(size);          /* the header's first bytes, then the payload */
    if (!checked) abort();
    memcpy(checked, record, HEADER_CHECKED);
    memcpy(checked + HEADER_CHECKED, record + DELTA_HEADER, payload);
    checksum = XXH3_64bits(checked, HEADER_CHECKED + payload);
    free(checked);
    memcpy(record + HEADER_CHECKED, &checksum, 8);
    *chain = delta_chain(*chain, checksum);
}

/* Reads all of it, and puts rows of one width into a level. */
static void use(const struct delta *delta)
{
    struct overlay_room room = { 0, 0 };
    size_t bytes = 0, dimension = 0;
    unsigned char sum = 0;
    for (size_t i = 0; i < delta->parts; i++) {
        const struct delta_part *part = &delta->part[i];
        if (!part->keys || strlen(part->table) > DELTA_NAME_MAX) abort();
        if (!dimension) dimension = part->dimension;
        if (part->dimension == dimension || !part->row) room.keys += part->keys;
        if (part->dimension == dimension && part->row) room.rows += part->keys;
        bytes += part->keys * (sizeof *part->key + part->dimension * sizeof *part->row);
    }
    for (size_t i = 0; i < delta->tensors; i++) {
        const unsigned char *data = delta->tensor[i].data;
        size_t length = tensor_bytes(&delta->tensor[i]);
        for (size_t k = 0; k < length; k++) sum ^= data[k];
        bytes += length;
    }
    for (size_t i = 0; i < delta->samples; i++) sum ^= (unsigned char)delta->sample[i];
    if (bytes > delta->bytes || delta->bytes > BYTES_MAX) abort();
    struct overlay overlay = { 0 };
    struct overlay_level *level = overlay_level_create(1, dimension ? dimension : 1, &room, delta->place.sequence);
    for (size_t i = 0; i < delta->parts; i++)
        for (size_t k = 0; k < delta->part[i].keys; k++) {
            const struct delta_part *part = &delta->part[i];
            if (part->row && part->dimension != dimension) continue;
            overlay_level_put(level, 0, part->key[k], part->row ? part->row + k * dimension : NULL);
        }
    overlay_push(&overlay, level);
    const float *row = NULL;
    const int table = 0;
    for (size_t i = 0; i < delta->parts; i++) overlay_find_all(&overlay, 1, &table, delta->part[i].key, &row);
    overlay_release(&overlay);
    static volatile unsigned char kept;
    kept = sum;
    (void)kept;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct delta_reader *reader = delta_reader_create(BYTES_MAX);
    uint64_t chain = 0;
    uint32_t index = 0;
    for (size_t at = 0; size - at >= LENGTH;) {
        size_t length = (size_t)bytes[at] | (size_t)bytes[at + 1] << 8;
        bool right = bytes[at + 2] & 1;
        at += LENGTH;
        if (length > size - at) length = size - at;
        unsigned char *record = malloc(length ? length : 1);
        if (!record) abort();
        memcpy(record, bytes + at, length);
        at += length;
        if (right && length >= DELTA_HEADER) {
            if (record[6] == DELTA_BEGIN) chain = index = 0;
            record[7] = 0;
            put_right(record, length, index++, &chain);
        }
        struct delta *delta;
        struct cs_error err = { 0 };
        enum delta_fed fed = delta_reader_feed(reader, record, length, &delta, &err);
        if ((fed == DELTA_FED_WHOLE) != (delta != NULL) || (fed == DELTA_FED_BROKEN) != (err.code != CS_OK)) abort();
        if (delta) use(delta);
        delta_drop(delta);
        free(record);
    }
    delta_reader_destroy(reader);
    return 0;
}
