/* The step. Read join_step and learn_step first; the rest is how they wait, stop and tell of themselves. */
#include "daemon/pipeline.h"

#include <assert.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/merge.h"
#include "core/need.h"
#include "daemon/clock.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/positions.h"
#include "daemon/probe.h"
#include "daemon/queue.h"
#include "daemon/report.h"
#include "daemon/stall.h"

enum {
    FILL = 512,             /* records decoded ahead for each partition */
    FILL_BYTES = 1 << 20,   /* and of how many bytes: a record more at most */
    TURN = 4096,            /* events between two looks at requests */
    BATCHES = 4,            /* made ahead of the learner */
    NAP = 50,               /* ms: longest wait of the join thread; records and requests end it earlier */
    TELL = 100,             /* ms between two accounts of itself */
    MINUTE = 60000,
};

struct work {
    enum { WORK_BATCH, WORK_CUT, WORK_RATES, WORK_END } kind;
    struct arena *arena;            /* WORK_BATCH: its own for life */
    struct batch *batch;
    struct cut *cut;
    struct pipeline_live live;
};

/* A record that can't be used, until it is its partition's head: its bytes, and why. */
struct bad_record { void *message; enum decode_result result; char text[sizeof ((struct cs_error *)0)->message]; };

struct source {
    struct kafka_partition *partition;
    int64_t next;                   /* first offset not applied */
    struct kafka_fingerprint last;  /* of the last record applied */
    size_t ahead;                   /* bytes of the records decoded ahead */
    uint64_t counted[DECODE_RESULTS];       /* not yet told to telemetry */
};

struct pipeline {
    struct pipeline_parts parts;
    struct kafka_source *kafka;
    pthread_t join_thread, learn_thread;
    bool join_started, learn_started;
    struct queue *batches, *spare;  /* of struct work: to the learner, and back */
    struct work work[BATCHES];
    struct work end;

    /* the join thread's own */
    struct merge *merge;
    struct source *source;          /* index as in merge */
    size_t source_count;
    struct kafka_positions resumed; /* of the snapshot: hold for partitions that have not been found (yet) */
    struct work *filling;           /* spare work whose arena takes the next batch */
    bool changed;                   /* since the last cut */
    bool all_idle;
    int64_t idle_since, idle_clock; /* monotonic ms, event time then */
    int64_t told;
    uint64_t forced;                /* of the join, as last warned of */
    int64_t forced_warned;          /* monotonic ms */
    uint64_t events[DECODE_RESULTS];

    /* the learn thread's own */
    int64_t judged;                 /* monotonic ms of the last report of metrics */
    int64_t judging;                /* ms it took */
    bool unjudged, untold;          /* learned since; since the last account */
    int64_t learned_told;
    struct small_batches small_batches;
    struct learner_losses losses;
    struct probe *probe;            /* some of the newest examples, for trying versions */
    struct stall_hold *hold;        /* of the newest cut, until the learner has settled it */

    atomic_bool stopping, paused, ended, live_due;
    atomic_int_fast64_t join_moved, learn_moved;    /* monotonic ms; join: INT64_MAX where it waits for the learner,
                                                       which answers for itself, or for a broker */
    pthread_mutex_t wake_lock;
    pthread_cond_t wake;
    bool woken;

    pthread_mutex_t lock;           /* over what follows */
    struct pipeline_live live;
    bool failed;
    struct cs_error error;
    struct pipeline_view view;
};

/* ---- waking and naps of the join thread */

static void wake(void *self)
{
    struct pipeline *pipeline = self;
    pthread_mutex_lock(&pipeline->wake_lock);
    pipeline->woken = true;
    pthread_cond_signal(&pipeline->wake);
    pthread_mutex_unlock(&pipeline->wake_lock);
}

static void nap(struct pipeline *pipeline)
{
    const struct timespec until = clock_in(NAP);
    pthread_mutex_lock(&pipeline->wake_lock);
    while (!pipeline->woken &&
           pthread_cond_clockwait(&pipeline->wake, &pipeline->wake_lock, CLOCK_MONOTONIC, &until) == 0) {}
    pipeline->woken = false;
    pthread_mutex_unlock(&pipeline->wake_lock);
}

/* ---- the join thread: records to batches */

static void add_partitions(struct pipeline *pipeline)
{
    struct kafka_partition *partition;
    while ((partition = kafka_source_next_partition(pipeline->kafka))) {
        size_t index = merge_add_source(pipeline->merge, kafka_partition_rank(partition));
        assert(index == pipeline->source_count);
        struct source *source = need(realloc(pipeline->source, (index + 1) * sizeof *source));
        source[index] = (struct source){ .partition = partition,
                                         .next = kafka_partition_start(partition),
                                         .last = kafka_partition_last(partition) };
        pipeline->source = source;
        pipeline->source_count++;
        pipeline->changed = true;   /* where we start is worth keeping */
        report_topic(pipeline->parts.telemetry, kafka_partition_topic(partition));
    }
}

static struct bad_record *bad_record(void *message, enum decode_result result, const char *text)
{
    struct bad_record *bad = need(malloc(sizeof *bad));
    *bad = (struct bad_record){ .message = message, .result = result };
    snprintf(bad->text, sizeof bad->text, "%s", text);
    return bad;
}

static void bad_record_release(struct bad_record *bad)
{
    if (!bad) return;
    kafka_record_release(bad->message);
    free(bad);
}

/* Decodes up to FILL records and FILL_BYTES of the source into the merge. */
static bool fill(struct pipeline *pipeline, size_t index)
{
    struct source *source = &pipeline->source[index];
    struct kafka_record record;
    bool any = false;
    for (size_t room = FILL - merge_queued(pipeline->merge, index);
         room && source->ahead < FILL_BYTES && kafka_partition_take(source->partition, &record); room--) {
        struct merge_entry entry = {
            .offset = record.is.offset, .timestamp = record.is.timestamp, .hash = record.is.hash, .size = record.size
        };
        struct cs_error err;
        enum decode_result result = decode(pipeline->parts.decoder, record.value, record.size,
                                           kafka_partition_kind(source->partition), &entry.event, &err);
        entry.has_event = result == DECODE_OK;
        if (result == DECODE_OK || result == DECODE_EMPTY) kafka_record_release(record.message);
        else entry.record = bad_record(record.message, result, err.message);
        source->counted[result]++;
        merge_set_idle(pipeline->merge, index, false);
        merge_push(pipeline->merge, index, &entry);
        source->ahead += entry.size;
        any = true;
    }
    return any;
}

static bool fill_all(struct pipeline *pipeline)
{
    bool any = false;
    for (size_t i = 0; i < pipeline->source_count; i++)
        if (merge_queued(pipeline->merge, i) < FILL / 2) any |= fill(pipeline, i);
    return any;
}

static void send_batches(struct pipeline *pipeline)
{
    for (;;) {
        atomic_store(&pipeline->join_moved, INT64_MAX);
        if (!pipeline->filling)
            pipeline->filling = queue_pop(pipeline->spare, -1); /* back-pressure: the learner is behind */
        atomic_store(&pipeline->join_moved, clock_monotonic());
        struct work *work = pipeline->filling;
        work->batch = ingest_pop(pipeline->parts.ingest, work->arena);
        if (!work->batch) return;
        queue_push(pipeline->batches, work);
        pipeline->filling = NULL;
    }
}

static void dead_letter(struct pipeline *pipeline, const struct source *source, const struct merge_entry *entry)
{
    struct bad_record *bad = entry->record;
    const char *reason = decode_result_name[bad->result], *topic = kafka_partition_topic(source->partition);
    telemetry_add(pipeline->parts.telemetry, METRIC_DEAD_LETTERS, TELEMETRY_LABELS(topic, reason), 1);
    log_debug("record can't be used", LOG_S("topic", topic),
              LOG_I("partition", kafka_partition_number(source->partition)), LOG_I("offset", entry->offset),
              LOG_S("reason", reason), LOG_S("text", bad->text));
    kafka_sink_dead_letter(pipeline->parts.sink, bad->message, reason, bad->text);
    bad_record_release(bad);
}

static void apply(struct pipeline *pipeline, size_t index, struct merge_entry *entry)
{
    if (entry->has_event) {
        ingest_push(pipeline->parts.ingest, &entry->event);
        event_release(&entry->event);
        send_batches(pipeline);
    } else if (entry->record) {
        dead_letter(pipeline, &pipeline->source[index], entry);
    }
    struct source *source = &pipeline->source[index];
    source->next = entry->offset + 1;
    source->last = (struct kafka_fingerprint){
        .known = true, .offset = entry->offset, .timestamp = entry->timestamp, .hash = entry->hash
    };
    source->ahead -= entry->size;
    pipeline->changed = true;
}

static struct letters *letters(const struct pipeline *pipeline)
{
    return kafka_sink_letters(pipeline->parts.sink);
}

/* Up to TURN events in merged order. */
static bool drain(struct pipeline *pipeline)
{
    struct merge_entry entry;
    size_t source, waiting_for;
    int done = 0;
    for (; done < TURN && !letters_full(letters(pipeline)); done++) {
        if (!merge_pop(pipeline->merge, &entry, &source, &waiting_for)) break;
        apply(pipeline, source, &entry);
    }
    return done > 0;
}

/* Says of each empty source whether it is idle; once all are, event time goes on at the pace of the wall clock. */
static void advance_idle(struct pipeline *pipeline)
{
    int64_t now = clock_monotonic();
    bool all = pipeline->source_count > 0;
    for (size_t i = 0; i < pipeline->source_count; i++) {
        bool idle = merge_queued(pipeline->merge, i) == 0 && kafka_partition_idle(pipeline->source[i].partition, now);
        merge_set_idle(pipeline->merge, i, idle);
        all &= idle;
    }
    int64_t clock = ingest_clock(pipeline->parts.ingest);
    if (all && !pipeline->all_idle) {
        pipeline->idle_since = now;
        pipeline->idle_clock = clock;
    }
    pipeline->all_idle = all;
    if (!all || clock == INT64_MIN) return;
    if (ingest_pending(pipeline->parts.ingest) || ingest_open(pipeline->parts.ingest)) pipeline->changed = true;
    ingest_advance(pipeline->parts.ingest, pipeline->idle_clock + (now - pipeline->idle_since));
    send_batches(pipeline);
}

/* Why reading is held up, into text where it is not NULL. */
static bool held(struct pipeline *pipeline, char *text, size_t size)
{
    bool stuck = publisher_stuck(pipeline->parts.publisher), full = letters_full(letters(pipeline));
    if (text && size) *text = '\0';
    if (text && stuck) snprintf(text, size, "snapshots fail: nothing is read until one succeeds");
    else if (text && full) report_full(letters(pipeline), text, size);
    return stuck || full;
}

/* The wall clock moves on, and with it what counts as the future. */
static void bound_time(struct pipeline *pipeline)
{
    int64_t max_ahead = pipeline->parts.config->events.max_ahead;
    if (max_ahead) decoder_set_max_time(pipeline->parts.decoder, clock_wall() + max_ahead);
}

/* True where something moved. */
static bool join_step(struct pipeline *pipeline)
{
    if (atomic_load(&pipeline->paused) || held(pipeline, NULL, 0)) {
        pipeline->all_idle = false;
        return false;
    }
    bound_time(pipeline);
    bool moved = fill_all(pipeline);
    advance_idle(pipeline);
    return drain(pipeline) || moved;
}

/* ---- cuts */

static const struct source *source_of(const struct pipeline *pipeline, const struct kafka_position *position)
{
    for (size_t i = 0; i < pipeline->source_count; i++)
        if (kafka_partition_number(pipeline->source[i].partition) == position->partition &&
            strcmp(kafka_partition_topic(pipeline->source[i].partition), position->topic) == 0)
            return &pipeline->source[i];
    return NULL;
}

static void put_positions(struct pipeline *pipeline, struct cut *cut)
{
    json_t *array = json_array();
    for (size_t i = 0; i < pipeline->resumed.count; i++) {
        const struct kafka_position *position = &pipeline->resumed.position[i];
        if (!source_of(pipeline, position)) json_array_append_new(array, position_json(position));
    }
    cut->source = pipeline->kafka;
    cut->commit = need(calloc(pipeline->source_count + 1, sizeof cut->commit[0]));
    for (size_t i = 0; i < pipeline->source_count; i++) {
        const struct source *source = &pipeline->source[i];
        struct kafka_position position = { .topic = kafka_partition_topic(source->partition),
                                           .partition = kafka_partition_number(source->partition),
                                           .next = source->next,
                                           .last = source->last };
        json_array_append_new(array, position_json(&position));
        position.next = kafka_partition_commit_offset(source->partition, source->next);
        cut->commit[cut->commit_count++] = position;
    }
    cut->positions = json_dumps(array, JSON_COMPACT);
    json_decref(array);
}

/* The join thread's half of a cut: between two events, with no batch waiting. */
static void send_cut(struct pipeline *pipeline, struct cut *cut)
{
    double begin = clock_seconds();
    struct work *work = need(calloc(1, sizeof *work));
    put_positions(pipeline, cut);
    report_accounts(ingest_counts(pipeline->parts.ingest), ingest_held(pipeline->parts.ingest));
    cut->watermark = ingest_clock(pipeline->parts.ingest);
    if (!cut->failed)
        cut->failed = !ingest_save(pipeline->parts.ingest, snapshot_writer(cut->snapshot), &cut->error) ||
                      !snapshot_meta(cut->snapshot, "positions", cut->positions, &cut->error);
    pipeline->changed = false;
    cut->join_seconds = clock_seconds() - begin;
    *work = (struct work){ .kind = WORK_CUT, .cut = cut };
    queue_push(pipeline->batches, work);
}

static void take_requests(struct pipeline *pipeline)
{
    if (atomic_exchange(&pipeline->live_due, false)) {
        struct work *work = need(calloc(1, sizeof *work));
        pthread_mutex_lock(&pipeline->lock);
        *work = (struct work){ .kind = WORK_RATES, .live = pipeline->live };
        pthread_mutex_unlock(&pipeline->lock);
        ingest_set_join_window(pipeline->parts.ingest, work->live.join_window);
        queue_push(pipeline->batches, work);
    }
    bool changed = pipeline->changed || letters_changed(letters(pipeline));
    struct cut *cut = publisher_begin_if_due(pipeline->parts.publisher, changed);
    if (cut) send_cut(pipeline, cut);
}

/* ---- what the join thread tells of itself */

static enum pipeline_state state_of(struct pipeline *pipeline)
{
    if (atomic_load(&pipeline->stopping)) return STATE_STOPPING;
    if (atomic_load(&pipeline->paused)) return STATE_PAUSED;
    if (!pipeline->source_count) return STATE_WAITING;
    return held(pipeline, NULL, 0) ? STATE_HELD : STATE_RUNNING;
}

static void tell_telemetry(struct pipeline *pipeline, const struct join_counts *join)
{
    struct telemetry *telemetry = pipeline->parts.telemetry;
    report_state(telemetry, state_of(pipeline), kafka_source_connected(pipeline->kafka));
    for (size_t i = 0; i < pipeline->source_count; i++) {
        struct source *source = &pipeline->source[i];
        report_partition(telemetry, source->partition, source->next, source->counted);
        for (int result = 0; result < DECODE_RESULTS; result++) pipeline->events[result] += source->counted[result];
        memset(source->counted, 0, sizeof source->counted);
    }
    report_join(telemetry, join, ingest_held(pipeline->parts.ingest), ingest_pending(pipeline->parts.ingest),
                ingest_clock(pipeline->parts.ingest));
    telemetry_set(telemetry, METRIC_DEAD_LETTERS_KEPT, NULL, (double)letters_view(letters(pipeline)).kept);
}

/* Labels are wrong where an impression did not wait its window: worth a line, once a minute at most. */
static void warn_of_forced(struct pipeline *pipeline, uint64_t forced, int64_t now)
{
    if (forced <= pipeline->forced || (pipeline->forced_warned && now - pipeline->forced_warned < MINUTE)) return;
    log_warning("impressions leave before their window ends: raise join.max_pending or shorten join.window",
                LOG_U("early", forced - pipeline->forced));
    pipeline->forced = forced;
    pipeline->forced_warned = now;
}

static void tell(struct pipeline *pipeline, bool now)
{
    int64_t time = clock_monotonic();
    atomic_store(&pipeline->join_moved, time);
    if (!now && time - pipeline->told < TELL) return;
    pipeline->told = time;
    struct join_counts join = ingest_counts(pipeline->parts.ingest);
    tell_telemetry(pipeline, &join);
    warn_of_forced(pipeline, join.forced, time);
    struct source_view *source = need(calloc(pipeline->source_count + 1, sizeof *source));
    for (size_t i = 0; i < pipeline->source_count; i++) {
        const struct kafka_partition *partition = pipeline->source[i].partition;
        source[i] = (struct source_view){ .partition = kafka_partition_number(partition),
                                          .idle = merge_is_idle(pipeline->merge, i),
                                          .next = kafka_partition_commit_offset(partition, pipeline->source[i].next),
                                          .end = kafka_partition_end(partition),
                                          .held = kafka_partition_held(partition) };
        snprintf(source[i].topic, sizeof source[i].topic, "%s", kafka_partition_topic(partition));
    }
    pthread_mutex_lock(&pipeline->lock);
    struct pipeline_view *view = &pipeline->view;
    free(view->source);
    view->source = source;
    view->source_count = pipeline->source_count;
    view->state = state_of(pipeline);
    view->connected = kafka_source_connected(pipeline->kafka);
    kafka_source_waiting(pipeline->kafka, view->waiting, sizeof view->waiting);
    held(pipeline, view->held, sizeof view->held);
    view->letters = letters_view(letters(pipeline));
    memcpy(view->events, pipeline->events, sizeof view->events);
    view->join = join;
    view->undecided = ingest_held(pipeline->parts.ingest);
    view->pending = ingest_pending(pipeline->parts.ingest);
    view->open = ingest_open(pipeline->parts.ingest);
    view->ingest_bytes = ingest_bytes(pipeline->parts.ingest);
    view->clock = ingest_clock(pipeline->parts.ingest);
    view->all_idle = pipeline->all_idle;
    pthread_mutex_unlock(&pipeline->lock);
}

static bool failed(struct pipeline *pipeline)
{
    struct cs_error err;
    bool broken = !kafka_source_check(pipeline->kafka, &err);
    pthread_mutex_lock(&pipeline->lock);
    if (broken && !pipeline->failed) pipeline->error = err;
    pipeline->failed |= broken;
    broken = pipeline->failed;
    pthread_mutex_unlock(&pipeline->lock);
    return broken;
}

static void *join_loop(void *argument)
{
    struct pipeline *pipeline = argument;
    while (!atomic_load(&pipeline->stopping) && !failed(pipeline)) {
        add_partitions(pipeline);
        take_requests(pipeline);
        kafka_sink_turn(pipeline->parts.sink);
        bool moved = join_step(pipeline);
        tell(pipeline, false);
        if (!moved) nap(pipeline);
    }
    atomic_store(&pipeline->stopping, true);
    tell(pipeline, true);
    atomic_store(&pipeline->join_moved, INT64_MAX);
    if (pipeline->changed || letters_changed(letters(pipeline)) || publisher_stuck(pipeline->parts.publisher))
        send_cut(pipeline, publisher_begin_final(pipeline->parts.publisher));
    queue_push(pipeline->batches, &pipeline->end);
    return NULL;
}

/* ---- the learn thread: batches to a better model */

static void learn_step(struct pipeline *pipeline, const struct batch *batch)
{
    double begin = clock_seconds();
    const float *click_probability = learner_score(pipeline->parts.learner, batch);        /* as serving would */
    if (batch->shown_only) {
        shown_keep(pipeline->parts.shown, batch, click_probability);
        return;
    }
    metrics_observe(pipeline->parts.metrics, batch, click_probability); /* judged before it is learned */
    shown_judge(pipeline->parts.shown, batch, click_probability); /* and by what was said when it was shown */
    pipeline->losses = learner_learn(pipeline->parts.learner, batch);
    pipeline->unjudged = pipeline->untold = true;
    if (pipeline->parts.config->model.ranking.tower != RANKING_EMB_LR) /* that has no normalisation */
        report_small_batch(&pipeline->small_batches, batch->size);

    const struct learner_losses *losses = &pipeline->losses;
    report_step(pipeline->parts.telemetry, batch, losses, clock_seconds() - begin);
    if (!losses->skipped) {
        deltas_learned(pipeline->parts.deltas, batch);
        aside_learned(pipeline->parts.aside);
        probe_observe(pipeline->probe, batch);
    } else {
        aside_keep(pipeline->parts.aside, pipeline->parts.features, batch, click_probability, losses,
                   learner_steps(pipeline->parts.learner));
    }
}

static void report_metrics(struct pipeline *pipeline, struct metrics_report report[USERS_GROUPS][SPANS],
                           struct metrics_report delayed[USERS_GROUPS][SPANS])
{
    int64_t begin = clock_monotonic();
    report_validation(pipeline->parts.telemetry, VALIDATION_PROGRESSIVE, pipeline->parts.metrics, report);
    report_validation(pipeline->parts.telemetry, VALIDATION_DELAYED, shown_metrics(pipeline->parts.shown), delayed);
    pipeline->judged = clock_monotonic();
    pipeline->judging = pipeline->judged - begin;
}

/* Brings the view up to date, once a second; the dear part (sorting the window of predictions) takes at most a 150th of
 * the time that there is something to learn. */
static void tell_learned(struct pipeline *pipeline, bool idle)
{
    int64_t now = clock_monotonic(), pause = idle ? TELL : 1000, dear = (idle ? 20 : 150) * pipeline->judging;
    bool judge = pipeline->unjudged && now - pipeline->judged >= (dear > pause ? dear : pause);
    if (!judge && (!pipeline->untold || now - pipeline->learned_told < pause)) return;
    struct metrics_report report[USERS_GROUPS][SPANS], delayed[USERS_GROUPS][SPANS];
    if (judge) report_metrics(pipeline, report, delayed);
    struct learner *learner = pipeline->parts.learner;
    size_t tables = pipeline->parts.features->table_count;
    struct table_view *table = report_tables(pipeline->parts.telemetry, learner, tables);
    pipeline->learned_told = now;
    pipeline->untold = false;
    pipeline->unjudged &= !judge;
    pthread_mutex_lock(&pipeline->lock);
    struct pipeline_view *view = &pipeline->view;
    if (judge) memcpy(view->report, report, sizeof report);
    if (judge) memcpy(view->delayed, delayed, sizeof delayed);
    for (int users = 0; users < USERS_GROUPS; users++)
        view->report[users][SPAN_START].examples = metrics_examples(pipeline->parts.metrics, users);
    view->shown_waiting = shown_waiting(pipeline->parts.shown);
    free(view->table);
    view->table = table;
    view->table_count = tables;
    view->steps = learner_steps(learner);
    view->zero_shot_steps = learner_zero_shot_steps(learner);
    view->nonfinite = learner_nonfinite_skipped(learner);
    view->learner_bytes = learner_bytes(learner);
    view->losses = pipeline->losses;
    pthread_mutex_unlock(&pipeline->lock);
}

static void waited(void *publisher, double seconds)
{
    publisher_waited(publisher, seconds);
}

/* The learn thread's half of a cut: it has learned exactly the batches that were closed before the join thread's half.
 */
static void complete_cut(struct pipeline *pipeline, struct cut *cut)
{
    double begin = clock_seconds();
    char text[32];
    cut->steps = learner_steps(pipeline->parts.learner);
    if (!cut->failed) {
        struct stall_writer stall;
        struct state_writer *writer = &stall.writer;
        stall_writer_init(&stall, snapshot_writer(cut->snapshot), &pipeline->hold, waited, pipeline->parts.publisher);
        snprintf(text, sizeof text, "%llu", (unsigned long long)cut->steps);
        cut->failed = !learner_save(pipeline->parts.learner, writer, &cut->error) ||
                      !metrics_save(pipeline->parts.metrics, writer, &cut->error) ||
                      !shown_save(pipeline->parts.shown, writer, &cut->error) ||
                      !snapshot_meta(cut->snapshot, "steps", text, &cut->error);
        snprintf(text, sizeof text, "%llu", (unsigned long long)metrics_examples(pipeline->parts.metrics, USERS_ALL));
        cut->failed = cut->failed || !snapshot_meta(cut->snapshot, "examples", text, &cut->error);
        cut->delta = deltas_position(pipeline->parts.deltas);
        cut->number = deltas_number(pipeline->parts.deltas);
        if (!cut->final) cut->probe = probe_scores(pipeline->probe, pipeline->parts.learner);
    }
    cut->stall = clock_seconds() - begin;
    publisher_submit(pipeline->parts.publisher, cut);
}

/* Between two steps. A reader of deltas begins with a full version: one is made as soon as there is something in it. */
static void send_deltas(struct pipeline *pipeline)
{
    struct deltas *deltas = pipeline->parts.deltas;
    struct learner *learner = pipeline->parts.learner;
    if (deltas_wait(deltas, 1) > 0 || !publisher_may_send(pipeline->parts.publisher)) return;
    deltas_cut(deltas, learner);
    if (deltas_wants_checkpoint(deltas)) publisher_request(pipeline->parts.publisher, true);
}

static void *learn_loop(void *argument)
{
    struct pipeline *pipeline = argument;
    const struct work *end = &pipeline->end;
    for (struct work *work = NULL; work != end;) {
        work = queue_pop(pipeline->batches, deltas_wait(pipeline->parts.deltas, TELL));
        atomic_store(&pipeline->learn_moved, clock_monotonic());
        notify_alive(atomic_load(&pipeline->join_moved));
        tell_learned(pipeline, !work || work == end);
        if (!work) send_deltas(pipeline);
        if (!work || work == end) continue;
        switch (work->kind) {
        case WORK_BATCH:
            learn_step(pipeline, work->batch);
            queue_push(pipeline->spare, work);
            send_deltas(pipeline);
            break;
        case WORK_CUT:
            complete_cut(pipeline, work->cut);
            free(work);
            break;
        case WORK_RATES:
            learner_set_learning_rates(pipeline->parts.learner, work->live.ranking_rate, work->live.zero_shot_rate,
                                       work->live.embedding_rate);
            free(work);
            break;
        case WORK_END:
            break;
        }
    }
    stall_hold_disarm(pipeline->hold);      /* the learner settles it when it ends */
    atomic_store(&pipeline->ended, true);
    return NULL;
}

/* ---- start, stop */

struct pipeline *pipeline_start(const struct pipeline_parts *parts, const struct kafka_positions *positions,
                                struct cs_error *err)
{
    struct pipeline *pipeline = need(calloc(1, sizeof *pipeline));
    pipeline->parts = *parts;
    pipeline->end.kind = WORK_END;
    pipeline->view.clock = ingest_clock(parts->ingest);
    pipeline->forced = ingest_counts(parts->ingest).forced; /* of earlier runs */
    pipeline->unjudged = pipeline->untold = true;
    pthread_mutex_init(&pipeline->lock, NULL);
    pthread_mutex_init(&pipeline->wake_lock, NULL);
    pthread_cond_init(&pipeline->wake, NULL);
    atomic_store(&pipeline->join_moved, clock_monotonic());
    atomic_store(&pipeline->learn_moved, clock_monotonic());
    pipeline->merge = merge_create();
    pipeline->probe = probe_create(parts->features);
    pipeline->batches = queue_create(BATCHES + 4);
    pipeline->spare = queue_create(BATCHES);
    for (int i = 0; i < BATCHES; i++) {
        pipeline->work[i] = (struct work){ .kind = WORK_BATCH, .arena = need(arena_create(1 << 20)) };
        queue_push(pipeline->spare, &pipeline->work[i]);
    }
    pipeline->resumed = positions_copy(positions);
    if (!(pipeline->kafka = kafka_source_create(parts->config, parts->clients, positions, wake, pipeline, err)))
        goto fail;
    int error = pthread_create(&pipeline->learn_thread, NULL, learn_loop, pipeline);
    pipeline->learn_started = !error;
    if (!error) error = pthread_create(&pipeline->join_thread, NULL, join_loop, pipeline);
    pipeline->join_started = !error;
    if (!error) return pipeline;
    cs_fail_errno(err, error, "starting the join and learn threads");
    if (pipeline->learn_started) {
        queue_push(pipeline->batches, &pipeline->end);
        pthread_join(pipeline->learn_thread, NULL);
    }
fail:
    pipeline_destroy(pipeline);
    return NULL;
}

void pipeline_stop(struct pipeline *pipeline)
{
    atomic_store(&pipeline->stopping, true);
    wake(pipeline);
}

bool pipeline_ended(struct pipeline *pipeline)
{
    return atomic_load(&pipeline->ended);
}

bool pipeline_join(struct pipeline *pipeline, struct cs_error *err)
{
    pthread_join(pipeline->join_thread, NULL);
    pthread_join(pipeline->learn_thread, NULL);
    if (pipeline->failed) *err = pipeline->error;
    return !pipeline->failed;
}

void pipeline_destroy(struct pipeline *pipeline)
{
    if (!pipeline) return;
    struct merge_entry entry;
    size_t source, waiting_for;
    for (size_t i = 0; i < pipeline->source_count; i++) merge_set_idle(pipeline->merge, i, true);
    while (merge_pop(pipeline->merge, &entry, &source, &waiting_for)) {     /* read, not applied: will be read again */
        bad_record_release(entry.record);
        if (entry.has_event) event_release(&entry.event);
    }
    kafka_source_destroy(pipeline->kafka);
    merge_destroy(pipeline->merge);
    probe_destroy(pipeline->probe);
    queue_destroy(pipeline->batches);
    queue_destroy(pipeline->spare);
    for (int i = 0; i < BATCHES; i++) arena_destroy(pipeline->work[i].arena);
    positions_release(&pipeline->resumed);
    pipeline_view_release(&pipeline->view);
    pthread_cond_destroy(&pipeline->wake);
    pthread_mutex_destroy(&pipeline->wake_lock);
    pthread_mutex_destroy(&pipeline->lock);
    free(pipeline->source);
    free(pipeline);
}

/* ---- any thread */

void pipeline_pause(struct pipeline *pipeline, bool paused)
{
    atomic_store(&pipeline->paused, paused);
    wake(pipeline);
}

void pipeline_set_live(struct pipeline *pipeline, const struct pipeline_live *live)
{
    pthread_mutex_lock(&pipeline->lock);
    pipeline->live = *live;
    pthread_mutex_unlock(&pipeline->lock);
    atomic_store(&pipeline->live_due, true);
    wake(pipeline);
}

struct deltas *pipeline_deltas(const struct pipeline *pipeline)
{
    return pipeline->parts.deltas;
}

bool pipeline_alive(struct pipeline *pipeline)
{
    int64_t now = clock_monotonic();
    return now - atomic_load(&pipeline->join_moved) < MINUTE && now - atomic_load(&pipeline->learn_moved) < MINUTE;
}

struct pipeline_view pipeline_view(struct pipeline *pipeline)
{
    pthread_mutex_lock(&pipeline->lock);
    struct pipeline_view view = pipeline->view;
    view.source = need(calloc(view.source_count + 1, sizeof view.source[0]));
    view.table = need(calloc(view.table_count + 1, sizeof view.table[0]));
    if (view.source_count) memcpy(view.source, pipeline->view.source, view.source_count * sizeof view.source[0]);
    if (view.table_count) memcpy(view.table, pipeline->view.table, view.table_count * sizeof view.table[0]);
    pthread_mutex_unlock(&pipeline->lock);
    return view;
}

int64_t pipeline_view_lag(const struct pipeline_view *view)
{
    int64_t lag = view->source_count ? 0 : -1;
    for (size_t i = 0; i < view->source_count; i++) {
        if (view->source[i].end < 0) return -1;
        lag += view->source[i].end - view->source[i].next;
    }
    return lag;
}

void pipeline_view_release(struct pipeline_view *view)
{
    free(view->source);
    free(view->table);
    view->source = NULL;
    view->table = NULL;
}
