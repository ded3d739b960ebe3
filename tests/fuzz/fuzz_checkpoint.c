/* Any bytes as stored values and as a checkpoint's manifest: refused, or what is announced lies within the bytes.
 * LMDB's own pages are not fuzzed: the SHA-256 stands before them. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/checkpoint.h"
#include "storage/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check_tensor(const struct tensor *tensor, const uint8_t *bytes, size_t size)
{
    const uint8_t *data = tensor->data;
    if (data < bytes || tensor_bytes(tensor) != (size_t)(bytes + size - data)) abort();
}

static void read_values(const uint8_t *bytes, size_t size)
{
    struct tensor tensor;
    struct cs_error err = { 0 };
    const void *payload;
    size_t length;
    char section[STATE_SECTION_MAX + 1];
    uint64_t id;
    if (format_block_open(bytes, size, "key", 3, &payload, &length, &err) &&
        (const uint8_t *)payload + length != bytes + size)
        abort();
    if (format_tensor_open(bytes, size, "a.b", 3, &tensor, &err)) check_tensor(&tensor, bytes, size);
    if (format_dense_open(bytes, size, "a.b", 3, &tensor, &err)) check_tensor(&tensor, bytes, size);
    if (format_block_key_parse(bytes, size, section, &id)) {
        unsigned char key[FORMAT_KEY_MAX];
        if (format_block_key(key, section, id) != size || memcmp(key, bytes, size)) abort();
    }
}

/* The checksum is made right, so that what lies behind it is reached too. */
static void read_sealed(const uint8_t *bytes, size_t size)
{
    const void *payload;
    size_t length;
    unsigned char *value = malloc(FORMAT_BLOCK_HEADER + size);
    if (!value) abort();
    memcpy(value + FORMAT_BLOCK_HEADER, bytes, size);
    format_block_seal(value, size, "key", 3);
    if (!format_block_open(value, FORMAT_BLOCK_HEADER + size, "key", 3, &payload, &length, NULL) || length != size)
        abort();
    if (format_block_open(value, FORMAT_BLOCK_HEADER + size, "kez", 3, &payload, &length, NULL)) abort();
    free(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static char directory[] = "/tmp/fuzz_checkpoint.XXXXXX", manifest[64], data[64];
    struct cs_error err = { 0 };
    if (!*manifest) {
        if (!mkdtemp(directory)) abort();
        snprintf(manifest, sizeof manifest, "%s/manifest.json", directory);
        snprintf(data, sizeof data, "%s/data.mdb", directory);
        int empty = open(data, O_WRONLY | O_CREAT, 0640);
        if (empty < 0 || ftruncate(empty, 64)) abort();
        close(empty);
    }
    read_values(bytes, size);
    read_sealed(bytes, size);
    int fd = open(manifest, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size) abort();
    close(fd);
    if (checkpoint_open(directory, size % 2, &err)) abort(); /* 64 zeros are no LMDB file, whatever is said of them */
    return 0;
}
