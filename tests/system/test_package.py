#!/usr/bin/env python3
"""The Debian packages: built, looked at by lintian, installed by dpkg into a machine of their own with a real systemd, upgraded while the
daemon, an instance and the scorers run, removed and purged.
usage: test_package.py BUILD"""
import glob
import json
import os
import shutil
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, f"{ROOT}/tests/crash"]
import machine          # noqa: E402
import plant as fixture  # noqa: E402
import test_systemd      # noqa: E402

PACKAGES = ("coldstream", "coldstream-serve", "libcoldstream1", "libcoldstream-dev")
NEXT = "9.0.0"
REQUEST = json.dumps({"requests": [{"user_id": "u1", "user": {}, "behaviors": [], "candidates": [{"item_id": "i1"}]}]})
place = test_systemd.place


def packages(folder):
    return [glob.glob(f"{folder}/{name}_*.deb")[0] for name in PACKAGES]


def contents(name):
    deb = glob.glob(f"{place['debs']}/{name}_*.deb")[0]
    lines = subprocess.run(["dpkg", "-c", deb], check=True, capture_output=True, text=True).stdout.splitlines()
    return [line.split(None, 5)[5].split(" -> ")[0].lstrip(".") for line in lines]


def score(*how):
    return place["machine"].run("curl", "-sS", "--max-time", "30", *how, "-d", REQUEST, check=False)


def version_of(answer):
    try:
        return json.loads(answer.stdout)["version"]
    except (ValueError, KeyError):
        return None


def are_accepted_by_lintian():
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning", *glob.glob(f"{place['debs']}/*.changes")],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def hold_what_they_should():
    daemon, serve = contents("coldstream"), contents("coldstream-serve")
    for wanted in ("/usr/bin/coldstreamd", "/usr/bin/coldstreamctl", "/usr/bin/coldstream-fetch", "/etc/coldstream/coldstream.yaml",
                   "/lib/systemd/system/coldstream.service", "/lib/systemd/system/coldstream@.service", "/lib/systemd/system/coldstream@serve.service.d/reserved.conf", "/usr/lib/sysusers.d/coldstream.conf",
                   "/usr/lib/tmpfiles.d/coldstream.conf", "/usr/share/man/man8/coldstreamd.8.gz", "/usr/share/man/man5/coldstream.yaml.5.gz",
                   "/usr/share/coldstream/monitoring/alerts.yaml", "/usr/lib/systemd/catalog/coldstream.catalog"):
        assert wanted in daemon, f"coldstream has no {wanted}"
    for wanted in ("/usr/bin/coldstream-serve", "/lib/systemd/system/coldstream-serve.socket", "/lib/systemd/system/coldstream-serve@.socket",
                   "/usr/share/man/man8/coldstream-serve.8.gz", "/usr/lib/sysusers.d/coldstream-serve.conf"):
        assert wanted in serve, f"coldstream-serve has no {wanted}"
    library = [path for path in contents("libcoldstream1") if "/lib/" in path and ".so" in path]
    assert len(library) == 1 and library[0].endswith("-linux-gnu/libcoldstream.so.1"), library
    headers = contents("libcoldstream-dev")
    assert "/usr/include/coldstream.h" in headers and any(path.endswith("pkgconfig/coldstream.pc") for path in headers), headers


def are_installed_and_start_nothing():
    on = place["machine"]
    on.shell("rm -f /usr/sbin/policy-rc.d")         # a container's: it forbids what is tested here
    on.run("dpkg", "-i", *[f"/run/given/debs/{os.path.basename(path)}" for path in packages(place["debs"])])
    modes = on.shell("stat -c '%a %U:%G %n' /etc/coldstream /etc/coldstream/* /var/lib/coldstream /var/lib/coldstream/*").stdout
    for wanted in ("750 root:coldstream /etc/coldstream\n", "640 root:coldstream /etc/coldstream/coldstream.yaml", "700 root:root /etc/coldstream/secrets",
                   "751 coldstream:coldstream /var/lib/coldstream\n", "2750 coldstream:coldstream-readers /var/lib/coldstream/checkpoints"):
        assert wanted in modes, f"{wanted} is not in\n{modes}"
    running = on.shell("systemctl list-units --no-legend --state=active 'coldstream*'").stdout
    files = on.shell("systemctl list-unit-files --no-legend 'coldstream*'").stdout
    states = {line.split()[0]: line.split()[1] for line in files.splitlines()}
    assert not running and len(states) == 9 and set(states.values()) == {"disabled", "static"}, running + files
    on.run("coldstreamctl", "check-config", "/etc/coldstream/coldstream.yaml")
    done = on.shell("cd /tmp && echo '#include <coldstream.h>\nint main(void) { coldstream_close(0); return 0; }' >a.c && "
                    "cc a.c $(pkg-config --cflags --libs coldstream) -o a && ./a && ldd ./a").stdout
    assert "-linux-gnu/libcoldstream.so.1" in done, done
    assert "Coldstream" in on.run("journalctl", "--list-catalog").stdout      # systemd's trigger has taken it in


def are_run_with_scorers_that_sockets_start():
    on = place["machine"]
    test_systemd.write("/etc/coldstream/coldstream.yaml", test_systemd.configuration(place["broker"].address))
    test_systemd.write("/etc/coldstream/second.yaml", test_systemd.configuration(place["broker"].address, "second"))
    on.run("systemctl", "enable", "--now", "coldstream", "coldstream@second")
    on.run("systemctl", "start", "coldstream-serve.socket", "coldstream-serve@second.socket")
    assert test_systemd.show("coldstream-serve", "ActiveState")["ActiveState"] == "inactive"
    for state in ("coldstream", "coldstream/second"):
        on.until(lambda: on.shell(f"[ -e /var/lib/{state}/checkpoints/current ]", check=False).returncode == 0, f"a version in {state}")
    on.until(lambda: version_of(score("http://127.0.0.1:9465/v1/score")), "an answer on the port")
    on.until(lambda: version_of(score("--unix-socket", "/run/coldstream-serve/second.sock", "http://localhost/v1/score")), "an answer on the path")
    assert test_systemd.show("coldstream-serve@second", "ActiveState", "User") == {"ActiveState": "active", "User": "coldstream-serve"}


def are_upgraded_while_all_runs():
    on = place["machine"]
    units = ("coldstream", "coldstream@second", "coldstream-serve", "coldstream-serve@second")
    before = {unit: test_systemd.show(unit, "MainPID")["MainPID"] for unit in units}
    socket = test_systemd.show("coldstream-serve.socket", "ActiveEnterTimestampMonotonic")
    learned = on.until(lambda: test_systemd.status() and test_systemd.status()["steps"], "steps")
    place["broker"].produce()                       # the rest of the stream
    for path in packages(place["debs"]):            # the same files under a later version: what dpkg does is that of any upgrade
        name = os.path.basename(path).split("_")[0]
        tree = f"{place['given']}/next/{name}"
        subprocess.run(["dpkg-deb", "-R", path, tree], check=True)
        subprocess.run(["sed", "-i", rf"s/^Version: .*/Version: {NEXT}/; s/(= [0-9.]*)/(= {NEXT})/", f"{tree}/DEBIAN/control"], check=True)
        subprocess.run(["dpkg-deb", "-b", "-Znone", "--root-owner-group", tree, f"{place['given']}/next/{name}_{NEXT}_all.deb"], check=True,
                       stdout=subprocess.DEVNULL)
    on.run("dpkg", "-i", *[f"/run/given/next/{os.path.basename(path)}" for path in packages(f"{place['given']}/next")])
    for unit in units:
        test_systemd.wait_for(unit, "runs again", ActiveState="active", MainPID=lambda pid: pid not in ("0", before[unit]))
    assert test_systemd.show("coldstream-serve.socket", "ActiveEnterTimestampMonotonic") == socket, "the socket was closed meanwhile"
    resumed = on.until(lambda: test_systemd.status() and test_systemd.status()["steps"], "the steps learned before")
    assert resumed >= learned, (resumed, learned)
    for control in ("/run/coldstream/control.sock", "/run/coldstream-second/control.sock"):
        test_systemd.learned_whole(control)
    assert place["broker"].address in on.shell("cat /etc/coldstream/coldstream.yaml").stdout, "the configuration was overwritten"
    on.until(lambda: version_of(score("http://127.0.0.1:9465/v1/score")), "an answer after the upgrade")


def are_removed_and_purged_but_for_what_was_learned():
    on = place["machine"]
    on.run("dpkg", "-r", *PACKAGES)
    running = on.shell("systemctl list-units --no-legend --state=active 'coldstream*'").stdout
    assert not running, running
    on.shell("rm /etc/coldstream/second.yaml /etc/coldstream/secrets/* 2>/dev/null || :")
    said = on.run("dpkg", "-P", *PACKAGES)
    assert "/var/lib/coldstream is left" in said.stdout + said.stderr, said.stdout + said.stderr
    assert on.shell("ls /etc/coldstream 2>&1", check=False).returncode != 0, "/etc/coldstream is left"
    assert on.shell("ls /var/lib/coldstream/snapshot /var/lib/coldstream/second/snapshot").stdout


LOOKS = [are_accepted_by_lintian, hold_what_they_should]
RUNS = [are_installed_and_start_nothing, are_run_with_scorers_that_sockets_start, are_upgraded_while_all_runs,
        are_removed_and_purged_but_for_what_was_learned]


def build():
    done = subprocess.run(["make", "deb", f"BUILD={os.environ.get('BUILD', 'build')}"], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    place["debs"] = f"{place['given']}/debs"
    os.mkdir(place["debs"])
    for path in glob.glob(f"{ROOT}/{os.environ.get('BUILD', 'build')}/deb/*.*"):
        shutil.copy(path, place["debs"])


def start(plant):
    place["broker"] = plant.broker(fixture.Stream(plant.folder, 3000)).produce(1500)
    place["machine"] = machine.Machine(place["given"])


def one(plant, test):
    if test not in RUNS:
        test()
        return
    assert not place.get("broken"), "not tried: one goes on where the one before ended"
    place["broken"] = True
    try:
        if "machine" not in place:
            start(plant)
    except machine.Missing as reason:
        place["broken"] = False
        raise fixture.Skip(reason) from None
    test()
    place["broken"] = False


def run():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    plant = fixture.Plant("package")
    place["given"] = os.path.join(plant.folder, "given")
    os.makedirs(f"{place['given']}/next")
    try:
        build()
        return fixture.harness.judge_all(LOOKS + RUNS, lambda test: one(plant, test), lambda test: "packages " + test.__name__.replace("_", " "),
                                         lambda: place["machine"].journal() if "machine" in place else "")
    finally:
        if "machine" in place:
            place["machine"].stop()
        plant.tidy()
        shutil.rmtree(plant.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(run())
