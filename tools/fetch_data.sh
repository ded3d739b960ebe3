#!/bin/bash
# Public data for demos and tests, out of the Python packages that carry it; fetched once into $COLDSTREAM_CACHE (~/.cache/coldstream).
# usage: fetch_data.sh movielens | open-bandit        prints the folder that holds the files
set -eu
case ${1:-} in
movielens)   package=recbole==1.2.1 inside=recbole/dataset_example/ml-100k files='ml-100k.inter ml-100k.user ml-100k.item' ;;
open-bandit) package=obp==0.4.1 inside=obp/dataset/obd/random/all files='all.csv item_context.csv' ;;
*)           sed -n '2,3s/^# //p' "$0" >&2; exit 2 ;;
esac
folder=${COLDSTREAM_CACHE:-$HOME/.cache/coldstream}/$1
mkdir -p "$folder"
(
    flock 9
    [ -e "$folder/.complete" ] && exit 0
    echo "fetching $1 (once)" >&2
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # Only the archive is wanted: neither the package nor what it depends on is installed.
    timeout 300 python3 -m pip download -q --no-deps --no-cache-dir --only-binary :all: --disable-pip-version-check -d "$work" "$package" \
        >&2 </dev/null
    for file in $files; do unzip -q -j -o "$work"/*.whl "$inside/$file" -d "$folder"; done
    touch "$folder/.complete"
) 9>"$folder/.lock"
echo "$folder"
