/* Any bytes as a part of a checkpoint: a stored value, manifest.json or data.mdb. Refused, or all that is read lies
 * within the bytes, down to a scorer made of it. The first byte says which part. data.mdb is that of a small model,
 * changed: the second byte is its length in pages (0: as it is), then come changes, each an offset (u16), how many
 * bytes (1 to 8) and these. Its manifest is right, so that what a SHA-256 stands before is read, too. */
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/scoring.h"
#include "storage/checkpoint_file.h"
#include "storage/format.h"
#include "tests/unit/serving_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

enum { PAGE = 4096, FILE_MAX = 65536 };

static char directory[] = "/tmp/fuzz_checkpoint.XXXXXX", manifest[64], data[64];
static uint8_t whole[FILE_MAX];
static size_t whole_size;
static volatile uint8_t seen;       /* what is read is used */

static void look_at(const void *at, size_t size)
{
    for (size_t i = 0; i < size; i++) seen = (uint8_t)(seen + ((const uint8_t *)at)[i]);
}

static void write_file(const char *path, const void *bytes, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size) abort();
    close(fd);
}

static void start(void)
{
    struct fixture fixture = fixture_create();
    char path[128];
    if (!mkdtemp(directory)) abort();
    snprintf(manifest, sizeof manifest, "%s/manifest.json", directory);
    snprintf(data, sizeof data, "%s/data.mdb", directory);
    snprintf(path, sizeof path, "%s/%020" PRIu64 "/data.mdb", fixture.directory, fixture_publish(&fixture, 1));
    FILE *file = fopen(path, "rb");
    if (!file || !(whole_size = fread(whole, 1, sizeof whole, file)) || fgetc(file) != EOF) abort();
    fclose(file);
    fixture_destroy(&fixture);
}

static void read_value(const uint8_t *bytes, size_t size)
{
    struct tensor tensor;
    struct cs_error err = { 0 };
    if (!format_dense_open(bytes, size, "a.b", 3, &tensor, &err)) return;
    const uint8_t *at = tensor.data;
    if (at < bytes || tensor_bytes(&tensor) != (size_t)(bytes + size - at)) abort();
}

static void read_manifest(const uint8_t *bytes, size_t size)
{
    static const char zeros[64];
    struct cs_error err = { 0 };
    write_file(manifest, bytes, size);
    write_file(data, zeros, sizeof zeros);
    if (checkpoint_open(directory, size % 2, &err)) abort();    /* no LMDB file, whatever is said of it */
}

static bool look_at_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    (void)self, (void)err;
    look_at(tensor->data, tensor_bytes(tensor));
    return true;
}

struct looked { struct checkpoint *checkpoint; int table; };

/* What is found by its key need not be this row, in a file whose keys do not ascend. */
static bool look_at_row(void *self, uint64_t key, const float *row, size_t dimension, struct cs_error *err)
{
    const struct looked *looked = self;
    const float *found = checkpoint_find(looked->checkpoint, looked->table, key);
    (void)err;
    look_at(row, dimension * sizeof *row);
    if (found) look_at(found, checkpoint_dimension(looked->checkpoint, looked->table) * sizeof *found);
    return true;
}

static bool look_at_table(void *self, const char *table, uint64_t rows, struct cs_error *err)
{
    struct looked looked = { self, checkpoint_table(self, table) };
    (void)rows, (void)err;
    struct cs_error damaged = { 0 };
    return checkpoint_each_row(self, table, look_at_row, &looked, &damaged) || damaged.code == CS_REFUSED;
}

static void read_data(const uint8_t *bytes, size_t size)
{
    uint8_t changed[FILE_MAX];
    size_t length = whole_size;
    char digest[65], text[256];
    uint64_t there;
    struct cs_error err = { 0 };
    if (size < 2) return;
    bool verify = bytes[0] % 2;
    if (bytes[1]) length = (size_t)bytes[1] * PAGE < whole_size ? (size_t)bytes[1] * PAGE : whole_size;
    memcpy(changed, whole, whole_size);
    for (size_t at = 2; at + 3 < size;) {
        size_t offset = bytes[at] | (size_t)bytes[at + 1] << 8, count = bytes[at + 2] % 8 + 1u;
        at += 3;
        if (count > size - at) count = size - at;
        if (offset + count <= length) memcpy(changed + offset, bytes + at, count);
        at += count;
    }
    write_file(data, changed, length);
    int fd = open(data, O_RDONLY);
    if (fd < 0 || !checkpoint_sha256(fd, NULL, &there, digest)) abort();
    close(fd);
    int said = snprintf(text, sizeof text, "{\"version\": 1, \"format\": 1, \"sha256\": \"%s\", \"size\": %zu}", digest,
                        length);
    write_file(manifest, text, (size_t)said);
    struct checkpoint *checkpoint = checkpoint_open(directory, verify, &err);
    if (!checkpoint) {
        if (err.code != CS_REFUSED) abort();
        return;
    }
    checkpoint_tensors(checkpoint, look_at_tensor, NULL, &err);
    if (!checkpoint_tables(checkpoint, look_at_table, checkpoint, &err)) abort();
    struct scorer *scorer = scorer_create(checkpoint, &err);
    if (scorer) scorer_destroy(scorer);
    else if (err.code == CS_REFUSED) checkpoint_close(checkpoint);
    else abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (!whole_size) start();
    if (!size) return 0;
    if (bytes[0] < 64) read_value(bytes + 1, size - 1);
    else if (bytes[0] < 128) read_manifest(bytes + 1, size - 1);
    else read_data(bytes, size);
    return 0;
}
