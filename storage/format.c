/* Bytes of keys and values: one place that writes and checks each of them. */
#include "storage/format.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files hold the bytes of a little-endian machine");

struct dense_header { uint32_t rank, type; uint64_t shape[3]; };
_Static_assert(sizeof(struct dense_header) == FORMAT_DENSE_HEADER, "no padding");

static const char *const type_name[] = { "F32", "F64", "U32", "U64", "I64" };
enum { TYPES = sizeof type_name / sizeof *type_name };

uint64_t format_big_endian(uint64_t value)
{
    return htobe64(value);
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

/* "F32 [3, 4]" */
static void shape_text(const struct tensor *tensor, char *text, size_t size)
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
        shape_text(wanted, here, sizeof here);
        shape_text(stored, there, sizeof there);
        return cs_fail(err, CS_REFUSED, "tensor %s is %s there, %s here", wanted->name, there, here);
    }
    size_t size = tensor_bytes(wanted);
    if (size) memcpy(wanted->data, stored->data, size);
    return true;
}
