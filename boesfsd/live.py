# SPDX-License-Identifier: Apache-2.0
"""Policies while functions run: what judges now, what another policy would change, and another one from one moment to
the next, for a function or for all of an app. What may be refused is refused first, for each function that it is about;
then the store changes, then the kernel's tables."""

import asyncio
import dataclasses
import itertools
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from boesfsd.changes import warnings
from boesfsd.errors import BoesError
from boesfsd.functions import Functions
from boesfsd.manifest import POLICY_MAX
from boesfsd.model import App, Change, Function, Json, PolicyFiles, PolicySource
from boesfsd.policies import InForce
from boesfsd.policy import listing, questions, sources
from boesfsd.policy.questions import Answer
from boesfsd.policy.table import TooLargeError
from boesfsd.store import now_ms

MOST_ROWS, MOST_TEXT = 10_000, 4 << 20
ATTEMPTS = 5
ASK_ONE = "ask about single paths with boesfsctl policy test"
NO_RULES = "they need enforcement = boesfs in boesfsd.conf, and no program instead of them"
WRITTEN = {"file": str, "model": str, "model-file": str}
SETTING = {"dry-run": bool, "strict": bool, **WRITTEN}
COMPARING = {"app": bool, **WRITTEN}


class Live:
    """The use cases about policies. They take turns with deploys."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    # --- what judges

    async def about(self, function: Function) -> tuple[str, str, Json]:
        """The function's own policy and its app's as they were written, and what came of them; "" is none."""
        force = await asyncio.to_thread(self._functions.now_in_force, function)
        numbers = _numbers(force)
        if function.program:
            numbers = {"program": function.program}
        elif self._is_kept_without(function):
            numbers = {"kept-by": "landlock"}
        elif force is None and self._functions.policies.learns(function):
            numbers = {"learns": 1}
        elif force is None and (table := self._functions.policies.table_of(function)):
            numbers = {"table": table}
        return _written(function.policy), _written(function.app.policy), numbers

    def _is_kept_without(self, function: Function) -> bool:
        return self._functions.policies.enforcement != "boesfs" and bool(function.policy or function.app.policy)

    async def table(self, function: Function) -> list[list[Any]]:
        """What judges the function, by states: number, place, what is allowed, conditions. Unsupported: nothing."""
        async with self._functions.asked:
            return await asyncio.to_thread(self._table, function)

    def _table(self, function: Function) -> list[list[Any]]:
        rows = _bounded(lambda: listing.rows(self._force(function).compiled))
        return [[row.state, row.place, listing.spell(row.allowed), list(row.conditions)] for row in rows]

    async def decide(self, function: Function, operation: str, path: str, words: list[str], given: Json) -> Answer:
        """What is decided about a question as of `policy decide`, by the rules and by the table in the kernel. Options:
        program, a path of the sandbox, and uid, if not the function's. InvalidArgs, Unsupported; Failed: they do not
        agree, which is a fault of boesfsd's."""
        check_options(given, {"program": str, "uid": int})
        program, uid = given.get("program", ""), given.get("uid", function.uid)
        async with self._functions.asked:
            return await asyncio.to_thread(self._decide, function, (operation, path, words), program, uid)

    def _decide(self, function: Function, question: tuple[str, str, list[str]], program: str, uid: int) -> Answer:
        for _ in range(ATTEMPTS):
            force, policies = self._force(function), self._functions.policies
            programs = policies.programs(force, questions.path(program)) if program else frozenset()
            asked = questions.parse(*question, programs, uid)
            answer = questions.decide(force.compiled, asked)
            try:
                loaded = policies.allows(function, force, asked)
            except (KeyError, IndexError, ValueError, struct.error) as error:
                raise BoesError("Failed", f"Table {force.table} in the kernel: {error}", hint="report this") from error
            if loaded == answer.allowed:
                return answer
            if loaded is not None:
                problem = f"The rules say {answer.allowed}, table {force.table} in the kernel says {loaded}"
                raise BoesError("Failed", problem, hint="report this")
        raise BoesError("Failed", "The policy was replaced again and again", hint="ask again")

    def _force(self, function: Function) -> InForce:
        policies = self._functions.policies
        if policies.fault:
            raise policies.fault
        force = self._functions.now_in_force(function)
        if self._is_kept_without(function):
            problem = f"The policy of {function.label} is kept by mounts and Landlock: there is no table to ask"
            raise BoesError("Unsupported", problem, hint="boesfsctl policy verify --landlock, or decide")
        if force is None and policies.learns(function):
            problem = f"{function.label} learns, and is denied nothing"
            raise BoesError("Failed", problem, hint="that ends with boesfsctl learn, or when its time is over")
        if force is None:
            if table := policies.table_of(function):
                problem = f"Table {table} judges {function.label}, which is of a text that is not there any longer"
                raise BoesError("Failed", problem, hint="systemctl reload boesfsd")
            raise BoesError("Unsupported", f"No rules judge {function.label}", hint=NO_RULES)
        return force

    async def compare(self, function_id: str, text: str, given: Json) -> list[listing.Difference]:
        """What another policy would change for a function; option app: another policy of its app."""
        policy = read_policy(text, given, COMPARING)
        old = self._functions.route(function_id).function
        if given.get("app", False):
            new = dataclasses.replace(old, app=dataclasses.replace(old.app, policy=policy))
        else:
            new = dataclasses.replace(old, policy=policy)
        async with self._functions.asked:
            return await asyncio.to_thread(self._compare, old, new)

    def _compare(self, old: Function, new: Function) -> list[listing.Difference]:
        before, after = (self._functions.compile(function) for function in (old, new))
        if before is None or after is None:
            raise BoesError("Unsupported", "There are no rules to compare", hint=NO_RULES)
        return _bounded(lambda: listing.differences(before, after))

    @staticmethod
    def of_app(app: App) -> str:
        """The app's policy as it was written."""
        return _written(app.policy)

    # --- another one

    async def set_function(self, function_id: str, text: str, given: Json) -> list[Change]:
        """TEXT, a block or with option model the original's policy, judges the function's files from now on, for
        instances that run too; "" is none."""
        policy = read_policy(text, given, SETTING)
        async with self._functions.turn:
            existing = self._functions.route(function_id).function
            function = dataclasses.replace(existing, policy=policy, updated_at=now_ms())
            _check_program(existing, function)
            changes = await self._check([function], given)
            if policy != existing.policy:
                changes.insert(0, ("update", "policy", function.label))
            if not given.get("dry-run", False):
                await self._keep(function, existing)
        return changes

    async def set_app(self, name: str, text: str, given: Json) -> list[Change]:
        """As set_function, for all functions of an app, and those to come."""
        policy = read_policy(text, given, SETTING)
        async with self._functions.turn:
            existing = self._functions.app(name)
            app = dataclasses.replace(existing, policy=policy, updated_at=now_ms())
            functions = [dataclasses.replace(f, app=app) for f in self._functions.of_app(existing)]
            for function in functions:
                _check_program(dataclasses.replace(function, app=existing), function)
            if not functions:
                await asyncio.to_thread(self._functions.policies.check_alone, policy)
            changes = await self._check(functions, given)
            if policy != existing.policy:
                changes.insert(0, ("update", "policy", app.name))
            if not given.get("dry-run", False):
                await self._keep_app(app, existing, functions)
        return changes

    async def _keep(self, function: Function, existing: Function) -> None:
        """Instead of EXISTING; instances run on. Back to that if it cannot be done."""
        await self._functions.store.put_function(function)
        try:
            await asyncio.to_thread(self._functions.render, function)
        except BaseException:
            await self._functions.store.put_function(existing)
            await asyncio.to_thread(self._functions.render, existing)
            raise
        await self._changed(function)

    async def _keep_app(self, app: App, existing: App, functions: list[Function]) -> None:
        await self._functions.store.put_app_policy(app)
        try:
            for function in functions:
                await asyncio.to_thread(self._functions.render, function)
        except BaseException:
            await self._functions.store.put_app_policy(existing)
            for function in functions:
                await asyncio.to_thread(self._functions.render, dataclasses.replace(function, app=existing))
            raise
        self._functions.apps[app.name] = app
        for function in functions:
            await self._changed(function)

    async def _changed(self, function: Function) -> None:
        route = self._functions.router.put(function, set())
        if self._functions.policies.enforcement != "boesfs":  # what a sandbox has is told when it is made
            await self._functions.renew(route)
        self._functions.on_function(function, "policy")

    async def _check(self, functions: Iterable[Function], given: Json) -> list[Change]:
        found: dict[Change, None] = {}
        for function in functions:
            compiled = await asyncio.to_thread(self._functions.compile, function)
            told = warnings(compiled)
            if told and given.get("strict", False):
                raise BoesError("InvalidPolicy", told[0][2])
            found.update(dict.fromkeys(told))
        return list(found)


Row = TypeVar("Row")


def _bounded(rows: Callable[[], Iterable[Row]]) -> list[Row]:
    """What can be told on the bus while others wait. Unsupported: it is too much."""
    found, size = [], 0
    try:
        for row in itertools.islice(rows(), MOST_ROWS + 1):
            found.append(row)
            size += len(str(row))
            if size > MOST_TEXT:
                raise TooLargeError(f"over {MOST_TEXT >> 20} MiB of text")
    except TooLargeError as error:
        raise BoesError("Unsupported", f"This cannot be told: {error}", hint=ASK_ONE) from error
    if len(found) > MOST_ROWS:
        raise BoesError("Unsupported", f"This cannot be told: there are over {MOST_ROWS} lines of it", hint=ASK_ONE)
    return found


def _check_program(existing: Function, function: Function) -> None:
    if existing.program != function.program:
        problem = f"{function.label}: instances that run stay with the program that they began with"
        raise BoesError("Unsupported", problem, hint="deploy the function with this policy")


def check_options(given: Json, known: Mapping[str, type]) -> None:
    """InvalidArgs names the option that there is not, or that is of another kind."""
    if unknown := sorted(given.keys() - known.keys()):
        raise BoesError("InvalidArgs", f"unknown key {', '.join(unknown)}", hint=f"known are {', '.join(known)}")
    kinds = {bool: "a boolean", str: "a string", int: "a whole number", float: "a number"}
    if wrong := [key for key, value in given.items() if not _is(value, known[key])]:
        raise BoesError("InvalidArgs", f"{wrong[0]}: must be {kinds[known[wrong[0]]]}")


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float):
        number = isinstance(value, int) or (kind is float and isinstance(value, float))
        return number and not isinstance(value, bool) and value >= 0
    return isinstance(value, kind)


def read_policy(text: str, given: Json, known: Mapping[str, type]) -> PolicySource | None:
    """The policy TEXT, which GIVEN says more about; None: it is empty. InvalidArgs, InvalidPolicy."""
    check_options(given, known)
    file, model = given.get("file", "the policy"), given.get("model", "")
    if len(text) + len(model) > POLICY_MAX:
        raise BoesError("InvalidPolicy", f"{file} is over {POLICY_MAX >> 20} MiB")
    if "model" in given:
        return PolicyFiles(given.get("model-file", "the model"), model, file, text)
    if not text and given.keys() & WRITTEN.keys():
        raise BoesError("InvalidPolicy", f"{file} is empty", hint="to have no policy, name no file")
    return sources.open_block(text, file) if text else None


def _written(policy: PolicySource | None) -> str:
    return sources.written(policy) if policy else ""


def _numbers(force: InForce | None) -> Json:
    if force is None:
        return {}
    table = force.compiled.table
    return {
        "table": force.table,
        "rules": len(force.compiled.policy.rules),
        "states": len(table.states),
        "names": len(table.edges),
        "bytes": force.size,
        "warnings": len(force.compiled.findings),
    }
