/* backup: a compact copy of a snapshot, also of one that a daemon is using. restore: the way back. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/text.h"
#include "storage/environment.h"
#include "storage/snapshot.h"
#include "tools/ctl_answer.h"
#include "tools/ctl_progress.h"
#include "tools/ctl_snapshot.h"
#include "tools/ctl_verbs.h"

const struct program_option ctl_backup_options[] = { CTL_SNAPSHOT_CONFIG, CTL_JSON, { NULL, 0, NULL, NULL, false } };
const struct program_option ctl_restore_options[] = {
    CTL_SNAPSHOT_CONFIG,
    { "force", 'f', NULL, "where a state is there already: move it aside, to SNAPSHOT.<time>", false },
    CTL_JSON,
    { NULL, 0, NULL, NULL, false },
};

static bool add_up(void *self, const char *section, uint64_t records, uint64_t bytes, struct cs_error *err)
{
    struct { uint64_t records, bytes; } *sum = self;
    (void)section, (void)err;
    sum->records += records;
    sum->bytes += bytes;
    return true;
}

/* Says what a copy holds; the exit code. aside: where the old state is now; NULL: none was there. */
static int tell_copied(const struct ctl_arguments *arguments, const char *from, const char *directory,
                       const char *aside, double seconds)
{
    struct cs_error err = { 0 };
    struct { uint64_t records, bytes; } sum = { 0 };
    struct snapshot_view *view = snapshot_view_open_directory(directory, &err);
    bool is_restore = arguments->verb->run == ctl_restore;
    int code = 0;

    if (view && snapshot_view_sections(view, add_up, &sum, &err)) {
        const char *text = snapshot_view_meta(view, "steps");
        uint64_t steps = text ? strtoull(text, NULL, 10) : 0;
        if (ctl_flag(arguments, "json")) {
            json_t *answer = json_pack("{s:o,s:o,s:I,s:I,s:I,s:f}", "directory", text_json(directory), "from",
                                       text_json(from), "steps", (json_int_t)steps, "records",
                                       (json_int_t)sum.records, "bytes", (json_int_t)sum.bytes, "seconds", seconds);
            if (answer && is_restore) json_object_set_new(answer, "aside", aside ? text_json(aside) : json_null());
            code = ctl_answer(arguments, answer);
        } else {
            ctl_say(arguments,
                    "%s: %" PRIu64 " records of %" PRIu64 " bytes, step %" PRIu64 "; read back and compared, %.1f s",
                    directory, sum.records, sum.bytes, steps, seconds);
            if (aside) ctl_say(arguments, "the state that was there is now in %s", aside);
        }
    } else {
        code = ctl_fail(arguments, &err);
    }
    if (view) snapshot_view_close(view);
    return code;
}

/* ------------------------------------------------------------------------------------------------------- copying */

/* A view whose readings are told of; *bytes: of one reading of all. */
static struct snapshot_view *open_watched(const char *directory, struct ctl_progress *progress, uint64_t *bytes,
                                          struct cs_error *err)
{
    struct snapshot_view *view = NULL;

    if (access(directory, R_OK) != 0)
        cs_fail(err, CS_FAILED, "%s: no such directory, or not to be read", directory);
    else if ((view = snapshot_view_open_directory(directory, err))) {
        snapshot_view_watch(view, &progress->watch);
        *bytes = snapshot_view_bytes(view);
    }
    return view;
}

static void tell_leftover(void *self, const char *path)
{
    ctl_say(self, "%s is removed: a copy that was never finished", path);
}

/* bytes: of one reading; there are three. */
static bool copy_snapshot(const char *from, const char *to, uint64_t bytes, struct ctl_progress *progress,
                          struct cs_error *err)
{
    ctl_progress_phase(progress, "copying, reading back", 3 * bytes, "bytes");
    bool ok = snapshot_backup(from, to, &progress->watch, err);
    ctl_progress_end(progress);
    return ok;
}

int ctl_backup(const struct ctl_arguments *arguments)
{
    bool named = arguments->position[1] != NULL;
    const char *to = arguments->position[named];
    char from[PATH_MAX];
    struct cs_error err = { 0 };
    struct ctl_progress progress;
    double begin = ctl_seconds();
    uint64_t bytes = 0;

    if (!ctl_snapshot_directory(arguments, named ? arguments->position[0] : NULL, from, &err))
        return ctl_fail(arguments, &err);
    ctl_progress_start(&progress, arguments, 0, "bytes");
    struct snapshot_view *view = open_watched(from, &progress, &bytes, &err);
    if (view) snapshot_view_close(view);
    snapshot_leftovers(to, true, tell_leftover, (void *)(uintptr_t)arguments);
    if (!view || !copy_snapshot(from, to, bytes, &progress, &err)) return ctl_fail(arguments, &err);
    return tell_copied(arguments, from, to, NULL, ctl_seconds() - begin);
}

/* ------------------------------------------------------------------------------------------------------- restore */

/* What a directory has besides the lock. */
static bool is_empty(const char *directory)
{
    DIR *stream = opendir(directory);
    bool empty = true;

    if (!stream) return errno == ENOENT;
    for (struct dirent *entry; (entry = readdir(stream)); )
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && strcmp(entry->d_name, "LOCK")) empty = false;
    closedir(stream);
    return empty;
}

/* A directory's files, then itself: until it is given away nobody else can put anything in. Followed is no link, as who
 * may write beside it can have put one in its place. Takes the handle. */
static bool give_all(int handle, uid_t user, gid_t group)
{
    DIR *stream = fdopendir(handle);
    bool ok = stream != NULL;

    if (!stream) close(handle);
    for (struct dirent *entry; ok && (entry = readdir(stream)); ) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        int inner = openat(handle, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        ok = inner >= 0 ? give_all(inner, user, group)
                        : fchownat(handle, entry->d_name, user, group, AT_SYMLINK_NOFOLLOW) == 0;
    }
    ok = ok && fchown(handle, user, group) == 0;
    if (stream) closedir(stream);
    return ok;
}

/* root restores for the daemon's user: what is new belongs to whom the old belonged, and has its mode. */
static bool make_like(const char *path, const struct stat *old, struct cs_error *err)
{
    int handle = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool ok = handle >= 0 && (geteuid() != 0 || give_all(dup(handle), old->st_uid, old->st_gid)) &&
              fchmod(handle, old->st_mode & 07777) == 0;

    if (!ok) cs_fail_errno(err, errno, "giving %s the owner and the mode of what was there", path);
    if (handle >= 0) close(handle);
    return ok;
}

/* In one step, so that no daemon that starts meanwhile can find nothing there and begin anew. Afterwards `staged` is
 * what was there before. */
static bool exchange(const char *staged, const char *to, struct cs_error *err)
{
    if (renameat2(AT_FDCWD, staged, AT_FDCWD, to, RENAME_EXCHANGE) == 0) return true;
    return cs_fail_errno(err, errno, "putting %s in the place of %s", staged, to);
}

/* empty: what was there has nothing to be kept but its place. */
static bool put_in_place(const char *copy, const char *to, bool empty, struct cs_error *err)
{
    struct stat status;
    char lock[PATH_MAX + 8];

    bool ok = stat(to, &status) == 0 || cs_fail_errno(err, errno, "looking at %s", to);
    ok = ok && make_like(copy, &status, err) && exchange(copy, to, err);
    if (!ok) snapshot_discard(copy);
    if (!ok || !empty) return ok;
    /* The place of the copy now holds what was empty: not any more where somebody put something in meanwhile. */
    snprintf(lock, sizeof lock, "%s/LOCK", copy);
    unlink(lock);
    return rmdir(copy) == 0 || cs_fail_errno(err, errno, "removing %s, which was empty", copy);
}

/* Where the copy grows, and where the old state is from the exchange on: a kill in between can't leave the old one
 * under a name that looks like a copy's. Named by the second; by a number too where that is taken. */
static bool name_aside(const char *to, char aside[PATH_MAX], struct cs_error *err)
{
    struct stat status;
    long long now = (long long)time(NULL);

    for (int number = 1; number < 1000; number++) {
        char more[16] = "";
        if (number > 1) snprintf(more, sizeof more, "-%d", number);
        if (snprintf(aside, PATH_MAX, "%s.%lld%s", to, now, more) >= PATH_MAX)
            return cs_fail(err, CS_FAILED, "the path of %s is too long", to);
        if (lstat(aside, &status) != 0) return true;
    }
    return cs_fail(err, CS_FAILED, "%s and all up to it are there already", aside);
}

/* Where a link stands for the directory: what that leads to, so that the link stays, and the state on its disk. */
static bool resolve(char to[PATH_MAX], struct cs_error *err)
{
    struct stat status;
    char *path;

    if (lstat(to, &status) != 0 || !S_ISLNK(status.st_mode)) return true;
    if (!(path = realpath(to, NULL))) return cs_fail_errno(err, errno, "following the link %s", to);
    snprintf(to, PATH_MAX, "%s", path);
    free(path);
    return true;
}

static bool verify(const char *directory, struct ctl_progress *progress, uint64_t *bytes, struct cs_error *err)
{
    struct snapshot_view *view = open_watched(directory, progress, bytes, err);
    bool ok = false;

    if (view) {
        ctl_progress_phase(progress, "checking the backup", *bytes, "bytes");
        ok = snapshot_view_verify(view, NULL, NULL, err);
        ctl_progress_end(progress);
        snapshot_view_close(view);
    }
    return ok || cs_error_prefix(err, "%s can't be restored", directory);
}

int ctl_restore(const struct ctl_arguments *arguments)
{
    const char *from = arguments->position[0];
    char to[PATH_MAX], aside[PATH_MAX];
    struct cs_error err = { 0 };
    struct ctl_progress progress;
    double begin = ctl_seconds();
    uint64_t bytes = 0;
    int lock = -1, code = -1;
    bool ok, there, empty = true;

    ctl_progress_start(&progress, arguments, 0, "bytes");
    if (!ctl_snapshot_directory(arguments, arguments->position[1], to, &err) || !resolve(to, &err) ||
        !verify(from, &progress, &bytes, &err) || !ctl_snapshot_lock(to, &lock, &err)) goto out;
    there = lock >= 0;
    empty = is_empty(to);
    if (!empty && !ctl_flag(arguments, "force")) {
        cs_fail(&err, CS_REFUSED, "%s holds a state: move it away, or say --force to have it moved aside", to);
        goto out;
    }
    snapshot_leftovers(to, true, tell_leftover, (void *)(uintptr_t)arguments);
    if (!there) ok = copy_snapshot(from, to, bytes, &progress, &err);
    else ok = name_aside(to, aside, &err) && copy_snapshot(from, aside, bytes, &progress, &err) &&
              put_in_place(aside, to, empty, &err) && environment_sync_parent(to, &err);
    if (ok) code = tell_copied(arguments, from, to, empty ? NULL : aside, ctl_seconds() - begin);
out:
    if (lock >= 0) close(lock);
    return code >= 0 ? code : ctl_fail(arguments, &err);
}
