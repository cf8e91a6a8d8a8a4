# SPDX-License-Identifier: Apache-2.0
"""Calls: which slot of a function takes one, who waits, and what becomes of it. In memory only: neither the store
nor D-Bus is touched between a request and its answer."""

import asyncio
import functools
import heapq
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from boesfsd.errors import BoesError
from boesfsd.model import Function, new_id
from boesfsd.units import socket_path
from boesfsd.wire import HOP_BY_HOP, Call, Connection, Header, Request

log = logging.getLogger(__name__)

RETRY_AFTER = b"15"
BACKSTOP = 1.0  # seconds after the deadline at which we stop relying on the agent
DETAIL_MAX = 4096
BUFFER_MAX = 256 << 10
SLOT_IDLE_SLACK = 5.0
CONNECT_TRIES = 3
SERVED_MAX = 16
KILLED = "killed by policy"  # begins what the agent says then
NOT_PASSED = HOP_BY_HOP | {b"host", b"fn-call-id", b"fn-deadline"}
JSON_HEADER: Header = (b"Content-Type", b"application/json")


@dataclass
class Counters:
    """What happened to a function since boesfsd started; last_call is milliseconds since 1970."""

    calls: int = 0
    errors: int = 0
    running: int = 0
    queued: int = 0
    denials: int = 0
    last_call: int = 0


def boot_time() -> int:
    """Nanoseconds since the boot, as the kernel's records have them."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass
class Served:
    """A call that an instance serves, or has served: from when to when, in boot_time."""

    call: str
    begin: int = field(default_factory=boot_time)
    end: int = 0


@dataclass(order=True)
class Slot:
    """One place for an instance, with a socket of its own, and the last calls there."""

    number: int
    path: str = field(compare=False)
    used: float = field(compare=False, default_factory=time.monotonic)
    served: deque[Served] = field(compare=False, default_factory=lambda: deque(maxlen=SERVED_MAX))

    def call_at(self, time_ns: int) -> str:
        """The call that was served then, or ""."""
        for served in reversed(self.served):
            if served.begin <= time_ns and not 0 < served.end < time_ns:
                return served.call
        return ""


@dataclass(eq=False)
class Route:
    """A function as the router knows it."""

    function: Function
    free: list[Slot] = field(default_factory=list)
    open: dict[int, Slot] = field(default_factory=dict)
    opening: set[int] = field(default_factory=set)
    waiters: deque[asyncio.Future[Slot]] = field(default_factory=deque)
    calls: dict[str, "Invocation"] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    last_error: str = ""
    stopped: bool = False
    start_failed: bool = False


class Slots:
    """How the router has sockets opened, closed and mended; functions.py implements it over systemd."""

    async def open_slot(self, function: Function, number: int) -> None:
        """Make the slot listen; BoesError when that fails."""
        raise NotImplementedError

    async def close_slot(self, function: Function, number: int) -> None:
        """Stop the slot's socket and instance."""
        raise NotImplementedError

    async def end_instance(self, function: Function, number: int) -> None:
        """Kill the slot's instance; its socket stays."""
        raise NotImplementedError


async def _nobody_knows(_route: Route, _slot: int, _since: int) -> str:
    return ""


class Router:
    """All routes by function id. ON_CHANGE and ON_FAILURE tell the bus."""

    def __init__(self, slots: Slots) -> None:
        self.routes: dict[str, Route] = {}
        self._by_name: dict[tuple[str, str], Route] = {}
        self.slots = slots
        self.max_request_size = 0
        self.on_change: Callable[[Route], None] = lambda route: None
        self.why_killed: Callable[[Route, int, int], Awaitable[str]] = _nobody_knows
        self.on_failure: Callable[[Route, str, str, str], None] = lambda route, call_id, reason, message: None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- routes

    def put(self, function: Function, listening: set[int]) -> Route:
        """Add the function, or exchange it for a newer version; LISTENING slots are open already."""
        route = self.routes.get(function.id)
        if route is None:
            route = self.routes[function.id] = Route(function)
        route.function = function
        self._by_name[function.app.name, function.name] = route
        for number in sorted(listening - route.open.keys()):
            self._add_slot(route, number)
        return route

    def remove(self, function_id: str) -> Route | None:
        """Forget the function; who waits or runs is answered NoSuchFunction or Stopped."""
        route = self.routes.pop(function_id, None)
        if route:
            self._by_name.pop((route.function.app.name, route.function.name), None)
            self.end_calls(route, BoesError("Stopped", "The function was removed"))
        return route

    def named(self, app: str, name: str) -> Route | None:
        """The route of a function by the names people use."""
        return self._by_name.get((app, name))

    def end_calls(self, route: Route, error: BoesError) -> None:
        """End all calls of a route, running and waiting, with ERROR."""
        for call in list(route.calls.values()):
            call.fail(error)

    def find_call(self, call_id: str) -> "Invocation | None":
        """The call that is being served or waits."""
        for route in self.routes.values():
            if call_id in route.calls:
                return route.calls[call_id]
        return None

    # --- slots

    def _add_slot(self, route: Route, number: int) -> None:
        slot = route.open[number] = Slot(number, str(socket_path(route.function.id, number)))
        self.release(route, slot)

    def acquire(self, route: Route) -> asyncio.Future[Slot] | Slot:
        """A free slot, the lowest first, or a future of one."""
        if route.free and route.free[0].number < route.function.settings.concurrency:
            return heapq.heappop(route.free)
        future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        route.waiters.append(future)
        self._grow(route)
        return future

    def release(self, route: Route, slot: Slot) -> None:
        """Give a slot back, to who waits longest."""
        slot.used = time.monotonic()
        if route.open.get(slot.number) is not slot:
            return
        if slot.number < route.function.settings.concurrency:
            while route.waiters:
                waiter = route.waiters.popleft()
                if not waiter.done():
                    waiter.set_result(slot)
                    return
        heapq.heappush(route.free, slot)

    def _grow(self, route: Route) -> None:
        """Open one more slot for each who waits, up to the function's concurrency."""
        wanted = sum(not waiter.done() for waiter in route.waiters)
        for number in range(route.function.settings.concurrency):
            if len(route.opening) >= wanted:
                return
            if number not in route.open and number not in route.opening:
                route.opening.add(number)
                self.spawn(self._open(route, number))

    async def _open(self, route: Route, number: int) -> None:
        try:
            await self.slots.open_slot(route.function, number)
        except BoesError as error:
            route.last_error = str(error)
            log.error("Cannot open slot %d of %s: %s", number, route.function.label, error)
            if not route.open:
                while route.waiters:
                    waiter = route.waiters.popleft()
                    if not waiter.done():
                        waiter.set_exception(error)
            return
        finally:
            route.opening.discard(number)
        if self.routes.get(route.function.id) is route and not route.stopped:
            self._add_slot(route, number)
        else:
            await self.slots.close_slot(route.function, number)

    def idle_slots(self) -> list[tuple[Route, Slot]]:
        """Extra slots (never slot 0) unused for longer than the idle time-out, taken out of service."""
        now = time.monotonic()
        found = []
        for route in self.routes.values():
            settings = route.function.settings
            for slot in list(route.free):
                idle = now - slot.used > settings.idle_timeout + SLOT_IDLE_SLACK
                if slot.number and (idle or slot.number >= settings.concurrency):
                    route.free.remove(slot)
                    del route.open[slot.number]
                    found.append((route, slot))
            heapq.heapify(route.free)
        return found

    def spawn(self, work: Awaitable[None]) -> None:
        """Run WORK in a task of ours."""
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            log.error("A task failed", exc_info=task.exception())


def error_body(message: str, detail: str = "") -> bytes:
    """The JSON of every error answer."""
    return json.dumps({"message": message, **({"detail": detail} if detail else {})}).encode() + b"\n"


@functools.lru_cache(maxsize=16)
def _to_the_second(seconds: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode()


def rfc3339(seconds: float) -> bytes:
    """A time as Fn-Deadline has it, to the millisecond."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return b"%b.%03dZ" % (_to_the_second(whole), milliseconds)


class Invocation:
    """One call, from the request's head to the end of its answer. It is the wire's handler on the client's side and
    the wire's caller on the instance's side."""

    def __init__(self, router: Router, route: Route, connection: Connection, request: Request) -> None:
        self.id = new_id()
        self._router = router
        self._route = route
        self._connection = connection
        self._request = request
        self._slot: Slot | None = None
        self._call: Call | None = None
        self._early: list[bytes] = []
        self._received = self._tries = 0
        self._complete = self._begun = self._over = self._told = False
        self._failed_body: bytearray | None = None
        self._reason = ""
        self._status = 0
        settings = route.function.settings
        self._deadline = time.time() + settings.timeout
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(settings.timeout + BACKSTOP, self._too_late)
        self._queue_timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[Slot] | None = None
        route.calls[self.id] = self
        log.debug("Call %s of %s begins", self.id, route.function.label)
        route.counters.calls += 1
        route.counters.last_call = int(time.time() * 1000)
        self._start()

    # --- getting an instance

    def _start(self) -> None:
        slot = self._router.acquire(self._route)
        if isinstance(slot, Slot):
            self._take(slot)
            return
        self._route.counters.queued += 1
        self._waiter = slot
        slot.add_done_callback(self._waited)
        left = self._deadline - time.time()
        self._queue_timer = asyncio.get_running_loop().call_later(max(left, 0), self._nobody_free)

    def _waited(self, waiter: asyncio.Future[Slot]) -> None:
        self._route.counters.queued -= 1
        self._waiter = None
        if self._queue_timer:
            self._queue_timer.cancel()
        if waiter.cancelled():
            return
        error = waiter.exception()
        if isinstance(error, BoesError):
            self.fail(BoesError("Busy", "Timed out - server too busy", hint=str(error)))
        elif error is None and self._over:
            self._router.release(self._route, waiter.result())
        elif error is None:
            self._take(waiter.result())
            self.flush()

    def _nobody_free(self) -> None:
        self.fail(BoesError("Busy", "Timed out - server too busy"))

    def _take(self, slot: Slot) -> None:
        self._slot = slot
        slot.served.append(Served(self.id))
        self._route.counters.running += 1
        self._router.on_change(self._route)
        self._reach(slot)

    def _reach(self, slot: Slot) -> None:
        """Connect, with what there is of the request; a socket that does not answer is opened again."""
        call = Call(self, self._passed_headers(), self._request.length)
        if self._request.expects_continue and not self._early:
            self._connection.send_continue()
        for data in self._early:
            call.send_body(data)
        if self._complete:
            call.end()
        try:
            call.connect(slot.path)
        except OSError as error:
            self._router.spawn(self._mend(slot, error))
            return
        self._call = call
        self._early.clear()
        self._connection.unpause()

    async def _mend(self, slot: Slot, error: OSError) -> None:
        if self._over:
            return
        label = self._route.function.label
        log.warning("Slot %d of %s does not answer (%s); opening it again", slot.number, label, error)
        self._tries += 1
        if self._tries >= CONNECT_TRIES:
            self.fail(BoesError("Busy", "Timed out - server too busy", hint="the function's socket cannot be opened"))
            return
        await asyncio.sleep(0.05 * (self._tries - 1))
        try:
            await self._router.slots.open_slot(self._route.function, slot.number)
        except BoesError as reason:
            self._route.last_error = str(reason)
        if not self._over:
            self._reach(slot)
            self.flush()

    def _passed_headers(self) -> list[Header]:
        headers = [header for header in self._request.headers if header[0] not in NOT_PASSED]
        return [*headers, (b"Fn-Call-Id", self.id.encode()), (b"Fn-Deadline", rfc3339(self._deadline))]

    # --- the client's side

    def body(self, data: bytes) -> None:
        """The request's body: to the instance, or kept until there is one."""
        if self._over:
            return
        self._received += len(data)
        if self._received > self._router.max_request_size:
            limit = self._router.max_request_size
            self.fail(
                BoesError("RequestTooLarge", "Request content too large", hint=f"max-request-size is {limit} bytes")
            )
        elif self._call:
            self._call.send_body(data)
        else:
            self._early.append(data)
            if self._received > BUFFER_MAX:
                self._connection.pause()

    def end(self) -> None:
        """The request is complete."""
        self._complete = True
        if self._call and not self._over:
            self._call.end()

    def flush(self) -> None:
        """What has arrived goes to the instance, in one piece if it is small."""
        if self._call:
            self._call.flush()
            if not self._call.writable:
                self._connection.pause()

    def gone(self) -> None:
        """The client disconnected: nobody wants the answer, and the instance is ended."""
        if not self._over:
            log.info("Call %s of %s: Client cancelled context", self.id, self._route.function.label)
            self._finish()

    def resume(self) -> None:
        """The client reads again."""
        if self._call:
            self._call.unpause()

    # --- the instance's side

    def answer_begins(self, status: int, headers: list[Header], length: int) -> None:
        """The agent's or the FDK's answer; what the FDK calls a failure is reported in Fn's words."""
        self._status = status
        ours = dict(headers).get(b"boesfs-error")
        self._reason = ours.decode() if ours else {502: "FunctionFailed", 504: "Timeout"}.get(status, "")
        if status != 200 and not ours:
            self._failed_body = bytearray()
            return
        if ours and status == 502:  # it is short, and may have something to be added
            self._failed_body, self._told = bytearray(), True
            return
        self._begun = True
        passed = [
            h
            for h in headers
            if h[0] not in HOP_BY_HOP and h[0] not in (b"boesfs-error", b"fn-call-id", b"retry-after")
        ]
        passed.append((b"Fn-Call-Id", self.id.encode()))
        if ours:
            passed.append((b"Boesfs-Error", ours))
        if status == 503:
            passed.append((b"Retry-After", RETRY_AFTER))
        if ours:
            self._failed_body = bytearray()
        self._connection.start_answer(status, passed, length)

    def answer_body(self, data: bytes) -> None:
        """A piece of the answer."""
        if self._failed_body is not None:
            self._failed_body += data[: DETAIL_MAX - len(self._failed_body)]
        if self._begun:
            self._connection.send_body(data)
            if not self._connection.writable and self._call:
                self._call.pause()

    def answer_ends(self) -> None:
        """The answer is complete."""
        self._call = None
        if self._told:
            self._router.spawn(self._answer_for_the_agent(*_parts_of(bytes(self._failed_body or b""))))
            return
        if not self._begun:
            detail = bytes(self._failed_body or b"").decode(errors="replace")
            message = "Timed out" if self._status == 504 else "function failed"
            self._answer_error(self._status, self._reason, message, detail)
            return
        if self._reason:
            self._note_failure(self._reason, _message_of(bytes(self._failed_body or b"")))
        else:
            self._route.start_failed = False
        self._connection.end_answer()
        self._finish()

    async def _answer_for_the_agent(self, message: str, detail: str) -> None:
        """Its 502; of an instance that its policy ended, with what was denied and the rule."""
        if detail.startswith(KILLED) and self._slot:
            why = await self._router.why_killed(self._route, self._slot.number, self._slot.served[-1].begin)
            detail = f"{KILLED}: {why}" if why else detail
        self._answer_error(self._status, self._reason, message, detail)

    def instance_lost(self) -> None:
        """The instance ended in the middle: killed from outside, or with its agent."""
        self._call = None
        detail = "the instance ended without an answer"
        if self._begun:
            self._note_failure("FunctionFailed", detail)
            self._connection.abort()
            self._finish()
        else:
            self._answer_error(502, "FunctionFailed", "error receiving function response", detail)

    def instance_writable(self) -> None:
        """The instance reads again."""
        self._connection.unpause()

    # --- ends

    def fail(self, error: BoesError) -> None:
        """End the call with ERROR, wherever it is; an instance that serves it is ended."""
        if self._over:
            return
        if self._begun:
            self._note_failure(error.code, error.message)
            self._connection.abort()
            self._finish()
        else:
            self._answer_error(error.kind.http, error.code, error.message, error.hint)

    def _too_late(self) -> None:
        """The agent should have answered 504 by now."""
        slot, function = self._slot, self._route.function
        if slot:
            self._router.spawn(self._router.slots.end_instance(function, slot.number))
        self.fail(BoesError("Timeout", "Timed out"))

    def _answer_error(self, status: int, code: str, message: str, detail: str) -> None:
        if self._over:
            return
        self._note_failure(code, f"{message}: {detail}" if detail else message)
        headers = [JSON_HEADER, (b"Fn-Call-Id", self.id.encode()), (b"Boesfs-Error", code.encode())]
        if status == 503:
            headers.append((b"Retry-After", RETRY_AFTER))
        self._connection.answer(status, headers, error_body(message, detail))
        self._finish()

    def _note_failure(self, reason: str, message: str) -> None:
        self._route.counters.errors += 1
        self._route.last_error = message
        self._route.start_failed = reason in ("InitFailed", "InitTimeout")
        self._router.on_failure(self._route, self.id, reason, message)

    def _finish(self) -> None:
        self._over = True
        self._timer.cancel()
        if self._queue_timer:
            self._queue_timer.cancel()
        if self._waiter and not self._waiter.done():
            self._waiter.cancel()
        call, self._call = self._call, None
        if call:
            call.close()
        self._early.clear()
        self._route.calls.pop(self.id, None)
        if self._slot:
            self._slot.served[-1].end = boot_time()
            self._route.counters.running -= 1
            self._router.release(self._route, self._slot)
            self._slot = None
        self._router.on_change(self._route)


def _parts_of(body: bytes) -> tuple[str, str]:
    """Message and detail of an error answer of the agent's."""
    try:
        data = json.loads(body)
        return str(data["message"]), str(data.get("detail", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return body.decode(errors="replace"), ""


def _message_of(body: bytes) -> str:
    return ": ".join(filter(None, _parts_of(body)))
