# SPDX-License-Identifier: Apache-2.0
"""From text to table: a policy as it was written, in either spelling, and what comes of it."""

import contextlib
import dataclasses
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from boesfsd.documents import Document, Schema
from boesfsd.errors import BoesError
from boesfsd.model import PolicyBlock, PolicyFiles, PolicyProgram, PolicySource
from boesfsd.policy import block, casbin, findings, operations
from boesfsd.policy.compiler import compile_policy
from boesfsd.policy.places import split
from boesfsd.policy.rules import APP, FUNCTION, NOTHING, Finding, Origin, Part, Policy, together
from boesfsd.policy.table import Table, TooLargeError

KEY, PROGRAM = "policy", "program"
_schema = Schema(block.SCHEMA)


class Sandbox(NamedTuple):
    """Where a policy is used. VARIABLES: what ${NAME} stands for. SUBJECTS: what the program that it is started with is
    called. MOUNTS: the paths where it has something; none: not known. PLATFORM: rules that it needs itself. WAYS: paths
    that everybody has to be able to walk over, or it could not be made. KILL, if it is not None, comes before what the
    policy says of that."""

    variables: dict[str, str]
    subjects: frozenset[str] = frozenset()
    mounts: tuple[str, ...] = ()
    platform: Part = NOTHING
    ways: tuple[str, ...] = ()
    kill: int | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a function's policy, with its app's, comes to."""

    policy: Policy
    table: Table
    findings: tuple[Finding, ...]


def called(program: str) -> frozenset[str]:
    """What rules of the original may call the program that a sandbox is started with: its path, with /usr or without
    where both lead to the same, or its name."""
    names = {program, program.rpartition("/")[2]}
    for directory in ("/bin/", "/sbin/"):
        if program.startswith(directory):
            names.add(f"/usr{program}")
        if program.startswith(f"/usr{directory}"):
            names.add(program.removeprefix("/usr"))
    return frozenset(names - {""})


def open_block(text: str, file: str) -> PolicyBlock | PolicyProgram:
    """A file with a block alone, or with one behind the key policy, as func.yaml; a block may name a program instead.
    InvalidPolicy."""
    document = Document(text, file, "InvalidPolicy")
    keys = (KEY,) if isinstance(document.data.get(KEY), dict) else ()
    source = PolicyBlock(file, text, keys)
    data = document.data[KEY] if keys else document.data
    if PROGRAM not in data:
        return source
    where = _places(document, source)
    if others := [key for key in data if key != PROGRAM]:
        problem = f"{where((others[0],))}: {others[0]}: a program decides alone"
        raise BoesError("InvalidPolicy", problem, hint=f"leave out {PROGRAM}:, or all others")
    _check_block(data, where)
    return PolicyProgram(file, data[PROGRAM])


def read(source: PolicySource, sandbox: Sandbox, layer: int = FUNCTION) -> tuple[Part, list[Finding]]:
    """What SOURCE says; LAYER as in Verdict. InvalidPolicy names file, line, column, rule and remedy."""
    if isinstance(source, PolicyBlock):
        return _read_block(source, sandbox, layer)
    if isinstance(source, PolicyProgram):
        problem = f"{source.file}: the program {source.program} decides, and says to nobody what"
        raise BoesError("InvalidPolicy", problem, hint="ask a policy with rules")
    for file, text in ((source.model_file, source.model), (source.policy_file, source.policy)):
        if "\0" in text:
            line = text[: text.index("\0")].count("\n") + 1
            raise BoesError("InvalidPolicy", f"{file}, line {line}: there is a NUL in it", hint="a policy is text")
    model = casbin.parse_model(source.model, source.model_file)
    parsed, told = casbin.parse_policy(source.policy, source.policy_file, model)
    part, more = casbin.to_part(parsed, sandbox.subjects, layer)
    return part._replace(kill=source.kill), [*told, *more]


def _read_block(source: PolicyBlock, sandbox: Sandbox, layer: int) -> tuple[Part, list[Finding]]:
    document = Document(source.text, source.file, "InvalidPolicy")
    data = document.data
    for key in source.keys:
        data = data[key]

    where = _places(document, source)
    _check_block(data, where)
    reader = block.Reader(data, where, sandbox.variables, layer)
    return reader.read(), reader.findings


def _places(document: Document, source: PolicyBlock) -> block.Where:
    return lambda keys: Origin(source.file, *document.place((*source.keys, *keys)))


def _check_block(data: Any, where: block.Where) -> None:
    rules = data.get("rules") if isinstance(data, dict) else None
    others = [rule for rule in rules if not block.is_plain(rule)] if isinstance(rules, list) else rules
    if others != rules and not _schema.fault({**data, "rules": others}):
        return
    if fault := _schema.fault(data):
        keys, problem, hint = fault
        origin = where(keys)
        raise BoesError("InvalidPolicy", f"{origin}: {problem}: {origin.text}", hint=hint or "see boesfs-policy(5)")


def written(source: PolicySource) -> str:
    """The policy as it was written, without what surrounds it."""
    if isinstance(source, PolicyProgram):
        return f"{PROGRAM}: {source.program}\n"
    if isinstance(source, PolicyFiles):
        return f"# {source.model_file}\n{source.model.rstrip()}\n\n# {source.policy_file}\n{source.policy.rstrip()}\n"
    return Document(source.text, source.file, "InvalidPolicy").text_of(source.keys) if source.keys else source.text


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Hardly anything that a compiler makes is garbage before it ends; looking for it takes a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_uncollected()
def compile_sources(
    app: PolicySource | None, function: PolicySource | None, sandbox: Sandbox, *, strict: bool = False
) -> Compiled:
    """InvalidPolicy names what is wrong; with STRICT, what is only a finding else."""
    told: list[Finding] = []
    parts = []
    for layer, source in ((APP, app), (FUNCTION, function)):
        part, more = read(source, sandbox, layer) if source else (NOTHING, [])
        parts.append(part)
        told += more
    policy = together(parts[0], parts[1], sandbox.platform)
    if sandbox.kill is not None:
        policy = dataclasses.replace(policy, kill=sandbox.kill)
    try:
        table = compile_policy(policy)
    except TooLargeError as error:
        raise BoesError(
            "InvalidPolicy", f"The policy cannot be compiled: {error}", hint="use fewer places with ** and *"
        ) from error
    _check_ways(policy, sandbox.ways)
    told += findings.of(policy, table, sandbox.mounts)
    if strict and told:
        more_told = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        origin, problem, remedy = told[0]
        raise BoesError("InvalidPolicy", f"{origin}: {problem}{more_told}", hint=remedy)
    return Compiled(policy, table, tuple(told))


def _check_ways(policy: Policy, ways: tuple[str, ...]) -> None:
    """Only a rule that names such a path itself comes before the platform's."""
    lookup, wanted = operations.BIT["lookup"], {split(way.encode()): way for way in ways}
    for verdict, place, origin in policy.rules:
        way = wanted.get(place.components)  # type: ignore[arg-type]
        if way and verdict.operations & lookup and not verdict.allow:
            problem = f"{origin}: {way}: lookup is denied where the sandbox has something mounted: {origin.text}"
            raise BoesError("InvalidPolicy", problem, hint=f"deny what is below it, as {way}/*, or leave lookup out")
