/* Any bytes as stored values and as a checkpoint's manifest: refused, or what is announced lies within the bytes.
 * LMDB's own pages are not fuzzed here: what walks them is fuzz_snapshot's. */
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
    if (format_dense_open(bytes, size, "a.b", 3, &tensor, &err)) check_tensor(&tensor, bytes, size);
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
    int fd = open(manifest, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size) abort();
    close(fd);
    if (checkpoint_open(directory, size % 2, &err)) abort(); /* 64 zeros are no LMDB file, whatever is said of them */
    return 0;
}
