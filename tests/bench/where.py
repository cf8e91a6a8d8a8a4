# SPDX-License-Identifier: Apache-2.0
"""Where the time of a cold start goes: events of the kernel (tracefs, an instance of our own, CLOCK_MONOTONIC) between
the client's two points in time, beside the same stages of a plain process."""

import contextlib
import dataclasses
import os
import re
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

LINE = re.compile(r"\s*.+-(?P<pid>\d+)\s+\[\d+\]\s+\S+\s+(?P<time>\d+\.\d+): (?P<name>\w+)(?P<rest>.*)")
AGENT = "/usr/lib/boesfs/boesfs-agent"
EVENTS = (
    "sched/sched_process_fork",
    "sched/sched_process_exec",
    *(f"syscalls/sys_{side}_{call}" for call in ("symlink", "accept4") for side in ("enter", "exit")),
    *(f"syscalls/sys_enter_{call}" for call in ("connect", "sendto", "recvfrom")),
)
GAP_US = 200.0
"""A stretch of the agent without a system call's begin or end longer than this is worth a line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One line of a trace."""

    us: float
    pid: int
    name: str
    text: str


class Tracer:
    """Follows some processes and all that they fork."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._write("trace_clock", "mono")
        self._write("buffer_size_kb", "16384")
        self._write("options/event-fork", "1")

    def _write(self, name: str, text: str) -> None:
        (self._place / name).write_text(text)

    def record(self, pids: Sequence[int], events: Sequence[str], action: Callable[[], None]) -> list[Event]:
        """What happened in PIDS and their children during ACTION."""
        self._write("events/enable", "0")
        self._write("set_event_pid", " ".join(map(str, pids)))
        for event in events:
            self._write(f"events/{event}/enable", "1")
        self._write("trace", "")
        self._write("tracing_on", "1")
        action()
        self._write("tracing_on", "0")
        return list(_parse((self._place / "trace").read_text(errors="replace")))


def _parse(text: str) -> Iterator[Event]:
    for line in text.splitlines():
        found = LINE.match(line)
        if found:
            yield Event(float(found["time"]) * 1e6, int(found["pid"]), found["name"], found["rest"].strip(" :"))


@contextlib.contextmanager
def tracer(place: Path) -> Iterator[Tracer]:
    """A trace instance of our own; nothing of it stays."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tracefs", "none", str(place)], check=True)
    instance = place / "instances" / f"boesfs-bench-{os.getpid()}"
    try:
        instance.mkdir()
        try:
            yield Tracer(instance)
        finally:
            (instance / "tracing_on").write_text("0")
            (instance / "events/enable").write_text("0")
            instance.rmdir()
    finally:
        subprocess.run(["umount", str(place)], check=False)


class Trace:
    """One traced start, with questions about it."""

    def __init__(self, events: list[Event], command: str, begun: float, ended: float) -> None:
        self.begun, self.ended, self._command = begun, ended, f"filename={command} "
        self._events = [event for event in events if begun <= event.us <= ended]

    def first(self, name: str, *, pid: int = 0, holds: str = "", after: float = 0) -> Event:
        """The first event of this name, of PID if given, whose text holds HOLDS, after a point in time."""
        for event in self._events:
            if event.name == name and pid in (0, event.pid) and holds in event.text and event.us > after:
                return event
        raise LookupError(f"no event {name} {holds}")

    def of(self, pid: int) -> list[Event]:
        """All events of a process."""
        return [event for event in self._events if event.pid == pid]

    def program(self) -> tuple[Event, list[tuple[str, float]]]:
        """The FDK: its exec, and the stages it has however it was started."""
        started = self.first("sched_process_exec", holds=self._command)
        fdk = started.pid
        listening = self.first("sys_symlink", pid=fdk, holds="->", after=started.us)
        called = self.first("sys_recvfrom", pid=fdk, after=listening.us)
        answered = self.first("sys_sendto", pid=fdk, after=called.us)
        return started, [
            ("Python, FDK, function: exec to listening", listening.us),
            ("the call reaches the FDK", called.us),
            ("the function answers", answered.us),
            ("the answer reaches the client", self.ended),
        ]

    def boesfs_stages(self) -> list[tuple[str, float]]:
        """Name and end of each stage of a start through the socket."""
        agent = self.first("sched_process_exec", holds=AGENT)
        executor = self.first("sched_process_exec", pid=agent.pid)
        sandbox = self.first("sched_process_fork", pid=agent.pid)
        started, stages = self.program()
        listening = stages[0][1]
        seen = self.first("sys_connect", pid=agent.pid, after=listening)
        accepted = self.first("sys_accept4", pid=agent.pid, holds="->", after=seen.us)
        return [
            ("systemd: connect to exec of systemd-executor", executor.us),
            ("systemd-executor: to exec of the agent", agent.us),
            ("agent: to clone of the sandbox", sandbox.us),
            ("sandbox: to exec of the FDK", started.us),
            stages[0],
            ("agent: socket seen, connects", seen.us),
            ("agent: ready, accepts the client", accepted.us),
            *stages[1:],
        ]

    def plain_stages(self) -> list[tuple[str, float]]:
        """The same for a plain process."""
        started, stages = self.program()
        return [("fork to exec of the FDK", started.us), *stages]


def _lengths(begun: float, stages: list[tuple[str, float]]) -> list[tuple[str, float]]:
    lengths = []
    for name, end in stages:
        lengths.append((name, end - begun))
        begun = end
    return lengths


def print_stages(title: str, traces: list[list[tuple[str, float]]]) -> None:
    """A table of stages, from all traces of one way to start."""
    columns = [(column[0][0], [us / 1000 for _, us in column]) for column in zip(*traces, strict=True)]
    total = sum(statistics.median(values) for _, values in columns)
    print(f"\n{title}, {len(traces)} starts: p50 and min of each stage (the p50 add up to {total:.1f} ms)")
    for name, values in columns:
        middle = statistics.median(values)
        print(f"  {middle:8.2f} ms  {min(values):8.2f} ms  {100 * middle / total:4.1f} %  {name}")


def print_steps(trace: Trace) -> None:
    """Long steps of the agent and of what it clones, up to the FDK's exec and around its readiness."""
    agent = trace.first("sched_process_exec", holds=AGENT)
    forked = trace.first("sched_process_fork", pid=agent.pid)
    child = int(forked.text.rpartition("child_pid=")[2])
    print(f"\nsteps of the agent over {GAP_US / 1000} ms, every system call traced (ms since connect)")
    for who, pid in (("agent", agent.pid), ("sandbox", child)):
        last: Event | None = None
        for event in trace.of(pid):
            if last and last.us >= agent.us and event.us - last.us > GAP_US:
                at, long = (last.us - trace.begun) / 1000, (event.us - last.us) / 1000
                print(
                    f"  {at:8.2f}  {who:8} {long:7.2f}  {last.name} {last.text[:50]} … {event.name} {event.text[:40]}"
                )
            last = event


def show(
    tracing: Path,
    leader: int,
    command: str,
    starts: dict[str, Callable[[], tuple[float, float]]],
    rounds: int,
) -> None:
    """Print the stages of both STARTS, keys "boesfs-socket" and "plain-process", which are traced in turn.

    LEADER is the appliance's first process, COMMAND what the FDK is executed as. A start gives the client's two points
    in time, in microseconds.
    """
    stages: dict[str, list[list[tuple[str, float]]]] = {name: [] for name in starts}
    with tracer(tracing) as trace:

        def one(name: str, events: Sequence[str]) -> Trace:
            points: list[float] = []
            recorded = trace.record([leader, os.getpid()], events, lambda: points.extend(starts[name]()))
            return Trace(recorded, command, points[0], points[1])

        for _ in range(rounds):
            for name in starts:
                seen = one(name, EVENTS)
                ends = seen.boesfs_stages() if name == "boesfs-socket" else seen.plain_stages()
                stages[name].append(_lengths(seen.begun, ends))
        for name, found in stages.items():
            print_stages(name, found)
        print_steps(one("boesfs-socket", ("raw_syscalls/sys_enter", "raw_syscalls/sys_exit", *EVENTS[:2])))
