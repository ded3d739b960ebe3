/* backup: a compact copy of a snapshot, also of one that a daemon is using. restore: the way back. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "storage/snapshot.h"
#include "tools/ctl_snapshot.h"
#include "tools/ctl_verbs.h"

const struct program_option ctl_backup_options[] = { CTL_SNAPSHOT_CONFIG, { NULL, 0, NULL, NULL, false } };
const struct program_option ctl_restore_options[] = {
    CTL_SNAPSHOT_CONFIG,
    { "force", 'f', NULL, "where a state is there already: move it aside, to SNAPSHOT.<time>", false },
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

/* Says what a copy holds; false where it can't be read. */
static bool say_copied(const struct ctl_arguments *arguments, const char *directory, double seconds,
                       struct cs_error *err)
{
    struct { uint64_t records, bytes; } sum = { 0 };
    struct snapshot_view *view = snapshot_view_open_directory(directory, err);
    const char *steps;
    bool ok;

    if (!view) return false;
    ok = snapshot_view_sections(view, add_up, &sum, err);
    steps = snapshot_view_meta(view, "steps");
    if (ok)
        ctl_say(arguments, "%s: %" PRIu64 " records of %" PRIu64 " bytes, step %s; read back and compared, %.1f s",
                directory, sum.records, sum.bytes, steps ? steps : "0", seconds);
    snapshot_view_close(view);
    return ok;
}

/* ------------------------------------------------------------------------------------------------------- copying */

/* Bytes of a file, or of all in a directory. What vanishes meanwhile counts nothing. */
static uint64_t bytes_of(const char *path)
{
    struct stat status;
    uint64_t bytes = 0;
    DIR *stream;

    if (lstat(path, &status) != 0) return 0;
    if (!S_ISDIR(status.st_mode)) return (uint64_t)status.st_size;
    if (!(stream = opendir(path))) return 0;
    for (struct dirent *entry; (entry = readdir(stream)); ) {
        char inner[PATH_MAX];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name) < (int)sizeof inner) bytes += bytes_of(inner);
    }
    closedir(stream);
    return bytes;
}

/* A copy grows under a temporary name that begins as the last one will. */
static uint64_t bytes_beside(const char *to)
{
    char folder[PATH_MAX], name[PATH_MAX], path[2 * PATH_MAX];
    uint64_t bytes = 0;
    DIR *stream;

    snprintf(folder, sizeof folder, "%s", to);
    snprintf(name, sizeof name, "%s", to);
    const char *parent = dirname(folder), *begin = basename(name);
    if (!(stream = opendir(parent))) return 0;
    for (struct dirent *entry; (entry = readdir(stream)); ) {
        if (strncmp(entry->d_name, begin, strlen(begin)) != 0) continue;
        snprintf(path, sizeof path, "%s/%s", parent, entry->d_name);
        bytes += bytes_of(path);
    }
    closedir(stream);
    return bytes;
}

struct copying { const char *from, *to; struct cs_error *err; bool ok; atomic_bool done; };

static void *copy(void *argument)
{
    struct copying *copying = argument;

    copying->ok = snapshot_backup(copying->from, copying->to, copying->err);
    atomic_store(&copying->done, true);
    return NULL;
}

/* snapshot_backup; on a terminal, how far it is. */
static bool copy_snapshot(const struct ctl_arguments *arguments, const char *from, const char *to, uint64_t total,
                          struct cs_error *err)
{
    struct copying copying = { .from = from, .to = to, .err = err };
    struct ctl_progress progress;
    pthread_t thread;
    uint64_t before = bytes_beside(to);

    ctl_progress_start(&progress, arguments, total, "bytes");
    if (!progress.shown || pthread_create(&thread, NULL, copy, &copying) != 0) return snapshot_backup(from, to, err);
    while (!atomic_load(&copying.done)) {
        nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
        uint64_t now = bytes_beside(to) - before;
        ctl_progress_update(&progress, now < total ? now : total, now < total ? "copying" : "reading back");
    }
    pthread_join(thread, NULL);
    ctl_progress_end(&progress);
    return copying.ok;
}

static bool size_of(const char *directory, uint64_t *bytes, struct cs_error *err)
{
    struct { uint64_t records, bytes; } sum = { 0 };
    struct snapshot_view *view;
    bool ok;

    if (access(directory, R_OK) != 0)
        return cs_fail(err, CS_FAILED, "%s: no such directory, or not to be read", directory);
    view = snapshot_view_open_directory(directory, err);
    ok = view && snapshot_view_sections(view, add_up, &sum, err);
    if (view) snapshot_view_close(view);
    *bytes = sum.bytes;
    return ok;
}

int ctl_backup(const struct ctl_arguments *arguments)
{
    bool named = arguments->position[1] != NULL;
    const char *to = arguments->position[named];
    char from[PATH_MAX];
    struct cs_error err = { 0 };
    double begin = ctl_seconds();
    uint64_t total = 0;

    if (ctl_snapshot_directory(arguments, named ? arguments->position[0] : NULL, from, &err) &&
        size_of(from, &total, &err) && copy_snapshot(arguments, from, to, total, &err) &&
        say_copied(arguments, to, ctl_seconds() - begin, &err))
        return 0;
    return ctl_fail(arguments, &err);
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

static bool verify(const char *directory, uint64_t *total, struct cs_error *err)
{
    struct snapshot_view *view = size_of(directory, total, err) ? snapshot_view_open_directory(directory, err) : NULL;
    uint64_t records, bytes;
    bool ok = view && snapshot_view_verify(view, &records, &bytes, err);

    if (view) snapshot_view_close(view);
    return ok || cs_error_prefix(err, "%s can't be restored", directory);
}

int ctl_restore(const struct ctl_arguments *arguments)
{
    const char *from = arguments->position[0];
    char to[PATH_MAX], staged[PATH_MAX + 32], aside[PATH_MAX + 32] = "";
    struct cs_error err = { 0 };
    double begin = ctl_seconds();
    uint64_t total = 0;
    int lock = -1;
    bool ok = false;

    if (!ctl_snapshot_directory(arguments, arguments->position[1], to, &err) || !verify(from, &total, &err)
        || !ctl_snapshot_lock(to, &lock, &err)) goto out;
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
    ok = copy_snapshot(arguments, from, staged, total, &err) && put_in_place(staged, to, aside, &err)
         && sync_parent(to, &err) && say_copied(arguments, to, ctl_seconds() - begin, &err);
    if (ok && *aside) ctl_say(arguments, "the state that was there is now in %s", aside);
out:
    if (lock >= 0) close(lock);
    return ok ? 0 : ctl_fail(arguments, &err);
}
