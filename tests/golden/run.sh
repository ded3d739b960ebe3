#!/bin/bash
# The parity cases through `coldstreamctl train`: another implementation's numbers for tensors, predictions and losses.
# Prints a TAP line for each case and way of running it: OpenBLAS's kernels and the number of threads may not matter.
# usage: run.sh BUILD [CASE...]
set -u
cd "$(dirname "$0")/../.." || exit
build=${1:?usage: run.sh BUILD [CASE...]}; shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0 number=0
# The first python that has numpy: the one in the path need not be the system's.
for python in python3 /usr/bin/python3; do "$python" -c 'import numpy' 2>/dev/null && break; done
cases=("$@")
[ $# -gt 0 ] || { cases=(tests/golden/*/config.yaml); cases=("${cases[@]%/config.yaml}"); cases=("${cases[@]##*/}"); }

run() {     # CASE NAME THREADS [VARIABLE=VALUE...]
    local case=tests/golden/$1 name=$2 threads=$3 log=$work/log
    shift 3
    number=$((number + 1))
    { cat "$case/config.yaml"; echo "compute: {threads: $threads}"; } >"$work/config.yaml"
    if env "$@" "$build/coldstreamctl" train --config "$work/config.yaml" --events "$case/events.jsonl" --import "$case/initial.safetensors" \
            --export "$work/export.safetensors" --predictions "$work/predictions.csv" --losses "$work/losses.csv" --strict >"$log" 2>&1 &&
       "$python" tests/golden/compare.py "$case" "$work/export.safetensors" "$work/predictions.csv" "$work/losses.csv" >>"$log" 2>&1; then
        echo "ok $number - $name"
    else
        echo "not ok $number - $name"
        sed 's/^/# /' "$log"
        failed=$((failed + 1))
    fi
}

for case in "${cases[@]}"; do
    run "$case" "$case, 1 thread" 1
    run "$case" "$case, 2 threads" 2
    run "$case" "$case, 3 threads" 3
    run "$case" "$case, Haswell kernels" 1 OPENBLAS_CORETYPE=Haswell
    run "$case" "$case, SandyBridge kernels" 1 OPENBLAS_CORETYPE=SandyBridge
done
echo "1..$number"
[ "$failed" = 0 ]
