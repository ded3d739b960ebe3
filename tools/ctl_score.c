/* score: impressions through libcoldstream, as the serving fleet would score them. JSON lines in, one line out for
 * each. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "daemon/coldstream.h"
#include "tools/ctl_progress.h"
#include "tools/ctl_verbs.h"

const struct program_option ctl_score_options[] = {
    { "checkpoint", 'k', "DIR", "of checkpoints (then the current one), or of one version", true },
    { "events", 'e', "FILE|-", "impressions or examples, one a line [-]", false },
    { NULL, 0, NULL, NULL, false },
};

enum { CALL = 256 };    /* impressions a call: one pass through the model */

struct scoring {
    const struct ctl_arguments *arguments;
    struct coldstream *library;
    const char *name;
    json_t *id[CALL], *request[CALL];
    uint64_t line_of[CALL];
    size_t count;
    uint64_t scored, refused;
};

/* Asks for the impressions [begin, end); where the library refuses several, each is asked for alone, to know which one
 * it was. */
static void score_range(struct scoring *s, size_t begin, size_t end)
{
    char error[512], *text = NULL, *response = NULL;
    json_t *requests = json_array(), *root, *answer, *scores, *is_new;

    for (size_t i = begin; i < end; i++) json_array_append(requests, s->request[i]);
    root = json_pack("{s:o}", "requests", requests);
    text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (!text || coldstream_score_json(s->library, text, strlen(text), &response, error, sizeof error) != 0) {
        free(text);
        if (end - begin > 1) {
            for (size_t i = begin; i < end; i++) score_range(s, i, i + 1);
            return;
        }
        fprintf(stderr, "%s:%llu: %s\n", s->name, (unsigned long long)s->line_of[begin],
                text ? error : "out of memory");
        s->refused++;
        return;
    }
    free(text);
    answer = json_loads(response, 0, NULL);
    scores = json_object_get(answer, "scores");
    is_new = json_object_get(answer, "new");
    for (size_t i = begin; i < end; i++) {
        char *id = json_dumps(s->id[i], JSON_ENCODE_ANY | JSON_COMPACT);
        printf("{\"impression_id\":%s,\"score\":%.9g,\"new\":%s}\n", id ? id : "null",
               json_number_value(json_array_get(scores, i - begin)),
               json_is_true(json_array_get(is_new, i - begin)) || json_integer_value(json_array_get(is_new, i - begin))
                   ? "true"
                   : "false");
        free(id);
        s->scored++;
    }
    json_decref(answer);
    free(response);
}

static void score_all(struct scoring *s)
{
    if (s->count) score_range(s, 0, s->count);
    for (size_t i = 0; i < s->count; i++) {
        json_decref(s->id[i]);
        json_decref(s->request[i]);
    }
    s->count = 0;
}

int ctl_score(const struct ctl_arguments *arguments)
{
    struct scoring s = { .arguments = arguments };
    struct coldstream_options options = { .size = sizeof options, .follow = 0, .verify = 1 };
    struct cs_error err = { 0 };
    const char *events = ctl_value(arguments, "events");
    FILE *file = !events || strcmp(events, "-") == 0 ? stdin : fopen(events, "r");
    char error[512] = "", *line = NULL;
    size_t room = 0;
    uint64_t number = 0;
    struct ctl_progress progress;

    s.name = file == stdin ? "stdin" : events;
    if (!file) {
        cs_fail_errno(&err, errno, "cannot read %s", events);
        return ctl_fail(arguments, &err);
    }
    s.library = coldstream_open(ctl_value(arguments, "checkpoint"), &options, error, sizeof error);
    if (!s.library) {
        if (file != stdin) fclose(file);
        cs_fail(&err, CS_REFUSED, "%s", error);
        return ctl_fail(arguments, &err);
    }
    ctl_progress_start(&progress, arguments, 0, "impressions");
    while (getline(&line, &room, file) >= 0) {
        json_error_t why;
        json_t *event;
        number++;
        if (line[strspn(line, " \t\r\n")] == '\0') continue;
        event = json_loads(line, 0, &why);
        if (!json_is_object(event)) {
            fprintf(stderr, "%s:%llu:%d: not_json: %s\n", s.name, (unsigned long long)number, why.position,
                    event ? "an object is wanted" : why.text);
            json_decref(event);
            s.refused++;
            continue;
        }
        s.id[s.count] = json_deep_copy(json_object_get(event, "impression_id"));
        if (!s.id[s.count]) s.id[s.count] = json_null();
        /* What only learning knows of: scoring must not see it. */
        static const char *const unseen[] = { "event", "impression_id", "ts", "clicked", "converted" };
        for (size_t i = 0; i < sizeof unseen / sizeof *unseen; i++) json_object_del(event, unseen[i]);
        s.request[s.count] = event;
        s.line_of[s.count++] = number;
        if (s.count == CALL) {
            score_all(&s);
            ctl_progress_update(&progress, s.scored, NULL);
        }
    }
    int broken = ferror(file) ? errno : 0;
    score_all(&s);
    ctl_progress_end(&progress);
    free(line);
    if (file != stdin) fclose(file);
    coldstream_close(s.library);
    if (s.refused)
        ctl_say(arguments, "%llu scored, %llu refused", (unsigned long long)s.scored, (unsigned long long)s.refused);
    if (fflush(stdout) != 0) {
        cs_fail_errno(&err, errno, "cannot write scores");
        return ctl_fail(arguments, &err);
    }
    if (broken) {
        cs_fail_errno(&err, broken, "cannot read %s", s.name);
        return ctl_fail(arguments, &err);
    }
    return s.scored == 0 && s.refused ? 1 : 0;
}
