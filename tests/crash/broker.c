/* The mock broker as a program of its own, so that it outlives the daemons which are killed around it.
 *
 * usage: broker FILE TOPIC:PARTITIONS...      prints its address, then obeys lines on stdin, each answered by "done":
 *   produce N      the next N lines of FILE (events as `coldstreamctl generate` writes them), spread over the
 *                  partitions by impression id; acknowledged before the answer
 *   down, up       the broker goes away and comes back
 * Ends with its stdin. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "tests/flow/mock_broker.h"

enum { TOPICS = 8 };
struct topic { char name[64]; int partitions; };

static struct topic topic[TOPICS];
static int topics;

static void fail(const char *what)
{
    fprintf(stderr, "broker: %s\n", what);
    exit(1);
}

static const struct topic *topic_named(const char *name)
{
    for (int i = 0; i < topics; i++)
        if (strcmp(topic[i].name, name) == 0) return &topic[i];
    fail("an event of no topic");
    return NULL;
}

static void produce(struct mock_broker *broker, const char *line, int length)
{
    static const char key[] = "\"impression_id\":\"";
    const char *id = strstr(line, key);
    if (!id) fail("an event without an impression id");
    id += sizeof key - 1;
    static const char *const named[][2] = { { "\"event\":\"click\"", "clicks" },
                                            { "\"event\":\"conversion\"", "conversions" },
                                            { "\"event\":\"example\"", "examples" } };
    const char *name = "impressions";
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (strstr(line, named[i][0])) name = named[i][1];
    const struct topic *to = topic_named(name);
    mock_broker_produce(broker, to->name, (int)(XXH3_64bits(id, strcspn(id, "\"")) % (unsigned)to->partitions), line,
                        length);
}

int main(int argc, char **argv)
{
    static char line[1 << 20], order[256];
    signal(SIGPIPE, SIG_IGN);
    if (argc < 3) fail("usage: broker FILE TOPIC:PARTITIONS...");
    FILE *events = fopen(argv[1], "r");
    if (!events) fail(argv[1]);
    struct mock_broker *broker = mock_broker_create();
    for (int i = 2; i < argc && topics < TOPICS; i++, topics++) {
        if (sscanf(argv[i], "%63[^:]:%d", topic[topics].name, &topic[topics].partitions) != 2) fail(argv[i]);
        mock_broker_topic(broker, topic[topics].name, topic[topics].partitions);
    }
    printf("%s\n", mock_broker_address(broker));
    fflush(stdout);
    while (fgets(order, sizeof order, stdin)) {
        int count;
        if (sscanf(order, "produce %d", &count) == 1) {
            for (; count > 0 && fgets(line, sizeof line, events); count--)
                produce(broker, line, (int)strcspn(line, "\n"));
            mock_broker_flush(broker);
        } else if (strncmp(order, "down", 4) == 0 || strncmp(order, "up", 2) == 0) {
            mock_broker_down(broker, order[0] == 'd');
        } else {
            fail(order);
        }
        puts("done");
        fflush(stdout);
    }
    mock_broker_destroy(broker);
    fclose(events);
    return 0;
}
