# SPDX-License-Identifier: Apache-2.0
"""Commands in a sandbox of their own (`boesfsctl run`): each is a transient unit, whose agent is handed plan and
descriptors. It lives as long as somebody holds the other side of its interrupt, with or without boesfsd."""

import asyncio
import logging
import os
import pwd
import queue
import secrets
import socket
import stat
import threading
from dataclasses import replace
from pathlib import PurePosixPath

from boesfsd import changes, layout, plan, runtimes, units
from boesfsd.audit import Told
from boesfsd.documents import Schema
from boesfsd.errors import BoesError
from boesfsd.functions import Functions
from boesfsd.host import missing_controllers
from boesfsd.invoke import Route
from boesfsd.layout import Host, Layout
from boesfsd.live import WRITTEN, check_options, read_policy
from boesfsd.model import (
    MOST_DIRECTORIES,
    STANDARD,
    App,
    Command,
    Function,
    Json,
    Owner,
    PolicyProgram,
    PolicySource,
    Settings,
)
from boesfsd.options import TABLE, parse_cpuset
from boesfsd.policies import InForce, Wanted
from boesfsd.policy.landlock import ABI
from boesfsd.runtimes import Runtime
from boesfsd.store import now_ms
from boesfsd.systemd import Systemd

log = logging.getLogger(__name__)

WHOSE = "@run"
"""In the place of an app's name, for people and the journal; no app can be called so."""
FIRST, NUMBERS = 1 << 31, (1 << 31) - 1
"""Policies of commands have numbers that are no user's."""
MOST_OF_ONE = 64  # that one user, who is not root, has run at a time
AT_ONCE = 2  # policies that are compiled at a time, or others would wait for their calls
LINGER = 2.0  # seconds for which records of a command that has ended may still come
MOST_ALIKE = 10_000  # lines
RUNS = ("active", "activating", "deactivating")
OPTIONS = {
    **WRITTEN,
    **dict.fromkeys(("policy", "program", "network", "cpuset", "directory"), str),
    **dict.fromkeys(("kill", "memory", "tasks", "time", "umask", "rows", "columns"), int),
    **dict.fromkeys(("terminal", "init", "strict"), bool),
    "cpu": float,
}
_bounds: dict[str, Json] = {
    "memory": {"type": "integer", "minimum": 1, "maximum": 1 << 30},
    "cpu": TABLE["cpu"].schema,
    "cpuset": TABLE["cpuset"].schema,
    "tasks": TABLE["tasks"].schema,
    "time": {"type": "integer", "maximum": (1 << 32) - 1},
    "kill": {"type": "integer", "maximum": (1 << 32) - 1},
    "umask": {"type": "integer", "maximum": 0o777},
    "rows": {"type": "integer", "maximum": (1 << 16) - 1},
    "columns": {"type": "integer", "maximum": (1 << 16) - 1},
    "network": {"enum": ["none", "host"]},
}
BOUNDS = {key: Schema(schema) for key, schema in _bounds.items()}


class _Log:
    """A file that lines are added to, by a thread of its own: who named it may have it anywhere."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.dup(descriptor)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()

    def add(self, lines: bytes) -> None:
        """Add them, some time."""
        self._lines.put(lines)

    def close(self) -> None:
        """When what was added is written."""
        self._lines.put(b"")

    def _write(self) -> None:
        try:
            while lines := self._lines.get():
                os.write(self._file, lines)
        except OSError as error:
            log.warning("What is denied cannot be logged: %s", error)
        finally:
            os.close(self._file)


class Runs:
    """Those that run, by unit."""

    def __init__(self, functions: Functions, systemd: Systemd) -> None:
        self.routes: dict[str, Route] = {}
        self._functions = functions
        self._systemd = systemd
        self._wanted: dict[str, Wanted] = {}
        self._owners: dict[str, int] = {}
        self._logs: dict[str, _Log] = {}
        self._compiling = asyncio.Semaphore(AT_ONCE)

    async def reconcile(self) -> None:
        """Know those again that run since before boesfsd does: whom they belong to, not what they were told."""
        for unit in await self._systemd.list_units(units.COMMAND_PATTERN):
            number = units.command_number(unit.name)
            if number and unit.active in RUNS:
                self.routes[unit.name] = Route(_judged(number, ("?",), Settings()))
                self._functions.on_instance(unit.name, 0)

    async def start(
        self,
        uid: int,
        groups: tuple[int, ...],
        argv: list[bytes],
        environment: list[bytes],
        descriptors: dict[str, int],
        given: Json,
    ) -> tuple[str, list[str]]:
        """Run ARGV for the user UID, who is in GROUPS; the unit, and what is probably not meant of its policy. The
        descriptors stay the caller's. InvalidArgs, InvalidPolicy, Unsupported, Busy."""
        _check(argv, descriptors, given)
        if uid and list(self._owners.values()).count(uid) >= MOST_OF_ONE:
            raise BoesError("Busy", f"{MOST_OF_ONE} commands of this user run already", hint="wait for one of them")
        number = self._number()
        unit = units.command_unit(number)
        self._owners[unit] = uid
        try:
            owner = await asyncio.to_thread(_owner, uid, groups)
            runtime = await asyncio.to_thread(_runtime)
            variables = {**runtime.environment, **_own_variables(owner, environment)}
            command = _command(owner, number, argv, variables, descriptors, given)
            self.routes[unit] = Route(command.judged)
            if "log" in descriptors:
                await asyncio.to_thread(_check_log, descriptors["log"])
                self._logs[unit] = _Log(descriptors["log"])
            host = self._functions.host
            async with self._compiling:
                strict = bool(given.get("strict"))
                made, told = await asyncio.to_thread(self._judge, unit, command, runtime, host, strict=strict)
            if self._functions.host is not host:
                raise BoesError("Busy", "The settings were changed meanwhile", hint="try again")
            told += _unenforced(given)
            await self._begin(unit, command, made, host, descriptors)
        except BaseException:
            await self._forget(unit, number)
            raise
        return unit, told

    def _number(self) -> int:
        taken = {route.function.uid for route in self.routes.values()}
        while (number := FIRST + secrets.randbelow(NUMBERS)) in taken:
            pass
        return number

    def _judge(
        self, unit: str, command: Command, runtime: Runtime, host: Host, *, strict: bool
    ) -> tuple[Layout, list[str]]:
        """Have its policy judge. In a thread."""
        functions, policies = self._functions, self._functions.policies
        made = layout.of_command(command, runtime, host)
        wanted = policies.wanted(command.judged, made, layout.sandbox_of_command(command, made))
        told: list[str] = []
        if policies.enforcement != "boesfs" and (command.kill or unit in self._logs):
            problem = "nobody counts denials" if command.kill else "nobody is told of denials"
            which = "kill" if command.kill else "log"
            raise BoesError("Unsupported", f"{which}: {problem}", hint="set enforcement = boesfs in boesfsd.conf")
        if wanted:
            if policies.enforcement != "boesfs" and functions.landlock_abi < ABI:
                problem = f"This kernel's Landlock (ABI {functions.landlock_abi}) keeps no policy"
                raise BoesError("Unsupported", problem, hint=f"Linux 6.2 or later has ABI {ABI}, or use BoesFS")
            told = [change[2] for change in changes.warnings(policies.check(wanted))]
            if told and strict:
                raise BoesError("InvalidPolicy", told[0])
            self._wanted[unit] = wanted
        made = policies.layout(wanted, made)
        policies.enforce(command.judged, wanted)
        return made, told

    async def _begin(self, unit: str, command: Command, made: Layout, host: Host, given: dict[str, int]) -> None:
        text = plan.of_command(command, made, host).encode("utf-8", "surrogateescape")
        with os.fdopen(os.memfd_create("plan"), "wb") as file:
            file.write(text)
            file.flush()
            handed = {name: given[path] for path, name in made.handed.items()}
            named = {"plan": file.fileno(), "interrupt": given["interrupt"], **handed}
            named |= {name: given[name] for name in STANDARD if name in given}
            positions = {name: position for position, name in enumerate(named)}
            properties = units.command_properties(command, positions)
            await self._systemd.start_transient(unit, properties, list(named.values()))
        self._functions.on_instance(unit, 0)

    # --- what they do

    def in_force(self, function: Function, table: int) -> InForce | None:
        """As Functions.in_force."""
        return self._functions.policies.in_force(function, table, lambda: self._wanted.get(function.id))

    def told(self, told: Told) -> None:
        """What a policy denied: a line in the original's format, for who wants it."""
        unit = told.route.function.id
        if unit not in self._logs:
            return
        self._logs[unit].add(told.original(told.route.function.command[0]) * min(told.count, MOST_ALIKE))

    def unit_changed(self, unit: str, active: str) -> None:
        """PID 1 tells of a unit of ours."""
        number = units.command_number(unit)
        if number and active in ("inactive", "failed"):
            self._functions.router.spawn(self._ended(unit, number))
        elif number and unit in self.routes and active in RUNS:
            self._functions.on_instance(unit, 0)

    async def _ended(self, unit: str, number: int) -> None:
        await asyncio.sleep(LINGER)
        if not [found for found in await self._systemd.list_units(unit) if found.active in RUNS]:
            await self._forget(unit, number)

    async def _forget(self, unit: str, number: int) -> None:
        self.routes.pop(unit, None)
        self._wanted.pop(unit, None)
        self._owners.pop(unit, None)
        if unit in self._logs:
            self._logs.pop(unit).close()
        await asyncio.to_thread(self._functions.policies.forget, number)


def _check(argv: list[bytes], descriptors: dict[str, int], given: Json) -> None:
    check_options(given, OPTIONS)
    if not argv or not argv[0]:
        raise BoesError("InvalidArgs", "There is no command", hint="name a program, as /bin/sh")
    if any(b"\0" in word for word in argv):
        raise BoesError("InvalidArgs", "There is a NUL in an argument")
    for key, schema in BOUNDS.items():
        if key in given and (fault := schema.fault(given[key])):
            raise BoesError("InvalidArgs", f"{key}: {fault[1]}", hint="docs/run.md has them all")
    if "cpuset" in given and not parse_cpuset(given["cpuset"]) & os.sched_getaffinity(0):
        raise BoesError("InvalidArgs", f"cpuset: {given['cpuset']}: this host has none of these CPUs")
    if given.get("kill", 0) and "program" in given:
        raise BoesError("InvalidArgs", "kill: nobody counts what a program denies", hint="leave kill out")
    _check_descriptors(descriptors, terminal=bool(given.get("terminal")))


def _unenforced(given: Json) -> list[str]:
    """Which limits this host does not keep. Unsupported: it has to."""
    controllers = {"memory": "memory", "cpu": "cpu", "cpuset": "cpuset", "tasks": "pids"}
    missing = missing_controllers().split(", ")
    wanted = [key for key, controller in controllers.items() if key in given and controller in missing]
    told = [f"{key}: this host has no cgroup v2 controller for it, so it is no limit" for key in wanted]
    if told and given.get("strict"):
        raise BoesError("Unsupported", told[0])
    return told


def _check_descriptors(descriptors: dict[str, int], *, terminal: bool) -> None:
    if "interrupt" not in descriptors:
        raise BoesError("InvalidArgs", "There is no descriptor interrupt", hint="give one that is readable at the end")
    paths = [name for name in descriptors if name.startswith("/")]
    if unknown := sorted(descriptors.keys() - {*STANDARD, "interrupt", "log", *paths}):
        raise BoesError("InvalidArgs", f"unknown descriptor {unknown[0]}", hint="those of directories are paths")
    if terminal and any(name in descriptors for name in STANDARD):
        raise BoesError("InvalidArgs", "A command with a terminal has no other standard input and output")
    if terminal and not _understands_words(descriptors["interrupt"]):
        raise BoesError(
            "InvalidArgs", "interrupt: nobody could be given the terminal", hint="use a SOCK_SEQPACKET socket"
        )
    for name in STANDARD:
        if name in descriptors and os.isatty(descriptors[name]):
            raise BoesError("InvalidArgs", f"{name}: a terminal is not handed in", hint="use a pipe, or terminal")
    if len(paths) > MOST_DIRECTORIES:
        raise BoesError("InvalidArgs", f"{len(paths)} directories are over {MOST_DIRECTORIES}")
    for path in paths:
        _check_directory(path, paths)


def _understands_words(descriptor: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as found:
            return found.type == socket.SOCK_SEQPACKET
    except OSError:
        return False


def _check_log(descriptor: int) -> None:
    """In a thread: it may be anywhere."""
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError as error:
        raise BoesError("InvalidArgs", f"log: {error.strerror}", hint="use a file that root can see") from error
    if not regular:
        raise BoesError("InvalidArgs", "log: this is no regular file")


def _check_directory(path: str, all_paths: list[str]) -> None:
    """That nothing is mounted where its caller could have laid links."""
    pure = PurePosixPath(path)
    if path == "/" or path.startswith("//") or str(pure) != path or ".." in pure.parts:
        raise BoesError("InvalidArgs", f"{path} cannot be a directory of a command", hint="name it as realpath(1) does")
    if around := [other for other in all_paths if other != path and pure.is_relative_to(other)]:
        raise BoesError("InvalidArgs", f"{path} is in {around[0]}, which is there too", hint="leave one of them out")
    if any(f"{path}/".startswith(f"{ours}/") or f"{ours}/".startswith(f"{path}/") for ours in layout.OURS):
        raise BoesError("InvalidArgs", f"{path}: it cannot be in a sandbox", hint="name another directory")


def _owner(uid: int, groups: tuple[int, ...]) -> Owner:
    """With the groups that the caller has, and no other: who is in one may be refused for it."""
    try:
        found = pwd.getpwuid(uid)
    except KeyError as error:
        raise BoesError("InvalidArgs", f"This host knows no user {uid}") from error
    gid = found.pw_gid if found.pw_gid in groups or not groups else groups[0]
    return Owner(uid, gid, found.pw_name, tuple(group for group in groups if group != gid))


def _runtime() -> Runtime:
    found = runtimes.of_commands()
    return replace(found, binds={path: source for path, source in found.binds.items() if os.path.isdir(source)})


def _own_variables(owner: Owner, given: list[bytes]) -> dict[str, str]:
    """InvalidArgs."""
    found = {"USER": owner.name, "LOGNAME": owner.name}
    for variable in given:
        name, equals, value = os.fsdecode(variable).partition("=")
        if not (name and equals) or "\0" in name + value:
            raise BoesError("InvalidArgs", f"{variable!r} is no NAME=VALUE")
        found[name] = value
    return found


def _command(
    owner: Owner, number: int, argv: list[bytes], variables: dict[str, str], descriptors: dict[str, int], given: Json
) -> Command:
    words = tuple(os.fsdecode(word) for word in argv)
    settings = Settings(
        memory=given.get("memory", 0),
        cpu=given.get("cpu"),
        cpuset=given.get("cpuset", ""),
        tasks=given.get("tasks", 0),
        files=0,
        tmp_size=plan.COMMAND_TMP,
        timeout=0,
        network=given.get("network", "none"),
    )
    directories = tuple(name for name in descriptors if name.startswith("/"))
    return Command(
        judged=_judged(number, words, settings, _policy(given)),
        owner=owner,
        directories=directories,
        environment=variables,
        cwd=given.get("directory") or (directories[0] if directories else layout.TMP),
        terminal=given.get("terminal", False),
        rows=given.get("rows", 0),
        columns=given.get("columns", 0),
        reaper=given.get("init", False),
        time=given.get("time", 0),
        kill=given.get("kill"),
        umask=given.get("umask", 0o022),
    )


def _judged(
    number: int,
    words: tuple[str, ...],
    settings: Settings,
    policy: PolicySource | None = None,
) -> Function:
    """A command as policies and the audit know it: a function of nobody's."""
    now = now_ms()
    app = App(id="", name=WHOSE, config={}, created_at=now, updated_at=now)
    return Function(
        id=units.command_unit(number),
        app=app,
        name=str(number),
        uid=number,
        digest="",
        command=words,
        settings=settings,
        created_at=now,
        updated_at=now,
        policy=policy,
    )


def _policy(given: Json) -> PolicySource | None:
    if "program" in given:
        if "policy" in given:
            raise BoesError("InvalidArgs", "A program decides alone", hint="give program, or policy")
        return PolicyProgram("program", given["program"])
    known = {name: given[name] for name in WRITTEN if name in given}
    return read_policy(given.get("policy", ""), known, WRITTEN)
