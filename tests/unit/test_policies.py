# SPDX-License-Identifier: Apache-2.0
"""Which table judges whom over replacements, removals and restarts. The kernel's maps are played: tests/vm has them."""

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kernel_program import NUMBERS
from samples import full_host, function, made, python_runtime

from boesfsd import policies
from boesfsd.errors import BoesError
from boesfsd.layout import sandbox
from boesfsd.model import Function, Learn, PolicyBlock, PolicyProgram, PolicySource
from boesfsd.policies import Policies, Wanted


class Kernel:
    """The maps, which outlive those who use them: what judges each policy, and the tables that are filled."""

    def __init__(self) -> None:
        self.judging: dict[int, int] = {}
        self.filled: dict[int, Any] = {}
        self.programs: dict[int, list[Any]] = {}
        self.learning: dict[int, Learn | None] = {}
        self.log: list[str] = []
        self.refuse = ""

    def tables(self) -> list[Any]:
        return list(self.filled.values())

    def put(
        self,
        table: int,
        _image: Any,
        *,
        policy: int,
        kill: int,
        learn: Learn | None,
        digest: bytes,
        programs: list[Any],
    ) -> None:
        assert table not in self.judging.values(), "a table that judges is not filled"
        self._call("put")
        self.learning[table] = learn
        self.filled[table] = SimpleNamespace(number=table, policy=policy, digest=digest, kill=kill)
        self.programs[table] = programs

    def unlearn(self, table: int, policy: int) -> None:
        assert self.filled[table].policy == policy
        self.learning[table] = None

    def put_programs(self, table: int, programs: list[Any], *, keep: bool = False) -> None:
        self.programs[table] = [*programs, *(self.programs[table] if keep else [])]

    def replace(self, policy: int, table: int) -> None:
        self._call("replace")
        assert self.filled[table].policy == policy
        self.judging[policy] = table

    def take_away(self, table: int) -> None:
        assert table not in self.judging.values(), "a table that judges is not freed"
        self.filled.pop(table, None)

    def forget(self, policy: int) -> None:
        self._call("forget")
        del self.judging[policy]

    def close(self) -> None:
        pass

    def _call(self, name: str) -> None:
        self.log.append(name)
        if self.refuse == name:
            raise BoesError("Failed", f"{name} is refused")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Instead of boesfsd.kernel, which needs the module."""
    played = Kernel()
    module = SimpleNamespace(
        Policies=lambda: played,
        NUMBERS=NUMBERS | {"BOESFS_TABLES": 8},
        Loaded=lambda number, policy, digest: played.filled[number],
        Executable=tuple,
        own_programs=lambda: ["quota"],
        executable=lambda file: (str(file),) if "nowhere" not in str(file) else None,
    )
    monkeypatch.setitem(__import__("sys").modules, "boesfsd.kernel", module)
    monkeypatch.setattr("boesfsd.kernel", module, raising=False)
    monkeypatch.setattr(policies, "GRACE", 0)
    return played


def started(kernel: Kernel) -> Policies:
    """A daemon's; KERNEL is what it finds."""
    found = Policies()
    found.configure("boesfs")
    assert found.fault is None
    return found


def under(text: str, **changes: Any) -> Function:
    return dataclasses.replace(function(policy=PolicyBlock("p.yaml", text)), **changes)


def wanted(of: Policies, deployed: Function) -> Wanted | None:
    there = made(deployed, full_host())
    return of.wanted(deployed, there, sandbox(deployed, python_runtime(), there))


def enforce(of: Policies, deployed: Function) -> None:
    of.enforce(deployed, wanted(of, deployed))


ONE, OTHER = "rules: [{allow: read, on: /usr/**}]", "rules: [{allow: write, on: /tmp/**}]"


def test_a_policy_is_loaded_once_and_another_takes_its_place(kernel: Kernel) -> None:
    mine = started(kernel)
    for text, log in ((ONE, ["put", "replace"]), (ONE, []), (OTHER, ["put", "replace"])):
        kernel.log.clear()
        enforce(mine, under(text))
        assert kernel.log == log
        assert list(kernel.judging) == [function().uid]
    mine.sweep()
    assert list(kernel.filled) == list(kernel.judging.values())


def test_who_learns_has_a_table_that_nothing_fits_and_another_one_each_time(kernel: Kernel) -> None:
    mine, deployed = started(kernel), under(ONE)
    enforce(mine, deployed)
    need = wanted(mine, deployed)
    assert need
    sessions = []
    for _ in range(2):
        table = mine.learn(deployed, need, 60)
        assert mine.learns(deployed)
        assert (kernel.judging[deployed.uid], mine.table_of(deployed)) == (table, table)
        assert mine.in_force(deployed, table, lambda: need) is None
        sessions.append(kernel.learning[table])
        mine.sweep()
        assert list(kernel.filled) == [table]
    assert len({session.number for session in sessions if session}) == 2
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert all(now < session.until <= now + 60 for session in sessions if session)
    for restarts in (False, True):
        mine.learn(deployed, need, 60)
        after = started(kernel) if restarts else mine
        enforce(after, deployed)
        assert kernel.learning[kernel.judging[deployed.uid]] is None
        assert not after.learns(deployed)
        after.sweep()
        assert list(kernel.filled) == [kernel.judging[deployed.uid]]


def test_a_table_that_somebody_learns_with_can_be_made_to_deny(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "GRACE", 100)
    mine, deployed = started(kernel), under(ONE)
    enforce(mine, deployed)
    need = wanted(mine, deployed)
    assert need
    judging, retired = mine.learn(deployed, need, 60), mine.learn(deployed, need, 60)
    for table in (judging, retired):
        mine.unlearn(deployed.uid, table)
        assert kernel.learning[table] is None
    assert not mine.learns(deployed)
    gone = mine.learn(deployed, need, 60)
    enforce(mine, deployed)
    monkeypatch.setattr(policies, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 1000))
    mine.sweep()
    mine.unlearn(deployed.uid, gone)  # it is somebody else's by now, for all one knows
    assert kernel.learning[gone] is not None


def test_a_table_to_learn_with_that_cannot_be_loaded_leaves_what_judged(kernel: Kernel) -> None:
    mine, deployed = started(kernel), under(ONE)
    enforce(mine, deployed)
    before, need = dict(kernel.judging), wanted(mine, deployed)
    assert need
    kernel.refuse = "replace"
    with pytest.raises(BoesError):
        mine.learn(deployed, need, 60)
    assert (kernel.judging, mine.table_of(deployed)) == (before, before[deployed.uid])


def test_after_a_restart_what_fits_is_found_and_what_does_not_is_replaced(kernel: Kernel) -> None:
    enforce(started(kernel), under(ONE))
    before = dict(kernel.judging)
    kernel.log.clear()
    again = started(kernel)
    enforce(again, under(ONE))
    assert (kernel.log, kernel.judging) == (["replace"], before)
    later = started(kernel)
    enforce(later, under(OTHER))
    assert kernel.judging != before
    later.sweep()
    assert list(kernel.filled) == list(kernel.judging.values())


@pytest.mark.parametrize("judges", [0, 1])
def test_a_crash_between_two_tables_leaves_one(kernel: Kernel, judges: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "GRACE", 100)
    first = started(kernel)
    enforce(first, under(ONE))
    enforce(first, under(OTHER))  # both are filled: the first is not swept yet
    assert len(kernel.filled) == 2
    monkeypatch.setattr(policies, "GRACE", 0)
    kernel.judging[function().uid] = list(kernel.filled)[judges]
    again = started(kernel)
    enforce(again, under(OTHER))
    again.sweep()
    assert list(kernel.filled) == list(kernel.judging.values())
    (left,) = kernel.filled.values()
    assert left.digest == wanted(again, under(OTHER)).digest  # type: ignore[union-attr]


@pytest.mark.parametrize("step", ["put", "replace"])
def test_what_fails_leaves_what_judged(kernel: Kernel, step: str) -> None:
    mine = started(kernel)
    enforce(mine, under(ONE))
    before = dict(kernel.judging)
    kernel.refuse = step
    with pytest.raises(BoesError):
        enforce(mine, under(OTHER))
    kernel.refuse = ""
    assert (kernel.judging, len(kernel.filled)) == (before, 1)
    enforce(mine, under(ONE))
    assert kernel.judging == before
    for turn in range(20):  # no number is lost
        enforce(mine, under((ONE, OTHER)[turn % 2]))


def test_who_is_gone_has_no_table_and_a_uid_can_be_given_again(kernel: Kernel) -> None:
    mine = started(kernel)
    enforce(mine, under(ONE))
    mine.forget(under(ONE).uid)
    mine.forget(under(ONE).uid)
    mine.sweep()
    assert (kernel.judging, kernel.filled) == ({}, {})
    enforce(mine, under(ONE, id="another"))
    assert list(kernel.judging) == [function().uid]


def test_what_no_function_has_is_forgotten_at_the_start(kernel: Kernel) -> None:
    mine = started(kernel)
    enforce(mine, under(ONE))
    enforce(mine, under(ONE, uid=7))
    again = started(kernel)
    again.keep({under(ONE).uid})
    enforce(again, under(ONE))
    again.sweep()
    assert list(kernel.judging) == [function().uid]
    assert len(kernel.filled) == 1


def test_all_tables_taken_is_said(kernel: Kernel) -> None:
    mine = started(kernel)
    for uid in range(1, 8):
        enforce(mine, under(ONE, uid=uid))
    with pytest.raises(BoesError) as refused:
        enforce(mine, under(ONE, uid=99))
    assert refused.value.code == "NoSpace"


def test_the_digest_tells_what_a_table_comes_from(kernel: Kernel) -> None:
    mine = started(kernel)
    digests = {
        wanted(mine, deployed).digest  # type: ignore[union-attr]
        for deployed in (under(ONE), under(OTHER), under(ONE, uid=5), under(ONE, command=("/function/x",)))
    }
    assert len(digests) == 3  # the uid is none of it


def test_programs_are_looked_up_again_when_nothing_else_has_changed(kernel: Kernel) -> None:
    mine = started(kernel)
    text = "rules: [{allow: read, on: /tmp/x, program: [/usr/bin/cat, /bin/dd, /nowhere]}]"
    enforce(mine, under(text))
    (table,) = kernel.filled
    assert sorted(map(str, kernel.programs[table])) == ["('/usr/bin/cat',)", "('/usr/bin/dd',)", "None"]
    kernel.programs[table] = []
    enforce(mine, under(text))
    assert len(kernel.programs[table]) == 3


def refuse_programs(_table: int, _programs: list[Any], *, keep: bool) -> None:
    raise BoesError("Failed", f"no room{' beside others' if keep else ''}")


def test_programs_that_are_other_files_by_now_count_beside_those_from_before(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, deployed = started(kernel), under("rules: [{allow: read, on: /tmp/x, program: [/usr/bin/cat, /nowhere]}]")
    enforce(mine, deployed)
    enforce(mine, under(ONE, uid=5))
    (table,) = (number for number, programs in kernel.programs.items() if programs)
    for identity, count in ((None, 2), ((1, 2, 3), 4), ((1, 2, 3), 4), ((1, 2, 4), 6)):
        if identity:
            monkeypatch.setattr("boesfsd.host.identity", lambda _file, found=identity: found)
        mine.follow_programs()
        assert len(kernel.programs[table]) == count
    put, kernel.put_programs = kernel.put_programs, refuse_programs  # type: ignore[method-assign]
    monkeypatch.setattr("boesfsd.host.identity", lambda _file: (1, 2, 5))
    mine.follow_programs()
    kernel.put_programs = put  # type: ignore[method-assign]
    mine.follow_programs()
    assert len(kernel.programs[table]) == (count := count + 2)
    mine.forget(deployed.uid)
    monkeypatch.setattr("boesfsd.host.identity", lambda _file: ())
    mine.follow_programs()
    assert len(kernel.programs[table]) == count


def test_what_is_in_force_is_known_by_its_table(kernel: Kernel) -> None:
    mine, deployed = started(kernel), under(ONE)
    enforce(mine, deployed)
    number, asked = mine.table_of(deployed), []

    def find() -> Wanted | None:
        asked.append(1)
        return wanted(mine, deployed)

    for _ in range(3):
        force = mine.in_force(deployed, number, find)
        assert force
        assert (force.table, force.compiled.policy.rules[0].origin.file) == (number, "p.yaml")
    assert len(asked) == 1
    assert mine.in_force(deployed, number + 1, find) is None
    assert mine.in_force(deployed, number, lambda: wanted(mine, under(OTHER))) == force
    enforce(mine, under(OTHER))
    assert mine.in_force(deployed, number, find) is None
    assert mine.in_force(deployed, mine.table_of(deployed), find) is None  # the store has not followed


def test_without_enforcement_and_policy_the_sandbox_is_the_usual_one(kernel: Kernel) -> None:
    mine = Policies()
    mine.configure("landlock")
    assert wanted(mine, function()) is None
    plain = made(function(), full_host())
    assert mine.layout(None, plain) == plain


def test_without_boesfs_a_policy_is_kept_or_refused(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/secret").touch()
    mine = Policies()
    mine.configure("landlock")
    plain = dataclasses.replace(made(function(), full_host()), trees={"/function": str(tmp_path)}, hidden=())

    def kept(text: str) -> Wanted:
        found = wanted(mine, under(text))
        assert found
        return dataclasses.replace(found, made=plain)

    exact = kept("rules: [{allow: [read, list], on: /function/**}, {allow: read, on: /etc/hosts}]")
    (finding,) = mine.check(exact).findings
    assert finding.message == "/usr/bin/python3 is not in the sandbox, so no instance will start"
    mine.enforce(function(), exact)
    layout = mine.layout(exact, plain)
    assert (layout.trees, layout.files, layout.made) == ({"/function": str(tmp_path)}, {}, ())
    assert (list(layout.texts), layout.closed) == (["/etc/hosts"], ("/dev/shm", "/tmp"))
    assert layout.rights == {"/function": "rl", "/etc/hosts": "r", "/etc/ld.so.cache": "r"}
    hides = kept("rules: [{allow: read, on: /function/**}, {deny: read, on: /function/data/secret}]")
    with pytest.raises(BoesError, match=r"cannot be kept as it is: stricter: p\.yaml, line 1") as refused:
        mine.check(hides)
    assert refused.value.hint.startswith("set stricter = yes")
    mine.configure("landlock", stricter=True)
    assert "it is kept stricter" in mine.check(hides).findings[-2].message
    layout = mine.layout(hides, plain)
    assert (layout.trees, layout.files, layout.made) == ({}, {}, ("/function", "/function/data"))
    with pytest.raises(BoesError, match=r"impossible: p\.yaml, line 1.*nobody tells of what is allowed"):
        mine.check(kept("rules: [{allow: read, on: /function/**, audit: true}]"))
    assert kernel.log == []


def test_without_the_module_nothing_is_enforced_and_why_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "_boesfs_bpf", None)
    monkeypatch.delitem(__import__("sys").modules, "boesfsd.kernel", raising=False)
    mine = Policies()
    mine.configure("boesfs")
    assert mine.fault
    assert mine.fault.code == "Unsupported"
    for attempt in (mine.check, lambda w: mine.enforce(under(ONE), w)):
        with pytest.raises(BoesError) as refused:
            attempt(wanted(mine, under(ONE)))  # type: ignore[arg-type]
        assert refused.value is mine.fault


def test_a_function_without_a_policy_has_that_of_the_host_or_does_not_start(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, file = started(kernel), tmp_path / "policy.yaml"
    monkeypatch.setattr(policies, "host_default", lambda: _host_default(file))
    with pytest.raises(BoesError) as refused:
        wanted(mine, function())
    assert str(file) in str(refused.value)
    file.write_text(ONE)
    assert wanted(mine, function()).function == PolicyBlock(str(file), ONE)  # type: ignore[union-attr]
    app = dataclasses.replace(function().app, policy=PolicyBlock("app", OTHER))
    of_app = wanted(mine, function(app=app))
    assert of_app
    assert (of_app.app, of_app.function) == (app.policy, None)


_host_default = policies.host_default


def test_a_number_is_given_once_though_enforcement_went_and_came_again(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "GRACE", 100)
    mine = started(kernel)
    enforce(mine, under(ONE))
    enforce(mine, under(OTHER))  # the first is retired, and not swept yet
    monkeypatch.setattr(policies, "GRACE", 0)
    mine.configure("landlock")
    mine.configure("boesfs")
    monkeypatch.setattr(policies.time, "monotonic", lambda: 1e12)
    for uid in range(1, 6):
        enforce(mine, under(ONE, uid=uid))
    enforce(mine, under(OTHER))
    mine.sweep()
    enforce(mine, under(ONE, uid=8))
    assert len(set(kernel.judging.values())) == len(kernel.judging) == 7
    with pytest.raises(BoesError):
        enforce(mine, under(ONE, uid=9))


# --- programs of the administrator's own


def owned(of_function: PolicySource | None, of_app: PolicySource | None = None) -> Function:
    plain = function()
    return dataclasses.replace(plain, policy=of_function, app=dataclasses.replace(plain.app, policy=of_app))


QUOTA, RULES = PolicyProgram("func.yaml", "quota"), PolicyBlock("p.yaml", ONE)


@pytest.mark.parametrize("deployed", [owned(QUOTA), owned(None, QUOTA), owned(QUOTA, QUOTA)])
def test_a_program_judges_without_a_table(kernel: Kernel, deployed: Function) -> None:
    mine = started(kernel)
    assert deployed.program == "quota"
    enforce(mine, deployed)
    assert (kernel.log, kernel.judging, mine.table_of(deployed)) == ([], {}, 0)


@pytest.mark.parametrize("deployed", [owned(QUOTA, RULES), owned(RULES, QUOTA), owned(QUOTA, PolicyProgram("a", "z"))])
def test_a_program_and_rules_are_refused(kernel: Kernel, deployed: Function) -> None:
    with pytest.raises(BoesError, match="decides alone, and app and function have a policy each"):
        wanted(started(kernel), deployed)


def test_a_program_that_is_not_there_is_refused(kernel: Kernel) -> None:
    with pytest.raises(BoesError, match="there is no policy program nowhere"):
        wanted(started(kernel), owned(PolicyProgram("func.yaml", "nowhere")))


def test_without_boesfs_there_are_no_programs(kernel: Kernel) -> None:
    mine = Policies()
    mine.configure("landlock")
    with pytest.raises(BoesError, match="enforcement = landlock has none"):
        wanted(mine, owned(QUOTA))


def test_the_default_of_the_host_is_no_program(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("program: quota\n")
    with pytest.raises(BoesError, match="what holds for all are rules"):
        policies.host_default(file)


def test_rules_for_programs_that_are_not_there_are_told_of(kernel: Kernel) -> None:
    mine = started(kernel)
    text = "rules: [{allow: read, on: [/usr/a, /usr/b], program: [/usr/bin/env, /srv/nowhere]}]"
    checked = mine.check(wanted(mine, under(text)))
    (finding,) = [finding for finding in checked.findings if "no such program" in finding.message]
    assert finding.message == "/srv/nowhere: the sandbox has no such program: this rule is for nobody"
    assert (finding.origin.file, finding.origin.line) == ("p.yaml", 1)


def test_a_table_goes_when_no_instance_can_be_judged_by_it_any_longer(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that was deployed anew with a program: instances of before finish their call."""
    mine = started(kernel)
    enforce(mine, under(ONE))
    owner = owned(QUOTA)
    assert mine.table_of(under(ONE))
    enforce(mine, owner)
    mine.sweep()
    assert (mine.table_of(owner), len(kernel.judging)) == (0, 1)
    now = policies.time.monotonic()
    monkeypatch.setattr(policies.time, "monotonic", lambda: now + owner.settings.timeout + 5)
    mine.sweep()
    mine.sweep()
    assert (kernel.judging, kernel.filled) == ({}, {})


def test_a_table_that_is_used_again_stays(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = started(kernel)
    for deployed in (under(ONE), owned(QUOTA), under(ONE)):
        enforce(mine, deployed)
    now = policies.time.monotonic()
    monkeypatch.setattr(policies.time, "monotonic", lambda: now + 1000)
    mine.sweep()
    assert len(kernel.judging) == 1


def test_after_landlock_there_are_no_tables_to_tell_of(kernel: Kernel) -> None:
    mine = started(kernel)
    enforce(mine, under(ONE))
    mine.configure("landlock")
    assert mine.table_of(under(ONE)) == 0
    assert mine.in_force(under(ONE), 1, lambda: None) is None
