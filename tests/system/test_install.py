#!/usr/bin/env python3
"""make install and make uninstall into a folder of their own: what the one put the other takes, and nothing else.
usage: test_install.py BUILD"""
import os, subprocess, sys, tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "kafka"))
import harness  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# As `make` was told it: another spelling is another -I, and builds all anew.
BUILD = os.path.relpath(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BUILD", "build"), ROOT)
# What is not ours, or not the installation's: beside what is installed, in the same folders, and in those of configuration and state.
OTHERS = {"usr/bin/other": "another's program", "usr/lib/systemd/system/other.service": "[Unit]", "usr/share/coldstream/mine.yaml": "mine",
          "etc/coldstream/coldstream.yaml": "features: {}", "etc/coldstream/secrets/kafka": "secret",
          "var/lib/coldstream/snapshot/data.mdb": "learned", "var/lib/coldstream/checkpoints/1/data.mdb": "published"}


def make(target, folder, *settings):
    done = subprocess.run(["make", "--no-print-directory", f"BUILD={BUILD}", f"DESTDIR={folder}", *settings, target], cwd=ROOT, text=True,
                          capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def files(folder):
    return {os.path.relpath(os.path.join(place, name), folder) for place, _, names in os.walk(folder) for name in names}


def folders(folder):
    return {os.path.relpath(os.path.join(place, name), folder) for place, names, _ in os.walk(folder) for name in names}


def go_and_come(folder, *settings):
    """Installed, then taken away: the files that were there for a while."""
    before = files(folder)
    make("install", folder, *settings)
    installed = files(folder) - before
    make("uninstall", folder, *settings)
    assert files(folder) == before, files(folder) ^ before
    return installed


def uninstall_takes_what_install_put(folder):
    installed = go_and_come(folder, "PREFIX=/usr")
    for name in ("usr/bin/coldstreamd", "usr/bin/coldstreamctl", "usr/bin/coldstream-fetch", "usr/lib/libcoldstream.so", "usr/include/coldstream.h",
                 "usr/lib/systemd/system/coldstream@.service", "usr/share/zsh/vendor-completions/_coldstream", "usr/share/man/man8/coldstreamd.8",
                 "usr/share/coldstream/coldstream.yaml", "usr/share/doc/coldstream/docs/operations.md"):
        assert name in installed, (name, sorted(installed))
    assert len(installed) > 50, sorted(installed)
    left = [name for name in folders(folder) if "coldstream" in name]
    assert left == [], left             # folders that were ours alone


def what_is_not_installed_stays(folder):
    for name, text in OTHERS.items():
        os.makedirs(os.path.dirname(f"{folder}/{name}"), exist_ok=True)
        with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
            file.write(text)
    go_and_come(folder, "PREFIX=/usr", "LIBDIR=/usr/lib/x86_64-linux-gnu", "UNITDIR=/lib/systemd/system")
    for name, text in OTHERS.items():
        with open(f"{folder}/{name}", encoding="utf-8") as file:
            assert file.read() == text, name


def nothing_there_is_nothing_to_take(folder):
    make("uninstall", folder)
    assert files(folder) == set()
    assert len(go_and_come(folder)) > 50        # /usr/local
    make("uninstall", folder)


def main():
    def in_a_folder(test):
        with tempfile.TemporaryDirectory(prefix="coldstream-install-") as folder:
            test(folder)

    return harness.judge_all([uninstall_takes_what_install_put, what_is_not_installed_stays, nothing_there_is_nothing_to_take], in_a_folder)


if __name__ == "__main__":
    sys.exit(main())
