#!/usr/bin/env python3
"""Faults at the broker and around it, on a real Apache Kafka: topics made anew, transactions, growth, long absences, poison."""
import json
import os
import signal
import time

from harness import HERE, Tests, ctl, run, until

START = 1700000000000


def impression(i, stream=0):
    return json.dumps({"event": "impression", "impression_id": f"{stream}.{i}", "ts": START + 20 * i, "user_id": f"u{i % 97}",
                       "user": {"age": 18 + i % 50, "gender": "fm"[i % 2], "city": f"c{i % 7}"}, "context": {"hour": i // 100 % 24},
                       "behaviors": ["i1", "i2"] if i % 3 else [], "item_id": f"i{i % 50}", "item": {"category": f"k{i % 5}"}}).encode()


def click(i, stream=0):
    return json.dumps({"event": "click", "impression_id": f"{stream}.{i}", "ts": START + 20 * i + 300}).encode()


def produce(tests, names, begin, end, stream=0, partitions=1):
    """Impressions begin to end, a third of them clicked, spread over the partitions."""
    for p in range(partitions):
        chosen = [i for i in range(begin, end) if i % partitions == p]
        tests.broker.produce(names[0], p, [impression(i, stream) for i in chosen])
        clicked = [click(i, stream) for i in chosen if i % 3 == 0]
        if clicked:
            tests.broker.produce(names[1], p, clicked)


def topics(tests, name, partitions=1):
    names = f"{name}.impressions", f"{name}.clicks"
    tests.broker.create(*(f"{n}:{partitions}" for n in names))
    return names


def make_anew(tests, topic, partitions=1):
    tests.broker.admin("delete", topic)

    def created():
        try:
            tests.broker.create(f"{topic}:{partitions}")
            return True
        except AssertionError:      # the old one is still on its way out
            return False
    until(created, f"{topic} made anew")
    until(lambda: len(tests.broker.ends(topic)) == partitions, f"{topic} has its leaders")


def learned_and_stopped(tests, name, count=200):
    """A daemon that has learned `count` examples of topics of one partition and was stopped."""
    names = topics(tests, name)
    produce(tests, names, 0, count)
    daemon = tests.daemon(name, *names).start().drained(2)
    assert daemon.examples() == count, daemon.examples()
    assert daemon.stop() == 0, daemon.log_text()[-2000:]
    return names, daemon


def refused(daemon, *words):
    status = daemon.wait()
    text = daemon.log_text()
    assert status == 65, f"status {status}: {text[-2000:]}"
    for word in words:
        assert word in text, (word, text[-2000:])


def topic_made_anew_is_noticed(tests):
    """a topic deleted, made anew and filled past our offset: exit 65 that names partition, offset, both records; nothing is learned of it"""
    names, daemon = learned_and_stopped(tests, "anew")
    export = daemon.export()
    daemon.start().drained(2)       # unchanged: goes on
    assert daemon.stop() == 0
    make_anew(tests, names[0])
    produce(tests, names, 0, 300, stream=1)
    daemon.start()
    refused(daemon, f"{names[0]} [0]", "offset 199 is not the one", "coldstreamctl offsets --config")
    assert daemon.export() == export, "the snapshot is as it was"
    for arguments in ["--to", "soon"], ["--to", "latest", "--topic", "nobody's"], ["--to", "latest", "--partition", "7"]:
        assert ctl("offsets", "--config", daemon.config, *arguments, check=False).returncode == 2, arguments
    said = ctl("offsets", "--config", daemon.config, "--to", "earliest", "--topic", names[0]).stderr.decode()
    assert f"{names[0]} [0]: 200 -> 0" in said, said
    assert daemon.export() == export, "what was learned stays"
    daemon.start().drained(2)
    assert daemon.examples() == 300, daemon.examples()
    busy = ctl("offsets", "--config", daemon.config, "--to", "latest", check=False)
    assert busy.returncode == 76, busy.stderr.decode()
    assert daemon.stop() == 0, daemon.log_text()[-2000:]


def shorter_topic_is_noticed(tests):
    """a topic made anew with fewer records than we have read, or an empty one: exit 65"""
    names, daemon = learned_and_stopped(tests, "shorter")
    make_anew(tests, names[1])
    daemon.start()
    refused(daemon, f"{names[1]} [0]", "out of range", "the broker has 0 to 0")
    assert ctl("offsets", "--config", daemon.config, "--to", "same", check=False).returncode == 65
    moved = ctl("offsets", "--config", daemon.config, "--to", "latest", "--json")
    answer = json.loads(moved.stdout)
    assert answer.keys() == {"directory", "positions"} and moved.stderr == b"", moved
    assert all(position.keys() == {"topic", "partition", "from", "to"} for position in answer["positions"]), answer
    clicks = [position for position in answer["positions"] if position["topic"] == names[1]]
    assert len(clicks) == 1 and clicks[0]["partition"] == 0 and clicks[0]["from"] > 0 and clicks[0]["to"] == 0, answer
    produce(tests, names, 200, 230)
    daemon.start().drained(2)
    assert daemon.examples() == 30, (daemon.status(), daemon.log_text()[-3000:])
    assert daemon.stop() == 0


def deleted_last_record_is_a_warning(tests):
    """retention that took the last record learned, and no more: a warning, and reading goes on"""
    names, daemon = learned_and_stopped(tests, "retention")
    tests.broker.admin("delete-before", names[0], "0", "200")
    produce(tests, names, 200, 260)
    daemon.start().drained(2)
    assert daemon.examples() == 260 - 200, daemon.examples()
    assert "can't be told whether the topic was made anew" in daemon.log_text(), daemon.log_text()[-2000:]
    tests.broker.admin("delete-before", names[0], "0", "260")
    assert daemon.stop() == 0


def topic_made_anew_while_running(tests):
    """a topic deleted and made anew under a running daemon, filled past our offset: exit 65, never a silent change of stream"""
    names = topics(tests, "under")
    produce(tests, names, 0, 200)
    daemon = tests.daemon("under", *names).start().drained(2)
    make_anew(tests, names[0])
    produce(tests, names, 0, 400, stream=1)
    refused(daemon, names[0], "coldstreamctl offsets")


def aborted_transactions_are_not_learned(tests):
    """records of aborted transactions are never learned, those of committed ones are; an open one is warned of and waited for"""
    names = topics(tests, "transactions")
    daemon = tests.daemon("transactions", *names).start()
    tests.broker.transaction("t1", "commit", names[0], 0, [impression(i) for i in range(100)])
    tests.broker.transaction("t1", "abort", names[0], 0, [impression(i, stream=9) for i in range(100, 150)])
    tests.broker.transaction("t1", "commit", names[0], 0, [impression(i) for i in range(150, 200)])
    produce(tests, names, 200, 210)
    daemon.drained(2)
    assert daemon.examples() == 160, daemon.examples()
    tests.broker.transaction("t2", "open", names[0], 0, [impression(i, stream=9) for i in range(210, 220)])
    for i in range(220, 230):       # behind the open one: readable once it has ended
        tests.broker.produce(names[0], 0, [impression(i)])
        time.sleep(0.3)
    until(lambda: "a transaction was opened here" in daemon.log_text(), "the warning of an open transaction")
    assert f"topic={names[0]} partition=0" in daemon.log_text().split("a transaction was opened here")[1].splitlines()[0]
    until(lambda: daemon.sum("transaction_held_records", topic=names[0]) >= 10, "a gauge that says how much waits behind it")
    assert daemon.examples() == 160 and daemon.caught_up(2), "lag counts to the last stable offset"
    tests.broker.transaction("t2", "abort", names[0], 0, [])        # same id: the broker aborts what was left open
    until(lambda: daemon.sum("events_total", topic=names[0], result="ok") == 170, "the records behind the transaction")
    until(lambda: daemon.sum("transaction_held_records") == 0, "nothing held any more")
    daemon.drained(2)
    assert daemon.examples() == 170, daemon.examples()
    assert daemon.stop() == 0, daemon.log_text()[-2000:]
    assert tests.broker.committed("transactions", names[0]) == [tests.broker.ends(names[0])[0][1]], "lag tools see no lag"
    daemon.start().drained(2)       # the last offset is a control record: still no reason to refuse
    assert daemon.examples() == 0 and daemon.stop() == 0


def grown_topics_are_read_whole(tests):
    """partitions added while running are read from their beginning, with a warning"""
    names = topics(tests, "grown")
    produce(tests, names, 0, 100)
    daemon = tests.daemon("grown", *names).start().drained(2)
    for name in names:
        tests.broker.admin("grow", name, 3)
    produce(tests, names, 100, 400, partitions=3)
    until(lambda: daemon.sum("events_total", result="ok", topic=names[0]) == 400, "records of the new partitions")
    daemon.drained(6)
    assert daemon.examples() == 400, daemon.examples()
    assert daemon.log_text().count("new partition, read from its beginning") == 4, daemon.log_text()[-3000:]
    assert daemon.stop() == 0
    daemon.start().drained(6)
    assert daemon.examples() == 0 and daemon.stop() == 0


AWAY = 40000
STEPWISE = "size: 16, max_delay: 1s"    # so many steps that a fast machine, too, is in mid-stream when a standby is there
SHORT = ", socket.timeout.ms: 1000, session.timeout.ms: 2000, heartbeat.interval.ms: 500, max.poll.interval.ms: 2000, " \
        "metadata.max.age.ms: 3000, connections.max.idle.ms: 5000"


def long_absence_is_waited_out(tests):
    """the broker away at start, and in mid-stream for longer than every timeout: alive, not ready, then all is learned once"""
    names = topics(tests, "away", 3)
    produce(tests, names, 0, AWAY, partitions=3)
    whole = tests.daemon("away.whole", *names, properties=SHORT).start().drained(6)
    assert whole.examples() == AWAY and whole.stop() == 0
    tests.broker.kill()
    daemon = tests.daemon("away", *names, properties=SHORT, kafka="discover: 1s\n    read_ahead: 1MiB").start()
    until(lambda: "brokers" in (daemon.ready() or ""), "not ready without a broker")
    ctl("pause", "--control", daemon.socket)            # until the broker is back: its start takes as long as all the learning
    tests.broker.restart()
    ctl("resume", "--control", daemon.socket)
    until(lambda: daemon.examples() > 0, "the first examples")
    tests.broker.kill()
    until(lambda: "brokers" in str(daemon.ready()), "not ready while the broker is away")
    assert daemon.examples() < AWAY, "in mid-stream: a longer backlog is needed"
    until_time = time.monotonic() + 8           # beyond every timeout above
    until(lambda: time.monotonic() > until_time and daemon.alive(), "still alive", 30)
    tests.broker.restart()
    until(lambda: daemon.ready() is True, "ready again")
    daemon.drained(6)
    assert daemon.examples() == AWAY, daemon.examples()
    assert daemon.stop() == 0, daemon.log_text()[-2000:]
    assert daemon.export() == whole.export(), "the same bytes as without the absence"


def broker_goes_in_a_pause(tests):
    """the broker gone while reading is paused: noticed then, and still known when what was read ahead is taken"""
    names = topics(tests, "pause")
    produce(tests, names, 0, 100)
    daemon = tests.daemon("pause", *names).start().drained(2)
    ctl("pause", "--control", daemon.socket)
    produce(tests, names, 100, 200)
    until(lambda: daemon.status()["lag"] == 133, lambda: f"it is read ahead: {daemon.status()['sources']}")
    tests.broker.kill()
    until(lambda: "brokers" in str(daemon.ready()), "not ready while the broker is away")
    ctl("resume", "--control", daemon.socket)
    until(lambda: daemon.sum("events_total", result="ok") == 267, "what was read ahead is taken")
    assert "brokers" in str(daemon.ready()), daemon.ready()
    assert daemon.stop() == 0, daemon.log_text()[-2000:]
    tests.broker.restart()


def poison(partition):
    head = b'{"event":"impression","impression_id":"p%d","ts":1700000001000,"user_id":"u","item_id":"i"' % partition
    return [
        (head + b',"user":{"age":NaN}}', "not_json"),
        (head + b',"user":{"age":1e999}}', "not_finite"),
        (head + b',"user":{"city":"\xff\xfe"}}', "not_json"),
        (head + b',"junk":"' + b"x" * 10_000_000 + b'"}', "too_large"),
        (head + b',"junk":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
        (b'{"event":"impression","impression_id":"n","ts":-1,"user_id":"u","item_id":"i"}', "time_out_of_bounds"),
        (b'{"event":"impression","impression_id":"n","ts":99999999999999999999,"user_id":"u","item_id":"i"}', None),
        (b'{"event":"impression","impression_id":"","ts":1700000001000,"user_id":"u","item_id":"i"}', None),
        (b"{}", None),
        (b"\x00\x01\x02", "not_json"),
        (b"[]", None),
    ]


def poison_hurts_nobody(tests):
    """poison in every partition, without keys: each is a dead letter or counted, the partition goes on, the good are learned"""
    names = topics(tests, "poison", 2)
    daemon = tests.daemon("poison", *names)
    produce(tests, names, 0, 200, partitions=2)
    for p in range(2):
        for body, _ in poison(p):
            tests.broker.produce_one(names[0], p, body)
        tests.broker.produce(names[0], p, [b"tombstone:"], "-K", ":", "-Z")
        # Not poison, though it looks so: numbers beyond float, and keys given twice, the last of which counts.
        tests.broker.produce(names[0], p, [impression(1000 + p).replace(b'"age": ', b'"age": 1e308, "age": ')])
    produce(tests, names, 200, 400, partitions=2)
    daemon.start()
    kinds = len(poison(0))
    daemon.drained(4)
    assert daemon.sum("events_total", topic=names[0]) == 400 + 2 * (kinds + 2), daemon.sum("events_total", topic=names[0])
    assert daemon.sum("events_total", result="empty") == 2
    bad = daemon.sum("dead_letters_total", topic=names[0])
    good = daemon.sum("events_total", topic=names[0], result="ok")
    assert bad + good + 2 == 400 + 2 * (kinds + 2), (bad, good)
    assert daemon.examples() == good, (daemon.examples(), good)
    for body, reason in poison(0):
        if reason:
            assert daemon.sum("dead_letters_total", topic=names[0], reason=reason) > 0, (reason, body[:100], daemon.metrics())
    assert daemon.stop() == 0, daemon.log_text()[-2000:]
    sizes = tests.broker.consume(f"{names[0]}.dlq", "%S %k\n").split(b"\n")
    assert len(sizes) - 1 == bad, f"{len(sizes) - 1} letters of {bad}; {daemon.log_text()[-2000:]}"
    assert sum(int(s.split()[0]) > 9_000_000 for s in sizes if s) == 2, "the large ones too"


def standby_takes_over(tests):
    """mode group: a standby says so, takes over from a killed owner again and again, and the end is that of a run never stopped"""
    names = topics(tests, "standby", 3)
    produce(tests, names, 0, AWAY, partitions=3)
    whole = tests.daemon("standby.whole", *names, batch=STEPWISE).start().drained(6)
    assert whole.examples() == AWAY and whole.stop() == 0
    group = {"kafka": "mode: group", "snapshot": f"{tests.folder}/shared", "batch": STEPWISE}
    owner, standby = tests.daemon("standby.one", *names, **group).start(), tests.daemon("standby.two", *names, **group)
    until(lambda: owner.steps() > 0, "the owner's first steps")
    takeovers, slowest = 0, 0.0
    while takeovers < 4:
        standby.start()
        until(lambda: f"standby: {standby.snapshot} is in use by process {owner.process.pid}" in str(standby.ready()), "a standby")
        assert standby.status_page()["state"] == "standby"
        assert standby.get("/livez"), "alive"
        if owner.caught_up(6):
            break
        owner.stop(signal.SIGKILL)
        began = time.monotonic()
        until(lambda: standby.ready() is True, lambda: f"the standby has taken over: {standby.ready()}, {standby.log_text()[-2500:]}")
        slowest = max(slowest, time.monotonic() - began)
        assert "taking over" in standby.log_text()
        takeovers += 1
        owner, standby = standby, owner
    assert takeovers >= 2, f"{takeovers} takeovers before all was learned: a longer backlog is needed"
    print(f"# {takeovers} takeovers, the slowest {slowest:.2f} s from kill -9 to ready", flush=True)
    if not standby.alive():
        standby.start()
    owner.drained(6)
    assert standby.stop() == 0 and "stopped" in standby.log_text(), "a standby stops when told to"
    third = tests.daemon("standby.three", *names, snapshot=group["snapshot"], batch=STEPWISE).start()      # mode assign: does not wait
    assert third.wait() == 76, third.log_text()
    assert owner.stop() == 0, owner.log_text()[-2000:]
    assert owner.export() == whole.export(), f"the same bytes after {takeovers} takeovers"


def owner_that_stops_hands_over(tests):
    """mode group: an owner that is stopped hands over a state without a gap; the standby goes on from its last snapshot"""
    names = topics(tests, "handover")
    group = {"kafka": "mode: group", "snapshot": f"{tests.folder}/handover"}
    owner, standby = tests.daemon("handover.one", *names, **group).start(), tests.daemon("handover.two", *names, **group)
    until(lambda: owner.ready() is True, "the owner reads")
    standby.start()
    produce(tests, names, 0, 150)
    owner.drained(2)
    assert owner.examples() == 150 and owner.stop() == 0
    produce(tests, names, 150, 200)
    until(lambda: standby.sum("events_total", result="ok", topic=names[0]) == 50, "the rest, and nothing else")
    standby.drained(2)
    assert standby.examples() == 50 and standby.status()["examples"]["all"] == 200, standby.status()["examples"]
    assert standby.stop() == 0


def resident(daemon):
    """Bytes of memory that the daemon has now."""
    with open(f"/proc/{daemon.process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def settled(measure, seconds=3):
    """The measure, once it has not risen for so long."""
    seen = [0, time.monotonic()]

    def still():
        now = measure()
        if now > seen[0] + (1 << 20):
            seen[:] = now, time.monotonic()
        return time.monotonic() - seen[1] > seconds
    until(still, "a measure that rises no more")
    return max(seen[0], measure())


def flood_is_bounded(tests):
    """a backlog of 200 MB in six partitions before a paused learner: memory stays within source.kafka.read_ahead, nothing is dropped"""
    names = topics(tests, "flood", 6)
    ahead, count, padding = 24 << 20, 18000, b"x" * 11000
    daemon = tests.daemon("flood", *names, kafka="read_ahead: 24MiB").start()
    until(lambda: daemon.ready() is True, "the daemon reads")
    ctl("pause", "--control", daemon.socket)
    before = settled(lambda: resident(daemon))
    for p in range(6):
        tests.broker.produce(names[0], p, [impression(i)[:-1] + b',"junk":"' + padding + b'"}' for i in range(p, count, 6)])
        tests.broker.produce(names[1], p, [click(i) for i in range(p, count, 6) if i % 3 == 0])
    grown = settled(lambda: resident(daemon)) - before
    print(f"# {count * len(padding) / 1e6:.0f} MB wait at the broker, memory has grown by {grown / 1e6:.1f} MB of {ahead / 1e6:.1f} MB", flush=True)
    # Beyond the queues' bound: a fetch under way of each partition, and what the allocator keeps.
    assert grown < ahead + 12 * (2 << 20), f"{grown / 1e6:.1f} MB"
    assert daemon.examples() == 0 and daemon.alive()
    ctl("resume", "--control", daemon.socket)
    daemon.drained(12)
    assert daemon.sum("events_total", topic=names[0], result="ok") == count and daemon.examples() == count, daemon.examples()
    assert resident(daemon) - before < ahead + 12 * (2 << 20) + (64 << 20), f"{(resident(daemon) - before) / 1e6:.1f} MB"
    assert daemon.stop() == 0, daemon.log_text()[-2000:]


def wall_clock_may_jump(tests):
    """the wall clock jumps by an hour, on and back: no record is refused, no impression expires before its click"""
    shim, jump = os.path.join(tests.folder, "clock_jump.so"), os.path.join(tests.folder, "jump")
    run("cc", "-shared", "-fPIC", "-O1", "-D_GNU_SOURCE", "-o", shim, os.path.join(HERE, "shim", "clock_jump.c"), "-ldl")
    names = topics(tests, "clock")
    daemon = tests.daemon("clock", *names, window="8s", environment={"LD_PRELOAD": shim, "CLOCK_JUMP_FILE": jump}).start()
    learned = 0
    for seconds in 0, 3600, -3600, 0:
        now, stream = int(time.time() * 1000), f"jump{seconds}.{learned}"
        at = {b'"ts": %d' % (START + 20 * i): b'"ts": %d' % (now + i) for i in range(50)}
        tests.broker.produce(names[0], 0, [impression(i, stream).replace(*list(at.items())[i]) for i in range(50)])
        learned += 50
        until(lambda: daemon.sum("events_total", topic=names[0], result="ok") == learned, f"{learned} impressions")
        with open(jump + ".new", "w") as file:
            file.write(str(seconds))
        os.rename(jump + ".new", jump)
        until(lambda: daemon.status()["idle"], "event time goes on by the clock")
        tests.broker.produce(names[1], 0, [b'{"event":"click","impression_id":"%s.%d","ts":%d}' % (stream.encode(), i, now + 100 + i)
                                           for i in range(50)])
        daemon.drained(2)
        assert daemon.examples() == learned, (seconds, daemon.status()["join"], daemon.log_text()[-1500:])
        assert daemon.sum("join_total", result="matched") == learned, (seconds, daemon.status()["join"])
    lag = daemon.metrics()["event_lag_seconds"]
    assert -60 < lag < 600, f"{lag} s behind, once the clock is right again"
    assert daemon.sum("dead_letters_total") == 0 and daemon.stop() == 0


ASKED = {"requests": [{"user": {"age": 25, "gender": "f", "city": "c1"}, "behaviors": ["i1", "i2"], "context": {"hour": 3},
                       "candidates": [{"item_id": "i3", "item": {"category": "k3"}}, {"item_id": "i9"}]}]}


def delta_topic_made_anew_is_followed(tests):
    """the delta topic deleted and made anew under coldstream-serve: what the new one has is served; what is missing is told, and full versions mend it"""
    names, deltas = topics(tests, "versions"), "versions.deltas"
    tests.broker.create(f"{deltas}:1")
    daemon = tests.daemon("versions", *names, checkpoint=f"interval: 1h, delta_topic: {deltas}, delta_interval: 20ms").start()
    learned = [0]

    def learn(count):
        """The version of the last delta, once all is in deltas that the broker has."""
        produce(tests, names, learned[0], learned[0] + count)
        learned[0] += count
        until(lambda: os.path.exists(daemon.socket), "the daemon answers")
        until(lambda: sent(daemon.status()), lambda: f"all is sent: {daemon.status()}")
        return daemon.status()["deltas"]["version"]

    def sent(status):
        return status["examples"]["all"] == learned[0] and status["deltas"]["steps"] == status["steps"] and not status["deltas"]["failures_in_row"]

    def serves(version):
        until(lambda: scorer.scores(ASKED)[0] >= version,
              lambda: f"version {version} is served, not {scorer.scores(ASKED)[0]}: {scorer.log_text()[-2500:]}")

    def agrees():
        """What is served is what a full version of the same state says."""
        served = scorer.scores(ASKED)[1]
        ctl("publish", "--control", daemon.socket)
        fresh = tests.scorer(f"fresh{learned[0]}", daemon.checkpoints)
        assert fresh.scores(ASKED)[1] == served and fresh.stop() == 0

    learn(200)
    scorer = tests.scorer("follower", daemon.checkpoints, "--delta-topic", deltas)
    first = scorer.scores(ASKED)[1]
    serves(learn(200))
    assert scorer.scores(ASKED)[1] != first and scorer.deltas("applied") > 0

    make_anew(tests, deltas)                    # nothing was sent meanwhile: nothing is missing
    serves(learn(200))
    assert scorer.deltas("gap") == 0, scorer.log_text()[-2500:]
    agrees()

    scorer.process.send_signal(signal.SIGSTOP)  # it misses some: the new topic is filled past where it was
    ends = tests.broker.ends(deltas)[0][1]
    learn(100)
    make_anew(tests, deltas)
    while tests.broker.ends(deltas)[0][1] <= ends + 10:
        learn(400)
    scorer.process.send_signal(signal.SIGCONT)
    until(lambda: scorer.deltas("gap") > 0, lambda: f"a gap is told: {scorer.log_text()[-2500:]}")
    ctl("publish", "--control", daemon.socket)
    until(lambda: scorer.scores(ASKED)[0] == daemon.metrics()["published_version"], lambda: f"the full version: {scorer.log_text()[-2500:]}")
    serves(learn(100))
    agrees()

    make_anew(tests, deltas, 3)                 # neither written nor read, until it is made anew once more
    produce(tests, names, learned[0], learned[0] + 100)
    learned[0] += 100
    until(lambda: "it has 3 partitions, allowed is 1" in daemon.status()["deltas"]["error"], lambda: daemon.status()["deltas"])
    until(lambda: "the delta topic has more than one partition" in scorer.log_text(), lambda: scorer.log_text()[-2500:])
    assert tests.broker.ends(deltas) == [(0, 0)] * 3, tests.broker.ends(deltas)
    make_anew(tests, deltas)
    serves(learn(100))
    agrees()
    assert scorer.stop() == 0 and daemon.stop() == 0, daemon.log_text()[-2000:]


def wrong_delta_topic_is_told(tests):
    """coldstream-serve with a topic that nobody made: told with what to look at, not made; full versions are served"""
    names, daemon = learned_and_stopped(tests, "nobody")
    daemon.start()
    until(lambda: daemon.ready() is True, "the daemon reads")
    ctl("publish", "--control", daemon.socket)
    scorer = tests.scorer("mistaken", daemon.checkpoints, "--delta-topic", "nobody.detlas")
    until(lambda: "deltas can't be read" in scorer.log_text(), lambda: scorer.log_text())
    line = next(line for line in scorer.log_text().splitlines() if "deltas can't be read" in line)
    assert "topic=nobody.detlas" in line and "checkpoint.delta_topic" in line, line
    version = scorer.scores(ASKED)[0]
    ctl("publish", "--control", daemon.socket)
    until(lambda: scorer.scores(ASKED)[0] > version, "the next full version")
    assert b"nobody.detlas" not in run("kcat", "-L", "-b", tests.broker.address).stdout, "it was not made by asking"
    assert scorer.stop() == 0 and daemon.stop() == 0


if __name__ == "__main__":
    Tests().run(topic_made_anew_is_noticed, shorter_topic_is_noticed, deleted_last_record_is_a_warning, topic_made_anew_while_running,
                aborted_transactions_are_not_learned, grown_topics_are_read_whole, long_absence_is_waited_out, broker_goes_in_a_pause,
                poison_hurts_nobody, standby_takes_over, owner_that_stops_hands_over, flood_is_bounded, wall_clock_may_jump,
                delta_topic_made_anew_is_followed, wrong_delta_topic_is_told)
