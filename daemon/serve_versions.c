/* A list, newest first, under a lock that only requests which name a version take. */
#include "daemon/serve_versions.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/need.h"

struct serve_version {
    struct serve_version *next;
    struct coldstream *handle;
    uint64_t number;
    unsigned users;
    bool asked, gone;           /* gone: out of the list, closed by its last user */
};

struct serve_versions { pthread_mutex_t mutex; struct serve_version *newest; size_t keep; };

struct serve_versions *serve_versions_create(size_t keep)
{
    struct serve_versions *versions = need(calloc(1, sizeof *versions));
    pthread_mutex_init(&versions->mutex, NULL);
    versions->keep = keep;
    return versions;
}

static void let_go(struct serve_version *version)
{
    coldstream_close(version->handle);
    free(version);
}

void serve_versions_destroy(struct serve_versions *versions)
{
    if (!versions) return;
    for (struct serve_version *version; (version = versions->newest);) {
        versions->newest = version->next;
        let_go(version);
    }
    pthread_mutex_destroy(&versions->mutex);
    free(versions);
}

static struct serve_version *find(const struct serve_versions *versions, uint64_t number)
{
    struct serve_version *version = versions->newest;
    while (version && version->number != number) version = version->next;
    return version;
}

/* Takes the handle. Returns what is to be closed, a list. */
static struct serve_version *insert(struct serve_versions *versions, struct coldstream *handle, bool asked)
{
    struct serve_version *closed = NULL, *version = need(calloc(1, sizeof *version));
    *version = (struct serve_version){ .handle = handle, .number = coldstream_version(handle), .asked = asked };
    pthread_mutex_lock(&versions->mutex);
    struct serve_version *there = find(versions, version->number);
    if (there) {                                    /* current again, or asked for while it is current */
        version->asked |= there->asked;
        struct serve_version **link = &versions->newest;
        while (*link != there) link = &(*link)->next;
        *link = there->next;
        there->gone = true;
        there->next = NULL;
        if (!there->users) closed = there;
    }
    version->next = versions->newest;
    versions->newest = version;
    size_t followed = 0;
    for (struct serve_version **link = &versions->newest; *link;) {
        struct serve_version *at = *link;
        if (at->asked || followed++ <= versions->keep) {        /* the first is the current one */
            link = &at->next;
            continue;
        }
        *link = at->next;
        at->gone = true;
        at->next = NULL;
        if (at->users) continue;
        at->next = closed;
        closed = at;
    }
    pthread_mutex_unlock(&versions->mutex);
    return closed;
}

static void close_all(struct serve_version *version)
{
    while (version) {
        struct serve_version *next = version->next;
        let_go(version);
        version = next;
    }
}

void serve_versions_note(struct serve_versions *versions, struct coldstream *cs)
{
    struct coldstream *handle = coldstream_pin(cs, 0, NULL, 0);
    if (handle) close_all(insert(versions, handle, false));
}

bool serve_versions_ask(struct serve_versions *versions, struct coldstream *cs, uint64_t version,
                        struct cs_error *err)
{
    char error[400];
    struct coldstream *handle = coldstream_pin(cs, version, error, sizeof error);
    if (!handle) return cs_fail(err, CS_REFUSED, "version %" PRIu64 ": %s", version, error);
    close_all(insert(versions, handle, true));
    return true;
}

static char *list(const struct serve_versions *versions)
{
    char *text = NULL;
    size_t size;
    FILE *out = need(open_memstream(&text, &size));
    for (const struct serve_version *version = versions->newest; version; version = version->next)
        fprintf(out, "%s%" PRIu64, version == versions->newest ? "" : ", ", version->number);
    if (!versions->newest) fputs("none", out);
    if (fclose(out)) need(NULL);
    return text;
}

struct serve_version *serve_versions_take(struct serve_versions *versions, uint64_t number, char **there)
{
    pthread_mutex_lock(&versions->mutex);
    struct serve_version *version = find(versions, number);
    if (version) version->users++;
    else *there = list(versions);
    pthread_mutex_unlock(&versions->mutex);
    return version;
}

struct coldstream *serve_version_handle(const struct serve_version *version)
{
    return version->handle;
}

void serve_versions_give_back(struct serve_versions *versions, struct serve_version *version)
{
    pthread_mutex_lock(&versions->mutex);
    bool last = --version->users == 0 && version->gone;
    pthread_mutex_unlock(&versions->mutex);
    if (last) let_go(version);
}
