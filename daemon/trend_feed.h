/* Brings daemon/trend what the threads last said of themselves. It only reads copies that they leave (pipeline_view and
 * the like), on whichever thread calls it: learning never waits for it. */
#ifndef DAEMON_TREND_FEED_H
#define DAEMON_TREND_FEED_H

#include "daemon/http.h"
#include "daemon/pipeline.h"
#include "daemon/publish.h"
#include "daemon/trend.h"

/* ready, self: as in the pages; why the daemon isn't ready is kept as an outage. Borrows all. */
struct trend_feed_options {
    struct trend *trend;
    struct pipeline *pipeline;
    struct publisher *publisher;
    bool (*ready)(void *self, char **reasons);
    void *self;
};

struct trend_feed;
struct trend_feed *trend_feed_create(const struct trend_feed_options *options);    /* NULL when out of memory */
void trend_feed_destroy(struct trend_feed *feed);
/* To be called often: looks once in five seconds, and is cheap otherwise. */
void trend_feed_look(struct trend_feed *feed);

#endif
