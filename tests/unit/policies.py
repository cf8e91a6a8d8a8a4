# SPDX-License-Identifier: Apache-2.0
"""Policies for the tests: the specification's samples, and random ones."""

import random
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from boesfsd.policy import casbin, operations
from boesfsd.policy.places import DEPTH, STAR, Component, Glob, Place, split
from boesfsd.policy.rules import EVERY_BIT, Number, Origin, Other, Policy, Program, Rule, Test, Text, Uid, Verdict
from boesfsd.policy.table import Request

PLACES = {"H": "/home/boes", "T": "/home/boes/gofs/testCases/temp"}


def model(columns: str, *, white: bool = False, roles: str = "", matcher: str = "") -> str:
    """A model file. COLUMNS as `sub, obj`; ROLES the lines of its section."""
    matcher = matcher or " && ".join(f"r.{column} == p.{column}" for column in columns.split(", "))
    section = f"[role_definition]\n{roles}\n\n" if roles else ""
    effect = "some(where (p.eft == allow))" if white else "!some(where (p.eft == deny))"
    return (
        f"[request_definition]\nr = {columns}\n\n[policy_definition]\np = {columns}\n\n{section}"
        f"[policy_effect]\ne = {effect}\n\n[matchers]\nm = {matcher}\n"
    )


class Sample(NamedTuple):
    """A pair of files of the specification, the program they are for, and questions with their answers."""

    name: str
    model: str
    policy: str
    subject: str
    asked: Sequence[tuple[Request, bool]]


def _full(text: str) -> str:
    return re.sub(r"\b([HT])(?=/|,|$)", lambda match: PLACES[match[1]], text)


def _asked(line: str) -> Iterator[tuple[Request, bool]]:
    """`D link H/old other=H/new`: a question and its answer."""
    answer, operation, path, *values = _full(line).split()
    given = dict(value.split("=") for value in values)
    other = split(given.pop("other", "/").encode())
    numbers = {name: int(value) for name, value in given.items()}
    for name in operations.TABLE if operation == "*" else [operation]:
        yield Request(name, split(path.encode()), other, numbers), answer == "A"


def samples() -> Iterator[Sample]:
    """Those of policy_samples.toml."""
    for item in tomllib.loads(Path(__file__).with_name("policy_samples.toml").read_text())["sample"]:
        text = model(
            item["columns"],
            white=item.get("white", False),
            roles=item.get("roles", ""),
            matcher=item.get("matcher", ""),
        )
        asked = [asked for line in item["asked"].split("\n") if line for asked in _asked(line)]
        yield Sample(item["name"], text, "\n".join(map(_full, item["policy"].split("\n"))), item["subject"], asked)


# --- at random

NAMES = (b"a", b"b", b"ab", b"abc", b"a" * 27, b"a" * 59, b"b" * 58 + b"a", b"a" * 255)
GLOBS = (
    STAR,
    *(Glob(parts) for parts in ((b"a", b""), (b"", b"b"), (b"a", b"b"), (b"", b"b", b""), (b"a", b"b", b"c"))),
)
OPERATIONS = (
    *("read", "lookup", "write", "rename", "rename-to", "link", "link-to", "setxattr", "chmod", "chown", "mkdir"),
    *("llseek", "fallocate"),
)
NUMBERS = ("length", "mode", "uid", "gid", "offset")
SUBJECTS = ("bash", "/bin/bash", "sh")


def _argument(test: Test) -> list[str]:
    if isinstance(test, Number | Text):
        return [test.argument]
    return ["other"] if isinstance(test, Other) else []


def _arguments(operation: str) -> set[str]:
    return {*operations.TABLE[operation].arguments, *operations.TABLE[operation].texts}


class Random:
    """A source of policies and questions; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def place(self) -> Place:
        """Few names, so that places meet."""
        components: list[Component] = []
        for _ in range(self.rng.randrange(5)):
            kind = self.rng.random()
            component = self.rng.choice(NAMES) if kind < 0.6 else self.rng.choice(GLOBS) if kind < 0.85 else DEPTH
            if component is not DEPTH or components[-1:] != [DEPTH]:
                components.append(component)
        return Place(tuple(components))

    def test(self) -> Test:
        """One of each kind."""
        low = self.rng.randrange(-3, 2)
        return self.rng.choice((
            Number(self.rng.choice(NUMBERS), low, low + self.rng.randrange(4), self.rng.choice((EVERY_BIT, 3, 1))),
            Text("attribute", self.rng.choice((*GLOBS, Glob((b"ab",))))),
            Other(self.place()),
            Program(self.rng.choice("xy")),
            Uid(0, self.rng.randrange(3)),
        ))  # fmt: skip

    def verdict(self, *, closes: bool) -> Verdict:
        """As a block's rules are, or, if a place CLOSES, as the original's."""
        allow = self.rng.random() < 0.5
        tests = tuple(self.test() for _ in range(self.rng.choice((0, 0, 0, 1, 2))))
        about = {name for test in tests for name in _argument(test)}
        having = [name for name in OPERATIONS if about <= _arguments(name)]
        return Verdict(
            allow, operations.mask(self.rng.sample(having, min(len(having), self.rng.randrange(1, 4)))),
            tests, self.rng.randrange(2),
            opens=not closes and allow and self.rng.random() < 0.7, closes=closes and self.rng.random() < 0.5,
            audit=self.rng.random() < 0.2, kill=self.rng.choice((0, 0, 3)),
        )  # fmt: skip

    def policy(self) -> Policy:
        """Up to seven rules."""
        closes = self.rng.random() < 0.3
        rules = [
            Rule(self.verdict(closes=closes), self.place(), Origin("f", line, 1, ""))
            for line in range(self.rng.randrange(8))
        ]
        return Policy(self.rng.choice((0, operations.ALL, self.rng.randrange(operations.ALL))), tuple(rules))

    def path(self) -> tuple[bytes, ...]:
        """A path of the same few names."""
        return tuple(self.rng.choice(NAMES) for _ in range(self.rng.randrange(5)))

    def request(self, names: Sequence[str] = OPERATIONS) -> Request:
        """A question, with the arguments that the operation has; of a chown perhaps one."""
        row = operations.TABLE[self.rng.choice(names)]
        numbers = {name: self.rng.randrange(-2, 5) % (1 << 64) for name in row.arguments}
        if row.name == "chown" and self.rng.random() < 0.5:
            del numbers[self.rng.choice(("uid", "gid"))]
        texts = {name: self.rng.choice(NAMES) for name in row.texts if name != "other"}
        programs = frozenset(self.rng.sample("xy", self.rng.randrange(3)))
        return Request(row.name, self.path(), self.path(), numbers, texts, programs, self.rng.randrange(4))

    # --- the original's files

    ACTIONS = ("read", "write", "setattr", "link", "rename", "unlink", "symlink", "default", "lookup")
    COUNTS = (2, 2, 3, 1, 1, 1, 1, 1, 1)

    def casbin(self) -> tuple[str, str]:
        """A model file and a policy file."""
        columns, white = self.rng.choice(casbin.ACCEPTED), self.rng.random() < 0.5
        roles = "sub" in columns and self.rng.random() < 0.4
        action_roles = "args" in columns and self.rng.random() < 0.4
        terms = [f"r.{column} == p.{column}" for column in columns]
        if roles:
            terms[0] = "g(r.sub, p.sub)"
        if action_roles:
            both = self.rng.random() < 0.5
            terms = [term for term in terms if both or not ("act" in term or "args" in term)] + [
                "a(r.act,p.act;r.args,p.args)"
            ]
        sections = "\n\n[role_definition]\n".join([*["g = _ , _"] * roles, *["a = _ , _ ; _ , _"] * action_roles])
        text = model(", ".join(columns), white=white, roles=sections, matcher=" && ".join(terms))
        effect = "allow" if white else "deny"
        lines = [
            ", ".join((*self._row(columns, roles=roles, action_roles=action_roles), effect))
            for _ in range(self.rng.randrange(9))
        ]
        if roles:
            lines += [f"g, {self.rng.choice(SUBJECTS)}, r{self.rng.randrange(2)}" for _ in range(3)] + [
                "g, none, r0",
                "g, none, r1",
            ]
        if action_roles:
            lines += [
                f"a, e{role}, {action}, {self._arguments(action)}"
                for role in (0, 1, self.rng.randrange(2))
                for action in [self.rng.choice(self.ACTIONS)]
            ]
        return text, "\n".join(lines)

    def _row(self, columns: Sequence[str], *, roles: bool, action_roles: bool) -> list[str]:
        action = self.rng.choice(self.ACTIONS)
        cells = {
            "sub": f"r{self.rng.randrange(2)}" if roles else self.rng.choice(SUBJECTS),
            "obj": self._path(),
            "act": f"e{self.rng.randrange(2)}" if action_roles else action,
            "args": self._arguments(action),
        }
        kind = [self.rng.choice(("file", "dir"))] if "obj" in columns else []
        return ["p", *(cells[column] for column in columns if not (column == "args" and action_roles)), *kind]

    def _path(self) -> str:
        return "/" + b"/".join(self.path()[:3]).decode()

    def _arguments(self, action: str) -> str:
        cells = []
        for _ in range(self.COUNTS[self.ACTIONS.index(action)]):
            if self.rng.random() < 0.4 or action in ("unlink", "default", "lookup"):
                cells.append("*")
            elif action in ("link", "rename"):
                cells.append(self._path())
            else:
                cells.append(self.rng.choice(NAMES).decode() if action == "symlink" else str(self.rng.randrange(3)))
        return f"({', '.join(cells)})"
