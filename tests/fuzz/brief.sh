#!/bin/bash
# Every fuzz target for a few seconds, from the same seed each time, into a corpus that is thrown away.
set -eu
cd "$(dirname "$0")/../.."
build=${FUZZ_BUILD:-build-fuzz}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
make --no-print-directory fuzzers FUZZ_BUILD="$build" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
# shellcheck disable=SC2046
FUZZ_OPTIONS="-seed=1" FUZZ_CORPUS=$scratch/corpus tests/fuzz/run.sh "$build" "${BRIEF_SECONDS:-3}" \
    $(basename -s .c tests/fuzz/fuzz_*.c | sed 's/^fuzz_//')
