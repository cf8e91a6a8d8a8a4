# SPDX-License-Identifier: Apache-2.0
"""The D-Bus edge: Manager, App and Function objects over the use cases. Nothing is decided here."""

import asyncio
import dataclasses
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from boesfsd import __version__, options, units
from boesfsd.audit import Told
from boesfsd.bus.connection import NAME, ROOT, Exported, Service, Variant
from boesfsd.errors import BoesError
from boesfsd.functions import Functions
from boesfsd.invoke import Route
from boesfsd.learning import Learning
from boesfsd.live import Live
from boesfsd.model import App, Change, Function, Json, Ports
from boesfsd.policy import questions, records
from boesfsd.runs import Runs

COALESCE = 0.5  # seconds between two PropertiesChanged of one function
VARYING = ["State", "NCalls", "NErrors", "NRunning", "NQueued", "NDenials", "LastCallTimestamp", "LastError"]


def app_path(name: str) -> str:
    """Object path of an app."""
    return f"{ROOT}/app/{units.escape_label(name)}"


def function_path(function: Function) -> str:
    """Object path of a function."""
    return f"{ROOT}/function/{units.escape_label(function.app.name)}/{units.escape_label(function.name)}"


class ManagerObject:
    """/org/boesfs/Faas1."""

    interface = f"{NAME}.Manager"

    def __init__(self, functions: Functions, runs: Runs, about: Callable[[], dict[str, Any]], check: Any) -> None:
        self._functions = functions
        self._runs = runs
        self._about = about
        self._check = check

    def properties(self) -> dict[str, Any]:
        return {"Version": __version__, "NFunctions": len(self._functions.router.routes), **self._about()}

    async def create_app(self, name: str, given: Json) -> str:
        return app_path((await self._functions.create_app(name, given)).name)

    async def remove_app(self, name: str) -> list[list[str]]:
        return _rows(await self._functions.remove_app(name))

    async def deploy(self, app: str, name: str, source: str, given: Json) -> tuple[str, list[list[str]]]:
        function, changes = await self._functions.deploy_tree(app, name, Path(source), given)
        return function_path(function), _rows(changes)

    async def deploy_archive(self, app: str, name: str, archive: int, given: Json) -> tuple[str, list[list[str]]]:
        if not stat.S_ISREG(os.fstat(archive).st_mode):
            raise BoesError("InvalidArgs", "The archive's descriptor is no regular file")
        with os.fdopen(os.dup(archive), "rb") as file:
            function, changes = await self._functions.deploy_archive(app, name, file, given)
        return function_path(function), _rows(changes)

    async def remove(self, app: str, name: str) -> list[list[str]]:
        return _rows(await self._functions.remove(app, name))

    async def list_apps(self) -> list[list[str]]:
        return [[name, app_path(name)] for name in sorted(self._functions.apps)]

    async def list_functions(self, app: str) -> list[list[str]]:
        wanted = self._functions.app(app) if app else None
        rows = [
            [f.app.name, f.name, f.id, self._functions.state(route), function_path(f)]
            for route in self._functions.router.routes.values()
            if (f := route.function) and (wanted is None or f.app.id == wanted.id)
        ]
        return sorted(rows)

    async def get_function(self, app: str, name: str) -> str:
        return function_path(self._functions.function(app, name))

    async def get_function_by_unit(self, unit: str) -> str:
        return function_path(await self._functions.by_unit(unit))

    async def cancel(self, call_id: str) -> None:
        self._functions.cancel(call_id)

    async def run(
        self,
        caller: tuple[int, tuple[int, ...]],
        command: list[bytes],
        environment: list[bytes],
        descriptors: dict[str, int],
        given: Json,
    ) -> tuple[str, list[str]]:
        return await self._runs.start(*caller, command, environment, descriptors, given)

    async def check(self) -> list[list[str]]:
        return [list(row) for row in await self._check()]


class AppObject:
    """…/app/APP."""

    interface = f"{NAME}.App"

    def __init__(self, functions: Functions, app: App) -> None:
        self._functions = functions
        self._live = Live(functions)
        self._app = app

    def properties(self) -> dict[str, Any]:
        return {
            "Name": self._app.name,
            "Id": self._app.id,
            "Slice": self._app.slice,
            "Config": self._app.config,
            "Functions": [function_path(function) for function in self._functions.of_app(self._app)],
        }

    async def stop(self) -> None:
        for function in self._functions.of_app(self._app):
            await self._functions.stop(function.id)

    async def get_policy(self) -> str:
        return self._live.of_app(self._app)

    async def set_policy(self, policy: str, given: Json) -> list[list[str]]:
        return _rows(await self._live.set_app(self._app.name, policy, given))

    async def start(self) -> None:
        failed = []
        for function in self._functions.of_app(self._app):
            try:
                await self._functions.start(function.id)
            except BoesError as error:
                failed.append(f"{function.label}: {error}")
        if failed:
            raise BoesError("Failed", "; ".join(failed))


class FunctionObject:
    """…/function/APP/FUNCTION."""

    interface = f"{NAME}.Function"

    def __init__(self, functions: Functions, learning: Learning, route: Route) -> None:
        self._functions = functions
        self._live = Live(functions)
        self._learning = learning
        self._route = route

    def properties(self) -> dict[str, Any]:
        function, counters = self._route.function, self._route.counters
        return {
            "App": function.app.name,
            "Name": function.name,
            "Id": function.id,
            "Digest": function.digest,
            "Runtime": function.settings.runtime,
            "State": self._functions.state(self._route),
            "Unit": units.service_unit(function.id, 0),
            "SocketPath": str(units.socket_path(function.id, 0)),
            "Uid": function.uid,
            "Limits": limits(function),
            "Config": function.settings.config,
            "NCalls": counters.calls,
            "NErrors": counters.errors,
            "NRunning": counters.running,
            "NQueued": counters.queued,
            "NDenials": counters.denials,
            "LastCallTimestamp": counters.last_call * 1000,
            "LastError": self._route.last_error,
        }

    async def stop(self) -> None:
        await self._functions.stop(self._route.function.id)

    async def start(self) -> None:
        await self._functions.start(self._route.function.id)

    async def get_policy(self) -> tuple[str, str, dict[str, Variant]]:
        own, apps, numbers = await self._live.about(self._route.function)
        told = {name: Variant("s" if isinstance(value, str) else "t", value) for name, value in numbers.items()}
        return own, apps, told

    async def set_policy(self, policy: str, given: Json) -> list[list[str]]:
        return _rows(await self._live.set_function(self._route.function.id, policy, given))

    async def compare_policy(self, policy: str, given: Json) -> list[list[str]]:
        return [list(row) for row in await self._live.compare(self._route.function.id, policy, given)]

    async def get_policy_table(self) -> list[list[Any]]:
        return await self._live.table(self._route.function)

    async def start_learning(self, seconds: int, given: Json) -> int:
        return await self._learning.start(self._route.function.id, seconds, given)

    async def stop_learning(self, session: int, given: Json) -> tuple[str, dict[str, Variant]]:
        policy, numbers = await self._learning.stop(self._route.function.id, session, given)
        told = {name: Variant("as" if isinstance(value, list) else "t", value) for name, value in numbers.items()}
        return policy, told

    async def check_access(self, operation: str, path: str, arguments: list[str], given: Json) -> dict[str, Variant]:
        told = questions.told(await self._live.decide(self._route.function, operation, path, arguments, given))
        rule = told.pop("rule") or {}
        found = {name: Variant("as" if name == "depends" else "s", value) for name, value in told.items()}
        return found | {name: Variant("s" if isinstance(value, str) else "u", value) for name, value in rule.items()}


def limits(function: Function) -> dict[str, Variant]:
    """Every stored option but the maps of variables, as D-Bus values."""
    found: dict[str, Variant] = {}
    for key, option in options.STORED.items():
        value = getattr(function.settings, option.field)
        if isinstance(value, bool | int):
            found[key] = Variant("x", value)
        elif isinstance(value, float):
            found[key] = Variant("d", value)
        elif isinstance(value, str):
            found[key] = Variant("s", value)
        elif isinstance(value, tuple) and value:
            found[key] = Variant("as", list(value))
        elif isinstance(value, Ports):
            sides = dataclasses.asdict(value)
            found[key] = Variant(
                "a{sau}", {side: list(numbers) for side, numbers in sides.items() if numbers is not None}
            )
    return found


def _rows(changes: list[Change]) -> list[list[str]]:
    return [list(change) for change in changes]


class Bus:
    """The objects by path, and the signals that follow from what the use cases report."""

    def __init__(
        self, functions: Functions, learning: Learning, runs: Runs, about: Callable[[], dict[str, Any]], check: Any
    ) -> None:
        self._functions = functions
        self._learning = learning
        self._manager = ManagerObject(functions, runs, about, check)
        self._service = Service(ROOT, self)
        self._changed: set[str] = set()
        functions.on_app = self._app_event
        functions.on_function = self._function_event
        functions.router.on_change = self._route_changed
        functions.router.on_failure = self._call_failed

    async def connect(self, on_lost: Callable[[], None]) -> None:
        """Take the name on the system bus."""
        await self._service.connect(NAME, on_lost)

    async def disconnect(self, patience: float) -> None:
        """Finish the calls that run, for PATIENCE seconds, and leave the bus."""
        await self._service.disconnect(NAME, patience)

    # --- connection.Tree

    def find(self, path: str) -> Exported | None:
        if path == ROOT:
            return self._manager
        parts = path.removeprefix(f"{ROOT}/").split("/")
        try:
            names = [units.unescape_label(part) for part in parts[1:]]
        except ValueError:
            return None
        if parts[0] == "app" and len(names) == 1 and names[0] in self._functions.apps:
            return AppObject(self._functions, self._functions.apps[names[0]])
        if parts[0] == "function" and len(names) == 2:
            function = self._functions.find(names[0], names[1])
            return self._object(self._functions.route(function.id)) if function else None
        return None

    def _object(self, route: Route) -> FunctionObject:
        return FunctionObject(self._functions, self._learning, route)

    def children(self, path: str) -> list[str]:
        prefix = path.rstrip("/") + "/"
        every = [ROOT, *self.objects()]
        return sorted({item[len(prefix) :].split("/")[0] for item in every if item.startswith(prefix)})

    def objects(self) -> Mapping[str, Exported]:
        found: dict[str, Exported] = {
            app_path(app.name): AppObject(self._functions, app) for app in self._functions.apps.values()
        }
        for route in self._functions.router.routes.values():
            found[function_path(route.function)] = self._object(route)
        return found

    # --- events

    def _app_event(self, app: App, what: str) -> None:
        path = app_path(app.name)
        if what == "created":
            self._service.added(path, AppObject(self._functions, app))
        else:
            self._service.removed(path, AppObject.interface)

    def _function_event(self, function: Function, what: str) -> None:
        path = function_path(function)
        if what == "removed":
            self._service.emit(ManagerObject.interface, "FunctionRemoved", function.app.name, function.name)
            self._service.removed(path, FunctionObject.interface)
        elif what == "deployed":
            exported = self._object(self._functions.route(function.id))
            if function.created_at == function.updated_at:
                self._service.added(path, exported)
            else:
                self._service.changed(path, exported, list(exported.properties()))
            self._service.emit(
                ManagerObject.interface, "FunctionDeployed", function.app.name, function.name, path, function.digest
            )
        app = self._functions.apps.get(function.app.name)
        if app:
            self._service.invalidated(app_path(app.name), AppObject.interface, ["Functions"])
        self._service.changed(ROOT, self._manager, ["NFunctions"])

    def _route_changed(self, route: Route) -> None:
        """Coalesced: at most one PropertiesChanged per function and interval, none on the way of a call."""
        if route.function.id in self._changed:
            return
        self._changed.add(route.function.id)
        asyncio.get_running_loop().call_later(COALESCE, self._flush, route)

    def _flush(self, route: Route) -> None:
        self._changed.discard(route.function.id)
        if self._functions.router.routes.get(route.function.id) is route:
            self._service.changed(function_path(route.function), self._object(route), VARYING)

    def denied(self, told: Told) -> None:
        """What a policy denied, or a rule wants to be told of."""
        function = told.route.function
        self._service.emit(
            ManagerObject.interface,
            "Audited",
            function.app.name,
            function.name,
            told.call_id,
            "denied" if told.denied else "allowed",
            records.written(told.request),
            told.rule,
            told.count,
            told.killed,
        )

    def _call_failed(self, route: Route, call_id: str, reason: str, message: str) -> None:
        function = route.function
        self._service.emit(
            ManagerObject.interface, "InvocationFailed", function.app.name, function.name, call_id, reason, message
        )
