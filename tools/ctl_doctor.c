/* doctor: is this machine fit for the daemon of a configuration? Each look is one row: what was found and, where it is
 * not as it should be, what to do. Changes nothing. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <sys/timex.h>
#include <unistd.h>

#include <cblas.h>
#include <dirent.h>
#include <jansson.h>

#include "core/need.h"
#include "daemon/control.h"
#include "daemon/kafka_config.h"
#include "daemon/kafka_probe.h"
#include "daemon/log.h"
#include "daemon/own_places.h"
#include "daemon/text.h"
#include "tools/ctl_snapshot.h"
#include "tools/ctl_verbs.h"

const struct program_option ctl_doctor_options[] = {
    { "config", 'c', "FILE", "the daemon's [/etc/coldstream/coldstream.yaml]", false },
    { "json", 'j', NULL, "for programs", false },
    { NULL, 0, NULL, NULL, false },
};

enum verdict { FINE, WARNING, FAILED };
static const char *const verdict_word[] = { "ok", "warning", "failed" };
static const char *const verdict_color[] = { "\033[32m", "\033[33m", "\033[31m" };

struct look {
    const struct ctl_arguments *arguments;
    const struct cs_config *config;
    json_t *rows;               /* with --json; NULL: told at once */
    size_t count[3];
    char trouble[256];          /* what librdkafka said last */
    const char *trouble_remedy;
};

static void print_wrapped(const char *text)
{
    char *shown = NULL;
    size_t size;
    FILE *out = need(open_memstream(&shown, &size));
    text_show(out, text);
    if (fclose(out)) need(NULL);
    program_wrap(stdout, 31, 31, shown);
    free(shown);
}

static void tell(struct look *look, enum verdict verdict, const char *what, const char *remedy, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
static void tell(struct look *look, enum verdict verdict, const char *what, const char *remedy, const char *format, ...)
{
    char found[512];
    va_list list;
    va_start(list, format);
    vsnprintf(found, sizeof found, format, list);
    va_end(list);
    look->count[verdict]++;
    if (look->rows) {
        json_array_append_new(look->rows, json_pack("{s:s,s:s,s:o,s:o}", "check", what, "result", verdict_word[verdict],
                                                    "found", text_json(found), "remedy",
                                                    text_json(verdict == FINE ? "" : remedy)));
        return;
    }
    if (verdict == FINE && look->arguments->quiet) return;
    bool colors = program_colors(stdout);
    printf("%s%-8s%s%-22s ", colors ? verdict_color[verdict] : "", verdict_word[verdict], colors ? "\033[m" : "", what);
    print_wrapped(found);
    if (verdict == FINE) return;
    printf("%31s", "-> ");
    print_wrapped(remedy);
}

static double gib(uint64_t bytes) { return (double)bytes / (1024.0 * 1024 * 1024); }

/* A file of one line; "" where it can't be read. */
static const char *line_of(const char *path, char text[128])
{
    FILE *file = fopen(path, "re");
    text[0] = 0;
    if (file && fgets(text, 128, file)) text[strcspn(text, "\n")] = 0;
    if (file) fclose(file);
    return text;
}

static void look_at_user(struct look *look)
{
    if (geteuid() == 0)
        tell(look, WARNING, "user", "run this as the daemon's user, so that rights are looked at as it has them: "
             "sudo -u coldstream coldstreamctl doctor", "root");
    else tell(look, FINE, "user", "", "number %u, not root", (unsigned)geteuid());
}

static void look_at_processor(struct look *look)
{
    bool avx2 = true;
#ifdef __x86_64__
    avx2 = __builtin_cpu_supports("avx2");
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    if (avx2) tell(look, FINE, "processor", "", "%ld of them, OpenBLAS core %s", n, openblas_get_corename());
    else
        tell(look, FAILED, "processor", "run on a newer machine, or build with make OPTIMIZE=-O2",
             "no AVX2 (%ld of them)", n);
    if (look->config->compute.threads > (uint64_t)(n > 0 ? n : 1))
        tell(look, WARNING, "compute.threads", "0 takes as many as there are",
             "%llu threads for %ld processors", (unsigned long long)look->config->compute.threads, n);
}

static void look_at_memory(struct look *look)
{
    struct sysinfo memory;
    char text[128];
    if (sysinfo(&memory) != 0) return;
    uint64_t all = (uint64_t)memory.totalram * memory.mem_unit;
    uint64_t least = look->config->source.read_ahead + (512u << 20);
    if (all < least)
        tell(look, WARNING, "memory", "more memory, or a smaller source.kafka.read_ahead",
             "%.1f GiB, where records read ahead alone may take %.1f GiB", gib(all),
             gib(look->config->source.read_ahead));
    else
        tell(look, FINE, "memory", "", "%.1f GiB, swap %.1f GiB", gib(all),
             gib((uint64_t)memory.totalswap * memory.mem_unit));
    line_of("/sys/kernel/mm/transparent_hugepage/enabled", text);
    if (strstr(text, "[always]"))
        tell(look, WARNING, "huge pages", "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
             "transparent huge pages are always used: pauses, and memory held that was freed");
    else if (*text) tell(look, FINE, "huge pages", "", "%s", text);
    if (*line_of("/proc/sys/vm/overcommit_memory", text) == '2')
        tell(look, WARNING, "overcommit", "sudo sysctl vm.overcommit_memory=0",
             "memory is never overcommitted: mapping a large checkpoint may be refused");
}

static void look_at_limits(struct look *look)
{
    struct rlimit files;
    struct timex clock = { 0 };
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < 1024)
        tell(look, WARNING, "open files", "LimitNOFILE=65536 in the unit, or ulimit -n 65536",
             "at most %llu", (unsigned long long)files.rlim_cur);
    else tell(look, FINE, "open files", "", "at most %llu", (unsigned long long)files.rlim_cur);
    if (adjtimex(&clock) == TIME_ERROR || (clock.status & STA_UNSYNC))
        tell(look, WARNING, "clock", "run a time service: events from what seems the future go to the dead letters "
             "(events.max_ahead)", "not synchronized");
    else tell(look, FINE, "clock", "", "synchronized");
}

static uint64_t bytes_below(const char *path, int depth)
{
    uint64_t bytes = 0;
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char inner[PATH_MAX];
        struct stat status;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name) >= (int)sizeof inner ||
            lstat(inner, &status) != 0)
            continue;
        if (S_ISREG(status.st_mode)) bytes += (uint64_t)status.st_blocks * 512;
        else if (S_ISDIR(status.st_mode) && depth > 0) bytes += bytes_below(inner, depth - 1);
    }
    if (directory) closedir(directory);
    return bytes;
}

/* Where file systems can't lock, map or keep what is written. */
static const char *unfit(long type)
{
    switch ((unsigned)type) {
    case 0x6969: return "NFS";
    case 0xff534d42: case 0xfe534d42: case 0x517b: return "SMB";
    case 0x65735546: return "FUSE";
    case 0x01021997: return "9p";
    default: return NULL;
    }
}

static void look_at_directory(struct look *look, const char *what, const char *path)
{
    struct stat status;
    struct statfs system;
    char remedy[512];
    int number = stat(path, &status) != 0 ? errno : S_ISDIR(status.st_mode) ? 0 : ENOTDIR;
    if (number) {
        snprintf(remedy, sizeof remedy, "sudo install -d -o coldstream -g coldstream -m 0750 %.300s", path);
        tell(look, FAILED, what, remedy, "%s: %s", path, number == ENOENT ? "is not there" : strerror(number));
        return;
    }
    if (access(path, R_OK | W_OK | X_OK) != 0) {
        snprintf(remedy, sizeof remedy, "sudo chown -R coldstream: %.300s (or run this as the daemon's user)", path);
        tell(look, FAILED, what, remedy, "%s: %s", path, strerror(errno));
        return;
    }
    if (statfs(path, &system) != 0) {
        tell(look, FAILED, what, "look at the disk", "%s: %s", path, strerror(errno));
        return;
    }
    uint64_t free_bytes = (uint64_t)system.f_bavail * (uint64_t)system.f_bsize, used = bytes_below(path, 2);
    if (unfit(system.f_type)) {
        tell(look, FAILED, what, "a local file system: ext4 or XFS",
             "%s lies on %s, where locks and mapped files can't be "
             "relied on",
             path, unfit(system.f_type));
        return;
    }
    if (status.st_mode & S_IRWXO) {
        snprintf(remedy, sizeof remedy, "chmod o-rwx %.300s", path);
        tell(look, WARNING, what, remedy, "%s is open to everyone (mode %04o)", path, status.st_mode & 07777);
    }
    char why[OWN_PLACES_WHY];
    own_places_look(path, false, why);
    if (*why && !(status.st_mode & S_IRWXO)) {
        snprintf(remedy, sizeof remedy, "sudo chown coldstream: %.300s (or run this as the daemon's user)", path);
        tell(look, WARNING, what, remedy, "%s: %s, who can exchange what is in it", path, why);
    }
    if (system.f_type == 0x01021994)
        tell(look, WARNING, what, "a directory on a disk", "%s lies in memory: gone at the next boot", path);
    /* Twice what is there may be needed for a moment: both keep the last state until the next is whole. */
    if (free_bytes < used + (64u << 20))
        tell(look, FAILED, what, "make room, or move it to a larger disk", "%s: %.2f GiB are free, %.2f GiB are in use",
             path, gib(free_bytes), gib(used));
    else tell(look, FINE, what, "", "%s: %.1f GiB are free, %.2f GiB are in use", path, gib(free_bytes), gib(used));
}

static void look_at_daemon(struct look *look)
{
    struct cs_error err = { 0 };
    const char *path = look->config->control.socket;
    json_t *status = control_request(path, "status", NULL, &err);
    if (status) tell(look, FINE, "control.socket", "", "a daemon answers on %s", path);
    else {
        char folder[PATH_MAX];
        snprintf(folder, sizeof folder, "%s", path);
        char *slash = strrchr(folder, '/');
        if (slash && slash > folder) *slash = 0;
        if (slash && access(folder, W_OK | X_OK) != 0)
            tell(look, WARNING, "control.socket",
                 "the unit makes it (RuntimeDirectory); by hand: sudo install -d -o coldstream "
                 "-m 0750 /run/coldstream",
                 "no daemon answers, and %s: %s", folder, strerror(errno));
        else tell(look, FINE, "control.socket", "", "no daemon answers on %s; there is room for one", path);
    }
    json_decref(status);
}

static void note_trouble(void *self, int code, const char *text)
{
    struct look *look = self;
    snprintf(look->trouble, sizeof look->trouble, "%s", text);
    look->trouble_remedy = kafka_remedy(code, text);
}

/* False: no broker answers, so that further questions are not worth their time. */
static bool look_at_topic(struct look *look, struct kafka_probe *probe, const char *topic, const char *what,
                          enum verdict absent, int32_t only)
{
    char text[256] = "", remedy[512];
    int32_t count = 0;
    switch (kafka_probe_partitions(probe, topic, &count, text, sizeof text)) {
    case KAFKA_ANSWERED:
        if (only && count != only)
            tell(look, FAILED, what, "make it anew with one partition", "topic %s has %d partitions, allowed is %d",
                 topic, (int)count, (int)only);
        else tell(look, FINE, what, "", "topic %s: %d partition%s", topic, (int)count, count == 1 ? "" : "s");
        return true;
    case KAFKA_ABSENT:
        snprintf(remedy, sizeof remedy, "kafka-topics.sh --create --topic %.249s%s", topic,
                 only ? " --partitions 1" : "");
        tell(look, absent, what, remedy, "topic %s does not exist", topic);
        return true;
    case KAFKA_NOT_YET:
        tell(look, FAILED, what, "see to its leader, or to the ACLs of this user", "topic %s: %s", topic, text);
        return true;
    case KAFKA_SILENT: break;
    }
    kafka_probe_poll(probe, 0);
    tell(look, FAILED, "brokers", look->trouble_remedy ? look->trouble_remedy
         : "are they up, and is bootstrap.servers as this machine reaches them?",
         "none answers%s%s", *look->trouble ? ": " : "", look->trouble);
    return false;
}

static void look_at_kafka(struct look *look)
{
    const struct cs_config *config = look->config;
    struct cs_error err = { 0 };
    struct kafka_probe *probe = kafka_probe_create(config, NULL, note_trouble, look, &err);
    if (!probe) {
        tell(look, FAILED, "brokers", "mend source.kafka.properties", "%s", err.message);
        return;
    }
    const struct { const char *topic, *what; bool optional, letters; } topics[] = {
        { config->source.topics.impressions, "impressions", false, true },
        { config->source.topics.clicks, "clicks", false, true },
        { config->source.topics.examples, "examples", false, true },
        { config->source.topics.conversions, "conversions", true, true },
        { config->checkpoint.delta_topic, "checkpoint.delta_topic", true, false },
        { config->checkpoint.announce_topic, "announce_topic", true, false },
    };
    bool answers = true;
    for (size_t i = 0; answers && i < sizeof topics / sizeof *topics; i++) {
        char name[300];
        if (!topics[i].topic) continue;
        answers = look_at_topic(look, probe, topics[i].topic, topics[i].what, topics[i].optional ? WARNING : FAILED,
                                topics[i].topic == config->checkpoint.delta_topic ? 1 : 0);
        snprintf(name, sizeof name, "%s.dlq", topics[i].topic);
        if (answers && topics[i].letters) answers = look_at_topic(look, probe, name, "dead letters", WARNING, 0);
    }
    kafka_probe_destroy(probe);
}

int ctl_doctor(const struct ctl_arguments *arguments)
{
    struct look look = { .arguments = arguments };
    const char *given = ctl_value(arguments, "config"), *file = given ? given : "/etc/coldstream/coldstream.yaml";
    struct cs_config *config = ctl_config_load(file, CONFIG_FOR_DAEMON);

    if (!config) return cs_exit_code(CS_CONFIG);
    look.config = config;
    log_open(arguments->verbose ? LEVEL_DEBUG : LEVEL_ERROR, LOG_TEXT);     /* librdkafka's words: in the rows */
    if (ctl_flag(arguments, "json")) look.rows = json_array();
    tell(&look, FINE, "configuration", "", "%s", file);
    look_at_user(&look);
    look_at_processor(&look);
    look_at_memory(&look);
    look_at_limits(&look);
    look_at_directory(&look, "snapshot.directory", config->snapshot.directory);
    look_at_directory(&look, "checkpoint.directory", config->checkpoint.directory);
    look_at_daemon(&look);
    look_at_kafka(&look);
    if (look.rows) {
        json_t *root = json_pack("{s:b,s:i,s:i,s:o}", "fit", look.count[FAILED] == 0, "warnings",
                                 (int)look.count[WARNING], "failed", (int)look.count[FAILED], "checks", look.rows);
        json_dumpf(root, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(root);
    } else {
        ctl_say(arguments, "%zu fine, %zu warnings, %zu failed", look.count[FINE], look.count[WARNING],
                look.count[FAILED]);
    }
    config_destroy(config);
    return look.count[FAILED] ? cs_exit_code(CS_FAILED) : 0;
}
