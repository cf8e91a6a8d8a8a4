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
        self.session = learning._Session(self.function.id, 1, self.wanted)

    def note(self, op: str, path: bytes, other: bytes = b"") -> None:
        """The kernel tells of an operation."""
        fields = dict.fromkeys(("arg0", "arg1", "arg2", "arg3", "access", "uid"), 0)
        fields |= {"op": NUMBERS[f"BOESFS_OP_{op}"], "instance": 5}
        record: Any = SimpleNamespace(fields=fields, path=path, other=other, string=b"")
        self.learning._note(self.session, record)

    def proposed(self, *, exact: bool = False) -> str:
        """The block."""
        return self.learning._proposal(self.function, self.session, exact=exact)


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
    assert world.session.instances == {5}


def test_what_there_is_no_room_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "MOST_PATHS", 1)
    world = World()
    for path in (b"/a", b"/b", b"/a"):
        world.note("READ", path)
    assert (list(world.session.seen), world.session.missed) == ([(b"a",)], 1)


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
    assert '      - "${CODE}/**"  # 9 paths of it were used\n' in text
    assert '      - "${CODE}/secret"  # the app\'s policy denies it\n' in text
    world.session.wanted = dataclasses.replace(world.wanted, app=None)
    assert "secret" not in world.proposed()


@pytest.mark.parametrize("given", [{"exact": 1}, {"exactly": True}])
def test_an_option_that_there_is_not_is_named(given: dict[str, Any]) -> None:
    stopping = World().learning.stop("id", given)
    with pytest.raises(BoesError, match=next(iter(given))):
        stopping.send(None)
