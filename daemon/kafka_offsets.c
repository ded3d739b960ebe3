/* Moving positions. */
#include "daemon/kafka_offsets.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/clock.h"
#include "daemon/kafka_probe.h"

enum { PATIENCE = 30000, PAUSE = 200 };     /* ms */

static void ignore(void *self, int code, const char *text)
{
    (void)self, (void)code, (void)text;
}

static bool is_meant(const struct kafka_offsets_move *move, const struct kafka_position *position)
{
    return (!move->topic || strcmp(move->topic, position->topic) == 0) &&
           (move->partition < 0 || move->partition == position->partition);
}

/* *next -1: the partition does not exist any more. */
static bool ask(struct kafka_probe *probe, const struct kafka_offsets_move *move, const struct kafka_position *position,
                int64_t deadline, int64_t *next, struct cs_error *err)
{
    char text[160] = "";
    for (;; kafka_probe_poll(probe, PAUSE)) {
        int32_t count;
        int64_t low, end;
        enum kafka_answer answer = kafka_probe_partitions(probe, position->topic, &count, text, sizeof text);
        if (answer == KAFKA_ANSWERED && position->partition >= count) {
            *next = -1;
            return true;
        }
        if (answer == KAFKA_ANSWERED &&
            kafka_probe_ends(probe, position->topic, position->partition, &low, &end)) {
            *next = move->to == MOVE_EARLIEST ? low : move->to == MOVE_LATEST ? end : position->next;
            if (move->to == MOVE_NOWHERE && (position->next < low || position->next > end))
                return cs_fail(err, CS_REFUSED, "%s [%d]: the broker has %lld to %lld; offset %lld can't stay the same",
                               position->topic, (int)position->partition, (long long)low, (long long)end,
                               (long long)position->next);
            if (move->to != MOVE_TIME ||
                kafka_probe_at_time(probe, position->topic, position->partition, move->time, end, next))
                return true;
        }
        if (clock_monotonic() > deadline)
            return cs_fail(err, CS_FAILED, "%s [%d]: brokers could not be asked (%s)", position->topic,
                           (int)position->partition, text);
    }
}

bool kafka_offsets_move(const struct cs_config *config, const struct kafka_offsets_move *move,
                        struct kafka_positions *positions, kafka_offsets_told *told, void *self, struct cs_error *err)
{
    struct kafka_probe *probe = kafka_probe_create(config, NULL, ignore, NULL, err);
    if (!probe) return false;
    int64_t deadline = clock_monotonic() + PATIENCE;
    size_t kept = 0, meant = 0;
    bool ok = true;
    for (size_t i = 0; i < positions->count; i++) {
        struct kafka_position *position = &positions->position[i];
        int64_t next = position->next;
        if (ok && is_meant(move, position)) {
            meant++;
            ok = ask(probe, move, position, deadline, &next, err);
            if (ok) {
                told(self, position, next);
                position->next = next;
                position->last = (struct kafka_fingerprint){ 0 };
            }
        }
        if (next < 0) free((char *)(uintptr_t)position->topic);
        else positions->position[kept++] = *position;
    }
    positions->count = kept;
    kafka_probe_destroy(probe);
    if (ok && !meant) return cs_fail(err, CS_USAGE, "the snapshot has no position in such a topic and partition");
    return ok;
}
