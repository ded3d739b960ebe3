/* What the writing and the reading side of a checkpoint share. */
#ifndef STORAGE_CHECKPOINT_FILE_H
#define STORAGE_CHECKPOINT_FILE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "storage/watch.h"

enum { CHECKPOINT_DIGITS = 20, CHECKPOINT_DATABASES_MAX = 1024 };

/* A version's directory name: twenty decimal digits, more than zero. */
bool checkpoint_version_parse(const char *name, uint64_t *version);
/* Of the whole file from its beginning; text: 64 hexadecimal digits. False with errno. */
bool checkpoint_sha256(int fd, const struct storage_watch *watch, uint64_t *size, char text[65]);
/* XXH3-64 of what a manifest says, but for the members "checksum" and "version" (which the directory's name guards): as
 * JSON without spaces, members in the order of their names. text: 16 hexadecimal digits. */
void checkpoint_manifest_checksum(const json_t *manifest, char text[17]);

#endif
