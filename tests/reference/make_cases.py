#!/usr/bin/env python3
"""Makes parity cases for what the given golden cases leave out: dense, bucketized and multi-valued features, shared tables,
other optimizers and their options, moments to go on from, values without a row, events without behaviors, the linear kind, odd
dimensions, batches of one, of two, of 1,025, with one old user or none, impressions and clicks to be joined, rows that come late
and go, values at every edge.

usage: make_cases.py OUTPUT_DIR [CASE...]        needs what reference.py needs
"""
import json
import math
import os
import random
import sys

import numpy as np
import yaml

import reference

USER = [{"name": "age"}, {"name": "gender"}, {"name": "city"}]
ITEM = [{"name": "item_id", "table": "item"}, {"name": "category"}]
BASE = {"user": USER, "context": [{"name": "hour"}], "item": ITEM}
# "multi", "number" and "same" only tell the generator what to draw; they are not written into the configuration.
MULTI = {"user": [{"name": "age", "bucketize": [18, 25, 35.5]}, {"name": "tags", "multi": 1}, {"name": "num", "number": 1, "table": "shared"}],
         "context": [{"name": "hour", "number": 1, "table": "shared"}],
         "item": [ITEM[0], {"name": "category", "multi": 1, "table": "cat"}, {"name": "brand", "table": "cat"}]}
DENSE = {"user": [{"name": "age", "kind": "dense"}, {"name": "gender"}, {"name": "income", "kind": "dense"}],
         "context": [{"name": "hour"}, {"name": "temperature", "kind": "dense"}], "item": [ITEM[0], {"name": "price", "kind": "dense"}]}
# Shared tables in all directions: an attribute of the user in the table of the behaviors, two of the item in one of the context's.
ODD = {"user": [{"name": "favourite", "number": 1, "table": "item"}, {"name": "city"}, {"name": "tags", "multi": 1}],
       "context": [{"name": "hour", "table": "mixed"}, {"name": "load", "kind": "dense"}],
       "item": [ITEM[0], {"name": "city"}, {"name": "size", "bucketize": [-1.5, 0, 2, 40], "table": "mixed"}]}
# What all examples of a batch have alike: below a batch normalisation its gradient is zero, and Adam must not be shown what rounding
# leaves of that.
SAME = {"user": [{"name": "age"}, {"name": "gender", "same": 1}, {"name": "tags", "multi": 1}, {"name": "height", "kind": "dense", "same": 1}],
        "context": [{"name": "hour", "same": 1}], "item": [ITEM[0], {"name": "price", "kind": "dense"}, {"name": "shop", "same": 1, "table": "hour"}]}
EDGES = {"user": [{"name": "age", "bucketize": [-1.5, 0, 18, 1e6]}, {"name": "number", "number": 1, "table": "mixed"}, {"name": "tags", "multi": 1},
                  {"name": "income", "kind": "dense"}],
         "context": [{"name": "hour", "table": "mixed"}], "item": [{"name": "item_id"}, {"name": "size", "bucketize": [0.1]}]}
WIDE = {"user": [{"name": f"a{i}"} for i in range(8)], "context": [{"name": "hour"}, {"name": "position"}], "item": ITEM}
MAIL = {"kind": "mail", "losses": "full", "target": "pooled", "attention": 5, "encoder": [12, 10, 9], "decoder": [11, 13], "dropout": 0}
ODD_IDS = ["é", "杭州", "a\"b", "x,y", "  ", "\u0000", "𝒳" * 3, "-", "0", "null", "L" * 1024]
SMALL_MAIL = dict(MAIL, attention=3, encoder=[6, 5, 4], decoder=[5, 6])
DNN = {"tower": "base_dnn", "hidden": [14, 7], "dropout": 0}


def optimizers(ranking, zero_shot, embedding):
    return {name: {"kind": kind, "learning_rate": rate}
            for name, (kind, rate) in zip(("ranking", "zero_shot", "embedding"), (ranking, zero_shot, embedding))}


ADAM = optimizers(("adam", 1e-3), ("adam", 5e-4), ("adam", 1e-3))

CASES = [   # name, features, and what differs from the defaults of make_case
    ("features_multi", MULTI, {"zero_shot": MAIL}),
    ("features_dense", DENSE, {"zero_shot": dict(MAIL, target="sequence")}),
    ("dense_emb_lr", DENSE, {"ranking": {"tower": "emb_lr"}}),
    ("linear", BASE, {"zero_shot": {"kind": "linear"}}),
    ("all_new", BASE, {"zero_shot": MAIL, "new_users": 1}),
    ("one_example_batches", BASE, {"zero_shot": MAIL, "batch": 1, "examples": 12}),
    ("bandwidth", BASE, {"zero_shot": dict(MAIL, bandwidth=0.4), "behaviors": 3}),
    ("adagrad_sgd", BASE, {"zero_shot": dict(MAIL, losses="dual"), "optimizer": optimizers(("sgd", 0.05), ("adagrad", 0.01), ("adagrad", 0.02))}),
    ("sgd_rows", BASE, {"zero_shot": dict(MAIL, losses="single", target="sequence"),
                        "optimizer": optimizers(("adam", 2e-3), ("sgd", 0.01), ("sgd", 0.05))}),
    ("wide", WIDE, {"dimension": 16, "batch": 64, "examples": 230, "behaviors": 12, "ranking": dict(DNN, hidden=[32, 24, 16]),
                    "zero_shot": dict(MAIL, attention=24, encoder=[32, 24, 20], decoder=[20, 32], target="sequence")}),
    ("no_context", {"user": USER, "item": [ITEM[0]]}, {"zero_shot": MAIL}),
    ("ftrl", ODD, {"dimension": 5, "batch": 7, "behaviors": 4, "zero_shot": dict(MAIL, losses="dual"), "warm": True, "optimizer": {
        "ranking": {"kind": "ftrl", "learning_rate": 0.05, "beta": 0.5, "l1": 0.002, "l2": 0.1},
        "zero_shot": {"kind": "ftrl", "learning_rate": 0.02}, "embedding": {"kind": "ftrl", "learning_rate": 0.1, "l1": 0.001}}}),
    ("adam_options", ODD, {"dimension": 3, "batch": 7, "ranking": dict(DNN, hidden=[9]), "zero_shot": MAIL, "warm": True, "new_users": 0, "optimizer": {
        "ranking": {"kind": "adam", "learning_rate": 0.003, "beta1": 0.8, "beta2": 0.99, "epsilon": 0.001},
        "zero_shot": {"kind": "adam", "learning_rate": 0.001, "beta1": 0, "beta2": 0.9, "epsilon": 0.01},
        "embedding": {"kind": "adam", "learning_rate": 0.002, "beta1": 0.5, "epsilon": 0.0001}}}),
    ("rows_begin", ODD, {"dimension": 5, "batch": 11, "zero_shot": dict(MAIL, target="sequence"), "unknown": 0.6, "history": 0.5, "optimizer": {
        "ranking": {"kind": "adagrad", "learning_rate": 0.02, "epsilon": 0.01}, "zero_shot": {"kind": "sgd", "learning_rate": 0.01},
        "embedding": {"kind": "adagrad", "learning_rate": 0.05, "initial_accumulator": 0.3}}}),
    ("thousand", BASE, {"dimension": 1, "batch": 1025, "examples": 1100, "zero_shot": dict(MAIL, attention=1, encoder=[2, 1, 3], decoder=[1, 2]),
                        "ranking": dict(DNN, hidden=[3, 1, 4, 2])}),
    ("batches_of_two", SAME, {"dimension": 3, "batch": 2, "examples": 13, "ranking": dict(DNN, hidden=[6, 5]), "zero_shot": SMALL_MAIL, "steady": 1}),
    ("batches_of_three", SAME, {"dimension": 3, "batch": 3, "examples": 16, "ranking": dict(DNN, hidden=[6, 5, 4]), "steady": 1,
                                "optimizer": optimizers(("adagrad", 0.01), ("adam", 5e-4), ("ftrl", 0.001))}),
    ("joined", BASE, {"dimension": 4, "batch": 7, "examples": 40, "zero_shot": SMALL_MAIL, "history": 0.6, "unknown": 0.5, "new_users": 0,
                      "window": 2000, "more": {"join": {"window": "2s", "release": "window", "late_click": "drop"}}}),
    ("late_clicks", BASE, {"dimension": 4, "batch": 7, "examples": 40, "zero_shot": dict(SMALL_MAIL, target="sequence"), "history": 0.6, "unknown": 0.5,
                           "window": 2000, "more": {"join": {"window": "2s", "release": "click", "late_click": "correct"}}}),
    ("by_time", BASE, {"dimension": 3, "batch": 6, "examples": 40, "more": {"batch": {"max_delay": "4s"}}, "ties": 1}),
    ("rows_wait", ODD, {"dimension": 3, "batch": 5, "examples": 33, "zero_shot": dict(SMALL_MAIL, target="sequence"), "unknown": 0.7, "history": 0.4,
                        "more": {"embedding": {"tables": {"item": {"admit_after": 3}, "city": {"admit_after": 2}, "mixed": {"admit_after": 4}}}}}),
    ("rows_go", BASE, {"dimension": 3, "batch": 2, "examples": 150, "ranking": dict(DNN, hidden=[4]), "unknown": 0.9, "seasons": 1,
                       "optimizer": optimizers(("adam", 1e-3), ("adam", 1e-3), ("adagrad", 0.02)),
                       "more": {"embedding": {"tables": {table: {"expire_after": "30m"} for table in ("item", "age", "gender", "city", "category")}}}}),
    ("edges", EDGES, {"dimension": 3, "batch": 8, "examples": 60, "behaviors": 2, "zero_shot": SMALL_MAIL, "odd": 1}),
]


def draw_value(rng, feature):
    if feature.get("same"):
        return 7.5
    name, dense = feature["name"], feature.get("kind") == "dense"
    if rng.random() < 0.08:
        return rng.choice([None, ""] if dense else [None, "", []])
    if dense:
        return round(rng.gauss(3, 40), 3) if rng.random() < 0.8 else rng.randint(-5, 200)
    if "bucketize" in feature:
        return rng.choice([rng.randint(0, 80), round(rng.uniform(0, 80), 2), str(rng.randint(0, 80))])
    if feature.get("multi"):
        return [f"{name}{rng.randint(0, 9)}" for _ in range(rng.randint(0, 4))]
    if feature.get("number"):
        return rng.choice([rng.randint(0, 30), rng.randint(0, 30) * 0.5, str(rng.randint(0, 30)), 2500.125, 9007199254740993])
    return f"{name}-{rng.randint(0, 7)}-é"


def draw_odd_value(rng, feature):
    if feature.get("kind") == "dense" and rng.random() < 0.05:
        return rng.choice([0, -0.0, 1e30, -1e30, 1e-30, "12.5", 3])
    if "bucketize" in feature and rng.random() < 0.3:
        return rng.choice([rng.choice(feature["bucketize"]), math.nextafter(feature["bucketize"][0], -math.inf), -1e300, 1e300, -0.0])
    if feature.get("number") and rng.random() < 0.2:
        return rng.choice([0, -0.0, -7, 1e21, 1e-7, 1.5e-7, 123456789.125, 5e-324, 1.7976931348623157e308, 2 ** 63, -2 ** 63, 2 ** 64 - 1, 1e16])
    if feature.get("multi") and rng.random() < 0.2:
        return rng.choice([[None, ""], ["", "a", None], ["a", "a", "b"], [1, "1", 1.0], [True, "true"], "alone", [-0.0, "0"], [str(i) for i in range(255)]])
    if feature.get("kind") != "dense" and "bucketize" not in feature and rng.random() < 0.05:
        return rng.choice(ODD_IDS + [True, False])
    return draw_value(rng, feature)


def draw_events(rng, name, features, examples, batch, behaviors, new_users, history):
    events = []
    for i in range(examples):
        count = 0 if rng.random() < new_users else rng.randint(1, behaviors + 3)
        if examples > 2 * batch and i // batch == 1:
            count = 0                                   # a batch of new users only
        if examples > 3 * batch and i // batch == 2:
            count = 3 if i % batch == 4 else 0          # one old user: too few for the zero-shot update
        event = {"event": "example", "impression_id": f"{name}-{i}", "ts": 1700000000000 + 1000 * i, "user_id": f"u{rng.randint(0, 20)}"}
        for group, listed in features.items():
            values = {feature["name"]: draw_value(rng, feature) for feature in listed if feature["name"] != "item_id"}
            event[group] = {key: value for key, value in values.items() if rng.random() > 0.05}
        event["behaviors"] = [f"i{rng.randint(0, 39)}" for _ in range(count)]
        if history and rng.random() < history:
            del event["behaviors"]
        event["item_id"] = f"i{rng.randint(0, 39)}"
        event["clicked"] = rng.random() < 0.4
        events.append(event)
    return events


def as_impressions(rng, events, window):
    """Impressions and clicks: in the window, at its edge, just past it, before the impression, twice, of no impression."""
    stream = []
    for event in events:
        impression = {key: value for key, value in event.items() if key != "clicked"}
        impression["event"] = "impression"
        stream.append(impression)
        if rng.random() < 0.05:
            stream.append(dict(impression, ts=impression["ts"] + rng.choice([0, window, 2 * window + 1])))
        delays = [rng.choice([0, 1, window // 2, window - 1, window, window + 1, 2 * window, 2 * window + 1, -1, -window, -window - 1])
                  for _ in range(rng.choice([0, 0, 1, 1, 2]))]
        stream += [{"event": "click", "impression_id": event["impression_id"], "ts": event["ts"] + delay} for delay in delays]
    if rng.random() < 0.5:
        stream.append({"event": "click", "impression_id": "nobody's", "ts": 1700000003000})
    order = [(event["ts"] + (rng.choice([0, 0, 0, window]) if rng.random() < 0.05 else 0), i) for i, event in enumerate(stream)]
    return [stream[i] for _, i in sorted(order)]


def draw_initial(rng, events, features, dimension, behaviors, ranking, zero_shot, unknown):
    tables = {"item": {reference.key(reference.value_text(item)) for event in events
                       for item in reference.present([*event.get("behaviors", []), event.get("item_id")])}}
    for group, listed in features.items():
        for feature in listed:
            if feature.get("kind") != "dense":
                keys = tables.setdefault(feature.get("table", feature["name"]), set())
                for event in events:
                    keys.update(reference.feature_keys(feature, event, group))
    tensors = {}
    for table, keys in sorted(tables.items()):
        keys = [key for key in sorted(keys) if not unknown or rng.random() > unknown]
        tensors[f"embedding.{table}.keys"] = np.array(keys, np.uint64)
        tensors[f"embedding.{table}.rows"] = rng.normal(0, 0.3, (len(keys), dimension)).astype(np.float32)

    def weight(name, outputs, inputs):
        limit = (6 / (outputs + inputs)) ** 0.5
        tensors[name] = rng.uniform(-limit, limit, (outputs, inputs)).astype(np.float32)

    def small(name, size, mean=0.0, spread=0.1):
        tensors[name] = (mean + rng.normal(0, spread, size)).astype(np.float32)

    dense = {group: sum(feature.get("kind") == "dense" for feature in listed) for group, listed in features.items()}
    attributes = len(features["user"]) - dense["user"]
    inputs = 4 * dimension + sum(dense.values())
    for layer, width in enumerate(ranking.get("hidden", [])):
        weight(f"ranking.hidden.{layer}.weight", width, inputs)
        for name, mean, spread in (("gamma", 1, 0.1), ("beta", 0, 0.1), ("mean", 0, 0.1), ("variance", 1, 0)):
            small(f"ranking.norm.{layer}.{name}", width, mean, spread)
        inputs = width
    weight("ranking.output.weight", 1, inputs)
    small("ranking.output.bias", 1, spread=0)

    def block(prefix, size, widths):
        before = 0
        for layer, width in enumerate(widths):
            weight(f"{prefix}.{layer}.weight", width, before + size)
            small(f"{prefix}.{layer}.bias", width)
            before = width

    if zero_shot["kind"] == "linear":
        weight("zero_shot.linear.weight", dimension, attributes * dimension)
    if zero_shot["kind"] == "mail":
        for side in ("user", "behavior"):
            weight(f"zero_shot.attention_{side}.weight", zero_shot["attention"], dimension)
            small(f"zero_shot.attention_{side}.bias", zero_shot["attention"])
            small(f"zero_shot.attention_{side}.query", zero_shot["attention"], spread=0.5)
        code = zero_shot["encoder"][-1]
        block("zero_shot.encoder_user", dimension + dense["user"], zero_shot["encoder"])
        block("zero_shot.encoder_behavior", dimension, zero_shot["encoder"])
        block("zero_shot.decoder_user", code, zero_shot["decoder"] + [attributes * dimension])
        target = behaviors * dimension if zero_shot["target"] == "sequence" else dimension
        block("zero_shot.decoder_behavior", code, zero_shot["decoder"] + [target])
    for group in ("ranking", "zero_shot"):
        tensors[f"optimizer.{group}.step"] = np.zeros(1, np.uint64)
    return tensors


def add_moments(rng, tensors, optimizer):
    """As if it had been learned for a while: the moments that each optimizer keeps, and counts of steps."""
    for name, tensor in list(tensors.items()):
        learned = name.startswith(("ranking.", "zero_shot.")) and not name.endswith((".mean", ".variance"))
        if learned or name.endswith(".rows"):
            prefix = f"optimizer.{name}" if learned else name[:-len(".rows")]
            zero_shot = name.startswith("zero_shot.") and name != "zero_shot.linear.weight"
            kind = optimizer["embedding" if not learned else "zero_shot" if zero_shot else "ranking"]["kind"]
            m, v = rng.normal(0, 0.01, tensor.shape), rng.uniform(1e-5, 1e-3, tensor.shape)
            tensors[f"{prefix}.m"] = (m if kind in ("adam", "ftrl") else 0 * m).astype(np.float32)
            tensors[f"{prefix}.v"] = (v if kind != "sgd" else 0 * v).astype(np.float32)
        if name.endswith(".rows"):
            tensors[f"{prefix}.step"] = rng.integers(0, 9, len(tensor)).astype(np.uint32)
        if name.endswith(".step"):
            tensors[name][...] = 70


def make_odd(rng, features, events):
    """Values at the edges, item ids of all kinds, nothing in several ways."""
    for i, event in enumerate(events):
        for group, listed in features.items():
            event[group] = {feature["name"]: draw_odd_value(rng, feature) for feature in listed if feature["name"] != "item_id"}
        event["item_id"] = rng.choice([*ODD_IDS, i % 5, str(i % 5), i % 5 + 0.5])
        event["behaviors"] = rng.choice([[], [None, ""], [i % 5, str(i % 5)], [*ODD_IDS], ["", i % 5, None, "é"]])
        event["clicked"] = rng.choice([True, False, 1, 0])
    events[0]["user"] = events[1]["context"] = None
    del events[2]["item"]


def make_seasons(events):
    """A third of an hour's events, then long ones of other values, then the first values again: by then their rows have gone."""
    for i, event in enumerate(events):
        season = 3 * i // len(events)
        event["ts"] = 1700000000000 + 20000 * i + 3600000 * season
        if season == 1:
            event["user"] = {name: f"{value}+" for name, value in event["user"].items()}
            event["behaviors"], event["item_id"] = [item + "+" for item in event["behaviors"]], event["item_id"] + "+"
            event["item"] = {}


def make_case(output, seed, name, features, examples=93, batch=16, behaviors=6, new_users=0.35, history=0, window=0, ties=0, odd=0, seasons=0,
              steady=0, **options):
    """window: impressions and clicks instead of examples, clicks around the window's end.  ties: many at one time.  steady: no batch is
    of another kind than the rest, and nothing is missing that is the same everywhere."""
    directory = os.path.join(output, name)
    os.makedirs(directory, exist_ok=True)
    rng = random.Random(seed)
    events = draw_events(rng, name, features, examples, examples if steady else batch, behaviors, new_users, history)
    for event in events:
        for group, listed in features.items():
            event[group].update({feature["name"]: 7.5 for feature in listed if feature.get("same")})
        if ties:
            event["ts"] -= event["ts"] % 3000
    if odd:
        make_odd(rng, features, events)
    if seasons:
        make_seasons(events)
    if window:
        events = as_impressions(rng, events, window)
    write_case(directory, seed, features, events, batch=batch, behaviors=behaviors, history=history, **options)
    reference.run(directory, directory)


def write_case(directory, seed, features, events, dimension=8, batch=16, behaviors=6, ranking=None, zero_shot=None, optimizer=None,
               warm=False, unknown=0, history=0, more=None, **_):
    """What a case gives: settings, first tensors, events.
    warm: begins with moments.  unknown: that share of the values has no row.  history: that share of events has no behaviors.
    more: settings beyond these, by section."""
    ranking, zero_shot = ranking or DNN, zero_shot or {"kind": "none"}
    tensors = draw_initial(np.random.default_rng(seed), events, features, dimension, behaviors, ranking, zero_shot, unknown)
    if warm:
        add_moments(np.random.default_rng(seed + 1), tensors, optimizer or ADAM)
    written = {group: [{k: v for k, v in feature.items() if k not in ("multi", "number", "same")} for feature in listed]
               for group, listed in features.items()}
    config = {"features": dict(written, behavior={"table": "item", "max_length": behaviors}), "embedding": {"dimension": dimension},
              "batch": {"size": batch}, "model": {"ranking": ranking, "zero_shot": zero_shot}, "optimizer": optimizer or ADAM}
    if unknown:
        config["embedding"]["init_std"] = 0
    if history:
        config["history"] = {"max_length": 3}
    for section, settings in (more or {}).items():
        config.setdefault(section, {}).update(settings)
    with open(f"{directory}/config.yaml", "w") as file:
        file.write("# Made by tests/reference/make_cases.py.\n")
        yaml.safe_dump(config, file, sort_keys=False, allow_unicode=True)
    with open(f"{directory}/events.jsonl", "w") as file:
        file.writelines(json.dumps(event, ensure_ascii=False) + "\n" for event in events)
    reference.save_safetensors(f"{directory}/initial.safetensors", tensors)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for number, (case_name, case_features, options) in enumerate(CASES, 1):
        if len(sys.argv) > 2 and case_name not in sys.argv[2:]:
            continue
        make_case(sys.argv[1], number, case_name, case_features, **options)
