#!/usr/bin/env python3
"""MovieLens-100K as Coldstream's events: a rating is an impression, a rating of 4 or more is also a click a second later.

usage: movielens.py DATA OUT        DATA holds ml-100k.inter, .user, .item; writes OUT/impressions.jsonl and OUT/clicks.jsonl

In time order. Events carry no behaviors: the daemon's own history of a user's clicks is used, and a user without an earlier
click is new. User: age, gender, occupation, the zip code's first two characters. Item: year and genres (a list).
"""
import json
import os
import sys

CLICK_FROM, CLICK_AFTER_MS = 4, 1000


def table(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        names = [name.split(":")[0] for name in file.readline().rstrip("\n").split("\t")]
        for line in file:
            yield dict(zip(names, line.rstrip("\n").split("\t")))


def main(data, out):
    users = {row["user_id"]: {"age": int(row["age"]), "gender": row["gender"], "occupation": row["occupation"],
                              "zip": row["zip_code"][:2]} for row in table(os.path.join(data, "ml-100k.user"))}
    items = {}
    for row in table(os.path.join(data, "ml-100k.item")):
        item = {"genre": row["class"].split()}
        if row["release_year"].isdigit():
            item["year"] = row["release_year"]
        items[row["item_id"]] = item
    ratings = sorted(table(os.path.join(data, "ml-100k.inter")),
                     key=lambda r: (int(float(r["timestamp"])), int(r["user_id"]), int(r["item_id"])))
    os.makedirs(out, exist_ok=True)
    clicks = 0
    with open(os.path.join(out, "impressions.jsonl"), "w") as shown, open(os.path.join(out, "clicks.jsonl"), "w") as clicked:
        for number, rating in enumerate(ratings):
            when = int(float(rating["timestamp"])) * 1000
            shown.write(json.dumps({"event": "impression", "impression_id": f"m{number}", "ts": when, "user_id": "u" + rating["user_id"],
                                    "user": users[rating["user_id"]], "item_id": "i" + rating["item_id"],
                                    "item": items[rating["item_id"]]}, separators=(",", ":")) + "\n")
            if float(rating["rating"]) >= CLICK_FROM:
                clicks += 1
                clicked.write(json.dumps({"event": "click", "impression_id": f"m{number}", "ts": when + CLICK_AFTER_MS},
                                         separators=(",", ":")) + "\n")
    print(f"{len(ratings)} impressions, {clicks} clicks")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
