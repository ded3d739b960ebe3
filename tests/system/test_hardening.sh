#!/bin/bash
# What the compiler and the linker were asked for is in the programs: as checksec would look, by readelf.
# usage: test_hardening.sh BUILD
set -u
build=${1:?usage: test_hardening.sh BUILD}
count=0 failed=0

check() {   # NAME COMMAND...: a test by the command's status
    local name=$1; shift
    count=$((count + 1))
    if "$@"; then echo "ok $count - $name"; else echo "not ok $count - $name"; failed=1; fi
}
elf() { LC_ALL=C readelf -W "$@" 2>/dev/null; }

is_position_independent() { elf -h "$1" | grep -qE 'Type: +DYN'; }
is_pie() { elf -h "$1" | grep -qE 'Type: +DYN' && elf -d "$1" | grep -qE 'FLAGS_1.*\bPIE\b'; }
binds_now() { elf -d "$1" | grep -qE 'FLAGS(_1)?\).*\b(BIND_NOW|NOW)\b'; }
has_relro() { elf -l "$1" | grep -q 'GNU_RELRO'; }
stack_is_data() { elf -l "$1" | awk '$1 == "GNU_STACK" { found = 1; if ($0 ~ /RWE/) bad = 1 } END { exit !found || bad }'; }
nothing_is_writable_code() { elf -l "$1" | awk '$1 == "LOAD" { found = 1; if ($0 ~ / RWE /) bad = 1 } END { exit !found || bad }'; }
has_canaries() { elf --dyn-syms "$1" | grep -q '__stack_chk_fail'; }
is_fortified() { [ "$(elf --dyn-syms "$1" | grep -oE '__(memcpy|memset|memmove|snprintf|vsnprintf|fprintf|printf|asprintf|read|strcpy|strcat)_chk' | sort -u | wc -l)" -ge 3 ]; }
has_no_path() { ! elf -d "$1" | grep -qE '\((RPATH|RUNPATH)\)'; }
has_no_text_relocation() { ! elf -d "$1" | grep -q 'TEXTREL'; }
# The property of the whole file is lost to Debian's own crtbegin.o; that our functions have the marks is what we can do.
tracks_branches() { objdump -d --no-show-raw-insn "$1" | awk '/^[0-9a-f]+ <(main|coldstream_open)(@@.*)?>:/ { getline; found = /endbr64/ } END { exit !found }'; }

command -v readelf >/dev/null || { echo "not ok 1 - readelf is there (binutils)"; exit 1; }
for file in coldstreamd coldstreamctl coldstream-serve libcoldstream.so; do
    at=$build/$file
    case $file in
    *.so) check "$file is position independent" is_position_independent "$at" ;;
    *)    check "$file is a position independent executable" is_pie "$at" ;;
    esac
    check "$file binds all symbols at its start" binds_now "$at"
    check "$file has its relocations read only" has_relro "$at"
    check "$file has no executable stack" stack_is_data "$at"
    check "$file has nothing writable that is executable" nothing_is_writable_code "$at"
    check "$file has stack canaries" has_canaries "$at"
    check "$file is fortified" is_fortified "$at"
    check "$file looks for libraries nowhere of its own" has_no_path "$at"
    check "$file has no relocations in its code" has_no_text_relocation "$at"
    [ "$(uname -m)" != x86_64 ] || check "$file marks where branches may land" tracks_branches "$at"
done
echo "1..$count"
exit "$failed"
