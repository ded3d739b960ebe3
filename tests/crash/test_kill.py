#!/usr/bin/env python3
"""kill -9: at random instants over one stream, and at every file call of a commit. What is resumed equals never having stopped."""
import glob
import itertools
import json
import os
import shutil
import signal
import time

from plant import BOUNDED, CALL_NAMES, KILL, TORN, Faults, Plant, ctl, sized, tally, until

KILLS = sized(25, 500)
LEARNING_KILLS = sized(10, 200)
STRIDE = sized(5, 1)
EVENTS = sized(12000, 60000)


def kill_at_random(plant, reference, name, kills, learning=False):
    """learning: it has gone on learning before the dice are thrown."""
    broker = plant.broker(reference.stream)
    daemon = plant.daemon(broker, name)
    loads = progress = 0
    before = -1
    for kill in range(kills):
        daemon.start()
        broker.produce(EVENTS // kills)
        if learning:
            daemon.until(lambda s: s["steps"] > max(before, 0), "learning")
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
    reference.compare(daemon, f"after {kills} kills")
    return daemon, (f"{progress} resumed further on, {loads} before the state was loaded; "
                    f"0 of {reference.examples} examples lost, 0 repeated, export identical")


def killed_at_random(plant):
    """killed at random instants over one stream, the daemon learns every example once and ends with the same bytes"""
    tally("kill -9 at random instants, 6 partitions", KILLS, kill_at_random(plant, plant.reference(EVENTS), "random", KILLS)[1])


def killed_with_bounds(plant):
    """the same with rows that wait, expire and are pushed out, pending that leave early, late clicks, four kinds of topics"""
    reference = plant.reference(EVENTS, BOUNDED)
    happened = counts(reference.status)
    assert all(happened.values()), f"not all that comes and goes did so: {happened}"
    daemon, outcome = kill_at_random(plant, reference, "bounded", LEARNING_KILLS, learning=True)
    assert counts(daemon.last) == happened, f"{counts(daemon.last)} instead of {happened}"
    tally("the same, with rows, pending and histories that are bounded", LEARNING_KILLS, outcome)


def counts(status):
    """What came and went, by kind; the numbers of a run that was killed are those of one that was not."""
    found = {f"{table} evicted": status["tables"][table]["evicted"] for table in ("item", "city", "category")}
    return {**found, **{what: status["join"][what] for what in ("matched", "expired", "late", "corrected", "duplicate", "orphan", "forced")}}


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


def killed_while_restoring(plant):
    """restore killed before and in each of its file calls: the state is the old one or the backup's, whole; the old is never gone"""
    reference = plant.reference(EVENTS)
    broker = plant.broker(reference.stream)
    daemon = plant.daemon(broker, "restored")
    states = []
    for copy in ("backup", "old"):          # two states of one stream, each a directory to begin from
        broker.produce(EVENTS // 6)
        daemon.start().examples_reach(EVENTS // 10 * (len(states) + 1))
        assert daemon.stop() == 0
        states.append(os.path.join(daemon.folder, copy))
        shutil.copytree(daemon.snapshot, states[-1])
    steps = {state: steps_of(state) for state in states}
    assert len(set(steps.values())) == 2, steps
    faults = Faults(plant.folder, daemon.folder)
    outcomes = {"old": 0, "backup": 0}
    killed = 0
    for fault in (KILL, TORN):
        # In short every fifth call, from one of them on that chance chooses.
        for point in itertools.count(plant.random.randint(1, STRIDE), STRIDE):
            place = os.path.join(daemon.folder, f"state.{fault}.{point}")
            shutil.copytree(states[1], place)
            command = ("restore", states[0], place, "--force")
            done = ctl(*command, check=False, env={**os.environ, **faults.set(fault, first=point).environment()})
            if done.returncode == 0:
                break
            assert done.returncode == -signal.SIGKILL, done.stderr
            killed += 1
            now = steps_of(place)
            assert now in steps.values(), f"{place} is at step {now}, neither {steps}"
            outcomes["backup" if now == steps[states[0]] else "old"] += 1
            kept = [place] + glob.glob(place + ".*")
            old = [path for path in kept if whole(path) and steps_of(path) == steps[states[1]]]
            assert old, f"the old state is in none of {kept}"
            # And again, undisturbed: the killed one's unfinished copy goes, every old state stays.
            ctl(*command)
            assert not glob.glob(place + "*.new-*"), glob.glob(place + "*")
            assert all(path == place or os.path.isdir(path) for path in old), old
            for path in [place] + glob.glob(place + ".*"):
                shutil.rmtree(path)
        assert point > 10, "too few file calls: the faults were not in its way"
        assert steps_of(place) == steps[states[0]]
    assert outcomes["old"] and (outcomes["backup"] or STRIDE > 1), outcomes
    daemon.configure("1h", snapshot=place)  # what was restored goes on as what never stopped
    daemon.snapshot = place
    reference.compare(daemon, "restored")
    tally("kill -9 before and in every file call of restore", killed, f"{outcomes['old']} still the old, {outcomes['backup']} the backup; 0 in between")


def whole(path):
    return ctl("verify", path, check=False).returncode == 0


def steps_of(path):
    assert whole(path), f"{path} is not whole"
    return int(json.loads(ctl("inspect", path, "--json").stdout)["meta"]["steps"])


if __name__ == "__main__":
    Plant("kill").run(killed_at_random, killed_with_bounds, killed_before_every_call, killed_in_the_middle_of_every_call,
                      killed_while_restoring)
