/* Snapshots whose files were changed behind our back, or not all written when the power went: refused, or as if nothing
 * had been; never other data, never a crash. */
#include "tests/unit/snapshot_fixture.h"

#include <dirent.h>

/* -- a directory's files in memory -- */

struct file { char name[64]; unsigned char *bytes; size_t size; };
struct image { struct file file[64]; size_t files; };

static void image_add(struct image *image, const char *directory, const char *name)
{
    char path[400];
    struct file *file = &image->file[image->files++];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    snprintf(file->name, sizeof file->name, "%s", name);
    FILE *stream = fopen(path, "rb");
    assert_non_null(stream);
    fseek(stream, 0, SEEK_END);
    file->size = (size_t)ftell(stream);
    rewind(stream);
    file->bytes = malloc(file->size + 1);
    assert_int_equal(fread(file->bytes, 1, file->size, stream), file->size);
    fclose(stream);
}

static struct image image_load(const char *directory)
{
    struct image image = { .files = 0 };
    char path[400], name[64];
    image_add(&image, directory, "data.mdb");
    image_add(&image, directory, "lock.mdb");
    image_add(&image, directory, "LOCK");
    snprintf(path, sizeof path, "%s/segments", directory);
    DIR *folder = opendir(path);
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (*entry->d_name == '.') continue;
        snprintf(name, sizeof name, "segments/%.30s", entry->d_name);
        image_add(&image, directory, name);
    }
    closedir(folder);
    return image;
}

static void write_file(const char *directory, const char *name, const void *bytes, size_t size)
{
    char path[400];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(bytes, 1, size, stream), size);
    fclose(stream);
}

static void remove_directory(const char *directory)
{
    char command[400];
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    assert_int_equal(system(command), 0);
}

/* Without forks: thousands of trials. */
static void empty_directory(const char *directory)
{
    char path[400];
    DIR *folder;
    static const char *const name[] = { "data.mdb", "lock.mdb", "LOCK" };
    snprintf(path, sizeof path, "%s/segments", directory);
    mkdir(directory, 0750);
    mkdir(path, 0750);
    folder = opendir(path);
    for (struct dirent *entry; (entry = readdir(folder));) unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, name[i]);
        unlink(path);
    }
}

static void image_store(const struct image *image, const char *directory)
{
    empty_directory(directory);
    for (size_t i = 0; i < image->files; i++)
        write_file(directory, image->file[i].name, image->file[i].bytes, image->file[i].size);
}

static void image_free(struct image *image)
{
    for (size_t i = 0; i < image->files; i++) free(image->file[i].bytes);
}

static struct file *image_find(struct image *image, const char *name)
{
    for (size_t i = 0; i < image->files; i++)
        if (!strcmp(image->file[i].name, name)) return &image->file[i];
    return NULL;
}

static uint32_t random_state = 99;

static uint32_t any(uint32_t below)
{
    random_state = random_state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)random_state * below >> 32);
}

/* -- what is kept in it: a toy, a word, a tensor, meta; all follow from the number of the cut -- */

enum { SLOTS = 400 };

static void commit_number(struct snapshot_store *store, struct toy *toy, uint32_t number)
{
    char text[32];
    float data[4] = { (float)number, 2, 3, 4 };
    struct tensor tensor = weight(data);
    struct snapshot_cut *cut = snapshot_begin(store);
    for (int i = 0; i < SLOTS / 3; i++) toy_set(toy, any(SLOTS), any(5) ? number : 0);
    toy_give(toy, cut, "rows.item");
    snprintf(text, sizeof text, "cut %u", number);
    put(cut, "ingest", 0, text);
    assert_true(snapshot_meta(cut, "positions", text, NULL));
    assert_true(snapshot_writer(cut)->tensor(snapshot_writer(cut), &tensor, NULL));
    commit(cut);
}

struct versions { uint32_t version[SLOTS]; };

enum outcome { SAME, REFUSED, OTHER };

/* Everything is read. wanted: versions of the toy as of cut number `number`. */
static enum outcome read_all(struct snapshot_view *view, const struct versions *wanted, uint32_t number,
                             struct cs_error *err)
{
    char text[32];
    const void *bytes;
    size_t size;
    float data[4] = { 0 };
    struct tensor tensor = weight(data);
    struct state_reader *reader = snapshot_reader(view);
    struct toy *toy = toy_create(SLOTS, 60, 100);
    bool refused;
    memcpy(toy->version, wanted->version, sizeof wanted->version);
    bool equal = toy_equals(toy, view, "rows.item", &refused, err);
    toy_destroy(toy);
    if (!equal) return refused ? REFUSED : OTHER;
    snprintf(text, sizeof text, "cut %u", number);
    if (!reader->get(reader, "ingest", 0, &bytes, &size, err)) return REFUSED;
    if (!bytes || size != strlen(text) || memcmp(bytes, text, size)) return OTHER;
    if (!reader->tensor(reader, &tensor, err)) return REFUSED;
    if (data[0] != (float)number || data[3] != 4) return OTHER;
    if (strcmp(snapshot_view_meta(view, "positions"), text)) return OTHER;
    return snapshot_view_verify(view, NULL, NULL, err) ? SAME : REFUSED;
}

static enum outcome try_open(const char *directory, const struct snapshot_options *options,
                             const struct versions *wanted, uint32_t number, struct cs_error *damage,
                             struct cs_error *err)
{
    struct snapshot_store *store = snapshot_open(directory, options, damage, err);
    if (!store) return REFUSED;
    enum outcome outcome = REFUSED;
    if (snapshot_stats(store).cut != number) {
        outcome = OTHER;
    } else {
        struct snapshot_view *view = snapshot_view_open(store, err);
        if (view) outcome = read_all(view, wanted, number, err);
        snapshot_view_close(view);
    }
    snapshot_close(store);
    return outcome;
}

/* Leaves `cuts` cuts in the directory; what the toy is at the last and the one before it. */
static void make(const char *directory, uint32_t cuts, struct versions *last, struct versions *before)
{
    struct snapshot_store *store = open_store(directory);
    struct toy *toy = toy_create(SLOTS, 60, 100);
    for (uint32_t number = 1; number <= cuts; number++) {
        memcpy(before->version, toy->version, sizeof before->version);
        commit_number(store, toy, number);
    }
    memcpy(last->version, toy->version, sizeof last->version);
    snapshot_close(store);
    toy_destroy(toy);
}

/* One change to one file. */
static const char *mutate(struct image *image, const struct image *other, const char *directory)
{
    static char said[160];
    struct file *file = &image->file[any((uint32_t)image->files)], *second = &image->file[any((uint32_t)image->files)];
    unsigned char *bytes = malloc(file->size + 1);
    size_t size = file->size;
    memcpy(bytes, file->bytes, size);
    uint32_t kind = any(20), at = size ? any((uint32_t)size) : 0;
    if (kind < 10) {
        if (size) bytes[at] ^= (unsigned char)(1 << any(8));
        snprintf(said, sizeof said, "%s: a bit of byte %u", file->name, at);
    } else if (kind < 13) {
        size = at;
        snprintf(said, sizeof said, "%s: cut to %u", file->name, at);
    } else if (kind < 15) {
        memset(bytes + at / 4096 * 4096, 0, size - at / 4096 * 4096 < 4096 ? size - at / 4096 * 4096 : 4096);
        snprintf(said, sizeof said, "%s: zeros from %u", file->name, at / 4096 * 4096);
    } else if (kind < 16) {
        for (size_t i = at; i < size && i < at + 64; i++) bytes[i] = (unsigned char)any(256);
        snprintf(said, sizeof said, "%s: noise from %u", file->name, at);
    } else if (kind < 17) {
        size = 0;
        snprintf(said, sizeof said, "%s: emptied", file->name);
    } else if (kind < 19) {     /* another file's bytes under this name: of this directory, or of another one */
        const struct file *from = kind < 18 ? second : image_find((struct image *)(uintptr_t)other, file->name);
        free(bytes);
        if (!from) from = second;
        bytes = malloc(from->size + 1);
        memcpy(bytes, from->bytes, size = from->size);
        snprintf(said, sizeof said, "%s: has the bytes of %s", file->name, from->name);
    } else {
        char path[400];
        snprintf(path, sizeof path, "%s/%s", directory, file->name);
        unlink(path);
        free(bytes);
        snprintf(said, sizeof said, "%s: removed", file->name);
        return said;
    }
    write_file(directory, file->name, bytes, size);
    free(bytes);
    return said;
}

static void whatever_changes_is_refused_or_harmless(void **state)
{
    char directory[300], second[300];
    struct versions last, before, other_last, other_before;
    unsigned count[3] = { 0 };
    make(*state, 7, &last, &before);
    snprintf(second, sizeof second, "%s.other", (char *)*state);
    make(second, 7, &other_last, &other_before);
    struct image image = image_load(*state), other = image_load(second);
    snprintf(directory, sizeof directory, "%s.trial", (char *)*state);
    for (int trial = 0; trial < 2000; trial++) {
        struct cs_error err = { 0 };
        image_store(&image, directory);
        const char *said = mutate(&image, &other, directory);
        enum outcome outcome = try_open(directory, NULL, &last, 7, NULL, &err);
        /* Another directory's root beside our files, or ours beside its: never anything but ours. */
        if (outcome == OTHER) fail_msg("trial %d: %s: other data", trial, said);
        if (outcome == REFUSED && err.code != CS_REFUSED) fail_msg("trial %d: %s: %s", trial, said, err.message);
        count[outcome]++;
    }
    print_message("%u refused, %u as before\n", count[REFUSED], count[SAME]);
    assert_true(count[REFUSED] > 800);
    remove_directory(directory);
    image_free(&image);
    image_free(&other);
}

/* Every single bit of the root's small pages in turn would be too many: each byte once, one of its bits. */
static void every_byte_of_the_root_matters_or_does_not(void **state)
{
    char directory[300];
    struct versions last, before;
    unsigned count[3] = { 0 };
    make(*state, 4, &last, &before);
    struct image image = image_load(*state);
    snprintf(directory, sizeof directory, "%s.trial", (char *)*state);
    image_store(&image, directory);
    struct file *file = image_find(&image, "data.mdb");
    for (size_t at = 0; at < file->size; at += 1 + any(8)) {
        struct cs_error err = { 0 };
        image_store(&image, directory);
        file->bytes[at] ^= 1;
        write_file(directory, "data.mdb", file->bytes, file->size);
        enum outcome outcome = try_open(directory, NULL, &last, 4, NULL, &err);
        file->bytes[at] ^= 1;
        if (outcome == OTHER) fail_msg("byte %zu: other data", at);
        if (outcome == REFUSED && err.code != CS_REFUSED) fail_msg("byte %zu: %s", at, err.message);
        count[outcome]++;
    }
    print_message("%u refused, %u as before\n", count[REFUSED], count[SAME]);
    assert_true(count[REFUSED] > 100);
    remove_directory(directory);
    image_free(&image);
}

static void a_damaged_block_is_named(void **state)
{
    struct versions last, before;
    struct cs_error err = { 0 };
    make(*state, 1, &last, &before);
    struct image image = image_load(*state);
    struct file *file = image_find(&image, "segments/00000000000000000001");
    file->bytes[file->size / 2] ^= 4;
    write_file(*state, file->name, file->bytes, file->size);
    struct snapshot_view *view = snapshot_view_open_directory(*state, &err);
    assert_non_null(view);                          /* footers and root are whole */
    assert_false(snapshot_view_verify(view, NULL, NULL, &err));
    assert_int_equal(err.code, CS_REFUSED);
    assert_non_null(strstr(err.message, "segments/00000000000000000001 is damaged: section 'rows.item', block at"));
    assert_non_null(strstr(err.message, "checksum"));
    snapshot_view_close(view);
    image_free(&image);
}

/* The newest cut's own file is damaged: the one before is taken when that is asked for, and only then. */
static void the_cut_before_is_taken_when_told_so(void **state)
{
    struct versions last, before;
    struct cs_error err = { 0 }, damage = { 0 };
    struct snapshot_options options = { .previous = true };
    make(*state, 5, &last, &before);
    struct image image = image_load(*state);
    assert_int_equal(try_open(*state, &options, &last, 5, &damage, &err), SAME);
    assert_int_equal(damage.code, CS_OK);
    struct file *newest = &image.file[3];
    for (size_t i = 4; i < image.files; i++)
        if (strcmp(image.file[i].name, newest->name) > 0) newest = &image.file[i];
    for (int kind = 0; kind < 4; kind++) {
        image_store(&image, *state);
        if (kind == 0) newest->bytes[newest->size / 3] ^= 1;
        if (kind < 3) write_file(*state, newest->name, newest->bytes, kind == 1 ? 100 : kind == 2 ? 0 : newest->size);
        if (kind == 0) newest->bytes[newest->size / 3] ^= 1;
        char path[400];
        snprintf(path, sizeof path, "%s/%s", (char *)*state, newest->name);
        if (kind == 3) unlink(path);
        assert_int_equal(try_open(*state, NULL, &last, 5, &damage, &err), REFUSED);
        assert_int_equal(err.code, CS_REFUSED);
        if (try_open(*state, &options, &before, 4, &damage, &err) != SAME) fail_msg("%d: %s", kind, err.message);
        assert_int_equal(damage.code, CS_REFUSED);
        assert_non_null(strstr(damage.message, newest->name));
        if (try_open(*state, &options, &before, 4, &damage, &err) != SAME) fail_msg("%d: %s", kind, err.message);

        /* It goes on from there: the next cut is a cut as any. */
        struct snapshot_store *store = snapshot_open(*state, &options, &damage, &err);
        struct toy *toy = toy_create(SLOTS, 60, 100);
        struct versions now;
        memcpy(toy->version, before.version, sizeof before.version);
        commit_number(store, toy, 6);
        memcpy(now.version, toy->version, sizeof now.version);
        assert_int_equal(snapshot_stats(store).cut, 6);
        snapshot_close(store);
        toy_destroy(toy);
        assert_int_equal(try_open(*state, NULL, &now, 6, &damage, &err), SAME);
    }
    image_free(&image);
}

static void a_root_that_lost_its_last_cut_is_noticed(void **state)
{
    struct versions last, before;
    struct cs_error err = { 0 }, damage = { 0 };
    make(*state, 3, &last, &before);
    struct image image = image_load(*state);
    struct snapshot_store *store = open_store(*state);
    struct toy *toy = toy_create(SLOTS, 60, 100);
    memcpy(toy->version, last.version, sizeof last.version);
    commit_number(store, toy, 4);
    snapshot_close(store);
    struct file *file = image_find(&image, "data.mdb");
    write_file(*state, "data.mdb", file->bytes, file->size);
    assert_int_equal(try_open(*state, NULL, &last, 3, &damage, &err), REFUSED);
    assert_non_null(strstr(err.message, "ends at cut 3, and cut 4 was committed"));
    assert_null(snapshot_view_open_directory(*state, &err));
    char path[300];
    snprintf(path, sizeof path, "%s/data.mdb", (char *)*state);
    unlink(path);                                   /* gone as a whole: not a new beginning either */
    assert_int_equal(try_open(*state, NULL, &last, 3, &damage, &err), REFUSED);
    toy_destroy(toy);
    image_free(&image);
}

/* -- power loss: what the disk may hold when it went in the midst of a commit. Unsynced files: any part of their pages.
 * The root: before its commit any of the pages that it wrote but the meta page; after it all. -- */


static void store_torn(const char *directory, const struct file *file)
{
    unsigned char *bytes = malloc(file->size + 1);
    size_t size = any(3) ? file->size : any((uint32_t)file->size + 1);
    for (size_t at = 0; at < size; at += 4096) {
        size_t length = size - at < 4096 ? size - at : 4096;
        if (any(2)) memcpy(bytes + at, file->bytes + at, length);
        else memset(bytes + at, 0, length);
    }
    if (any(6)) write_file(directory, file->name, bytes, size);     /* or its name was lost as well */
    free(bytes);
}

static void store_before_commit(struct image *old, struct image *new, const char *directory)
{
    image_store(old, directory);
    bool synced = any(2);       /* the segment was, and the root is under way */
    for (size_t i = 0; i < new->files; i++) {
        const struct file *file = &new->file[i];
        if (strncmp(file->name, "segments/", 9) || image_find(old, file->name)) continue;
        if (synced) write_file(directory, file->name, file->bytes, file->size);
        else store_torn(directory, file);
    }
    if (!synced) return;
    const struct file *before = image_find(old, "data.mdb"), *after = image_find(new, "data.mdb");
    size_t size = after->size > before->size ? after->size : before->size;
    unsigned char *bytes = calloc(1, size);
    memcpy(bytes, before->bytes, before->size);
    for (size_t page = 0; page < after->size / 4096; page++)
        if (page >= 2 && any(2)) memcpy(bytes + page * 4096, after->bytes + page * 4096, 4096);
    write_file(directory, "data.mdb", bytes, any(2) || after->size > before->size ? size : before->size);
    free(bytes);
}

static void after_a_power_loss_there_is_the_old_cut_or_the_new_one(void **state)
{
    char directory[300];
    struct snapshot_store *store = open_store(*state);
    struct toy *toy = toy_create(SLOTS, 60, 100);
    struct versions last = { { 0 } }, before;
    snprintf(directory, sizeof directory, "%s.trial", (char *)*state);
    for (uint32_t number = 1; number <= 12; number++) {
        struct image old = image_load(*state);
        before = last;
        commit_number(store, toy, number);
        memcpy(last.version, toy->version, sizeof last.version);
        struct image new = image_load(*state);
        for (int trial = 0; trial < 40; trial++) {
            struct cs_error err = { 0 };
            bool committed = any(4) == 0;
            if (committed) {
                image_store(&new, directory);       /* what is to be unlinked may still be there */
                for (size_t i = 0; i < old.files; i++)
                    if (!image_find(&new, old.file[i].name) && any(2))
                        write_file(directory, old.file[i].name, old.file[i].bytes, old.file[i].size);
                const struct file *lock = image_find(&old, "LOCK");
                if (any(2)) write_file(directory, "LOCK", lock->bytes, lock->size);
            } else {
                store_before_commit(&old, &new, directory);
            }
            uint32_t wanted = committed ? number : number - 1;
            struct snapshot_store *again = snapshot_open(directory, NULL, NULL, &err);
            if (!again) fail_msg("cut %u, trial %d: %s", number, trial, err.message);
            assert_int_equal(snapshot_stats(again).cut, wanted);
            if (wanted) {
                struct snapshot_view *view = open_view(again);
                if (read_all(view, committed ? &last : &before, wanted, &err) != SAME)
                    fail_msg("cut %u, trial %d: %s", number, trial, err.message);
                snapshot_view_close(view);
            }
            /* And it goes on. */
            struct toy *other = toy_create(SLOTS, 60, 100);
            memcpy(other->version, committed ? last.version : before.version, sizeof last.version);
            if (!wanted) memset(other->version, 0, sizeof last.version);
            commit_number(again, other, wanted + 1);
            assert_toy(other, again, "rows.item");
            snapshot_close(again);
            toy_destroy(other);
        }
        image_free(&old);
        image_free(&new);
    }
    snapshot_close(store);
    toy_destroy(toy);
    remove_directory(directory);
}

/* Killed, or without power, in the first write of all: what is left is no snapshot, and none was lost. */
static void a_stillborn_root_begins_anew(void **state)
{
    static const unsigned char bytes[8192];
    const size_t left[] = { 0, 1, 4096, 8191, 8192 };
    char path[300];
    assert_int_equal(mkdir(*state, 0750), 0);
    snprintf(path, sizeof path, "%s/data.mdb", (char *)*state);
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);
        assert_int_equal(write(fd, bytes, left[i]), left[i]);
        close(fd);
        struct snapshot_store *store = open_store(*state);
        assert_false(snapshot_exists(store));
        snapshot_close(store);
    }
    struct snapshot_store *store = open_store(*state);
    struct snapshot_cut *cut = snapshot_begin(store);
    put(cut, "s", 0, "kept");
    commit(cut);
    snapshot_close(store);
    assert_int_equal(truncate(path, 4096), 0);      /* now it is damage */
    struct cs_error err = { 0 };
    assert_null(snapshot_open(*state, NULL, NULL, &err));
    assert_int_equal(err.code, CS_REFUSED);
}

/* Found by fuzzing: one more than the last page number there can be is 0, which fits into any file. */
static void a_last_page_beyond_all_numbers_is_refused(void **state)
{
    enum { PAGE = 4096, LAST_AT = 136 };
    const uint64_t last = UINT64_MAX;
    char path[300];
    struct snapshot_store *store = open_store(*state);
    struct snapshot_cut *cut = snapshot_begin(store);
    put(cut, "s", 0, "kept");
    commit(cut);
    snapshot_close(store);
    snprintf(path, sizeof path, "%s/data.mdb", (char *)*state);
    int fd = open(path, O_WRONLY);
    for (int page = 0; page < 2; page++)
        assert_int_equal(pwrite(fd, &last, sizeof last, page * PAGE + LAST_AT), sizeof last);
    close(fd);
    struct cs_error err = { 0 };
    assert_null(snapshot_open(*state, NULL, NULL, &err));
    assert_int_equal(err.code, CS_REFUSED);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fresh_directory, release)
    const struct CMUnitTest tests[] = {
        TEST(a_stillborn_root_begins_anew),
        TEST(a_last_page_beyond_all_numbers_is_refused),
        TEST(whatever_changes_is_refused_or_harmless),
        TEST(every_byte_of_the_root_matters_or_does_not),
        TEST(a_damaged_block_is_named),
        TEST(the_cut_before_is_taken_when_told_so),
        TEST(a_root_that_lost_its_last_cut_is_noticed),
        TEST(after_a_power_loss_there_is_the_old_cut_or_the_new_one),
    };
    if (!make_root(true)) return 1;
    return run_and_clean(cmocka_run_group_tests(tests, NULL, NULL));
}
