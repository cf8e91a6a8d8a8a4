# SPDX-License-Identifier: Apache-2.0
"""From text to table: a policy as it was written, in either spelling, and what comes of it."""

from dataclasses import dataclass
from typing import NamedTuple

from boesfsd.documents import Document, Schema
from boesfsd.errors import BoesError
from boesfsd.policy import block, casbin, findings
from boesfsd.policy.compiler import compile_policy
from boesfsd.policy.rules import Finding, Origin, Part, Policy, together
from boesfsd.policy.table import Table, TooLargeError

KEY = "policy"
_schema = Schema(block.SCHEMA)


class Block(NamedTuple):
    """YAML: the block is the value behind KEYS, or all of it. FILE is what the user calls it, for messages."""

    file: str
    text: str
    keys: tuple[str, ...] = ()


class Files(NamedTuple):
    """The original's two files, by the names the user gives them."""

    model_file: str
    model: str
    policy_file: str
    policy: str
    kill: int | None = None


Source = Block | Files


class Sandbox(NamedTuple):
    """Where a policy is used. VARIABLES: what ${NAME} stands for. SUBJECTS: what the program that it is started with is
    called. MOUNTS: the paths where it has something; none: not known."""

    variables: dict[str, str]
    subjects: frozenset[str] = frozenset()
    mounts: tuple[str, ...] = ()


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


def open_block(text: str, file: str) -> Block:
    """A file with a block alone, or with one behind the key policy, as func.yaml. InvalidPolicy."""
    data = Document(text, file, "InvalidPolicy").data
    return Block(file, text, (KEY,) if isinstance(data.get(KEY), dict) else ())


def read(source: Source, sandbox: Sandbox, layer: int = 1) -> tuple[Part, list[Finding]]:
    """What SOURCE says; LAYER as in Verdict. InvalidPolicy names file, line, column, rule and remedy."""
    if isinstance(source, Block):
        return _read_block(source, sandbox, layer)
    model = casbin.parse_model(source.model, source.model_file)
    parsed, told = casbin.parse_policy(source.policy, source.policy_file, model)
    part, more = casbin.to_part(parsed, sandbox.subjects, layer)
    return part._replace(kill=source.kill), [*told, *more]


def _read_block(source: Block, sandbox: Sandbox, layer: int) -> tuple[Part, list[Finding]]:
    document = Document(source.text, source.file, "InvalidPolicy")
    data = document.data
    for key in source.keys:
        data = data[key]

    def where(keys: tuple[str | int, ...]) -> Origin:
        return Origin(source.file, *document.place((*source.keys, *keys)))

    if fault := _schema.fault(data):
        keys, problem, hint = fault
        origin = where(keys)
        raise BoesError("InvalidPolicy", f"{origin}: {problem}: {origin.text}", hint=hint or "see boesfs-policy(5)")
    reader = block.Reader(data, where, sandbox.variables, layer)
    return reader.read(), reader.findings


def written(source: Source) -> str:
    """The policy as it was written, without what surrounds it."""
    if isinstance(source, Files):
        return f"# {source.model_file}\n{source.model.rstrip()}\n\n# {source.policy_file}\n{source.policy.rstrip()}\n"
    return Document(source.text, source.file, "InvalidPolicy").text_of(source.keys) if source.keys else source.text


def compile_sources(app: Source | None, function: Source | None, sandbox: Sandbox, *, strict: bool = False) -> Compiled:
    """InvalidPolicy names what is wrong; with STRICT, what is only a finding else."""
    told: list[Finding] = []
    parts = []
    for layer, source in enumerate((app, function)):
        part, more = read(source, sandbox, layer) if source else (Part(), [])
        parts.append(part)
        told += more
    policy = together(*parts)
    try:
        table = compile_policy(policy)
    except TooLargeError as error:
        raise BoesError(
            "InvalidPolicy", f"The policy cannot be compiled: {error}", hint="use fewer places with ** and *"
        ) from error
    told += findings.of(policy, table, sandbox.mounts)
    if strict and told:
        more_told = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        origin, problem, remedy = told[0]
        raise BoesError("InvalidPolicy", f"{origin}: {problem}{more_told}", hint=remedy)
    return Compiled(policy, table, tuple(told))
