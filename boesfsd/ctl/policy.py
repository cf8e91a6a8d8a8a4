# SPDX-License-Identifier: Apache-2.0
"""boesfsctl policy: what may be asked of a policy, without the daemon."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from boesfsd.errors import BoesError
from boesfsd.layout import VARIABLES
from boesfsd.model import PolicyFiles, PolicySource
from boesfsd.policy import block, questions, sources
from boesfsd.policy.questions import Answer
from boesfsd.policy.sources import Compiled, Sandbox

DENIED = 1
MOST_BYTES = 64 << 20


def add(verbs: Any) -> None:
    """The verb and its own verbs."""
    mine = verbs.add_parser("policy", help="verify policies, and ask what they decide").add_subparsers(
        metavar="VERB", required=True
    )
    decide = mine.add_parser(
        "decide",
        help="say what a policy decides",
        description="Say what a policy decides, without daemon or root.",
        epilog="Exit status: 0 allowed, 1 denied, 2 the policy or the question cannot be used. Example: boesfsctl "
        "policy decide -f func.yaml chmod /tmp/x mode=0o755",
    )
    _add_files(decide)
    decide.add_argument("--uid", type=int, default=0, metavar="N", help="who does it, for rules with uid: (default 0)")
    decide.add_argument("--json", action="store_true", help="answer as JSON")
    decide.add_argument("operation", metavar="OP", help="as in boesfs-policy(5): read, open, chmod, setattr, rename …")
    decide.add_argument("path", metavar="PATH", help="absolute, in the sandbox")
    decide.add_argument("arguments", metavar="ARG", nargs="*", help="in their order, * for any, or as mode=0o644")
    decide.set_defaults(serve=_decide)
    verify = mine.add_parser(
        "verify",
        help="say what is wrong with a policy",
        description="Say what is wrong with a policy, and what it probably does not mean.",
        epilog="Exit status: 0, or 2 if it cannot be used.",
    )
    _add_files(verify)
    verify.add_argument("--strict", action="store_true", help="take warnings for errors")
    verify.set_defaults(serve=_verify)
    schema = mine.add_parser(
        "schema",
        help="print the JSON schema of a policy block",
        description="Print the JSON schema of a policy block, for editors.",
    )
    schema.set_defaults(serve=_schema)


def _add_files(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("-f", "--file", type=Path, help="YAML: a policy block, or a func.yaml with one")
    verb.add_argument("-m", "--model", type=Path, help="casbin: the model file")
    verb.add_argument("-p", "--policy", type=Path, help="casbin: the policy file")
    verb.add_argument(
        "--subject",
        default="",
        metavar="PROGRAM",
        help="casbin: the sandbox's program; block: the program that does it",
    )
    verb.add_argument(
        "--set", action="append", default=[], metavar="NAME=PATH", help="what ${NAME} stands for (CODE, TMP, HOME)"
    )


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise BoesError("InvalidPolicy", f"{file} is over {MOST_BYTES >> 20} MiB")
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BoesError("InvalidPolicy", f"{file}, line {line}: this is not UTF-8", hint="save it as UTF-8") from error
    except OSError as error:
        raise BoesError("InvalidPolicy", f"{file} cannot be read: {error.strerror}") from error


def _source(given: argparse.Namespace) -> PolicySource:
    if given.file and not (given.model or given.policy):
        return sources.open_block(_read(given.file), str(given.file))
    if given.model and given.policy and not given.file:
        return PolicyFiles(str(given.model), _read(given.model), str(given.policy), _read(given.policy))
    raise BoesError("InvalidArgs", "It is not said which policy", hint="give -f FILE, or -m MODEL and -p POLICY")


def _compiled(given: argparse.Namespace, *, strict: bool = False) -> Compiled:
    variables = dict(VARIABLES)
    for word in given.set:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise BoesError("InvalidArgs", f"--set {word}: this is no NAME=PATH", hint="write --set CODE=/srv/app")
        variables[name] = value
    sandbox = Sandbox(variables, sources.called(given.subject))
    compiled = sources.compile_sources(None, _source(given), sandbox, strict=strict)
    for finding in compiled.findings:
        print(f"Warning: {finding}", file=sys.stderr)
    return compiled


def _decide(given: argparse.Namespace) -> int:
    compiled = _compiled(given)
    programs = frozenset({given.subject} - {""})
    asked = questions.parse(given.operation, given.path, given.arguments, programs, given.uid)
    answers = [questions.answer(compiled, request) for request in asked]
    deciding = next((answer for answer in answers if not answer.allowed), answers[-1])
    depends = sorted({name for answer in answers for name in answer.depends})
    if given.json:
        print(json.dumps({**_told(deciding), "depends": depends}))
    else:
        print(f"{_word(deciding)}: {deciding.reason}")
        if depends:
            print(f"It depends on {', '.join(depends)}, which was not given.", file=sys.stderr)
    return 0 if deciding.allowed else DENIED


def _word(answer: Answer) -> str:
    return "allow" if answer.allowed else "deny"


def _told(answer: Answer) -> dict[str, Any]:
    rule = answer.rule
    return {
        "decision": _word(answer),
        "operation": answer.request.operation,
        "path": "/" + b"/".join(answer.request.path).decode("utf-8", "surrogateescape"),
        "reason": answer.reason,
        "rule": rule.origin._asdict() if rule else None,
    }


def _verify(given: argparse.Namespace) -> int:
    compiled = _compiled(given, strict=given.strict)
    table = compiled.table
    print(
        f"{len(compiled.policy.rules)} rules, {len(table.states)} states, {len(table.edges)} names, "
        f"{len(compiled.findings)} warnings"
    )
    return 0


def _schema(_: argparse.Namespace) -> int:
    print(json.dumps(block.SCHEMA, indent=1))
    return 0
