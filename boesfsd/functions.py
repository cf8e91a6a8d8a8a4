# SPDX-License-Identifier: Apache-2.0
"""What can be done with apps and functions, step by step: what may be refused is refused first, then the store
changes, then everything derived from it (plan, drop-ins, sockets) is made to follow. A crash in between is mended by
`reconcile` at the next start."""

import asyncio
import dataclasses
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from boesfsd import calls, changes, host, manifest, plan, strays, units
from boesfsd.bundle import Bundles, Staged
from boesfsd.config import Config
from boesfsd.errors import BoesError
from boesfsd.invoke import Route, Router, Slots
from boesfsd.layout import Layout, layout, sandbox
from boesfsd.model import App, Change, Function, Json, Settings, check_app_name, check_function_name, new_id
from boesfsd.options import parse_cpuset, text_values
from boesfsd.policies import InForce, Policies, Wanted
from boesfsd.policy.landlock import ABI
from boesfsd.policy.sources import Compiled
from boesfsd.runtimes import Runtime, find
from boesfsd.store import Store, now_ms
from boesfsd.systemd import Systemd

log = logging.getLogger(__name__)

REAP_INTERVAL = 5.0
HEAL_DELAYS = (0.1, 1.0, 5.0, 30.0)
GRACE = 5.0  # seconds after a time-out at which an old instance is certainly gone


class Functions(Slots):
    """The use cases. EVENTS is told what happened: deployed, removed, changed."""

    def __init__(
        self, store: Store, bundles: Bundles, systemd: Systemd, config: Config, runtimes: dict[str, Runtime]
    ) -> None:
        self.router = Router(self)
        self.apps: dict[str, App] = {}
        self.on_app: Callable[[App, str], None] = lambda app, what: None
        self.on_function: Callable[[Function, str], None] = lambda function, what: None
        self.on_count: Callable[[], None] = lambda: None
        self.on_instance: Callable[[str, int], None] = lambda unit, slot: None
        self.states: dict[str, str] = {}
        self.landlock_abi = 0
        self.store = store
        self._bundles = bundles
        self._systemd = systemd
        self._config = config
        self._runtimes = runtimes
        self.policies = Policies()
        self.turn = asyncio.Lock()
        self.asked = asyncio.Lock()  # long questions, one at a time
        self._healing: set[str] = set()
        self._broken: dict[str, str] = {}  # by id, why there is no plan
        self._unjudged: set[str] = set()  # ids of those whose plan was without BoesFS until now
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Take settings, and look at the host anew."""
        self._config = config
        self.router.max_request_size = config.max_request_size
        self._bundles.limits = dataclasses.replace(
            self._bundles.limits, size=config.max_code_size, files=config.max_code_files
        )
        self.host = host.facts(config, self._runtimes)
        self.policies.configure(config.enforcement, stricter=config.stricter)

    async def reconfigure(self, config: Config) -> None:
        """Take new settings and render all plans anew; instances that run keep what they started with."""
        async with self.turn:
            self.configure(config)
            functions = {route.function.id: route.function for route in self.router.routes.values()}
            before = self._broken
            await asyncio.to_thread(self._render_all, functions)
            await self._end_unjudged()
            for function_id in before.keys() & functions.keys() - self._broken.keys():
                route = self.router.routes[function_id]
                route.last_error = ""
                if not route.open and not route.stopped:
                    await self._open_first(route.function)
            for function_id, reason in self._broken.items():
                self.router.routes[function_id].last_error = reason

    # --- finding

    def app(self, name: str) -> App:
        """NoSuchApp."""
        check_app_name(name)
        if name not in self.apps:
            raise BoesError("NoSuchApp", f"App {name} does not exist", hint="CreateApp makes it")
        return self.apps[name]

    def find(self, app_name: str, name: str) -> Function | None:
        """The function, if there is one."""
        route = self.router.named(app_name, name)
        return route.function if route else None

    def function(self, app_name: str, name: str) -> Function:
        """NoSuchApp, NoSuchFunction."""
        self.app(app_name)
        check_function_name(name)
        found = self.find(app_name, name)
        if found is None:
            raise BoesError("NoSuchFunction", f"Function {app_name}/{name} does not exist")
        return found

    def of_app(self, app: App) -> list[Function]:
        """The app's functions, by name."""
        found = [route.function for route in self.router.routes.values() if route.function.app.id == app.id]
        return sorted(found, key=lambda function: function.name)

    def route(self, function_id: str) -> Route:
        """NoSuchFunction."""
        route = self.router.routes.get(function_id)
        if route is None:
            raise BoesError("NoSuchFunction", "The function was removed")
        return route

    def state(self, route: Route) -> str:
        """idle, starting, active, failed or stopped."""
        if route.stopped:
            return "stopped"
        states = [self.states.get(units.service_unit(route.function.id, number), "") for number in route.open]
        for state, meaning in (("active", "active"), ("activating", "starting"), ("reloading", "active")):
            if state in states:
                return meaning
        if route.start_failed or self.states.get(units.socket_unit(route.function.id, 0)) == "failed":
            return "failed"
        return "idle"

    # --- apps

    async def create_app(self, name: str, given: Json) -> App:
        """AppExists, InvalidArgs."""
        check_app_name(name)
        unknown = sorted(given.keys() - {"config", "policy"})
        if unknown:
            raise BoesError("InvalidArgs", f"unknown key {', '.join(unknown)}", hint="known are config, policy")
        manifest.check_options(given)
        variables = text_values(given.get("config", {}))
        manifest.check_variables(variables)
        policy = manifest.option_policy(given)
        await asyncio.to_thread(self.policies.check_alone, policy)
        async with self.turn:
            app = await self.store.add_app(name, variables, policy)
            self.apps[name] = app
            self.on_app(app, "created")
        return app

    async def remove_app(self, name: str) -> list[Change]:
        """Remove the app with all its functions."""
        async with self.turn:
            app = self.app(name)
            functions = self.of_app(app)
            await self.store.remove_app(app)
            changes: list[Change] = []
            for function in functions:
                changes += await self._withdraw(function)
            await self._systemd.stop(app.slice)
            del self.apps[name]
            self.on_app(app, "removed")
        return [*changes, ("delete", "app", name)]

    # --- deploy

    async def deploy_tree(self, app_name: str, name: str, source: Path, given: Json) -> tuple[Function, list[Change]]:
        """Deploy the directory SOURCE."""
        self._check_request(app_name, name, given)
        return await self._deploy(app_name, name, await asyncio.to_thread(self._bundles.stage_tree, source), given)

    async def deploy_archive(
        self, app_name: str, name: str, archive: BinaryIO, given: Json
    ) -> tuple[Function, list[Change]]:
        """Deploy the contents of ARCHIVE."""
        self._check_request(app_name, name, given)
        return await self._deploy(app_name, name, await asyncio.to_thread(self._bundles.stage_archive, archive), given)

    def _check_request(self, app_name: str, name: str, given: Json) -> None:
        """All that can be refused before anything is copied."""
        self.app(app_name)
        check_function_name(name)
        manifest.check_options(given)
        self._check_replace(self.find(app_name, name), given)

    def _check_replace(self, existing: Function | None, given: Json) -> None:
        if existing and not given.get("replace", False):
            raise BoesError(
                "FunctionExists", f"Function {existing.label} exists already", hint="set the option replace"
            )

    async def _deploy(self, app_name: str, name: str, staged: Staged, given: Json) -> tuple[Function, list[Change]]:
        try:
            async with self.turn:
                app, existing = self.app(app_name), self.find(app_name, name)
                self._check_replace(existing, given)
                function = await self._describe(app, name, existing, staged, given)
                compiled = await asyncio.to_thread(self.compile, function, staged.path)
                told = [*changes.deployed(existing, function), *changes.warnings(compiled)]
                if given.get("dry-run", False):
                    return function, told
                await asyncio.to_thread(self._bundles.commit, staged)
                try:
                    await self._publish(function, existing)
                except BaseException:
                    await self._remove_unused(function.digest)
                    raise
                return function, told
        finally:
            await asyncio.to_thread(self._bundles.discard, staged)

    async def _describe(self, app: App, name: str, existing: Function | None, staged: Staged, given: Json) -> Function:
        """The function as it will be; everything about it is checked."""
        declared = await asyncio.to_thread(manifest.read, staged.path / manifest.FILE)
        settings = manifest.settings(declared, given)
        if not settings.runtime:
            raise BoesError("InvalidManifest", "runtime: is given neither in func.yaml nor in the options")
        runtime = find(self._runtimes, settings.runtime)
        entry = staged.path / runtime.entry
        if not declared.command and not entry.is_file():
            raise BoesError(
                "InvalidCode", f"There is no {runtime.entry} in the source", hint="or name an entrypoint in func.yaml"
            )
        present = {**app.config, **settings.config}
        missing = [key for key in declared.required_config if key not in present]
        if missing:
            raise BoesError("InvalidManifest", f"expects.config: {', '.join(missing)} is required and not configured")
        self._check_host(settings)
        first, last = self._config.uid_range
        return Function(
            id=existing.id if existing else new_id(),
            app=app,
            name=name,
            uid=existing.uid if existing else await self.store.free_uid(first, last),
            digest=staged.digest,
            command=declared.command,
            settings=settings,
            created_at=existing.created_at if existing else now_ms(),
            updated_at=now_ms(),
            policy=await asyncio.to_thread(manifest.read_policy, declared, staged.path, given),
        )

    def _layout(self, function: Function, code: Path | None = None) -> tuple[Runtime, Layout]:
        runtime = find(self._runtimes, function.settings.runtime)
        return runtime, layout(function, runtime, code or self._bundles.path(function.digest), self.host)

    def in_force(self, function: Function, table: int) -> InForce | None:
        """What judges the function's files, if that is TABLE; None: nothing that is known here."""
        return self.policies.in_force(function, table, lambda: self.wanted(function))

    def now_in_force(self, function: Function) -> InForce | None:
        """What judges the function's files; None: no policy."""
        return self.in_force(function, self.policies.table_of(function))

    def wanted(self, function: Function, code: Path | None = None) -> Wanted | None:
        """The policy that it is to have; None: none is enforced here, or a program is."""
        runtime, made = self._layout(function, code)
        return self.policies.wanted(function, made, sandbox(function, runtime, made))

    def compile(self, function: Function, code: Path | None = None) -> Compiled | None:
        """Its policy, checked, for CODE if that is not where it will be; None: none is enforced here."""
        wanted = self.wanted(function, code)
        if wanted and self.policies.enforcement != "boesfs" and self.landlock_abi < ABI:
            problem = f"{function.label} has a policy, and this kernel's Landlock (ABI {self.landlock_abi}) keeps none"
            raise BoesError("Unsupported", problem, hint=f"Linux 6.2 or later has ABI {ABI}, or use BoesFS")
        return self.policies.check(wanted) if wanted else None

    def _check_host(self, settings: Settings) -> None:
        calls.check(settings.system_calls)
        cpus = parse_cpuset(settings.cpuset)
        if cpus and not cpus & os.sched_getaffinity(0):
            raise BoesError("InvalidArgs", f"cpuset: {settings.cpuset}: this host has none of these CPUs")
        if (settings.ports.connect is not None or settings.ports.bind is not None) and self.landlock_abi < 4:
            raise BoesError(
                "Unsupported",
                f"ports: this kernel's Landlock (ABI {self.landlock_abi}) cannot restrict TCP ports",
                hint="Linux 6.7 or later has ABI 4",
            )

    async def _publish(self, function: Function, existing: Function | None) -> None:
        """The store, then what follows from it; back to the old state when that cannot be done."""
        await self.store.put_function(function)
        try:
            await self._realise(function, existing)
        except BaseException:
            if existing:
                await self.store.put_function(existing)
                await self._realise(existing, function)
            else:
                await self.store.remove_function(function)
                await self._withdraw(function, announce=False)
            raise
        self.on_function(function, "deployed")
        self.on_count()
        if existing and existing.digest != function.digest:
            self.router.spawn(self._remove_code_later(existing))

    async def _realise(self, function: Function, existing: Function | None) -> None:
        """Policy, plan, drop-ins, network, socket; instances that run finish their call and give way to new code."""
        await asyncio.to_thread(self.render, function)
        if function.settings.network == "private":
            await self._systemd.start(units.net_unit(function.id))
        elif existing and existing.settings.network == "private":
            await self._systemd.stop(units.net_unit(function.id))
        route = self.router.routes.get(function.id)
        if route is None:
            eager = len(self.router.routes) < self._config.eager_sockets
            if eager:
                await self.open_slot(function, 0)
            route = self.router.put(function, {0} if eager else set())
        elif existing:
            await self._replace(route, existing, function)
        route.stopped = False
        (units.STOPPED / function.id).unlink(missing_ok=True)
        if 0 not in route.open and existing:
            await self.open_slot(function, 0)
            self.router.put(function, {0})

    async def _replace(self, route: Route, existing: Function, function: Function) -> None:
        if units.live_properties(existing.settings) != units.live_properties(function.settings):
            for number in list(route.open):
                await self._systemd.set_properties(
                    units.service_unit(function.id, number), units.live_properties(function.settings)
                )
        self.router.put(function, set())
        await self.renew(route)

    async def renew(self, route: Route) -> None:
        """The next call meets a new instance; those that run finish their call."""
        for number in list(route.open):
            await self._systemd.kill(units.service_unit(route.function.id, number), signal.SIGHUP)

    def render(self, function: Function, *, traced: int = 0) -> None:
        """Have its policy judge, and write its plan; TRACED as there. In a thread: a policy may have to be compiled."""
        if not traced:
            calls.end(function.id)
        code = self._bundles.path(function.digest)
        if not code.is_dir():
            raise BoesError("Failed", f"The code of {function.label} ({code}) is missing", hint="deploy it again")
        runtime, made = self._layout(function)
        wanted = self.policies.wanted(function, made, sandbox(function, runtime, made))
        made = self.policies.layout(wanted, made)
        self.policies.enforce(function, wanted)
        if self._config.enforcement == "boesfs" and not plan.governs(plan.path(function.id)):
            self._unjudged.add(function.id)
        host.write(plan.path(function.id), plan.render(function, runtime, made, self.host, traced=traced))
        directory = units.BY_NAME / function.app.name
        directory.mkdir(parents=True, exist_ok=True)
        link = directory / function.name
        if not link.is_symlink():
            link.symlink_to(units.socket_path(function.id, 0))

    async def _remove_code_later(self, old: Function) -> None:
        await asyncio.sleep(old.settings.timeout + GRACE)
        async with self.turn:
            await self._remove_unused(old.digest)

    async def _remove_unused(self, digest: str) -> None:
        if digest not in {route.function.digest for route in self.router.routes.values()}:
            await asyncio.to_thread(self._bundles.remove, digest)

    # --- remove, stop, start, cancel

    async def remove(self, app_name: str, name: str) -> list[Change]:
        """Remove the function; its calls end, nothing of it stays."""
        async with self.turn:
            function = self.function(app_name, name)
            await self.store.remove_function(function)
            return await self._withdraw(function)

    async def _withdraw(self, function: Function, *, announce: bool = True) -> list[Change]:
        route = self.router.remove(function.id)
        numbers = {0, *(route.open if route else ()), *(route.opening if route else ())}
        for number in sorted(numbers):
            await self.close_slot(function, number)
        if function.settings.network == "private":
            await self._systemd.stop(units.net_unit(function.id))
        plan.path(function.id).unlink(missing_ok=True)
        calls.forget(function.id)
        (units.STOPPED / function.id).unlink(missing_ok=True)
        link = units.BY_NAME / function.app.name / function.name
        link.unlink(missing_ok=True)
        if link.parent.is_dir() and not any(link.parent.iterdir()):
            link.parent.rmdir()
        await asyncio.to_thread(self.policies.forget, function.uid)
        await self._remove_unused(function.digest)
        if announce:
            self.on_function(function, "removed")
            self.on_count()
        return [("delete", "function", function.label), ("stop", "socket", units.socket_unit(function.id, 0))]

    async def stop(self, function_id: str) -> None:
        """End all instances and close the sockets until Start, Deploy or the next boot."""
        async with self.turn:
            route = self.route(function_id)
            (units.STOPPED / function_id).touch()
            route.stopped = True
            self.router.end_calls(route, BoesError("Stopped", "The function was stopped"))
            for number in list(route.open):
                await self.close_slot(route.function, number)
            route.open.clear()
            route.free.clear()
            self.router.on_change(route)

    async def start(self, function_id: str) -> None:
        """Listen again after Stop; an idle function stays idle."""
        async with self.turn:
            route = self.route(function_id)
            (units.STOPPED / function_id).unlink(missing_ok=True)
            route.stopped = False
            if 0 not in route.open:
                await self.open_slot(route.function, 0)
                self.router.put(route.function, {0})
            self.router.on_change(route)

    def cancel(self, call_id: str) -> None:
        """End one call; its instance ends with it. NoSuchCall."""
        call = self.router.find_call(call_id)
        if call is None:
            raise BoesError("NoSuchCall", f"No call {call_id!r} is being served here")
        call.fail(BoesError("Cancelled", "The call was cancelled"))

    async def by_unit(self, unit: str) -> Function:
        """The function that a unit belongs to; NoSuchFunction."""
        parsed = units.parse_unit(unit)
        route = self.router.routes.get(parsed[0]) if parsed else None
        if route is None:
            raise BoesError("NoSuchFunction", f"Unit {unit!r} belongs to no function")
        return route.function

    # --- slots (for the router)

    async def open_slot(self, function: Function, number: int) -> None:
        """Drop-ins first, since they count only when they are there before the unit is loaded; then the socket."""
        socket = units.socket_unit(function.id, number)
        for unit, text in units.drop_ins(function, number, self._config.init_timeout).items():
            host.write_drop_in(unit, text)
        if self.states.get(socket) == "failed":
            await self._systemd.reset_failed(socket)
        try:
            await self._systemd.start(socket)
        except BoesError:
            # PID 1 opens no socket whose service runs, as after systemctl stop of the socket alone
            await self._systemd.stop(units.service_unit(function.id, number))
            await self._systemd.start(socket)

    async def close_slot(self, function: Function, number: int) -> None:
        """Stop socket and instance, and forget their drop-ins."""
        for unit in (units.socket_unit(function.id, number), units.service_unit(function.id, number)):
            await self._systemd.stop(unit)
            self.states.pop(unit, None)
            host.remove_drop_ins(unit)

    async def end_instance(self, function: Function, number: int) -> None:
        """Kill; the unit's socket starts the next one."""
        await self._systemd.kill(units.service_unit(function.id, number), signal.SIGKILL, "all")

    async def reap(self) -> None:
        """Close extra slots that are no longer needed, and see to what policies need now and then, for ever."""
        while True:
            await asyncio.sleep(REAP_INTERVAL)
            for route, slot in self.router.idle_slots():
                try:
                    await self.close_slot(route.function, slot.number)
                except BoesError as error:
                    log.warning("Cannot close slot %d of %s: %s", slot.number, route.function.label, error)
            await asyncio.to_thread(self.policies.sweep)
            await asyncio.to_thread(self.policies.follow_programs)

    def unit_changed(self, unit: str, active: str) -> None:
        """PID 1 tells of a unit of ours."""
        parsed = units.parse_unit(unit)
        route = self.router.routes.get(parsed[0]) if parsed else None
        if parsed is None or route is None:
            return
        self.states[unit] = active
        self.router.on_change(route)
        if parsed[2] == "service" and active in ("activating", "active"):
            self.on_instance(unit, parsed[1])
        if parsed[2] == "socket" and active == "failed" and unit not in self._healing:
            self._healing.add(unit)
            self.router.spawn(self._heal(route, unit))

    async def _heal(self, route: Route, socket: str) -> None:
        """A socket that systemd gave up on (its agent cannot even be executed) is opened again, ever more slowly."""
        try:
            for delay in HEAL_DELAYS:
                route.last_error = f"{socket} failed; see systemctl status '{socket}'"
                log.error("%s of %s failed; opened again in %.1f s", socket, route.function.label, delay)
                await asyncio.sleep(delay)
                if self.states.get(socket) != "failed" or self.router.routes.get(route.function.id) is not route:
                    return
                await self._systemd.reset_failed(socket)
                await self._systemd.start(socket)
                await asyncio.sleep(delay)
        except BoesError as error:
            log.error("%s", error)
        finally:
            self._healing.discard(socket)

    # --- reconcile

    async def reconcile(self) -> None:
        """Make units, files and the router follow the store, after whatever happened to them."""
        async with self.turn:
            self.landlock_abi = int((await host.features()).get("landlock", "0"))
            plan.PLANS.mkdir(mode=0o700, exist_ok=True)  # they hold the configuration of functions
            for directory in (units.SOCKETS, units.BY_NAME, units.STOPPED, units.RUN / "root"):
                directory.mkdir(exist_ok=True)
            self.apps = {app.name: app for app in await self.store.apps()}
            functions = {function.id: function for function in await self.store.functions()}
            self.states = await strays.stop(self._systemd, self.apps, functions)
            strays.remove_files(self.apps, functions)
            commands = await self._systemd.list_units(units.COMMAND_PATTERN)
            numbers = {units.command_number(unit.name) or 0 for unit in commands}
            self.policies.keep(numbers | {function.uid for function in functions.values()})
            await asyncio.to_thread(self._render_all, functions)
            await self._end_unjudged()
            digests = {function.digest for function in functions.values()}
            for digest in await asyncio.to_thread(self._bundles.sweep, digests):
                log.info("Removed code %s, which no function uses", digest)
            await self._listen(functions)

    def _render_all(self, functions: dict[str, Function]) -> None:
        """Plans of all functions. One that cannot be rendered runs on only if its old plan is as strict as the settings
        want it."""
        self._broken = {}
        for function in functions.values():
            try:
                self.render(function)
            except (BoesError, OSError, ValueError) as error:
                log.error("%s cannot run: %s", function.label, error)
                self._broken[function.id] = str(error)
                if self._config.enforcement == "boesfs":
                    lax = not plan.governs(plan.path(function.id))
                else:
                    lax = isinstance(error, BoesError) and error.code == "InvalidPolicy"
                if lax:
                    self._unjudged.add(function.id)
                    plan.path(function.id).unlink(missing_ok=True)

    async def _end_unjudged(self) -> None:
        """Instances that began before policies were enforced end after their call."""
        for unit, active in list(self.states.items()):  # which change meanwhile
            parsed = units.parse_unit(unit)
            if parsed and parsed[0] in self._unjudged and parsed[2] == "service" and active != "inactive":
                await self._systemd.kill(unit, signal.SIGHUP)
        self._unjudged.clear()

    async def _listen(self, functions: dict[str, Function]) -> None:
        listening = units.listening(self.states)
        slots: list[Function] = []
        for index, function in enumerate(functions.values()):
            open_slots = listening.get(function.id, set())
            route = self.router.put(function, open_slots)
            route.stopped = (units.STOPPED / function.id).exists()
            route.last_error = self._broken.get(function.id, "")
            if (
                0 not in open_slots
                and not route.stopped
                and not route.last_error
                and index < self._config.eager_sockets
            ):
                slots.append(function)

        for function in slots:  # all drop-ins before the first load: PID 1 looks through them only once
            for unit, text in units.drop_ins(function, 0, self._config.init_timeout).items():
                host.write_drop_in(unit, text)
            if function.settings.network == "private":
                await self._start_network(function)
        states = await self._systemd.start_many([units.socket_unit(f.id, 0) for f in slots], units.PATTERN)
        self._systemd.subscribe()
        self.states.update(states)
        for function in slots:
            if states[units.socket_unit(function.id, 0)] == "active":
                self.router.put(function, {0})
            else:
                await self._open_first(function)

    async def _start_network(self, function: Function) -> None:
        try:
            await self._systemd.start(units.net_unit(function.id))
        except BoesError as error:
            log.error("%s has no network: %s", function.label, error)
            self.router.routes[function.id].last_error = str(error)

    async def _open_first(self, function: Function) -> None:
        try:
            await self.open_slot(function, 0)
            self.router.put(function, {0})
        except BoesError as error:
            log.error("%s does not listen: %s", function.label, error)
            self.router.routes[function.id].last_error = str(error)
