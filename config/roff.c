/* Text for man pages. */
#include "config/roff.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

void roff_text(FILE *out, const char *text)
{
    bool bold = false, first = true;    /* first: of a line, where a dot or a quote would begin a request */
    for (; *text; text++) {
        if (first && (*text == '.' || *text == '\'')) fputs("\\&", out);
        first = *text == '\n';
        switch (*text) {
        case '\\': fputs("\\e", out); break;
        case '-': fputs("\\-", out); break;
        case '^': fputs("\\(ha", out); break;
        case '~': fputs("\\(ti", out); break;
        case '\'': fputs("\\(aq", out); break;
        case '`':
            bold = !bold && strchr(text + 1, '`');
            fputs(bold ? "\\fB" : "\\fR", out);
            break;
        default: fputc(*text, out);
        }
    }
}

void roff_line(FILE *out, const char *text)
{
    roff_text(out, text);
    fputc('\n', out);
}

void roff_begin(FILE *out, const char *name, int section, const char *version, const char *brief)
{
    fputs(".\\\" Written from the program's own tables: coldstreamctl manual --format man\n.TH ", out);
    for (const char *at = name; *at; at++)
        if (*at == '-') fputs("\\-", out);
        else fputc(toupper((unsigned char)*at), out);
    fprintf(out, " %d \"\" \"Coldstream %s\" \"Coldstream\"\n.nh\n.ad l\n.ss 12 0\n.SH NAME\n", section, version);
    roff_text(out, name);
    fputs(" \\- ", out);
    roff_line(out, brief);
}
