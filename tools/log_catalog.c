/* Writes journald's catalog from the table of remedies: `journalctl -x` then tells beside a line what to do about it.
 * Run by the Makefile; systemd's format is a header line a message id, fields, an empty line, and text. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/log_remedy.h"

#define LEAD "What to do:"
enum { WIDTH = 76 };

static void write_wrapped(size_t column, const char *text)
{
    for (const char *word = text; *word;) {
        size_t length = strcspn(word, " ");
        bool fits = column + 1 + length <= WIDTH;
        printf("%s%.*s", fits ? " " : "\n", (int)length, word);
        column = fits ? column + 1 + length : length;
        word += length + (word[length] == ' ');
    }
    putchar('\n');
}

int main(void)
{
    puts("# Coldstream's messages. Made from daemon/log_remedy.c.");
    for (const struct log_remedy *row = log_remedies; row->message; row++) {
        char id[LOG_ID_SIZE];
        log_message_id(row->message, id);
        printf("\n-- %s\nSubject: %s\nDefined-By: Coldstream\nDocumentation: man:coldstreamd(8)\n\n%s", id,
               row->message, LEAD);
        write_wrapped(strlen(LEAD), row->remedy);
    }
    return ferror(stdout) || fclose(stdout) ? 1 : 0;
}
