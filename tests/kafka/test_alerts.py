#!/usr/bin/env python3
"""Alerts from their causes: a real daemon on a real Kafka is brought into what an alert is for, its page in docs/alerts is followed, and
the remedy is applied. What the daemon says meanwhile goes to the rules as they are, a scrape standing for a minute, so that windows and
`for:` pass without waiting."""
import json
import os
import re
import time

from harness import BUILD, ROOT, Tests, ctl, run, until

RULES = os.path.join(ROOT, "tools", "monitoring", "alerts.yaml")
DAY = 24 * 60           # minutes
HOUR = 3900_000         # and a bit, in ms


class Minutes:
    """What is scraped, minute by minute: a metric's values, one for each."""

    def __init__(self, daemon):
        self.daemon, self.now, self.series = daemon, 0, {}

    def pass_by(self, minutes=1):
        """The daemon says the same for so many minutes."""
        for name, value in self.daemon.metrics().items():
            told = self.series.setdefault(name, [("_", self.now)] if self.now else [])
            told.append((f"{value:g}" if value == value else "_", minutes))
        self.now += minutes
        for told in self.series.values():       # one that is not there any more
            if sum(length for _, length in told) < self.now:
                told.append(("_", minutes))

    def firing(self, *wanted):
        """wanted: (minute, those of the alerts named in any that fire then). promtool judges the rules as they are."""
        def told(name):
            metric, _, labels = name.partition("{")
            return f'coldstream_{metric}{{job="c",instance="d",model="m"' + ("," + labels if labels else "}")

        def values(runs):
            return " ".join(value if length == 1 else f"{value}x{length - 1}" for value, length in runs)
        with open(RULES) as file:
            asked = set(re.findall(r"coldstream_([a-z_]+)", re.sub("(?m)^ *(#|summary|description).*$", "", file.read())))
        lines = [f"rule_files: [{RULES}]", "evaluation_interval: 1m", "tests:", "- interval: 1m", "  input_series:"]
        lines += [f"  - {{series: '{told(name)}', values: '{values(runs)}'}}" for name, runs in self.series.items()
                  if name.partition("{")[0] in asked]
        lines += ["  promql_expr_test:"]
        named = "|".join(sorted({name for _, alerts in wanted for name in alerts}))
        for minute, alerts in wanted:
            assert minute < self.now, f"minute {minute} of {self.now}"
            samples = ", ".join(f"{{labels: '{{alertname=\"{name}\"}}', value: 1}}" for name in alerts)
            lines += [f"  - expr: 'group by (alertname) (ALERTS{{alertstate=\"firing\",alertname=~\"{named}\"}})'",
                      f"    eval_time: {minute}m", f"    exp_samples: [{samples}]"]
        name = os.path.join(self.daemon.folder, "minutes.yaml")
        with open(name, "w") as file:
            file.write("\n".join(lines) + "\n")
        done = run(os.path.join(promtool(), "promtool"), "test", "rules", name, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr).decode()


def promtool():
    return run(os.path.join(ROOT, "tools", "prometheus.sh"), BUILD).stdout.decode().strip()


def event(kind, number, at, **more):
    return json.dumps({"event": kind, "impression_id": f"r{number}", "ts": at, **more}).encode()


class Traffic:
    """Impressions of 100 users and 20 items, of which one in four is liked: those are clicked. Event time is theirs alone."""

    def __init__(self, tests, daemon, names):
        self.tests, self.daemon, self.names, self.made, self.at = tests, daemon, names, 0, 0

    def send(self, count, behind, item="i{}"):
        """So many, the first one `behind` ms old or just after those before, the last one, with its click, after the join's window."""
        self.at = max(self.at, int(time.time() * 1000) - behind)
        impressions, clicks = [], []
        for i in range(count):
            number, which = self.made + i, i * 7 % 20
            self.at += 5000 if i == count - 1 else 10
            user = {"age": 20 + i % 40, "gender": "fm"[i % 2], "city": "c"}
            impressions.append(event("impression", number, self.at, user_id=f"u{i % 100}", user=user, context={"hour": 5},
                                     behaviors=["b1"] if i % 2 else [], item_id=item.format(which), item={"category": "k"}))
            if which % 4 == 0 or i == count - 1:
                clicks.append(event("click", number, self.at + 1))
        self.made += count
        self.tests.broker.produce(self.names[0], 0, impressions)
        self.tests.broker.produce(self.names[1], 0, clicks)

    def learn(self, count, behind=HOUR, **how):
        """Until all but the last one are learned, or in the batch that is being filled."""
        self.send(count, behind, **how)

        def learned():
            status = self.daemon.status()
            return status["examples"]["all"] + status["join"]["open_batch"] == self.made - 1
        until(learned, lambda: f"{self.made} are learned: {self.daemon.status()}")


def learner(tests, name, more="", **settings):
    """A daemon that waits for its traffic. more: further configuration."""
    names = f"{name}.impressions", f"{name}.clicks"
    tests.broker.create(*(f"{topic}:1" for topic in names))
    daemon = tests.daemon(name, *names, **settings)
    with open(daemon.config) as file:
        text = file.read().replace("idle_after: 1s", "idle_after: 1h") + more
    with open(daemon.config, "w") as file:
        file.write(text)
    daemon.start()
    until(lambda: daemon.ready() is True, lambda: f"{name} reads: {daemon.log_text()[-2000:]}")
    return daemon, Traffic(tests, daemon, names)


def looked_up(daemon, alert):
    """What the commands of the page's Look print here: those that ask the daemon or its files."""
    with open(os.path.join(ROOT, "docs", "alerts", alert + ".md")) as file:
        look = file.read().partition("## Look\n")[2].partition("\n## ")[0]
    said = ""
    for command in re.findall(r"(?m)^    (.+)$", look):
        if command.startswith("journalctl"):
            wanted = re.search(r"--grep '(.+)'", command)
            said += "\n".join(line for line in daemon.log_text().splitlines() if not wanted or wanted[1] in line)
            continue
        if not command.startswith(("coldstreamctl", "curl")):
            continue
        command = command.replace("/var/lib/coldstream/checkpoints", daemon.checkpoints).replace("localhost:9464", f"127.0.0.1:{daemon.port}")
        command = re.sub("^coldstreamctl (status|publish|snapshot)", rf"coldstreamctl \1 --control {daemon.socket}", command)
        done = run("bash", "-c", command, env={**os.environ, "PATH": BUILD + ":" + os.environ["PATH"]}, check=False)
        assert done.returncode == 0 and done.stdout, f"{alert}: {command}: {done.returncode}\n{done.stderr.decode()}"
        said += done.stdout.decode()
    return said


def stale(tests):
    """ColdstreamStale: versions that come while a backlog of an hour ago is worked off; it ends once what comes is of now"""
    daemon, traffic = learner(tests, "stale")
    minutes = Minutes(daemon)

    def publish(behind):
        """As every five minutes, by default."""
        traffic.learn(200, behind)
        ctl("publish", "--control", daemon.socket)
        minutes.pass_by(5)
    for _ in range(8):
        publish(HOUR)
    said = looked_up(daemon, "ColdstreamStale")
    for _ in range(8):
        publish(10_000)
    minutes.firing((10, []), (39, ["ColdstreamStale"]), (79, []))
    assert re.search(r"(?m)^coldstream_event_lag_seconds 3[6-9]\d\d", said) and "event time is 1 h" in said, said
    assert daemon.stop() == 0


def transaction_hangs(tests):
    """ColdstreamTransactionHangs: a producer that leaves a transaction open; the log line says where, and it ends with the transaction"""
    daemon, traffic = learner(tests, "hung")
    minutes, topic = Minutes(daemon), traffic.names[0]
    traffic.learn(100)
    minutes.pass_by(5)
    opened = daemon.status()["sources"][1]["end"]
    tests.broker.transaction("hung", "open", topic, 0, [event("impression", f"never{i}", 1, user_id="u", item_id="i") for i in range(10)])

    def seen():
        traffic.send(10, HOUR)      # what can't be read: the end moves on
        return daemon.sum("transaction_held_records", topic=topic) and "a transaction was opened here" in daemon.log_text()
    until(seen, lambda: f"it is noticed: {daemon.log_text()[-2000:]}")
    minutes.pass_by(15)
    said = looked_up(daemon, "ColdstreamTransactionHangs")
    assert re.search(rf"a transaction was opened here.* topic={topic} partition=0 offset={opened} ", said), said
    assert re.search(rf"(?m)^! {topic} \[0\]: \d+ offsets lie behind a transaction", said), said
    assert re.search(rf'(?m)^coldstream_transaction_held_records{{.*topic="{topic}".*}} [1-9]', said), said
    tests.broker.transaction("hung", "abort", topic, 0, [])         # the producer, started again with its transactional.id
    until(lambda: daemon.sum("transaction_held_records") == 0, "nothing is held any more")
    until(lambda: daemon.sum("events_total", topic=topic, result="ok") == traffic.made, "what was aborted is not read, all else is")
    minutes.pass_by(5)
    minutes.firing((4, []), (12, []), (19, ["ColdstreamTransactionHangs"]), (24, []))
    assert daemon.stop() == 0


def quality_falls(tests):
    """ColdstreamLogLossRises, RolledBack, PublishRefused: items come under other ids; it ends once they are as before"""
    gate = "interval: 1h, gate: {max_log_loss_rise: 0.1, min_examples: 200, rollback: automatic}"
    daemon, traffic = learner(tests, "quality", "evaluation: {window: 500}\noptimizer: {ranking: {learning_rate: 0.01}, "
                              "embedding: {learning_rate: 0.05}}\n", checkpoint=gate, batch="size: 100, max_delay: 1h")
    minutes = Minutes(daemon)

    def loss():
        return daemon.status()["metrics"]["all"]["window"]["log_loss"]

    def admitted():
        return {name: value for name, value in daemon.metrics().items() if name.startswith("embedding_admitted_total")}
    for count in 3000, 500:
        traffic.learn(count)
        ctl("publish", "--control", daemon.socket)
    before, tables = loss(), admitted()
    minutes.pass_by(DAY)
    traffic.learn(500, item="item-{}")
    print(f"# log loss {before:.4f}, then {loss():.4f}", flush=True)
    until(lambda: daemon.status()["checkpoint"]["held"], lambda: f"it goes back by itself: {daemon.log_text()[-2000:]}")
    minutes.pass_by(40)
    for alert in "ColdstreamLogLossRises", "ColdstreamRolledBack":
        said = looked_up(daemon, alert)
    grown = [name for name, value in admitted().items() if value > tables[name] + 1]
    assert grown == ['embedding_admitted_total{table="item"}'], (grown, tables)
    ctl("resume", "--control", daemon.socket)
    refused = ctl("publish", "--control", daemon.socket, check=False)
    assert refused.returncode == 65 and b"is refused by the gate: log loss of " in refused.stderr, refused
    minutes.pass_by(5)
    said = looked_up(daemon, "ColdstreamPublishRefused")
    assert len(daemon.status()["problems"]) == 1, daemon.status()["problems"]
    assert re.search(r"(?m)^! the gate refused the last version: log loss of ", said), said
    traffic.learn(1500)
    ctl("publish", "--control", daemon.socket)
    minutes.pass_by(65)
    minutes.firing((DAY - 1, []), (DAY + 39, ["ColdstreamLogLossRises", "ColdstreamRolledBack"]),
                   (DAY + 44, ["ColdstreamLogLossRises", "ColdstreamPublishRefused", "ColdstreamRolledBack"]), (DAY + 109, []))
    assert daemon.stop() == 0


if __name__ == "__main__":
    Tests().run(stale, transaction_hangs, quality_falls)
