#!/usr/bin/env python3
"""tools/export_onnx.py: what onnxruntime makes of the exported scorer is what coldstreamctl scores, within 1e-5.

Runs itself again in an environment of its own, with onnx, onnxruntime and xxhash from the package index.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build"))
CASES = ("base_dnn", "emb_lr", "linear", "features_dense", "mail_full_pooled", "mail_full_sequence",
         "no_context")
GROUPS = ("user", "context", "item")


def enter():
    """onnxruntime is no Debian package."""
    python = os.path.join(BUILD, "onnx", "bin", "python")
    if subprocess.run([python, "-c", "import onnx, onnxruntime, xxhash"], capture_output=True).returncode if os.path.exists(python) else 1:
        subprocess.run([os.path.join(ROOT, "tools", "onnx.sh"), BUILD], check=True)
    os.execv(python, [python, os.path.abspath(__file__), BUILD, "inside"])


def key(value):
    import xxhash
    text = value if isinstance(value, str) else json.dumps(value)
    return xxhash.xxh3_64_intdigest(text.encode())


class Pool:
    """From an event to the inputs of the exported scorer."""

    def __init__(self, tensors, features, behavior_table, behavior_length):
        self.rows = {name[len("embedding."):-len(".keys")]: dict(zip(tensors[name].tolist(), tensors[name[:-5] + ".rows"]))
                     for name in tensors if name.startswith("embedding.") and name.endswith(".keys")}
        self.features, self.table, self.length = features, behavior_table, behavior_length
        self.d = next(len(row) for table in self.rows.values() for row in table.values())

    def mean(self, feature, value):
        import numpy as np
        values = value if isinstance(value, list) else [value]
        table = self.rows.get(feature["table"], {})
        found = [table[key(v)] for v in values if v not in (None, "") and key(v) in table]
        return (np.mean(found, axis=0) if found else np.zeros(self.d)), bool(found)

    def inputs(self, event):
        import numpy as np
        out = {"attribute": [], "attribute_present": []}
        for group in GROUPS:
            pooled, dense, given = np.zeros(self.d), [], event.get(group) or {}
            for feature in (f for f in self.features if f["group"] == group):
                value = event["item_id"] if (group, feature["name"]) == ("item", "item_id") else given.get(feature["name"])
                if "table" not in feature:
                    dense.append(float("nan") if value in (None, "") else float(value))
                    continue
                mean, present = self.mean(feature, value)
                pooled = pooled + mean
                if group == "user":
                    out["attribute"].append(mean)
                    out["attribute_present"].append(float(present))
            if dense:
                out[f"{group}_dense"] = dense
            if group != "user":
                out[group] = pooled
        behaviors = [b for b in event.get("behaviors") or [] if b not in (None, "")][-self.length:]
        table = self.rows.get(self.table, {})
        out["behaviors"] = sum((table[key(b)] for b in behaviors if key(b) in table), np.zeros(self.d))
        out["is_new"] = float(not behaviors)
        return out


def scores_agree(case, folder):
    import numpy as np
    import onnxruntime
    sys.path.insert(0, os.path.join(ROOT, "tools"))
    import export_onnx
    golden, ctl = os.path.join(ROOT, "tests/golden", case), os.path.join(BUILD, "coldstreamctl")
    checkpoint, model = os.path.join(folder, case), os.path.join(folder, f"{case}.onnx")
    events = os.path.join(golden, "events.jsonl")
    subprocess.run([ctl, "train", "--quiet", "--config", f"{golden}/config.yaml", "--events", events, "--import",
                    f"{golden}/initial.safetensors", "--checkpoint", checkpoint], check=True, capture_output=True)
    subprocess.run([sys.executable, os.path.join(ROOT, "tools/export_onnx.py"), checkpoint, model, ctl], check=True)
    tensors, features = export_onnx.read(checkpoint, ctl)
    scored = subprocess.run([ctl, "score", "--quiet", "--checkpoint", checkpoint, "--events", events], check=True, capture_output=True)
    expected = [json.loads(line) for line in scored.stdout.splitlines()]
    with open(f"{golden}/config.yaml") as file:
        behavior = file.read().split("behavior:")[1]
    table, length = (re.search(rf"{name}: *(\w+)", behavior)[1] for name in ("table", "max_length"))
    pool = Pool(tensors, features, table, int(length))
    with open(events) as file:
        rows = [pool.inputs(json.loads(line)) for line in file if json.loads(line)["event"] != "click"]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    given = {one.name: np.array([row[one.name] for row in rows], dtype=np.float32) for one in session.get_inputs()}
    score = session.run(["score"], given)[0]
    assert len(score) == len(expected) > 50, (len(score), len(expected))
    worst = max(abs(float(s) - e["score"]) for s, e in zip(score, expected))
    assert worst <= 1e-5, f"apart by {worst}"
    kinds = {e["new"] for e in expected}
    assert kinds == {True, False}, kinds
    assert max(e["score"] for e in expected) - min(e["score"] for e in expected) > 1e-3       # or nothing was compared
    one = session.run(["score"], {name: value[:1] for name, value in given.items()})[0]
    assert one.shape == (1,) and abs(float(one[0]) - expected[0]["score"]) <= 1e-5


def main():
    if sys.argv[2:] != ["inside"]:
        enter()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES, 1):
            try:
                scores_agree(case, folder)
                print(f"ok {number} - {case} as ONNX", flush=True)
            except Exception:
                failed += 1
                print(f"not ok {number} - {case} as ONNX\n" + "".join(f"# {line}\n" for line in traceback.format_exc().splitlines()), flush=True)
    print(f"1..{len(CASES)}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
