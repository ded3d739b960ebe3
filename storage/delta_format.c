/* Bytes of a delta's records: put together, and taken apart with every length checked. */
#include "storage/delta_format.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records hold the bytes of a little-endian machine");

#define DELTA_MAGIC 0x31445343u     /* CSD1 */

struct header {
    uint32_t magic;
    uint16_t layout, type;
    uint64_t epoch, sequence, version;
    uint32_t index, size;
    uint64_t checksum;
};
_Static_assert(sizeof(struct header) == DELTA_HEADER, "no padding");

const char *const delta_type_name[DELTA_COMMIT + 1] = { "?", "BEGIN", "ROWS", "GONE", "DENSE", "COMMIT" };

uint64_t delta_chain(uint64_t chain, uint64_t checksum)
{
    return XXH3_64bits_withSeed(&checksum, sizeof checksum, chain);
}

static uint64_t checksum_of(const struct header *header, const void *payload, size_t size)
{
    return XXH3_64bits_withSeed(payload, size, XXH3_64bits(header, offsetof(struct header, checksum)));
}

/* ---- writing */

static size_t text_bytes(size_t length)
{
    return (sizeof(uint32_t) + length) / 8 * 8 + 8;
}

static void add_text(struct bytes *bytes, const char *text)
{
    static const unsigned char zeros[8];
    size_t length = strlen(text);
    assert(length <= DELTA_NAME_MAX);
    bytes_u32(bytes, (uint32_t)length);
    bytes_add(bytes, text, length);
    bytes_add(bytes, zeros, text_bytes(length) - sizeof(uint32_t) - length);
}

static void start(struct delta_encoder *encoder)
{
    static const struct header empty;
    encoder->record.size = 0;
    bytes_add(&encoder->record, &empty, sizeof empty);
}

static bool seal(struct delta_encoder *encoder, enum delta_type type)
{
    struct bytes *record = &encoder->record;
    if (record->failed) return false;
    assert(record->size <= DELTA_RECORD_MAX);
    struct header header = {
        .magic = DELTA_MAGIC, .layout = DELTA_LAYOUT, .type = (uint16_t)type, .epoch = encoder->place.epoch,
        .sequence = encoder->place.sequence, .version = encoder->place.version, .index = encoder->next++,
        .size = (uint32_t)(record->size - sizeof header),
    };
    header.checksum = checksum_of(&header, record->data + sizeof header, header.size);
    memcpy(record->data, &header, sizeof header);
    encoder->chain = delta_chain(encoder->chain, header.checksum);
    return true;
}

bool delta_encode_begin(struct delta_encoder *encoder, const struct delta_place *place, const struct delta_begin *begin)
{
    assert(begin->samples <= DELTA_SAMPLES_MAX && begin->base < place->sequence);
    encoder->place = *place;
    encoder->next = 0;
    encoder->chain = 0;
    start(encoder);
    struct bytes *record = &encoder->record;
    bytes_u64(record, begin->base);
    bytes_u64(record, begin->previous);
    bytes_u64(record, (uint64_t)begin->watermark);
    bytes_u64(record, (uint64_t)begin->created);
    bytes_u64(record, begin->steps);
    bytes_u64(record, begin->rows);
    bytes_u64(record, begin->gone);
    bytes_u32(record, begin->tensors);
    bytes_u32(record, begin->samples);
    bytes_add(record, begin->sample, begin->samples * sizeof(int64_t));
    add_text(record, begin->fingerprint);
    return seal(encoder, DELTA_BEGIN);
}

size_t delta_rows_max(const char *table, size_t dimension)
{
    size_t fixed = sizeof(struct header) + 2 * sizeof(uint32_t) + text_bytes(strlen(table));
    return (DELTA_RECORD_MAX - fixed) / (sizeof(uint64_t) + dimension * sizeof(float));
}

static bool encode_keys(struct delta_encoder *encoder, enum delta_type type, const char *table, uint32_t dimension,
                        uint32_t n, const uint64_t *key, const float *row)
{
    assert(n && n <= delta_rows_max(table, dimension));
    start(encoder);
    bytes_u32(&encoder->record, dimension);
    bytes_u32(&encoder->record, n);
    add_text(&encoder->record, table);
    bytes_add(&encoder->record, key, n * sizeof *key);
    bytes_add(&encoder->record, row, (size_t)n * dimension * sizeof *row);
    return seal(encoder, type);
}

bool delta_encode_rows(struct delta_encoder *encoder, const char *table, uint32_t dimension, uint32_t n,
                       const uint64_t *key, const float *row)
{
    return encode_keys(encoder, DELTA_ROWS, table, dimension, n, key, row);
}

bool delta_encode_gone(struct delta_encoder *encoder, const char *table, uint32_t n, const uint64_t *key)
{
    return encode_keys(encoder, DELTA_GONE, table, 0, n, key, NULL);
}

bool delta_encode_dense(struct delta_encoder *encoder, const struct tensor *tensor, size_t *offset)
{
    start(encoder);
    struct bytes *record = &encoder->record;
    size_t fixed = sizeof(struct header) + 48 + text_bytes(strlen(tensor->name));
    size_t left = tensor_bytes(tensor) - *offset, room = (DELTA_RECORD_MAX - fixed) / 8 * 8;
    size_t piece = left < room ? left : room;
    bytes_u32(record, (uint32_t)tensor->type);
    bytes_u32(record, (uint32_t)tensor->rank);
    for (size_t i = 0; i < TENSOR_RANK_MAX; i++) bytes_u64(record, i < tensor->rank ? tensor->shape[i] : 0);
    bytes_u64(record, *offset);
    bytes_u64(record, piece);
    add_text(record, tensor->name);
    bytes_add(record, piece ? (const unsigned char *)tensor->data + *offset : NULL, piece);
    *offset += piece;
    return seal(encoder, DELTA_DENSE);
}

bool delta_encode_commit(struct delta_encoder *encoder)
{
    start(encoder);
    bytes_u32(&encoder->record, encoder->next + 1);
    bytes_u32(&encoder->record, 0);
    bytes_u64(&encoder->record, encoder->chain);
    return seal(encoder, DELTA_COMMIT);
}

void delta_encoder_release(struct delta_encoder *encoder)
{
    bytes_free(&encoder->record);
}

/* ---- reading */

static const char *take_text(struct bytes_reader *in)
{
    uint32_t length = bytes_take_u32(in);
    if (length > DELTA_NAME_MAX) in->bad = true;
    size_t rest = text_bytes(length) - sizeof length;
    const char *text = bytes_take(in, rest);
    for (size_t i = 0; text && i < rest; i++) in->bad |= (i < length) == (text[i] == 0);
    return in->bad ? NULL : text;
}

static void parse_begin(struct bytes_reader *in, struct delta_record *record)
{
    struct delta_begin *begin = &record->begin;
    begin->base = bytes_take_u64(in);
    begin->previous = bytes_take_u64(in);
    begin->watermark = (int64_t)bytes_take_u64(in);
    begin->created = (int64_t)bytes_take_u64(in);
    begin->steps = bytes_take_u64(in);
    begin->rows = bytes_take_u64(in);
    begin->gone = bytes_take_u64(in);
    begin->tensors = bytes_take_u32(in);
    begin->samples = bytes_take_u32(in);
    if (begin->samples > DELTA_SAMPLES_MAX || begin->base >= record->place.sequence || record->index) in->bad = true;
    begin->sample = bytes_take(in, begin->samples * sizeof(int64_t));
    begin->fingerprint = take_text(in);
}

static void parse_keys(struct bytes_reader *in, struct delta_record *record)
{
    record->dimension = bytes_take_u32(in);
    record->n = bytes_take_u32(in);
    record->table = take_text(in);
    bool rows = record->type == DELTA_ROWS;
    uint32_t most = rows ? DELTA_DIMENSION_MAX : 0;
    if (!record->n || record->dimension < rows || record->dimension > most) in->bad = true;
    record->key = bytes_take(in, record->n * sizeof(uint64_t));
    if (rows) record->row = bytes_take(in, (size_t)record->n * record->dimension * sizeof(float));
}

static void parse_dense(struct bytes_reader *in, struct delta_record *record)
{
    struct tensor *tensor = &record->tensor;
    uint32_t type = bytes_take_u32(in), rank = bytes_take_u32(in);
    uint64_t elements = 1;
    if (type > TENSOR_I64 || rank > TENSOR_RANK_MAX) in->bad = true;
    for (size_t i = 0; i < TENSOR_RANK_MAX; i++) {
        uint64_t extent = bytes_take_u64(in);
        tensor->shape[i] = extent;
        if (i < rank ? extent > UINT32_MAX || __builtin_mul_overflow(elements, extent, &elements) : extent != 0)
            in->bad = true;
    }
    record->offset = bytes_take_u64(in);
    record->bytes = bytes_take_u64(in);
    const char *name = take_text(in);
    if (in->bad || elements > UINT64_MAX / 16) {
        in->bad = true;
        return;
    }
    tensor->type = (enum tensor_type)type;
    tensor->rank = rank;
    tensor->role = TENSOR_SCORING;
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    uint64_t whole = elements * tensor_type_bytes(tensor->type);
    if (record->offset > whole || record->bytes > whole - record->offset || (!record->bytes && whole)) in->bad = true;
    record->data = bytes_take(in, record->bytes);
}

static void parse_commit(struct bytes_reader *in, struct delta_record *record)
{
    record->records = bytes_take_u32(in);
    if (bytes_take_u32(in) || record->records != record->index + 1) in->bad = true;
    record->chain = bytes_take_u64(in);
}

bool delta_parse(const void *bytes, size_t size, struct delta_record *record, struct cs_error *err)
{
    struct header header;
    if (size < sizeof header || size > DELTA_RECORD_MAX)
        return cs_fail(err, CS_REFUSED, "a delta's record has %zu bytes, %d to %d are allowed", size, DELTA_HEADER,
                       DELTA_RECORD_MAX);
    memcpy(&header, bytes, sizeof header);
    const unsigned char *payload = (const unsigned char *)bytes + sizeof header;
    if (header.magic != DELTA_MAGIC)
        return cs_fail(err, CS_REFUSED, "not a delta's record: it begins with %08x, not with CSD1", header.magic);
    if (header.layout != DELTA_LAYOUT)
        return cs_fail(err, CS_REFUSED, "a delta's record of layout %u, this program reads %d", header.layout,
                       DELTA_LAYOUT);
    if (header.size != size - sizeof header || header.checksum != checksum_of(&header, payload, size - sizeof header))
        return cs_fail(err, CS_REFUSED, "a delta's record is damaged: %zu bytes, checksum %016jx is not that of them",
                       size, (uintmax_t)header.checksum);
    *record = (struct delta_record){ .type = (enum delta_type)header.type,
                                     .place = { header.epoch, header.sequence, header.version },
                                     .index = header.index,
                                     .checksum = header.checksum };
    struct bytes_reader in = { payload, payload + header.size, false };
    switch (header.type) {
    case DELTA_BEGIN: parse_begin(&in, record); break;
    case DELTA_ROWS:
    case DELTA_GONE: parse_keys(&in, record); break;
    case DELTA_DENSE: parse_dense(&in, record); break;
    case DELTA_COMMIT: parse_commit(&in, record); break;
    default:
        return cs_fail(err, CS_REFUSED, "a delta's record of type %u, 1 to %d are known", header.type, DELTA_COMMIT);
    }
    if (in.bad || in.at != in.end || (header.type != DELTA_BEGIN && !header.index))
        return cs_fail(err, CS_REFUSED, "record %u of delta %ju, %s: its lengths don't agree with its %u bytes",
                       header.index, (uintmax_t)header.sequence, delta_type_name[header.type], header.size);
    return true;
}
