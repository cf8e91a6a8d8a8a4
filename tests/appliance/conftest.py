# SPDX-License-Identifier: Apache-2.0
"""The appliance of the whole run: booted once, by the controller when pytest-xdist runs workers, and shared by all
tests, which keep to apps of their own. Tests that restart the daemon or break the host boot one of theirs."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from lab import ERROR, HELLO, MANAGER, PROBE, ROOT, Bus, BusError, Deployed, Lab, machine_name
from machine import BUILD, Machine, build_root, install

SHARED = "BOESFS_APPLIANCE"  # environment of the workers: name and first process of the machine
_machine = pytest.StashKey[Machine]()
OwnLab = Callable[..., AbstractContextManager[Lab]]


def pytest_configure(config: pytest.Config) -> None:
    """Boot, unless this is a worker or nothing will run."""
    config.addinivalue_line("markers", "xdist_group(name): tests that run one after another")
    if hasattr(config, "workerinput") or config.option.collectonly or os.environ.get(SHARED):
        return
    build_root()
    install()
    machine = Machine(machine_name("appliance"))
    machine.boot()
    config.stash[_machine] = machine
    os.environ[SHARED] = f"{machine.name} {machine.leader}"
    Lab(machine).start()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Whatever the tests did: the daemon has met nothing that it did not expect. Its log stays in build/."""
    machine = session.config.stash.get(_machine, None)
    if machine:
        log = machine.run("journalctl", "--no-pager", "-o", "short-precise", "-u", "boesfsd", check=False).stdout
        (BUILD / "appliance-boesfsd.log").write_text(log)
        faults = log.count("Traceback (most recent call last)") + log.count("never retrieved")
        if faults:
            print(f"\nboesfsd logged {faults} faults: see build/appliance-boesfsd.log")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """Off."""
    machine = config.stash.get(_machine, None)
    if machine:
        os.environ.pop(SHARED, None)
        machine.stop()


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The appliance that all share."""
    name, leader = os.environ[SHARED].split()
    shared = Lab(Machine.attach(name, int(leader)))
    yield shared
    shared.close()


@pytest.fixture(scope="session")
def own_lab() -> OwnLab:
    """Boots an appliance for tests that harm it; `prepare` runs before boesfsd starts."""

    @contextmanager
    def boot(what: str, *, prepare: str = "", **options: Any) -> Iterator[Lab]:
        with Machine(machine_name(what), **options) as machine:
            if prepare:
                machine.shell(prepare)
            Lab(machine).start()
            own = Lab(machine)
            try:
                yield own
            finally:
                own.close()

    return boot


@pytest.fixture(scope="session")
def bus(lab: Lab) -> Bus:
    """Root's D-Bus connection."""
    return lab.bus


@pytest.fixture(scope="session")
def nobody(lab: Lab) -> Iterator[Bus]:
    """The D-Bus connection of a user without rights."""
    connection = Bus(lab.machine, "nobody")
    yield connection
    connection.close()


@pytest.fixture
def app(lab: Lab) -> Iterator[str]:
    """An app of the test's own."""
    name = lab.app()
    yield name
    try:
        lab.bus.manager("RemoveApp", "s", name)
    except BusError as error:
        if error.name != f"{ERROR}NoSuchApp":
            raise


@pytest.fixture
def deploy(lab: Lab, app: str) -> Callable[..., Deployed]:
    """Deploys files into the test's app."""

    def into_app(files: dict[str, str | bytes] | str = HELLO, /, **options: Any) -> Deployed:
        return lab.deploy(app, files, **options)

    return into_app


@pytest.fixture
def raw(lab: Lab, app: str) -> Callable[..., Deployed]:
    """Deploys a function that speaks HTTP by itself, or badly, into the test's app."""

    def into_app(reply: str, /, **options: Any) -> Deployed:
        return lab.raw(app, reply, **options)

    return into_app


@pytest.fixture(scope="session")
def probe(lab: Lab) -> Iterator[Deployed]:
    """A function that runs the code it is sent, one for each worker."""
    app = lab.app()
    yield lab.deploy(app, PROBE, concurrency=1, memory=256)
    lab.bus.call(ROOT, MANAGER, "RemoveApp", "s", app)


@pytest.fixture(scope="session")
def mebibyte() -> bytes:
    """Bytes that do not repeat within a page."""
    return b"".join(number.to_bytes(4, "big") for number in range(1 << 18))
