#!/usr/bin/env python3
"""The directories and files that the programs read and write, as somebody meets them who may write beside them, or in them: links, pipes,
names that steer a terminal, what a killed restore leaves; and whose all of it is in the end. docs/security.md has the table.
usage: test_files.py BUILD [TEST...]"""
import fcntl
import glob
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [f"{ROOT}/tests/crash"]
import plant as fixture                                 # noqa: E402
from plant import BUILD, harness, until                 # noqa: E402

CTL, DAEMON, SERVE, FETCH = f"{BUILD}/coldstreamctl", f"{BUILD}/coldstreamd", f"{BUILD}/coldstream-serve", f"{ROOT}/tools/coldstream-fetch"
WAIT = 60           # what takes longer hangs
NOBODY = 65534
ENVIRONMENT = {**os.environ, "PATH": f"{BUILD}:{os.environ['PATH']}"}
FEATURES = """
features:
  user: [{name: age}]
  item: [{name: item_id, table: item}]
  behavior: {table: item, max_length: 5}
embedding: {dimension: 4}
model: {ranking: {hidden: [8]}, zero_shot: {attention: 4, encoder: [8, 8, 8], decoder: [8, 8]}}
batch: {size: 64}
"""
VICTIM = "root:x:0:0:root:/root:/bin/bash\n" * 50       # what must not change
# Names that a shell, a format, a terminal or a line of a log would trip over. The last is as long as one may be.
NOT_TEXT = b"\xff\xfe\xc3("
NAMES = ["with blanks", "two\nlines", "\x1b[2J\x1b]0;owned\x07", "\u009b2J", "100%s%n", "$(reboot)`id`;&|", "-rf", "n" * 255]


def run(*words, code=None, **more):
    done = subprocess.run([str(word) if not isinstance(word, bytes) else word for word in words], capture_output=True, timeout=WAIT,
                          stdin=subprocess.DEVNULL, check=False, **{"env": ENVIRONMENT, **more})
    assert code is None or done.returncode == code, (words, done)
    return done


def ctl(*words, code=0, **more):
    return run(CTL, *words, code=code, **more)


def no_escapes(done):
    """Nothing for a terminal but printable characters and line ends."""
    for text in (done.stdout, done.stderr):
        shown = text.decode()           # UTF-8, or it fails here
        assert all(character == "\n" or character.isprintable() or ord(character) > 0xff for character in shown), done
    return done


class World:
    """A snapshot, checkpoints of two versions, and a daemon on a broker that never answers."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="coldstream-files-")
        self.processes = []
        self.victim = f"{self.folder}/victim"
        self.train = self.path("train.yaml", FEATURES)
        self.events = self.path("events.jsonl", "".join(json.dumps({
            "event": "example", "impression_id": f"r{i}", "ts": 1700000000000 + i, "user_id": f"u{i % 9}", "user": {"age": 18 + i % 40},
            "behaviors": ["i1"] if i % 3 else [], "item_id": f"i{i % 7}", "clicked": i % 7 == 2}) + "\n" for i in range(300)))
        self.snapshot, self.checkpoints = f"{self.folder}/snapshot", f"{self.folder}/checkpoints"
        for seed in ("1", "2"):
            ctl("train", "-q", "-c", self.train, "-e", self.events, "--seed", seed, "--checkpoint", self.checkpoints, "--export", f"{self.folder}/m.safetensors")
        ctl("import", "-c", self.train, "--to", self.snapshot, f"{self.folder}/m.safetensors")
        self.older, self.newer = sorted(name for name in os.listdir(self.checkpoints) if name.isdigit())
        self.config = f"{self.folder}/coldstream.yaml"
        self.configure()

    def path(self, name, text):
        with open(f"{self.folder}/{name}", "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(f"{self.folder}/{name}", 0o640)
        return f"{self.folder}/{name}"

    def configure(self, more="", **places):
        """JSON's strings are YAML's too."""
        quoted = {name: json.dumps(places.get(name, value)) for name, value in (
            ("snapshot", self.snapshot), ("checkpoints", self.checkpoints), ("control", f"{self.folder}/control.sock"))}
        self.control = places.get("control", f"{self.folder}/control.sock")
        self.port = harness.free_port()
        self.path("coldstream.yaml", f"""
source: {{kafka: {{topics: {{impressions: impressions, clicks: clicks}}, properties: {{bootstrap.servers: "127.0.0.1:1"}}}}}}
{FEATURES}
snapshot: {{directory: {quoted["snapshot"]}}}
checkpoint: {{directory: {quoted["checkpoints"]}}}
control: {{socket: {quoted["control"]}}}
http: {{listen: 127.0.0.1:{self.port}}}
{more}""")

    def start(self):
        with open(f"{self.folder}/log", "wb") as log:
            self.processes.append(subprocess.Popen([DAEMON, "-c", self.config], stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        daemon = self.processes[-1]
        until(lambda: daemon.poll() is not None or run(CTL, "status", "--control", self.control).returncode == 0, "an answer", WAIT)
        assert daemon.poll() is None, self.log()
        return daemon

    def stop(self, daemon):
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(WAIT) == 0, self.log()
        return self.log()

    def refused(self, *texts, code=65):
        """The daemon does not start."""
        done = run(DAEMON, "-c", self.config)
        said = done.stderr.decode()
        assert done.returncode == code and all(text in said for text in texts), (done.returncode, texts, said)

    def log(self):
        with open(f"{self.folder}/log", encoding="utf-8") as file:
            return file.read()

    def plant(self, path, kind):
        """In the place of what may be there; gone again with unplant."""
        if os.path.lexists(path):
            os.rename(path, f"{path}.away")
        {"link": lambda: os.symlink(self.victim, path), "dangling": lambda: os.symlink(f"{self.folder}/made", path),
         "pipe": lambda: os.mkfifo(path), "directory": lambda: os.mkdir(path), "device": lambda: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)),
         "socket": lambda: socket.socket(socket.AF_UNIX).bind(path) if len(path) < 108 else os.mknod(path, stat.S_IFSOCK | 0o666)}[kind]()

    def unplant(self, path):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)
        if os.path.lexists(f"{path}.away"):
            os.rename(f"{path}.away", path)

    def lay_out(self):
        self.path("victim", VICTIM)
        os.utime(self.victim, (1, 1))

    def unharmed(self):
        with open(self.victim, encoding="utf-8") as file:
            assert file.read() == VICTIM and os.stat(self.victim).st_mtime == 1, "what a link led to was changed"
        assert not os.path.lexists(f"{self.folder}/made"), "what a link led to was made"

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


# ---- something else where a file should be

STATE = ("LOCK", "data.mdb", "lock.mdb", "segments")


def links_in_the_state_are_not_followed(world):
    """a link in the place of any file of a snapshot: refused by name (65); what it leads to is neither changed nor made"""
    world.lay_out()
    first = f"segments/{sorted(os.listdir(world.snapshot + '/segments'))[0]}"
    for name in (*STATE, first):
        for kind in ("link", "dangling"):
            path = f"{world.snapshot}/{name}"
            world.plant(path, kind)
            world.refused(path, "is a link")
            if name != "LOCK":
                assert "is a link" in ctl("backup", world.snapshot, f"{world.folder}/b", code=None).stderr.decode() or name == "segments"
            if name == "LOCK":
                assert b"is a link" in ctl("restore", world.snapshot, world.snapshot, "--force", code=65).stderr
            world.unplant(path)
            world.unharmed()
    world.stop(world.start())


def links_among_the_versions_are_not_followed(world):
    """links in the place of marks, of the hold, of their temporary names, of `refused`: replaced or refused, never written through"""
    world.lay_out()
    version = f"{world.checkpoints}/{world.older}"
    daemon = world.start()
    for name, kind in (("pinned", "link"), (".pinned.new", "link"), ("pinned", "dangling")):
        world.plant(f"{version}/{name}", kind)
        ctl("pin", int(world.older), "--control", world.control)
        assert stat.S_ISREG(os.lstat(f"{version}/pinned").st_mode) and not os.path.lexists(f"{version}/.pinned.new")
        ctl("unpin", int(world.older), "--control", world.control)
        world.unharmed()
    for name in (f"{world.checkpoints}/held.json", f"{world.checkpoints}/.held.json.new", f"{version}/frozen", f"{world.checkpoints}/{world.newer}/withdrawn"):
        world.plant(name, "link")
    ctl("rollback", "--control", world.control)
    world.unharmed()
    assert os.readlink(f"{world.checkpoints}/current") == world.older and stat.S_ISREG(os.lstat(f"{world.checkpoints}/held.json").st_mode)
    world.stop(daemon)
    for kind, what in (("link", "a link"), ("pipe", "a pipe"), ("directory", "a directory")):
        world.plant(f"{world.checkpoints}/held.json", kind)
        world.refused("held.json", f"is {what}")
        world.unplant(f"{world.checkpoints}/held.json")
    world.unharmed()


def nothing_waits_for_a_pipe(world):
    """pipes, directories, sockets and devices where files should be: every program ends, and names what is there"""
    os.symlink(world.checkpoints, f"{world.folder}/source")
    version, target = f"{world.checkpoints}/{world.newer}", f"{world.folder}/target"
    for kind, what in (("pipe", "a pipe"), ("directory", "a directory"), ("socket", "a socket"), ("device", "a device")):
        for name in STATE:
            path = f"{world.snapshot}/{name}"
            if (name, kind) == ("segments", "directory"):
                continue
            world.plant(path, kind)
            world.refused(path, f"is {what}")
            for words in (["verify", world.snapshot], ["backup", world.snapshot, f"{world.folder}/b"], ["export", "--from", world.snapshot, f"{world.folder}/o.npz"],
                          ["restore", world.snapshot, world.snapshot, "--force"]):
                done = ctl(*words, code=None)
                assert done.returncode in ((0, 65) if name == "LOCK" else (1, 65)), (kind, name, words, done)
                shutil.rmtree(f"{world.folder}/b", ignore_errors=True)
                for aside in glob.glob(f"{world.snapshot}.[0-9]*"):
                    raise AssertionError(f"{aside} is there, though {name} was {what}")
            world.unplant(path)
        for name in ("data.mdb", "manifest.json"):
            path = f"{version}/{name}"
            world.plant(path, kind)
            done = ctl("verify", world.checkpoints, code=65)
            assert f"{path} is {what}" in done.stderr.decode(), done
            done = run(SERVE, "--checkpoint", world.checkpoints, "--listen", "127.0.0.1:0", code=65)
            assert f"{name} is {what}" in done.stderr.decode(), done
            os.mkdir(target)
            done = run(FETCH, f"{world.folder}/source", target)
            assert done.returncode in (1, 65) and not os.path.lexists(f"{target}/current"), (kind, name, done)
            shutil.rmtree(target)
            world.unplant(path)
        world.plant(f"{world.folder}/m.safetensors", kind)
        assert what in ctl("import", "-c", world.train, "--to", f"{world.folder}/imported", f"{world.folder}/m.safetensors", code=65).stderr.decode()
        world.unplant(f"{world.folder}/m.safetensors")
    assert not os.path.exists(f"{world.folder}/imported")


def current_leads_to_versions_alone(world):
    """`current` outside, absolute, at itself, at nothing, or no link at all: not followed, and put right by the next version"""
    elsewhere = f"{world.folder}/elsewhere"
    shutil.copytree(f"{world.checkpoints}/{world.older}", elsewhere)
    current = f"{world.checkpoints}/current"
    for leads in ("../elsewhere", elsewhere, "current", f"{world.checkpoints}/{world.older}", f"./{world.older}", f"{world.older}/", "nowhere", "x" * 4000):
        os.remove(current)
        os.symlink(leads, current)
        done = no_escapes(ctl("score", "--checkpoint", world.checkpoints, "--events", world.events, code=65))
        assert b"neither a current version nor a manifest" in done.stderr and not done.stdout, (leads, done)
    ctl("train", "-q", "-c", world.train, "-e", world.events, "--seed", "3", "--checkpoint", world.checkpoints)
    assert int(os.readlink(current)) == int(world.newer) + 1
    # A directory can't be replaced. Each try is said to have failed, and leaves no more versions than are kept.
    os.remove(current)
    os.mkdir(current)
    for seed in range(4, 12):
        done = ctl("train", "-q", "-c", world.train, "-e", world.events, "--seed", seed, "--checkpoint", world.checkpoints, code=1)
        assert b"Is a directory" in done.stderr, done
    assert len([name for name in os.listdir(world.checkpoints) if name.isdigit()]) <= 7, os.listdir(world.checkpoints)


# ---- links that operators make

def links_that_operators_make_work(world):
    """directories of state that are links: the daemon runs, restore leaves the link and the disk that it leads to"""
    disk = f"{world.folder}/disk"
    os.mkdir(disk)
    for name in ("snapshot", "checkpoints"):
        os.rename(f"{world.folder}/{name}", f"{disk}/{name}")
        os.symlink(f"disk/{name}", f"{world.folder}/{name}")
    daemon = world.start()
    ctl("pin", int(world.older), "--control", world.control)
    ctl("rollback", "--control", world.control)
    world.stop(daemon)
    ctl("verify", world.snapshot)
    ctl("verify", world.checkpoints)
    ctl("backup", world.snapshot, f"{world.folder}/backup")
    back = json.loads(ctl("restore", "--json", "--force", f"{world.folder}/backup", world.snapshot).stdout)
    assert os.readlink(world.snapshot) == "disk/snapshot" and os.path.dirname(back["aside"]) == disk, back
    assert not glob.glob(f"{world.snapshot}.*"), glob.glob(f"{world.snapshot}.*")
    ctl("verify", world.snapshot)
    ctl("verify", back["aside"])
    # A version may be a link: it is read, and when it goes, the link goes.
    kept = f"{disk}/kept"
    os.rename(f"{disk}/checkpoints/{world.older}", kept)
    os.symlink(kept, f"{disk}/checkpoints/{world.older}")
    ctl("verify", f"{world.checkpoints}/{world.older}")
    os.remove(f"{kept}/pinned")
    for seed in range(20, 30):
        ctl("train", "-q", "-c", world.train, "-e", world.events, "--seed", seed, "--checkpoint", world.checkpoints)
    assert not os.path.lexists(f"{disk}/checkpoints/{world.older}") and not glob.glob(f"{disk}/checkpoints/.old-*"), os.listdir(f"{disk}/checkpoints")
    ctl("verify", kept)
    os.remove(world.snapshot)
    os.symlink("nowhere", world.snapshot)
    assert b"following the link" in ctl("restore", f"{world.folder}/backup", world.snapshot, code=1).stderr


# ---- names

def odd_names_stay_one_line_of_text(world):
    """blanks, line ends, escapes, %, shell's signs, 255 bytes, no UTF-8: files are found, JSON is JSON, no terminal is steered"""
    for name in [*(name.encode() for name in NAMES), NOT_TEXT]:
        folder = os.path.join(world.folder.encode(), name)
        os.mkdir(folder)
        source = folder + b"/snapshot"
        os.rename(world.snapshot, source)
        for words in (["verify"], ["inspect"]):
            found = json.loads(ctl(*words, source, "--json").stdout)
            assert found["kind"] == "snapshot", found
            no_escapes(ctl(*words, source))
        no_escapes(ctl("backup", source, folder + b"/backup"))
        answer = json.loads(ctl("backup", source, folder + b"/second", "--json").stdout)
        assert answer["from"].encode() == source or name == NOT_TEXT and "\ufffd" in answer["from"], answer
        assert b"coldstreamctl verify: " in no_escapes(ctl("verify", folder + b"/nothing", code=1)).stderr
        scorer = subprocess.Popen([SERVE, "--checkpoint", folder + b"/none", "--listen", "127.0.0.1:0"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        world.processes.append(scorer)
        line = scorer.stderr.readline()
        while line and b"none" not in line:
            line = scorer.stderr.readline()
        scorer.terminate()
        rest = scorer.communicate(timeout=WAIT)[1]
        assert b"directory of checkpoints" in line, (name, line)
        for text in (line, rest):
            assert b"\x1b" not in text and b"\xc2\x9b" not in text and text.decode(), (name, text)
        os.rename(source, world.snapshot)
    # A program may be asked for what only a deeper path than any system call takes leads to.
    deep = world.folder + "/d" * 2100
    for words in (["verify", deep], ["backup", world.snapshot, deep], ["restore", world.snapshot, deep], ["inspect", deep]):
        done = ctl(*words, code=None)
        assert done.returncode in (1, 2) and re.search(b"too long|longer than|not to be read", done.stderr), (words, done)


def a_daemon_in_odd_places_tells_of_them_in_order(world):
    """directories named so in the configuration: status, pages, metrics and both kinds of log stay what they are"""
    place = "/".join([world.folder, *NAMES])
    os.makedirs(f"{place}/checkpoints")
    os.chmod(f"{place}/checkpoints", 0o757)     # a warning, which names it
    for form in ("text", "json"):
        world.configure(f"logging: {{format: {form}, level: debug}}\n", snapshot=f"{place}/{form}", checkpoints=f"{place}/checkpoints")
        daemon = world.start()
        status = json.loads(ctl("status", "--json", "--control", world.control).stdout)
        assert status["snapshot"]["directory"] == f"{place}/{form}", status["snapshot"]
        no_escapes(ctl("status", "--control", world.control))
        # An error that names the place, cut where its room ends: from the daemon to the operator.
        failed = no_escapes(ctl("rollback", 7, "--control", world.control, code=1))
        assert b"coldstreamctl rollback: " in failed.stderr and failed.stderr.count(b"\n") == 1, failed
        for page in ("metrics", "status", "readyz"):
            body = run("curl", "-sS", f"http://127.0.0.1:{world.port}/{page}").stdout.decode()
            assert body and (page == "metrics" or json.loads(body)), (page, body)
            assert page != "metrics" or all(line.startswith(("#", "coldstream_", "process_")) for line in body.splitlines()), body
        log = world.stop(daemon)
        assert "\x1b" not in log and "\u009b" not in log and "others can exchange" in log, log
        for line in log.splitlines():
            assert json.loads(line)["message"] if form == "json" else line[:2] == "20", line
        assert os.path.isdir(f"{place}/{form}/segments")


# ---- restore

def restores_follow_one_another(world):
    """restore --force, again and again within a second: each old state is kept, under a name of its own"""
    ctl("backup", world.snapshot, f"{world.folder}/backup")
    asides = [json.loads(ctl("restore", "--json", "--force", f"{world.folder}/backup", world.snapshot).stdout)["aside"] for _ in range(5)]
    assert len(set(asides)) == 5 and all(os.path.isdir(f"{aside}/segments") for aside in asides), asides
    now = int(asides[-1].split(".")[-1].split("-")[0])
    for second in range(now, now + 120):        # names that are taken: by whatever, a link to nothing included
        os.symlink("nowhere", f"{world.snapshot}.{second}") if not os.path.lexists(f"{world.snapshot}.{second}") else None
    aside = json.loads(ctl("restore", "--json", "--force", f"{world.folder}/backup", world.snapshot).stdout)["aside"]
    assert aside.rsplit("-", 1)[1].isdigit() and os.path.isdir(f"{aside}/segments"), aside


def killed_copies_are_told_of_and_taken_away(world):
    """what a killed restore or backup leaves: the daemon tells of it, the next one removes it, and nothing that is held or not a copy"""
    ctl("backup", world.snapshot, f"{world.folder}/backup")
    left = [f"{world.snapshot}.new-00beef", f"{world.snapshot}.1700000000.new-123abc", f"{world.snapshot}.1700000000-2.new-123abc"]
    others = [f"{world.snapshot}.1700000000", f"{world.snapshot}.new-00BEEF", f"{world.snapshot}.new-00beef1", f"{world.snapshot}.mine.new-123abc",
              f"{world.snapshot}2.new-123abc"]
    held = f"{world.snapshot}.new-0ddba1"
    for path in (*left, *others, held):
        shutil.copytree(world.snapshot, path)
    theirs = f"{world.snapshot}.new-777777"
    os.symlink(others[0], theirs)               # by its name a copy, and leads to an old state
    handle = os.open(held, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    log = world.stop(world.start())
    assert all(f"never finished directory={path} remedy=" in log for path in left) and log.count("never finished") == 3, log
    done = ctl("restore", "--force", f"{world.folder}/backup", world.snapshot)
    assert all(f"{path} is removed: a copy that was never finished" in done.stderr.decode() for path in left), done
    assert not [path for path in left if os.path.lexists(path)]
    for path in (*others, held):
        ctl("verify", path)
    assert os.path.islink(theirs)
    os.close(handle)
    assert f"{held} is removed" in ctl("restore", "--force", f"{world.folder}/backup", world.snapshot).stderr.decode()
    os.mkdir(f"{world.folder}/again.new-00beef")
    assert b"again.new-00beef is removed" in ctl("backup", world.snapshot, f"{world.folder}/again").stderr


def a_restore_is_whose_the_old_state_was(world):
    """root restores a state of another user's: owner and mode are as before, and nothing outside is given away"""
    ctl("backup", world.snapshot, f"{world.folder}/backup")
    for path in (world.snapshot, *glob.glob(f"{world.snapshot}/**", recursive=True)):
        os.chown(path, NOBODY, NOBODY)
    os.chmod(world.snapshot, 0o700)
    ctl("restore", "--force", f"{world.folder}/backup", world.snapshot)
    for path in (world.snapshot, *glob.glob(f"{world.snapshot}/**", recursive=True)):
        now = os.lstat(path)
        assert (now.st_uid, now.st_gid) == (NOBODY, NOBODY), path
    assert stat.S_IMODE(os.stat(world.snapshot).st_mode) == 0o700
    assert os.stat(f"{world.folder}/backup").st_uid == 0


def a_mount_point_stays_as_it_was(world):
    """restore where a disk is mounted on the directory itself: it can't be exchanged, which is said; nothing is changed, nothing left"""
    ctl("backup", world.snapshot, f"{world.folder}/backup")
    if run("mount", "--bind", world.snapshot, world.snapshot).returncode:
        raise harness.Skip("nothing can be mounted")
    try:
        done = ctl("restore", "--force", f"{world.folder}/backup", world.snapshot, code=1)
        assert b"in the place of" in done.stderr and not glob.glob(f"{world.snapshot}.*"), (done, glob.glob(f"{world.snapshot}.*"))
        ctl("verify", world.snapshot)
    finally:
        run("umount", world.snapshot, code=0)


# ---- others

def places_open_to_others_are_warned_of(world):
    """directories that everyone may write to, or that are another's: the daemon runs and warns, doctor too"""
    def warned():
        log = world.stop(world.start())
        return [line for line in log.splitlines() if "others can exchange" in line]
    world.configure(control=f"{world.folder}/run/control.sock")
    os.mkdir(f"{world.folder}/run")
    os.chmod(f"{world.folder}/run", 0o1777)     # as /tmp: nobody can take the socket away
    assert not warned()
    os.chmod(world.snapshot, 0o757)
    os.chown(world.checkpoints, NOBODY, NOBODY)
    os.chmod(f"{world.folder}/run", 0o777)
    found = warned()
    assert len(found) == 3 and "setting=snapshot.directory" in found[0] and 'why="everyone may write to it (mode 0757)"' in found[0], found
    assert "setting=checkpoint.directory" in found[1] and f'why="it belongs to user id {NOBODY}"' in found[1] and all("remedy=" in line for line in found), found
    done = ctl("doctor", "-c", world.config, "--json", code=1)
    rows = [(row["check"], row["result"]) for row in json.loads(done.stdout)["checks"]]
    assert ("snapshot.directory", "warning") in rows and ("checkpoint.directory", "warning") in rows, rows


def files_of_another_user_are_named(world):
    """what the daemon's user may not open, since somebody copied it as root: the file is named (exit 1), and nothing changed"""
    os.chmod(world.folder, 0o755)
    everything = [path for top in (world.snapshot, world.checkpoints) for path in (top, *glob.glob(f"{top}/**", recursive=True))]
    for path in (world.folder, world.config, *everything):
        os.lchown(path, NOBODY, NOBODY)
    as_nobody = ("setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups")
    segment = glob.glob(f"{world.snapshot}/segments/*")[0]
    for path in (*(f"{world.snapshot}/{name}" for name in STATE), segment):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        os.chown(path, 0, 0)
        os.chmod(path, mode & 0o700)
        done = run(*as_nobody, DAEMON, "-c", world.config, code=1)
        assert f"opening {path}" in done.stderr.decode() and b"Permission denied" in done.stderr, (path, done)
        if not path.endswith("LOCK"):
            assert f"opening {path}" in run(*as_nobody, CTL, "verify", world.snapshot, code=1).stderr.decode()
        os.chmod(path, mode)
        os.chown(path, NOBODY, NOBODY)
    run(*as_nobody, CTL, "verify", world.snapshot, code=0)


# ---- coldstream-fetch

def fetch_takes_files_alone(world):
    """links, pipes and devices of the source, in the target, and names that steer a terminal: refused, nothing written through, no waiting"""
    world.lay_out()
    source, target = f"{world.folder}/source", f"{world.folder}/target"
    shutil.copytree(world.checkpoints, source, symlinks=True)
    version = f"{source}/{world.newer}"

    def fetch(code=0):
        return no_escapes(run(FETCH, source, target, code=code))

    os.mkdir(target)
    for kind in ("link", "dangling", "pipe", "directory"):
        world.plant(f"{target}/.fetch.lock", kind)
        assert b"is no file" in fetch(1).stderr
        world.unplant(f"{target}/.fetch.lock")
        world.unharmed()
    for name in ("data.mdb", "manifest.json", "frozen"):
        for kind in ("link", "pipe", "device"):
            world.plant(f"{version}/{name}", kind)
            assert f"{name} is no file" in fetch(65).stderr.decode(), (name, kind)
            world.unplant(f"{version}/{name}")
    assert fetch().stdout.decode().strip() == world.newer
    # Marks of a version that both have.
    for kind in ("link", "pipe"):
        world.plant(f"{version}/frozen", kind)
        fetch()
        assert not os.path.lexists(f"{target}/{world.newer}/frozen"), kind
        world.unplant(f"{version}/frozen")
    with open(f"{version}/frozen", "w", encoding="utf-8") as file:
        file.write("rolled back\n")
    for kind in ("link", "dangling", "pipe"):
        world.plant(f"{target}/{world.newer}/frozen", kind)
        fetch()
        assert stat.S_ISREG(os.lstat(f"{target}/{world.newer}/frozen").st_mode), kind
        world.unplant(f"{target}/{world.newer}/frozen")
        world.unharmed()
    os.remove(f"{source}/current")
    os.symlink("\x1b]0;owned\x07" + world.newer, f"{source}/current")
    assert b"is no version of twenty digits" in fetch(1).stderr
    os.remove(f"{source}/current")
    os.symlink(world.older, f"{source}/current")
    os.remove(f"{target}/current")
    os.symlink("/nowhere", f"{target}/current")
    assert fetch().stdout.decode().strip() == os.readlink(f"{target}/current") == world.older


# ---- whose files they are

def all_files_are_the_groups_alone(world):
    """whatever umask: after a full run of daemon, scorer, fetch and each verb that writes, files are 0640, directories 0750, the socket 0660"""
    plant = fixture.Plant("files")
    try:
        stream = fixture.Stream(plant.folder, 2000)
        for umask in (0o000, 0o077):
            before = os.umask(umask)
            try:
                full_run(world, plant, stream, f"{umask:03o}")
            finally:
                os.umask(before)
    finally:
        plant.tidy()
        shutil.rmtree(plant.folder, ignore_errors=True)


def full_run(world, plant, stream, name):
    broker = plant.broker(stream)
    # A place for all that is made, with the group's bit, as tmpfiles.d makes that of the checkpoints.
    place = f"{world.folder}/made.{name}"
    os.mkdir(place)
    os.chmod(place, 0o2750)
    daemon = plant.daemon(broker, name, checkpoints="1s")
    os.rmdir(daemon.snapshot)
    os.rmdir(daemon.checkpoints)
    daemon.snapshot, daemon.checkpoints, daemon.socket = f"{place}/snapshot", f"{place}/checkpoints", f"{place}/control.sock"
    daemon.configure("300ms")
    os.chmod(daemon.config, 0o640)
    broker.order(f"produce {stream.events // 2}")
    daemon.start().examples_reach(stream.examples // 4)
    daemon.until(lambda s: s["checkpoint"]["published"] >= 2, "two versions")
    for verb in ("snapshot", "publish"):
        ctl(verb, "--control", daemon.socket)
    versions = sorted(os.path.basename(path) for path in glob.glob(f"{daemon.checkpoints}/[0-9]*"))
    ctl("pin", int(versions[-1]), "--control", daemon.socket)
    ctl("rollback", "--control", daemon.socket)
    ctl("backup", daemon.snapshot, f"{place}/backup")
    scorer = subprocess.Popen([SERVE, "--checkpoint", daemon.checkpoints, "--listen", "127.0.0.1:0"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    world.processes.append(scorer)
    wait_for_port(scorer)
    os.mkdir(f"{place}/copies")
    os.chmod(f"{place}/copies", 0o2750)
    os.chmod(f"{daemon.checkpoints}/{os.readlink(daemon.checkpoints + '/current')}/data.mdb", 0o600)       # however it is at the source
    run(FETCH, daemon.checkpoints, f"{place}/copies", code=0)
    os.chmod(f"{daemon.checkpoints}/{os.readlink(daemon.checkpoints + '/current')}/data.mdb", 0o640)
    assert stat.S_IMODE(os.lstat(daemon.socket).st_mode) == 0o660
    looked_at(place)
    assert daemon.stop() == 0
    scorer.terminate()
    scorer.communicate(timeout=WAIT)
    ctl("generate", "-q", "-p", "small", "-n", "500", "--split", "-o", f"{place}/events")
    ctl("train", "-q", "-c", world.train, "-e", world.events, "--export", f"{place}/m.safetensors", "--predictions", f"{place}/p.csv",
        "--losses", f"{place}/l.csv", "--checkpoint", f"{place}/trained")
    ctl("import", "-c", world.train, "--to", f"{place}/imported", f"{place}/m.safetensors")
    more = world.path("more.yaml", FEATURES.replace("{name: age}", "{name: age}, {name: city}"))
    ctl("migrate", "-c", more, "--from", f"{place}/imported", "--to", f"{place}/migrated")
    for form in ("npz", "safetensors"):
        ctl("export", "--from", f"{place}/imported", "--format", form, f"{place}/o.{form}")
    ctl("restore", f"{place}/backup", f"{place}/restored")
    ctl("restore", "--force", f"{place}/backup", f"{place}/imported")
    assert looked_at(place) > 60


def wait_for_port(scorer):
    for line in iter(scorer.stderr.readline, b""):
        if b"port=" in line:
            return line
    raise AssertionError("coldstream-serve does not start")


def looked_at(place):
    """How many there are."""
    count = 0
    for where, folders, files in os.walk(place):
        for name in folders + files:
            path = os.path.join(where, name)
            now = os.lstat(path)
            if stat.S_ISLNK(now.st_mode) or stat.S_ISSOCK(now.st_mode):
                continue
            wanted = 0o750 if stat.S_ISDIR(now.st_mode) else 0o640
            assert stat.S_IMODE(now.st_mode) & 0o777 == wanted, f"{path}: mode {stat.S_IMODE(now.st_mode):04o}, wanted {wanted:04o}"
            count += 1
    return count


TESTS = [links_in_the_state_are_not_followed, links_among_the_versions_are_not_followed, nothing_waits_for_a_pipe,
         current_leads_to_versions_alone, links_that_operators_make_work,
         odd_names_stay_one_line_of_text, a_daemon_in_odd_places_tells_of_them_in_order, restores_follow_one_another,
         killed_copies_are_told_of_and_taken_away, a_restore_is_whose_the_old_state_was, a_mount_point_stays_as_it_was,
         places_open_to_others_are_warned_of, files_of_another_user_are_named, fetch_takes_files_alone, all_files_are_the_groups_alone]
AS_ROOT = (nothing_waits_for_a_pipe, a_restore_is_whose_the_old_state_was, a_mount_point_stays_as_it_was,
           places_open_to_others_are_warned_of, files_of_another_user_are_named, fetch_takes_files_alone)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.umask(0o022)
    failed, only = 0, sys.argv[2:]
    tests = [test for test in TESTS if not only or test.__name__ in only]
    print(f"1..{len(tests)}", flush=True)
    for number, test in enumerate(tests, 1):
        world = World()

        def one():
            if test in AS_ROOT and os.geteuid() != 0:
                raise harness.Skip("not root: no devices, no other users")
            test(world)
        try:
            failed += not harness.judge(number, test.__doc__, one)
        finally:
            world.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
