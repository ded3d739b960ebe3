/* What --version says: this build and the libraries it runs on. */
#ifndef DAEMON_VERSION_H
#define DAEMON_VERSION_H

#include <stdio.h>

extern const char version_number[];     /* "0.1.0" */
extern const char version_commit[];     /* "1a2b3c4d5e6f", "-dirty" behind it where the tree had changes */

void version_print(const char *program, FILE *out);

#endif
