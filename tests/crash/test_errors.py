#!/usr/bin/env python3
"""File calls that fail, disks that are full, an fsync that hangs: the daemon lives, learns on, says what and where, and recovers."""
import errno
import os
import signal
import socket
import threading

from plant import (CALL_NAMES, ERROR, EVER, HANG, MAKE, OPEN, RENAME, SHORT, SPACE, SYNC, UNLINK, WRITE, Faults, Plant, ctl, sized, tally,
                   until)

EVENTS = 12000

# fault, call, error, what the message has to say where one comes
ERRORS = [
    (ERROR, WRITE, errno.EIO), (ERROR, WRITE, errno.ENOSPC), (SHORT, WRITE, 0), (ERROR, SYNC, errno.EIO), (ERROR, SYNC, errno.ENOSPC),
    (ERROR, OPEN, errno.EIO), (ERROR, OPEN, errno.EMFILE), (ERROR, RENAME, errno.EIO), (ERROR, UNLINK, errno.EIO), (ERROR, UNLINK, errno.EROFS),
    (ERROR, MAKE, errno.ENOSPC), (ERROR, SPACE, errno.ENOSPC),
]


def name_of(fault, call, number):
    return f"short {CALL_NAMES[call]}" if fault == SHORT else f"{errno.errorcode[number]} at {CALL_NAMES[call]}"


def ask(daemon, verb):
    """None where it went well; otherwise the message."""
    done = ctl(verb, "--control", daemon.socket, check=False)
    assert daemon.alive(), f"the daemon ended with status {daemon.process.poll()} at {verb}:\n{daemon.log_text()[-3000:]}"
    return done.stderr.decode() if done.returncode else None


def every_call_fails(plant, verb, folder):
    """Each file call that the verb makes fails once alone, and once with all behind it; the next attempt has to succeed."""
    reference = plant.reference(EVENTS)
    broker = plant.broker(reference.stream)
    daemon = plant.daemon(broker, verb, interval="1h")
    daemon.faults = Faults(plant.folder, getattr(daemon, folder))
    broker.produce(1000)
    daemon.start().examples_reach(300)
    assert ask(daemon, verb) is None
    most = sized(6, 40)
    rounds = len(ERRORS) * 2 * most
    for fault, call, number in ERRORS:
        injected = failures = survived = 0
        for last in (0, EVER):
            for first in range(1, most + 1):
                learned = daemon.status()["examples"]["all"]
                daemon.faults.set(fault, [call], first=first, last=last or first, error=number)
                broker.produce((EVENTS - 7000) // rounds)
                failure = ask(daemon, verb)
                hit = daemon.faults.injected
                if failure and first == 1 and last:
                    # Held up by nothing but its own pace: what is produced while the disk fails is learned.
                    broker.produce(150)
                    daemon.examples_reach(learned + 10)
                daemon.faults.off()
                injected += hit
                failures += failure is not None
                survived += failure is None and hit > 0
                if not hit:
                    assert failure is None, f"no fault was injected, yet: {failure}"
                    break       # the verb makes fewer calls of that kind
                if failure:
                    said = [os.strerror(number)] if number else ["Input/output error", "No space left", "short"]
                    assert any(word in failure for word in said) or "disk" in failure, f"{name_of(fault, call, number)}: {failure}"
                    assert getattr(daemon, folder) in failure, f"the message does not say where: {failure}"
                    assert failure.strip().split(": ", 1)[-1][:60] in daemon.log_text(), f"not in the log: {failure}"
                again = ask(daemon, verb)
                assert again is None, f"{name_of(fault, call, number)} at call {first}: the next {verb} fails too: {again}"
                if failure:
                    assert daemon.status()["snapshot"]["failures_in_row"] == 0
        if injected:
            tally(f"{verb}: {name_of(fault, call, number)}", injected,
                  f"{failures} attempts failed with a message, {survived} succeeded all the same; each next one succeeded, learning went on")
    reference.compare(daemon, f"after failing calls of {verb}")


def snapshot_calls_fail(plant):
    """each file call of a snapshot fails, alone and with all behind it: said, survived, and the next one succeeds"""
    every_call_fails(plant, "snapshot", "snapshot")


def publish_calls_fail(plant):
    """each file call of a publication fails, alone and with all behind it: said, survived, and the next one succeeds"""
    every_call_fails(plant, "publish", "checkpoints")


# ---- full disks

def fill(folder):
    """Leaves no byte free; the file that does it."""
    filler = os.path.join(folder, "filler")
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 16, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
    return filler


def disk_full(plant, disk, name):
    reference = plant.reference(EVENTS)
    broker = plant.broker(reference.stream)
    snapshot = os.path.join(disk, "snapshot")
    daemon = plant.daemon(broker, name, interval="1h", snapshot=snapshot)
    broker.produce(1000)
    daemon.start().examples_reach(300)
    assert ask(daemon, "snapshot") is None
    times = sized(2, 10)
    for _ in range(times):
        filler = fill(disk)
        broker.produce(300)
        failure = ask(daemon, "snapshot")
        assert failure and ("No space left" in failure or "disk full" in failure) and snapshot in failure, f"the operator reads: {failure}"
        learned = daemon.status()["examples"]["all"]
        broker.produce(200)
        status = daemon.examples_reach(learned + 20)        # learning goes on
        assert status["snapshot"]["failures_in_row"] > 0 and status["snapshot"]["error"], status["snapshot"]
        metrics = daemon.metrics()
        assert metrics["snapshot_failures_total"] > 0, "the metric says so"
        assert not ready(daemon), "/readyz says so"
        assert ctl("verify", snapshot, check=False).returncode == 0, "the old snapshot stands"
        os.unlink(filler)
        assert ask(daemon, "snapshot") is None, daemon.log_text()[-2000:]
        assert daemon.status()["snapshot"]["failures_in_row"] == 0 and ready(daemon)

    # With snapshots that come by themselves: after three failures reading is held, until there is space again.
    daemon.configure("1h", interval="100ms")
    assert ask(daemon, "reload") is None
    for _ in range(times):
        filler = fill(disk)
        broker.produce(300)
        daemon.until(lambda s: s["state"] == "held" and s["snapshot"]["failures_in_row"] >= 3, "held")
        assert "reading is paused" in daemon.log_text()
        assert not ready(daemon)
        os.unlink(filler)
        status = daemon.until(lambda s: s["state"] == "running" and s["snapshot"]["failures_in_row"] == 0, "running again")
        broker.produce(100)
        daemon.examples_reach(status["examples"]["all"] + 20)
    daemon.configure("1h", interval="1h")
    reference.compare(daemon, "after a full disk")
    tally(f"disk full, {name}", 2 * times, f"{times} snapshots asked for failed with a message and learning went on, {times} times reading "
          "was held after 3 failures; all went on when space was back, export identical")


def ready(daemon):
    try:
        daemon.get("/readyz")
        return True
    except OSError:
        return False


def tmpfs_full(plant):
    """a tmpfs is full in mid-snapshot: learning goes on, the operator is told, the next one succeeds"""
    disk = os.path.join(plant.folder, "tmpfs.disk")        # not the daemon's own folder: its log has to have room
    os.makedirs(disk)
    plant.mount("-t", "tmpfs", "-o", "size=32m", "tmpfs", disk)
    disk_full(plant, disk, "tmpfs")
    plant.tidy()
    plant.unmount(disk)


def ext4_full(plant):
    """an ext4 is full in mid-snapshot: learning goes on, the operator is told, the next one succeeds"""
    disk = plant.ext4("full", 40)
    disk_full(plant, disk, "ext4")
    plant.tidy()
    plant.unmount(disk)


# ---- a slow disk

class Signs(threading.Thread):
    """Reads what the daemon tells systemd, as systemd would: at once."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.alive = path, 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.start()

    def run(self):
        while True:
            self.alive += b"WATCHDOG=1" in self.socket.recv(4096)


def fsync_hangs(plant):
    """an fsync that hangs holds up nobody but the snapshot: steps go on, so does the watchdog's sign of life"""
    reference = plant.reference(EVENTS)
    broker = plant.broker(reference.stream)
    daemon = plant.daemon(broker, "slow", interval="1h")
    daemon.faults = Faults(plant.folder, daemon.snapshot)
    signs = Signs(os.path.join(plant.folder, "notify"))
    broker.produce(1000)
    daemon.start(environment={"NOTIFY_SOCKET": signs.path, "WATCHDOG_USEC": "2000000"}).examples_reach(300)
    hangs = sized(3, 30)
    for _ in range(hangs):
        daemon.faults.set(HANG, [SYNC])
        daemon.signal(signal.SIGUSR1)
        until(lambda: daemon.faults.hanging, "an fsync that hangs")
        before, alive = daemon.status(), signs.alive
        broker.produce(1500 // hangs + 200)
        after = daemon.until(lambda s: s["steps"] > before["steps"] + 2, "more steps")
        until(lambda: signs.alive >= alive + 3, "signs of life for the watchdog")
        assert daemon.faults.hanging == 1, "it hung all the while"
        assert after["snapshot"]["committed"] == before["snapshot"]["committed"]
        daemon.faults.off()
        daemon.until(lambda s: s["snapshot"]["committed"] > before["snapshot"]["committed"], "the snapshot")
    daemon.faults = None
    reference.compare(daemon, "after slow fsyncs")
    tally("fsync that hangs", hangs, "steps and watchdog signs went on while it hung; committed when it returned, export identical")


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("# not root: nothing can be mounted")
    Plant("errors").run(snapshot_calls_fail, publish_calls_fail, tmpfs_full, ext4_full, fsync_hangs)
