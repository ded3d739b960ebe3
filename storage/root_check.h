/* LMDB 0.9.24 trusts its file: a damaged page makes it crash, run in circles or give another page's bytes. Before it
 * reads one, all that is in use is walked here: both meta pages, every tree, every overflow run, the free pages. */
#ifndef STORAGE_ROOT_CHECK_H
#define STORAGE_ROOT_CHECK_H

#include <stdbool.h>

#include "core/error.h"

/* CS_REFUSED says which page is damaged, and how. The file may be written by another process meanwhile. A check costs a
 * read of each page in use, but for the insides of overflow runs. Databases whose names begin with `apart` (NULL: none)
 * are left out: LMDB must not be asked for what is in them. */
bool root_check(const char *file, const char *apart, struct cs_error *err);

#endif
