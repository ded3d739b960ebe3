/* Files in directories that others may write to: no link is followed to somewhere else, no pipe is waited for. */
#ifndef STORAGE_FILE_H
#define STORAGE_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "core/error.h"

/* Opens a regular file, 0640 where it is made. With O_NOFOLLOW among the flags a link is refused too. -1: CS_FAILED
 * with errno left as open had it, or CS_REFUSED where there is something else than a file, with errno EINVAL. */
int file_open(const char *path, int flags, struct cs_error *err);
/* For who opens by path alone: CS_REFUSED where there is a link or anything else than a file. */
bool file_check(const char *path, bool *there, struct cs_error *err);
/* Writes directory/name, mode 0640, under the name `.<name>.new` first, and renames it over what is there: a link, a
 * pipe or a second name of some file goes, and what it led to is not touched. Flushed, where `flush`, before it has its
 * name; the directory's entry is the caller's matter. One writer at a time. */
bool file_put(const char *directory, const char *name, const void *bytes, size_t size, bool flush,
              struct cs_error *err);
/* Makes the directory, 0750, where it is missing. CS_REFUSED where there is a link or something else in its place. */
bool file_make_directory(const char *path, struct cs_error *err);
/* Makes a directory, 0750, called `prefix` and six hexadecimal digits, and holds it by flock(2) as long as the handle
 * is open: so what a kill left can be told from it, by file_hold. *path: malloc'd. -1: failed, and nothing is there. */
int file_make_held(const char *prefix, char **path, struct cs_error *err);
/* Holds a directory that nobody holds, to remove it. -1: somebody does, or it is none. */
int file_hold(const char *path);
bool file_is_held_name(const char *name, const char *prefix);      /* by its looks */
/* Removes a directory of files. A link in its place goes, what it leads to stays; a directory that holds one stays. */
void file_remove_directory(const char *path);

#endif
