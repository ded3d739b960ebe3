#!/bin/bash
# Manual pages from what the programs say themselves: --help of each, and `coldstreamctl manual`. So there is one text to keep true.
# usage: man.sh BUILD DIRECTORY
set -euo pipefail
build=${1:?usage: man.sh BUILD DIRECTORY} into=${2:?usage: man.sh BUILD DIRECTORY}
here=$(dirname "$0")
version=$("$build/coldstreamctl" --version | awk 'NR == 1 { print $2 }')
mkdir -p "$into"

# "  -o, --option X    text" and "  verb    text" become tagged paragraphs, "usage:" a synopsis, all else text.
help_to_roff='
function safe(text) {
    gsub(/\\/, "\\e", text); gsub(/-/, "\\-", text); gsub(/`/, "\\(ga", text); gsub(/'"'"'/, "\\(aq", text)
    return text ~ /^\./ ? "\\&" text : text
}
/^usage: / { print head == "" ? ".SH SYNOPSIS" : ".PP"; print safe(substr($0, 8)); print described == "" ? ".SH DESCRIPTION" : ".PP"; described = 1; next }
/^ +usage: | {7}coldstream/ { print ".br"; sub(/^ +/, ""); print safe($0); next }
/^  +[^ ]/ {
    term = $0; sub(/^ +/, "", term)
    if (match(term, /  +/) && RSTART > 1) {
        text = substr(term, RSTART + RLENGTH); term = substr(term, 1, RSTART - 1)
        print ".TP"; print ".B " safe(term); print safe(text); next
    }
    print safe(term); next
}
/^[A-Za-z ]+:$/ { print ".PP"; print safe($0); next }
/^$/ { print ".PP"; next }
{ print safe($0) }'

page() {    # NAME SECTION "what it is" < roff of the rest
    {
        echo ".TH ${1^^} $2 \"\" \"Coldstream $version\" \"Coldstream\""
        echo .SH NAME
        echo "$1 \\- $3"
        cat
        printf '%s\n' '.SH SEE ALSO' '.BR coldstreamd (8),' '.BR coldstreamctl (1),' '.BR coldstream\-serve (8),' \
            '.BR coldstream\-fetch (1),' '.BR coldstream.yaml (5)'
    } | awk '/^\.PP$/ { blank = 1; next } { if (blank && $0 !~ /^\.S[HS]/) print ".PP"; blank = 0; print }' >"$into/$1.$2"
}

"$build/coldstreamd" --help | awk "$help_to_roff" | page coldstreamd 8 "learns from a stream of impressions and clicks"
"$build/coldstream-serve" --help | awk "$help_to_roff" | page coldstream-serve 8 "scores over HTTP with published checkpoints"
sed -n '2,/^set /{ s/^# \{0,1\}//; /^set /d; p }' "$here/coldstream-fetch" |
    awk 'NR == 1 { what = $0; next } /^usage: / { print; print what; next } { print }' | awk "$help_to_roff" | page coldstream-fetch 1 "copies the current checkpoint from where it is published"
{
    "$build/coldstreamctl" --help | awk "$help_to_roff"
    echo .SH VERBS
    for verb in $("$build/coldstreamctl" --help | awk '/^  [a-z]/ { print $1 }'); do
        echo ".SS $verb"
        "$build/coldstreamctl" "$verb" --help | awk -v head=1 -v described=1 "$help_to_roff"
    done
} | page coldstreamctl 1 "talks to a running coldstreamd, and works on its files"
"$build/coldstreamctl" manual | awk '
function safe(text) {
    gsub(/\\/, "\\e", text); gsub(/-/, "\\-", text); gsub(/`/, "", text); gsub(/'"'"'/, "\\(aq", text)
    return text ~ /^\./ ? "\\&" text : text
}
/^# / { print ".SH DESCRIPTION"; next }
/^## / { print ".SH " toupper(safe(substr($0, 4))); next }
/^### / { print ".SS " safe(substr($0, 5)); next }
/^- / { print ".br"; print safe(substr($0, 3)); next }
/^$/ { print ".PP"; next }
{ print safe($0) }' | page coldstream.yaml 5 "the configuration of coldstreamd"
