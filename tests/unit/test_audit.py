# SPDX-License-Identifier: Apache-2.0
"""What is told of the kernel's records, how often, and for whom. The kernel is played; tests/vm has the real one."""

import asyncio
import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from agents import Run
from kernel_program import NUMBERS
from samples import full_host, function, made, python_runtime

from boesfsd import audit, host
from boesfsd.audit import Audit, Told
from boesfsd.invoke import Route, Router, Served, Slots
from boesfsd.layout import sandbox
from boesfsd.model import PolicyBlock
from boesfsd.policies import InForce, Wanted

TABLE, INSTANCE = 7, 0x0123456789ABCDEF
POLICY = """\
default: deny
rules:
  - {allow: all, on: /tmp/**}
  - {deny: read, on: /tmp/secret}
  - {allow: write, on: /tmp/seen, audit: true}
  - {allow: read, on: /usr/key, program: /usr/bin/cat}
"""


@dataclasses.dataclass
class Record:
    """As kernel.Record."""

    fields: dict[str, int]
    comm: bytes = b"python3"
    path: bytes = b"/tmp/secret"
    other: bytes = b""
    string: bytes = b""


class World:
    """A function with one slot, and a kernel that says what it is told to."""

    def __init__(self) -> None:
        self.function = function()
        self.router = Router(Slots())
        self.route = self.router.put(self.function, {0})
        self.arrived: list[Record] = []
        self.entries: list[dict[str, Any]] = []
        self.signals: list[Told] = []
        self.told: list[Told] = []
        self.untold = 0
        self.table = TABLE
        layout = made(self.function, full_host())
        place = sandbox(self.function, python_runtime(), layout)
        wanted = Wanted(None, PolicyBlock("func.yaml", POLICY), place, layout)
        programs: Any = {(1, 2, 3): frozenset({"/usr/bin/cat"})}
        self.force: InForce | None = InForce(TABLE, 0, wanted, wanted.compile(), programs, ("/usr/bin/cat",))
        policies = SimpleNamespace(numbers=NUMBERS, listen=self._listen, read=self._read, untold=lambda _: self.untold)
        self.functions = SimpleNamespace(
            policies=policies,
            router=self.router,
            in_force=lambda _, table: self.force if self.force and self.force.table == table else None,
            on_instance=None,
        )
        self.commands = SimpleNamespace(
            routes=dict[str, Route](),
            in_force=lambda _, table: self.force if self.force and self.force.table == table else None,
            told=self.told.append,
        )
        journal: Any = SimpleNamespace(write=lambda entry: self.entries.append(dict(entry)))
        self.audit = Audit(self.functions, self.commands, journal)  # type: ignore[arg-type]
        self.audit.on_told = self.signals.append
        self._hear: Callable[[Any], None] = lambda record: None

    def _listen(self, hear: Callable[[Any], None]) -> None:
        self._hear = hear

    def _read(self) -> None:
        arrived, self.arrived = self.arrived, []
        for record in arrived:
            self._hear(record)

    async def tell(self, *records: Record) -> None:
        """These come at once; what they give rise to at once is done."""
        self.audit.attach()
        self.arrived += records
        self.audit.read()
        while self.audit._working:  # noqa: ASYNC110 (a turn or two)
            await asyncio.sleep(0.001)

    def record(self, operation: str = "read", **fields: int) -> Record:
        """A denial."""
        names = ("instance", "time", "access", "rule", "untold", "program_ino", "program_dev", "program_generation")
        said = dict.fromkeys((*names, *(f"arg{index}" for index in range(4)), "killed", "pid", "uid"), 0)
        said |= {"policy_id": self.function.uid, "table": self.table, "verdict": -1, "instance": INSTANCE, "pid": 5}
        return Record({**said, "op": NUMBERS[f"BOESFS_OP_{operation.upper()}"], **fields})


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that are over soon, and an instance that systemd knows."""
    monkeypatch.setattr(audit, "WINDOW", 0.1)
    unit = f"boesfs-fn@{function().id}:0.service"
    monkeypatch.setattr(host, "invocation", lambda name: f"{INSTANCE:016x}{0:016x}" if name == unit else "")


def test_a_denial_is_told_with_unit_call_and_rule(run: Run) -> None:
    async def scene() -> None:
        world = World()
        world.route.open[0].served.append(Served("CALL", 100, 200))
        await world.tell(world.record(time=150, arg0=10, uid=9))
        (entry,) = world.entries
        assert entry["OBJECT_SYSTEMD_UNIT"] == f"boesfs-fn@{world.function.id}:0.service"
        assert (entry["BOESFS_CALL_ID"], entry["BOESFS_UID"], entry["BOESFS_COUNT"]) == ("CALL", 9, 1)
        assert entry["BOESFS_RULE"] == "func.yaml, line 4, column 5: - {deny: read, on: /tmp/secret} [/tmp/secret]"
        assert entry["BOESFS_QUESTION"] == "read /tmp/secret length=10 offset=0"
        assert entry["MESSAGE"].startswith("Denied read /tmp/secret length=10 offset=0 to python3 (pid 5): func.yaml")
        assert world.route.counters.denials == 1

    run(scene)


@pytest.mark.parametrize(("time", "call"), [(50, ""), (100, "A"), (200, "A"), (250, ""), (300, "B"), (10**18, "B")])
def test_the_call_is_the_one_that_was_served_then(run: Run, time: int, call: str) -> None:
    async def scene() -> None:
        world = World()
        world.route.open[0].served.extend((Served("A", 100, 200), Served("B", 300)))
        await world.tell(world.record(time=time))
        assert world.entries[0].get("BOESFS_CALL_ID", "") == call

    run(scene)


def test_what_is_alike_is_told_at_once_and_then_counted(run: Run) -> None:
    async def scene() -> None:
        world = World()
        other = dataclasses.replace(world.record(), path=b"/else")
        await world.tell(*(world.record() for _ in range(10)), other)
        assert [entry["BOESFS_COUNT"] for entry in world.entries] == [1, 1]
        await asyncio.sleep(0.2)
        assert [(e["BOESFS_PATH"], e["BOESFS_COUNT"]) for e in world.entries[2:]] == [(b"/tmp/secret", 9)]
        assert world.route.counters.denials == 11
        await world.tell(world.record())
        assert world.entries[-1]["BOESFS_COUNT"] == 1

    run(scene)


def test_what_the_kernel_had_no_room_for_is_said_once(run: Run) -> None:
    async def scene() -> None:
        world = World()
        await world.tell(world.record())
        world.untold = 5
        await asyncio.sleep(0.2)
        assert world.entries[-1]["MESSAGE"].startswith("5 more operations are not told one by one")
        await world.tell(world.record())
        await asyncio.sleep(0.2)
        assert sum("not told" in entry["MESSAGE"] for entry in world.entries) == 1

    run(scene)


def test_signals_are_few_and_entries_are_not(run: Run) -> None:
    async def scene() -> None:
        world = World()
        await world.tell(*(dataclasses.replace(world.record(), path=b"/%d" % number) for number in range(50)))
        assert (len(world.entries), len(world.signals)) == (50, audit.SIGNALS)

    run(scene)


def test_of_two_names_the_denied_one_is_told(run: Run) -> None:
    async def scene() -> None:
        world = World()
        record = dataclasses.replace(world.record("rename"), path=b"/tmp/a", other=b"/usr/b")
        await world.tell(record)
        assert world.entries[0]["BOESFS_QUESTION"] == "rename-to /usr/b other=/tmp/a flags=0o0"
        assert world.entries[0]["BOESFS_RULE"] == "no rule decides, so the default does"

    run(scene)


def test_what_a_rule_has_audited_is_no_denial(run: Run) -> None:
    async def scene() -> None:
        world = World()
        await world.tell(dataclasses.replace(world.record("write", verdict=0), path=b"/tmp/seen"))
        assert (world.entries[0]["BOESFS_VERDICT"], world.route.counters.denials) == ("allowed", 0)
        assert "line 5" in world.entries[0]["BOESFS_RULE"]

    run(scene)


def test_the_program_is_known_by_its_file(run: Run) -> None:
    async def scene() -> None:
        world = World()
        for verdict, said in ((0, {"program_ino": 1, "program_dev": 2, "program_generation": 3}), (-1, {})):
            await world.tell(dataclasses.replace(world.record(verdict=verdict, **said), path=b"/usr/key"))
        assert "line 6" in world.entries[0]["BOESFS_RULE"]
        assert world.entries[1]["BOESFS_RULE"] == "no rule decides, so the default does"

    run(scene)


def test_of_an_older_policy_the_rule_is_not_made_up(run: Run) -> None:
    async def scene() -> None:
        world = World()
        await world.tell(world.record(table=TABLE + 1))
        world.force = None
        await world.tell(world.record(table=TABLE + 2))
        assert {entry["BOESFS_RULE"] for entry in world.entries} == {"a policy that is no longer in force"}

    run(scene)


def test_a_record_of_nobody_s_is_no_harm(run: Run) -> None:
    async def scene() -> None:
        world = World()
        await world.tell(world.record(policy_id=1), world.record(instance=99))
        (entry,) = world.entries
        assert "OBJECT_SYSTEMD_UNIT" not in entry

    run(scene)


def test_why_an_instance_was_ended_is_what_ended_it_and_not_what_came_after_or_before(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        world = World()
        monkeypatch.setattr(audit, "PATIENCE", 0.1)
        waiting = asyncio.ensure_future(world.audit.why_killed(world.route, 0, 100))
        await asyncio.sleep(0.03)
        await world.tell(world.record(killed=1, time=150), world.record(killed=1, time=160))
        why = await waiting
        assert why.startswith("Denied read /tmp/secret ")
        assert why.endswith("; the instance is ended")
        await world.tell(dataclasses.replace(world.record(killed=1, time=170), path=b"/x"))
        assert await world.audit.why_killed(world.route, 0, 100) == why
        assert await world.audit.why_killed(world.route, 0, 151) == ""

    run(scene)


def test_a_crowd_of_different_denials_is_counted_and_what_ends_the_instance_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        monkeypatch.setattr(audit, "WINDOWS", 5)
        world = World()
        records = [dataclasses.replace(world.record(), path=b"/%d" % number) for number in range(20)]
        await world.tell(*records, world.record(killed=1))
        assert (len(world.entries), world.route.counters.denials) == (6, 21)
        await asyncio.sleep(0.2)
        (said,) = world.entries[6:]
        assert (said["BOESFS_COUNT"], "not told one by one" in said["MESSAGE"]) == (15, True)

    run(scene)


def test_a_record_that_cannot_be_told_does_not_keep_others_from_it(run: Run, caplog: Any) -> None:
    async def scene() -> None:
        world = World()
        strange = world.record()
        strange.fields["op"] = 12345
        await world.tell(strange, world.record())
        assert len(world.entries) == 1
        assert "cannot be told" in caplog.text

    run(scene)


def test_at_the_end_what_was_counted_is_told(run: Run) -> None:
    async def scene() -> None:
        world = World()
        await world.tell(world.record(), world.record())
        world.audit.detach()
        assert [entry["BOESFS_COUNT"] for entry in world.entries] == [1, 1]

    run(scene)


def test_only_so_many_instances_are_remembered(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        monkeypatch.setattr(audit, "KNOWN_INSTANCES", 5)
        world = World()
        await world.tell(*(world.record(instance=number) for number in range(1, 50)))
        assert len(world.entries) == 49
        assert len(world.audit._instances) <= 5

    run(scene)


def test_more_than_can_be_taken_is_counted(run: Run, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    async def scene() -> None:
        monkeypatch.setattr(audit, "MOST_WAITING", 3)
        world = World()
        await world.tell(*(world.record() for _ in range(10)))
        assert "7 denials were not told: there were too many at once" in caplog.messages

    run(scene)
