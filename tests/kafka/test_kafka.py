#!/usr/bin/env python3
"""The whole daemon on a real Apache Kafka: several partitions, restarts on both sides, garbage, offsets that are gone."""
import json
import os
import signal
import time

from harness import BUILD, Tests, ctl, jitter, until

PARTITIONS = 3
EVENTS = 60000
STREAM = ["generate", "--profile", "small", "--users", "2000", "--items", "500", "--span", "30m", "--click-delay", "500ms", "--window", "2s"]

state = {}      # what later tests take from earlier ones


def topics(tests, name):
    impressions, clicks = f"{name}.impressions", f"{name}.clicks"
    tests.broker.create(f"{impressions}:{PARTITIONS}", f"{clicks}:{PARTITIONS}")
    return impressions, clicks


def generate(tests, names, events, *more):
    """Produces the stream; returns how many different impressions it holds, counted from the same stream written to files."""
    stream = STREAM + ["--events", events, *more]
    ctl(*stream, "--kafka", tests.broker.address, "--topics", f"{names[0]},{names[1]},unused,unused")
    return impressions_of(tests, stream)


def impressions_of(tests, stream):
    lines = ctl(*stream, "--output", "-").stdout.splitlines()
    return len({json.loads(line)["impression_id"] for line in lines if b'"impression"' in line})


def records(tests, names):
    return sum(end for name in names for _, end in tests.broker.ends(name))


def everything_is_learned(tests):
    """a backlog in three partitions is learned whole, and SIGTERM leaves the offsets committed"""
    names = topics(tests, "whole")
    wanted = generate(tests, names, EVENTS)
    daemon = tests.daemon("whole", *names).start().drained(2 * PARTITIONS)
    assert daemon.examples() == wanted, f"{daemon.examples()} examples of {wanted} impressions"
    assert daemon.sum("events_total", result="ok") == records(tests, names)
    assert daemon.sum("dead_letters_total") == 0
    assert daemon.stop() == 0, daemon.log_text()[-2000:]
    for name in names:
        ends = [end for _, end in tests.broker.ends(name)]
        assert tests.broker.committed("whole", name) == ends, (tests.broker.committed("whole", name), ends)
        assert min(ends) > 0, "every partition has records"
    state.update(names=names, wanted=wanted, export=daemon.export(), daemon=daemon)


def killed_daemon_resumes(tests):
    """kill -9 again and again: the resumed daemon ends with the very bytes of an uninterrupted one"""
    daemon = tests.daemon("killed", *state["names"])
    kills = 0
    while kills < 8:
        daemon.start()
        until(lambda: daemon.steps() > 0 or daemon.caught_up(2 * PARTITIONS), "first steps", 30)
        time.sleep(jitter(0.0, 0.3))
        if daemon.caught_up(2 * PARTITIONS):
            break
        daemon.stop(signal.SIGKILL)
        kills += 1
    assert kills >= 2, f"killed {kills} times before all was learned: a longer backlog is needed"
    daemon.stop(signal.SIGKILL)
    daemon.start().drained(2 * PARTITIONS)
    assert daemon.stop() == 0, daemon.log_text()[-2000:]
    export = daemon.export()
    assert len(export) == len(state["export"]), "as many rows"
    assert export == state["export"], f"the same bytes after {kills} kills"


def broker_restarts(tests):
    """the broker goes away twice in mid-stream, once by kill -9: nothing is lost, nothing comes twice"""
    names = topics(tests, "restart")
    stream = STREAM + ["--events", "24000", "--duplicate-share", "0"]
    daemon = tests.daemon("restart", *names).start()
    producer = tests.background(os.path.join(BUILD, "coldstreamctl"), *stream, "--kafka", tests.broker.address,
                                "--topics", f"{names[0]},{names[1]},unused,unused", "--rate", "2000",
                                "--property", "enable.idempotence=true,message.timeout.ms=120000")
    until(lambda: daemon.examples() > 500, "the first examples")
    tests.broker.restart()
    before = daemon.examples()
    until(lambda: daemon.examples() > before, "examples after a restart")
    tests.broker.kill()
    time.sleep(1)
    assert daemon.alive()
    tests.broker.restart()
    assert producer.wait(120) == 0, producer.stderr.read().decode()[-1000:]
    wanted = impressions_of(tests, stream)
    until(lambda: daemon.sum("events_total") >= records(tests, names), "all records")
    daemon.drained(2 * PARTITIONS)
    assert daemon.sum("events_total", result="ok") == records(tests, names) == int(stream[stream.index("--events") + 1])
    assert daemon.examples() == wanted, f"{daemon.examples()} examples of {wanted} impressions"
    assert daemon.stop() == 0, daemon.log_text()[-2000:]


GARBAGE = [
    (b"\xff\xfe not json", "not_json"),
    (b'{"event":"impression","ts":1700006500000}', "missing"),
    (b'{"event":"impression","impression_id":"g0","ts":1700006500000,"user_id":"u","user":{"age":1e999},"item_id":"i"}', "not_finite"),
    (b'{"event":"impression","impression_id":"g1","ts":"yesterday","user_id":"u","item_id":"i"}', "mistyped"),
    (b'{"event":"impression","impression_id":"g2","ts":-5,"user_id":"u","item_id":"i"}', "time_out_of_bounds"),
    (b'{"event":"dance","impression_id":"g3","ts":1700006500000}', "unknown_event"),
    (b"[" * 5000, "mistyped"),
]


def garbage_goes_to_dead_letters(tests):
    """garbage between good records: each to the dead letters unchanged, with its reason; the rest is learned"""
    names = topics(tests, "garbage")
    bodies = [body for body, _ in GARBAGE]
    for partition in range(PARTITIONS):
        tests.broker.produce(names[0], partition, bodies[:3], "-k", "the key", "-H", "trace=17")
    wanted = generate(tests, names, 4000)
    for partition in range(PARTITIONS):
        tests.broker.produce(names[0], partition, bodies[3:], "-k", "the key", "-H", "trace=17")
    tests.broker.produce(names[0], 0, [b"tombstone:"], "-K", ":", "-Z")
    daemon = tests.daemon("garbage", *names).start().drained(2 * PARTITIONS)
    assert daemon.examples() == wanted, f"{daemon.examples()} examples of {wanted} impressions"
    assert daemon.sum("events_total", result="empty") == 1
    bad = PARTITIONS * len(GARBAGE)
    assert daemon.sum("dead_letters_total") == bad, daemon.sum("dead_letters_total")
    assert daemon.stop() == 0, daemon.log_text()[-2000:]
    letters = tests.broker.consume(f"{names[0]}.dlq", "%k\x01%h\x01%s\x02").split(b"\x02")[:-1]
    assert len(letters) == bad, f"{len(letters)} dead letters of {bad}"
    seen = []
    for letter in letters:
        key, headers, body = letter.split(b"\x01")
        header = dict(pair.split("=", 1) for pair in headers.decode().split(",") if "=" in pair)
        assert key == b"the key" and header["trace"] == "17", letter
        assert header["__connect.errors.topic"] == names[0] and header["__connect.errors.partition"] in "012", header
        assert int(header["__connect.errors.offset"]) >= 0 and header["__connect.errors.stage"], header
        assert "__connect.errors.exception.message" in headers.decode(), headers
        expected = dict(GARBAGE)[body]
        assert expected is None or header["coldstream.reason"] == expected, (body[:80], header)
        seen.append((header["__connect.errors.partition"], body))
    assert sorted(seen) == sorted((str(p), b) for p in range(PARTITIONS) for b in bodies), "each one once"


def lost_offsets_stop_the_daemon(tests):
    """offsets that are gone from the broker: exit status 65 and what to do about it, never a jump"""
    names, daemon = state["names"], state["daemon"]
    generate(tests, names, 2000, "--seed", "2", "--start", "1700010000000")
    first = tests.broker.ends(names[0])
    tests.broker.admin("delete-before", names[0], "1", first[1][1])
    daemon.start()
    status = daemon.process.wait(60)
    text = daemon.log_text()
    assert status == 65, f"status {status}: {text[-2000:]}"
    assert names[0] in text and "offset" in text, text[-2000:]
    assert daemon.export() == state["export"], "the snapshot is as it was"


if __name__ == "__main__":
    Tests().run(everything_is_learned, killed_daemon_resumes, broker_restarts, garbage_goes_to_dead_letters, lost_offsets_stop_the_daemon)
