/* The sample and the manual, written from the table: they can't fall behind it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_format.h"
#include "config/roff.h"
#include "core/need.h"

enum { COMMENT_WIDTH = 96 };

/* text in lines of at most COMMENT_WIDTH, each after `indent` blanks and "# ". */
static void write_comment(FILE *out, int indent, const char *text)
{
    while (*text) {
        size_t room = (size_t)(COMMENT_WIDTH - indent), length = strlen(text);
        if (length > room) {
            for (length = room; length > 0 && text[length] != ' '; length--) {}
            if (length == 0) length = strcspn(text, " ");
        }
        fprintf(out, "%*s# %.*s\n", indent, "", (int)length, text);
        text += length + (text[length] == ' ');
    }
}

static void write_record_comment(struct pool *pool, FILE *out, int indent, enum setting_type type)
{
    struct setting_list rows = setting_record(type);
    for (size_t i = 0; i < rows.count; i++) {
        const struct setting *row = &rows.row[i];
        write_comment(out, indent,
                      pool_format(pool, "  %s: %s %s%s", row->key, row->doc, row->preset ? "Default " : "Required",
                                  row->preset ? row->preset : ""));
    }
}

char *config_sample(bool minimal)
{
    struct pool *pool = pool_create();
    char *text = NULL;
    size_t size = 0;
    FILE *out = need(open_memstream(&text, &size));
    fputs(minimal ? "# Coldstream: what every installation says itself. All else has a default: `coldstreamctl sample` "
                    "prints it.\n"
                    "# `coldstreamctl check-config` checks a file, `coldstreamctl doctor` the machine for it.\n"
                  : "# Coldstream: every setting with its default. Only features and source must be given; delete what "
                    "you don't change.\n"
                    "# `coldstreamd --check-config` checks a file; `coldstreamctl reload` applies changes of the "
                    "settings marked (live).\n",
          out);
    const char *previous = NULL;
    for (size_t i = 0; i < setting_count; i++) {
        const struct setting *row = &settings[i];
        int depth;
        if (minimal && !row->own) continue;
        size_t top = strcspn(row->key, ".");
        if (!previous || strncmp(previous, row->key, top + 1) != 0) fputs("\n", out);
        const char *name = open_sections(out, previous, row->key, &depth);
        write_comment(out, 2 * depth, row->doc);
        write_comment(out, 2 * depth,
                      pool_format(pool, "Allowed: %s.%s%s", setting_allowed(pool, row),
                                  row->paper ? pool_format(pool, " With preset paper: %s.", row->paper) : "",
                                  row->live ? " (live)" : ""));
        if (row->type == SETTING_TABLES || (row->type == SETTING_FEATURES && row->group == GROUP_USER))
            write_record_comment(pool, out, 2 * depth, row->type);
        fprintf(out, "%*s%s: %s\n", 2 * depth, "", name, row->sample ? row->sample : row->preset);
        previous = row->key;
    }
    fclose(out);
    pool_destroy(pool);
    return text;
}

/* What is written before a section and for a setting. key: in full, also of what lies in a list or map. */
struct manual_style {
    void (*section)(FILE *out, const char *key, size_t length);
    void (*entry)(struct pool *pool, FILE *out, const char *key, const struct setting *row, bool in_record);
};

static void write_settings(struct pool *pool, FILE *out, const struct manual_style *style)
{
    const char *previous = NULL;
    for (size_t i = 0; i < setting_count; i++) {
        const struct setting *row = &settings[i];
        size_t top = strcspn(row->key, ".");
        if (!previous || strncmp(previous, row->key, top + 1) != 0) style->section(out, row->key, top);
        previous = row->key;
        style->entry(pool, out, row->key, row, false);
        if (row->type != SETTING_FEATURES && row->type != SETTING_TABLES) continue;
        struct setting_list rows = setting_record(row->type);
        const char *element = row->type == SETTING_FEATURES ? "[]." : ".<table>.";
        for (size_t of = 0; of < rows.count; of++)
            if (row->type == SETTING_TABLES || row->group == GROUP_USER)
                style->entry(pool, out, pool_format(pool, "%s%s%s", row->key, element, rows.row[of].key),
                             &rows.row[of], true);
    }
}

static void write_section(FILE *out, const char *key, size_t length)
{
    fprintf(out, "## %.*s\n\n", (int)length, key);
}

static void write_entry(struct pool *pool, FILE *out, const char *key, const struct setting *row, bool in_record)
{
    fprintf(out, "### `%s`\n\n%s\n\n- allowed: %s\n", key, row->doc, setting_allowed(pool, row));
    if (row->preset) fprintf(out, "- default: `%s`\n", row->preset);
    else fputs("- required\n", out);
    if (row->paper) fprintf(out, "- default with `model.preset: paper`: `%s`\n", row->paper);
    if (!in_record) fprintf(out, "- %s\n", row->live ? "changed by a reload" : "changed by a restart");
    if (row->model) fputs("- part of the model: learned state is refused when it differs\n", out);
    fputs("\n", out);
}

char *config_manual(void)
{
    struct pool *pool = pool_create();
    char *text = NULL;
    size_t size = 0;
    FILE *out = need(open_memstream(&text, &size));
    fputs("# Settings\n\nWritten from the table of settings by `coldstreamctl manual`. Durations are written `500ms` "
          "`10s` `5m` `1h` `30d`,\n"
          "sizes `64MiB` or in bytes. `${VARIABLE}` anywhere in a value is taken from the environment; under\n"
          "`source.kafka.properties`, a value `file:PATH` is that file's content and `credential:NAME` a systemd "
          "credential's.\n\n",
          out);
    write_settings(pool, out, &(struct manual_style){ write_section, write_entry });
    fclose(out);
    pool_destroy(pool);
    return text;
}

/* ---- the same as a man page ---- */

static void man_section(FILE *out, const char *key, size_t length)
{
    fputs(".SH \"", out);
    for (size_t i = 0; i < length; i++) fputc(key[i] - ('a' <= key[i] && key[i] <= 'z') * 32, out);
    fputs("\"\n", out);
}

static void man_entry(struct pool *pool, FILE *out, const char *key, const struct setting *row, bool in_record)
{
    fputs(".TP\n.B ", out);
    roff_line(out, key);
    roff_line(out, row->doc);
    fputs(".br\n", out);
    roff_text(out, pool_format(pool, "Allowed: %s.", setting_allowed(pool, row)));
    if (!row->preset) roff_text(out, " Required.");
    else if (*row->preset) roff_text(out, pool_format(pool, " Default: `%s`", row->preset));
    if (row->paper) roff_text(out, pool_format(pool, "; with `model.preset: paper`: `%s`", row->paper));
    roff_text(out, row->preset && *row->preset ? "." : "");
    if (!in_record) roff_text(out, row->live ? " Changed by a reload." : " Changed by a restart.");
    if (row->model) roff_text(out, " Part of the model: learned state is refused when it differs.");
    fputc('\n', out);
}

char *config_man(const char *version)
{
    struct pool *pool = pool_create();
    char *text = NULL;
    size_t size = 0;
    FILE *out = need(open_memstream(&text, &size));
    roff_begin(out, "coldstream.yaml", 5, version, "configuration of coldstreamd");
    fputs(".SH SYNOPSIS\n.I /etc/coldstream/coldstream.yaml\n.SH DESCRIPTION\n", out);
    roff_line(out,
              "One YAML document. What has to be written is the source and the features; everything else has a "
              "default. The file is checked whole before anything starts: unknown keys, wrong types, values out of "
              "range and contradictions are all told in one run, with line, column, what was found and what is "
              "allowed. Keys are written here with their sections: `batch.size` is the key `size` in the section "
              "`batch`. Anchors, aliases, tags and further documents are refused, as is a file that everyone may "
              "write.");
    fputs(".PP\n", out);
    roff_line(out,
              "Durations are written `500ms`, `10s`, `5m`, `1h`, `30d`, sizes `64MiB` or in bytes. `${VARIABLE}` "
              "anywhere in a value is taken from the environment; `$${` stands for `${`. Under "
              "`source.kafka.properties` a value `file:PATH` is that file's content, and `credential:NAME` that of "
              "one of systemd's credentials.");
    write_settings(pool, out, &(struct manual_style){ man_section, man_entry });
    fputs(".SH EXAMPLES\n.nf\n", out);
    roff_line(out, "source:\n"
                   "  kafka:\n"
                   "    topics: {impressions: impressions, clicks: clicks}\n"
                   "    properties: {bootstrap.servers: \"kafka-1:9092,kafka-2:9092\"}\n"
                   "features:\n"
                   "  user:     [{name: age, bucketize: [18, 25, 35, 45, 55]}, {name: gender}]\n"
                   "  item:     [{name: item_id, table: item}, {name: category}]\n"
                   "  behavior: {table: item, max_length: 100}");
    fputs(".fi\n.SH SEE ALSO\n.BR coldstreamd (8),\n.BR coldstreamctl (1)\n", out);
    fclose(out);
    pool_destroy(pool);
    return text;
}
