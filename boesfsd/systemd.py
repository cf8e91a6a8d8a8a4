# SPDX-License-Identifier: Apache-2.0
"""PID 1, through pystemd. Calls run in one worker process: pystemd blocks and holds the interpreter while it waits,
which must not stop the calls that are being served. Signals are read on the event loop, where they never wait."""

import asyncio
import contextlib
import functools
import logging
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pystemd import dbusexc
from pystemd.dbuslib import DBus, apply_signature

from boesfsd.errors import BoesError
from boesfsd.units import Property, unescape_label

log = logging.getLogger(__name__)

DESTINATION = b"org.freedesktop.systemd1"
PATH = b"/org/freedesktop/systemd1"
MANAGER = b"org.freedesktop.systemd1.Manager"
UNIT = b"org.freedesktop.systemd1.Unit"
PROPERTIES = b"org.freedesktop.DBus.Properties"
JOB_TIMEOUT = 30.0
SIGNAL_POLL = 0.5
SIGNALS_AT_ONCE = 1000
LENGTH = struct.Struct("=I")
WORKER = "import sys; sys.path[:] = sys.argv[2:]; from boesfsd.systemd import work; work(int(sys.argv[1]))"
SPLIT = re.compile(r"a*(?:\([^)]*\)|[a-z])")
"""The complete types of a structure without structures."""

_bus: DBus | None = None


@dataclass(frozen=True, slots=True)
class UnitState:
    """One row of ListUnits: name, active state (active, failed …), sub-state (running, listening …)."""

    name: str
    active: str
    sub: str


def _connection() -> DBus:
    """In the worker: its one connection."""
    global _bus  # noqa: PLW0603 (one per worker process)
    if _bus is None:
        _bus = DBus()
        _bus.open()
    return _bus


def _call(method: bytes, args: list[tuple[int, Any]], interface: bytes = MANAGER, path: bytes = PATH) -> Any:
    """In the worker: one call, the reply's body."""
    try:
        return _connection().call_method(DESTINATION, path, interface, method, args).body
    except dbusexc.DBusBaseError as error:
        raise SystemdError(type(error).__name__, str(error.err_message), error.err_name) from None


def _start_many(units: list[str]) -> None:
    """In the worker: enqueue the start of each; what cannot be enqueued shows in the unit's state."""
    for unit in units:
        with contextlib.suppress(SystemdError):
            _call(b"StartUnit", apply_signature(b"ss", [unit.encode(), b"replace"]))


def _property_args(properties: list[Property]) -> list[tuple[int, Any]]:
    """PROPERTIES as a(sv): pystemd opens and closes (-1) containers by hand."""
    args: list[tuple[int, Any]] = [(ord("a"), b"(sv)")]
    for name, signature, value in properties:
        args += [(ord("r"), b"sv"), (ord("s"), name.encode()), (ord("v"), signature.encode())]
        args += [*_value_args(signature, value), (-1, None), (-1, None)]
    return [*args, (-1, None)]


def _value_args(signature: str, value: Any) -> list[tuple[int, Any]]:
    if signature[0] == "a":
        inner = signature[1:]
        return [(ord("a"), inner.encode()), *(arg for item in value for arg in _value_args(inner, item)), (-1, None)]
    if signature[0] == "(":
        kinds = SPLIT.findall(signature[1:-1])
        fields = (arg for kind, item in zip(kinds, value, strict=True) for arg in _value_args(kind, item))
        return [(ord("r"), signature[1:-1].encode()), *fields, (-1, None)]
    return [(ord(signature), value.encode() if isinstance(value, str) else value)]


def _start_transient(channel: int, unit: str, properties: list[Property], count: int) -> Any:
    """In the worker: COUNT descriptors came over CHANNEL; PROPERTIES that have some name them by their position."""
    with socket.socket(fileno=os.dup(channel)) as receiver:
        _, descriptors, _, _ = socket.recv_fds(receiver, 1, count, socket.MSG_CMSG_CLOEXEC)
    try:
        whole = [(name, kind, _with_descriptors(kind, value, descriptors)) for name, kind, value in properties]
        args = [(ord("s"), unit.encode()), (ord("s"), b"fail"), *_property_args(whole)]
        return _call(b"StartTransientUnit", [*args, (ord("a"), b"(sa(sv))"), (-1, None)])
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _with_descriptors(kind: str, value: Any, descriptors: list[int]) -> Any:
    if kind == "h":
        return descriptors[value]
    return [(descriptors[number], name) for number, name in value] if kind == "a(hs)" else value


class SystemdError(Exception):
    """What PID 1 answered: pystemd's class name, the message, the D-Bus name when there is one."""

    def __init__(self, kind: str, message: str, name: object) -> None:
        super().__init__(kind, message, name)
        self.message = message
        self.missing = kind == "DBusNoSuchUnitError" or "NoSuchUnit" in str(name)

    def __str__(self) -> str:
        return self.message


class _Worker:
    """The process that makes the calls. It ends when its standard input does, and is started anew when it is gone."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._channel: socket.socket | None = None
        self._turn = asyncio.Lock()

    async def run(self, function: Callable[..., Any], *args: Any, descriptors: list[int] | None = None) -> Any:
        """FUNCTION(*ARGS) over there: its result or its exception. With DESCRIPTORS, what it takes before its arguments
        is where they come from."""
        async with self._turn:
            try:
                reply = await self._exchange((function.__name__, args), descriptors)
            except (OSError, asyncio.IncompleteReadError):
                log.warning("The worker for calls to PID 1 ended; starting another")
                self.close()
                reply = await self._exchange((function.__name__, args), descriptors)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _start(self) -> asyncio.subprocess.Process:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-c", WORKER, str(theirs.fileno()), *sys.path),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )

    async def _exchange(self, request: object, descriptors: list[int] | None) -> Any:
        if self._process is None:
            self._process = await self._start()
        assert self._process.stdin
        assert self._process.stdout
        if descriptors is not None:
            assert self._channel
            socket.send_fds(self._channel, [b"d"], descriptors)
        data = pickle.dumps(request)
        self._process.stdin.write(LENGTH.pack(len(data)) + data)
        await self._process.stdin.drain()
        (length,) = LENGTH.unpack(await self._process.stdout.readexactly(LENGTH.size))
        return pickle.loads(await self._process.stdout.readexactly(length))  # noqa: S301 (our own process)

    def close(self) -> None:
        """End it."""
        if self._process and self._process.stdin:
            self._process.stdin.close()
        if self._channel:
            self._channel.close()
        self._process = self._channel = None


def work(channel: int) -> None:
    """The worker's loop: one request after another. Descriptors come over CHANNEL."""
    functions: dict[str, Callable[..., Any]] = {function.__name__: function for function in (_call, _start_many)}
    functions[_start_transient.__name__] = functools.partial(_start_transient, channel)
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while head := stdin.read(LENGTH.size):
        name, args = pickle.loads(stdin.read(*LENGTH.unpack(head)))  # noqa: S301 (our own process)
        try:
            reply = functions[name](*args)
        except Exception as error:  # noqa: BLE001 (raised again by whoever asked)
            reply = error
        data = pickle.dumps(reply)
        stdout.write(LENGTH.pack(len(data)) + data)
        stdout.flush()


class Systemd:
    """The manager's methods that we use, and the state changes of our units."""

    def __init__(self) -> None:
        self._worker = _Worker()
        self._signals = DBus()
        self._jobs: dict[str, asyncio.Future[str]] = {}
        self._early: dict[str, str] = {}
        self._subscribed = False
        self._on_change: Callable[[str, str, str], None] = lambda unit, active, sub: None
        self._on_lost: Callable[[str], None] = lambda reason: None
        self._poll: asyncio.TimerHandle | None = None

    async def connect(self, on_change: Callable[[str, str, str], None], on_lost: Callable[[str], None]) -> None:
        """Subscribe. ON_CHANGE(unit, active, sub) is called on the loop for each change of a unit of ours,
        ON_LOST(reason) when there will be no more."""
        self._on_change = on_change
        self._on_lost = on_lost
        loop = asyncio.get_running_loop()
        self._signals.open()
        # pystemd writes an attribute on the callback and keeps no reference: plain functions, kept here
        self._callbacks = (
            lambda message, **_: self._changed(message),
            lambda message, **_: self._job_removed(message),
        )
        self._signals.match_signal(DESTINATION, None, PROPERTIES, b"PropertiesChanged", self._callbacks[0])
        self._signals.match_signal(DESTINATION, PATH, MANAGER, b"JobRemoved", self._callbacks[1])
        loop.add_reader(self._signals.get_fd(), self._read_signals)
        self._read_later()
        await self.call(b"GetDefaultTarget")

    def close(self) -> None:
        """End the worker."""
        if self._poll:
            self._poll.cancel()
        self._worker.close()

    # --- signals

    def _read_later(self) -> None:
        # a reply may have brought signals into sd-bus's queue, where the descriptor does not show them
        self._poll = asyncio.get_running_loop().call_later(SIGNAL_POLL, self._read_and_again)

    def _read_and_again(self) -> None:
        self._read_later()
        self._read_signals()

    def _read_signals(self) -> None:
        empty = 0
        try:
            for _ in range(SIGNALS_AT_ONCE):
                empty = empty + 1 if self._signals.process().is_empty() else 0
                if empty == 2:
                    return
        except dbusexc.DBusBaseError as error:  # the bus is gone; its descriptor would stay readable for ever
            asyncio.get_running_loop().remove_reader(self._signals.get_fd())
            self._on_lost(f"no signals from PID 1 any more: {error.err_message}")

    def _changed(self, message: Any) -> None:
        path = message.get_path()
        if not path.startswith((PATH + b"/unit/boesfs_2dfn_40", PATH + b"/unit/boesfs_2drun_2d")):
            return
        message.process_reply(with_headers=False)
        interface, properties = message.body[0], message.body[1]
        if interface != UNIT or b"ActiveState" not in properties:
            return
        unit = unescape_label(path.rsplit(b"/", 1)[1].decode())
        self._on_change(unit, properties[b"ActiveState"].decode(), properties.get(b"SubState", b"").decode())

    def _job_removed(self, message: Any) -> None:
        message.process_reply(with_headers=False)
        _, path, _unit, result = message.body
        future = self._jobs.pop(path.decode(), None)
        if future and not future.done():
            future.set_result(result.decode())
        elif not future:
            self._early[path.decode()] = result.decode()
            while len(self._early) > 4096:
                self._early.pop(next(iter(self._early)))

    # --- calls

    async def call(self, method: bytes, signature: bytes = b"", *args: Any) -> Any:
        """One method of the manager; the reply's body, or SystemdError."""
        return await self._worker.run(_call, method, apply_signature(signature, list(args)))

    def subscribe(self) -> None:
        """Have PID 1 send signals. Not before they are needed: while a thousand sockets start they cost it as much
        time as the sockets."""
        if not self._subscribed:
            self._signals.call_method(DESTINATION, PATH, MANAGER, b"Subscribe", [])
            self._subscribed = True

    async def start_many(self, units: list[str], pattern: str) -> dict[str, str]:
        """Start UNITS, all of which match PATTERN, without a signal for each: active state by name, "" for unknown."""
        await self._worker.run(_start_many, units)
        end = asyncio.get_running_loop().time() + JOB_TIMEOUT
        while True:
            states = {unit.name: unit.active for unit in await self.list_units(pattern)}
            waiting = any(states.get(unit, "activating") in ("activating", "inactive") for unit in units)
            if not waiting or asyncio.get_running_loop().time() > end:
                return {unit: states.get(unit, "") for unit in units}
            await asyncio.sleep(0.05)

    async def _job(self, method: bytes, unit: str) -> None:
        self.subscribe()
        try:
            job = (await self.call(method, b"ss", unit.encode(), b"replace")).decode()
        except SystemdError as error:
            if error.missing and method == b"StopUnit":
                return
            raise BoesError("Failed", f"systemd refuses {method.decode()} of {unit}: {error}") from error
        await self._job_done(job, method, unit)

    async def _job_done(self, job: str, method: bytes, unit: str) -> None:
        result = self._early.pop(job, None)
        if result is None:
            future = self._jobs.setdefault(job, asyncio.get_running_loop().create_future())
            try:
                result = await asyncio.wait_for(future, JOB_TIMEOUT)
            except TimeoutError:
                self._jobs.pop(job, None)
                raise BoesError(
                    "Failed", f"{method.decode()} of {unit} was not done within {JOB_TIMEOUT:.0f} s"
                ) from None
        if result not in ("done", "skipped", "canceled"):
            raise BoesError(
                "Failed", f"{method.decode()} of {unit} ended as {result}", hint=f"systemctl status '{unit}'"
            )

    async def start(self, unit: str) -> None:
        """Start and wait for the job's end."""
        await self._job(b"StartUnit", unit)

    async def start_transient(self, unit: str, properties: list[Property], descriptors: list[int]) -> None:
        """Start a unit that has no file, and wait for the job's end. In PROPERTIES, descriptors are positions in
        DESCRIPTORS, which stay the caller's."""
        self.subscribe()
        try:
            job = await self._worker.run(_start_transient, unit, properties, len(descriptors), descriptors=descriptors)
        except SystemdError as error:
            raise BoesError("Failed", f"systemd refuses to start {unit}: {error}") from error
        await self._job_done(job.decode(), b"StartTransientUnit", unit)

    async def stop(self, unit: str) -> None:
        """Stop and wait; a unit that is not loaded is stopped."""
        await self._job(b"StopUnit", unit)

    async def kill(self, unit: str, signal: int, whom: str = "main") -> None:
        """Send SIGNAL to the main process, or to `all`; nothing happens when the unit is not running."""
        try:
            await self.call(b"KillUnit", b"ssi", unit.encode(), whom.encode(), signal)
        except SystemdError as error:
            log.debug("KillUnit %s: %s", unit, error)

    async def reset_failed(self, unit: str) -> None:
        """Forget a failure, so that the unit can be started again."""
        try:
            await self.call(b"ResetFailedUnit", b"s", unit.encode())
        except SystemdError as error:
            log.debug("ResetFailedUnit %s: %s", unit, error)

    async def set_properties(self, unit: str, properties: list[Property]) -> None:
        """SetUnitProperties until the next boot; no reload, effective at once."""
        try:
            args = [(ord("s"), unit.encode()), (ord("b"), True), *_property_args(properties)]
            await self._worker.run(_call, b"SetUnitProperties", args)
        except SystemdError as error:
            raise BoesError("Failed", f"systemd refuses the limits of {unit}: {error}") from error

    async def list_units(self, pattern: str) -> list[UnitState]:
        """All loaded units whose names match."""
        rows = await self.call(b"ListUnitsByPatterns", b"asas", [], [pattern.encode()])
        return [UnitState(row[0].decode(), row[3].decode(), row[4].decode()) for row in rows or []]
