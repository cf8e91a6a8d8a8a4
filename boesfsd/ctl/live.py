# SPDX-License-Identifier: Apache-2.0
"""boesfsctl policy show, set, diff, test: the policies of functions and apps, as boesfsd has them."""

import argparse
import contextlib
import json
import sys
from typing import Any

from boesfsd.ctl import policy
from boesfsd.ctl.daemon import Daemon
from boesfsd.errors import BoesError
from boesfsd.manifest import POLICY_MAX
from boesfsd.model import Json, PolicyBlock, PolicyFiles, PolicySource
from boesfsd.policy import sources

DIFFERS = 1
SIGNS = {"allow": "+", "deny": "-", "depend": "?", "told": "~", "same": "=", "kill": "!"}


def add(verbs: Any) -> None:
    """These verbs, to those of `policy`."""
    show = verbs.add_parser(
        "show",
        help="show what judges a function",
        description="Show a function's policy, its app's, and the size of the table made of both; or an app's policy.",
    )
    show.add_argument("--table", action="store_true", help="the table itself: states and what is allowed there")
    show.add_argument("--json", action="store_true", help="answer as JSON")
    _add_whose(show, "APP[/FN]")
    show.set_defaults(serve=_show)
    put = verbs.add_parser(
        "set",
        help="give a function or an app another policy",
        description="Give a function or an app another policy, which judges from now on, instances that run too.",
    )
    _add_policy(put)
    put.add_argument("--strict", action="store_true", help="take warnings for errors")
    put.add_argument("--dry-run", action="store_true", help="check it and change nothing")
    _add_whose(put, "APP[/FN]")
    put.set_defaults(serve=_set)
    diff = verbs.add_parser(
        "diff",
        help="say what another policy would change",
        description="Say what another policy would change for a function, or for those of an app: + is allowed then, - "
        "is denied, ? depends on something, or on something else, ~ is told of or counted otherwise, = stays where a "
        "wider place changes.",
        epilog="Exit status: 0 nothing, 1 something, 2 the policy cannot be used.",
    )
    _add_policy(diff)
    diff.add_argument("--json", action="store_true", help="answer as JSON")
    _add_whose(diff, "APP[/FN]")
    diff.set_defaults(serve=_diff)
    test = verbs.add_parser(
        "test",
        help="say what a function's policy decides",
        description="Say what a function's policy decides, by its rules and by the table in the kernel.",
        epilog="Exit status: 0 allowed, 1 denied, 2 the question cannot be used. Example: boesfsctl policy test "
        "shop/hello chmod /tmp/x mode=0o755",
    )
    test.add_argument("--program", metavar="PATH", help="the program that does it, by its path in the sandbox")
    test.add_argument("--uid", type=_uid, metavar="N", help="who does it, if it is not the function's user")
    _add_whose(test, "APP/FN")
    policy.add_question(test)
    test.set_defaults(serve=_test)


def _uid(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text} is no user id")
    return int(text)


def _add_whose(verb: argparse.ArgumentParser, whose: str) -> None:
    verb.add_argument("whose", metavar=whose, help="which function" if whose == "APP/FN" else "which function or app")


def _add_policy(verb: argparse.ArgumentParser) -> None:
    policy.add_files(verb)
    verb.add_argument("--none", action="store_true", help="none of its own")


def _policy(given: argparse.Namespace) -> tuple[str, Json]:
    """The policy's text and what it takes to read it; the text is empty for none."""
    if given.none:
        if given.file or given.model or given.policy:
            raise BoesError("InvalidArgs", "--none and a policy are two answers", hint="leave one out")
        return "", {}
    return text_of(policy.source(given))


def text_of(source: PolicySource) -> tuple[str, Json]:
    """A policy's text, and what else the daemon is told to read it. InvalidPolicy: it is too long."""
    if isinstance(source, PolicyFiles):
        _check_size(source.policy, source.model)
        return source.policy, {"model": source.model, "model-file": source.model_file, "file": source.policy_file}
    text = source.text if isinstance(source, PolicyBlock) else sources.written(source)
    _check_size(text)
    return text, {"file": source.file}


def _check_size(*texts: str) -> None:
    if sum(map(len, texts)) > POLICY_MAX:
        raise BoesError("InvalidPolicy", f"The policy is over {POLICY_MAX >> 20} MiB")


def _show(given: argparse.Namespace) -> int:
    with contextlib.closing(Daemon(given.whose)) as daemon:
        if not daemon.function:
            if given.table:
                raise BoesError("InvalidArgs", f"{given.whose}: an app has no table", hint="name one of its functions")
            told = {"app": daemon.ask("GetPolicy")}
        elif given.table:
            _show_table(daemon.ask("GetPolicyTable"), as_json=given.json)
            return 0
        else:
            own, app, numbers = daemon.ask("GetPolicy")
            told = {"own": own, "app": app, "table": numbers}
    if given.json:
        print(json.dumps(told))
        return 0
    for key, text in told.items():
        if key == "table":
            print(f"# {_table_line(text)}")
        else:
            whose = given.whose if key == "own" else f"the app {daemon.app}"
            print(f"# {whose}\n{text.rstrip()}\n" if text else f"# {whose}: no policy of its own")
    return 0


def _table_line(numbers: Json) -> str:
    match numbers:
        case {"kept-by": _}:
            return "no table: it is kept by mounts and Landlock, see boesfsctl policy verify --landlock"
        case {"learns": _}:
            return "no table: it learns, and is denied nothing"
        case {"program": name}:
            return f"no table: the program {name} decides"
        case {"table": number, "rules": _}:
            counts = ", ".join(f"{value} {name}" for name, value in numbers.items() if name != "table")
            return f"table {number}: {counts}"
        case {"table": number}:
            return f"table {number}, which is of a text that is not there any longer: systemctl reload boesfsd"
    return "no table: no policy is enforced"


def _show_table(rows: list[list[Any]], *, as_json: bool) -> None:
    for state, place, allowed, conditions in rows:
        if as_json:
            print(json.dumps({"state": state, "place": place, "allowed": allowed, "conditions": conditions}))
        else:
            print(f"{state} {place}: {allowed or 'nothing'}")
            for condition in conditions:
                print(f"    {condition}")


def _set(given: argparse.Namespace) -> int:
    text, options = _policy(given)
    options |= {name: True for name in ("strict", "dry-run") if getattr(given, name.replace("-", "_"))}
    with contextlib.closing(Daemon(given.whose)) as daemon:
        for what, kind, name in daemon.ask("SetPolicy", text, options):
            print(f"Warning: {name}" if what == "warning" else f"{what} {kind} {name}", file=_stream(what))
    return 0


def _stream(what: str) -> Any:
    return sys.stderr if what == "warning" else sys.stdout


def _diff(given: argparse.Namespace) -> int:
    text, options = _policy(given)
    found = []
    with contextlib.closing(Daemon(given.whose)) as daemon:
        options |= {} if daemon.function else {"app": True}
        for name, path in daemon.functions().items():
            for place, change, what in daemon.ask_at(path, "ComparePolicy", text, options):
                found.append({"function": f"{daemon.app}/{name}", "place": place, "change": change, "what": what})
    if given.json:
        print(json.dumps(found))
    else:
        whose = ""
        for row in found:
            if row["function"] != whose:
                whose = row["function"]
                print(f"{whose}:")
            print(f"{SIGNS[row['change']]} {row['place'] or 'kill'}: {row['what']}")
    return DIFFERS if found else 0


def _test(given: argparse.Namespace) -> int:
    options = {name: value for name in ("program", "uid") if (value := getattr(given, name)) is not None}
    with contextlib.closing(Daemon(given.whose)) as daemon:
        daemon.must_be_function()
        told = daemon.ask("CheckAccess", given.operation, given.path, given.arguments, options)
    rule = {name: told.pop(name) for name in ("file", "line", "column", "text") if name in told}
    return policy.tell({**told, "rule": rule or None}, as_json=given.json)
