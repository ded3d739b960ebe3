#!/usr/bin/env python3
"""Hostile HTTP against the daemon's pages and coldstream-serve: no crash, no leak, bounded memory, and honest clients are answered.
HOSTILE: how many requests to each, 1500 by default; the figure to reach is HOSTILE=10000."""
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build"))
REQUESTS = int(os.environ.get("HOSTILE", "1500"))
SLACK = 16 << 20            # bytes that memory may grow by once warm
# ASan keeps what was freed, 256 MiB of it unless told otherwise: that would look like a leak.
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "exitcode=99:detect_leaks=1") + ":quarantine_size_mb=8"}
dice = random.Random(29)
count, failed = 0, 0

CONFIG = """
source: {{kafka: {{topics: {{impressions: i, clicks: c, conversions: ~}}, properties: {{bootstrap.servers: "127.0.0.1:1"}}}}}}
features: {{user: [{{name: age}}], item: [{{name: item_id, table: item}}]}}
embedding: {{dimension: 4}}
model: {{ranking: {{tower: emb_lr}}, zero_shot: {{kind: none}}}}
snapshot: {{directory: {0}/snapshot}}
checkpoint: {{directory: {0}/checkpoints}}
control: {{socket: {0}/control.sock}}
http: {{listen: "127.0.0.1:{1}"}}
"""


def check(name, fine, why=""):
    global count, failed
    count += 1
    failed += not fine
    print(f"{'ok' if fine else 'not ok'} {count} - {name}", flush=True)
    if not fine:
        print(f"# {why}", flush=True)


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def noise(size):
    return bytes(dice.randrange(256) for _ in range(size))


def head(method="GET", path="/metrics", *lines, body=b""):
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{''.join(line + chr(13) + chr(10) for line in lines)}\r\n".encode("latin-1") + body


ATTACKS = {
    "noise": lambda path: noise(dice.randrange(1, 3000)),
    "half a head": lambda path: head()[:dice.randrange(1, 30)],
    "large head": lambda path: head("GET", path, *[f"X-{i}: {'a' * 500}" for i in range(dice.randrange(100, 400))]),
    "long line": lambda path: head("GET", "/" + "a" * dice.randrange(10000, 200000)),
    "bad method": lambda path: head(dice.choice(["DELETE", "TRACE", "CONNECT", "get", "PROPFIND", "G" * 300, "\x00", "PRI"]), path),
    "bad path": lambda path: head("GET", dice.choice(["/../../etc/passwd", "//", "/%00", "/%", "*", "http://x/metrics", "/metrics%2f..", "\xff"])),
    "negative length": lambda path: head("POST", path, "Content-Length: -1", body=b"{}"),
    "huge length": lambda path: head("POST", path, f"Content-Length: {dice.choice([1 << 63, 1 << 64, 10 ** 30, 1 << 40])}", body=b"{}"),
    "two lengths": lambda path: head("POST", path, "Content-Length: 2", "Content-Length: 40", body=b"{}" + head("GET", "/smuggled")),
    "length and chunks": lambda path: head("POST", path, "Content-Length: 4", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + head("GET", "/smuggled")),
    "broken chunks": lambda path: head("POST", path, "Transfer-Encoding: chunked", body=dice.choice([b"zz\r\n", b"ffffffffffffffff\r\n", b"-1\r\nx", b"5\r\nab"])),
    "chunk extensions": lambda path: head("POST", path, "Transfer-Encoding: chunked", body=b"2;" + b"x" * 5000 + b"\r\n{}\r\n0\r\n\r\n"),
    "other coding": lambda path: head("POST", path, "Transfer-Encoding: gzip, identity", "Content-Encoding: br", body=noise(50)),
    "large body": lambda path: head("POST", path, "Content-Length: 300000", body=b"[" * 300000),
    "deep body": lambda path: head("POST", path, "Content-Length: 20000", body=b'{"requests":' + b"[" * 19988),
    "broken body": lambda path: head("POST", path, "Content-Length: 64", body=noise(64)),
    "pipeline": lambda path: head("GET", "/livez") * dice.randrange(2, 60),
    "no host": lambda path: f"GET {path} HTTP/1.1\r\n\r\n".encode(),
    "odd version": lambda path: f"GET {path} HTTP/{dice.choice(['0.9', '9.9', '1.', '1.1.1', 'x'])}\r\n\r\n".encode(),
    "folded lines": lambda path: b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\tmore\r\n : y\r\n\r\n",
    "bare line feeds": lambda path: head("GET", path).replace(b"\r\n", b"\n"),
    "NUL in a line": lambda path: head("GET", path, "X: a\x00b"),
    "continue": lambda path: head("POST", path, "Expect: 100-continue", "Content-Length: 99999999999"),
}


def attack(port, bytes_):
    """Sends, sometimes a few bytes at a time, sometimes without reading; returns what came."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.settimeout(0.05 if dice.random() < 0.5 else 0.01)
        try:
            if dice.random() < 0.1:
                for at in range(0, min(len(bytes_), 40)):
                    client.send(bytes_[at:at + 1])
            else:
                client.sendall(bytes_)
            if dice.random() < 0.2:
                return b""                      # hangs up
            if dice.random() < 0.7:
                client.shutdown(socket.SHUT_WR)
            got = b""
            while len(got) < 1 << 16:
                more = client.recv(65536)
                if not more:
                    break
                got += more
            return got
        except OSError:
            return b""


def memory(process):
    with open(f"/proc/{process.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) << 10


def handles(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def alive(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=30) as answer:
            return answer.status == 200
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def await_alive(process, port, log):
    deadline = time.monotonic() + 60
    while not alive(port):
        if process.poll() is not None or time.monotonic() > deadline:
            with open(log) as text:
                sys.exit(f"Bail out! it does not start: {text.read()[-2000:]}")
        time.sleep(0.05)


def besiege(name, process, port, path, log):
    """The first quarter warms up; then memory and descriptors stay."""
    await_alive(process, port, log)
    kinds, smuggled, refused, warm = list(ATTACKS), 0, 0, None
    for number in range(REQUESTS):
        answer = attack(port, ATTACKS[kinds[number % len(kinds)]](path))
        smuggled += kinds[number % len(kinds)] in ("two lengths", "length and chunks") and answer.count(b"HTTP/1.1 ") > 1
        refused += not alive(port) if number % 50 == 0 else 0
        if number == REQUESTS // 4:
            warm = memory(process)
    check(f"{name}: lives through {REQUESTS} hostile requests", process.poll() is None, f"status {process.poll()}")
    check(f"{name}: honest clients were answered all along", refused == 0, f"{refused} were not")
    check(f"{name}: no second request is smuggled behind a first", smuggled == 0, f"{smuggled} answered twice")
    idle = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(300)]
    for client in idle:
        try:
            client.send(b"GET /metr")
        except OSError:
            pass            # made room
    check(f"{name}: 300 connections that never ask keep nobody out", alive(port))
    for client in idle:
        client.close()
    deadline = time.monotonic() + 60
    while handles(process) > 64 and time.monotonic() < deadline:
        time.sleep(0.1)
    check(f"{name}: all descriptors are given back", handles(process) <= 64, f"{handles(process)} are open")
    grown = memory(process) - warm
    print(f"# {name}: {warm >> 20} MiB when warm, grown by {grown >> 10} KiB", flush=True)
    check(f"{name}: memory is bounded", grown < SLACK, f"grew by {grown} bytes from {warm}")
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(90)
    except subprocess.TimeoutExpired:
        process.kill()
        status = "still running"
    with open(log) as text:
        check(f"{name}: ends in order, with nothing leaked where that is watched for", status == 0, f"{status}: {text.read()[-3000:]}")


def main():
    with tempfile.TemporaryDirectory(prefix="coldstream-http.") as folder:
        started = []
        try:
            for name, path in (("coldstreamd", "/status"), ("coldstream-serve", "/v1/score")):
                port, log = free_port(), os.path.join(folder, f"{name}.log")
                if name == "coldstreamd":
                    config = os.path.join(folder, "coldstream.yaml")
                    with open(config, "w") as file:
                        file.write(CONFIG.format(folder, port))
                    os.makedirs(f"{folder}/snapshot")
                    os.makedirs(f"{folder}/checkpoints")
                    command = [f"{BUILD}/coldstreamd", "--config", config]
                else:
                    command = [f"{BUILD}/coldstream-serve", "--checkpoint", f"{folder}/checkpoints", "--listen", f"127.0.0.1:{port}", "--connections", "64"]
                with open(log, "w") as out:
                    started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=ENVIRONMENT))
                besiege(name, started[-1], port, path, log)
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
                    process.wait()
    print(f"1..{count}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
