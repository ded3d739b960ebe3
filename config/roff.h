/* Text for man pages, with what roff would read as its own escaped. */
#ifndef CONFIG_ROFF_H
#define CONFIG_ROFF_H

#include <stdio.h>

/* text as it stands, within a line; a line break stays one, and begins no request. `code` comes out bold. */
void roff_text(FILE *out, const char *text);
/* The same, then a line break. */
void roff_line(FILE *out, const char *text);
/* .TH and what follows from it; name in small letters: coldstream.yaml. */
void roff_begin(FILE *out, const char *name, int section, const char *version, const char *brief);

#endif
