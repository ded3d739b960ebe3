/* backup: a compact copy of a snapshot, also of one that a daemon is using. restore: the way back. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

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
            json_t *answer = json_pack("{s:o,s:o,s:I,s:I,s:I,s:f}", "directory", ctl_json_path(directory), "from",
                                       ctl_json_path(from), "steps", (json_int_t)steps, "records",
                                       (json_int_t)sum.records, "bytes", (json_int_t)sum.bytes, "seconds", seconds);
            if (answer && is_restore) json_object_set_new(answer, "aside", aside ? ctl_json_path(aside) : json_null());
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

/* root restores for the daemon's user: what is new belongs to whom the old belonged. */
static bool give_to(const char *path, uid_t user, gid_t group, struct cs_error *err)
{
    struct stat status;
    DIR *stream;
    bool ok = true;

    if (lchown(path, user, group) != 0 || lstat(path, &status) != 0)
        return cs_fail_errno(err, errno, "giving %s to user %u", path, (unsigned)user);
    if (!S_ISDIR(status.st_mode)) return true;
    if (!(stream = opendir(path))) return cs_fail_errno(err, errno, "opening %s", path);
    for (struct dirent *entry; ok && (entry = readdir(stream)); ) {
        char inner[PATH_MAX];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        ok = snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name) < (int)sizeof inner
             && give_to(inner, user, group, err);
    }
    closedir(stream);
    return ok;
}

static bool sync_parent(const char *path, struct cs_error *err)
{
    char copy[PATH_MAX];
    int fd;
    bool ok;

    snprintf(copy, sizeof copy, "%s", path);
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ok = fd >= 0 && fsync(fd) == 0;
    if (!ok) cs_fail_errno(err, errno, "syncing the folder of %s", path);
    if (fd >= 0) close(fd);
    return ok;
}

/* In one step, so that no daemon that starts meanwhile can find nothing there and begin anew. Afterwards `staged` is
 * what was there before. */
static bool exchange(const char *staged, const char *to, struct cs_error *err)
{
    if (renameat2(AT_FDCWD, staged, AT_FDCWD, to, RENAME_EXCHANGE) == 0) return true;
    return cs_fail_errno(err, errno, "putting %s in the place of %s", staged, to);
}

/* aside: where the old state goes; "" where there is none to keep. */
static bool put_in_place(const char *staged, const char *to, const char *aside, struct cs_error *err)
{
    struct stat status;
    char lock[PATH_MAX + 8];

    if (stat(to, &status) != 0)
        return rename(staged, to) == 0 || cs_fail_errno(err, errno, "renaming %s to %s", staged, to);
    if (geteuid() == 0 && !give_to(staged, status.st_uid, status.st_gid, err)) return false;
    if (chmod(staged, status.st_mode & 07777) != 0) return cs_fail_errno(err, errno, "changing the mode of %s", staged);
    if (!exchange(staged, to, err)) return false;
    if (*aside)
        return rename(staged, aside) == 0 || cs_fail_errno(err, errno, "renaming %s to %s", staged, aside);
    snprintf(lock, sizeof lock, "%s/LOCK", staged);
    unlink(lock);
    return rmdir(staged) == 0 || cs_fail_errno(err, errno, "removing %s, which was empty", staged);
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
    char to[PATH_MAX], staged[PATH_MAX + 32], aside[PATH_MAX + 32] = "";
    struct cs_error err = { 0 };
    struct ctl_progress progress;
    double begin = ctl_seconds();
    uint64_t bytes = 0;
    int lock = -1, code = -1;

    ctl_progress_start(&progress, arguments, 0, "bytes");
    if (!ctl_snapshot_directory(arguments, arguments->position[1], to, &err)
        || !verify(from, &progress, &bytes, &err) || !ctl_snapshot_lock(to, &lock, &err)) goto out;
    snprintf(staged, sizeof staged, "%s.restoring.%ld", to, (long)getpid());
    if (!is_empty(to)) {
        if (!ctl_flag(arguments, "force")) {
            cs_fail(&err, CS_REFUSED, "%s holds a state: move it away, or say --force to have it moved aside", to);
            goto out;
        }
        snprintf(aside, sizeof aside, "%s.%lld", to, (long long)time(NULL));
        if (access(aside, F_OK) == 0) {
            cs_fail(&err, CS_FAILED, "%s is there already: try again in a second", aside);
            goto out;
        }
    }
    if (copy_snapshot(from, staged, bytes, &progress, &err) && put_in_place(staged, to, aside, &err)
        && sync_parent(to, &err))
        code = tell_copied(arguments, from, to, *aside ? aside : NULL, ctl_seconds() - begin);
out:
    if (lock >= 0) close(lock);
    return code >= 0 ? code : ctl_fail(arguments, &err);
}
