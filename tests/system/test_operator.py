#!/usr/bin/env python3
"""What an operator meets: systemd's notify protocol, the journal's, the control socket's verbs through coldstreamctl.

Both sockets are real ones that speak the protocols from outside: the daemon's libsystemd writes to what a mount namespace
has put where journald listens. No broker is needed: a daemon that waits for one answers all the same."""
import ctypes, fcntl, json, os, re, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time, urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "kafka"))
import harness  # noqa: E402

BUILD = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BUILD", "build"))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DAEMON, CTL = f"{BUILD}/coldstreamd", f"{BUILD}/coldstreamctl"
WAIT = 60
CONFIG = """
source: {kafka: {topics: {impressions: impressions, clicks: clicks}, properties: {bootstrap.servers: "127.0.0.1:1", %s}}}
features:
  user: [{name: age}]
  item: [{name: item_id, table: item}]
  behavior: {table: item, max_length: 10}
"""
SECRET = "hunter2-never-shown"
LOGIN = 'sasl.username: me, sasl.password: "${SECRET}"'


def until(test, what):
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        found = test()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {WAIT} s for {what}")


class Datagrams(threading.Thread):
    """A socket as systemd's or journald's; keeps all that comes."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind(path)
        self.got = []
        self.start()

    def run(self):
        while True:
            self.got.append(self.socket.recv(1 << 17))


def assignments(datagram):
    return dict(line.split("=", 1) for line in datagram.decode().splitlines())


def journal_fields(datagram):
    """journald's native protocol: KEY=value lines, or KEY, a length of 8 bytes, the bytes."""
    fields = {}
    while datagram:
        line, datagram = datagram.split(b"\n", 1)
        if b"=" in line:
            name, value = line.split(b"=", 1)
        else:
            name, size = line, struct.unpack("<Q", datagram[:8])[0]
            value, datagram = datagram[8:8 + size], datagram[9 + size:]
        fields[name.decode()] = value.decode()
    return fields


class World:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="coldstream-operator-")
        self.file, self.control = f"{self.folder}/coldstream.yaml", f"{self.folder}/control.sock"
        self.process = None

    def configure(self, more="", properties=LOGIN):
        with open(self.file, "w") as file:
            file.write(CONFIG % properties + f"snapshot: {{directory: {self.folder}/snapshot}}\ncheckpoint: {{directory: {self.folder}/checkpoints}}\n"
                       f"control: {{socket: {self.control}}}\nhttp: {{listen: \"\"}}\n" + more)

    def start(self, environment=(), stderr=None, options=(), **more):
        self.process = subprocess.Popen([DAEMON, "-c", self.file, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=stderr or open(f"{self.folder}/log", "a"), env=dict(os.environ, SECRET=SECRET, **dict(environment)), **more)
        until(lambda: self.ctl("status", check=False).returncode == 0, "an answer")

    def ctl(self, *words, check=True):
        done = subprocess.run([CTL, *words, "--control", self.control], capture_output=True, text=True, timeout=WAIT)
        assert SECRET not in done.stdout + done.stderr, f"{words} shows a secret"
        if check:
            assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stderr}"
        return done

    def status(self):
        return json.loads(self.ctl("status", "--json").stdout)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(WAIT)
        self.process = None
        assert status == 0, f"status {status}"

    def log(self):
        with open(f"{self.folder}/log") as file:
            return file.read()

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def systemd_is_told(world):
    """READY, STATUS with rate, lag and version, RELOADING with its time, STOPPING; signs of life while it waits healthily"""
    world.configure()
    systemd = Datagrams(f"{world.folder}/notify")
    world.start({"NOTIFY_SOCKET": f"{world.folder}/notify", "WATCHDOG_USEC": "1000000"})
    heard = lambda key: [a for a in map(assignments, list(systemd.got)) if key in a]
    until(lambda: heard("READY"), "READY=1")
    until(lambda: len(heard("WATCHDOG")) >= 4, "signs of life")
    line = until(lambda: [a["STATUS"] for a in heard("STATUS") if "READY" not in a], "a status")[0]
    assert re.fullmatch(r"waiting for .*: 0 examples/s, lag unknown, version 0 \(none yet\)", line), line
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    world.ctl("reload")
    reloading = until(lambda: heard("RELOADING"), "RELOADING=1")[0]
    assert before <= int(reloading["MONOTONIC_USEC"]) / 1e6 <= time.clock_gettime(time.CLOCK_MONOTONIC)
    until(lambda: len(heard("READY")) == 2, "READY=1 after the reload")
    world.configure("join: {windw: 1m}\n")
    assert world.ctl("reload", check=False).returncode == 78
    until(lambda: [a for a in heard("READY") if "the last reload was refused" in a["STATUS"]], "READY=1 that tells the refusal")
    world.stop()
    until(lambda: [a for a in heard("STOPPING") if a["STATUS"].startswith("stopping")], "STOPPING=1")
    order = [next(iter(assignments(d))) for d in systemd.got]
    assert order.index("READY") < order.index("RELOADING") < order.index("STOPPING")


def nobody_reads_what_systemd_is_told(world):
    """a notify socket whose queue is full holds up neither verbs nor the end"""
    world.configure()
    unread = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    unread.bind(f"{world.folder}/notify")
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    filler.setblocking(False)
    try:
        while True:
            filler.sendto(b"X=1", f"{world.folder}/notify")
    except BlockingIOError:
        pass
    world.start({"NOTIFY_SOCKET": f"{world.folder}/notify", "WATCHDOG_USEC": "1000000"})
    for _ in range(3):
        world.status()
    world.stop()


def reload_tells_and_refuses(world):
    """reload: what changed, key by key; or every reason and no change; log-level holds until then; whatever the file is called"""
    world.file = f"{world.folder}/caf\udce9.yaml"       # a byte that is no UTF-8
    world.configure()
    world.start()
    world.ctl("log-level", "debug")
    assert world.status()["logging"] == {"level": "debug", "by": "log-level", "format": "text"}
    assert world.ctl("log-level", "loud", check=False).returncode == 2
    live = "join: {window: 5m}\noptimizer: {ranking: {learning_rate: 0.01}}\n"
    world.configure(live)
    said = world.ctl("reload").stdout.splitlines()
    assert said == ["join.window: 10m -> 5m", "optimizer.ranking.learning_rate: 0.001 -> 0.01", "logging.level: debug -> info"], said
    assert world.status()["logging"] == {"level": "info", "by": "file", "format": "text"}
    assert "nothing has changed" in world.ctl("reload").stderr
    world.configure("join: {window: 7m}\nembedding: {dimension: 16}\ncompute: {seed: 7}\n")
    done = world.ctl("reload", check=False)
    assert done.returncode == 78 and "embedding.dimension: 32 -> 16 needs a restart" in done.stderr and "compute.seed: 1 -> 7 needs a restart" in done.stderr
    world.configure("join: {windw: 7m}\nembedding: {dimension: x}\n")
    done = world.ctl("reload", check=False)
    assert done.returncode == 78 and done.stderr.count("/caf\ufffd.yaml:") == 3 and "did you mean \"window\"" in done.stderr, done.stderr
    world.configure(live)
    assert json.loads(world.ctl("reload", "--json").stdout) == {"changed": 0, "settings": []}, "a refused reload changed something"
    world.stop()
    world.start(options=["-q"])
    assert world.status()["logging"]["by"] == "command line"
    world.ctl("reload")
    assert world.status()["logging"]["level"] == "warning", "the command line stays above the file"
    world.stop()
    assert SECRET not in world.log()


def secret(path, text):
    """As a rotation writes it: a new file in the place of the old one."""
    with open(os.open(f"{path}.new", os.O_CREAT | os.O_WRONLY, 0o400), "w") as file:
        file.write(text)
    os.rename(f"{path}.new", path)


def reload_takes_a_rotated_password(world):
    """reload: another SASL user or password is taken, and never shown; other files of TLS need a restart, and are named"""
    password, certificate = f"{world.folder}/password", f"{world.folder}/client.crt"
    known = "source.kafka.properties.sasl"
    login = f'security.protocol: sasl_plaintext, sasl.mechanism: PLAIN, sasl.username: %s, sasl.password: "file:{password}", ' \
            f"ssl.certificate.location: {certificate}"
    secret(certificate, "a certificate")
    secret(password, SECRET)
    world.configure(properties=login % "me")
    world.start()
    assert "nothing has changed" in world.ctl("reload").stderr
    secret(password, f"{SECRET}-2")
    done = world.ctl("reload")
    assert done.stdout == f"{known}.password: replaced\n" and "at each client's next connection" in done.stderr, done
    assert "nothing has changed" in world.ctl("reload").stderr
    secret(password, f"{SECRET}-3")
    world.configure(properties=login % "another")
    result = json.loads(world.ctl("reload", "--json").stdout)
    hidden = {"from": "(not shown)", "to": "(not shown)"}
    assert result.pop("note") and result == {"changed": 2, "settings": [{"key": f"{known}.username", **hidden},
                                                                        {"key": f"{known}.password", **hidden}]}, result
    secret(password, f"{SECRET}-4")
    secret(certificate, "a newer certificate")
    done = world.ctl("reload", check=False)
    assert done.returncode == 78 and "ssl.certificate.location: what it held at the start -> what it holds now needs a restart" in done.stderr, done
    secret(certificate, "a certificate")
    assert world.ctl("reload").stdout == f"{known}.password: replaced\n", "a refused reload took it all the same"
    os.chmod(password, 0o444)
    done = world.ctl("reload", check=False)
    assert done.returncode == 78 and "can be read or changed by others (mode 0444)" in done.stderr, done
    os.unlink(password)
    done = world.ctl("reload", check=False)
    assert done.returncode == 78 and password in done.stderr and "No such file" in done.stderr, done
    world.stop()
    assert SECRET not in world.log() and world.log().count("Kafka user or password replaced") == 3, world.log()


def status_at_a_glance(world):
    """status: problems first, a screenful of 80 columns; --watch again and again; pause is told and ended; and all that
    with a hundred silent connections"""
    world.configure()
    world.start()
    silent = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    for one in silent:
        one.connect(world.control)
    world.ctl("pause")
    until(lambda: world.status()["state"] == "paused", "the pause")
    text = world.ctl("status").stdout
    lines = text.splitlines()
    assert lines[0].startswith("! waiting for") and "! paused by an operator" in lines[1] and lines[2].startswith("paused, for"), text
    assert len(lines) <= 24 and "\033" not in text, text
    for word in ("stream", "joins", "learned", "quality", "snapshot", "published", "memory", "logging"):
        assert any(line.startswith(word) for line in lines), word
    world.ctl("resume")
    until(lambda: world.status()["state"] != "paused", "the end of the pause")
    watch = subprocess.Popen([CTL, "status", "--json", "--watch", "1", "--control", world.control], stdout=subprocess.PIPE, text=True)
    seen = [json.loads(watch.stdout.readline()) for _ in range(2)]
    watch.terminate()
    watch.wait()
    assert seen[1]["uptime"] > seen[0]["uptime"]
    assert world.ctl("status", "--watch=0", check=False).returncode == 2
    world.stop()
    done = world.ctl("status", check=False)
    assert done.returncode == 1 and "is coldstreamd running" in done.stderr, done.stderr


def counts_begin_at_nothing(world):
    """/metrics has what it will count before anything has come: of a series that begins at 1 Prometheus sees no increase"""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    world.configure()
    with open(world.file) as file:
        text = file.read()
    with open(world.file, "w") as file:
        file.write(text.replace('listen: ""', f'listen: "127.0.0.1:{port}"'))
    world.start()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT) as answer:
        page = answer.read().decode()
    for name in ("steps_total", "step_seconds_count", "snapshot_seconds_count", "snapshot_stall_seconds_count", "freshness_seconds_count",
                 *(f'examples_total{{users="{users}"}}' for users in ("all", "new", "old"))):
        assert f"\ncoldstream_{name} 0\n" in page, f"{name}:\n{page}"
    world.stop()


def journal_gets_fields(world):
    """in the journal: PRIORITY, MESSAGE_ID of the message, CODE_*, COLDSTREAM_*; text where journald is not there"""
    world.configure()
    with open(f"{world.folder}/stream", "w") as stream:
        identity = os.fstat(stream.fileno())
        journal = {"JOURNAL_STREAM": f"{identity.st_dev}:{identity.st_ino}"}
        os.makedirs("/run/systemd/journal", exist_ok=True)      # on a tmpfs of this process's own namespace
        world.start(journal, stderr=stream)                     # nobody listens: not one line may be lost
        world.stop()
        text = open(stream.name).read()
        assert " notice started " in text and " notice stopped" in text, text
        journald = Datagrams("/run/systemd/journal/socket")
        world.start(journal, stderr=stream)
        world.ctl("log-level", "debug")
        world.configure("join: {windw: 1m}\n")
        world.ctl("reload", check=False)
        world.configure()
        world.stop()
        heard = lambda what: [f for f in map(journal_fields, list(journald.got)) if f["MESSAGE"].startswith(what)]
        until(lambda: heard("stopped"), "the last line")
        world.configure("join: {windw: 1m}\nbatch: {size: -1}\n")     # which is looked for by `journalctl -p warning`
        done = subprocess.run([DAEMON, "-c", world.file], env=dict(os.environ, SECRET=SECRET, **journal), stderr=stream, check=False)
        until(lambda: len(heard("configuration refused")) == 2, "both problems")
        assert open(stream.name).read() == text, "stderr got lines that the journal got too"
    started, refused, problem = heard("started ")[0], heard("reload refused")[0], heard("configuration refused")[-1]
    assert done.returncode == 78 and problem["PRIORITY"] == "3" and '"windw"' in problem["COLDSTREAM_PROBLEM"], problem
    assert re.fullmatch(rf"{re.escape(world.file)}:\d+:8", problem["COLDSTREAM_WHERE"]), problem
    assert (started["PRIORITY"], refused["PRIORITY"]) == ("5", "3")
    for fields in map(journal_fields, journald.got):
        assert re.fullmatch("[0-9a-f]{32}", fields["MESSAGE_ID"]) and fields["CODE_FILE"].endswith(".c") and int(fields["CODE_LINE"]) > 0
        assert fields["CODE_FUNC"] and fields["SYSLOG_IDENTIFIER"] == "coldstreamd"
        assert "\n" not in fields["MESSAGE"] and SECRET not in str(fields)
        assert int(fields["PRIORITY"]) > 4 or "COLDSTREAM_REMEDY" in fields, f"no remedy: {fields}"
    assert started["COLDSTREAM_CONTROL"] == world.control, started
    assert (started["CODE_FUNC"], started["CODE_FILE"]) == ("run", "daemon/main.c"), started
    assert refused["MESSAGE_ID"] != started["MESSAGE_ID"] and "windw" in refused["COLDSTREAM_REASON"]
    if shutil.which("xxhsum"):
        known = subprocess.run(["xxhsum", "-H2"], input=b"reload refused", capture_output=True, check=True).stdout.split()[0].decode()
        assert refused["MESSAGE_ID"] == known, (refused["MESSAGE_ID"], known)


def instances_by_name(world):
    """--instance NAME is the socket that coldstream@NAME's unit makes; where there is none it is said which there are, and what to do"""
    def ask(*words):
        return subprocess.run([CTL, *words], capture_output=True, text=True, timeout=WAIT, check=False)

    unit = open(f"{ROOT}/systemd/units.sh").read()
    assert "/run/coldstream-%i/control.sock" in unit, "the units put it elsewhere"
    none = ask("status", "--instance", "one")
    assert none.returncode == 1 and "no instance one runs: there is no /run/coldstream-one/control.sock" in none.stderr, none
    assert "no instance runs that this user may see" in none.stderr and "systemctl start coldstream@one" in none.stderr, none
    os.mkdir("/run/coldstream-one")
    world.control = "/run/coldstream-one/control.sock"
    world.configure()
    world.start()
    assert json.loads(ask("status", "-i", "one", "--json").stdout)["state"] == world.status()["state"]
    assert ask("pause", "--instance=one").returncode == 0
    until(lambda: world.status()["state"] == "paused", "the pause")
    assert ask("reload", "--instance", "one").returncode == 0
    other = ask("reload", "--instance", "two")
    assert other.returncode == 1 and "those that run: one\n" in other.stderr and "systemctl start coldstream@two" in other.stderr, other
    assert ask("complete", "coldstreamctl", "status", "--instance", "").stdout == "one\t\n"
    # A name whose directories are others': told here, and its unit does not start.
    subprocess.run([f"{ROOT}/systemd/units.sh", f"{world.folder}/units", "/usr/bin"], check=True)
    reserved = [name[len("coldstream@"):-len(".service.d")] for name in os.listdir(f"{world.folder}/units") if name.endswith(".service.d")]
    assert {"serve", "snapshot", "checkpoints"} == set(reserved), reserved
    for name in reserved:
        with open(f"{world.folder}/units/coldstream@{name}.service.d/reserved.conf") as file:
            whose = re.search(r"Description=.* no model can be called \S+, (.*)", file.read()).group(1)
        wrong = ask("status", "-i", name)
        assert wrong.returncode == 2 and f"no model can be called {name}, {whose}: give it another name" in wrong.stderr, (wrong, whose)
    for words in (["-i", "../one"], ["-i", ""], ["-i", "one", "-s", world.control], ["-i", "x" * 4096]):
        wrong = ask("status", *words)
        assert wrong.returncode == 2 and wrong.stdout == "" and "allowed is" in wrong.stderr or "longer than" in wrong.stderr, wrong
    world.stop()
    assert ask("status", "-i", "one").returncode == 1


def private_network():
    """In a child: ports that nobody else on this machine has."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):       # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x41))        # SIOCSIFFLAGS: up, running


def minimal_sample_starts_a_daemon(world):
    """`sample --minimal`, as it is printed: checked without a complaint, and a daemon runs with it in its usual places"""
    text = subprocess.run([CTL, "sample", "--minimal"], capture_output=True, text=True, timeout=WAIT, check=True).stdout
    with open(world.file, "w") as file:
        file.write(text)
    checked = subprocess.run([CTL, "check-config", world.file], capture_output=True, text=True, timeout=WAIT, check=False)
    assert checked.returncode == 0 and "no problems" in checked.stderr, checked
    subprocess.run(["mount", "-t", "tmpfs", "none", "/var/lib"], check=True)       # of this process's own namespace, as /run is
    for folder in ("/run/coldstream", "/var/lib/coldstream"):
        os.mkdir(folder)
    world.control = "/run/coldstream/control.sock"
    world.start(preexec_fn=private_network)
    asked = subprocess.run([CTL, "status", "--json"], capture_output=True, text=True, timeout=WAIT, check=True)     # where it looks by itself
    assert json.loads(asked.stdout)["state"].startswith("waiting for"), asked.stdout
    world.stop()
    assert os.path.exists("/var/lib/coldstream/snapshot/data.mdb"), os.listdir("/var/lib/coldstream")
    subprocess.run(["umount", "/var/lib"], check=True)


def a_large_cluster_fits_in_the_unit(world):
    """as many threads as compute.threads and a cluster of 200 brokers take are within the unit's TasksMax"""
    brokers, computing = 40, 256
    world.configure(properties=f'{LOGIN}, test.mock.num.brokers: "{brokers}"')
    world.start()
    tasks = until(lambda: (count := len(os.listdir(f"/proc/{world.process.pid}/task"))) > 3 * brokers and count, "a thread for each broker")
    world.stop()
    unit = open(f"{ROOT}/systemd/coldstream.service.in", encoding="utf-8").read()
    most = int(re.search(r"(?m)^TasksMax=(\d+)$", unit).group(1))
    assert tasks * 4 / 3 * 200 / brokers + computing < most, (tasks, most)      # with deltas there are four clients


def main():
    tests = [systemd_is_told, nobody_reads_what_systemd_is_told, reload_tells_and_refuses, reload_takes_a_rotated_password, counts_begin_at_nothing,
             a_large_cluster_fits_in_the_unit, status_at_a_glance, journal_gets_fields, instances_by_name, minimal_sample_starts_a_daemon]
    in_private = journal_gets_fields, instances_by_name, minimal_sample_starts_a_daemon
    private = os.environ.get("PRIVATE_RUN") == "yes"

    def in_a_world(test):
        if test in in_private and not private:
            raise harness.Skip("no mount namespace of our own: not root")
        world = World()
        try:
            test(world)
        except Exception as wrong:
            last_lines = world.log().splitlines()[-30:] if os.path.exists(f"{world.folder}/log") else []
            raise AssertionError("\n".join(["the daemon's log ends:", *last_lines])) from wrong
        finally:
            world.close()

    return harness.judge_all(tests, in_a_world)


if __name__ == "__main__":
    again = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount -t tmpfs none /run && PRIVATE_RUN=yes exec "$@"', "sh",
             sys.executable, *sys.argv]
    if os.geteuid() == 0 and "PRIVATE_RUN" not in os.environ and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0:
        os.execvp(again[0], again)
    sys.exit(main())
