#!/usr/bin/env python3
"""From an empty Debian 12 to a running, hardened, watched daemon, by the commands of docs/operations.md as they stand there: those of each
block that `<!-- walkthrough -->` precedes. Debian is made by debootstrap, systemd is process 1 in it, the network is its own; the broker is a
real Kafka, which the page takes for granted. An operator with sudo types; where the page says sudoedit, he does what EDITS says.
usage: walkthrough.py BUILD [DEBIAN]      DEBIAN: where debootstrap has been, or shall be and stay. Needs root. `make walkthrough`."""
import glob
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.abspath(sys.argv[1])
PAGE = f"{ROOT}/docs/operations.md"
LIMIT = 600
HOME = "/home/ops/coldstream"
PAGER = 9099
# What the operator's editor does to each file, in Perl, which every Debian has: (what, the expression for it); each has to be there.
EDITS = {"coldstream": [(r"^( *conversions:) conversions$", r'"$1 ~"'), (r"bootstrap\.servers: 127\.0\.0\.1:9092", r'"bootstrap.servers: %s"')],
         "alertmanager": [(r"https:..pager\.example", f'"http://127.0.0.1:{PAGER}"'), (r"https:..tickets\.example", '"http://127.0.0.1:1"')]}
EDITOR = r"""#!/usr/bin/perl -0777 -pi
BEGIN { eval `cat /run/given/edits`; ($name) = grep { $ARGV[0] =~ m{/$_[^/]*$} } keys %edits or die "$ARGV[0]?" }
for my $edit (@{$edits{$name}}) { my ($what, $by) = @$edit; s/$what/eval $by/me or die "$what is not there" }
"""
sys.path.insert(0, HERE)
import machine          # noqa: E402


def commands():
    """(block, command) of each marked block; a command goes on over lines that end in a backslash, and to the end of a here-document."""
    with open(PAGE) as file:
        text = file.read()
    for block in re.findall(r"(?m)^ *<!-- walkthrough -->\n\s*?\n((?:(?: {4}.*)?\n)+)", text):
        lines = iter([line[len(block) - len(block.lstrip()):] for line in block.rstrip().split("\n")])
        for line in lines:
            end = re.search(r"<<-? *'?(\w+)'?", line)
            whole = [line]
            while (end and whole[-1] != end.group(1)) or (not end and whole[-1].endswith("\\")):
                whole.append(next(lines))
            if line.strip() and not line.startswith("#"):
                yield "\n".join(whole)


def debian(folder):
    """The empty machine: what the installer leaves, less what only hardware wants; with this one's way to the package mirror."""
    if not os.path.exists(f"{folder}/usr/bin/apt-get"):
        mirror = re.search(r"(?m)^URIs: *(\S+)", "".join(open(f).read() for f in sorted(glob.glob("/etc/apt/sources.list.d/*.sources"))))
        subprocess.run(["debootstrap", "--variant=minbase", "--include=ca-certificates,sudo,systemd-sysv,dbus", "bookworm", folder,
                        *([mirror.group(1)] if mirror else [])], check=True, stdout=subprocess.DEVNULL)
    for path in [*glob.glob("/etc/apt/sources.list.d/*.sources"), *glob.glob("/etc/apt/apt.conf.d/99*"), *glob.glob("/usr/share/keyrings/*"),
                 "/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"]:
        if os.path.exists(path):
            os.makedirs(os.path.dirname(folder + path), exist_ok=True)
            shutil.copy(path, folder + path)
    open(f"{folder}/etc/apt/sources.list", "w").close()
    with open(f"{folder}/etc/apt/apt.conf.d/90yes", "w") as file:
        file.write('APT::Get::Assume-Yes "true";\n')
    subprocess.run(["chroot", folder, "sh", "-ec", "id ops >/dev/null 2>&1 || useradd -m -s /bin/bash ops; "
                    "echo 'ops ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ops; chmod 440 /etc/sudoers.d/ops"], check=True)


def checkout(folder):
    """Where git does not know the tree, a commit has no name; that does no harm."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    subprocess.run(f"git ls-files -coz --exclude-standard | xargs -0 cp --parents -t {folder}", shell=True, check=True, cwd=ROOT)
    subprocess.run(["chown", "-R", "1000:1000", folder], check=True)


class Pager(http.server.BaseHTTPRequestHandler):
    """Where the Alertmanager sends what wakes someone; runs in the machine's network."""
    def do_POST(self):
        with open(sys.argv[2], "a") as file:
            for alert in json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]:
                file.write(json.dumps({"status": alert["status"], **alert["labels"]}) + "\n")
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


class Walk:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="coldstream-walk.")
        self.given = f"{self.folder}/given"
        os.makedirs(self.given)
        os.chmod(self.folder, 0o755)
        self.on, self.children, self.failed, self.number = None, [], 0, 0

    def in_network(self, *command, **more):
        return subprocess.run(["nsenter", "-t", str(self.on.init), "-n", *map(str, command)], check=True, stdout=subprocess.PIPE, text=True,
                              stdin=subprocess.DEVNULL, **more).stdout

    def start(self, root):
        debian(root)
        checkout(root + HOME)
        self.on = machine.Machine(self.given, root, alone=True)
        self.broker = self.in_network(f"{ROOT}/tests/kafka/broker.sh", "start", f"{self.folder}/broker").split()[-1]
        self.in_network(f"{BUILD}/tests/kafka/admin", self.broker, "create", "impressions:4", "clicks:2", "impressions.dlq:1", "clicks.dlq:1")
        self.produce(1)
        with open(f"{self.given}/edits", "w") as file:
            file.write("%edits = (" + "".join(f"{name} => [" + "".join(f"['{what}', '{by}'], " for what, by in edits) + "], "
                                              for name, edits in EDITS.items()).replace("%s", self.broker) + ");\n")
        with open(f"{self.given}/editor", "w") as file:
            file.write(EDITOR)
        os.chmod(f"{self.given}/editor", 0o755)
        self.pages = f"{self.folder}/pages"
        open(self.pages, "w").close()
        self.children.append(subprocess.Popen(["nsenter", "-t", str(self.on.init), "-n", sys.executable, __file__, "pager", self.pages]))

    def produce(self, seed):
        self.in_network(f"{BUILD}/coldstreamctl", "generate", "-q", "-p", "small", "-n", "60000", "-s", seed, "-b", self.broker, stderr=subprocess.PIPE)

    def type(self, command):
        """The operator's terminal: yes is what he answers to apt; what is fetched comes from outside."""
        online = bool(re.search(r"\bapt(-get)? |\bmake\b", command))
        began = time.monotonic()
        done = self.on.run("runuser", "-u", "ops", "--", "env", "-i", "HOME=/home/ops", "USER=ops", "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8",
                           "SUDO_EDITOR=/run/given/editor", "TERM=dumb", "DEBIAN_FRONTEND=noninteractive", "bash", "-c",
                           f"cd {HOME} && {command}", online=online, seconds=LIMIT, check=False)
        took = time.monotonic() - began
        print(f"# {took:6.1f} s  {command.splitlines()[0][:110]}", flush=True)
        lines = 40 if done.returncode else 0 if online else 12
        for line in (done.stdout + done.stderr).splitlines()[-lines or sys.maxsize:]:
            print(f"#            | {line[:160]}", flush=True)
        return done

    def judge(self, what, condition, why=""):
        self.number += 1
        self.failed += not condition
        print(f"{'ok' if condition else 'not ok'} {self.number} - {what}", flush=True)
        if not condition:
            for line in str(why() if callable(why) else why).splitlines()[-40:]:
                print(f"#   {line}")
        return condition

    def ask(self, *command):
        return self.on.run(*command, check=False).stdout

    def prometheus(self, path):
        try:
            return json.loads(self.in_network("curl", "-sS", "--max-time", "10", f"http://127.0.0.1:9090/api/v1/{path}"))["data"]
        except (subprocess.CalledProcessError, ValueError):
            return None

    def soon(self, condition, seconds=90):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.5)
        return False

    def up(self):
        targets = (self.prometheus("targets") or {}).get("activeTargets", [])
        return {t["labels"]["job"]: t["health"] for t in targets if t["labels"]["job"].startswith("coldstream")}

    def walk(self):
        began = time.monotonic()
        typed = list(commands())
        for command in typed:
            if self.type(command).returncode:
                return self.judge(f"the page's commands work: {command.splitlines()[0]}", False)
        self.judge(f"the page's commands work, all {len(typed)} of them", len(typed) > 10, typed)
        watched = self.soon(lambda: self.up() == {"coldstream": "up", "coldstream-serve": "up"})
        took = time.monotonic() - began
        self.judge("Prometheus scrapes the daemon and the scorer", watched, lambda: self.up())
        self.judge(f"{took:.0f} s from an empty Debian to a watched daemon, at most {LIMIT}", took <= LIMIT, took)
        rules = [rule for group in (self.prometheus("rules") or {"groups": []})["groups"] for rule in group["rules"]]
        self.judge("all alerts are loaded", len(rules) > 20, rules)
        self.judge("and can be evaluated", self.soon(lambda: all(
            rule["health"] == "ok" for group in self.prometheus("rules")["groups"] for rule in group["rules"])), lambda: self.prometheus("rules"))
        states = {unit: self.on.show(unit, "ActiveState", "UnitFileState") for unit in ("coldstream", "coldstream-serve.socket", "prometheus", "prometheus-alertmanager")}
        self.judge("the trial alert reaches the pager", self.soon(lambda: "ColdstreamTrial" in self.paged()), self.paged)
        self.judge("the services run, and will after a reboot",
                   all(state == {"ActiveState": "active", "UnitFileState": "enabled"} for state in states.values()), states)
        for unit in ("coldstream", "coldstream-serve"):
            done = self.on.run("systemd-analyze", "security", "--threshold=12", unit, check=False)
            self.judge(f"{unit} is hardened: systemd-analyze security gives at most 1.2", done.returncode == 0, done.stdout[-400:])
        self.judge("it learns what the broker has", self.soon(lambda: self.query("coldstream_steps_total") > 0), lambda: self.ask("coldstreamctl", "status"))
        listening = self.ask("sh", "-c", "cat /proc/net/tcp /proc/net/tcp6")
        wide = [line.split()[1] for line in listening.splitlines() if len(line.split()) > 3 and line.split()[3] == "0A"
                and not re.match(r"0100007F:|0{24}01000000:|0{16}FFFF00000100007F:", line.split()[1])]
        self.judge("nothing listens beyond loopback", not wide, wide)
        said = self.ask("journalctl", "--no-pager", "-o", "cat", "-u", "coldstream", "-u", "coldstream-serve", "-p", "warning")
        print("".join(f"#   journal: {line[:200]}\n" for line in said.splitlines()[-15:]), end="")
        self.look()
        self.on.run("systemctl", "kill", "-s", "KILL", "coldstream")
        self.on.run("systemctl", "stop", "coldstream")
        began = time.monotonic()
        called = self.soon(lambda: "ColdstreamDown" in self.paged(), 600)
        self.judge(f"the daemon is gone: the pager is called, after {time.monotonic() - began:.0f} s", called,
                   lambda: f"{self.paged()}\n{self.prometheus('alerts')}")
        self.on.run("systemctl", "start", "coldstream")
        self.judge("it is back: the pager is told", self.soon(lambda: re.search(r'"resolved".*"ColdstreamDown"', self.paged()), 600), self.paged)

    def look(self):
        """What the alerts' pages say to type, by the operator without sudo, after his next login."""
        unheard = r"not found|ermission denied|No such file|No journal files|usage:|not permitted|rror:"
        there_when_it_fires = r"/aside|/refused/"
        self.on.run("systemctl", "start", "dbus.socket")        # a booted Debian has it; who is not root asks systemd by it
        wrong, seen = [], 0
        for page in sorted(glob.glob(f"{ROOT}/docs/alerts/*.md")):
            with open(page) as file:
                look = file.read().split("## Look")[1].split("## Do")[0]
            for command in [line.strip() for line in look.split("\n") if line.startswith("    ")]:
                seen += 1
                if command.startswith("kafka-"):        # Kafka's own, where the brokers are
                    continue
                # Those that look on for some seconds, or for a person, look once.
                once = command.replace("kafka-1:9092", self.broker).replace("iostat -x 1 5", "iostat -x").replace("top -H", "top -b -n 1 -H")
                done = self.on.run("runuser", "-l", "ops", "-c", once, check=False)
                said = done.stdout + done.stderr
                if re.search(there_when_it_fires, command) and "No such file" in said:
                    continue
                if done.returncode in (2, 126, 127) or re.search(unheard, done.stderr):
                    wrong.append(f"{os.path.basename(page)}: {command}: {done.returncode} {said[-300:]}")
        self.judge(f"what the alerts' pages say to look at can be looked at, {seen} commands", seen > 60 and not wrong, "\n".join(wrong))

    def paged(self):
        with open(self.pages) as file:
            return file.read()

    def query(self, expression):
        result = (self.prometheus(f"query?query={expression}") or {}).get("result", [])
        return float(result[0]["value"][1]) if result else 0

    def end(self):
        for child in self.children:
            child.terminate()
            child.wait()
        if self.on and self.failed:
            print("".join(f"# {line}\n" for line in self.on.journal().splitlines()), end="", flush=True)
        subprocess.run([f"{ROOT}/tests/kafka/broker.sh", "stop", f"{self.folder}/broker"], check=False)
        if self.on:
            self.on.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    walk = Walk()
    root = sys.argv[2] if len(sys.argv) > 2 else None
    if not root:
        root = f"{walk.folder}/debian"
    try:
        walk.start(os.path.abspath(root))
        walk.walk()
    finally:
        walk.end()
    print(f"{walk.number - walk.failed} passed, {walk.failed} failed")
    return 1 if walk.failed else 0


if __name__ == "__main__":
    if sys.argv[1] == "pager":
        http.server.ThreadingHTTPServer(("127.0.0.1", PAGER), Pager).serve_forever()
    sys.exit(main())
