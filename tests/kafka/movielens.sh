#!/bin/bash
# MovieLens-100K through a real Apache Kafka: once as it is, and once with 40 % of the users held out as new.
# usage: movielens.sh BUILD
set -eu
cd "$(dirname "$0")/../.."
build=${1:?usage: movielens.sh BUILD}
work=$(mktemp -d)
trap 'tests/kafka/broker.sh kill "$work/broker" || :; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

data=$(tools/fetch_data.sh movielens)
python3 tools/movielens.py "$data" "$work/events"
for share in 0.0 0.4; do
    echo
    if [ "$share" = 0.0 ]; then echo "== MovieLens-100K: a user is new until the first click"
    else echo "== MovieLens-100K with 40 % of the users held out as new: they never have behaviors"; fi
    address=$(tests/kafka/broker.sh start "$work/broker")
    "$build/tests/kafka/admin" "$address" create impressions:4 clicks:4 impressions.dlq:1 clicks.dlq:1
    sed "s/hold_out_new: 0.0/hold_out_new: $share/" tools/movielens.yaml >"$work/model.yaml"
    "$build/demo" --broker "$address" --impressions "$work/events/impressions.jsonl" --clicks "$work/events/clicks.jsonl" --config "$work/model.yaml"
    tests/kafka/broker.sh kill "$work/broker"
    rm -rf "$work/broker"
done
