# SPDX-License-Identifier: Apache-2.0
"""What policies denied, and what a rule wants to be told of: from the kernel's records to entries of the journal under
the instance's unit, with rule and call; a signal, and a counter.

Records that are alike are told once and then counted, a second at a time. What the kernel could not tell is said.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from boesfsd import host, units
from boesfsd.errors import BoesError
from boesfsd.functions import Functions
from boesfsd.invoke import Route
from boesfsd.journal import Journal
from boesfsd.model import DENIAL, Function
from boesfsd.policies import InForce
from boesfsd.policy import oracle, questions, records
from boesfsd.policy.rules import Rule
from boesfsd.policy.table import Request

if TYPE_CHECKING:
    from boesfsd.kernel import Record

log = logging.getLogger(__name__)

WINDOW = 1.0  # seconds in which what is alike is counted
SIGNALS = 20  # a second, of all functions
KNOWN_INSTANCES = 10_000
WINDOWS = 100  # of one instance, at a time
MOST_WAITING = 20_000  # records
PATIENCE, STEP = 0.5, 0.02  # seconds for which a call waits to be told that
ALIKE = ("instance", "op", "access", "rule", "table", "killed", "verdict")
NOTICE, WARNING = 5, 4


@dataclass(frozen=True, slots=True)
class Told:
    """One entry: what was asked (as `boesfsctl policy decide` takes it), who says what to it, how often."""

    route: Route
    unit: str
    call_id: str
    request: Request
    denied: bool
    killed: bool
    rule: str
    count: int
    record: "Record"

    @property
    def message(self) -> str:
        """In a line."""
        verb = "Denied" if self.denied else "Allowed"
        times = f", {self.count} times" if self.count > 1 else ""
        end = "; the instance is ended" if self.killed else ""
        who = f"{records.one_line(self.record.comm)} (pid {self.record.fields['pid']})"
        return f"{verb} {records.written(self.request)} to {who}{times}: {self.rule}{end}"

    def original(self, program: str) -> bytes:
        """As BoesFS-FaaS logs it, of whoever PROGRAM is; what that has no name for is called as here."""
        return records.original(self.request, program, denied=self.denied)

    def fields(self) -> dict[str, object]:
        """For the journal."""
        function, said = self.route.function, self.record.fields
        entry: dict[str, object] = {
            "MESSAGE": self.message,
            "MESSAGE_ID": DENIAL,
            "PRIORITY": WARNING if self.killed else NOTICE,
            "SYSLOG_IDENTIFIER": function.label,
            "BOESFS_APP": function.app.name,
            "BOESFS_FUNCTION": function.name,
            "BOESFS_FUNCTION_ID": function.id,
            "BOESFS_VERDICT": "denied" if self.denied else "allowed",
            "BOESFS_OPERATION": self.request.operation,
            "BOESFS_PATH": b"/" + b"/".join(self.request.path),
            "BOESFS_PLACE": records.place(self.request.path),
            "BOESFS_QUESTION": records.written(self.request),
            "BOESFS_RULE": self.rule,
            "BOESFS_COUNT": self.count,
            "BOESFS_KILLED": int(self.killed),
            "BOESFS_PROGRAM": records.one_line(self.record.comm),
            "BOESFS_PID": said["pid"],
            "BOESFS_UID": said["uid"],
            "BOESFS_INSTANCE": said["instance"],
        }
        if self.unit:
            entry["OBJECT_SYSTEMD_UNIT"] = self.unit  # journalctl -u shows it, since it comes from root
        if self.call_id:
            entry["BOESFS_CALL_ID"] = self.call_id
        return entry


class Commands(Protocol):
    """Those that are judged and are no functions."""

    routes: dict[str, Route]

    def in_force(self, function: Function, table: int) -> InForce | None:
        """As Functions.in_force."""

    def told(self, told: Told) -> None:
        """Told is what the journal has been told too."""


@dataclass
class _Window:
    """What is alike, since it was told first."""

    first: Told
    instance: "_Instance"
    more: int = 0
    last: "Record | None" = None


@dataclass
class _Instance:
    """One that told something, and its number of WINDOWS. CROWDED: records for which those were too many; UNTOLD: by
    the kernel, as far as it was said."""

    unit: str = ""
    slot: int = 0
    windows: int = 0
    crowded: int = 0
    untold: int = 0
    ended: bool = False


class Audit:
    """Reads the kernel's records. ON_TOLD is given what is worth a signal, at most so many a second."""

    def __init__(self, functions: Functions, commands: Commands, journal: Journal) -> None:
        self.on_told: Callable[[Told], None] = lambda told: None
        self.learners: dict[tuple[int, int], Callable[[Record], None]] = {}
        """Who is given what a table would deny, by policy and table, instead of the journal."""
        self._functions = functions
        self._commands = commands
        self._journal = journal
        self._descriptor: int | None = None
        self._arrived: list[Record] = []
        self._working = False
        self._windows: dict[object, _Window] = {}
        self._instances: dict[int, _Instance] = {}
        self._routes: dict[int, Route] = {}
        self._killed: dict[tuple[str, int], tuple[int, str]] = {}
        self._second, self._signals, self._dropped = 0.0, 0, 0
        functions.on_instance = self._instance_runs
        functions.router.why_killed = self.why_killed

    def attach(self) -> None:
        """Begin to read; again, after the settings have changed."""
        self.detach()
        self._descriptor = self._functions.policies.listen(self._hear)
        if self._descriptor is not None:
            asyncio.get_running_loop().add_reader(self._descriptor, self.read)

    def detach(self) -> None:
        """Stop to read, and tell what has not been told."""
        for key in list(self._windows):
            self._close(key)
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        self._descriptor = None

    def _hear(self, record: "Record") -> None:
        said = record.fields
        learner = self.learners.get((said["policy_id"], said["table"]))
        if learner and said["verdict"]:
            learner(record)
        elif len(self._arrived) < MOST_WAITING:
            self._arrived.append(record)
        else:
            self._dropped += 1

    def read(self, *, all_there_is: bool = False) -> None:
        """Take some of what the kernel has told; if there is more, the descriptor stays readable."""
        while self._functions.policies.read() and all_there_is:
            pass
        if self._arrived and not self._working:
            self._working = True
            self._functions.router.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._arrived:
                batch = self._arrived[:]
                self._arrived.clear()
                for record in batch:
                    try:
                        await self._take(record)
                    except Exception:  # one record is not all
                        log.exception("A record of policy %d cannot be told", record.fields["policy_id"])
                if self._dropped:
                    log.warning("%d denials were not told: there were too many at once", self._dropped)
                    self._dropped = 0
        finally:
            self._working = False

    # --- whose it is

    def _route(self, policy: int) -> Route | None:
        found = self._routes.get(policy)
        if found is None or self._present(found.function.id) is not found:
            routes = (*self._functions.router.routes.values(), *self._commands.routes.values())
            self._routes = {route.function.uid: route for route in routes}
            found = self._routes.get(policy)
        return found

    def _present(self, function_id: str) -> Route | None:
        return self._functions.router.routes.get(function_id) or self._commands.routes.get(function_id)

    def _instance_runs(self, unit: str, slot: int) -> None:
        """A unit of ours has begun to run: its records are to be known even if it is gone when they are read."""
        if text := host.invocation(unit):
            self._know(_number(text), unit, slot)

    def _know(self, instance: int, unit: str = "", slot: int = 0) -> _Instance:
        known = self._instances.setdefault(instance, _Instance())
        known.unit, known.slot = unit, slot
        while len(self._instances) > KNOWN_INSTANCES:
            del self._instances[next(iter(self._instances))]
        return known

    def _instance(self, route: Route, number: int) -> _Instance:
        known = self._instances.get(number)
        if known and known.unit:
            return known
        for slot in route.open:
            unit = units.service_unit(route.function.id, slot)
            text = host.invocation(unit)
            if text and _number(text) == number:
                return self._know(number, unit, slot)
        return known or self._know(number)

    # --- what it is

    async def _take(self, record: "Record") -> None:
        route = self._route(record.fields["policy_id"])
        if route is None:
            log.debug("A record of policy %d, which no function has any longer", record.fields["policy_id"])
            return
        # what is alike is not looked at again: a flood of denials costs a dictionary
        said = record.fields
        key = (*(said[name] for name in ALIKE), record.comm, record.path, record.other, record.string)
        if window := self._windows.get(key):
            window.more += 1
            window.last = record
            self._count(route, said["verdict"] != 0)
            return
        instance = self._instance(route, said["instance"])
        if instance.windows >= WINDOWS and not said["killed"]:
            instance.crowded += 1
            self._count(route, said["verdict"] != 0)
            return
        instance.windows += 1
        told = await self._describe(route, record)
        self._windows[key] = _Window(told, instance)
        asyncio.get_running_loop().call_later(WINDOW, self._close, key)
        self._count(route, told.denied)
        self._tell(told)

    def _count(self, route: Route, denials: int) -> None:
        route.counters.denials += denials
        self._functions.router.on_change(route)

    async def _describe(self, route: Route, record: "Record") -> Told:
        said = record.fields
        instance = self._instance(route, said["instance"])
        slot = route.open.get(instance.slot) if instance.unit else None
        call_id = slot.call_at(said["time"]) if slot else ""
        asked = records.asked(said, record.path, record.other, record.string, self._functions.policies.numbers)
        request, rule = await asyncio.to_thread(self._ask, route, asked, record)
        return Told(route, instance.unit, call_id, request, said["verdict"] != 0, bool(said["killed"]), rule, 1, record)

    def _ask(self, route: Route, asked: list[Request], record: "Record") -> tuple[Request, str]:
        """In a thread: a long policy may have to be compiled again."""
        try:
            whose = self._commands if route.function.id in self._commands.routes else self._functions
            if force := whose.in_force(route.function, record.fields["table"]):
                return self._decided(force, asked, record)
        except BoesError as error:
            log.warning("The policy of %s cannot be read: %s", route.function.label, error)
        return asked[0], "a policy that is no longer in force"

    @staticmethod
    def _decided(force: InForce, asked: list[Request], record: "Record") -> tuple[Request, str]:
        """Which of the questions the record is about, and the rule that says so."""
        said, allowed = record.fields, record.fields["verdict"] == 0
        caller = (said["program_ino"], said["program_dev"], said["program_generation"])
        programs = next((paths for program, paths in force.programs.items() if program == caller), frozenset())
        first: tuple[Request, str] | None = None
        for request in asked:
            whole = request._replace(programs=programs)
            verdict, rule = oracle.decide(force.compiled.policy, whole)
            told = (whole, _spelled(rule, verdict, whole, force.compiled.policy.default))
            if verdict == allowed and (not allowed or (rule and rule.verdict.audit)):
                return told
            first = first or told
        assert first
        return first

    # --- telling

    async def why_killed(self, route: Route, slot: int, since: int) -> str:
        """Why a policy has ended the instance in a slot after SINCE (boot_time), in a line; "" if nobody knows soon."""
        for _ in range(int(PATIENCE / STEP)):
            when, text = self._killed.get((route.function.id, slot), (0, ""))
            if when >= since:
                return text
            await asyncio.sleep(STEP)
        return ""

    def _tell(self, told: Told) -> None:
        self._journal.write(told.fields())
        self._commands.told(told)
        said = told.record.fields
        instance = self._instances.get(said["instance"])
        if told.killed and instance and instance.unit and not instance.ended:
            instance.ended = True  # what comes after is not why
            self._killed[told.route.function.id, instance.slot] = (said["time"], told.message)
        now = time.monotonic()
        if now - self._second >= 1:
            self._second, self._signals = now, 0
        self._signals += 1
        if self._signals <= SIGNALS:
            self.on_told(told)

    def _close(self, key: object) -> None:
        """A window is over: what came in it besides is told as one."""
        window = self._windows.pop(key, None)
        if window is None:
            return
        if window.more and window.last:
            self._tell(dataclasses.replace(window.first, count=window.more, record=window.last))
        window.instance.windows -= 1
        self._say_untold(window.first, window.instance)

    def _say_untold(self, told: Told, instance: _Instance) -> None:
        untold = self._functions.policies.untold(told.record.fields["instance"])
        more = max(untold - instance.untold, 0) + instance.crowded
        if not more:
            return
        instance.untold, instance.crowded = max(untold, instance.untold), 0
        message = f"{more} more operations are not told one by one: there were too many at once"
        self._journal.write({**told.fields(), "MESSAGE": message, "BOESFS_COUNT": more, "BOESFS_QUESTION": ""})


def _number(invocation: str) -> int:
    """What the agent makes of systemd's id for the instance (agent/sandbox.c)."""
    return int(invocation[:16], 16) or 1


def _spelled(rule: Rule | None, allowed: bool, request: Request, default: int) -> str:  # noqa: FBT001
    told = questions.reason(rule, way=questions.is_way(default, request, rule, allowed=allowed))
    return records.one_line(told.encode("utf-8", "surrogateescape"))
