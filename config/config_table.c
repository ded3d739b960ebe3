/* The table of settings: one row says all of a setting. Their order is that of the sample and the manual. */
#include "config/config_table.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdlib.h>
#include <string.h>

static_assert(sizeof(size_t) == sizeof(uint64_t), "SETTING_COUNT serves both");
static_assert(sizeof(enum source_mode) == sizeof(int), "SETTING_CHOICE writes an int");

#define AT(member) .offset = offsetof(struct cs_config, member)
#define COUNT_AT(member) .count_offset = offsetof(struct cs_config, member)

/* ---- what a text may be ---- */

static bool is_filled(const char *text)
{
    return *text != 0;
}

static bool consists_of(const char *text, size_t most, const char *others)
{
    size_t length = strlen(text);
    if (length == 0 || length > most) return false;
    for (const char *at = text; *at; at++) {
        bool alphanumeric = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || (*at >= '0' && *at <= '9');
        if (!alphanumeric && !strchr(others, *at)) return false;
    }
    return true;
}

static bool is_topic(const char *text)
{
    return consists_of(text, TOPIC_MAX, "._-") && strcmp(text, ".") != 0 && strcmp(text, "..") != 0;
}

static bool is_table(const char *text)
{
    return consists_of(text, NAME_SIZE - 1, "._-");
}

static bool is_feature(const char *text)
{
    if (!*text || strlen(text) >= NAME_SIZE) return false;
    for (const unsigned char *at = (const unsigned char *)text; *at; at++)
        if (*at < 0x20 || *at == 0x7f) return false;
    return true;
}

static bool is_socket(const char *text)
{
    return *text && strlen(text) <= 107;        /* sun_path */
}

static bool is_listen(const char *text)
{
    if (!*text) return true;
    const char *colon = strrchr(text, ':');
    char host[64], *end, address[16];
    if (!colon || colon[1] < '0' || colon[1] > '9' || (size_t)(colon - text) >= sizeof host) return false;
    long port = strtol(colon + 1, &end, 10);
    if (*end || port > 65535) return false;
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;
    size_t length = strlen(host);
    if (length > 2 && host[0] == '[' && host[length - 1] == ']') {
        host[length - 1] = 0;
        return inet_pton(AF_INET6, host + 1, address) == 1;
    }
    return strcmp(host, "localhost") == 0 || inet_pton(AF_INET, host, address) == 1;
}

#define TOPIC .check = is_topic, .allowed = "a topic's name (1 to 249 of a-z A-Z 0-9 . _ -)"
#define TABLE_NAME .check = is_table, .allowed = "a table's name (1 to 63 of a-z A-Z 0-9 . _ -)"
#define DIRECTORY .check = is_filled, .allowed = "a directory"

/* ---- the rows ---- */

#define OPTIMIZER_ROWS(name, member, what) \
    { .key = "optimizer." name ".kind", .type = SETTING_CHOICE, AT(model.member.kind), \
      .choices = "adam adagrad ftrl sgd", .preset = "adam", .model = true, \
      .doc = "The rule by which " what " learn. Its moments are part of the state: another kind needs a new " \
             "start." }, \
    { .key = "optimizer." name ".learning_rate", .type = SETTING_NUMBER, AT(model.member.learning_rate), \
      .preset = "0.001", .min = ">0", .max = "10", .live = true, \
      .doc = "Step size of " what "." }, \
    { .key = "optimizer." name ".beta1", .type = SETTING_NUMBER, AT(model.member.beta1), .preset = "0.9", \
      .min = "0", .max = "<1", \
      .doc = "Adam: how much of the mean gradient is kept from step to step." }, \
    { .key = "optimizer." name ".beta2", .type = SETTING_NUMBER, AT(model.member.beta2), .preset = "0.999", \
      .min = "0", .max = "<1", \
      .doc = "Adam: how much of the mean squared gradient is kept from step to step." }, \
    { .key = "optimizer." name ".epsilon", .type = SETTING_NUMBER, AT(model.member.epsilon), .preset = "1e-8", \
      .min = ">0", .max = "1", \
      .doc = "Adam, Adagrad: added to the divisor, so that it is never zero." }, \
    { .key = "optimizer." name ".initial_accumulator", .type = SETTING_NUMBER, \
      AT(model.member.initial_accumulator), .preset = "0.1", .min = "0", .max = "1000", \
      .doc = "Adagrad, FTRL: what the sum of squared gradients starts from." }, \
    { .key = "optimizer." name ".l1", .type = SETTING_NUMBER, AT(model.member.l1), .preset = "0", .min = "0", \
      .max = "1000", \
      .doc = "FTRL: strength of the L1 term, which sets small parameters to zero." }, \
    { .key = "optimizer." name ".l2", .type = SETTING_NUMBER, AT(model.member.l2), .preset = "0", .min = "0", \
      .max = "1000", \
      .doc = "FTRL: strength of the L2 term, which keeps parameters small." }, \
    { .key = "optimizer." name ".beta", .type = SETTING_NUMBER, AT(model.member.beta), .preset = "1", .min = "0", \
      .max = "1000", \
      .doc = "FTRL: smoothing of the learning rate at the start." }

const struct setting settings[] = {
    { .key = "source.kafka.topics.impressions", .type = SETTING_TEXT, AT(source.topics.impressions), TOPIC,
      .optional = true, .preset = "impressions",
      .doc = "Topic of impressions: what was shown to whom. ~ where examples arrive already joined." },
    { .key = "source.kafka.topics.clicks", .type = SETTING_TEXT, AT(source.topics.clicks), TOPIC, .optional = true,
      .preset = "clicks",
      .doc = "Topic of clicks, which name the impression they belong to." },
    { .key = "source.kafka.topics.conversions", .type = SETTING_TEXT, AT(source.topics.conversions), TOPIC,
      .optional = true, .preset = "conversions",
      .doc = "Topic of conversions. ~ where there are none." },
    { .key = "source.kafka.topics.examples", .type = SETTING_TEXT, AT(source.topics.examples), TOPIC,
      .optional = true, .preset = "~",
      .doc = "Topic of examples that were joined elsewhere: impressions with \"clicked\". They skip the "
             "joiner." },
    { .key = "source.kafka.mode", .type = SETTING_CHOICE, AT(source.mode), .choices = "assign group",
      .preset = "assign",
      .doc = "assign: this daemon owns the snapshot and all partitions of its topics; where another one has the "
             "snapshot it ends. group: it stands by instead, and takes over once the owner is gone. Both share the "
             "directory of the snapshot; there are no rebalances either way." },
    { .key = "source.kafka.group", .type = SETTING_TEXT, AT(source.group), .check = is_filled, .allowed = "a name",
      .preset = "coldstream",
      .doc = "Name under which offsets are committed, for lag tools. The truth is in the snapshot, never in "
             "these offsets." },
    { .key = "source.kafka.start", .type = SETTING_START, AT(source.start), COUNT_AT(source.start_time),
      .preset = "earliest",
      .doc = "Where to begin in a partition that no snapshot knows: earliest, latest, or a time as "
             "2026-01-31T12:00:00Z or in milliseconds since the epoch. A position that is known but no longer "
             "at the broker is an error, never a jump." },
    { .key = "source.kafka.idle_after", .type = SETTING_DURATION, AT(source.idle_after), .preset = "5s",
      .min = "10ms", .max = "1h",
      .doc = "Events are learned in order of time over all partitions. A partition that was read to its end "
             "and brings nothing for this long is no longer waited for." },
    { .key = "source.kafka.discover", .type = SETTING_DURATION, AT(source.discover), .preset = "60s", .min = "100ms",
      .max = "1d",
      .doc = "How often new partitions are looked for, which are read from their beginning, and how often the record "
             "learned last of each partition is compared with what is at the broker: a topic made anew is an error." },
    { .key = "source.kafka.read_ahead", .type = SETTING_SIZE, AT(source.read_ahead), .preset = "256MiB", .min = "1MiB",
      .max = "64GiB",
      .doc = "Memory for records that were read and not yet learned, of all partitions together. A partition gets "
             "64 KiB at least and 16 MiB at most of it, and beyond it what is under way." },
    { .key = "source.kafka.properties", .type = SETTING_PAIRS, AT(source.property), COUNT_AT(source.property_count),
      .preset = "{}", .secret = true, .own = true, .sample = "{bootstrap.servers: 127.0.0.1:9092}",
      .doc = "librdkafka's own properties, passed on as they are: brokers, TLS, SASL. Secrets as ${VARIABLE}, "
             "file:/path or credential:NAME (systemd's LoadCredential). Refused is what the daemon itself "
             "must decide and what runs code. A reload takes another sasl.username and sasl.password of PLAIN and "
             "SCRAM; all else needs a restart." },

    { .key = "events.format", .type = SETTING_CHOICE, AT(events.format), .choices = "json protobuf",
      .preset = "json",
      .doc = "How records are written: JSON objects, or the protobuf schema with the same fields." },
    { .key = "events.fields", .type = SETTING_PAIRS, AT(events.field), COUNT_AT(events.field_count), .preset = "{}",
      .choices = "event impression_id ts user_id user behaviors context item_id item clicked converted",
      .doc = "Where a field stands when it is not where it is expected: field: dotted.path. For instance {ts: "
             "meta.time}." },
    { .key = "events.max_bytes", .type = SETTING_SIZE, AT(events.max_bytes), .preset = "1048576", .min = "64",
      .max = "64MiB",
      .doc = "A record larger than this goes to the dead letters." },
    { .key = "events.max_ahead", .type = SETTING_DURATION, AT(events.max_ahead), .preset = "1d", .min = "0",
      .max = "3650d",
      .doc = "A record whose ts is further ahead of the wall clock than this goes to the dead letters: it would move "
             "event time along and end the wait of all that is pending. 0: no bound. `train` has none." },

    { .key = "join.window", .type = SETTING_DURATION, AT(join.window), .preset = "10m", .min = "1ms", .max = "30d",
      .live = true,
      .doc = "How long, in event time, an impression waits for its click before it becomes an example." },
    { .key = "join.release", .type = SETTING_CHOICE, AT(join.release), .choices = "window click", .preset = "window",
      .doc = "window: every example is released at the same age, so that early clicks carry no bias. click: a "
             "positive is released at its click." },
    { .key = "join.late_click", .type = SETTING_CHOICE, AT(join.late_click), .choices = "drop correct",
      .preset = "drop",
      .doc = "A click after the window: drop counts it; correct learns a positive with the fake negative's "
             "weight taken back." },
    { .key = "join.max_pending", .type = SETTING_COUNT, AT(join.max_pending), .preset = "5000000", .min = "1",
      .max = "1000000000",
      .doc = "Impressions and early clicks held at once: this bounds memory. Beyond it the one that would leave next "
             "leaves early, and is counted as forced." },

    { .key = "history.max_length", .type = SETTING_COUNT, AT(history.max_length), .preset = "100", .min = "1",
      .max = "65535",
      .doc = "Clicked items kept of each user, for events that carry no \"behaviors\"." },
    { .key = "history.max_users", .type = SETTING_COUNT, AT(history.max_users), .preset = "1000000", .min = "1",
      .max = "1000000000",
      .doc = "Users whose clicks are kept. The least recently active leave first." },

    { .key = "features.user", .type = SETTING_FEATURES, AT(features), .group = GROUP_USER, .preset = "[]",
      .model = true, .own = true,
      .sample = "[{name: age, bucketize: [18, 25, 35, 45, 55]}, {name: gender}, {name: city, table: city}]",
      .doc = "Attributes of the user, from the event's \"user\". What a new user is known by." },
    { .key = "features.context", .type = SETTING_FEATURES, AT(features), .group = GROUP_CONTEXT, .preset = "[]",
      .model = true, .own = true, .sample = "[{name: hour}]",
      .doc = "Features of the request, from the event's \"context\"." },
    { .key = "features.item", .type = SETTING_FEATURES, AT(features), .group = GROUP_ITEM, .preset = "[]",
      .model = true, .own = true, .sample = "[{name: item_id, table: item}, {name: category}]",
      .doc = "Features of the item, from the event's \"item\". item_id is the event's own item id." },
    { .key = "features.behavior.table", .type = SETTING_NAME, AT(features.behavior_table), TABLE_NAME,
      .preset = "item", .model = true,
      .doc = "Embedding table of the items in a user's behaviors; by default it is shared with the target's "
             "item_id." },
    { .key = "features.behavior.max_length", .type = SETTING_COUNT, AT(features.behavior_max_length),
      .preset = "100", .min = "1", .max = "65535", .model = true,
      .doc = "The last so many behaviors count." },

    { .key = "embedding.dimension", .type = SETTING_COUNT, AT(embedding.dimension), .preset = "32", .min = "1",
      .max = "1024", .model = true,
      .doc = "Numbers in a row of every embedding table." },
    { .key = "embedding.init_std", .type = SETTING_NUMBER, AT(embedding.init_std), .preset = "0.01", .min = "0",
      .max = "10",
      .doc = "Standard deviation of a new row." },
    { .key = "embedding.tables", .type = SETTING_TABLES, AT(embedding.table), COUNT_AT(embedding.table_count),
      .preset = "{}", .sample = "{item: {admit_after: 1, expire_after: 0, max_rows: 0}}",
      .doc = "When rows come and go, by table. A table that is not named here keeps a row for every value "
             "that it sees." },

    { .key = "model.preset", .type = SETTING_CHOICE, AT(preset), .choices = "online paper", .preset = "online",
      .doc = "Where the defaults of model come from: online serves a single pass over a stream; paper is the "
             "published setting (dropout 0.5, target sequence)." },
    { .key = "model.ranking.tower", .type = SETTING_CHOICE, AT(model.ranking.tower), .preset = "base_dnn",
      .model = true, .choices = "emb_lr base_dnn -wide_deep -deep_fm -dmr -esmm",
      .doc = "The model that ranks. emb_lr: one linear layer over the embeddings. base_dnn: hidden layers "
             "with batch normalisation." },
    { .key = "model.ranking.hidden", .type = SETTING_WIDTHS, AT(model.ranking.hidden),
      COUNT_AT(model.ranking.hidden_count), .preset = "[512, 256]", .min = "1", .max = "16384", .least = 1,
      .most = LAYERS_MAX, .model = true,
      .doc = "Widths of the hidden layers. Not for emb_lr, which has none." },
    { .key = "model.ranking.dropout", .type = SETTING_NUMBER, AT(model.ranking.dropout), .preset = "0",
      .paper = "0.5", .min = "0", .max = "<1",
      .doc = "Share of a hidden layer's inputs left out while learning. In one pass over a stream it costs "
             "accuracy. Not for emb_lr." },
    { .key = "model.zero_shot.kind", .type = SETTING_CHOICE, AT(model.zero_shot.kind),
      .choices = "mail none linear -llae -meta_emb", .preset = "mail", .model = true,
      .doc = "What new users get in place of the behaviors that they lack. mail: generated by two "
             "auto-encoders aligned on old users. linear: a linear map of their attributes. none: nothing." },
    { .key = "model.zero_shot.losses", .type = SETTING_CHOICE, AT(model.zero_shot.losses),
      .choices = "full dual single", .preset = "full", .model = true, .mail = true,
      .doc = "mail: full is both reconstructions and the distance of the codes; dual leaves out the distance; "
             "single has the user side alone." },
    { .key = "model.zero_shot.target", .type = SETTING_CHOICE, AT(model.zero_shot.target),
      .choices = "pooled sequence", .preset = "pooled", .paper = "sequence", .model = true, .mail = true,
      .doc = "mail: generate the sum of a user's behaviors (pooled) or the whole sequence, which costs more "
             "and which a tower that reads only the sum does not need." },
    { .key = "model.zero_shot.attention", .type = SETTING_COUNT, AT(model.zero_shot.attention), .preset = "128",
      .min = "1", .max = "16384", .model = true, .mail = true,
      .doc = "mail: size of the attention that pools attributes and behaviors." },
    { .key = "model.zero_shot.encoder", .type = SETTING_WIDTHS, AT(model.zero_shot.encoder),
      COUNT_AT(model.zero_shot.encoder_count), .preset = "[1024, 512, 512]", .min = "1", .max = "16384", .least = 3,
      .most = 3, .model = true, .mail = true,
      .doc = "mail: widths of the encoders' three layers." },
    { .key = "model.zero_shot.decoder", .type = SETTING_WIDTHS, AT(model.zero_shot.decoder),
      COUNT_AT(model.zero_shot.decoder_count), .preset = "[512, 1024]", .min = "1", .max = "16384", .least = 2,
      .most = 2, .model = true, .mail = true,
      .doc = "mail: widths of the decoders' first two layers; the third's follows from what is decoded." },
    { .key = "model.zero_shot.dropout", .type = SETTING_NUMBER, AT(model.zero_shot.dropout), .preset = "0",
      .paper = "0.5", .min = "0", .max = "<1",
      .doc = "mail: share of the inputs of the encoders' and decoders' first two layers left out while "
             "learning." },
    { .key = "model.zero_shot.bandwidth", .type = SETTING_NUMBER, AT(model.zero_shot.bandwidth), .preset = "1",
      .min = ">0", .max = "1000000",
      .doc = "mail: width of the kernel by which the distance of the codes is measured." },
    { .key = "model.zero_shot.sample", .type = SETTING_NUMBER, AT(model.zero_shot.sample), .preset = "1",
      .min = ">0", .max = "1",
      .doc = "mail: share of a batch's old-user examples that train the tower. Less is faster." },

    OPTIMIZER_ROWS("ranking", ranking_optimizer, "the ranking tower's parameters"),
    OPTIMIZER_ROWS("zero_shot", zero_shot_optimizer, "the zero-shot tower's parameters"),
    OPTIMIZER_ROWS("embedding", embedding_optimizer, "the embedding rows"),

    { .key = "batch.size", .type = SETTING_COUNT, AT(batch.size), .preset = "1024", .min = "1", .max = "65536",
      .doc = "Examples learned in one step." },
    { .key = "batch.max_delay", .type = SETTING_DURATION, AT(batch.max_delay), .preset = "1s", .min = "0",
      .max = "1d",
      .doc = "A batch closes this long, in event time, after its first example, even if it is not full. 0: by "
             "size alone. coldstreamctl train closes batches by size alone unless this is given." },

    { .key = "evaluation.window", .type = SETTING_COUNT, AT(evaluation.window), .preset = "100000", .min = "1",
      .max = "100000000",
      .doc = "Examples that the windowed metrics look back on." },
    { .key = "evaluation.hold_out_new", .type = SETTING_NUMBER, AT(evaluation.hold_out_new), .preset = "0",
      .min = "0", .max = "1",
      .doc = "This share of users, by a hash of the user id, loses its behaviors: how well would new users be "
             "served?" },
    { .key = "evaluation.delayed", .type = SETTING_NUMBER, AT(evaluation.delayed), .preset = "0.1", .min = "0",
      .max = "1",
      .doc = "The impressions of this share of users, by a hash of the user id, are scored as they are shown, too, "
             "and judged by that score when their clicks are known: delayed_* beside progressive_* in the metrics. "
             "0: off. A forward pass more for each: measured, 0.1 costs 2 to 3 % of training, 1 costs 9 % with "
             "zero_shot.kind mail and 26 % with none." },

    { .key = "snapshot.directory", .type = SETTING_TEXT, AT(snapshot.directory), DIRECTORY,
      .preset = "/var/lib/coldstream/snapshot",
      .doc = "The daemon's own state. Owned by one daemon at a time." },
    { .key = "snapshot.interval", .type = SETTING_DURATION, AT(snapshot.interval), .preset = "60s", .min = "100ms",
      .max = "1d", .live = true,
      .doc = "The longest stretch of the stream that a crash makes the daemon learn again." },
    { .key = "snapshot.pace", .type = SETTING_NUMBER, AT(snapshot.pace), .preset = "0.06", .min = "0.01", .max = "1",
      .live = true,
      .doc = "The share of one core that writing a snapshot takes while the daemon learns. The last snapshot before "
             "the end, and one that reading waits for, take what they can get." },
    { .key = "snapshot.on_damage", .type = SETTING_CHOICE, AT(snapshot.on_damage), .choices = "refuse previous",
      .preset = "refuse",
      .doc = "What to do at the start where the newest snapshot is damaged: refuse, saying what is damaged; or go on "
             "from the one before it, if that is intact. Then all of it is read and compared first." },
    { .key = "snapshot.keep_aside", .type = SETTING_COUNT, AT(snapshot.keep_aside), .preset = "16", .min = "0",
      .max = "10000",
      .doc = "Batches that are skipped because a loss or a gradient is not finite are kept in <directory>/aside as "
             "JSON lines, at most so many and 64 MiB; of batches all skipped in a row the first. 0: none." },

    { .key = "checkpoint.directory", .type = SETTING_TEXT, AT(checkpoint.directory), DIRECTORY,
      .preset = "/var/lib/coldstream/checkpoints",
      .doc = "Where versions for serving are published: <directory>/<version>, and current, a symbolic link "
             "to the newest." },
    { .key = "checkpoint.interval", .type = SETTING_DURATION, AT(checkpoint.interval), .preset = "5m",
      .min = "100ms", .max = "30d", .live = true,
      .doc = "How often a version is published." },
    { .key = "checkpoint.keep", .type = SETTING_COUNT, AT(checkpoint.keep), .preset = "5", .min = "1",
      .max = "10000",
      .doc = "Versions kept. Older ones are removed, but never the current one, the one before it, or a pinned one." },
    { .key = "checkpoint.gate.max_log_loss_rise", .type = SETTING_NUMBER, AT(checkpoint.gate.max_log_loss_rise),
      .preset = "0", .min = "0", .max = "10", .live = true,
      .doc = "A version is not published where the windowed log loss of all, new or old users is higher by more than "
             "this than it was when the current version was published. 0: no bound. Try 0.02." },
    { .key = "checkpoint.gate.max_auc_drop", .type = SETTING_NUMBER, AT(checkpoint.gate.max_auc_drop), .preset = "0",
      .min = "0", .max = "1", .live = true,
      .doc = "The same for the windowed AUC, lower by more than this. 0: no bound. Try 0.02." },
    { .key = "checkpoint.gate.max_calibration_error", .type = SETTING_NUMBER,
      AT(checkpoint.gate.max_calibration_error), .preset = "0", .min = "0", .max = "100", .live = true,
      .doc = "A version is not published where predicted clicks over clicks, in the window, is further from 1 than "
             "this, and further than it was when the current version was published. 0: no bound. Try 0.2." },
    { .key = "checkpoint.gate.min_examples", .type = SETTING_COUNT, AT(checkpoint.gate.min_examples),
      .preset = "1000", .min = "1", .max = "100000000", .live = true,
      .doc = "Fewer examples than this of all, new or old users are not judged. Also the examples after which a "
             "published version is first judged for checkpoint.gate.rollback." },
    { .key = "checkpoint.gate.rollback", .type = SETTING_CHOICE, AT(checkpoint.gate.rollback),
      .choices = "manual automatic", .preset = "manual", .live = true,
      .doc = "automatic: at each snapshot, the examples scored since the current version was cut are judged by the "
             "same bounds; where one is broken, the version before becomes current, and nothing is published until "
             "`coldstreamctl resume`." },
    { .key = "checkpoint.gate.keep_refused", .type = SETTING_COUNT, AT(checkpoint.gate.keep_refused), .preset = "3",
      .min = "1", .max = "1000", .live = true,
      .doc = "Refused versions kept under <directory>/refused, each with its reason; no reader follows them." },
    { .key = "checkpoint.announce_topic", .type = SETTING_TEXT, AT(checkpoint.announce_topic), TOPIC,
      .optional = true, .preset = "~",
      .doc = "Topic that is told of each published version and of each rollback." },
    { .key = "checkpoint.delta_topic", .type = SETTING_TEXT, AT(checkpoint.delta_topic), TOPIC,
      .optional = true, .preset = "~",
      .doc = "Topic to which what changed since the version before is sent as it is learned, for readers that can't "
             "wait for the next one. Records of up to 512 KiB go to partition 0: make it with one partition." },
    { .key = "checkpoint.delta_interval", .type = SETTING_DURATION, AT(checkpoint.delta_interval), .preset = "500ms",
      .min = "10ms", .max = "1h", .live = true,
      .doc = "How often a delta is sent, at most. One at a time is under way." },

    { .key = "control.socket", .type = SETTING_TEXT, AT(control.socket), .check = is_socket,
      .allowed = "a path of at most 107 bytes", .preset = "/run/coldstream/control.sock",
      .doc = "Unix socket on which coldstreamctl talks to the daemon. Of coldstream@NAME: "
             "/run/coldstream-NAME/control.sock." },

    { .key = "http.listen", .type = SETTING_TEXT, AT(http.listen), .check = is_listen, .preset = "127.0.0.1:9464",
      .allowed = "address:port as 127.0.0.1:9464 or [::1]:9464, or \"\" for none",
      .doc = "Address of the read-only pages: /metrics, /livez, /readyz, /status and /. They ask for no "
             "password: think before leaving loopback. Each daemon on a machine needs a port of its own. \"\" turns "
             "them off." },

    { .key = "logging.level", .type = SETTING_CHOICE, AT(logging.level),
      .choices = "error warning notice info debug", .preset = "info", .live = true,
      .doc = "The least important messages that are still logged." },
    { .key = "logging.format", .type = SETTING_CHOICE, AT(logging.format), .choices = "text json", .preset = "text",
      .live = true,
      .doc = "How a log line is written. Under systemd, messages go to the journal with their fields, "
             "whatever stands here." },

    { .key = "compute.threads", .type = SETTING_COUNT, AT(compute.threads), .preset = "0", .min = "0", .max = "256",
      .doc = "Threads that compute. 0: as many as the processors that the daemon may use. What is learned "
             "does not depend on it." },
    { .key = "compute.seed", .type = SETTING_COUNT, AT(compute.seed), .preset = "1", .min = "0",
      .max = "9223372036854775807",
      .doc = "Where all randomness starts: the same seed and stream learn the same model." },
};
const size_t setting_count = sizeof settings / sizeof *settings;

/* One element of features.user, .context and .item. */
const struct setting feature_settings[] = {
    { .key = "name", .type = SETTING_NAME, .offset = offsetof(struct feature_options, name), .check = is_feature,
      .allowed = "a name of 1 to 63 bytes",
      .doc = "The field in the event's object." },
    { .key = "kind", .type = SETTING_CHOICE, .offset = offsetof(struct feature_options, kind),
      .choices = "categorical dense", .preset = "categorical",
      .doc = "categorical: a value, or a list of values, each with a row in a table. dense: a number as it is." },
    { .key = "table", .type = SETTING_NAME, .offset = offsetof(struct feature_options, table), TABLE_NAME,
      .optional = true, .preset = "~",
      .doc = "Embedding table; features may share one. By default the feature's name." },
    { .key = "bucketize", .type = SETTING_BOUNDS, .offset = offsetof(struct feature_options, bucket),
      .count_offset = offsetof(struct feature_options, bucket_count), .preset = "[]",
      .doc = "Ascending bounds: the number's bucket is its value." },
};
const size_t feature_setting_count = sizeof feature_settings / sizeof *feature_settings;

/* One value of embedding.tables. */
static const struct setting table_settings[] = {
    { .key = "admit_after", .type = SETTING_COUNT32, .offset = offsetof(struct table_options, admit_after),
      .preset = "1", .min = "1", .max = "1000000",
      .doc = "A row is made when its value is seen for this many times." },
    { .key = "expire_after", .type = SETTING_DURATION, .offset = offsetof(struct table_options, expire_after),
      .preset = "0", .min = "0", .max = "3650d",
      .doc = "A row not seen for this long, in event time, goes. 0: never." },
    { .key = "max_rows", .type = SETTING_COUNT, .offset = offsetof(struct table_options, max_rows), .preset = "0",
      .min = "0", .max = "4000000000",
      .doc = "Rows beyond this push out the least recently seen. 0: no limit." },
};

struct setting_list setting_record(enum setting_type type)
{
    if (type == SETTING_FEATURES) return (struct setting_list){ feature_settings, feature_setting_count };
    assert(type == SETTING_TABLES);
    return (struct setting_list){ table_settings, sizeof table_settings / sizeof *table_settings };
}

size_t setting_index(const char *key)
{
    size_t i = 0;
    while (i < setting_count && strcmp(settings[i].key, key) != 0) i++;
    assert(i < setting_count);
    return i;
}

const char *choice_word(struct pool *pool, const char *choices, size_t index, bool *available)
{
    while (choices && index-- > 0) choices = strchr(choices, ' ') ? strchr(choices, ' ') + 1 : NULL;
    if (!choices) return NULL;
    if (available) *available = *choices != '-';
    if (*choices == '-') choices++;
    return pool_copy(pool, choices, strcspn(choices, " "));
}

static const char *range(struct pool *pool, const struct setting *row, const char *what)
{
    bool above = row->min[0] == '>', below = row->max[0] == '<';
    return pool_format(pool, "%s %s %s %s %s", what, above ? "greater than" : "from", row->min + above,
                       below ? "to less than" : "to", row->max + below);
}

const char *setting_allowed(struct pool *pool, const struct setting *row)
{
    const char *none = row->optional ? ", or ~" : "";
    switch (row->type) {
    case SETTING_TEXT:
    case SETTING_NAME: return pool_format(pool, "%s%s", row->allowed, none);
    case SETTING_DURATION: return pool_format(pool, "%s (units ms s m h d)", range(pool, row, "a duration"));
    case SETTING_SIZE:
        return pool_format(pool, "%s, in bytes or as 64MiB (units KiB MiB GiB)", range(pool, row, "a size"));
    case SETTING_COUNT:
    case SETTING_COUNT32: return range(pool, row, "a whole number");
    case SETTING_NUMBER: return range(pool, row, "a number");
    case SETTING_CHOICE: {
        const char *text = "", *word;
        bool available;
        for (size_t i = 0; (word = choice_word(pool, row->choices, i, &available)); i++)
            if (available) text = pool_format(pool, "%s%s%s", text, *text ? ", " : "", word);
        return text;
    }
    case SETTING_WIDTHS:
        if (row->least == row->most)
            return pool_format(pool, "a list of %zu widths, each %s", row->least, range(pool, row, "a whole number"));
        return pool_format(pool, "a list of %zu to %zu widths, each %s", row->least, row->most,
                           range(pool, row, "a whole number"));
    case SETTING_BOUNDS: return "a list of ascending numbers";
    case SETTING_START: return "earliest, latest, or a time as 2026-01-31T12:00:00Z or in milliseconds since the epoch";
    case SETTING_PAIRS: return "a map of names to texts";
    case SETTING_FEATURES: return "a list of features as {name: age}";
    case SETTING_TABLES: return "a map of tables as {item: {max_rows: 1000000}}";
    }
    return "";
}
