#!/usr/bin/env python3
"""Static analysis of all of the source: C by cppcheck, gcc -fanalyzer and clang-tidy (its checks: .clang-tidy), scripts by
shellcheck and pyflakes.

usage: analyze.py BUILD [cppcheck|gcc|tidy|shell|python ...]      all unless some are named

BUILD holds what is generated (protobuf's header). Prints a TAP line a tool. Fails on every finding that
tools/analyze/exceptions does not explain, on every explanation that no finding needs any more, and on a file that a tool
could not read.
"""
import concurrent.futures, fnmatch, glob, os, re, shutil, subprocess, sys, tempfile

FOLDERS = ["core", "storage", "config", "daemon", "tools", "tests"]
SCRIPTS = [".ci", "systemd", "tools", "tests"]
PACKAGES = "rdkafka lmdb yaml-0.1 jansson libmicrohttpd libsystemd libcurl yajl libprotobuf-c openblas".split()
HERE = "tools/analyze"
ENGLISH = dict(os.environ, LC_ALL="C")

# What cppcheck would need the libraries' headers, or the compiler, for.
MACROS = """#define __BYTE_ORDER__ 1234
#define __ORDER_LITTLE_ENDIAN__ 1234
#define __SIZEOF_SIZE_T__ 8
#define json_object_foreach(o, k, v) for ((k) = json_key(o); ((v) = json_object_get(o, k)); (k) = json_key(o))
#define json_array_foreach(a, i, v) for ((i) = 0; ((v) = json_array_get(a, i)); (i)++)
"""


def run(*command, **keywords):
    """-> the exit status and what was said."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                              env=ENGLISH, **keywords)
    except FileNotFoundError:
        sys.exit("%s is not installed; tools/setup.sh analyze does that" % command[0])
    return done.returncode, done.stdout


def flags(build, file):
    status, found = run("pkg-config", "--cflags", *PACKAGES)
    if status:
        sys.exit(found)
    tests = ["-I" + HERE] if file.startswith("tests/") else []      # first: its cmocka.h is to be found
    known = [] if file == "core/error.c" else ["-include", HERE + "/known.h"]
    return [*tests, *known, "-std=gnu11", "-I.", "-I" + build, "-D_GNU_SOURCE", '-DCOLDSTREAM_VERSION=""',
            '-DCOLDSTREAM_COMMIT=""', *found.split()]


def each(files, make):
    """make(file) -> command; what each said, as many at once as there are processors."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda file: run(*make(file)), files))


def cppcheck(build):
    """On a copy: cppcheck 2.10 does not know __VA_OPT__; an element more is as good for it."""
    with tempfile.TemporaryDirectory() as copy:
        there = [folder for folder in FOLDERS if os.path.isdir(folder)]
        for folder in there:
            shutil.copytree(folder, os.path.join(copy, folder))
        for path in glob.glob(copy + "/**/*.[ch]", recursive=True):
            with open(path) as file:
                text = file.read().replace("define log_event(level, message, ...)", "define log_event(level, ...)")
                text = text.replace("__func__, (message),", '__func__, "",')
            with open(path, "w") as file:
                file.write(re.sub(r"__VA_ARGS__ __VA_OPT__\(, *\)", "{ 0 }, ##__VA_ARGS__,", text))
        with open(os.path.join(copy, "macros.h"), "w") as file:
            file.write(MACROS)
        return [run("cppcheck", "-j", str(os.cpu_count()), "--quiet", "--enable=warning,performance,portability",
                    "--std=c11", "--library=posix", "--library=gnu", "--template={file}:{line}: warning: {message} [{id}]",
                    "-I.", "-I" + HERE, "--include=macros.h", "-D_GNU_SOURCE", *there, cwd=copy)]


def sources():
    return sorted(file for folder in FOLDERS for file in glob.glob(folder + "/**/*.c", recursive=True))


def gcc(build):
    def command(file):
        # Leaks are LeakSanitizer's: gcc 12 loses the owner of whatever is stored behind a pointer that was grown.
        # A test that gets no memory dies, as it should.
        off = ["malloc-leak", "file-leak"]
        if file.startswith("tests/"):
            off += [possible + fault for possible in ("possible-", "") for fault in ("null-argument", "null-dereference")]
        return ["gcc", *flags(build, file), "-O2", "-fanalyzer", "-fanalyzer-verbosity=0",
                *("-Wno-analyzer-" + name for name in off), "-c", file, "-o", "/dev/null"]
    return each(sources(), command)


def tidy(build):
    return each(sources(), lambda file: ["clang-tidy", "--quiet", file, "--", *flags(build, file), "-march=x86-64-v3"])


def scripts(interpreter, suffix):
    """The files that say so in their first line, or by their name."""
    found = []
    for file in sorted(file for folder in SCRIPTS for file in glob.glob(folder + "/**", recursive=True)):
        if os.path.isfile(file):
            with open(file, "rb") as content:
                first = content.readline(100)
            if file.endswith(suffix) or re.match(rb"#!.*\b(" + interpreter + rb")\b", first):
                found.append(file)
    return found


def shell(build):
    return each(scripts(b"sh|bash", ".sh"), lambda file: ["shellcheck", "--format=gcc", "--external-sources", file])


def python(build):
    return each(scripts(b"python3", ".py"), lambda file: ["pyflakes3", file])


TOOLS = {"cppcheck": cppcheck, "gcc": gcc, "tidy": tidy, "shell": shell, "python": python}
FINDING = re.compile(r"(?:\./)?([^:\s]+):(\d+):(?:\d+:)? (?:warning|error|note): (.*) \[([^][]+)\]$")
PYFLAKES = re.compile(r"([^:\s]+):(\d+):(?:\d+:)? (.*)()$")


class Exceptions:
    """Lines of `TOOL CHECK FILE "TEXT" reason`: FILE is a pattern, TEXT is a part of what is said."""

    def __init__(self, path):
        self.rows, self.used = [], set()
        with open(path) as file:
            for line in file:
                if not line.strip() or line.startswith("#"):
                    continue
                row = re.match(r'(\S+)\s+(\S+)\s+(\S+)\s+"([^"]+)"\s+(\S.*)', line)
                if not row or row[1] not in TOOLS:
                    sys.exit('%s: %sis not `TOOL CHECK FILE "TEXT" reason`' % (path, line))
                self.rows.append(row.groups()[:4])

    def explain(self, tool, check, file, message):
        found = [e for e in self.rows if e[:2] == (tool, check) and fnmatch.fnmatch(file, e[2]) and e[3] in message]
        self.used.update(found)
        return bool(found)

    def stale(self, tool):
        return [e for e in self.rows if e[0] == tool and e not in self.used]


def judge(tool, build, exceptions):
    """-> what is wrong, as lines; how many findings are explained."""
    wrong, known, seen = [], 0, set()
    for status, text in TOOLS[tool](build):
        found = False
        for line in text.replace(os.getcwd() + "/", "").splitlines():
            match = (PYFLAKES if tool == "python" else FINDING).match(line)
            if not match:
                if re.search(r"\b(fatal )?error:", line):
                    wrong.append(line)
                    found = True
                continue
            found = True
            file, number, message, check = match.groups()
            check = check.removeprefix("-W").split(",")[0] or "pyflakes"
            if (file, number, check, message) in seen:
                continue
            seen.add((file, number, check, message))
            if exceptions.explain(tool, check, file, message):
                known += 1
            else:
                wrong.append("%s:%s: %s [%s]" % (file, number, message, check))
        if status and not found:
            wrong.append(text.strip() or "ended with status %d" % status)
    for _, check, file, text in exceptions.stale(tool):
        wrong.append("nothing of %s \"%s\" in %s any more: take it out of %s/exceptions" % (check, text, file, HERE))
    return wrong, known


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    if len(sys.argv) < 2 or not set(sys.argv[2:]) <= set(TOOLS):
        sys.exit(__doc__)
    exceptions, bad = Exceptions(HERE + "/exceptions"), False
    for tool in sys.argv[2:] or TOOLS:
        wrong, known = judge(tool, sys.argv[1], exceptions)
        for line in wrong:
            print("%s: %s" % (tool, line))
        print("%s - %s: %d to be mended, %d explained" % ("not ok" if wrong else "ok", tool, len(wrong), known), flush=True)
        bad = bad or bool(wrong)
    sys.exit(bad)


main()
