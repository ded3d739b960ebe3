/* The one error type: what went wrong, where in the user's own terms, and which exit code it means. */
#ifndef CORE_ERROR_H
#define CORE_ERROR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

enum cs_code {
    CS_OK = 0,
    CS_FAILED,      /* I/O, memory, a peer: may work later                       exit 1 */
    CS_USAGE,       /* the caller's words are wrong                              exit 2 */
    CS_REFUSED,     /* state or data damaged, another model's, or out of range   exit 65 */
    CS_FENCED,      /* another instance owns this state                          exit 76 */
    CS_CONFIG,      /* the configuration is wrong                                exit 78 */
};

/* Where: file, line, column | topic-partition, offset, byte. Zero means "not known". */
struct cs_position { char source[160]; int64_t major, minor; };

struct cs_error { enum cs_code code; struct cs_position at; char message[512]; };

/* Fills err (NULL is fine) and returns false, so that a failing function can `return cs_fail(err, ...)`. */
bool cs_fail(struct cs_error *err, enum cs_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* As cs_fail, then ": " and the text of the system's error number. */
bool cs_fail_errno(struct cs_error *err, int number, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Puts "text: " before the message that is already there: said by a caller who knows what was being done. Returns
 * false. */
bool cs_error_prefix(struct cs_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cs_error_at(struct cs_error *err, const char *source, int64_t major, int64_t minor);
int cs_exit_code(enum cs_code code);

#endif
