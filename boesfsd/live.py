# SPDX-License-Identifier: Apache-2.0
"""Policies while functions run: what judges now, and another policy from one moment to the next, for a function or for
all of an app. What may be refused is refused first, for each function that it is about; then the store changes, then
the kernel's tables."""

import asyncio
import dataclasses
from collections.abc import Iterable

from boesfsd.errors import BoesError
from boesfsd.functions import Functions, warnings
from boesfsd.model import App, Change, Function, Json, PolicySource
from boesfsd.policies import InForce
from boesfsd.policy import sources
from boesfsd.store import now_ms

OPTIONS = ("dry-run", "strict")


class Live:
    """The use cases about policies. They take turns with deploys."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    # --- what judges

    async def about(self, function: Function) -> tuple[str, str, Json]:
        """The function's own policy and its app's as they were written, and what came of them; "" is none."""
        force = await asyncio.to_thread(self._functions.now_in_force, function)
        return _written(function.policy), _written(function.app.policy), _numbers(force)

    @staticmethod
    def of_app(app: App) -> str:
        """The app's policy as it was written."""
        return _written(app.policy)

    # --- another one

    async def set_function(self, function_id: str, text: str, given: Json) -> list[Change]:
        """TEXT, a block in YAML, judges the function's files from now on, for instances that run too; "" is none."""
        policy = _read(text, given)
        async with self._functions.turn:
            existing = self._functions.route(function_id).function
            function = dataclasses.replace(existing, policy=policy, updated_at=now_ms())
            changes = await self._check([function], given)
            if policy != existing.policy:
                changes.insert(0, ("update", "policy", function.label))
            if not given.get("dry-run", False):
                await self._keep(function, existing)
        return changes

    async def set_app(self, name: str, text: str, given: Json) -> list[Change]:
        """As set_function, for all functions of an app, and those to come."""
        policy = _read(text, given)
        async with self._functions.turn:
            existing = self._functions.app(name)
            app = dataclasses.replace(existing, policy=policy, updated_at=now_ms())
            functions = [dataclasses.replace(f, app=app) for f in self._functions.of_app(existing)]
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
        self._changed(function)

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
            self._changed(function)

    def _changed(self, function: Function) -> None:
        self._functions.router.put(function, set())
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


def _read(text: str, given: Json) -> PolicySource | None:
    if unknown := sorted(given.keys() - set(OPTIONS)):
        raise BoesError("InvalidArgs", f"unknown key {', '.join(unknown)}", hint=f"known are {', '.join(OPTIONS)}")
    if wrong := [key for key, value in given.items() if not isinstance(value, bool)]:
        raise BoesError("InvalidArgs", f"{wrong[0]}: must be a boolean")
    return sources.open_block(text, "the policy") if text else None


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
