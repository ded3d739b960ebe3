/* Under systemd a unit may write in a state directory of its own alone. An instance whose configuration names
 * another's, or the single model's, would meet "read-only file system" somewhere, again at each restart; here it is
 * told before anything starts, as what it is: a wrong configuration. And directories that others may write to are
 * warned of: what lies in them can be exchanged under us. */
#ifndef DAEMON_OWN_PLACES_H
#define DAEMON_OWN_PLACES_H

#include "config/config.h"
#include "core/error.h"

enum { OWN_PLACES_WHY = 64 };

/* True where no unit says what is ours ($STATE_DIRECTORY), and where a place that is not ours can be written all the
 * same (ReadWritePaths=, another file system). A control.socket that is taken says so itself. */
bool own_places_check(const struct cs_config *config, struct cs_error *err);
/* May somebody else than root or this user write there? `why`, "": nobody, or it is not there. A group's right to write
 * is taken as meant; so is everybody's in a folder like /tmp (sticky), where `shared`. */
void own_places_look(const char *path, bool shared, char why[OWN_PLACES_WHY]);
void own_places_warn(const struct cs_config *config);

#endif
