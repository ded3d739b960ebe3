#!/usr/bin/env python3
"""Every example of every help text and man page is run, as it stands there, on files of its own: what needs a running daemon or a
broker is at least taken by the program for what it is, and the few that can't be tried here are named.
usage: test_examples.py BUILD"""
import glob, os, re, shutil, subprocess, sys, tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "kafka"))
import harness  # noqa: E402

BUILD = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BUILD", "build"))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WAIT = 120
ENVIRONMENT = {**os.environ, "PATH": f"{BUILD}:{ROOT}/tools:{os.environ['PATH']}", "TERM": "dumb"}
CONFIG = """
source: {kafka: {properties: {bootstrap.servers: 127.0.0.1:1}}}
features:
  user: [{name: a0}]
  item: [{name: item_id, table: item}]
  behavior: {table: item, max_length: 10}
embedding: {dimension: 4}
model: {ranking: {hidden: [8]}, zero_shot: {attention: 4, encoder: [8, 8, 8], decoder: [8, 8]}}
snapshot: {directory: %s/var/lib/coldstream/snapshot}
checkpoint: {directory: %s/var/lib/coldstream/checkpoints}
"""
# Not tried here, with what tries it.
ELSEWHERE = {
    r"coldstreamd -c ": "tests/system/test_operator.py", r"coldstream-serve ": "tests/kafka, tests/library", r"curl ": "coldstream-serve's",
    r"coldstreamctl generate .*-b ": "tests/kafka", r"coldstreamctl offsets ": "tests/kafka/test_faults.py",
    r"coldstream-fetch ": "tests/system, tests/kafka: another machine, or a cloud",
}
# What has to be so for an example to make sense, in a shell.
BEFORE = {"coldstreamctl import ": "rm -r snapshot"}
scene = {}


def run(command, folder):
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=WAIT,
                          stdin=subprocess.DEVNULL, check=False)


def must(command, folder):
    done = run(command, folder)
    assert done.returncode == 0, (command, done)
    return done.stdout


def is_command(line):
    return re.match(r"(sudo |coldstream(d|ctl|-serve|-fetch) |curl )", line)


def of_help(text):
    """The lines under Examples:, without what is said about them."""
    lines = text.split("xamples:", 1)[1].splitlines() if "xamples:" in text else []
    return [re.split(r" {3,}", line.strip())[0] for line in lines if is_command(line.strip())]


def of_page(text):
    """The blocks of a page that are shown as they are and hold commands, each a list."""
    blocks = re.findall(r"(?ms)^\.nf\n\.RS\n(.*?)^\.RE\n\.fi", text)
    plain = [block.replace(r"\-", "-").replace(r"\e", "\\").replace(r"\&", "").replace(r"\(aq", "'").replace(r"\(ha", "^") for block in blocks]
    commands = [[re.split(r" {3,}", line)[0] for line in block.splitlines() if is_command(line)] for block in plain]
    return [block for block in commands if block]


def running_verbs():
    text = must("coldstreamctl --help", ROOT)
    listed = text.split("Ask a running daemon:")[1].split("Work on files:")[0]
    found = re.findall(r"(?:^  |  +)([a-z-]+)  +", listed, re.M)
    assert {"status", "rollback", "log-level", "reload"} <= set(found) and "backup" not in found, found
    return found


def as_here(command, folder):
    """The same command on this test's files and with what every machine has."""
    for top in ("var/lib/coldstream", "etc/coldstream", "backup"):
        command = re.sub(rf"(?<![\w/])/{top}\b", f"{folder}/{top}", command)
    command = command.replace("sudo -u coldstream ", "").replace("| less", "| cat")
    command = re.sub(r"\| jq .*$", f"| {sys.executable} -m json.tool", command)
    if command == "coldstreamctl doctor":       # its configuration is the installed one
        command += f" -c {folder}/etc/coldstream/coldstream.yaml"
    if "--instance" not in command:
        command = re.sub(rf"coldstreamctl ({'|'.join(scene['verbs'])})(?![\w-])", rf"coldstreamctl \1 --control {folder}/no.sock", command)
    return command


def try_block(block, where):
    if tuple(block) in scene["blocks"]:         # a page and a help text are of the same table
        return
    scene["blocks"].add(tuple(block))
    folder = tempfile.mkdtemp(prefix="tried-", dir=scene["folder"])
    shutil.copytree(scene["plant"], folder, symlinks=True, dirs_exist_ok=True)
    for name in glob.glob(f"{folder}/**/*.yaml", recursive=True):
        with open(name, "w", encoding="utf-8") as file:
            file.write(CONFIG % (folder, folder))
    for command in block:
        other = [pattern for pattern in ELSEWHERE if re.match(pattern, command)]
        if other:
            scene["elsewhere"].update(other)
            continue
        for pattern, first in BEFORE.items():
            if command.startswith(pattern):
                must(first, folder)
        done = run(as_here(command, folder), folder)
        said = (where, command, as_here(command, folder), done)
        if re.match(rf"coldstreamctl ({'|'.join(scene['verbs'])})\b", command) and command.split()[1] in scene["verbs"]:
            assert done.returncode == 1 and re.search("no daemon answers on|no instance second runs", done.stderr), said
        elif "doctor" in command:
            assert done.returncode == 1 and re.search("failed +brokers", done.stdout + done.stderr) or '"brokers"' in done.stdout, said     # there are none
        else:
            assert done.returncode == 0, said
        scene["tried"] += 1
    shutil.rmtree(folder)


def help_texts():
    verbs = [line.split("\t")[0] for line in must("coldstreamctl complete coldstreamctl ''", ROOT).splitlines()]
    assert len(verbs) > 20
    for words in ["coldstreamctl --help", "coldstreamd --help", "coldstream-serve --help", "coldstream-fetch --help",
                  *[f"coldstreamctl {verb} --help" for verb in verbs if verb != "help"]]:
        block = of_help(must(words, ROOT))
        assert block, f"{words}: no example"
        try_block(block, words)
    assert scene["tried"] > 35, scene["tried"]


def man_pages():
    pages = {os.path.basename(path): open(path, encoding="utf-8").read() for path in glob.glob(f"{ROOT}/tools/man/*.[1-8]")}
    for page in ("coldstreamctl.1", "coldstreamd.8", "coldstream-serve.8"):
        pages[page] = must(f"coldstreamctl manual {page}", ROOT)
    assert len(pages) == 7, list(pages)
    for page, text in pages.items():
        assert page == "libcoldstream.3" or of_page(text), f"{page}: no example"
        for block in of_page(text):
            try_block(block, page)


def configuration_of_its_page():
    text = must("coldstreamctl manual coldstream.yaml.5", ROOT).replace(r"\-", "-")
    example = re.search(r"(?ms)^\.SH EXAMPLES\n\.nf\n(.*?)^\.fi", text).group(1).replace(r"\&", "")
    with open(f"{scene['folder']}/example.yaml", "w", encoding="utf-8") as file:
        file.write(example)
    must("coldstreamctl check-config example.yaml", scene["folder"])


def program_of_the_librarys_page():
    with open(f"{ROOT}/tools/man/libcoldstream.3", encoding="utf-8") as file:
        text = file.read()
    body = re.findall(r"(?ms)^\.nf\n\.RS\n(.*?)^\.RE\n\.fi", text.replace(r"\-", "-"))
    assert len(body) == 1, body
    with open(f"{scene['folder']}/example.c", "w", encoding="utf-8") as file:
        file.write("#include <coldstream.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
                   f"int main(int n, char **word)\n{{\nconst char *text = word[n - 1];\n{body[0]}return 0;\n}}\n")
    must(f"cc -std=c11 -Wall -Wextra -Werror -fsyntax-only -I{ROOT}/daemon example.c", scene["folder"])


def what_is_tried_elsewhere_is_still_there():
    assert scene["elsewhere"] == set(ELSEWHERE), scene["elsewhere"] ^ set(ELSEWHERE)


def prepare(folder):
    scene.update(folder=folder, plant=f"{folder}/plant", elsewhere=set(), blocks=set(), tried=0, verbs=running_verbs())
    plant = scene["plant"]
    for name in ("etc/coldstream", "var/lib/coldstream", "backup"):
        os.makedirs(f"{plant}/{name}")
    for name in ("new.yaml", "model.yaml", "coldstream.yaml", "etc/coldstream/coldstream.yaml"):
        with open(f"{plant}/{name}", "w", encoding="utf-8") as file:
            file.write(CONFIG % (plant, plant))
    must("coldstreamctl generate -q -p small -n 5000 -o day.jsonl && grep '\"event\":\"impression\"' day.jsonl >impressions.jsonl", plant)
    must("coldstreamctl train -q -c model.yaml -e day.jsonl -k var/lib/coldstream/checkpoints -o model.safetensors", plant)
    must("coldstreamctl import -q -c model.yaml --to snapshot model.safetensors && cp -a snapshot var/lib/coldstream/snapshot && "
         "coldstreamctl backup -q snapshot backup/2026-01-31", plant)


def main():
    os.umask(0o022)
    folder = tempfile.mkdtemp(prefix="coldstream-examples-")
    tests = [help_texts, man_pages, configuration_of_its_page, program_of_the_librarys_page, what_is_tried_elsewhere_is_still_there]
    try:
        prepare(folder)
        return harness.judge_all(tests)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
