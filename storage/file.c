/* Opening, replacing and removing without being led elsewhere. */
#include "storage/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/environment.h"

static const char *kind(mode_t mode)
{
    return S_ISLNK(mode)   ? "a link"
           : S_ISDIR(mode) ? "a directory"
           : S_ISFIFO(mode) ? "a pipe"
           : S_ISSOCK(mode) ? "a socket"
           : S_ISREG(mode) ? "a file"
                           : "a device";
}

/* Says what is there instead of a file. */
static void refuse(const char *path, mode_t mode, const char *wanted, struct cs_error *err)
{
    cs_fail(err, CS_REFUSED, "%s is %s, allowed is %s", path, kind(mode), wanted);
    errno = EINVAL;
}

int file_open(const char *path, int flags, struct cs_error *err)
{
    struct stat status;
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0640);
    if (fd < 0) {
        int number = errno;
        /* The errno of a link (ELOOP), a socket or a pipe (ENXIO) says little. */
        if (number != ENOENT && !lstat(path, &status) && !S_ISREG(status.st_mode) &&
            (!S_ISLNK(status.st_mode) || flags & O_NOFOLLOW)) {
            refuse(path, status.st_mode, "a file", err);
        } else {
            cs_fail_errno(err, number, "opening %s", path);
            errno = number;
        }
        return -1;
    }
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) return fd;
    close(fd);
    refuse(path, status.st_mode, "a file", err);
    return -1;
}

bool file_check(const char *path, bool *there, struct cs_error *err)
{
    struct stat status;
    *there = lstat(path, &status) == 0;
    if (!*there) return errno == ENOENT || cs_fail_errno(err, errno, "looking at %s", path);
    if (S_ISREG(status.st_mode)) return true;
    refuse(path, status.st_mode, "a file", err);
    return false;
}

static bool write_all(int fd, const char *bytes, size_t size)
{
    while (size) {
        ssize_t written = write(fd, bytes, size);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return false;
        bytes += written;
        size -= (size_t)written;
    }
    return true;
}

bool file_put(const char *directory, const char *name, const void *bytes, size_t size, bool flush,
              struct cs_error *err)
{
    char hidden[NAME_MAX + 1];
    int number = 0, fd = -1, folder = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return cs_fail_errno(err, errno, "opening %s", directory);
    snprintf(hidden, sizeof hidden, ".%s.new", name);
    unlinkat(folder, hidden, 0);        /* what a crash left, or somebody laid there */
    fd = openat(folder, hidden, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0 || !write_all(fd, bytes, size) || (flush && fsync(fd)) || renameat(folder, hidden, folder, name))
        number = errno;
    if (number && fd >= 0) unlinkat(folder, hidden, 0);
    if (fd >= 0) close(fd);
    close(folder);
    return !number || environment_fail(err, number, directory, size, name);
}

/* By errno, of what can't be made: the disk is that of the folder. */
static bool fail_in_folder(const char *path, struct cs_error *err)
{
    int number = errno;
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    return environment_fail(err, number, dirname(folder), 0, "making a directory");
}

bool file_make_directory(const char *path, struct cs_error *err)
{
    struct stat status;
    if (mkdir(path, 0750) == 0) return true;
    if (errno != EEXIST) return fail_in_folder(path, err);
    if (lstat(path, &status)) return cs_fail_errno(err, errno, "looking at %s", path);
    if (S_ISDIR(status.st_mode)) return true;
    refuse(path, status.st_mode, "a directory", err);
    return false;
}

int file_hold(const char *path)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return -1;
    /* Removed between the two calls, by who took it for left behind: it has no name any more. */
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &status) == 0 && status.st_nlink > 0) return fd;
    close(fd);
    return -1;
}

/* By mkdir: mkdtemp's 0700 would have to be widened, and chmod takes the bit away by which what is in here goes to the
 * folder's group, who read it. A unit with RestrictSUIDSGID can't set that bit again. */
int file_make_held(const char *prefix, char **path, struct cs_error *err)
{
    for (int tries = 0; tries < 100; tries++) {
        uint32_t random;
        int number, fd;
        if (getrandom(&random, sizeof random, 0) != sizeof random) break;
        if (asprintf(path, "%s%06x", prefix, random & 0xffffff) < 0) abort();
        if (mkdir(*path, 0750) == 0) {
            if ((fd = file_hold(*path)) >= 0) return fd;
            rmdir(*path);
            errno = EEXIST;
        }
        number = errno;
        free(*path);
        *path = NULL;
        errno = number;
        if (number != EEXIST) break;
    }
    fail_in_folder(prefix, err);
    return -1;
}

bool file_is_held_name(const char *name, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(name, prefix, length) == 0 && strlen(name + length) == 6 &&
           strspn(name + length, "0123456789abcdef") == 6;
}

void file_remove_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOTDIR || errno == ELOOP) unlink(path);
        return;
    }
    DIR *folder = fdopendir(fd);
    if (!folder) {
        close(fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(folder));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) unlinkat(fd, entry->d_name, 0);
    closedir(folder);
    rmdir(path);
}
