#!/usr/bin/env python3
"""Power cuts, as far as a machine can simulate them: an ext4 on a loop device is shut down without flushing its log."""
import ctypes
import fcntl
import os
import signal
import struct
import time

from plant import Plant, Skip, ctl, sized, tally

EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587d, 2
EVENTS = 30000
CUTS = sized(5, 25)
libc = ctypes.CDLL(None, use_errno=True)


def write_back_some(plant, folder):
    """The kernel may write back any dirty page at any time: pieces of files, chosen by chance, reach the disk before the cut."""
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                fd = os.open(os.path.join(path, name), os.O_RDONLY)
            except OSError:
                continue        # gone meanwhile
            size = os.fstat(fd).st_size
            for _ in range(plant.random.randrange(4)):
                libc.sync_file_range(fd, ctypes.c_long(plant.random.randrange(size + 1) & ~4095), ctypes.c_long(4096 * plant.random.randrange(1, 40)),
                                     7)
            os.close(fd)


def power_cut(folder):
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    except OSError as error:
        raise Skip(f"the file system can't be shut down: {error}") from None
    finally:
        os.close(fd)


def version_number(path):
    return int(os.path.basename(os.readlink(os.path.join(path, "current"))))


def power_is_cut(plant):
    """the power is cut at random instants: what was acknowledged is there, what was published is whole, and it resumes"""
    reference = plant.reference(EVENTS)
    broker = plant.broker(reference.stream)
    disk = plant.ext4("power", 48)
    daemon = plant.daemon(broker, "power", checkpoints="1s", snapshot=os.path.join(disk, "snapshot"), checkpoints_folder=os.path.join(disk, "checkpoints"))
    acknowledged = published = 0
    newer = 0
    for cut in range(CUTS):
        daemon.start()
        broker.produce(EVENTS // CUTS // 2)
        daemon.running()
        if acknowledged:
            status = daemon.status()
            assert status["steps"] >= acknowledged, f"cut {cut}: resumed at step {status['steps']}, {acknowledged} were acknowledged"
        daemon.until(lambda s: s["steps"] > acknowledged, "steps")
        acknowledged = daemon.status()["steps"]
        ctl("snapshot", "--control", daemon.socket)
        if cut % 2 == 0:
            ctl("publish", "--control", daemon.socket)
            published = version_number(daemon.checkpoints)
        broker.produce(EVENTS // CUTS // 2)
        time.sleep(plant.random.uniform(0, 0.4))        # the instant is the injected fault
        write_back_some(plant, disk)
        power_cut(disk)
        daemon.stop(signal.SIGKILL)
        plant.unmount(disk)
        plant.remount("power")
        done = ctl("verify", daemon.snapshot, check=False)
        assert done.returncode == 0, f"cut {cut}: {done.stderr.decode()}"
        current = version_number(daemon.checkpoints)
        assert current >= published, f"cut {cut}: version {current} is current, {published} was acknowledged"
        newer += current > published
        for name in os.listdir(daemon.checkpoints):
            if name.isdigit():
                done = ctl("verify", os.path.join(daemon.checkpoints, name), check=False)
                assert done.returncode == 0, f"cut {cut}: version {name}: {done.stderr.decode()}"
    reference.compare(daemon, f"after {CUTS} power cuts")
    tally("power cut: ext4 shut down without log flush", CUTS,
          f"0 acknowledged snapshots lost, 0 published versions damaged ({newer} times a newer one than acknowledged), export identical")


if __name__ == "__main__":
    Plant("power").run(power_is_cut)
