/* Waiting for the lock on the state. The kernel lets go of it with its owner's last breath, kill -9 included, so there
 * is no timeout after which two could think that they own it. */
#include "daemon/standby.h"

#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/clock.h"
#include "daemon/http.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/text.h"

enum { TRY_AGAIN = 200 };       /* ms */

struct standby { pthread_mutex_t lock; char reason[600]; };

static bool page_live(void *self)
{
    (void)self;
    return true;
}

static bool page_ready(void *self, char **reasons)
{
    struct standby *standby = self;
    pthread_mutex_lock(&standby->lock);
    json_t *array = json_pack("[o]", text_json(standby->reason));
    pthread_mutex_unlock(&standby->lock);
    *reasons = json_dumps(array, JSON_COMPACT);
    json_decref(array);
    return false;
}

static char *page_status(void *self)
{
    struct standby *standby = self;
    pthread_mutex_lock(&standby->lock);
    json_t *status = json_pack("{s:s, s:o}", "state", "standby", "waiting", text_json(standby->reason));
    pthread_mutex_unlock(&standby->lock);
    char *text = json_dumps(status, JSON_COMPACT);
    json_decref(status);
    return text;
}

/* Another owner (a third daemon was faster) is told of like the first. */
static void tell(struct standby *standby, const char *why)
{
    char reason[sizeof standby->reason];
    snprintf(reason, sizeof reason, "standby: %s", why);
    pthread_mutex_lock(&standby->lock);
    bool changed = strcmp(reason, standby->reason) != 0;
    memcpy(standby->reason, reason, sizeof reason);
    pthread_mutex_unlock(&standby->lock);
    if (!changed) return;
    log_notice("standing by until the state's owner is gone", LOG_S("owner", why));
    notify_ready(reason);
}

static bool told_to_stop(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    return sigtimedwait(&set, NULL, &(struct timespec){ .tv_nsec = TRY_AGAIN * 1000000L }) > 0;
}

static struct snapshot_store *open_state(const struct cs_config *config, struct cs_error *err)
{
    const struct snapshot_options options = { .previous = config->snapshot.on_damage == ON_DAMAGE_PREVIOUS };
    struct cs_error damage = { 0 };
    struct snapshot_store *store = snapshot_open(config->snapshot.directory, &options, &damage, err);
    if (!store) return NULL;
    if (damage.code != CS_OK)
        log_warning("the newest snapshot is damaged: going on from the one before it", LOG_S("damage", damage.message),
                    LOG_S("where", damage.at.source), LOG_U("cut", snapshot_stats(store).cut));
    return store;
}

enum standby_end standby_open(const struct cs_config *config, struct telemetry *telemetry,
                              struct snapshot_store **store, struct cs_error *err)
{
    if ((*store = open_state(config, err))) return STANDBY_OWNER;
    if (config->source.mode != SOURCE_GROUP || err->code != CS_FENCED) return STANDBY_FAILED;
    struct standby standby = { .lock = PTHREAD_MUTEX_INITIALIZER };
    enum standby_end end = STANDBY_FAILED;
    tell(&standby, err->message);
    const struct http_pages pages = {
        .self = &standby, .live = page_live, .ready = page_ready, .status = page_status
    };
    struct http_server *http = NULL;
    telemetry_set(telemetry, METRIC_STATE, TELEMETRY_LABELS("standby"), 1);
    if (*config->http.listen && !(http = http_start(config->http.listen, telemetry, &pages, err))) goto out;
    for (;;) {
        notify_alive(clock_monotonic());
        if (told_to_stop()) {
            end = STANDBY_STOPPED;
            break;
        }
        if ((*store = open_state(config, err))) {
            log_notice("the state's owner is gone: taking over", LOG_S("directory", config->snapshot.directory));
            end = STANDBY_OWNER;
            break;
        }
        if (err->code != CS_FENCED) break;
        tell(&standby, err->message);
    }
out:
    telemetry_set(telemetry, METRIC_STATE, TELEMETRY_LABELS("standby"), 0);
    http_stop(http);
    pthread_mutex_destroy(&standby.lock);
    return end;
}
