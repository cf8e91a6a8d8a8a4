# SPDX-License-Identifier: Apache-2.0
"""What is proposed of what was noted; tests/vm has functions that learn, and all that may end it."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from kernel_program import NUMBERS
from samples import full_host, function, made, python_runtime

from boesfsd import learning
from boesfsd.errors import BoesError
from boesfsd.layout import sandbox
from boesfsd.learning import Learning
from boesfsd.model import Function, PolicyBlock
from boesfsd.policies import Wanted
from boesfsd.policy import operations

READ = operations.mask(("open", "read"))


class World:
    """A function that learns, of an app with APP for a policy."""

    def __init__(self, app: str = "", own: str = "") -> None:
        self.function: Function = function(policy=PolicyBlock("func.yaml", own) if own else None)
        layout = made(self.function, full_host())
        place = sandbox(self.function, python_runtime(), layout)
        self.wanted = Wanted(PolicyBlock("app", app) if app else None, learning.NOTHING, place, layout)
        functions: Any = SimpleNamespace(policies=SimpleNamespace(numbers=NUMBERS))
        self.learning = Learning(functions, SimpleNamespace(learners={}))  # type: ignore[arg-type]
        self.session = learning._Session(1, self.function.id, self.function.uid, 1, self.wanted)

    def note(self, op: str, path: bytes, other: bytes = b"") -> None:
        """The kernel tells of an operation."""
        fields = dict.fromkeys(("arg0", "arg1", "arg2", "arg3", "access", "uid"), 0)
        fields |= {"op": NUMBERS[f"BOESFS_OP_{op}"], "instance": 5, "untold": 2}
        record: Any = SimpleNamespace(fields=fields, path=path, other=other, string=b"")
        self.learning._note(self.session, record)

    def proposed(self, *, exact: bool = False) -> str:
        """The block."""
        told, self.denied = self.learning._proposal(self.function, self.session, exact=exact)
        return told


def test_what_the_kernel_tells_is_noted_by_paths() -> None:
    world = World()
    world.note("OPEN", b"/usr/a")
    world.note("READ", b"/usr/a")
    world.note("RENAME", b"/tmp/a", b"/tmp/b")
    assert world.session.seen == {
        (b"usr", b"a"): READ,
        (b"tmp", b"a"): operations.mask(("rename",)),
        (b"tmp", b"b"): operations.mask(("rename-to",)),
    }
    assert world.session.before == {5: 2}


def test_what_there_is_no_room_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "MOST_PATHS", 1)
    world = World()
    for path in (b"/a", b"/b", b"/a", b"", b"/a" * 300):
        world.note("READ", path)
    assert (list(world.session.seen), world.session.missed) == ([(b"a",)], 3)


def test_what_is_noted_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "MOST_BYTES", 1000)
    world = World()
    for number in range(20):
        world.note("READ", f"/some/path/{number}".encode())
    assert len(world.session.seen) + world.session.missed == 20
    assert 0 < len(world.session.seen) < 5


def test_a_proposal_keeps_the_function_s_own_threshold() -> None:
    world = World(own="kill: 7\nrules: [{allow: read, on: /usr/**}]")
    world.note("READ", b"/usr/a")
    assert world.proposed() == 'default: deny\nkill: 7\nrules:\n  - allow: [read]\n    on:\n      - "/usr/a"\n'


def test_what_the_app_denies_is_allowed_where_it_was_seen_and_said() -> None:
    world = World(app="rules: [{deny: read, on: /function/secret}]")
    for letter in "abcdefgh":
        world.note("READ", f"/function/{letter}".encode())
    world.note("READ", b"/function/secret")
    text = world.proposed()
    assert '      - "${CODE}/secret"  # the app\'s policy denies it\n' in text
    assert "${CODE}/**" not in text  # more than was seen is not taken from the app
    world.session.wanted = dataclasses.replace(world.wanted, app=None)
    text = world.proposed()
    assert '      - "${CODE}/**"  # 9 paths of it were used\n' in text
    assert "secret" not in text


def test_what_an_app_denies_all_the_same_is_counted() -> None:
    world = World(app="rules: [{deny: read, on: '/srv/x/b*'}]")
    world.note("READ", b"/srv/x/b\xff")
    assert '"/srv/x/*"  # a name that cannot be written: the app\'s policy denies it' in world.proposed()
    assert world.denied == 1


def test_a_home_with_a_slash_at_its_end_is_no_variable() -> None:
    world = World()
    variables = world.wanted.sandbox.variables | {"HOME": "/srv/"}
    world.session.wanted = world.wanted = dataclasses.replace(
        world.wanted, sandbox=world.wanted.sandbox._replace(variables=variables)
    )
    world.note("READ", b"/srv/x")
    assert '"/srv/x"' in world.proposed()


@pytest.mark.parametrize("given", [{"exact": 1}, {"exactly": True}])
def test_an_option_that_there_is_not_is_named(given: dict[str, Any]) -> None:
    stopping = World().learning.stop("id", 1, given)
    with pytest.raises(BoesError, match=next(iter(given))):
        stopping.send(None)
