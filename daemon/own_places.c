/* What systemd made for us, against what the configuration names. */
#include "daemon/own_places.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/log.h"

/* In one of the directories, which stand between colons? */
static bool is_below(const char *path, const char *directories)
{
    while (*directories) {
        size_t length = strcspn(directories, ":");
        if (length && strncmp(path, directories, length) == 0 && (path[length] == '/' || !path[length])) return true;
        directories += length + (directories[length] == ':');
    }
    return false;
}

/* The path, or what of it is there. */
static bool is_read_only(const char *path)
{
    char there[PATH_MAX];
    if (snprintf(there, sizeof there, "%s", path) >= (int)sizeof there) return false;
    while (access(there, F_OK) != 0 && errno == ENOENT) {
        char *slash = strrchr(there, '/');
        if (!slash || slash == there) return false;
        *slash = 0;
    }
    return access(there, W_OK) != 0 && errno == EROFS;
}

static bool may_write(const char *setting, const char *path, struct cs_error *err)
{
    const char *ours = getenv("STATE_DIRECTORY");
    if (!ours || is_below(path, ours) || !is_read_only(path)) return true;
    return cs_fail(err, CS_CONFIG,
                   "%s: this unit may not write %.160s; its own is %.160s: name a place in there, or allow this one by "
                   "ReadWritePaths= (systemctl edit)",
                   setting, path, ours);
}

void own_places_look(const char *path, bool shared, char why[OWN_PLACES_WHY])
{
    struct stat status;
    *why = 0;
    if (stat(path, &status)) return;
    if (status.st_mode & S_IWOTH && !(shared && status.st_mode & S_ISVTX))
        snprintf(why, OWN_PLACES_WHY, "everyone may write to it (mode %04o)", status.st_mode & 07777);
    else if (status.st_uid != geteuid() && status.st_uid != 0)
        snprintf(why, OWN_PLACES_WHY, "it belongs to user id %u", (unsigned)status.st_uid);
}

static void warn(const char *setting, const char *path, bool shared)
{
    char why[OWN_PLACES_WHY];
    own_places_look(path, shared, why);
    if (*why)
        log_warning("others can exchange what is in a directory of ours", LOG_S("setting", setting),
                    LOG_S("directory", path), LOG_S("why", why));
}

void own_places_warn(const struct cs_config *config)
{
    char folder[PATH_MAX];
    warn("snapshot.directory", config->snapshot.directory, false);
    warn("checkpoint.directory", config->checkpoint.directory, false);
    snprintf(folder, sizeof folder, "%s", config->control.socket);
    warn("control.socket", dirname(folder), true);
}

bool own_places_check(const struct cs_config *config, struct cs_error *err)
{
    return may_write("snapshot.directory", config->snapshot.directory, err) &&
           may_write("checkpoint.directory", config->checkpoint.directory, err);
}
