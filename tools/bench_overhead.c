/* What it costs to be watched: coldstreamd learning from a real Apache Kafka, in turns without anybody looking and with
 * all that operators have at once: /metrics scraped every second, two people at the status page, the log at info. One
 * run, turn by turn (off on on off), so that the machine's moods meet both. The clients are on the same machine, and
 * what they take counts too. Where others use the machine, the turns' differences are theirs: beside them stands what
 * the threads that answer and look took of the processors, which is what learning can lose where it would use them
 * all. */
#include <arpa/inet.h>
#include <dirent.h>
#include <math.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "daemon/clock.h"
#include "daemon/control.h"
#include "tools/bench.h"

/* EVENTS: more than are learned meanwhile, at 7,000 a second. */
enum { EVENTS = 700000, TURNS = 24, TURN = 3, WARM = 6, PAGES = 2, PATH_ROOM = 512, ANSWER_ROOM = 1 << 20,
       PATIENCE = 60 };

struct watchers { int port; atomic_bool on, stop; atomic_ulong asked; pthread_t scraper, page[PAGES]; };

static int free_port(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof address;
    int handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = bind(handle, (struct sockaddr *)&address, size) == 0 &&
              getsockname(handle, (struct sockaddr *)&address, &size) == 0;
    close(handle);
    return ok ? ntohs(address.sin_port) : 0;
}

/* The whole answer; false where none comes. */
static bool get(int port, const char *path, char *answer, size_t room)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    char request[256];
    int handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), length;
    size_t used = 0;
    length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n", path);
    if (connect(handle, (struct sockaddr *)&address, sizeof address) == 0 &&
        send(handle, request, (size_t)length, MSG_NOSIGNAL) == length)
        for (ssize_t got; used + 1 < room && (got = recv(handle, answer + used, room - 1 - used, 0)) > 0;)
            used += (size_t)got;
    close(handle);
    answer[used] = 0;
    return strncmp(answer, "HTTP/1.1 200", 12) == 0;
}

/* Milliseconds, in bits: watchers that are told to stop don't keep anybody waiting. */
static void rest(struct watchers *watchers, int milliseconds)
{
    for (int i = 0; i < milliseconds && !watchers->stop; i += 20)
        nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
}

static void *scrape(void *argument)
{
    struct watchers *watchers = argument;
    char *answer = malloc(ANSWER_ROOM);
    for (; answer && !watchers->stop; rest(watchers, 1000))
        if (watchers->on && get(watchers->port, "/metrics", answer, ANSWER_ROOM)) watchers->asked++;
    free(answer);
    return NULL;
}

/* As daemon/page/page.js asks. */
static void *look(void *argument)
{
    struct watchers *watchers = argument;
    char *answer = malloc(ANSWER_ROOM), path[64];
    for (size_t i = 0; answer && !watchers->stop; rest(watchers, 2000)) {
        if (!watchers->on) continue;
        long long from = i++ ? (long long)clock_wall() - 10000 : 0;
        snprintf(path, sizeof path, "/history?span=1h&from=%lld", from);
        if (get(watchers->port, "/status", answer, ANSWER_ROOM)) watchers->asked++;
        if (get(watchers->port, "/readyz", answer, ANSWER_ROOM)) watchers->asked++;
        if (i % 2 && get(watchers->port, path, answer, ANSWER_ROOM)) watchers->asked++;
    }
    free(answer);
    return NULL;
}

/* Processor seconds, so far, of the daemon's threads that serve nobody but who watches: that of the pages, and the main
 * one, which keeps the history and the line for systemd. */
static double watching_seconds(pid_t daemon)
{
    char path[PATH_ROOM], name[32];
    double sum = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)daemon);
    DIR *tasks = opendir(path);
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        unsigned long long nanoseconds = 0;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/comm", (int)daemon, task->d_name);
        FILE *file = fopen(path, "r");
        bool serves = file && fgets(name, sizeof name, file) && strncmp(name, "MHD", 3) == 0;
        if (file) fclose(file);
        if (!serves && strtol(task->d_name, NULL, 10) != daemon) continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/schedstat", (int)daemon, task->d_name);
        if (!(file = fopen(path, "r"))) continue;
        if (fscanf(file, "%llu", &nanoseconds) == 1) sum += 1e-9 * (double)nanoseconds;
        fclose(file);
    }
    if (tasks) closedir(tasks);
    return sum;
}

static double steps_in(const char *text)
{
    const char *line = strstr(text, "\ncoldstream_steps_total ");
    return line ? strtod(line + strlen("\ncoldstream_steps_total "), NULL) : -1;
}

/* The moment at which a step ends, and how many there have been. */
static bool at_step(int port, char *answer, double *time, double *steps)
{
    double before = -1, begin = bench_seconds();
    while (bench_seconds() - begin < PATIENCE) {
        double now = get(port, "/metrics", answer, ANSWER_ROOM) ? steps_in(answer) : -1;
        *time = bench_seconds();
        *steps = now;
        if (before >= 0 && now > before) return true;
        if (before < 0) before = now;       /* 0 is a count, too: it answers before it has learned */
        nanosleep(&(struct timespec){ .tv_nsec = 4000000 }, NULL);
    }
    return false;
}

static bool watch(struct bench *bench, const struct bench_daemon *daemon, struct watchers *watchers,
                  struct cs_error *err)
{
    double steps[2] = { 0 }, seconds[2] = { 0 }, share[TURNS / 2], now, count, then, before;
    char *answer = malloc(ANSWER_ROOM);
    bool ok = answer && at_step(watchers->port, answer, &then, &before);
    if (ok) sleep(WARM);
    double pair[2] = { 0 }, watching = 0, watched = 0;
    for (size_t i = 0; ok && i < TURNS; i++) {
        bool on = i % 4 == 1 || i % 4 == 2;
        json_decref(control_request(daemon->socket, "log-level", on ? "info" : "warning", err));
        ok = at_step(watchers->port, answer, &then, &before);
        watchers->on = on;
        double begin = bench_seconds(), spent = watching_seconds(daemon->pid);
        if (ok) sleep(TURN);
        if (on) watching += watching_seconds(daemon->pid) - spent;
        if (on) watched += bench_seconds() - begin;
        ok = ok && at_step(watchers->port, answer, &now, &count);
        watchers->on = false;
        if (!ok) break;
        steps[on] += count - before;
        seconds[on] += now - then;
        pair[on] = (count - before) / (now - then);
        if (i % 2) share[i / 2] = 100 * (1 - pair[1] / pair[0]);
    }
    free(answer);
    if (!ok) return cs_fail(err, CS_FAILED, "learning does not move; see %s", daemon->log);
    if (!watchers->asked || watching <= 0) return cs_fail(err, CS_FAILED, "nobody was answered; see %s", daemon->log);
    double without = steps[0] / seconds[0], with = steps[1] / seconds[1];
    bench_add(bench, "steps watched (metrics, two pages, log)", with, "steps/s", without, "nobody looking");
    bench_add(bench, "what being watched costs, of all turns", 100 * (1 - with / without), "%", 1, "what is asked for");
    bench_add(bench, "what being watched costs, median pair of turns", bench_median(share, TURNS / 2), "%", 1,
              "what is asked for");
    bench_add(bench, "processors that answering and looking took",
              100 * watching / watched / (double)sysconf(_SC_NPROCESSORS_ONLN), "%", 1, "what is asked for");
    return true;
}

bool bench_overhead(struct bench *bench, struct cs_error *err)
{
    char directory[PATH_ROOM / 2], command[PATH_ROOM], brokers[128] = "";
    struct bench_daemon daemon = { 0 };
    struct watchers watchers = { .port = free_port() };
    bench_progress("what being watched costs: a real Kafka, and its topics");
    snprintf(directory, sizeof directory, "%s/overhead", bench->directory);
    snprintf(command, sizeof command, "mkdir -p %s && tests/kafka/broker.sh start %s/broker", directory, directory);
    if (!bench_command(command, brokers, sizeof brokers, err))
        return cs_error_prefix(err, "Apache Kafka does not start");
    snprintf(command, sizeof command, "%s/tests/kafka/admin %s create impressions:4 clicks:2 >&2", bench->programs,
             brokers);
    bool ok = bench_command(command, NULL, 0, err) && bench_fill_topics(brokers, EVENTS, err) &&
              bench_daemon_config(directory, brokers, 1, watchers.port, err) &&
              bench_daemon_start(bench, directory, &daemon, err);
    if (ok) {
        bench_progress("what being watched costs");
        pthread_create(&watchers.scraper, NULL, scrape, &watchers);
        for (size_t i = 0; i < PAGES; i++) pthread_create(&watchers.page[i], NULL, look, &watchers);
        ok = watch(bench, &daemon, &watchers, err);
        watchers.stop = true;
        pthread_join(watchers.scraper, NULL);
        for (size_t i = 0; i < PAGES; i++) pthread_join(watchers.page[i], NULL);
    }
    bench_daemon_stop(&daemon);
    snprintf(command, sizeof command, "tests/kafka/broker.sh kill %s/broker >&2", directory);
    bench_command(command, NULL, 0, NULL);
    return ok;
}
