# SPDX-License-Identifier: Apache-2.0
"""The spelling for people: the `policy:` block of func.yaml, of an app, or of a file of its own, as data to rules."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from boesfsd.errors import BoesError
from boesfsd.model import PROGRAM_NAME, Json
from boesfsd.policy import operations, places
from boesfsd.policy.places import Place
from boesfsd.policy.rules import (
    EVERY_BIT,
    HIGH,
    LOW,
    Finding,
    Number,
    Origin,
    Other,
    Part,
    Program,
    Rule,
    Test,
    Text,
    Uid,
    Verdict,
)

PERMISSIONS = 0o7777
"""Of a mode, without a mask: the kernel's has the kind of file too."""
Key = str | int
Where = Callable[[tuple[Key, ...]], Origin]
"""Where the value behind these keys stands."""

_number: Json = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^0o[0-7]{1,22}$"}]}
_count: Json = {"type": "integer", "minimum": 0, "maximum": 0xFFFFFFFF}
_words: Json = {
    "description": "a word or a list of words",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
}
_uid: Json = {"anyOf": [_count, {"type": "string", "pattern": "^[0-9]{1,10}-[0-9]{1,10}$"}]}
_uids: Json = {
    "description": "a user id, a range of them as 1000-1999, or a list",
    "anyOf": [*_uid["anyOf"], {"type": "array", "items": _uid, "minItems": 1}],
}
_condition: Json = {
    "description": "a number, a text, or a map of equal, min, max and mask",
    "anyOf": [
        *_number["anyOf"],
        {"type": "string"},
        {
            "type": "object",
            "properties": dict.fromkeys(("equal", "min", "max", "mask"), _number),
            "minProperties": 1,
            "additionalProperties": False,
        },
    ],
}
_rule: Json = {
    "description": "a rule: allow or deny, on, and perhaps program, uid, role, when, audit, kill",
    "type": "object",
    "properties": {
        "allow": _words,
        "deny": _words,
        "on": _words,
        "program": _words,
        "uid": _uids,
        "role": {"type": "string"},
        "when": {"type": "object", "additionalProperties": _condition, "minProperties": 1},
        "audit": {"type": "boolean"},
        "kill": _count,
    },
    "required": ["on"],
    "oneOf": [{"required": ["allow"]}, {"required": ["deny"]}],
    "additionalProperties": False,
}
SCHEMA: Json = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "policy of a function",
    "type": "object",
    "properties": {
        "program": {
            "description": "the name of a program of the administrator's own, which decides instead of rules",
            "type": "string",
            "pattern": f"^{PROGRAM_NAME.pattern}$",
        },
        "default": {"enum": ["allow", "deny"]},
        "kill": _count,
        "roles": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {"program": _words, "uid": _uids},
                "minProperties": 1,
                "additionalProperties": False,
            },
        },
        "rules": {"type": "array", "items": _rule},
    },
    "additionalProperties": False,
    "dependentSchemas": {"program": {"maxProperties": 1}},
}
ALONE = "op:"
"""Before an operation that has the name of several."""


_several = {**operations.WHOLE, **{name: group.does for name, group in operations.GROUPS.items()}}
NAMES = {
    **operations.BIT,
    **_several,
    **{ALONE + name: bit for name, bit in operations.BIT.items() if name in _several},
}
"""What the words for operations mean; a group's needs come besides."""


def is_plain(rule: Any) -> bool:
    """Whether a rule is one word and one place, as most of many are: SCHEMA, which takes its time, has no objection."""
    if not (isinstance(rule, dict) and len(rule) == len(("effect", "on")) and isinstance(rule.get("on"), str)):
        return False
    return isinstance(rule.get("allow", rule.get("deny")), str)


class Reader:
    """Reads one block, already checked against SCHEMA. VARIABLES are what ${NAME} stands for in places."""

    def __init__(self, data: Json, where: Where, variables: dict[str, str], layer: int) -> None:
        self.data, self.where, self.variables, self.layer = data, where, variables, layer
        self.findings: list[Finding] = []
        self.known: dict[str, tuple[int, int]] = {}  # what one word means
        self.roles = {name: list(self._subjects(role, ("roles", name))) for name, role in data.get("roles", {}).items()}

    def read(self) -> Part:
        """InvalidPolicy names line, rule, reason and remedy."""
        default = {"allow": operations.ALL, "deny": 0}.get(self.data.get("default", ""))
        rules = [rule for index, item in enumerate(self.data.get("rules", [])) for rule in self._rules(item, index)]
        if not rules:
            self.findings.append(
                Finding(self.where(()), "there is no rule", "write one, as: {allow: read, on: /usr/**}")
            )
        used = {item.get("role") for item in self.data.get("rules", [])}
        for name in self.roles.keys() - used:
            remedy = f"write role: {name} in one, or leave it out"
            self.findings.append(Finding(self.where(("roles", name)), f"no rule is for the role {name}", remedy))
        return Part(default, self.data.get("kill"), tuple(rules))

    def _refused(self, keys: tuple[Key, ...], problem: str, remedy: str) -> BoesError:
        origin = self.where(keys)
        return BoesError("InvalidPolicy", f"{origin}: {problem}: {origin.text}", hint=remedy)

    def _rules(self, item: Json, index: int) -> Iterator[Rule]:
        at: tuple[Key, ...] = ("rules", index)
        allow = "allow" in item
        effect = "allow" if allow else "deny"
        mask, needs = self._operations(item[effect], (*at, effect))
        tests = tuple(self._tests(item, at))
        if tests:
            arguments = {test.argument if isinstance(test, Number | Text) else "other" for test in tests}
            mask &= self._having(arguments, mask, at)
        subjects: list[Test | None] = [*self._subjects(item, at), *self._role(item, at)] or [None]
        if not allow and any(isinstance(subject, Program) for subject in subjects):
            problem = "a rule that denies cannot go by the program: a copy of it would escape"
            raise self._refused(at, problem, "deny it to all, and allow it to the programs that may")
        if allow and item.get("kill"):
            problem = "a rule that allows has no denials to count"
            raise self._refused((*at, "kill"), problem, "leave kill out, or write it beside default:")
        base = Verdict(allow, mask, (), self.layer, allow, audit=item.get("audit", False), kill=item.get("kill", 0))
        if not allow:
            needs = 0
        elif not tests:
            base, needs = base._replace(operations=mask | needs), 0
        for subject in subjects:
            who: tuple[Test, ...] = (subject,) if subject else ()
            verdicts = [base._replace(tests=(*who, *tests))]
            if needs & ~mask:  # conditions are for what is done, not for what that needs
                verdicts.append(base._replace(operations=needs & ~mask, tests=who))
            for number, written in _listed(item["on"]):
                place = self._place(written, (*at, "on", *number))
                for verdict in verdicts:
                    yield Rule(verdict, place, self.where(at))

    def _operations(self, written: Any, keys: tuple[Key, ...]) -> tuple[int, int]:
        """Which they are, and which their system calls need besides."""
        if isinstance(written, str) and written in self.known:
            return self.known[written]
        mask = needs = 0
        for number, name in _listed(written):
            if name not in NAMES:
                raise self._refused((*keys, *number), f"unknown operation {name}", operations.like(name, NAMES))
            mask |= NAMES[name]
            needs |= operations.GROUPS[name].needs if name in operations.GROUPS else 0
        if isinstance(written, str):
            self.known[written] = mask, needs
        return mask, needs

    def _place(self, written: str, keys: tuple[Key, ...]) -> Place:
        def value(match: re.Match[str]) -> str:
            if match[1] not in self.variables:
                raise self._refused(keys, f"unknown variable {match[0]}", operations.like(match[1], self.variables))
            return self.variables[match[1]]

        try:
            return places.parse(re.sub(r"\$\{([^}]*)\}", value, written))
        except ValueError as error:
            raise self._refused(
                keys, f"{written}: {error}", "write an absolute path, as /usr/** or /etc/*.conf"
            ) from error

    def _subjects(self, item: Json, at: tuple[Key, ...]) -> Iterator[Test]:
        for number, path in _listed(item.get("program", [])):
            try:
                places.literal(path)
            except ValueError as error:
                raise self._refused(
                    (*at, "program", *number), f"{path}: {error}", "write the program's path"
                ) from error
            if "*" in path:
                problem = "a program is one file"
                raise self._refused((*at, "program", *number), f"{path}: {problem}", "name each, in a list")
            yield Program(path)
        for number, uid in _listed(item.get("uid", [])):
            low, _, high = str(uid).partition("-")
            if int(high or low) < int(low) or int(high or low) >= 1 << 32:
                raise self._refused((*at, "uid", *number), f"{uid} is no range of user ids", "write it as 1000-1999")
            yield Uid(int(low), int(high or low))

    def _role(self, item: Json, at: tuple[Key, ...]) -> list[Test]:
        if "role" not in item:
            return []
        if item["role"] not in self.roles:
            problem = f"unknown role {item['role']}"
            raise self._refused(
                (*at, "role"),
                problem,
                operations.like(item["role"], self.roles) if self.roles else "define it under roles:",
            )
        return self.roles[item["role"]]

    def _tests(self, item: Json, at: tuple[Key, ...]) -> Iterator[Test]:
        for name, wanted in item.get("when", {}).items():
            keys = (*at, "when", name)
            kinds = {
                kind
                for row in operations.TABLE.values()
                for kind, names in (("number", row.arguments), ("text", row.texts))
                if name in names
            }
            if not kinds:
                known = sorted({argument for row in operations.TABLE.values() for argument in row.order})
                raise self._refused(keys, f"unknown argument {name}", operations.like(name, known))
            if name == operations.OTHER and isinstance(wanted, str):
                yield Other(self._place(wanted, keys))
            elif kinds == {"text"}:
                yield Text(name, self._glob(wanted, keys))
            else:
                yield self._number(name, wanted, keys)

    def _glob(self, wanted: object, keys: tuple[Key, ...]) -> places.Glob:
        if not isinstance(wanted, str):
            raise self._refused(keys, f"{keys[-1]} is text", "write it in quotes, with * for anything")
        try:
            return places.glob(wanted)
        except ValueError as error:
            raise self._refused(keys, f"{wanted}: {error}", "write \\ before a * that means itself") from error

    def _number(self, name: str, wanted: Any, keys: tuple[Key, ...]) -> Number:
        if isinstance(wanted, dict):
            given = {key: self._integer(value, (*keys, key)) for key, value in wanted.items()}
        else:
            given = {"equal": self._integer(wanted, keys)}
        if "equal" in given and ("min" in given or "max" in given):
            raise self._refused(keys, "equal leaves nothing to min and max", "leave one of them")
        mask = given.get("mask", PERMISSIONS if name == "mode" else EVERY_BIT)
        if "mask" in given and not 0 < mask < 1 << 63:
            raise self._refused(keys, "a mask has bits, of 0 to 62", "write them as 0o6000")
        low, high = given.get("min", LOW), given.get("max", HIGH)
        if "equal" in given:
            low = high = given["equal"]
        elif len(given) == 1 and "mask" in given:  # any of these bits
            low = 1
        most = HIGH if mask == EVERY_BIT else mask
        if high < low or low > most or (mask != EVERY_BIT and high < 0) or ("equal" in given and low & ~mask):
            told = f"{low}" if low == high else f"from {low} to {high}"
            raise self._refused(keys, f"nothing is {told}{f' under the mask {mask:#o}' if most == mask else ''}",
                                "a number has the bits of its mask, and min is not above max")  # fmt: skip
        return Number(name, low, high, mask)

    def _integer(self, value: Any, keys: tuple[Key, ...]) -> int:
        if isinstance(value, str) and not re.fullmatch("0o[0-7]{1,22}", value):
            raise self._refused(keys, f"{value} is no number", "write 420, 0x1a4 or 0o644")
        number = int(value, 0) if isinstance(value, str) else int(value)
        if not LOW <= number <= HIGH:
            raise self._refused(keys, f"{value} is too large", "numbers have 64 bits, with their sign")
        return number

    def _having(self, arguments: set[str], mask: int, at: tuple[Key, ...]) -> int:
        """Those of the operations that have all these arguments."""
        having = operations.mask(row.name for row in operations.TABLE.values() if arguments <= {*row.order})
        if not having & mask:
            told = ", ".join(sorted(arguments))
            problem = f"none of {', '.join(operations.names(mask))} has {told}"
            raise self._refused(
                (*at, "when"), problem, f"{told} is an argument of {', '.join(operations.names(having)) or 'none'}"
            )
        return having


def _listed(value: Any) -> Iterator[tuple[tuple[int, ...], Any]]:
    """The items of a list with their index; a single item has none."""
    if isinstance(value, list):
        yield from (((index,), item) for index, item in enumerate(value))
    else:
        yield (), value
