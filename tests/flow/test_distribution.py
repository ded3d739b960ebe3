#!/usr/bin/env python3
"""Checkpoints on their way to a serving machine, as docs/distribution.md has it: pulled while they are published, by rsync, from a
shared directory, and from an object store's copy tool. A reader of the copy scores all the while and never sees half a version.
Then coldstream-serve on a socket that systemd hands over. usage: test_distribution.py BUILD"""
import contextlib, json, os, re, shutil, socket, subprocess, sys, tempfile, threading, urllib.request

build = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build")
root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
env = dict(os.environ, PATH=build + ":" + os.environ["PATH"])
fetch = os.path.join(root, "tools/coldstream-fetch")
work = tempfile.mkdtemp(prefix="coldstream-distribution-")
published, copies = os.path.join(work, "published"), os.path.join(work, "copies")
store = os.path.join(work, "store")
config, events = os.path.join(work, "c.yaml"), os.path.join(work, "events.jsonl")
REQUEST = json.dumps({"requests": [{"user_id": "u1", "user": {"age": 30}, "behaviors": ["i1"], "item_id": "i2"}]}).encode()
failures = 0


def check(ok, what, seen=""):
    global failures
    print(("ok - " if ok else "not ok - ") + what, flush=True)
    if not ok:
        failures += 1
        print("#", seen, flush=True)


def publish(seed):
    subprocess.run(["coldstreamctl", "train", "--quiet", "--config", config, "--events", events, "--seed", str(seed), "--checkpoint",
                    published], env=env, check=True, stdout=subprocess.DEVNULL)
    return os.readlink(published + "/current")


def pull(*arguments):
    return subprocess.run([fetch, *arguments], env=env, capture_output=True, text=True)


def serve(*arguments, launcher=()):
    """coldstream-serve, and the port that it says it listens on."""
    process = subprocess.Popen([*launcher, build + "/coldstream-serve", *arguments], env=env, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        found = re.search(r"port=(\d+)", line)
        if found:
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, int(found.group(1))
    raise SystemExit("coldstream-serve does not start")


def score(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/score", REQUEST, timeout=30) as response:
        return json.load(response)


def end(process):
    process.terminate()
    return process.wait(60)


def mark(version, name, on=True):
    """As daemon/versions.c leaves a mark of the publisher's."""
    path = f"{published}/{version}/{name}"
    if on:
        with open(path, "w") as file:
            file.write("rolled back\n")
    elif os.path.exists(path):
        os.remove(path)


def repoint(directory, version):
    os.symlink(version, directory + "/new")
    os.rename(directory + "/new", directory + "/current")


def roll_back(frm, to):
    """In the daemon's order: the marks are there before current moves."""
    mark(to, "frozen")
    mark(to, "withdrawn", False)
    mark(frm, "withdrawn")
    repoint(published, to)


def rolled_back(name, source, *options, marks=("frozen", "withdrawn")):
    """What is decided about versions after they were pulled comes too, and goes again."""
    target, (older, newer) = os.path.join(copies, name), (publish(30), publish(31))
    os.makedirs(target)
    repoint(published, older)
    pull(*options, source(), target)
    repoint(published, newer)
    done = pull(*options, source(), target)
    check(done.stdout.strip() == newer and {older, newer} <= set(os.listdir(target)), f"{name}: both versions are there", done)
    roll_back(newer, older)
    done = pull(*options, source(), target)
    check(done.returncode == 0 and os.readlink(target + "/current") == older, f"{name}: the rollback comes", done)
    check(os.path.exists(f"{target}/{older}/frozen"), f"{name}: what was rolled back to is marked: no delta goes over it", os.listdir(f"{target}/{older}"))
    if "withdrawn" in marks:
        check(os.path.exists(f"{target}/{newer}/withdrawn"), f"{name}: what was rolled back from is marked", os.listdir(f"{target}/{newer}"))
    mark(older, "frozen", False)
    mark(newer, "withdrawn", False)
    done = pull(*options, source(), target)
    check(done.returncode == 0 and not done.stdout, f"{name}: nothing new, and no word", done)
    left = [mark for version in (older, newer) for mark in ("frozen", "withdrawn") if os.path.exists(f"{target}/{version}/{mark}")]
    check(not left, f"{name}: marks that were taken away go", left)
    repoint(published, newer)


def rolled_back_meanwhile(name, source, wrapped, *options):
    """A version that is withdrawn while it is copied never becomes current. wrapped(command): in which `command` runs at each copy."""
    target, (older, newer) = os.path.join(copies, name), (publish(40), publish(41))
    os.makedirs(target)
    repoint(published, older)
    pull(*options, source(), target)
    repoint(published, newer)
    source()
    hook = os.path.join(work, "hook.py")
    with open(hook, "w") as file:
        file.write(f"import os\n"
                   f"for path in {[f'{published}/{older}/frozen', f'{published}/{newer}/withdrawn']!r}: open(path, 'w').close()\n"
                   f"os.path.exists({published + '/new'!r}) or os.symlink({older!r}, {published + '/new'!r})\n"
                   f"os.rename({published + '/new'!r}, {published + '/current'!r})\n"
                   f"os.path.exists({store!r}) and open({store + '/current'!r}, 'w').write('{older} frozen\\n')\n")
    with wrapped(f"{sys.executable} {hook}") as more:
        done = pull(*options, *more, store if more else source(), target)
    check(done.returncode == 1 and "rolled back from" in done.stderr, f"{name}: what is rolled back from while it is copied is refused", done)
    check(os.readlink(target + "/current") == older and not os.path.exists(f"{target}/{newer}"), f"{name}: and is not there", os.listdir(target))
    done = pull(*options, source(), target)
    check(done.returncode == 0 and os.path.exists(f"{target}/{older}/frozen"), f"{name}: the next pull is fine", done)
    mark(older, "frozen", False)
    mark(newer, "withdrawn", False)
    repoint(published, newer)


@contextlib.contextmanager
def slow_cp(command):
    """A cp first in PATH that runs the command before it copies a whole version."""
    folder = os.path.join(work, "bin")
    os.makedirs(folder)
    with open(folder + "/cp", "w") as file:
        file.write(f'#!/bin/sh\n[ "$1" != -r ] || {command}\nexec {shutil.which("cp")} "$@"\n')
    os.chmod(folder + "/cp", 0o755)
    path, env["PATH"] = env["PATH"], folder + ":" + env["PATH"]
    yield ()
    env["PATH"] = path


@contextlib.contextmanager
def slow_store(command):
    """A copy tool that runs the command before it brings data."""
    tool = os.path.join(work, "tool")
    with open(tool, "w") as file:
        file.write(f'#!/bin/sh\ncase $1 in */data.mdb) {command} ;; esac\nexec cp "$@"\n')
    os.chmod(tool, 0o755)
    yield ("--copy", tool)


def pulled_while_published(name, source, *options):
    target = os.path.join(copies, name)
    os.makedirs(target)
    first = pull(*options, source(), target)
    check(first.returncode == 0 and os.readlink(target + "/current") == os.readlink(published + "/current"),
          f"{name}: the first pull brings the current version", first.stderr)
    process, port = serve("--checkpoint", target, "--listen", "127.0.0.1:0", "--poll", "10ms")
    stop, pulls, answers, bad = threading.Event(), [], {}, []

    def keep_pulling():
        while not stop.is_set():
            pulls.append(pull(*options, source(), target))

    def keep_scoring():
        while not stop.is_set():
            try:
                answer = score(port)
                answers.setdefault(answer["version"], set()).add(answer["scores"][0])
            except Exception as error:      # any failure at all is one too many
                bad.append(repr(error))

    threads = [threading.Thread(target=keep_pulling), threading.Thread(target=keep_scoring)]
    for thread in threads:
        thread.start()
    versions = [publish(seed) for seed in range(10, 16)]
    stop.set()
    for thread in threads:
        thread.join()
    last = pull(*options, source(), target)
    known = {int(version) for version in os.listdir(published) if version.isdigit()} | set(map(int, versions))
    check(not bad and answers, f"{name}: no request fails while versions are pulled", bad[:3])
    check(all(len(scores) == 1 for scores in answers.values()), f"{name}: one version, one score", answers)
    check(set(answers) <= known | {int(first.stdout or 0)}, f"{name}: only published versions score", answers)
    wrong = [p.stderr for p in pulls if p.returncode not in (0, 1)]
    check(not wrong, f"{name}: nothing half comes through", wrong[:3])
    check(last.returncode == 0 and os.readlink(target + "/current") == versions[-1], f"{name}: the newest arrives", last.stderr)
    left = sorted(version for version in os.listdir(target) if version.isdigit())
    check(len(left) <= 4 and versions[-1] in left, f"{name}: older ones go", left)
    check(end(process) == 0, f"{name}: the scorer ends well")
    return target


try:
    os.makedirs(published)
    with open(config, "w") as file:
        file.write("features:\n  user: [{name: age, bucketize: [18, 25, 35]}]\n  item: [{name: item_id, table: item}]\n"
                   "  behavior: {table: item, max_length: 5}\nembedding: {dimension: 8}\nmodel:\n  ranking: {hidden: [8]}\n"
                   "  zero_shot: {attention: 8, encoder: [8, 8, 8], decoder: [8, 8]}\nbatch: {size: 64}\n")
    with open(events, "w") as file:
        for i in range(300):
            file.write(json.dumps({"event": "example", "impression_id": f"r{i}", "ts": 1700000000000 + i, "user_id": f"u{i % 9}",
                                   "user": {"age": 18 + i % 40}, "behaviors": ["i1"] if i % 3 else [], "item_id": f"i{i % 7}",
                                   "clicked": i % 7 == 2}) + "\n")
    publish(1)
    pulled_while_published("shared", lambda: published)

    # rsync needs a transport: one that runs the far side here, where ssh would run it on another machine.
    here = os.path.join(work, "here")
    with open(here, "w") as file:
        file.write('#!/bin/sh\nshift\nexec "$@"\n')
    os.chmod(here, 0o755)
    env["RSYNC_RSH"] = here
    pulled_while_published("rsync", lambda: "there:" + published)

    # An object store: data and manifest go up first, then the object `current`.
    def upload():
        version = os.readlink(published + "/current")
        os.makedirs(f"{store}/{version}", exist_ok=True)
        for name in "data.mdb", "manifest.json":
            shutil.copy(f"{published}/{version}/{name}", f"{store}/{version}/{name}.new")
            os.rename(f"{store}/{version}/{name}.new", f"{store}/{version}/{name}")
        with open(store + "/current.new", "w") as file:
            file.write(version + (" frozen" if os.path.exists(f"{published}/{version}/frozen") else "") + "\n")
        os.rename(store + "/current.new", store + "/current")
        return store

    target = pulled_while_published("store", upload, "--copy", "cp")

    rolled_back("shared-back", lambda: published)
    rolled_back("rsync-back", lambda: "there:" + published)
    rolled_back("store-back", upload, "--copy", "cp", marks=("frozen",))
    rolled_back_meanwhile("shared-meanwhile", lambda: published, slow_cp)
    rolled_back_meanwhile("store-meanwhile", upload, slow_store, "--copy", "cp")
    with open(store + "/current", "a") as file:
        file.write("thawed\n")
    done = pull("--copy", "cp", store, target)
    check(done.returncode == 1 and '"thawed"' in done.stderr, "a mark that nobody knows is not passed over", done)

    # What is damaged on its way is not used, and what was there before goes on.
    before = os.readlink(target + "/current")
    publish(20)
    upload()
    data = f"{store}/{os.readlink(published + '/current')}/data.mdb"
    with open(data, "r+b") as file:
        file.seek(os.path.getsize(data) // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    damaged = pull("--copy", "cp", store, target)
    check(damaged.returncode == 65 and os.readlink(target + "/current") == before, "a damaged copy is refused", damaged)
    check(not [name for name in os.listdir(target) if name.startswith(".fetch.") and name != ".fetch.lock"],
          "a refused one leaves nothing behind", os.listdir(target))

    # Socket activation: systemd's own launcher listens, and starts the scorer at the first connection.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = subprocess.Popen(["systemd-socket-activate", "-l", f"127.0.0.1:{port}", build + "/coldstream-serve", "--checkpoint",
                                 target], env=env, stderr=subprocess.PIPE, text=True)
    launcher.stderr.readline()
    answer = score(port)
    check(answer["version"] == int(before), "a socket of systemd's is answered on", answer)
    threading.Thread(target=launcher.stderr.read, daemon=True).start()
    check(end(launcher) == 0, "and left at the end")
    units = [f"{root}/systemd/coldstream-{unit}" for unit in ("serve.socket", "fetch.path", "fetch.timer")]
    for unit in units:
        check(os.path.exists(unit), "there is " + os.path.basename(unit))
finally:
    shutil.rmtree(work, ignore_errors=True)
sys.exit(1 if failures else 0)
