# SPDX-License-Identifier: Apache-2.0
"""The common form of both spellings: a policy is a default and rules; a rule is a verdict on operations at a place.

Which of the rules that match decides is told by their places and by Verdict.rank, and by nothing else; the table of
precedence in boesfs-policy(5) says it in words. A set of operations is a mask, as in operations.
"""

from dataclasses import dataclass
from typing import NamedTuple

from boesfsd.policy import operations
from boesfsd.policy.places import Glob, Place

PLATFORM, APP, FUNCTION = -1, 0, 1
"""Layers: what every sandbox has, an app's rules, a function's."""
LOW, HIGH = -(1 << 63), (1 << 63) - 1
EVERY_BIT = (1 << 64) - 1


class Origin(NamedTuple):
    """Where a rule stands: FILE as the user named it, LINE and COLUMN from 1 (0: in no file), TEXT the rule itself."""

    file: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}, column {self.column}" if self.line else self.file


class Number(NamedTuple):
    """A test of an argument that is a number: it is there, and its bits in MASK are, signed, from LOW to HIGH."""

    argument: str
    low: int = LOW
    high: int = HIGH
    mask: int = EVERY_BIT


class Text(NamedTuple):
    """A test of an argument that is text."""

    argument: str
    glob: Glob


class Other(NamedTuple):
    """A test of the second path of link and rename."""

    place: Place


class Program(NamedTuple):
    """A test of who performs the operation: the executable at this path when the sandbox starts."""

    path: str


class Uid(NamedTuple):
    """A test of the user id that performs the operation."""

    low: int
    high: int


Test = Number | Text | Other | Program | Uid


class Verdict(NamedTuple):
    """What a rule says, apart from where: OPERATIONS are allowed or denied if all TESTS hold.

    LAYER is PLATFORM, APP or FUNCTION. OPENS: one may walk to where it allows something. CLOSES: what
    no rule of the same place decides is decided by the policy's default, and by no wider place. AUDIT tells of what is
    allowed too. KILL ends the instance with the denial after so many of this rule; 0 is never.
    """

    allow: bool
    operations: int
    tests: tuple[Test, ...] = ()
    layer: int = FUNCTION
    opens: bool = False
    closes: bool = False
    audit: bool = False
    kill: int = 0

    @property
    def rank(self) -> tuple[int, int, bool]:
        """Of rules with one place the one with the greatest decides; of equal ones the first."""
        return (self.layer, len(self.tests), not self.allow)


class Rule(NamedTuple):
    """A verdict at a place."""

    verdict: Verdict
    place: Place
    origin: Origin


@dataclass(frozen=True, slots=True)
class Policy:
    """DEFAULT: the operations that are allowed where no rule decides. KILL as in Verdict, of all denials together."""

    default: int
    rules: tuple[Rule, ...]
    kill: int = 0


class Part(NamedTuple):
    """What an app or a function says, in either spelling; fields as in Policy, None: nothing is said of it."""

    default: int | None = None
    kill: int | None = None
    rules: tuple[Rule, ...] = ()


NOTHING = Part()


def together(app: Part, function: Part, platform: Part = NOTHING) -> Policy:
    """An app's rules hold for its functions; about the same place a function's own come first, the platform's last."""
    default = function.default if function.default is not None else app.default
    kill = function.kill if function.kill is not None else app.kill
    return Policy(default or 0, (*function.rules, *app.rules, *platform.rules), kill or 0)


WALK = Verdict(allow=True, operations=operations.mask(("lookup",)))
"""What Verdict.opens gives at each place on the way; a rule of that place's own comes before it."""


class Finding(NamedTuple):
    """Something that is allowed and probably not meant."""

    origin: Origin
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.message}. Hint: {self.remedy}"
