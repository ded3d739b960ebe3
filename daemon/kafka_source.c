/* Consumer in assign mode: one trainer owns all partitions. */
#include <librdkafka/rdkafka.h>

#include "daemon/kafka_source.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/decode.h"
#include "daemon/clock.h"
#include "daemon/kafka_config.h"
#include "daemon/log.h"

enum { TOPICS_MAX = 4, METADATA_TIMEOUT = 5000, RETRY = 1000, POLL = 100 };     /* ms */

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
    struct kafka_partition *found;  /* next in the list of those not yet handed out */
};

struct topic {
    char *name;
    int kind;
    bool is_optional;               /* reading starts without it; it is read from its beginning once it exists */
    rd_kafka_topic_t *handle;
    int32_t partitions;
};

struct kafka_source {
    rd_kafka_t *rk;
    struct topic topic[TOPICS_MAX]; /* ascending by name */
    size_t topic_count;
    enum source_start start;
    int64_t start_time, idle_after, discover;
    struct kafka_position *position;
    size_t position_count;
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
    if (code == RD_KAFKA_RESP_ERR__FATAL) {
        char text[256];
        rd_kafka_resp_err_t fatal = rd_kafka_fatal_error(rk, text, sizeof text);
        fail(source, fatal == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID ? CS_FENCED : CS_FAILED, "Kafka consumer: %s (%s)",
             text, rd_kafka_err2name(fatal));
    } else if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
        if (atomic_exchange(&source->connected, false)) log_warning("all brokers are down", LOG_S("text", reason));
        atomic_store(&source->hurry, true);
    } else {
        log_warning("Kafka consumer", LOG_S("error", rd_kafka_err2name(code)), LOG_S("text", reason));
    }
}

static void on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t error, rd_kafka_topic_partition_list_t *offsets, void *opaque)
{
    (void)rk, (void)offsets, (void)opaque;
    if (error && error != RD_KAFKA_RESP_ERR__NO_OFFSET)
        log_warning("offsets not committed to the broker; lag tools show old ones until the next snapshot",
                    LOG_S("error", rd_kafka_err2str(error)));
}

static void out_of_range(struct kafka_source *source, const char *topic, int32_t number, int64_t next, const char *why)
{
    fail(source, CS_REFUSED,
         "%s [%d]: offset %lld is out of range: %s. Records after the snapshot were deleted, or the topic was made "
         "anew. To keep what was learned and read by source.kafka.start: coldstreamctl export the snapshot, move its "
         "directory away, "
         "coldstreamctl import --to it",
         topic, (int)number, (long long)next, why);
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
    for (size_t i = 0; i < source->position_count; i++)
        if (source->position[i].partition == number && strcmp(source->position[i].topic, topic) == 0)
            return &source->position[i];
    return NULL;
}

/* First offset with a timestamp at or after the configured one; the end where there is none. */
static bool offset_at_time(struct kafka_source *source, const char *topic, int32_t number, int64_t end, int64_t *offset)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, number)->offset = source->start_time;
    bool fine = !rd_kafka_offsets_for_times(source->rk, list, METADATA_TIMEOUT) && !list->elems[0].err;
    if (fine) *offset = list->elems[0].offset >= 0 ? list->elems[0].offset : end;
    rd_kafka_topic_partition_list_destroy(list);
    return fine;
}

/* Where to start reading. False: ask again later (or the source has failed). */
static bool start_offset(struct kafka_source *source, const char *topic, int32_t number, bool grown, int64_t *offset)
{
    int64_t low, high;
    if (rd_kafka_query_watermark_offsets(source->rk, topic, number, &low, &high, METADATA_TIMEOUT)) return false;
    const struct kafka_position *position = find_position(source, topic, number);
    if (position) {
        *offset = position->next;
        if (position->next >= low && position->next <= high) return true;
        char why[80];
        snprintf(why, sizeof why, "the broker has %lld to %lld", (long long)low, (long long)high);
        out_of_range(source, topic, number, position->next, why);
        return false;
    }
    *offset = low;
    if (source->position_count || grown) {
        log_warning("new partition, read from its beginning: keys may now meet in other partitions than before",
                    LOG_S("topic", topic), LOG_I("partition", number), LOG_I("offset", low));
        return true;
    }
    if (source->start == START_LATEST) *offset = high;
    if (source->start == START_TIMESTAMP) return offset_at_time(source, topic, number, high, offset);
    return true;
}

static struct kafka_partition *add_partition(struct kafka_source *source, size_t topic, int32_t number, int64_t offset)
{
    struct kafka_partition *partition = calloc(1, sizeof *partition);
    struct kafka_partition **all = realloc(source->partition, (source->partition_count + 1) * sizeof *all);
    if (!partition || !all) abort();    /* a few bytes: nothing could go on without them */
    source->partition = all;
    *partition = (struct kafka_partition){ .source = source,
                                           .topic = source->topic[topic].name,
                                           .topic_index = topic,
                                           .number = number,
                                           .kind = source->topic[topic].kind,
                                           .start = offset,
                                           .next = offset,
                                           .end = -1,
                                           .came = clock_monotonic() };
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

/* Assigns, then hands the partitions out, in order of (topic, partition). */
static bool assign(struct kafka_source *source, const struct plan *plan, size_t count)
{
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

/* How many partitions each topic has; 0: does not exist (yet). False: brokers did not answer, or reading has not
 * started and a topic that it must not start without is not there. */
static bool ask_partitions(struct kafka_source *source, int32_t count[TOPICS_MAX])
{
    bool starting = !atomic_load(&source->assigned);
    char missing[160] = "";         /* the first of them: all in turn would be a new message each time */
    for (size_t i = 0; i < source->topic_count; i++) {
        const struct rd_kafka_metadata *metadata;
        rd_kafka_resp_err_t error =
            rd_kafka_metadata(source->rk, 0, source->topic[i].handle, &metadata, METADATA_TIMEOUT);
        if (error) {
            char text[160];
            snprintf(text, sizeof text, "brokers (%s)", rd_kafka_err2str(error));
            atomic_store(&source->connected, false);
            if (starting) set_waiting(source, text);
            return false;
        }
        error = metadata->topic_cnt == 1 ? metadata->topics[0].err : RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
        count[i] = error ? 0 : metadata->topics[0].partition_cnt;
        rd_kafka_metadata_destroy(metadata);
        /* An optional topic that is there, but without a leader or not for us, is waited for like any other. */
        bool is_absent = error == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || error == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
        if (count[i] == 0 && !(source->topic[i].is_optional && is_absent) && !*missing)
            snprintf(missing, sizeof missing, "topic %.80s (%s)", source->topic[i].name, rd_kafka_err2str(error));
    }
    if (!atomic_exchange(&source->connected, true) && !starting) log_notice("brokers answer again");
    if (!starting || !*missing) return true;
    set_waiting(source, missing);
    return false;
}

/* True where all is known; false: look again soon. */
static bool discover(struct kafka_source *source)
{
    int32_t count[TOPICS_MAX] = { 0 };
    /* All topics first: the merge's order needs every partition, and without clicks all would be negative. */
    if (!ask_partitions(source, count)) return false;
    bool grown = atomic_load(&source->assigned);
    size_t new_count = 0, planned = 0;
    for (size_t i = 0; i < source->topic_count; i++)
        if (count[i] > source->topic[i].partitions) new_count += (size_t)(count[i] - source->topic[i].partitions);
    if (!new_count) return true;
    struct plan *plan = calloc(new_count, sizeof *plan);
    if (!plan) abort();
    bool fine = true;
    for (size_t i = 0; i < source->topic_count && fine; i++)
        for (int32_t number = source->topic[i].partitions; number < count[i] && fine; number++) {
            plan[planned] = (struct plan){ .topic = i, .number = number };
            fine = start_offset(source, source->topic[i].name, number, grown, &plan[planned++].offset);
        }
    if (fine) fine = assign(source, plan, planned);
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
    source->topic[at] = (struct topic){ .name = strdup(name), .kind = kind, .is_optional = kind == EVENT_CONVERSION };
    source->topic_count++;
}

static rd_kafka_conf_t *consumer_conf(const struct cs_config *config, struct cs_error *err)
{
    /* Below the operator's own. A partition's queue holds what the merge can't take yet. */
    static const char *const preset[][2] = {
        { "fetch.wait.max.ms", "100" }, { "queued.min.messages", "20000" }, { "queued.max.messages.kbytes", "16384" },
    };
    static const char *const owned[][2] = {
        { "enable.auto.commit", "false" }, { "enable.auto.offset.store", "false" }, { "auto.offset.reset", "error" },
        { "isolation.level", "read_committed" }, { "check.crcs", "true" }, { "enable.partition.eof", "true" },
        { "allow.auto.create.topics", "false" },
    };
    rd_kafka_conf_t *conf = kafka_conf_create(config, err);
    if (!conf) return NULL;
    for (size_t i = 0; i < sizeof preset / sizeof preset[0]; i++) {
        bool given = false;
        for (size_t j = 0; j < config->source.property_count; j++)
            given |= strcmp(config->source.property[j].name, preset[i][0]) == 0;
        if (!given && !kafka_conf_set(conf, preset[i][0], preset[i][1], err)) goto fail;
    }
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        if (!kafka_conf_set(conf, owned[i][0], owned[i][1], err)) goto fail;
    if (!kafka_conf_set(conf, "group.id", config->source.group, err)) goto fail;
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_offset_commit_cb(conf, on_commit);
    return conf;
fail:
    rd_kafka_conf_destroy(conf);
    return NULL;
}

static bool start(struct kafka_source *source, const struct cs_config *config, struct cs_error *err)
{
    rd_kafka_conf_t *conf = consumer_conf(config, err);
    if (!conf) return false;
    rd_kafka_conf_set_opaque(conf, source);
    char text[256];
    source->rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    if (!source->rk) {
        rd_kafka_conf_destroy(conf);
        return cs_fail(err, CS_CONFIG, "Kafka consumer: %s", text);
    }
    rd_kafka_poll_set_consumer(source->rk);
    for (size_t i = 0; i < source->topic_count; i++) {
        source->topic[i].handle = rd_kafka_topic_new(source->rk, source->topic[i].name, NULL);
        if (!source->topic[i].handle)
            return cs_fail(err, CS_CONFIG, "topic %s: %s", source->topic[i].name,
                           rd_kafka_err2str(rd_kafka_last_error()));
    }
    int error = pthread_create(&source->thread, NULL, serve, source);
    if (error) return cs_fail_errno(err, error, "starting the poll thread");
    source->started = true;
    return true;
}

struct kafka_source *kafka_source_create(const struct cs_config *config, const struct kafka_positions *positions,
                                         kafka_wake *wake, void *wake_self, struct cs_error *err)
{
    if (config->source.mode != SOURCE_ASSIGN) {
        cs_fail(err, CS_CONFIG, "source.kafka.mode: group is not built yet; assign is");
        return NULL;
    }
    struct kafka_source *source = calloc(1, sizeof *source);
    if (!source) abort();
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
    source->position = calloc(positions->count + 1, sizeof source->position[0]);
    for (size_t i = 0; i < positions->count; i++) {
        source->position[i] = positions->position[i];
        source->position[i].topic = strdup(positions->position[i].topic);
        source->position_count++;
    }
    if (!start(source, config, err)) {
        kafka_source_destroy(source);
        return NULL;
    }
    return source;
}

struct closing { rd_kafka_t *rk; pthread_mutex_t lock; pthread_cond_t done; bool closed; };

static void *close_consumer(void *argument)
{
    struct closing *closing = argument;
    rd_kafka_consumer_close(closing->rk);
    rd_kafka_destroy(closing->rk);
    pthread_mutex_lock(&closing->lock);
    closing->closed = true;
    pthread_cond_signal(&closing->done);
    pthread_mutex_unlock(&closing->lock);
    return NULL;
}

/* 2.0.2's close can hang where a topic was deleted: it gets five seconds, then is left to the process's end. */
static void close_bounded(rd_kafka_t *rk)
{
    struct closing *closing = calloc(1, sizeof *closing);
    if (!closing) abort();
    closing->rk = rk;
    pthread_mutex_init(&closing->lock, NULL);
    pthread_cond_init(&closing->done, NULL);
    pthread_t thread;
    if (pthread_create(&thread, NULL, close_consumer, closing)) return;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 5;
    pthread_mutex_lock(&closing->lock);
    while (!closing->closed && pthread_cond_timedwait(&closing->done, &closing->lock, &until) == 0) {}
    bool closed = closing->closed;
    pthread_mutex_unlock(&closing->lock);
    if (!closed) {
        log_warning("closing the Kafka consumer takes too long, left behind");
        pthread_detach(thread);
        return;
    }
    pthread_join(thread, NULL);
    pthread_cond_destroy(&closing->done);
    pthread_mutex_destroy(&closing->lock);
    free(closing);
}

void kafka_source_destroy(struct kafka_source *source)
{
    if (!source) return;
    atomic_store(&source->stopping, true);
    if (source->started) pthread_join(source->thread, NULL);
    uint64_t repeated = atomic_load(&source->repeated);
    if (repeated) log_notice("records delivered twice were dropped", LOG_U("records", repeated));
    for (size_t i = 0; i < source->partition_count; i++) {
        rd_kafka_queue_cb_event_enable(source->partition[i]->queue, NULL, NULL);
        rd_kafka_queue_destroy(source->partition[i]->queue);
        free(source->partition[i]);
    }
    for (size_t i = 0; i < source->topic_count; i++) {
        if (source->topic[i].handle) rd_kafka_topic_destroy(source->topic[i].handle);
        free(source->topic[i].name);
    }
    if (source->rk) close_bounded(source->rk);
    for (size_t i = 0; i < source->position_count; i++) free((char *)source->position[i].topic);
    free(source->position);
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
        atomic_store(&partition->at_end, true);
        atomic_store(&partition->source->connected, true);
        partition->came = clock_monotonic();
        return;
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
    case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
        out_of_range(partition->source, partition->topic, partition->number, atomic_load(&partition->next),
                     rd_kafka_message_errstr(message));
        return;
    default:
        log_warning("Kafka partition", LOG_S("topic", partition->topic), LOG_I("partition", partition->number),
                    LOG_S("error", rd_kafka_err2name(message->err)), LOG_S("text", rd_kafka_message_errstr(message)));
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
            atomic_store(&partition->next, message->offset + 1);
            atomic_store(&partition->at_end, false);
            partition->came = clock_monotonic();
            *record = (struct kafka_record){
                .value = message->payload, .size = message->len, .offset = message->offset, .message = message
            };
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

bool kafka_partition_at_end(const struct kafka_partition *partition) { return atomic_load(&partition->at_end); }

bool kafka_partition_idle(const struct kafka_partition *partition, int64_t now)
{
    return atomic_load(&partition->at_end) && now - partition->came >= partition->source->idle_after &&
           atomic_load(&partition->source->connected);
}

int64_t kafka_partition_end(const struct kafka_partition *partition)
{
    if (atomic_load(&partition->at_end)) return atomic_load(&partition->end);
    int64_t low, high;
    if (rd_kafka_get_watermark_offsets(partition->source->rk, partition->topic, partition->number, &low, &high) ||
        high < 0)
        return -1;
    int64_t next = atomic_load(&partition->next);
    return high > next ? high : next;
}

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
