#!/bin/bash
# What a machine can say of style.md: widths, blanks, banned calls, an opening comment, files that have grown too long.
# Exit status 1 where something is not as it should be.
set -u
export LC_ALL=C.UTF-8      # columns are characters, not bytes
cd "$(dirname "$0")/.." || exit
# In a checkout git knows the files; in an unpacked copy the folders do.
mapfile -t all < <(git ls-files -co --exclude-standard 2>/dev/null || find . -type f -not -path './build*' -not -path './.git*' | sed 's|^\./||')
mapfile -t c < <(printf '%s\n' "${all[@]}" | grep -E '^(core|config|storage|daemon|tools|tests)/.*\.[ch]$' | while read -r f; do [ -e "$f" ] && echo "$f"; done)
mapfile -t scripts < <(printf '%s\n' "${all[@]}" | grep -E '\.(sh|py)$|^\.ci/run$' | while read -r f; do [ -e "$f" ] && echo "$f"; done)

checks() {
    grep -nP '^.{121,}' "${c[@]}" | cut -d: -f1,2 | sed 's/$/: more than 120 columns/'
    grep -nP '\t' "${c[@]}" | cut -d: -f1,2 | sed 's/$/: a tab/'
    grep -nP '[ \t]+$' "${c[@]}" "${scripts[@]}" | cut -d: -f1,2 | sed 's/$/: blanks at the end/'
    for file in "${c[@]}"; do [ -z "$(tail -c 1 "$file")" ] || echo "$file: no newline at the end"; done
    for file in "${c[@]}"; do [[ $(head -c 2 "$file") == '/*' ]] || echo "$file:1: open with a comment on the file's job"; done
    for file in "${c[@]}"; do lines=$(wc -l <"$file"); [ "$lines" -le 800 ] || echo "$file: $lines lines: past 800 it wants to be two"; done

    # Strings and comments may name them; a call is the name, then a parenthesis, not after a letter or a dot.
    code() { sed -E 's://.*$::; s:/\*.*\*/::; s/"(\\.|[^"\\])*"/""/g' "$1"; }
    banned='strcpy|strcat|sprintf|vsprintf|gets|system|alloca|rand|srand|strtok|tmpnam|mktemp|atoi|atof|atol'
    # A test may take the short way: it breaks at once, in front of who wrote it.
    for file in "${c[@]}"; do
        case $file in tests/*) continue ;; esac
        code "$file" | grep -nE "(^|[^A-Za-z0-9_.>])($banned)[[:space:]]*\(" | sed -E "s#^([0-9]+):.*#$file:\1: a banned call#"
        case $file in core/*) code "$file" | grep -nE '(^|[^A-Za-z0-9_.>])_?exit[[:space:]]*\(' | sed -E "s#^([0-9]+):.*#$file:\1: exit in core/#" ;; esac
    done
}

found=$(checks)
[ -z "$found" ] && exit 0
printf '%s\n' "$found"
exit 1
