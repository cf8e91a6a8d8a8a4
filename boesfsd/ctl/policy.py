# SPDX-License-Identifier: Apache-2.0
"""boesfsctl policy decide, verify, schema: what may be asked of a policy, without the daemon."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from boesfsd import host, layout, runtimes
from boesfsd.errors import BoesError
from boesfsd.layout import VARIABLES
from boesfsd.model import Json, PolicyFiles, PolicySource
from boesfsd.policy import block, landlock, questions, sources
from boesfsd.policy.landlock import Kept
from boesfsd.policy.sources import Compiled, Sandbox

DENIED = 1
MOST_BYTES = 64 << 20


def add(verbs: Any) -> Any:
    """The verb and those of its verbs that need no daemon; to what it gives, others can be added."""
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
    add_files(decide)
    _add_sandbox(decide)
    decide.add_argument("--uid", type=int, default=0, metavar="N", help="who does it, for rules with uid: (default 0)")
    add_question(decide)
    decide.set_defaults(serve=_decide)
    verify = mine.add_parser(
        "verify",
        help="say what is wrong with a policy",
        description="Say what is wrong with a policy, and what it probably does not mean.",
        epilog="Exit status: 0, or 2 if it cannot be used.",
    )
    add_files(verify)
    _add_sandbox(verify)
    verify.add_argument("--strict", action="store_true", help="take warnings for errors")
    verify.add_argument(
        "--landlock",
        metavar="RUNTIME",
        help="say too how each rule is kept without BoesFS, for functions of this runtime: exact, stricter, impossible",
    )
    verify.set_defaults(serve=_verify)
    schema = mine.add_parser(
        "schema",
        help="print the JSON schema of a policy block",
        description="Print the JSON schema of a policy block, for editors.",
    )
    schema.set_defaults(serve=_schema)
    return mine


def add_question(verb: argparse.ArgumentParser) -> None:
    """The words of a question."""
    verb.add_argument("--json", action="store_true", help="answer as JSON")
    verb.add_argument("operation", metavar="OP", help="as in boesfs-policy(5): read, open, chmod, setattr, rename …")
    verb.add_argument("path", metavar="PATH", help="absolute, in the sandbox")
    verb.add_argument("arguments", metavar="ARG", nargs="*", help="in their order, * for any, or as mode=0o644")


def add_files(verb: argparse.ArgumentParser) -> None:
    """The options that say which policy."""
    verb.add_argument("-f", "--file", type=Path, help="YAML: a policy block, or a func.yaml with one")
    verb.add_argument("-m", "--model", type=Path, help="casbin: the model file")
    verb.add_argument("-p", "--policy", type=Path, help="casbin: the policy file")


def _add_sandbox(verb: argparse.ArgumentParser) -> None:
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


def source(given: argparse.Namespace) -> PolicySource:
    """The policy that the options name. InvalidPolicy, InvalidArgs."""
    if given.file and not (given.model or given.policy):
        return sources.open_block(_read(given.file), str(given.file))
    if given.model and given.policy and not given.file:
        return PolicyFiles(str(given.model), _read(given.model), str(given.policy), _read(given.policy))
    problem = "Two policies are said" if given.file else "It is not said which policy"
    raise BoesError("InvalidArgs", problem, hint="give -f FILE, or -m MODEL and -p POLICY")


def _compiled(given: argparse.Namespace, *, strict: bool = False) -> Compiled:
    variables = dict(VARIABLES)
    for word in given.set:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise BoesError("InvalidArgs", f"--set {word}: this is no NAME=PATH", hint="write --set CODE=/srv/app")
        variables[name] = value
    sandbox = Sandbox(variables, sources.called(given.subject))
    compiled = sources.compile_sources(None, source(given), sandbox, strict=strict)
    for finding in compiled.findings:
        print(f"Warning: {finding}", file=sys.stderr)
    return compiled


def _decide(given: argparse.Namespace) -> int:
    compiled = _compiled(given)
    programs = frozenset({given.subject} - {""})
    asked = questions.parse(given.operation, given.path, given.arguments, programs, given.uid)
    return tell(questions.told(questions.decide(compiled, asked)), as_json=given.json)


def tell(told: Json, *, as_json: bool) -> int:
    """Print an answer (questions.told); the exit status."""
    if as_json:
        print(json.dumps(told))
    else:
        print(f"{told['decision']}: {told['reason']}")
        if told["depends"]:
            print(f"It depends on {', '.join(told['depends'])}, which was not given.", file=sys.stderr)
    return 0 if told["decision"] == "allow" else DENIED


def _verify(given: argparse.Namespace) -> int:
    compiled = _compiled(given, strict=given.strict)
    table = compiled.table
    print(
        f"{len(compiled.policy.rules)} rules, {len(table.states)} states, {len(table.edges)} names, "
        f"{len(compiled.findings)} warnings"
    )
    return _tell_kept(compiled, given) if given.landlock else 0


def _tell_kept(compiled: Compiled, given: argparse.Namespace) -> int:
    """How each rule is kept without BoesFS, with the code that is beside a func.yaml."""
    known = runtimes.find(runtimes.load(), given.landlock)
    beside = {layout.CODE: str(given.file.parent)} if given.file and given.file.name == "func.yaml" else {}
    made = layout.Layout(known.binds | beside, {}, known.links, dict.fromkeys(layout.FILES, ""), known.hide)
    made = layout.distinct(made)
    kept = landlock.confine(compiled.policy, layout.tree(made, host.looking(made.trees, made.hidden)))
    for told in kept.told:
        print(told)
    return 2 if any(told.kept is Kept.IMPOSSIBLE for told in kept.told) else 0


def _schema(_: argparse.Namespace) -> int:
    print(json.dumps(block.SCHEMA, indent=1))
    return 0
