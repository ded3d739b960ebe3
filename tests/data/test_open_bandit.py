#!/usr/bin/env python3
"""Open Bandit's log through the daemon on a real Kafka: every user is new, so the zero-shot tower is used and never trained."""
import json
import math
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "kafka"))
from harness import ROOT, Tests, ctl, run, until     # noqa: E402

FEATURES = """
features:
  user: [{name: f0}, {name: f1}, {name: f2}, {name: f3}]
  context: [{name: position}]
  item: [{name: item_id, table: item}, {name: kind}, {name: maker}, {name: style}]
  behavior: {table: item, max_length: 12}
"""


def every_user_is_new(tests):
    """10,000 logged impressions of users without behaviors: all learned, no zero-shot step, and status says so"""
    data = run(os.path.join(ROOT, "tools/fetch_data.sh"), "open-bandit", seconds=400).stdout.decode().strip()
    events = os.path.join(tests.folder, "events")
    run(sys.executable, os.path.join(ROOT, "tools/open_bandit.py"), data, events)
    tests.broker.create("obd.impressions:2", "obd.clicks:2", "obd.impressions.dlq:1", "obd.clicks.dlq:1")
    for kind in ("impressions", "clicks"):
        tests.broker.produce_file(f"obd.{kind}", os.path.join(events, f"{kind}.jsonl"))
    daemon = tests.daemon("bandit", "obd.impressions", "obd.clicks", features=FEATURES,
                          # A week of a thinned log: an impression a minute, so that batches close by size, and come out even.
                          batch="size: 50, max_delay: 0")
    daemon.start().drained(4)
    metrics = daemon.metrics()
    assert daemon.examples() == 10000, daemon.examples()
    assert daemon.sum("examples_total", users="new") == 10000 and daemon.sum("examples_total", users="old") == 0
    assert daemon.sum("dead_letters_total") == 0 and daemon.sum("nonfinite_skipped_total") == 0
    loss = [value for name, value in metrics.items() if name.startswith("progressive_logloss{") and 'users="new"' in name]
    assert loss and all(math.isfinite(value) and 0 < value < 1 for value in loss), loss
    status = daemon.status()
    text = json.dumps(status)
    steps = [value for key, value in walk(status) if key in ("zero_shot_steps", "zero_shot.steps")]
    assert steps == [0], f"status says zero-shot steps {steps}: {text[:2000]}"
    before = daemon.sum("publish_total", result="ok")
    ctl("publish", "--control", daemon.socket)
    until(lambda: daemon.sum("publish_total", result="ok") > before, "a checkpoint", 30)
    assert daemon.stop() == 0, daemon.log_text()[-2000:]
    with open(os.path.join(events, "impressions.jsonl"), "rb") as lines:
        some = b"".join(next(lines) for _ in range(50))
    scores = [json.loads(line) for line in ctl("score", "--checkpoint", daemon.checkpoints, input=some).stdout.splitlines()]
    assert len(scores) == 50 and all(s["new"] and 0 < s["score"] < 1 for s in scores), scores[:3]


def walk(value, path=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            if path:
                yield f"{path}.{key}", inner
            yield from walk(inner, key)


if __name__ == "__main__":
    Tests().run(every_user_is_new)
