/* Configuration -> core objects. */
#include "daemon/assemble.h"

#include <string.h>

struct decoder *assemble_decoder(const struct cs_config *config, const struct features *features, struct cs_error *err)
{
    struct decode_options options = {
        .format = config->events.format == FORMAT_PROTOBUF ? DECODE_PROTOBUF : DECODE_JSON,
        .max_bytes = config->events.max_bytes,
    };
    for (size_t i = 0; i < config->events.field_count; i++)
        for (size_t field = 0; field < FIELDS; field++)
            if (strcmp(config->events.field[i].name, decode_field_name[field]) == 0)
                options.field[field] = config->events.field[i].value;
    return decoder_create(features, &options, err);
}

struct learner *assemble_learner(const struct cs_config *config, const struct features *features,
                                 struct parallel *parallel, struct cs_error *err)
{
    struct learner_options options = {
        .dimension = config->embedding.dimension,
        .init_std = config->embedding.init_std,
        .table = config->embedding.table,
        .table_count = config->embedding.table_count,
        .model = config->model,
        .seed = config->compute.seed,
    };
    return learner_create(features, &options, parallel, err);
}

struct ingest *assemble_ingest(const struct cs_config *config, const struct features *features, int64_t max_delay,
                               struct cs_error *err)
{
    struct ingest_options options = {
        .join = config->join,
        .history = config->history,
        .batch = { .size = config->batch.size, .max_delay = max_delay },
        .hold_out_new = config->evaluation.hold_out_new,
        .delayed = config->evaluation.delayed,
    };
    return ingest_create(features, &options, err);
}
