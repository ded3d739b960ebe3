"""A machine of its own for a test: this one's files under an overlay that is thrown away, and systemd as process 1 in it.
The way is operations.md's, section 2. Needs root, overlayfs, and the cgroup hierarchies that systemd wants."""
import os
import shutil
import signal
import subprocess
import tempfile
import time

PATIENCE = 60

BOOT = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1/layer"
mkdir "$1/layer/upper" "$1/layer/work"
mount -t overlay overlay -o lowerdir="$3",upperdir="$1/layer/upper",workdir="$1/layer/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs dev/shm        # systemd removes what a service's user has there (RemoveIPC): not ours
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p "$1/root/mnt"
mount -t sysfs sysfs sys 2>/dev/null || mount --rbind /sys sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir -p mnt/outside
pivot_root . mnt/outside
mount --bind "/mnt/outside$2" "/mnt/outside$2" 2>/dev/null || :
mkdir -p /run/given && mount --bind "/mnt/outside$2" /run/given
umount -l /mnt/outside
mount --make-rshared /
rm -f /etc/systemd/system/*.wants/* /etc/machine-id
echo 0123456789abcdef0123456789abcdef >/etc/machine-id
rm -rf /var/lib/coldstream /etc/coldstream
printf '[Unit]\nDescription=A machine under test\nWants=systemd-journald.service\nAfter=systemd-journald.service\n' >/etc/systemd/system/under-test.target
export container=x
exec /lib/systemd/systemd --system --unit=under-test.target
"""


class Missing(Exception):
    """The machine can't: why."""


class Machine:
    def __init__(self, given, files="/", alone=False):
        """given: a folder that is there as /run/given. files: what the machine has at first. alone: with a network of its own, of nothing
        but loopback; where `online` says so, a command has this machine's instead."""
        if os.geteuid() != 0:
            raise Missing("not root")
        if not os.path.exists("/lib/systemd/systemd"):
            raise Missing("systemd is not installed")
        with open("/proc/filesystems") as file:
            if "overlay" not in file.read():
                raise Missing("this kernel has no overlayfs")
        self.alone = alone
        self.folder = tempfile.mkdtemp(prefix="coldstream-machine.")
        for name in ("layer", "root"):
            os.mkdir(f"{self.folder}/{name}")
        self.groups = [f"{top}/coldstream-{os.getpid()}" for top in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup")
                       if os.path.exists(f"{top}/cgroup.procs")]
        if not self.groups:
            raise Missing("no cgroup hierarchy is mounted")
        try:
            for group in self.groups:
                os.mkdir(group)
        except OSError as error:
            raise Missing(f"no cgroup can be made: {error}") from None

        def join():
            for group in self.groups:
                with open(f"{group}/cgroup.procs", "w") as file:
                    file.write(str(os.getpid()))

        self.log = open(f"{self.folder}/console", "wb")
        self.process = subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", *["--net"] * alone,
                                         "bash", "-c", BOOT, "boot", self.folder, os.path.abspath(given), files], preexec_fn=join, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log, start_new_session=True)
        self.init = self.first_child()
        self.until(lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"), "a system that runs")

    def first_child(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as file:
                children = file.read().split()
            if children:
                return int(children[0])
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError("the machine did not start: " + self.console())

    def console(self):
        with open(f"{self.folder}/console", errors="replace") as file:
            return file.read()[-3000:]

    def run(self, *command, check=True, online=False, seconds=PATIENCE * 3, **more):
        done = subprocess.run(["nsenter", "-t", str(self.init), "-m", "-p", "-u", "-i", "-C", *["-n"] * (self.alone and not online), *command],
                              capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds, **more)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done

    def shell(self, script, check=True):
        return self.run("bash", "-ec", script, check=check)

    def show(self, unit, *names):
        text = self.run("systemctl", "show", unit, *[f"-p{name}" for name in names]).stdout
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def journal(self):
        """Its last lines, for who looks why a test failed."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-n", "25", check=False).stdout

    def until(self, condition, what, seconds=PATIENCE):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(f"no {what} within {seconds} s; console: {self.console()}")

    def stop(self):
        try:
            os.kill(self.init, signal.SIGKILL)
        except (AttributeError, ProcessLookupError):
            pass
        self.process.wait(PATIENCE)
        self.log.close()
        for group in self.groups:
            for path, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(path)
                except OSError:
                    pass
        shutil.rmtree(self.folder, ignore_errors=True)
