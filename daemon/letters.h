/* Dead letters that no broker has acknowledged yet: kept in memory, and by every snapshot beside the positions that
 * have passed them, so that none is lost whatever the brokers say and however the daemon ends. Knows no Kafka: whoever
 * sends asks `next` what to send, and says what came of it.
 *
 *     add -> waiting -> next -> under way -> taken      (gone; the next snapshot forgets it)
 *               ^                        \-> refused    (back, to be tried again)
 *
 * A topic that refuses (no leave to write, not there) is shut: its letters are kept, and one is tried every
 * LETTERS_RETRY; once one is taken all go. A letter that is itself refused (too large for the topic) waits aside, so
 * that the others pass; those are tried one by one. What is kept is bounded: `full` says that nothing more should be
 * read. Safe for several threads. */
#ifndef DAEMON_LETTERS_H
#define DAEMON_LETTERS_H

#include "core/state.h"

enum { LETTERS_RETRY = 5000 };      /* ms */

struct letter_header { const char *name; const void *value; size_t size; };    /* value NULL: none */

struct letter {
    const char *topic;              /* where it goes */
    const void *key, *value;        /* NULL: none */
    size_t key_size, value_size;
    int64_t timestamp;              /* ms, 0: unknown */
    const struct letter_header *header;
    size_t headers;
};

struct letters;
struct letters *letters_create(size_t limit);           /* bytes from which on they are full */
void letters_destroy(struct letters *letters);          /* none may be under way; NULL is fine */

void letters_add(struct letters *letters, const struct letter *letter);     /* copied */
/* What should be sent now, NULL: nothing. Stays what it is until one of the three below is called for it, once. */
const struct letter *letters_next(struct letters *letters, int64_t now);
/* True where the topic was shut before. */
bool letters_taken(struct letters *letters, const struct letter *letter);
enum letters_refusal {
    LETTERS_UNSENT,     /* it could not be tried: first of those that go again */
    LETTERS_SHUT,       /* the topic takes none */
    LETTERS_UNFIT,      /* the topic does not take this one */
};
/* why: what a person is told. True where this is news: said of this topic for the first time, or for a minute not. */
bool letters_refused(struct letters *letters, const struct letter *letter, enum letters_refusal refusal,
                     const char *why, int64_t now);

bool letters_full(struct letters *letters);
struct letters_view {
    uint64_t count, kept;   /* not acknowledged; of these refused, or waiting behind one that was */
    size_t bytes;
    char why[400];          /* "impressions.dlq: Broker: Topic authorization failed"; "" where kept is 0 */
};
struct letters_view letters_view(struct letters *letters);

bool letters_changed(struct letters *letters);          /* since the last save */
bool letters_save(struct letters *letters, struct state_writer *writer, struct cs_error *err);
bool letters_load(struct letters *letters, struct state_reader *reader, struct cs_error *err);     /* into empty ones */

#endif
