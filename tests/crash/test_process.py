#!/usr/bin/env python3
"""What is done to the process: a second one on the same state, signals at bad moments, limits."""
import os
import resource
import signal
import subprocess
import time

from plant import BUILD, HANG, OPEN, SYNC, Faults, Plant, ctl, harness, sized, tally, until

EVENTS = 12000


def second_is_fenced(plant):
    """a second daemon on the same state ends with 76, also while the first is stopped; the first goes on"""
    reference = plant.reference(EVENTS)
    broker = plant.broker(reference.stream)
    first = plant.daemon(broker, "first")
    first.start()
    broker.produce(2000)
    first.examples_reach(500)
    second = plant.daemon(broker, "second", snapshot=first.snapshot)
    times = sized(3, 20)
    for _ in range(times):
        for stopped in (False, True):
            if stopped:
                first.signal(signal.SIGSTOP)
            assert second.start().wait() == 76, second.log_text()
            assert str(first.process.pid) in second.log_text(), f"it does not say who holds it: {second.log_text()}"
            first.signal(signal.SIGCONT)
        broker.produce(200)
        first.examples_reach(first.status()["examples"]["all"] + 10)
        ctl("snapshot", "--control", first.socket)
    reference.compare(first, "after second daemons")
    tally("a second daemon on the same state", 2 * times, "exit 76 each time, half of them with the first under SIGSTOP; the first learned on, export identical")


def at_once(daemon, condition, what):
    until(lambda: not daemon.alive() or condition(), what, 60)


def ends_well(daemon, what):
    status = daemon.wait(60)
    assert status == 0, f"{what}: status {status}\n{daemon.log_text()[-2000:]}"


def is_itself(daemon):
    """From then on no signal ends the program by default; before, it is not the program's yet (daemon/start_alone.h)."""
    with open(f"/proc/{daemon.process.pid}/environ", "rb") as environment:
        return b"OPENBLAS_NUM_THREADS=1" in environment.read()


def signals_at_bad_moments(plant):
    """SIGTERM and SIGHUP at start, before the first assignment, in a snapshot, twice, in a flood: a clean end, and nothing lost"""
    reference = plant.reference(EVENTS)
    broker = plant.broker(reference.stream)
    daemon = plant.daemon(broker, "signals", checkpoints="1s")
    daemon.faults = Faults(plant.folder, daemon.snapshot)
    log = daemon.log_text
    broker.produce(2000)
    daemon.start().examples_reach(500)
    ends_well(daemon, daemon.signal(signal.SIGTERM))
    sent = 5
    for _ in range(sized(2, 20)):
        # While the state is opened: it hangs in the opening of its files until the signals are there.
        for numbers in ((signal.SIGTERM,), (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM), (signal.SIGUSR1,) * 50 + (signal.SIGTERM,)):
            daemon.faults.set(HANG, [OPEN])
            daemon.start()
            until(lambda: daemon.faults.hanging, "the state being opened")
            daemon.signal(*numbers)
            daemon.faults.off()
            ends_well(daemon, f"{numbers[:3]} while loading")
            sent += len(numbers)
        # Before the first assignment: the broker is away.
        broker.order("down")
        daemon.start()
        at_once(daemon, lambda: "notice started" in log(), "started")
        daemon.signal(signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM)
        ends_well(daemon, "SIGTERM before the first assignment")
        broker.order("up")
        # In a commit: its fsync hangs. The last snapshot waits for it.
        daemon.start().running()
        broker.produce(200)
        daemon.faults.set(HANG, [SYNC])
        daemon.signal(signal.SIGUSR1)
        until(lambda: daemon.faults.hanging, "a commit")
        daemon.signal(signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM)
        at_once(daemon, lambda: "stopping" in log(), "stopping")
        assert daemon.alive()
        daemon.faults.off()
        ends_well(daemon, "SIGTERM in a commit")
        # Twice: the second one does not wait for the disk.
        daemon.start().running()
        broker.produce(200)
        daemon.faults.set(HANG, [SYNC])
        daemon.signal(signal.SIGUSR1)
        until(lambda: daemon.faults.hanging, "a commit")
        daemon.signal(signal.SIGTERM)
        at_once(daemon, lambda: "stopping" in log(), "stopping")
        daemon.signal(signal.SIGTERM)
        ends_well(daemon, "SIGTERM twice in a commit that hangs")
        assert "stopped at once" in log()
        daemon.faults.off()
        # A flood while it learns.
        daemon.start().running()
        for _ in range(10):
            broker.produce(20)
            daemon.signal(*(signal.SIGUSR1, signal.SIGHUP) * 20)
        daemon.signal(signal.SIGTERM)
        ends_well(daemon, "SIGTERM after a flood")
        sent += 4 + 4 + 3 + 400 + 1
    # From the first instant on, whatever of the start is under way.
    starts = sized(20, 200)
    for start in range(starts):
        daemon.start()
        while daemon.alive() and not is_itself(daemon):
            pass
        time.sleep(plant.random.uniform(0, 0.05))       # the instant is the fault
        number = (signal.SIGHUP, signal.SIGUSR1)[start % 2]
        daemon.signal(number)
        sent += 1
        at_once(daemon, lambda: "notice started" in log(), "started")
        assert daemon.alive(), f"{number!r} ended it with {daemon.process.poll()}:\n{log()}"
        daemon.signal(signal.SIGTERM)
        ends_well(daemon, "SIGTERM")
        sent += 1
    daemon.faults = None
    reference.compare(daemon, "after signals")
    tally("signals while loading, unassigned, in a commit, twice, in floods", sent, "each end with status 0 and in time, export identical")


def limits(plant):
    """too few files or too little memory, at the start or later: an end with a message and a status, and the state as it was"""
    reference = plant.reference(EVENTS)
    broker = plant.broker(reference.stream)
    daemon = plant.daemon(broker, "limits")
    broker.produce(3000)
    daemon.start().examples_reach(1000)
    assert daemon.stop() == 0
    ends = {}

    def check(limit):
        status = daemon.wait()
        text = daemon.log_text()
        what = f"{limit}: status {status}\n{text[-1500:]}"
        # 127: libraries can't be loaded. SIGABRT is ours when there is no memory in the middle of a step.
        assert status in (0, 1, 127, -signal.SIGABRT), what
        assert status == 0 or [line for line in text.splitlines() if "running as root" not in line], f"{what}: without a word"
        ends[status] = ends.get(status, 0) + 1
        done = ctl("verify", daemon.snapshot, check=False)
        assert done.returncode == 0, f"{what}\n{done.stderr.decode()}"

    starts = [("nofile", files) for files in sized([4, 6, 8, 10, 12, 16, 20, 24], range(3, 40))]
    for limit, value in starts:
        daemon.start(before=["prlimit", f"--{limit}={value}:{value}"])
        at_once(daemon, lambda: "notice started" in daemon.log_text(), "an end or a start")
        if daemon.alive():      # it gets along with so little
            broker.produce(20)
            daemon.signal(signal.SIGTERM)
        check(f"RLIMIT_{limit} {value}")
    # A model that is larger than what libraries leave. Not less than these need to begin at all, nor so much that the model is made: where
    # threads don't start, librdkafka 2.0.2 waits for one of them for ever (rd_kafka_new). Neither is ours to test.
    alone = {"OPENBLAS_NUM_THREADS": "1"}
    large = plant.daemon(broker, "large")
    with open(large.config) as file:
        text = file.read().replace(harness.MODEL, "")
    with open(large.config, "w") as file:
        file.write(text)
    floor = next(megabytes for megabytes in range(16, 120) if subprocess.run(
        ["prlimit", f"--as={megabytes << 20}", os.path.join(BUILD, "coldstreamd"), "--version"], env={**os.environ, **alone},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0)
    for megabytes in range(floor + 1, 128, sized(16, 2)):
        starts.append(("as", megabytes << 20))
        status = large.start(before=["prlimit", f"--as={megabytes << 20}"], environment=alone).wait()
        assert status == 1 and "memory" in large.log_text(), f"{megabytes} MiB: status {status}\n{large.log_text()[-1500:]}"
        ends[status] = ends.get(status, 0) + 1
    # Later: no file more than it has open, or so much memory more.
    squeezes = [("nofile", None)] + [("as", kilobytes) for kilobytes in sized([0, 512, 4096], range(0, 12288, 1024))]
    for limit, more in squeezes:
        daemon.start()
        learned = daemon.running()["examples"]["all"]
        broker.produce(200)     # OpenBLAS waits for ever for the memory of its first product; from the second on it has it
        learned = daemon.examples_reach(learned + 50)["examples"]["all"]
        pid = daemon.process.pid
        if limit == "nofile":
            value = len(os.listdir(f"/proc/{pid}/fd"))
        else:
            with open(f"/proc/{pid}/statm") as pages:
                value = int(pages.read().split()[0]) * 4096 + (more << 10)
        kind = resource.RLIMIT_NOFILE if limit == "nofile" else resource.RLIMIT_AS
        before = resource.prlimit(pid, kind, (value, resource.prlimit(pid, kind)[1]))
        broker.produce(300)
        os.kill(pid, signal.SIGUSR1)
        if limit == "nofile":
            until(lambda: "Too many open files" in daemon.log_text(), "a word on it")
            resource.prlimit(pid, kind, before)
            daemon.examples_reach(learned + 50)
        else:
            at_once(daemon, lambda: (daemon.status() or {"examples": {"all": 0}})["examples"]["all"] >= learned + 50, "an end, or more examples")
        if daemon.alive():
            daemon.signal(signal.SIGTERM)
        check(f"RLIMIT_{limit} {value} in mid-run")
    reference.compare(daemon, "after limits")
    tally("RLIMIT_NOFILE and RLIMIT_AS too low, at the start and later", len(starts) + len(squeezes),
          "; ".join(f"exit {s}: {n}" for s, n in sorted(ends.items())) + "; each with a message, state whole, export identical")


if __name__ == "__main__":
    Plant("process").run(second_is_fenced, signals_at_bad_moments, limits)
