/* offsets: a stopped daemon's positions, moved in its snapshot by a cut of their own; all that was learned stays. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/value.h"
#include "daemon/kafka_offsets.h"
#include "daemon/positions.h"
#include "daemon/text.h"
#include "storage/snapshot.h"
#include "tools/ctl_answer.h"
#include "tools/ctl_snapshot.h"
#include "tools/ctl_verbs.h"

const struct program_option ctl_offsets_options[] = {
    { "config", 'c', "FILE", "the daemon's configuration: brokers, and where the snapshot is", true },
    { "to", 't', "WHERE", "earliest, latest, a time as 2026-01-31T12:00:00Z; same: only forget what was there", true },
    { "topic", 0, "TOPIC", "of this topic alone", false },
    { "partition", 0, "NUMBER", "of this partition alone", false },
    CTL_JSON,
    { NULL, 0, NULL, NULL, false },
};

static bool parse_move(const struct ctl_arguments *arguments, struct kafka_offsets_move *move, struct cs_error *err)
{
    const char *to = ctl_value(arguments, "to");
    uint64_t partition = 0;
    *move = (struct kafka_offsets_move){ .topic = ctl_value(arguments, "topic"), .partition = -1 };
    if (ctl_value(arguments, "partition")) {
        if (!ctl_count(arguments, "partition", 0, INT32_MAX, 0, &partition, err)) return false;
        move->partition = (int32_t)partition;
    }
    if (strcmp(to, "earliest") == 0) move->to = MOVE_EARLIEST;
    else if (strcmp(to, "latest") == 0) move->to = MOVE_LATEST;
    else if (strcmp(to, "same") == 0) move->to = MOVE_NOWHERE;
    else if (value_time(to, &move->time))
        return cs_fail(err, CS_USAGE,
                       "--to %s: earliest, latest, same, or a time as 2026-01-31T12:00:00Z or in milliseconds since "
                       "the epoch",
                       to);
    else move->to = MOVE_TIME;
    return true;
}

struct told { const struct ctl_arguments *arguments; json_t *positions; };

static void tell(void *self, const struct kafka_position *before, int64_t now)
{
    struct told *told = self;
    const struct ctl_arguments *arguments = told->arguments;
    json_array_append_new(told->positions, json_pack("{s:s,s:i,s:I,s:o}", "topic", before->topic, "partition",
                                                     (int)before->partition, "from", (json_int_t)before->next, "to",
                                                     now < 0 ? json_null() : json_integer(now)));
    if (ctl_flag(arguments, "json")) return;
    if (now < 0)
        ctl_say(arguments, "%s [%d]: %lld -> gone, the topic has fewer partitions", before->topic,
                (int)before->partition, (long long)before->next);
    else
        ctl_say(arguments, "%s [%d]: %lld -> %lld", before->topic, (int)before->partition, (long long)before->next,
                (long long)now);
}

static bool copy_meta(void *cut, const char *name, const char *text, struct cs_error *err)
{
    if (strcmp(name, "positions") == 0 || strcmp(name, "format") == 0) return true;
    return snapshot_meta(cut, name, text, err);
}

/* A cut that changes the positions alone. */
static bool write_positions(struct snapshot_store *store, struct snapshot_view *view,
                            const struct kafka_positions *positions, struct cs_error *err)
{
    json_t *array = json_array();
    for (size_t i = 0; i < positions->count; i++) json_array_append_new(array, position_json(&positions->position[i]));
    char *text = json_dumps(array, JSON_COMPACT);
    json_decref(array);
    struct snapshot_cut *cut = snapshot_begin(store);
    bool ok = snapshot_view_each_meta(view, copy_meta, cut, err) && snapshot_meta(cut, "positions", text, err);
    free(text);
    snapshot_view_close(view);
    if (ok) return snapshot_commit(cut, err);
    snapshot_abandon(cut);
    return false;
}

static bool move_offsets(struct told *told, const struct cs_config *config, const struct kafka_offsets_move *move,
                         struct cs_error *err)
{
    struct kafka_positions positions = { 0 };
    struct snapshot_view *view = NULL;
    bool ok = false;
    struct snapshot_store *store = snapshot_open(config->snapshot.directory, NULL, NULL, err);
    if (!store) return false;
    if (!snapshot_exists(store)) {
        cs_fail(err, CS_REFUSED, "%s holds no snapshot: source.kafka.start says where a new daemon begins",
                config->snapshot.directory);
        goto out;
    }
    if (!(view = snapshot_view_open(store, err))) goto out;
    const char *text = snapshot_view_meta(view, "positions");
    if (!positions_parse(text ? text : "[]", &positions, err)) goto out;
    if (!kafka_offsets_move(config, move, &positions, tell, told, err)) goto out;
    ok = write_positions(store, view, &positions, err);
    view = NULL;
out:
    if (view) snapshot_view_close(view);
    positions_release(&positions);
    snapshot_close(store);
    return ok;
}

int ctl_offsets(const struct ctl_arguments *arguments)
{
    struct cs_error err = { 0 };
    struct kafka_offsets_move move;
    if (!parse_move(arguments, &move, &err)) return ctl_fail(arguments, &err);
    struct cs_config *config = ctl_config_load(ctl_value(arguments, "config"), CONFIG_FOR_DAEMON);
    if (!config) return cs_exit_code(CS_CONFIG);
    struct told told = { arguments, json_array() };
    int code = 0;
    if (!move_offsets(&told, config, &move, &err)) code = ctl_fail(arguments, &err);
    else if (ctl_flag(arguments, "json"))
        code = ctl_answer(arguments, json_pack("{s:o,s:O}", "directory", text_json(config->snapshot.directory),
                                               "positions", told.positions));
    json_decref(told.positions);
    config_destroy(config);
    return code;
}
