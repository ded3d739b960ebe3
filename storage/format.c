/* Bytes of keys and values: one place that writes and checks each of them. */
#include "storage/format.h"

#include <assert.h>
#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files hold the bytes of a little-endian machine");

enum { BLOCK_MAGIC = 0x31425343 /* CSB1 */, TENSOR_MAGIC = 0x31545343 /* CST1 */, VALUE_VERSION = 1 };

struct block_header { uint32_t magic; uint16_t version, reserved; uint64_t size, checksum; };
struct tensor_header { uint32_t magic; uint16_t version, role; uint32_t type, rank; uint64_t shape[3], checksum; };
struct dense_header { uint32_t rank, type; uint64_t shape[3]; };
_Static_assert(sizeof(struct block_header) == FORMAT_BLOCK_HEADER, "no padding");
_Static_assert(sizeof(struct tensor_header) == FORMAT_TENSOR_HEADER, "no padding");
_Static_assert(sizeof(struct dense_header) == FORMAT_DENSE_HEADER, "no padding");

static const char *const type_name[] = { "F32", "F64", "U32", "U64", "I64" };
enum { TYPES = sizeof type_name / sizeof *type_name };

uint64_t format_big_endian(uint64_t value)
{
    return htobe64(value);
}

size_t format_block_key(unsigned char *key, const char *section, uint64_t id)
{
    size_t length = strlen(section);
    assert(length > 0 && length <= STATE_SECTION_MAX);
    memcpy(key, section, length + 1);
    id = htobe64(id);
    memcpy(key + length + 1, &id, sizeof id);
    return length + 1 + sizeof id;
}

bool format_block_key_parse(const void *key, size_t key_size, char *section, uint64_t *id)
{
    if (key_size < 10 || key_size > FORMAT_KEY_MAX) return false;
    size_t length = key_size - 9;
    if (memchr(key, 0, length) || ((const char *)key)[length] != 0) return false;
    memcpy(section, key, length + 1);
    memcpy(id, (const char *)key + length + 1, sizeof *id);
    *id = be64toh(*id);
    return true;
}

static uint64_t checksum(const void *header, size_t header_size, const void *payload, size_t size, const void *key,
                         size_t key_size)
{
    uint64_t seed = XXH3_64bits_withSeed(key, key_size, XXH3_64bits(header, header_size));
    return XXH3_64bits_withSeed(payload, size, seed);
}

void format_block_seal(unsigned char *value, size_t payload, const void *key, size_t key_size)
{
    struct block_header header = { .magic = BLOCK_MAGIC, .version = VALUE_VERSION, .size = payload };
    header.checksum =
        checksum(&header, offsetof(struct block_header, checksum), value + sizeof header, payload, key, key_size);
    memcpy(value, &header, sizeof header);
}

/* "section 'rows.item', block 7": the key as a person reads it. */
static void block_name(const void *key, size_t key_size, char *text, size_t size)
{
    char section[STATE_SECTION_MAX + 1];
    uint64_t id;
    if (format_block_key_parse(key, key_size, section, &id))
        snprintf(text, size, "section '%s', block %" PRIu64, section, id);
    else snprintf(text, size, "a block whose key is damaged");
}

bool format_block_open(const void *value, size_t size, const void *key, size_t key_size, const void **payload,
                       size_t *payload_size, struct cs_error *err)
{
    struct block_header header;
    char name[STATE_SECTION_MAX + 64];

    block_name(key, key_size, name, sizeof name);
    if (size < sizeof header)
        return cs_fail(err, CS_REFUSED, "%s is damaged: %zu bytes, shorter than its header", name, size);
    memcpy(&header, value, sizeof header);
    if (header.magic != BLOCK_MAGIC)
        return cs_fail(err, CS_REFUSED, "%s is damaged: it does not begin as a block does", name);
    if (header.version != VALUE_VERSION)
        return cs_fail(err, CS_REFUSED, "%s has format version %u, this program reads %d", name, header.version,
                       VALUE_VERSION);
    if (header.size != size - sizeof header)
        return cs_fail(err, CS_REFUSED, "%s is damaged: %" PRIu64 " bytes announced, %zu there", name, header.size,
                       size - sizeof header);
    *payload = (const char *)value + sizeof header;
    *payload_size = header.size;
    if (header.checksum !=
        checksum(&header, offsetof(struct block_header, checksum), *payload, *payload_size, key, key_size))
        return cs_fail(err, CS_REFUSED, "%s is damaged: its checksum differs", name);
    return true;
}

void format_tensor_seal(unsigned char *value, const struct tensor *tensor)
{
    struct tensor_header header = { .magic = TENSOR_MAGIC, .version = VALUE_VERSION, .role = (uint16_t)tensor->role,
                                    .type = tensor->type, .rank = (uint32_t)tensor->rank };
    for (size_t i = 0; i < tensor->rank; i++) header.shape[i] = tensor->shape[i];
    header.checksum = checksum(&header, offsetof(struct tensor_header, checksum), value + sizeof header,
                               tensor_bytes(tensor), tensor->name, strlen(tensor->name));
    memcpy(value, &header, sizeof header);
}

/* Name, type, rank and shape into *tensor, with size the exact number of data bytes that they must come to. */
static bool describe(struct tensor *tensor, const void *name, size_t name_size, uint32_t type, uint32_t rank,
                     const uint64_t *shape, size_t size, struct cs_error *err)
{
    memset(tensor, 0, sizeof *tensor);
    if (name_size == 0 || name_size >= TENSOR_NAME_MAX || memchr(name, 0, name_size))
        return cs_fail(err, CS_REFUSED, "a tensor's name is damaged: %zu bytes", name_size);
    memcpy(tensor->name, name, name_size);
    if (type >= TYPES || rank > TENSOR_RANK_MAX)
        return cs_fail(err, CS_REFUSED, "tensor %s is damaged: type %u, rank %u", tensor->name, type, rank);
    tensor->type = (enum tensor_type)type;
    tensor->rank = rank;
    size_t bytes = tensor_type_bytes(tensor->type);
    bool fits = true;
    for (size_t i = 0; i < rank; i++) {
        tensor->shape[i] = shape[i];
        fits = fits && !__builtin_mul_overflow(bytes, shape[i], &bytes);
    }
    if (!fits || bytes != size)
        return cs_fail(err, CS_REFUSED, "tensor %s is damaged: its shape does not come to its %zu bytes", tensor->name,
                       size);
    return true;
}

bool format_tensor_open(const void *value, size_t size, const void *name, size_t name_size, struct tensor *tensor,
                        struct cs_error *err)
{
    struct tensor_header header;

    if (size < sizeof header)
        return cs_fail(err, CS_REFUSED, "a tensor is damaged: %zu bytes, shorter than its header", size);
    memcpy(&header, value, sizeof header);
    if (header.magic != TENSOR_MAGIC || header.version != VALUE_VERSION)
        return cs_fail(err, CS_REFUSED, "tensor %.*s is damaged, or has format version %u (this program reads %d)",
                       (int)(name_size < TENSOR_NAME_MAX ? name_size : TENSOR_NAME_MAX), (const char *)name,
                       header.version, VALUE_VERSION);
    if (!describe(tensor, name, name_size, header.type, header.rank, header.shape, size - sizeof header, err))
        return false;
    if (header.role > TENSOR_OPTIMIZER)
        return cs_fail(err, CS_REFUSED, "tensor %s is damaged: role %u", tensor->name, header.role);
    tensor->role = (enum tensor_role)header.role;
    tensor->data = (char *)value + sizeof header;       /* the visitor's tensor has one field for readers and writers */
    if (header.checksum != checksum(&header, offsetof(struct tensor_header, checksum), tensor->data,
                                    size - sizeof header, name, name_size))
        return cs_fail(err, CS_REFUSED, "tensor %s is damaged: its checksum differs", tensor->name);
    return true;
}

void format_dense_header(unsigned char *bytes, const struct tensor *tensor)
{
    struct dense_header header = { .rank = (uint32_t)tensor->rank, .type = tensor->type };
    for (size_t i = 0; i < tensor->rank; i++) header.shape[i] = tensor->shape[i];
    memcpy(bytes, &header, sizeof header);
}

bool format_dense_open(const void *value, size_t size, const void *name, size_t name_size, struct tensor *tensor,
                       struct cs_error *err)
{
    struct dense_header header;

    if (size < sizeof header)
        return cs_fail(err, CS_REFUSED, "a tensor is damaged: %zu bytes, shorter than its header", size);
    memcpy(&header, value, sizeof header);
    if (!describe(tensor, name, name_size, header.type, header.rank, header.shape, size - sizeof header, err))
        return false;
    tensor->data = (char *)value + sizeof header;
    return true;
}

const char *format_type_name(enum tensor_type type)
{
    return type_name[type];
}

void format_shape_text(const struct tensor *tensor, char *text, size_t size)
{
    int used = snprintf(text, size, "%s [", type_name[tensor->type]);
    for (size_t i = 0; i < tensor->rank && (size_t)used < size; i++)
        used += snprintf(text + used, size - (size_t)used, "%s%zu", i ? ", " : "", tensor->shape[i]);
    if ((size_t)used < size) snprintf(text + used, size - (size_t)used, "]");
}

bool format_tensor_copy(const struct tensor *wanted, const struct tensor *stored, struct cs_error *err)
{
    bool same = wanted->type == stored->type && wanted->rank == stored->rank;
    for (size_t i = 0; same && i < wanted->rank; i++) same = wanted->shape[i] == stored->shape[i];
    if (!same) {
        char here[96], there[96];
        format_shape_text(wanted, here, sizeof here);
        format_shape_text(stored, there, sizeof there);
        return cs_fail(err, CS_REFUSED, "tensor %s is %s there, %s here", wanted->name, there, here);
    }
    size_t size = tensor_bytes(wanted);
    if (size) memcpy(wanted->data, stored->data, size);
    return true;
}
