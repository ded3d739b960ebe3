#!/usr/bin/env python3
"""The units under a real systemd: installed by `make install` into a machine of their own, started, reloaded, hung, refused, stopped.
usage: test_systemd.py BUILD"""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, f"{ROOT}/tests/crash"]
import machine          # noqa: E402
import plant as fixture  # noqa: E402

SERVICES = ("coldstream.service", "coldstream@.service", "coldstream-serve.service", "coldstream-serve@.service", "coldstream-fetch.service")
place = {}


def configuration(address, name="", extra="", listen=""):
    """name: of the instance, "" for the single model."""
    state, runtime = f"/var/lib/coldstream{'/' + name if name else ''}", f"/run/coldstream{'-' + name if name else ''}"
    return f"""
source:
  kafka:
    topics: {{impressions: impressions, clicks: clicks, conversions: ~}}
    idle_after: 300ms
    properties: {{bootstrap.servers: "{address}", reconnect.backoff.max.ms: 200{extra}}}
join: {{window: 2s}}
{fixture.harness.FEATURES}{fixture.harness.MODEL}
batch: {{size: 64, max_delay: 1s}}
snapshot: {{directory: {state}/snapshot, interval: 1s}}
checkpoint: {{directory: {state}/checkpoints, interval: 1s, keep: 3}}
control: {{socket: {runtime}/control.sock}}
http: {{listen: "{listen}"}}
compute: {{threads: 1, seed: 7}}
"""


def write(name, text):
    """A file of the machine's."""
    with open(f"{place['given']}/file", "w") as file:
        file.write(text)
    place["machine"].shell(f"install -D -m 640 -g coldstream /run/given/file {name}")


def show(unit, *names):
    return place["machine"].show(unit, *names)


def wait_for(unit, what, **wanted):
    def reached():
        now = show(unit, *wanted)
        return all(value(now[name]) if callable(value) else now[name] == value for name, value in wanted.items())
    place["machine"].until(reached, f"{unit} {what}: {show(unit, *wanted)}")


def said(unit, lines=30):
    """Its last lines in the journal."""
    return place["machine"].run("journalctl", "--no-pager", "-o", "cat", "-n", str(lines), "-u", unit).stdout


def drop_in(unit, text):
    """A part of the unit's [Service], as `systemctl edit --runtime` would make it; "": none any more."""
    folder = f"/run/systemd/system/{unit}.service.d"
    place["machine"].shell(f"mkdir -p {folder}; printf '%s' '[Service]\n{text}' >{folder}/test.conf; systemctl daemon-reload" if text else
                           f"rm -rf {folder}; systemctl daemon-reload")


def page(port, path):
    """Its status; None where nobody answers. The machine has no network of its own."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def status(control="/run/coldstream/control.sock"):
    done = place["machine"].run("coldstreamctl", "status", "--json", "--control", control, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def learned_whole(control="/run/coldstream/control.sock"):
    """All of the stream is learned, and nothing of it twice."""
    stream = place["broker"].stream
    with open(stream.file) as lines:
        kinds = [json.loads(line)["event"] for line in lines]

    def done():
        now = status(control)
        waits = not now or now["state"] != "running" or now["lag"] != 0 or now["join"]["pending"] or now["join"]["open_batch"]
        join = now and now["join"]
        return None if waits or join["impressions"] + join["clicks"] < stream.events or now["examples"]["all"] < join["matched"] + join["expired"] else now
    try:
        now = place["machine"].until(done, "all learned")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{json.dumps(status(control))[:3000]}") from None
    join = now["join"]
    assert (join["impressions"], join["clicks"]) == (kinds.count("impression"), kinds.count("click")) and join["adds_up"], join
    assert now["examples"]["all"] == join["matched"] + join["expired"] == join["impressions"] - join["duplicate_impressions"], (now["examples"], join)


def is_accepted_and_scored():
    """systemd-analyze: no word against any unit, and a score of at most 1.2."""
    on = place["machine"]
    # Pages are installed too: systemd-analyze looks whether what Documentation= names is there.
    units = on.shell("cd /usr/lib/systemd/system; for unit in coldstream*; do [ -L $unit ] || [ -d $unit ] || echo ${unit/@/@x}; done").stdout.split()
    assert len(units) == 9, units
    done = on.run("systemd-analyze", "verify", "--man=no", *units, check=False)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "coldstream" in line]
    assert done.returncode == 0 and not complaints, complaints
    for unit in SERVICES:
        on.run("systemd-analyze", "security", "--offline=true", "--threshold=12", f"/usr/lib/systemd/system/{unit}")


def starts_without_a_broker():
    write("/etc/coldstream/coldstream.yaml", configuration("127.0.0.1:1"))
    place["machine"].run("systemctl", "start", "coldstream")
    now = show("coldstream", "ActiveState", "StatusText", "Result")
    assert now["ActiveState"] == "active", now
    wait_for("coldstream", "says what it waits for", StatusText=lambda text: "broker" in text.lower())


def reloads_or_says_why_not():
    """Refused, nothing has changed, not even what could have been; systemd is told what goes on, and how it ended."""
    on = place["machine"]

    def heard():
        """What the daemon told systemd."""
        lines = on.run("journalctl", "--no-pager", "-o", "cat", "_PID=1").stdout.splitlines()
        return [line for line in lines if line.startswith("coldstream.service: Got notification message")]
    good = configuration("127.0.0.1:1")
    quiet, wrong = good + "logging: {level: notice}\n", ("interval: 1s", "intervall: 1s")
    level = status()["logging"]["level"]
    assert level == "info", level
    on.run("systemctl", "log-level", "debug")
    write("/etc/coldstream/coldstream.yaml", quiet.replace(*wrong))
    done = on.run("systemctl", "reload", "coldstream", check=False)
    assert done.returncode != 0, "a wrong configuration was reloaded"
    assert "intervall" in said("coldstream"), said("coldstream")
    assert status()["logging"]["level"] == level, "a refused reload changed something"
    wait_for("coldstream", "says that it was refused", ActiveState="active", StatusText=lambda text: "the last reload was refused" in text)
    on.until(lambda: any(" (STATUS=" in line and "refused" in line for line in heard()), "the next status, which says so too")
    write("/etc/coldstream/coldstream.yaml", quiet)
    before = len(heard())
    on.run("systemctl", "reload", "coldstream")
    told = "\n".join(heard()[before:])
    on.run("systemctl", "log-level", "info")
    assert 0 <= told.find("(RELOADING=1, MONOTONIC_USEC=") < told.find("(READY=1, STATUS="), told
    assert status()["logging"]["level"] == "notice" and "refused" not in show("coldstream", "StatusText")["StatusText"]
    write("/etc/coldstream/coldstream.yaml", configuration(place["broker"].address))
    done = on.run("systemctl", "reload", "coldstream", check=False)
    assert done.returncode != 0, "another broker is no matter of a reload"
    on.run("systemctl", "restart", "coldstream")


def learns_and_publishes_in_its_sandbox():
    on = place["machine"]
    on.until(lambda: status() and status()["steps"], "steps")
    on.until(lambda: on.shell("[ -e /var/lib/coldstream/checkpoints/current ]", check=False).returncode == 0, "a published version")
    modes = on.shell("stat -c '%a %U %G %n' /var/lib/coldstream /var/lib/coldstream/* /run/coldstream /run/coldstream/*").stdout
    for wanted in ("751 coldstream coldstream /var/lib/coldstream\n", "750 coldstream coldstream /var/lib/coldstream/snapshot",
                   "2750 coldstream coldstream-readers /var/lib/coldstream/checkpoints", "660 coldstream coldstream /run/coldstream/control.sock"):
        assert wanted in modes, f"{wanted} is not in\n{modes}"
    wait_for("coldstream", "tells rate and version", StatusText=lambda text: "/s" in text)
    # Its writing threads go behind its learning ones, as the exception in the unit allows.
    pid = show("coldstream", "MainPID")["MainPID"]
    nice = on.shell(f"cut -d' ' -f19 /proc/{pid}/task/*/stat").stdout.split()
    assert "10" in nice, nice


def explains_itself(on, message, remedy):
    """What journald's catalog says beside a line is what the table of remedies says, whole."""
    shown = on.run("journalctl", "--no-pager", "-x", "-o", "short", "-t", "coldstreamd").stdout.splitlines()
    said_at = [i for i, line in enumerate(shown) if message in line and not line.startswith("\u2591")]
    assert said_at, shown[-5:]
    beside = [line.lstrip("\u2591 ") for line in shown[said_at[0] + 1:said_at[0] + 9]]
    assert beside[:2] == [f"Subject: {message}", "Defined-By: Coldstream"] and remedy in " ".join(beside), beside


def is_in_the_journal_with_fields():
    lines = place["machine"].run("journalctl", "--no-pager", "-o", "json", "-u", "coldstream").stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    ours = [entry for entry in entries if entry.get("_COMM") == "coldstreamd" and "MESSAGE_ID" in entry]
    assert ours and all("PRIORITY" in entry and "CODE_FILE" in entry for entry in ours), lines[-3:]
    explains_itself(place["machine"], "reload refused", "What to do: mend the file, `coldstreamctl check-config FILE`, and reload;")


def hung_it_is_ended_and_started_again():
    """While the rest of the stream comes; of what was learned since the last snapshot nothing is lost, nor learned twice."""
    on = place["machine"]
    drop_in("coldstream", "WatchdogSec=2\nRestartSec=0\n")
    on.run("systemctl", "restart", "coldstream")
    before = show("coldstream", "MainPID", "NRestarts")
    learned = on.until(lambda: status() and status()["steps"], "steps learned before")
    place["broker"].produce()
    on.until(lambda: status()["steps"] > learned, "another step")
    on.run("kill", "-STOP", before["MainPID"])
    wait_for("coldstream", "restarted by the watchdog", NRestarts=str(int(before["NRestarts"]) + 1), ActiveState="active",
             MainPID=lambda pid: pid not in ("0", before["MainPID"]))
    assert "Watchdog timeout" in said("coldstream", 200), said("coldstream", 200)
    learned_whole()


def a_secret_comes_as_a_credential():
    on = place["machine"]
    secret = "battery-horse-staple"
    write("/etc/coldstream/secrets/kafka.sasl.password", secret)
    write("/etc/coldstream/coldstream.yaml", configuration(
        place["broker"].address, extra=', security.protocol: sasl_plaintext, sasl.mechanism: PLAIN, sasl.username: us, '
        'sasl.password: "credential:kafka.sasl.password"'))
    on.shell("printf '[Service]\\nLoadCredential=kafka.sasl.password:/etc/coldstream/secrets/kafka.sasl.password\\n' "
             ">/run/systemd/system/coldstream.service.d/secret.conf; systemctl daemon-reload; systemctl restart coldstream")
    assert show("coldstream", "ActiveState")["ActiveState"] == "active"
    pid = show("coldstream", "MainPID")["MainPID"]
    everything = on.shell(f"tr '\\0' '\\n' </proc/{pid}/cmdline; tr '\\0' '\\n' </proc/{pid}/environ; journalctl --no-pager -o verbose -u coldstream; "
                          "coldstreamctl status --json").stdout
    assert secret not in everything, "the secret was shown"
    # Another one comes with the next start (docs/security.md): a reload has the unit's credentials as they were copied at this one.
    held = "cat /run/credentials/coldstream.service/kafka.sasl.password"
    write("/etc/coldstream/secrets/kafka.sasl.password", f"{secret}-2")
    on.run("systemctl", "reload", "coldstream")
    assert on.shell(held).stdout == secret, "systemd copies credentials at a reload by now"
    on.run("systemctl", "restart", "coldstream")
    assert on.shell(held).stdout == f"{secret}-2"
    # Without the credential it does not start, and is not started again.
    on.shell("rm /run/systemd/system/coldstream.service.d/secret.conf; systemctl daemon-reload")
    done = on.run("systemctl", "restart", "coldstream", check=False)
    assert done.returncode != 0
    wait_for("coldstream", "failed for good", ActiveState="failed", ExecMainStatus="78", NRestarts="0")
    assert "sasl.password: there are no credentials" in on.run("journalctl", "--no-pager", "-o", "cat", "-n", "30", "-u", "coldstream").stdout
    write("/etc/coldstream/coldstream.yaml", configuration(place["broker"].address))


def stops_in_order_and_goes_on_after_an_upgrade():
    on = place["machine"]
    on.run("systemctl", "start", "coldstream")
    learned = on.until(lambda: status() and status()["steps"], "steps that it knows of")
    on.run("systemctl", "stop", "coldstream")
    now = show("coldstream", "Result", "ExecMainStatus", "ActiveState")
    assert now == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}, now
    on.run("coldstreamctl", "verify", "/var/lib/coldstream/snapshot")
    install()               # the same files once more: what an upgrade does
    on.run("systemctl", "daemon-reload")
    on.run("systemctl", "start", "coldstream")
    resumed = on.until(lambda: status() and status()["steps"], "the steps learned before")
    assert resumed >= learned, (resumed, learned)


def tried_again_within_limits(unit, recovers):
    """A unit that can't start is tried some times, and then left until somebody looks; recovers() takes the cause away."""
    on = place["machine"]
    drop_in(unit, "RestartSec=0\n")
    assert on.run("systemctl", "start", unit, check=False).returncode != 0
    wait_for(unit, "given up", ActiveState="failed", SubState="failed", NRestarts=lambda count: count in ("4", "5"))
    on.until(lambda: "Start request repeated too quickly" in said(unit), "systemd's word that it gives up")
    assert on.run("systemctl", "start", unit, check=False).returncode != 0, "started although the limit is reached"
    recovers()
    on.run("systemctl", "reset-failed", unit)
    on.run("systemctl", "start", unit)
    assert show(unit, "ActiveState")["ActiveState"] == "active"
    # What the dynamic linker ends with where it refuses the processor: once is enough.
    on.run("systemctl", "stop", unit)
    on.run("systemctl", "reset-failed", unit, check=False)
    drop_in(unit, "RestartSec=0\nExecStart=\nExecStart=/bin/sh -c \"exit 127\"\n")
    assert on.run("systemctl", "start", unit, check=False).returncode != 0
    wait_for(unit, "not tried again", ActiveState="failed", ExecMainStatus="127", NRestarts="0")
    drop_in(unit, "")
    on.run("systemctl", "reset-failed", unit)


def a_daemon_that_cannot_start_is_left_alone_in_the_end():
    with socket.create_server(("127.0.0.1", 0)) as held:
        listen = "127.0.0.1:%d" % held.getsockname()[1]
        write("/etc/coldstream/busy.yaml", configuration(place["broker"].address, "busy", listen=listen))

        def recovers():
            last = said("coldstream@busy", 60)
            assert f"http.listen: can't listen on {listen}: Address already in use" in last and "instance needs one of its own" in last, last
            held.close()
        tried_again_within_limits("coldstream@busy", recovers)


def a_scorer_waits_for_a_version_and_is_left_alone_where_it_cannot_start():
    on = place["machine"]
    port = fixture.harness.free_port()
    write("/etc/coldstream/serve-early.env", f"LISTEN=127.0.0.1:{port}\n")
    unit, state = "coldstream-serve@early", "/var/lib/coldstream/early"
    on.run("systemctl", "start", unit)                      # before its daemon was ever started: not even the directory is there
    assert show(unit, "ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
    assert "there is no directory of checkpoints: it is waited for" in said(unit)
    assert (page(port, "/livez"), page(port, "/readyz")) == (200, 503)
    on.shell(f"install -d -m 755 {state} && cp -a /var/lib/coldstream/checkpoints {state}/checkpoints")
    on.until(lambda: page(port, "/readyz") == 200, "an answer once there is a version")
    assert show(unit, "NRestarts")["NRestarts"] == "0"
    on.run("systemctl", "stop", unit)

    data = on.shell(f"echo {state}/checkpoints/$(readlink {state}/checkpoints/current)/data.mdb").stdout.strip()
    on.shell(f"cp -a {data} /root/whole; truncate -s 5000 {data}")

    def recovers():
        last = said(unit, 60)
        assert "can't serve" in last and "coldstreamctl verify" in last and "snapshot" not in last, last
        on.shell(f"cp -a /root/whole {data}")
    tried_again_within_limits(unit, recovers)

    # By its socket: that fails along with it, rather than start it for ever for who has connected.
    ask = "curl -sS -o /dev/null -w '%{http_code}' --max-time 30 --unix-socket /run/coldstream-serve/early.sock http://localhost/readyz"
    on.shell(f"truncate -s 5000 {data}; systemctl start {unit}.socket")
    drop_in(unit, "RestartSec=0\n")
    assert on.shell(ask, check=False).stdout != "200"
    wait_for(f"{unit}.socket", "failed too", ActiveState="failed")
    recovers()
    on.shell(f"systemctl reset-failed {unit}.socket {unit}; systemctl start {unit}.socket")
    assert on.shell(ask).stdout == "200"
    on.shell(f"systemctl stop {unit}.socket {unit}")
    drop_in(unit, "")


def two_models_live_side_by_side():
    """Each with its own state, socket and port; the end of one is nothing to the other."""
    on = place["machine"]
    ports = {name: fixture.harness.free_port() for name in ("a", "b")}
    for name, port in ports.items():
        write(f"/etc/coldstream/{name}.yaml", configuration(place["broker"].address, name, listen=f"127.0.0.1:{port}"))
    on.run("systemctl", "start", "coldstream@a", "coldstream@b")
    for name, port in ports.items():
        learned_whole(f"/run/coldstream-{name}/control.sock")
        on.until(lambda: page(port, "/readyz") == 200, f"{name} ready")
        assert {"snapshot", "checkpoints"} <= set(on.shell(f"ls /var/lib/coldstream/{name}").stdout.split())
    on.run("systemctl", "stop", "coldstream")
    on.run("systemctl", "stop", "coldstream@a")
    assert page(ports["a"], "/livez") is None and page(ports["b"], "/livez") == 200
    on.run("systemctl", "reload", "coldstream@b")
    assert status("/run/coldstream-b/control.sock"), "the second went with the first"


def names_whose_directories_are_others_do_not_start():
    """Their unit would take the scorers' sockets along, or the single model's state."""
    on = place["machine"]
    places = "stat -c '%n %U %G %a' /run/coldstream-serve /var/lib/coldstream/snapshot /var/lib/coldstream/checkpoints"
    on.shell("mkdir -p /run/coldstream-serve")
    before = on.shell(places).stdout
    for name in ("serve", "snapshot", "checkpoints"):
        done = on.run("systemctl", "start", f"coldstream@{name}", check=False)
        assert done.returncode != 0 and "Assertion failed" in done.stderr, done
        assert f"no model can be called {name}" in show(f"coldstream@{name}", "Description")["Description"]
        on.run("systemd-analyze", "verify", "--man=no", f"coldstream@{name}.service")
    assert on.shell(places).stdout == before


def of_two_models_on_one_place_the_second_is_told():
    on = place["machine"]
    own = configuration(place["broker"].address, "a")
    cases = [("/var/lib/coldstream/a/snapshot", "/var/lib/coldstream/b/snapshot", "", "78",
              "snapshot.directory: this unit may not write /var/lib/coldstream/b/snapshot; its own is /var/lib/coldstream/a"),
             ("/run/coldstream-a/control.sock", "/run/coldstream-b/control.sock", "", "76", "another daemon answers on /run/coldstream-b/control.sock"),
             ("/var/lib/coldstream/a/snapshot", "/var/lib/coldstream/b/snapshot", "ReadWritePaths=/var/lib/coldstream/b\n", "76",
              "/var/lib/coldstream/b/snapshot is in use by process"),
             ("/var/lib/coldstream/a/checkpoints", "/var/lib/coldstream/b/checkpoints", "ReadWritePaths=/var/lib/coldstream/b\n", "76",
              "another daemon publishes into /var/lib/coldstream/b/checkpoints")]
    for mine, other, allowed, code, text in cases:
        drop_in("coldstream@a", allowed)
        write("/etc/coldstream/a.yaml", own.replace(mine, other))
        assert on.run("systemctl", "start", "coldstream@a", check=False).returncode != 0, other
        wait_for("coldstream@a", "refused for good", ActiveState="failed", ExecMainStatus=code, NRestarts="0")
        last = said("coldstream@a", 15)
        assert text in last and "remedy=" in last, f"{text} is not in\n{last}"
        on.run("systemctl", "reset-failed", "coldstream@a")
    learned_whole("/run/coldstream-b/control.sock")
    on.run("systemctl", "stop", "coldstream@b")


TESTS = [is_accepted_and_scored, starts_without_a_broker, reloads_or_says_why_not, learns_and_publishes_in_its_sandbox,
         is_in_the_journal_with_fields, hung_it_is_ended_and_started_again, a_secret_comes_as_a_credential,
         stops_in_order_and_goes_on_after_an_upgrade, a_daemon_that_cannot_start_is_left_alone_in_the_end,
         a_scorer_waits_for_a_version_and_is_left_alone_where_it_cannot_start, two_models_live_side_by_side,
         names_whose_directories_are_others_do_not_start, of_two_models_on_one_place_the_second_is_told]


def install():
    place["machine"].shell("cp -a /run/given/installed/. /; systemd-sysusers; systemd-tmpfiles --create /usr/lib/tmpfiles.d/coldstream.conf; "
                           "journalctl --update-catalog")


def prepare(plant):
    given = place["given"] = os.path.join(plant.folder, "given")
    os.mkdir(given)
    subprocess.run(["make", "-s", f"BUILD={os.environ.get('BUILD', 'build')}", f"DESTDIR={given}/installed", "PREFIX=/usr", "install"],
                   cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    stream = fixture.Stream(plant.folder, 3000)
    place["broker"] = plant.broker(stream).produce(1500)    # the rest comes while the daemon hangs
    place["machine"] = machine.Machine(given)
    install()


def called(test):
    return "under systemd, " + test.__name__.replace("_", " ")


def run():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    plant = fixture.Plant("systemd")
    try:
        try:
            prepare(plant)
        except machine.Missing as missing:
            reason = str(missing)

            def skip(_):
                raise fixture.Skip(reason)

            return fixture.harness.judge_all(TESTS, skip, called)
        return fixture.harness.judge_all(TESTS, called=called, more=place["machine"].journal)
    finally:
        if "machine" in place:
            place["machine"].stop()
        plant.tidy()
        shutil.rmtree(plant.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(run())
