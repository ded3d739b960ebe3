#!/usr/bin/env python3
"""kill -9: at random instants over one stream, and at every file call of a commit. What is resumed equals never having stopped."""
import signal
import time

from plant import CALL_NAMES, KILL, TORN, Faults, Plant, sized, tally, until

KILLS = sized(25, 500)
EVENTS = sized(12000, 60000)


def killed_at_random(plant):
    """killed at random instants over one stream, the daemon learns every example once and ends with the same bytes"""
    reference = plant.reference(EVENTS)
    broker = plant.broker(reference.stream)
    daemon = plant.daemon(broker, "random")
    loads = progress = 0
    before = -1
    for kill in range(KILLS):
        daemon.start()
        broker.produce(EVENTS // KILLS)
        # From the loading of the state up to some commits later. The instant is the injected fault; nothing waits for it.
        time.sleep(plant.random.uniform(0.02, 0.6))
        assert daemon.alive(), f"ended by itself at kill {kill}, status {daemon.process.poll()}:\n{daemon.log_text()[-3000:]}"
        daemon.stop(signal.SIGKILL)
        log = daemon.log_text()
        resumed = [line for line in log.splitlines() if "resumed from snapshot" in line]
        loads += not resumed and "starting anew" not in log
        steps = int(resumed[0].split("steps=")[1].split()[0]) if resumed else 0
        assert steps >= before or not resumed, f"kill {kill}: resumed at step {steps}, after {before}"
        progress += steps > before
        before = max(before, steps)
    reference.compare(daemon, f"after {KILLS} kills")
    tally("kill -9 at random instants, 6 partitions", KILLS,
          f"{progress} resumed further on, {loads} before the state was loaded; 0 of {reference.examples} examples lost, 0 repeated, export identical")


def killed_inside_commits(plant, fault, name, points):
    reference = plant.reference(EVENTS)
    broker = plant.broker(reference.stream)
    daemon = plant.daemon(broker, name, checkpoints="1s")
    daemon.faults = Faults(plant.folder, daemon.snapshot, daemon.checkpoints)
    died = [0] * len(CALL_NAMES)
    broker.produce(EVENTS // 10)
    share = EVENTS // 2 // len(points)
    for point in points:
        daemon.faults.set(fault, first=point)
        daemon.start()
        until(lambda: not daemon.alive() or "started" in daemon.log_text(), "started")
        for piece in range(1000):
            # One commit after the other, the first ones with new events, until it comes to that call.
            if not daemon.alive():
                break
            broker.produce(share // 4 if piece < 4 else 0)
            daemon.signal(signal.SIGUSR1)
            time.sleep(0.02)
        status = daemon.wait()
        assert status == -signal.SIGKILL, f"{name} {point}: status {status} instead of a kill:\n{daemon.log_text()[-3000:]}"
        for call in range(len(CALL_NAMES)):
            died[call] += daemon.faults.of(call)
    daemon.faults = None
    reference.compare(daemon, f"killed at {len(points)} calls")
    return ", ".join(f"{count} at {call}" for call, count in zip(CALL_NAMES, died) if count)


def killed_before_every_call(plant):
    """killed instead of each file call of the first commits in turn: as if never stopped"""
    points = range(1, sized(40, 150) + 1)
    calls = killed_inside_commits(plant, KILL, "before", points)
    tally("kill -9 instead of the n-th file call of a commit", len(points), f"{calls}; export identical")


def killed_in_the_middle_of_every_call(plant):
    """killed with half of a write done, or right behind any other call, each in turn: as if never stopped"""
    points = range(1, sized(40, 150) + 1)
    calls = killed_inside_commits(plant, TORN, "torn", points)
    tally("kill -9 inside the n-th file call of a commit (half of a write done)", len(points), f"{calls}; export identical")


if __name__ == "__main__":
    Plant("kill").run(killed_at_random, killed_before_every_call, killed_in_the_middle_of_every_call)
