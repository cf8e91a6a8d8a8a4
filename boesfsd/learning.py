# SPDX-License-Identifier: Apache-2.0
"""A function learns: for a while nothing is denied to it and all that its own policy would have to allow is noted; from
that comes a policy to read. When the time is over, or boesfsd ends, its policy judges again, whoever asked has gone or
not."""

import asyncio
import dataclasses
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from boesfsd.audit import Audit
from boesfsd.errors import BoesError
from boesfsd.functions import Functions
from boesfsd.model import Function, Json, PolicyBlock
from boesfsd.policies import Wanted
from boesfsd.policy import learned, operations, oracle, records, sources
from boesfsd.policy.rules import Policy
from boesfsd.policy.table import Request

if TYPE_CHECKING:
    from boesfsd.kernel import Record

log = logging.getLogger(__name__)

LONGEST = 3600  # seconds
MOST_PATHS = 200_000
NOTHING = PolicyBlock("what is learned", "default: deny\n")
OPTIONS = {"exact": bool}


@dataclass
class _Session:
    """What one function has done since TABLE judges it. SEEN: operations by path; OVER: its policy judges again."""

    function_id: str
    table: int
    wanted: Wanted
    seen: dict[tuple[bytes, ...], int] = field(default_factory=dict)
    instances: set[int] = field(default_factory=set)
    missed: int = 0
    over: bool = False
    timer: asyncio.TimerHandle | None = None


class Learning:
    """The use cases. They take turns with deploys."""

    def __init__(self, functions: Functions, audit: Audit) -> None:
        self._functions = functions
        self._audit = audit
        self._sessions: dict[str, _Session] = {}

    async def start(self, function_id: str, seconds: int) -> None:
        """For at most so many seconds. Calls that run end as they began; the next one meets a new instance."""
        if not 0 < seconds <= LONGEST:
            problem = f"A function learns for 1 to {LONGEST} seconds, not for {seconds}"
            raise BoesError("InvalidArgs", problem, hint="learn again; what is learned can be put together")
        async with self._functions.turn:
            route = self._functions.route(function_id)
            function = route.function
            if self._current(function):
                raise BoesError("Failed", f"{function.label} learns already", hint="end that with StopLearning")
            wanted = await asyncio.to_thread(self._functions.wanted, function)
            if wanted is None:
                problem = f"{function.label} has no policy that could be learned"
                hint = "learning needs enforcement = boesfs in boesfsd.conf, and no program instead of rules"
                raise BoesError("Unsupported", problem, hint=hint)
            wanted = dataclasses.replace(wanted, function=NOTHING)
            table = await asyncio.to_thread(self._functions.policies.learn, function, wanted)
            session = _Session(function_id, table, wanted)
            self._sessions[function_id] = session
            self._audit.learners[table] = lambda record: self._note(session, record)
            session.timer = asyncio.get_running_loop().call_later(seconds, self._expire, session)
            log.warning("%s learns: for %d seconds its policy denies nothing", function.label, seconds)
            await self._functions.renew(route)

    async def stop(self, function_id: str, given: Json) -> tuple[str, Json]:
        """Its policy judges again; a block that would have allowed what was seen, and how much that was. With option
        exact nothing is made general. Failed: it does not learn, or had another policy meanwhile."""
        if wrong := [key for key, value in given.items() if not isinstance(value, OPTIONS.get(key, type(None)))]:
            raise BoesError("InvalidArgs", f"{wrong[0]}: there is one option, exact, which is true or false")
        async with self._functions.turn:
            function = self._functions.route(function_id).function
            session = self._sessions.get(function_id)
            if session is None:
                raise BoesError("Failed", f"{function.label} does not learn", hint="begin with StartLearning")
            replaced = not session.over and not self._current(function)
            await self._end(session)
            del self._sessions[function_id]
        if replaced:
            problem = f"{function.label} got another policy or was deployed while it learned"
            raise BoesError("Failed", problem, hint="learn again")
        told = await asyncio.to_thread(self._proposal, function, session, exact=given.get("exact", False))
        return told, {"paths": len(session.seen), "untold": session.missed}

    async def close(self) -> None:
        """boesfsd ends."""
        async with self._functions.turn:
            for session in self._sessions.values():
                await self._end(session)

    # --- what is seen

    def _current(self, function: Function) -> bool:
        """Whether it learns at this moment."""
        session = self._sessions.get(function.id)
        return bool(session and not session.over and session.table == self._functions.policies.table_of(function))

    def _note(self, session: _Session, record: "Record") -> None:
        numbers = self._functions.policies.numbers
        session.instances.add(record.fields["instance"])
        for request in records.asked(record.fields, record.path, record.other, record.string, numbers):
            if request.path not in session.seen and len(session.seen) >= MOST_PATHS:
                session.missed += 1
                continue
            session.seen[request.path] = session.seen.get(request.path, 0) | operations.BIT[request.operation]

    def _expire(self, session: _Session) -> None:
        async def end() -> None:
            async with self._functions.turn:
                await self._end(session)

        self._functions.router.spawn(end())

    async def _end(self, session: _Session) -> None:
        """Its policy judges again, and what was told until then is noted."""
        if session.over:
            return
        session.over = True
        if session.timer:
            session.timer.cancel()
        route = self._functions.router.routes.get(session.function_id)
        if route:
            if self._functions.policies.table_of(route.function) == session.table:
                await asyncio.to_thread(self._functions.render, route.function)
            await self._functions.renew(route)
        self._functions.policies.read()
        session.missed += sum(map(self._functions.policies.untold, session.instances))
        del self._audit.learners[session.table]

    # --- what comes of it

    def _proposal(self, function: Function, session: _Session, *, exact: bool) -> str:
        wanted = session.wanted
        variables = wanted.sandbox.variables
        roots = {name: path.rstrip("/") for name, path in variables.items() if path.rstrip("/")[:1] == "/"}
        own = sources.read(function.policy, wanted.sandbox)[0].kill if function.policy else None
        found = learned.learn(session.seen, roots, exact=exact)
        told = learned.text(found, roots, kill=own)
        policy = self._compiled(wanted, told)
        denied: dict[tuple[bytes, ...], int] = {}
        for path, mask in session.seen.items():
            for name in operations.names(mask):
                if not oracle.decide(policy, Request(name, path))[0]:
                    denied[path] = denied.get(path, 0) | operations.BIT[name]
        if not denied:
            return told
        more = [one._replace(why="the app's policy denies it") for one in learned.learn(denied, roots, exact=True)]
        return learned.text([*found, *more], roots, kill=own)

    @staticmethod
    def _compiled(wanted: Wanted, told: str) -> Policy:
        proposed = dataclasses.replace(wanted, function=PolicyBlock("the proposal", told))
        return proposed.compile().policy
