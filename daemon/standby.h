/* A warm standby (source.kafka.mode: group): waits until the state's owner is gone, then is the owner. */
#ifndef DAEMON_STANDBY_H
#define DAEMON_STANDBY_H

#include "config/config.h"
#include "daemon/telemetry.h"
#include "storage/snapshot.h"

enum standby_end { STANDBY_OWNER, STANDBY_STOPPED, STANDBY_FAILED };
/* Opens the configured snapshot directory, as snapshot_open. In mode assign an owned one is an error (CS_FENCED). In
 * mode group it is waited for: systemd is told READY, /readyz says 503 and who owns it, nothing is loaded or read.
 * STOPPED: told so by SIGTERM or SIGINT, which are blocked in every thread. */
enum standby_end standby_open(const struct cs_config *config, struct telemetry *telemetry,
                              struct snapshot_store **store, struct cs_error *err);

#endif
