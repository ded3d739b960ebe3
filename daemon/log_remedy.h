/* What an operator does next about a warning or an error: a row a message, added to its line as remedy="...", and to
 * journald's catalog (tools/log_catalog.c), where `journalctl -x` finds it by the message's id. A message that no row
 * has must say so itself, in a field `remedy`, which goes before a row's; tests/unit/test_log.c reads the sources for
 * it. */
#ifndef DAEMON_LOG_REMEDY_H
#define DAEMON_LOG_REMEDY_H

#include "core/error.h"

struct log_remedy { const char *message, *remedy; };
extern const struct log_remedy log_remedies[];          /* ends with a NULL message */

const char *log_remedy(const char *message);            /* NULL: it has none */
/* Of what a program ends with: coldstreamd, coldstream-serve. */
const char *log_remedy_of_daemon(enum cs_code code);
const char *log_remedy_of_scorer(enum cs_code code);

#endif
