"""One machine of :mod:`tests.cluster.machines`: a real systemd in a host's namespace.

Enters: a :class:`tests.cluster.netns.Host`. Leaves: what commands in the machine say, and what it
did to its disk.

A machine is held by a shell, process 1 of a pid namespace, in a mount namespace of its own. All
mounts and processes of the machine are in those. They end with the shell, which ends with the
process of the test, however that ends. Two things outlive it, the network namespace and the
control group.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import select
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.cluster.disk import Disk, Entry
from tests.cluster.netns import Host, command, until

__all__ = ["Machine", "Ran"]

ROOT = Path(__file__).resolve().parent.parent.parent

# Of what a machine writes to its disk. Two virtual environments of Bzzz, about 120 MB each, a third
# being built, and the journal fit; a runaway log does not take the build machine's memory. A fresh
# machine uses 8 MB of it, and 10 MB for its processes.
DISK_SIZE = "1g"

# Seconds. A boot takes less than one, but build machines may be busy.
BOOT_TIMEOUT = 90.0
STOP_TIMEOUT = 60.0
COMMAND_TIMEOUT = 60.0

# systemd-nspawn's exit code when the machine wants to be booted again (EXIT_FORCE_RESTART).
REBOOTED = 133

# The names that a machine's shell, below, gives to its parts. They are in its mount namespace only.
DISK = "tmp/upper"
CONSOLE = "tmp/console"
GROUPS = "sys/fs/cgroup"

# Prints a line when it is ready, reads one when the disk is filled, then one for each boot, and
# prints one when that is over. It ends when there is nothing more to read.
HOLD = f"""
set -eu
group=/{GROUPS}/$1
network=/run/netns/$1
machine=$2
mount -t tmpfs -o mode=700,size={DISK_SIZE} machine /tmp
: >/tmp/network
mount --bind "$network" /tmp/network
mount -t tmpfs -o mode=755 run /run
# Where control groups of version 1 are seen as well, Debian 12 cannot stop units. Where those of
# version 2 are mounted they cannot be mounted again, hence the mount between.
mount -t tmpfs hide /{GROUPS}
mount -t cgroup2 cgroup2 /{GROUPS}
mkdir /{DISK} /tmp/work /tmp/root
echo ready
read -r _
mount -t overlay -o "lowerdir=/,upperdir=/{DISK},workdir=/tmp/work,redirect_dir=off,metacopy=off" \
    disk /tmp/root
boot() {{
    # With controllers of the boot before it, a group takes no process.
    [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {{}} +
    mkdir "$group"
    (
        echo 0 >"$group/cgroup.procs"
        exec systemd-nspawn --quiet --boot --directory=/tmp/root --machine="$machine" \
            --register=no --keep-unit --settings=no --link-journal=no \
            --resolv-conf=off --timezone=off \
            --network-namespace-path=/tmp/network --capability=CAP_NET_ADMIN \
            --rlimit=RLIMIT_NOFILE=1024:524288
    ) </dev/null >>/{CONSOLE} 2>&1
}}
while read -r _; do
    code={REBOOTED}
    while [ "$code" -eq {REBOOTED} ]; do
        boot && code=0 || code=$?
    done
    echo "ended with $code"
done
"""

# That of root's login.
ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LOGNAME": "root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SHELL": "/bin/bash",
    "USER": "root",
}


class Ran(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """All that it said; what it said of errors is last."""
        return self.stdout + self.stderr


class Machine:
    """A machine of :class:`Machines`, which makes it.

    :ivar host: where it is on the network, and what can be done to it there.
    :ivar state: what systemd said once it had booted: ``running``, or ``degraded`` where units
        failed. Empty while it does not run.
    :ivar boot_time: seconds that the last boot took.
    """

    def __init__(self, host: Host) -> None:
        self.name = host.name
        self.host = host
        self.state = ""
        self.boot_time = 0.0
        self._group = host.namespace
        self._commands = itertools.count(1)
        self._holder: subprocess.Popen[bytes] | None = None
        self._shell = 0
        self._init = 0
        self._began = 0.0

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return self.host.address

    @property
    def init(self) -> int:
        """Its process 1, as seen from here; 0 while it does not run."""
        return self._init

    def inside(self, path: str) -> Path:
        """A path in it, as it is from here while it runs, without a command in the machine."""
        return Path("/proc", str(self._init), "root", path.lstrip("/"))

    # Its life

    def hold(self) -> None:
        """Make what the machine consists of. It runs once it is booted."""
        # The shell is killed when the thread that starts it ends, whatever that dies of. A signal
        # of a terminal does not reach it, so that the test ends it in order.
        self._holder = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("sh", "-c", HOLD, "sh", self._group, self.name),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._hear("ready", BOOT_TIMEOUT)
        (self._shell,) = _children(self._holder.pid)
        Disk(self._inside(DISK)).fill(self.name)
        self._tell()

    def begin(self) -> None:
        """Switch it on, and do not wait."""
        self._began = time.monotonic()
        self._tell()

    def boot(self) -> None:
        """Switch it on, and wait until it has booted."""
        self.begin()
        self.until_booted()

    def until_booted(self) -> None:
        """Wait until it has booted, with or without units that failed."""
        before, self.state = self._init, ""
        try:
            self.state = until(
                lambda: self._booted(before), BOOT_TIMEOUT, f"{self.name} has booted", 0.1
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.console}") from error
        self.boot_time = time.monotonic() - self._began

    def _booted(self, before: int) -> str | None:
        if heard := self._heard(0.0):
            raise AssertionError(f"{self.name} did not boot: {heard}")
        self._init = self._find_init()
        if self._init in (0, before):
            return None
        # Not --wait: that would wait for jobs which a failed boot never ends.
        said = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return said if said in ("running", "degraded") else None

    def reboot(self) -> None:
        """Have it reboot, and wait until it has."""
        self._began = time.monotonic()
        # The command may be ended by what it asked for.
        self.run("systemctl", "reboot", check=False)
        self.until_booted()

    def power_off(self) -> None:
        """Have it shut down in order, and wait until it has."""
        self.run("systemctl", "poweroff", check=False)
        self._hear("ended with 0", STOP_TIMEOUT)
        self._ended()

    def crash(self) -> None:
        """Stop it at once, without a word to anybody. Its disk remains."""
        os.kill(self._init, signal.SIGKILL)
        self._hear("ended with", STOP_TIMEOUT)
        self._ended()

    def _ended(self) -> None:
        self._init = 0
        self.state = ""

    def plug(self, plugged: bool) -> None:
        """Plug its cable in, or pull it out."""
        self.host.plug(plugged)

    def close(self) -> None:
        """End all that runs in it, and forget its disk. A second time does nothing."""
        holder, self._holder = self._holder, None
        if holder is None:
            return
        if self._shell:
            # All processes of its namespace end with it, and are gone before it is.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._shell, signal.SIGKILL)
        else:
            holder.kill()
        holder.wait(STOP_TIMEOUT)
        for stream in (holder.stdin, holder.stdout):
            assert stream is not None
            stream.close()
        self._ended()

    # What is in it

    def run(
        self,
        *argv: str,
        check: bool = True,
        stdin: str | bytes = b"",
        timeout: float = COMMAND_TIMEOUT,
        env: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run a command as root, in root's home, to its end.

        What it leaves running goes on.

        :param timeout: seconds after which it is killed, with all that it started.
        :param env: variables beside those of a login.
        :raises AssertionError: if it failed and ``check``, or took too long.
        """
        assert self._init, f"{self.name} does not run"
        group = self._inside(GROUPS, self._group, "payload/user.slice", f"{next(self._commands)}")
        group.mkdir(parents=True)
        variables = [f"{key}={value}" for key, value in {**ENVIRONMENT, **(env or {})}.items()]
        # It joins the group when it is inside: nsenter itself, which waits outside, would be a
        # process without a number to systemd in the machine, which calls that an error.
        line = ["sh", "-c", 'exec 9>"$0/cgroup.procs" && exec "$@"', str(group)]
        line += ["nsenter", "-t", str(self._init), "-a", "env", "-i", *variables]
        # It could set the build machine's clock otherwise, which units of the machine cannot.
        line += ["setpriv", "--bounding-set=-sys_time,-sys_module,-sys_rawio"]
        inside = 'echo 0 >&9 && exec 9>&- && umask 022 && cd && exec "$@"'
        line += ["sh", "-c", inside, "sh", *argv]
        with (
            tempfile.TemporaryFile("a+b") as out,
            tempfile.TemporaryFile("a+b") as err,
            tempfile.TemporaryFile() as source,
        ):
            source.write(stdin.encode() if isinstance(stdin, str) else stdin)
            source.seek(0)
            # Files, as who waits for the end of a pipe waits for all that the command left running.
            process = subprocess.Popen(line, stdin=source, stdout=out, stderr=err)
            try:
                code = process.wait(timeout)
            except BaseException as error:
                (group / "cgroup.kill").write_text("1")
                process.kill()
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                code = None
            out.seek(0)
            err.seek(0)
            ran = Ran(code or 0, *(file.read().decode(errors="replace") for file in (out, err)))
        with contextlib.suppress(OSError):  # something still runs there
            group.rmdir()
        if code is None or (check and code):
            how = f"took more than {timeout:g} s" if code is None else f"ended with {code}"
            raise AssertionError(f"{self.name}: {' '.join(argv)} {how}: {ran.output.strip()}")
        return ran

    def shell(
        self,
        text: str,
        *,
        check: bool = True,
        stdin: str | bytes = b"",
        timeout: float = COMMAND_TIMEOUT,
        env: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run what a person would type, as :meth:`run` does."""
        return self.run("bash", "-c", text, check=check, stdin=stdin, timeout=timeout, env=env)

    def put(self, source: Path, target: str) -> None:
        """Copy a file, or a directory with all that is in it, to the path ``target``, for root."""
        self._put([(source, target.lstrip("/"))])

    def put_checkout(self, target: str) -> None:
        """Copy the project to ``target``: its files as they are now, without what git ignores."""
        git = ("git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z")
        listed = command(*git, "--cached", "--others", "--exclude-standard")
        names = sorted({name for name in listed.split("\0") if name})
        here = [(ROOT / name, f"{target.strip('/')}/{name}") for name in names]
        self._put([(path, name) for path, name in here if os.path.lexists(path)])

    def _put(self, files: Iterable[tuple[Path, str]]) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path, name in files:
                archive.add(path, name, filter=_as_root)
        self.run("tar", "-x", "-C", "/", stdin=packed.getvalue())

    def snapshot(self, *exclude: str) -> dict[str, Entry]:
        """All of its disk that is not as on the build machine, without what any machine changes.

        :param exclude: patterns of paths that are left out, with all below them.
        """
        return Disk(self._inside(DISK)).snapshot(exclude)

    @property
    def disk_usage(self) -> int:
        """Bytes of memory that its disk takes."""
        status = os.statvfs(self._inside(DISK))
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    @property
    def console(self) -> str:
        """What it wrote to its console, of all boots."""
        with contextlib.suppress(OSError):  # it has not come so far
            return self._inside(CONSOLE).read_text(errors="replace")
        return ""

    def journal(self, lines: int = 200) -> str:
        """The end of its journal since it booted, or of its console while it does not run."""
        if not self.state:
            return "\n".join(self.console.splitlines()[-lines:])
        return self.run("journalctl", "-b", "--no-pager", "-n", str(lines), check=False).output

    # Its shell

    def _inside(self, *path: str) -> Path:
        """A path in the mount namespace of the machine's shell."""
        return Path("/proc", str(self._shell), "root", *path)

    def _find_init(self) -> int:
        """The process that is 1 in the machine, or 0."""
        for nspawn in _children(self._shell):
            for child in _children(nspawn):
                with contextlib.suppress(OSError):  # it has ended
                    if os.readlink(f"/proc/{child}/exe").endswith("/systemd"):
                        return child
        return 0

    def _tell(self) -> None:
        assert self._holder is not None and self._holder.stdin is not None
        self._holder.stdin.write(b"\n")
        self._holder.stdin.flush()

    def _heard(self, timeout: float) -> str:
        """What the shell says within so many seconds."""
        assert self._holder is not None and self._holder.stdout is not None
        ready, _, _ = select.select([self._holder.stdout], [], [], timeout)
        return os.read(self._holder.stdout.fileno(), 4096).decode().strip() if ready else ""

    def _hear(self, expected: str, timeout: float) -> None:
        heard = self._heard(timeout)
        if not heard.startswith(expected):
            said = heard or f"nothing in {timeout:g} s"
            raise AssertionError(f"{self.name}: expected '{expected}', heard: {said}")


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended
        return []


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
