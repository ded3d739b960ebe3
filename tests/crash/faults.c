/* LD_PRELOAD: makes the file calls of a program go wrong where a test says so, and counts them. The program under test
 * is the one that ships; nothing is compiled into it.
 *
 *   FAULTS_CONTROL   a file of at least sizeof (struct control) bytes, shared with the test by mmap: it may switch
 *                    faults on and off while the program runs (tests/crash/plant.py has the other side)
 *   FAULTS_UNDER     folders, separated by ':'; calls on files elsewhere are passed on and not counted
 *
 * Calls that stdio makes inside libc are not seen. The first call that is to fail is number `first` of those that
 * `calls` selects, counted since the test set `seen` to 0; the last is `last`. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* As plant.py numbers them. */
enum { CALL_OPEN, CALL_WRITE, CALL_SYNC, CALL_RENAME, CALL_UNLINK, CALL_MAKE, CALL_SPACE, CALLS };
enum fault {
    FAULT_NONE,
    FAULT_KILL,         /* SIGKILL instead of the call */
    FAULT_TORN,         /* half of a write is done, then SIGKILL; any other call is done, then SIGKILL */
    FAULT_ERROR,        /* the call is not made, errno is `error` */
    FAULT_SHORT,        /* half of a write is done, and said so; other calls pass */
    FAULT_HANG,         /* the call is made when the test switches the fault off */
};

struct control {
    atomic_int_fast64_t fault, calls, first, last, error;       /* set by the test; calls: bits 1 << CALL_ */
    atomic_int_fast64_t seen, injected;                         /* of all selected calls */
    atomic_int_fast64_t hanging;                                /* calls that hang at this moment */
    atomic_int_fast64_t seen_of[CALLS], injected_of[CALLS];
};

static struct control *control;
static const char *under;

__attribute__((constructor)) static void begin(void)
{
    const char *file = getenv("FAULTS_CONTROL");
    under = getenv("FAULTS_UNDER");
    if (!file || !under) return;
    int (*real_open)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    int fd = real_open(file, O_RDWR | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        fprintf(stderr, "faults: %s can't be mapped: %s\n", file, strerror(errno));
        abort();        /* a test without its faults would pass for nothing */
    }
    close(fd);
    control = map;
}

/* ---- which calls are meant */

static bool is_under(const char *path)
{
    for (const char *folder = under; folder && *folder;) {
        size_t length = strcspn(folder, ":");
        if (strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0)) return true;
        folder += length + (folder[length] == ':');
    }
    return false;
}

static bool path_meant(int folder, const char *path)
{
    char whole[PATH_MAX], link[64];
    if (!control || !path) return false;
    if (*path == '/') return is_under(path);
    if (folder == AT_FDCWD) {
        if (!getcwd(whole, sizeof whole)) return false;
        return is_under(whole);
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, whole, sizeof whole - 1);
    if (length < 0) return false;
    whole[length] = 0;
    return is_under(whole);
}

static bool fd_meant(int fd) { return path_meant(fd, ""); }

/* ---- what happens to a call */

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* What is to be done about this call; FAULT_HANG has hung when it returns. */
static enum fault judge(int call)
{
    int saved = errno;
    if (!(atomic_load(&control->calls) >> call & 1)) return FAULT_NONE;
    int64_t number = atomic_fetch_add(&control->seen, 1) + 1;
    atomic_fetch_add(&control->seen_of[call], 1);
    enum fault fault = (enum fault)atomic_load(&control->fault);
    if (fault == FAULT_NONE || number < atomic_load(&control->first) || number > atomic_load(&control->last))
        return FAULT_NONE;
    if (fault == FAULT_SHORT && call != CALL_WRITE) return FAULT_NONE;
    atomic_fetch_add(&control->injected, 1);
    atomic_fetch_add(&control->injected_of[call], 1);
    if (fault == FAULT_KILL) die();
    if (fault == FAULT_HANG) {
        atomic_fetch_add(&control->hanging, 1);
        while (atomic_load(&control->fault) == FAULT_HANG) nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
        atomic_fetch_sub(&control->hanging, 1);
        fault = FAULT_NONE;
    }
    errno = fault == FAULT_ERROR ? (int)atomic_load(&control->error) : saved;
    return fault;
}

/* The real function of that name. */
#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name)
{
    void *function = dlsym(RTLD_NEXT, name);
    if (!function) abort();
    return function;
}

/* meant: the call is on a file of ours; made: the real call; of type int or off-the-shelf ssize_t, failing with -1. */
#define PASS(call, meant, made)                                                                                        \
    do {                                                                                                               \
        enum fault fault = (meant) ? judge(call) : FAULT_NONE;                                                         \
        if (fault == FAULT_ERROR) return -1;                                                                           \
        __typeof__(made) result = (made);                                                                              \
        if (fault == FAULT_TORN) die();                                                                                \
        return result;                                                                                                 \
    } while (0)

/* half: the call for the first half of the bytes, of which there are `size`. */
#define PASS_WRITE(fd, size, made, half)                                                                               \
    do {                                                                                                               \
        enum fault fault = control && fd_meant(fd) ? judge(CALL_WRITE) : FAULT_NONE;                                   \
        if (fault == FAULT_ERROR) return -1;                                                                           \
        if (fault == FAULT_NONE || (size) < 2) return (made);                                                          \
        ssize_t result = (half);                                                                                       \
        if (fault == FAULT_TORN) die();                                                                                \
        return result;                                                                                                 \
    } while (0)

#define VISIBLE __attribute__((visibility("default")))

/* Files opened only to be read don't count: a snapshot that can't be read is tests/crash/test_damage.py's matter. */
static bool writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC); }

static mode_t mode_of(int flags, va_list more) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; }

#define OPEN(name)                                                                                                     \
    VISIBLE int name(const char *path, int flags, ...)                                                                 \
    {                                                                                                                  \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = mode_of(flags, more);                                                                            \
        va_end(more);                                                                                                  \
        PASS(CALL_OPEN, writes(flags) && path_meant(AT_FDCWD, path), REAL(name)(path, flags, mode));                   \
    }
#define OPENAT(name)                                                                                                   \
    VISIBLE int name(int folder, const char *path, int flags, ...)                                                     \
    {                                                                                                                  \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = mode_of(flags, more);                                                                            \
        va_end(more);                                                                                                  \
        PASS(CALL_OPEN, writes(flags) && path_meant(folder, path), REAL(name)(folder, path, flags, mode));             \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

VISIBLE FILE *fopen(const char *path, const char *mode)
{
    if (*mode != 'r' && path_meant(AT_FDCWD, path)) {
        enum fault fault = judge(CALL_OPEN);
        if (fault == FAULT_ERROR) return NULL;
        if (fault == FAULT_TORN) {
            REAL(fopen)(path, mode);
            die();
        }
    }
    return REAL(fopen)(path, mode);
}

VISIBLE ssize_t write(int fd, const void *bytes, size_t size)
{
    PASS_WRITE(fd, size, REAL(write)(fd, bytes, size), REAL(write)(fd, bytes, size / 2));
}

VISIBLE ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at)
{
    PASS_WRITE(fd, size, REAL(pwrite)(fd, bytes, size, at), REAL(pwrite)(fd, bytes, size / 2, at));
}

VISIBLE ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at)
{
    PASS_WRITE(fd, size, REAL(pwrite64)(fd, bytes, size, at), REAL(pwrite64)(fd, bytes, size / 2, at));
}

static size_t size_of(const struct iovec *part, int count)
{
    size_t size = 0;
    for (int i = 0; i < count; i++) size += part[i].iov_len;
    return size;
}

/* Half of the parts; of a single one, half of its bytes. */
static struct iovec first_half(const struct iovec *part, int count)
{
    return (struct iovec){ part[0].iov_base, count > 1 ? part[0].iov_len : part[0].iov_len / 2 };
}

VISIBLE ssize_t writev(int fd, const struct iovec *part, int count)
{
    struct iovec half = first_half(part, count);
    PASS_WRITE(fd, size_of(part, count), REAL(writev)(fd, part, count), REAL(writev)(fd, &half, 1));
}

VISIBLE ssize_t pwritev(int fd, const struct iovec *part, int count, off_t at)
{
    struct iovec half = first_half(part, count);
    PASS_WRITE(fd, size_of(part, count), REAL(pwritev)(fd, part, count, at), REAL(pwritev)(fd, &half, 1, at));
}

VISIBLE ssize_t pwritev64(int fd, const struct iovec *part, int count, off64_t at)
{
    struct iovec half = first_half(part, count);
    PASS_WRITE(fd, size_of(part, count), REAL(pwritev64)(fd, part, count, at), REAL(pwritev64)(fd, &half, 1, at));
}

VISIBLE int fsync(int fd) { PASS(CALL_SYNC, fd_meant(fd), REAL(fsync)(fd)); }
VISIBLE int fdatasync(int fd) { PASS(CALL_SYNC, fd_meant(fd), REAL(fdatasync)(fd)); }
VISIBLE int syncfs(int fd) { PASS(CALL_SYNC, fd_meant(fd), REAL(syncfs)(fd)); }
VISIBLE int sync_file_range(int fd, off64_t at, off64_t size, unsigned flags)
{
    PASS(CALL_SYNC, fd_meant(fd), REAL(sync_file_range)(fd, at, size, flags));
}

VISIBLE int rename(const char *from, const char *to)
{
    PASS(CALL_RENAME, path_meant(AT_FDCWD, to), REAL(rename)(from, to));
}

VISIBLE int renameat(int from_folder, const char *from, int folder, const char *to)
{
    PASS(CALL_RENAME, path_meant(folder, to), REAL(renameat)(from_folder, from, folder, to));
}

VISIBLE int renameat2(int from_folder, const char *from, int folder, const char *to, unsigned flags)
{
    PASS(CALL_RENAME, path_meant(folder, to), REAL(renameat2)(from_folder, from, folder, to, flags));
}

VISIBLE int unlink(const char *path) { PASS(CALL_UNLINK, path_meant(AT_FDCWD, path), REAL(unlink)(path)); }
VISIBLE int rmdir(const char *path) { PASS(CALL_UNLINK, path_meant(AT_FDCWD, path), REAL(rmdir)(path)); }
VISIBLE int remove(const char *path) { PASS(CALL_UNLINK, path_meant(AT_FDCWD, path), REAL(remove)(path)); }
VISIBLE int unlinkat(int folder, const char *path, int flags)
{
    PASS(CALL_UNLINK, path_meant(folder, path), REAL(unlinkat)(folder, path, flags));
}

VISIBLE int mkdir(const char *path, mode_t mode)
{
    PASS(CALL_MAKE, path_meant(AT_FDCWD, path), REAL(mkdir)(path, mode));
}

VISIBLE int mkdirat(int folder, const char *path, mode_t mode)
{
    PASS(CALL_MAKE, path_meant(folder, path), REAL(mkdirat)(folder, path, mode));
}

VISIBLE int symlink(const char *target, const char *path)
{
    PASS(CALL_MAKE, path_meant(AT_FDCWD, path), REAL(symlink)(target, path));
}

VISIBLE int symlinkat(const char *target, int folder, const char *path)
{
    PASS(CALL_MAKE, path_meant(folder, path), REAL(symlinkat)(target, folder, path));
}

VISIBLE int ftruncate(int fd, off_t size) { PASS(CALL_SPACE, fd_meant(fd), REAL(ftruncate)(fd, size)); }
VISIBLE int ftruncate64(int fd, off64_t size) { PASS(CALL_SPACE, fd_meant(fd), REAL(ftruncate64)(fd, size)); }
VISIBLE int fallocate(int fd, int mode, off_t at, off_t size)
{
    PASS(CALL_SPACE, fd_meant(fd), REAL(fallocate)(fd, mode, at, size));
}
