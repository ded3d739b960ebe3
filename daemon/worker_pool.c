/* Worker threads for the core's parallel tasks. A step has dozens of short parallel sections, so a worker looks for the
 * next one for a few microseconds before it sleeps; an idle daemon does not spin. */
#include "daemon/worker_pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SPINS = 4000, THREADS_MAX = 256 };  /* looks before sleeping: about 20 us */

struct worker { struct worker_pool *pool; pthread_t thread; size_t part; };

struct worker_pool {
    struct parallel parallel;       /* first: run() gets the pool by its address */
    pthread_mutex_t lock;
    pthread_cond_t start, done;
    atomic_uint_fast64_t round;     /* goes up by one a section; its change starts the workers */
    atomic_size_t running;          /* workers that have not finished the section */
    atomic_size_t sleeping;         /* workers that wait on start */
    atomic_bool stopping, waiting;  /* waiting: the caller sleeps on done */
    parallel_task *task;
    void *argument;
    size_t count;                   /* of workers: width - 1 */
    struct worker worker[];
};

static inline void relax(void)
{
#if defined __x86_64__ || defined __i386__
    __builtin_ia32_pause();
#endif
}

static void *work(void *argument)
{
    struct worker *self = argument;
    struct worker_pool *pool = self->pool;
    uint_fast64_t seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && atomic_load(&pool->round) == seen; i++) relax();
        if (atomic_load(&pool->round) == seen) {
            pthread_mutex_lock(&pool->lock);
            atomic_fetch_add(&pool->sleeping, 1);
            while (atomic_load(&pool->round) == seen) pthread_cond_wait(&pool->start, &pool->lock);
            atomic_fetch_sub(&pool->sleeping, 1);
            pthread_mutex_unlock(&pool->lock);
        }
        seen++;     /* the caller waits for all before it starts another: never two rounds behind */
        if (atomic_load(&pool->stopping)) return NULL;
        pool->task(pool->argument, self->part, pool->count + 1);
        if (atomic_fetch_sub(&pool->running, 1) == 1 && atomic_load(&pool->waiting)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

static void start_round(struct worker_pool *pool)
{
    atomic_fetch_add(&pool->round, 1);
    if (!atomic_load(&pool->sleeping)) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->start);
    pthread_mutex_unlock(&pool->lock);
}

static void run(struct parallel *self, parallel_task *task, void *argument)
{
    struct worker_pool *pool = (struct worker_pool *)self;
    pool->task = task;
    pool->argument = argument;
    atomic_store(&pool->running, pool->count);
    start_round(pool);
    task(argument, 0, pool->count + 1);
    for (int i = 0; i < SPINS && atomic_load(&pool->running); i++) relax();
    if (!atomic_load(&pool->running)) return;
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->waiting, true);
    while (atomic_load(&pool->running)) pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->waiting, false);
    pthread_mutex_unlock(&pool->lock);
}

static size_t processors(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (size_t)CPU_COUNT(&set) : 1;
}

struct worker_pool *worker_pool_create(size_t threads, struct cs_error *err)
{
    if (threads == 0) threads = processors();
    if (threads > THREADS_MAX) {
        cs_fail(err, CS_FAILED, "%zu threads asked for, at most %d are supported", threads, THREADS_MAX);
        return NULL;
    }
    struct worker_pool *pool = calloc(1, sizeof *pool + (threads - 1) * sizeof pool->worker[0]);
    if (!pool) {
        cs_fail(err, CS_FAILED, "no memory for %zu worker threads", threads);
        return NULL;
    }
    pool->parallel = threads == 1 ? parallel_serial : (struct parallel){ .width = threads, .run = run };
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->start, NULL);
    pthread_cond_init(&pool->done, NULL);
    for (size_t i = 0; i < threads - 1; i++) {
        pool->worker[i] = (struct worker){ .pool = pool, .part = i + 1 };
        int error = pthread_create(&pool->worker[i].thread, NULL, work, &pool->worker[i]);
        if (error) {
            cs_fail_errno(err, error, "starting worker thread %zu of %zu", i + 1, threads - 1);
            worker_pool_destroy(pool);
            return NULL;
        }
        pool->count++;
    }
    return pool;
}

void worker_pool_destroy(struct worker_pool *pool)
{
    if (!pool) return;
    atomic_store(&pool->stopping, true);
    start_round(pool);
    for (size_t i = 0; i < pool->count; i++) pthread_join(pool->worker[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->start);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

struct parallel *worker_pool_parallel(struct worker_pool *pool)
{
    return &pool->parallel;
}
