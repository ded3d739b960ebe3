#!/bin/sh
# Installs the Debian packages that are missing for what is to be done; says nothing where nothing is missing.
# usage: setup.sh GROUP...       groups: build test library fuzz kafka data package browser walk analyze
set -eu

packages() {
    case $1 in
    build) echo gcc libc6-dev make pkg-config librdkafka-dev liblmdb-dev libyaml-dev libjansson-dev libxxhash-dev \
                libmicrohttpd-dev libsystemd-dev libcurl4-openssl-dev libssl-dev libyajl-dev libprotobuf-c-dev protobuf-c-compiler \
                libopenblas-pthread-dev ;;
    test)  echo libcmocka-dev python3 python3-numpy curl rsync systemd e2fsprogs mount util-linux ;;
    library) echo g++ golang-go ca-certificates ;;
    fuzz)  echo clang llvm libclang-rt-14-dev ;;
    kafka) echo openjdk-17-jre-headless maven kcat openssl ;;
    data)  echo python3 python3-pip python3-venv unzip ;;
    package) echo build-essential dpkg-dev debhelper lintian fakeroot man-db zsh libopenblas0 ;;
    browser) echo chromium ;;
    walk)  echo debootstrap ;;
    analyze) echo cppcheck clang-tidy shellcheck pyflakes3 ;;
    *)     echo "setup.sh: unknown group $1: one of build test library fuzz kafka data package browser walk analyze" >&2; exit 2 ;;
    esac
}

missing=
for group; do
    list=$(packages "$group")
    for package in $list; do
        # Anything that provides the package will do: a development machine may hold another flavour of it.
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] && continue
        case " $missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac
    done
done
[ -n "$missing" ] || exit 0

command -v apt-get >/dev/null || { echo "setup.sh: not a Debian system; please install what these packages hold:$missing" >&2; exit 1; }
as_root=
[ "$(id -u)" = 0 ] || as_root="sudo -n"
[ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || { [ -t 0 ] && as_root=sudo; } || {
    echo "setup.sh: neither root nor a sudoer without a password; please run: sudo apt-get install --no-install-recommends$missing" >&2; exit 1; }
echo "setup: installing$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" \
            </dev/null >"$log" 2>&1 || { cat "$log" >&2; return 1; }; }
apt update
# shellcheck disable=SC2086
apt install -y --no-install-recommends $missing
