/* A bounded queue of pointers between two threads: full makes the writer wait, empty the reader: back-pressure. */
#ifndef DAEMON_QUEUE_H
#define DAEMON_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct queue;
struct queue *queue_create(size_t capacity);
void queue_destroy(struct queue *queue);
bool queue_push(struct queue *queue, void *item);                       /* waits for room; false: closed */
void *queue_pop(struct queue *queue,
                int64_t wait_milliseconds); /* NULL: closed and empty, or nothing came; < 0 waits for ever */
size_t queue_length(struct queue *queue);
void queue_close(struct queue *queue); /* wakes both sides; what is in it can still be popped */

#endif
