"""What the fault tests share: a broker that outlives the daemon, the daemon under faults, the count of what was injected.

A test runs in a short form, in `make test`, and in full (TORTURE=full, `make torture`). All chance comes from one seed, SEED, which is
printed; the same seed gives the same stream and the same choices, though not the same instants."""
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "kafka"))
import harness                                                          # noqa: E402
from harness import BUILD, PATIENCE, Skip, ctl, run, until              # noqa: E402,F401

FULL = os.environ.get("TORTURE") == "full"
SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
TABLE = os.path.join(BUILD, "torture.tsv")
IMPRESSION_PARTITIONS, CLICK_PARTITIONS = 4, 2

# What a daemon is asked to do with the stream: as it is by default, and with all that comes, goes and is bounded: rows that wait for
# their second sighting, expire and are pushed out, histories that are, pending impressions that leave early, late clicks that are
# learned after all, conversions and joined examples beside, and each optimizer that there is.
PLAIN = {"topics": "conversions: ~", "join": "window: 2s", "more": "", "model": harness.MODEL, "generate": []}
BOUNDED = {
    "topics": "conversions: conversions, examples: examples",
    "join": "window: 2s, release: click, late_click: correct, max_pending: 8",
    "more": """history: {max_length: 3, max_users: 40}
optimizer: {ranking: {kind: ftrl, learning_rate: 0.05}, zero_shot: {kind: adagrad}, embedding: {kind: ftrl, l1: 0.0001}}
""",
    "model": harness.MODEL.replace("{dimension: 8}", "{dimension: 8, tables: {item: {admit_after: 2, expire_after: 2m, max_rows: 150}, "
                                                     "city: {max_rows: 3}, category: {expire_after: 1s}}}"),
    "generate": ["--conversion-share", "0.3", "--late-share", "0.05", "--duplicate-share", "0.05", "--disorder-share", "0.05"],
}


def sized(short, full):
    return full if FULL else short


# ---- what went wrong on purpose, and what came of it

def tally(kind, injected, outcome):
    """One row of the table that `make torture` ends with."""
    with open(TABLE, "a") as table:
        table.write(f"{kind}\t{injected}\t{outcome}\n")
    print(f"# {kind}: {injected} injected: {outcome}", flush=True)


# ---- the stream

class Stream:
    """Generated events in a file; the learned examples are known beforehand: one for each different impression."""

    def __init__(self, folder, events, seed=SEED, setting=PLAIN):
        self.file, self.events, self.setting = os.path.join(folder, f"stream.{events}.{setting is BOUNDED:d}.jsonl"), events, setting
        ctl("generate", "--profile", "small", "--users", "2000", "--items", "500", "--span", "30m", "--click-delay", "500ms", "--window", "2s",
            "--events", events, "--seed", seed % 1000000, "--output", self.file, *setting["generate"])
        with open(self.file) as lines:
            parsed = [json.loads(line) for line in lines]
        for event in parsed:        # a third of the users come without behaviors, so that the daemon's own histories matter too
            if int(event.get("user_id", "u1")[1:]) % 3 == 0:
                event.pop("behaviors", None)
            if setting is BOUNDED and event["event"] == "impression" and int(event["user_id"][1:]) % 7 == 0:
                event.update(event="example", clicked=int(event["item_id"][1:]) % 2 == 0)      # its clicks are orphans
        with open(self.file, "w") as lines:
            lines.writelines(json.dumps(event, separators=(",", ":")) + "\n" for event in parsed)
        self.examples = len({event["impression_id"] for event in parsed if event["event"] == "impression"}) + sum(
            event["event"] == "example" for event in parsed)


class MockBroker:
    def __init__(self, stream, *topics):
        """topics: further ones, as NAME:PARTITIONS."""
        self.stream, self.sent = stream, 0
        self.process = subprocess.Popen([os.path.join(BUILD, "tests/crash/broker"), stream.file, f"impressions:{IMPRESSION_PARTITIONS}",
                                         f"clicks:{CLICK_PARTITIONS}", "conversions:1", "examples:2", "impressions.dlq:1", "clicks.dlq:1",
                                         *topics], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.address = self.process.stdout.readline().strip()
        assert self.address, "the broker did not start"

    def order(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer == "done", f"the broker answers {answer!r} to {text!r}"

    def produce(self, count=None):
        """The next events of the stream; None: all that are left."""
        count = self.stream.events - self.sent if count is None else min(count, self.stream.events - self.sent)
        if count:
            self.order(f"produce {count}")
            self.sent += count
        return self

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# ---- faults in the program's own file calls: the other side of faults.c

OPEN, WRITE, SYNC, RENAME, UNLINK, MAKE, SPACE = range(7)
CALL_NAMES = ["open", "write", "sync", "rename", "unlink", "mkdir/symlink", "truncate"]
NONE, KILL, TORN, ERROR, SHORT, HANG = range(6)
EVER = 1 << 60


class Faults:
    FIELDS = ["fault", "calls", "first", "last", "error", "seen", "injected", "hanging"]

    def __init__(self, folder, *under):
        self.file, self.under = os.path.join(folder, "faults"), ":".join(under)
        with open(self.file, "wb") as control:
            control.write(bytes(4096))
        with open(self.file, "r+b") as control:
            self.map = mmap.mmap(control.fileno(), 4096)

    def __getattr__(self, name):
        if name not in self.FIELDS:
            raise AttributeError(name)
        return struct.unpack_from("<q", self.map, 8 * self.FIELDS.index(name))[0]

    def put(self, name, value):
        struct.pack_into("<q", self.map, 8 * self.FIELDS.index(name), value)

    def of(self, call, injected=True):
        return struct.unpack_from("<q", self.map, 8 * (len(self.FIELDS) + len(CALL_NAMES) * injected + call))[0]

    def set(self, fault, calls=range(7), first=1, last=EVER, error=0):
        """From here on; what was counted before is forgotten."""
        self.off()
        self.map[40:4096] = bytes(4056)
        for name, value in (("calls", sum(1 << call for call in calls)), ("first", first), ("last", last), ("error", error), ("fault", fault)):
            self.put(name, value)
        return self

    def off(self):
        self.put("fault", NONE)

    def environment(self):
        return {"LD_PRELOAD": os.path.join(BUILD, "tests/crash/faults.so"), "FAULTS_CONTROL": self.file, "FAULTS_UNDER": self.under}


# ---- the daemon

class Daemon(harness.Daemon):
    """As on the real broker, but: partitions never count as idle while the stream is incomplete (`finish` changes that), so that the
    order of examples is a function of the stream alone; snapshots as often as can be configured."""

    def __init__(self, broker, folder, name, interval="100ms", checkpoints="1h", extra="", **paths):
        super().__init__(broker, folder, name, "impressions", "clicks")
        self.interval, self.checkpoint_interval, self.extra, self.faults = interval, checkpoints, extra, None
        self.snapshot, self.checkpoints = paths.get("snapshot", self.snapshot), paths.get("checkpoints_folder", self.checkpoints)
        self.broker = broker
        self.configure("1h")

    def configure(self, idle_after, **replaced):
        setting = self.broker.stream.setting
        snapshot, interval = replaced.get("snapshot", self.snapshot), replaced.get("interval", self.interval)
        with open(self.config, "w") as file:
            file.write(f"""
source:
  kafka:
    topics: {{impressions: impressions, clicks: clicks, {setting["topics"]}}}
    group: {self.name}
    idle_after: {idle_after}
    properties: {{bootstrap.servers: "{self.broker.address}", reconnect.backoff.max.ms: 200}}
join: {{{setting["join"]}}}
{harness.FEATURES}{setting["model"]}{setting["more"]}
batch: {{size: 64, max_delay: 1s}}
snapshot: {{directory: {snapshot}, interval: {interval}}}
checkpoint: {{directory: {self.checkpoints}, interval: {self.checkpoint_interval}, keep: 3{replaced.get("checkpoint", "")}}}
control: {{socket: {self.socket}}}
http: {{listen: 127.0.0.1:{self.port}}}
compute: {{threads: 1, seed: 7}}
{self.extra}
""")

    def start(self, before=(), environment=None):
        """before: a command that runs the daemon, such as prlimit."""
        self.starts += 1
        more = {"OPENBLAS_NUM_THREADS": "2", **(environment or {})}    # as where nobody set it
        if self.faults:
            more.update(self.faults.environment())
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*before, os.path.join(BUILD, "coldstreamd"), "--config", self.config], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True, env={**os.environ, **more})
        return self

    @property
    def log(self):
        return os.path.join(self.folder, f"log.{self.starts % 16}")

    def signal(self, *numbers):
        for number in numbers:
            self.process.send_signal(number)

    def wait(self, seconds=PATIENCE):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not end within {seconds} s:\n{self.log_text()[-3000:]}") from None

    def status(self):
        """None while it does not answer."""
        done = ctl("status", "--json", "--control", self.socket, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def until(self, condition, what, seconds=PATIENCE):
        """Waits for a status that the condition likes; the daemon has to live on."""
        def ask():
            status = self.status()
            if not self.alive():
                raise AssertionError(f"{self.name} ended with status {self.process.poll()} instead of {what}:\n{self.log_text()[-3000:]}")
            return status if status and condition(status) else None
        try:
            return until(ask, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(self.status())[:3000]}\n{self.log_text()[-3000:]}") from None

    def running(self):
        return self.until(lambda s: s["state"] == "running", "running")

    def examples_reach(self, count):
        return self.until(lambda s: s["examples"]["all"] >= count, f"{count} examples")

    def committed(self, more=1):
        """Waits until `more` snapshots than now are committed."""
        wanted = self.until(lambda s: True, "an answer")["snapshot"]["committed"] + more
        return self.until(lambda s: s["snapshot"]["committed"] >= wanted, f"{wanted} snapshots")

    def finish(self, stream):
        """The rest of the stream, then all of it learned, and stopped in order: the number of examples, and the export."""
        self.broker.produce()
        self.configure("500ms")
        if not self.alive():
            self.start()
        else:
            assert self.stop() == 0, self.log_text()[-3000:]
            self.start()
        # What is learned again as a positive, too late, is more than there are impressions.
        status = self.until(lambda s: s["join"]["pending"] == 0 and s["join"]["open_batch"] == 0 and s["sources"] and not any(
            source["lag"] is None or source["lag"] > 0 for source in s["sources"]) and s["examples"]["all"] >= stream.examples, "all learned")
        self.last = status
        assert self.stop() == 0, self.log_text()[-3000:]
        return status["examples"]["all"], self.export()


class Reference:
    """The run that nothing ever happened to."""

    def __init__(self, plant, events, setting):
        self.stream = Stream(plant.folder, events, setting=setting)
        broker = plant.broker(self.stream)
        daemon = plant.daemon(broker, f"reference.{setting is BOUNDED:d}", interval="1h")
        self.examples, self.export = daemon.finish(self.stream)
        self.status = daemon.last
        broker.stop()
        assert setting is BOUNDED or self.examples == self.stream.examples, f"{self.examples} examples of {self.stream.examples} impressions, undisturbed"

    def compare(self, daemon, what):
        """Nothing lost, nothing learned twice, and every byte the same."""
        examples, export = daemon.finish(self.stream)
        assert examples == self.examples, f"{what}: {examples} examples learned instead of {self.examples}"
        assert export == self.export, f"{what}: the export differs ({len(export)} bytes, {len(self.export)} undisturbed)"


# ---- tests

class Plant:
    """Runs functions as tests, a TAP line each, and leaves nothing behind."""

    def __init__(self, name):
        self.folder = tempfile.mkdtemp(prefix=f"coldstream-{name}.")
        self.random = random.Random(SEED)
        self.brokers, self.daemons, self.processes, self.mounts = [], [], [], []
        self.count = self.failed = 0
        self.references = {}

    def broker(self, stream):
        self.brokers.append(MockBroker(stream))
        return self.brokers[-1]

    def daemon(self, broker, name, **more):
        self.daemons.append(Daemon(broker, self.folder, name, **more))
        return self.daemons[-1]

    def reference(self, events, setting=PLAIN):
        key = events, setting is BOUNDED
        if key not in self.references:
            self.references[key] = Reference(self, events, setting)
        return self.references[key]

    def mount(self, *arguments):
        """mount(8) with these arguments, the folder last; taken down at the end."""
        done = run("mount", *arguments, check=False)
        if done.returncode != 0:
            raise Skip(f"mount {' '.join(map(str, arguments))}: {done.stderr.decode().strip()}")
        self.mounts.append(arguments[-1])

    def ext4(self, name, megabytes):
        """A file system of its own in a file; where it is mounted."""
        image, disk = os.path.join(self.folder, f"{name}.image"), os.path.join(self.folder, name)
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        try:
            done = run("mkfs.ext4", "-q", "-m", "0", "-F", image, check=False)
        except FileNotFoundError:
            raise Skip("there is no mkfs.ext4") from None
        if done.returncode != 0:
            raise Skip(f"mkfs.ext4: {done.stderr.decode().strip()}")
        os.makedirs(disk)
        self.remount(name)
        return disk

    def remount(self, name):
        self.mount("-o", "loop", os.path.join(self.folder, f"{name}.image"), os.path.join(self.folder, name))

    def unmount(self, folder):
        run("umount", folder)
        self.mounts.remove(folder)

    def run(self, *tests):
        only = sys.argv[2:]     # names of tests, for a person who looks at one
        tests = [test for test in tests if not only or test.__name__ in only]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        print(f"1..{len(tests)}\n# seed {SEED}, {'full' if FULL else 'short'}", flush=True)
        try:
            for test in tests:
                self.one(test)
        finally:
            self.tidy()
            for folder in reversed(self.mounts):
                run("umount", "-l", folder, check=False)
            if os.environ.get("KEEP"):
                print(f"# kept: {self.folder}")
            else:
                shutil.rmtree(self.folder, ignore_errors=True)
        sys.exit(1 if self.failed else 0)

    def one(self, test):
        def tallied():
            try:
                test(self)
            except Skip as reason:
                tally(test.__doc__, 0, f"SKIPPED: {reason}")
                raise
            except Exception:
                tally(test.__doc__, "?", f"FAILED (seed {SEED})")
                raise

        self.count += 1
        self.failed += not harness.judge(self.count, test.__doc__, tallied)
        self.tidy()

    def tidy(self):
        for daemon in self.daemons:
            if daemon.alive():
                daemon.process.kill()
                daemon.process.wait()
        for process in [broker.process for broker in self.brokers] + self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.daemons, self.brokers, self.processes = [], [], []


def print_table():
    """What all tests together injected; for `make torture`."""
    with open(TABLE) as table:
        rows = [("fault", "injected", "outcome")] + [tuple(line.rstrip("\n").split("\t")) for line in table]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for kind, injected, outcome in rows:
        print(f"{kind:<{widths[0]}} | {injected:>{widths[1]}} | {outcome}")


if __name__ == "__main__":
    print_table()
