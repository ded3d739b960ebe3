/* Marks: a version's data never change, what was decided about it stands in small files beside them. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "storage/checkpoint.h"
#include "storage/environment.h"

static bool version_path(char path[PATH_MAX], const char *directory, uint64_t version, const char *mark,
                         struct cs_error *err)
{
    const char *slash = *mark ? "/" : "";
    if (snprintf(path, PATH_MAX, "%s/%020" PRIu64 "%s%s", directory, version, slash, mark) < PATH_MAX) return true;
    return cs_fail(err, CS_FAILED, "the path of %s is too long", directory);
}

static bool sync_version(const char *directory, uint64_t version, struct cs_error *err)
{
    char path[PATH_MAX];
    return version_path(path, directory, version, "", err) && environment_sync_directory(path, err);
}

/* Whole or not at all is of no concern: that the file is there is what it says, its text is for people. */
bool checkpoint_mark(const char *directory, uint64_t version, const char *mark, const char *text, struct cs_error *err)
{
    char path[PATH_MAX];
    if (!version_path(path, directory, version, mark, err)) return false;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0 && errno == ENOENT)
        return cs_fail(err, CS_FAILED, "%s has no version %" PRIu64, directory, version);
    if (fd < 0) return cs_fail_errno(err, errno, "marking %s", path);
    size_t length = strlen(text);
    ssize_t written = write(fd, text, length);
    int number = written < 0 ? errno : (size_t)written < length ? ENOSPC : fsync(fd) ? errno : 0;
    close(fd);
    return number ? cs_fail_errno(err, number, "marking %s", path) : sync_version(directory, version, err);
}

bool checkpoint_unmark(const char *directory, uint64_t version, const char *mark, struct cs_error *err)
{
    char path[PATH_MAX];
    if (!version_path(path, directory, version, mark, err)) return false;
    if (unlink(path) == 0) return sync_version(directory, version, err);
    return errno == ENOENT || cs_fail_errno(err, errno, "removing %s", path);
}

bool checkpoint_is_marked(const char *directory, uint64_t version, const char *mark)
{
    char path[PATH_MAX];
    return version_path(path, directory, version, mark, NULL) && access(path, F_OK) == 0;
}
