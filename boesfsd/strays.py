# SPDX-License-Identifier: Apache-2.0
"""What no row of the store explains: units, sockets, files, namespaces and slices that a crash, a half-done change or
somebody's hand left. Removed when boesfsd starts, before anything is opened."""

import logging
import shutil

from boesfsd import host, plan, units
from boesfsd.model import App, Function
from boesfsd.systemd import Systemd

log = logging.getLogger(__name__)


async def stop(systemd: Systemd, apps: dict[str, App], functions: dict[str, Function]) -> dict[str, str]:
    """Stop what belongs to no function (by id) or app (by name); active states of the units that do, by name."""
    kept: dict[str, str] = {}
    found: list[str] = []
    for unit in await systemd.list_units(units.PATTERN):
        parsed = units.parse_unit(unit.name)
        function = functions.get(parsed[0]) if parsed else None
        if parsed and function and parsed[1] < function.settings.concurrency:
            kept[unit.name] = unit.active
        elif parsed:
            found.append(unit.name)
    found += await _networks(systemd, {f.id for f in functions.values() if f.settings.network == "private"})
    slices = {units.COMMAND_SLICE, *(app.slice for app in apps.values())}
    found += [unit.name for unit in await systemd.list_units("boesfs-*.slice") if unit.name not in slices]
    found.sort(key=lambda name: not name.endswith(".socket"))  # a socket would start its service again
    for name in found:
        log.info("Stopping %s, which belongs to no function", name)
        await systemd.stop(name)
        host.remove_drop_ins(name)
    return kept


async def _networks(systemd: Systemd, wanted: set[str]) -> list[str]:
    """Units of networks that no function wants; a namespace without a unit gets one, which removes it."""
    names = {units.net_unit(function_id) for function_id in wanted}
    found = [unit.name for unit in await systemd.list_units("boesfs-net@*") if unit.name not in names]
    for function_id in host.network_namespaces() - wanted:
        found.append(units.net_unit(function_id))
        await systemd.start(found[-1])
    return found


def remove_files(apps: dict[str, App], functions: dict[str, Function]) -> None:
    """Remove plans, marks, sockets, drop-ins and links of functions that are not there."""
    traces = plan.trace("").iterdir() if plan.trace("").is_dir() else ()
    for file in [*plan.PLANS.iterdir(), *units.STOPPED.iterdir(), *units.SOCKETS.iterdir(), *traces]:
        if file.name.removesuffix(".plan").split(":")[0] not in functions:
            file.unlink()
    for unit in host.drop_in_units():
        parsed = units.parse_unit(unit)
        if parsed and parsed[0] not in functions:
            host.remove_drop_ins(unit)
    labels = {function.label for function in functions.values()}
    for directory in units.BY_NAME.iterdir():
        for link in directory.iterdir():
            if f"{directory.name}/{link.name}" not in labels:
                link.unlink()
        if directory.name not in apps:
            shutil.rmtree(directory, ignore_errors=True)
