/* The bounded queue: a ring under one mutex. Items are batches and cuts, tens to hundreds a second, so a lock is cheap.
 */
#include "daemon/queue.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#include "core/need.h"
#include "daemon/clock.h"

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t room, item;
    bool closed;
    size_t head, length, capacity;
    void *ring[];
};

struct queue *queue_create(size_t capacity)
{
    assert(capacity > 0);
    struct queue *queue = need(calloc(1, sizeof *queue + capacity * sizeof queue->ring[0]));
    queue->capacity = capacity;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->room, NULL);
    pthread_cond_init(&queue->item, NULL);
    return queue;
}

void queue_destroy(struct queue *queue)
{
    if (!queue) return;
    pthread_cond_destroy(&queue->item);
    pthread_cond_destroy(&queue->room);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

bool queue_push(struct queue *queue, void *item)
{
    assert(item);
    pthread_mutex_lock(&queue->lock);
    while (queue->length == queue->capacity && !queue->closed) pthread_cond_wait(&queue->room, &queue->lock);
    bool open = !queue->closed;
    if (open) {
        queue->ring[(queue->head + queue->length++) % queue->capacity] = item;
        pthread_cond_signal(&queue->item);
    }
    pthread_mutex_unlock(&queue->lock);
    return open;
}

void *queue_pop(struct queue *queue, int64_t wait_milliseconds)
{
    const struct timespec until = clock_in(wait_milliseconds > 0 ? wait_milliseconds : 0);
    void *item = NULL;
    pthread_mutex_lock(&queue->lock);
    while (!queue->length && !queue->closed && wait_milliseconds != 0) {
        if (wait_milliseconds < 0) pthread_cond_wait(&queue->item, &queue->lock);
        else if (pthread_cond_clockwait(&queue->item, &queue->lock, CLOCK_MONOTONIC, &until)) break;
    }
    if (queue->length) {
        item = queue->ring[queue->head];
        queue->head = (queue->head + 1) % queue->capacity;
        queue->length--;
        pthread_cond_signal(&queue->room);
    }
    pthread_mutex_unlock(&queue->lock);
    return item;
}

size_t queue_length(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    size_t length = queue->length;
    pthread_mutex_unlock(&queue->lock);
    return length;
}

void queue_close(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->closed = true;
    pthread_cond_broadcast(&queue->room);
    pthread_cond_broadcast(&queue->item);
    pthread_mutex_unlock(&queue->lock);
}
