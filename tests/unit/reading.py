# SPDX-License-Identifier: Apache-2.0
"""What every text must be read to: a policy whose table says what the oracle says, or an error that names the text.

A piece of input is a letter for its kind and a text: b a block, y a func.yaml, c a model and a policy of the original,
with a form feed between them.
"""

import random
import re
import textwrap
import zlib
from collections.abc import Iterator
from pathlib import Path

from policies import Random, samples

from boesfsd import manifest
from boesfsd.errors import BoesError
from boesfsd.model import PolicyBlock, PolicyFiles, PolicyProgram, PolicySource
from boesfsd.policy import casbin, operations, oracle
from boesfsd.policy.places import DEPTH, Glob, Place
from boesfsd.policy.rules import Number, Other, Policy, Program, Text, Uid
from boesfsd.policy.sources import Sandbox, compile_sources, open_block
from boesfsd.policy.table import Request, Table

CASBIN, BLOCK, MANIFEST = b"cby"
BETWEEN = "\f"
QUESTIONS = 24
NOWHERE = Path("/proc/self/nowhere")
SANDBOX = Sandbox({"CODE": "/function", "TMP": "/tmp", "HOME": "/home/boes"}, frozenset({"bash", "/bin/bash"}))
FILLERS = (b"", b"a", b"b", b"x", b"ab", b"\xff", b"a" * 59)


TOP = Path(__file__).resolve().parents[2]
PAIRS = 60


class DisagreementError(Exception):
    """Oracle and table differ about a question."""


def try_text(data: bytes) -> str:
    """How DATA was read: `refused`, or `asked`. DisagreementError; any other error is one of the reader's."""
    if not data or data[0] not in (CASBIN, BLOCK, MANIFEST):
        return "refused"
    text = data[1:].decode("utf-8", "surrogateescape")
    try:
        source = _source(data[0], text)
        compiled = compile_sources(None, source, SANDBOX) if source else None
    except BoesError as error:
        if error.code not in ("InvalidPolicy", "InvalidManifest") or not str(error):
            raise DisagreementError(f"{error.code} is no error of a text") from error
        return "refused"
    if compiled is None or source is None:
        return "refused"
    rng = random.Random(zlib.crc32(data))
    for request in _requests(rng, compiled.policy):
        _ask(compiled.policy, compiled.table, source, request)
    return "asked"


def _source(kind: int, text: str) -> PolicySource | None:
    if kind == CASBIN:
        model, _, policy = text.partition(BETWEEN)
        return PolicyFiles("model", model, "policy", policy)
    found = open_block(text, "block") if kind == BLOCK else manifest.read_policy(manifest.parse(text), NOWHERE, {})
    return None if isinstance(found, PolicyProgram) else found


def _ask(policy: Policy, table: Table, source: PolicyBlock | PolicyFiles, request: Request) -> None:
    said = [oracle.decide(policy, request)[0], table.decide(request)[0]]
    if isinstance(source, PolicyFiles):
        both = casbin.parse_policy(source.policy, "policy", casbin.parse_model(source.model, "model"))[0]
        said.append(oracle.decide_casbin(both, SANDBOX.subjects, request))
    if len(set(said)) != 1:
        raise DisagreementError(f"{request}: {said}")


def _requests(rng: random.Random, policy: Policy) -> Iterator[Request]:
    """Questions about what the rules name, and about what is beside it."""
    tests = [test for rule in policy.rules for test in rule.verdict.tests]
    numbers = [(test.low, test.high) for test in tests if isinstance(test, Number)]
    texts = [test.glob for test in tests if isinstance(test, Text)]
    others = [test.place for test in tests if isinstance(test, Other)]
    programs = [test.path for test in tests if isinstance(test, Program)]
    uids = [bound for test in tests if isinstance(test, Uid) for bound in (test.low, test.high)]
    places = [rule.place for rule in policy.rules] or [Place(())]

    def number() -> int:
        near = rng.choice(rng.choice(numbers)) if numbers and rng.random() < 0.8 else rng.randrange(5)
        return (near + rng.randrange(-1, 2)) % (1 << 64)

    for _ in range(QUESTIONS):
        about = rng.choice(policy.rules) if policy.rules and rng.random() < 0.7 else None
        named = operations.names(about.verdict.operations) if about else []
        row = operations.TABLE[rng.choice(named or list(operations.TABLE))]
        arguments = {name: number() for name in row.arguments}
        if row.name == "chown" and rng.random() < 0.5:
            del arguments[rng.choice(("uid", "gid"))]
        yield Request(
            row.name,
            _path(rng, about.place if about else rng.choice(places)),
            _path(rng, rng.choice(others or places)),
            arguments,
            {name: _name(rng, rng.choice(texts)) if texts else b"a" for name in row.texts if name != operations.OTHER},
            frozenset(program for program in programs if rng.random() < 0.5),
            max(0, rng.choice(uids) + rng.randrange(-1, 2)) if uids else 0,
        )


def _path(rng: random.Random, place: Place) -> tuple[bytes, ...]:
    """One that is at PLACE, or nearly."""
    names: list[bytes] = []
    for component in place.components:
        if component is DEPTH:
            names += [rng.choice(FILLERS[1:]) for _ in range(rng.randrange(3))]
        elif isinstance(component, Glob):
            names.append(_name(rng, component) or b"a")
        elif isinstance(component, bytes):
            names.append(component)
    if names and rng.random() < 0.2:
        names[rng.randrange(len(names))] = rng.choice(FILLERS[1:])
    if rng.random() < 0.2:
        del names[rng.randrange(len(names) + 1) :]
    if rng.random() < 0.2:
        names.append(rng.choice(FILLERS[1:]))
    return tuple(names)


def _name(rng: random.Random, glob: Glob) -> bytes:
    first, *rest = glob.parts
    return first + b"".join(rng.choice(FILLERS) + part for part in rest)


def seeds() -> list[bytes]:
    """The specification's samples, random pairs of files, the blocks of boesfs-policy(5) and of the examples."""
    found = [b"c" + f"{item.model}{BETWEEN}{item.policy}".encode() for item in samples()]
    found += [b"c" + BETWEEN.join(Random(seed).casbin()).encode() for seed in range(PAIRS)]
    page = (TOP / "docs/man/boesfs-policy.5").read_text()
    page = page.replace("\\-", "-").replace("\\(dq", '"').replace("\\(aq", "'").replace("\\e", "\\")
    blocks = [
        text for text in re.findall(r"^\.nf\n(.*?)^\.fi", page, re.M | re.S) if "rules:" in text or "allow" in text
    ]
    blocks += [file.read_text() for file in [*(TOP / "examples").rglob("*.yaml"), TOP / "etc/policy.yaml"]]
    found += [b"b" + text.encode() for text in blocks]
    found += [b"y" + _manifest(text).encode() for text in blocks if "schema_version" not in text]
    return found


def _manifest(text: str) -> str:
    """A func.yaml with the block of TEXT."""
    block = text if text.startswith("policy:") else "policy:\n" + textwrap.indent(text, "  ")
    return f"schema_version: 20180708\nname: x\n{block}"
