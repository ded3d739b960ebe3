#!/usr/bin/env python3
"""Random parity cases: what `coldstreamctl train` makes of random settings and streams, and what reference.py makes of them.

usage: random_cases.py BUILD FIRST_SEED [COUNT] [--keep DIR]       needs what reference.py needs
A case is a function of its seed. It passes within compare.py's tolerance. Beyond it, the reference says what rounding can do:
  ill-conditioned   it differs from itself as much (REACH times that, since train rounds at every operation) once the numbers that
                    it starts from differ by the rounding of a float: nothing that computes with floats could agree
  float32           or it does so once it computes with floats itself: train could do better, at the price of doubles there
Anything else is a deviation: exit status 1, and the case stays in DIR.
"""
import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile

import numpy as np

import make_cases
import reference

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
import compare      # noqa: E402

REACH, PROBES, DIVERGED = 30, 6, 1e10


# ---- settings ----

def draw_features(rng):
    """As make_cases' features: "multi" and "number" tell the generator what to draw."""
    tables = ["item", "shared", None, None, None]
    def feature(name, dense_share):
        drawn = {"name": name}
        kind = rng.random()
        if kind < dense_share:
            return dict(drawn, kind="dense")
        if kind < dense_share + 0.2:
            drawn["bucketize"] = sorted({round(rng.uniform(-5, 80), rng.choice([0, 1])) for _ in range(rng.randint(1, 6))})
        elif kind < dense_share + 0.4:
            drawn["multi"] = 1
        elif kind < dense_share + 0.6:
            drawn["number"] = 1
        table = rng.choice(tables)
        return dict(drawn, table=table) if table else drawn
    share = rng.choice([0, 0, 0.3])
    features = {"user": [feature(f"u{i}", share if i else 0) for i in range(rng.randint(1, 5))],
                "context": [feature(f"c{i}", share) for i in range(rng.randint(0, 3))],
                "item": [{"name": "item_id", "table": "item"}] + [feature(f"t{i}", share) for i in range(rng.randint(0, 3))]}
    if rng.random() < 0.1:
        features["item"][0].pop("table")
    return features


def widths(rng, count, most=20):
    return [rng.randint(1, most) for _ in range(count)]


def draw_optimizer(rng, wild):
    kind = rng.choice(["adam", "adam", "adam", "adagrad", "ftrl", "sgd"])
    drawn = {"kind": kind, "learning_rate": float(f"{10 ** rng.uniform(*((-8, 0.9) if wild else (-4, -1.5))):.3g}")}
    if kind == "adam" and rng.random() < 0.4:
        drawn.update(beta1=rng.choice([0, 0.5, 0.9, 0.99]), beta2=rng.choice([0.9, 0.99, 0.9999]), epsilon=rng.choice([1e-8, 1e-6, 1e-3, 1]))
    if kind == "adagrad" and rng.random() < 0.5:
        drawn.update(epsilon=rng.choice([1e-10, 1e-3]), initial_accumulator=rng.choice([0, 1e-3, 2]))
    if kind == "ftrl":
        drawn.update(beta=rng.choice([0.1, 1, 3]), l1=rng.choice([0, 0.001, 0.1]), l2=rng.choice([0, 0.1, 10]),
                     initial_accumulator=rng.choice([0, 0.1]))
    return drawn


def draw_settings(rng):
    wild = rng.random() < 0.1
    kind = rng.choice(["mail", "mail", "mail", "linear", "none"])
    zero_shot = {"kind": kind}
    if kind == "mail":
        zero_shot.update(losses=rng.choice(["full", "full", "dual", "single"]), target=rng.choice(["pooled", "sequence"]),
                         attention=rng.randint(1, 16), encoder=widths(rng, 3), decoder=widths(rng, 2), dropout=0)
        if rng.random() < 0.4:
            zero_shot["bandwidth"] = rng.choice([0.1, 0.5, 2, 10])
    tower = {"tower": "emb_lr"} if rng.random() < 0.15 else {"tower": "base_dnn", "hidden": widths(rng, rng.randint(1, 4)), "dropout": 0}
    optimizer = {group: draw_optimizer(rng, wild) for group in ("ranking", "zero_shot", "embedding")}
    # Beyond it tanh saturates, and 1 - tanh^2 is what a float leaves of it.
    optimizer["zero_shot"]["learning_rate"] = min(optimizer["zero_shot"]["learning_rate"], 0.1)
    return {"dimension": rng.choice([1, 2, 3, 5, 8, 16, 17]), "batch": rng.choice([1, 2, 3, 4, 7, 8, 16, 33, 64]),
            "behaviors": rng.choice([1, 2, 3, 6, 12]), "new_users": rng.choice([0, 0.35, 0.35, 0.8, 1]), "ranking": tower,
            "zero_shot": zero_shot, "optimizer": optimizer,
            "warm": rng.random() < 0.7, "unknown": rng.choice([0, 0, 0.6]), "history": rng.choice([0, 0, 0.5])}


# ---- events ----

def draw_events(rng, seed, settings, features):
    size = settings["batch"]
    examples = rng.choice([0, 1]) if rng.random() < 0.03 else min(150, rng.randint(1, 4) * size + rng.randint(0, size))
    odd = dict(zip(range(8), rng.sample(make_cases.ODD_IDS, 8))) if rng.random() < 0.2 else {}
    def item():
        number = rng.randint(0, 39)
        return odd.get(number, rng.choice([number, str(number)]) if settings["history"] else f"i{number}")
    events = []
    for i in range(examples):
        event = {"event": "example", "impression_id": f"{seed}-{i}", "ts": 1700000000000 + rng.choice([0, 1, 500, 1000]) + 300 * i,
                 "user_id": rng.choice([f"u{rng.randint(0, 20)}", rng.randint(0, 5)])}
        for group, listed in features.items():
            values = {feature["name"]: make_cases.draw_odd_value(rng, feature) for feature in listed if feature["name"] != "item_id"}
            event[group] = {key: value for key, value in values.items() if rng.random() > 0.05}
            if rng.random() < 0.03:
                event[group] = None
        count = 0 if rng.random() < settings["new_users"] else rng.randint(1, settings["behaviors"] + 3)
        event["behaviors"] = [item() for _ in range(count)]
        if count and rng.random() < 0.05:
            event["behaviors"] = rng.choice([[None], [""], ["", item(), None]])
        if settings["history"] and rng.random() < settings["history"]:
            del event["behaviors"]
        event["item_id"] = item()
        event["clicked"] = rng.choice([True, False, False, 1, 0])
        events.append(event)
    return events


# ---- a case ----

def draw_case(directory, seed):
    rng = random.Random(seed)
    settings, features = draw_settings(rng), draw_features(rng)
    events = draw_events(rng, seed, settings, features)
    more = {}
    if settings["unknown"]:
        more["embedding"] = {"tables": {"item": {"admit_after": rng.choice([1, 2, 4])}, "shared": {"admit_after": rng.choice([1, 3])}}}
        if not any(feature.get("table") == "shared" for listed in features.values() for feature in listed):
            del more["embedding"]["tables"]["shared"]
    if rng.random() < 0.3:
        window = rng.choice([1, 700, 5000])
        events = make_cases.as_impressions(rng, events, window)
        more["join"] = {"window": f"{window}ms", "release": rng.choice(["window", "click"]), "late_click": rng.choice(["drop", "correct"])}
    elif rng.random() < 0.2:
        events.sort(key=lambda event: event["ts"])
        more["batch"] = {"max_delay": rng.choice(["300ms", "1s", "5s"])}
    os.makedirs(directory, exist_ok=True)
    make_cases.write_case(directory, seed, features, events, more=more, **settings)


def train(build, case, output, threads):
    config = os.path.join(output, "config.yaml")
    shutil.copy(os.path.join(case, "config.yaml"), config)
    with open(config, "a") as file:
        file.write(f"compute: {{threads: {threads}}}\n")
    run = subprocess.run([os.path.join(build, "coldstreamctl"), "train", "--config", config, "--events", f"{case}/events.jsonl", "--strict",
                          "--import", f"{case}/initial.safetensors", "--export", f"{output}/export.safetensors",
                          "--predictions", f"{output}/predictions.csv", "--losses", f"{output}/losses.csv"], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"train: exit status {run.returncode}: {run.stderr[-600:]}")


def of_files(output):
    tensors = compare.load(f"{output}/export.safetensors")
    _, predictions = compare.table(f"{output}/predictions.csv", "impression_id")
    _, losses = compare.table(f"{output}/losses.csv", "step")
    return (tensors, [[row["impression_id"], int(row["new"]), int(row["clicked"]), float(row["score"])] for row in predictions],
            [[float(row[name]) for name in ("examples", "ranking", "reconstruct_user", "reconstruct_behavior", "mmd")] for row in losses])


def as_arrays(result):
    """Everything that is compared, by name, with its absolute tolerance."""
    tensors, predictions, losses = result
    arrays = {name: (array, 1e-6) for name, array in tensors.items()}
    arrays["predictions"] = np.array([row[1:] for row in predictions]).reshape(-1, 3), 1e-5
    arrays["losses"] = np.array(losses).reshape(-1, 5), 1e-5
    return arrays


def beyond(got, want, spread):
    """{name: how far past the tolerance}, where it is past it even with `spread` (by name; None: of nothing) allowed."""
    bad = {}
    for name, (array, atol) in want.items():
        if name not in got or got[name][0].shape != array.shape:
            bad[name] = math.inf
        elif array.size:
            exact = name.endswith((".keys", ".step"))
            wanted, found = (array, got[name][0]) if exact else (array.astype(np.float64), got[name][0].astype(np.float64))
            if exact:
                excess = 0.0 if (wanted == found).all() else math.inf
            else:
                allowed = atol + 2e-4 * np.abs(wanted) + (REACH * spread[name] if spread else 0)
                excess = np.abs(found - wanted) / allowed
                excess = float(np.where(np.isfinite(excess), excess, np.inf).max())
            if excess > 1:
                bad[name] = excess
    return bad


def rounded(tensors, rng):
    """The same numbers, each off by up to half a float's last place."""
    return {name: array.astype(np.float64) * (1 + rng.uniform(-6e-8, 6e-8, array.shape)) if array.dtype == np.float32 else array
            for name, array in tensors.items()}


def spread_of(want, others):
    """Element by element, how far any of the others is away. One may be near by chance in all: its tensor's typical spread counts too."""
    spread = {name: np.zeros(array.shape) for name, (array, _) in want.items()}
    with np.errstate(invalid="ignore"):
        for other in others:
            for name in spread:
                away = np.abs(other[name][0].astype(np.float64) - want[name][0])
                spread[name] = np.maximum(spread[name], np.where(np.isfinite(away), away, np.inf))
    return {name: np.maximum(array, np.median(array)) if array.size else array for name, array in spread.items()}


def check(build, case, output, threads=2):
    """What a case comes to, and what is how many times past the tolerance."""
    train(build, case, output, threads)
    config, initial, events = reference.read_case(case)
    with np.errstate(all="ignore"):
        got, want = of_files(output), reference.learn(config, initial, events)
        if [row[0] for row in got[1]] != [str(row[0]) for row in want[1]]:
            return "deviates", "examples in another order"
        got, want = as_arrays(got), as_arrays(want)
        bad = beyond(got, want, None)
        if not bad:
            return "ok", ""

        def named(bad):
            return ", ".join(f"{name} {bad[name]:.3g}" for name in sorted(bad, key=bad.get, reverse=True)[:3])
        if any((~(np.abs(array) < DIVERGED)).any() for name, (array, _) in want.items() if not name.endswith((".keys", ".step"))):
            return "ill-conditioned", "the reference diverges"
        others = [as_arrays(reference.learn(config, rounded(initial, np.random.default_rng(probe)), events)) for probe in range(PROBES)]
        if not beyond(got, want, spread_of(want, others)):
            return "ill-conditioned", named(bad)
        others.append(as_arrays(reference.learn(config, initial, events, np.float32)))
        still = beyond(got, want, spread_of(want, others))
        return ("deviates", named(still) + " of tolerance and spread") if still else ("float32", named(bad))


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("build")
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int, nargs="?", default=1)
    parser.add_argument("--keep")
    arguments = parser.parse_args()
    kinds = {}
    with tempfile.TemporaryDirectory() as work:
        for seed in range(arguments.first, arguments.first + arguments.count):
            case = os.path.join(work, str(seed))
            try:
                draw_case(case, seed)
                kind, said = check(arguments.build, case, work)
            except RuntimeError as error:
                kind, said = "deviates", str(error)
            kinds[kind] = kinds.get(kind, 0) + 1
            if kind != "ok":
                print(f"seed {seed}: {kind}: {said}", flush=True)
            if kind == "deviates" and arguments.keep:
                shutil.copytree(case, os.path.join(arguments.keep, str(seed)), dirs_exist_ok=True)
            shutil.rmtree(case, ignore_errors=True)
    print(json.dumps(kinds))
    sys.exit(1 if kinds.get("deviates") else 0)


if __name__ == "__main__":
    main()
