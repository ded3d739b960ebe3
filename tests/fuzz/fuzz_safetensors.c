/* Any bytes as a safetensors file: refused, or every tensor's data lie within the file and can be read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "storage/exchange.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char path[64];
    struct cs_error err = { 0 };
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct exchange_file *file = exchange_open(path, &err);
    if (!file && err.code != CS_REFUSED) abort();
    for (size_t i = 0; file && i < exchange_count(file); i++) {
        const struct tensor *tensor = exchange_tensor(file, i);
        volatile unsigned char sum = 0;
        for (size_t k = 0; k < tensor_bytes(tensor); k++) sum = sum ^ ((const unsigned char *)tensor->data)[k];
        if (exchange_find(file, tensor->name) != tensor) abort();
    }
    exchange_close(file);
    close(fd);
    return 0;
}
