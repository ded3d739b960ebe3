#!/usr/bin/env python3
"""What the documentation names is there: verbs and options, units, settings, files, make targets, links, exit statuses, the members of
a status. Metrics: test_prometheus.py; the whole of operations.md's commands: `make walkthrough`. usage: test_docs.py BUILD"""
import functools
import glob
import json
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "crash"))
import plant as fixture                                                 # noqa: E402
from harness import BUILD, judge_all, run                               # noqa: E402

PROGRAMS = {"coldstreamd": "coldstreamd", "coldstreamctl": "coldstreamctl", "coldstream-serve": "coldstream-serve"}
SECTIONS = "source|events|join|history|features|embedding|model|optimizer|batch|evaluation|snapshot|checkpoint|control|http|logging|compute"


@functools.lru_cache(None)
def pages():
    """(name, text) of all that is written for people."""
    names = [f"{ROOT}/{name}" for name in ("README.md", "ARCHITECTURE.md")] + sorted(glob.glob(f"{ROOT}/docs/**/*.md", recursive=True))
    return [(os.path.relpath(name, ROOT), open(name).read()) for name in names]


def commands():
    """(page, words of a command) of what is typed: indented blocks and `code`; comments are left out."""
    for name, text in pages():
        blocks = [line.strip() for line in text.split("\n") if line.startswith("    ")]
        for line in blocks + re.findall(r"`([^`\n]+)`", text):
            for part in re.split(r"\s#\s|(?<!\$\()&&|\|\||;|\s\||(?<=\s)or:", line):
                yield name, part.strip().replace("sudo -u coldstream ", "").replace("sudo ", "")


@functools.lru_cache(None)
def help_of(*command):
    done = run(os.path.join(BUILD, command[0]), *command[1:], "--help-all", check=False)
    return (done.stdout + done.stderr).decode() if done.returncode == 0 else ""


def verbs_and_options_are_there():
    """each coldstreamctl VERB, and each --option of the three programs"""
    wrong, seen = [], 0
    for page, command in commands():
        found = re.match(r"(coldstreamd|coldstreamctl|coldstream-serve)\b(?!\.)(.*)", command)
        if not found:
            continue
        program, rest = found.groups()
        said = help_of(program)
        if program == "coldstreamctl" and (verb := re.match(r" ([a-z][a-z-]+)\b", rest)):
            said = help_of(program, verb.group(1)) if verb.group(1) != "complete" else "complete"
            seen += 1
            if not said:
                wrong.append(f"{page}: {command}")
        for option in re.findall(r"(?<= )(--[a-z][a-z-]+)", rest):
            seen += 1
            if not re.search(rf"{option}\b", said) and option not in ("--help", "--help-all", "--json", "--control", "--quiet", "--version"):
                wrong.append(f"{page}: {command}: no {option}")
    assert seen > 60 and not wrong, (seen, wrong)


def units_are_there():
    """each unit of ours that systemctl or journalctl is given"""
    there = {re.sub(r"(\.service)?(\.in)?$", "", os.path.basename(path)) for path in glob.glob(f"{ROOT}/systemd/coldstream*")}
    there |= {name + "@" for name in ("coldstream", "coldstream-serve")}
    wrong, seen = [], 0
    for page, command in commands():
        if re.match(r"(systemctl|journalctl)\b", command):
            for unit in re.findall(r"(?<= )(coldstream[a-z-]*@?)(?:NAME)?(\.\w+)?(?=\s|$)", command):
                seen += 1
                if not {"".join(unit), unit[0]} & there:
                    wrong.append(f"{page}: {command}")
    assert seen > 20 and not wrong, (seen, wrong)


def settings_are_there():
    """each `section.key` of the configuration, and whether a reload changes it"""
    manual = run(os.path.join(BUILD, "coldstreamctl"), "manual").stdout.decode()
    there = re.findall(r"(?m)^### `(.+)`$", manual)
    there = [re.sub(r"<\w+>", r"\\w+", key.replace("[]", "").replace(".", r"\.")) for key in there]
    whole = {r"\.".join(key.split(r"\.")[:n]) for key in there for n in range(1, key.count(".") + 2)}
    wrong, seen = [], 0
    for page, text in pages():
        for key in re.findall(rf"`((?:{SECTIONS})\.[a-z_.]+)`", text):
            if page == "docs/formats.md" or key.rsplit(".", 1)[1] in ("c", "h", "md", "yaml"):      # what lies in files has names too
                continue
            seen += 1
            if not any(re.fullmatch(entry, key) for entry in whole):
                wrong.append(f"{page}: {key}")
    assert seen > 50 and not wrong, (seen, wrong)
    changed_by = {}
    for entry in re.split(r"(?m)^### ", manual)[1:]:
        found = re.search(r"(?m)^- changed by a (reload|restart)", entry)
        changed_by[entry.split("`")[1]] = found and found.group(1)
    remedies = ("the remedies", open(f"{ROOT}/daemon/log_remedy.c", encoding="utf-8").read())
    told = [(page, *claim) for page, text in [*pages(), remedies] for claim in re.findall(rf"((?:{SECTIONS})\.[a-z_.]+)`? \((reload|restart)\b", text)]
    wrong = [claim for claim in told if changed_by[claim[1]] != claim[2]]
    assert len(told) >= 6 and not wrong, (told, wrong)


def files_are_there():
    """each path into the tree"""
    wrong, seen = [], 0
    for page, text in pages():
        for path in re.findall(r"(?<![\w/.~<:|-])((?:docs|tests|tools|systemd|daemon|storage|config|core)/[\w./*-]*\w\*?)", text):
            path, seen = re.sub("NAME|TARGET", "*", path), seen + 1
            if not any(glob.glob(f"{ROOT}/{path}{end}") for end in ("", ".c", ".*", "*")):
                wrong.append(f"{page}: {path}")
    assert seen > 50 and not wrong, (seen, wrong)


def targets_are_there():
    """each `make TARGET`"""
    with open(f"{ROOT}/Makefile") as file:
        there = set(re.findall(r"(?m)^([a-z-]+)(?=[a-z -]*:)", file.read()))
    wrong, seen = [], 0
    for page, command in commands():
        found = re.match(r"(?:[A-Z_]+=\S+ )*make((?: [A-Za-z_]+=\S+| [a-z-]+)*)$", command)
        for target in (found.group(1).split() if found else []):
            if "=" not in target:
                seen += 1
                if target not in there:
                    wrong.append(f"{page}: {command}")
    assert seen > 10 and not wrong, (seen, wrong)


def links_lead_somewhere():
    """each link to a page of ours, and its #heading"""
    wrong, seen = [], 0
    for page, text in pages():
        for path, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link):
            seen += 1
            target = os.path.normpath(os.path.join(ROOT, os.path.dirname(page), path)) if path else f"{ROOT}/{page}"
            if not os.path.exists(target):
                wrong.append(f"{page}: {path}")
            elif anchor:
                headings = re.findall(r"(?m)^#+ (.+)$", open(target).read())
                if anchor not in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]:
                    wrong.append(f"{page}: {path}#{anchor}")
    assert seen > 20 and not wrong, (seen, wrong)


def shell_is_shell():
    """what is to be typed on an alert's page is taken by a shell"""
    seen = 0
    for page, text in pages():
        if page.startswith("docs/alerts/"):
            look = text.split("## Look")[1].split("## Do")[0]
            block = "\n".join(line[4:] for line in look.split("\n") if line.startswith("    "))
            done = subprocess.run(["bash", "-n"], input=block.encode(), capture_output=True, check=False)
            seen += 1
            assert block and done.returncode == 0, (page, done.stderr.decode())
    assert seen > 20, seen


def table(page, heading):
    """Its cells, of the first table that follows the heading."""
    with open(f"{ROOT}/docs/{page}") as file:
        rows = re.search(rf"(?m)^{re.escape(heading)}[^\0]*?((?:^\|.*\n)+)", file.read()).group(1).splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if not re.match(r"\|[-|]+\|$", row)]


def exit_statuses_are_those_that_there_are():
    """core/error.c's, in docs/operations.md, docs/commands.md and the man pages; the units try again what the page says they do"""
    with open(f"{ROOT}/core/error.c") as file:
        there = set(map(int, re.findall(r"case CS_\w+: return (\d+);", file.read())))
    assert len(there) > 5, there
    commands = {int(row[0]) for row in table("commands.md", "| exit status |") if row[0].isdigit()}
    assert commands == there, commands ^ there
    rows = {int(row[0]): row for row in table("operations.md", "## Exit statuses") if row[0].isdigit()}
    assert set(rows) == there | {127}, set(rows) ^ there        # ld.so's, before a program of ours has begun
    for page in ("coldstreamd.8", "coldstream-serve.8", "coldstreamctl.1"):
        text = run(os.path.join(BUILD, "coldstreamctl"), "manual", "--format", "man", page).stdout.decode()
        said = set(map(int, re.findall(r"(?m)^\.TP\n\.B (\d+)$", text.split(".SH EXIT STATUS")[1].split("\n.SH")[0])))
        assert said == there, (page, said ^ there)
    final = {status for status, row in rows.items() if status and row[2].startswith("no")}
    for unit, more in (("coldstream", set()), ("coldstream-serve", {65, 76})):      # which has no state that it could be fenced from
        with open(f"{ROOT}/systemd/{unit}.service.in") as file:
            prevented = set(map(int, re.search(r"(?m)^RestartPreventExitStatus=(.*)$", file.read()).group(1).split()))
        assert prevented == final - more, (unit, prevented ^ (final - more))


def members(value, name=""):
    """Names of all that is in a status, "join.late" for what lies deeper; where the names are the model's own, of one of them."""
    if name == "tables":
        value = next(iter(value.values()))
    if isinstance(value, list):
        value = value[0] if value else None
    if not isinstance(value, dict):
        return {name}
    return {name} - {""} | {found for key, one in value.items() for found in members(one, f"{name}.{key}" if name else key)}


def status_is_described():
    """docs/control.md's table of `status --json`: each member of a real one, and no other"""
    plant = fixture.Plant("docs")
    try:
        stream = fixture.Stream(plant.folder, 400)
        broker = fixture.MockBroker(stream, "deltas:1")
        plant.brokers.append(broker)
        daemon = plant.daemon(broker, "told")
        daemon.configure("500ms", checkpoint=", delta_topic: deltas")
        status = daemon.start().until(lambda s: s["sources"] and s["tables"], "sources and tables")
        assert status == {**json.loads(daemon.get("/status")), **status}, "the page has other members"
    finally:
        plant.tidy()
        shutil.rmtree(plant.folder, ignore_errors=True)
    there = members(status)
    said = {}
    for names, what in table("control.md", "## status")[1:]:
        for name in re.findall(r"`([a-z_]+)`", names):
            said[name] = set(re.findall(r"`([a-z_]+)`", what))
    assert set(said) == {name for name in there if "." not in name}, set(said) ^ {name for name in there if "." not in name}
    missing = sorted(name for name in there if "." in name and not set(name.split(".")[1:]) <= said[name.split(".")[0]])
    assert len(there) > 100 and not missing, (len(there), missing)
    unknown = sorted(f"{name}: {word}" for name, words in said.items() for word in words if isinstance(status[name], dict)
                     and word not in {part for found in there if found.startswith(name + ".") for part in found.split(".")})
    assert not unknown, unknown


tests = [verbs_and_options_are_there, units_are_there, settings_are_there, files_are_there, targets_are_there, links_lead_somewhere, shell_is_shell,
         exit_statuses_are_those_that_there_are, status_is_described]
sys.exit(judge_all(tests, called=lambda test: test.__doc__))
