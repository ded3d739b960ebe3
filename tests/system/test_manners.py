#!/usr/bin/env python3
"""The programs at a terminal and in a pipe: help that fits a screen, suggestions, exit statuses, colors and progress on terminals
alone, results apart from messages, man pages without a warning, completion by bash and zsh themselves, doctor."""
import fcntl, json, os, pty, re, select, shutil, subprocess, sys, tempfile, struct, termios

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "kafka"))
import harness  # noqa: E402

BUILD = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BUILD", "build"))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CTL, DAEMON, SERVE, FETCH = f"{BUILD}/coldstreamctl", f"{BUILD}/coldstreamd", f"{BUILD}/coldstream-serve", f"{ROOT}/tools/coldstream-fetch"
WAIT = 60
PTS = os.path.join(tempfile.gettempdir(), f"coldstream-pts.{os.getpid()}")
CONFIG = """
features:
  user: [{name: a0}]
  item: [{name: item_id, table: item}]
  behavior: {table: item, max_length: 10}
embedding: {dimension: 4}
model: {ranking: {hidden: [8]}, zero_shot: {attention: 4, encoder: [8, 8, 8], decoder: [8, 8]}}
"""
ESCAPE = re.compile(rb"\x1b\[")
PLAIN = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}


def run(*words, **more):
    more.setdefault("env", {**PLAIN, "PATH": f"{BUILD}:{os.environ['PATH']}"})
    return subprocess.run(words, capture_output=True, text=True, timeout=WAIT, stdin=subprocess.DEVNULL, check=False, **more)


def open_terminal():
    """As pty.openpty. Where there is no /dev/pts, in a plain chroot, root has one of his own."""
    try:
        return pty.openpty()
    except OSError:
        if os.geteuid() != 0:
            raise
    if not os.path.ismount(PTS):
        os.makedirs(PTS)
        subprocess.run(["mount", "-t", "devpts", "-o", "ptmxmode=666", "devpts", PTS], check=True)
    master = os.open(f"{PTS}/ptmx", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))            # TIOCSPTLCK: unlocked
    return master, fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY)         # TIOCGPTPEER


def at_terminal(words, term="xterm", columns=80, stdout=True, env=None, **more):
    """What a program writes to a terminal, by its stderr and, unless it is elsewhere, its stdout."""
    master, slave = open_terminal()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=slave if stdout else subprocess.DEVNULL, stderr=slave,
                             env={**PLAIN, **({"TERM": term} if term is not None else {}), **(env or {})}, **more)
    os.close(slave)
    seen = b""
    while True:
        if not select.select([master], [], [], WAIT)[0]:
            child.kill()
            raise AssertionError(f"{words}: nothing came for {WAIT} s")
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(master)
    return seen, child.wait(WAIT)


def verbs():
    listed = run(CTL, "complete", "coldstreamctl", "").stdout
    found = [line.split("\t")[0] for line in listed.splitlines()]
    assert {"status", "train", "doctor", "check-config", "generate"} <= set(found) and len(found) > 20, found
    return [verb for verb in found if verb != "help"]


def help_fits_a_screen(_):
    texts = {"coldstreamctl": run(CTL, "--help"), "coldstreamd": run(DAEMON, "--help"), "coldstream-serve": run(SERVE, "-h"),
             "coldstream-fetch": run(FETCH, "--help"), "no verb": run(CTL, "help")}
    texts.update({verb: run(CTL, verb, "--help") for verb in verbs()})
    texts["help train"] = run(CTL, "help", "train")
    for name, done in texts.items():
        lines = done.stdout.splitlines()
        assert done.returncode == 0 and done.stderr == "", (name, done)
        assert "usage: " in done.stdout and "xamples:" in done.stdout, (name, done.stdout)
        assert len(lines) <= 24, (name, len(lines))
        assert max(map(len, lines)) <= 80, (name, [line for line in lines if len(line) > 80])
    assert all(verb in texts["coldstreamctl"].stdout for verb in verbs())
    assert texts["help train"].stdout == texts["train"].stdout
    # What a screen has no room for is a word away, and said to be.
    for words, option in (([CTL, "generate"], "--zipf"), ([SERVE], "--shadow-share")):
        short, whole = run(*words, "--help").stdout, run(*words, "--help-all").stdout
        assert "--help-all" in short and option not in short and option in whole, short
        assert max(map(len, whole.splitlines())) <= 80


def versions(_):
    for program in (CTL, DAEMON, SERVE):
        name = os.path.basename(program)
        short, whole = run(program, "-V").stdout, run(program, "--version").stdout
        assert re.fullmatch(rf"{name} \d+\.\d+\.\d+ \(commit \S+\)\n", short), short
        assert whole.startswith(short) and run(program, "-VV").stdout == whole == run(program, "-V", "-V").stdout
        for library in ("librdkafka 2.", "OpenBLAS core ", "LMDB ", "libyaml "):
            assert library in whole, whole
    assert run(FETCH, "-V").stdout.startswith("coldstream-fetch ")


def wrong_words_are_answered(_):
    cases = [
        ([CTL, "stauts"], 'no verb "stauts"; did you mean status?'),
        ([CTL, "chekc-config", "x"], "did you mean check-config?"),
        ([CTL, "frobnicate"], 'no verb "frobnicate"\n'),
        ([CTL, "complet"], 'no verb "complet"\n'),
        ([CTL, "--hlep"], "did you mean --help?"),
        ([CTL, "-q"], "options come behind a verb"),
        ([CTL, "train", "--evnts", "x"], 'no option "--evnts"; did you mean --events?'),
        ([CTL, "train", "--wat"], 'no option "--wat"\n'),
        ([CTL, "train", "-Z"], 'no option "-Z"\n'),
        ([CTL, "train", "--config"], "--config wants a value: FILE"),
        ([CTL, "train", "-c"], "--config wants a value: FILE"),
        ([CTL, "train", "-c", "a"], "--events FILE|- is needed"),
        ([CTL, "train", "-c", "a", "--config=b"], "--config is given twice"),
        ([CTL, "train", "--json=yes"], '--json takes no value, found "yes"'),
        ([CTL, "train", "--e", "x"], "--e could be --events or --export: write more of it"),
        ([CTL, "generate", "--events", "many"], "allowed is a whole number from"),
        ([CTL, "pause", "now"], 'takes no word besides its options, found "now"'),
        ([CTL, "pin"], "it takes VERSION"),
        ([CTL, "pin", "--", "-1", "2"], 'one word too many: "2"'),
        ([CTL, "manual", "coldstramd.8"], "did you mean coldstreamd.8?"),
        ([CTL, "manual", "--format", "pdf"], "allowed are markdown and man"),
        ([DAEMON, "--conifg", "x"], 'no option "--conifg"; did you mean --config?'),
        ([DAEMON, "--config"], "--config wants a value: FILE"),
        ([DAEMON, "x.yaml"], 'it takes no word besides its options, found "x.yaml"'),
        ([SERVE], "--checkpoint DIR is needed"),
        ([SERVE, "--checkpiont=x"], "did you mean --checkpoint?"),
        ([SERVE, "-C", "x", "--max", "1"], "--max could be --max-body or"),
        ([SERVE, "-C", "x", "--threads", "0"], "allowed is a whole number from 1 to 1024"),
        ([SERVE, "-C", "x", "--poll=1y"], "allowed is a duration from 10ms to 1h"),
        ([SERVE, "-C", "x", "--with", "18446744073709551617"], "allowed is a version: a whole number"),
        ([CTL, "generate", "--rate", " 5"], 'found " 5", allowed is a whole number from'),
        ([FETCH, "--coppy", "x"], "did you mean --copy?"),
        ([FETCH, "a"], "it takes FROM and TO"),
    ]
    for words, piece in cases:
        done = run(*words)
        assert done.returncode == 2 and done.stdout == "" and piece in done.stderr, (words, done)
        assert "Try '" in done.stderr or "allowed" in done.stderr or "mean" in done.stderr, (words, done.stderr)
    # An empty call says what there is, as an error; a long word does no harm.
    assert run(CTL).returncode == 2 and "usage:" in run(CTL).stderr and run(CTL).stdout == ""
    assert run(CTL, "x" * 100000).returncode == 2 and run(CTL, "train", "--" + "x" * 100000).returncode == 2
    assert run(CTL, "").returncode == 2 and run(CTL, "train", "").returncode == 2
    # Long names may be cut short, values follow by = or a blank, -- ends options.
    missing = f"{BUILD}/nowhere.yaml"
    for words in ([DAEMON, "-t", "--conf", missing], [DAEMON, "-t", f"--config={missing}"], [DAEMON, f"-tc{missing}"],
                  [DAEMON, "--check-config", "-c", missing], [CTL, "check-config", "--", missing]):
        done = run(*words)
        assert done.returncode == 78 and f"{missing}: can't be read" in done.stderr and done.stdout == "", (words, done)


def exit_statuses(folder):
    assert run(CTL, "check-config", "--train", f"{folder}/c.yaml").returncode == 0
    open(f"{folder}/bad.yaml", "w", encoding="utf-8").write("bacth: 1\n")
    assert run(CTL, "check-config", f"{folder}/bad.yaml").returncode == 78
    assert run(CTL, "verify", f"{folder}/nowhere").returncode in (1, 65)
    for brokers in ([], ["127.0.0.1:1"]):       # interfaces.md: --kafka alone; so it does not take --output for its value
        done = run(CTL, "generate", "-n", "1", "--kafka", *brokers, "--output", f"{folder}/none")
        assert done.returncode == 2 and "allowed is one of them" in done.stderr, done.stderr
    assert run(CTL, "status", "--control", f"{folder}/no.sock").returncode == 1
    os.mkdir(f"{folder}/broken")
    open(f"{folder}/broken/data.mdb", "wb").write(b"x" * 8192)
    done = run(CTL, "verify", f"{folder}/broken")
    assert done.returncode == 65 and done.stderr, done


def results_and_messages_apart(folder):
    done = run(CTL, "check-config", "--json", f"{folder}/bad.yaml")
    found = json.loads(done.stdout)
    assert done.returncode == 78 and done.stderr == "" and found["valid"] is False and found["problems"][0]["line"] == 1, done
    assert set(found["problems"][0]) == {"line", "column", "message"}
    found = json.loads(run(CTL, "check-config", "--train", "--json", f"{folder}/c.yaml").stdout)
    assert found == {"valid": True, "file": f"{folder}/c.yaml", "problems": []}
    events = run(CTL, "generate", "-p", "small", "-n", "3000", "-o", f"{folder}/e.jsonl")
    assert events.returncode == 0 and events.stdout == "", events
    done = run(CTL, "train", "-c", f"{folder}/c.yaml", "-e", f"{folder}/e.jsonl", "-k", f"{folder}/checkpoints", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["examples"] > 100, done
    for words in (["inspect", f"{folder}/checkpoints"], ["inspect", f"{folder}/checkpoints", "--table", "item"],
                  ["verify", f"{folder}/checkpoints"]):
        assert json.loads(run(CTL, *words, "--json").stdout), words
    row = json.loads(run(CTL, "inspect", f"{folder}/checkpoints", "--table", "item", "--key", "i1", "--json").stdout)
    again = run(CTL, "inspect", f"{folder}/checkpoints", "--table", "item", "--key", f"{int(row['key']):#x}", "--json")
    assert json.loads(again.stdout) == row, again
    for key in ("0x", "0xzz", "0x1g", "0x11223344556677889", "0x-1", "0x0x1"):
        done = run(CTL, "inspect", f"{folder}/checkpoints", "--table", "item", "--key", key)
        assert done.returncode == 2 and "1 to 16 hex digits" in done.stderr, (key, done)
    done = run(CTL, "score", "-k", f"{folder}/checkpoints", "-e", folder)
    assert done.returncode == 1 and f"cannot read {folder}: Is a directory" in done.stderr and done.stdout == "", done


def pipes_and_full_disks(folder):
    environment = {**PLAIN, "FILE": f"{folder}/e.jsonl"}
    for text in ("manual | head -n 1", "manual -f man | head -n 1", "sample | head -n 1", "--help | head -n 1",
                 "generate -n 200000 | head -n 1"):
        done = run("bash", "-o", "pipefail", "-c", f"{CTL} {text}", env=environment)
        assert done.stderr == "" and done.returncode in (0, 141) and len(done.stdout.splitlines()) == 1, (text, done)
        # Where the signal is ignored, as under systemd: quiet all the same, and no success.
        done = run("bash", "-o", "pipefail", "-c", f"trap '' PIPE; {CTL} {text}", env=environment)
        assert done.returncode in (0, 1) and (done.stderr == "" or text.startswith("generate")), (text, done)
    with open("/dev/full", "w", encoding="utf-8") as full:
        for words in ([CTL, "manual"], [CTL, "sample"], [CTL, "--help"], [CTL, "--version"], [DAEMON, "--help"], [SERVE, "--version"],
                      [CTL, "inspect", f"{folder}/checkpoints"], [CTL, "verify", f"{folder}/checkpoints", "--json"],
                      [CTL, "check-config", "--json", "--train", f"{folder}/c.yaml"]):
            done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=WAIT, check=False)
            assert done.returncode == 1 and re.search("No space left|disk full", done.stderr), (words, done)


def colors_on_terminals_alone(folder):
    assert ESCAPE.search(at_terminal([CTL, "--help"])[0])
    for term, environment in (("dumb", {}), (None, {}), ("xterm", {"NO_COLOR": "1"})):
        for words in ([CTL, "--help"], [CTL, "train", "--help"], [DAEMON, "--help"]):
            assert not ESCAPE.search(at_terminal(words, term=term, env=environment)[0]), (words, term)
    assert ESCAPE.search(at_terminal([CTL, "--help"], env={"NO_COLOR": ""})[0])     # empty is as if not set: no-color.org
    assert "\x1b" not in run(CTL, "--help", env={**PLAIN, "TERM": "xterm"}).stdout
    doctor = [CTL, "doctor", "-c", f"{folder}/d.yaml"]
    assert ESCAPE.search(at_terminal(doctor)[0]) and not ESCAPE.search(at_terminal(doctor, env={"NO_COLOR": "1"})[0])


def progress_on_terminals_alone(folder):
    """A rate holds the generator up for long enough that there is a line to see; it is counted, not timed."""
    words = [CTL, "generate", "-p", "small", "-n", "1500", "--rate", "1000", "-o", f"{folder}/p.jsonl"]
    seen, code = at_terminal(words, columns=200)
    assert code == 0 and re.search(rb"\r\x1b\[K\d+ events, \d+/s, \d+ %, \d+ s left", seen), seen
    assert seen.rstrip(b"\r\n").count(b"\n") <= 1, seen         # one line, written over
    narrow, code = at_terminal(words, columns=20)
    lines = re.findall(rb"\r\x1b\[K(\d+ events,[^\r]*)", narrow)
    assert lines and all(len(line) <= 19 for line in lines), lines
    for more in ({"term": "dumb"}, {"term": None}):
        seen, code = at_terminal(words, **more)
        assert code == 0 and b" left" not in seen and not ESCAPE.search(seen), seen
    seen, code = at_terminal(words + ["--quiet"])
    assert code == 0 and seen == b"", seen
    done = run(*words)
    assert done.returncode == 0 and " left" not in done.stderr and "\x1b" not in done.stderr, done


VERBS = [   # words, what is counted, the last stretch that is told of
    (["import", "-c", "c.yaml", "--to", "snapshot", "m.safetensors"], "bytes|kB|rows", "writing"),
    (["verify", "snapshot"], "bytes|kB", "numbers"), (["verify", "checkpoints"], "bytes|kB", "numbers"),
    (["inspect", "snapshot"], "bytes|kB", "reading"), (["inspect", "checkpoints"], "bytes|kB", "reading"),
    (["inspect", "checkpoints", "--table", "item"], "bytes|kB", "reading"),
    (["export", "--from", "snapshot", "o.safetensors"], "bytes|kB", "reading twice, writing"),
    (["export", "--from", "checkpoints", "o.npz"], "bytes|kB", "reading twice, writing"),
    (["backup", "snapshot", "backup"], "bytes|kB", "copying, reading back"),
    (["restore", "backup", "restored"], "bytes|kB", "copying, reading back"),
    (["migrate", "-c", "more.yaml", "--from", "snapshot", "--to", "migrated"], "bytes|kB", "writing"),
]


def fresh(folder, *words):
    """What the verb makes is not there yet."""
    for name in {"import": ["snapshot"], "backup": ["backup"], "restore": ["restored"], "migrate": ["migrated"]}.get(words[0], []):
        shutil.rmtree(f"{folder}/{name}", ignore_errors=True)


def files_have_progress_too(folder):
    """The first line comes with the first bytes, however fast the rest goes."""
    os.mkdir(f"{folder}/files")
    for name in ("c.yaml", "bad.yaml", "e.jsonl", "checkpoints", "broken"):
        os.symlink(f"../{name}", f"{folder}/files/{name}")
    folder += "/files"
    made = run(CTL, "train", "-c", "c.yaml", "-e", "e.jsonl", "-o", "m.safetensors", cwd=folder)
    assert made.returncode == 0, made
    open(f"{folder}/more.yaml", "w", encoding="utf-8").write(CONFIG.replace("{name: a0}", "{name: a0}, {name: a1}"))
    for words, unit, what in VERBS:
        fresh(folder, *words)
        seen, code = at_terminal([CTL, *words], stdout=False, cwd=folder)
        lines = re.findall(rb"\r\x1b\[K([^\r]*)", seen)
        assert code == 0, (words, seen)
        told = [line for line in lines if re.fullmatch(rf"[\d.]+ ({unit}|MB)(, [\d.]+ ?\w*/s)?(, \d+ %)?(, \d+ s left)?  {what}".encode(), line)]
        assert told, (words, lines)
        shares = [line for line in lines if b" %" in line]
        assert shares or words[0] == "migrate", (words, lines)
        # It is gone before anything else is said, and at the end.
        assert seen.rindex(b"\r\x1b[K") > seen.rindex(what.encode()), (words, seen)
        assert b"\n" not in seen[:seen.rindex(what.encode())] or words[0] == "migrate", (words, seen)
        for more, environment in ((["--quiet"], {}), (["--json"], {}), ([], {"term": "dumb"})):
            fresh(folder, *words)
            seen, code = at_terminal([CTL, *words, *more], stdout=False, cwd=folder, **environment)
            assert code == 0 and b"\x1b" not in seen and what.encode() + b"\r" not in seen and b" %" not in seen, (words, more, seen)
        fresh(folder, *words)
        done = run(CTL, *words, cwd=folder)
        assert done.returncode == 0 and "\r" not in done.stderr and "\x1b" not in done.stderr, (words, done)
    # Where it fails the line is gone too.
    open(f"{folder}/broken.safetensors", "wb").write(open(f"{folder}/m.safetensors", "rb").read().replace(b"ranking.", b"rankink.", 1))
    seen, code = at_terminal([CTL, "import", "-c", "c.yaml", "--to", "nowhere", "broken.safetensors"], cwd=folder)
    assert code == 65 and re.search(rb"(^|\x1b\[K)coldstreamctl import: broken.safetensors: ", seen), seen


def answers_for_programs(folder):
    """--json of the verbs that work on files: one object, alone on standard output; these members, and each time the same."""
    folder += "/files"

    def answer(*words, code=0):
        if code == 0:
            fresh(folder, *words)
        done = run(CTL, *words, "--json", cwd=folder)
        assert done.returncode == code and (code or done.stderr == "" or words[0] == "migrate"), (words, done)
        return json.loads(done.stdout) if not code else done

    found = answer("import", "-c", "c.yaml", "--to", "snapshot", "m.safetensors")
    assert found.keys() == {"directory", "steps", "tables", "rows"} and found["directory"] == "snapshot", found
    assert found["steps"] > 0 and found["tables"] == 2 and found["rows"] == 100, found
    whole = answer("verify", "snapshot")
    kept = answer("backup", "snapshot", "backup")
    assert kept.keys() == {"directory", "from", "steps", "records", "bytes", "seconds"}, kept
    assert (kept["directory"], kept["from"], kept["steps"]) == ("backup", "snapshot", found["steps"]), kept
    assert 100 < kept["records"] <= whole["records"] and kept["bytes"] > 0 and kept["seconds"] > 0, (kept, whole)
    back = answer("restore", "backup", "restored")
    assert back.keys() == kept.keys() | {"aside"} and back["aside"] is None and back["records"] == kept["records"], back
    again = json.loads(run(CTL, "restore", "--force", "backup", "restored", "--json", cwd=folder).stdout)
    assert again["aside"].startswith("restored.") and os.path.isdir(f"{folder}/{again['aside']}"), again
    moved = answer("migrate", "-c", "more.yaml", "--from", "snapshot", "--to", "migrated")
    assert moved.keys() == {"directory", "steps", "rows", "waiting", "differences", "left_behind"}, moved
    assert moved["rows"] == 100 and moved["steps"] == found["steps"] and moved["left_behind"] == [], moved
    assert moved["differences"] == ["features.user: a1 here, not there"], moved
    for name, kind in (("o.safetensors", "safetensors"), ("o.npz", "npz")):
        out = answer("export", "--from", "snapshot", name)
        assert out.keys() == {"file", "format", "tensors", "tables", "rows", "bytes"} and (out["file"], out["format"]) == (name, kind), out
        assert out["bytes"] == os.path.getsize(f"{folder}/{name}") and out["rows"] == 100 and out["tensors"] == whole["tensors"], out
    # What fails has no answer: the exit status and standard error say it.
    for words, code in ((["backup", "nowhere", "backup"], 1), (["restore", "broken", "elsewhere"], 65), (["export", "--from", "broken", "o.npz"], 65),
                        (["import", "-c", "bad.yaml", "--to", "elsewhere", "m.safetensors"], 78),
                        (["migrate", "-c", "c.yaml", "--from", "broken", "--to", "elsewhere"], 65)):
        done = answer(*words, code=code)
        assert done.stdout == "" and done.stderr, (words, done)
    # A name that is no UTF-8 does not spoil the answer.
    odd = subprocess.run([CTL, "export", "--from", "snapshot", "--format", "npz", "--json", b"o\xff.npz"], cwd=folder, capture_output=True, timeout=WAIT,
                         check=True)
    assert json.loads(odd.stdout)["file"] == "o\ufffd.npz", odd
    verbs_with = {verb for verb in verbs() if "--json" in run(CTL, verb, "--help-all").stdout}
    listed = open(f"{ROOT}/docs/commands.md", encoding="utf-8").read().split("--json`\n", 1)[1].split("\n## ", 1)[0]
    assert verbs_with == set(re.findall(r"`([a-z-]+)`", "".join(re.findall(r"(?m)^\| (`[^|]*) \|", listed)))) - {"score"}, (verbs_with, listed)


def doctor_looks(folder):
    done = run(CTL, "doctor", "-c", f"{folder}/d.yaml", "--json")
    found = json.loads(done.stdout)
    rows = {row["check"]: row for row in found["checks"]}
    assert done.returncode == 1 and found["fit"] is False and found["failed"] == 2 and done.stderr == "", done
    assert rows["snapshot.directory"]["result"] == "ok" and rows["configuration"]["result"] == "ok", rows
    assert rows["checkpoint.directory"]["result"] == "failed" and "install -d" in rows["checkpoint.directory"]["remedy"], rows
    assert rows["brokers"]["result"] == "failed" and "bootstrap.servers" in rows["brokers"]["remedy"], rows
    assert {"processor", "memory", "open files", "clock", "control.socket", "user"} <= set(rows)
    assert all((row["result"] == "ok") == (row["remedy"] == "") and row["found"] for row in found["checks"]), rows
    with open(f"{folder}/nowhere", "x", encoding="utf-8"):      # where it looks for a directory
        rows = {row["check"]: row for row in json.loads(run(CTL, "doctor", "-c", f"{folder}/d.yaml", "--json").stdout)["checks"]}
        assert rows["checkpoint.directory"]["found"].endswith("/nowhere: Not a directory"), rows
    os.remove(f"{folder}/nowhere")
    done = run(CTL, "doctor", "-c", f"{folder}/d.yaml")
    assert done.returncode == 1 and re.search(r"(?m)^failed  checkpoint.directory .*\n(.*\n)*? +-> sudo install", done.stdout), done
    assert max(map(len, done.stdout.splitlines())) <= 80 or folder in done.stdout
    assert run(CTL, "doctor", "-c", f"{folder}/bad.yaml").returncode == 78


def man_pages(folder):
    if not shutil.which("man") or not shutil.which("groff"):
        return "no man or groff here"
    if not os.path.isdir(f"{BUILD}/man"):       # `make test` has made them
        made = run("make", "--no-print-directory", f"BUILD={os.path.relpath(BUILD, ROOT)}", "man", cwd=ROOT)
        assert made.returncode == 0, made
    pages = sorted(os.listdir(f"{BUILD}/man"))
    assert pages == sorted(["coldstreamctl.1", "coldstream-fetch.1", "libcoldstream.3", "coldstream.yaml.5", "coldstream-checkpoint.5",
                            "coldstream-snapshot.5", "coldstreamd.8", "coldstream-serve.8"]), pages
    text = {}
    for page in pages:
        check = run("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", f"{BUILD}/man/{page}",
                    env={**PLAIN, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"})
        assert check.returncode == 0 and check.stderr == "", (page, check.stderr)
        shown = run("groff", "-Kutf8", "-Tutf8", "-P-cbou", "-man", "-rLL=120n", f"{BUILD}/man/{page}")
        text[page] = shown.stdout.replace("\u2010", "-").replace("\u2212", "-")
        assert "@VERSION@" not in text[page] and re.search(r"(?m)^NAME\n +\S+ - ", text[page]), page
    # Nothing is left out: verbs, options, settings, functions.
    for verb in verbs():
        assert re.search(rf"(?m)^   {verb}$", text["coldstreamctl.1"]), verb
    for page, program in (("coldstreamd.8", DAEMON), ("coldstream-serve.8", SERVE)):
        for option in re.findall(r"--[a-z-]+", run(program, "--help-all").stdout):
            assert option in text[page], (page, option)
    for key in re.findall(r"### `([^`]+)`", run(CTL, "manual").stdout):
        assert re.search(rf"(?m)^ +{re.escape(key)}$", text["coldstream.yaml.5"]), key
    header = open(f"{ROOT}/daemon/coldstream.h", encoding="utf-8").read()
    for function in re.findall(r"COLDSTREAM_API[^;(]*?(coldstream_\w+)\(", header):
        assert function + "(" in text["libcoldstream.3"], function
    return None


def completed(folder, *words):
    """What bash offers behind these words, by its own completion."""
    script = f"""
        source {ROOT}/tools/completion/bash/{os.path.basename(words[0])}
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        function=$(complete -p "$1"); function=${{function#*-F }}; function=${{function%% *}}
        "$function" "$1" "${{@: -1}}" "${{@: -2:1}}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = run("bash", "--norc", "-c", script, "bash", *words, cwd=folder)
    assert done.returncode == 0 and done.stderr == "", (words, done)
    return [line for line in done.stdout.splitlines() if line]


def bash_completes(folder):
    assert "status" in completed(folder, "coldstreamctl", "") and "complete" not in completed(folder, "coldstreamctl", "")
    assert completed(folder, "coldstreamctl", "che") == ["check-config"]
    assert set(completed(folder, "coldstreamctl", "train", "--e")) == {"--events", "--export"}
    assert "c.yaml" in completed(folder, "coldstreamctl", "train", "--config", "")
    assert completed(folder, "coldstreamctl", "train", "--config", "c.") == ["c.yaml"]
    assert completed(folder, "coldstreamctl", "train", "--config", "=", "c.") == ["c.yaml"]
    assert completed(folder, "coldstreamctl", "check-config", "c.y") == ["c.yaml"]
    assert completed(folder, "coldstreamctl", "log-level", "d") == ["debug"]
    assert completed(folder, "coldstreamctl", "export", "--format", "") == ["safetensors", "npz"]
    assert completed(folder, "coldstreamctl", "manual", "coldstreamd") == ["coldstreamd.8"]
    assert completed(folder, "coldstreamctl", "help", "tra") == ["train"]
    assert completed(folder, "coldstreamctl", "nonsense", "x") == []
    assert completed(folder, "coldstreamd", "--ch") == ["--check-config"]
    assert completed(folder, "coldstreamd", "-c", "c.") == ["c.yaml"]
    assert completed(folder, "coldstream-serve", "--shadow-") == ["--shadow-share"]


class Zsh:
    """An interactive zsh of its own at a terminal, without anybody's settings; where tools/completion/zsh is among what compinit finds."""

    def __init__(self, folder):
        self.master, slave = open_terminal()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.child = subprocess.Popen(["zsh", "-f", "-i"], stdin=slave, stdout=slave, stderr=slave, cwd=folder, start_new_session=True,
                                      preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
                                      env={"PATH": f"{BUILD}:{os.environ['PATH']}", "HOME": folder, "TERM": "dumb", "LC_ALL": "C.UTF-8"})
        os.close(slave)
        self.seen = b""
        # ^X ends a line: it is shown between marks, and not run.
        self.say(f"unsetopt promptcr promptsp beep; PROMPT= RPROMPT=; fpath=({ROOT}/tools/completion/zsh $fpath); autoload -Uz compinit && compinit -u -D; "
                 "show() { print -r -- \"<<$BUFFER>>\"; BUFFER= }; zle -N show; bindkey '^X' show; print -r READ''Y\n", b"READY\r\n")

    def say(self, text, until):
        os.write(self.master, text.encode())
        while until not in self.seen:
            if not select.select([self.master], [], [], WAIT)[0]:
                raise AssertionError(f"{text!r}: nothing more came for {WAIT} s: {self.seen!r}")
            self.seen += os.read(self.master, 65536)
        seen, self.seen = self.seen.split(until, 1)
        return seen.decode()

    def completed(self, line):
        """The line after a tab, and what was offered where there was a choice."""
        seen = self.say(line + "\t\x18", b">>")
        before, after = seen.rsplit("<<", 1)
        # A line each where something is said about them, else beside each other; the line itself is drawn above and below.
        offers = [shown for shown in re.split(r"[\r\n]+", before) if shown.strip() not in ("", line.strip(), after.strip())]
        return after.rstrip(), [word for offer in offers for word in (offer.split()[:1] if "  -- " in offer else offer.split())]

    def close(self):
        self.child.kill()
        self.child.wait()
        os.close(self.master)


def zsh_completes(folder):
    if not shutil.which("zsh"):
        return "no zsh here"
    zsh = Zsh(folder)
    try:
        for line, whole in (("coldstreamctl che", "coldstreamctl check-config"), ("coldstreamctl check-config c.y", "coldstreamctl check-config c.yaml"),
                            ("coldstreamctl log-level d", "coldstreamctl log-level debug"), ("coldstreamctl help tra", "coldstreamctl help train"),
                            ("coldstreamctl train --config=c.", "coldstreamctl train --config=c.yaml"),
                            ("coldstreamctl export --format=n", "coldstreamctl export --format=npz"),
                            ("coldstreamctl manual coldstreamd", "coldstreamctl manual coldstreamd.8"),
                            (f"{CTL} che", f"{CTL} check-config"), ("coldstreamd --ch", "coldstreamd --check-config"),
                            ("coldstreamd -c c.", "coldstreamd -c c.yaml"), ("coldstream-serve --shadow-", "coldstream-serve --shadow-share")):
            after, _ = zsh.completed(line)
            assert after == whole, (line, after)
        for line, offers in (("coldstreamctl train --e", {"--events", "--export"}), ("coldstreamctl export --format ", {"npz", "safetensors"}),
                             ("coldstreamctl ", {*verbs(), "help"})):
            after, found = zsh.completed(line)
            assert set(found) == offers and after == line.rstrip(), (line, found)
        assert zsh.completed("coldstreamctl nonsense x") == ("coldstreamctl nonsense x", [])
    finally:
        zsh.close()
    return None


def main():
    tests = [help_fits_a_screen, versions, wrong_words_are_answered, exit_statuses, results_and_messages_apart, pipes_and_full_disks,
             colors_on_terminals_alone, progress_on_terminals_alone, files_have_progress_too, answers_for_programs, doctor_looks, man_pages, bash_completes, zsh_completes]
    folder = tempfile.mkdtemp(prefix="coldstream-manners-")

    def one(test):
        skipped = test(folder)
        if skipped:
            raise harness.Skip(skipped)

    open(f"{folder}/c.yaml", "w", encoding="utf-8").write(CONFIG)
    os.mkdir(f"{folder}/snapshot", 0o700)
    with open(f"{folder}/d.yaml", "w", encoding="utf-8") as file:
        file.write(CONFIG + "source: {kafka: {properties: {bootstrap.servers: 127.0.0.1:1}}}\n"
                   f"snapshot: {{directory: {folder}/snapshot}}\ncheckpoint: {{directory: {folder}/nowhere}}\n"
                   f"control: {{socket: {folder}/control.sock}}\n")
    for name in os.listdir(folder):
        if name.endswith(".yaml"):
            os.chmod(f"{folder}/{name}", 0o600)
    os.umask(0o022)
    try:
        return harness.judge_all(tests, one)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if os.path.ismount(PTS):
            subprocess.run(["umount", PTS], check=True)
            os.rmdir(PTS)


if __name__ == "__main__":
    sys.exit(main())
