/* safetensors and npz. Reading trusts nothing: the header is JSON from anywhere, and every number in it is checked
 * against the file's size before a byte of data is touched.
 *
 *   safetensors   header length u64 | JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...} | data
 *                 blanks behind the JSON bring the data to a multiple of 8
 *   npz           a zip of stored (uncompressed) .npy files; sizes below 4 GiB, since ZIP64 is not written */
#include "storage/exchange.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/need.h"
#include "storage/environment.h"
#include "storage/file.h"
#include "storage/format.h"

static const uint64_t header_max = (uint64_t)100 << 20;     /* as the safetensors library itself */
static const char *const numpy_type[] = { "<f4", "<f8", "<u4", "<u8", "<i8" };     /* by enum tensor_type */
enum { TYPES = sizeof numpy_type / sizeof *numpy_type };

/* -- writing ------------------------------------------------------------------------------------------------------ */

struct zip_entry { uint32_t crc, size, offset; };

struct exchange_writer {
    enum exchange_format format;
    char *path, *temporary;
    FILE *file;
    struct tensor *tensor;
    struct zip_entry *zip;              /* npz: one a tensor begun */
    size_t count, capacity;
    bool begun;                         /* data came: nothing can be announced any more */
    size_t current;                     /* the tensor whose data comes next */
    uint64_t left;                      /* of its data */
    uint64_t position;                  /* in the file */
    uint32_t crc_table[256];
};

struct exchange_writer *exchange_create(const char *file, enum exchange_format format, struct cs_error *err)
{
    struct exchange_writer *writer = need(calloc(1, sizeof *writer));
    writer->format = format;
    writer->path = need(strdup(file));
    if (asprintf(&writer->temporary, "%s.XXXXXX", file) < 0) abort();
    int fd = mkostemp(writer->temporary, O_CLOEXEC);
    if (fd < 0) *writer->temporary = 0;
    else writer->file = need(fdopen(fd, "w"));
    if (fd < 0 || fchmod(fd, 0640)) {
        cs_fail_errno(err, errno, "creating a file beside %s", file);
        exchange_abandon(writer);
        return NULL;
    }
    setvbuf(writer->file, NULL, _IOFBF, 1 << 20);
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
        writer->crc_table[i] = crc;
    }
    return writer;
}

bool exchange_announce(struct exchange_writer *writer, const struct tensor *tensor, struct cs_error *err)
{
    assert(!writer->begun);
    for (size_t i = 0; i < writer->count; i++)
        if (!strcmp(writer->tensor[i].name, tensor->name))
            return cs_fail(err, CS_FAILED, "two tensors are called %s", tensor->name);
    if (writer->count == writer->capacity) {
        writer->capacity = writer->capacity ? writer->capacity * 2 : 64;
        writer->tensor = need(realloc(writer->tensor, writer->capacity * sizeof *writer->tensor));
    }
    writer->tensor[writer->count] = *tensor;
    writer->tensor[writer->count++].data = NULL;
    return true;
}

static bool emit(struct exchange_writer *writer, const void *bytes, size_t size, struct cs_error *err)
{
    if (size && fwrite(bytes, 1, size, writer->file) != size)
        return environment_fail(err, errno ? errno : EIO, writer->path, 0, "writing");
    writer->position += size;
    return true;
}

static bool write_safetensors_header(struct exchange_writer *writer, struct cs_error *err)
{
    json_t *root = json_object();
    uint64_t offset = 0;

    for (size_t i = 0; i < writer->count; i++) {
        const struct tensor *tensor = &writer->tensor[i];
        json_t *shape = json_array();
        for (size_t k = 0; k < tensor->rank; k++)
            json_array_append_new(shape, json_integer((json_int_t)tensor->shape[k]));
        uint64_t end = offset + tensor_bytes(tensor);
        json_object_set_new(root, tensor->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", format_type_name(tensor->type), "shape", shape,
                                      "data_offsets", (json_int_t)offset, (json_int_t)end));
        offset = end;
    }
    char *text = need(json_dumps(root, JSON_COMPACT | JSON_PRESERVE_ORDER));
    json_decref(root);
    uint64_t length = strlen(text), padded = (length + 7) & ~(uint64_t)7;
    bool ok = padded <= header_max ||
              cs_fail(err, CS_FAILED, "%zu tensors are too many for one safetensors file", writer->count);
    ok = ok && emit(writer, &padded, sizeof padded, err) && emit(writer, text, length, err) &&
         emit(writer, "       ", padded - length, err);
    free(text);
    return ok;
}

static uint32_t crc_of(const struct exchange_writer *writer, uint32_t crc, const unsigned char *bytes, size_t size)
{
    crc = ~crc;
    for (size_t i = 0; i < size; i++) crc = writer->crc_table[(crc ^ bytes[i]) & 255] ^ crc >> 8;
    return ~crc;
}

static unsigned char *put16(unsigned char *at, uint32_t value)
{
    at[0] = (unsigned char)value;
    at[1] = (unsigned char)(value >> 8);
    return at + 2;
}

static unsigned char *put32(unsigned char *at, uint32_t value)
{
    return put16(put16(at, value & 0xffff), value >> 16);
}

/* version needed, flags, method, time, date (1980-01-01), crc, both sizes, name length, extra length: local and central
 * alike. */
static unsigned char *zip_common(unsigned char *at, const struct zip_entry *entry, size_t name)
{
    at = put16(put16(put16(put16(put16(at, 20), 0), 0), 0), 33);
    at = put32(put32(put32(at, entry->crc), entry->size), entry->size);
    return put16(put16(at, (uint32_t)name), 0);
}

static bool zip_begin(struct exchange_writer *writer, const struct tensor *tensor, struct zip_entry *entry,
                      struct cs_error *err)
{
    char name[TENSOR_NAME_MAX + 8], text[256], shape[96] = "";
    unsigned char local[30], prefix[10] = "\x93NUMPY\x01\x00";
    size_t used = 0;

    for (size_t i = 0; i < tensor->rank; i++)
        used += (size_t)snprintf(shape + used, sizeof shape - used, "%zu,", tensor->shape[i]);
    size_t length = (size_t)snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
                                     numpy_type[tensor->type], shape);
    while ((sizeof prefix + length + 1) % 64) text[length++] = ' ';
    text[length++] = '\n';
    put16(prefix + 8, (uint32_t)length);
    size_t name_length = (size_t)snprintf(name, sizeof name, "%s.npy", tensor->name);
    uint64_t size = sizeof prefix + length + tensor_bytes(tensor);
    if (size > UINT32_MAX || writer->position + size + sizeof local + name_length > UINT32_MAX ||
        writer->count > UINT16_MAX)
        return cs_fail(err, CS_FAILED, "tensor %s takes the npz file past 4 GiB or 65535 arrays: use safetensors",
                       tensor->name);
    *entry = (struct zip_entry){ .size = (uint32_t)size, .offset = (uint32_t)writer->position };
    zip_common(put32(local, 0x04034b50), entry, name_length);
    entry->crc = crc_of(writer, crc_of(writer, 0, prefix, sizeof prefix), (unsigned char *)text, length);
    return emit(writer, local, sizeof local, err) && emit(writer, name, name_length, err) &&
           emit(writer, prefix, sizeof prefix, err) && emit(writer, text, length, err);
}

/* The checksum is known only now: into the header that was written before the data. */
static bool zip_end(struct exchange_writer *writer, const struct zip_entry *entry, struct cs_error *err)
{
    unsigned char crc[4];
    put32(crc, entry->crc);
    if (fflush(writer->file) || pwrite(fileno(writer->file), crc, sizeof crc, entry->offset + 14) != sizeof crc)
        return environment_fail(err, errno, writer->path, 0, "writing");
    return true;
}

static bool zip_directory(struct exchange_writer *writer, struct cs_error *err)
{
    uint64_t begin = writer->position;
    for (size_t i = 0; i < writer->count; i++) {
        unsigned char central[46] = { 0 };
        char name[TENSOR_NAME_MAX + 8];
        size_t length = (size_t)snprintf(name, sizeof name, "%s.npy", writer->tensor[i].name);
        unsigned char *at = zip_common(put16(put32(central, 0x02014b50), 20 | 3 << 8), &writer->zip[i], length);
        put32(put32(at + 6, (uint32_t)0100640 << 16),
              writer->zip[i].offset); /* after comment, disk, internal attributes: 0 */
        if (!emit(writer, central, sizeof central, err) || !emit(writer, name, length, err)) return false;
    }
    unsigned char end[22] = { 0 };
    if (writer->position > UINT32_MAX)
        return cs_fail(err, CS_FAILED, "the npz file would be past 4 GiB: use safetensors");
    unsigned char *at =
        put16(put16(put32(put32(end, 0x06054b50), 0), (uint32_t)writer->count), (uint32_t)writer->count);
    put32(put32(at, (uint32_t)(writer->position - begin)), (uint32_t)begin);
    return emit(writer, end, sizeof end, err);
}

/* Goes on to the next tensor that has data; those without are written on the way. */
static bool begin_next(struct exchange_writer *writer, struct cs_error *err)
{
    if (!writer->begun) {
        writer->begun = true;
        writer->zip = need(calloc(writer->count + 1, sizeof *writer->zip));
        if (writer->format == EXCHANGE_SAFETENSORS && !write_safetensors_header(writer, err)) return false;
    } else {
        if (writer->format == EXCHANGE_NPZ && !zip_end(writer, &writer->zip[writer->current], err)) return false;
        writer->current++;
    }
    for (; writer->current < writer->count; writer->current++) {
        struct zip_entry *entry = &writer->zip[writer->current];
        writer->left = tensor_bytes(&writer->tensor[writer->current]);
        if (writer->format == EXCHANGE_NPZ && !zip_begin(writer, &writer->tensor[writer->current], entry, err))
            return false;
        if (writer->left) return true;
        if (writer->format == EXCHANGE_NPZ && !zip_end(writer, entry, err)) return false;
    }
    return true;
}

bool exchange_data(struct exchange_writer *writer, const void *bytes, size_t size, struct cs_error *err)
{
    while (size) {
        if (!writer->left && (!begin_next(writer, err))) return false;
        if (!writer->left) return cs_fail(err, CS_FAILED, "%zu bytes more than the announced tensors hold", size);
        size_t share = size < writer->left ? size : writer->left;
        if (writer->format == EXCHANGE_NPZ) {
            struct zip_entry *entry = &writer->zip[writer->current];
            entry->crc = crc_of(writer, entry->crc, bytes, share);
        }
        if (!emit(writer, bytes, share, err)) return false;
        writer->left -= share;
        bytes = (const char *)bytes + share;
        size -= share;
    }
    return true;
}

bool exchange_finish(struct exchange_writer *writer, struct cs_error *err)
{
    bool ok = false;

    if (!writer->left && !begin_next(writer, err)) goto out;
    if (writer->left) {
        cs_fail(err, CS_FAILED, "tensor %s lacks %" PRIu64 " bytes", writer->tensor[writer->current].name,
                writer->left);
        goto out;
    }
    if (writer->format == EXCHANGE_NPZ && !zip_directory(writer, err)) goto out;
    if (fflush(writer->file) || fsync(fileno(writer->file))) {
        environment_fail(err, errno, writer->path, 0, "writing");
        goto out;
    }
    if (rename(writer->temporary, writer->path)) {
        cs_fail_errno(err, errno, "naming %s", writer->path);
        goto out;
    }
    *writer->temporary = 0;
    ok = environment_sync_parent(writer->path, err);
out:
    exchange_abandon(writer);
    return ok;
}

void exchange_abandon(struct exchange_writer *writer)
{
    if (!writer) return;
    if (writer->file) fclose(writer->file);
    if (writer->temporary && *writer->temporary) unlink(writer->temporary);
    free(writer->temporary);
    free(writer->path);
    free(writer->tensor);
    free(writer->zip);
    free(writer);
}

/* -- reading ------------------------------------------------------------------------------------------------------ */

struct exchange_file {
    unsigned char *bytes;
    size_t size, count;
    struct tensor *tensor;          /* by offset of their data */
    const struct tensor **by_name;
};

static bool read_type(struct tensor *tensor, const json_t *entry, struct cs_error *err)
{
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    if (!name) return cs_fail(err, CS_REFUSED, "tensor %s has no dtype", tensor->name);
    for (int i = 0; i < TYPES; i++) {
        if (strcmp(name, format_type_name((enum tensor_type)i))) continue;
        tensor->type = (enum tensor_type)i;
        return true;
    }
    return cs_fail(err, CS_REFUSED, "tensor %s has dtype %.20s; F32, F64, U32, U64 and I64 are read", tensor->name,
                   name);
}

/* One tensor's entry, against the number of data bytes in the file. */
static bool read_entry(struct tensor *tensor, const char *name, json_t *entry, unsigned char *data, uint64_t available,
                       struct cs_error *err)
{
    if (strlen(name) >= TENSOR_NAME_MAX || !*name)
        return cs_fail(err, CS_REFUSED, "a tensor's name has %zu bytes, 1 to %d are read", strlen(name),
                       TENSOR_NAME_MAX - 1);
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    if (!json_is_object(entry)) return cs_fail(err, CS_REFUSED, "tensor %s is not described by an object", name);
    if (!read_type(tensor, entry, err)) return false;
    json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets"), *size;
    if (!json_is_array(shape) || json_array_size(shape) > TENSOR_RANK_MAX)
        return cs_fail(err, CS_REFUSED, "tensor %s: shape must be a list of up to %d numbers", name, TENSOR_RANK_MAX);
    uint64_t bytes = tensor_type_bytes(tensor->type);
    size_t i;
    tensor->rank = json_array_size(shape);
    json_array_foreach(shape, i, size) {
        json_int_t n = json_integer_value(size);
        if (!json_is_integer(size) || n < 0 || __builtin_mul_overflow(bytes, (uint64_t)n, &bytes))
            return cs_fail(err, CS_REFUSED, "tensor %s: shape[%zu] is not a size", name, i);
        tensor->shape[i] = (size_t)n;
    }
    json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return cs_fail(err, CS_REFUSED, "tensor %s: data_offsets must be two numbers", name);
    json_int_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin || (uint64_t)end > available)
        return cs_fail(err, CS_REFUSED,
                       "tensor %s: data_offsets [%" PRId64 ", %" PRId64 "] lie outside of the file's %" PRIu64
                       " bytes of data",
                       name, (int64_t)begin, (int64_t)end, available);
    if ((uint64_t)(end - begin) != bytes)
        return cs_fail(err, CS_REFUSED, "tensor %s: %" PRId64 " bytes of data, its shape comes to %" PRIu64, name,
                       (int64_t)(end - begin), bytes);
    tensor->data = data + begin;
    return true;
}

static int by_data(const void *left, const void *right)
{
    const struct tensor *a = left, *b = right;
    if (a->data != b->data) return (uintptr_t)a->data < (uintptr_t)b->data ? -1 : 1;
    size_t bytes_a = tensor_bytes(a), bytes_b = tensor_bytes(b);
    if (bytes_a != bytes_b) return bytes_a < bytes_b ? -1 : 1;
    return strcmp(a->name, b->name);
}

static int by_name(const void *left, const void *right)
{
    return strcmp((*(const struct tensor *const *)left)->name, (*(const struct tensor *const *)right)->name);
}

/* The data are the tensors', one after the other: nothing twice, nothing between. */
static bool check_layout(const struct exchange_file *file, const unsigned char *data, uint64_t available,
                         struct cs_error *err)
{
    const unsigned char *expected = data;
    for (size_t i = 0; i < file->count; i++) {
        const struct tensor *tensor = &file->tensor[i];
        if ((const unsigned char *)tensor->data < expected)
            return cs_fail(err, CS_REFUSED, "tensor %s overlaps another", tensor->name);
        if ((const unsigned char *)tensor->data > expected)
            return cs_fail(err, CS_REFUSED, "bytes before tensor %s belong to none", tensor->name);
        expected = (const unsigned char *)tensor->data + tensor_bytes(tensor);
    }
    if (expected != data + available)
        return cs_fail(err, CS_REFUSED, "%" PRIu64 " bytes at the end belong to no tensor",
                       (uint64_t)(data + available - expected));
    return true;
}

static bool read_header(struct exchange_file *file, struct cs_error *err)
{
    uint64_t length;
    json_error_t where;
    json_t *root = NULL, *entry;
    const char *name;
    bool ok = false;

    if (file->size < sizeof length + 2)
        return cs_fail(err, CS_REFUSED, "%zu bytes are too few for a safetensors file", file->size);
    memcpy(&length, file->bytes, sizeof length);
    if (length > header_max || length > file->size - sizeof length)
        return cs_fail(err, CS_REFUSED, "a header of %" PRIu64 " bytes is announced, the file has %zu", length,
                       file->size);
    if (file->bytes[sizeof length] != '{') return cs_fail(err, CS_REFUSED, "the header does not begin with {");
    root = json_loadb((char *)file->bytes + sizeof length, length, JSON_REJECT_DUPLICATES, &where);
    if (!root || !json_is_object(root)) {
        cs_fail(err, CS_REFUSED, "the header is not JSON: %s (byte %d)", root ? "no object" : where.text,
                root ? 0 : where.position);
        goto out;
    }
    unsigned char *data = file->bytes + sizeof length + length;
    uint64_t available = file->size - sizeof length - length;
    file->tensor = need(calloc(json_object_size(root) + 1, sizeof *file->tensor));
    file->by_name = need(calloc(json_object_size(root) + 1, sizeof *file->by_name));
    json_object_foreach(root, name, entry) {
        if (!strcmp(name, "__metadata__")) continue;
        if (!read_entry(&file->tensor[file->count++], name, entry, data, available, err)) goto out;
    }
    qsort(file->tensor, file->count, sizeof *file->tensor, by_data);
    if (!check_layout(file, data, available, err)) goto out;
    for (size_t i = 0; i < file->count; i++) file->by_name[i] = &file->tensor[i];
    qsort(file->by_name, file->count, sizeof *file->by_name, by_name);
    ok = true;
out:
    json_decref(root);
    return ok;
}

struct exchange_file *exchange_open(const char *path, struct cs_error *err)
{
    struct exchange_file *file = need(calloc(1, sizeof *file));
    struct stat status;
    bool ok = false;

    int fd = file_open(path, O_RDONLY, err);
    if (fd < 0) goto out;
    if (fstat(fd, &status)) {
        cs_fail_errno(err, errno, "looking at %s", path);
        goto out;
    }
    file->size = (size_t)status.st_size;
    if (file->size) {
        void *bytes = mmap(NULL, file->size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED) {
            cs_fail_errno(err, errno, "mapping %s", path);
            goto out;
        }
        file->bytes = bytes;
    }
    ok = read_header(file, err) || cs_error_prefix(err, "%s", path);
out:
    if (fd >= 0) close(fd);
    if (ok) return file;
    exchange_close(file);
    return NULL;
}

void exchange_close(struct exchange_file *file)
{
    if (!file) return;
    if (file->bytes) munmap(file->bytes, file->size);
    free(file->tensor);
    free(file->by_name);
    free(file);
}

size_t exchange_count(const struct exchange_file *file)
{
    return file->count;
}

const struct tensor *exchange_tensor(const struct exchange_file *file, size_t index)
{
    assert(index < file->count);
    return &file->tensor[index];
}

static int name_order(const void *name, const void *tensor)
{
    return strcmp(name, (*(const struct tensor *const *)tensor)->name);
}

const struct tensor *exchange_find(const struct exchange_file *file, const char *name)
{
    const struct tensor **found = bsearch(name, file->by_name, file->count, sizeof *file->by_name, name_order);
    return found ? *found : NULL;
}
