# SPDX-License-Identifier: Apache-2.0
"""A function learns: for a while nothing is denied to it and all that its own policy would have to allow is noted; from
that comes a policy to read.

That it ends is not left to anybody's good will: the table in the kernel knows until when, and denies after that what no
rule of the app allows. When the time is over, when who asked says so, and before boesfsd ends or takes other settings,
the function's policy judges again.
"""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from boesfsd import calls
from boesfsd.audit import Audit
from boesfsd.errors import BoesError
from boesfsd.functions import Functions
from boesfsd.live import check_options
from boesfsd.model import LONGEST_LEARNING, Function, Json, PolicyBlock
from boesfsd.policies import Wanted
from boesfsd.policy import learned, operations, records, sources
from boesfsd.policy.compiler import compile_policy
from boesfsd.policy.table import Request, Table

if TYPE_CHECKING:
    from boesfsd.kernel import Record

log = logging.getLogger(__name__)

MOST_PATHS, MOST_BYTES, DEEPEST = 200_000, 64 << 20, 200
KEPT = 600  # seconds for which what was noted can be asked for, after the time is over
NOTHING = PolicyBlock("what is learned", "default: deny\n")
START_OPTIONS = {"system-calls": bool}
OPTIONS = {"exact": bool, "discard": bool}
DENIED_BY_APP = "the app's policy denies it"
OVER, REPLACED, RELOADED = (
    "over",
    "got another policy, was deployed or removed",
    "could not go on: boesfsd was reloaded",
)
Seen = dict[tuple[bytes, ...], int]


@dataclass
class _Session:
    """What one function has done since TABLE judges it. SEEN: operations by path; ENDED: why its policy judges again,
    "" as long as it does not; BEFORE: operations of an instance that were untold when it was first heard of."""

    number: int
    function_id: str
    uid: int
    table: int
    wanted: Wanted
    seen: Seen = field(default_factory=dict)
    size: int = 0
    before: dict[int, int] = field(default_factory=dict)
    missed: int = 0
    traced: bool = False
    calls: list[str] = field(default_factory=list)
    ended: str = ""
    timer: asyncio.TimerHandle | None = None


class Learning:
    """The use cases. They take turns with deploys."""

    def __init__(self, functions: Functions, audit: Audit) -> None:
        self._functions = functions
        self._audit = audit
        self._sessions: dict[int, _Session] = {}
        self._closed = False

    async def start(self, function_id: str, seconds: int, given: Json) -> int:
        """For at most so many seconds; a number, for stop. Calls that run end as they began; the next one meets a new
        instance. Option: system-calls, it is noted which are made, too; they are slower then."""
        check_options(given, START_OPTIONS)
        if not 0 < seconds <= LONGEST_LEARNING:
            problem = f"A function learns for 1 to {LONGEST_LEARNING} seconds, not for {seconds}"
            raise BoesError("InvalidArgs", problem, hint="learn again; what is learned can be put together")
        async with self._functions.turn:
            route = self._functions.route(function_id)
            function, policies = route.function, self._functions.policies
            if self._closed:
                raise BoesError("Failed", "boesfsd ends")
            if any(self._judges(session) for session in self._sessions.values() if session.uid == function.uid):
                hint = "it ends with boesfsctl learn that began it, or when its time is over"
                raise BoesError("Busy", f"{function.label} learns already", hint=hint)
            wanted = await asyncio.to_thread(self._functions.wanted, function)
            if wanted is None or policies.enforcement != "boesfs":
                problem = f"{function.label} has no policy that could be learned"
                hint = "learning needs enforcement = boesfs in boesfsd.conf, and no program instead of rules"
                raise BoesError("Unsupported", problem, hint=hint)
            wanted = dataclasses.replace(wanted, function=NOTHING)
            for session in [session for session in self._sessions.values() if session.uid == function.uid]:
                await self._end(session, REPLACED)
            traced = given.get("system-calls", False)
            try:
                if traced:
                    calls.begin(function_id)
                    until = int(time.clock_gettime(time.CLOCK_BOOTTIME)) + seconds
                    await asyncio.to_thread(self._functions.render, function, traced=until)
                table = await asyncio.to_thread(policies.learn, function, wanted, seconds)
            except BaseException:
                if traced:
                    calls.forget(function_id)
                    with contextlib.suppress(BoesError):  # then its plan asks for notes that nobody takes
                        await asyncio.to_thread(self._functions.render, function)
                raise
            session = _Session(secrets.randbits(32), function_id, function.uid, table, wanted, traced=traced)
            self._sessions[session.number] = session
            self._audit.learners[function.uid, table] = lambda record: self._note(session, record)
            session.timer = asyncio.get_running_loop().call_later(seconds, self._expire, session)
            log.warning("%s learns: for %d seconds its policy denies nothing", function.label, seconds)
            try:
                await self._functions.renew(route)
            except BaseException:
                await self._end(session, OVER)
                del self._sessions[session.number]
                raise
        return session.number

    async def stop(self, function_id: str, number: int, given: Json) -> tuple[str, Json]:
        """Its policy judges again; a block that would have allowed what was seen, and how much that was. Options:
        exact, nothing is made general; discard, there is no block. Failed: it does not learn, or had another policy
        meanwhile."""
        check_options(given, OPTIONS)
        async with self._functions.turn:
            function = self._functions.route(function_id).function
            session = self._sessions.get(number)
            if session is None or session.function_id != function_id:
                problem = f"{function.label} does not learn, not under this number"
                raise BoesError("Failed", problem, hint="begin with StartLearning")
            early = session.ended == OVER
            await self._end(session, OVER)
        if given.get("discard", False) or session.ended != OVER:
            del self._sessions[number]
        if session.ended != OVER:
            raise BoesError("Failed", f"{function.label} {session.ended} while it learned", hint="learn again")
        if given.get("discard", False):
            return "", {}
        async with self._functions.asked:
            exact = given.get("exact", False)
            told, denied = await asyncio.to_thread(self._proposal, function, session, exact=exact)
        self._sessions.pop(number, None)
        numbers: Json = {"paths": len(session.seen), "untold": session.missed, "denied": denied, "early": int(early)}
        if session.traced:
            numbers["system-calls"] = session.calls
        return told, numbers

    async def end_all(self, why: str = RELOADED) -> None:
        """Before other settings are taken."""
        async with self._functions.turn:
            for session in list(self._sessions.values()):
                try:
                    await self._end(session, why)
                except Exception:  # the others are to end too
                    log.exception("The policy of a function that learned does not judge again")

    async def close(self) -> None:
        """boesfsd ends."""
        self._closed = True
        await self.end_all()

    # --- what is seen

    def _judges(self, session: _Session) -> bool:
        """Whether its table is what judges."""
        route = self._functions.router.routes.get(session.function_id)
        return bool(route and not session.ended and self._functions.policies.table_of(route.function) == session.table)

    def _note(self, session: _Session, record: "Record") -> None:
        numbers = self._functions.policies.numbers
        session.before.setdefault(record.fields["instance"], record.fields["untold"])
        for request in records.asked(record.fields, record.path, record.other, record.string, numbers):
            path = request.path
            if path not in session.seen:
                size = session.size + sum(map(len, path)) + 100 * len(path)
                if not record.path or len(path) > DEEPEST or size > MOST_BYTES or len(session.seen) >= MOST_PATHS:
                    session.missed += 1
                    continue
                session.size = size
            session.seen[path] = session.seen.get(path, 0) | operations.BIT[request.operation]

    def _expire(self, session: _Session) -> None:
        async def end() -> None:
            async with self._functions.turn:
                await self._end(session, OVER)
            asyncio.get_running_loop().call_later(KEPT, self._sessions.pop, session.number, None)

        self._functions.router.spawn(end())

    async def _end(self, session: _Session, why: str) -> None:
        """Its policy judges again, and what was told until then is noted. If that cannot be, everything is denied that
        its app's policy does not allow."""
        if session.ended:
            return
        policies, route = self._functions.policies, self._functions.router.routes.get(session.function_id)
        judges = self._judges(session)
        session.ended = why if judges else REPLACED
        if session.timer:
            session.timer.cancel()
        try:
            if judges and route:
                await asyncio.to_thread(self._functions.render, route.function)
        finally:
            if session.traced:
                session.calls = calls.forget(session.function_id)
            policies.unlearn(session.uid, session.table)
            self._audit.read(all_there_is=True)
            for instance, before in session.before.items():
                session.missed += max(policies.untold(instance) - before, 0)
            self._audit.learners.pop((session.uid, session.table), None)
            log.info("The function of uid %d learns no longer (%s)", session.uid, session.ended)
        if route and (judges or session.traced):
            await self._functions.renew(route)

    # --- what comes of it

    def _proposal(self, function: Function, session: _Session, *, exact: bool) -> tuple[str, int]:
        """The block, and how many of the paths it does not allow all the same."""
        wanted, variables = session.wanted, session.wanted.sandbox.variables
        roots = {name: path for name, path in variables.items() if len(path) > 1 and path[0] == "/" != path[-1]}
        own = sources.read(function.policy, wanted.sandbox)[0].kill if function.policy else None
        only_app = dataclasses.replace(wanted.compile().policy, default=operations.ALL)
        kept = _denied(session.seen, compile_policy(only_app))
        found = learned.learn(session.seen, roots, exact=exact, kept=dict.fromkeys(kept, DENIED_BY_APP))
        told = learned.text(found, roots, kill=own, exact=exact)
        more = _denied(session.seen, self._table(wanted, told))
        if more:
            found += learned.learn(more, roots, exact=True, kept=dict.fromkeys(more, DENIED_BY_APP))
            told = learned.text(found, roots, kill=own, exact=exact)
            more = _denied(session.seen, self._table(wanted, told))
        return told, len(more)

    @staticmethod
    def _table(wanted: Wanted, told: str) -> Table:
        return dataclasses.replace(wanted, function=PolicyBlock("the proposal", told)).compile().table


def _denied(seen: Seen, table: Table) -> Seen:
    """What of SEEN the table denies."""
    denied: Seen = {}
    for path, mask in seen.items():
        for name in operations.names(mask):
            if not table.decide(Request(name, path))[0]:
                denied[path] = denied.get(path, 0) | operations.BIT[name]
    return denied
