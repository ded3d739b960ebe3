/* Consumer that assigns itself: one trainer owns all partitions, in mode group too (daemon/standby.h). */
#include <librdkafka/rdkafka.h>

#include "daemon/kafka_source.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/decode.h"
#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/kafka_config.h"
#include "daemon/kafka_probe.h"
#include "daemon/log.h"
#include "daemon/log_remedy.h"
#include "daemon/positions.h"

enum { TOPICS_MAX = 4, RETRY = 1000, POLL = 100 };     /* ms */
/* Bytes read ahead of each partition: its share of source.kafka.read_ahead, within these. */
enum { PARTITION_MOST = 16 << 20, PARTITION_LEAST = 64 << 10, FETCH_MOST = 1 << 20 };

struct kafka_partition {
    struct kafka_source *source;
    const char *topic;              /* the topic's own */
    size_t topic_index;
    int32_t number;
    int kind;
    int64_t start;
    rd_kafka_queue_t *queue;
    atomic_int_fast64_t next;       /* lowest offset not yet taken */
    atomic_int_fast64_t end;        /* at the last end-of-partition event; -1: none */
    atomic_bool at_end;             /* nothing was taken since that event */
    int64_t came;                   /* monotonic ms: last record or end; the taking thread's own */
    struct kafka_fingerprint last;  /* of the record taken last; under the source's lock */
    atomic_int_fast64_t held;       /* offsets behind an open transaction */
    atomic_int_fast64_t stable;     /* the last stable offset when last looked at; -1: never yet */
    int64_t high;                   /* what fetches said of the end then: the source thread's own */
    struct kafka_partition *found;  /* next in the list of those not yet handed out */
};

struct topic {
    char *name;
    int kind;
    bool is_optional;               /* reading starts without it; it is read from its beginning once it exists */
    int32_t partitions;
    bool is_gone;                   /* it was read, and does not exist any more */
};

struct kafka_source {
    const struct cs_config *config;
    struct kafka_clients *clients;
    rd_kafka_t *rk;                 /* NULL until it is known what to read */
    struct kafka_probe *probe;
    struct topic topic[TOPICS_MAX]; /* ascending by name */
    size_t topic_count;
    enum source_start start;
    int64_t start_time, idle_after, discover;
    struct kafka_positions resumed; /* of the snapshot */
    kafka_wake *wake;
    void *wake_self;
    pthread_t thread;
    bool started;
    atomic_bool stopping, connected, assigned, hurry;
    atomic_uint_fast64_t repeated;  /* records below the expected offset, dropped */
    pthread_mutex_t lock;           /* over what follows */
    struct kafka_partition *first, **last;      /* found, not yet handed out */
    struct kafka_partition **partition;         /* all, for destroy */
    size_t partition_count;
    bool failed;
    struct cs_error error;
    char waiting[200];
};

static void fail(struct kafka_source *source, enum cs_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void fail(struct kafka_source *source, enum cs_code code, const char *format, ...)
{
    char text[sizeof source->error.message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&source->lock);
    if (!source->failed) cs_fail(&source->error, code, "%s", text);
    source->failed = true;
    pthread_mutex_unlock(&source->lock);
    source->wake(source->wake_self);
}

bool kafka_source_check(struct kafka_source *source, struct cs_error *err)
{
    pthread_mutex_lock(&source->lock);
    bool fine = !source->failed;
    if (!fine) *err = source->error;
    pthread_mutex_unlock(&source->lock);
    return fine;
}

static void set_waiting(struct kafka_source *source, const char *text)
{
    pthread_mutex_lock(&source->lock);
    bool changed = strcmp(source->waiting, text) != 0;
    snprintf(source->waiting, sizeof source->waiting, "%s", text);
    pthread_mutex_unlock(&source->lock);
    if (changed && *text) log_warning("waiting before reading", LOG_S("for", text));
}

void kafka_source_waiting(struct kafka_source *source, char *text, size_t size)
{
    pthread_mutex_lock(&source->lock);
    snprintf(text, size, "%s", source->waiting);
    pthread_mutex_unlock(&source->lock);
}

bool kafka_source_connected(struct kafka_source *source)
{
    return atomic_load(&source->connected);
}

/* ---- errors, from polling */

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    struct kafka_source *source = opaque;
    if (code == RD_KAFKA_RESP_ERR__FATAL && rk) {
        char text[256];
        rd_kafka_resp_err_t fatal = rd_kafka_fatal_error(rk, text, sizeof text);
        fail(source, fatal == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID ? CS_FENCED : CS_FAILED, "Kafka consumer: %s (%s)",
             text, rd_kafka_err2name(fatal));
    } else if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
        if (atomic_exchange(&source->connected, false)) log_warning("all brokers are down", LOG_S("text", reason));
        atomic_store(&source->hurry, true);
    } else {
        const char *remedy = kafka_remedy(code, reason);
        log_warning("Kafka consumer", LOG_S("error", rd_kafka_err2name(code)), LOG_S("text", reason),
                    LOG_S("remedy", remedy ? remedy : log_remedy("all brokers are down")));
    }
}

/* The probe's errors are the reader's as well, once there is one. */
static void on_probe_error(void *self, int code, const char *text)
{
    struct kafka_source *source = self;
    if (!source->rk) on_error(NULL, code, text, source);
}

static void on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t error, rd_kafka_topic_partition_list_t *offsets, void *opaque)
{
    (void)rk, (void)offsets, (void)opaque;
    if (error && error != RD_KAFKA_RESP_ERR__NO_OFFSET)
        log_warning("offsets not committed to the broker; lag tools show old ones until the next snapshot",
                    LOG_S("error", rd_kafka_err2str(error)));
}

/* How an operator goes on from offsets that mean nothing any more. */
#define REMEDY "To go on with what was learned: coldstreamctl offsets --config FILE --to earliest, latest or a time"

static void out_of_range(struct kafka_source *source, const char *topic, int32_t number, int64_t next, const char *why)
{
    fail(source, CS_REFUSED,
         "%s [%d]: offset %lld is out of range: %s. Records after the snapshot were deleted, or the topic was made "
         "anew. " REMEDY,
         topic, (int)number, (long long)next, why);
}

static void made_anew(struct kafka_source *source, const struct kafka_look *look,
                      const struct kafka_fingerprint *expected)
{
    fail(source, CS_REFUSED,
         "%.100s [%d]: the record at offset %lld is not the one that was learned: expected time %lld, hash %016llx; "
         "found time %lld, hash %016llx. The topic was made anew, or its log was cut and written again. " REMEDY
         "; --to same where it is the same stream",
         look->topic, (int)look->partition, (long long)look->offset, (long long)expected->timestamp,
         (unsigned long long)expected->hash, (long long)look->found.timestamp, (unsigned long long)look->found.hash);
}

/* ---- partitions found */

static void on_queue(rd_kafka_t *rk, void *opaque)
{
    (void)rk;
    struct kafka_source *source = opaque;
    source->wake(source->wake_self);
}

static const struct kafka_position *find_position(const struct kafka_source *source, const char *topic, int32_t number)
{
    const struct kafka_positions *resumed = &source->resumed;
    for (size_t i = 0; i < resumed->count; i++)
        if (resumed->position[i].partition == number && strcmp(resumed->position[i].topic, topic) == 0)
            return &resumed->position[i];
    return NULL;
}

/* Where to start reading. False: ask again later (or the source has failed). */
static bool start_offset(struct kafka_source *source, const char *topic, int32_t number, bool grown, int64_t *offset)
{
    int64_t low, end;
    if (!kafka_probe_ends(source->probe, topic, number, &low, &end)) return false;
    const struct kafka_position *position = find_position(source, topic, number);
    if (position) {
        *offset = position->next;
        if (position->next >= low && position->next <= end) return true;
        char why[80];
        snprintf(why, sizeof why, "the broker has %lld to %lld", (long long)low, (long long)end);
        out_of_range(source, topic, number, position->next, why);
        return false;
    }
    *offset = low;
    if (source->resumed.count || grown) {
        log_warning("new partition, read from its beginning: keys may now meet in other partitions than before",
                    LOG_S("topic", topic), LOG_I("partition", number), LOG_I("offset", low));
        return true;
    }
    if (source->start == START_LATEST) *offset = end;
    if (source->start == START_TIMESTAMP)
        return kafka_probe_at_time(source->probe, topic, number, source->start_time, end, offset);
    return true;
}

static struct kafka_partition *add_partition(struct kafka_source *source, size_t topic, int32_t number, int64_t offset)
{
    struct kafka_partition *partition = need(calloc(1, sizeof *partition));
    source->partition = need(realloc(source->partition, (source->partition_count + 1) * sizeof *source->partition));
    *partition = (struct kafka_partition){ .source = source,
                                           .topic = source->topic[topic].name,
                                           .topic_index = topic,
                                           .number = number,
                                           .kind = source->topic[topic].kind,
                                           .start = offset,
                                           .next = offset,
                                           .end = -1,
                                           .came = clock_monotonic(),
                                           .stable = -1,
                                           .high = -1 };
    const struct kafka_position *position = find_position(source, partition->topic, number);
    if (position) partition->last = position->last;
    /* Before the assignment, so that no record takes the way to the common queue. */
    partition->queue = rd_kafka_queue_get_partition(source->rk, partition->topic, number);
    rd_kafka_queue_forward(partition->queue, NULL);
    rd_kafka_queue_cb_event_enable(partition->queue, on_queue, source);
    pthread_mutex_lock(&source->lock);
    source->partition[source->partition_count++] = partition;
    pthread_mutex_unlock(&source->lock);
    return partition;
}

struct plan { size_t topic; int32_t number; int64_t offset; };

/* The client that reads, made when it is known how many partitions share the room for records read ahead. */
static bool create_reader(struct kafka_source *source, size_t partitions)
{
    char kilobytes[24], bytes[24];
    uint64_t share = source->config->source.read_ahead / partitions;
    if (share > PARTITION_MOST) share = PARTITION_MOST;
    if (share < PARTITION_LEAST) share = PARTITION_LEAST;
    snprintf(kilobytes, sizeof kilobytes, "%llu", (unsigned long long)share / 1024);
    snprintf(bytes, sizeof bytes, "%llu", (unsigned long long)(share < FETCH_MOST ? share : FETCH_MOST));
    const struct kafka_preset preset[] = {
        { "fetch.wait.max.ms", "100" },
        { "queued.min.messages", "20000" },
        { "queued.max.messages.kbytes", kilobytes },
        { "fetch.message.max.bytes", bytes },
        { NULL, NULL },
    };
    struct cs_error err;
    rd_kafka_conf_t *conf = kafka_consumer_conf(source->config, preset, &err);
    if (!conf) goto fail;
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_offset_commit_cb(conf, on_commit);
    rd_kafka_conf_set_opaque(conf, source);
    source->rk = kafka_client_create(source->clients, RD_KAFKA_CONSUMER, conf, "Kafka consumer", &err);
    if (source->rk) {
        rd_kafka_poll_set_consumer(source->rk);
        return true;
    }
fail:
    fail(source, err.code, "%s", err.message);
    return false;
}

/* Assigns, then hands the partitions out, in order of (topic, partition). */
static bool assign(struct kafka_source *source, const struct plan *plan, size_t count)
{
    if (!source->rk && !create_reader(source, count)) return false;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)count);
    struct kafka_partition *first = NULL, **last = &first;
    for (size_t i = 0; i < count; i++) {
        struct kafka_partition *partition = add_partition(source, plan[i].topic, plan[i].number, plan[i].offset);
        rd_kafka_topic_partition_list_add(list, partition->topic, partition->number)->offset = partition->start;
        *last = partition;
        last = &partition->found;
        log_info("reading partition", LOG_S("topic", partition->topic), LOG_I("partition", partition->number),
                 LOG_I("offset", partition->start));
    }
    char text[256] = "";
    if (!atomic_load(&source->assigned)) {
        rd_kafka_resp_err_t error = rd_kafka_assign(source->rk, list);
        if (error) snprintf(text, sizeof text, "%s", rd_kafka_err2str(error));
    } else {
        rd_kafka_error_t *error = rd_kafka_incremental_assign(source->rk, list);
        if (error) snprintf(text, sizeof text, "%s", rd_kafka_error_string(error));
        rd_kafka_error_destroy(error);
    }
    rd_kafka_topic_partition_list_destroy(list);
    if (*text) {
        fail(source, CS_FAILED, "assigning %zu partitions: %s", count, text);
        return false;
    }
    pthread_mutex_lock(&source->lock);
    *source->last = first;
    source->last = last;
    pthread_mutex_unlock(&source->lock);
    atomic_store(&source->assigned, true);
    source->wake(source->wake_self);
    return true;
}

/* A topic that was read: it may be gone for good, or be on its way back with other records. False: failed. */
static bool compare_topic(struct kafka_source *source, struct topic *topic, enum kafka_answer answer, int32_t count)
{
    if (answer == KAFKA_ABSENT && !topic->is_gone)
        log_warning("topic does not exist any more: nothing comes from it until it does; if it was made anew, reading "
                    "ends with an error",
                    LOG_S("topic", topic->name));
    topic->is_gone = answer == KAFKA_ABSENT;
    if (answer != KAFKA_ANSWERED || count >= topic->partitions) return true;
    fail(source, CS_REFUSED, "%s has %d partitions, and had %d: the topic was made anew. " REMEDY, topic->name,
         (int)count, (int)topic->partitions);
    return false;
}

/* How many partitions each topic has; 0: does not exist (yet). False: brokers did not answer, or a topic that must be
 * there is not. */
static bool ask_partitions(struct kafka_source *source, int32_t count[TOPICS_MAX])
{
    bool starting = !atomic_load(&source->assigned);
    char missing[160] = "";         /* the first of them: all in turn would be a new message each time */
    for (size_t i = 0; i < source->topic_count; i++) {
        struct topic *topic = &source->topic[i];
        char text[120];
        enum kafka_answer answer = kafka_probe_partitions(source->probe, topic->name, &count[i], text, sizeof text);
        if (answer == KAFKA_SILENT) {
            char waiting[160];
            snprintf(waiting, sizeof waiting, "brokers (%s)", text);
            atomic_store(&source->connected, false);
            if (starting) set_waiting(source, waiting);
            return false;
        }
        if (topic->partitions && !compare_topic(source, topic, answer, count[i])) return false;
        /* An optional topic that is there, but without a leader or not for us, is waited for like any other. */
        bool is_needed = starting ? !topic->is_optional || answer != KAFKA_ABSENT : topic->is_gone;
        if (count[i] == 0 && is_needed && !*missing)
            snprintf(missing, sizeof missing, "topic %.80s (%s)", topic->name, text);
    }
    if (!atomic_exchange(&source->connected, true) && !starting) log_notice("brokers answer again");
    if (starting && !*missing) return true;
    set_waiting(source, missing);
    return !*missing;
}

/* ---- is what the brokers have still what was learned from? */

/* Says what was found at the offsets of the last records. False: the topic is another one. */
static bool judge(struct kafka_source *source, const struct kafka_look *look, const struct kafka_fingerprint *expected,
                  size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!look[i].answered) continue;
        if (!look[i].found.known) {
            log_warning("the last record learned is not at the broker any more (retention or compaction): it can't be "
                        "told whether the topic was made anew",
                        LOG_S("topic", look[i].topic), LOG_I("partition", look[i].partition),
                        LOG_I("offset", look[i].offset));
        } else if (!kafka_fingerprint_same(&look[i].found, &expected[i])) {
            made_anew(source, &look[i], &expected[i]);
            return false;
        }
    }
    return true;
}

/* Before anything is read. False: ask again later, or failed. */
static bool verify_positions(struct kafka_source *source, const struct plan *plan, size_t count)
{
    struct kafka_look *look = need(calloc(count, sizeof *look));
    struct kafka_fingerprint *expected = need(calloc(count, sizeof *expected));
    size_t looks = 0;
    for (size_t i = 0; i < count; i++) {
        const char *topic = source->topic[plan[i].topic].name;
        const struct kafka_position *position = find_position(source, topic, plan[i].number);
        if (!position || !position->last.known) continue;
        look[looks] =
            (struct kafka_look){ .topic = topic, .partition = plan[i].number, .offset = position->last.offset };
        expected[looks++] = position->last;
    }
    bool fine = kafka_probe_look(source->probe, look, looks);
    if (!fine) set_waiting(source, "brokers (the records learned last can't be read again yet)");
    fine = judge(source, look, expected, looks) && fine;
    free(look);
    free(expected);
    return fine;
}

/* While reading: the record taken last of each partition. What can't be answered now is asked the next time. */
static bool verify_taken(struct kafka_source *source)
{
    struct kafka_look *look = need(calloc(source->partition_count + 1, sizeof *look));
    struct kafka_fingerprint *expected = need(calloc(source->partition_count + 1, sizeof *expected));
    size_t looks = 0;
    pthread_mutex_lock(&source->lock);
    for (size_t i = 0; i < source->partition_count; i++) {
        struct kafka_partition *partition = source->partition[i];
        if (!partition->last.known || source->topic[partition->topic_index].is_gone) continue;
        look[looks] = (struct kafka_look){ .topic = partition->topic,
                                           .partition = partition->number,
                                           .offset = partition->last.offset };
        expected[looks++] = partition->last;
    }
    pthread_mutex_unlock(&source->lock);
    kafka_probe_look(source->probe, look, looks);
    bool fine = judge(source, look, expected, looks);
    free(look);
    free(expected);
    return fine;
}

/* Ends below what was taken; an open transaction, behind which nothing can be read. */
static bool verify_ends(struct kafka_source *source)
{
    for (size_t i = 0; i < source->partition_count; i++) {
        struct kafka_partition *partition = source->partition[i];
        int64_t low, stable, high, unused, next = atomic_load(&partition->next);
        if (source->topic[partition->topic_index].is_gone) continue;
        if (!kafka_probe_ends(source->probe, partition->topic, partition->number, &low, &stable)) return true;
        if (stable < next) {
            char why[80];
            snprintf(why, sizeof why, "the log ends at %lld", (long long)stable);
            out_of_range(source, partition->topic, partition->number, next, why);
            return false;
        }
        /* What fetches last said, which is past what is committed. */
        if (rd_kafka_get_watermark_offsets(source->rk, partition->topic, partition->number, &unused, &high)) continue;
        int64_t before = atomic_exchange(&partition->stable, stable);
        bool stands = high > stable && stable == before;
        atomic_store(&partition->held, stands ? high - stable : 0);
        if (stands && high > partition->high && partition->high >= 0)
            log_warning("nothing more can be read: a transaction was opened here and neither committed nor aborted",
                        LOG_S("topic", partition->topic), LOG_I("partition", partition->number),
                        LOG_I("offset", stable), LOG_I("end", high));
        partition->high = high;
    }
    return true;
}

/* True where all is known; false: look again soon. */
static bool discover(struct kafka_source *source)
{
    int32_t count[TOPICS_MAX] = { 0 };
    /* All topics first: the merge's order needs every partition, and without clicks all would be negative. */
    if (!ask_partitions(source, count)) return false;
    bool grown = atomic_load(&source->assigned);
    if (grown && (!verify_ends(source) || !verify_taken(source))) return false;
    size_t new_count = 0, planned = 0;
    for (size_t i = 0; i < source->topic_count; i++)
        if (count[i] > source->topic[i].partitions) new_count += (size_t)(count[i] - source->topic[i].partitions);
    if (!new_count) return true;
    struct plan *plan = need(calloc(new_count, sizeof *plan));
    bool fine = true;
    for (size_t i = 0; i < source->topic_count && fine; i++)
        for (int32_t number = source->topic[i].partitions; number < count[i] && fine; number++) {
            plan[planned] = (struct plan){ .topic = i, .number = number };
            fine = start_offset(source, source->topic[i].name, number, grown, &plan[planned++].offset);
        }
    if (fine) fine = verify_positions(source, plan, planned) && assign(source, plan, planned);
    for (size_t i = 0; i < source->topic_count && fine; i++) {
        if (count[i] > source->topic[i].partitions) source->topic[i].partitions = count[i];
        if (!grown && count[i] == 0)
            log_notice("topic does not exist: read from its beginning once it does",
                       LOG_S("topic", source->topic[i].name));
    }
    free(plan);
    if (fine) set_waiting(source, "");
    return fine;
}

static void *serve(void *argument)
{
    struct kafka_source *source = argument;
    int64_t next = clock_monotonic();
    while (!atomic_load(&source->stopping)) {
        int64_t now = clock_monotonic();
        if (atomic_exchange(&source->hurry, false) && next > now + RETRY) next = now + RETRY;
        if (now >= next) {
            bool known = discover(source);
            next = clock_monotonic() + (known ? source->discover : RETRY);
        }
        kafka_probe_poll(source->probe, source->rk ? 0 : POLL);
        if (!source->rk) continue;
        rd_kafka_message_t *message = rd_kafka_consumer_poll(source->rk, POLL);
        if (!message) continue;
        if (message->err)
            log_warning("Kafka consumer", LOG_S("error", rd_kafka_err2name(message->err)),
                        LOG_S("text", rd_kafka_message_errstr(message)));
        rd_kafka_message_destroy(message);
    }
    return NULL;
}

/* ---- create, destroy */

/* A topic that serves two roles leaves it to the record to say what it is. */
static void add_topic(struct kafka_source *source, const char *name, int kind)
{
    if (!name) return;
    size_t at = 0;
    for (; at < source->topic_count; at++) {
        int order = strcmp(source->topic[at].name, name);
        if (order == 0) {
            source->topic[at].kind = DECODE_KIND_UNSAID;
            source->topic[at].is_optional = false;
            return;
        }
        if (order > 0) break;
    }
    memmove(&source->topic[at + 1], &source->topic[at], (source->topic_count - at) * sizeof source->topic[0]);
    source->topic[at] =
        (struct topic){ .name = need(strdup(name)), .kind = kind, .is_optional = kind == EVENT_CONVERSION };
    source->topic_count++;
}

static bool start(struct kafka_source *source, struct cs_error *err)
{
    if (!(source->probe = kafka_probe_create(source->config, source->clients, on_probe_error, source, err)))
        return false;
    int error = pthread_create(&source->thread, NULL, serve, source);
    if (error) return cs_fail_errno(err, error, "starting the poll thread");
    source->started = true;
    return true;
}

struct kafka_source *kafka_source_create(const struct cs_config *config, struct kafka_clients *clients,
                                         const struct kafka_positions *positions, kafka_wake *wake, void *wake_self,
                                         struct cs_error *err)
{
    struct kafka_source *source = need(calloc(1, sizeof *source));
    source->config = config;
    source->clients = clients;
    source->start = config->source.start;
    source->start_time = config->source.start_time;
    source->idle_after = config->source.idle_after;
    source->discover = config->source.discover;
    source->wake = wake;
    source->wake_self = wake_self;
    source->last = &source->first;
    pthread_mutex_init(&source->lock, NULL);
    snprintf(source->waiting, sizeof source->waiting, "brokers");
    add_topic(source, config->source.topics.impressions, EVENT_IMPRESSION);
    add_topic(source, config->source.topics.clicks, EVENT_CLICK);
    add_topic(source, config->source.topics.conversions, EVENT_CONVERSION);
    add_topic(source, config->source.topics.examples, EVENT_EXAMPLE);
    source->resumed = positions_copy(positions);
    if (!start(source, err)) {
        kafka_source_destroy(source);
        return NULL;
    }
    return source;
}

void kafka_source_destroy(struct kafka_source *source)
{
    if (!source) return;
    atomic_store(&source->stopping, true);
    if (source->probe) kafka_probe_cancel(source->probe);
    if (source->started) pthread_join(source->thread, NULL);
    uint64_t repeated = atomic_load(&source->repeated);
    if (repeated) log_notice("records delivered twice were dropped", LOG_U("records", repeated));
    for (size_t i = 0; i < source->partition_count; i++) {
        rd_kafka_queue_cb_event_enable(source->partition[i]->queue, NULL, NULL);
        rd_kafka_queue_destroy(source->partition[i]->queue);
        free(source->partition[i]);
    }
    for (size_t i = 0; i < source->topic_count; i++) free(source->topic[i].name);
    kafka_probe_destroy(source->probe);
    if (source->rk) {
        kafka_client_forget(source->clients, source->rk);
        kafka_close_bounded(source->rk);
    }
    positions_release(&source->resumed);
    free(source->partition);
    pthread_mutex_destroy(&source->lock);
    free(source);
}

/* ---- partitions and records */

struct kafka_partition *kafka_source_next_partition(struct kafka_source *source)
{
    pthread_mutex_lock(&source->lock);
    struct kafka_partition *partition = source->first;
    if (partition) {
        source->first = partition->found;
        if (!source->first) source->last = &source->first;
        partition->found = NULL;
    }
    pthread_mutex_unlock(&source->lock);
    return partition;
}

const char *kafka_partition_topic(const struct kafka_partition *partition) { return partition->topic; }
int32_t kafka_partition_number(const struct kafka_partition *partition) { return partition->number; }
int kafka_partition_kind(const struct kafka_partition *partition) { return partition->kind; }
int64_t kafka_partition_start(const struct kafka_partition *partition) { return partition->start; }

struct kafka_fingerprint kafka_partition_last(const struct kafka_partition *partition)
{
    pthread_mutex_lock(&partition->source->lock);
    struct kafka_fingerprint last = partition->last;
    pthread_mutex_unlock(&partition->source->lock);
    return last;
}

uint64_t kafka_partition_rank(const struct kafka_partition *partition)
{
    return (uint64_t)partition->topic_index << 32 | (uint32_t)partition->number;
}

/* Not a record: the end, or an error of this partition. */
static void note(struct kafka_partition *partition, const rd_kafka_message_t *message)
{
    switch (message->err) {
    case RD_KAFKA_RESP_ERR__PARTITION_EOF:
        atomic_store(&partition->end, message->offset);
        atomic_store(&partition->at_end, true);     /* said when it was read ahead: nothing of the brokers now */
        partition->came = clock_monotonic();
        return;
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
    case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
        out_of_range(partition->source, partition->topic, partition->number, atomic_load(&partition->next),
                     rd_kafka_message_errstr(message));
        return;
    default:;
        const char *remedy = kafka_remedy(message->err, NULL);
        log_warning("Kafka partition", LOG_S("topic", partition->topic), LOG_I("partition", partition->number),
                    LOG_S("error", rd_kafka_err2name(message->err)), LOG_S("text", rd_kafka_message_errstr(message)),
                    LOG_S("remedy", remedy ? remedy : log_remedy("all brokers are down")));
    }
}

bool kafka_partition_take(struct kafka_partition *partition, struct kafka_record *record)
{
    rd_kafka_message_t *message;
    while ((message = rd_kafka_consume_queue(partition->queue, 0))) {
        if (message->err) {
            note(partition, message);
        } else if (message->offset < atomic_load(&partition->next)) {
            atomic_fetch_add(&partition->source->repeated, 1);
        } else {
            *record = (struct kafka_record){
                .value = message->payload,
                .size = message->len,
                .is = kafka_fingerprint_of(message->offset, rd_kafka_message_timestamp(message, NULL), message->key,
                                           message->key_len, message->payload, message->len),
                .message = message,
            };
            pthread_mutex_lock(&partition->source->lock);
            partition->last = record->is;
            pthread_mutex_unlock(&partition->source->lock);
            atomic_store(&partition->next, message->offset + 1);
            atomic_store(&partition->at_end, false);
            partition->came = clock_monotonic();
            return true;
        }
        rd_kafka_message_destroy(message);
    }
    return false;
}

void kafka_record_release(void *message)
{
    if (message) rd_kafka_message_destroy(message);
}


bool kafka_partition_idle(const struct kafka_partition *partition, int64_t now)
{
    return atomic_load(&partition->at_end) && now - partition->came >= partition->source->idle_after &&
           atomic_load(&partition->source->connected);
}

int64_t kafka_partition_end(const struct kafka_partition *partition)
{
    int64_t low, high, stable = atomic_load(&partition->stable);
    if (atomic_load(&partition->at_end)) {      /* where nothing is taken, paused or held, that end grows old */
        int64_t end = atomic_load(&partition->end);
        return stable > end ? stable : end;
    }
    if (rd_kafka_get_watermark_offsets(partition->source->rk, partition->topic, partition->number, &low, &high) ||
        high < 0)
        return -1;
    int64_t next = atomic_load(&partition->next);
    return high > next ? high : next;
}

int64_t kafka_partition_held(const struct kafka_partition *partition) { return atomic_load(&partition->held); }

int64_t kafka_partition_commit_offset(const struct kafka_partition *partition, int64_t next)
{
    int64_t end = atomic_load(&partition->end);
    return atomic_load(&partition->at_end) && next == atomic_load(&partition->next) && end > next ? end : next;
}

void kafka_source_commit(struct kafka_source *source, const struct kafka_position *position, size_t count, int wait)
{
    if (!count) return;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)count);
    for (size_t i = 0; i < count; i++)
        rd_kafka_topic_partition_list_add(list, position[i].topic, position[i].partition)->offset = position[i].next;
    if (!wait) {
        rd_kafka_resp_err_t error = rd_kafka_commit(source->rk, list, 1);
        if (error) log_warning("offsets not committed to the broker", LOG_S("error", rd_kafka_err2str(error)));
    } else {
        rd_kafka_queue_t *queue = rd_kafka_queue_new(source->rk);
        rd_kafka_resp_err_t error = rd_kafka_commit_queue(source->rk, list, queue, NULL, NULL);
        rd_kafka_event_t *event = error ? NULL : rd_kafka_queue_poll(queue, wait);
        if (event) error = rd_kafka_event_error(event);
        else if (!error) error = RD_KAFKA_RESP_ERR__TIMED_OUT;
        if (error) log_warning("offsets not committed to the broker", LOG_S("error", rd_kafka_err2str(error)));
        if (event) rd_kafka_event_destroy(event);
        rd_kafka_queue_destroy(queue);
    }
    rd_kafka_topic_partition_list_destroy(list);
}
