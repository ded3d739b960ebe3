#!/usr/bin/env python3
"""What the documentation names is there: verbs and options, units, settings, files, make targets, links. Metrics: test_prometheus.py;
the whole of operations.md's commands: `make walkthrough`. usage: test_docs.py BUILD"""
import functools
import glob
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "kafka"))
from harness import BUILD, judge, run                                   # noqa: E402

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
    """each `section.key` of the configuration"""
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


tests = [verbs_and_options_are_there, units_are_there, settings_are_there, files_are_there, targets_are_there, links_lead_somewhere, shell_is_shell]
print(f"1..{len(tests)}", flush=True)
failed = sum(not judge(number, test.__doc__, test) for number, test in enumerate(tests, 1))
sys.exit(1 if failed else 0)
