"""What the tests on a real Apache Kafka share: the broker, the daemon, its numbers, TAP lines. Standard library and kcat only."""
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build"))
PATIENCE = 90       # seconds after which something that should come is given up


def run(*command, check=True, seconds=120, **more):
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL if "input" not in more else None,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=seconds, **more)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stderr.decode(errors='replace')[-2000:]}")
    return done


def until(condition, what, seconds=PATIENCE):
    """Waits for the condition to give something true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.1)


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def ctl(*arguments, **more):
    return run(os.path.join(BUILD, "coldstreamctl"), *arguments, **more)


class Broker:
    def __init__(self, folder):
        self.folder = folder
        self.address = self.script("start").stdout.decode().split()[-1]

    def script(self, verb):
        return run(os.path.join(HERE, "broker.sh"), verb, self.folder, seconds=600)

    def kill(self):
        self.script("kill")

    def restart(self):
        self.script("restart")

    def stop(self):
        self.script("stop")

    def password(self):
        """The user's SCRAM password becomes what is in tls/password."""
        self.script("password")

    def admin(self, *arguments, **more):
        return run(os.path.join(BUILD, "tests/kafka/admin"), self.address, *arguments, **more).stdout.decode()

    def transaction(self, name, end, topic, partition, records):
        """Produces records in one transaction; end: commit, abort, open."""
        self.admin("transaction", name, end, topic, partition, input=b"".join(r + b"\n" for r in records))

    def create(self, *topics):
        self.admin("create", *topics)

    def ends(self, topic):
        """[(first, end)] by partition."""
        return [tuple(map(int, line.split()[1:])) for line in self.admin("ends", topic).splitlines()]

    def committed(self, group, topic):
        return [int(line.split()[1]) for line in self.admin("committed", group, topic).splitlines()]

    def produce(self, topic, partition, records, *options):
        """records: bytes without newlines."""
        run("kcat", "-P", "-b", self.address, "-t", topic, "-p", partition, *options, input=b"".join(r + b"\n" for r in records))

    def produce_one(self, topic, partition, body):
        """One record of any bytes, without a key."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(body)
            file.flush()
            run("kcat", "-P", "-b", self.address, "-t", topic, "-p", partition, "-X", "message.max.bytes=20000000", file.name)

    def produce_file(self, topic, file):
        """A JSON line a record, keyed by its impression id."""
        with open(file, "rb") as lines:
            keyed = b"".join(json.loads(line)["impression_id"].encode() + b"\t" + line for line in lines)
        run("kcat", "-P", "-b", self.address, "-t", topic, "-K", "\t", input=keyed)

    def consume(self, topic, form):
        return run("kcat", "-C", "-b", self.address, "-t", topic, "-o", "beginning", "-e", "-q", "-f", form).stdout


FEATURES = """
features:
  user: [{name: age, bucketize: [18, 25, 35, 45, 55]}, {name: gender}, {name: city}]
  context: [{name: hour}]
  item: [{name: item_id, table: item}, {name: category}]
  behavior: {table: item, max_length: 12}
"""

MODEL = """
embedding: {dimension: 8}
model:
  ranking: {tower: base_dnn, hidden: [32, 16], dropout: 0}
  zero_shot: {kind: mail, losses: full, target: pooled, attention: 8, encoder: [32, 16, 16], decoder: [16, 32], dropout: 0}
"""


class Daemon:
    """coldstreamd on a configuration of its own; state stays in the folder between starts."""

    def __init__(self, broker, folder, name, impressions, clicks, features=FEATURES, window="2s", batch="size: 64, max_delay: 1s",
                 properties="", kafka="discover: 1s", snapshot=None, environment=None, checkpoint="interval: 1h"):
        self.folder = os.path.join(folder, name)
        os.makedirs(self.folder, exist_ok=True)
        self.port, self.process, self.starts, self.name = free_port(), None, 0, name
        self.config = os.path.join(self.folder, "coldstream.yaml")
        self.socket = os.path.join(self.folder, "control.sock")
        self.snapshot, self.checkpoints = snapshot or os.path.join(self.folder, "snapshot"), os.path.join(self.folder, "checkpoints")
        self.environment = {**os.environ, **(environment or {})}
        for directory in (self.snapshot, self.checkpoints):
            os.makedirs(directory, exist_ok=True)
        with open(self.config, "w") as file:
            file.write(f"""
source:
  kafka:
    topics: {{impressions: {impressions}, clicks: {clicks}}}
    group: {name}
    idle_after: 1s
    {kafka}
    properties: {{bootstrap.servers: "{broker.address}", reconnect.backoff.max.ms: 500{properties}}}
join: {{window: {window}}}
{features}{MODEL}
batch: {{{batch}}}
snapshot: {{directory: {self.snapshot}, interval: 200ms}}
checkpoint: {{directory: {self.checkpoints}, {checkpoint}}}
control: {{socket: {self.socket}}}
http: {{listen: 127.0.0.1:{self.port}}}
compute: {{threads: 1, seed: 7}}
""")

    @property
    def log(self):
        return os.path.join(self.folder, f"log.{self.starts}")

    def log_text(self):
        with open(self.log, errors="replace") as file:
            return file.read()

    def start(self):
        self.starts += 1
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([os.path.join(BUILD, "coldstreamd"), "--config", self.config], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True, env=self.environment)
        return self

    def wait(self, seconds=60):
        """The exit status of a daemon that ends by itself."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {seconds} s:\n{self.log_text()[-3000:]}") from None

    def ready(self):
        """/readyz: True, or the reasons why not; "" while there is no answer."""
        try:
            return self.get("/readyz") and True
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def get(self, page):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{page}", timeout=10) as answer:
            return answer.read().decode()

    def status_page(self):
        return json.loads(self.get("/status"))

    def metrics(self):
        """{'name{labels}': value}, without the prefix; empty while it does not answer yet."""
        if not self.alive():
            raise AssertionError(f"{self.name} ended with status {self.process.poll()}:\n{self.log_text()[-3000:]}")
        try:
            text = self.get("/metrics")
        except OSError:
            return {}
        return {line.rsplit(" ", 1)[0].removeprefix("coldstream_"): float(line.rsplit(" ", 1)[1])
                for line in text.splitlines() if line and not line.startswith("#")}

    def sum(self, metric, **labels):
        return sum(value for name, value in self.metrics().items() if re.match(rf"{metric}(\{{|$)", name)
                   and all(f'{label}="{wanted}"' in name for label, wanted in labels.items()))

    def examples(self):
        return int(self.sum("examples_total", users="all"))

    def steps(self):
        return self.metrics().get("steps_total", 0)

    def caught_up(self, partitions):
        """All that is at the broker was taken into learning: no lag on any partition."""
        lags = [value for name, value in self.metrics().items() if name.startswith("consumer_lag{")]
        return len(lags) == partitions and not any(lags)

    def drained(self, partitions):
        """Everything read, joined and learned: no lag on any partition, nothing pending, and no more steps for a while."""
        quiet = ["not looked yet", 0.0]

        def still():
            now = self.metrics()
            if not self.caught_up(partitions) or now.get("join_pending", 1) != 0:
                return False
            steps = now.get("steps_total")
            if steps != quiet[0]:
                quiet[:] = steps, time.monotonic()
            return time.monotonic() - quiet[1] > 2.5
        until(still, f"{self.name} drained; {self.log_text()[-1500:]}")
        return self

    def status(self):
        return json.loads(ctl("status", "--json", "--control", self.socket).stdout)

    def stop(self, how=signal.SIGTERM):
        if self.alive():
            self.process.send_signal(how)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"{self.name} did not end within 60 s of {how!r}:\n{self.log_text()[-3000:]}") from None

    def export(self, name="export.safetensors"):
        file = os.path.join(self.folder, name)
        ctl("export", "--from", self.snapshot, "--format", "safetensors", file)
        with open(file, "rb") as tensors:
            return tensors.read()


class Scorer:
    """coldstream-serve on a daemon's versions; `options` as on its command line. What it says is in its log."""

    def __init__(self, broker, folder, name, checkpoints, *options):
        self.name, self.log, self.port = name, os.path.join(folder, f"{name}.serve.log"), free_port()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [os.path.join(BUILD, "coldstream-serve"), "--checkpoint", checkpoints, "--listen", f"127.0.0.1:{self.port}", "--poll", "100ms",
                 "--drain", "10ms", "--kafka-property", f"bootstrap.servers={broker.address}",
                 "--kafka-property", "reconnect.backoff.max.ms=500", *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self.ready, lambda: f"{name} is ready: {self.log_text()[-2000:]}")

    def log_text(self):
        with open(self.log, errors="replace") as file:
            return file.read()

    def ask(self, page, body=None):
        assert self.process.poll() is None, f"{self.name} ended with status {self.process.poll()}: {self.log_text()[-2000:]}"
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{page}", body and json.dumps(body).encode(), timeout=30) as answer:
            return answer.read().decode()

    def ready(self):
        try:
            return self.ask("/readyz") and True
        except OSError:
            return False

    def scores(self, request):
        """The version that answers, and its scores."""
        answer = json.loads(self.ask("/v1/score", request))
        return answer["version"], answer["scores"]

    def deltas(self, result):
        found = re.search(rf'^coldstream_delta_applied_total{{result="{result}"}} (.*)$', self.ask("/metrics"), re.M)
        return float(found[1]) if found else 0

    def stop(self):
        self.process.terminate()
        return self.process.wait(60)


class Skip(Exception):
    """A test can't be done here: why."""


def judge(number, name, test, more=lambda: ""):
    """Runs one test and prints its TAP line; False where it failed, in whatever way: the others still run. more: what to show then."""
    began = time.monotonic()
    try:
        test()
        print(f"ok {number} - {name} ({time.monotonic() - began:.1f} s)", flush=True)
    except Skip as reason:
        print(f"ok {number} - {name} # SKIP {reason}", flush=True)
    except Exception:
        print(f"not ok {number} - {name}", *traceback.format_exc().splitlines(), *more().splitlines(), sep="\n# ", flush=True)
        return False
    return True


def judge_all(tests, run=lambda test: test(), called=lambda test: test.__name__, more=lambda: ""):
    """Judges one after the other; run: how one is called. The exit status that is theirs together."""
    print(f"1..{len(tests)}", flush=True)
    wrong = [test for number, test in enumerate(tests, 1) if not judge(number, called(test), lambda: run(test), more)]
    return 1 if wrong else 0


class Tests:
    """Runs functions as tests, a TAP line each, and cleans up behind all of them."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="coldstream-kafka.")
        self.daemons, self.others, self.count, self.failed = [], [], 0, 0
        self.broker = None

    def daemon(self, *arguments, **more):
        daemon = Daemon(self.broker, self.folder, *arguments, **more)
        self.daemons.append(daemon)
        return daemon

    def scorer(self, name, checkpoints, *options):
        scorer = Scorer(self.broker, self.folder, name, checkpoints, *options)
        self.others.append(scorer.process)
        return scorer

    def background(self, *command):
        process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.others.append(process)
        return process

    def run(self, *tests):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        try:
            print(f"1..{len(tests)}", flush=True)
            self.broker = Broker(os.path.join(self.folder, "broker"))
            for test in tests:
                if os.environ.get("ONLY", test.__name__) == test.__name__:
                    self.one(test)
        finally:
            for process in [d.process for d in self.daemons if d.alive()] + [p for p in self.others if p.poll() is None]:
                process.kill()
                process.wait()
            subprocess.run([os.path.join(HERE, "broker.sh"), "kill", os.path.join(self.folder, "broker")], check=False)
            if os.environ.get("KEEP"):
                print(f"# kept: {self.folder}")
            else:
                shutil.rmtree(self.folder, ignore_errors=True)
        sys.exit(1 if self.failed else 0)

    def one(self, test):
        self.count += 1
        self.failed += not judge(self.count, test.__doc__, lambda: test(self))
        for daemon in self.daemons:
            if daemon.alive():
                daemon.process.kill()
                daemon.process.wait()


def jitter(low, high, source=random.Random(11)):
    return source.uniform(low, high)
