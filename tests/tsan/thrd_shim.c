/* C11 threads on top of pthreads, for ThreadSanitizer builds of tests and programs alone. Debian's librdkafka makes its
 * threads by thrd_create, which TSan does not intercept: a thread it has never seen then crashes in the first
 * intercepted call. With these linked into the executable (-rdynamic), librdkafka's calls land here and TSan sees every
 * thread and lock. */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <threads.h>

#define VISIBLE __attribute__((visibility("default")))

struct start { thrd_start_t run; void *argument; };

static void *trampoline(void *given)
{
    struct start start = *(struct start *)given;

    free(given);
    return (void *)(intptr_t)start.run(start.argument);
}

VISIBLE int thrd_create(thrd_t *thread, thrd_start_t run, void *argument)
{
    struct start *start = malloc(sizeof *start);
    int code;

    if (!start) return thrd_nomem;
    *start = (struct start){ run, argument };
    code = pthread_create(thread, NULL, trampoline, start);
    if (!code) return thrd_success;
    free(start);
    return code == EAGAIN ? thrd_nomem : thrd_error;
}

VISIBLE int thrd_join(thrd_t thread, int *result)
{
    void *value = NULL;

    if (pthread_join(thread, &value)) return thrd_error;
    if (result) *result = (int)(intptr_t)value;
    return thrd_success;
}

VISIBLE int thrd_detach(thrd_t thread) { return pthread_detach(thread) ? thrd_error : thrd_success; }
VISIBLE thrd_t thrd_current(void) { return pthread_self(); }
VISIBLE int thrd_equal(thrd_t one, thrd_t other) { return pthread_equal(one, other); }

/* glibc's mtx_t and cnd_t are as large and as aligned as its pthread types. */
_Static_assert(sizeof(mtx_t) >= sizeof(pthread_mutex_t), "a mtx_t holds a pthread_mutex_t");
_Static_assert(sizeof(cnd_t) >= sizeof(pthread_cond_t), "a cnd_t holds a pthread_cond_t");

VISIBLE int mtx_init(mtx_t *mutex, int type)
{
    pthread_mutexattr_t attributes;
    int code;

    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, type & mtx_recursive ? PTHREAD_MUTEX_RECURSIVE : PTHREAD_MUTEX_NORMAL);
    code = pthread_mutex_init((pthread_mutex_t *)mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return code ? thrd_error : thrd_success;
}

VISIBLE void mtx_destroy(mtx_t *mutex) { pthread_mutex_destroy((pthread_mutex_t *)mutex); }
VISIBLE int mtx_lock(mtx_t *mutex) { return pthread_mutex_lock((pthread_mutex_t *)mutex) ? thrd_error : thrd_success; }
VISIBLE int mtx_unlock(mtx_t *mutex)
{
    return pthread_mutex_unlock((pthread_mutex_t *)mutex) ? thrd_error : thrd_success;
}

VISIBLE int mtx_trylock(mtx_t *mutex)
{
    int code = pthread_mutex_trylock((pthread_mutex_t *)mutex);

    return code == EBUSY ? thrd_busy : code ? thrd_error : thrd_success;
}

VISIBLE int cnd_init(cnd_t *condition)
{
    return pthread_cond_init((pthread_cond_t *)condition, NULL) ? thrd_error : thrd_success;
}
VISIBLE void cnd_destroy(cnd_t *condition) { pthread_cond_destroy((pthread_cond_t *)condition); }
VISIBLE int cnd_signal(cnd_t *condition)
{
    return pthread_cond_signal((pthread_cond_t *)condition) ? thrd_error : thrd_success;
}
VISIBLE int cnd_broadcast(cnd_t *condition)
{
    return pthread_cond_broadcast((pthread_cond_t *)condition) ? thrd_error : thrd_success;
}

VISIBLE int cnd_wait(cnd_t *condition, mtx_t *mutex)
{
    return pthread_cond_wait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex) ? thrd_error : thrd_success;
}

VISIBLE int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until)
{
    int code = pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until);

    return code == ETIMEDOUT ? thrd_timedout : code ? thrd_error : thrd_success;
}

VISIBLE void call_once(once_flag *flag, void (*once)(void))
{
    pthread_once((pthread_once_t *)flag, once);
}
