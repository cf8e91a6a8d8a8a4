# SPDX-License-Identifier: Apache-2.0
"""Questions as people ask them, `chmod /tmp/x mode=0o644`, and their answers with the rule that decides."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from boesfsd.errors import BoesError
from boesfsd.model import Json
from boesfsd.policy import operations, oracle, places
from boesfsd.policy.rules import Number, Other, Program, Rule, Test, Text
from boesfsd.policy.sources import Compiled
from boesfsd.policy.table import Request

SETATTR = {"mode": "chmod", "uid": "chown", "gid": "chown"}
"""What is changed, when it is asked as setattr with the original's three arguments."""


@dataclass(frozen=True, slots=True)
class Answer:
    """ALLOWED; which RULE says so, None: the default, or (WAY) that one may walk there. DEPENDS: what rules look at and
    was not given."""

    request: Request
    allowed: bool
    rule: Rule | None
    way: bool
    depends: tuple[str, ...]

    @property
    def reason(self) -> str:
        """In words."""
        return reason(self.rule, way=self.way)


def reason(rule: Rule | None, *, way: bool) -> str:
    """Which rule decides, or what does without one."""
    if rule is None:
        return "it is on the way to what is allowed" if way else "no rule decides, so the default does"
    origin, place = rule.origin, f"[{rule.place}]"
    return f"{origin}: {origin.text} {place}" if origin.text else f"{origin} {place}"


def parse(operation: str, path: str, words: Sequence[str], programs: frozenset[str], uid: int) -> list[Request]:
    """What the kernel would ask. WORDS are arguments in their order, * for one that is not told, or NAME=VALUE.
    InvalidArgs."""
    known = {*operations.TABLE, "setattr"}
    if operation not in known:
        raise BoesError("InvalidArgs", f"{operation} is no operation", hint=operations.like(operation, sorted(known)))
    at = _path(path)
    order = tuple(SETATTR) if operation == "setattr" else operations.TABLE[operation].order
    given: dict[str, str] = {}
    for position, word in enumerate(words):
        name, equals, value = word.partition("=")
        if not (equals and name in order):
            if position >= len(order):
                takes = ", ".join(order) or "none"
                raise BoesError("InvalidArgs", f"{word}: {operation} has no such argument", hint=f"it has {takes}")
            name, value = order[position], word
        if value != "*":
            given[name] = value
    if operation == "setattr":
        whole = operations.names(operations.WHOLE["setattr"])
        names = sorted({SETATTR[name] for name in given}) or whole
    else:
        names = [operation]
    asked = [_request(name, at, given, programs, uid) for name in names]
    if operation in ("rename", "link") and "other" in given:
        back = {**given, "other": path}
        asked.append(_request(f"{operation}-to", _path(given["other"]), back, programs, uid))
    return asked


def path(text: str) -> str:
    """TEXT, if it is a path as the kernel would resolve it. InvalidArgs."""
    _path(text)
    return text


def _path(text: str) -> tuple[bytes, ...]:
    try:
        place = places.literal(text)
    except ValueError as error:
        raise BoesError("InvalidArgs", f"{text}: {error}", hint="write it as the kernel resolves it") from error
    return tuple(component for component in place.components if isinstance(component, bytes))


def _request(name: str, at: tuple[bytes, ...], given: dict[str, str], programs: frozenset[str], uid: int) -> Request:
    row = operations.TABLE[name]
    numbers = {argument: _number(argument, given[argument]) for argument in row.arguments if argument in given}
    texts = {text: given[text].encode("utf-8", "surrogateescape") for text in row.texts if text in given}
    other = texts.pop(operations.OTHER, b"/").decode("utf-8", "surrogateescape")
    return Request(name, at, _path(other), numbers, texts, programs, uid)


def _number(name: str, text: str) -> int:
    try:
        number = int(text, 0) if text[:1] != "0" or text[1:2] in "xXoObB" else int(text, 8 if name == "mode" else 10)
    except ValueError as error:
        raise BoesError("InvalidArgs", f"{name}: {text} is no number", hint="write 420, 0x1a4 or 0o644") from error
    if not -(1 << 63) <= number < 1 << 64:
        raise BoesError("InvalidArgs", f"{name}: {text} is too large", hint="numbers have 64 bits")
    return number % (1 << 64)


def told(answer: Answer) -> Json:
    """As JSON has it: decision, operation, path, reason, rule, depends."""
    rule = answer.rule
    return {
        "decision": "allow" if answer.allowed else "deny",
        "operation": answer.request.operation,
        "path": "/" + b"/".join(answer.request.path).decode("utf-8", "surrogateescape"),
        "reason": answer.reason,
        "rule": rule.origin._asdict() if rule else None,
        "depends": list(answer.depends),
    }


def decide(compiled: Compiled, asked: Sequence[Request]) -> Answer:
    """The answer to all of ASKED together: that of the first that is denied, and what any of them depends on."""
    answers = [answer(compiled, request) for request in asked]
    deciding = next((one for one in answers if not one.allowed), answers[-1])
    depends = {name for one in answers for name in one.depends}
    return dataclasses.replace(deciding, depends=tuple(sorted(depends)))


def answer(compiled: Compiled, request: Request) -> Answer:
    """Failed: oracle and table do not agree, which is a fault of boesfsd's."""
    allowed, rule = oracle.decide(compiled.policy, request)
    by_table, _ = compiled.table.decide(request)
    if allowed != by_table:
        raise BoesError("Failed", f"{request}: the rules say {allowed}, their table {by_table}", hint="report this")
    way = is_way(compiled.policy.default, request, rule, allowed=allowed)
    return Answer(request, allowed, rule, way, tuple(sorted(_missing(compiled, request))))


def is_way(default: int, request: Request, rule: Rule | None, *, allowed: bool) -> bool:
    """Whether neither a rule nor the default allows it, but that it leads to what is allowed."""
    return allowed and rule is None and not default & operations.BIT[request.operation]


def _missing(compiled: Compiled, request: Request) -> set[str]:
    bit = operations.BIT[request.operation]
    conditions = compiled.table.class_of(request.path).conditions
    tests = [test for mask, verdict in conditions if mask & bit for test in verdict.tests]
    return {_unknown(test, request) for test in tests} - {""}


def _unknown(test: Test, request: Request) -> str:
    """What TEST looks at and REQUEST does not tell."""
    match test:
        case Number(argument) if argument not in request.arguments:
            return argument
        case Text(argument) if argument not in request.texts:
            return argument
        case Other() if not request.other:
            return operations.OTHER
        case Program() if not request.programs:
            return "program"
    return ""
