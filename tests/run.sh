#!/bin/bash
# Runs suites of tests and counts them. The very last line on stdout is `N passed, N failed`; the exit status says the same.
# usage: run.sh BUILD SUITE...     suites: layers style unit gradient golden library flow crash system fuzz replay kafka data analyze
#
# A test is a program or script that prints TAP lines (`ok ...`, `not ok ...`): cmocka's programs do when asked to. One that
# prints none counts as a single test by its exit status. One that dies, or overruns its time, counts as failed whatever it printed.
# Output is kept under BUILD/test-logs and shown where something failed. JOBS programs run at once (unit and gradient tests).
set -u
cd "$(dirname "$0")/.." || exit
build=${1:?usage: run.sh BUILD SUITE...}; shift
jobs_at_once=${JOBS:-$(nproc)}
logs=$build/test-logs
mkdir -p "$logs"
export BUILD=$build CMOCKA_MESSAGE_OUTPUT=TAP
# A sanitizer makes all slower; a finding ends the program with a status that the tests do not use themselves.
slower=1
case $build in *asan*) slower=4 ;; *tsan*) slower=10 ;; esac
export ASAN_OPTIONS="${ASAN_OPTIONS:-exitcode=99:detect_leaks=1:abort_on_error=0:detect_stack_use_after_return=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"
export TSAN_OPTIONS="${TSAN_OPTIONS:-exitcode=99:halt_on_error=0:second_deadlock_stack=1:suppressions=$PWD/tests/tsan/suppressions}"
# Address space layouts with much randomness are beyond gcc 12's TSan.
plain=()
case $build in *tsan*) setarch -R true 2>/dev/null && plain=(setarch -R) ;; esac

passed=0 failed=0 skipped=0
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

one() {     # NAME SECONDS COMMAND...: runs it, leaves "passed failed skipped" in $results/NAME
    local name=$1 seconds=$(($2 * slower)) log=$logs/${1//\//-}.log began=$EPOCHREALTIME status ok bad skip took note=
    shift 2
    timeout -k 10 "$seconds" "${plain[@]}" "$@" >"$log" 2>&1 </dev/null
    status=$?
    skip=$(grep -cE '^(not )?ok\b.*# SKIP' "$log")
    ok=$(grep -E '^ok\b' "$log" | grep -vc '# SKIP')
    bad=$(grep -E '^not ok\b' "$log" | grep -vc '# SKIP')
    if [ "$ok" = 0 ] && [ "$bad" = 0 ] && [ "$skip" = 0 ]; then
        [ "$status" = 0 ] && ok=1 || bad=1
    elif [ "$status" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
    fi
    [ "$status" = 124 ] && note=", not done after $seconds s"
    took=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    {
        if [ "$bad" = 0 ]; then
            echo "ok      $name: $ok passed$([ "$skip" = 0 ] || echo ", $skip skipped"), $took s"
        else
            echo "FAILED  $name: $ok passed, $bad failed (exit status $status$note), $took s; $log ends:"
            grep -E '^not ok' "$log" | head -n 20 | sed 's/^/        /'
            tail -n 60 "$log" | cut -c1-400 | sed 's/^/        | /'
        fi
    } >"$results/${name//\//-}.text"
    echo "$ok $bad $skip" >"$results/${name//\//-}.count"
    cat "$results/${name//\//-}.text"
}

several() { # SECONDS SUITE: the suite's programs, JOBS at once
    local program
    for program in tests/"$2"/test_*.c; do
        [ -e "$program" ] || continue
        while [ "$(jobs -rp | wc -l)" -ge "$jobs_at_once" ]; do wait -n; done
        one "$2/$(basename "$program" .c)" "$1" "$build/${program%.c}" &
    done
    wait
}

scripts() { # SECONDS SUITE [AT_ONCE]: the suite's scripts, one after the other unless AT_ONCE says more
    local script
    for script in tests/"$2"/test_*.sh tests/"$2"/test_*.py; do
        [ -e "$script" ] || continue
        while [ "$(jobs -rp | wc -l)" -ge "${3:-1}" ]; do wait -n; done
        one "$2/$(basename "$script")" "$1" "$script" "$build" &
    done
    wait
}

replay() {  # every file of each fuzz target's corpus, and all that was ever found
    local source target
    for source in tests/fuzz/fuzz_*.c; do
        target=$(basename "$source" .c) target=${target#fuzz_}
        while [ "$(jobs -rp | wc -l)" -ge "$jobs_at_once" ]; do wait -n; done
        one "replay/$target" 120 "$build/tests/fuzz/replay_$target" tests/fuzz/corpus/"$target"/* &
    done
    wait
}

for suite; do
    case $suite in
    layers|style)  one "$suite" 60 "tools/check_$suite.sh" ;;
    unit|gradient) several 120 "$suite" ;;
    golden)        one golden 300 tests/golden/run.sh "$build"; scripts 300 golden ;;
    flow)          several 180 flow; scripts 300 flow ;;
    crash)         : >"$build/torture.tsv"; scripts "${CRASH_SECONDS:-300}" crash "$jobs_at_once" ;;
    replay)        replay ;;
    fuzz)          replay; one fuzz 600 tests/fuzz/brief.sh ;;
    analyze)       one analyze 1800 tools/analyze.py "$build" ;;
    library|system|kafka|data) scripts 600 "$suite" ;;
    *)             echo "run.sh: unknown suite $suite" >&2; exit 2 ;;
    esac
done

for count in "$results"/*.count; do
    [ -e "$count" ] || continue
    read -r ok bad skip <"$count"
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
done
[ "$passed" = 0 ] && [ "$failed" = 0 ] && { echo "no tests were found"; failed=1; }
[ "$skipped" = 0 ] || echo "$skipped skipped"
if [ "$failed" != 0 ]; then
    echo "failed:"
    grep -h '^FAILED' "$results"/*.text | cut -d' ' -f3 | sed 's/:$//; s/^/    /'
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
