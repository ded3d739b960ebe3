/* Which snapshot is meant, and whether somebody is using it. */
#include "tools/ctl_snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "daemon/kafka_config.h"
#include "daemon/version.h"
#include "storage/file.h"

struct cs_config *ctl_config_load(const char *file, enum config_use use)
{
    struct config_problems problems = { 0 };
    struct cs_config *config = config_load_checked(file, use, &kafka_checks, &problems);

    if (!config) {
        char *text = config_problems_text(&problems);
        fputs(text, stderr);
        free(text);
    }
    config_problems_release(&problems);
    return config;
}

bool ctl_snapshot_directory(const struct ctl_arguments *arguments, const char *word, char directory[PATH_MAX],
                            struct cs_error *err)
{
    const char *file = ctl_value(arguments, "config");
    struct cs_config *config;
    bool fits;

    if (!word == !file)
        return cs_fail(err, CS_USAGE, word ? "found a snapshot's directory and --config, allowed is one of them"
                                           : "it takes a snapshot's directory, or --config FILE");
    if (word) {
        fits = snprintf(directory, PATH_MAX, "%s", word) < PATH_MAX;
    } else {
        config = ctl_config_load(file, CONFIG_FOR_TRAIN);
        if (!config) return cs_fail(err, CS_CONFIG, "%s can't be used", file);
        fits = snprintf(directory, PATH_MAX, "%s", config->snapshot.directory) < PATH_MAX;
        config_destroy(config);
    }
    for (size_t n = strlen(directory); fits && n > 1 && directory[n - 1] == '/'; n--) directory[n - 1] = '\0';
    return fits || cs_fail(err, CS_USAGE, "the path of the snapshot is longer than %d bytes", PATH_MAX);
}

bool ctl_snapshot_lock(const char *directory, int *fd, struct cs_error *err)
{
    char path[PATH_MAX + 8], owner[32] = "";

    *fd = -1;
    if (access(directory, F_OK) != 0 && errno == ENOENT) return true;
    snprintf(path, sizeof path, "%s/LOCK", directory);
    if ((*fd = file_open(path, O_RDWR | O_CREAT | O_NOFOLLOW, err)) < 0) return false;
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0) return true;
    int number = errno;
    ssize_t size = pread(*fd, owner, sizeof owner - 1, 0);
    owner[size > 0 ? strcspn(owner, "\n") : 0] = '\0';
    close(*fd);
    *fd = -1;
    if (number != EWOULDBLOCK) return cs_fail_errno(err, number, "locking %s", path);
    return cs_fail(err, CS_FENCED, "%s is in use by process %s: stop that daemon first", directory,
                   *owner ? owner : "(unknown)");
}

bool ctl_snapshot_fill(struct snapshot_cut *cut, const struct cs_config *config, struct learner *learner,
                       struct ingest *ingest, struct metrics *metrics, struct cs_error *err)
{
    struct state_writer *writer = snapshot_writer(cut);
    char fingerprint[33], seed[24], *model = config_model_text(config);
    bool ok;

    config_fingerprint(config, fingerprint);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)config->compute.seed);
    ok = snapshot_meta(cut, "config", model, err) && snapshot_meta(cut, "fingerprint", fingerprint, err) &&
         snapshot_meta(cut, "program", version_number, err) && snapshot_meta(cut, "seed", seed, err) &&
         learner_save(learner, writer, err) && ingest_save(ingest, writer, err) && metrics_save(metrics, writer, err);
    free(model);
    return ok;
}
