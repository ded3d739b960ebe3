/* Instead of libFuzzer: shows every file of a corpus to a target, each a test of its own. What was found once stands
 * there under a name that says what it was. usage: replay_TARGET FILE... */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    long length = file && !fseek(file, 0, SEEK_END) ? ftell(file) : -1;
    uint8_t *bytes = length < 0 ? NULL : malloc(length ? (size_t)length : 1);   /* ASan sees its very end */
    if (!bytes || fseek(file, 0, SEEK_SET) || fread(bytes, 1, (size_t)length, file) != (size_t)length) {
        printf("Bail out! %s can't be read\n", path);
        exit(1);
    }
    fclose(file);
    *size = (size_t)length;
    return bytes;
}

int main(int argc, char **argv)
{
    printf("1..%d\n", argc - 1);
    for (int i = 1; i < argc; i++) {
        size_t size;
        uint8_t *bytes = read_file(argv[i], &size);
        printf("# %s\n", argv[i]);
        fflush(stdout);                 /* a crash leaves the name of what it died of */
        LLVMFuzzerTestOneInput(bytes, size);
        free(bytes);
        printf("ok %d - %s\n", i, argv[i]);
    }
    return argc < 2;
}
