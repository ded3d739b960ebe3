/* The versions of what is linked in, asked of the libraries themselves: the one installed, not the one compiled
 * against. */
#include <cblas.h>
#include <librdkafka/rdkafka.h>

#include "config/config.h"
#include "daemon/version.h"
#include "storage/environment.h"

const char version_number[] = COLDSTREAM_VERSION;
const char version_commit[] = COLDSTREAM_COMMIT;

void version_print(const char *program, FILE *out)
{
    fprintf(out, "%s %s (commit %s)\nlibrdkafka %s\nOpenBLAS core %s (%s)\n%s\nlibyaml %s\n", program, version_number,
            version_commit, rd_kafka_version_str(), openblas_get_corename(), openblas_get_config(),
            environment_lmdb_version(), config_yaml_version());
}
