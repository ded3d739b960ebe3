/* Values back to YAML, through the table: for the model's text, for comparisons, for the sample. */
#ifndef CONFIG_CONFIG_FORMAT_H
#define CONFIG_CONFIG_FORMAT_H

#include <stdio.h>

#include "config/config_table.h"

/* The value of row in base (a struct cs_config, or a record) as one line of YAML. Secrets are written out. */
char *setting_text(struct pool *pool, const struct setting *row, const void *base);
/* Opens the sections in which key stands and previous (NULL: none) did not, each "name:" on a line; returns key's last
 * part and its depth, for the caller to write "name: value" indented by two blanks a level. */
const char *open_sections(FILE *out, const char *previous, const char *key, int *depth);

#endif
