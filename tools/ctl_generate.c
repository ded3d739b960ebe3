/* generate: the synthetic world's stream to a file, a pipe or Kafka, as fast as it goes or at a rate. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/generate_kafka.h"
#include "tools/ctl_progress.h"
#include "tools/ctl_verbs.h"
#include "tools/generate.h"

/* From "events" on, the settings of generate.h under the same names. */
const struct program_option ctl_generate_options[] = {
    { "profile", 'p', "FILE|NAME", "day, bench, small, or a file of \"name: value\" lines [day]", false },
    { "output", 'o', "FILE", "write lines there [-: stdout]", false },
    { "kafka", 'b', "[HOST:PORT,...]",
      "produce to topics instead [127.0.0.1:9092]; records keyed by impression id", false },
    { "property", 'X', "NAME=VALUE,...", "librdkafka's own settings of the producer", false },
    { "topics", 0, "A,B,C,D", "names for impressions, clicks, conversions, examples", false },
    { "rate", 'r', "R", "events a second [0: as fast as it goes]", false },
    { "split", 0, NULL, "with --output: FILE.impressions, FILE.clicks and so on, a file a topic", false },
    { "events", 'n', "N", "how many events in all, clicks included", false },
    { "seed", 's', "N", "one seed, one stream", false },
    PROGRAM_MORE,
    { "users", 0, "N", "users", false },
    { "items", 0, "N", "items", false },
    { "categories", 0, "N", "categories of items", false },
    { "attributes", 0, "N", "attributes of a user, 1 to 8", false },
    { "new-share", 0, "S", "share of the sessions that are new users'", false },
    { "attributes-say", 0, "S", "share of a taste's variance that the attributes tell", false },
    { "strength", 0, "X", "of taste in the click's logit", false },
    { "click-bias", 0, "X", "the click's logit for a neutral pair", false },
    { "zipf", 0, "X", "exponent of the items' popularity", false },
    { "behavior-mean", 0, "N", "past clicks of an old user, mean", false },
    { "behavior-max", 0, "N", "and at most", false },
    { "session-mean", 0, "N", "items shown in a session, mean", false },
    { "start", 0, "MS", "event time of the first event", false },
    { "span", 0, "DURATION", "event time that the events cover: 24h, 30m", false },
    { "click-delay", 0, "DURATION", "of a click after its impression, mean", false },
    { "window", 0, "DURATION", "late clicks come between one and two of these", false },
    { "late-share", 0, "S", "of the clicks", false },
    { "duplicate-share", 0, "S", "of impressions and clicks that come twice", false },
    { "disorder-share", 0, "S", "of impressions that come up to 2 s late", false },
    { "conversion-share", 0, "S", "of the clicks that are followed by a conversion", false },
    { "joined", 'j', NULL, "`example` events, already joined, instead of impressions and clicks", false },
    { "key-user", 0, NULL, "impressions keyed by user id instead of impression id", false },
    { NULL, 0, NULL, NULL, false },
};

/* Holds the stream to a rate: sleeps when it is more than a millisecond ahead. */
static void pace(double rate, double started, uint64_t done)
{
    double ahead;

    if (rate <= 0 || (done & 15) != 0) return;
    ahead = (double)done / rate - (ctl_seconds() - started);
    if (ahead > 0.001) {
        struct timespec wait = { (time_t)ahead, (long)((ahead - (double)(time_t)ahead) * 1e9) };
        nanosleep(&wait, NULL);
    }
}

struct files { FILE *file[GENERATED_TOPICS]; const char *output; bool split; };

static bool open_files(struct files *files, const char *output, bool split, bool joined, bool conversions,
                       struct cs_error *err)
{
    files->split = split;
    files->output = output && strcmp(output, "-") != 0 ? output : "stdout";
    if (!output || strcmp(output, "-") == 0) {
        if (split) return cs_fail(err, CS_USAGE, "--split: found no --output FILE to begin the files' names with");
        for (size_t i = 0; i < GENERATED_TOPICS; i++) files->file[i] = stdout;
        return true;
    }
    for (size_t i = 0; i < GENERATED_TOPICS; i++) {
        char name[4096];
        bool used = joined ? i == GENERATED_EXAMPLE : i == GENERATED_CONVERSION ? conversions : i != GENERATED_EXAMPLE;
        if (split && !used) continue;
        if (!split && i > 0) {
            files->file[i] = files->file[0];
            continue;
        }
        if (split) snprintf(name, sizeof name, "%s.%s", output, generated_topic_name[i]);
        else snprintf(name, sizeof name, "%s", output);
        files->file[i] = fopen(name, "w");
        if (!files->file[i]) return cs_fail_errno(err, errno, "cannot write %s", name);
        setvbuf(files->file[i], NULL, _IOFBF, 1 << 20);
    }
    return true;
}

static bool close_files(struct files *files, struct cs_error *err)
{
    bool ok = true;

    for (size_t i = 0; i < GENERATED_TOPICS; i++) {
        if (!files->file[i] || (i > 0 && !files->split)) continue;
        bool bad = ferror(files->file[i]) != 0;
        if (files->file[i] == stdout ? fflush(stdout) != 0 : fclose(files->file[i]) != 0) bad = true;
        if (bad && ok) ok = cs_fail_errno(err, errno, "cannot write all events to %s", files->output);
    }
    return ok;
}

static bool write_line(struct files *files, const struct generated *event, struct cs_error *err)
{
    FILE *file = files->file[event->topic];

    if (fwrite(event->value, 1, event->value_length, file) == event->value_length && putc_unlocked('\n', file) != EOF)
        return true;
    return cs_fail_errno(err, errno, "cannot write events to %s", files->output);
}

int ctl_generate(const struct ctl_arguments *arguments)
{
    struct cs_error err = { 0 };
    struct generate_settings settings;
    struct generator *generator = NULL;
    struct generate_kafka *kafka = NULL;
    struct files files = { 0 };
    struct generated event;
    struct ctl_progress progress;
    uint64_t rate, done = 0;
    bool ok = false, to_files = false;
    const char *brokers = ctl_value(arguments, "kafka");
    double started = ctl_seconds();

    if (!ctl_count(arguments, "rate", 0, 100000000, 0, &rate, &err)) return ctl_fail(arguments, &err);
    if (!generate_profile(&settings, ctl_value(arguments, "profile") ? ctl_value(arguments, "profile") : "day", &err))
        return ctl_fail(arguments, &err);
    for (const struct generate_setting *s = generate_setting_table; s->name; s++) {
        const char *value = ctl_value(arguments, s->name);
        if (value && !generate_set(&settings, s->name, s->type == 'b' ? "yes" : value, &err))
            return ctl_fail(arguments, &err);
    }
    if (brokers && ctl_value(arguments, "output")) {
        cs_fail(&err, CS_USAGE, "found --output and --kafka, allowed is one of them");
        return ctl_fail(arguments, &err);
    }
    generator = generator_create(&settings, &err);
    if (!generator) goto out;
    if (brokers) {
        kafka = generate_kafka_create(*brokers ? brokers : "127.0.0.1:9092", ctl_value(arguments, "property"),
                                      ctl_value(arguments, "topics"), &err);
        if (!kafka) goto out;
    } else {
        to_files = true;
        if (!open_files(&files, ctl_value(arguments, "output"), ctl_flag(arguments, "split"), settings.joined,
                        settings.conversion_share > 0, &err))
            goto out;
    }
    started = ctl_seconds();
    ctl_progress_start(&progress, arguments, settings.events, "events");
    while (generator_next(generator, &event)) {
        if (!(kafka ? generate_kafka_send(kafka, &event, &err) : write_line(&files, &event, &err))) goto out;
        done++;
        pace((double)rate, started, done);
        if ((done & 1023) == 0 || rate) ctl_progress_update(&progress, done, NULL);
    }
    if (kafka && !generate_kafka_flush(kafka, &err)) goto out;
    ok = true;
out:
    if (generator && done) ctl_progress_end(&progress);
    if (to_files) {
        struct cs_error late = { 0 };
        if (!close_files(&files, &late) && ok) {
            ok = false;
            err = late;
        }
    }
    generate_kafka_destroy(kafka);
    generator_destroy(generator);
    if (!ok) return ctl_fail(arguments, &err);
    ctl_say(arguments, "%llu events in %.1f s, %.0f a second", (unsigned long long)done, ctl_seconds() - started,
            (double)done / (ctl_seconds() - started + 1e-9));
    return 0;
}
