#!/usr/bin/env python3
"""A serving fleet that follows while the publisher is killed at any instant: no reader ever sees half a version."""
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

from plant import BUILD, CALL_NAMES, KILL, NONE, TORN, Faults, Plant, ctl, sized, tally, until

EVENTS = 12000
REQUEST = json.dumps({"requests": [
    {"user_id": f"u{user}", "user": {"age": 20 + user, "gender": "g0", "city": f"city{user}"}, "behaviors": ["i1", "i7", "i3"][:user % 4],
     "context": {"hour": 3, "position": 1}, "item_id": f"i{user}", "item": {"category": f"c{user % 8}"}} for user in range(12)]}).encode()


class Reader(threading.Thread):
    """Scores the same requests without pause; every version has to answer with the same scores always."""

    def __init__(self, folder, checkpoints):
        super().__init__(daemon=True)
        self.log = os.path.join(folder, "serve.log")
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([os.path.join(BUILD, "coldstream-serve"), "--checkpoint", checkpoints, "--listen", "127.0.0.1:0", "--poll",
                                             "10ms", "--threads", "1"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.scores, self.answers, self.wrong, self.ending, self.newest = {}, 0, [], False, 0
        self.port = until(self.find_port, "the server's port")

    def find_port(self):
        with open(self.log) as log:
            found = re.search(r"\bport=(\d+)", log.read())
        return found and int(found.group(1))

    def run(self):
        while not self.ending:
            try:
                with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/score", REQUEST), timeout=20) as answer:
                    body = json.loads(answer.read())
            except (OSError, ValueError) as error:
                self.wrong.append(f"no answer: {error}")
                return
            known = self.scores.setdefault(body["version"], body["scores"])
            if known != body["scores"]:
                self.wrong.append(f"version {body['version']} scores {body['scores']}, and {known} before")
            if int(body["version"]) < self.newest:
                self.wrong.append(f"version {body['version']} after {self.newest}")
            self.newest = int(body["version"])
            self.answers += 1

    def stop(self):
        self.ending = True
        self.join(30)
        self.process.terminate()
        assert self.process.wait(30) == 0, "the server ended badly"


def publisher_is_killed(plant):
    """the publisher is killed at every file call of a publication and at random: readers go from whole version to whole version"""
    reference = plant.reference(EVENTS)
    broker = plant.broker(reference.stream)
    daemon = plant.daemon(broker, "publisher", interval="1h")
    daemon.faults = Faults(plant.folder, daemon.checkpoints)
    broker.produce(2000)
    daemon.start().examples_reach(600)
    ctl("publish", "--control", daemon.socket)
    reader = Reader(plant.folder, daemon.checkpoints)
    plant.processes.append(reader.process)
    reader.start()
    kills = 0
    died = [0] * len(CALL_NAMES)
    current = 1
    daemon.faults.set(NONE)
    ctl("publish", "--control", daemon.socket)
    whole = daemon.faults.seen
    # Around the end, where `current` moves, every call; before it some, or all. With TORN the publications don't end in between, so that
    # what the killed ones left is there to be cleaned up first, which takes more calls.
    step = sized(4, 1)
    points = [(KILL, point) for point in range(1, whole + 2) if point > whole - 12 or point % step == 1 % step]
    points += [(TORN, point) for point in range(1, whole + 20) if point % step == 1 % step]
    share = (EVENTS - 3000) // len(points)
    for fault, point in points:
        if not daemon.alive():
            daemon.start().running()
        daemon.faults.off()
        if fault == KILL:
            ctl("publish", "--control", daemon.socket)
        daemon.faults.set(fault, first=point)
        broker.produce(share)
        # Some publications may end before it comes to the call; a commit alone makes no call there.
        for _ in range(3):
            if ctl("publish", "--control", daemon.socket, check=False).returncode != 0:
                break
        assert daemon.wait(60) == -signal.SIGKILL, daemon.log_text()[-2000:]
        kills += 1
        for call in range(len(CALL_NAMES)):
            died[call] += daemon.faults.of(call)
        check_versions(daemon)
        version = int(os.path.basename(os.readlink(os.path.join(daemon.checkpoints, "current"))))
        assert version >= current, f"current went from {current} back to {version}"
        current = version
        # The reader has to come to it: it is whole.
        until(lambda: reader.wrong or reader.newest >= current, f"version {current} being served; {reader.newest} is")
        assert not reader.wrong, reader.wrong[:3]
    daemon.faults.off()
    for _ in range(sized(10, 100)):
        if not daemon.alive():
            daemon.start().running()
        publication = subprocess.Popen([os.path.join(BUILD, "coldstreamctl"), "publish", "--control", daemon.socket], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
        time.sleep(plant.random.uniform(0, 0.1))       # the instant is the injected fault
        daemon.stop(signal.SIGKILL)
        publication.wait(60)
        kills += 1
        check_versions(daemon)
        assert not reader.wrong, reader.wrong[:3]
    reader.stop()
    assert reader.answers > kills and len(reader.scores) > 3, f"{reader.answers} answers from {len(reader.scores)} versions"
    daemon.faults = None
    reference.compare(daemon, "after a killed publisher")
    tally("publisher killed in a publication, readers following", kills,
          f"{', '.join(f'{n} at {c}' for c, n in zip(CALL_NAMES, died) if n)}; {reader.answers} answers from {len(reader.scores)} versions, each of a whole one")


def check_versions(daemon):
    """What a reader may open is whole: `current`, and every folder with a version's name."""
    for name in ["current"] + [name for name in os.listdir(daemon.checkpoints) if name.isdigit()]:
        done = ctl("verify", os.path.join(daemon.checkpoints, name), check=False)
        assert done.returncode == 0, f"version {name}: {done.stderr.decode()}"


if __name__ == "__main__":
    Plant("readers").run(publisher_is_killed)
