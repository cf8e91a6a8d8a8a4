# SPDX-License-Identifier: Apache-2.0
"""Runtimes: what a language needs in its sandbox, declared in /usr/lib/boesfs/runtimes/NAME.toml."""

import fnmatch
import tomllib
from dataclasses import dataclass
from pathlib import Path

from boesfsd.errors import BoesError
from boesfsd.model import Json

DIRECTORY = Path("/usr/lib/boesfs/runtimes")
OF_COMMANDS = Path("/usr/lib/boesfs/run.toml")


@dataclass(frozen=True, slots=True)
class Runtime:
    """One declaration. `entry` must exist in a bundle; binds are target -> source, hide are masked directories."""

    name: str
    aliases: tuple[str, ...]
    entry: str
    command: tuple[str, ...]
    binds: dict[str, str]
    links: dict[str, str]
    hide: tuple[str, ...]
    environment: dict[str, str]


def load(directory: Path = DIRECTORY) -> dict[str, Runtime]:
    """All runtimes of this host by name; a broken file is InvalidConfiguration."""
    found: dict[str, Runtime] = {}
    for file in sorted(directory.glob("*.toml")):
        found[file.stem] = _read(file, {})
    return found


def of_commands(file: Path = OF_COMMANDS) -> Runtime:
    """What is in a sandbox of `boesfsctl run`; there is nothing to enter. InvalidConfiguration."""
    return _read(file, {"entry": "", "command": []})


def _read(file: Path, otherwise: Json) -> Runtime:
    try:
        data = otherwise | tomllib.loads(file.read_text(encoding="utf-8"))
        return Runtime(
            name=file.stem,
            aliases=_words(data.get("aliases", [])),
            entry=data["entry"],
            command=_words(data["command"]),
            binds=dict(data["binds"]),
            links=dict(data.get("links", {})),
            hide=_words(data.get("hide", [])),
            environment=dict(data.get("environment", {})),
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise BoesError("InvalidConfiguration", f"Cannot use runtime {file}: {error!r}") from error


def _words(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise TypeError(f"{value!r} is no list of strings")
    return tuple(value)


def find(runtimes: dict[str, Runtime], name: str) -> Runtime:
    """The runtime that NAME, or one of its aliases (python3.12), means; else InvalidManifest."""
    for runtime in runtimes.values():
        if name == runtime.name or any(fnmatch.fnmatchcase(name, alias) for alias in runtime.aliases):
            return runtime
    known = ", ".join(sorted(runtimes)) or "none"
    raise BoesError("InvalidManifest", f"runtime: {name!r} is not installed here", hint=f"installed: {known}")
