/* Under systemd a unit may write in a state directory of its own alone. An instance whose configuration names
 * another's, or the single model's, would meet "read-only file system" somewhere, again at each restart; here it is
 * told before anything starts, as what it is: a wrong configuration. */
#ifndef DAEMON_OWN_PLACES_H
#define DAEMON_OWN_PLACES_H

#include "config/config.h"
#include "core/error.h"

/* True where no unit says what is ours ($STATE_DIRECTORY), and where a place that is not ours can be written all the
 * same (ReadWritePaths=, another file system). A control.socket that is taken says so itself. */
bool own_places_check(const struct cs_config *config, struct cs_error *err);

#endif
