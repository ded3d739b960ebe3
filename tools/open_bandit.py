#!/usr/bin/env python3
"""Open Bandit's logged impressions and clicks as Coldstream's events. The log has no user ids: every row is a new user.

usage: open_bandit.py DATA OUT      DATA holds all.csv and item_context.csv; writes OUT/impressions.jsonl and OUT/clicks.jsonl

In time order, clicks a second after their impressions. User: the four hashed features. Context: the position. Item: a number
and three hashed features.
"""
import csv
import datetime
import json
import os
import sys

CLICK_AFTER_MS = 1000


def main(data, out):
    with open(os.path.join(data, "item_context.csv"), newline="") as file:
        items = {row["item_id"]: {"number": float(row["item_feature_0"]), "kind": row["item_feature_1"], "maker": row["item_feature_2"],
                                  "style": row["item_feature_3"]} for row in csv.DictReader(file)}
    with open(os.path.join(data, "all.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["ms"] = int(datetime.datetime.fromisoformat(row["timestamp"]).timestamp() * 1000)
    rows.sort(key=lambda row: row["ms"])
    os.makedirs(out, exist_ok=True)
    clicks = 0
    with open(os.path.join(out, "impressions.jsonl"), "w") as shown, open(os.path.join(out, "clicks.jsonl"), "w") as clicked:
        for number, row in enumerate(rows):
            shown.write(json.dumps({"event": "impression", "impression_id": f"o{number}", "ts": row["ms"], "user_id": f"u{number}",
                                    "user": {f"f{i}": row[f"user_feature_{i}"] for i in range(4)}, "behaviors": [],
                                    "context": {"position": int(row["position"])}, "item_id": "i" + row["item_id"],
                                    "item": items[row["item_id"]]}, separators=(",", ":")) + "\n")
            if row["click"] == "1":
                clicks += 1
                clicked.write(json.dumps({"event": "click", "impression_id": f"o{number}", "ts": row["ms"] + CLICK_AFTER_MS},
                                         separators=(",", ":")) + "\n")
    print(f"{len(rows)} impressions, {clicks} clicks")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
