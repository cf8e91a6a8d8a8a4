# SPDX-License-Identifier: Apache-2.0
"""The spelling of the original: a model file and a policy file in casbin's style. Text to rows, rows to rules."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from boesfsd.errors import BoesError
from boesfsd.policy import operations, places
from boesfsd.policy.places import DEPTH, Place, made
from boesfsd.policy.rules import Finding, Number, Origin, Other, Part, Rule, Test, Text, Verdict

ACCEPTED = (
    ("sub", "obj", "act"),
    ("sub", "obj"),
    ("sub", "act"),
    ("obj", "act"),
    ("sub", "obj", "act", "args"),
    ("obj", "act", "args"),
)
KEYS = {
    "request_definition": "r",
    "policy_definition": "p",
    "role_definition": "ga",
    "policy_effect": "e",
    "matchers": "m",
}
DEFINITIONS = {"g": "_ , _", "a": "_ , _ ; _ , _"}
EFFECTS = {"some(where(p.eft==allow))": True, "!some(where(p.eft==deny))": False}
ROLES, ACTION_ROLES = "g(r.sub,p.sub)", "a(r.act,p.act;r.args,p.args)"
# What the original knows by these names, and never asks.
NEVER_ASKED = {"init", "destroy", "lookup2", "default"}
# What the original lets pass and has no names for: governed where a rule names it, else allowed.
LEFT_OPEN = operations.mask(("probe", "access", "lock", "link-to", "rename-to"))
EVERYWHERE = Place((DEPTH,))
ACTIONS = {**operations.BIT, "setattr": operations.WHOLE["setattr"], **dict.fromkeys(NEVER_ASKED, 0)}
# The original's three of setattr, by what is changed.
SETATTR = {"chmod": ("mode", "", ""), "chown": ("", "uid", "gid")}
MOST_ARGUMENTS = 3
BYTE_ORDER_MARK = "\ufeff"


class Model(NamedTuple):
    """COLUMNS of a rule; whether it is a whitelist; whether g() and a() are in the matcher."""

    columns: tuple[str, ...]
    whitelist: bool
    roles: bool = False
    action_roles: bool = False


class Row(NamedTuple):
    """A `p` line. What the model has no column for is empty. ARGUMENTS are as written, `*` for any; of an action role
    they stand with the role."""

    origin: Origin
    subject: str = ""
    path: str = ""
    action: str = ""
    arguments: tuple[str, ...] = ()
    directory: bool = False


@dataclass(frozen=True, slots=True)
class Casbin:
    """Both files. ROLES are (program, role); ACTION_ROLES are (role, operation, arguments)."""

    model: Model
    rows: tuple[Row, ...]
    roles: tuple[tuple[str, str], ...] = ()
    action_roles: tuple[tuple[str, str, tuple[str, ...]], ...] = ()


def refused(origin: Origin, problem: str, remedy: str) -> BoesError:
    """InvalidPolicy with place, rule, reason and remedy."""
    told = f": {origin.text}" if origin.text else ""
    return BoesError("InvalidPolicy", f"{origin}: {problem}{told}", hint=remedy)


# --- the model file


def parse_model(text: str, file: str) -> Model:
    """The model in TEXT. InvalidPolicy names line and column."""
    found = _defined(text, file)
    at, written = found["p"]
    columns = tuple(written.split(","))
    if columns not in ACCEPTED:
        known = "; ".join(", ".join(columns) for columns in ACCEPTED)
        raise refused(at, "these are none of the columns there are", f"write one of: {known}")
    at, written = found["r"]
    if written != found["p"][1]:
        raise refused(at, "a request has the columns of a rule", f"write r = {', '.join(columns)}")
    at, effect = found["e"]
    if effect not in EFFECTS:
        raise refused(
            at, "unknown effect", "write e = some(where (p.eft == allow)) or e = !some(where (p.eft == deny))"
        )
    at, matcher = found["m"]
    terms = set(matcher.split("&&"))
    roles, action_roles = ROLES in terms, ACTION_ROLES in terms
    wanted = {f"r.{column}==p.{column}" for column in columns}
    wanted = wanted - {"r.sub==p.sub"} | {ROLES} if roles else wanted
    if action_roles:  # with the terms it stands for, or in their place: there is a dialect for each
        wanted = wanted - {"r.act==p.act", "r.args==p.args"} | {ACTION_ROLES}
        terms -= {"r.act==p.act", "r.args==p.args"}
    if terms != wanted or (action_roles and "args" not in columns):
        raise refused(at, "the matcher does not fit the columns", f"write m = {' && '.join(sorted(wanted))}")
    for used, key, call in ((roles, "g", ROLES), (action_roles, "a", ACTION_ROLES)):
        if used and key not in found:
            raise refused(at, f"{call} needs a definition", f"write {key} = {DEFINITIONS[key]} in [role_definition]")
    return Model(columns, EFFECTS[effect], roles, action_roles)


def _defined(text: str, file: str) -> dict[str, tuple[Origin, str]]:
    """Each key with where it stands, and its value without white space."""
    found: dict[str, tuple[Origin, str]] = {}
    for origin, section, key, value in _definitions(text, file):
        if section not in KEYS:
            raise refused(origin, f"unknown section {section}", operations.like(section, KEYS))
        if key not in KEYS[section]:
            raise refused(origin, f"section {section} has no {key} =", f"it has {' and '.join(KEYS[section])}")
        if key in found:
            raise refused(origin, f"{key} is defined twice", "leave one of them")
        found[key] = origin, re.sub(r"\s", "", value)
        if key in DEFINITIONS and found[key][1] != re.sub(r"\s", "", DEFINITIONS[key]):
            raise refused(origin, f"unknown form of {key}", f"write {key} = {DEFINITIONS[key]}")
    for section, keys in KEYS.items():
        if section != "role_definition" and keys not in found:
            raise refused(Origin(file, 1, 1, ""), f"there is no {keys} =", f"write it in a section [{section}]")
    return found


def _definitions(text: str, file: str) -> Iterator[tuple[Origin, str, str, str]]:
    """Each KEY = VALUE with the section it is in."""
    text = text.removeprefix(BYTE_ORDER_MARK)
    text = re.sub(r"(?m)(^|(?<=\s))#.*$", lambda match: " " * len(match[0]), text)
    headers = list(re.finditer(r"\[([^\[\]]*)\]", text))
    before = text[: headers[0].start()] if headers else text
    if before.strip():
        raise refused(
            _origin(text, file, len(before) - len(before.lstrip())),
            "no section begins here",
            "write [request_definition] first",
        )
    for header, after in zip(headers, [*headers[1:], None], strict=False):
        end = after.start() if after else len(text)
        keys = list(re.finditer(r"(?:^|(?<=\s))(\w+)\s*=(?!=)", text[:end][header.end() :]))
        if not keys:
            raise refused(
                _origin(text, file, header.start()),
                "there is nothing in this section",
                "add it, or leave the section out",
            )
        for key, following in zip(keys, [*keys[1:], None], strict=False):
            start, stop = header.end() + key.end(), header.end() + following.start() if following else end
            yield _origin(text, file, header.end() + key.start()), header[1].strip(), key[1], text[start:stop]


def _origin(text: str, file: str, at: int) -> Origin:
    line = text.count("\n", 0, at) + 1
    begin = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    return Origin(file, line, at - begin + 1, text[begin : end if end >= 0 else None].strip())


# --- the policy file


def parse_policy(text: str, file: str, model: Model) -> tuple[Casbin, list[Finding]]:
    """The rows in TEXT, and lines that are none. InvalidPolicy names line and column."""
    rows: list[Row] = []
    roles: list[tuple[str, str]] = []
    action_roles: list[tuple[str, str, tuple[str, ...]]] = []
    findings: list[Finding] = []
    lines = _lines(model).findall(text.removeprefix(BYTE_ORDER_MARK))
    for number, (line, subject, path, action, below) in enumerate(lines, 1):
        if (subject or path or action) and (action in ACTIONS or not action):
            origin = made(Origin, (file, number, 1, line))
            rows.append(made(Row, (origin, subject, path, action, (), bool(below))))
            continue
        stripped = line.strip()
        if not stripped or stripped[0] == "#":
            continue
        origin = Origin(file, number, len(line) - len(line.lstrip()) + 1, stripped)
        kind, comma, rest = stripped.partition(",")
        match kind.rstrip() if comma else "":
            case "p":
                rows.append(_row(origin, _fields(rest, origin), model))
            case "g":
                roles.append(_role(origin, _fields(rest, origin), model))
            case "a":
                action_roles.append(_action_role(origin, _fields(rest, origin), model))
            case _:
                findings.append(
                    Finding(origin, f"no rule, so it counts nothing: {stripped}", "write # before a comment")
                )
    if not rows:
        findings.append(
            Finding(Origin(file, 1, 1, ""), "there is no rule", "write one, as: p, /path, read, file, deny")
        )
    return Casbin(model, tuple(rows), tuple(roles), tuple(action_roles)), findings


def _lines(model: Model) -> re.Pattern[str]:
    """Lines: the whole of each, and of a rule without arguments, quotes, comments, words of several and letters beyond
    ASCII, as most are, subject, path, action, and dir if it says so. What does not look so is read field by field."""
    if "args" in model.columns:
        return re.compile("(?m)^(.*)()()()()$")
    word = r"([!$-')-+\--~]+)"  # no space, comma, ", # and (
    kind = "(?:file|(dir))" if "obj" in model.columns else "()"
    shape = [word if column in model.columns else "()" for column in ("sub", "obj", "act")] + [kind]
    fields = "".join(group if group == "()" else f", ?{group}" for group in shape)
    return re.compile(f"(?m)^(p{fields}, ?{'allow' if model.whitelist else 'deny'}$|.*)")


Field = str | tuple[str, ...]


def _fields(text: str, origin: Origin) -> list[Field]:
    """What the commas part; a tuple in parentheses is one field."""
    if not any(character in text for character in '"#('):  # as most lines are
        return [field.strip() for field in text.split(",")]
    return list(_Scanner(text, origin).fields())


class _Scanner:
    """A line, and how far it has been read."""

    def __init__(self, text: str, origin: Origin) -> None:
        self.text, self.origin, self.at = text, origin, 0

    def fields(self) -> Iterator[Field]:
        while True:
            self._skip()
            yield self._tuple() if self._next() == "(" else self._value(",")
            if not self._next():
                return
            if self._next() != ",":
                raise refused(self.origin, f"{self._next()} behind a field", "write a comma between fields")
            self.at += 1

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def _skip(self) -> None:
        while self._next().isspace():
            self.at += 1
        if self._next() == "#":
            self.at = len(self.text)

    def _tuple(self) -> tuple[str, ...]:
        members = []
        while self._next() != ")":
            self.at += 1
            members.append(self._value(",)"))
            if not self._next():
                raise refused(self.origin, "( without )", "close the tuple")
        self.at += 1
        self._skip()
        return tuple(members)

    def _value(self, ends: str) -> str:
        self._skip()
        if self._next() == '"':
            return self._quoted(ends)
        begin = self.at
        while self._next() and self._next() not in ends:
            if self._next() == "#" and self.text[self.at - 1].isspace():
                value, self.at = self.text[begin : self.at], len(self.text)
                return value.strip()
            self.at += 1
        return self.text[begin : self.at].strip()

    def _quoted(self, ends: str) -> str:
        pieces = []
        while self._next() == '"':  # a doubled one is one of the text
            close = self.text.find('"', self.at + 1)
            if close < 0:
                raise refused(self.origin, 'a " is not closed', 'write " at the end, and "" for one in the text')
            pieces.append(self.text[self.at + 1 : close])
            self.at = close + 1
        value = '"'.join(pieces)
        self._skip()
        if self._next() and self._next() not in ends:
            raise refused(self.origin, f"{self._next()} behind a closing quote", "quote the whole field")
        return value


def _row(origin: Origin, fields: list[Field], model: Model) -> Row:
    columns = [column for column in model.columns if not (column == "args" and model.action_roles)]
    kinds = ["kind"] if "obj" in columns or len(fields) == len(columns) + 2 else []
    wanted = [*columns, *kinds, "eft"]
    if len(fields) != len(wanted):
        shape = ", ".join(
            ["p", *("(args)" if name == "args" else name for name in columns), *(["file or dir"] if kinds else [])]
        )
        effect = "allow" if model.whitelist else "deny"
        raise refused(
            origin,
            f"a rule of this model has {len(wanted)} columns, this has {len(fields)}",
            f"write {shape}, {effect}",
        )
    given = dict(zip(wanted, fields, strict=True))
    for column, field in given.items():
        if isinstance(field, tuple) != (column == "args") or not field:
            raise refused(
                origin, f"the column {column} is {field or 'empty'}", "arguments, and they alone, stand in ( )"
            )
    _check_count(origin, given.get("args", ()))
    if given["eft"] != ("allow" if model.whitelist else "deny"):
        effect, other = ("white", "allow") if model.whitelist else ("black", "deny")
        raise refused(
            origin, f"the model's effect makes a {effect}list, the rule says {given['eft']}", f"write {other}"
        )
    if kinds and given["kind"] not in ("file", "dir"):
        raise refused(origin, f"{given['kind']} is no kind", "write file, or dir for all below a directory")
    action = given.get("act", "")
    if action and not model.action_roles and action not in ACTIONS:
        raise refused(origin, f"unknown operation {action}", operations.like(str(action), ACTIONS))
    values = {
        "subject": given.get("sub", ""),
        "path": given.get("obj", ""),
        "action": action,
        "arguments": given.get("args", ()),
    }
    return Row(origin, **values, directory=given.get("kind") == "dir")  # type: ignore[arg-type]


def _check_count(origin: Origin, arguments: Field) -> None:
    if not 0 <= len(arguments) <= MOST_ARGUMENTS:
        raise refused(origin, f"there are {len(arguments)} arguments", f"write up to {MOST_ARGUMENTS}, * for any")


def _role(origin: Origin, fields: list[Field], model: Model) -> tuple[str, str]:
    match fields:
        case [str(program), str(role)] if program and role and model.roles:
            return program, role
    remedy = "write g, program, role" if model.roles else f"write {ROLES} in the model's matcher"
    raise refused(origin, "this says nothing that the model knows", remedy)


def _action_role(origin: Origin, fields: list[Field], model: Model) -> tuple[str, str, tuple[str, ...]]:
    match fields:
        case [str(role), str(action), tuple(arguments)] if role and model.action_roles:
            if action not in ACTIONS:
                raise refused(origin, f"unknown operation {action}", operations.like(action, ACTIONS))
            _check_count(origin, arguments)
            return role, action, arguments
    remedy = (
        "write a, role, operation, (arguments)"
        if model.action_roles
        else f"write {ACTION_ROLES} in the model's matcher"
    )
    raise refused(origin, "this says nothing that the model knows", remedy)


# --- rows to rules


class _Wanted(NamedTuple):
    """What one row asks for at one place."""

    origin: Origin
    action: str
    arguments: tuple[str, ...]


def to_part(casbin: Casbin, subjects: frozenset[str], layer: int = 1) -> tuple[Part, list[Finding]]:
    """The rules for a sandbox whose program is called any of SUBJECTS, and what cannot be meant."""
    model, findings = casbin.model, []
    roles = {role for program, role in casbin.roles if program in subjects}
    known = {role for _, role in casbin.roles}
    default = LEFT_OPEN if model.whitelist else operations.ALL
    plain = {action: Verdict(model.whitelist, mask, layer=layer, closes=True) for action, mask in ACTIONS.items()}
    plain[""] = Verdict(model.whitelist, operations.ALL, layer=layer, closes=True)
    rules: list[Rule] = []
    asked: dict[Place, list[_Wanted]] = {}
    others: dict[str, Origin] = {}
    called = roles if model.roles else subjects
    simple = "args" not in model.columns
    for row in casbin.rows:
        origin, subject, path, action, _, directory = row
        if subject and subject not in called:
            others.setdefault(subject, origin)
            continue
        try:
            place = places.literal(path) if path else EVERYWHERE
        except ValueError as error:
            raise refused(origin, f"{path}: {error}", "write a path as the kernel resolves it") from error
        if directory and path:
            place = places.below(place)
        if simple:
            rules.append(made(Rule, (plain[action], place, origin)))
        else:
            asked.setdefault(place, []).extend(_wanted(row, casbin))
    for subject, origin in others.items():
        if model.roles and subject not in known:
            findings.append(Finding(origin, f"nobody has the role {subject}", f"write g, program, {subject}"))
        else:
            program = " or ".join(sorted(subjects)) or "nothing"
            problem = f"rules for {subject} never match here: this sandbox's program is {program}"
            findings.append(
                Finding(origin, problem, "name the program that the sandbox starts with, or leave them out")
            )
    for place, wanted in asked.items():
        rules += _with_arguments(place, wanted, plain, findings)
    return Part(default, None, tuple(rules)), findings


def _wanted(row: Row, casbin: Casbin) -> Iterator[_Wanted]:
    if not casbin.model.action_roles:
        yield _Wanted(row.origin, row.action, row.arguments)
        return
    held = [(action, arguments) for role, action, arguments in casbin.action_roles if role == row.action]
    if not held:
        raise refused(
            row.origin, f"no line says what the role {row.action} may", f"write a, {row.action}, operation, (arguments)"
        )
    for action, arguments in held:
        yield _Wanted(row.origin, action, arguments)


def _with_arguments(
    place: Place, wanted: list[_Wanted], plain: dict[str, Verdict], findings: list[Finding]
) -> Iterator[Rule]:
    """An operation with arguments at a place is decided by the last rule that has some, and by no other."""
    last = {bit: want for want in wanted if not _any(want.arguments) for bit in operations.names(ACTIONS[want.action])}
    taken = operations.mask(last)
    for want in wanted:
        mask = ACTIONS[want.action]
        if mask & ~taken or not mask:
            yield Rule(plain[want.action]._replace(operations=mask & ~taken), place, want.origin)
        elif want not in last.values():
            problem = f"{last[operations.names(mask)[0]].origin} takes its place: {want.origin.text}"
            findings.append(Finding(want.origin, problem, "write one rule with arguments for an operation and a path"))
    for bit, want in last.items():
        tests = _tests(want, bit)
        if tests:
            yield Rule(plain[want.action]._replace(operations=operations.BIT[bit], tests=tests), place, want.origin)


def _any(arguments: tuple[str, ...]) -> bool:
    return all(argument == "*" for argument in arguments)


def _tests(want: _Wanted, operation: str) -> tuple[Test, ...]:
    """None at all if this operation has no argument in a place where one is wanted."""
    order = operations.TABLE[operation].order
    if want.action == "setattr":
        order = SETATTR.get(operation, ("", "", ""))
    if len(want.arguments) > len(order):
        known = ", ".join(order) or "none"
        raise refused(want.origin, f"{want.action} has no {len(want.arguments)} arguments", f"it has {known}")
    tests: list[Test] = []
    for name, value in zip(order, want.arguments, strict=False):
        if value == "*":
            continue
        if not name:
            return ()
        tests.append(_test(want.origin, name, value))
    return tuple(tests)


def _test(origin: Origin, name: str, value: str) -> Test:
    if name == operations.OTHER:
        try:
            return Other(places.literal(value))
        except ValueError as error:
            raise refused(origin, f"{value}: {error}", "write the second path, or * for any") from error
    if name in ("target", "attribute"):
        return Text(name, places.Glob((value.encode("utf-8", "surrogateescape"),)))
    if not re.fullmatch(r"-?[0-9]{1,20}", value) or not -(1 << 63) <= int(value) < 1 << 64:
        raise refused(origin, f"{name} is {value}", "write a decimal number of 64 bits, or * for any")
    number = int(value) - (1 << 64) if int(value) >> 63 > 0 else int(value)
    return Number(name, number, number)
