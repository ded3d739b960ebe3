/* The configuration as plain values (interfaces.md, section 3). config_table.c has one row a setting: key, type,
 * offset, bounds, default, doc, reloadable or not; parsing, checks, defaults, the sample and the manual come from those
 * rows. */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "core/options.h"

enum source_mode { SOURCE_ASSIGN, SOURCE_GROUP };
enum source_start { START_EARLIEST, START_LATEST, START_TIMESTAMP };
enum event_format { FORMAT_JSON, FORMAT_PROTOBUF };
enum log_level { LEVEL_ERROR, LEVEL_WARNING, LEVEL_NOTICE, LEVEL_INFO, LEVEL_DEBUG };
enum log_format { LOG_TEXT, LOG_JSON };
enum on_damage { ON_DAMAGE_REFUSE, ON_DAMAGE_PREVIOUS };
enum gate_rollback { ROLLBACK_MANUAL, ROLLBACK_AUTOMATIC };
enum model_preset { PRESET_ONLINE, PRESET_PAPER };

/* Properties, events.fields. content: XXH3-128 of the file that an ssl.*.location names, as it was when the
 * configuration was read; 0: none, or no file. */
struct config_pair { char *name, *value; int line, column; uint64_t content[2]; };

struct cs_config {
    struct {
        bool configured;                    /* a source was given: coldstreamd needs one, train does not */
        struct { char *impressions, *clicks, *conversions, *examples; } topics;     /* NULL: none */
        enum source_mode mode;
        char *group;
        enum source_start start;
        int64_t start_time;                 /* ms, with START_TIMESTAMP */
        int64_t idle_after, discover;       /* ms */
        uint64_t read_ahead;                /* bytes */
        struct config_pair *property;       /* librdkafka's own, secrets already resolved */
        size_t property_count;
    } source;
    struct {
        enum event_format format;
        struct config_pair *field;          /* field name -> path */
        size_t field_count;
        uint64_t max_bytes;
        int64_t max_ahead;                  /* ms that ts may be ahead of the wall clock; 0: no bound */
    } events;
    struct join_options join;
    struct history_options history;
    struct features_options features;
    struct embedding_options embedding;
    enum model_preset preset;               /* already applied to model */
    struct model_options model;             /* model.* and optimizer.* */
    struct batch_options batch;
    bool batch_max_delay_given;             /* in the file: else `train` closes batches by size alone */
    struct evaluation_options evaluation;
    struct {
        char *directory;
        int64_t interval;
        double pace;
        enum on_damage on_damage;
        uint64_t keep_aside;
    } snapshot;
    struct {
        char *directory;
        int64_t interval, delta_interval;
        uint64_t keep;
        char *announce_topic, *delta_topic; /* NULL: none */
        struct config_gate {
            double max_log_loss_rise, max_auc_drop, max_calibration_error;      /* 0: no bound */
            uint64_t min_examples, keep_refused;
            enum gate_rollback rollback;
        } gate;
    } checkpoint;
    struct { char *socket; } control;
    struct { char *listen; } http;
    struct { enum log_level level; enum log_format format; } logging;
    struct { uint64_t threads, seed; } compute;     /* threads 0: as many as processors */

    void *memory;                           /* holds all strings and arrays */
};

enum config_use { CONFIG_FOR_DAEMON, CONFIG_FOR_TRAIN };    /* train needs no source, directory or socket */

struct config_problem { char *text; int line, column; };   /* "found ..., allowed ...", without the position */
struct config_problems { char *file; struct config_problem *problem; size_t count; };

/* May source.kafka.properties have this key and value? False: why not, in message (which need not repeat key or value).
 * The daemon's asks librdkafka itself, which config/ does not know. */
typedef bool config_property_check(const char *key, const char *value, char *message, size_t size);
/* May it have them all together? property: the one that the text is about, NULL: no single one. Called only where each
 * is right by itself; NULL: they are not asked about. */
typedef void config_said(void *self, const char *property, const char *text);
typedef void config_properties_check(const struct cs_config *config, config_said *say, void *self);
struct config_source_checks { config_property_check *property; config_properties_check *properties; };

/* A property of librdkafka from a command line, with its reference resolved; malloc'd, config_wipe it. NULL with
 * the reason in why: the reference fails, or a secret is written out. */
char *config_property_value(const char *key, const char *text, char *why, size_t size);

/* One of source.kafka.properties, NULL where it is not given; and its value. */
const struct config_pair *config_find_property(const struct cs_config *config, const char *name);
const char *config_property(const struct cs_config *config, const char *name, const char *otherwise);
/* May librdkafka be given another value of it while its clients live? */
bool config_property_is_live(const struct cs_config *config, const char *name);
const char *config_sasl_mechanism(const struct cs_config *config);         /* "": none is given */
void config_wipe(char *secret);             /* what was malloc'd: overwrites it, then frees it; NULL is fine */

/* NULL where anything is wrong; all problems of the file are then in *problems, in order of line. */
struct cs_config *config_load(const char *file, enum config_use use, struct config_problems *problems);
/* The same from memory; name stands for the file in messages. */
struct cs_config *config_parse(const char *name, const char *text, size_t length, enum config_use use,
                               struct config_problems *problems);
/* As config_load; for the daemon the properties of the source are shown to checks as well (NULL: as config_load). */
struct cs_config *config_load_checked(const char *file, enum config_use use, const struct config_source_checks *checks,
                                      struct config_problems *problems);
void config_destroy(struct cs_config *config);              /* wipes secrets */
/* One line a problem, "file:line:column: text\n", malloc'd. */
char *config_problems_text(const struct config_problems *problems);
void config_problems_release(struct config_problems *problems);

/* What the learned state depends on, in its shape and its meaning, as YAML that config_parse reads back (for train), in
 * canonical order; malloc'd: features, embedding.dimension, the towers' kinds and widths, the optimizers' kinds. Not in
 * it is what may change between two runs: rates, dropout, init_std, rows' admission and expiry. Stored in snapshots and
 * checkpoints. */
char *config_model_text(const struct cs_config *config);
/* Back from the text that a snapshot or a checkpoint keeps; NULL: it keeps none. CS_REFUSED. */
struct cs_config *config_kept(const char *text, struct cs_error *err);
/* Hexadecimal XXH3-128 of config_model_text: equal where state may be exchanged. text: >= 33 bytes. */
void config_fingerprint(const struct cs_config *config, char text[33]);
/* Every difference between two model texts: "model.ranking.hidden: [512, 256] there, [256] here". migratable:
 * `coldstreamctl migrate` carries a state over in spite of it: features that came, went, changed places or tables, and
 * the length of the behavior sequence where no tower knows its positions. Returns how many there are. */
typedef void config_difference(void *self, const char *text, bool migratable);
size_t config_model_differences(const char *there, const char *here, config_difference *tell, void *self);
/* The first of them, for messages. True: all are migratable. */
bool config_model_difference(const char *there, const char *here, char *text, size_t size);

/* What a reload would change: calls changed for each setting that differs, saying whether it can be changed live. Of a
 * property neither value is told: both are "(not shown)". A file that TLS reads is compared by what is in it. */
typedef void config_changed(void *self, const char *key, const char *from, const char *to, bool live);
void config_compare(const struct cs_config *running, const struct cs_config *wanted, config_changed *changed,
                    void *self);

/* From the table. Written to a file or a terminal by the caller; malloc'd. */
/* Commented YAML, valid as it stands: every setting, or only those that every installation must write itself. */
char *config_sample(bool minimal);
char *config_manual(void);      /* one entry a setting: type, bounds, default, reloadable, doc; Markdown */
char *config_man(const char *version);          /* the same as the man page coldstream.yaml(5) */

const char *config_yaml_version(void);   /* of the libyaml that is linked */

#endif
