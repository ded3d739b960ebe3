/* A user's own past clicks, for events that carry no behaviors: bounded a user (the oldest item leaves) and in all (the
 * least recently active user leaves; max_users 0: no limit). */
#ifndef CORE_HISTORY_H
#define CORE_HISTORY_H

#include "core/options.h"
#include "core/state.h"

struct history;
struct history *history_create(const struct history_options *options);
void history_destroy(struct history *history);
void history_append(struct history *history, uint64_t user, uint64_t item);
/* Oldest first; borrowed until the next append. */
const uint64_t *history_of(const struct history *history, uint64_t user, size_t *count);
size_t history_users(const struct history *history);
size_t history_bytes(const struct history *history);
bool history_save(struct history *history, struct state_writer *writer, struct cs_error *err);
bool history_load(struct history *history, struct state_reader *reader, struct cs_error *err);

#endif
