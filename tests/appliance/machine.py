# SPDX-License-Identifier: Apache-2.0
"""A Debian 13 appliance: a root built by mmdebstrap under build/, booted with systemd-nspawn on an overlay, so that
every boot begins clean. Commands run inside by entering its namespaces."""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BUILD = TOP / "build"
ROOT = BUILD / "root"
SUITE = "trixie"
BOOT_TIMEOUT = 60.0
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "polkitd", "curl", "ca-certificates", "iproute2", "procps", "zstd", "zip"),
    *("python3", "python3-pystemd", "python3-sdnotify", "python3-dbus-next", "python3-aiosqlite", "python3-pyroute2"),
    *("python3-jsonschema", "python3-yaml", "python3-httptools", "python3-uvloop", "busybox", "strace"),
    *("kmod", "libbpf1", "python3-cffi-backend"),
)
OURS = (
    *("usr/lib/boesfs", "usr/sbin/boesfsd", "usr/lib/systemd/system/boesfs*", "usr/lib/*.d/boesfsd.conf"),
    *("usr/share/dbus-1/*/org.boesfs.*", "usr/share/polkit-1/actions/org.boesfs.*", "usr/share/man/man?/*boesfs*"),
    *("usr/share/doc/boesfsd", "etc/boesfsd", "usr/bin/boesfs*", "usr/include/boesfs"),
    *("usr/bin/gofs", "usr/share/man/man1/gofs.1", "usr/lib/systemd/catalog/boesfs.catalog"),
)


def mirror() -> str:
    """The Debian mirror that this machine's apt uses."""
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(ORIGIN) $(CREATED_BY)", "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for line in listing.splitlines():
        site, *rest = line.split()
        if "Debian" in rest and "security" not in site:
            return site
    raise SystemExit("appliance: apt on this machine names no Debian mirror: apt-get update first")


def build_root() -> None:
    """Make build/root if it is not there, or if the list of packages has changed."""
    stamp = BUILD / "root.stamp"
    wanted = hashlib.sha256(" ".join([SUITE, *PACKAGES]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and (ROOT / "usr/lib/systemd/systemd").exists():
        return
    stamp.unlink(missing_ok=True)
    shutil.rmtree(ROOT, ignore_errors=True)
    BUILD.mkdir(exist_ok=True)
    command = ["mmdebstrap", "--variant=minbase", "--include=" + ",".join(PACKAGES), SUITE, str(ROOT), mirror()]
    subprocess.run(command, check=True)
    (ROOT / "etc/machine-id").write_text("")
    (ROOT / "etc/hostname").write_text("appliance\n")
    stamp.write_text(wanted)


def take_out(root: Path) -> None:
    """What `make install` has left in ROOT."""
    for pattern in OURS:
        for path in root.glob(pattern):
            subprocess.run(["rm", "-r", str(path)], check=True)


def install(bpf: Path | None = None) -> None:
    """Put the project into build/root as `make install` lays it out on any host, with what bpf/ was built to in BPF."""
    version = subprocess.run(
        ["chroot", str(ROOT), "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    take_out(ROOT)  # what is no longer installed shall be missed
    settings = [f"DESTDIR={ROOT}", f"PYTHON_VERSION={version}", f"BPF={bpf or ''}"]
    subprocess.run(["make", "--no-print-directory", "install", *settings], cwd=TOP, check=True)


class Machine:
    """One running appliance. Use as a context manager; NAME must be its own among those that run."""

    def __init__(self, name: str, *, tmpfs: Sequence[str] = (), state_on_disk: bool = True) -> None:
        self.name = name
        self._dir = BUILD / "machines" / name
        self._tmpfs = tmpfs
        self._on_disk = state_on_disk
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._cgroup = Path()

    def __enter__(self) -> "Machine":
        self.boot()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @classmethod
    def attach(cls, name: str, leader: int) -> "Machine":
        """The machine NAME that another process has booted; LEADER is its first process. Whoever booted it stops it."""
        machine = cls(name)
        machine._leader = leader
        return machine

    @property
    def leader(self) -> int:
        """Its first process, by the host's numbers."""
        return self._leader

    @property
    def root(self) -> Path:
        """Its root directory, from outside."""
        return self._dir / "root"

    def boot(self) -> None:
        """Start and wait until systemd is up."""
        for part in ("upper", "work", "root"):
            (self._dir / part).mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={ROOT},upperdir={self._dir}/upper,workdir={self._dir}/work"
        subprocess.run(["mount", "-t", "overlay", "boesfs-appliance", "-o", options, str(self.root)], check=True)
        command = [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--capability=all", "--private-network",
            "--link-journal=no",  # its journal is its own, also where the host has no machine id yet
            f"--machine={self.name}", "-D", str(self.root), *(f"--tmpfs={item}" for item in self._tmpfs),
            "--console=pipe", "-b", "systemd.unified_cgroup_hierarchy=1",
        ]  # fmt: skip
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "SYSTEMD_SECCOMP": "0"}
        # a control group of its own: nspawn would put all machines into the same one
        self._cgroup = cgroup2() / f"appliance-{self.name}"
        self._cgroup.mkdir(exist_ok=True)
        join = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self._cgroup)]
        with (self._dir / "console.log").open("wb") as console:
            self._process = subprocess.Popen(
                [*join, *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=environment,
                start_new_session=True,
            )
        self._wait_for_boot(self._process)

    def _wait_for_boot(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + BOOT_TIMEOUT
        while time.monotonic() < end and process.poll() is None:
            self._leader = self._leader or _child_of(process.pid)
            if self._leader and self.run("systemctl", "is-system-running", check=False).stdout.strip() in (
                "running",
                "degraded",
            ):
                return
            time.sleep(0.05)
        console = (self._dir / "console.log").read_text(errors="replace")[-2000:]
        self.stop()
        raise RuntimeError(f"appliance {self.name} did not boot:\n{console}")

    def enter(self, *command: str) -> list[str]:
        """The command line that runs COMMAND inside, where no signal is ignored that is ignored here."""
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root"]
        environment = [
            "env",
            "-i",
            "--default-signal",
            "--chdir=/",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
            "TERM=dumb",
        ]
        return ["nsenter", f"--target={self._leader}", *namespaces, "--", *environment, *command]

    def run(
        self, *command: str, check: bool = True, timeout: float = 120, stdin: bytes | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run COMMAND inside and return what it printed."""
        done = subprocess.run(self.enter(*command), input=stdin, capture_output=True, timeout=timeout, check=False)
        result = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{result.stdout}{result.stderr}")
        return result

    def shell(self, script: str, *, check: bool = True, timeout: float = 120) -> str:
        """Run SCRIPT with sh inside and return its standard output."""
        return self.run("sh", "-c", script, check=check, timeout=timeout).stdout

    def copy_in(self, source: Path, target: str) -> None:
        """Copy a directory or file of the host to the absolute path TARGET inside."""
        place = self.root / target.lstrip("/")
        if source.is_dir():
            shutil.copytree(source, place, symlinks=True, dirs_exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)

    def power_cycle(self) -> None:
        """Off without a goodbye, then on again with the same disk."""
        self._kill()
        subprocess.run(["umount", "-R", str(self.root)], check=False)
        self.boot()

    def _kill(self) -> None:
        if self._leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(15)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        self._process, self._leader = None, 0
        for tree in cgroup_trees():  # nspawn makes groups in the one of systemd's name too, where there is one
            for directory, _, _ in os.walk(tree / self._cgroup.name, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)

    def stop(self) -> None:
        """Off, and nothing is left but console.log."""
        self._kill()
        subprocess.run(["umount", "-R", str(self.root)], check=False, capture_output=True)
        for part in ("upper", "work", "root"):
            shutil.rmtree(self._dir / part, ignore_errors=True)


def cgroup_trees(kinds: Sequence[str] = ("cgroup", "cgroup2")) -> list[Path]:
    """Where this machine has trees of control groups mounted."""
    rows = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return [Path(place) for _, place, kind, *_ in rows if kind in kinds]


def cgroup2() -> Path:
    """Where this machine has its cgroup2 tree mounted."""
    for place in cgroup_trees(("cgroup2",)):
        return place
    raise SystemExit("appliance: no cgroup2 is mounted on this machine")


def _child_of(pid: int) -> int:
    """The payload's first process: nspawn's child that is PID 1 in a namespace of its own."""
    for line in _children(pid):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{line}/status").read_text()
            ids = next(row for row in status.splitlines() if row.startswith("NSpid:")).split()[1:]
            if len(ids) > 1 and ids[-1] == "1":
                return line
    return 0


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield int(child)
            yield from _children(int(child))
