#!/bin/bash
# Reads every #include of the product's folders against ARCHITECTURE.md's "Who may include what". Exit status 1 where one is not allowed.
set -u
cd "$(dirname "$0")/.." || exit
bad=0

# Headers of libc and POSIX that core/ may use: nothing that opens a file, a socket, a clock or a thread.
core_libc='assert ctype errno float inttypes limits math stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib string strings immintrin'

allowed() {     # FILE HEADER: whether this file may include this header
    local file=$1 header=$2 name=${1##*/}
    case ${file%%/*} in
    core)
        case $header in
        core/*|cblas.h|xxhash.h) return 0 ;;
        yajl/*) [[ $name == decode* ]]; return ;;
        protobuf-c/*|*.pb-c.h) [[ $name == decode_protobuf* ]]; return ;;
        sys/mman.h) [[ $name == layer_packed.c ]]; return ;;
        *.h) [[ " $core_libc " == *" ${header%.h} "* ]]; return ;;
        esac ;;
    config)
        case $header in config/*|core/error.h|core/need.h|core/options.h|yaml.h|xxhash.h) return 0 ;; esac ;;
    storage)
        case $header in
        storage/*|core/error.h|core/need.h|core/state.h|core/tensor.h|lmdb.h|xxhash.h|jansson.h) return 0 ;;
        openssl/*) [[ $header =~ ^openssl/(sha|evp)\.h$ ]]; return ;;
        esac ;;
    daemon)
        case $header in
        daemon/*|storage/*|config/*|core/*|jansson.h|xxhash.h|cblas.h) return 0 ;;
        librdkafka/*) [[ $name == kafka_* ]]; return ;;
        systemd/*) [[ $name == notify.* || $name == log.* ]]; return ;;
        microhttpd.h) [[ $name == http.* || $name == http_* || $name == serve.* || $name == serve_* ]]; return ;;
        esac ;;
    tools)
        case $header in
        tools/*|daemon/*|storage/*|config/*|core/*|jansson.h|lmdb.h|cblas.h|xxhash.h|curl/*|librdkafka/*|yajl/*|yaml.h|microhttpd.h) return 0 ;;
        esac ;;
    esac
    # What is left is libc's and the kernel's, which only core/ may not have all of.
    [[ ${file%%/*} != core && $header != */*.* || $header =~ ^(sys|netinet|arpa|linux|net)/ && ${file%%/*} != core ]] || return 1
    case $header in
    lmdb.h|yaml.h|jansson.h|xxhash.h|microhttpd.h|cblas.h) return 1 ;;
    esac
    return 0
}

while IFS=: read -r file line text; do
    header=$(sed -E 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"]([^">]+)[">].*/\1/' <<<"$text")
    if [[ $text == *\"* && $header != */* ]]; then
        echo "$file:$line: \"$header\": our own headers are named from the root"
        bad=1
    elif ! allowed "$file" "$header"; then
        echo "$file:$line: $header may not be included here (ARCHITECTURE.md)"
        bad=1
    fi
done < <(grep -nE '^[[:space:]]*#[[:space:]]*include' $(git ls-files -co --exclude-standard 'core/*.[ch]' 'config/*.[ch]' 'storage/*.[ch]' 'daemon/*.[ch]' 'tools/*.[ch]' \
           2>/dev/null || find core config storage daemon tools -name '*.[ch]') /dev/null)
exit $bad
