#!/bin/bash
# Runs the unit, gradient and flow tests under ASan + UBSan, then under TSan, and sums both into one last line.
set -u
cd "$(dirname "$0")/.." || exit
passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run() {     # NAME, the make target run-NAME
    echo "== $1"
    make --no-print-directory -j"$(nproc)" "run-$1" 2>&1 | tee "$log"
    local status=${PIPESTATUS[0]} last
    last=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1)
    if [ -n "$last" ]; then
        passed=$((passed + ${last%% passed*})); last=${last#*, }; failed=$((failed + ${last%% failed}))
    fi
    # Did not build, or died before its count.
    [ "$status" = 0 ] || [ -n "$last" ] || { echo "not ok: $1 gave no count (status $status)"; failed=$((failed + 1)); }
}

run asan
run tsan
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
