#!/bin/bash
# Runs fuzz targets for a while, one a processor, and says of each what it did; fails where one found something.
# usage: run.sh BUILD SECONDS TARGET...       what reaches new code is kept in BUILD/corpus/TARGET, finds in BUILD/finds
# FUZZ_OPTIONS: further options of libFuzzer. FUZZ_CORPUS: instead of BUILD/corpus.
# A find goes into tests/fuzz/corpus/TARGET, named after what it was.
set -u
cd "$(dirname "$0")/../.." || exit
build=${1:?usage: run.sh BUILD SECONDS TARGET...} seconds=${2:?}; shift 2
mkdir -p "$build/finds" "$build/fuzz-logs"
# A machine's pause must not look like a hanging target: libFuzzer's clock is the wall's.
options="-max_total_time=$seconds -timeout=120 -rss_limit_mb=2560 -print_final_stats=1 ${FUZZ_OPTIONS-}"
export UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1

fuzz() {
    local target=$1 log=$build/fuzz-logs/$1.log corpus=${FUZZ_CORPUS:-$build/corpus}/$1 dictionary='' status
    mkdir -p "$corpus"
    [ -e "tests/fuzz/dictionary/$target" ] && dictionary=-dict=tests/fuzz/dictionary/$target
    # shellcheck disable=SC2086
    "$build/tests/fuzz/fuzz_$target" $options $dictionary -artifact_prefix="$build/finds/$target-" "$corpus" \
        tests/fuzz/corpus/"$target" >"$log" 2>&1
    status=$?
    local runs coverage
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1)
    if [ "$status" = 0 ] && [ "${runs:-0}" -gt 0 ]; then
        echo "ok - fuzz $target: $runs executions, ${coverage:-cov: 0}"
        return 0
    fi
    echo "not ok - fuzz $target: exit status $status, the find is in $build/finds"
    grep -aE 'ERROR|SUMMARY|runtime error|written to|Base64|^ +#[0-9]+ ' "$log" | head -n 30 | sed 's/^/# /'
    return 1
}

failed=0
for target; do
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || failed=1; done
    fuzz "$target" &
done
while [ "$(jobs -rp | wc -l)" -gt 0 ]; do wait -n || failed=1; done
exit "$failed"
