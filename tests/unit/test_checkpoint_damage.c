/* 10,000 versions, each harmed in its own way: data or manifest, a bit or a page, cut or swapped. Refused, saying why,
 * or the very same; never anything else. */
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>
#include <xxhash.h>

#include "core/random.h"
#include "storage/checkpoint.h"

enum { HARMED = 10000, ROWS = 300, DIMENSION = 8, PAGE = 4096 };
enum harm {
    BIT_OF_DATA, BIT_OF_MANIFEST, CUT, LONGER, PAGES_SWAPPED, PAGE_ZEROED, PAGE_OF_ANOTHER, FILE_OF_ANOTHER, HARMS
};

struct file { unsigned char *bytes; size_t size; };
struct version { struct file data, manifest; };

static char root[] = "/tmp/test_checkpoint_damage.XXXXXX", data_path[80], manifest_path[80];

static uint64_t publish(uint64_t seed)
{
    struct cs_error err = { 0 };
    char manifest[160];
    uint64_t version;
    struct checkpoint_writer *writer = checkpoint_begin(root, &err);
    if (!writer || !checkpoint_meta(writer, "config", "features: {}", &err)) fail_msg("%s", err.message);
    float weight[600];
    for (size_t i = 0; i < 600; i++) weight[i] = random_uniform(seed, i);
    struct tensor tensor = { .name = "ranking.output.weight", .rank = 2, .shape = { 20, 30 }, .data = weight };
    assert_true(checkpoint_tensor(writer, &tensor, &err));
    for (int table = 0; table < 2; table++)
        for (uint64_t i = 0; i < ROWS; i++)
            if (!checkpoint_row(writer, table ? "city" : "item", 2 * i, weight + (seed + i) % 500, DIMENSION, &err))
                fail_msg("%s", err.message);
    snprintf(manifest, sizeof manifest, "{\"examples\": %" PRIu64 ", \"metrics\": {\"auc\": 0.75, \"log_loss\": %g}, "
             "\"delta\": {\"epoch\": 1700000000123, \"sequence\": %" PRIu64 "}}", 1000 * seed, 0.25 / (double)seed,
             3 * seed);
    if (!checkpoint_finish(writer, manifest, 9, &version, &err)) fail_msg("%s", err.message);
    return version;
}

static struct file read_file(const char *path)
{
    FILE *stream = fopen(path, "r");
    assert_non_null(stream);
    assert_int_equal(fseek(stream, 0, SEEK_END), 0);
    struct file file = { .size = (size_t)ftell(stream) };
    file.bytes = malloc(file.size);
    rewind(stream);
    assert_int_equal(fread(file.bytes, 1, file.size, stream), file.size);
    fclose(stream);
    return file;
}

static void write_file(const char *path, const struct file *file)
{
    int fd = open(path, O_WRONLY);      /* emptied first, some file systems would flush it each time */
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, file->bytes, file->size, 0), file->size);
    assert_int_equal(ftruncate(fd, (off_t)file->size), 0);
    close(fd);
}

static void find_paths(uint64_t version)
{
    snprintf(data_path, sizeof data_path, "%s/%020" PRIu64 "/data.mdb", root, version);
    snprintf(manifest_path, sizeof manifest_path, "%s/%020" PRIu64 "/manifest.json", root, version);
}

static struct version read_version(uint64_t version)
{
    find_paths(version);
    return (struct version){ read_file(data_path), read_file(manifest_path) };
}

static bool add_row(void *self, uint64_t key, const float *row, size_t dimension, struct cs_error *err)
{
    (void)err;
    XXH3_64bits_update(self, &key, sizeof key);
    XXH3_64bits_update(self, row, dimension * sizeof *row);
    return true;
}

struct digest { XXH3_state_t *state; struct checkpoint *checkpoint; };

static bool add_table(void *self, const char *table, uint64_t rows, struct cs_error *err)
{
    struct digest *digest = self;
    XXH3_64bits_update(digest->state, table, strlen(table));
    XXH3_64bits_update(digest->state, &rows, sizeof rows);
    return checkpoint_each_row(digest->checkpoint, table, add_row, digest->state, err);
}

static bool add_tensor(void *self, const struct tensor *tensor, struct cs_error *err)
{
    (void)err;
    XXH3_64bits_update(self, tensor->name, strlen(tensor->name));
    XXH3_64bits_update(self, &tensor->type, sizeof tensor->type);
    XXH3_64bits_update(self, tensor->shape, tensor->rank * sizeof *tensor->shape);
    XXH3_64bits_update(self, tensor->data, tensor_bytes(tensor));
    return true;
}

/* All that a reader could take from it; of the manifest each member by its name. */
static uint64_t digest_of(struct checkpoint *checkpoint)
{
    static const char *const member[] = { "version", "created",  "format",  "rows", "sha256",
                                          "size",    "examples", "metrics", "delta" };
    struct digest digest = { XXH3_createState(), checkpoint };
    struct cs_error err = { 0 };
    json_t *manifest = json_loads(checkpoint_manifest(checkpoint), 0, NULL);
    XXH3_64bits_reset(digest.state);
    for (size_t i = 0; i < sizeof member / sizeof *member; i++) {
        char *text = json_dumps(json_object_get(manifest, member[i]), JSON_SORT_KEYS | JSON_ENCODE_ANY);
        XXH3_64bits_update(digest.state, text ? text : "", text ? strlen(text) : 0);
        free(text);
    }
    XXH3_64bits_update(digest.state, checkpoint_meta_text(checkpoint, "config"), 5);
    if (!checkpoint_tensors(checkpoint, add_tensor, digest.state, &err) ||
        !checkpoint_tables(checkpoint, add_table, &digest, &err))
        fail_msg("%s", err.message);
    uint64_t hash = XXH3_64bits_digest(digest.state);
    XXH3_freeState(digest.state);
    json_decref(manifest);
    return hash;
}

static uint64_t draw(uint64_t stream, uint64_t *n, uint64_t below)
{
    return random_bits(stream, (*n)++) % below;
}

static void flip(struct file *file, uint64_t random, uint64_t *n)
{
    file->bytes[draw(random, n, file->size)] ^= (unsigned char)(1u << draw(random, n, 8));
}

/* Over a page's head, or one of its nodes. */
static void scribble(struct file *file, uint64_t random, uint64_t *n)
{
    size_t page = draw(random, n, file->size / PAGE), at = page * PAGE + 2 * draw(random, n, 12);
    uint16_t lower, node;
    memcpy(&lower, file->bytes + page * PAGE + 12, sizeof lower);
    if (page > 1 && lower > 16 && lower < PAGE && draw(random, n, 2)) {
        memcpy(&node, file->bytes + page * PAGE + 16 + 2 * draw(random, n, (lower - 16u) / 2), sizeof node);
        at = page * PAGE + (node + 2 * draw(random, n, 32)) % (PAGE - 2);
    }
    uint16_t value = (uint16_t)random_bits(random, (*n)++);
    memcpy(file->bytes + at, &value, sizeof value);
}

static void harm(struct version *version, const struct version *other, enum harm kind, uint64_t random, uint64_t *n)
{
    bool of_data = draw(random, n, 2);
    struct file *file = of_data ? &version->data : &version->manifest;
    const struct file *another = of_data ? &other->data : &other->manifest;
    size_t pages = version->data.size / PAGE, one = draw(random, n, pages) * PAGE, two = draw(random, n, pages) * PAGE,
           size;
    unsigned char page[PAGE];
    switch (kind) {
    case BIT_OF_DATA: flip(&version->data, random, n); break;
    case BIT_OF_MANIFEST: flip(&version->manifest, random, n); break;
    case CUT: file->size = draw(random, n, file->size); break;
    case LONGER:
        size = file->size + 1 + draw(random, n, 2 * PAGE);
        file->bytes = realloc(file->bytes, size);
        memset(file->bytes + file->size, (int)draw(random, n, 256), size - file->size);
        file->size = size;
        break;
    case PAGES_SWAPPED:
        memcpy(page, version->data.bytes + one, PAGE);
        memcpy(version->data.bytes + one, version->data.bytes + two, PAGE);
        memcpy(version->data.bytes + two, page, PAGE);
        break;
    case PAGE_ZEROED: memset(version->data.bytes + one, 0, PAGE); break;
    case PAGE_OF_ANOTHER:
        if (one + PAGE <= other->data.size) memcpy(version->data.bytes + one, other->data.bytes + one, PAGE);
        break;
    default:
        file->bytes = realloc(file->bytes, another->size);
        memcpy(file->bytes, another->bytes, another->size);
        file->size = another->size;
    }
}

static struct file copy_of(const struct file *file)
{
    struct file copy = { malloc(file->size), file->size };
    memcpy(copy.bytes, file->bytes, file->size);
    return copy;
}

static bool same(const struct version *a, const struct version *b)
{
    return a->data.size == b->data.size && a->manifest.size == b->manifest.size &&
           !memcmp(a->data.bytes, b->data.bytes, a->data.size) &&
           !memcmp(a->manifest.bytes, b->manifest.bytes, a->manifest.size);
}

static void a_harmed_version_is_refused_or_the_very_same(void **state)
{
    (void)state;
    struct cs_error err = { 0 };
    unsigned refused[HARMS] = { 0 }, harmless = 0;
    uint64_t first = publish(1), second = publish(2);
    struct version other = read_version(first), whole = read_version(second);
    struct checkpoint *checkpoint = checkpoint_open(root, true, &err);
    if (!checkpoint) fail_msg("%s", err.message);
    uint64_t expected = digest_of(checkpoint);
    checkpoint_close(checkpoint);
    for (unsigned trial = 0; trial < HARMED; trial++) {
        uint64_t random = random_stream(7, "harm", trial), n = 0;
        struct version harmed = { copy_of(&whole.data), copy_of(&whole.manifest) };
        enum harm kind = trial % HARMS;
        harm(&harmed, &other, kind, random, &n);
        write_file(data_path, &harmed.data);
        write_file(manifest_path, &harmed.manifest);
        err = (struct cs_error){ 0 };
        if ((checkpoint = checkpoint_open(root, true, &err))) {
            assert_int_equal(checkpoint_version(checkpoint), second);
            if (digest_of(checkpoint) != expected) fail_msg("harm %d of trial %u goes unnoticed", (int)kind, trial);
            checkpoint_close(checkpoint);
            harmless++;
        } else {
            assert_int_equal(err.code, CS_REFUSED);
            assert_true(strlen(err.message) > 20);
            if (same(&harmed, &whole)) fail_msg("what is whole is refused: %s", err.message);
            refused[kind]++;
        }
        free(harmed.data.bytes);
        free(harmed.manifest.bytes);
    }
    print_message("# %d harmed: %u changed nothing that is read, all others were refused\n", HARMED, harmless);
    for (size_t i = 0; i < HARMS; i++) assert_true(refused[i] > HARMED / HARMS / 2);
    free(other.data.bytes);
    free(other.manifest.bytes);
    free(whole.data.bytes);
    free(whole.manifest.bytes);
}

/* Without the SHA-256, as serving opens what was verified when it came: a byte of a number may be another, but no
 * damage leads LMDB astray. */
static void harm_that_no_checksum_sees_leads_nowhere(void **state)
{
    (void)state;
    static const enum harm kinds[] = { BIT_OF_DATA, PAGES_SWAPPED, PAGE_ZEROED, PAGE_OF_ANOTHER };
    unsigned refused = 0, trials = 8000;
    uint64_t first = publish(1), second = publish(2);
    struct version other = read_version(first), whole = read_version(second);
    for (unsigned trial = 0; trial < trials; trial++) {
        struct cs_error err = { 0 };
        uint64_t random = random_stream(8, "harm", trial), n = 0;
        struct version harmed = { copy_of(&whole.data), whole.manifest };
        if (trial % 2) harm(&harmed, &other, kinds[trial / 2 % 4], random, &n);
        else scribble(&harmed.data, random, &n);
        write_file(data_path, &harmed.data);
        struct checkpoint *checkpoint = checkpoint_open(root, false, &err);
        if (checkpoint && checkpoint_meta_text(checkpoint, "config")) digest_of(checkpoint);
        if (!checkpoint) {
            refused++;
            assert_int_equal(err.code, CS_REFUSED);
        }
        checkpoint_close(checkpoint);
        free(harmed.data.bytes);
    }
    print_message("# %u harmed: %u were refused\n", trials, refused);
    assert_true(refused > trials / 4 && refused < trials);
    free(other.data.bytes);
    free(other.manifest.bytes);
    free(whole.data.bytes);
    free(whole.manifest.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(a_harmed_version_is_refused_or_the_very_same),
                                        cmocka_unit_test(harm_that_no_checksum_sees_leads_nowhere) };
    if (!mkdtemp(root)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command) || failed;
}
