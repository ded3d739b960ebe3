/* The delta thread, and the writer that the learner gives a delta to. */
#include "daemon/delta.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"
#include "core/vector_math.h"
#include "daemon/clock.h"
#include "daemon/log.h"

enum {
    TABLES_MAX = 1024,
    READ_ROOM = 256 * 1024,
    RETRY_MOST = 30000,     /* ms */
};

/* Event times of examples, thinned evenly: every stride-th is kept. */
struct samples { int64_t time[DELTA_SAMPLES_MAX]; size_t count; uint64_t stride, seen; };

struct delta_table {
    char name[STATE_SECTION_MAX];
    struct state_records records;
    struct embedding_delta shape;
    uint64_t *gone;
    size_t gone_count;
};

struct delta_tensor { struct tensor tensor; size_t offset; };   /* into the copies */

struct delta {
    struct state_writer writer;     /* first: the learner's way to here */
    struct delta_table *table;
    size_t tables;
    struct delta_tensor *tensor;
    size_t tensors, tensor_room;
    struct bytes copies;
    struct samples samples;
    struct delta_place place;
    uint64_t base, previous, steps;
    int64_t watermark;
    double begun;                   /* monotonic seconds */
    bool failed;                    /* out of memory while it was cut */
};

struct deltas {
    struct deltas_options options;
    struct delta_sink sink;
    struct telemetry *telemetry;
    pthread_t thread;
    bool started;

    /* the learn thread's */
    struct samples samples;         /* since the last cut */
    uint64_t epoch, cut_sequence, version;
    uint64_t cut_steps, steps;      /* batches learned: at the last cut, now */
    int64_t watermark;
    int64_t cut_time;               /* monotonic ms */
    bool wants_checkpoint;

    /* the delta thread's, while `busy`; else the learn thread's */
    struct delta delta;
    struct delta_encoder encoder;
    struct bytes room;
    struct bytes keys, values;      /* of the record being filled */
    uint64_t sent_bytes;

    atomic_bool busy, stopping;
    pthread_mutex_t lock;           /* over what follows */
    pthread_cond_t changed;
    int64_t interval;
    int64_t not_before;             /* monotonic ms: the pause after a failure */
    bool owed;                      /* the last one failed */
    uint64_t base, previous;        /* sequence and version acknowledged last in this epoch */
    struct deltas_view view;
};

/* ---- samples */

static void sample(struct samples *samples, int64_t time)
{
    if (!samples->stride) samples->stride = 1;
    if (samples->seen++ % samples->stride) return;
    if (samples->count == DELTA_SAMPLES_MAX) {
        for (size_t i = 0; i < DELTA_SAMPLES_MAX / 2; i++) samples->time[i] = samples->time[2 * i];
        samples->count /= 2;
        samples->stride *= 2;
        if ((samples->seen - 1) % samples->stride) return;
    }
    samples->time[samples->count++] = time;
}

/* ---- the writer: what the learner gives at a cut */

static bool give_put(struct state_writer *writer, const char *section, uint64_t slot, const void *bytes, size_t size,
                     struct cs_error *err)
{
    struct delta *delta = (struct delta *)writer;
    struct delta_table *table = &delta->table[delta->tables - 1];   /* its rows came before */
    (void)slot;
    if (strncmp(section, "delta.", 6) == 0) {
        assert(size == sizeof table->shape);
        memcpy(&table->shape, bytes, size);
        return true;
    }
    assert(strncmp(section, "gone.", 5) == 0);
    table->gone = malloc(size);
    if (!table->gone) return cs_fail(err, CS_FAILED, "out of memory: keys of table %s that went", table->name);
    memcpy(table->gone, bytes, size);
    table->gone_count = size / sizeof *table->gone;
    return true;
}

static bool give_remove(struct state_writer *writer, const char *section, uint64_t slot, struct cs_error *err)
{
    (void)writer, (void)section, (void)slot;
    return cs_fail(err, CS_FAILED, "a delta has nothing to remove");
}

static bool give_records(struct state_writer *writer, const char *section, const struct state_records *records,
                         struct cs_error *err)
{
    struct delta *delta = (struct delta *)writer;
    (void)err;
    assert(delta->tables < TABLES_MAX && strncmp(section, "rows.", 5) == 0);
    struct delta_table *table = &delta->table[delta->tables++];
    *table = (struct delta_table){ .records = *records };
    snprintf(table->name, sizeof table->name, "%s", section + 5);
    records->begin(records->self, false, NULL, 0);
    return true;
}

/* Copied at once, 10 MB with the default towers: 1.1 ms where a step takes 220. Then nobody has to wait for anybody. */
static bool give_tensor(struct state_writer *writer, const struct tensor *tensor, struct cs_error *err)
{
    struct delta *delta = (struct delta *)writer;
    if (delta->tensors == delta->tensor_room) {
        size_t wanted = delta->tensor_room ? 2 * delta->tensor_room : 64;
        struct delta_tensor *grown = realloc(delta->tensor, wanted * sizeof *grown);
        if (!grown) return cs_fail(err, CS_FAILED, "out of memory: tensors of a delta");
        delta->tensor = grown;
        delta->tensor_room = wanted;
    }
    delta->tensor[delta->tensors++] = (struct delta_tensor){ *tensor, delta->copies.size };
    bytes_add(&delta->copies, tensor->data, tensor_bytes(tensor));
    return !delta->copies.failed || cs_fail(err, CS_FAILED, "out of memory: tensors of a delta");
}

static void settle_nothing(struct state_hold *hold) { (void)hold; }

static struct state_hold *give_hold(struct state_writer *writer)
{
    static struct state_hold none = { settle_nothing };
    (void)writer;
    return &none;
}

static const struct state_writer delta_writer = {
    .put = give_put, .remove = give_remove, .records = give_records, .tensor = give_tensor, .hold = give_hold,
};

/* ---- the delta thread: sending */

static bool send_record(struct deltas *deltas, bool encoded, struct cs_error *err)
{
    char key[32];
    if (!encoded) return cs_fail(err, CS_FAILED, "out of memory: a record of a delta");
    int size = snprintf(key, sizeof key, "%020llu", (unsigned long long)deltas->delta.place.version);
    deltas->sent_bytes += deltas->encoder.record.size;
    return deltas->sink.send(deltas->sink.self, key, (size_t)size, deltas->encoder.record.data,
                             deltas->encoder.record.size, err);
}

static bool send_begin(struct deltas *deltas, struct cs_error *err)
{
    const struct delta *delta = &deltas->delta;
    struct delta_begin begin = {
        .base = delta->base, .previous = delta->previous, .watermark = delta->watermark, .created = clock_wall(),
        .steps = delta->steps, .tensors = (uint32_t)delta->tensors, .samples = (uint32_t)delta->samples.count,
        .sample = (const unsigned char *)delta->samples.time, .fingerprint = deltas->options.fingerprint,
    };
    for (size_t t = 0; t < delta->tables; t++) {
        begin.rows += delta->table[t].shape.rows;
        begin.gone += delta->table[t].gone_count;
    }
    return send_record(deltas, delta_encode_begin(&deltas->encoder, &delta->place, &begin), err);
}

static bool send_rows(struct deltas *deltas, const struct delta_table *table, struct cs_error *err)
{
    size_t n = deltas->keys.size / sizeof(uint64_t), floats = n * table->shape.dimension;
    if (!n) return true;
    if (deltas->keys.failed || deltas->values.failed) return cs_fail(err, CS_FAILED, "out of memory: rows of a delta");
    const float *value = (const float *)(const void *)deltas->values.data;
    if (!vector_finite(value, floats))
        return cs_fail(err, CS_REFUSED, "a row of table %s is not finite: not sent", table->name);
    const uint64_t *key = (const uint64_t *)(const void *)deltas->keys.data;
    bool encoded = delta_encode_rows(&deltas->encoder, table->name, table->shape.dimension, (uint32_t)n, key, value);
    deltas->keys.size = deltas->values.size = 0;
    return send_record(deltas, encoded, err);
}

/* The records that `read` gave: a slot that holds nothing any more is told by its key, in GONE. */
static bool take_rows(struct deltas *deltas, const struct delta_table *table, size_t size, struct cs_error *err)
{
    size_t most = delta_rows_max(table->name, table->shape.dimension);
    for (size_t at = 0; at < size;) {
        const struct state_record *record = (const void *)(deltas->room.data + at);
        const unsigned char *bytes = (const unsigned char *)(record + 1);
        at += sizeof *record + (record->size + 7) / 8 * 8;
        if (!record->size) continue;
        bytes_add(&deltas->keys, bytes, sizeof(uint64_t));
        bytes_add(&deltas->values, bytes + sizeof(uint64_t), record->size - sizeof(uint64_t));
        if (deltas->keys.size / sizeof(uint64_t) == most && !send_rows(deltas, table, err)) return false;
    }
    return true;
}

static bool send_table(struct deltas *deltas, const struct delta_table *table, struct cs_error *err)
{
    deltas->keys.size = deltas->values.size = 0;
    for (enum state_read state = STATE_READ_MORE; state != STATE_READ_END;) {
        size_t size = 0;
        state = table->records.read(table->records.self, deltas->room.data, deltas->room.capacity, &size);
        deltas->room.size = 0;
        if (state == STATE_READ_ROOM) {
            if (!bytes_room(&deltas->room, size)) return cs_fail(err, CS_FAILED, "out of memory: rows of a delta");
            continue;
        }
        if (!size && state == STATE_READ_MORE) sched_yield();
        if (!take_rows(deltas, table, size, err)) return false;
    }
    if (!send_rows(deltas, table, err)) return false;
    size_t most = delta_rows_max(table->name, 0);
    for (size_t at = 0; at < table->gone_count;) {
        size_t n = table->gone_count - at < most ? table->gone_count - at : most;
        bool encoded = delta_encode_gone(&deltas->encoder, table->name, (uint32_t)n, table->gone + at);
        if (!send_record(deltas, encoded, err)) return false;
        at += n;
    }
    return true;
}

static bool send_tensor(struct deltas *deltas, const struct delta_tensor *from, struct cs_error *err)
{
    struct tensor tensor = from->tensor;
    size_t offset = 0, size = tensor_bytes(&tensor);
    tensor.data = deltas->delta.copies.data + from->offset;
    if (tensor.type == TENSOR_F32 && !vector_finite(tensor.data, tensor_elements(&tensor)))
        return cs_fail(err, CS_REFUSED, "%s is not finite: not sent", tensor.name);
    do {
        if (!send_record(deltas, delta_encode_dense(&deltas->encoder, &tensor, &offset), err)) return false;
    } while (offset < size);
    return true;
}

/* COMMIT goes out only when all before it has arrived: no delta that lost a record has one. */
static bool send_delta(struct deltas *deltas, struct cs_error *err)
{
    const struct delta *delta = &deltas->delta;
    if (delta->failed) return cs_fail(err, CS_FAILED, "out of memory: a delta");
    if (!send_begin(deltas, err)) return false;
    for (size_t t = 0; t < delta->tables; t++)
        if (!send_table(deltas, &delta->table[t], err)) return false;
    for (size_t i = 0; i < delta->tensors; i++)
        if (!send_tensor(deltas, &delta->tensor[i], err)) return false;
    return deltas->sink.flush(deltas->sink.self, err) &&
           send_record(deltas, delta_encode_commit(&deltas->encoder), err) &&
           deltas->sink.flush(deltas->sink.self, err);
}

static void note_sent(struct deltas *deltas)
{
    const struct delta *delta = &deltas->delta;
    int64_t now = clock_wall(), oldest = now;
    uint64_t rows = 0, gone = 0;
    double seconds = clock_seconds() - delta->begun;
    for (size_t i = 0; i < delta->samples.count; i++) {
        int64_t time = delta->samples.time[i];
        if (time < oldest) oldest = time;
        telemetry_observe(deltas->telemetry, METRIC_FRESHNESS, time < now ? (double)(now - time) / 1000 : 0);
    }
    for (size_t t = 0; t < delta->tables; t++) {
        rows += delta->table[t].shape.rows;
        gone += delta->table[t].gone_count;
    }
    pthread_mutex_lock(&deltas->lock);
    struct deltas_view *view = &deltas->view;
    bool mended = view->failures_in_row > 0;
    deltas->base = delta->place.sequence;
    deltas->previous = delta->place.version;
    view->newest = delta->place;
    view->sent++;
    view->failures_in_row = 0;
    view->steps = delta->steps;
    view->rows = rows;
    view->gone = gone;
    view->bytes = deltas->sent_bytes;
    view->seconds = seconds;
    view->freshness = (double)(now - oldest) / 1000;
    view->time = now;
    view->error[0] = 0;
    deltas->owed = false;
    pthread_mutex_unlock(&deltas->lock);
    telemetry_add(deltas->telemetry, METRIC_DELTAS, TELEMETRY_LABELS("ok"), 1);
    telemetry_set(deltas->telemetry, METRIC_DELTA_BYTES, NULL, (double)deltas->sent_bytes);
    telemetry_set(deltas->telemetry, METRIC_DELTA_ROWS, NULL, (double)(rows + gone));
    telemetry_observe(deltas->telemetry, METRIC_DELTA_SECONDS, seconds);
    if (mended) log_notice("deltas are sent again", LOG_S("topic", deltas->options.topic));
    log_debug("delta sent", LOG_U("sequence", delta->place.sequence), LOG_U("version", delta->place.version),
              LOG_U("rows", rows), LOG_U("gone", gone), LOG_U("bytes", deltas->sent_bytes), LOG_F("seconds", seconds));
}

static void note_failed(struct deltas *deltas, const struct cs_error *err)
{
    pthread_mutex_lock(&deltas->lock);
    struct deltas_view *view = &deltas->view;
    int64_t pause = deltas->options.retry << (view->failures_in_row < 5 ? view->failures_in_row : 5);
    if (pause > RETRY_MOST) pause = RETRY_MOST;
    view->failures++;
    view->failures_in_row++;
    snprintf(view->error, sizeof view->error, "%.255s", err->message);
    uint64_t in_row = view->failures_in_row;
    deltas->not_before = clock_monotonic() + pause;
    deltas->owed = true;
    pthread_mutex_unlock(&deltas->lock);
    telemetry_add(deltas->telemetry, METRIC_DELTAS, TELEMETRY_LABELS("failed"), 1);
    if (atomic_load(&deltas->stopping)) return;
    log_error("delta not sent: what it held goes with the next one", LOG_S("topic", deltas->options.topic),
              LOG_U("sequence", deltas->delta.place.sequence), LOG_S("error", err->message), LOG_U("in_row", in_row),
              LOG_I("again_in_ms", pause));
}

static void end_delta(struct deltas *deltas)
{
    struct cs_error err = { 0 };
    struct delta *delta = &deltas->delta;
    deltas->sent_bytes = 0;
    bool sent = send_delta(deltas, &err);
    for (size_t t = 0; t < delta->tables; t++) {
        delta->table[t].records.end(delta->table[t].records.self, sent);
        free(delta->table[t].gone);
    }
    if (sent) note_sent(deltas);
    else note_failed(deltas, &err);
    if (!sent) deltas->sink.reset(deltas->sink.self);
    delta->tables = 0;
}

static void *serve(void *argument)
{
    struct deltas *deltas = argument;
    pthread_mutex_lock(&deltas->lock);
    for (;;) {
        while (!atomic_load(&deltas->busy) && !atomic_load(&deltas->stopping))
            pthread_cond_wait(&deltas->changed, &deltas->lock);
        if (!atomic_load(&deltas->busy)) break;
        pthread_mutex_unlock(&deltas->lock);
        end_delta(deltas);
        pthread_mutex_lock(&deltas->lock);
        atomic_store(&deltas->busy, false);
    }
    pthread_mutex_unlock(&deltas->lock);
    return NULL;
}

/* ---- the learn thread's */

void deltas_learned(struct deltas *deltas, const struct batch *batch)
{
    if (!deltas) return;
    deltas->steps++;
    for (size_t i = 0; i < batch->size; i++) sample(&deltas->samples, batch->released[i]);
    if (batch->last_time > deltas->watermark) deltas->watermark = batch->last_time;
}

int64_t deltas_wait(struct deltas *deltas, int64_t most)
{
    if (!deltas || atomic_load(&deltas->busy)) return most;
    pthread_mutex_lock(&deltas->lock);
    bool owed = deltas->owed;
    int64_t when = deltas->cut_time + deltas->interval;
    if (owed && when < deltas->not_before) when = deltas->not_before;
    pthread_mutex_unlock(&deltas->lock);
    if (!owed && deltas->steps == deltas->cut_steps) return most;
    int64_t wait = when - clock_monotonic();
    return wait < 0 ? 0 : wait < most ? wait : most;
}

uint64_t deltas_number(struct deltas *deltas)
{
    if (!deltas) return 0;
    uint64_t now = (uint64_t)clock_wall();
    return deltas->version = now > deltas->version ? now : deltas->version + 1;
}

/* Too much went since the last delta: from here a new chain begins. */
static bool begin_chain(struct deltas *deltas, struct learner *learner, struct cs_error *err)
{
    if (!learner_watch(learner, err)) return false;
    int64_t now = clock_wall();
    deltas->epoch = deltas->epoch < (uint64_t)now ? (uint64_t)now : deltas->epoch + 1;
    deltas->cut_sequence = 0;
    deltas->wants_checkpoint = true;
    pthread_mutex_lock(&deltas->lock);
    deltas->base = deltas->previous = 0;
    deltas->owed = false;
    pthread_mutex_unlock(&deltas->lock);
    log_warning("more rows went than are kept note of while no delta could be sent: readers go on with the next full "
                "checkpoint", LOG_S("topic", deltas->options.topic), LOG_U("epoch", deltas->epoch));
    return true;
}

void deltas_cut(struct deltas *deltas, struct learner *learner)
{
    struct delta *delta = &deltas->delta;
    struct cs_error err;
    assert(!atomic_load(&deltas->busy));
    deltas->cut_time = clock_monotonic();
    deltas->cut_steps = deltas->steps;
    if (learner_delta_lost(learner)) {
        if (!begin_chain(deltas, learner, &err)) log_error("no new chain of deltas", LOG_S("error", err.message));
        return;
    }
    pthread_mutex_lock(&deltas->lock);
    bool owed = deltas->owed;
    delta->base = deltas->base;
    delta->previous = deltas->previous;
    pthread_mutex_unlock(&deltas->lock);
    delta->place = (struct delta_place){ deltas->epoch, ++deltas->cut_sequence, deltas_number(deltas) };
    delta->writer = delta_writer;
    delta->tables = delta->tensors = delta->copies.size = 0;
    delta->steps = learner_steps(learner);
    delta->watermark = deltas->watermark;
    delta->begun = clock_seconds();
    if (!owed) delta->samples = (struct samples){ 0 };          /* else they were learned since base, too */
    for (size_t i = 0; i < deltas->samples.count; i++) sample(&delta->samples, deltas->samples.time[i]);
    deltas->samples = (struct samples){ 0 };
    delta->failed = !learner_save_delta(learner, &delta->writer, &err);
    pthread_mutex_lock(&deltas->lock);
    atomic_store(&deltas->busy, true);
    pthread_cond_signal(&deltas->changed);
    pthread_mutex_unlock(&deltas->lock);
}

struct delta_place deltas_position(const struct deltas *deltas)
{
    if (!deltas) return (struct delta_place){ 0 };
    return (struct delta_place){ deltas->epoch, deltas->cut_sequence, deltas->version };
}

bool deltas_wants_checkpoint(struct deltas *deltas)
{
    bool wants = deltas->wants_checkpoint;
    deltas->wants_checkpoint = false;
    return wants;
}

/* ---- any thread */

void deltas_set_interval(struct deltas *deltas, int64_t interval)
{
    pthread_mutex_lock(&deltas->lock);
    deltas->interval = interval;
    pthread_mutex_unlock(&deltas->lock);
}

struct deltas_view deltas_view(struct deltas *deltas)
{
    pthread_mutex_lock(&deltas->lock);
    struct deltas_view view = deltas->view;
    pthread_mutex_unlock(&deltas->lock);
    return view;
}

/* ---- start, stop */

struct deltas *deltas_create(const struct deltas_options *options, const struct delta_sink *sink,
                             struct telemetry *telemetry, struct cs_error *err)
{
    struct deltas *deltas = need(calloc(1, sizeof *deltas));
    deltas->options = *options;
    deltas->sink = *sink;
    deltas->telemetry = telemetry;
    telemetry_add(telemetry, METRIC_DELTAS, TELEMETRY_LABELS("ok"), 0);
    telemetry_add(telemetry, METRIC_DELTAS, TELEMETRY_LABELS("failed"), 0);
    deltas->interval = options->interval;
    deltas->epoch = (uint64_t)options->epoch;
    deltas->version = options->version;
    deltas->watermark = INT64_MIN;
    deltas->cut_time = clock_monotonic() - options->interval;
    deltas->wants_checkpoint = true;
    deltas->delta.table = calloc(TABLES_MAX, sizeof *deltas->delta.table);
    pthread_mutex_init(&deltas->lock, NULL);
    pthread_cond_init(&deltas->changed, NULL);
    if (!deltas->delta.table || !bytes_room(&deltas->room, READ_ROOM)) {
        cs_fail(err, CS_FAILED, "out of memory: deltas");
        goto fail;
    }
    int error = pthread_create(&deltas->thread, NULL, serve, deltas);
    if (!error) {
        deltas->started = true;
        return deltas;
    }
    cs_fail_errno(err, error, "starting the delta thread");
fail:
    deltas_destroy(deltas);
    return NULL;
}

void deltas_stop(struct deltas *deltas, int64_t milliseconds)
{
    if (!deltas || !deltas->started) return;
    pthread_mutex_lock(&deltas->lock);
    atomic_store(&deltas->stopping, true);
    pthread_cond_signal(&deltas->changed);
    pthread_mutex_unlock(&deltas->lock);
    deltas->sink.stop(deltas->sink.self, milliseconds);
    pthread_join(deltas->thread, NULL);
    deltas->started = false;
}

void deltas_destroy(struct deltas *deltas)
{
    if (!deltas) return;
    assert(!deltas->started);
    free(deltas->delta.table);
    free(deltas->delta.tensor);
    bytes_free(&deltas->delta.copies);
    bytes_free(&deltas->room);
    bytes_free(&deltas->keys);
    bytes_free(&deltas->values);
    delta_encoder_release(&deltas->encoder);
    pthread_cond_destroy(&deltas->changed);
    pthread_mutex_destroy(&deltas->lock);
    free(deltas);
}
