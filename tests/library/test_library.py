#!/usr/bin/env python3
"""The library as others meet it: installed, by pkg-config, from C++ (shared and static) and Python; the checkpoint from Go.

usage: test_library.py BUILD
"""
import array
import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build"))
CTL = os.path.join(BUILD, "coldstreamctl")
PREFIX = "/opt/coldstream"
USER = {"gender": "gender-1", "age": 30}
CONTEXT = {"hour": "hour-2"}
BEHAVIORS = ["i1", "i2", "i3"]


def run(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: status {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def score(checkpoints, **event):
    """What coldstreamctl says of one impression: (new, score)."""
    said = json.loads(run(CTL, "score", "--quiet", "--checkpoint", checkpoints, input=json.dumps({"impression_id": "1", **event})))
    return said["new"], said["score"]


def expected(checkpoints):
    item = {"item_id": "i4", "item": {"price": 12.5}}
    old = {"user": USER, "context": CONTEXT, "behaviors": BEHAVIORS}
    return [score(checkpoints, **old, **item), score(checkpoints, **old, item_id="i5"), score(checkpoints, **old, **item),
            score(checkpoints, **dict(old, behaviors=[]), **item)]


def alike(scores, wanted):
    assert len(scores) == len(wanted), (scores, wanted)
    assert all(bool(n) == m and abs(s - t) <= 1e-6 for (n, s), (m, t) in zip(scores, wanted)), (scores, wanted)
    assert len({round(s, 6) for _, s in wanted}) >= 3, wanted        # or nothing was compared


class Installed:
    def __init__(self, folder):
        self.folder, self.root, self.checkpoints = folder, os.path.join(folder, "root"), os.path.join(folder, "checkpoints")
        run("make", "-C", ROOT, "install", f"BUILD={BUILD}", f"DESTDIR={self.root}", f"PREFIX={PREFIX}")
        self.lib = self.root + PREFIX + "/lib"
        case = os.path.join(ROOT, "tests/golden/features_dense")
        run(CTL, "train", "--quiet", "--config", f"{case}/config.yaml", "--events", f"{case}/events.jsonl", "--import",
            f"{case}/initial.safetensors", "--checkpoint", self.checkpoints)
        self.wanted = expected(self.checkpoints)

    def pkg_config(self, *arguments):
        environment = dict(os.environ, PKG_CONFIG_PATH=f"{self.lib}/pkgconfig", PKG_CONFIG_SYSROOT_DIR="")
        return run("pkg-config", f"--define-variable=prefix={self.root}{PREFIX}", *arguments, "coldstream", env=environment).split()

    def client(self, name, libraries, **environment):
        program = os.path.join(self.folder, name)
        run("g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic", *self.pkg_config("--cflags"), f"{HERE}/client.cpp",
            "-o", program, *libraries)
        said = run(program, self.checkpoints, env=dict(os.environ, **environment))
        return [(int(new), float(value)) for new, value in (line.split() for line in said.splitlines())]


def cpp_with_the_shared_library(installed):
    alike(installed.client("shared", installed.pkg_config("--libs"), LD_LIBRARY_PATH=installed.lib), installed.wanted)


def cpp_with_the_static_library(installed):
    libraries = ["-l:libcoldstream.a" if one == "-lcoldstream" else one for one in installed.pkg_config("--static", "--libs")]
    alike(installed.client("static", libraries), installed.wanted)
    linked = run("ldd", os.path.join(installed.folder, "static"))
    assert "libcoldstream" not in linked and "rdkafka" not in linked, linked


def nothing_but_its_own_names_is_seen(installed):
    names = [line.split()[-1] for line in run("nm", "-D", "--defined-only", f"{installed.lib}/libcoldstream.so.1").splitlines()]
    functions = [name for name in names if name != "COLDSTREAM_1"]
    assert len(functions) >= 9 and all(n.startswith("coldstream_") and n.endswith("@@COLDSTREAM_1") for n in functions), names
    with open(os.path.join(installed.root + PREFIX, "include/coldstream.h")) as file:
        header = file.read()
    assert all(name.split("@")[0] + "(" in header for name in functions), functions
    needed = run("objdump", "-p", f"{installed.lib}/libcoldstream.so.1")
    assert "libcoldstream.so.1" in needed and "rdkafka" not in needed and "systemd" not in needed, needed


class Value(ctypes.Structure):
    _fields_ = [("feature", ctypes.c_char_p), ("text", ctypes.c_char_p), ("number", ctypes.c_double)]


class Candidate(ctypes.Structure):
    _fields_ = [("item_id", ctypes.c_char_p), ("item", ctypes.POINTER(Value)), ("item_count", ctypes.c_size_t)]


class Request(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("user_id", ctypes.c_char_p), ("user", ctypes.POINTER(Value)),
                ("user_count", ctypes.c_size_t), ("behavior", ctypes.POINTER(ctypes.c_char_p)),
                ("behavior_count", ctypes.c_size_t), ("context", ctypes.POINTER(Value)), ("context_count", ctypes.c_size_t),
                ("candidate", ctypes.POINTER(Candidate)), ("candidate_count", ctypes.c_size_t)]


def python_by_ctypes(installed):
    library = ctypes.CDLL(f"{installed.lib}/libcoldstream.so.1")
    library.coldstream_open.restype = ctypes.c_void_p
    library.coldstream_version.restype = ctypes.c_uint64
    for name in ("close", "version", "score", "score_json"):
        getattr(library, f"coldstream_{name}").argtypes = [ctypes.c_void_p] + {
            "close": [], "version": [],
            "score": [ctypes.POINTER(Request), ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.POINTER(ctypes.c_int),
                      ctypes.c_char_p, ctypes.c_size_t],
            "score_json": [ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p, ctypes.c_size_t],
        }[name]
    error = ctypes.create_string_buffer(256)
    cs = library.coldstream_open(installed.checkpoints.encode(), None, error, ctypes.c_size_t(256))
    assert cs, error.value
    assert library.coldstream_version(cs) == 1
    item = (Value * 1)(Value(b"price", None, 12.5))
    candidates = (Candidate * 2)(Candidate(b"i4", item, 1), Candidate(b"i5", None, 0))
    user, context = (Value * 2)(Value(b"gender", b"gender-1", 0), Value(b"age", None, 30)), (Value * 1)(Value(b"hour", b"hour-2", 0))
    behaviors = (ctypes.c_char_p * 3)(*(b.encode() for b in BEHAVIORS))
    request = Request(ctypes.sizeof(Request), b"u1", user, 2, behaviors, 3, context, 1, candidates, 2)
    scores, new = (ctypes.c_float * 2)(), ctypes.c_int(7)
    assert library.coldstream_score(cs, ctypes.byref(request), scores, None, ctypes.byref(new), error, 256) == 0, error.value
    alike([(new.value, s) for s in scores] + installed.wanted[2:], installed.wanted)
    body = json.dumps({"requests": [{"user": USER, "context": CONTEXT, "behaviors": BEHAVIORS, "item_id": "i4", "item": {"price": 12.5}}]})
    response = ctypes.c_void_p()
    assert library.coldstream_score_json(cs, body.encode(), len(body), ctypes.byref(response), error, 256) == 0, error.value
    answer = json.loads(ctypes.string_at(response))
    ctypes.CDLL(None).free(response)
    assert answer["version"] == 1 and abs(answer["scores"][0] - installed.wanted[0][1]) <= 1e-6, answer
    assert library.coldstream_score_json(cs, b"{}", 2, ctypes.byref(response), error, 256) == -1 and b"requests" in error.value
    library.coldstream_close(cs)


def safetensors(path):
    with open(path, "rb") as file:
        raw = file.read()
    size = struct.unpack("<Q", raw[:8])[0]
    types = {"F32": "f", "F64": "d", "U64": "Q", "U32": "I", "I64": "q"}
    for name, head in json.loads(raw[8:8 + size]).items():
        if name != "__metadata__":
            begin, end = head["data_offsets"]
            yield name, head, array.array(types[head["dtype"]], raw[8 + size + begin:8 + size + end])


def go_reads_the_checkpoint(installed):
    program = os.path.join(installed.folder, "reader")
    run("go", "build", "-o", program, ".", cwd=f"{HERE}/reader", env=dict(os.environ, GOFLAGS="-mod=readonly"))
    said = json.loads(run(program, os.path.join(installed.checkpoints, "current")))
    path = os.path.join(installed.folder, "model.safetensors")
    run(CTL, "export", "--quiet", "--from", installed.checkpoints, path)
    dense = rows = 0
    for name, head, values in safetensors(path):
        if name.startswith("embedding."):
            _, table, part = name.split(".")
            if part == "keys":
                assert said["rows"][table]["rows"] == len(values) > 0, name
                assert said["rows"][table]["last"] == f"{max(values):016x}", name
                rows += 1
            else:
                assert abs(said["rows"][table]["sum"] - sum(values)) < 1e-6, name
        else:
            assert said["dense"][name]["shape"] == head["shape"], name
            if head["dtype"] == "F32":
                assert abs(said["dense"][name]["sum"] - sum(values)) < 1e-6, name
            dense += 1
    assert rows == len(said["rows"]) == 3 and dense == len(said["dense"]) > 20, (rows, dense)


TESTS = (cpp_with_the_shared_library, cpp_with_the_static_library, nothing_but_its_own_names_is_seen, python_by_ctypes,
         go_reads_the_checkpoint)


def main():
    folder, failed = tempfile.mkdtemp(), 0
    try:
        installed = Installed(folder)
        for number, test in enumerate(TESTS, 1):
            try:
                test(installed)
                print(f"ok {number} - {test.__name__}", flush=True)
            except Exception:
                failed += 1
                print(f"not ok {number} - {test.__name__}\n" + "".join(f"# {l}\n" for l in traceback.format_exc().splitlines()), flush=True)
        print(f"1..{len(TESTS)}")
    finally:
        shutil.rmtree(folder)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
