#!/usr/bin/env python3
"""A real Apache Kafka that asks who is there: SASL, TLS, client certificates, ACLs; what is wrong is told, and secrets stay secret.
SCRAM is learned from on Kafka 3.9: librdkafka before 2.6.1, as Debian 12 has it, is refused by Kafka 4 (docs/security.md)."""
import contextlib
import os
import re
import shutil
import signal
import stat

from harness import BUILD, Broker, Daemon, Scorer, Tests, ctl, run, until

STREAM = ["generate", "--profile", "small", "--users", "500", "--items", "200", "--span", "10m", "--click-delay", "500ms", "--window", "2s"]
SCRAM, TLS, MUTUAL = range(3)
PRINCIPAL = {SCRAM: "User:coldstream", TLS: "User:coldstream", MUTUAL: "User:CN=coldstream-client"}
state = {"secrets": set()}


class Listener:
    """What a Daemon takes for its broker: an address."""
    def __init__(self, address):
        self.address = address


def tls(tests, name):
    return os.path.join(tests.broker.folder, "tls", name)


def secret(tests, name):
    """A file's secret, remembered: no output may hold it."""
    with open(tls(tests, name)) as file:
        value = file.read().strip()
    state["secrets"].add(value)
    return value


def listener(tests, which):
    with open(os.path.join(tests.broker.folder, "secure")) as file:
        return Listener(file.read().split()[which])


def pairs(tests, which, **other):
    """librdkafka's properties for a listener, as {name: value}."""
    scram = {"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "coldstream", "sasl.password": f"file:{tls(tests, 'password')}"}
    ca = {"ssl.ca.location": tls(tests, "ca.crt")}
    key = {"ssl.certificate.location": tls(tests, "client.crt"), "ssl.key.location": tls(tests, "client-locked.key"),
           "ssl.key.password": "${KEY_PASSWORD}"}
    secret(tests, "password")
    given = {SCRAM: {"security.protocol": "sasl_plaintext", **scram}, TLS: {"security.protocol": "sasl_ssl", **scram, **ca},
             MUTUAL: {"security.protocol": "ssl", **ca, **key}}[which]
    if which == TLS and not tests.broker.folder.endswith("-3.9"):
        given["sasl.mechanism"] = "PLAIN"
    return {**given, **{name.replace("_", "."): value for name, value in other.items()}}


def start(tests, name, topics, which, properties=None, **more):
    given = "".join(f', {key}: "{value}"' for key, value in (properties or pairs(tests, which)).items())
    # A topic of conversions, which may be absent, needs an ACL like any other to be seen absent.
    daemon = Daemon(listener(tests, which), tests.folder, name, topics[0], f"{topics[1]}, conversions: ~", properties=given,
                    environment={"KEY_PASSWORD": secret(tests, "key-password"), **more.pop("environment", {})}, **more)
    tests.daemons.append(daemon)
    before = os.umask(0)        # the files' modes are the daemon's own matter
    try:
        return daemon.start()
    finally:
        os.umask(before)


def allow(tests, which, name, topics, verb="allow"):
    """docs/security.md's least set for a daemon."""
    for topic in topics:
        tests.broker.admin(verb, PRINCIPAL[which], "read", "topic", topic)
        tests.broker.admin(verb, PRINCIPAL[which], "write", "topic", f"{topic}.dlq")
    tests.broker.admin(verb, PRINCIPAL[which], "read", "group", name)


def stream(tests, name, events=4000, garbage=True):
    topics = (f"{name}.impressions", f"{name}.clicks")
    tests.broker.create(*[f"{t}:1" for t in topics], *[f"{t}.dlq:1" for t in topics])
    ctl(*STREAM, "--events", events, "--kafka", tests.broker.address, "--topics", f"{topics[0]},{topics[1]},unused,unused")
    if garbage:
        tests.broker.produce(topics[0], 0, [b"no JSON"])
    return topics


def says(daemon, *words):
    """Waits for a line of the log that has all the words."""
    def found():
        assert daemon.alive(), f"{daemon.name} ended with {daemon.process.poll()}:\n{daemon.log_text()[-3000:]}"
        return any(all(word in line for word in words) for line in daemon.log_text().splitlines())
    until(found, lambda: f"a line with {words}:\n{daemon.log_text()[-3000:]}", 60)


def is_learned(daemon):
    until(lambda: daemon.caught_up(2) and daemon.examples() > 500, lambda: f"learned: {daemon.examples()}\n{daemon.log_text()[-3000:]}")
    until(lambda: daemon.sum("dead_letters_total") == 1, "one dead letter")


def learned_from(tests, listeners):
    for which, name in listeners:
        topics = stream(tests, name)
        allow(tests, which, name, topics)
        daemon = start(tests, name, topics, which)
        is_learned(daemon)
        assert "uthorization" not in daemon.log_text(), daemon.log_text()[-2000:]
        assert daemon.stop() == 0, daemon.log_text()[-2000:]
        assert tests.broker.ends(f"{topics[0]}.dlq") == [(0, 1)], "the dead letter is there"
        for topic in topics:
            assert tests.broker.committed(name, topic) == [end for _, end in tests.broker.ends(topic)], "committed, for lag tools"
        state["topics"] = topics


@contextlib.contextmanager
def kafka_3(tests, name):
    """A broker whose SCRAM librdkafka 2.0.2 gets through, in the place of the newest."""
    newest = tests.broker
    os.environ["KAFKA_VERSION"] = "3.9.1"
    tests.broker = Broker(os.path.join(tests.folder, f"{name}-3.9"))
    try:
        yield
    finally:
        tests.broker.kill()
        tests.broker = newest
        del os.environ["KAFKA_VERSION"]


def scram_is_learned_from(tests):
    """SCRAM-SHA-512, plain and over TLS, on Kafka 3.9: learned and dead letters written, with the ACLs of docs/security.md alone"""
    with kafka_3(tests, "broker"):
        learned_from(tests, ((SCRAM, "scram"), (TLS, "scram-tls")))


def each_listener_is_learned_from(tests):
    """TLS with a password and TLS with a client certificate, on the newest Kafka: the same"""
    learned_from(tests, ((TLS, "tls"), (MUTUAL, "mutual")))


def every_acl_is_needed(tests):
    """an ACL less: which one is told, what it was for goes on as soon as it is given"""
    topics = stream(tests, "less")
    allow(tests, TLS, "less", topics)
    tests.broker.admin("forbid", PRINCIPAL[TLS], "read", "topic", topics[0])
    daemon = start(tests, "less", topics, TLS)
    until(lambda: topics[0] in str(daemon.ready()) and "authorization failed" in str(daemon.ready()), lambda: daemon.ready())
    tests.broker.admin("allow", PRINCIPAL[TLS], "read", "topic", topics[0])
    is_learned(daemon)
    tests.broker.admin("forbid", PRINCIPAL[TLS], "read", "topic", topics[1])
    tests.broker.admin("forbid", PRINCIPAL[TLS], "read", "topic", topics[0])
    ctl(*STREAM, "--events", 2000, "--seed", 2, "--start", "1700010000000", "--kafka", tests.broker.address,
        "--topics", f"{topics[0]},{topics[1]},unused,unused")
    says(daemon, "uthorization")
    for topic in topics:
        tests.broker.admin("allow", PRINCIPAL[TLS], "read", "topic", topic)
    before = daemon.examples()
    until(lambda: daemon.caught_up(2) and daemon.examples() > before, lambda: f"learned on: {daemon.log_text()[-2000:]}")
    assert daemon.stop() == 0, daemon.log_text()[-2000:]


def kept(daemon, count, seconds=60):
    until(lambda: daemon.metrics().get("dead_letters_kept") == count,
          lambda: f"{count} kept: {daemon.metrics().get('dead_letters_kept')}\n{daemon.log_text()[-3000:]}", seconds)


def learn_more(tests, daemon, topics, seed):
    until(lambda: daemon.ready() is True, lambda: f"{daemon.ready()}\n{daemon.log_text()[-2000:]}")
    before, cut = daemon.examples(), daemon.status()["snapshot"]["cut"]
    ctl(*STREAM, "--events", 1000, "--seed", seed, "--start", 1700010000000 + seed * 100000000, "--kafka", tests.broker.address,
        "--topics", f"{topics[0]},{topics[1]},unused,unused")
    until(lambda: daemon.caught_up(2) and daemon.examples() > before, lambda: f"learned on: {daemon.log_text()[-2000:]}")
    until(lambda: daemon.status()["snapshot"]["cut"] > cut, lambda: f"snapshots go on: {daemon.log_text()[-2000:]}")


def refused_letters_are_kept(tests):
    """a dead letter that may not be written: learning and snapshots go on, the letter survives a stop and a kill, and goes once it may"""
    topics = stream(tests, "kept")
    dlq = f"{topics[0]}.dlq"
    allow(tests, TLS, "kept", topics)
    tests.broker.admin("forbid", PRINCIPAL[TLS], "write", "topic", dlq)
    daemon = start(tests, "kept", topics, TLS)
    says(daemon, "dead letters are refused", dlq, "Topic authorization failed", "WRITE")
    kept(daemon, 1)
    assert daemon.ready() is True, daemon.ready()
    assert any(dlq in problem and "authorization" in problem for problem in daemon.status()["problems"]), daemon.status()["problems"]
    learn_more(tests, daemon, topics, 2)
    assert daemon.stop() == 0, daemon.log_text()[-2000:]
    daemon = start(tests, "kept", topics, TLS)
    kept(daemon, 1)
    tests.broker.produce(topics[0], 0, [b"no JSON either"])
    kept(daemon, 2)
    learn_more(tests, daemon, topics, 3)
    daemon.stop(signal.SIGKILL)
    daemon = start(tests, "kept", topics, TLS)
    kept(daemon, 2)
    tests.broker.admin("allow", PRINCIPAL[TLS], "write", "topic", dlq)
    says(daemon, "dead letters are taken again", dlq)
    kept(daemon, 0)
    learn_more(tests, daemon, topics, 4)
    assert daemon.stop() == 0, daemon.log_text()[-2000:]
    letters = tests.broker.consume(dlq, "%s|%h\n").decode().splitlines()
    assert sorted(letter.split("|")[0] for letter in letters) == ["no JSON", "no JSON either"], letters
    assert all(f"__connect.errors.topic={topics[0]}," in letter and "coldstream.reason=not_json" in letter for letter in letters), letters
    daemon = start(tests, "kept", topics, TLS)
    learn_more(tests, daemon, topics, 5)
    assert daemon.stop() == 0 and tests.broker.ends(dlq) == [(0, 2)], "once"


def put_secret(file, value):
    """As a rotation writes it: whole, in the place of the old one."""
    with open(os.open(f"{file}.new", os.O_CREAT | os.O_WRONLY, 0o400), "w") as new:
        new.write(value)
    os.rename(f"{file}.new", file)
    state["secrets"].add(value)


def a_rotated_password_is_taken(tests):
    """another SCRAM password at the broker: refused, what to do is told; reloaded, all clients go on, nothing lost, nothing twice"""
    with kafka_3(tests, "broker-rotated"):
        topics, deltas, versions = stream(tests, "rotated"), "rotated.deltas", "rotated.versions"
        tests.broker.create(f"{deltas}:1", f"{versions}:1")
        allow(tests, SCRAM, "rotated", topics)
        for topic in (deltas, versions):
            tests.broker.admin("allow", PRINCIPAL[SCRAM], "write", "topic", topic)
        folder = os.path.join(tests.folder, "rotation")
        os.mkdir(folder)
        file = os.path.join(folder, "a-secret")
        put_secret(file, secret(tests, "password"))
        daemon = start(tests, "rotated", topics, SCRAM, pairs(tests, SCRAM, sasl_password=f"file:{file}"),
                       checkpoint=f"interval: 1h, delta_topic: {deltas}, delta_interval: 100ms, announce_topic: {versions}")
        is_learned(daemon)
        rounds = [1]

        def goes_on():
            """Everything that has a client of its own."""
            rounds[0] += 1
            sent = daemon.status()["deltas"]["sent"]
            announced = tests.broker.ends(versions)[0][1]
            tests.broker.produce(topics[0], 0, [b"no JSON %d" % rounds[0]])
            learn_more(tests, daemon, topics, rounds[0])
            until(lambda: tests.broker.ends(f"{topics[0]}.dlq") == [(0, rounds[0])], lambda: f"a dead letter: {daemon.log_text()[-2000:]}")
            until(lambda: daemon.status()["deltas"]["sent"] > sent, lambda: f"a delta: {daemon.log_text()[-2000:]}")
            ctl("publish", "--control", daemon.socket)
            until(lambda: tests.broker.ends(versions)[0][1] > announced, lambda: f"an announcement: {daemon.log_text()[-2000:]}")

        def changed_at_the_broker(value):
            put_secret(tls(tests, "password"), value)
            tests.broker.password()

        def reloaded(value):
            put_secret(file, value)
            done = ctl("reload", "--control", daemon.socket)
            assert done.stdout == b"source.kafka.properties.sasl.password: replaced\n", done
            state.setdefault("outputs", []).append(done.stdout + done.stderr)

        changed_at_the_broker("the-second-password")
        goes_on()
        tests.broker.restart()
        says(daemon, "Authentication failed", "sasl.password", "coldstreamctl reload")
        assert daemon.alive() and tests.broker.ends(f"{topics[0]}.dlq") == [(0, 2)]
        reloaded("the-second-password")
        goes_on()
        changed_at_the_broker("the-third-password")
        reloaded("the-third-password")
        at = len(daemon.log_text())
        tests.broker.restart()
        goes_on()
        assert "uthentication fail" not in daemon.log_text()[at:], daemon.log_text()[at:]
        page = daemon.drained(2).status()
        came = [tests.broker.ends(topic)[0][1] for topic in topics]
        assert [page["join"]["impressions"], page["join"]["clicks"]] == [came[0] - rounds[0], came[1]], (page["join"], came)
        assert page["join"]["adds_up"] and page["events"]["not_json"] == rounds[0], page["events"]
        assert daemon.stop() == 0, daemon.log_text()[-2000:]
        letters = tests.broker.consume(f"{topics[0]}.dlq", "%s\n").decode().splitlines()
        assert letters == ["no JSON", "no JSON 2", "no JSON 3", "no JSON 4"], letters


def reading_waits_for_letters(tests):
    """no leave to write at all, and more dead letters than are kept: reading is held, saying why; then all are written, and it goes on"""
    topics = stream(tests, "many", garbage=False)
    dlq = f"{topics[0]}.dlq"
    allow(tests, TLS, "many", topics)
    for topic in topics:
        tests.broker.admin("forbid", PRINCIPAL[TLS], "write", "topic", f"{topic}.dlq")
    tests.broker.produce(topics[0], 0, [b"%06d" % i + b"x" * 999990 for i in range(80)], "-X", "message.max.bytes=20000000")
    daemon = start(tests, "many", topics, TLS)
    until(lambda: "dead letters" in str(daemon.ready()) and dlq in str(daemon.ready()), lambda: f"{daemon.ready()}\n{daemon.log_text()[-2000:]}")
    page = daemon.status()
    assert page["state"] == "held" and 60 < page["dead_letters"]["waiting"] < 80, page["dead_letters"]
    assert tests.broker.ends(dlq) == [(0, 0)]
    daemon.stop(signal.SIGKILL)
    daemon = start(tests, "many", topics, TLS)
    until(lambda: dlq in str(daemon.ready()), lambda: f"held again: {daemon.ready()}\n{daemon.log_text()[-2000:]}")
    for topic in topics:
        tests.broker.admin("allow", PRINCIPAL[TLS], "write", "topic", f"{topic}.dlq")
    kept(daemon, 0)
    learn_more(tests, daemon, topics, 2)
    assert daemon.ready() is True, daemon.ready()
    assert daemon.stop() == 0, daemon.log_text()[-2000:]
    numbers = {line[:6] for line in tests.broker.consume(dlq, "%s\n").splitlines()}
    assert numbers == {b"%06d" % i for i in range(80)}, len(numbers)


def what_is_wrong_is_told(tests):
    """a wrong password, an unknown CA, no client certificate: told with the key to look at, the daemon waits and is alive"""
    wrong = os.path.join(tests.folder, "wrong")
    with open(os.open(wrong, os.O_CREAT | os.O_WRONLY, 0o400), "w") as file:
        file.write("surely-not-this-one")
    state["secrets"].add("surely-not-this-one")
    topics = state["topics"]
    cases = [("scram", SCRAM, {}, ["sasl.password", "librdkafka before 2.6.1"]),
             ("password", TLS, {"sasl_password": f"file:{wrong}"}, ["sasl.password"]),
             ("authority", TLS, {"ssl_ca_location": tls(tests, "other.crt")}, ["ssl.ca.location"])]
    started = [(start(tests, f"wrong-{name}", topics, which, pairs(tests, which, **other)), words) for name, which, other, words in cases]
    anonymous = {key: value for key, value in pairs(tests, MUTUAL).items() if key in ("security.protocol", "ssl.ca.location")}
    started.append((start(tests, "wrong-anonymous", topics, MUTUAL, anonymous), ["ssl.certificate.location"]))
    for daemon, words in started:
        says(daemon, *words)
        assert daemon.alive() and daemon.ready() is not True, "not ready, and alive"
        daemon.process.terminate()
    for daemon, _ in started:
        daemon.stop()


def certificates_are_looked_at(tests):
    """the broker comes back with a certificate that is out of date, then with another host's: both are told; with the right one it goes on"""
    topics = stream(tests, "renewed")
    allow(tests, TLS, "renewed", topics)
    daemon = start(tests, "renewed", topics, TLS)
    is_learned(daemon)
    before = daemon.examples()
    shutil.copy(tls(tests, "broker.pem"), tls(tests, "good.pem"))
    for name, words in (("expired", ["certificate verify failed", "ssl.ca.location", "dates"]), ("elsewhere", ["certificate verify failed", "names"])):
        shutil.copy(tls(tests, f"{name}.pem"), tls(tests, "broker.pem"))
        at = len(daemon.log_text())
        tests.broker.restart()
        until(lambda: all(word in daemon.log_text()[at:] for word in words), lambda: daemon.log_text()[at:][-3000:], 60)
        assert daemon.alive()
    shutil.copy(tls(tests, "good.pem"), tls(tests, "broker.pem"))
    tests.broker.restart()
    ctl(*STREAM, "--events", 2000, "--seed", 2, "--start", "1700010000000", "--kafka", tests.broker.address,
        "--topics", f"{topics[0]},{topics[1]},unused,unused")
    until(lambda: daemon.caught_up(2) and daemon.examples() > before, lambda: f"learned on: {daemon.log_text()[-2000:]}")
    assert daemon.stop() == 0, daemon.log_text()[-2000:]


def tools_take_references(tests):
    """generate and coldstream-serve speak TLS too, take a secret by reference, and refuse one on the command line"""
    topics = stream(tests, "tools", 200, garbage=False)
    tests.broker.admin("allow", PRINCIPAL[TLS], "write", "topic", topics[0])
    tests.broker.admin("allow", PRINCIPAL[TLS], "write", "topic", topics[1])
    given = pairs(tests, TLS)
    before = tests.broker.ends(topics[0])
    command = [*STREAM, "--events", 100, "--kafka", listener(tests, TLS).address, "--topics", f"{topics[0]},{topics[1]},unused,unused", "--property"]
    ctl(*command, ",".join(f"{key}={value}" for key, value in given.items()))
    assert tests.broker.ends(topics[0])[0][1] > before[0][1]
    given["sasl.password"] = "written-out"
    done = ctl(*command, ",".join(f"{key}={value}" for key, value in given.items()), check=False)
    assert done.returncode == 2 and b"sasl.password" in done.stderr and b"written-out" not in done.stderr, done.stderr
    serve = run(os.path.join(BUILD, "coldstream-serve"), "--checkpoint", tests.folder, "--kafka-property", "sasl.password=written-out", check=False)
    assert serve.returncode == 2 and b"sasl.password" in serve.stderr and b"written-out" not in serve.stderr, serve.stderr


ASKED = {"requests": [{"user": {"age": 25, "gender": "F", "city": "c1"}, "behaviors": ["i1"], "context": {"hour": 3}, "item_id": "i3",
                       "item": {"category": "c3"}}]}


def deltas_travel_by_client_certificate(tests):
    """coldstream-serve --delta-topic by TLS with a client certificate: READ on that topic is all it needs, and without it that is told"""
    topics, deltas = stream(tests, "certified"), "certified.deltas"
    tests.broker.create(f"{deltas}:1")
    allow(tests, MUTUAL, "certified", topics)
    tests.broker.admin("allow", PRINCIPAL[MUTUAL], "write", "topic", deltas)
    daemon = start(tests, "certified", topics, MUTUAL, checkpoint=f"interval: 1h, delta_topic: {deltas}, delta_interval: 100ms")
    is_learned(daemon)
    until(lambda: daemon.metrics().get("published_version"), "a first version")
    given = {**pairs(tests, MUTUAL), "ssl.key.password": f"file:{tls(tests, 'key-password')}"}
    options = [word for key, value in given.items() for word in ("--kafka-property", f"{key}={value}")]
    scorer = Scorer(listener(tests, MUTUAL), tests.folder, "certified", daemon.checkpoints, "--delta-topic", deltas, *options)
    tests.others.append(scorer.process)
    until(lambda: "deltas can't be read" in scorer.log_text() and "authorization failed" in scorer.log_text(), lambda: scorer.log_text()[-2000:], 60)
    version, score = scorer.scores(ASKED)
    tests.broker.admin("allow", PRINCIPAL[MUTUAL], "read", "topic", deltas)
    learn_more(tests, daemon, topics, 2)
    until(lambda: scorer.scores(ASKED)[0] > version and scorer.deltas("applied") > 0, lambda: scorer.log_text()[-2000:])
    assert scorer.scores(ASKED)[1] != score, "what was learned is served"
    with open(f"/proc/{scorer.process.pid}/cmdline", "rb") as line:
        state.setdefault("outputs", []).append(line.read() + scorer.ask("/metrics").encode())
    assert scorer.stop() == 0 and daemon.stop() == 0, daemon.log_text()[-2000:]


def deltas_go_once_they_may(tests):
    """a delta topic that may not be written, then one that nobody has made: told, and written to once it may be, and once it is there"""
    for name, missing in (("forbidden", False), ("late", True)):
        topics, deltas = stream(tests, name), f"{name}.deltas"
        allow(tests, TLS, name, topics)
        if missing:
            tests.broker.admin("allow", PRINCIPAL[TLS], "write", "topic", deltas)
        else:
            tests.broker.create(f"{deltas}:1")
        daemon = start(tests, name, topics, TLS, checkpoint=f"interval: 1h, delta_topic: {deltas}, delta_interval: 100ms")
        is_learned(daemon)
        says(daemon, "delta not sent", deltas, "uthorization")      # making it would take CREATE
        assert daemon.status()["deltas"]["sent"] == 0, daemon.status()["deltas"]
        if missing:
            tests.broker.create(f"{deltas}:1")
        else:
            tests.broker.admin("allow", PRINCIPAL[TLS], "write", "topic", deltas)
        until(lambda: daemon.status()["deltas"]["sent"] > 0, lambda: f"{daemon.status()['deltas']}\n{daemon.log_text()[-3000:]}")
        assert "deltas are sent again" in daemon.log_text() and daemon.stop() == 0, daemon.log_text()[-2000:]


def secrets_are_refused_where_others_read_them(tests):
    """a secret's file that is missing, empty, or open to others: exit 78, with key and file; --check-config shows no secret"""
    daemon = start(tests, "secrets", state["topics"], TLS)
    daemon.stop()
    file = os.path.join(tests.folder, "a-secret")
    check = [os.path.join(BUILD, "coldstreamd"), "--config", daemon.config, "--check-config"]
    checked = run(*check, env=daemon.environment)
    state.setdefault("outputs", []).append(checked.stdout + checked.stderr)
    with open(daemon.config) as config:
        text = config.read().replace(f"file:{tls(tests, 'password')}", f"file:{file}")
    with open(daemon.config, "w") as config:
        config.write(text)

    def refused(*words):
        done = run(*check, env=daemon.environment, check=False)
        assert done.returncode == 78 and all(word.encode() in done.stderr for word in ("sasl.password", *words)), done.stderr
        state["outputs"].append(done.stdout + done.stderr)
    refused(file, "No such file")
    shutil.copy(tls(tests, "password"), file)
    os.chmod(file, 0o440)
    refused(file, "mode 0440", "chmod 0400")
    os.chmod(file, 0o400)
    run(*check, env=daemon.environment)


def nothing_shows_a_secret(tests):
    """no log, page, status, command line, snapshot, checkpoint or dead letter holds a secret's value"""
    topics = stream(tests, "quiet")
    allow(tests, MUTUAL, "quiet", topics)
    allow(tests, TLS, "quiet", topics)
    daemon = start(tests, "quiet", topics, TLS, {**pairs(tests, TLS), "debug": "conf,security,broker"})
    is_learned(daemon)
    ctl("publish", "--control", daemon.socket)
    outputs = state.get("outputs", []) + [daemon.get(page).encode() for page in ("/", "/metrics", "/status", "/readyz", "/livez")]
    outputs.append(ctl("status", "--json", "--control", daemon.socket).stdout)
    with open(f"/proc/{daemon.process.pid}/cmdline", "rb") as line:
        outputs.append(line.read())
    with open(f"/proc/{daemon.process.pid}/limits") as limits:
        assert re.search(r"^Max core file size +0 +0 ", limits.read(), re.M), "no core is written: it would hold the secret"
    outputs.append(tests.broker.consume(f"{topics[0]}.dlq", "%k %h %s"))
    assert daemon.stop() == 0
    looked = 0
    for folder, _, files in os.walk(tests.folder):
        for name in files:
            if folder.startswith(tests.broker.folder) or name in ("wrong", "a-secret") or not os.path.isfile(os.path.join(folder, name)):
                continue
            with open(os.path.join(folder, name), "rb") as file:
                outputs.append(file.read())
            looked += 1
    assert looked > 20 and any(b"debug" in text for text in outputs), looked
    for value in state["secrets"]:
        assert len(value) > 10
        assert not [text for text in outputs if value.encode() in text], "a secret came out"


def files_are_not_for_others(tests):
    """under umask 000: files 0640 or less, directories 0750, the control socket 0660"""
    daemon = start(tests, "quiet", ("quiet.impressions", "quiet.clicks"), TLS)
    until(lambda: os.path.exists(daemon.socket) and daemon.ready() is True, lambda: daemon.ready())
    folder = daemon.folder
    seen = 0
    for where, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(where, name)
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            if os.path.islink(path) or os.path.dirname(path) == folder:     # the test's own: configuration, logs, directories
                continue
            seen += 1
            allowed = 0o2750 if os.path.isdir(path) else 0o640
            assert mode & ~allowed == 0, f"{path}: mode {mode:04o}, at most {allowed:04o}"
    assert seen > 5, seen
    mode = stat.S_IMODE(os.lstat(daemon.socket).st_mode)
    assert mode == 0o660, f"the socket has mode {mode:04o}"
    assert daemon.stop() == 0


if __name__ == "__main__":
    os.environ["BROKER_SECURITY"] = "1"
    Tests().run(scram_is_learned_from, a_rotated_password_is_taken, each_listener_is_learned_from, every_acl_is_needed,
                refused_letters_are_kept, reading_waits_for_letters, what_is_wrong_is_told, certificates_are_looked_at, tools_take_references,
                deltas_travel_by_client_certificate, deltas_go_once_they_may,
                secrets_are_refused_where_others_read_them, nothing_shows_a_secret, files_are_not_for_others)
