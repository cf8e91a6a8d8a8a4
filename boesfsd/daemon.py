# SPDX-License-Identifier: Apache-2.0
"""The daemon: builds everything once, in order, and takes it down again."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvloop

from boesfsd import __version__, config, doctor, host, runtimes
from boesfsd.audit import Audit
from boesfsd.bundle import Bundles, Limits
from boesfsd.bus.objects import Bus
from boesfsd.errors import BoesError
from boesfsd.functions import Functions
from boesfsd.journal import Journal
from boesfsd.learning import Learning
from boesfsd.notify import Notifier
from boesfsd.runs import Runs
from boesfsd.store import Store
from boesfsd.systemd import Systemd
from boesfsd.web import Server

log = logging.getLogger("boesfsd")

LISTEN_FDS_START = 3
STOP_PATIENCE = 6.0
PRIORITIES = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class _JournalFormatter(logging.Formatter):
    """Messages with the priority that journald reads from standard error (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        priority = PRIORITIES.get(record.levelno, 6)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def _log_to_journal() -> None:
    handler = logging.StreamHandler(sys.stderr)
    formatter = _JournalFormatter if "JOURNAL_STREAM" in os.environ else logging.Formatter
    handler.setFormatter(formatter("%(message)s"))
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)  # its debugging is not ours
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def listening_sockets() -> list[socket.socket]:
    """What boesfsd.socket gave us (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return [socket.socket(fileno=LISTEN_FDS_START + index) for index in range(count)]


def _address(listener: socket.socket) -> str:
    name = listener.getsockname()
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return str(name)


class Daemon:
    """All parts and their order."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._notifier = Notifier()
        self._sockets = listening_sockets()
        self._addresses = [_address(listener) for listener in self._sockets]
        self._done = asyncio.Event()
        self._failure = ""

    async def run(self) -> int:
        """Serve until SIGTERM; the exit status."""
        settings = config.load()
        logging.getLogger().setLevel(settings.log_level.upper())
        self._settings = settings
        self._runtimes = runtimes.load()
        store = await Store.open(self._state)
        systemd = Systemd()
        bundles = Bundles(self._state, Limits(settings.max_code_size, settings.max_code_files))
        functions = self._functions = Functions(store, bundles, systemd, settings, self._runtimes)
        runs = Runs(functions, systemd)
        audit = self._audit = Audit(functions, runs, Journal())
        learning = self._learning = Learning(functions, audit)
        bus = Bus(functions, learning, runs, self._about, self._check)
        audit.on_told = bus.denied
        server = Server(functions.router)

        def unit_changed(unit: str, active: str, _sub: str) -> None:
            functions.unit_changed(unit, active)
            runs.unit_changed(unit, active)

        await systemd.connect(unit_changed, self._bus_lost)
        await functions.reconcile()
        await runs.reconcile()
        audit.attach()
        await bus.connect(self._bus_lost)
        await server.listen(self._sockets)
        self._handle_signals()
        background = [asyncio.ensure_future(self._notifier.watchdog()), asyncio.ensure_future(functions.reap())]
        self._notifier.ready(self._status())
        if missing := host.missing_controllers():
            log.warning("Limits are not enforced for want of cgroup v2 controllers: %s", missing)
        functions.on_count = lambda: self._notifier.status(self._status())
        log.info(
            "boesfsd %s serves %d functions on %s",
            __version__,
            len(functions.router.routes),
            ", ".join(self._addresses),
        )
        await self._done.wait()
        self._notifier.stopping()
        await learning.close()
        await server.close(STOP_PATIENCE)
        for task in background:
            task.cancel()
        if not self._failure:
            await bus.disconnect(STOP_PATIENCE)
        audit.detach()
        functions.policies.close()
        systemd.close()
        await store.close()
        return 1 if self._failure else 0

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._done.set)
        loop.add_signal_handler(signal.SIGINT, self._done.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _bus_lost(self, reason: str = "the connection to the system bus is gone") -> None:
        if not self._done.is_set():
            self._failure = reason
            log.error("%s", reason)
            self._done.set()

    def _reload(self) -> None:
        """SIGHUP: a file that cannot be used leaves the settings as they are."""
        self._notifier.reloading()
        try:
            settings = config.load()
        except BoesError as error:
            log.error("Configuration not reloaded: %s", error)
            self._notifier.ready(f"Configuration not reloaded: {error}")
            return
        self._settings = settings
        logging.getLogger().setLevel(settings.log_level.upper())
        self._functions.router.spawn(self._reconfigure(settings))

    async def _reconfigure(self, settings: config.Config) -> None:
        await self._learning.end_all()
        self._audit.detach()
        await self._functions.reconfigure(settings)
        self._audit.attach()
        log.info("Configuration reloaded")
        self._notifier.ready(self._status())

    def _status(self) -> str:
        return f"{len(self._functions.router.routes)} functions, listening on {', '.join(self._about()['Listen'])}"

    def _about(self) -> dict[str, Any]:
        return {
            "Enforcement": self._settings.enforcement,
            "Listen": self._addresses,
            "Runtimes": sorted(self._runtimes),
        }

    async def _check(self) -> list[tuple[str, str, str, str]]:
        """What Manager.Check answers: id, state, message, hint."""
        abi, needed = self._functions.landlock_abi, self._settings.landlock == "required"
        return [
            *doctor.of_functions(),
            ("landlock", "ok", f"Landlock ABI {abi}", "")
            if abi
            else (
                "landlock",
                "error" if needed else "warning",
                "This kernel has no Landlock",
                "boot with lsm=landlock,…",
            ),
            self._check_enforcement(),
            ("listen", "ok", ", ".join(self._about()["Listen"]), "")
            if self._sockets
            else ("listen", "error", "No HTTP socket was given", "systemctl start boesfsd.socket"),
            ("runtimes", "ok", ", ".join(sorted(self._runtimes)), "")
            if self._runtimes
            else ("runtimes", "error", "No runtime is installed", f"put one into {runtimes.DIRECTORY}"),
        ]

    def _check_enforcement(self) -> tuple[str, str, str, str]:
        policies = self._functions.policies
        if fault := policies.fault:
            return ("enforcement", "error", f"No function can start: {fault.message}", fault.hint)
        if policies.enforcement == "boesfs":
            return ("enforcement", "ok", "Files come through BoesFS, under a policy", "")
        return ("enforcement", "ok", "Files are what Landlock allows; not every policy can be kept so", "")


async def _run(state: Path) -> int:
    return await Daemon(state).run()


def main() -> int:
    """Entry point of boesfsd.service."""
    parser = argparse.ArgumentParser(
        prog="boesfsd",
        description="Functions as socket-activated systemd units.",
        epilog="Started by systemd: systemctl start boesfsd",
    )
    parser.add_argument("--version", action="version", version=f"boesfsd {__version__}")
    parser.add_argument("--check-config", action="store_true", help="read /etc/boesfsd, say what is wrong, and exit")
    arguments = parser.parse_args()
    _log_to_journal()
    try:
        if arguments.check_config:
            config.load()
            found = runtimes.load()
            print(f"{config.CONF} can be used; runtimes: {', '.join(found) or 'none'}")
            return 0
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(Path(os.environ.get("STATE_DIRECTORY", "/var/lib/boesfsd"))))
    except BoesError as error:
        log.error("%s", error)
        return error.kind.exit
