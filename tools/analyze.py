#!/usr/bin/env python3
"""Static analysis of all of the source: cppcheck, gcc -fanalyzer, clang-tidy (its checks: .clang-tidy).

usage: analyze.py BUILD [cppcheck|gcc|tidy ...]      all three unless some are named

Fails on every finding that tools/analyze_exceptions.txt does not explain, and on every explanation that no finding needs
any more. An exception is a line `TOOL CHECK FILE reason`; FILE may be a pattern.
"""
import concurrent.futures, fnmatch, glob, os, re, shutil, subprocess, sys, tempfile

FOLDERS = ["core", "storage", "config", "daemon", "tools", "tests"]
PACKAGES = "rdkafka lmdb yaml-0.1 jansson libmicrohttpd libsystemd libcurl yajl libprotobuf-c openblas".split()

# What cppcheck would need the libraries' headers, or the compiler, for.
MACROS = """#define __BYTE_ORDER__ 1234
#define __ORDER_LITTLE_ENDIAN__ 1234
#define __SIZEOF_SIZE_T__ 8
#define json_object_foreach(o, k, v) for ((k) = json_key(o); ((v) = json_object_get(o, k)); (k) = json_key(o))
#define json_array_foreach(a, i, v) for ((i) = 0; ((v) = json_array_get(a, i)); (i)++)
"""


def run(*command, **keywords):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **keywords)
    return done.stdout


def flags(build):
    found = subprocess.run(["pkg-config", "--cflags", *PACKAGES], check=True, stdout=subprocess.PIPE, text=True)
    return ["-std=gnu11", "-I.", "-I" + build, "-D_GNU_SOURCE", '-DCOLDSTREAM_VERSION=""', '-DCOLDSTREAM_COMMIT=""',
            *found.stdout.split()]


def each(files, make):
    """make(file) -> command; their outputs, as many at once as there are processors."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda file: run(*make(file)), files))


def cppcheck(build, files):
    """On a copy: cppcheck 2.10 does not know __VA_OPT__; an element more is as good for it."""
    with tempfile.TemporaryDirectory() as copy:
        for folder in FOLDERS:
            shutil.copytree(folder, os.path.join(copy, folder))
        for path in glob.glob(copy + "/**/*.[ch]", recursive=True):
            with open(path) as file:
                text = file.read().replace("define log_event(level, message, ...)", "define log_event(level, ...)")
                text = text.replace("__func__, (message),", '__func__, "",')
            with open(path, "w") as file:
                file.write(re.sub(r"__VA_ARGS__ __VA_OPT__\(, *\)", "{ 0 }, ##__VA_ARGS__,", text))
        with open(os.path.join(copy, "macros.h"), "w") as file:
            file.write(MACROS)
        text = run("cppcheck", "-j", str(os.cpu_count()), "--quiet", "--enable=warning,performance,portability", "--std=c11",
                   "--library=posix", "--library=gnu", "--template={file}:{line}: warning: {message} [{id}]", "-I.",
                   "--include=macros.h", "-D_GNU_SOURCE", *FOLDERS, cwd=copy)
    return [text]


def gcc(build, files):
    # Leaks are LeakSanitizer's: gcc 12 loses the owner of whatever is stored behind a pointer that was grown.
    common = flags(build) + ["-O2", "-fanalyzer", "-Wno-analyzer-malloc-leak", "-Wno-analyzer-file-leak"]
    return each(files, lambda file: ["gcc", *common, "-c", file, "-o", "/dev/null"])


def tidy(build, files):
    return each(files, lambda file: ["clang-tidy", "--quiet", file, "--", *flags(build), "-march=x86-64-v3"])


TOOLS = {"cppcheck": cppcheck, "gcc": gcc, "tidy": tidy}


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    if len(sys.argv) < 2 or not set(sys.argv[2:]) <= set(TOOLS):
        sys.exit(__doc__)
    build, chosen = sys.argv[1], sys.argv[2:] or list(TOOLS)
    files = sorted(file for folder in FOLDERS for file in glob.glob(folder + "/**/*.c", recursive=True))
    exceptions = []
    with open("tools/analyze_exceptions.txt") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                tool, check, name, reason = line.split(None, 3)
                exceptions.append((tool, check, name))
    used, bad = set(), 0
    for tool in chosen:
        new, known, seen = 0, 0, set()
        for text in TOOLS[tool](build, files):
            for line in text.splitlines():
                match = re.match(r"(?:\./|%s/)?([^:\s]+):(\d+):(?:\d+:)? (?:warning|error): (.*) \[([^][]+)\]$" %
                                 re.escape(os.getcwd()), line)
                if not match:
                    if re.search(r"\b(fatal )?error:", line):
                        print(line)                 # it could not be read: not a clean bill
                        new += 1
                    continue
                file, number, message, check = match.groups()
                check = check.removeprefix("-W").split(",")[0]
                if (file, number, check) in seen:
                    continue
                seen.add((file, number, check))
                found = [e for e in exceptions if e[0] == tool and e[1] == check and fnmatch.fnmatch(file, e[2])]
                used.update(found)
                known += bool(found)
                if not found:
                    print("%s: %s:%s: %s [%s]" % (tool, file, number, message, check))
                    new += 1
        stale = [e for e in exceptions if e[0] == tool and e not in used]
        for e in stale:
            print("%s: nothing of %s in %s any more: take it out of tools/analyze_exceptions.txt" % e)
        print("%s - %s: %d findings, %d explained" % ("not ok" if new or stale else "ok", tool, new + known, known))
        bad += new + len(stale)
    sys.exit(bool(bad))


main()
