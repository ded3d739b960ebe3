#!/usr/bin/env python3
"""Snapshots with damaged files: refused with exit status 65 and a word on what is damaged, or the very same state; never anything else.

"The very same" includes an earlier cut of the same run, whole: where LMDB's newest meta page is lost, or the root file is an older one and all
that it names is still there, nothing on the disk tells that there was a newer one."""
import os
import re
import shutil
import signal

from plant import Plant, ctl, sized, tally, until

EVENTS = 12000
CUTS = 12
TRIALS = sized(200, 5000)
DAEMON_EVERY = sized(10, 20)        # starting the daemon takes longer than verify


class Copy:
    """A copy of a snapshot, to be damaged. lock.mdb is made anew at each start and does not count."""

    def __init__(self, plant, original, older):
        self.random, self.original, self.older = plant.random, original, older
        self.folder = os.path.join(plant.folder, "copy")
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(original, self.folder)
        self.files = sorted(os.path.join(path, name) for path, _, names in os.walk(self.folder) for name in names
                            if name != "lock.mdb" and os.path.getsize(os.path.join(path, name)))

    def pick(self):
        self.file = self.random.choice(self.files)
        return self.file

    def cut(self):
        file = self.pick()
        size = os.path.getsize(file)
        os.truncate(file, self.random.choice([0, 100, 4096, 8192, size * 3 // 4, size - 1, self.random.randrange(size)]) % size)

    def flip(self):
        with open(self.pick(), "r+b") as file:
            for _ in range(self.random.choice([1, 1, 1, 2, 8])):
                at = self.random.randrange(os.path.getsize(self.file))
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 1 << self.random.randrange(8)]))

    def lose_pages(self):
        """Writes that never reached the disk: zeros where the file had grown."""
        with open(self.pick(), "r+b") as file:
            size = os.path.getsize(self.file)
            for _ in range(self.random.randrange(1, 4)):
                at = self.random.randrange((size + 4095) // 4096) * 4096
                file.seek(at)
                file.write(bytes(min(4096, size - at)))

    def old_pages(self):
        """Writes that never reached the disk: what an older snapshot's file of that name had there."""
        old = os.path.join(self.older, os.path.relpath(self.pick(), self.folder))
        if not os.path.exists(old):
            return self.lose_pages()
        with open(old, "rb") as source, open(self.file, "r+b") as file:
            at = self.random.randrange((min(os.path.getsize(old), os.path.getsize(self.file)) + 4095) // 4096) * 4096
            source.seek(at)
            file.seek(at)
            file.write(source.read(4096))

    def remove(self):
        os.unlink(self.pick())

    def foreign(self):
        """A file of another snapshot in the place of ours: of this one's past under the same name, or another file."""
        candidates = [os.path.join(path, name) for path, _, names in os.walk(self.older) for name in names if name != "lock.mdb"]
        shutil.copyfile(self.random.choice(candidates), self.pick())

    def swap(self):
        if len(self.files) < 2:
            return self.foreign()
        one, other = self.random.sample(self.files, 2)
        self.file = f"{one} and {other}"
        os.rename(one, one + ".aside")
        os.rename(other, one)
        os.rename(one + ".aside", other)


DAMAGE = [("a file cut short", Copy.cut), ("bits flipped", Copy.flip), ("pages zeroed", Copy.lose_pages), ("pages of an older snapshot", Copy.old_pages),
          ("a file missing", Copy.remove), ("a file of another snapshot", Copy.foreign), ("two files swapped", Copy.swap)]


def state_of(folder, plant):
    file = os.path.join(plant.folder, "state.safetensors")
    ctl("export", "--from", folder, "--format", "safetensors", file)
    with open(file, "rb") as tensors:
        return tensors.read()


def try_daemon(daemon, what):
    """65, or running on: True where it runs (and is stopped again, without a snapshot of its own)."""
    daemon.start()
    until(lambda: not daemon.alive() or "notice started" in daemon.log_text(), f"{what}: an end or a start")
    if daemon.alive():
        daemon.stop(signal.SIGKILL)
        assert "resumed from snapshot" in daemon.log_text(), f"{what}: the daemon started anew, as if nothing had been there:\n{daemon.log_text()}"
        return True
    status = daemon.wait()
    assert status == 65, f"{what}: the daemon ended with {status}:\n{daemon.log_text()[-2000:]}"
    assert "error=" in daemon.log_text(), f"{what}: without a word"
    return False


def damage_is_noticed(plant):
    """a snapshot with any file damaged is refused with 65 and a reason, or is the old state; never a crash, never other data"""
    reference = plant.reference(EVENTS)
    broker = plant.broker(reference.stream)
    daemon = plant.daemon(broker, "original", interval="1h")
    daemon.start()
    older = os.path.join(plant.folder, "older")
    known = {}                          # state: how many cuts before the last
    for cut in range(CUTS):
        learned = daemon.running()["examples"]["all"]
        broker.produce(EVENTS // 2 if cut == 0 else 300)
        daemon.examples_reach(learned + 100)
        ctl("snapshot", "--control", daemon.socket)
        known[state_of(daemon.snapshot, plant)] = CUTS - cut
        if cut == CUTS // 2:
            daemon.stop(signal.SIGKILL)
            shutil.copytree(daemon.snapshot, older)
            daemon.start()
    assert daemon.stop() == 0
    original = daemon.snapshot
    known[state_of(original, plant)] = 0
    other = plant.daemon(broker, "damaged", interval="1h", snapshot=os.path.join(plant.folder, "copy"))
    counts = {name: [0, 0, 0, 0, 0, 0] for name, _ in DAMAGE}     # trials, refused, same state, daemon refused, daemon same, an earlier state
    for trial in range(TRIALS):
        name, damage = DAMAGE[trial % len(DAMAGE)]
        copy = Copy(plant, original, older)
        damage(copy)
        what = f"trial {trial}, {name} ({os.path.relpath(copy.file.split(' ')[0], copy.folder)}), seed in the first line"
        done = ctl("verify", copy.folder, check=False)
        message = done.stderr.decode()
        assert done.returncode in (0, 65), f"{what}: verify ended with {done.returncode}: {message}"
        count = counts[name]
        count[0] += 1
        if done.returncode == 65:
            count[1] += 1
            assert re.search(rf"{copy.folder}|section '|tensor '", message), f"{what}: the message does not say what is damaged: {message}"
        else:
            age = known.get(state_of(copy.folder, plant))
            assert age is not None, f"{what}: verify is content, and the data is other data"
            count[5 if age else 2] += 1
        if trial % DAEMON_EVERY == trial // DAEMON_EVERY % DAEMON_EVERY:
            runs = try_daemon(other, what)
            count[3 + runs] += 1
            assert not runs or state_of(copy.folder, plant) in known, f"{what}: the daemon runs on other data"
    for name, count in counts.items():
        tally(f"snapshot damaged: {name}", count[0], f"verify: {count[1]} refused (65), {count[2]} the very same state, {count[5]} an earlier cut, whole; the daemon on a sample: {count[3]} "
              f"refused, {count[4]} resumed; 0 crashed, 0 other data")
    shutil.rmtree(os.path.join(plant.folder, "copy"))
    shutil.copytree(original, os.path.join(plant.folder, "copy"))
    assert try_daemon(other, "undamaged"), "an undamaged copy resumes"


if __name__ == "__main__":
    Plant("damage").run(damage_is_noticed)
