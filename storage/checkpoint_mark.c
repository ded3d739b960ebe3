/* Marks: a version's data never change, what was decided about it stands in small files beside them. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "storage/checkpoint.h"
#include "storage/environment.h"
#include "storage/file.h"

static bool sync_version(const char *directory, uint64_t version, struct cs_error *err)
{
    char path[PATH_MAX];
    return checkpoint_path(path, directory, version, "", err) && environment_sync_directory(path, err);
}

/* That the file is there is what it says, its text is for people. */
bool checkpoint_mark(const char *directory, uint64_t version, const char *mark, const char *text, struct cs_error *err)
{
    char path[PATH_MAX];
    if (!checkpoint_path(path, directory, version, "", err)) return false;
    if (access(path, F_OK) && errno == ENOENT)
        return cs_fail(err, CS_FAILED, "%s has no version %" PRIu64, directory, version);
    return file_put(path, mark, text, strlen(text), true, err) && sync_version(directory, version, err);
}

bool checkpoint_unmark(const char *directory, uint64_t version, const char *mark, struct cs_error *err)
{
    char path[PATH_MAX];
    if (!checkpoint_path(path, directory, version, mark, err)) return false;
    if (unlink(path) == 0) return sync_version(directory, version, err);
    return errno == ENOENT || cs_fail_errno(err, errno, "removing %s", path);
}

bool checkpoint_is_marked(const char *directory, uint64_t version, const char *mark)
{
    char path[PATH_MAX];
    return checkpoint_path(path, directory, version, mark, NULL) && access(path, F_OK) == 0;
}
