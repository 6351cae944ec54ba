"""A private systemd: PID 1 of namespaces of its own, over a throw-away overlay of this machine.

    unshare ─> overlay of / on a tmpfs ─> pivot_root ─> systemd, with our units and just enough of Debian's

It writes nothing to this machine: / is an overlay, /run, /tmp and /dev are its own, and /sys and /proc/sys are
read-only. Of Debian's units it has only those in UNITS. It shares this machine's network, so that it reaches private
servers on loopback. It needs root, and a kernel that lets it mount.
"""

import os
import select
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from .process import START_DEADLINE, Server, ServerError

ROOT = Path(__file__).parents[2]
SYSTEMD = Path("/usr/lib/systemd/systemd")
#: The units of the journal and of an ordinary service's dependencies.
UNITS = (
    *("sysinit.target", "basic.target", "multi-user.target", "network-online.target", "shutdown.target"),
    *("systemd-journald.service", "systemd-journald.socket"),
)
#: Folder outside -> folder inside. They make the project look installed there, with the Python that runs this.
BINDS = {
    Path(sys.base_prefix): "/opt/python",
    Path(sysconfig.get_path("purelib")): "/opt/invalidator/packages",
    ROOT / "invalidator": "/opt/invalidator/ours/invalidator",
    ROOT / "cli": "/opt/invalidator/ours/invalidator_cli",
    # Not at the same path as outside: that may be in /tmp, which is a different one inside.
    ROOT: "/srv/source",
}
COMMAND = """#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/invalidator/ours:/opt/invalidator/packages
exec /opt/python/bin/python3 -m invalidator_cli.main "$@"
"""
#: A unit that uses what a kernel or a container may not allow.
PROBE = """[Service]
Type=oneshot
DynamicUser=yes
PrivateUsers=yes
PrivateDevices=yes
ProtectSystem=strict
ExecStart=/bin/true
"""
#: $1: our folder, with seed/ and the empty stage/; $2: the cgroup's name; $3: UNITS; then BINDS.
BOOT = r"""
set -e
box=$1 cgroup=$2 units=$3; shift 3
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$box/stage"
cd "$box/stage"
mkdir cgroups upper work root
mount -t cgroup2 cgroup2 cgroups
mkdir "cgroups/$cgroup"
echo 0 >"cgroups/$cgroup/cgroup.procs"
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work" root
cd root
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for node in null zero full random urandom tty; do touch "dev/$node"; mount --bind "/dev/$node" "dev/$node"; done
for folder in run tmp var/tmp var/log etc/systemd/system usr/lib/systemd/system usr/lib/systemd/system-generators; do
  mkdir -p "$folder"; mount -t tmpfs -o mode=755 tmpfs "$folder"
done
chmod 1777 tmp var/tmp
for unit in $units; do cp "/usr/lib/systemd/system/$unit" usr/lib/systemd/system/; done
cp -a "$box/seed/." .
while [ $# -gt 0 ]; do mkdir -p ".$2"; mount --bind "$1" ".$2"; shift 2; done
mkdir old
pivot_root . old
umount -l old
mount --make-rshared /
exec env -i container=tests PATH=/usr/sbin:/usr/bin:/sbin:/bin unshare --cgroup sh -c '
  mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec /usr/lib/systemd/systemd --system --unit=multi-user.target'
"""


def systemd_is_installed() -> bool:
    return SYSTEMD.exists() and shutil.which("pivot_root") is not None


class Systemd(Server):
    """A booted systemd with the units of conf/systemd, in which /opt/invalidator is this project."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self._cgroup = self.folder.name

    def run(self, *command: str, text: str = "") -> str:
        """Run a command inside and return its output. Raises ServerError."""
        inside = ["nsenter", "--target", str(self._pid_1()), "--all", "--root", "--wd", "--", *command]
        # Without PYTHONPATH, which shows pip the project that is being tested as one that is installed already.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(inside, input=text, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerError(f"{' '.join(command)}: {done.stdout.strip()}\n{done.stderr.strip()}")
        return done.stdout

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl and return its output. Raises ServerError."""
        return self.run("systemctl", *arguments)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit under the name, and in the form, of `systemctl show`."""
        return self.systemctl("show", "--value", f"--property={name}", unit).strip()

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")

    def write(self, path: str, text: str, *, mode: str = "644") -> None:
        """Write a file inside, and create its folder."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$0")" && cat >"$0" && chmod "$1" "$0"', path, mode, text=text)

    def kill(self) -> None:
        """Kill PID 1, and everything inside with it."""
        pidfd = os.pidfd_open(self._pid_1()) if self.running else None
        super().kill()
        if pidfd is not None:
            select.select([pidfd], [], [], START_DEADLINE)  # readable once the process has ended, reaped or not
            os.close(pidfd)

    def close(self) -> None:
        super().close()
        for mounted in _cgroup_mounts():
            for folder, _, _ in os.walk(mounted / self._cgroup, topdown=False):
                Path(folder).rmdir()

    def _command(self) -> list[str]:
        self._sow()
        binds = [text for source, target in BINDS.items() for text in (str(source), target)]
        namespaces = ("--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc")
        return ["unshare", *namespaces, "sh", "-c", BOOT, "sh", str(self.folder), self._cgroup, " ".join(UNITS), *binds]

    def _sow(self) -> None:
        """Lay out the files that are copied over the machine's."""
        seed = self.folder / "seed"
        units = seed / "etc/systemd/system"
        shutil.copytree(ROOT / "conf/systemd", units)
        wants = units / "multi-user.target.wants"
        wants.mkdir()
        (wants / "systemd-journald.service").symlink_to("/usr/lib/systemd/system/systemd-journald.service")
        command = seed / "opt/invalidator/bin/invalidator"
        command.parent.mkdir(parents=True)
        command.write_text(COMMAND)
        command.chmod(0o755)
        (self.folder / "stage").mkdir()

    def start(self) -> None:
        """Boot. Raise ServerError if this is impossible, or if it cannot sandbox services, as inside a chroot."""
        super().start()
        self.write("/etc/systemd/system/probe.service", PROBE)
        self.systemctl("start", "probe.service")

    def _answers(self) -> bool:
        try:
            return "multi-user.target" in self.systemctl("list-units", "--state=active", "multi-user.target")
        except ServerError:
            return False

    def _pid_1(self) -> int:
        assert self.process
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            raise ServerError("systemd is not there yet")
        return int(children[0])


def _cgroup_mounts() -> list[Path]:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"]
