#!/bin/sh
# A prometheus and a promtool for the tests. Prints the directory that holds them: an installed one's, or one unpacked under BUILD.
# Not installed: the package would start a server that listens on all interfaces.
# usage: prometheus.sh BUILD
set -eu
build=${1:?usage: prometheus.sh BUILD}
if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
    dirname "$(command -v prometheus)"
    exit 0
fi
if ! [ -x "$build/prometheus/usr/bin/promtool" ]; then
    rm -rf "$build/prometheus" "$build/prometheus.part"
    mkdir -p "$build/prometheus.part"
    log=$build/prometheus.log
    if ! (cd "$build/prometheus.part" && apt-get download -qq -o Acquire::Retries=3 prometheus && dpkg-deb -x prometheus_*.deb .) >"$log" 2>&1; then
        cat "$log" >&2
        echo "prometheus.sh: the package can't be fetched; apt-get update first, or install prometheus" >&2
        exit 1
    fi
    mv "$build/prometheus.part" "$build/prometheus"
fi
echo "$build/prometheus/usr/bin"
