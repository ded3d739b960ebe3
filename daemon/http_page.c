/* Takes the page's files into the program as they are: the assembler reads them (paths are from the root, where make
 * runs; the Makefile knows that this file depends on them). */
#include "daemon/http_page.h"

#define PART(name, file)                                                                                               \
    __asm__(".pushsection .rodata\n"                                                                                   \
            #name "_begin: .incbin \"" file "\"\n"                                                                     \
            #name "_end: .byte 0\n"                                                                                    \
            ".popsection\n");                                                                                          \
    extern const unsigned char name##_begin[] __attribute__((visibility("hidden")));                                  \
    extern const unsigned char name##_end[] __attribute__((visibility("hidden")))

PART(part_html, "daemon/page/page.html");
PART(part_css, "daemon/page/page.css");
PART(part_draw, "daemon/page/draw.js");
PART(part_page, "daemon/page/page.js");
PART(part_icon, "daemon/page/icon.svg");

const struct http_resource http_page[] = {
    { "/", "text/html; charset=utf-8", part_html_begin, part_html_end },
    { "/page.css", "text/css; charset=utf-8", part_css_begin, part_css_end },
    { "/draw.js", "text/javascript; charset=utf-8", part_draw_begin, part_draw_end },
    { "/page.js", "text/javascript; charset=utf-8", part_page_begin, part_page_end },
    { "/icon.svg", "image/svg+xml", part_icon_begin, part_icon_end },
    { 0 },
};

const char http_page_policy[] = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
                                "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
