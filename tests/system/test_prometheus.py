#!/usr/bin/env python3
"""A real Prometheus scrapes coldstreamd and coldstream-serve: metrics, alerts and the dashboard are what it accepts, and every query has
an answer. usage: test_prometheus.py BUILD"""
import glob
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "crash"))
from plant import Daemon, MockBroker, PLAIN                                    # noqa: E402
from harness import BUILD, ctl, free_port, judge, until                         # noqa: E402

MONITORING = os.path.join(ROOT, "tools", "monitoring")
PAGES = os.path.join(ROOT, "docs", "alerts")
CHUNKS, IMPRESSIONS = 8, 400            # a chunk is produced at a time, so that rates have something to measure
PREFIX = "coldstream_"
# What the labels may say, whatever the events hold.
LABELS = {
    "topic": {"impressions", "clicks"}, "partition": set("0123"), "directory": {"snapshot", "checkpoint"},
    "table": {"age", "gender", "city", "hour", "item", "category"}, "users": {"all", "new", "old"}, "window": {"window", "start"},
    "state": {"waiting", "running", "paused", "held", "stopping", "standby"}, "kind": {"impression", "click", "conversion"},
    "part": {"ranking", "reconstruct_user", "reconstruct_behavior", "mmd"}, "cause": {"operator", "automatic"}, "of": {"served", "shadow"},
    "result": {"ok", "failed", "refused", "matched", "expired", "late", "duplicate", "orphan", "empty", "not_json", "missing", "mistyped",
               "not_finite", "too_large", "time_out_of_bounds", "unknown_event", "applied", "unfinished", "gap", "epoch", "damaged", "overflow",
               "held", "current", "kept", "unknown", "compared", "left_out"},
    "reason": {"not_json", "missing", "mistyped", "not_finite", "too_large", "time_out_of_bounds", "unknown_event", "late", "displaced",
               "refused"},
    "code": {"200", "404", "503"},
}
# The names of the interfaces contract, which others rely on.
PROMISED = """events_total event_lag_seconds consumer_lag join_pending join_total examples_total steps_total step_seconds
progressive_logloss progressive_auc progressive_gauc calibration_ratio loss embedding_rows embedding_admitted_total embedding_evicted_total
nonfinite_skipped_total snapshot_seconds snapshot_stall_seconds snapshot_last_success_timestamp_seconds snapshot_bytes publish_total
published_version serving_version freshness_seconds config_reloads_total build_info process_start_time_seconds""".split()
with open(os.path.join(ROOT, "daemon", "coldstream.h")) as header:
    LIBRARY = header.read()             # its functions have names as metrics have
PROCESS = "cpu_seconds_total resident_memory_bytes virtual_memory_bytes open_fds max_fds start_time_seconds".split()


class Stream:
    """Of now, with clicks, and with what tries to get into a label."""

    def __init__(self, file):
        self.file, self.events, self.setting, start = file, 0, PLAIN, int(time.time() * 1000) - CHUNKS * IMPRESSIONS
        garbage = ['{"event":"evil\\"}\\n#","impression_id":"g1"}', 'not json, "impression_id":"g2"',
                   '{"event":"click","impression_id":"g3","ts":"evil\\ny"}', '{"impression_id":"g4","ts":1e999,"user_id":"evil","item_id":"i"}',
                   '{"event":"impression","impression_id":"g5","ts":%d,"user_id":"evil","user":{"evil{x=\\"1\\"}":1,"city":"\\"} evil 1"},'
                   '"behaviors":[],"item_id":"\\n# TYPE evil"}' % start]
        self.garbage = 4        # the last one is fine, but for its values
        with open(file, "w") as out:
            for chunk in range(CHUNKS):
                lines = list(garbage)
                for i in range(chunk * IMPRESSIONS, (chunk + 1) * IMPRESSIONS):
                    user, item = i % 97, i * 7 % 53
                    lines.append(json.dumps(
                        {"event": "impression", "impression_id": f"r{i}", "ts": start + i, "user_id": f"u{user}",
                         "user": {"age": 18 + user % 40, "gender": "MF"[user % 2], "city": f"c{user % 5}"},
                         "behaviors": [f"i{(user + k) % 53}" for k in range(user % 4)], "context": {"hour": i % 24}, "item_id": f"i{item}",
                         "item": {"category": f"k{item % 6}"}}, separators=(",", ":")))
                    if (user + item) % 5 == 0:
                        lines.append(json.dumps({"event": "click", "impression_id": f"r{i}", "ts": start + i + 1}, separators=(",", ":")))
                out.writelines(line + "\n" for line in lines)
                self.events += len(lines)


def get(port, path, *default):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30).read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        if default:
            return default[0]
        raise


class World:
    """Broker, daemon, scorer with a shadow and traffic, Prometheus: as long as the tests last."""

    def __init__(self):
        self.folder, self.processes, self.stop = tempfile.mkdtemp(prefix="coldstream-prometheus."), [], threading.Event()
        self.broker = self.daemon = self.traffic = None
        self.bin = subprocess.run([os.path.join(ROOT, "tools", "prometheus.sh"), BUILD], check=True, stdout=subprocess.PIPE,
                                  text=True).stdout.strip()
        self.promtool = os.path.join(self.bin, "promtool")

    def spawn(self, *command, log):
        with open(os.path.join(self.folder, log), "w") as out:
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True))

    def start(self):
        self.stream = Stream(os.path.join(self.folder, "events.jsonl"))
        self.broker = MockBroker(self.stream, "deltas:1")
        self.daemon = Daemon(self.broker, self.folder, "model", interval="500ms", checkpoints="2s")
        self.daemon.configure("300ms", checkpoint=", delta_topic: deltas, delta_interval: 100ms")
        self.daemon.start()
        until(lambda: "coldstream_steps_total 0\n" in get(self.daemon.port, "/metrics", ""), "counters from 0 on, before the first event")
        self.serve_port, self.port = free_port(), free_port()
        self.spawn(os.path.join(BUILD, "coldstream-serve"), "--checkpoint", self.daemon.checkpoints, "--listen", f"127.0.0.1:{self.serve_port}",
                   "--poll", "100ms", "--delta-topic", "deltas", "--kafka-property", f"bootstrap.servers={self.broker.address}",
                   "--shadow", self.daemon.checkpoints, "--shadow-share", "1", log="serve.log")
        until(lambda: get(self.serve_port, "/livez", None) is not None, "coldstream-serve")
        self.before_the_first = get(self.serve_port, "/metrics")
        config = os.path.join(self.folder, "prometheus.yaml")
        with open(config, "w") as file:
            file.write(f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{MONITORING}/alerts.yaml]
scrape_configs:
- {{job_name: coldstreamd, static_configs: [{{targets: ["127.0.0.1:{self.daemon.port}"]}}]}}
- {{job_name: coldstream-serve, static_configs: [{{targets: ["127.0.0.1:{self.serve_port}"]}}]}}
""")
        self.spawn(os.path.join(self.bin, "prometheus"), f"--config.file={config}", f"--storage.tsdb.path={self.folder}/tsdb",
                   f"--web.listen-address=127.0.0.1:{self.port}", log="prometheus.log")
        until(lambda: get(self.port, "/-/ready", None) is not None, "Prometheus")
        self.traffic = threading.Thread(target=self.score, daemon=True)
        self.traffic.start()
        for _ in range(CHUNKS):                 # each is scraped before the next one comes
            self.broker.produce(-(-self.stream.events // CHUNKS))
            self.scraped()
        self.daemon.examples_reach(CHUNKS * IMPRESSIONS)
        until(lambda: self.value('coldstream_delta_applied_total{result="applied"}') and self.value("coldstream_shadow_scores_total")
              and self.value('coldstream_requests_total{code="200"}'), "deltas applied and requests answered")
        self.scraped()
        self.scraped()

    def score(self):
        request = {"requests": [{"user_id": "u1", "user": {"age": 30}, "behaviors": ["i1"], "item_id": "i2"}]}
        while not self.stop.wait(0.05):
            for body in (request, request, dict(request, version=1)):           # version 1 was never there: 404
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{self.serve_port}/v1/score", json.dumps(body).encode(), timeout=30).read()
                except OSError:                 # not ready yet; no such version
                    pass

    def end(self):
        self.stop.set()
        if self.traffic:
            self.traffic.join()
        for process in self.processes + ([self.daemon.process] if self.daemon and self.daemon.process else []):
            if process.poll() is None:
                process.kill()
            process.wait()
        if self.broker:
            self.broker.stop()
        if os.environ.get("KEEP"):
            print(f"# kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def query(self, expression):
        answer = json.loads(get(self.port, "/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        assert answer["status"] == "success", f"{expression}: {answer}"
        return answer["data"]["result"]

    def value(self, expression):
        return sum(float(one["value"][1]) for one in self.query(expression))

    def scraped(self):
        """Waits for the next scrape of both programs."""
        def count():
            counts = [float(one["value"][1]) for one in self.query("count_over_time(up[1h])")]
            return min(counts) if len(counts) == 2 else 0
        before = count()
        until(lambda: count() > before, "a scrape")

    def names(self):
        return set(json.loads(get(self.port, "/api/v1/label/__name__/values"))["data"])


world = World()


def alerts():
    """[(name, its block of text)]"""
    with open(os.path.join(MONITORING, "alerts.yaml")) as file:
        return [(block.split("\n", 1)[0], block) for block in file.read().split("  - alert: ")[1:]]


def dashboard():
    with open(os.path.join(MONITORING, "dashboard.json")) as file:
        return json.load(file)


def queries():
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")


def it_starts():
    """broker, daemon, scorer with deltas and a shadow, Prometheus"""
    world.start()


def metrics_are_clean():
    """`promtool check metrics` finds nothing to say of either program, before the first version and after"""
    for text in (world.before_the_first, get(world.serve_port, "/metrics"), get(world.daemon.port, "/metrics")):
        done = subprocess.run([world.promtool, "check", "metrics"], input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0 and not done.stdout.strip(), done.stdout.decode()


def promised_metrics_are_there():
    """every metric that the interfaces contract names is scraped, and the process metrics of both programs"""
    there = world.names()
    missing = [name for name in PROMISED if not {PREFIX + name, PREFIX + name + "_bucket"} & there]
    assert not missing, missing
    for name in PROCESS:
        assert len(world.query(f"process_{name} > 0")) == 2, name
    assert world.value("coldstream_serving_version") > 1 and "coldstream_serving_version 0\n" in world.before_the_first


def events_make_no_labels():
    """labels are topics, tables and words of ours, whatever the events hold; the garbage is counted"""
    until(lambda: world.value("coldstream_dead_letters_total") == world.stream.garbage * CHUNKS, "the dead letters to be counted")
    said = ctl("status", "--control", world.daemon.socket).stdout.decode()
    assert re.search(r"(?m)^unusable .*\b8 not_json\b.*; in the topics' \.dlq$", said), said
    for port in (world.daemon.port, world.serve_port):
        for line in get(port, "/metrics").splitlines():
            assert "evil" not in line, line
            if line.startswith("#") or "build_info" in line:
                continue
            for name, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', line):
                assert name == "le" or value in LABELS[name], line


def alerts_load_and_are_silent():
    """Prometheus takes every alert, can evaluate each, and none is about to fire but that of the garbage"""
    subprocess.run([world.promtool, "check", "rules", os.path.join(MONITORING, "alerts.yaml")], check=True, stdout=subprocess.DEVNULL)

    def rules():
        return [rule for group in json.loads(get(world.port, "/api/v1/rules"))["data"]["groups"] for rule in group["rules"]]
    until(lambda: all(rule["health"] != "unknown" for rule in rules()), "all rules to be evaluated")
    now = rules()
    assert sorted(rule["name"] for rule in now) == sorted(name for name, _ in alerts())
    assert all(rule["health"] == "ok" for rule in now), [rule for rule in now if rule["health"] != "ok"]
    pending = {rule["name"] for rule in now if rule["state"] == "pending"}
    # The garbage, which is noticed; and a model that has learned for seconds may be off for up to half an hour.
    assert "ColdstreamDeadLetters" in pending <= {"ColdstreamDeadLetters", "ColdstreamCalibrationOff"}, pending
    assert not [rule for rule in now if rule["state"] == "firing"], [rule for rule in now if rule["state"] == "firing"]
    told = [text for rule in now for alert in rule["alerts"] for text in alert["annotations"].values()]
    assert not [text for text in told if "error" in text or "{{" in text], told
    used = {name for _, block in alerts() for name in re.findall(r"coldstream_[a-z_]+", block.split("labels:")[0])}
    assert not used - world.names(), f"alerts ask for metrics that are not there: {used - world.names()}"


def each_alert_fires():
    """`promtool test rules`: each alert is seen firing on what it is for, and none in a healthy day"""
    tests = os.path.join(MONITORING, "alerts_test.yaml")
    done = subprocess.run([world.promtool, "test", "rules", tests], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()
    with open(tests) as file:
        seen = set(re.findall(r'alertname="(\w+)",alertstate="firing"', file.read()))
    assert seen == {name for name, _ in alerts()}, seen ^ {name for name, _ in alerts()}


def each_alert_has_its_page():
    """severity, which Alertmanager's example has a receiver for, summary, description and a page in docs/alerts/; and no page for another"""
    with open(os.path.join(MONITORING, "alertmanager.yml")) as file:
        assert set(re.findall(r"- name: (\w+)", file.read())) == {re.search(r"severity: (\w+)", block)[1] for _, block in alerts()}
    for name, block in alerts():
        for part in (r"severity: (page|ticket)\b", r"summary: \S", r"description: \S", rf"runbook_url: \S*docs/alerts/{name}\.md\n"):
            assert re.search(part, block), f"{name}: no {part}"
    pages = {file[:-3] for file in os.listdir(PAGES)}
    assert pages == {name for name, _ in alerts()}, pages ^ {name for name, _ in alerts()}
    for page in pages:
        with open(os.path.join(PAGES, page + ".md")) as file:
            text = file.read()
        for heading in ("## What it means", "## What users feel", "## Look", "## Do", "## Wake someone"):
            assert heading in text, f"{page}.md: no {heading}"


def each_panel_has_an_answer():
    """every query of the dashboard is evaluated and has a result; every metric of ours is on it"""
    asked = list(queries())
    assert len(asked) > 60, len(asked)
    empty = [(title, query) for title, query in asked if not world.query(query)]
    assert not empty, empty
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()
            assert world.query(f"count by ({label}) ({metric.replace('$job', '.*')})"), variable["name"]
    shown = " ".join(query for _, query in asked)
    ours = {re.sub("_(bucket|sum|count)$", "", name) for name in world.names() if name.startswith(PREFIX)}
    assert not [name for name in ours if name not in shown], [name for name in ours if name not in shown]


def metrics_page(*programs):
    """docs/metrics.md, as the scrapes of (name, text) say it."""
    rows, of = {}, {}
    for program, text in programs:
        kinds = dict(re.findall(r"(?m)^# TYPE (\S+) (\w+)$", text))
        for name, said in re.findall(r"(?m)^# HELP (\S+) (.+)$", text):
            samples = re.findall(rf"(?m)^{name}(?:_bucket)?\{{(.*?)\}} ", text)
            labels = sorted({label for sample in samples for label in re.findall(r'(\w+)="', sample)} - {"le"})
            rows[name] = (kinds[name], ", ".join(labels), said)
            of.setdefault(name, []).append(program)
    lines = ["# Metrics", "", "What `/metrics` of coldstreamd (`http.listen`) and of coldstream-serve says. This page is compared with both in a test,",
             "which writes it anew into the build folder; the words are those of the `# HELP` lines. Alerts: [alerts/](alerts/)."]
    for title, wanted in (("coldstreamd", ["coldstreamd"]), ("coldstream-serve", ["coldstream-serve"]), ("Both", ["coldstreamd", "coldstream-serve"])):
        lines += ["", f"## {title}", "", "| metric | kind | labels | |", "|---|---|---|---|"]
        lines += [f"| `{name}` | {' | '.join(rows[name])} |" for name in sorted(rows) if of[name] == wanted]
    return "\n".join(lines) + "\n"


def each_metric_is_documented():
    """docs/metrics.md has each metric of both programs, and no other; what is named or grepped for elsewhere is one of them"""
    scrapes = {"9464": get(world.daemon.port, "/metrics"), "9465": get(world.serve_port, "/metrics")}
    wanted = metrics_page(("coldstreamd", scrapes["9464"]), ("coldstream-serve", scrapes["9465"]))
    with open(os.path.join(BUILD, "metrics.md"), "w") as file:
        file.write(wanted)
    with open(os.path.join(ROOT, "docs", "metrics.md")) as file:
        assert file.read() == wanted, f"docs/metrics.md is not what the programs say now: cp {BUILD}/metrics.md docs/"
    there = {re.sub("_(bucket|sum|count)$", "", name) for name in world.names()}
    seen = 0
    for page in [os.path.join(ROOT, "README.md"), *sorted(glob.glob(os.path.join(ROOT, "docs", "**", "*.md"), recursive=True))]:
        with open(page) as file:
            text = file.read()
        for name in re.findall(r"`(coldstream_[a-z_]+)(?:\{[^`]*)?`(?!\()", text):
            if not re.search(rf"\b{name}\(", LIBRARY) and not name.endswith("_"):
                seen += 1
                assert re.sub("_(bucket|sum|count)$", "", name) in there, f"{page}: {name}"
        for port, pattern in re.findall(r"localhost:(\d+)/metrics \| grep (?:-E )?'?([^'\n]+)'?", text):
            for part in re.sub(r"_\(\w+(\|\w+)*\)", "_", pattern).split("|"):
                seen += 1
                assert re.search(rf"(?m)^[^#\n]*{part}", scrapes[port]), f"{page}: {part}"
    assert seen > 30, seen


def nobody_else_can_ask():
    """all of it listens on loopback alone"""
    with open("/proc/net/tcp") as table:
        listening = [line.split()[1] for line in table.read().splitlines()[1:] if line.split()[3] == "0A"]
    for port in (world.port, world.daemon.port, world.serve_port):
        found = [address.split(":")[0] for address in listening if int(address.split(":")[1], 16) == port]
        assert found and all(socket.inet_ntoa(bytes.fromhex(address)[::-1]) == "127.0.0.1" for address in found), (port, found)


def it_ends():
    """the daemon was well to the end"""
    assert world.daemon.stop() == 0, world.daemon.log_text()[-3000:]


tests = [it_starts, metrics_are_clean, promised_metrics_are_there, events_make_no_labels, alerts_load_and_are_silent, each_alert_fires,
         each_alert_has_its_page, each_metric_is_documented, each_panel_has_an_answer, nobody_else_can_ask, it_ends]
failed = 0
print(f"1..{len(tests)}", flush=True)
try:
    for number, test in enumerate(tests, 1):
        right = judge(number, test.__doc__, test)
        failed += not right
        if test is it_starts and not right:
            break
finally:
    world.end()
sys.exit(1 if failed else 0)
