# SPDX-License-Identifier: Apache-2.0
"""Cold and warm calls of boesfsd on one host, beside other ways to run the same function.

All subjects run in the same appliance, interleaved: a round measures each of them once, in an order drawn anew. Ratios
are medians of the ratios within one round. Prints a table, writes build/bench/host.json. Exits with 1 when a subject
cannot be run.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import platform
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

BENCH = Path(__file__).resolve().parent
sys.path.insert(0, str(BENCH.parent / "appliance"))

import where  # noqa: E402
from machine import BUILD, TOP, Machine, build_root, install  # noqa: E402

OUT = BUILD / "bench"
HERE = "/srv/bench"
"""Where everything of ours is, inside the appliance."""
CLIENT = f"{HERE}/client"
PYTHON = "/usr/lib/boesfs/runtimes/python"
MANAGER = ("busctl", "call", "org.boesfs.Faas1", "/org/boesfs/Faas1", "org.boesfs.Faas1.Manager")
PEER_PACKAGES = "docker.io crun runc"
SETTLE = 0.05
"""Seconds of rest before each cold start, so that what the last one left to do is done."""
MISSING = (
    "socket-c has no Python in it and no sandbox; plain-process no sandbox, no cgroup and no supervisor;",
    "crun and docker no idle exit, no relay, no journal and no seccomp reports, crun no seccomp at all. Without cgroup",
    "controllers (see above) no subject has a memory limit.",
)


class PeerError(Exception):
    """A subject that cannot be run here, and why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What boesfsd tells the agent to execute: the same goes for all other subjects."""

    id: str
    uid: int
    code: str
    hidden: tuple[str, ...]
    environment: tuple[str, ...]
    command: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> "Plan":
        """From the text of a plan (agent/plan.h)."""
        steps = [line.split("\t") for line in text.splitlines()[1:]]
        return cls(
            id=next(step[2] for step in steps if step[:2] == ["label", "id"]),
            uid=next(int(step[1]) for step in steps if step[0] == "user"),
            code=next(step[1] for step in steps if step[0] == "bind" and step[2] == "/function"),
            hidden=tuple(step[1] for step in steps if step[0] == "hide"),
            environment=tuple(step[1] for step in steps if step[0] == "env"),
            command=next(tuple(step[1:]) for step in steps if step[0] == "exec"),
        )

    def environment_with(self, listener: str) -> list[str]:
        """The same with another place for the FDK's socket."""
        return [f"FN_LISTENER=unix:{listener}" if v.startswith("FN_LISTENER=") else v for v in self.environment]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the table and of host.json."""

    measure: str
    subject: str
    unit: str
    n: int
    min: float
    p50: float
    p95: float
    p99: float
    ratio_to: str
    ratio_p50: float


def row(measure: str, subject: str, unit: str, values: Sequence[float], to: str, reference: Sequence[float]) -> Row:
    """Quantiles of VALUES, and the median of their ratios to REFERENCE, round by round."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    ratio = statistics.median(a / b for a, b in zip(values, reference, strict=True))
    lowest, p50, p95, p99 = (round(figure, 3) for figure in (min(values), cuts[49], cuts[94], cuts[98]))
    return Row(measure, subject, unit, len(values), lowest, p50, p95, p99, to, round(ratio, 3))


# --- the appliance ------------------------------------------------------------------------------------------------


def build_tools() -> None:
    """Compile the C programs beside this file."""
    OUT.mkdir(parents=True, exist_ok=True)
    for name in ("client", "socket-c"):
        flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static"]
        subprocess.run(["gcc", *flags, str(BENCH / f"{name}.c"), "-o", str(OUT / name)], check=True)


@contextlib.contextmanager
def quick_cgroups() -> Iterator[str]:
    """favordynmods on the kernel's cgroup2, as boesfs-setup.service sets it on a host.

    The kernel ignores that remount inside a cgroup namespace, and the appliance has one: so it is done outside.
    """
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    place, options = next((mount[1], mount[3]) for mount in mounts if mount[2] == "cgroup2")
    if "favordynmods" in options.split(","):
        yield "favordynmods (was set)"
        return

    def remount(wanted: str) -> None:
        # with a source, or mount(8) would add the options that are set already
        subprocess.run(["mount", "-t", "cgroup2", "-o", f"remount,{wanted}", "cgroup2", place], check=True)

    remount(f"{options},favordynmods")
    try:
        yield "favordynmods (set for this run)"
    finally:
        remount(options)


class Appliance:
    """The booted machine with the function deployed and all programs in place."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.machine.run("systemctl", "start", "boesfsd")
        self.machine.copy_in(TOP / "examples/hello-python", f"{HERE}/hello-python")
        self.machine.run(*MANAGER, "CreateApp", "sa{sv}", "bench", "0")
        self.plan = self.deploy("hello")
        self._prepare()

    def deploy(self, name: str) -> Plan:
        """Deploy the function once more: every subject that boesfsd runs has instances of its own."""
        options = ("1", "idle_timeout", "i", "600")
        done = self.machine.run(*MANAGER, "Deploy", "sssa{sv}", "bench", name, f"{HERE}/hello-python", *options)
        function = re.findall(r'"(/org/boesfs/Faas1/function/\S+)"', done.stdout)[0]
        member = ("org.boesfs.Faas1", function, "org.boesfs.Faas1.Function", "Id")
        shown = self.machine.run("busctl", "get-property", *member).stdout
        return Plan.read(self.machine.shell(f"cat /run/boesfs/plan/{shown.split()[1].strip(chr(34))}.plan"))

    def _prepare(self) -> None:
        """Put what plain-process needs where the sandbox has it, so that command and environment are the same."""
        for name in ("client", "socket-c"):
            self.machine.copy_in(OUT / name, f"{HERE}/{name}")
        hide = "\n".join(f"mount -t tmpfs -o ro,size=4k hide {path}" for path in self.plan.hidden)
        self.machine.shell(
            f"mkdir /python /function\n"
            f"mount --bind {PYTHON} /python\n"
            f"mount --bind {self.plan.code} /function\n"
            f"mkdir -p {HERE}/run\n"
            f"printf '#!/bin/sh\\nset -e\\n{hide}\\nexec \"$@\"\\n' > {HERE}/hidden && chmod +x {HERE}/hidden\n"
            f"printf '[Socket]\\nListenStream={HERE}/run/socket-c.sock\\nTriggerLimitIntervalSec=0\\n'"
            f" > /run/systemd/system/socket-c.socket\n"
            f"printf '[Unit]\\nStartLimitIntervalSec=0\\n[Service]\\nExecStart={HERE}/socket-c\\n'"
            f" > /run/systemd/system/socket-c.service\n"
            f"systemctl daemon-reload && systemctl start socket-c.socket\n"
        )

    def client(self, *arguments: str, inside: Sequence[str] = ()) -> list[list[float]]:
        """Run the client; its rounds in microseconds."""
        done = self.machine.run(*inside, CLIENT, *arguments, check=False)
        if done.returncode:
            raise PeerError(done.stderr.strip() or f"client ended with {done.returncode}")
        return [[float(word) for word in line.split()] for line in done.stdout.splitlines()]

    def points(self, *arguments: str, inside: Sequence[str] = ()) -> tuple[float, float]:
        """Run the client for one call: its begin and its end."""
        ((begun, ended),) = self.client("-t", *arguments, inside=inside)
        return begun, ended

    def fresh_directory(self) -> str:
        """An empty directory for an FDK's socket."""
        made: str = self.machine.shell(f"mktemp -d {HERE}/run/XXXXXXXX")
        return made.strip()

    def unhide(self) -> tuple[str, ...]:
        """The prefix for a mount namespace in which the host's Python packages are hidden, as in the sandbox."""
        return ("unshare", "--mount", f"{HERE}/hidden")


# --- subjects -----------------------------------------------------------------------------------------------------


class Subject:
    """One way to run the function."""

    name = ""

    def __init__(self, appliance: Appliance) -> None:
        self.appliance = appliance
        self.machine = appliance.machine

    def ready(self) -> None:
        """Before each cold start: nothing runs, all that is not part of the start is there."""

    def cold(self) -> float:
        """One cold start, in microseconds."""
        begun, ended = self.cold_points()
        return ended - begun

    def cold_points(self) -> tuple[float, float]:
        """Begin and end of one cold start, in microseconds of CLOCK_MONOTONIC."""
        raise NotImplementedError

    def warm(self) -> str:
        """Leave an instance running; the client's target for it."""
        raise NotImplementedError

    def end(self) -> None:
        """Nothing of it runs any more."""

    def close(self) -> None:
        """Nor what it needed."""


class BoesfsSocket(Subject):
    """The function's own socket."""

    name = "boesfs-socket"

    def __init__(self, appliance: Appliance) -> None:
        super().__init__(appliance)
        self.function = appliance.deploy(self.name).id

    @property
    def service(self) -> str:
        """The function's first instance."""
        return f"boesfs-fn@{self.function}:0.service"

    @property
    def target(self) -> str:
        """For the client."""
        return f"new:unix:/run/boesfs/fn/{self.function}:0.sock@/call"

    def ready(self) -> None:
        self.machine.run("systemctl", "stop", f"boesfs-fn@{self.function}:*.service")

    def cold_points(self) -> tuple[float, float]:
        return self.appliance.points(self.target)

    def warm(self) -> str:
        return self.target


class BoesfsHttp(BoesfsSocket):
    """boesfsd's HTTP listener."""

    name = "boesfs-http"

    @property
    def target(self) -> str:
        return f"tcp:8080@/invoke/{self.function}"


class SocketC(Subject):
    """(a) what systemd itself takes."""

    name = "socket-c"

    def ready(self) -> None:
        self.machine.run("systemctl", "stop", "socket-c.service")

    def cold_points(self) -> tuple[float, float]:
        return self.appliance.points(f"unix:{HERE}/run/socket-c.sock@/call")


class PlainProcess(Subject):
    """(b) the FDK as a process, without any walls."""

    name = "plain-process"

    def __init__(self, appliance: Appliance) -> None:
        super().__init__(appliance)
        self._directory = ""
        self._warm: subprocess.Popen[bytes] | None = None

    def ready(self) -> None:
        self._directory = self.appliance.fresh_directory()

    def cold_points(self) -> tuple[float, float]:
        plan, listener = self.appliance.plan, f"{self._directory}/lsnr.sock"
        variables = [word for variable in plan.environment_with(listener) for word in ("-e", variable)]
        target = f"unix:{listener}@/call"
        arguments = (*variables, "-d", "/function", target, "--", *plan.command)
        return self.appliance.points(*arguments, inside=self.appliance.unhide())

    def warm(self) -> str:
        self.ready()
        listener = f"{self._directory}/lsnr.sock"
        inside = ("env", "-i", "--chdir=/function", *self.appliance.plan.environment_with(listener))
        command = self.machine.enter(*self.appliance.unhide(), *inside, *self.appliance.plan.command)
        self._warm = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await_file(self.machine, listener)
        return f"unix:{listener}@/call"

    def end(self) -> None:
        if self._warm:
            # nsenter waits for its child, which is in the appliance's pid namespace
            for child in Path(f"/proc/{self._warm.pid}/task/{self._warm.pid}/children").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
            self._warm.wait()
        self._warm = None


def leader(machine: Machine) -> int:
    """The host's pid of the machine's first process, from the command that enters it."""
    target = next(word for word in machine.enter() if word.startswith("--target="))
    return int(target.partition("=")[2])


def await_file(machine: Machine, path: str) -> None:
    """Wait until an FDK's socket is there."""
    end = time.monotonic() + 30
    while not os.path.lexists(machine.root / path.lstrip("/")):
        if time.monotonic() > end:
            raise PeerError(f"{path} did not appear")
        time.sleep(0.01)


class Peer(PlainProcess):
    """A container manager, in the appliance as boesfsd is."""

    programs: tuple[str, ...] = ()

    def __init__(self, appliance: Appliance) -> None:
        super().__init__(appliance)
        for program in self.programs:
            bring(self.machine, program)
        self._count = 0

    @property
    def instance(self) -> str:
        """The name of the container that runs, or ran last."""
        return f"bench-{self._count}"

    def remove(self) -> None:
        """Remove that container."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """What starts the next one."""
        raise NotImplementedError

    def ready(self) -> None:
        if self._count:
            self.remove()
        self._count += 1
        self._directory = self.appliance.fresh_directory()
        owner = str(self.appliance.plan.uid)
        self.machine.run("chown", f"{owner}:{owner}", self._directory)

    def cold_points(self) -> tuple[float, float]:
        target = f"unix:{self._directory}/lsnr.sock@/call"
        return self.appliance.points("-e", "PATH=/usr/sbin:/usr/bin", target, "--", *self.command())

    def warm(self) -> str:
        self.ready()
        command = self.machine.enter(*self.command())
        self._warm = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await_file(self.machine, f"{self._directory}/lsnr.sock")
        return f"unix:{self._directory}/lsnr.sock@/call"

    def end(self) -> None:
        if self._count:
            self.remove()
        super().end()


def bring(machine: Machine, program: str) -> None:
    """Copy a program of this host, and the libraries that the appliance lacks, to the same places inside."""
    path = shutil.which(program, path="/usr/sbin:/usr/bin")
    if not path:
        raise PeerError(f"{program} is not on this machine: apt-get install --no-install-recommends {PEER_PACKAGES}")
    machine.copy_in(Path(path), path)
    needed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    for library in re.findall(r"=> (/\S+)", needed):
        inside = f"/usr/{library.removeprefix('/usr/').lstrip('/')}"
        if not (machine.root / inside[1:]).exists():
            machine.copy_in(Path(library), inside)


class Crun(Peer):
    """(c) crun, on the appliance's own root, read-only."""

    name = "crun"
    programs = ("crun",)
    base = f"{HERE}/crun"

    def __init__(self, appliance: Appliance) -> None:
        super().__init__(appliance)
        self.machine.shell(
            f"mkdir -p {self.base}/rootfs && mount --bind / {self.base}/rootfs && "
            f"mkdir -p {self.base}/rootfs/run/fn && cd {self.base} && crun spec"
        )
        self._spec = json.loads(self.machine.shell(f"cat {self.base}/config.json"))
        # crun loads them by BPF and wants CAP_SYS_RESOURCE for it; without CAP_MKNOD the function can make none anyhow
        self._spec["linux"]["resources"] = {}

    def ready(self) -> None:
        super().ready()
        plan = self.appliance.plan
        quiet = ["nosuid", "nodev"]
        config = dict(self._spec)
        config["process"] = self._spec["process"] | {
            "terminal": False,
            "user": {"uid": plan.uid, "gid": plan.uid},
            "args": list(plan.command),
            "env": list(plan.environment),
            "cwd": "/function",
            "capabilities": {},
        }
        config["mounts"] = [
            *self._spec["mounts"],
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": [*quiet, "mode=1777", "size=64m"]},
            {"destination": "/run/fn", "type": "bind", "source": self._directory, "options": ["bind", "rw", *quiet]},
            *(
                {"destination": to, "type": "bind", "source": source, "options": ["bind", "ro", *quiet]}
                for source, to in ((PYTHON, "/python"), (plan.code, "/function"))
            ),
            *(
                {"destination": path, "type": "tmpfs", "source": "hide", "options": ["ro", "size=4k", *quiet]}
                for path in plan.hidden
            ),
        ]
        (self.machine.root / f"{self.base}/config.json".lstrip("/")).write_text(json.dumps(config))

    def command(self) -> list[str]:
        return ["/usr/bin/crun", "--cgroup-manager=cgroupfs", "run", f"--bundle={self.base}", self.instance]

    def remove(self) -> None:
        self.machine.run("crun", "delete", "--force", self.instance, check=False)


class Docker(Peer):
    """(d) docker, with an image of the appliance's root."""

    name = "docker"
    programs = ("dockerd", "docker", "containerd", "containerd-shim-runc-v2", "runc")
    base = "/run/bench-docker"
    unit = "bench-docker.service"

    def __init__(self, appliance: Appliance) -> None:
        super().__init__(appliance)
        self.machine.shell(
            f"mkdir -p {self.base} && mount -t tmpfs -o size=8g bench {self.base} && "
            f"systemd-run --quiet --unit={self.unit} --property=Type=notify --property=Delegate=yes "
            f"dockerd --data-root={self.base}/data --exec-root={self.base}/exec --pidfile={self.base}/pid "
            f"--host=unix://{self.base}/sock --iptables=false --ip6tables=false --bridge=none "
            f"|| {{ journalctl --no-pager -n 20 -u {self.unit} >&2; false; }}"
        )
        # a bare view of the root: without what is mounted on it
        self.machine.shell(
            f"mkdir {self.base}/root && mount --bind / {self.base}/root && mkdir -p {self.base}/root/run/fn && "
            f"tar -C {self.base}/root --exclude=./srv --exclude=./var/cache --exclude=./var/lib/apt -c . | "
            f"docker -H unix://{self.base}/sock import - bench"
        )

    def command(self) -> list[str]:
        plan = self.appliance.plan
        return [
            "/usr/bin/docker", "-H", f"unix://{self.base}/sock", "run", f"--name={self.instance}", "--network=none",
            "--read-only", "--tmpfs=/tmp", *(f"--tmpfs={path}:ro,size=4k" for path in plan.hidden),
            f"--user={plan.uid}:{plan.uid}", "--cap-drop=ALL", "--security-opt=no-new-privileges",
            f"--volume={self._directory}:/run/fn", f"--volume={PYTHON}:/python:ro",
            f"--volume={plan.code}:/function:ro", "--workdir=/function",
            *(f"--env={variable}" for variable in plan.environment), "bench", *plan.command,
        ]  # fmt: skip

    def close(self) -> None:
        # the cgroups outlive a machine that is switched off
        self.machine.run("systemctl", "stop", self.unit, "docker-*.scope", check=False)

    def remove(self) -> None:
        docker = ("docker", "-H", f"unix://{self.base}/sock")
        self.machine.run(*docker, "rm", "--force", self.instance, check=False)


# --- the runs -----------------------------------------------------------------------------------------------------

SUBJECTS: tuple[type[Subject], ...] = (BoesfsSocket, BoesfsHttp, SocketC, PlainProcess, Crun, Docker)


class Progress:
    """One line on standard error that says how far it is."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0

    def step(self) -> None:
        self._done += 1
        end = "\n" if self._done == self._total else ""
        print(f"\r{self._what} {self._done}/{self._total}", end=end, file=sys.stderr, flush=True)


@contextlib.contextmanager
def set_up(appliance: Appliance, failures: dict[str, str]) -> Iterator[list[Subject]]:
    """All subjects that can be run, each started once; why not, for the others."""
    subjects: list[Subject] = []
    with contextlib.ExitStack() as stack:
        for kind in SUBJECTS:
            try:
                subject = kind(appliance)
                stack.callback(subject.close)
                subject.ready()
                subject.cold()
                subjects.append(subject)
            except (PeerError, AssertionError, subprocess.SubprocessError) as error:
                failures[kind.name] = str(error)
                if kind is PlainProcess:
                    raise SystemExit(f"plain-process, the reference, could not be run: {error}") from error
        yield subjects


def cold(subjects: Sequence[Subject], rounds: int) -> list[Row]:
    """Cold starts, page cache warm (set_up has started each once)."""
    times: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    progress = Progress("cold round", rounds)
    for _ in range(rounds):
        for subject in random.sample(subjects, len(subjects)):
            subject.ready()
            time.sleep(SETTLE)
            times[subject.name].append(subject.cold() / 1000)
        progress.step()
    for subject in subjects:
        subject.end()
    return [row("cold", name, "ms", values, "plain-process", times["plain-process"]) for name, values in times.items()]


def warm(appliance: Appliance, subjects: Sequence[Subject], rounds: int) -> list[Row]:
    """Calls of running instances, one process for each subject; the client takes the rounds itself."""
    direct, direct_newconn = PlainProcess(appliance), PlainProcess(appliance)
    targets: dict[str, str] = {}
    try:
        targets["fdk-direct"] = direct.warm()
        targets["fdk-direct-newconn"] = f"new:{direct_newconn.warm()}"
        targets |= {
            subject.name: subject.warm() for subject in subjects if type(subject) not in (SocketC, PlainProcess)
        }
        table = appliance.client("-u", "50", "-n", str(rounds), *targets.values())
    finally:
        for subject in (direct, direct_newconn, *subjects):
            subject.end()
    times = dict(zip(targets, map(list, zip(*table, strict=True)), strict=True))
    return [row("warm", name, "us", values, "fdk-direct", times["fdk-direct"]) for name, values in times.items()]


def show_where(appliance: Appliance, rounds: int) -> None:
    """Where the time of a cold start goes, beside a plain process."""

    def start(subject: BoesfsSocket | PlainProcess) -> tuple[float, float]:
        subject.ready()
        time.sleep(SETTLE)
        begun, ended = subject.cold_points()
        return begun, ended

    through_socket, plain = BoesfsSocket(appliance), PlainProcess(appliance)
    starts = {subject.name: functools.partial(start, subject) for subject in (through_socket, plain)}
    for begin in starts.values():
        begin()
    where.show(OUT / "trace", leader(appliance.machine), appliance.plan.command[0], starts, rounds)
    show_others(appliance, starts["boesfs-socket"], rounds)
    unit = {}
    begun, _ = starts["boesfs-socket"]()
    for name in ("InactiveExit", "ExecMainStart", "ActiveEnter"):
        shown = appliance.machine.run("systemctl", "show", "-P", f"{name}TimestampMonotonic", through_socket.service)
        unit[name] = (int(shown.stdout) - begun) / 1000
    print("\nsystemd's own view of one start without tracing, ms since connect:", end=" ")
    print(", ".join(f"{name} {ms:.2f}" for name, ms in unit.items()))


def show_others(appliance: Appliance, start: Callable[[], tuple[float, float]], rounds: int) -> None:
    """Processor time that the appliance's own services take for a start (and the stop before it)."""
    units = ("boesfsd", "dbus", "systemd-journald")
    pids = {"systemd": leader(appliance.machine)}
    namespace = Path(f"/proc/{pids['systemd']}/ns/pid").readlink()
    for stat in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):
            if stat.with_name("ns").joinpath("pid").readlink() == namespace:
                unit = next((unit for unit in units if f"/{unit}.service" in stat.read_text()), "")
                pids |= {unit: int(stat.parent.name)} if unit else {}

    def used() -> dict[str, int]:
        threads = {name: Path(f"/proc/{pid}/task").glob("*/schedstat") for name, pid in pids.items()}
        return {name: sum(int(stat.read_text().split()[0]) for stat in stats) for name, stats in threads.items()}

    before = used()
    for _ in range(rounds):
        start()
    time.sleep(SETTLE)
    print("\nprocessor time of others for one start and the stop before it:", end=" ")
    print(", ".join(f"{name} {(ns - before[name]) / rounds / 1e6:.2f} ms" for name, ns in used().items()))


def print_table(rows: Sequence[Row]) -> None:
    """The rows for a person."""
    print(f"{'measure':8} {'subject':19} {'n':>5} {'min':>9} {'p50':>9} {'p95':>9} {'p99':>9}    ratio p50")
    for line in rows:
        digits = 1 if line.unit == "ms" else 0
        figures = " ".join(f"{value:9.{digits}f}" for value in (line.min, line.p50, line.p95, line.p99))
        ratio = f"{line.ratio_p50:6.2f} x {line.ratio_to}"
        print(f"{line.measure:8} {line.subject:19} {line.n:5} {figures} {line.unit} {ratio}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="of cold starts (30); of warm calls ten times as many")
    parser.add_argument("--where", action="store_true", help="show where the time of a cold start goes, instead")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    if arguments.rounds < 2:
        raise SystemExit("host.py: --rounds must be 2 or more")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of what cleans up
    build_tools()
    build_root()
    install()
    failures: dict[str, str] = {}
    with quick_cgroups() as cgroups, Machine(f"bench-{os.getpid()}") as machine:
        appliance = Appliance(machine)
        if arguments.where:
            show_where(appliance, arguments.rounds)
            return 0
        with set_up(appliance, failures) as subjects:
            rows = cold(subjects, arguments.rounds)
            rows += warm(appliance, subjects, 10 * arguments.rounds)
        controllers = machine.shell("cat /sys/fs/cgroup/cgroup.controllers").strip() or "none"
        version = machine.shell("systemctl --version | head -n 1").strip()
    shutil.rmtree(BUILD / "machines" / machine.name)
    print_table(rows)
    print(f"kernel {platform.release()}, {version}, cgroup2 {cgroups}, controllers {controllers}")
    print(f"load {' '.join(f'{load:.2f}' for load in os.getloadavg())} on {os.cpu_count()} CPUs")
    print("\n".join(MISSING))
    (OUT / "host.json").write_text(json.dumps([dataclasses.asdict(line) for line in rows], indent=1) + "\n")
    for name, reason in failures.items():
        print(f"{name} could not be run: {reason}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
